/* Which kernel is worked on next, and when a search ends.
 *
 * First every kernel is looked at and timed as it is; then rounds go to the kernel where most is to
 * be gained: its calls, times what it takes beyond what the target could do, halved with every
 * round that found nothing better. A search ends when the budget is spent or the search proposes
 * nothing for any kernel. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/events.h"
#include "daemon/server/tune_internal.h"

enum { FAILURES_MAX = 3, FRUITLESS_MAX = 40 };

Status tune_copy(Arena *arena, const ProtobufCMessage *m, void *out) {
  static const PbLimits limits = {
      .max_bytes = 256u << 20, .max_depth = 8, .max_elements = 1u << 20, .max_memory = 256u << 20};
  size_t n = protobuf_c_message_get_packed_size(m);
  uint8_t *packed = malloc(n + 1);
  ProtobufCMessage *copy;
  if (!packed) return FAIL(RESOURCE_EXHAUSTED, "a message of %zu bytes", n);
  protobuf_c_message_pack(m, packed);
  Status st = pb_unpack(m->descriptor, (Bytes){packed, n}, &limits, arena, &copy);
  free(packed);
  *(ProtobufCMessage **)out = copy;
  return st;
}

/* -- ending -------------------------------------------------------------------------------------
 */

static void publish(Tune *t, bool ended);

static void tune_free(Tune *t) {
  Tuner *tuner = t->server->tuner;
  tune_round_cancel(t);
  tune_leave_others(t);
  if (tuner->turn == t) tuner->turn = NULL;
  if ((*t->link = t->next)) t->next->link = t->link;
  tuner->ntunes--;
  for (size_t i = 0; t->kernels && i < t->nkernels; i++) {
    vec_deinit(&t->kernels[i].evidence);
    vec_deinit(&t->kernels[i].champions);
    vec_deinit(&t->kernels[i].hints);
    vec_deinit(&t->kernels[i].offers);
    vec_deinit(&t->kernels[i].digests);
  }
  executable_release(t->spec.exe);
  arena_deinit(&t->round);
  arena_deinit(&t->arena);
  free(t);
}

void tune_cancel(Tune *t) {
  publish(t, true);
  tune_free(t);
}

/* -- sums ---------------------------------------------------------------------------------------
 */

int64_t tune_first_ns(const TuneKernel *k) { return (int64_t)((double)k->best_ns * k->faster); }

static int64_t model_ns(const Tune *t, bool best) {
  int64_t sum = 0;
  for (size_t i = 0; i < t->nkernels; i++) {
    const TuneKernel *k = &t->kernels[i];
    int64_t ns, of = best ? k->best_ns : tune_first_ns(k);
    if (!__builtin_mul_overflow(of, (int64_t)k->calls, &ns)) sum += ns;
  }
  return sum;
}

static int by_share(const void *a, const void *b) {
  const TuneKernel *x = *(const TuneKernel *const *)a, *y = *(const TuneKernel *const *)b;
  double p = (double)x->best_ns * x->calls, q = (double)y->best_ns * y->calls;
  return p > q ? -1 : p < q;
}

static void fill_kernel(const Tune *t, const TuneKernel *k, Kiln__V1__TunedKernel *m) {
  kiln__v1__tuned_kernel__init(m);
  m->kernel = k->plan->name;
  m->calls = k->calls;
  m->first_ns = tune_first_ns(k);
  m->best_ns = k->best_ns;
  m->roofline_ns = k->facts ? k->facts->roofline_ns : 0;
  m->tried = k->tried;
  m->opts = t->spec.exe->artifact->binaries[k->index]->opts;
}

static bool fill_failures(Tune *t, Kiln__V1__TuneSummary *m) {
  Kiln__V1__TuneFailures *f = arena_array(&t->arena, SC__COUNT, sizeof *f);
  m->failures = arena_array(&t->arena, SC__COUNT, sizeof *m->failures);
  if (!f || !m->failures) return false;
  for (size_t i = SC_MEASURED + 1; i < SC__COUNT; i++) {
    if (!t->failures[i]) continue;
    kiln__v1__tune_failures__init(&f[i]);
    f[i].cause = (char *)(uintptr_t)schedule_cause_name[i];
    f[i].count = t->failures[i];
    m->failures[m->n_failures++] = &f[i];
  }
  return true;
}

static Status summarise(Tune *t, const char *ended, Kiln__V1__TuneSummary *m) {
  size_t n = t->nkernels;
  const TuneKernel **order = arena_array(&t->arena, n + 1, sizeof *order);
  Kiln__V1__TunedKernel *kernels = arena_array(&t->arena, n + 1, sizeof *kernels);
  kiln__v1__tune_summary__init(m);
  m->kernels = arena_array(&t->arena, n + 1, sizeof *m->kernels);
  if (!order || !kernels || !m->kernels || !fill_failures(t, m))
    return FAIL(RESOURCE_EXHAUSTED, "summary of a search");
  for (size_t i = 0; i < n; i++) order[i] = &t->kernels[i];
  qsort(order, n, sizeof *order, by_share);
  for (size_t i = 0; i < n; i++) {
    fill_kernel(t, order[i], &kernels[i]);
    m->kernels[m->n_kernels++] = &kernels[i];
  }
  m->ended = (char *)(uintptr_t)ended;
  m->wall_ns = clock_now_ns() - t->started_ns;
  m->tried = t->tried;
  m->measured = t->measured;
  m->replaced = t->replaced;
  m->model_first_ns = model_ns(t, false);
  m->model_best_ns = model_ns(t, true);
  return NULL;
}

static void publish(Tune *t, bool ended) {
  char id[ID_TEXT];
  if (t->spec.adopt) return;
  Kiln__V1__TuneChanged m = KILN__V1__TUNE_CHANGED__INIT;
  Kiln__V1__Event e = KILN__V1__EVENT__INIT;
  m.executable = (char *)(uintptr_t)id_text("exe", t->spec.exe->id, t->spec.exe->secret, id);
  m.background = t->spec.background;
  m.ended = ended;
  m.model_first_ns = model_ns(t, false);
  m.model_best_ns = model_ns(t, true);
  e.what_case = KILN__V1__EVENT__WHAT_TUNE;
  e.tune = &m;
  events_publish(t->server, t->spec.exe->tenant, &e);
}

static void tune_finish(Tune *t, const char *ended) {
  Kiln__V1__TuneSummary m;
  Status st = summarise(t, ended, &m);
  char name[128];
  t->exhausted = !strcmp(ended, "exhausted");
  LOG_INFO(t->spec.adopt ? "checked what other nodes have found" : "tuned",
           "model=%s background=%d ended=%s tried=%u measured=%u replaced=%u first_us=%.1f "
           "best_us=%.1f s=%.1f",
           log_quote(name, sizeof name, t->spec.exe->name), t->spec.background, ended, t->tried,
           t->measured, t->replaced, (double)model_ns(t, false) / 1e3,
           (double)model_ns(t, true) / 1e3, (double)(clock_now_ns() - t->started_ns) / 1e9);
  publish(t, true);
  tune_leave_others(t);
  t->spec.done(t->spec.ctx, st ? NULL : &m, st);
  tune_free(t);
}

/* -- progress -----------------------------------------------------------------------------------
 */

void tune_report(Tune *t) {
  Kiln__V1__TuneProgress m = KILN__V1__TUNE_PROGRESS__INIT;
  const TuneKernel *k = t->at;
  if (!t->spec.progress) return;
  m.step = (char *)(uintptr_t)t->step;
  m.kernels = (uint32_t)t->nkernels;
  m.tried_all = t->tried;
  m.replaced = t->replaced;
  m.model_first_ns = model_ns(t, false);
  m.model_best_ns = model_ns(t, true);
  int64_t left = t->deadline_ns - clock_now_ns();
  m.left_ns = left > 0 ? left : 0;
  if (k) {
    m.kernel = k->plan->name;
    m.tried = k->tried;
    m.first_ns = tune_first_ns(k);
    m.best_ns = k->best_ns;
    m.opts = t->spec.exe->artifact->binaries[k->index]->opts;
  }
  t->spec.progress(t->spec.ctx, &m);
}

/* -- what next ----------------------------------------------------------------------------------
 */

bool tune_over(const Tune *t) { return clock_now_ns() >= t->deadline_ns; }

/* What a run would gain if the kernel took what the target can do at best, less its luck so far. */
static double worth(const TuneKernel *k) {
  double floor = k->facts ? (double)k->facts->roofline_ns : 0, ns = (double)k->best_ns;
  double gap = floor > 0 && floor < ns ? ns - floor : ns / 100;
  for (unsigned i = 0; i < k->fruitless && i < FRUITLESS_MAX; i++) gap /= 2;
  return gap * k->calls;
}

static TuneKernel *choose(const Tune *t) {
  TuneKernel *best = NULL;
  for (size_t i = 0; i < t->nkernels; i++) {
    TuneKernel *k = &t->kernels[i];
    if (k->finished) continue;
    if (!k->facts || !k->looked || !k->best_ns || t->spec.adopt) return k;
    if (!best || worth(k) > worth(best)) best = k;
  }
  return best;
}

void tune_settled(Tune *t) { tune_finish(t, "shared"); }

void tune_begin_step(Tune *t) {
  TuneKernel *k = choose(t);
  if (!k || tune_over(t)) {
    tune_finish(t, k ? "budget" : "exhausted");
    return;
  }
  if (!t->spec.adopt && tune_wants_peaks(t)) {
    tune_measure_peaks(t);
    return;
  }
  t->at = k;
  if (!k->facts)
    tune_ask_facts(t, k);
  else if (!k->looked)
    tune_ask_evidence(t, k);
  else if (t->spec.adopt)
    tune_check_offers(t, k);
  else if (!k->best_ns)
    tune_baseline(t, k);
  else
    tune_round(t, k);
}

void tune_next(Tune *t) {
  if (t->at && t->at->failures >= FAILURES_MAX) t->at->finished = true;
  if (t->step_ns) tuner_stepped(t->server->tuner, t, clock_now_ns() - t->step_ns);
  t->step_ns = 0;
  tune_when_free(t, t->step, tune_begin_step);
}

void tune_when_free(Tune *t, const char *step, void (*resume)(Tune *t)) {
  t->step = step;
  t->resume = resume;
  t->waiting = true; /* the tuner's tick goes on, so that no callback is inside of another */
  tuner_wake(t->server->tuner);
}

/* -- starting -----------------------------------------------------------------------------------
 */

static Status make_kernels(Tune *t) {
  const Artifact *a = t->spec.exe->artifact;
  t->nkernels = a->plan->n_kernels;
  t->kernels = arena_array(&t->arena, t->nkernels + 1, sizeof *t->kernels);
  if (!t->kernels) return FAIL(RESOURCE_EXHAUSTED, "tuning");
  for (size_t i = 0; i < t->nkernels; i++) {
    TuneKernel *k = &t->kernels[i];
    k->index = (uint32_t)i;
    k->faster = 1;
    k->plan = a->plan->kernels[i];
    k->graph = a->kernel_graphs[i];
  }
  for (size_t i = 0; i < a->plan->n_calls; i++) {
    uint32_t kernel = a->plan->calls[i]->kernel;
    if (kernel >= t->nkernels) return FAIL(INTERNAL, "call %zu of kernel %u", i, kernel);
    TuneKernel *k = &t->kernels[kernel];
    if (a->plan->calls[i]->once) continue;
    if (!k->calls++) k->call = a->plan->calls[i];
  }
  for (size_t i = 0; i < t->nkernels; i++)
    t->kernels[i].finished = !t->kernels[i].calls || (t->spec.adopt && !t->spec.adopt[i]);
  return NULL;
}

/* What one run touches. */
static uint64_t working_set(const Executable *e) {
  uint64_t bytes = e->artifact->plan->temp_bytes;
  for (size_t i = 0; i < e->face->n_weights; i++) bytes += e->face->weights[i]->bytes;
  for (size_t i = 0; i < e->face->n_inputs + e->face->n_outputs; i++)
    bytes += e->slot_bytes[i] < (1ull << 40) ? e->slot_bytes[i] : 0;
  return bytes;
}

Status tune_start(Server *s, const TuneSpec *spec, Tune **out) {
  Tuner *tuner = s->tuner;
  *out = NULL;
  if (tuner->ntunes >= TUNE_MAX)
    return FAIL(RESOURCE_EXHAUSTED, "%zu searches are under way already; try again later",
                tuner->ntunes);
  Tune *t = calloc(1, sizeof *t);
  if (!t) return FAIL(RESOURCE_EXHAUSTED, "tuning");
  t->spec = *spec;
  t->server = s;
  t->step = "look";
  arena_init(&t->arena, 0);
  arena_init(&t->round, 0);
  executable_retain(spec->exe);
  if ((t->next = tuner->tunes)) t->next->link = &t->next;
  t->link = &tuner->tunes;
  tuner->tunes = t;
  tuner->ntunes++;
  t->started_ns = clock_now_ns();
  if (__builtin_add_overflow(t->started_ns, spec->budget_ns, &t->deadline_ns))
    t->deadline_ns = INT64_MAX;
  t->target = device_lane_target(spec->exe->device);
  memcpy(t->fingerprint, device_lane_fingerprint(spec->exe->device), DIGEST_BYTES);
  t->working_set = working_set(spec->exe);
  Status st = t->target ? make_kernels(t) : FAIL(UNAVAILABLE, "the device was never up");
  if (st) {
    tune_free(t);
    return st;
  }
  publish(t, false);
  tune_ask_others(t);
  *out = t;
  return NULL;
}
