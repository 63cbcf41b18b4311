/* Nodes that a pass takes apart, where their sources have been taken apart already. */
#pragma once

#include "compiler/ir/plan.h"

/* u with what now has, by place (uop_toposort), for each of its sources; u itself when all are the
 * same. */
UOp *replace_sources(Job *job, UOp *u, UOp *const *now);
/* sink with each node for which asks is true replaced by what made gives for it; sources first, and
 * a node is asked about with its new sources. sink itself when no node asks. */
UOp *replace_each(Job *job, const Target *target, UOp *sink,
                  bool (*asks)(const UOp *u, const Target *target),
                  UOp *(*made)(Job *job, UOp *u, const Target *target));
