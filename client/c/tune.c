/* Tune: a call with one request and many answers, of which the last is kept. */
#include "client/c/internal.h"

typedef struct TuneWait {
  CallWait wait; /* first: what call_wait_done gets */
  KilnTuneWatch watch;
  void *ctx;
} TuneWait;

static Status on_progress(const KilnCall *call, const Kiln__V1__TuneProgress *m) {
  const TuneWait *w = call->ctx;
  const KilnTuneProgress p = {.kernel = m->kernel,
                              .step = m->step,
                              .opts = m->opts,
                              .kernels = m->kernels,
                              .replaced = m->replaced,
                              .tried = m->tried,
                              .tried_all = m->tried_all,
                              .first_ns = m->first_ns,
                              .best_ns = m->best_ns,
                              .model_first_ns = m->model_first_ns,
                              .model_best_ns = m->model_best_ns,
                              .left_ns = m->left_ns};
  if (!w->watch || w->watch(w->ctx, &p)) return NULL;
  return FAIL(CANCELLED, "cancelled by the caller");
}

static Status fill_summary(Arena *a, const Kiln__V1__TuneSummary *m, KilnTuneSummary *out) {
  KilnTunedKernel *kernels = arena_array(a, m->n_kernels + 1, sizeof *kernels);
  KilnTuneFailures *failures = arena_array(a, m->n_failures + 1, sizeof *failures);
  if (!kernels || !failures) return answer_no_memory();
  for (size_t i = 0; i < m->n_kernels; i++) {
    const Kiln__V1__TunedKernel *k = m->kernels[i];
    kernels[i] = (KilnTunedKernel){.kernel = k->kernel,
                                   .opts = k->opts,
                                   .calls = k->calls,
                                   .tried = k->tried,
                                   .first_ns = k->first_ns,
                                   .best_ns = k->best_ns,
                                   .roofline_ns = k->roofline_ns};
  }
  for (size_t i = 0; i < m->n_failures; i++)
    failures[i] =
        (KilnTuneFailures){.cause = m->failures[i]->cause, .count = m->failures[i]->count};
  *out = (KilnTuneSummary){.ended = m->ended,
                           .wall_ns = m->wall_ns,
                           .model_first_ns = m->model_first_ns,
                           .model_best_ns = m->model_best_ns,
                           .tried = m->tried,
                           .measured = m->measured,
                           .replaced = m->replaced,
                           .nkernels = m->n_kernels,
                           .nfailures = m->n_failures,
                           .kernels = kernels,
                           .failures = failures};
  return NULL;
}

static Status decode_tune(KilnCall *call, Bytes msg) {
  ProtobufCMessage *base;
  TRY(answer_unpack(call, &kiln__v1__tune_response__descriptor, msg, sizeof(KilnTuneSummary),
                    &base));
  const Kiln__V1__TuneResponse *m = (const Kiln__V1__TuneResponse *)base;
  if (m->part_case == KILN__V1__TUNE_RESPONSE__PART_SUMMARY)
    return fill_summary(owned_arena(call->answer), m->summary, call->answer);
  Status st = m->part_case == KILN__V1__TUNE_RESPONSE__PART_PROGRESS
                  ? on_progress(call, m->progress)
                  : NULL; /* something newer */
  kiln_free(call->answer);
  call->answer = NULL;
  return st;
}

KilnCode kiln_tune(KilnClient *c, const char *executable, int64_t budget_ms, KilnTuneWatch watch,
                   void *ctx, KilnTuneSummary **out, KilnError *err) {
  TuneWait w = {.wait = {.err = err}, .watch = watch, .ctx = ctx};
  Kiln__V1__TuneRequest q = KILN__V1__TUNE_REQUEST__INIT;
  const CallSpec spec = {.path = "/kiln.v1.Kiln/Tune",
                         .decode = decode_tune,
                         .done = call_wait_done,
                         .ctx = &w.wait,
                         .handle = executable};
  KilnCall *call;
  void *answer;
  q.executable = message_text(executable);
  if (__builtin_mul_overflow(budget_ms, 1000000, &q.budget_ns)) q.budget_ns = INT64_MAX;
  Status st = call_start(c, &spec, &call);
  if (!st) {
    call_send(call, &q.base);
    call_end(call);
  }
  KilnCode code = call_wait(c, &w.wait, st, &answer);
  *out = answer;
  return code;
}
