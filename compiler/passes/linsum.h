/* Index expressions as sums: constant + sum of coefficient * atom.
 *
 * An atom is a RANGE or any INDEX-typed node that is not a sum (a quotient, a minimum, a loaded
 * index). Everything that decides how memory is walked - contiguous, strided, gathered, invariant -
 * reads these sums. */
#pragma once

#include "compiler/passes/nodemap.h"

typedef struct LinTerm {
  UOp *atom;
  int64_t coeff;
} LinTerm;

typedef struct LinSum {
  int64_t konst;
  uint32_t n;
  const LinTerm *at; /* sorted by atom id; coefficients are not 0 */
} LinSum;

typedef struct LinSumMap {
  Job *job;
  NodeMap index;
  const LinSum **at;
  uint32_t len, cap;
} LinSumMap;

void linsum_init(Job *job, LinSumMap *m);
/* The sum of an INDEX-typed node whose sources were all asked before (any topological order does).
 */
const LinSum *linsum_of(LinSumMap *m, UOp *u);
/* The same for a node of which nothing was asked yet. */
const LinSum *linsum_index(Job *job, UOp *index);
/* The coefficient of that very atom; 0 when it is not a term. */
int64_t linsum_coeff(const LinSum *a, const UOp *atom);
/* Node for a sum, terms in the order given. */
UOp *linsum_build(Job *job, const LinTerm *terms, uint32_t n, int64_t konst);

/* Index arithmetic that drops neutral elements. */
UOp *index_add(Job *job, UOp *a, UOp *b);
UOp *index_mul(Job *job, UOp *a, int64_t k);

/* Rewrites every index expression under root as a sum in canonical form, with quotients and
 * remainders of sums split where bounds allow it: (r*32 + v) / 16 = r*2 + v/16. */
UOp *linsum_simplify(Job *job, UOp *root);
