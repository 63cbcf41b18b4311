/* Index expressions as sums: constant + sum of coefficient * atom.
 *
 * An atom is a RANGE or any INDEX-typed node that is not a sum (a quotient, a minimum, a loaded
 * index). Everything that decides how memory is walked - contiguous, strided, gathered, invariant -
 * reads these sums. */
#pragma once

#include "compiler/passes/nodemap.h"

typedef struct AffTerm {
  UOp *atom;
  int64_t coeff;
} AffTerm;

typedef struct Affine {
  int64_t konst;
  uint32_t n;
  const AffTerm *at; /* sorted by atom id; coefficients are not 0 */
} Affine;

typedef struct AffineMap {
  Job *job;
  NodeMap index;
  const Affine **at;
  uint32_t len, cap;
} AffineMap;

void affine_init(Job *job, AffineMap *m);
/* The sum of an INDEX-typed node whose sources were all asked before (any topological order does).
 */
const Affine *affine_of(AffineMap *m, UOp *u);
/* The coefficient of that very atom; 0 when it is not a term. */
int64_t affine_coeff(const Affine *a, const UOp *atom);
/* Node for a sum, terms in the order given. */
UOp *affine_build(Job *job, const AffTerm *terms, uint32_t n, int64_t konst);

/* Index arithmetic that drops neutral elements. */
UOp *index_add(Job *job, UOp *a, UOp *b);
UOp *index_mul(Job *job, UOp *a, int64_t k);

/* Rewrites every index expression under root as a sum in canonical form, with quotients and
 * remainders of sums split where bounds allow it: (r*32 + v) / 16 = r*2 + v/16. */
UOp *affine_simplify(Job *job, UOp *root);
