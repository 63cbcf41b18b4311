/* The bytes of a statement, numbers little-endian:
 *
 *   "KENV" version 1 byte, kind 1 byte, 2 zero bytes, number of records (8 bytes), length of the
 *   records (8), when (8), node, subject, target (32 each), records, signature (64)
 *
 * The signature is over everything before it. Records are those of schedule.c, each sealed on its
 * own. */
#include "cache/envelope.h"

#include <inttypes.h>

#include "base/clock.h"
#include "cache/sealed.h"

enum {
  VERSION = 1,
  COUNT_AT = 8,
  LENGTH_AT = 16,
  ISSUED_AT = 24,
  NODE_AT = 32,
  SUBJECT_AT = NODE_AT + NODE_KEY_BYTES,
  TARGET_AT = SUBJECT_AT + CACHE_HASH_BYTES,
  RECORDS_AT = TARGET_AT + CACHE_HASH_BYTES
};
static const char magic[4] = {'K', 'E', 'N', 'V'};

/* -- writing ----------------------------------------------------------------------------------- */

static Status add_records(const Schedule *records, size_t n, size_t start, StrBuf *out,
                          uint64_t *count) {
  for (*count = 0; *count < n && *count < ENVELOPE_RECORDS; ++*count) {
    size_t before = out->len;
    TRY(schedule_encode(&records[*count], out));
    if (out->len - start + NODE_SIGNATURE_BYTES <= ENVELOPE_MAX) continue;
    out->len = before;
    break;
  }
  return NULL;
}

Status envelope_write(const Envelope *e, const Schedule *records, size_t n, const NodeKey *key,
                      StrBuf *out) {
  size_t start = out->len;
  uint64_t count;
  uint8_t head[RECORDS_AT] = {0}, signature[NODE_SIGNATURE_BYTES];
  strbuf_add(out, head, sizeof head);
  TRY(add_records(records, n, start, out, &count));
  if (out->failed) return FAIL(RESOURCE_EXHAUSTED, "a statement");
  uint8_t *at = (uint8_t *)out->ptr + start;
  memcpy(at, magic, sizeof magic);
  at[4] = VERSION;
  at[5] = (uint8_t)e->kind;
  sealed_put(at + COUNT_AT, count, 8);
  sealed_put(at + LENGTH_AT, out->len - start - RECORDS_AT, 8);
  sealed_put(at + ISSUED_AT, (uint64_t)e->issued_ns, 8);
  memcpy(at + NODE_AT, node_key_public(key), NODE_KEY_BYTES);
  memcpy(at + SUBJECT_AT, e->subject, CACHE_HASH_BYTES);
  memcpy(at + TARGET_AT, e->target, CACHE_HASH_BYTES);
  TRY(node_key_sign(key, (Bytes){at, out->len - start}, signature));
  strbuf_add(out, signature, sizeof signature);
  return out->failed ? FAIL(RESOURCE_EXHAUSTED, "a statement") : NULL;
}

/* -- reading ----------------------------------------------------------------------------------- */

Status envelope_read(Bytes b, Envelope *out) {
  *out = (Envelope){.kind = EK_RECORDS};
  if (b.len < RECORDS_AT + NODE_SIGNATURE_BYTES || b.len > ENVELOPE_MAX ||
      memcmp(b.ptr, magic, sizeof magic) != 0)
    return FAIL(DATA_LOSS, "%zu bytes are not a statement of a node", b.len);
  if (b.ptr[4] != VERSION)
    return FAIL(FAILED_PRECONDITION, "a statement of version %u, this server knows %d", b.ptr[4],
                VERSION);
  uint64_t length = sealed_get(b.ptr + LENGTH_AT, 8), issued = sealed_get(b.ptr + ISSUED_AT, 8);
  out->count = sealed_get(b.ptr + COUNT_AT, 8);
  if (b.ptr[5] >= EK__COUNT || b.ptr[6] || b.ptr[7] || issued > INT64_MAX ||
      out->count > ENVELOPE_RECORDS || length != b.len - RECORDS_AT - NODE_SIGNATURE_BYTES)
    return FAIL(DATA_LOSS, "the head of a statement of %zu bytes is wrong", b.len);
  out->kind = (EnvelopeKind)b.ptr[5];
  out->issued_ns = (int64_t)issued;
  memcpy(out->node, b.ptr + NODE_AT, NODE_KEY_BYTES);
  memcpy(out->subject, b.ptr + SUBJECT_AT, CACHE_HASH_BYTES);
  memcpy(out->target, b.ptr + TARGET_AT, CACHE_HASH_BYTES);
  out->records = (Bytes){b.ptr + RECORDS_AT, (size_t)length};
  return NULL;
}

bool envelope_signed(Bytes b, const Envelope *e) {
  size_t n = b.len - NODE_SIGNATURE_BYTES;
  return node_key_verify(e->node, (Bytes){b.ptr, n}, b.ptr + n);
}

static Status read_record(const Envelope *e, size_t at, Arena *arena, Schedule *out, size_t *used) {
  Bytes rest = {e->records.ptr + at, e->records.len - at};
  TRY(schedule_decode(rest, arena, out, used));
  if (memcmp(out->kernel, e->subject, CACHE_HASH_BYTES) != 0 ||
      memcmp(out->target, e->target, CACHE_HASH_BYTES) != 0)
    return FAIL(DATA_LOSS, "a record of another kernel or target than its statement's");
  return NULL;
}

Status envelope_records(const Envelope *e, Arena *arena, Schedule *out) {
  size_t at = 0, used = 0;
  int64_t now = clock_wall_ns();
  for (uint64_t i = 0; i < e->count; i++, at += used) {
    Status st = read_record(e, at, arena, &out[i], &used);
    if (st)
      return status_new(ST_DATA_LOSS, st, __FILE__, __LINE__, "record %" PRIu64 " at byte %zu", i,
                        at);
    out[i].imported = true;
    out[i].verified = false;
    if (out[i].measured_at > now) out[i].measured_at = now;
  }
  return at == e->records.len
             ? NULL
             : FAIL(DATA_LOSS, "%zu bytes behind the last record", e->records.len - at);
}
