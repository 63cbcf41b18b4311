/* What a message may cost, checked on its bytes before anything is allocated for it.
 *
 * protobuf-c recurses without a bound and allocates about 150 bytes for a two-byte empty message,
 * so the bytes of a stranger are scanned first: size, nesting, number of fields, wire types,
 * strings that are UTF-8 without NUL, singular messages that occur once. What passes is unpacked
 * into an arena under a cap of its own (pbarena.h). */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct PbLimits {
  size_t max_bytes;      /* of the encoded message */
  uint32_t max_depth;    /* of messages inside messages; the outermost is 1 */
  uint64_t max_elements; /* occurrences of fields, at all levels; a packed array is one */
  size_t max_memory;     /* of the unpacked message, in bytes asked for */
} PbLimits;

/* For requests that are not models: 64 MiB, depth 16, a million fields, 256 MiB unpacked. */
extern const PbLimits pb_limits_request;

/* INVALID_ARGUMENT for malformed bytes, RESOURCE_EXHAUSTED for bytes over a limit; the text names
 * the field. max_memory is not looked at. */
Status pb_check(const ProtobufCMessageDescriptor *desc, Bytes msg, const PbLimits *limits);

/* pb_check, then unpacks into the arena, which owns *out (never free it). On failure *out is NULL
 * and what was allocated stays in the arena. */
Status pb_unpack(const ProtobufCMessageDescriptor *desc, Bytes msg, const PbLimits *limits,
                 Arena *arena, ProtobufCMessage **out);

/* The length of the well-formed UTF-8 sequence at p, 0 when there is none or it is NUL. */
size_t utf8_sequence(const uint8_t *p, const uint8_t *end);
