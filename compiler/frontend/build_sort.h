/* Order and choice, composed of gathers: prefix sums, positions of the chosen elements, sorting.
 * Work is n log n or better, sizes may be symbolic, and nothing needs a scatter. */
#pragma once

#include "compiler/frontend/build.h"

/* x as i64 in the same order; equal exactly where x is equal, with -0 equal to 0, and NaN equal to
 * NaN and above everything. */
UOp *build_sort_key(Job *job, UOp *x);
/* ADD or MUL of elements 0..i of the last axis. */
UOp *build_prefix(Job *job, Op op, UOp *x);
/* How many elements of an ascending i64 vector are at most `value` (or, strict, below it), for
 * every element of value. */
UOp *build_count_below(Job *job, UOp *ascending, UOp *value, bool strict);
/* The positions 0 <= p0 < p1 < ... < count where a vector of 0 and 1 is 1; prefix its prefix sum.
 */
UOp *build_positions(Job *job, UOp *prefix, int64_t count);
/* keys i64 [rows, n]: the permutation of every row that sorts it ascending; stable. */
UOp *build_sort(Job *job, UOp *keys);
/* x [rows, n] at positions at [rows, k] of each row. */
UOp *build_take(Job *job, UOp *x, UOp *at);
