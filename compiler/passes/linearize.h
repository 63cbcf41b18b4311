/* Lowered kernel -> ordered program. */
#pragma once

#include "compiler/ir/plan.h"

/* Each RANGE opens one loop and its END closes it; a value stands in the outermost loop that its
 * open ranges allow. Sums up LOCAL buffers into
 * scratch_bytes, each rounded up to 64 bytes, in order of appearance. */
Linear linearize_kernel(Job *job, UOp *kernel, const Target *target);
