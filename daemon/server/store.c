/* A StoreJob is a lane job with an arena of its own, which holds copies of all that it refers to:
 * nothing on the loop is read by the lane's thread. The Cache handle is touched by that thread
 * only; what the loop may know of it (path, error) is set by `done` functions. */
#include "daemon/server/store_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "proto/digest.h"

_Static_assert((int)CACHE_HASH_BYTES == (int)DIGEST_BYTES, "keys are SHA-256");

void store_job_free(StoreJob *j) {
  for (size_t i = 0; j->values && i < j->n; i++) strbuf_deinit(&j->values[i]);
  strbuf_deinit(&j->text);
  strbuf_deinit(&j->check.problems);
  vec_deinit(&j->tried);
  vec_deinit(&j->hints);
  status_drop(j->st);
  arena_deinit(&j->arena);
  free(j);
}

StoreJob *store_job_create(Store *s, void (*run)(LaneJob *, void *), void (*done)(LaneJob *)) {
  StoreJob *j = calloc(1, sizeof *j);
  if (!j) return NULL;
  j->job = (LaneJob){.run = run, .done = done};
  j->store = s;
  arena_init(&j->arena, 0);
  return j;
}

void store_forget(StoreJob *job) { job->forgotten = true; }

/* -- opening ------------------------------------------------------------------------------------
 */

static void open_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  j->st = cache_open(s->path, s->max_bytes, &s->cache);
}

static void open_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  Store *s = j->store;
  s->open = !j->st;
  if (j->st) {
    status_text(j->st, s->error, sizeof s->error);
    LOG_WARN("serving without a cache", "path=%s error=\"%s\"", s->path, s->error);
  } else {
    LOG_INFO("cache open", "path=%s", s->path);
  }
  store_job_free(j);
}

static void lane_end(void *state) {
  Store *s = state;
  cache_close(s->cache);
  s->cache = NULL;
}

Status store_create(const StoreSpec *spec, Store **out) {
  Store *s = *out = calloc(1, sizeof *s);
  if (!s) return FAIL(RESOURCE_EXHAUSTED, "store");
  LaneSpec lane = {.name = "kiln-cache", .state = s, .end = lane_end};
  s->max_bytes = spec->max_bytes;
  if (gethostname(s->host, sizeof s->host - 1)) snprintf(s->host, sizeof s->host, "unknown");
  s->path = strdup(spec->path ? spec->path : "");
  Status st =
      s->path ? lane_create(spec->loop, &lane, &s->lane) : FAIL(RESOURCE_EXHAUSTED, "store");
  if (st) {
    free(s->path);
    free(s);
    *out = NULL;
    return st;
  }
  StoreJob *j = spec->path ? store_job_create(s, open_run, open_done) : NULL;
  if (j)
    lane_submit(s->lane, &j->job);
  else
    snprintf(s->error, sizeof s->error, "%s", spec->path ? "no memory" : "switched off");
  return NULL;
}

static void on_lane_closed(void *ctx) {
  Store *s = ctx;
  void (*closed)(void *) = s->closed;
  void *closed_ctx = s->closed_ctx;
  free(s->path);
  free(s);
  closed(closed_ctx);
}

void store_close(Store *s, void (*closed)(void *ctx), void *ctx) {
  s->closed = closed;
  s->closed_ctx = ctx;
  lane_close(s->lane, on_lane_closed, s);
}

const char *store_path(const Store *s) { return s->open ? s->path : ""; }
const char *store_error(const Store *s) { return s->error; }

/* -- records ------------------------------------------------------------------------------------
 */

bool store_copy_key(StoreJob *j, const StoreKey *key, CacheRecord *out) {
  out->key.hash = arena_copy(&j->arena, key->hash, DIGEST_BYTES);
  out->key.target = arena_copy(&j->arena, key->target, DIGEST_BYTES);
  out->key.canonical.ptr = arena_copy(&j->arena, key->canonical.ptr, key->canonical.len);
  out->key.canonical.len = key->canonical.len;
  out->note = arena_strdup(&j->arena, str_from(key->note));
  return out->key.hash && out->key.target && out->key.canonical.ptr && out->note;
}

void store_find_values(StoreJob *j) {
  Store *s = j->store;
  for (size_t i = 0; s->cache && i < j->n && !j->forgotten; i++) {
    bool found;
    const CacheRecord *r = &j->records[i];
    Status st = cache_find(s->cache, r->kind, &r->key, &found, &j->values[i]);
    if (!st && found && !j->values[i].failed)
      j->found_values[i] = (Bytes){(const uint8_t *)j->values[i].ptr, j->values[i].len};
    if (st && !j->st)
      j->st = st; /* the first is logged */
    else
      status_drop(st);
  }
}

static void find_run(LaneJob *job, void *state) {
  (void)state;
  store_find_values((StoreJob *)job);
}

void store_log_lookup(const StoreJob *j) {
  char text[512];
  status_text(j->st, text, sizeof text);
  if (j->st) LOG_WARN("cache lookup failed", "error=\"%s\"", text);
}

static void find_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  store_log_lookup(j);
  if (!j->forgotten) j->found(j->ctx, j->found_values, j->n);
  store_job_free(j);
}

StoreJob *store_lookup(Store *s, CacheKind kind, const StoreKey *keys, size_t n,
                       void (*done)(LaneJob *)) {
  StoreJob *j = store_job_create(s, kind == CACHE_KERNEL ? store_kernels_run : find_run, done);
  if (!j) return NULL;
  j->records = arena_array(&j->arena, n + 1, sizeof *j->records);
  j->found_values = arena_array(&j->arena, n + 1, sizeof *j->found_values);
  j->values = arena_array(&j->arena, n + 1, sizeof *j->values);
  bool ok = j->records && j->found_values && j->values;
  for (size_t i = 0; ok && i < n; i++) {
    j->records[i].kind = kind;
    ok = store_copy_key(j, &keys[i], &j->records[i]);
  }
  if (!ok) {
    store_job_free(j);
    return NULL;
  }
  j->n = n;
  return j;
}

StoreJob *store_get_plan(Store *s, const StoreKey *key, StoreFound found, void *ctx) {
  StoreJob *j = store_lookup(s, CACHE_PLAN, key, 1, find_done);
  if (!j) return NULL;
  j->found = found;
  j->ctx = ctx;
  lane_submit(s->lane, &j->job);
  return j;
}

static void put_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache) j->st = cache_put(s->cache, j->records, j->n);
}

void store_put_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  Store *s = j->store;
  if (j->st) {
    char text[400];
    status_text(j->st, text, sizeof text);
    snprintf(s->error, sizeof s->error, "the last write failed: %s", text);
    LOG_WARN("cache write failed", "records=%zu error=\"%s\"", j->n, text);
  } else if (s->open) {
    s->error[0] = 0;
  }
  store_job_free(j);
}

bool store_copy_record(StoreJob *j, CacheKind kind, const StoreRecord *r) {
  CacheRecord *out = &j->records[j->n];
  out->kind = kind;
  out->value = (Bytes){arena_copy(&j->arena, r->value.ptr, r->value.len), r->value.len};
  j->n++;
  return store_copy_key(j, &r->key, out) && out->value.ptr;
}

void store_put(Store *s, const StoreRecord *plan, const StoreRecord *kernels, size_t n) {
  StoreJob *j = store_job_create(s, put_run, store_put_done);
  if (!j) return;
  j->records = arena_array(&j->arena, n + 2, sizeof *j->records);
  bool ok = j->records != NULL;
  for (size_t i = 0; ok && i < n; i++) ok = store_copy_record(j, CACHE_KERNEL, &kernels[i]);
  if (ok && plan) ok = store_copy_record(j, CACHE_PLAN, plan);
  if (ok)
    lane_submit(s->lane, &j->job);
  else
    store_job_free(j); /* without memory nothing is remembered */
}

static void target_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache) j->st = cache_put_target(s->cache, j->target, (Str){j->text.ptr, j->text.len});
}

void store_put_target(Store *s, const uint8_t *target, Str text) {
  StoreJob *j = store_job_create(s, target_run, store_put_done);
  if (!j) return;
  memcpy(j->target, target, DIGEST_BYTES);
  strbuf_add(&j->text, text.ptr, text.len);
  lane_submit(s->lane, &j->job);
}

static void target_find(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache) j->st = cache_get_target(s->cache, j->target, &j->text);
}

static void target_found(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  store_log_lookup(j);
  if (!j->forgotten) j->text_found(j->ctx, (Str){j->text.ptr, j->text.len});
  store_job_free(j);
}

StoreJob *store_get_target(Store *s, const uint8_t *target, StoreText found, void *ctx) {
  StoreJob *j = store_job_create(s, target_find, target_found);
  if (!j) return NULL;
  memcpy(j->target, target, DIGEST_BYTES);
  j->text_found = found;
  j->ctx = ctx;
  lane_submit(s->lane, &j->job);
  return j;
}

/* -- questions ----------------------------------------------------------------------------------
 */

StoreJob *store_ask(Store *s, void (*run)(LaneJob *, void *), void (*done)(LaneJob *),
                    StoreAnswer answer, void *ctx) {
  StoreJob *j = store_job_create(s, run, done);
  if (!j) return NULL;
  j->answer = answer;
  j->ctx = ctx;
  return j;
}

Status store_no_cache(const Store *s) {
  return FAIL(FAILED_PRECONDITION, "this server has no cache: %s", s->error);
}

/* Ends a question with m, or with the job's status. */
void store_answered(StoreJob *j, const ProtobufCMessage *m) {
  Status st = j->st;
  j->st = NULL;
  if (j->forgotten)
    status_drop(st);
  else
    j->answer(j->ctx, st ? NULL : m, st);
  store_job_free(j);
}

static void stats_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  CacheStats stats = {0};
  if (s->cache) j->st = cache_stats(s->cache, &stats);
  kiln__v1__cache_stats_response__init(&j->stats);
  j->stats.plans = stats.plans;
  j->stats.kernels = stats.kernels;
  j->stats.bytes = stats.bytes;
  j->stats.max_bytes = stats.max_bytes;
  j->stats.hits = stats.hits;
  j->stats.misses = stats.misses;
  j->stats.evictions = stats.evictions;
  j->stats.corrupt = stats.corrupt;
  j->stats.schema = stats.schema;
  j->stats.schedules = stats.schedules;
  j->stats.schedule_bytes = stats.schedule_bytes;
}

static void stats_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  j->stats.path = (char *)(uintptr_t)store_path(j->store);
  j->stats.error = j->store->error;
  j->stats.merged = j->merged;
  store_answered(j, &j->stats.base);
}

StoreJob *store_stats(Store *s, uint64_t merged, StoreAnswer answer, void *ctx) {
  StoreJob *j = store_ask(s, stats_run, stats_done, answer, ctx);
  if (!j) return NULL;
  j->merged = merged;
  lane_submit(s->lane, &j->job);
  return j;
}

static char *hex_copy(Arena *arena, const uint8_t *hash) {
  char *hex = arena_alloc(arena, DIGEST_HEX + 1);
  return hex ? digest_to_hex(hash, DIGEST_BYTES, hex) : NULL;
}

static void visit(void *ctx, const CacheEntry *entry) {
  StoreJob *j = ctx;
  Kiln__V1__CacheEntry *e = arena_alloc(&j->arena, sizeof *e);
  if (!e || j->list.n_entries == j->list_cap) return;
  kiln__v1__cache_entry__init(e);
  e->kind = (char *)(uintptr_t)cache_kind_name[entry->kind];
  e->hash = hex_copy(&j->arena, entry->hash);
  e->target = hex_copy(&j->arena, entry->target);
  e->note = arena_strdup(&j->arena, str_from(entry->note));
  e->bytes = entry->bytes;
  e->uses = entry->uses;
  e->schedules = entry->schedules;
  e->created_unix_ns = entry->created_ns;
  e->used_unix_ns = entry->used_ns;
  if (e->hash && e->target && e->note) j->list.entries[j->list.n_entries++] = e;
}

enum { LIST_MAX = 10000 };

static void list_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  kiln__v1__cache_list_response__init(&j->list);
  j->list_cap = j->limit && j->limit < LIST_MAX ? j->limit : LIST_MAX;
  j->list.entries = arena_array(&j->arena, j->list_cap, sizeof *j->list.entries);
  if (!j->list.entries)
    j->st = FAIL(RESOURCE_EXHAUSTED, "list of cache entries");
  else if (s->cache)
    j->st = cache_list(s->cache, (uint32_t)j->list_cap, visit, j);
}

static void list_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  if (!j->st && !j->store->open) j->st = store_no_cache(j->store);
  store_answered(j, &j->list.base);
}

StoreJob *store_list(Store *s, uint32_t limit, StoreAnswer answer, void *ctx) {
  StoreJob *j = store_ask(s, list_run, list_done, answer, ctx);
  if (!j) return NULL;
  j->limit = limit;
  lane_submit(s->lane, &j->job);
  return j;
}

static void why_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache)
    j->st = cache_why(s->cache, str_from(j->hash), j->has_target ? j->target : NULL, &j->text);
}

static void why_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  Kiln__V1__CacheWhyResponse m = KILN__V1__CACHE_WHY_RESPONSE__INIT;
  if (!j->st && !j->store->open) j->st = store_no_cache(j->store);
  if (j->text.ptr) m.text = j->text.ptr;
  store_answered(j, &m.base);
}

StoreJob *store_why(Store *s, const char *hash, const uint8_t *target, StoreAnswer answer,
                    void *ctx) {
  StoreJob *j = store_ask(s, why_run, why_done, answer, ctx);
  if (!j) return NULL;
  j->hash = arena_strdup(&j->arena, str_from(hash));
  if (!j->hash) {
    store_job_free(j);
    return NULL;
  }
  j->has_target = target != NULL;
  if (target) memcpy(j->target, target, DIGEST_BYTES);
  lane_submit(s->lane, &j->job);
  return j;
}
