/* Kernels that use a part of a buffer. */
#pragma once

#include "compiler/passes/fusion.h"

/* The kernel with every PARAM cut down to the elements it can touch, and buffers[k], the plan
 * buffer of PARAM k, replaced by the part that starts there. */
UOp *narrow_params(Fusion *f, UOp *sink, uint32_t *buffers, size_t n);
