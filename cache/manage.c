/* Upkeep by people: reading everything, and removing by age, size, target or hash.
 *
 * Each removal is one transaction. Rows that are to go are collected first and removed then, since
 * a statement must not change what another one is walking over. */
#include "base/log.h"
#include "cache/internal.h"

enum { STEP = 256, MIN_PREFIX = 4 };

typedef VEC(struct Row {
  int64_t id;
  uint64_t bytes;
}) Rows;

/* The ids and sizes that a statement yields. */
static Status collect(Cache *c, sqlite3_stmt *q, Rows *rows) {
  int rc;
  bool room = true;
  while (room && (rc = sqlite3_step(q)) == SQLITE_ROW) {
    struct Row row = {sqlite3_column_int64(q, 0), (uint64_t)sqlite3_column_int64(q, 1)};
    room = vec_push(rows, row);
  }
  Status st = room ? sqlite_status(c->db, rc, "reading the cache") : NULL;
  sqlite3_reset(q);
  return room ? st : FAIL(RESOURCE_EXHAUSTED, "list of cache entries");
}

/* -- verify ------------------------------------------------------------------------------------ */

static bool add_problem(StrBuf *out, sqlite3_stmt *q) {
  const char *text = (const char *)sqlite3_column_text(q, 0);
  if (text && strcmp(text, "ok") != 0) strbuf_addf(out, "%s\n", text);
  return true;
}

static Status check_pages(Cache *c, StrBuf *out) {
  sqlite3_stmt *q;
  int rc = sqlite3_prepare_v2(c->db, "PRAGMA quick_check(20)", -1, &q, NULL);
  while (rc == SQLITE_OK || rc == SQLITE_ROW) {
    rc = sqlite3_step(q);
    if (rc == SQLITE_ROW) add_problem(out, q);
  }
  Status st = sqlite_status(c->db, rc, "checking the cache file");
  sqlite3_finalize(q);
  if (status_code(st) != ST_DATA_LOSS) return st;
  strbuf_addf(out, "%s\n", st->text); /* what we were asked to find */
  status_drop(st);
  return NULL;
}

/* Reads one entry; a damaged one goes. */
static Status check_entry(Cache *c, const struct Row *row, CacheCheck *out) {
  StrBuf bytes = {0};
  size_t split;
  Status st = cache_read_blob(c, row->id, &bytes, &split);
  strbuf_deinit(&bytes);
  if (!st) return out->entries++, NULL;
  if (status_code(st) != ST_DATA_LOSS) return st;
  status_drop(st);
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  TRY(cache_finish(c, cache_drop(c, row->id, row->bytes), &before));
  c->stats.corrupt++;
  out->corrupt++;
  return NULL;
}

static Status check_entries(Cache *c, bool (*stop)(void *ctx), void *ctx, CacheCheck *out) {
  Rows rows = {0};
  int64_t last = INT64_MIN;
  Status st = NULL;
  do {
    sqlite3_stmt *q = cache_query(c, Q_ENTRY_IDS);
    sqlite3_bind_int64(q, 1, last);
    sqlite3_bind_int(q, 2, STEP);
    rows.len = 0;
    st = collect(c, q, &rows);
    for (size_t i = 0; i < rows.len && !st; i++) {
      last = rows.at[i].id;
      st = check_entry(c, &rows.at[i], out);
      if (!st && stop && stop(ctx)) st = FAIL(CANCELLED, "checking the cache");
    }
  } while (!st && rows.len == STEP);
  vec_deinit(&rows);
  return st;
}

static bool count_schedule(void *ctx, const Schedule *s) {
  CacheCheck *out = ctx;
  (void)s;
  out->schedules++;
  return true;
}

/* schedules_visit drops MAX_BAD damaged ones at a time. */
static Status check_schedules(Cache *c, CacheCheck *out) {
  uint8_t lo[CACHE_HASH_BYTES], hi[CACHE_HASH_BYTES];
  uint64_t before;
  TRY(cache_prefix(STR(""), 0, lo, hi));
  do {
    before = c->stats.corrupt;
    out->schedules = 0;
    cache_bind_range(cache_query(c, Q_SCHEDULE_PREFIX), lo, hi);
    TRY(schedules_visit(c, Q_SCHEDULE_PREFIX, count_schedule, out));
    out->corrupt += c->stats.corrupt - before;
  } while (c->stats.corrupt > before);
  CacheStats now;
  TRY(cache_stats(c, &now));
  out->newer = now.schedules > out->schedules ? now.schedules - out->schedules : 0;
  return NULL;
}

Status cache_verify(Cache *c, bool (*stop)(void *ctx), void *ctx, CacheCheck *out) {
  *out = (CacheCheck){0};
  TRY(cache_flush(c));
  TRY(check_pages(c, &out->problems));
  TRY(check_entries(c, stop, ctx, out));
  return check_schedules(c, out);
}

/* -- prune and remove -------------------------------------------------------------------------- */

/* Within a transaction: the entries that a bound statement names. */
static Status drop_entries(Cache *c, Query which, uint64_t *n) {
  Rows rows = {0};
  Status st = collect(c, c->queries[which], &rows);
  for (size_t i = 0; i < rows.len && !st; i++) st = cache_drop(c, rows.at[i].id, rows.at[i].bytes);
  *n += rows.len;
  vec_deinit(&rows);
  return st;
}

static Status prune_target(Cache *c, const CachePrune *what, CacheRemoved *out) {
  uint8_t lo[CACHE_HASH_BYTES], hi[CACHE_HASH_BYTES];
  TRY(cache_prefix(what->target, MIN_PREFIX, lo, hi));
  cache_bind_range(cache_query(c, Q_ENTRIES_OF_TARGET), lo, hi);
  TRY(drop_entries(c, Q_ENTRIES_OF_TARGET, &out->entries));
  cache_bind_range(cache_query(c, Q_SCHEDULES_DROP_TARGET), lo, hi);
  return schedules_delete(c, c->queries[Q_SCHEDULES_DROP_TARGET], &out->schedules);
}

static Status prune_old(Cache *c, const CachePrune *what, CacheRemoved *out) {
  sqlite3_bind_int64(cache_query(c, Q_ENTRIES_UNUSED), 1, what->before_ns);
  TRY(drop_entries(c, Q_ENTRIES_UNUSED, &out->entries));
  sqlite3_bind_int64(cache_query(c, Q_SCHEDULES_DROP_OLD), 1, what->before_ns);
  return schedules_delete(c, c->queries[Q_SCHEDULES_DROP_OLD], &out->schedules);
}

/* Binaries go first: they are quickly made again. */
static Status prune_bytes(Cache *c, const CachePrune *what, CacheRemoved *out) {
  TRY(cache_evict(c, what->bytes, 0, &out->entries));
  return c->stats.bytes > what->bytes ? schedules_trim(c, what->bytes, &out->schedules) : NULL;
}

static Status prune_steps(Cache *c, const CachePrune *what, CacheRemoved *out) {
  if (what->target.len) TRY(prune_target(c, what, out));
  if (what->before_ns) TRY(prune_old(c, what, out));
  if (what->bytes) TRY(prune_bytes(c, what, out));
  return NULL;
}

Status cache_prune(Cache *c, const CachePrune *what, CacheRemoved *out) {
  *out = (CacheRemoved){0};
  TRY(cache_flush(c));
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  Status st = cache_finish(c, prune_steps(c, what, out), &before);
  if (!st) out->bytes = before.bytes - c->stats.bytes;
  return st;
}

/* The one hash that begins so. */
static Status find_hash(Cache *c, Str prefix, uint8_t *out) {
  uint8_t lo[CACHE_HASH_BYTES], hi[CACHE_HASH_BYTES];
  size_t n = 0;
  int rc;
  TRY(cache_prefix(prefix, MIN_PREFIX, lo, hi));
  sqlite3_stmt *q = cache_query(c, Q_HASHES);
  cache_bind_range(q, lo, hi);
  while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
    if (sqlite3_column_bytes(q, 0) != CACHE_HASH_BYTES) continue;
    memcpy(out, sqlite3_column_blob(q, 0), CACHE_HASH_BYTES);
    n++;
  }
  Status st = sqlite_status(c->db, rc, "looking up a hash");
  sqlite3_reset(q);
  sqlite3_clear_bindings(q);
  if (st) return st;
  if (!n) return FAIL(NOT_FOUND, "nothing is stored under " STR_FMT, STR_ARG(prefix));
  return n == 1 ? NULL : FAIL(INVALID_ARGUMENT, STR_FMT " begins several hashes", STR_ARG(prefix));
}

static Status remove_steps(Cache *c, const uint8_t *hash, CacheRemoved *out) {
  sqlite3_bind_blob(cache_query(c, Q_ENTRIES_OF), 1, hash, CACHE_HASH_BYTES, SQLITE_STATIC);
  TRY(drop_entries(c, Q_ENTRIES_OF, &out->entries));
  sqlite3_stmt *q = cache_query(c, Q_SCHEDULES_DROP_OF);
  sqlite3_bind_blob(q, 1, hash, CACHE_HASH_BYTES, SQLITE_STATIC);
  return schedules_delete(c, q, &out->schedules);
}

Status cache_remove(Cache *c, Str prefix, CacheRemoved *out) {
  uint8_t hash[CACHE_HASH_BYTES];
  *out = (CacheRemoved){0};
  TRY(cache_flush(c));
  TRY(find_hash(c, prefix, hash));
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  Status st = cache_finish(c, remove_steps(c, hash, out), &before);
  if (!st) out->bytes = before.bytes - c->stats.bytes;
  return st;
}
