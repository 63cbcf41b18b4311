/* Measures the machine before the first search on it: each probe (search.h) is made and compiled by
 * a compile worker and timed by the timing worker, as if it were a kernel to be tuned. The best of
 * several timings counts: whatever else the machine does only makes a probe slower.
 *
 *   ask -> compile -> time, TIMES over -> the next probe -> tune_next
 *
 * The last probe once more over all threads. What fails is left unknown. A machine that was busy
 * looks slower than it is: a search in the background, when others let it, measures once more in
 * the life of a server, and the faster is kept. */
#include "base/clock.h"
#include "base/log.h"
#include "compiler/search/search.h"
#include "daemon/server/caches.h"
#include "daemon/server/peaks.h"
#include "daemon/server/tune_internal.h"

enum { TIMES = 5, PROBE_SECONDS = 20 };
#define LEAST_BUDGET_NS 10000000000ll
#define TIMING_NS       4000000000ll

static void ask(Tune *t);
static void time_probe(Tune *t);

static DevicePeaks *peaks_of(const Tune *t) {
  return tuner_peaks(t->server->tuner, t->spec.exe->device);
}

bool tune_wants_peaks(const Tune *t) {
  const DevicePeaks *p = peaks_of(t);
  return p && p->looked && !p->tried && (!p->known || t->spec.background) &&
         !t->target->max_group && t->spec.budget_ns >= LEAST_BUDGET_NS;
}

/* One thread for all but the last. */
static bool all_threads(const Tune *t) { return t->probe == SP__COUNT; }

static void finish(Tune *t) {
  DevicePeaks *p = peaks_of(t);
  Kiln__V1__MachinePeaks *m = &t->peaks;
  for (size_t i = 0; i < PEAKS; i++) {
    double known = p->known ? *peaks_field(&p->at, i) : 0;
    if (known > *peaks_field(m, i)) *peaks_field(m, i) = known;
  }
  p->at = *m;
  for (size_t i = 0; i < PEAKS; i++) p->known |= *peaks_field(m, i) > 0;
  LOG_INFO("measured the machine",
           "device=%s flops_f32=%.1f flops_f64=%.1f l2=%.1f l3=%.1f memory=%.1f all_memory=%.1f "
           "unit=per_ns s=%.2f",
           device_lane_name(t->spec.exe->device), m->flops_f32, m->flops_f64, m->l2_bytes,
           m->l3_bytes, m->memory_bytes, m->all_memory_bytes,
           (double)(clock_now_ns() - t->step_ns) / 1e9);
  if (p->known) caches_put_target(t->server, t->spec.exe->device);
  tune_next(t);
}

static void next_probe(Tune *t) {
  bool through = t->probe > SP__COUNT || tune_over(t);
  if (all_threads(t) && t->target->threads < 2) through = true;
  if (!through)
    ask(t);
  else
    finish(t);
}

/* Takes st. */
static void skip(Tune *t, const char *what, Status st) {
  char text[400], quoted[500];
  status_text(st, text, sizeof text);
  LOG_WARN("a probe of the machine failed", "probe=%u step=%s error=%s", t->probe, what,
           log_quote(quoted, sizeof quoted, text));
  status_drop(st);
  t->probe++;
  tune_when_free(t, "look", next_probe);
}

/* -- time -------------------------------------------------------------------------------------- */

static void on_timed(void *ctx, const TimingEnd *end) {
  Tune *t = ctx;
  t->timing_active = false;
  tuner_timed(t->server->tuner, t);
  if (end->cause) {
    skip(t, "time", FAIL(UNAVAILABLE, "the timing worker ended (%s)", end->cause));
    return;
  }
  if (end->st) {
    skip(t, "time", end->st);
    return;
  }
  const Kiln__V1__TimingResult *r = end->done->incumbent;
  double ns = r && r->evidence ? (double)r->evidence->median_ns : 0;
  double *best = peaks_field(&t->peaks, t->probe);
  if (ns > 0 && t->probe_work / ns > *best) *best = t->probe_work / ns;
  if (ns > 0 && ++t->probe_times < TIMES) {
    tune_when_free(t, "look", time_probe);
    return;
  }
  t->probe++;
  tune_when_free(t, "look", next_probe);
}

static void time_probe(Tune *t) {
  Kiln__V1__TimingJob *m = &t->timing;
  kiln__v1__timing_job__init(m);
  m->facts = t->probe_facts;
  m->incumbent = t->candidates[0].binary;
  m->budget_ns = TIMING_NS;
  Status st = tune_time(t, on_timed);
  if (st) skip(t, "time", st);
}

/* -- compile ----------------------------------------------------------------------------------- */

static void on_compiled(void *ctx, Message *m, Status st) {
  TuneCandidate *c = ctx;
  Tune *t = c->tune;
  c->active = false;
  if (!st && !m->env->kernel_done->binary) st = FAIL(INTERNAL, "a probe without code");
  if (!st) st = tune_copy(&t->round, &m->env->kernel_done->binary->base, &c->binary);
  if (st)
    skip(t, "compile", st);
  else
    tune_when_free(t, "look", time_probe);
}

static void compile_probe(Tune *t) {
  TuneCandidate *c = t->candidates;
  kiln__v1__envelope__init(&c->job.env);
  c->job.env.body_case = KILN__V1__ENVELOPE__BODY_KERNEL;
  c->job.env.kernel = &c->message;
  c->job.fd = -1;
  c->job.idle = true;
  c->job.seconds = PROBE_SECONDS;
  c->job.done = on_compiled;
  c->job.ctx = c;
  c->tune = t;
  CompilePool *pool = tuner_pool(t->server->tuner, t->spec.background);
  Status st = pool ? compile_pool_submit(pool, &c->job) : FAIL(RESOURCE_EXHAUSTED, "tuning");
  c->active = !st;
  t->ncandidates = 1;
  if (st) skip(t, "compile", st);
}

/* -- ask --------------------------------------------------------------------------------------- */

/* The kernel and what timing it takes, for the round. */
static Status take_probe(Tune *t, const Kiln__V1__SearchDone *done) {
  t->candidates = arena_array(&t->round, 1, sizeof *t->candidates);
  if (!t->candidates || !done->facts || done->n_candidates != 1)
    return FAIL(INTERNAL, "a probe without a kernel");
  Kiln__V1__KernelJob *m = &t->candidates[0].message;
  kiln__v1__kernel_job__init(m);
  TRY(tune_copy(&t->round, &done->facts->base, &t->probe_facts));
  m->graph.len = done->graph.len;
  m->graph.data = arena_copy(&t->round, done->graph.data, done->graph.len);
  m->opts = arena_strdup(&t->round, str_from(done->candidates[0]->opts));
  m->name = (char *)(uintptr_t) "probe";
  m->target = t->search_message.target;
  t->probe_work = done->probe_work;
  t->probe_times = 0;
  return m->graph.data && m->opts ? NULL : FAIL(RESOURCE_EXHAUSTED, "probe");
}

static void on_probe(void *ctx, Message *m, Status st) {
  Tune *t = ctx;
  t->search_active = false;
  if (!st && !(m->env->search_done->probe_work > 0)) { /* there is nothing to measure */
    t->probe++;
    tune_when_free(t, "look", next_probe);
    return;
  }
  if (!st) st = take_probe(t, m->env->search_done);
  if (st)
    skip(t, "look", st);
  else
    tune_when_free(t, "look", compile_probe);
}

static void ask(Tune *t) {
  Kiln__V1__SearchJob *m = &t->search_message;
  tune_round_reset(t);
  kiln__v1__search_job__init(m);
  t->probe_target = *t->target;
  if (!all_threads(t)) t->probe_target.threads = 1;
  m->name = (char *)(uintptr_t) "probe";
  m->target = &t->probe_target;
  m->probe = 1 + (all_threads(t) ? SP_MEMORY : t->probe);
  Status st = tune_submit_search(t, on_probe);
  if (st) skip(t, "look", st);
}

void tune_measure_peaks(Tune *t) {
  peaks_of(t)->tried = true;
  t->step_ns = clock_now_ns();
  t->probe = 0;
  kiln__v1__machine_peaks__init(&t->peaks);
  ask(t);
}
