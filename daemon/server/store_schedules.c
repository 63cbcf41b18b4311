/* Schedule records for the loop: what builds use in place of the heuristic, and what the tuner
 * reads and writes. Everything is copied into the job on its way in and on its way out, since a
 * record is a view of a row that is gone when the lane's thread turns to the next one. */
#include <stdlib.h>

#include "base/clock.h"
#include "daemon/server/store_job.h"
#include "proto/digest.h"

/* -- kernels of a plan ------------------------------------------------------------------------- */

typedef struct BestOpts {
  StoreJob *job;
  size_t i;
} BestOpts;

static bool take_best(void *ctx, const Schedule *s) {
  BestOpts *b = ctx;
  b->job->kernels[b->i].opts = arena_strdup(&b->job->arena, str_from(s->opts));
  return false;
}

void store_kernels_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  store_find_values(j);
  for (size_t i = 0; s->cache && i < j->n && !j->forgotten; i++) {
    const CacheKey *key = &j->records[i].key;
    BestOpts best = {j, i};
    Status st = cache_best_schedule(s->cache, key->hash, key->target, take_best, &best);
    if (st && !j->st)
      j->st = st;
    else
      status_drop(st);
    j->kernels[i].binary = j->found_values[i];
  }
}

static void kernels_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  store_log_lookup(j);
  if (!j->forgotten) j->kernels_found(j->ctx, j->kernels, j->n);
  store_job_free(j);
}

StoreJob *store_get_kernels(Store *s, const StoreKey *keys, size_t n, StoreKernels found,
                            void *ctx) {
  StoreJob *j = store_lookup(s, CACHE_KERNEL, keys, n, kernels_done);
  if (!j) return NULL;
  j->kernels = arena_array(&j->arena, n + 1, sizeof *j->kernels);
  j->kernels_found = found;
  j->ctx = ctx;
  if (!j->kernels) {
    store_job_free(j);
    return NULL;
  }
  lane_submit(s->lane, &j->job);
  return j;
}

/* -- copies ------------------------------------------------------------------------------------ */

static const uint8_t *copy_hash(Arena *a, const uint8_t *hash, bool *ok) {
  const uint8_t *copy = hash ? arena_copy(a, hash, DIGEST_BYTES) : NULL;
  *ok = *ok && (copy || !hash);
  return copy;
}

static const char *copy_text(Arena *a, const char *text, bool *ok) {
  const char *copy = arena_strdup(a, str_from(text));
  *ok = *ok && copy;
  return copy;
}

static bool copy_schedule(Arena *a, const Schedule *s, Schedule *out) {
  bool ok = true;
  *out = *s;
  out->kernel = copy_hash(a, s->kernel, &ok);
  out->target = copy_hash(a, s->target, &ok);
  out->class_hash = copy_hash(a, s->class_hash, &ok);
  out->opts = copy_text(a, s->opts, &ok);
  out->name = copy_text(a, s->name, &ok);
  out->compiler = copy_text(a, s->compiler, &ok);
  out->host = copy_text(a, s->host, &ok);
  out->sizes = arena_copy(a, s->sizes, s->nsizes * sizeof *s->sizes);
  return ok && out->sizes;
}

/* -- evidence ---------------------------------------------------------------------------------- */

static bool take_tried(void *ctx, const Schedule *s) {
  StoreJob *j = ctx;
  Schedule copy;
  return !j->forgotten && copy_schedule(&j->arena, s, &copy) && vec_push(&j->tried, copy);
}

static bool take_hint(void *ctx, const Schedule *s) {
  StoreJob *j = ctx;
  Schedule copy;
  return !j->forgotten && copy_schedule(&j->arena, s, &copy) && vec_push(&j->hints, copy);
}

static void evidence_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (!s->cache) return;
  j->st = cache_schedules(s->cache, j->near.kernel, j->near.target, take_tried, j);
  if (!j->st && j->near.limit) j->st = cache_near_schedules(s->cache, &j->near, take_hint, j);
}

static void evidence_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  StoreEvidence e = {j->tried.at, j->tried.len, j->hints.at, j->hints.len};
  store_log_lookup(j);
  if (!j->forgotten) j->evidence_found(j->ctx, &e);
  store_job_free(j);
}

StoreJob *store_get_evidence(Store *s, const ScheduleNear *near, StoreEvidenceFound found,
                             void *ctx) {
  StoreJob *j = store_job_create(s, evidence_run, evidence_done);
  bool ok = true;
  if (!j) return NULL;
  j->near = *near;
  j->near.kernel = copy_hash(&j->arena, near->kernel, &ok);
  j->near.target = copy_hash(&j->arena, near->target, &ok);
  j->near.class_hash = copy_hash(&j->arena, near->class_hash, &ok);
  j->near.sizes = arena_copy(&j->arena, near->sizes, near->nsizes * sizeof *near->sizes);
  j->evidence_found = found;
  j->ctx = ctx;
  if (!ok || !j->near.sizes) {
    store_job_free(j);
    return NULL;
  }
  lane_submit(s->lane, &j->job);
  return j;
}

static void put_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache) j->st = cache_put_tuned(s->cache, j->records, j->n, j->schedules, j->nschedules);
}

void store_put_tuned(Store *s, const StoreRecord *kernels, size_t n, const Schedule *schedules,
                     size_t m) {
  StoreJob *j = store_job_create(s, put_run, store_put_done);
  if (!j) return;
  j->records = arena_array(&j->arena, n + 1, sizeof *j->records);
  j->schedules = arena_array(&j->arena, m + 1, sizeof *j->schedules);
  bool ok = j->records && j->schedules;
  for (size_t i = 0; ok && i < n; i++) ok = store_copy_record(j, CACHE_KERNEL, &kernels[i]);
  for (size_t i = 0; ok && i < m; i++) {
    Schedule *to = &j->schedules[j->nschedules++];
    ok = copy_schedule(&j->arena, &schedules[i], to);
    if (!to->host || !*to->host) to->host = s->host;
    if (!to->measured_at) to->measured_at = clock_wall_ns();
  }
  if (ok)
    lane_submit(s->lane, &j->job);
  else
    store_job_free(j); /* without memory nothing is remembered */
}
