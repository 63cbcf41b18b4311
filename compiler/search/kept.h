/* Values that a kernel needs more than once and may keep: what the reductions of a softmax and its
 * output have in common. */
#pragma once

#include "compiler/ir/uop.h"

/* One value, at every place that computes it. Members differ in ranges of the same extents only. */
typedef struct Kept {
  UOp **at; /* in topological order */
  uint32_t n;
  UOp **row; /* row[m * nrow + k]: the k-th of member m's ranges that differ from other members' */
  uint32_t nrow;
} Kept;

/* All of the list that are worth a thought, in topological order of their first members: what two
 * members or more compute, unless something that is computed from it alone is such a value too; and
 * factors of sums of products below which there is a reduction. */
Kept *kept_find(Job *job, const UOpList *list, uint32_t *n);
/* The member that u is; NODE_ABSENT when it is none. */
uint32_t kept_member(const Kept *k, const UOp *u);
