/* What a timing job found out becomes evidence, in memory and in the store; what it found better
 * becomes the kernel. */
#include "base/log.h"
#include "daemon/server/tune_internal.h"

static Schedule schedule_of(const Tune *t, const TuneKernel *k, const char *opts) {
  const Kiln__V1__KernelFacts *f = k->facts;
  return (Schedule){.kernel = k->evidence_key,
                    .target = t->fingerprint,
                    .class_hash = f->class_hash.len ? f->class_hash.data : NULL,
                    .sizes = f->sizes,
                    .nsizes = f->n_sizes,
                    .opts = opts,
                    .name = k->plan->name,
                    .origin = tune_origin(k, opts),
                    .compiler = t->target->compiler};
}

static void store(const Tune *t, const StoreRecord *kernel, const Schedule *schedules, size_t n) {
  if (t->spec.exe->private_) return;
  if (!kernel && !n) return;
  store_put_tuned(t->spec.exe->tenant->store, kernel, kernel != NULL, schedules, n);
  shared_stored(t->server->shared, t->spec.exe->tenant->store);
}

/* What was checked for another node was not tried by a search. */
static void count(Tune *t, const char *cause) {
  Metrics *m = &t->server->metrics;
  unsigned outcome = metrics_outcome(cause);
  ++*(t->spec.adopt ? &m->shared_checks_total[outcome][0] : &m->tune_candidates_total[outcome][0]);
}

void tune_failed(Tune *t, TuneKernel *k, const char *opts, const char *cause) {
  t->failures[tune_cause(cause)]++;
  count(t, cause);
  if (!tune_add_evidence(t, k, opts, cause)) return;
  Schedule s = schedule_of(t, k, opts);
  s.cause = tune_cause(cause);
  store(t, NULL, &s, 1);
}

/* One result as evidence and as a record; false when it says nothing. */
static bool take_result(Tune *t, TuneKernel *k, const char *opts, const Kiln__V1__TimingResult *r,
                        int64_t peer_ns, Schedule *out) {
  const Kiln__V1__TuneEvidence *e = r->evidence;
  ScheduleCause cause = tune_cause(e->cause);
  if (cause == SC_MEASURED && (!e->reps || e->median_ns <= 0)) return false;
  Kiln__V1__TuneEvidence *mine = tune_add_evidence(t, k, opts, *e->cause ? e->cause : NULL);
  if (!mine) return false;
  *out = schedule_of(t, k, opts);
  out->cause = cause;
  count(t, *e->cause ? e->cause : "measured");
  if (cause != SC_MEASURED) {
    char quoted[400];
    LOG_INFO("a schedule failed", "kernel=%s cause=%s opts=\"%s\" why=%s", k->plan->name, e->cause,
             opts, log_quote(quoted, sizeof quoted, r->message));
    t->failures[cause]++;
    return true;
  }
  mine->median_ns = out->median_ns = e->median_ns;
  mine->mad_ns = out->mad_ns = e->mad_ns;
  mine->reps = out->reps = e->reps;
  out->peer_ns = peer_ns;
  out->verified = r->compared && vec_push(&k->champions, mine);
  return true;
}

/* The kernel's time now, and the record of it. Its results were compared when it won, if it did:
 * a record that says so is not overwritten by one that does not. */
static void take_incumbent(Tune *t, TuneKernel *k, const Kiln__V1__TimingResult *r) {
  const Kiln__V1__KernelBinary *now = t->spec.exe->artifact->binaries[k->index];
  const Kiln__V1__TuneEvidence *e = r->evidence;
  if (!strcmp(e->cause, "wrong_result"))
    LOG_ERROR("the kernel in use differs from the untuned one", "kernel=%s opts=\"%s\" why=\"%s\"",
              k->plan->name, now->opts, r->message);
  if (!e->reps || e->median_ns <= 0) return;
  bool known = k->best_ns != 0;
  k->best_ns = e->median_ns;
  if (known) return;
  Kiln__V1__TuneEvidence *mine = tune_add_evidence(t, k, now->opts, NULL);
  if (!mine) return;
  mine->median_ns = e->median_ns;
  mine->mad_ns = e->mad_ns;
  mine->reps = e->reps;
}

static bool pack(Arena *arena, const Kiln__V1__KernelBinary *b, Bytes *out) {
  out->len = kiln__v1__kernel_binary__get_packed_size(b);
  uint8_t *packed = arena_alloc(arena, out->len + 1);
  if (packed) kiln__v1__kernel_binary__pack(b, packed);
  out->ptr = packed;
  return packed != NULL;
}

/* Builds take the record with the least time, and times of different days, or of different load,
 * say little about each other: a schedule that was beaten, directly or by what beat it, is as slow
 * as the one that was beaten now. Records of the others are written again. */
static size_t dethrone(const Tune *t, TuneKernel *k, int64_t winner_ns, int64_t beaten_ns,
                       Schedule *out) {
  size_t n = 0;
  for (size_t i = 0; i < k->champions.len; i++) {
    Kiln__V1__TuneEvidence *e = k->champions.at[i];
    if (e->median_ns > winner_ns) continue;
    e->median_ns = beaten_ns > winner_ns ? beaten_ns : winner_ns + 1;
    Schedule *s = &out[n++];
    *s = schedule_of(t, k, e->opts);
    s->cause = SC_MEASURED;
    s->median_ns = e->median_ns;
    s->mad_ns = e->mad_ns;
    s->reps = e->reps;
    s->verified = true;
  }
  return n;
}

/* The binary with what the device has assembled of it, so that it is not assembled again when it is
 * loaded; without memory as it is. */
static const Kiln__V1__KernelBinary *with_code(Tune *t, const Kiln__V1__KernelBinary *b,
                                               ProtobufCBinaryData code) {
  Kiln__V1__KernelBinary *copy = code.len ? arena_copy(&t->round, b, sizeof *copy) : NULL;
  uint8_t *bytes = copy ? arena_copy(&t->round, code.data, code.len) : NULL;
  if (!bytes) return b;
  copy->object = (ProtobufCBinaryData){code.len, bytes};
  return copy;
}

/* The winner takes the kernel's place. */
static void take_winner(Tune *t, TuneKernel *k, const Kiln__V1__KernelBinary *b,
                        const Kiln__V1__TimingResult *r, StoreRecord *record) {
  int64_t before = k->best_ns;
  k->best_ns = r->evidence->median_ns;
  if (before > r->gain_ns) k->faster *= (double)before / (double)(before - r->gain_ns);
  t->replaced += !k->replaced;
  t->server->metrics.shared_adopted_total[0][0] += t->spec.adopt != NULL;
  k->replaced = true;
  k->fruitless = 0;
  tune_replace(t->server, t->spec.exe, k, b, before, k->best_ns);
  *record = (StoreRecord){.key = {k->plan->hash.data, t->fingerprint, k->graph, k->plan->name}};
  pack(&t->round, b, &record->value);
}

/* What wins at the sizes that the evidence is of serves all of them: one more record, where builds
 * look. */
static size_t serve_all_sizes(const TuneKernel *k, const char *opts, Schedule *schedules,
                              size_t n) {
  if (!memcmp(k->evidence_key, k->plan->hash.data, DIGEST_BYTES)) return 0;
  for (size_t i = 0; i < n; i++) {
    if (!schedules[i].verified || strcmp(schedules[i].opts, opts)) continue;
    schedules[n] = schedules[i];
    schedules[n].kernel = k->plan->hash.data;
    return 1;
  }
  return 0;
}

/* Offers whose code was known are as good as that. */
static size_t take_known(Tune *t, TuneKernel *k, Schedule *out) {
  size_t n = 0;
  for (size_t i = 0; t->spec.adopt && k->best_ns && i < t->ncandidates; i++) {
    const TuneCandidate *c = &t->candidates[i];
    if (!c->known) continue;
    count(t, "measured");
    out[n] = schedule_of(t, k, c->message.opts);
    out[n].median_ns = k->best_ns;
    out[n++].reps = 1;
  }
  return n;
}

void tune_results(Tune *t, const Kiln__V1__TimingDone *done) {
  TuneKernel *k = t->at;
  size_t n = t->end - t->begin, records = 0;
  Schedule *schedules =
      arena_array(&t->round, n + k->champions.len + t->ncandidates + 2, sizeof *schedules);
  StoreRecord kernel = {.value = {NULL, 0}};
  if (!schedules || !done->incumbent || !done->incumbent->evidence || done->n_candidates != n ||
      done->winner > n) {
    k->failures++;
    return;
  }
  take_incumbent(t, k, done->incumbent);
  if (!k->best_ns) k->failures++;
  if (done->winner && done->candidates[done->winner - 1]->evidence)
    records = dethrone(t, k, done->candidates[done->winner - 1]->evidence->median_ns, k->best_ns,
                       schedules);
  for (size_t i = 0; i < n; i++) {
    const Kiln__V1__TimingResult *r = done->candidates[i];
    const Kiln__V1__KernelBinary *b = t->binaries[t->begin + i];
    if (!r->evidence) continue;
    t->measured += !*r->evidence->cause && r->evidence->reps;
    if (take_result(t, k, b->opts, r, k->best_ns, &schedules[records])) records++;
  }
  if (n && !done->winner) k->fruitless++;
  records += take_known(t, k, &schedules[records]);
  if (done->winner)
    records +=
        serve_all_sizes(k, t->binaries[t->begin + done->winner - 1]->opts, schedules, records);
  if (done->winner)
    take_winner(t, k, with_code(t, t->binaries[t->begin + done->winner - 1], done->winner_code),
                done->candidates[done->winner - 1], &kernel);
  store(t, kernel.value.ptr ? &kernel : NULL, schedules, records);
}
