/* A slot is a place for a worker: empty, starting, idle, busy or holding. Slots are filled when
 * jobs wait and when the pool starts, so that the first model does not wait for a fork.
 *
 * A worker that ends while it works answers its job with UNAVAILABLE and the cause. A slot whose
 * workers end young and unasked is refilled more and more slowly. */
#include "daemon/server/compile_pool.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/quota.h"

enum { PATIENCE = 4 }; /* failed starts in a row before waiting jobs are refused */

typedef enum SlotState { SS_EMPTY, SS_STARTING, SS_IDLE, SS_BUSY, SS_HOLDING } SlotState;

struct CompileSlot {
  CompilePool *pool;
  Worker *worker;
  SlotState state;
  CompileJob *job;   /* BUSY and HOLDING */
  uint32_t tenant;   /* of the worker's last job; 0 = it has had none */
  unsigned failures; /* ends in a row without an answer in between */
};

typedef struct JobQueue {
  CompileJob *first, **last;
  size_t len;
} JobQueue;

struct CompilePool {
  CompilePoolSpec spec;
  CompileSlot *slots;
  JobQueue urgent, normal, idle;
  uint64_t next_id;
};

static void dispatch(CompilePool *p);

/* -- queues -------------------------------------------------------------------------------------
 */

/* Where a job waits. */
static JobQueue *queue_of(CompilePool *p, const CompileJob *job) {
  return job->urgent ? &p->urgent : job->idle ? &p->idle : &p->normal;
}

/* Where the next job comes from; an empty one when nothing waits. */
static JobQueue *next_queue(CompilePool *p) {
  return p->urgent.first ? &p->urgent : p->normal.first ? &p->normal : &p->idle;
}

static void queue_push(JobQueue *q, CompileJob *job) {
  job->next = NULL;
  job->queued = true;
  *q->last = job;
  q->last = &job->next;
  q->len++;
}

static CompileJob *queue_pop(JobQueue *q) {
  CompileJob *job = q->first;
  if (!job) return NULL;
  if (!(q->first = job->next)) q->last = &q->first;
  q->len--;
  job->queued = false;
  return job;
}

static void queue_remove(JobQueue *q, CompileJob *job) {
  CompileJob **at = &q->first;
  while (*at != job) at = &(*at)->next;
  if (!(*at = job->next)) q->last = at;
  q->len--;
  job->queued = false;
}

/* -- workers ------------------------------------------------------------------------------------
 */

/* What the worker has been busy with the job. */
static void charge(const CompileSlot *slot) {
  CompileJob *job = slot->job;
  if (job && slot->state == SS_BUSY) quota_compiled(job->payer, clock_now_ns() - job->given_ns);
}

static void slot_free_job(CompileSlot *slot, SlotState to) {
  if (slot->job) slot->job->slot = NULL;
  slot->job = NULL;
  slot->state = to;
}

static void on_ready(void *ctx) {
  CompileSlot *slot = ctx;
  slot->state = SS_IDLE;
  dispatch(slot->pool);
}

static Status reply_status(const Kiln__V1__ErrorReply *e) {
  StatusCode code = e->code > 0 && e->code < ST__COUNT ? (StatusCode)e->code : ST_INTERNAL;
  return status_new(code, NULL, __FILE__, __LINE__, "%s", e->message);
}

static void on_message(void *ctx, Message *m) {
  CompileSlot *slot = ctx;
  CompileJob *job = slot->job;
  if (slot->state != SS_BUSY || !job || m->env->id != job->env.id) return; /* of a job given up */
  bool failed = m->env->body_case == KILN__V1__ENVELOPE__BODY_ERROR;
  /* a request's kind is answered by the kind that follows it */
  if (!failed && (int)m->env->body_case != (int)job->env.body_case + 1) {
    worker_kill(slot->worker, "crash", "it answered something else");
    return;
  }
  charge(slot);
  worker_set_deadline(slot->worker, 0, "");
  slot->failures = 0;
  if (!failed && job->hold && job->env.body_case == KILN__V1__ENVELOPE__BODY_FRONTEND)
    slot->state = SS_HOLDING;
  else
    slot_free_job(slot, SS_IDLE);
  job->done(job->ctx, failed ? NULL : m, failed ? reply_status(m->env->error) : NULL);
  dispatch(slot->pool);
}

/* Workers do not come up: somebody who waits for one is told, rather than kept waiting. */
static void refuse_one(CompilePool *p, const char *cause, const char *detail) {
  CompileJob *job = queue_pop(next_queue(p));
  if (job)
    job->done(job->ctx, NULL,
              FAIL(UNAVAILABLE, "compile workers do not start (cause %s: %s)", cause, detail));
}

static void on_gone(void *ctx, const char *cause, const char *detail) {
  CompileSlot *slot = ctx;
  CompilePool *p = slot->pool;
  CompileJob *job = slot->job;
  bool busy = slot->state == SS_BUSY;
  charge(slot);
  slot_free_job(slot, SS_EMPTY);
  slot->worker = NULL;
  slot->failures++;
  if (job && busy) job->cause = cause;
  if (job && busy)
    job->done(job->ctx, NULL,
              FAIL(UNAVAILABLE, "the compile worker ended (cause %s: %s)", cause, detail));
  if (slot->failures >= PATIENCE) refuse_one(p, cause, detail);
  dispatch(p);
}

static const WorkerHandler handler = {.ready = on_ready, .message = on_message, .gone = on_gone};

static void slot_start(CompileSlot *slot) {
  const CompilePoolSpec *s = &slot->pool->spec;
  WorkerSpec spec = {.role = "compile",
                     .device = "",
                     .memory_bytes = s->memory_bytes,
                     .cpu_seconds = s->seconds,
                     .background = s->background,
                     .delay_ms = supervisor_backoff(slot->failures),
                     .handler = &handler,
                     .ctx = slot};
  slot->tenant = 0;
  Status st = supervisor_spawn(s->supervisor, &spec, &slot->worker);
  if (!st) slot->state = SS_STARTING;
  status_drop(st); /* memory is out; the next submit tries again */
}

/* -- jobs ---------------------------------------------------------------------------------------
 */

static bool slot_give(CompileSlot *slot, CompileJob *job) {
  CompilePool *p = slot->pool;
  if (job->env.body_case != KILN__V1__ENVELOPE__BODY_PLAN) job->env.id = ++p->next_id;
  Status st = worker_send(slot->worker, &job->env, &job->fd, job->fd >= 0);
  if (st) {
    LOG_WARN("a job could not be sent", "pid=%u", worker_pid(slot->worker));
    status_drop(st);
    slot_free_job(slot, SS_BUSY); /* until its end is reported */
    worker_kill(slot->worker, "crash", "it does not take messages");
    return false;
  }
  slot->job = job;
  job->slot = slot;
  job->given_ns = clock_now_ns();
  slot->tenant = job->tenant;
  slot->state = SS_BUSY;
  char text[64];
  uint32_t seconds = job->seconds ? job->seconds : p->spec.seconds;
  snprintf(text, sizeof text, "over %u seconds", seconds);
  worker_set_deadline(slot->worker, seconds, text);
  return true;
}

/* With strict isolation a worker that has seen another tenant's graph does not see this one. */
static bool slot_serves(const CompileSlot *slot, const CompileJob *job) {
  return !slot->pool->spec.strict || !slot->tenant || slot->tenant == job->tenant;
}

/* Somebody waits whom no idle worker serves: one gives way to a new one. */
static void make_way(CompilePool *p) {
  for (unsigned i = 0; i < p->spec.workers; i++)
    if (p->slots[i].state == SS_STARTING) return;
  for (unsigned i = 0; i < p->spec.workers; i++) {
    CompileSlot *slot = &p->slots[i];
    if (slot->state != SS_IDLE) continue;
    worker_abandon(slot->worker);
    slot->worker = NULL;
    slot->state = SS_EMPTY;
    slot_start(slot);
    return;
  }
}

/* Gives waiting jobs to idle workers, and starts workers for those that still wait. */
static void dispatch(CompilePool *p) {
  for (unsigned i = 0; i < p->spec.workers; i++) {
    CompileSlot *slot = &p->slots[i];
    if (!next_queue(p)->first) return;
    if (slot->state == SS_EMPTY) slot_start(slot);
    if (slot->state != SS_IDLE) continue;
    JobQueue *q = next_queue(p);
    if (!slot_serves(slot, q->first)) continue;
    CompileJob *job = queue_pop(q);
    if (!slot_give(slot, job)) queue_push(q, job);
  }
  if (p->spec.strict && next_queue(p)->first) make_way(p);
}

Status compile_pool_submit(CompilePool *p, CompileJob *job) {
  job->slot = NULL;
  job->cause = NULL;
  if (!job->urgent && !job->idle && p->normal.len >= p->spec.max_queue)
    return FAIL(RESOURCE_EXHAUSTED, "%zu models wait for a compile worker already; try again later",
                p->normal.len);
  queue_push(queue_of(p, job), job);
  dispatch(p);
  return NULL;
}

void compile_pool_cancel(CompilePool *p, CompileJob *job) {
  if (job->queued) {
    queue_remove(queue_of(p, job), job);
  } else if (job->slot && job->slot->state == SS_HOLDING) {
    compile_pool_drop(p, job);
  } else if (job->slot) {
    CompileSlot *slot = job->slot;
    charge(slot);
    slot_free_job(slot, SS_EMPTY);
    worker_abandon(slot->worker);
    slot->worker = NULL;
    dispatch(p);
  }
}

Status compile_pool_plan(CompilePool *p, CompileJob *job) {
  (void)p;
  CompileSlot *slot = job->slot;
  if (!slot) return FAIL(UNAVAILABLE, "the compile worker ended between two steps");
  assert(slot->state == SS_HOLDING);
  static Kiln__V1__PlanJob plan = KILN__V1__PLAN_JOB__INIT;
  job->env.body_case = KILN__V1__ENVELOPE__BODY_PLAN;
  job->env.plan = &plan;
  job->fd = -1;
  if (slot_give(slot, job)) return NULL;
  job->slot = NULL;
  return FAIL(UNAVAILABLE, "the compile worker ended between two steps");
}

void compile_pool_drop(CompilePool *p, CompileJob *job) {
  CompileSlot *slot = job->slot;
  if (!slot) return;
  assert(slot->state == SS_HOLDING);
  Kiln__V1__DropJob drop = KILN__V1__DROP_JOB__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  env.id = job->env.id;
  env.body_case = KILN__V1__ENVELOPE__BODY_DROP;
  env.drop = &drop;
  slot_free_job(slot, SS_IDLE);
  status_drop(worker_send(slot->worker, &env, NULL, 0)); /* its end is reported */
  dispatch(p);
}

void compile_pool_transfer(CompileJob *from, CompileJob *to) {
  to->env.id = from->env.id;
  to->slot = from->slot;
  to->queued = false;
  from->slot = NULL;
  if (to->slot) to->slot->job = to;
}

Status compile_pool_create(const CompilePoolSpec *spec, CompilePool **out) {
  CompilePool *p = *out = calloc(1, sizeof *p);
  CompileSlot *slots = calloc(spec->workers, sizeof *slots);
  if (!p || !slots) {
    free(p);
    free(slots);
    *out = NULL;
    return FAIL(RESOURCE_EXHAUSTED, "compile pool");
  }
  p->spec = *spec;
  p->slots = slots;
  p->urgent.last = &p->urgent.first;
  p->normal.last = &p->normal.first;
  p->idle.last = &p->idle.first;
  for (unsigned i = 0; i < spec->workers; i++) {
    slots[i].pool = p;
    if (!spec->background) slot_start(&slots[i]);
  }
  return NULL;
}

bool compile_pool_busy(const CompilePool *p) {
  bool busy = p->urgent.first || p->normal.first;
  for (unsigned i = 0; i < p->spec.workers; i++) busy |= p->slots[i].job && !p->slots[i].job->idle;
  return busy;
}

CompilePoolLoad compile_pool_load(const CompilePool *p) {
  CompilePoolLoad load = {.waiting = p->urgent.len + p->normal.len + p->idle.len,
                          .workers = p->spec.workers};
  for (unsigned i = 0; i < p->spec.workers; i++) load.busy += p->slots[i].job != NULL;
  return load;
}

void compile_pool_release(CompilePool *p) {
  if (!p) return;
  for (unsigned i = 0; i < p->spec.workers; i++)
    if (p->slots[i].worker) worker_abandon(p->slots[i].worker);
  free(p->slots);
  free(p);
}
