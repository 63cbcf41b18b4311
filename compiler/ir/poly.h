/* Integer polynomials over INDEX expressions: sums of coefficient * atom * atom * ...
 *
 * An atom is an INDEX node that is not itself a sum or a product: a VAR, a RANGE, a quotient, a
 * loaded index. Terms and the atoms of a term are sorted by structure, so equal polynomials are
 * equal arrays and poly_make gives one node for each. A VAR with a divisor d is d times the atom
 * FLOORDIV(VAR, d), so that what d promises shows in the coefficients.
 *
 * Everything lives in the job's arena and is never changed. Coefficients that leave 64 bits, and
 * polynomials of absurd size, abort the job. */
#pragma once

#include "compiler/ir/uop.h"

typedef struct PolyTerm {
  int64_t coef; /* not 0 */
  uint32_t n;   /* the constant term has no atom, and is the last */
  UOp **atom;
} PolyTerm;

typedef struct Poly {
  PolyTerm *at;
  uint32_t n;
} Poly;

Poly poly_of(Job *job, UOp *u); /* u: INDEX, scalar, rank 0 */
/* As sizes are kept: remainders written by quotients, MIN and MAX decided where that is proven. */
Poly poly_of_size(Job *job, UOp *u);
Poly poly_const(Job *job, int64_t v);
/* a + k * b */
Poly poly_add(Job *job, Poly a, Poly b, int64_t k);
Poly poly_mul(Job *job, Poly a, Poly b);
/* a = c * quotient + rest, where rest is what no term of c's kind divides. c is not 0. */
void poly_split(Job *job, Poly a, Poly c, Poly *quotient, Poly *rest);
/* A number that divides it for all values of the atoms; 0 for the zero polynomial. */
int64_t poly_divisor(Poly p);
bool poly_is_const(Poly p, int64_t *value);
bool poly_eq(Poly a, Poly b);
UOp *poly_make(Job *job, Poly p);
/* p >= 0 whatever the values of its VARs and RANGEs: true is a proof, false says nothing. */
bool poly_proves(Job *job, Poly p);
/* floor(a / c) for a c proven above 0. */
Poly poly_floordiv(Job *job, Poly a, Poly c);

/* FLOORDIV(VAR, its divisor): an atom like a VAR. */
static inline bool poly_is_unit(const UOp *u) {
  return u->op == OP_FLOORDIV && u->src[0]->op == OP_VAR && u->src[1]->op == OP_CONST &&
         u->src[1]->arg.i > 1 && u->src[1]->arg.i == u->src[0]->arg.ints.at[2];
}

/* A total order of nodes by structure; by age below some depth. */
int uop_order(const UOp *a, const UOp *b);
