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
/* factor where p = factor * x + what does not mention x; empty when x occurs in a power. */
Poly poly_factor(Job *job, Poly p, const UOp *x);
/* A number that divides it for all values of the atoms; 0 for the zero polynomial. */
int64_t poly_divisor(Poly p);
bool poly_is_const(Poly p, int64_t *value);
bool poly_eq(Poly a, Poly b);
UOp *poly_make(Job *job, Poly p);
/* p >= 0 whatever the values of its VARs and RANGEs: true is a proof, false says nothing. */
bool poly_proves(Job *job, Poly p);
/* a < b, likewise; their difference may be too large to be a polynomial. */
bool poly_proves_less(Job *job, Poly a, Poly b);
/* floor(a / c) for a c proven above 0. */
Poly poly_floordiv(Job *job, Poly a, Poly c);

/* FLOORDIV(VAR, its divisor): an atom like a VAR. */
static inline bool poly_is_unit(const UOp *u) {
  return u->op == OP_FLOORDIV && u->src[0]->op == OP_VAR && u->src[1]->op == OP_CONST &&
         u->src[1]->arg.i > 1 && u->src[1]->arg.i == u->src[0]->arg.ints.at[2];
}

/* A total order of nodes by structure; by age below some depth. */
int uop_order(const UOp *a, const UOp *b);

/* -- index arithmetic on nodes with symbolic sizes (poly_node.c) --------------------------------
 */

/* u as a sum in canonical form; quotients and remainders that belong together are joined. */
UOp *poly_node_sum(Job *job, UOp *u);
/* floor(x / c) and its remainder, c a size: above 0 wherever the code runs. What is proven to be
 * exact or to lie in [0, c) leaves no division behind. */
UOp *poly_node_div(Job *job, UOp *x, UOp *c);
UOp *poly_node_mod(Job *job, UOp *x, UOp *c);
/* x op y, op CMPLT, CMPEQ or CMPNE: a CONST where that is proven, else without negative terms. */
UOp *poly_node_compare(Job *job, Op op, UOp *x, UOp *y);
/* a <= b - 1 for all values. */
bool poly_node_less(Job *job, UOp *a, UOp *b);
