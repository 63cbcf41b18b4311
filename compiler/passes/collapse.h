/* Scheduled kernel -> the same with fewer loops. */
#pragma once

#include "compiler/ir/uop.h"

/* Merges neighbouring loops (a outside of b, of n steps) into one wherever every index walks them
 * as n*a + b: channel, row and column of a packed convolution become one loop. */
UOp *collapse_loops(Job *job, UOp *kernel);

/* The kernel with the loops over range ids a and b (b right inside of a wherever either occurs) run
 * as one of both their steps, named a: the old variables become its quotient and remainder. NULL
 * when there are no such loops. */
UOp *merge_axes(Job *job, UOp *kernel, int64_t a, int64_t b);

/* The kernel with the loop over range id a run in blocks of n steps: a loop over blocks, with a new
 * id, around a shorter one over a. The last block is moved back when n does not divide the size. */
UOp *split_axis(Job *job, UOp *kernel, int64_t a, int64_t n, int64_t id);
