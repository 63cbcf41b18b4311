/* Joins halves that are computed from the same sums. */
#pragma once

#include "compiler/ir/job.h"
#include "compiler/ir/plan.h"

UOp *choose_parts(Job *job, const Target *target, UOp *sink);
