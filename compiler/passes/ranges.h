/* The loops of one kernel: split, merged, ordered, numbered.
 *
 * All of these keep the meaning of a ranged kernel and return the new SINK. */
#pragma once

#include "compiler/ir/uop.h"

/* A range that is used as quotient and remainder by a divisor of its size becomes two, so that
 * indices are sums of ranges. */
UOp *ranges_split(Job *job, UOp *sink);
/* Neighbours that every address uses as one become one. */
UOp *ranges_merge(Job *job, UOp *sink);
/* Output loops that more reductions depend on go outside; of a contraction, those that all of its
 * operands depend on. */
UOp *ranges_order(Job *job, UOp *sink);
/* Ids 0, 1, ...: output ranges, then reductions as they appear; ranges of size 1 vanish. */
UOp *ranges_number(Job *job, UOp *sink);
