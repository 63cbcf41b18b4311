/* Index expressions as sums of terms: coef * term + ... + constant.
 *
 * A term is any INDEX node that is not itself a sum or a constant multiple (a RANGE, a quotient, a
 * loaded index). Building from this form is canonical: equal sums are the same node, which is what
 * makes index tuples comparable by pointer. Numbers are dims: where one is symbolic, or a node
 * mentions a VAR, the form is that of polynomials (compiler/ir/poly.h). */
#pragma once

#include "compiler/ir/dim.h"

enum { IX_TERMS = 24 };

typedef struct IxSum {
  UOp *term[IX_TERMS];
  int64_t coef[IX_TERMS]; /* never 0 */
  uint32_t n;
  int64_t constant;
} IxSum;

IxSum ix_sum_of(UOp *u);
/* The coefficient of a term; 0 when absent. */
int64_t ix_coef(const IxSum *a, const UOp *term);

UOp *ix_add(Job *job, UOp *a, UOp *b);
/* x * mul + add */
UOp *ix_scale(Job *job, UOp *x, int64_t mul, int64_t add);
/* Rounded down; c > 0 where the code runs. */
UOp *ix_div(Job *job, UOp *x, int64_t c);
UOp *ix_mod(Job *job, UOp *x, int64_t c);
/* lo <= x < hi; NULL when that always holds. */
UOp *ix_inside(Job *job, UOp *x, int64_t lo, int64_t hi);
/* The row-major offset of an index tuple. */
UOp *ix_flat(Job *job, Ints shape, UOp *const *index);
