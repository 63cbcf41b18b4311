/* The protobuf wire format, one field at a time, over bytes that nobody vouches for. */
#pragma once

#include "base/str.h"

typedef enum WireType {
  WIRE_VARINT = 0,
  WIRE_FIXED64 = 1,
  WIRE_LEN = 2,
  WIRE_FIXED32 = 5
} WireType;

typedef struct WireField {
  uint32_t id;
  WireType type;
  uint64_t value; /* VARINT, FIXED32, FIXED64 */
  Bytes bytes;    /* LEN: a view into the message */
} WireField;

typedef struct WireReader {
  const uint8_t *at, *end;
  const char *error; /* static text; NULL while all is well */
} WireReader;

static inline WireReader wire_reader(Bytes b) { return (WireReader){b.ptr, b.ptr + b.len, NULL}; }

/* Reads the next field. False at the end and on malformed bytes (error is set then). */
bool wire_next(WireReader *r, WireField *out);
/* Reads a bare varint, as packed fields hold them. */
bool wire_varint(WireReader *r, uint64_t *out);
