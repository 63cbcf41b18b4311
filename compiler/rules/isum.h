/* Index expressions as sums: k0*x0 + k1*x1 + ... + c.
 *
 * The terms x are the parts that are not sums themselves; each occurs once, with a coefficient
 * other than 0. All arithmetic is checked: an operation that would leave int64 fails, and the
 * caller leaves the expression as it is. */
#pragma once

#include "compiler/rules/rewrite.h"

enum { ISUM_MAX = 32 };
typedef struct IndexSum {
  struct {
    UOp *x;
    int64_t k;
  } t[ISUM_MAX];
  uint32_t n;
  int64_t c;
} IndexSum;

/* False when there are too many terms or numbers; *out is then useless. u is INDEX, scalar. */
bool isum_of(const UOp *u, IndexSum *out);
/* a += k * u */
bool isum_add(IndexSum *a, const UOp *u, int64_t k);
/* The sum in canonical order: terms by structure, the constant last. */
UOp *isum_make(Job *job, const IndexSum *a);
/* A total order of nodes by structure, not by age as far as that goes. */
int isum_order(const UOp *a, const UOp *b);

/* C right-hand sides; NULL when nothing is simpler than n. */
UOp *isum_sum(Rewrite *rw, UOp *n); /* n: ADD, SUB, NEG or MUL */
UOp *isum_div(Rewrite *rw, UOp *n); /* n: FLOORDIV by a CONST above 0 */
UOp *isum_mod(Rewrite *rw, UOp *n); /* n: FLOORMOD by a CONST above 0 */
/* The same where a size is symbolic; c is above 0 where the code runs. */
UOp *isum_symbolic_div(Rewrite *rw, UOp *n);
UOp *isum_symbolic_mod(Rewrite *rw, UOp *n);
UOp *isum_less(Rewrite *rw, UOp *n);
UOp *isum_equal(Rewrite *rw, UOp *n); /* n: CMPEQ or CMPNE */
