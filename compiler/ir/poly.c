/* Integer polynomials over INDEX expressions: see poly.h. Proofs are in poly_proof.c.
 *
 * Multiplication makes all products, sorts them and adds neighbours up. Division is term by term:
 * a term goes into the quotient when coefficient and atoms of the divisor's leading term divide it
 * and the remaining terms of the divisor can be taken off as well. That is enough to undo every
 * product of sizes, and needs no multivariate theory. */
#include "compiler/ir/poly.h"

#include <assert.h>
#include <stdlib.h>

enum { MAX_TERMS = 256, MAX_ATOMS = 32, MAX_DEPTH = 600, MAX_STEPS = 4096, COMPARED = 64 };

static void too_large(Job *job) {
  job->overflow = true;
  if (job->proving) return;
  job_abort(job, FAIL(RESOURCE_EXHAUSTED, "a size expression is too large"));
}

/* -- order ------------------------------------------------------------------------------------- */

static int compare(int64_t a, int64_t b) { return (a > b) - (a < b); }

/* Of different nodes the answer is never 0 above the depth, so each pair is looked at once. */
static int order_at(const UOp *a, const UOp *b, int depth) {
  int o;
  if (a == b) return 0;
  if ((o = compare(a->op, b->op)) || (o = compare(a->arg.i, b->arg.i)) ||
      (o = compare(a->nsrc, b->nsrc)) || (o = compare(a->arg.ints.n, b->arg.ints.n))) {
    return o;
  }
  bool plain = a->op == OP_VAR || a->op == OP_RANGE; /* others may hold addresses */
  for (uint32_t k = 0; plain && k < a->arg.ints.n; k++) {
    if ((o = compare(a->arg.ints.at[k], b->arg.ints.at[k]))) return o;
  }
  for (uint32_t s = 0; s < a->nsrc && depth; s++) {
    if ((o = order_at(a->src[s], b->src[s], depth - 1))) return o;
  }
  return compare(a->id, b->id);
}

int uop_order(const UOp *a, const UOp *b) { return order_at(a, b, COMPARED); }

/* Longer products first, so that the constant is the last. */
static int order_terms(const PolyTerm *a, const PolyTerm *b) {
  if (a->n != b->n) return a->n > b->n ? -1 : 1;
  for (uint32_t k = 0; k < a->n; k++) {
    int o = uop_order(a->atom[k], b->atom[k]);
    if (o) return o;
  }
  return 0;
}

static int order_terms_at(const void *a, const void *b) { return order_terms(a, b); }

/* -- sums and products ------------------------------------------------------------------------- */

static int64_t times(Job *job, int64_t a, int64_t b) {
  int64_t r;
  if (!__builtin_mul_overflow(a, b, &r) && r != INT64_MIN) return r;
  too_large(job);
  return 0;
}

static int64_t plus(Job *job, int64_t a, int64_t b) {
  int64_t r;
  if (!__builtin_add_overflow(a, b, &r) && r != INT64_MIN) return r;
  too_large(job);
  return 0;
}

/* Sorts, adds equal products up and drops zeros, in place. */
static Poly normal(Job *job, PolyTerm *t, uint32_t n) {
  uint32_t out = 0;
  if (n > 1) qsort(t, n, sizeof *t, order_terms_at);
  for (uint32_t k = 0; k < n; k++) {
    if (out && !order_terms(&t[out - 1], &t[k])) {
      t[out - 1].coef = plus(job, t[out - 1].coef, t[k].coef);
    } else {
      t[out++] = t[k];
    }
    if (!t[out - 1].coef) out--;
  }
  if (out > MAX_TERMS) too_large(job);
  return (Poly){t, out};
}

Poly poly_const(Job *job, int64_t v) {
  if (!v) return (Poly){0};
  PolyTerm *t = arena_alloc(&job->arena, sizeof *t);
  *t = (PolyTerm){.coef = v};
  return (Poly){t, 1};
}

static Poly of_atom(Job *job, UOp *u, int64_t coef) {
  PolyTerm *t = arena_alloc(&job->arena, sizeof *t);
  *t = (PolyTerm){.coef = coef, .n = 1, .atom = arena_copy(&job->arena, &u, sizeof(UOp *))};
  return (Poly){t, 1};
}

Poly poly_add(Job *job, Poly a, Poly b, int64_t k) {
  if (!b.n || !k) return a;
  PolyTerm *t = arena_array(&job->arena, (size_t)a.n + b.n, sizeof *t);
  if (a.n) memcpy(t, a.at, a.n * sizeof *t);
  for (uint32_t i = 0; i < b.n; i++) {
    t[a.n + i] = b.at[i];
    t[a.n + i].coef = times(job, b.at[i].coef, k);
  }
  return normal(job, t, a.n + b.n);
}

static PolyTerm term_mul(Job *job, const PolyTerm *a, const PolyTerm *b) {
  PolyTerm t = {.coef = times(job, a->coef, b->coef), .n = a->n + b->n};
  if (t.n > MAX_ATOMS) too_large(job);
  t.atom = arena_array(&job->arena, t.n + 1, sizeof *t.atom);
  for (uint32_t i = 0, j = 0, k = 0; k < t.n; k++) {
    bool left = j == b->n || (i < a->n && uop_order(a->atom[i], b->atom[j]) <= 0);
    t.atom[k] = left ? a->atom[i++] : b->atom[j++];
  }
  return t;
}

Poly poly_mul(Job *job, Poly a, Poly b) {
  if ((uint64_t)a.n * b.n > (uint64_t)MAX_TERMS * 8) {
    too_large(job);
    return (Poly){0};
  }
  PolyTerm *t = arena_array(&job->arena, (size_t)a.n * b.n + 1, sizeof *t);
  uint32_t n = 0;
  for (uint32_t i = 0; i < a.n; i++) {
    for (uint32_t j = 0; j < b.n; j++) t[n++] = term_mul(job, &a.at[i], &b.at[j]);
  }
  return normal(job, t, n);
}

bool poly_is_const(Poly p, int64_t *value) {
  *value = p.n ? p.at[0].coef : 0;
  return !p.n || (p.n == 1 && !p.at[0].n);
}

bool poly_eq(Poly a, Poly b) {
  if (a.n != b.n) return false;
  for (uint32_t k = 0; k < a.n; k++) {
    if (a.at[k].coef != b.at[k].coef || order_terms(&a.at[k], &b.at[k])) return false;
  }
  return true;
}

/* -- division ---------------------------------------------------------------------------------- */

/* t / d; false when it does not divide. */
static bool term_div(Job *job, const PolyTerm *t, const PolyTerm *d, PolyTerm *out) {
  if (t->n < d->n || t->coef % d->coef) return false;
  *out = (PolyTerm){.coef = t->coef / d->coef};
  out->atom = arena_array(&job->arena, t->n + 1, sizeof *out->atom);
  uint32_t taken = 0;
  for (uint32_t k = 0; k < t->n; k++) {
    if (taken < d->n && t->atom[k] == d->atom[taken]) {
      taken++;
    } else {
      out->atom[out->n++] = t->atom[k];
    }
  }
  return taken == d->n;
}

void poly_split(Job *job, Poly a, Poly c, Poly *quotient, Poly *rest) {
  assert(c.n);
  *quotient = (Poly){0};
  *rest = a;
  for (uint32_t k = 0; k < rest->n;) {
    PolyTerm q;
    if (!term_div(job, &rest->at[k], &c.at[0], &q)) {
      k++;
      continue;
    }
    Poly part = {&q, 1}, next = poly_add(job, *rest, poly_mul(job, c, part), -1);
    if (next.n >= rest->n) { /* the other terms of c were not there to take off */
      k++;
      continue;
    }
    PolyTerm *kept = arena_copy(&job->arena, &q, sizeof q);
    *quotient = poly_add(job, *quotient, (Poly){kept, 1}, 1);
    *rest = next;
    k = 0;
  }
}

static int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    int64_t r = a % b;
    a = b, b = r;
  }
  return a < 0 ? -a : a;
}

int64_t poly_divisor(Poly p) {
  int64_t g = 0;
  for (uint32_t k = 0; k < p.n; k++) g = gcd(g, p.at[k].coef);
  return g;
}

/* Every coefficient / g, the constant rounded down; g divides the others. */
static Poly shrunk(Job *job, Poly p, int64_t g) {
  PolyTerm *t = arena_array(&job->arena, p.n + 1, sizeof *t);
  uint32_t n = 0;
  for (uint32_t k = 0; k < p.n; k++) {
    t[n] = p.at[k];
    int64_t v = t[n].coef;
    t[n].coef = v / g - (v % g < 0);
    n += t[n].coef != 0;
  }
  return (Poly){t, n};
}

/* floor of what poly_split leaves: the part of `rest` that is not between 0 and c. */
static Poly quotient_of_rest(Job *job, Poly rest, Poly c) {
  int64_t g = 0, value;
  for (uint32_t k = 0; k < rest.n; k++) g = rest.at[k].n ? gcd(g, rest.at[k].coef) : g;
  if (poly_is_const(c, &value)) {
    if (!g) g = value; /* a constant: rounded down below */
    g = gcd(g, value);
    rest = shrunk(job, rest, g);
    c = poly_const(job, value / g);
  }
  if (poly_is_const(c, &value) && value == 1) return rest;
  if (poly_proves(job, rest) && poly_proves_less(job, rest, c)) return (Poly){0};
  UOp *q = uop2(job, OP_FLOORDIV, poly_make(job, rest), poly_make(job, c));
  return q->op == OP_CONST ? poly_const(job, q->arg.i) : of_atom(job, q, 1);
}

Poly poly_floordiv(Job *job, Poly a, Poly c) {
  Poly quotient, rest;
  int64_t value, constant;
  poly_split(job, a, c, &quotient, &rest);
  if (!rest.n) return quotient;
  if (poly_is_const(c, &value) && poly_is_const(rest, &constant)) {
    return poly_add(job, quotient, poly_const(job, constant / value - (constant % value < 0)), 1);
  }
  if (poly_is_const(c, &value) && !rest.at[rest.n - 1].n) { /* the constant's own quotient */
    constant = rest.at[rest.n - 1].coef;
    int64_t whole = constant / value - (constant % value < 0);
    quotient = poly_add(job, quotient, poly_const(job, whole), 1);
    rest = poly_add(job, rest, poly_const(job, times(job, whole, value)), -1);
  }
  return poly_add(job, quotient, quotient_of_rest(job, rest, c), 1);
}

/* -- from nodes -------------------------------------------------------------------------------- */

typedef struct Reading {
  Job *job;
  bool size; /* poly_of_size */
  int steps; /* a graph that shares nodes has exponentially many paths */
} Reading;

static Poly read_node(Reading *r, UOp *u, int depth);

static Poly least_of(Reading *r, UOp *u, int depth) {
  Job *job = r->job;
  Poly a = read_node(r, u->src[0], depth), b = read_node(r, u->src[1], depth);
  Poly d = poly_add(job, a, b, -1), e = poly_add(job, b, a, -1);
  bool min = u->op == OP_MIN;
  if (poly_proves(job, d)) return min ? b : a;
  if (poly_proves(job, e)) return min ? a : b;
  UOp *x = poly_make(job, a), *y = poly_make(job, b);
  bool swap = y->op != OP_CONST && (x->op == OP_CONST || uop_order(x, y) > 0);
  return of_atom(job, uop2(job, (Op)u->op, swap ? y : x, swap ? x : y), 1);
}

static Poly of_quotient(Reading *r, UOp *u, int depth) {
  Job *job = r->job;
  Poly a = read_node(r, u->src[0], depth), c = read_node(r, u->src[1], depth);
  if (!c.n || !poly_proves(job, poly_add(job, c, poly_const(job, 1), -1))) {
    return of_atom(job, u, 1);
  }
  Poly q = poly_floordiv(job, a, c);
  return u->op == OP_FLOORDIV ? q : poly_add(job, a, poly_mul(job, q, c), -1);
}

static Poly of_var(Job *job, UOp *u) {
  int64_t divisor = u->arg.ints.at[2];
  if (u->vmin == u->vmax) return poly_const(job, u->vmin);
  if (divisor == 1) return of_atom(job, u, 1);
  return of_atom(job, uop2(job, OP_FLOORDIV, u, uop_index(job, divisor)), divisor);
}

static Poly read_node(Reading *r, UOp *u, int depth) {
  Job *job = r->job;
  if (!depth-- || !r->steps-- || poly_is_unit(u)) return of_atom(job, u, 1);
  switch (u->op) {
  case OP_CONST: return poly_const(job, u->arg.i);
  case OP_VAR: return of_var(job, u);
  case OP_ADD:
  case OP_SUB: {
    Poly a = read_node(r, u->src[0], depth), b = read_node(r, u->src[1], depth);
    return poly_add(job, a, b, u->op == OP_ADD ? 1 : -1);
  }
  case OP_NEG: return poly_add(job, (Poly){0}, read_node(r, u->src[0], depth), -1);
  case OP_MUL: {
    Poly a = read_node(r, u->src[0], depth), b = read_node(r, u->src[1], depth);
    return poly_mul(job, a, b);
  }
  case OP_MIN:
  case OP_MAX: return r->size ? least_of(r, u, depth) : of_atom(job, u, 1);
  case OP_FLOORDIV:
  case OP_FLOORMOD: return r->size ? of_quotient(r, u, depth) : of_atom(job, u, 1);
  default: return of_atom(job, u, 1);
  }
}

Poly poly_of(Job *job, UOp *u) {
  assert(u->dtype == DT_INDEX && u->lanes == 1 && !u->shape.n);
  return read_node(&(Reading){job, false, MAX_STEPS}, u, MAX_DEPTH);
}

Poly poly_of_size(Job *job, UOp *u) {
  assert(u->dtype == DT_INDEX && u->lanes == 1 && !u->shape.n);
  return read_node(&(Reading){job, true, MAX_STEPS}, u, MAX_DEPTH);
}

/* -- to nodes ---------------------------------------------------------------------------------- */

/* A unit atom with its divisor in the coefficient is the VAR itself. */
static UOp *term_make(Job *job, const PolyTerm *t) {
  UOp *product = NULL;
  int64_t coef = t->coef;
  for (uint32_t k = 0; k < t->n; k++) {
    UOp *x = t->atom[k];
    if (poly_is_unit(x) && coef % x->src[1]->arg.i == 0) {
      coef /= x->src[1]->arg.i;
      x = x->src[0];
    }
    product = product ? uop2(job, OP_MUL, product, x) : x;
  }
  if (!product) return uop_index(job, coef);
  return coef == 1 ? product : uop2(job, OP_MUL, product, uop_index(job, coef));
}

UOp *poly_make(Job *job, Poly p) {
  UOp *sum = NULL;
  for (uint32_t k = 0; k < p.n; k++) {
    UOp *t = term_make(job, &p.at[k]);
    sum = sum ? uop2(job, OP_ADD, sum, t) : t;
  }
  return sum ? sum : uop_index(job, 0);
}
