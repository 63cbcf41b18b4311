/* Upkeep of the cache for the loop: verify, prune, remove, export, import. */
#include "base/clock.h"
#include "daemon/server/store_job.h"

/* Ends a question: without a cache there is nothing to keep up. */
static void answer(StoreJob *j, const ProtobufCMessage *m) {
  if (!j->st && !j->store->open) j->st = store_no_cache(j->store);
  store_answered(j, m);
}

/* -- verify ------------------------------------------------------------------------------------ */

static bool is_forgotten(void *ctx) {
  const StoreJob *j = ctx;
  return j->forgotten;
}

static void verify_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache) j->st = cache_verify(s->cache, is_forgotten, j, &j->check);
}

static void verify_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  Kiln__V1__CacheVerifyResponse m = KILN__V1__CACHE_VERIFY_RESPONSE__INIT;
  m.entries = j->check.entries;
  m.schedules = j->check.schedules;
  m.corrupt = j->check.corrupt;
  m.newer = j->check.newer;
  if (j->check.problems.ptr) m.problems = j->check.problems.ptr;
  answer(j, &m.base);
}

StoreJob *store_verify(Store *s, StoreAnswer to, void *ctx) {
  StoreJob *j = store_ask(s, verify_run, verify_done, to, ctx);
  if (j) lane_submit(s->lane, &j->job);
  return j;
}

/* -- prune and remove -------------------------------------------------------------------------- */

static void removed_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  Kiln__V1__CacheRemovedResponse m = KILN__V1__CACHE_REMOVED_RESPONSE__INIT;
  m.entries = j->removed.entries;
  m.schedules = j->removed.schedules;
  m.bytes = j->removed.bytes;
  answer(j, &m.base);
}

static void prune_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache) j->st = cache_prune(s->cache, &j->prune, &j->removed);
}

StoreJob *store_prune(Store *s, const Kiln__V1__CachePruneRequest *m, StoreAnswer to, void *ctx) {
  StoreJob *j = store_ask(s, prune_run, removed_done, to, ctx);
  if (!j) return NULL;
  const char *target = arena_strdup(&j->arena, str_from(m->target));
  if (!target) {
    store_job_free(j);
    return NULL;
  }
  int64_t now = clock_wall_ns();
  j->prune.target = str_from(target);
  j->prune.bytes = m->bytes;
  if (m->older_ns > 0) j->prune.before_ns = m->older_ns < now ? now - m->older_ns : 1;
  lane_submit(s->lane, &j->job);
  return j;
}

static void remove_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache) j->st = cache_remove(s->cache, str_from(j->hash), &j->removed);
}

/* A job about a hash, or the start of one. */
static StoreJob *about(Store *s, const char *hash, void (*run)(LaneJob *, void *),
                       void (*done)(LaneJob *), StoreAnswer to, void *ctx) {
  StoreJob *j = store_ask(s, run, done, to, ctx);
  if (!j || (j->hash = arena_strdup(&j->arena, str_from(hash)))) return j;
  store_job_free(j);
  return NULL;
}

StoreJob *store_remove(Store *s, const char *hash, StoreAnswer to, void *ctx) {
  StoreJob *j = about(s, hash, remove_run, removed_done, to, ctx);
  if (j) lane_submit(s->lane, &j->job);
  return j;
}

/* -- export and import ------------------------------------------------------------------------- */

static void export_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache) j->st = cache_export(s->cache, str_from(j->hash), &j->text, &j->nrecords);
}

static void export_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  if (!j->st && !j->store->open) j->st = store_no_cache(j->store);
  Status st = j->st;
  j->st = NULL;
  if (j->forgotten)
    status_drop(st);
  else
    j->file(j->ctx, &j->text, j->nrecords, st);
  store_job_free(j);
}

StoreJob *store_export(Store *s, const char *kernel, StoreFile file, void *ctx) {
  StoreJob *j = about(s, kernel, export_run, export_done, NULL, ctx);
  if (!j) return NULL;
  j->file = file;
  lane_submit(s->lane, &j->job);
  return j;
}

static void import_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  Bytes file = {(const uint8_t *)j->text.ptr, j->text.len};
  if (s->cache) j->st = cache_import(s->cache, file, &j->imported);
}

static void import_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  Kiln__V1__CacheImportResponse m = KILN__V1__CACHE_IMPORT_RESPONSE__INIT;
  m.records = j->imported.records;
  m.stored = j->imported.stored;
  answer(j, &m.base);
}

StoreJob *store_import(Store *s, StrBuf *file, StoreAnswer to, void *ctx) {
  StoreJob *j = store_ask(s, import_run, import_done, to, ctx);
  if (!j) return NULL;
  j->text = *file;
  *file = (StrBuf){0};
  lane_submit(s->lane, &j->job);
  return j;
}
