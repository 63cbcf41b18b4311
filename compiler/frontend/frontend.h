/* Models to tensor graphs.
 *
 * Both functions run in the job (they call job_run themselves) and leave in *out a sink of STOREs
 * whose PARAM slots are described by out->slots: inputs, outputs, weights. Weights are byte ranges
 * of the model where possible, else of out->constants, which the caller frees with strbuf_deinit
 * (also after a failure, where it is empty). Errors name the node, input or field. */
#pragma once

#include "compiler/compile.h"

Status frontend_onnx(Job *job, Bytes model, const FrontendOptions *options, TensorGraph *out);
Status frontend_kgraph(Job *job, Bytes model, const FrontendOptions *options, TensorGraph *out);
