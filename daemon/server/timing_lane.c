/* empty -> starting -> idle <-> busy; from everywhere back to empty when the process ends. */
#include "daemon/server/timing_lane.h"

#include <stdlib.h>

enum { START_SECONDS = 30, SLOWER_IN_BACKGROUND = 10 };

struct TimingLane {
  TimingLaneSpec spec;
  Worker *worker;
  bool ready;
  uint64_t next_id;
  Kiln__V1__TimingJob *job; /* NULL: none */
  bool sent;
  void (*done)(void *ctx, const TimingEnd *end);
  void *ctx;
  Kiln__V1__TimingProgress__What what;
  uint32_t candidate;
  unsigned failures;
};

static void finish(TimingLane *l, const TimingEnd *end) {
  l->job = NULL;
  l->sent = false;
  l->done(l->ctx, end);
}

static void set_limit(TimingLane *l, uint32_t limit_ms) {
  uint64_t ms = (uint64_t)limit_ms * (l->spec.background ? SLOWER_IN_BACKGROUND : 1);
  worker_set_deadline(l->worker, ms / 1000 + 1, "a kernel that is timed does not come to an end");
}

static void send_job(TimingLane *l) {
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  env.id = ++l->next_id;
  env.body_case = KILN__V1__ENVELOPE__BODY_TIMING;
  env.timing = l->job;
  l->sent = true;
  l->what = KILN__V1__TIMING_PROGRESS__WHAT__INCUMBENT;
  set_limit(l, START_SECONDS * 1000);
  status_drop(worker_send(l->worker, &env, NULL, 0)); /* if it is gone, on_gone follows */
}

static void on_ready(void *ctx) {
  TimingLane *l = ctx;
  l->ready = true;
  if (l->job) send_job(l);
}

static void on_progress(TimingLane *l, const Kiln__V1__TimingProgress *m) {
  l->what = m->what;
  l->candidate = m->candidate;
  set_limit(l, m->limit_ms < 600000 ? m->limit_ms : 600000);
}

static void on_message(void *ctx, Message *m) {
  TimingLane *l = ctx;
  if (!l->job || m->env->id != l->next_id) return; /* of a job given up */
  TimingEnd end = {.done = NULL};
  switch (m->env->body_case) {
  case KILN__V1__ENVELOPE__BODY_TIMING_PROGRESS: on_progress(l, m->env->timing_progress); return;
  case KILN__V1__ENVELOPE__BODY_TIMING_DONE: end.done = m->env->timing_done; break;
  case KILN__V1__ENVELOPE__BODY_ERROR: end.st = FAIL(INTERNAL, "%s", m->env->error->message); break;
  default: worker_kill(l->worker, "crash", "it answered something else"); return;
  }
  worker_set_deadline(l->worker, 0, "");
  l->failures = 0;
  finish(l, &end);
}

static void on_gone(void *ctx, const char *cause, const char *detail) {
  TimingLane *l = ctx;
  TimingEnd end = {.cause = cause, .detail = detail, .what = l->what, .candidate = l->candidate};
  l->worker = NULL;
  l->ready = false;
  l->failures++;
  if (l->job) finish(l, &end);
}

static const WorkerHandler handler = {.ready = on_ready, .message = on_message, .gone = on_gone};

Status timing_lane_create(const TimingLaneSpec *spec, TimingLane **out) {
  TimingLane *l = *out = calloc(1, sizeof *l);
  if (!l) return FAIL(RESOURCE_EXHAUSTED, "timing");
  l->spec = *spec;
  return NULL;
}

void timing_lane_release(TimingLane *l) {
  if (!l) return;
  if (l->worker) worker_abandon(l->worker);
  free(l);
}

Status timing_lane_run(TimingLane *l, Kiln__V1__TimingJob *job,
                       void (*done)(void *ctx, const TimingEnd *end), void *ctx) {
  l->job = job;
  l->done = done;
  l->ctx = ctx;
  l->sent = false;
  l->what = KILN__V1__TIMING_PROGRESS__WHAT__INCUMBENT;
  if (l->ready) {
    send_job(l);
    return NULL;
  }
  if (l->worker) return NULL; /* it is starting */
  WorkerSpec spec = {.role = "timing",
                     .device = l->spec.device,
                     .memory_bytes = l->spec.memory_bytes,
                     .background = l->spec.background,
                     .delay_ms = supervisor_backoff(l->failures),
                     .handler = &handler,
                     .ctx = l};
  Status st = supervisor_spawn(l->spec.supervisor, &spec, &l->worker);
  if (st) l->job = NULL;
  return st;
}

void timing_lane_cancel(TimingLane *l) {
  if (!l->job) return;
  if (l->worker && l->sent) {
    worker_abandon(l->worker);
    l->worker = NULL;
    l->ready = false;
  }
  l->job = NULL;
}

uint32_t timing_lane_pid(const TimingLane *l) { return l->worker ? worker_pid(l->worker) : 0; }
