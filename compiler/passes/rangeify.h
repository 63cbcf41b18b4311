/* Values of fused kernels as ranged graphs. */
#pragma once

#include "compiler/passes/fusion.h"

/* The SINK of kernel k as it falls out of the index tuples, not simplified, and k->buffers. To be
 * called for every kernel after rangeify_values. */
UOp *rangeify_kernel(Fusion *f, FusedKernel *k);
/* Fills in Demand.value everywhere. */
void rangeify_values(Fusion *f);
