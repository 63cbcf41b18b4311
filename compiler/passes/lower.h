/* Expanded kernel -> loops over accumulators. */
#pragma once

#include "compiler/ir/plan.h"

/* REDUCE becomes REG buffers, a loop and its END; every END closes one range; an accumulated
 * product becomes MULACC. */
UOp *lower_kernel(Job *job, UOp *kernel, const Target *target);
