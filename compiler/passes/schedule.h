/* Chooses and applies schedules: ranged kernel in, the same kernel with split and typed ranges out.
 */
#pragma once

#include "compiler/search/opts.h"

/* A schedule from the kernel's access patterns alone; *applied says which. */
UOp *schedule_heuristic(Job *job, UOp *kernel, const Target *target, OptList *applied);
/* Aborts with INVALID_ARGUMENT when the list is not legal for the kernel. */
UOp *schedule_apply(Job *job, UOp *kernel, const Target *target, const OptList *opts);
