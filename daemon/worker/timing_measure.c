/* One timing job: a race that the incumbent runs in.
 *
 *   first run    each candidate once: what is wrong (beside the incumbent's result on random data)
 * or takes over 1.5 times the incumbent goes no further 3, 10, 30    everybody left is timed so
 * often in all, taking turns with the incumbent; then the slower ones leave, a quarter stays
 *   confirmation the fastest whose paired gain is beyond noise runs against the incumbent alone
 *   elsewhere    and once more at each of the other sizes that runs have: it must not lose there
 *   comparison   and, when it wins again, is compared with the untuned kernel; when either fails,
 *                the next one
 *
 * Turns make the machine's moods hit all alike, so a gain is judged by the differences to the
 * incumbent's time of the same turn: their median must exceed twice their MAD. A short kernel is
 * run several times per turn. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/worker/timing.h"
#include "proto/digest.h"

enum {
  REPS_MAX = 30,
  CONFIRM_REPS = 20,
  CANDIDATES_MAX = 256,
  BATCH_NS = 100000,
  BATCH_MAX = 64,
  ROUND_NS = 1500000000, /* of one candidate's turns in one round */
  HANG_MS = 5000,        /* beyond what the incumbent takes */
  HOPELESS = 8,          /* times slower */
  LOSS_ALLOWED = 50, /* a fiftieth, or within the noise: what a winner may lose at other sizes */
  SEED = 11
};

typedef struct Runner {
  TimingProgram program;
  int64_t ns[REPS_MAX], gain[REPS_MAX];
  uint32_t reps;
  int64_t median;
  bool out;  /* of the race */
  bool lost; /* when it ran against the incumbent alone */
  Kiln__V1__TimingResult *result;
} Runner;

/* Where the time of a job goes, as TimingDone.phase_ns has it. */
enum { PHASE_FILL, PHASE_ASSEMBLE, PHASE_FIRST, PHASE_TURNS, PHASE_WINNER, PHASES };

typedef struct Race {
  Timing *t;
  const Kiln__V1__TimingJob *job;
  Arena *arena;
  TimingArgs *args;
  int64_t *vars;
  Runner incumbent, *candidates;
  size_t n;
  uint32_t batch;
  uint32_t limit_ms;
  int64_t deadline_ns;
  void *expected; /* the incumbent's result on random data */
  int64_t phase_ns[PHASES], phase_start_ns;
} Race;

static void end_phase(Race *race, int phase) {
  int64_t now = clock_now_ns();
  race->phase_ns[phase] = now - race->phase_start_ns;
  race->phase_start_ns = now;
}

static int by_value(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

static int64_t median(const int64_t *values, size_t n) {
  int64_t sorted[REPS_MAX];
  if (!n) return 0;
  memcpy(sorted, values, n * sizeof *values);
  qsort(sorted, n, sizeof *sorted, by_value);
  return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static int64_t deviation(const int64_t *values, size_t n, int64_t middle) {
  int64_t apart[REPS_MAX];
  for (size_t i = 0; i < n; i++) apart[i] = llabs(values[i] - middle);
  return median(apart, n);
}

/* -- results ------------------------------------------------------------------------------------
 */

static Status make_result(Arena *arena, const Kiln__V1__KernelBinary *b,
                          Kiln__V1__TimingResult **out) {
  Kiln__V1__TimingResult *r = *out = arena_alloc(arena, sizeof *r);
  Kiln__V1__TuneEvidence *e = arena_alloc(arena, sizeof *e);
  if (!r || !e) return FAIL(RESOURCE_EXHAUSTED, "results");
  kiln__v1__timing_result__init(r);
  kiln__v1__tune_evidence__init(e);
  e->opts = b->opts;
  r->evidence = e;
  return NULL;
}

static void disqualify(Race *race, Runner *r, const char *cause, const char *why) {
  r->out = true;
  r->result->evidence->cause = (char *)(uintptr_t)cause;
  char *text = arena_strdup(race->arena, str_from(why));
  if (text) r->result->message = text;
}

/* Takes st. */
/* A kernel that faults on the CPU ends this process, and the announcement of what runs says which
 * it was; a driver's context that a kernel ends is as good as that. */
static void disqualify_for(Race *race, Runner *r, const char *cause, Status st) {
  char text[400];
  status_text(st, text, sizeof text);
  if (race->t->dev->lost) {
    LOG_ERROR("the device failed", "error=\"%s\"", text);
    _exit(1);
  }
  disqualify(race, r, status_code(st) == ST_RESOURCE_EXHAUSTED ? "oom" : cause, text);
  status_drop(st);
}

static void fill_result(Runner *r) {
  Kiln__V1__TuneEvidence *e = r->result->evidence;
  e->reps = r->reps;
  e->median_ns = r->median = median(r->ns, r->reps);
  e->mad_ns = deviation(r->ns, r->reps, r->median);
  r->result->gain_ns = median(r->gain, r->reps);
  r->result->noise_ns = 2 * deviation(r->gain, r->reps, r->result->gain_ns);
}

/* -- first runs ---------------------------------------------------------------------------------
 */

/* As the compiler expects a size that it does not know. */
static int64_t usual_size(const Kiln__V1__KernelVar *v) {
  int64_t x = 32;
  if (v->multiple > 1) x -= x % (int64_t)v->multiple;
  return x < v->min ? v->min : x > v->max ? v->max : x;
}

/* n 0: the usual ones. */
static Status choose_sizes(Race *race, const int64_t *vars, size_t n) {
  const Kiln__V1__KernelFacts *f = race->job->facts;
  race->vars = arena_array(race->arena, f->n_vars + 1, sizeof *race->vars);
  if (!race->vars) return FAIL(RESOURCE_EXHAUSTED, "sizes");
  if (n && n != f->n_vars) return FAIL(INTERNAL, "%zu sizes for %zu variables", n, f->n_vars);
  for (size_t i = 0; i < f->n_vars; i++) {
    int64_t v = n ? vars[i] : usual_size(f->vars[i]);
    if (v < f->vars[i]->min || v > f->vars[i]->max)
      return FAIL(INTERNAL, "size %lld is outside of its bounds", (long long)v);
    race->vars[i] = v;
  }
  return NULL;
}

static Status load(Race *race, const Kiln__V1__KernelBinary *b, Runner *r) {
  return timing_program_load(race->t->dev, b, timing_code(&race->t->codes, b), race->vars,
                             race->job->facts->n_vars, &r->program);
}

static Status key_of(const Race *race, uint8_t out[DIGEST_BYTES]) {
  const Kiln__V1__KernelFacts *f = race->job->facts;
  size_t n = kiln__v1__kernel_facts__get_packed_size(f);
  StrBuf b = {0};
  if (strbuf_reserve(&b, n)) kiln__v1__kernel_facts__pack(f, (uint8_t *)b.ptr), b.len = n;
  strbuf_add(&b, race->vars, f->n_vars * sizeof *race->vars);
  strbuf_add(&b, &race->job->working_set, sizeof race->job->working_set);
  if (!b.failed) digest_sha256(b.ptr, b.len, out);
  Status st = b.failed ? FAIL(RESOURCE_EXHAUSTED, "facts of a kernel") : NULL;
  strbuf_deinit(&b);
  return st;
}

/* Buffers of another kernel make room; those of this one are filled already. */
static Status prepare_args(Race *race) {
  Timing *t = race->t;
  uint8_t key[DIGEST_BYTES];
  TRY(key_of(race, key));
  race->args = &t->args;
  if (t->args_kept && !memcmp(key, t->args_key, sizeof key)) {
    t->args.facts = race->job->facts; /* equal, and alive */
    return NULL;
  }
  if (t->args_kept) timing_args_deinit(&t->args);
  t->args_kept = false;
  TRY(timing_args_init(t->dev, race->job->facts, race->vars, race->job->working_set, &t->args));
  t->args_kept = true;
  memset(t->args_key, 0, sizeof t->args_key);
  TRY(timing_args_fill(&t->args, TP_RANDOM, SEED));
  memcpy(t->args_key, key, sizeof key);
  return NULL;
}

/* Runs it alone, and again when that took long: the first time faults pages in. *ns is the better
 * one; enough: there is no need to know more about one that is faster than this, or many times
 * slower. */
static Status first_run(Race *race, Runner *r, int64_t enough, int64_t *ns) {
  *ns = INT64_MAX;
  for (int i = 0; i < 2 && *ns > enough; i++) {
    if (i && enough && *ns / HOPELESS > enough) break;
    int64_t once;
    race->args->next = 0;
    TRY(timing_args_restore(race->args, TP_RANDOM, SEED));
    TRY(timing_run(race->args, &r->program, 1, &once));
    if (once < *ns) *ns = once;
  }
  return NULL;
}

static void set_batch(Race *race) {
  race->batch = (uint32_t)(BATCH_NS / race->incumbent.median);
  race->batch = race->batch < 1 ? 1 : race->batch > BATCH_MAX ? BATCH_MAX : race->batch;
}

static Status run_incumbent(Race *race) {
  const void *result;
  int64_t ns;
  race->t->progress(race->t->ctx, KILN__V1__TIMING_PROGRESS__WHAT__INCUMBENT, 0, 30000);
  TRY(load(race, race->job->incumbent, &race->incumbent));
  TRY(first_run(race, &race->incumbent, 0, &ns));
  TRY(timing_args_result(race->args, &result));
  uint64_t bytes = timing_args_result_bytes(race->args);
  race->expected = malloc(bytes + 1);
  if (!race->expected) return FAIL(RESOURCE_EXHAUSTED, "results");
  memcpy(race->expected, result, bytes);
  race->incumbent.median = ns > 0 ? ns : 1;
  set_batch(race);
  int64_t ms = ns / 1000000;
  race->limit_ms = HANG_MS + (ms < 1000 ? (uint32_t)ms * 20 : 20000);
  return NULL;
}

static bool as_expected(Race *race, char *why, size_t cap) {
  const Kiln__V1__KernelFacts *f = race->job->facts;
  TimingCompare c = {.dtype = (DType)f->args[0]->dtype,
                     .reduces = (DType)f->reduces,
                     .terms = f->terms,
                     .pattern = TP_RANDOM};
  const void *got;
  Status st = timing_args_result(race->args, &got);
  if (!st) return timing_same(&c, race->expected, got, race->args->elements[0], why, cap);
  status_text(st, why, cap);
  status_drop(st);
  return false;
}

/* The incumbent may be what is wrong: only the untuned kernel says. */
static void check_wrong(Race *race, Runner *r, const char *beside) {
  bool same;
  char why[300] = "";
  uint32_t i = (uint32_t)(r - race->candidates);
  Status st =
      timing_check(race->t, race->job, race->vars, i, race->limit_ms, &same, why, sizeof why);
  if (st)
    disqualify_for(race, r, "crash", st);
  else if (!same)
    disqualify(race, r, "wrong_result", why);
  else
    disqualify(race, &race->incumbent, "wrong_result", beside);
}

static void run_candidate(Race *race, Runner *r) {
  char why[300];
  int64_t ns;
  uint32_t i = (uint32_t)(r - race->candidates);
  race->t->progress(race->t->ctx, KILN__V1__TIMING_PROGRESS__WHAT__CANDIDATE, i, race->limit_ms);
  Status st = load(race, race->job->candidates[i], r);
  if (st) {
    disqualify_for(race, r, "compile_error", st);
    return;
  }
  int64_t most = race->incumbent.median * 3 / 2;
  if (strstr(r->result->evidence->opts, "TC("))
    st = device_program_check(race->t->dev, r->program.program);
  if (st) {
    disqualify_for(race, r, "compile_error", st);
    return;
  }
  st = first_run(race, r, most, &ns);
  if (st) {
    disqualify_for(race, r, "crash", st);
    return;
  }
  if (!as_expected(race, why, sizeof why)) {
    check_wrong(race, r, why);
    if (r->out) return;
  }
  if (ns <= most) return;
  r->out = true; /* too slow to go on; what was seen is evidence all the same */
  r->ns[0] = ns;
  r->gain[0] = race->incumbent.median - ns;
  r->reps = 1;
}

/* Time in which the process was stopped does not count. */
static int64_t now_ns(void) { return clock_now_ns() - timing_lost_ns(); }

static bool over(const Race *race) { return race->deadline_ns && now_ns() > race->deadline_ns; }

/* All that the job may run, together. */
static Status assemble(Race *race) {
  const Kiln__V1__TimingJob *job = race->job;
  const Kiln__V1__KernelBinary **all = arena_array(race->arena, race->n + 2, sizeof *all);
  if (!all) return FAIL(RESOURCE_EXHAUSTED, "candidates");
  race->t->progress(race->t->ctx, KILN__V1__TIMING_PROGRESS__WHAT__INCUMBENT, 0, 120000);
  for (size_t i = 0; i < race->n; i++) all[i] = job->candidates[i];
  all[race->n] = job->incumbent;
  all[race->n + 1] = job->untuned;
  return timing_code_prepare(race->t->dev, &race->t->codes, all, race->n + 2);
}

/* A budget that ends early leaves some that never ran. */
static void run_candidates(Race *race) {
  for (size_t i = 0; i < race->n; i++) {
    if (over(race))
      race->candidates[i].out = true;
    else
      run_candidate(race, &race->candidates[i]);
  }
}

/* -- turns --------------------------------------------------------------------------------------
 */

static uint32_t rounds_within(const Race *race, uint32_t reps) {
  int64_t turn = race->incumbent.median * race->batch;
  int64_t most = ROUND_NS / (turn > 0 ? turn : 1);
  if (most < 3) most = 3;
  return reps < most ? reps : (uint32_t)most;
}

/* Everybody once; every other turn from the back. */
static Status one_turn(Race *race, bool back) {
  int64_t base;
  Runner *inc = &race->incumbent;
  TRY(timing_args_restore(race->args, TP_RANDOM, SEED));
  TRY(timing_run(race->args, &inc->program, race->batch, &base));
  if (inc->reps < REPS_MAX) inc->ns[inc->reps++] = base;
  for (size_t i = 0; i < race->n; i++) {
    Runner *r = &race->candidates[back ? race->n - 1 - i : i];
    int64_t ns;
    if (r->out || r->reps == REPS_MAX) continue;
    TRY(timing_args_restore(race->args, TP_RANDOM, SEED));
    TRY(timing_run(race->args, &r->program, race->batch, &ns));
    r->ns[r->reps] = ns;
    r->gain[r->reps++] = base - ns;
  }
  return NULL;
}

static size_t running(const Race *race) {
  size_t n = 0;
  for (size_t i = 0; i < race->n; i++) n += !race->candidates[i].out;
  return n;
}

/* Only the `keep` fastest stay, and of those only what is not slower than the incumbent. */
static void drop_slow(Race *race, size_t keep) {
  for (size_t i = 0; i < race->n; i++) {
    Runner *r = &race->candidates[i];
    r->median = median(r->ns, r->reps);
    if (!r->out && !race->job->won_elsewhere && median(r->gain, r->reps) <= 0) r->out = true;
  }
  while (running(race) > keep) {
    Runner *slowest = NULL;
    for (size_t i = 0; i < race->n; i++) {
      Runner *r = &race->candidates[i];
      if (!r->out && (!slowest || r->median > slowest->median)) slowest = r;
    }
    slowest->out = true;
  }
}

static Status take_turns(Race *race) {
  static const uint32_t reps[] = {3, 10, REPS_MAX};
  for (size_t round = 0; round < 3; round++) {
    uint32_t to = rounds_within(race, reps[round]);
    race->t->progress(race->t->ctx, KILN__V1__TIMING_PROGRESS__WHAT__INCUMBENT, 0, 120000);
    bool alone =
        !race->n && !round; /* nothing to compare with: the incumbent's time is asked for */
    for (uint32_t k = round ? reps[round - 1] : 0; k < to && (running(race) || alone); k++) {
      if (over(race)) return NULL;
      TRY(one_turn(race, k % 2));
    }
    if (round < 2) drop_slow(race, round ? 2 : running(race) / 4 + 2);
  }
  return NULL;
}

static bool no_slower(const Race *race, const Runner *r) {
  int64_t noise = r->result->noise_ns, slack = race->incumbent.median / LOSS_ALLOWED;
  return r->reps && -r->result->gain_ns <= (noise > slack ? noise : slack);
}

/* A search needs a gain beyond noise, for it has many candidates, and noise to choose the luckiest
 * from. What another machine has found so is one candidate. */
static bool is_better(const Race *race, const Runner *r) {
  const Kiln__V1__TimingResult *t = r->result;
  if (race->job->won_elsewhere) return r->reps >= 3 && no_slower(race, r);
  return r->reps >= 3 && t->gain_ns > 0 && t->gain_ns > t->noise_ns;
}

/* The best of many is in part the luckiest: what it gained so far says nothing. So it runs again,
 * with the incumbent alone, now before and now behind it, and only that counts. */
static Status confirm(Race *race, Runner *r) {
  Runner *inc = &race->incumbent;
  uint32_t reps = rounds_within(race, CONFIRM_REPS);
  race->t->progress(race->t->ctx, KILN__V1__TIMING_PROGRESS__WHAT__INCUMBENT, 0, 120000);
  inc->reps = r->reps = 0;
  for (uint32_t k = 0; k < reps && !over(race); k++) {
    Runner *turn[2] = {k % 2 ? r : inc, k % 2 ? inc : r};
    for (int i = 0; i < 2; i++) {
      TRY(timing_args_restore(race->args, TP_RANDOM, SEED));
      TRY(timing_run(race->args, &turn[i]->program, race->batch, &turn[i]->ns[k]));
    }
    r->gain[k] = inc->ns[k] - r->ns[k];
    inc->reps = r->reps = k + 1;
  }
  fill_result(inc);
  fill_result(r);
  return NULL;
}

/* -- at other sizes -----------------------------------------------------------------------------
 */

/* A race of two at the sizes of `there`, whose buffers are filled. */
static Status race_there(Race *there, const Kiln__V1__KernelBinary *candidate, Runner *r,
                         bool *holds) {
  int64_t ns;
  TRY(make_result(there->arena, there->job->incumbent, &there->incumbent.result));
  TRY(make_result(there->arena, candidate, &r->result));
  TRY(load(there, there->job->incumbent, &there->incumbent));
  TRY(load(there, candidate, r));
  TRY(first_run(there, &there->incumbent, 0, &ns));
  there->incumbent.median = ns > 0 ? ns : 1;
  set_batch(there);
  TRY(first_run(there, r, 0, &ns));
  TRY(confirm(there, r));
  *holds = no_slower(there, r);
  return NULL;
}

/* Whether a winner is no slower than the incumbent at the other sizes that runs have. */
static Status holds_elsewhere(const Race *race, size_t candidate, bool *holds) {
  const Kiln__V1__TimingJob *job = race->job;
  *holds = true;
  for (size_t i = 0; *holds && i < job->n_elsewhere; i++) {
    Race there = {.t = race->t,
                  .job = job,
                  .arena = race->arena,
                  .limit_ms = race->limit_ms,
                  .deadline_ns = race->deadline_ns};
    TimingArgs args;
    Runner r = {.reps = 0};
    TRY(choose_sizes(&there, job->elsewhere[i]->vars, job->elsewhere[i]->n_vars));
    race->t->progress(race->t->ctx, KILN__V1__TIMING_PROGRESS__WHAT__CANDIDATE, (uint32_t)candidate,
                      120000);
    TRY(timing_args_init(race->t->dev, job->facts, there.vars, job->working_set, &args));
    there.args = &args;
    Status st = timing_args_fill(&args, TP_RANDOM, SEED);
    if (!st) st = race_there(&there, job->candidates[candidate], &r, holds);
    timing_program_free(race->t->dev, &r.program);
    timing_program_free(race->t->dev, &there.incumbent.program);
    timing_args_deinit(&args);
    TRY(st);
  }
  return NULL;
}

/* The fastest that is better beyond noise and right. */
static Status find_winner(Race *race, Kiln__V1__TimingDone *out) {
  char why[300];
  bool same, holds;
  for (;;) {
    Runner *best = NULL;
    for (size_t i = 0; i < race->n; i++) {
      Runner *r = &race->candidates[i];
      bool better = !*r->result->evidence->cause && !r->lost && is_better(race, r);
      if (better && (!best || r->median < best->median)) best = r;
    }
    if (!best) return NULL;
    uint32_t i = (uint32_t)(best - race->candidates);
    best->lost = true; /* unless it wins */
    TRY(confirm(race, best));
    if (!is_better(race, best)) continue;
    TRY(holds_elsewhere(race, i, &holds));
    if (!holds) continue;
    Status st =
        timing_check(race->t, race->job, race->vars, i, race->limit_ms, &same, why, sizeof why);
    if (!st && same) {
      best->result->compared = true;
      out->winner = i + 1;
      return NULL;
    }
    if (st)
      disqualify_for(race, best, "crash", st);
    else
      disqualify(race, best, "wrong_result", why);
  }
}

static Status race_run(Race *race, Kiln__V1__TimingDone *out) {
  TRY(choose_sizes(race, race->job->vars, race->job->n_vars));
  TRY(make_result(race->arena, race->job->incumbent, &race->incumbent.result));
  for (size_t i = 0; i < race->n; i++)
    TRY(make_result(race->arena, race->job->candidates[i], &race->candidates[i].result));
  TRY(prepare_args(race));
  end_phase(race, PHASE_FILL);
  TRY(assemble(race));
  end_phase(race, PHASE_ASSEMBLE);
  TRY(run_incumbent(race));
  run_candidates(race);
  end_phase(race, PHASE_FIRST);
  TRY(take_turns(race));
  end_phase(race, PHASE_TURNS);
  fill_result(&race->incumbent);
  for (size_t i = 0; i < race->n; i++) fill_result(&race->candidates[i]);
  TRY(find_winner(race, out));
  end_phase(race, PHASE_WINNER);
  if (out->winner) {
    Bytes code = timing_code(&race->t->codes, race->job->candidates[out->winner - 1]);
    out->winner_code = (ProtobufCBinaryData){code.len, (uint8_t *)(uintptr_t)code.ptr};
  }
  out->phase_ns = arena_copy(race->arena, race->phase_ns, sizeof race->phase_ns);
  out->n_phase_ns = out->phase_ns ? PHASES : 0;
  out->incumbent = race->incumbent.result;
  out->candidates = arena_array(race->arena, race->n + 1, sizeof *out->candidates);
  if (!out->candidates) return FAIL(RESOURCE_EXHAUSTED, "results");
  for (size_t i = 0; i < race->n; i++)
    out->candidates[out->n_candidates++] = race->candidates[i].result;
  return NULL;
}

Status timing_job(Timing *t, const Kiln__V1__TimingJob *job, Arena *arena,
                  Kiln__V1__TimingDone *out) {
  Race race = {.t = t, .job = job, .arena = arena, .n = job->n_candidates};
  race.phase_start_ns = clock_now_ns();
  TRY(timing_facts_check(job->facts));
  if (!job->incumbent || (race.n && !job->untuned) || race.n > CANDIDATES_MAX)
    return FAIL(INTERNAL, "a timing job of %zu candidates", race.n);
  if (job->budget_ns > 0) race.deadline_ns = now_ns() + job->budget_ns;
  race.candidates = calloc(race.n + 1, sizeof *race.candidates);
  if (!race.candidates) return FAIL(RESOURCE_EXHAUSTED, "candidates");
  Status st = race_run(&race, out);
  for (size_t i = 0; i < race.n; i++) timing_program_free(t->dev, &race.candidates[i].program);
  timing_program_free(t->dev, &race.incumbent.program);
  free(race.candidates);
  free(race.expected);
  return st;
}
