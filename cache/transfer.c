/* A file of schedule records, to carry what one machine has measured to another:
 *
 *   "KILNSCHD", version (4 bytes), 4 zero bytes, number of records, length of the records (8 bytes
 *   each, little-endian), SHA-256 (32 bytes) of the 32 bytes before it and the records, records
 *
 * Each record is sealed on its own (schedule.c). Schedules travel, machine code does not: whoever
 * imports a file compiles and checks what it proposes before using it. A file is read to its end
 * before anything of it is stored. */
#include <inttypes.h>

#include "base/clock.h"
#include "cache/internal.h"
#include "cache/sealed.h"

enum { VERSION = 1, HEAD = 32, RECORDS_AT = HEAD + DIGEST_BYTES };
static const char magic[8] = {'K', 'I', 'L', 'N', 'S', 'C', 'H', 'D'};

/* -- export ------------------------------------------------------------------------------------ */

typedef struct Export {
  StrBuf *out;
  size_t start; /* of the file in out */
  uint64_t records;
  Status failed;
} Export;

static bool add_record(void *ctx, const Schedule *s) {
  Export *e = ctx;
  e->failed = schedule_encode(s, e->out);
  if (!e->failed && e->out->len - e->start > CACHE_EXPORT_MAX)
    e->failed =
        FAIL(RESOURCE_EXHAUSTED,
             "the records take more than %d bytes: export them kernel by kernel", CACHE_EXPORT_MAX);
  e->records++;
  return !e->failed;
}

Status cache_export(Cache *c, Str kernel, StrBuf *out, uint64_t *records) {
  uint8_t lo[CACHE_HASH_BYTES], hi[CACHE_HASH_BYTES], head[RECORDS_AT] = {0};
  Export e = {.out = out, .start = out->len};
  *records = 0;
  TRY(cache_prefix(kernel, 0, lo, hi));
  strbuf_add(out, head, sizeof head);
  cache_bind_range(cache_query(c, Q_SCHEDULE_PREFIX), lo, hi);
  Status st = schedules_visit(c, Q_SCHEDULE_PREFIX, add_record, &e);
  if (e.failed) {
    status_drop(st);
    return e.failed;
  }
  if (!st && out->failed) st = FAIL(RESOURCE_EXHAUSTED, "no memory for the records");
  if (st) return st;
  uint8_t *at = (uint8_t *)out->ptr + e.start;
  size_t n = out->len - e.start - RECORDS_AT;
  memcpy(at, magic, sizeof magic);
  sealed_put(at + 8, VERSION, 4);
  sealed_put(at + 16, e.records, 8);
  sealed_put(at + 24, n, 8);
  sealed_close(at, HEAD, n);
  *records = e.records;
  return NULL;
}

/* -- import ------------------------------------------------------------------------------------ */

static Status check_head(Bytes file, uint64_t *count) {
  if (file.len < RECORDS_AT || memcmp(file.ptr, magic, sizeof magic) != 0)
    return FAIL(INVALID_ARGUMENT, "byte 0: these %zu bytes are not a file of schedule records",
                file.len);
  uint64_t version = sealed_get(file.ptr + 8, 4), zero = sealed_get(file.ptr + 12, 4);
  *count = sealed_get(file.ptr + 16, 8);
  uint64_t bytes = sealed_get(file.ptr + 24, 8);
  if (version != VERSION || zero)
    return FAIL(FAILED_PRECONDITION,
                "byte 8: the file has version %" PRIu64 ", this server reads %d", version, VERSION);
  if (file.len > CACHE_EXPORT_MAX)
    return FAIL(INVALID_ARGUMENT, "the file has %zu bytes, at most %d are read", file.len,
                CACHE_EXPORT_MAX);
  if (bytes != file.len - RECORDS_AT)
    return FAIL(INVALID_ARGUMENT,
                "byte 24: the file says %" PRIu64 " bytes of records, there are %zu", bytes,
                file.len - RECORDS_AT);
  if (*count > bytes / RECORDS_AT)
    return FAIL(INVALID_ARGUMENT, "byte 16: the file says %" PRIu64 " records in %" PRIu64 " bytes",
                *count, bytes);
  if (!sealed_holds(file.ptr, HEAD, (size_t)bytes))
    return FAIL(INVALID_ARGUMENT, "byte %d: the file does not match its hash: it is damaged", HEAD);
  return NULL;
}

static Status bad_record(Status cause, uint64_t n, size_t at) {
  StatusCode code = status_code(cause) == ST_DATA_LOSS ? ST_INVALID_ARGUMENT : status_code(cause);
  return status_new(code, cause, __FILE__, __LINE__, "record %" PRIu64 " at byte %zu", n, at);
}

/* All records of a file, as candidates. */
static Status read_records(Bytes file, uint64_t count, Arena *arena, Schedule *out) {
  size_t at = RECORDS_AT, used;
  int64_t now = clock_wall_ns();
  for (uint64_t i = 0; i < count; i++) {
    Status st = schedule_decode((Bytes){file.ptr + at, file.len - at}, arena, &out[i], &used);
    if (st) return bad_record(st, i, at);
    out[i].imported = true;
    out[i].verified = false;
    if (out[i].measured_at > now) out[i].measured_at = now;
    at += used;
  }
  return at == file.len ? NULL
                        : FAIL(INVALID_ARGUMENT, "byte %zu: %zu bytes behind the last record", at,
                               file.len - at);
}

Status transfer_read(Bytes file, Arena *arena, Schedule **out, uint64_t *count) {
  *out = NULL;
  *count = 0;
  TRY(check_head(file, count));
  *out = arena_array(arena, (size_t)*count + 1, sizeof **out);
  return *out ? read_records(file, *count, arena, *out) : FAIL(RESOURCE_EXHAUSTED, "records");
}

Status cache_import(Cache *c, Bytes file, CacheImported *out) {
  uint64_t count, before = c->stats.schedules;
  Arena arena;
  Schedule *all;
  *out = (CacheImported){0};
  arena_init(&arena, 0);
  Status st = transfer_read(file, &arena, &all, &count);
  if (!st) {
    before = c->stats.schedules;
    st = cache_put_tuned(c, NULL, 0, all, (size_t)count);
  }
  if (!st) {
    out->records = count;
    out->stored = c->stats.schedules > before ? c->stats.schedules - before : 0;
  }
  arena_deinit(&arena);
  return st;
}
