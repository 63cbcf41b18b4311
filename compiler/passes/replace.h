/* Nodes that a pass takes apart, where their sources have been taken apart already. */
#pragma once

#include "compiler/ir/plan.h"
#include "compiler/passes/nodemap.h"

/* u with what now has, by place (uop_toposort), for each of its sources; u itself when all are the
 * same. */
UOp *replace_sources(Job *job, UOp *u, UOp *const *now);
/* The graph of a root that a pass makes anew, sources before users, and asks other graphs about on
 * the way. */
typedef struct Replace {
  Job *job;
  UOpList list;
  NodeMap pos;
  UOp **now; /* by position in the list: what stands for the node; NULL at first */
} Replace;
Replace replace_begin(Job *job, UOp *root);
/* What stands for the sources of u, a copy with room for two more. */
UOp **replace_renewed(const Replace *r, const UOp *u);
/* u over those sources. */
UOp *replace_with(const Replace *r, UOp *u, UOp **src);
/* What stands for the root. */
UOp *replace_end(const Replace *r);
/* sink with each node for which asks is true replaced by what made gives for it; sources first, and
 * a node is asked about with its new sources. sink itself when no node asks. */
UOp *replace_each(Job *job, const Target *target, UOp *sink,
                  bool (*asks)(const UOp *u, const Target *target),
                  UOp *(*made)(Job *job, UOp *u, const Target *target));
