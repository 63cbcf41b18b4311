/* Waiting for matrix instructions that go on by themselves. */
#pragma once

#include "compiler/ir/uop.h"

/* The lowered kernel in which what uses the results of TILEMMAs waits for them. */
UOp *settle_products(Job *job, UOp *kernel);
/* The SETTLEs that lie in the loop wait after the effect, too, and for all but the last `under`
 * iterations; what reads the sums after the loop waits for the rest. */
UOp *settle_after(Job *job, UOp *kernel, const UOp *range, UOp *effect, int64_t under);
