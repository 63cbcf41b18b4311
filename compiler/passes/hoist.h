/* Factors that a sum of products has in all its terms. */
#pragma once

#include "compiler/ir/plan.h"

/* Sums of 16-bit factors one of which was multiplied, before it was rounded, with what is the same
 * in all terms: multiplied afterwards. */
UOp *hoist_factors(Job *job, UOp *kernel);
