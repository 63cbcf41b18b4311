/* Memory that a kernel needs next, asked for while it computes. */
#pragma once

#include "compiler/ir/plan.h"

/* Both add PREFETCHes to the loops of a lowered kernel of a CPU: to those over rows, and to those
 * that use panels which are copied. */
UOp *prefetch_rows(Job *job, UOp *root, const Target *target);
UOp *prefetch_panels(Job *job, UOp *root, const Target *target);
