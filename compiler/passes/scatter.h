/* SCATTERs that a device with workgroups computes faster from the other end. */
#pragma once

#include "compiler/ir/plan.h"

/* The graph with every such SCATTER as a reduction over the updates. */
UOp *scatter_expand(Job *job, const Target *target, UOp *sink);
