/* Explain: the unpacked message laid out as the public structs. */
#include "client/c/internal.h"

static bool take_tried(Arena *a, const Kiln__V1__ExplainedKernel *m, KilnKernel *out) {
  KilnTried *list = arena_array(a, m->n_tried + 1, sizeof *list);
  if (!list) return false;
  for (size_t i = 0; i < m->n_tried; i++) {
    const Kiln__V1__TriedSchedule *t = m->tried[i];
    list[i] = (KilnTried){.opts = t->opts,
                          .cause = t->cause,
                          .median_ns = t->median_ns,
                          .mad_ns = t->mad_ns,
                          .reps = t->reps,
                          .peer_ns = t->peer_ns,
                          .measured_unix_ns = t->measured_unix_ns,
                          .host = t->host,
                          .verified = t->verified,
                          .imported = t->imported,
                          .origin = t->origin};
  }
  out->ntried = m->n_tried;
  out->tried = list;
  return true;
}

static Status lay_out_explain(const void *message, Arena *a, void *out) {
  const Kiln__V1__ExplainResponse *m = message;
  KilnKernel *list = arena_array(a, m->n_kernels + 1, sizeof *list);
  if (!list) return answer_no_memory();
  for (size_t i = 0; i < m->n_kernels; i++) {
    const Kiln__V1__ExplainedKernel *k = m->kernels[i];
    list[i] = (KilnKernel){.name = k->name,
                           .hash = k->hash,
                           .shape = k->shape,
                           .ncalls = k->n_calls,
                           .calls = k->calls,
                           .once = k->once,
                           .flops = k->flops,
                           .bytes_read = k->bytes_read,
                           .bytes_written = k->bytes_written,
                           .roofline_ns = k->roofline_ns,
                           .predicted_ns = k->predicted_ns,
                           .opts = k->opts,
                           .source = k->source,
                           .measured = k->measured,
                           .failed = k->failed,
                           .origin = k->origin};
    if (!take_tried(a, k, &list[i])) return answer_no_memory();
  }
  static const Kiln__V1__RunEstimate none = KILN__V1__RUN_ESTIMATE__INIT;
  const Kiln__V1__RunEstimate *run = m->run ? m->run : &none;
  *(KilnExplanation *)out = (KilnExplanation){.device = m->device,
                                              .calls = m->calls,
                                              .count = m->n_kernels,
                                              .kernels = list,
                                              .run = {.device_ns = run->device_ns,
                                                      .measured = run->measured,
                                                      .wait_ns = run->wait_ns,
                                                      .waiting = run->waiting,
                                                      .host_bytes = run->host_bytes,
                                                      .refused = run->refused}};
  return NULL;
}

KilnCode kiln_explain(KilnClient *c, const char *executable, uint32_t tried, KilnExplanation **out,
                      KilnError *err) {
  Kiln__V1__ExplainRequest q = KILN__V1__EXPLAIN_REQUEST__INIT;
  q.executable = message_text(executable);
  q.tried = tried;
  static const Method method = {.path = "/kiln.v1.Kiln/Explain",
                                .message = &kiln__v1__explain_response__descriptor,
                                .size = sizeof(KilnExplanation),
                                .lay_out = lay_out_explain};
  KilnCode code;
  *out = call_method_at(c, &method, executable, &q.base, &code, err);
  return code;
}
