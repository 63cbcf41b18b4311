/* A slot is a place for a worker: empty, starting, idle, busy or holding. Slots are filled when
 * jobs wait and when the pool starts, so that the first model does not wait for a fork.
 *
 * A worker that ends while it works answers its job with UNAVAILABLE and the cause. A slot whose
 * workers end young and unasked is refilled more and more slowly. */
#include "daemon/server/compile_pool.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/quota.h"

enum { FIRST_NS = 10000000 }; /* what a job is taken to need before any has been seen */
enum { PATIENCE = 4 };        /* failed starts in a row before waiting jobs are refused */

typedef enum SlotState { SS_EMPTY, SS_STARTING, SS_IDLE, SS_BUSY, SS_HOLDING } SlotState;

struct CompileSlot {
  CompilePool *pool;
  Worker *worker;
  SlotState state;
  CompileJob *job;   /* BUSY and HOLDING */
  int64_t taken_ns;  /* when it got that */
  uint32_t tenant;   /* of the worker's last job; 0 = it has had none */
  unsigned failures; /* ends in a row without an answer in between */
};

struct CompilePool {
  CompilePoolSpec spec;
  CompileSlot *slots;
  FairQueue wanted, idle;
  int64_t typical_ns; /* that a job keeps a worker, lately */
  uint64_t next_id;
};

static void dispatch(CompilePool *p);

/* -- queues -------------------------------------------------------------------------------------
 */

/* Where a job waits. */
static FairQueue *queue_of(CompilePool *p, const CompileJob *job) {
  return job->idle ? &p->idle : &p->wanted;
}

/* Where the next job comes from; an empty one when nothing waits. */
static FairQueue *next_queue(CompilePool *p) { return p->wanted.len ? &p->wanted : &p->idle; }

static CompileJob *queue_first(const FairQueue *q) {
  FairJob *f = fair_first(q);
  return f ? (CompileJob *)(void *)((char *)f - offsetof(CompileJob, fair)) : NULL;
}

/* Whoever pays has the turn; what nobody pays for is kilnd's own. */
static FairSource source(const CompileJob *job) {
  FairSource from = {.tenant = UINT64_MAX, .session = 1, .weight = 1};
  if (job->tenant) from.tenant = job->tenant;
  if (job->payer) from.tenant = job->payer->id, from.weight = job->payer->weight;
  return from;
}

/* -- workers ------------------------------------------------------------------------------------
 */

/* What the worker has been busy with the job. */
static void charge(const CompileSlot *slot) {
  CompileJob *job = slot->job;
  if (job && slot->state == SS_BUSY) quota_compiled(job->payer, clock_now_ns() - job->given_ns);
}

static void slot_free_job(CompileSlot *slot, SlotState to) {
  CompilePool *p = slot->pool;
  CompileJob *job = slot->job;
  if (job) {
    int64_t ns = clock_now_ns() - slot->taken_ns;
    p->typical_ns += (ns - p->typical_ns) / 8;
    fair_done(queue_of(p, job), &job->fair, ns);
    job->slot = NULL;
  }
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
  FairQueue *q = next_queue(p);
  CompileJob *job = queue_first(q);
  if (!job) return;
  fair_remove(q, &job->fair);
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
  if (job && busy) {
    Status st = FAIL(UNAVAILABLE, "the compile worker ended (cause %s: %s)", cause, detail);
    /* what ran out of time or memory would do so again */
    job->done(job->ctx, NULL, strcmp(cause, "crash") != 0 ? status_retry(st, -1) : st);
  }
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
  if (job->fair.waiting) {
    FairJob *taken = fair_take(queue_of(p, job), 0);
    assert(taken == &job->fair);
    slot->taken_ns = clock_now_ns();
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
    CompileJob *job = queue_first(next_queue(p));
    if (!job) return;
    if (slot->state == SS_EMPTY) slot_start(slot);
    if (slot->state == SS_IDLE && slot_serves(slot, job)) (void)slot_give(slot, job);
  }
  if (p->spec.strict && next_queue(p)->len) make_way(p);
}

Status compile_pool_submit(CompilePool *p, CompileJob *job) {
  FairSource from = source(job);
  size_t waiting = fair_waiting_at(&p->wanted, from.tenant, FAIR_NORMAL);
  job->slot = NULL;
  job->cause = NULL;
  if (!job->urgent && !job->idle && waiting >= p->spec.max_queue)
    return status_retry(FAIL(RESOURCE_EXHAUSTED,
                             "%zu models wait for a compile worker already; try again later",
                             waiting),
                        (int64_t)waiting * p->typical_ns / p->spec.workers);
  job->fair =
      (FairJob){.level = job->urgent ? FAIR_URGENT : FAIR_NORMAL, .estimate_ns = p->typical_ns};
  TRY(fair_push(queue_of(p, job), &job->fair, &from));
  dispatch(p);
  return NULL;
}

void compile_pool_cancel(CompilePool *p, CompileJob *job) {
  if (job->fair.waiting) {
    fair_remove(queue_of(p, job), &job->fair);
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

Status compile_pool_plan(CompileJob *job) {
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
  to->fair = from->fair;
  from->fair = (FairJob){.session = NULL};
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
  p->typical_ns = FIRST_NS;
  for (unsigned i = 0; i < spec->workers; i++) {
    slots[i].pool = p;
    if (!spec->background) slot_start(&slots[i]);
  }
  return NULL;
}

bool compile_pool_busy(const CompilePool *p) {
  bool busy = p->wanted.len > 0;
  for (unsigned i = 0; i < p->spec.workers; i++) busy |= p->slots[i].job && !p->slots[i].job->idle;
  return busy;
}

CompilePoolLoad compile_pool_load(const CompilePool *p) {
  CompilePoolLoad load = {.waiting = p->wanted.len + p->idle.len, .workers = p->spec.workers};
  for (unsigned i = 0; i < p->spec.workers; i++) load.busy += p->slots[i].job != NULL;
  return load;
}

void compile_pool_release(CompilePool *p) {
  if (!p) return;
  for (unsigned i = 0; i < p->spec.workers; i++)
    if (p->slots[i].worker) worker_abandon(p->slots[i].worker);
  fair_deinit(&p->wanted);
  fair_deinit(&p->idle);
  free(p->slots);
  free(p);
}
