/* What is there to know about a kernel before it is worked on: its facts, from a compile worker,
 * and its evidence, from the store. */
#include <stdlib.h>

#include "base/log.h"
#include "daemon/server/tune_internal.h"

enum { SEARCH_SECONDS = 60, HINTS = 8, OFFERS = 1 };

ScheduleCause tune_cause(const char *name) {
  if (!*name) return SC_MEASURED;
  for (int i = 0; i < SC__COUNT; i++)
    if (!strcmp(schedule_cause_name[i], name)) return (ScheduleCause)i;
  return SC_COMPILE_ERROR;
}

Kiln__V1__TuneEvidence *tune_add_evidence(Tune *t, TuneKernel *k, const char *opts,
                                          const char *cause) {
  Kiln__V1__TuneEvidence *e = arena_alloc(&t->arena, sizeof *e);
  if (!e) return NULL;
  kiln__v1__tune_evidence__init(e);
  e->opts = arena_strdup(&t->arena, str_from(opts));
  if (cause) e->cause = arena_strdup(&t->arena, str_from(cause));
  if (!e->opts || !e->cause || !vec_push(&k->evidence, e)) return NULL;
  return e;
}

/* -- a question to the search -------------------------------------------------------------------
 */

Status tune_search(Tune *t, TuneKernel *k, uint32_t want,
                   void (*done)(void *ctx, Message *m, Status st)) {
  Kiln__V1__SearchJob *m = &t->search_message;
  kiln__v1__search_job__init(m);
  m->graph = (ProtobufCBinaryData){k->graph.len, (uint8_t *)(uintptr_t)k->graph.ptr};
  m->name = k->plan->name;
  m->target = (Kiln__V1__TargetSpec *)(uintptr_t)t->target;
  m->evidence = k->evidence.at;
  m->n_evidence = want ? k->evidence.len : 0;
  m->hints = k->hints.at;
  m->n_hints = want ? k->hints.len : 0;
  m->want = want;
  m->seed = t->spec.seed + k->rounds;
  t->at = k;
  return tune_submit_search(t, done);
}

Status tune_submit_search(Tune *t, void (*done)(void *ctx, Message *m, Status st)) {
  Kiln__V1__SearchJob *m = &t->search_message;
  const DevicePeaks *p = tuner_peaks(t->server->tuner, t->spec.exe->device);
  if (p && p->known) m->peaks = (Kiln__V1__MachinePeaks *)(uintptr_t)&p->at;
  kiln__v1__envelope__init(&t->search.env);
  t->search.env.body_case = KILN__V1__ENVELOPE__BODY_SEARCH;
  t->search.env.search = m;
  t->search.fd = -1;
  t->search.tenant = t->spec.exe->tenant->id;
  t->search.idle = true;
  t->search.seconds = SEARCH_SECONDS;
  t->search.done = done;
  t->search.ctx = t;
  CompilePool *pool = tuner_pool(t->server->tuner, t->spec.background);
  Status st = pool ? compile_pool_submit(pool, &t->search) : FAIL(RESOURCE_EXHAUSTED, "tuning");
  t->search_active = !st;
  return st;
}

/* -- facts --------------------------------------------------------------------------------------
 */

/* Takes st: the kernel is left as it is. */
static void give_up(TuneKernel *k, Status st) {
  char text[400], quoted[500];
  status_text(st, text, sizeof text);
  LOG_WARN("a kernel cannot be tuned", "kernel=%s error=%s", k->plan->name,
           log_quote(quoted, sizeof quoted, text));
  status_drop(st);
  k->finished = true;
}

/* What a kernel reads and no other call of the run has written, or has written all of. The first
 * argument is what it writes. */
static void mark_far(const Tune *t, const TuneKernel *k) {
  const Kiln__V1__Plan *plan = t->spec.exe->artifact->plan;
  for (size_t i = 1; i < k->facts->n_args && i < k->call->n_args; i++) {
    Kiln__V1__PlanBuffer__Kind kind = plan->buffers[k->call->args[i]]->kind;
    k->facts->args[i]->far =
        kind != KILN__V1__PLAN_BUFFER__KIND__TEMP && kind != KILN__V1__PLAN_BUFFER__KIND__OUTPUT;
  }
}

static Status take_facts(Tune *t, TuneKernel *k, const Kiln__V1__KernelFacts *facts) {
  if (!facts) return FAIL(INTERNAL, "an answer without facts");
  TRY(tune_copy(&t->arena, &facts->base, &k->facts));
  mark_far(t, k);
  if (k->facts->class_hash.len && k->facts->class_hash.len != DIGEST_BYTES)
    return FAIL(INTERNAL, "the class of a kernel");
  return NULL;
}

static void on_facts(void *ctx, Message *m, Status st) {
  Tune *t = ctx;
  t->search_active = false;
  if (!st) st = take_facts(t, t->at, m->env->search_done->facts);
  if (st) give_up(t->at, st);
  tune_next(t);
}

void tune_ask_facts(Tune *t, TuneKernel *k) {
  t->at = k;
  tune_report(t);
  Status st = tune_search(t, k, 0, on_facts);
  if (!st) return;
  give_up(k, st);
  tune_when_free(t, "look", tune_next);
}

/* -- evidence -----------------------------------------------------------------------------------
 */

static int by_time(const void *a, const void *b) {
  const Schedule *x = *(const Schedule *const *)a, *y = *(const Schedule *const *)b;
  return x->measured_at < y->measured_at ? -1 : x->measured_at > y->measured_at;
}

/* Without memory one hint less. */
static void add_hint(Tune *t, TuneKernel *k, const char *opts) {
  char *copy = arena_strdup(&t->arena, str_from(opts));
  if (copy && !vec_push(&k->hints, copy)) return;
}

static void take_tried(Tune *t, TuneKernel *k, const StoreEvidence *e) {
  const Kiln__V1__KernelBinary *now = t->spec.exe->artifact->binaries[k->index];
  const Schedule **order = arena_array(&t->arena, e->ntried + 1, sizeof *order);
  if (!order) return;
  for (size_t i = 0; i < e->ntried; i++) order[i] = &e->tried[i];
  qsort(order, e->ntried, sizeof *order, by_time);
  for (size_t i = 0; i < e->ntried; i++) {
    const Schedule *s = order[i];
    /* what somebody else measured is a hint: it has to be measured here */
    if (s->imported && s->cause == SC_MEASURED) add_hint(t, k, s->opts);
    if (s->imported && (s->cause == SC_MEASURED || !*s->origin)) continue;
    const char *cause = s->cause == SC_MEASURED ? NULL : schedule_cause_name[s->cause];
    Kiln__V1__TuneEvidence *r = tune_add_evidence(t, k, s->opts, cause);
    if (!r) return;
    r->median_ns = s->median_ns;
    r->mad_ns = s->mad_ns;
    r->reps = s->reps;
    if (schedule_serves(s) && !vec_push(&k->champions, r)) return;
    if (!cause && !strcmp(s->opts, now->opts)) k->best_ns = s->median_ns;
  }
}

/* The fastest first, as the store shows them; without memory there are fewer. */
static void take_offers(Tune *t, TuneKernel *k, const StoreEvidence *e) {
  for (size_t i = 0; i < e->ntried && k->offers.len < OFFERS; i++) {
    const Schedule *s = &e->tried[i];
    if (!s->imported || s->cause != SC_MEASURED) continue;
    TuneOffer o = {arena_strdup(&t->arena, str_from(*s->opts ? s->opts : " ")),
                   arena_strdup(&t->arena, str_from(s->origin))};
    if (!o.opts || !o.origin || !vec_push(&k->offers, o)) return;
  }
}

static void on_evidence(void *ctx, const StoreEvidence *e) {
  Tune *t = ctx;
  TuneKernel *k = t->at;
  t->lookup = NULL;
  if (t->spec.adopt) take_offers(t, k, e);
  take_tried(t, k, e);
  for (size_t i = 0; i < e->nhints; i++) add_hint(t, k, e->hints[i].opts);
  tune_next(t);
}

void tune_ask_evidence(Tune *t, TuneKernel *k) {
  const Kiln__V1__KernelFacts *f = k->facts;
  tune_choose_sizes(t, k);
  /* what others have found serves all sizes */
  ScheduleNear near = {.kernel = t->spec.adopt ? k->plan->hash.data : k->evidence_key,
                       .target = t->fingerprint,
                       .class_hash = f->class_hash.len ? f->class_hash.data : NULL,
                       .sizes = f->sizes,
                       .nsizes = f->n_sizes,
                       .limit = HINTS};
  k->looked = true;
  t->at = k;
  bool may = !t->spec.exe->private_;
  t->lookup = may ? store_get_evidence(t->spec.exe->tenant->store, &near, on_evidence, t) : NULL;
  if (!t->lookup) tune_when_free(t, "look", tune_next);
}
