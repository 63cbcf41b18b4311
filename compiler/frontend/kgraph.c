/* placeholder until the native frontend is written */
#include "compiler/frontend/frontend.h"
Status frontend_kgraph(Job *job, Bytes model, const FrontendOptions *options, TensorGraph *out) {
  (void)job, (void)model, (void)options;
  *out = (TensorGraph){0};
  return FAIL(UNIMPLEMENTED, "kgraph");
}
