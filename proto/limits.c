/* One pass over the wire format with an explicit stack of message levels. A length-delimited field
 * is entered only where the descriptor says it is a message; everything else is a leaf.
 *
 * Singular sub-messages that occur twice would be merged by protobuf-c, copying their arrays every
 * time: quadratic work from a linear message. No encoder writes them, so they are refused, with one
 * bit per field of a level; our own descriptors (asserted) have at most 64 fields. */
#include "proto/limits.h"

#include <assert.h>
#include <stdio.h>

#include "proto/pbarena.h"
#include "proto/wire.h"

enum { DEPTH_CAP = 64, FIELDS_CAP = 64 };

const PbLimits pb_limits_request = {
    .max_bytes = 64u << 20, .max_depth = 16, .max_elements = 1u << 20, .max_memory = 256u << 20};

typedef struct Level {
  const ProtobufCMessageDescriptor *desc;
  const char *name; /* of the field that holds this message */
  WireReader reader;
  uint64_t seen; /* singular message fields met, by index */
} Level;

typedef struct Scan {
  const PbLimits *limits;
  const char *root; /* what the message is */
  uint64_t elements;
  uint32_t depth;
  Level level[DEPTH_CAP];
} Scan;

/* "Graph.nodes.src" in buf: where the scan stands. */
static const char *path(const Scan *s, const char *leaf, char *buf, size_t cap) {
  size_t n = (size_t)snprintf(buf, cap, "%s", s->root);
  for (uint32_t i = 1; i < s->depth && n < cap; i++)
    n += (size_t)snprintf(buf + n, cap - n, ".%s", s->level[i].name);
  if (leaf && n < cap) snprintf(buf + n, cap - n, ".%s", leaf);
  return buf;
}

static WireType wire_type_of(ProtobufCType t) {
  switch (t) {
  case PROTOBUF_C_TYPE_STRING:
  case PROTOBUF_C_TYPE_BYTES:
  case PROTOBUF_C_TYPE_MESSAGE: return WIRE_LEN;
  case PROTOBUF_C_TYPE_SFIXED32:
  case PROTOBUF_C_TYPE_FIXED32:
  case PROTOBUF_C_TYPE_FLOAT: return WIRE_FIXED32;
  case PROTOBUF_C_TYPE_SFIXED64:
  case PROTOBUF_C_TYPE_FIXED64:
  case PROTOBUF_C_TYPE_DOUBLE: return WIRE_FIXED64;
  default: return WIRE_VARINT;
  }
}

size_t utf8_sequence(const uint8_t *p, const uint8_t *end) {
  uint8_t b = *p;
  if (b < 0x80) return b ? 1 : 0;
  size_t n = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : 2;
  if (b < 0xc2 || b > 0xf4 || (size_t)(end - p) < n) return 0;
  uint8_t lo = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80; /* no overlong forms */
  uint8_t hi = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf; /* no surrogates, at most U+10FFFF */
  if (p[1] < lo || p[1] > hi) return 0;
  for (size_t i = 2; i < n; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  return n;
}

static bool is_text(Bytes b) {
  for (const uint8_t *p = b.ptr, *end = p + b.len; p < end;) {
    size_t n = utf8_sequence(p, end);
    if (!n) return false;
    p += n;
  }
  return true;
}

static Status enter(Scan *s, const ProtobufCMessageDescriptor *desc, const char *name, Bytes b) {
  char at[256];
  assert(desc->n_fields <= FIELDS_CAP);
  if (s->depth >= s->limits->max_depth || s->depth >= DEPTH_CAP)
    return FAIL(RESOURCE_EXHAUSTED, "%s: nested deeper than %u messages",
                path(s, name, at, sizeof at), s->depth);
  s->level[s->depth++] = (Level){.desc = desc, .name = name, .reader = wire_reader(b)};
  return NULL;
}

static Status check_field(Scan *s, Level *l, const WireField *f) {
  char at[256];
  const ProtobufCFieldDescriptor *d = protobuf_c_message_descriptor_get_field(l->desc, f->id);
  if (!d) return NULL; /* from a newer client: kept as an unknown field, counted like any other */
  WireType want = wire_type_of(d->type);
  bool packed = d->label == PROTOBUF_C_LABEL_REPEATED && f->type == WIRE_LEN && want != WIRE_LEN;
  if (f->type != want && !packed)
    return FAIL(INVALID_ARGUMENT, "%s: wire type %d, expected %d", path(s, d->name, at, sizeof at),
                f->type, want);
  if (d->type == PROTOBUF_C_TYPE_STRING && !is_text(f->bytes))
    return FAIL(INVALID_ARGUMENT, "%s: not UTF-8 text", path(s, d->name, at, sizeof at));
  if (d->type != PROTOBUF_C_TYPE_MESSAGE) return NULL;
  uint64_t bit = 1ull << (d - l->desc->fields);
  if (d->label != PROTOBUF_C_LABEL_REPEATED && (l->seen & bit))
    return FAIL(INVALID_ARGUMENT, "%s: given twice", path(s, d->name, at, sizeof at));
  l->seen |= bit;
  return enter(s, d->descriptor, d->name, f->bytes);
}

Status pb_check(const ProtobufCMessageDescriptor *desc, Bytes msg, const PbLimits *limits) {
  char at[256];
  Scan s;
  s.limits = limits;
  s.root = desc->short_name;
  s.elements = 0;
  s.depth = 0;
  if (msg.len > limits->max_bytes)
    return FAIL(RESOURCE_EXHAUSTED, "%s: %zu bytes, at most %zu are allowed", desc->short_name,
                msg.len, limits->max_bytes);
  if (!msg.len) return NULL;
  TRY(enter(&s, desc, desc->short_name, msg));
  while (s.depth) {
    Level *l = &s.level[s.depth - 1];
    WireField f;
    if (!wire_next(&l->reader, &f)) {
      if (l->reader.error)
        return FAIL(INVALID_ARGUMENT, "%s: %s", path(&s, NULL, at, sizeof at), l->reader.error);
      s.depth--;
      continue;
    }
    if (++s.elements > limits->max_elements)
      return FAIL(RESOURCE_EXHAUSTED, "%s: more than %llu fields in one %s",
                  path(&s, NULL, at, sizeof at), (unsigned long long)limits->max_elements,
                  desc->short_name);
    TRY(check_field(&s, l, &f));
  }
  return NULL;
}

Status pb_unpack(const ProtobufCMessageDescriptor *desc, Bytes msg, const PbLimits *limits,
                 Arena *arena, ProtobufCMessage **out) {
  *out = NULL;
  TRY(pb_check(desc, msg, limits));
  PbArena p;
  pbarena_init(&p, arena, limits->max_memory);
  *out = protobuf_c_message_unpack(desc, &p.allocator, msg.len, msg.ptr);
  if (*out) return NULL;
  if (p.full)
    return FAIL(RESOURCE_EXHAUSTED, "%s: %zu bytes unpack to more than %zu bytes of memory",
                desc->short_name, msg.len, limits->max_memory);
  return FAIL(INVALID_ARGUMENT, "%s: malformed packed field", desc->short_name);
}
