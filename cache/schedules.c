/* Schedule records in the cache file.
 *
 * A row holds the sealed record and the columns by which it is found and ordered. What a row says
 * is what its record says: one that does not decode, or disagrees with its columns, is dropped and
 * counted as corrupt; one of a newer version is left for the server that wrote it. Neither is ever
 * an error of the question.
 *
 * Bounds: SCHEDULE_KEEP_BEST and SCHEDULE_KEEP_FAILED records per kernel and target, and a quarter
 * of the cache's size limit for all of them; what has not been verified goes first, what was
 * imported before what was measured here, the oldest first. Binaries are cheap to make again and
 * measurements are not, so what schedules take is taken from the room of the former. */
#include "cache/schedule.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "cache/internal.h"

enum { TRIM_STEP = 64, MAX_BAD = 64, SHARE = 4 /* a quarter of the size limit */ };

Status schedules_count(Cache *c) {
  sqlite3_stmt *q = cache_query(c, Q_SCHEDULE_SUM);
  int rc = sqlite3_step(q);
  if (rc == SQLITE_ROW) {
    c->stats.schedules = (uint64_t)sqlite3_column_int64(q, 0);
    c->stats.schedule_bytes = (uint64_t)sqlite3_column_int64(q, 1);
    c->stats.bytes += c->stats.schedule_bytes;
  }
  Status st = sqlite_status(c->db, rc, "counting the cache's schedules");
  sqlite3_reset(q);
  return st;
}

/* -- storing ----------------------------------------------------------------------------------- */

Status schedules_delete(Cache *c, sqlite3_stmt *q, uint64_t *rows) {
  int rc;
  while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
    uint64_t bytes = (uint64_t)sqlite3_column_int64(q, 0);
    c->stats.bytes -= bytes < c->stats.bytes ? bytes : c->stats.bytes;
    c->stats.schedule_bytes -= bytes < c->stats.schedule_bytes ? bytes : c->stats.schedule_bytes;
    c->stats.schedules -= c->stats.schedules > 0;
    if (rows) ++*rows;
  }
  Status st = sqlite_status(c->db, rc, "removing schedules");
  sqlite3_reset(q);
  return st;
}

static void bind_pair(sqlite3_stmt *q, const uint8_t *kernel, const uint8_t *target) {
  sqlite3_bind_blob(q, 1, kernel, CACHE_HASH_BYTES, SQLITE_STATIC);
  if (target) sqlite3_bind_blob(q, 2, target, CACHE_HASH_BYTES, SQLITE_STATIC);
}

/* The row that s would replace; id 0 = none. */
typedef struct Old {
  int64_t id;
  bool verified, imported;
  int64_t measured_at;
} Old;

static Status find_old(Cache *c, const Schedule *s, Old *out) {
  sqlite3_stmt *q = cache_query(c, Q_SCHEDULE_FIND);
  bind_pair(q, s->kernel, s->target);
  sqlite3_bind_text(q, 3, s->opts ? s->opts : "", -1, SQLITE_STATIC);
  int rc = sqlite3_step(q);
  *out = (Old){0};
  if (rc == SQLITE_ROW)
    *out = (Old){sqlite3_column_int64(q, 0),
                 sqlite3_column_int(q, 1) == SC_MEASURED && sqlite3_column_int(q, 2),
                 sqlite3_column_int(q, 3), sqlite3_column_int64(q, 4)};
  Status st = sqlite_status(c->db, rc, "looking up a schedule");
  sqlite3_reset(q);
  return st;
}

static Status insert(Cache *c, const Schedule *s) {
  StrBuf record = {0};
  Status st = schedule_encode(s, &record);
  if (!st) {
    uint64_t bytes = record.len + ROW_BYTES;
    sqlite3_stmt *q = cache_query(c, Q_SCHEDULE_ADD);
    bind_pair(q, s->kernel, s->target);
    sqlite3_bind_text(q, 3, s->opts ? s->opts : "", -1, SQLITE_STATIC);
    if (s->class_hash) sqlite3_bind_blob(q, 4, s->class_hash, CACHE_HASH_BYTES, SQLITE_STATIC);
    sqlite3_bind_int(q, 5, (int)s->cause);
    sqlite3_bind_int(q, 6, s->verified);
    sqlite3_bind_int(q, 7, s->imported);
    sqlite3_bind_int64(q, 8, s->median_ns);
    sqlite3_bind_int64(q, 9, s->measured_at);
    sqlite3_bind_int64(q, 10, (int64_t)bytes);
    sqlite3_bind_blob64(q, 11, record.ptr, record.len, SQLITE_STATIC);
    st = cache_run(c, Q_SCHEDULE_ADD, "storing a schedule");
    sqlite3_clear_bindings(q);
    if (!st) {
      c->stats.bytes += bytes;
      c->stats.schedule_bytes += bytes;
      c->stats.schedules++;
    }
  }
  strbuf_deinit(&record);
  return st;
}

static Status put_one(Cache *c, const Schedule *given) {
  Schedule s = *given;
  Old old;
  if (s.imported) s.verified = false;
  TRY(find_old(c, &s, &old));
  if (old.id && s.imported && !old.imported) return NULL;
  /* results that were equal once do not differ because the time was taken again; nor is that a new
   * victory */
  if (old.verified && !s.verified && !s.imported && s.cause == SC_MEASURED) {
    s.verified = true;
    s.measured_at = old.measured_at;
  }
  if (old.id) {
    sqlite3_bind_int64(cache_query(c, Q_SCHEDULE_DROP), 1, old.id);
    TRY(schedules_delete(c, c->queries[Q_SCHEDULE_DROP], NULL));
  }
  TRY(insert(c, &s));
  return outbox_add(c, &s);
}

static Status trim(Cache *c, const Schedule *s) {
  static const Query queries[] = {Q_SCHEDULE_TRIM_BEST, Q_SCHEDULE_TRIM_FAILED};
  static const int keep[] = {SCHEDULE_KEEP_BEST, SCHEDULE_KEEP_FAILED};
  for (int i = 0; i < 2; i++) {
    sqlite3_stmt *q = cache_query(c, queries[i]);
    bind_pair(q, s->kernel, s->target);
    sqlite3_bind_int(q, 3, keep[i]);
    TRY(schedules_delete(c, q, NULL));
  }
  return NULL;
}

Status schedules_trim(Cache *c, uint64_t limit, uint64_t *rows) {
  uint64_t n = 1;
  while (n && c->stats.schedule_bytes > limit) {
    sqlite3_stmt *q = cache_query(c, Q_SCHEDULE_OLDEST);
    sqlite3_bind_int(q, 1, TRIM_STEP);
    n = 0;
    TRY(schedules_delete(c, q, &n));
    if (rows) *rows += n;
  }
  return NULL;
}

static bool same_kernel(const Schedule *a, const Schedule *b) {
  return !memcmp(a->kernel, b->kernel, CACHE_HASH_BYTES) &&
         !memcmp(a->target, b->target, CACHE_HASH_BYTES);
}

Status schedules_put(Cache *c, const Schedule *schedules, size_t n) {
  for (size_t k = 0; k < n; k++) {
    TRY(put_one(c, &schedules[k]));
    bool last = k + 1 == n || !same_kernel(&schedules[k], &schedules[k + 1]);
    if (last) TRY(trim(c, &schedules[k]));
  }
  return c->stats.max_bytes ? schedules_trim(c, c->stats.max_bytes / SHARE, NULL) : NULL;
}

/* -- reading ----------------------------------------------------------------------------------- */

static bool column_is(sqlite3_stmt *q, int column, const void *bytes, size_t n) {
  const void *have = sqlite3_column_blob(q, column);
  return (size_t)sqlite3_column_bytes(q, column) == n && (!n || !memcmp(have, bytes, n));
}

/* The record of a row of SCHEDULE_ROW; DATA_LOSS when the row disagrees with it. */
static Status read_row(sqlite3_stmt *q, Arena *arena, Schedule *out) {
  Bytes record = {sqlite3_column_blob(q, 1), (size_t)sqlite3_column_bytes(q, 1)};
  size_t used;
  TRY(schedule_decode(record, arena, out, &used));
  if (used != record.len || !column_is(q, 2, out->kernel, CACHE_HASH_BYTES) ||
      !column_is(q, 3, out->target, CACHE_HASH_BYTES) ||
      !column_is(q, 4, out->opts, strlen(out->opts)) ||
      sqlite3_column_int(q, 5) != (int)out->cause || !sqlite3_column_int(q, 6) != !out->verified ||
      !sqlite3_column_int(q, 7) != !out->imported)
    return FAIL(DATA_LOSS, "a schedule record disagrees with its row");
  return NULL;
}

static Status drop_bad(Cache *c, const int64_t *ids, size_t n) {
  if (!n) return NULL;
  c->stats.corrupt += n;
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  Status st = NULL;
  for (size_t i = 0; i < n && !st; i++) {
    sqlite3_bind_int64(cache_query(c, Q_SCHEDULE_DROP), 1, ids[i]);
    st = schedules_delete(c, c->queries[Q_SCHEDULE_DROP], NULL);
  }
  return cache_finish(c, st, &before);
}

Status schedules_visit(Cache *c, Query which, ScheduleVisit visit, void *ctx) {
  sqlite3_stmt *q = c->queries[which];
  int64_t bad[MAX_BAD];
  size_t nbad = 0;
  int rc = SQLITE_DONE;
  bool more = true;
  Status failed = NULL;
  while (more && !failed && (rc = sqlite3_step(q)) == SQLITE_ROW) {
    Arena arena;
    Schedule s;
    char text[256];
    arena_init(&arena, 0);
    Status st = read_row(q, &arena, &s);
    status_text(st, text, sizeof text);
    if (!st) more = visit(ctx, &s);
    if (st) LOG_WARN("a schedule record is ignored", "error=\"%s\"", text);
    if (status_code(st) == ST_DATA_LOSS && nbad < MAX_BAD) bad[nbad++] = sqlite3_column_int64(q, 0);
    if (status_code(st) == ST_RESOURCE_EXHAUSTED)
      failed = st;
    else
      status_drop(st);
    arena_deinit(&arena);
  }
  if (!failed && more) failed = sqlite_status(c->db, rc, "reading schedules");
  sqlite3_reset(q);
  sqlite3_clear_bindings(q);
  Status dropped = drop_bad(c, bad, nbad);
  if (!failed) return dropped;
  status_drop(dropped);
  return failed;
}

Status cache_schedules(Cache *c, const uint8_t *kernel, const uint8_t *target, ScheduleVisit visit,
                       void *ctx) {
  bind_pair(cache_query(c, Q_SCHEDULES), kernel, target);
  return schedules_visit(c, Q_SCHEDULES, visit, ctx);
}

typedef struct First {
  ScheduleVisit visit;
  void *ctx;
} First;

static bool visit_first(void *ctx, const Schedule *s) {
  First *f = ctx;
  f->visit(f->ctx, s);
  return false;
}

Status cache_best_schedule(Cache *c, const uint8_t *kernel, const uint8_t *target,
                           ScheduleVisit visit, void *ctx) {
  First f = {visit, ctx};
  bind_pair(cache_query(c, Q_SCHEDULE_BEST), kernel, target);
  return schedules_visit(c, Q_SCHEDULE_BEST, visit_first, &f);
}

/* -- the nearest of a class -------------------------------------------------------------------- */

/* A record that was read, as bytes: its row is gone when it is shown. */
typedef struct Hint {
  StrBuf record;
  uint8_t kernel[CACHE_HASH_BYTES], target[CACHE_HASH_BYTES];
  int place; /* 0 the kernel itself, 1 this target, 2 others */
  double distance;
} Hint;

typedef struct Nearest {
  const ScheduleNear *near;
  VEC(Hint) hints;                                            /* ordered, at most `limit` */
  uint8_t kernel[CACHE_HASH_BYTES], target[CACHE_HASH_BYTES]; /* of the record before */
  bool any, failed;
} Nearest;

static bool before(const Hint *a, const Hint *b) {
  return a->place != b->place ? a->place < b->place : a->distance < b->distance;
}

static void insert_hint(Nearest *n, Hint h) {
  size_t at = n->hints.len;
  while (at && before(&h, &n->hints.at[at - 1])) at--;
  for (size_t i = 0; i < n->hints.len; i++) { /* one per kernel: the nearer place */
    if (memcmp(n->hints.at[i].kernel, h.kernel, CACHE_HASH_BYTES) != 0) continue;
    if (i < at) {
      strbuf_deinit(&h.record);
      return;
    }
    strbuf_deinit(&n->hints.at[i].record);
    memmove(&n->hints.at[i], &n->hints.at[i + 1], (n->hints.len - i - 1) * sizeof h);
    n->hints.len--;
    break;
  }
  if (!vec_push(&n->hints, h)) {
    strbuf_deinit(&h.record);
    n->failed = true;
    return;
  }
  memmove(&n->hints.at[at + 1], &n->hints.at[at], (n->hints.len - at - 1) * sizeof h);
  n->hints.at[at] = h;
  if (n->hints.len > n->near->limit) strbuf_deinit(&n->hints.at[--n->hints.len].record);
}

/* Rows come ordered by kernel and target, the best first. */
static bool add_hint(void *ctx, const Schedule *s) {
  Nearest *n = ctx;
  if (n->any && !memcmp(n->kernel, s->kernel, CACHE_HASH_BYTES) &&
      !memcmp(n->target, s->target, CACHE_HASH_BYTES))
    return true;
  n->any = true;
  memcpy(n->kernel, s->kernel, CACHE_HASH_BYTES);
  memcpy(n->target, s->target, CACHE_HASH_BYTES);
  bool self = !memcmp(s->kernel, n->near->kernel, CACHE_HASH_BYTES);
  bool here = !memcmp(s->target, n->near->target, CACHE_HASH_BYTES);
  Hint h = {.place = self   ? 0
                     : here ? 1
                            : 2,
            .distance =
                self ? (double)s->median_ns
                     : schedule_distance(s->sizes, s->nsizes, n->near->sizes, n->near->nsizes)};
  if (isinf(h.distance)) return true;
  memcpy(h.kernel, s->kernel, CACHE_HASH_BYTES);
  memcpy(h.target, s->target, CACHE_HASH_BYTES);
  Status st = schedule_encode(s, &h.record);
  n->failed |= st != NULL;
  status_drop(st);
  insert_hint(n, h);
  return !n->failed;
}

static Status show_hints(const Nearest *n, ScheduleVisit visit, void *ctx) {
  bool more = true;
  Status st = NULL;
  for (size_t i = 0; i < n->hints.len && more && !st; i++) {
    const StrBuf *r = &n->hints.at[i].record;
    Arena arena;
    Schedule s;
    size_t used;
    arena_init(&arena, 0);
    st = schedule_decode((Bytes){(const uint8_t *)r->ptr, r->len}, &arena, &s, &used);
    if (!st) more = visit(ctx, &s);
    arena_deinit(&arena);
  }
  return st;
}

Status cache_near_schedules(Cache *c, const ScheduleNear *near, ScheduleVisit visit, void *ctx) {
  Nearest n = {.near = near};
  if (!near->limit) return NULL;
  bind_pair(cache_query(c, Q_SCHEDULE_OTHERS), near->kernel, near->target);
  Status st = schedules_visit(c, Q_SCHEDULE_OTHERS, add_hint, &n);
  if (!st && near->class_hash) {
    bind_pair(cache_query(c, Q_SCHEDULE_CLASS), near->class_hash, near->kernel);
    n.any = false;
    st = schedules_visit(c, Q_SCHEDULE_CLASS, add_hint, &n);
  }
  if (!st && n.failed) st = FAIL(RESOURCE_EXHAUSTED, "no memory for hints");
  if (!st) st = show_hints(&n, visit, ctx);
  for (size_t i = 0; i < n.hints.len; i++) strbuf_deinit(&n.hints.at[i].record);
  vec_deinit(&n.hints);
  return st;
}
