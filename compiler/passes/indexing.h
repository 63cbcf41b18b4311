/* Which element of a source an element of a movement op is.
 *
 * Index tuples have one INDEX value per axis. Axes of size 0 never get here: nothing with 0
 * elements is ever asked for an element. */
#pragma once

#include "compiler/ir/uop.h"

typedef struct Pull {
  UOp **index; /* one value per axis of the source */
  UOp *inside; /* where the source is defined at index; NULL: everywhere */
} Pull;

/* u: RESHAPE, PERMUTE, EXPAND, PAD, SHRINK, FLIP, WINDOW or CAT; s: which of its tensor sources. */
Pull index_pull(Job *job, const UOp *u, uint32_t s, UOp *const *index);
/* The index into part s of a CAT, as an index into the CAT. */
UOp **index_of_part(Job *job, const UOp *cat, uint32_t s, UOp *const *index);

/* The shortest groups of axes with equal products, one after the other; {0} starts. */
typedef struct IndexGroup {
  uint32_t to, to_end, from, from_end; /* axes of the result, axes of the source */
} IndexGroup;
bool index_next_group(Job *job, Ints to, Ints from, IndexGroup *g);
