/* Memory that a row kernel needs next, asked for while it computes. */
#pragma once

#include "compiler/ir/plan.h"

/* Adds PREFETCHes to the loops of a lowered kernel of a CPU. */
UOp *prefetch_rows(Job *job, UOp *root, const Target *target);
