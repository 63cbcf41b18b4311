/* Values of fused kernels as ranged graphs. */
#pragma once

#include "compiler/passes/fusion.h"

/* The SINK of kernel k as it falls out of the index tuples, not simplified. PARAM arg.i is 0 for
 * what is written and 1 + plan buffer for what is read;
 * *buffer is the one that is written. To be called for every kernel after
 * rangeify_values. */
UOp *rangeify_kernel(const Fusion *f, const FusedKernel *k, uint32_t *buffer);
/* Fills in Demand.value everywhere. */
void rangeify_values(Fusion *f);
