/* What buffers hold before the first iteration of a loop. */
#pragma once

#include "compiler/ir/plan.h"

/* Buffers of a thread that a loop reads but in its first iteration, where a number stands for what
 * they hold, get that number before the loop. Only where all loops around are threads'. */
UOp *begin_buffers(Job *job, UOp *kernel);
