/* Index expressions as sums: k0*x0 + k1*x1 + ... + c.
 *
 * The terms x are the parts that are not sums themselves; each occurs once, with a coefficient
 * other than 0. All arithmetic is checked: an operation that would leave int64 fails, and the
 * caller leaves the expression as it is. */
#pragma once

#include "compiler/rules/rewrite.h"

enum { AFFINE_MAX = 32 };
typedef struct Affine {
  struct {
    UOp *x;
    int64_t k;
  } t[AFFINE_MAX];
  uint32_t n;
  int64_t c;
} Affine;

/* False when there are too many terms or numbers; *out is then useless. u is INDEX, scalar. */
bool affine_of(const UOp *u, Affine *out);
/* a += k * u */
bool affine_add(Affine *a, const UOp *u, int64_t k);
/* The sum in canonical order: terms by structure, the constant last. */
UOp *affine_make(Job *job, const Affine *a);
/* Bounds of the sum; false when an end is unknown. */
bool affine_bounds(const Affine *a, int64_t *lo, int64_t *hi);
/* A total order of nodes by structure, not by age as far as that goes. */
int affine_order(const UOp *a, const UOp *b);

/* C right-hand sides; NULL when nothing is simpler than n. */
UOp *affine_sum(Rewrite *rw, UOp *n); /* n: ADD, SUB, NEG or MUL */
UOp *affine_div(Rewrite *rw, UOp *n); /* n: FLOORDIV by a CONST above 0 */
UOp *affine_mod(Rewrite *rw, UOp *n); /* n: FLOORMOD by a CONST above 0 */
UOp *affine_less(Rewrite *rw, UOp *n);
UOp *affine_equal(Rewrite *rw, UOp *n); /* n: CMPEQ or CMPNE */
