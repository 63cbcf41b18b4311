/* One round of one kernel: propose, compile, time.
 *
 * Everything of a round lives in its arena. Code that was timed before, under other opts, is not
 * timed again: different schedules often give the same code, which the digest of the object shows.
 * A candidate that ends the timing worker is recorded with the cause and the others are timed again
 * without it; when it is not known which one it was, the batch is halved until it is. */
#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/tune_internal.h"

/* Code that takes longer to compile than this is no better; of the untuned kernel and in the
 * background, on busy processors, it may take longer. */
enum { COMPILE_SECONDS = 4, COMPILE_SECONDS_MAX = 30 };
#define TIMING_NS 8000000000ll /* of one job */

static void compile_next(Tune *t);
static void time_batch(Tune *t);

void tune_round_cancel(Tune *t) {
  CompilePool *pool = tuner_pool(t->server->tuner, t->spec.background);
  if (t->lookup) store_forget(t->lookup);
  if (t->search_active) compile_pool_cancel(pool, &t->search);
  for (size_t i = 0; i < t->ncandidates; i++)
    if (t->candidates[i].active) compile_pool_cancel(pool, &t->candidates[i].job);
  if (t->timing_active) tuner_timed(t->server->tuner, t);
  if (t->timing_active)
    timing_lane_cancel(tuner_lane(t->server->tuner, t->spec.exe->device, t->spec.background));
  t->lookup = NULL;
  t->search_active = t->timing_active = false;
  t->ncandidates = 0;
}

void tune_round_reset(Tune *t) {
  arena_deinit(&t->round);
  arena_init(&t->round, 0);
  t->candidates = NULL;
  t->binaries = NULL;
  t->ncandidates = t->nbinaries = t->begin = t->end = 0;
}

/* Takes st. */
static void round_failed(Tune *t, const char *what, Status st) {
  char text[400], quoted[500];
  status_text(st, text, sizeof text);
  LOG_WARN("a round of tuning failed", "kernel=%s step=%s error=%s", t->at->plan->name, what,
           log_quote(quoted, sizeof quoted, text));
  status_drop(st);
  t->at->failures++;
  t->at->fruitless++;
  tune_next(t);
}

/* -- compile ------------------------------------------------------------------------------------
 */

static Status copy_binary(Arena *arena, const Kiln__V1__KernelBinary *binary,
                          Kiln__V1__KernelBinary **out) {
  return binary ? tune_copy(arena, &binary->base, out)
                : FAIL(INTERNAL, "a kernel's answer without code");
}

/* Whether this code has been timed; from now on it has. */
static bool seen(TuneKernel *k, const Kiln__V1__KernelBinary *b) {
  uint8_t digest[DIGEST_BYTES];
  uint64_t key;
  digest_sha256(b->object.data, b->object.len, digest);
  memcpy(&key, digest, sizeof key);
  key ^= b->threads; /* the same code on fewer threads is another kernel */
  for (size_t i = 0; i < b->n_grid; i++) key = key * 31 + b->grid[i];
  for (size_t i = 0; i < b->n_block; i++) key = key * 31 + b->block[i];
  for (size_t i = 0; i < k->digests.len; i++)
    if (k->digests.at[i] == key) return true;
  return !vec_push(&k->digests, key);
}

/* The compile worker's last word on a candidate. That no worker came up says nothing about it. */
static void not_compiled(Tune *t, const TuneCandidate *c, const StatusNote *st) {
  StatusCode code = status_code(st);
  if (c->job.cause)
    tune_failed(t, t->at, c->message.opts, c->job.cause);
  else if (code == ST_RESOURCE_EXHAUSTED)
    tune_failed(t, t->at, c->message.opts, "oom");
  else if (code != ST_UNAVAILABLE)
    tune_failed(t, t->at, c->message.opts, "compile_error");
}

static void all_compiled(Tune *t) {
  TuneKernel *k = t->at;
  t->compiled_ns = clock_now_ns();
  size_t n = t->ncandidates;
  t->binaries = arena_array(&t->round, n + 1, sizeof *t->binaries);
  if (!t->binaries) {
    round_failed(t, "compile", FAIL(RESOURCE_EXHAUSTED, "candidates"));
    return;
  }
  seen(k, t->spec.exe->artifact->binaries[k->index]);
  for (size_t i = 0; i < n; i++) {
    TuneCandidate *c = &t->candidates[i];
    if (!c->binary || c->message.opts == k->facts->untuned) continue;
    if (!seen(k, c->binary)) {
      t->binaries[t->nbinaries++] = c->binary;
      continue;
    }
    c->known = true;
    /* as good as what has this code already: the search need not know how good */
    Kiln__V1__TuneEvidence *e = tune_add_evidence(t, k, c->message.opts, NULL);
    if (e) e->median_ns = k->best_ns, e->reps = 1;
  }
  if (!k->untuned) {
    round_failed(t, "compile", FAIL(INTERNAL, "the untuned kernel does not compile"));
    return;
  }
  t->end = t->nbinaries;
  if (!t->nbinaries && !t->spec.adopt) {
    k->fruitless++;
    tune_next(t);
    return;
  }
  tune_when_free(t, "time", time_batch);
}

static void on_compiled(void *ctx, Message *m, Status st) {
  TuneCandidate *c = ctx;
  Tune *t = c->tune;
  bool untuned = c->message.opts == t->at->facts->untuned;
  c->active = false;
  /* the untuned kernel serves all rounds to come */
  if (!st)
    st = copy_binary(untuned ? &t->arena : &t->round, m->env->kernel_done->binary, &c->binary);
  if (!st && untuned) t->at->untuned = c->binary;
  if (st && !untuned) not_compiled(t, c, st);
  status_drop(st);
  t->pending--;
  if (t->pending && tune_over(t)) {
    tune_round_cancel(t);
    tune_next(t);
  } else if (!t->pending) {
    all_compiled(t);
  }
}

static Status submit(Tune *t, TuneCandidate *c) {
  const TuneKernel *k = t->at;
  c->message.graph = (ProtobufCBinaryData){k->graph.len, (uint8_t *)(uintptr_t)k->graph.ptr};
  c->message.name = k->plan->name;
  c->message.target = (Kiln__V1__TargetSpec *)(uintptr_t)t->target;
  kiln__v1__envelope__init(&c->job.env);
  c->job.env.body_case = KILN__V1__ENVELOPE__BODY_KERNEL;
  c->job.env.kernel = &c->message;
  c->job.fd = -1;
  c->job.tenant = t->spec.exe->tenant->id;
  c->job.idle = true;
  bool patient = t->spec.background || c->message.opts == k->facts->untuned;
  c->job.seconds = patient ? COMPILE_SECONDS_MAX : COMPILE_SECONDS;
  c->job.done = on_compiled;
  c->job.ctx = c;
  c->tune = t;
  Status st = compile_pool_submit(tuner_pool(t->server->tuner, t->spec.background), &c->job);
  c->active = !st;
  return st;
}

static void compile_next(Tune *t) {
  t->step_ns = t->step_ns ? t->step_ns : clock_now_ns();
  tune_report(t);
  t->pending = t->ncandidates;
  for (size_t i = 0; i < t->ncandidates; i++) {
    Status st = submit(t, &t->candidates[i]);
    if (!st) continue;
    t->pending -= t->ncandidates - i;
    t->ncandidates = i;
    status_drop(st); /* idle jobs are not refused; without memory there are fewer */
    break;
  }
  if (!t->pending) round_failed(t, "compile", FAIL(RESOURCE_EXHAUSTED, "candidates"));
}

void tune_compile(Tune *t, size_t n) {
  t->ncandidates = n;
  if (!t->at->untuned) {
    TuneCandidate *c = &t->candidates[t->ncandidates++];
    kiln__v1__kernel_job__init(&c->message);
    c->message.opts = t->at->facts->untuned;
  }
  tune_when_free(t, "compile", compile_next);
}

/* -- propose ------------------------------------------------------------------------------------
 */

static Status take_candidates(Tune *t, const Kiln__V1__SearchDone *done) {
  size_t n = done->n_candidates;
  if (n > TUNE_BATCH) return FAIL(INTERNAL, "%zu candidates", n);
  t->candidates = arena_array(&t->round, n + 1, sizeof *t->candidates);
  if (!t->candidates) return FAIL(RESOURCE_EXHAUSTED, "candidates");
  for (size_t i = 0; i < n; i++) {
    TuneCandidate *c = &t->candidates[t->ncandidates];
    kiln__v1__kernel_job__init(&c->message);
    c->message.opts = arena_strdup(&t->round, str_from(done->candidates[i]->opts));
    if (!c->message.opts) return FAIL(RESOURCE_EXHAUSTED, "candidates");
    t->ncandidates++;
  }
  t->tried += (uint32_t)n;
  t->at->tried += (unsigned)n;
  return NULL;
}

static void on_proposed(void *ctx, Message *m, Status st) {
  Tune *t = ctx;
  t->search_active = false;
  t->proposed_ns = clock_now_ns();
  if (!st) st = take_candidates(t, m->env->search_done);
  if (st) {
    t->ncandidates = 0;
    round_failed(t, "propose", st);
  } else if (!t->ncandidates) {
    t->at->finished = true;
    tune_next(t);
  } else {
    tune_compile(t, t->ncandidates);
  }
}

void tune_round(Tune *t, TuneKernel *k) {
  tune_round_reset(t);
  t->step_ns = clock_now_ns();
  t->at = k;
  k->rounds++;
  tune_report(t);
  Status st = tune_search(t, k, TUNE_BATCH, on_proposed);
  if (st) round_failed(t, "propose", st);
}

/* -- time ---------------------------------------------------------------------------------------
 */

static void on_timed(void *ctx, const TimingEnd *end);

void tune_baseline(Tune *t, TuneKernel *k) {
  tune_round_reset(t);
  t->step_ns = clock_now_ns();
  t->at = k;
  tune_when_free(t, "time", time_batch);
}

Status tune_time(Tune *t, void (*done)(void *ctx, const TimingEnd *end)) {
  TimingLane *lane = tuner_lane(t->server->tuner, t->spec.exe->device, t->spec.background);
  t->timing_ns = clock_now_ns();
  t->timing_paused_ns = t->server->tuner->paused_step_ns;
  Status st =
      lane ? timing_lane_run(lane, &t->timing, done, t) : FAIL(RESOURCE_EXHAUSTED, "timing");
  t->timing_active = !st;
  return st;
}

static void time_batch(Tune *t) {
  const TuneKernel *k = t->at;
  Kiln__V1__TimingJob *m = &t->timing;
  int64_t left = t->deadline_ns - clock_now_ns();
  tune_report(t);
  kiln__v1__timing_job__init(m);
  m->facts = k->facts;
  m->untuned = k->untuned;
  m->incumbent = t->spec.exe->artifact->binaries[k->index];
  m->candidates = t->binaries ? t->binaries + t->begin : NULL;
  m->n_candidates = t->end - t->begin;
  m->vars = k->sizes;
  m->n_vars = m->vars ? k->facts->n_vars : 0;
  m->elsewhere = t->at->elsewhere;
  m->n_elsewhere = k->nelsewhere;
  m->working_set = t->working_set;
  m->seed = t->spec.seed;
  m->won_elsewhere = t->spec.adopt != NULL;
  m->budget_ns = left < 1 ? 1 : left < TIMING_NS ? left : TIMING_NS;
  Status st = tune_time(t, on_timed);
  if (st) round_failed(t, "time", st);
}

/* The batch is through: the rest, if it was a part, or the next step. */
static void batch_over(Tune *t) {
  t->begin = t->end;
  t->end = t->nbinaries;
  if (t->begin < t->end && !tune_over(t))
    tune_when_free(t, "time", time_batch);
  else
    tune_next(t);
}

/* binaries[i] is what ended the worker. */
static void blame(Tune *t, size_t i, const char *cause) {
  tune_failed(t, t->at, t->binaries[i]->opts, cause);
  memmove(&t->binaries[i], &t->binaries[i + 1], (t->nbinaries - i - 1) * sizeof *t->binaries);
  t->nbinaries--;
  t->end--;
}

static void worker_ended(Tune *t, const TimingEnd *end) {
  TuneKernel *k = t->at;
  size_t n = t->end - t->begin;
  char quoted[200];
  LOG_WARN("a timing worker ended", "kernel=%s cause=%s what=%d detail=%s", k->plan->name,
           end->cause, (int)end->what, log_quote(quoted, sizeof quoted, end->detail));
  bool candidate = end->what == KILN__V1__TIMING_PROGRESS__WHAT__CANDIDATE && end->candidate < n;
  if (candidate) {
    blame(t, t->begin + end->candidate, end->cause);
  } else if (end->what == KILN__V1__TIMING_PROGRESS__WHAT__INCUMBENT && n > 1) {
    t->end = t->begin + n / 2;
  } else {
    k->failures++; /* the kernel itself cannot be timed, or the worker does not start */
    if (n == 1) blame(t, t->begin, end->cause);
    t->end = t->nbinaries = t->begin;
  }
  if (t->begin < t->end)
    tune_when_free(t, "time", time_batch);
  else
    batch_over(t);
}

/* Where the time of a round went. */
static void note_round(const Tune *t, const Kiln__V1__TimingDone *done) {
  int64_t now = clock_now_ns(), ms[5] = {0};
  bool round = t->nbinaries > 0;
  for (size_t i = 0; i < done->n_phase_ns && i < 5; i++) ms[i] = done->phase_ns[i] / 1000000;
  LOG_DEBUG("a round of tuning",
            "kernel=%s timed=%zu propose_ms=%lld compile_ms=%lld wait_ms=%lld time_ms=%lld "
            "fill_ms=%lld assemble_ms=%lld first_ms=%lld turns_ms=%lld winner_ms=%lld",
            t->at->plan->name, t->end - t->begin,
            round ? (long long)(t->proposed_ns - t->step_ns) / 1000000 : 0,
            round ? (long long)(t->compiled_ns - t->proposed_ns) / 1000000 : 0,
            round ? (long long)(t->timing_ns - t->compiled_ns) / 1000000 : 0,
            (long long)(now - t->timing_ns) / 1000000, (long long)ms[0], (long long)ms[1],
            (long long)ms[2], (long long)ms[3], (long long)ms[4]);
}

static void on_timed(void *ctx, const TimingEnd *end) {
  Tune *t = ctx;
  t->timing_active = false;
  if (end->done) note_round(t, end->done);
  tuner_timed(t->server->tuner, t);
  if (end->cause) {
    worker_ended(t, end);
  } else if (end->st) {
    if (!t->nbinaries) t->at->finished = true; /* it cannot be timed as it is */
    round_failed(t, "time", end->st);
  } else {
    tune_results(t, end->done);
    batch_over(t);
  }
}
