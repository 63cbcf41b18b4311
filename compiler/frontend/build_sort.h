/* Order and choice: prefix sums, positions of the chosen elements, the largest few, sorting. Work
 * is n log n or better, and sizes may be symbolic. */
#pragma once

#include "compiler/frontend/build.h"

/* x as i64 in the same order; equal exactly where x is equal, with -0 equal to 0, and NaN equal to
 * NaN and above everything. */
UOp *build_sort_key(Job *job, UOp *x);
/* ADD or MUL of elements 0..i along an axis. */
UOp *build_scan(Job *job, Op op, UOp *x, size_t axis);
/* The same elements one place later; the first is what adds or multiplies to nothing. */
UOp *build_shift(Job *job, Op op, UOp *x, size_t axis);
/* How many elements of an ascending i64 vector are at most `value` (or, strict, below it), for
 * every element of value. */
UOp *build_count_below(Job *job, UOp *ascending, UOp *value, bool strict);
/* The positions 0 <= p0 < p1 < ... < count where a vector of 0 and 1 is 1; prefix its prefix sum.
 */
UOp *build_positions(Job *job, UOp *prefix, int64_t count);
/* keys i64 [rows, n]: the permutation of every row that sorts it ascending; stable. */
UOp *build_sort(Job *job, UOp *keys);
/* Whether it does more than compare all pairs, so that keys are worth storing. */
bool build_sort_pays(const UOp *keys);
/* build_sort for keys of so many bits; NULL where rows are long, or as long as a run decides. */
UOp *build_sort_network(Job *job, UOp *keys, int bits);
/* The positions of the k largest (or smallest) of every row of [rows, n], in order, [rows, k]; NULL
 * where sorting does it: k is more than a few, or elements have more than 32 bits. */
UOp *build_top_few(Job *job, UOp *table, int64_t k, bool largest);
/* x [rows, n] at positions at [rows, k] of each row. */
UOp *build_take(Job *job, UOp *x, UOp *at);
