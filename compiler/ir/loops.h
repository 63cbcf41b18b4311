/* Which LOOP the nodes of a tensor graph belong to.
 *
 * A node is inside of a loop when it depends on the loop's VAR and no LOOP in between closes it, so
 * what does not depend on the iteration is outside. Loops are nested: the loops around a node are a
 * chain, and the innermost says it all. What a LOOP does before its first iteration is where the
 * LOOP itself is. */
#pragma once

#include "compiler/ir/dim.h"

typedef struct LoopInfo {
  UOp *node;
  uint32_t parent; /* a region: the loop around it */
  uint32_t depth;  /* 1: outermost */
} LoopInfo;

/* Region 0 is outside of all loops; region k + 1 is the body of loop k. */
typedef struct Loops {
  LoopInfo *at; /* in topological order: inner loops first */
  uint32_t n;
  uint32_t *region;   /* by place in the list */
  uint32_t *var_loop; /* by VAR: the region that it counts, 0: none */
  uint32_t *var_bind; /* by VAR: 1 + place of the BIND that gives it its value, 0: none */
} Loops;

/* The nodes under sink, sources first, and everything that mentions a VAR, as a source or in a
 * dim, after the BIND that gives it its value. INVALID_ARGUMENT aborts the job when sizes depend on
 * each other. Without BINDs this is uop_toposort. */
UOpList loops_order(Job *job, UOp *sink, size_t nvars);
/* number: by node id, the place in the list. INTERNAL aborts the job when loops cross. */
void loops_find(Job *job, const UOpList *list, const uint32_t *number, size_t nvars, Loops *out);
/* Calls for every VAR that a node mentions itself, in its dims or as a source. */
void loops_vars(const UOp *u, void (*fn)(void *ctx, const UOp *var), void *ctx);
