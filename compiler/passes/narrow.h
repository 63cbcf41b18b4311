/* Kernels that use a part of a buffer. */
#pragma once

#include "compiler/passes/fusion.h"

/* The kernel with every PARAM cut down to what it touches, and in buffers[k] the plan buffer for
 * PARAM k: touched[k].buffer, or the part of it that starts there. */
UOp *narrow_params(Fusion *f, UOp *sink, const Access *touched, size_t n, uint32_t *buffers);
