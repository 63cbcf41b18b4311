/* Lookups and inserts.
 *
 * Every write is one transaction; an error rolls it back and leaves the Cache as it was. Uses are
 * remembered and written together, before the next insert or when MAX_TOUCHES are waiting: losing
 * them in a crash costs a little order in the eviction and nothing else. The size that is limited
 * is the sum of the records plus an allowance per row, not the length of the file, which keeps free
 * pages for the next records. */
#include "cache/cache.h"

#include <stdlib.h>

#include "base/clock.h"
#include "cache/internal.h"

enum { EVICT_STEP = 32 };

const char *const cache_kind_name[CACHE_KIND__COUNT] = {
    [CACHE_PLAN] = "plan", [CACHE_KERNEL] = "kernel"};

/* Those that serve, the newest winner first; then those that were measured, the fastest first; then
 * failures, the newest first. */
#define SCHEDULE_ORDER                                                                             \
  "cause<>0, verified DESC, CASE WHEN cause<>0 OR verified THEN -measured ELSE median END, id "    \
  "DESC"
#define SCHEDULE_ROW                                                                               \
  "SELECT id, record, kernel, target, opts, cause, verified, imported FROM schedules"

static const char *const texts[Q__COUNT] = {
    /* long: table */
    [Q_FIND] = "SELECT id, bytes FROM entries WHERE hash=?1 AND target=?2 AND kind=?3",
    [Q_BLOB] = "SELECT record FROM blobs WHERE id=?1",
    [Q_TOUCH] = "UPDATE entries SET used=max(used, ?2), uses=uses+1 WHERE id=?1",
    [Q_ADD_ENTRY] = "INSERT INTO entries(kind, hash, target, bytes, created, used, uses, note)"
                    " VALUES(?3, ?1, ?2, ?4, ?5, ?5, 0, ?6)",
    [Q_ADD_BLOB] = "INSERT INTO blobs(id, record) VALUES(?1, ?2)",
    [Q_DROP_ENTRY] = "DELETE FROM entries WHERE id=?1",
    [Q_DROP_BLOB] = "DELETE FROM blobs WHERE id=?1",
    [Q_OLDEST] = "SELECT id, bytes FROM entries ORDER BY used, id LIMIT ?1",
    [Q_COUNT] = "SELECT kind, count(*), sum(bytes) FROM entries GROUP BY kind",
    [Q_LIST] = "SELECT kind, hash, target, bytes, created, used, uses, note, (SELECT count(*) FROM"
               " schedules s WHERE s.kernel=hash AND s.target=entries.target) FROM entries"
               " ORDER BY used DESC, id DESC LIMIT ?1",
    [Q_PREFIX] = "SELECT kind, hash, target, bytes, created, used, uses, note, 0 FROM entries"
                 " WHERE hash>=?1 AND hash<=?2 ORDER BY hash, kind, target LIMIT 100",
    [Q_ADD_TARGET] = "INSERT OR REPLACE INTO targets(target, text) VALUES(?1, ?2)",
    [Q_TARGET] = "SELECT text FROM targets WHERE target=?1",
    [Q_VERSION] = "PRAGMA data_version",
    [Q_SCHEDULE_SUM] = "SELECT count(*), sum(bytes) FROM schedules",
    [Q_SCHEDULE_FIND] = "SELECT id, cause, verified, imported, measured FROM schedules"
                        " WHERE kernel=?1 AND target=?2 AND opts=?3",
    [Q_SCHEDULE_ADD] =
        "INSERT INTO schedules(kernel, target, opts, class, cause, verified, imported, median,"
        " measured, bytes, record) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    [Q_SCHEDULE_DROP] = "DELETE FROM schedules WHERE id=?1 RETURNING bytes",
    [Q_SCHEDULE_TRIM_BEST] = "DELETE FROM schedules WHERE id IN (SELECT id FROM schedules"
                             " WHERE kernel=?1 AND target=?2 AND cause=0"
                             " ORDER BY verified DESC, imported, CASE verified WHEN 0 THEN"
                             " median ELSE -measured END LIMIT -1 OFFSET ?3)"
                             " RETURNING bytes",
    [Q_SCHEDULE_TRIM_FAILED] = "DELETE FROM schedules WHERE id IN (SELECT id FROM schedules"
                               " WHERE kernel=?1 AND target=?2 AND cause<>0"
                               " ORDER BY imported, measured DESC LIMIT -1 OFFSET ?3)"
                               " RETURNING bytes",
    [Q_SCHEDULE_OLDEST] = "DELETE FROM schedules WHERE id IN (SELECT id FROM schedules"
                          " ORDER BY verified, imported DESC, measured LIMIT ?1)"
                          " RETURNING bytes",
    [Q_SCHEDULES] =
        SCHEDULE_ROW " WHERE kernel=?1 AND (?2 IS NULL OR target=?2) ORDER BY " SCHEDULE_ORDER,
    [Q_SCHEDULE_BEST] = SCHEDULE_ROW " WHERE kernel=?1 AND target=?2 AND cause=0 AND verified=1"
                                     " ORDER BY measured DESC, id DESC",
    [Q_SCHEDULE_OTHERS] = SCHEDULE_ROW " WHERE kernel=?1 AND target<>?2 AND cause=0"
                                       " ORDER BY target, " SCHEDULE_ORDER " LIMIT 1000",
    [Q_SCHEDULE_CLASS] = /* of each kernel and target the first; found in the index alone */
    "SELECT s.id, record, kernel, target, opts, cause, verified, imported FROM schedules s JOIN"
    " (SELECT id, row_number() OVER (PARTITION BY kernel, target ORDER BY verified DESC,"
    " CASE verified WHEN 0 THEN median ELSE -measured END, id DESC) AS place FROM schedules"
    " WHERE class=?1 AND cause=0 AND kernel<>?2) f ON s.id=f.id WHERE f.place=1"
    " ORDER BY kernel, target LIMIT 20000",
    [Q_SCHEDULE_PREFIX] = SCHEDULE_ROW " WHERE kernel>=?1 AND kernel<=?2"
                                       " ORDER BY kernel, target, " SCHEDULE_ORDER,
    [Q_HASHES] = "SELECT hash FROM entries WHERE hash>=?1 AND hash<=?2"
                 " UNION SELECT kernel FROM schedules WHERE kernel>=?1 AND kernel<=?2 LIMIT 2",
    [Q_ENTRY_IDS] = "SELECT id, bytes FROM entries WHERE id>?1 ORDER BY id LIMIT ?2",
    [Q_ENTRIES_OF] = "SELECT id, bytes FROM entries WHERE hash=?1",
    [Q_ENTRIES_UNUSED] = "SELECT id, bytes FROM entries WHERE used<?1",
    [Q_ENTRIES_OF_TARGET] = "SELECT id, bytes FROM entries WHERE target>=?1 AND target<=?2",
    [Q_SCHEDULES_DROP_OF] = "DELETE FROM schedules WHERE kernel=?1 RETURNING bytes",
    [Q_SCHEDULES_DROP_OLD] = "DELETE FROM schedules WHERE measured<?1 RETURNING bytes",
    [Q_SCHEDULES_DROP_TARGET] =
        "DELETE FROM schedules WHERE target>=?1 AND target<=?2 RETURNING bytes",
    [Q_SCHEDULE_OPEN] = "SELECT 1 FROM schedules WHERE kernel=?1 AND target=?2 AND cause=0 AND"
                        " imported=1 LIMIT 1",
    [Q_SAID_FIND] = "SELECT issued FROM said WHERE kernel=?1 AND target=?2 AND node=?3",
    [Q_SAID_PUT] = "INSERT OR REPLACE INTO said(kernel, target, node, issued)"
                   " VALUES(?1, ?2, ?3, ?4)",
    [Q_SAID_TRIM] = "DELETE FROM said WHERE id<=(SELECT max(id) FROM said)-65536",
    [Q_OUTBOX_ALL] = "INSERT OR IGNORE INTO outbox(kernel, target) SELECT DISTINCT kernel, target"
                     " FROM schedules WHERE cause=0 AND verified=1 AND imported=0",
    [Q_OUTBOX_ADD] = "INSERT OR REPLACE INTO outbox(kernel, target) VALUES(?1, ?2)",
    [Q_OUTBOX_TRIM] = "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id DESC"
                      " LIMIT -1 OFFSET 4096)",
    [Q_OUTBOX_NEXT] = "SELECT id, kernel, target, (SELECT count(*) FROM outbox) FROM outbox"
                      " WHERE id>?1 ORDER BY id LIMIT 1",
    [Q_OUTBOX_DONE] = "DELETE FROM outbox WHERE id=?1",
    [Q_BEGIN] = "BEGIN IMMEDIATE",
    [Q_COMMIT] = "COMMIT",
    [Q_ROLLBACK] = "ROLLBACK",
};

sqlite3_stmt *cache_query(Cache *c, Query q) {
  sqlite3_reset(c->queries[q]);
  sqlite3_clear_bindings(c->queries[q]);
  return c->queries[q];
}

Status cache_run(Cache *c, Query q, const char *doing) {
  int rc = sqlite3_step(c->queries[q]);
  Status st = sqlite_status(c->db, rc, doing);
  sqlite3_reset(c->queries[q]);
  return st;
}

static void bind_key(sqlite3_stmt *q, CacheKind kind, const CacheKey *key) {
  sqlite3_bind_blob(q, 1, key->hash, CACHE_HASH_BYTES, SQLITE_STATIC);
  sqlite3_bind_blob(q, 2, key->target, CACHE_HASH_BYTES, SQLITE_STATIC);
  sqlite3_bind_int(q, 3, (int)kind);
}

/* -- opening ----------------------------------------------------------------------------------- */

static Status count(Cache *c) {
  sqlite3_stmt *q = cache_query(c, Q_COUNT);
  uint64_t n[CACHE_KIND__COUNT] = {0}, bytes = 0;
  int rc;
  while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
    int kind = sqlite3_column_int(q, 0);
    if (kind >= 0 && kind < CACHE_KIND__COUNT) n[kind] = (uint64_t)sqlite3_column_int64(q, 1);
    bytes += (uint64_t)sqlite3_column_int64(q, 2);
  }
  Status st = sqlite_status(c->db, rc, "counting the cache's entries");
  sqlite3_reset(q);
  if (st) return st;
  c->stats.plans = n[CACHE_PLAN];
  c->stats.kernels = n[CACHE_KERNEL];
  c->stats.bytes = bytes;
  return schedules_count(c);
}

Status cache_open(const char *path, uint64_t max_bytes, Cache **out) {
  Status st = NULL;
  *out = NULL;
  Cache *c = calloc(1, sizeof *c);
  if (!c) return FAIL(RESOURCE_EXHAUSTED, "cache");
  c->stats.max_bytes = max_bytes;
  c->stats.schema = CACHE_SCHEMA;
  if ((st = schema_open(path, &c->db))) goto fail;
  for (int q = 0; q < Q__COUNT; q++) {
    int rc =
        sqlite3_prepare_v3(c->db, texts[q], -1, SQLITE_PREPARE_PERSISTENT, &c->queries[q], NULL);
    if ((st = sqlite_status(c->db, rc, "preparing the cache's statements"))) goto fail;
  }
  if ((st = count(c)) || (st = checkpointer_create(path, &c->checkpointer))) goto fail;
  *out = c;
  return NULL;
fail:
  cache_close(c);
  return WRAP(st, "the cache '%s' cannot be used", path);
}

void cache_close(Cache *c) {
  if (!c) return;
  bool opened = c->checkpointer != NULL;
  checkpointer_release(c->checkpointer);
  c->checkpointer = NULL;
  if (opened) {
    status_drop(cache_flush(c));
    sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
  }
  for (int q = 0; q < Q__COUNT; q++) sqlite3_finalize(c->queries[q]);
  sqlite3_close(c->db);
  record_codec_deinit(&c->codec);
  free(c);
}

/* -- transactions ------------------------------------------------------------------------------ */

/* Another process may have written: what is counted here is then out of date. */
static Status refresh(Cache *c) {
  sqlite3_stmt *q = cache_query(c, Q_VERSION);
  int rc = sqlite3_step(q);
  int64_t version = rc == SQLITE_ROW ? sqlite3_column_int64(q, 0) : c->data_version;
  Status st = sqlite_status(c->db, rc, "reading the version of the cache file");
  sqlite3_reset(q);
  if (st || version == c->data_version) return st;
  c->data_version = version;
  return count(c);
}

Status cache_begin(Cache *c) {
  cache_query(c, Q_BEGIN);
  TRY(cache_run(c, Q_BEGIN, "beginning a cache write"));
  Status st = refresh(c);
  CacheStats same = c->stats;
  return st ? cache_finish(c, st, &same) : NULL;
}

Status cache_finish(Cache *c, Status st, const CacheStats *before) {
  if (!st) {
    cache_query(c, Q_COMMIT);
    st = cache_run(c, Q_COMMIT, "committing a cache write");
  }
  if (st) {
    c->stats = *before;
    c->stats.write_errors++;
    if (!sqlite3_get_autocommit(c->db)) {
      cache_query(c, Q_ROLLBACK);
      status_drop(cache_run(c, Q_ROLLBACK, "rolling back"));
    }
    return st;
  }
  if (c->checkpointer) checkpointer_poke(c->checkpointer);
  return NULL;
}

Status cache_drop(Cache *c, int64_t id, uint64_t bytes) {
  sqlite3_bind_int64(cache_query(c, Q_DROP_ENTRY), 1, id);
  TRY(cache_run(c, Q_DROP_ENTRY, "removing a cache entry"));
  sqlite3_bind_int64(cache_query(c, Q_DROP_BLOB), 1, id);
  TRY(cache_run(c, Q_DROP_BLOB, "removing a cache entry"));
  c->stats.bytes -= bytes < c->stats.bytes ? bytes : c->stats.bytes;
  return NULL;
}

static Status write_touches(Cache *c) {
  Status st = NULL;
  for (size_t k = 0; k < c->ntouches && !st; k++) {
    sqlite3_stmt *q = cache_query(c, Q_TOUCH);
    sqlite3_bind_int64(q, 1, c->touches[k].id);
    sqlite3_bind_int64(q, 2, c->touches[k].at_ns);
    st = cache_run(c, Q_TOUCH, "noting a use");
  }
  c->ntouches = 0; /* also on error: a lost use is no reason to try for ever */
  return st;
}

Status cache_flush(Cache *c) {
  if (!c->ntouches) return NULL;
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  return cache_finish(c, write_touches(c), &before);
}

/* -- finding ----------------------------------------------------------------------------------- */

static Status lookup(Cache *c, CacheKind kind, const CacheKey *key, int64_t *id, uint64_t *bytes) {
  sqlite3_stmt *q = cache_query(c, Q_FIND);
  bind_key(q, kind, key);
  int rc = sqlite3_step(q);
  *id = 0;
  if (rc == SQLITE_ROW) {
    *id = sqlite3_column_int64(q, 0);
    *bytes = (uint64_t)sqlite3_column_int64(q, 1);
  }
  Status st = sqlite_status(c->db, rc, "looking up a cache entry");
  sqlite3_reset(q);
  return st;
}

Status cache_read_blob(Cache *c, int64_t id, StrBuf *out, size_t *canonical_len) {
  sqlite3_stmt *q = cache_query(c, Q_BLOB);
  sqlite3_bind_int64(q, 1, id);
  int rc = sqlite3_step(q);
  Status st = sqlite_status(c->db, rc, "reading a cache entry");
  if (!st && rc == SQLITE_DONE) st = FAIL(DATA_LOSS, "the entry has no record");
  if (!st) {
    Bytes record = {sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0)};
    st = record_decode(&c->codec, record, out, canonical_len);
  }
  sqlite3_reset(q);
  return st;
}

static Status drop_corrupt(Cache *c, int64_t id, uint64_t bytes, Status why) {
  if (status_code(why) != ST_DATA_LOSS) return why;
  status_drop(why);
  c->stats.corrupt++;
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  return cache_finish(c, cache_drop(c, id, bytes), &before);
}

static Status touch(Cache *c, int64_t id) {
  c->touches[c->ntouches++] = (Touch){id, clock_wall_ns()};
  return c->ntouches == MAX_TOUCHES ? cache_flush(c) : NULL;
}

Status cache_find(Cache *c, CacheKind kind, const CacheKey *key, bool *found, StrBuf *out) {
  int64_t id;
  uint64_t bytes = 0;
  size_t canonical = 0;
  StrBuf record = {0};
  *found = false;
  TRY(lookup(c, kind, key, &id, &bytes));
  if (!id) {
    c->stats.misses++;
    return NULL;
  }
  Status st = cache_read_blob(c, id, &record, &canonical);
  if (st) {
    c->stats.misses++;
    strbuf_deinit(&record);
    return drop_corrupt(c, id, bytes, st);
  }
  if (canonical != key->canonical.len ||
      (canonical && memcmp(record.ptr, key->canonical.ptr, canonical) != 0)) {
    c->stats.misses++; /* another graph with the same hash, or a key that was hashed wrongly */
  } else {
    c->stats.hits++;
    *found = true;
    strbuf_add(out, record.ptr + canonical, record.len - canonical);
    status_drop(touch(c, id));
    if (out->failed) st = FAIL(RESOURCE_EXHAUSTED, "a cache entry of %zu bytes", record.len);
  }
  strbuf_deinit(&record);
  return st;
}

/* -- storing ----------------------------------------------------------------------------------- */

Status cache_evict(Cache *c, uint64_t limit, uint64_t incoming, uint64_t *evicted) {
  while (limit && c->stats.bytes && c->stats.bytes + incoming > limit) {
    struct {
      int64_t id;
      uint64_t bytes;
    } old[EVICT_STEP];
    size_t n = 0;
    int rc;
    sqlite3_stmt *q = cache_query(c, Q_OLDEST);
    sqlite3_bind_int(q, 1, EVICT_STEP);
    while ((rc = sqlite3_step(q)) == SQLITE_ROW && n < EVICT_STEP) {
      old[n].id = sqlite3_column_int64(q, 0);
      old[n++].bytes = (uint64_t)sqlite3_column_int64(q, 1);
    }
    sqlite3_reset(q);
    TRY(sqlite_status(c->db, rc, "choosing cache entries to evict"));
    if (!n) return NULL;
    for (size_t k = 0; k < n && c->stats.bytes + incoming > limit; k++) {
      TRY(cache_drop(c, old[k].id, old[k].bytes));
      ++*evicted;
    }
  }
  return NULL;
}

static Status put_record(Cache *c, const CacheRecord *r, uint64_t *evicted) {
  int64_t id, now = clock_wall_ns();
  uint64_t old = 0, bytes;
  StrBuf blob = {0};
  Status st = record_encode(&c->codec, r->key.canonical, r->value, &blob);
  if (st) goto done;
  bytes = blob.len + ROW_BYTES;
  if (c->stats.max_bytes && bytes + c->stats.schedule_bytes > c->stats.max_bytes) {
    st = FAIL(RESOURCE_EXHAUSTED, "a %s of %zu bytes does not fit into a cache of %llu",
              cache_kind_name[r->kind], blob.len, (unsigned long long)c->stats.max_bytes);
    goto done;
  }
  if ((st = lookup(c, r->kind, &r->key, &id, &old)) || (id && (st = cache_drop(c, id, old))) ||
      (st = cache_evict(c, c->stats.max_bytes, bytes, evicted))) {
    goto done;
  }
  sqlite3_stmt *q = cache_query(c, Q_ADD_ENTRY);
  bind_key(q, r->kind, &r->key);
  sqlite3_bind_int64(q, 4, (int64_t)bytes);
  sqlite3_bind_int64(q, 5, now);
  sqlite3_bind_text(q, 6, r->note ? r->note : "", -1, SQLITE_STATIC);
  if ((st = cache_run(c, Q_ADD_ENTRY, "storing a cache entry"))) goto done;
  q = cache_query(c, Q_ADD_BLOB);
  sqlite3_bind_int64(q, 1, sqlite3_last_insert_rowid(c->db));
  sqlite3_bind_blob64(q, 2, blob.ptr, blob.len, SQLITE_STATIC);
  st = cache_run(c, Q_ADD_BLOB, "storing a cache entry");
  sqlite3_clear_bindings(q);
  c->stats.bytes += bytes;
done:
  strbuf_deinit(&blob);
  return st;
}

Status cache_put_tuned(Cache *c, const CacheRecord *records, size_t n, const Schedule *schedules,
                       size_t m) {
  uint64_t evicted = 0;
  Status st = cache_begin(c);
  if (st) {
    c->stats.write_errors++;
    return st;
  }
  CacheStats before = c->stats;
  st = write_touches(c);
  if (!st && m) st = schedules_put(c, schedules, m);
  for (size_t k = 0; k < n && !st; k++) st = put_record(c, &records[k], &evicted);
  if (!st) st = cache_evict(c, c->stats.max_bytes, 0, &evicted); /* what the schedules need */
  st = cache_finish(c, st, &before);
  if (!st) c->stats.evictions += evicted;
  return st;
}

Status cache_put(Cache *c, const CacheRecord *records, size_t n) {
  return cache_put_tuned(c, records, n, NULL, 0);
}

Status cache_put_target(Cache *c, const uint8_t *target, Str text) {
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  sqlite3_stmt *q = cache_query(c, Q_ADD_TARGET);
  sqlite3_bind_blob(q, 1, target, CACHE_HASH_BYTES, SQLITE_STATIC);
  sqlite3_bind_text64(q, 2, text.ptr, text.len, SQLITE_STATIC, SQLITE_UTF8);
  return cache_finish(c, cache_run(c, Q_ADD_TARGET, "noting a target"), &before);
}

Status cache_get_target(Cache *c, const uint8_t *target, StrBuf *out) {
  sqlite3_stmt *q = cache_query(c, Q_TARGET);
  sqlite3_bind_blob(q, 1, target, CACHE_HASH_BYTES, SQLITE_STATIC);
  int rc = sqlite3_step(q);
  if (rc == SQLITE_ROW) {
    const unsigned char *text = sqlite3_column_text(q, 0);
    if (text) strbuf_adds(out, (const char *)text);
  }
  Status st = sqlite_status(c->db, rc, "reading a target");
  sqlite3_reset(q);
  return st;
}

Status cache_stats(Cache *c, CacheStats *out) {
  Status st = count(c);
  *out = c->stats;
  return st;
}
