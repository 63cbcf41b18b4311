/* The order of updates of state, and what has to be copied before them. */
#pragma once

#include "compiler/ir/plan.h"

typedef struct Updates {
  UOp **at; /* the STOREs into states, in the order in which they are done */
  uint32_t n;
} Updates;

/* The graph with CONTIGUOUS wherever a value has to be kept from being overwritten. A kernel that
 * computes a value then runs right after the last update that the value depends on; what it reads
 * of any state is overwritten later, or by itself at the element that it writes. */
UOp *hazard_resolve(Job *job, const TensorGraph *graph, UOp *sink, Updates *out);
