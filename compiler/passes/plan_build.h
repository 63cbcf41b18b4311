/* The middle of the compiler: a tensor graph becomes a plan. */
#pragma once

#include "compiler/ir/plan.h"

/* Aborts the job with RESOURCE_EXHAUSTED when the plan would not fit the target's memory. */
void plan_build(Job *job, const TensorGraph *graph, const Target *target, Plan *out);
