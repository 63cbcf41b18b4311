/* Every read is checked against the end before it happens. Groups (wire types 3 and 4) are refused:
 * proto3 has none, and they are the only construct whose end has to be searched for. */
#include "proto/wire.h"

enum { VARINT_MAX_BYTES = 10, FIELD_ID_BITS = 29 };

static bool fail(WireReader *r, const char *why) {
  r->error = why;
  return false;
}

bool wire_varint(WireReader *r, uint64_t *out) {
  uint64_t value = 0;
  for (int i = 0; i < VARINT_MAX_BYTES; i++) {
    if (r->at == r->end) return fail(r, "truncated varint");
    uint8_t b = *r->at++;
    value |= (uint64_t)(b & 0x7f) << (7 * i);
    if (!(b & 0x80)) return *out = value, true;
  }
  return fail(r, "varint longer than 10 bytes");
}

static bool fixed(WireReader *r, size_t n, uint64_t *out) {
  if ((size_t)(r->end - r->at) < n) return fail(r, "truncated fixed-size value");
  *out = 0;
  for (size_t i = 0; i < n; i++) *out |= (uint64_t)r->at[i] << (8 * i);
  r->at += n;
  return true;
}

bool wire_next(WireReader *r, WireField *out) {
  uint64_t tag, len;
  if (r->error || r->at == r->end) return false;
  if (!wire_varint(r, &tag)) return false;
  uint64_t id = tag >> 3;
  if (!id || id >> FIELD_ID_BITS) return fail(r, "field number out of range");
  *out = (WireField){.id = (uint32_t)id, .type = (WireType)(tag & 7)};
  switch (tag & 7) {
  case WIRE_VARINT: return wire_varint(r, &out->value);
  case WIRE_FIXED64: return fixed(r, 8, &out->value);
  case WIRE_FIXED32: return fixed(r, 4, &out->value);
  case WIRE_LEN:
    if (!wire_varint(r, &len)) return false;
    if (len > (uint64_t)(r->end - r->at)) return fail(r, "length beyond the end of its message");
    out->bytes = (Bytes){r->at, (size_t)len};
    r->at += len;
    return true;
  default: return fail(r, "unknown wire type");
  }
}
