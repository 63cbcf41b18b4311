/* Values of fused kernels as ranged graphs. */
#pragma once

#include "compiler/passes/fusion.h"

/* The SINK of kernel k as it falls out of the index tuples, not simplified. *buffer is the plan
 * buffer that it writes; those that it reads are k->reads. To be called for every kernel after
 * rangeify_values. */
UOp *rangeify_kernel(const Fusion *f, const FusedKernel *k, uint32_t *buffer);
/* Fills in Demand.value everywhere. */
void rangeify_values(Fusion *f);
