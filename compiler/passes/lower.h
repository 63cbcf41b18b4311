/* Expanded kernel -> loops over accumulators. */
#pragma once

#include "compiler/ir/plan.h"

/* REDUCE becomes REG buffers, a loop and its END; every END closes one range; an accumulated
 * product becomes MULACC. */
UOp *lower_kernel(Job *job, UOp *kernel, const Target *target);
/* r, which is what became of the integer REDUCE u, within the bounds of u: what is known of a
 * REDUCE is lost with it, and an index that was proven to lie inside of its buffer by these bounds
 * keeps them this way. */
UOp *lower_bounded(Job *job, const UOp *u, UOp *r);
