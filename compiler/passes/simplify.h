/* What is done to a tensor graph before kernels are chosen. */
#pragma once

#include "compiler/ir/plan.h"

/* Values that the compiler computed: PARAM slots from TensorGraph.nslots on. */
typedef struct FoldedConstants {
  Bytes *at;
  size_t len, cap;
} FoldedConstants;

/* The graph after rules, with parameter-free reductions folded. interface: the
 * plan buffers of inputs and outputs by slot; `constant` is set for outputs that are known. */
UOp *simplify_graph(Job *job, const TensorGraph *graph, const Target *target, PlanBuffer *interface,
                    FoldedConstants *constants);
/* Long reductions to few elements in two stages: after convolutions have been found by their sums.
 */
UOp *simplify_sums(Job *job, const Target *target, UOp *sink);
