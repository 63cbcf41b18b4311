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

/* -- evidence ---------------------------------------------------------------------------------- */

static bool take_tried(void *ctx, const Schedule *s) {
  StoreJob *j = ctx;
  Schedule copy;
  return !j->forgotten && schedule_copy(&j->arena, s, &copy) && vec_push(&j->tried, copy);
}

static bool take_hint(void *ctx, const Schedule *s) {
  StoreJob *j = ctx;
  Schedule copy;
  return !j->forgotten && schedule_copy(&j->arena, s, &copy) && vec_push(&j->hints, copy);
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
  if (!j) return NULL;
  j->near = *near;
  j->near.kernel = arena_copy(&j->arena, near->kernel, DIGEST_BYTES);
  j->near.target = arena_copy(&j->arena, near->target, DIGEST_BYTES);
  if (near->class_hash) j->near.class_hash = arena_copy(&j->arena, near->class_hash, DIGEST_BYTES);
  bool ok = j->near.kernel && j->near.target && (j->near.class_hash || !near->class_hash);
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
    ok = schedule_copy(&j->arena, &schedules[i], to);
    if (!to->host || !*to->host) to->host = s->host;
    if (!to->measured_at) to->measured_at = clock_wall_ns();
  }
  if (ok)
    lane_submit(s->lane, &j->job);
  else
    store_job_free(j); /* without memory nothing is remembered */
}
