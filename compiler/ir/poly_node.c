/* Index arithmetic where sizes are symbolic.
 *
 * Quotients are taken apart as for constants: what c divides leaves the quotient exactly; a factor
 * common to c and the rest is cancelled; a part of the rest that is proven to lie in [0, f), f a
 * factor of c and of the other terms, is dropped. Only what then is not proven to lie in [0, c)
 * becomes a FLOORDIV or FLOORMOD. c is a size and positive where it is used: a loop over an empty
 * axis does not run. */
#include "compiler/ir/dim.h"
#include "compiler/ir/poly.h"

#include <assert.h>

/* -- sums -------------------------------------------------------------------------------------- */

static bool mentions(Poly p, const UOp *x) {
  for (uint32_t k = 0; k < p.n; k++) {
    for (uint32_t a = 0; a < p.at[k].n; a++) {
      if (p.at[k].atom[a] == x) return true;
    }
  }
  return false;
}

Poly poly_factor(Job *job, Poly p, const UOp *x) {
  PolyTerm *t = arena_array(&job->arena, p.n + 1, sizeof *t);
  Poly f = {t, 0};
  for (uint32_t k = 0; k < p.n; k++) {
    uint32_t count = 0;
    PolyTerm *out = &t[f.n];
    *out = (PolyTerm){.coef = p.at[k].coef};
    out->atom = arena_array(&job->arena, p.at[k].n + 1, sizeof *out->atom);
    for (uint32_t a = 0; a < p.at[k].n; a++) {
      if (p.at[k].atom[a] != x || count++) out->atom[out->n++] = p.at[k].atom[a];
    }
    if (count > 1) return (Poly){0};
    f.n += count;
  }
  return f;
}

/* m * c * (y / c) + m * (y % c) is m * y. */
static bool recombine(Job *job, Poly *p) {
  for (uint32_t k = 0; k < p->n; k++) {
    for (uint32_t a = 0; a < p->at[k].n; a++) {
      UOp *mod = p->at[k].atom[a];
      if (mod->op != OP_FLOORMOD) continue;
      Poly m = poly_factor(job, *p, mod);
      UOp *div = uop2(job, OP_FLOORDIV, mod->src[0], mod->src[1]);
      if (!m.n || !mentions(*p, div)) continue;
      Poly c = poly_of(job, mod->src[1]), y = poly_of(job, mod->src[0]);
      Poly pair = poly_add(job, poly_mul(job, c, poly_of(job, div)), poly_of(job, mod), 1);
      Poly next = poly_add(job, *p, poly_mul(job, m, poly_add(job, pair, y, -1)), -1);
      if (mentions(next, div) || mentions(next, mod)) continue;
      *p = next;
      return true;
    }
  }
  return false;
}

static UOp *sum_node(Job *job, Poly p) {
  while (recombine(job, &p)) {
  }
  return poly_make(job, p);
}

UOp *poly_node_sum(Job *job, UOp *u) { return sum_node(job, poly_of(job, u)); }

bool poly_node_less(Job *job, UOp *a, UOp *b) {
  return poly_proves_less(job, poly_of(job, a), poly_of(job, b));
}

/* -- factors ----------------------------------------------------------------------------------- */

static int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    int64_t r = a % b;
    a = b, b = r;
  }
  return a < 0 ? -a : a;
}

/* The greatest common factor of two terms. */
static PolyTerm common(Job *job, const PolyTerm *a, const PolyTerm *b) {
  PolyTerm g = {.coef = gcd(a->coef, b->coef)};
  g.atom = arena_array(&job->arena, a->n + 1, sizeof *g.atom);
  uint32_t i = 0, j = 0;
  while (i < a->n && j < b->n) {
    int o = uop_order(a->atom[i], b->atom[j]);
    if (!o) g.atom[g.n++] = a->atom[i];
    i += o <= 0;
    j += o >= 0;
  }
  return g;
}

static bool is_one(const PolyTerm *t) { return t->coef == 1 && !t->n; }

static bool in_front(Job *job, Poly p, Poly c) {
  return poly_proves(job, p) && poly_proves_less(job, p, c);
}

/* A division on its way: floor(a / c), or f * (a mod c) + low. */
typedef struct Division {
  Poly a, c;
  Poly f, low;
} Division;

/* Cancels f: a = f * whole + rest with rest in [0, f), c = f * m. */
static bool cancel(Job *job, Division *d, PolyTerm f) {
  Poly by = {&f, 1}, whole, rest, m, none;
  if (is_one(&f) || !f.coef) return false;
  poly_split(job, d->a, by, &whole, &rest);
  poly_split(job, d->c, by, &m, &none);
  if (none.n || !whole.n || (rest.n && !in_front(job, rest, by))) return false;
  d->low = poly_add(job, d->low, poly_mul(job, d->f, rest), 1);
  d->f = poly_mul(job, d->f, by);
  d->a = whole, d->c = m;
  return true;
}

/* The largest factor first: that of c and all terms but the constant, then those of single terms.
 */
static bool reduce(Job *job, Division *d) {
  if (d->c.n != 1) return false;
  for (uint32_t k = 0; k < d->a.n; k++) {
    if (cancel(job, d, common(job, &d->a.at[k], &d->c.at[0]))) return true;
  }
  return false;
}

static Division divide(Job *job, Poly rest, Poly c) {
  Division d = {.a = rest, .c = c, .f = poly_const(job, 1)};
  while (reduce(job, &d)) {
  }
  return d;
}

static UOp *quotient_node(Job *job, Poly a, Poly c) {
  UOp *x = sum_node(job, a), *by = poly_make(job, c);
  if (uop_is_int(by, 1)) return x;
  if (x->op == OP_FLOORDIV && !poly_is_unit(x)) { /* (y / a) / b is y / (a * b) */
    return poly_node_div(job, x->src[0], poly_make(job, poly_mul(job, c, poly_of(job, x->src[1]))));
  }
  return uop2(job, OP_FLOORDIV, x, by);
}

UOp *poly_node_div(Job *job, UOp *x, UOp *c) {
  Poly a = poly_of(job, x), by = poly_of(job, c), quotient, rest;
  if (!by.n) return uop_index(job, 0);
  poly_split(job, a, by, &quotient, &rest);
  if (!rest.n || in_front(job, rest, by)) return sum_node(job, quotient);
  Division d = divide(job, rest, by);
  UOp *q = in_front(job, d.a, d.c) ? uop_index(job, 0) : quotient_node(job, d.a, d.c);
  return sum_node(job, poly_add(job, quotient, poly_of(job, q), 1));
}

UOp *poly_node_mod(Job *job, UOp *x, UOp *c) {
  Poly a = poly_of(job, x), by = poly_of(job, c), quotient, rest, value;
  int64_t one;
  if (!by.n || (poly_is_const(by, &one) && one == 1)) return uop_index(job, 0);
  poly_split(job, a, by, &quotient, &rest);
  if (!rest.n || in_front(job, rest, by)) return sum_node(job, rest);
  Division d = divide(job, rest, by);
  if (in_front(job, d.a, d.c)) {
    value = d.a;
  } else if (poly_is_const(d.c, &one) && one == 1) {
    value = (Poly){0};
  } else {
    value = poly_of(job, uop2(job, OP_FLOORMOD, sum_node(job, d.a), poly_make(job, d.c)));
  }
  return sum_node(job, poly_add(job, poly_mul(job, d.f, value), d.low, 1));
}

/* -- comparisons ------------------------------------------------------------------------------- */

/* p < 0 as left < right, both without negative terms: the terms of one sign. The constant is on the
 * right, unless there is nothing else on the left. */
static UOp *side(Job *job, Poly p, int sign) {
  PolyTerm *t = arena_array(&job->arena, p.n + 1, sizeof *t);
  Poly out = {t, 0};
  bool left = false;
  int64_t constant = 0;
  for (uint32_t k = 0; k < p.n; k++) {
    if (!p.at[k].n) {
      constant = p.at[k].coef;
      continue;
    }
    left |= p.at[k].coef > 0;
    if ((p.at[k].coef > 0) != (sign > 0)) continue;
    t[out.n] = p.at[k];
    t[out.n++].coef *= sign;
  }
  if (left == (sign > 0)) return poly_make(job, out);
  return poly_make(job, poly_add(job, out, poly_const(job, 1), constant * sign));
}

/* p < 0 or p == 0 divided by what its terms have in common; false when p == 0 cannot be. */
static bool lessen(Job *job, Poly *p, bool less) {
  int64_t g = 0;
  PolyTerm *t = arena_copy(&job->arena, p->at, p->n * sizeof *t);
  uint32_t n = 0;
  for (uint32_t k = 0; k < p->n; k++) g = t[k].n ? gcd(g, t[k].coef) : g;
  if (g <= 1) return true;
  for (uint32_t k = 0; k < p->n; k++) {
    int64_t v = t[k].coef;
    if (!less && v % g) return false;
    t[n] = t[k];
    t[n].coef = v / g - (v % g < 0);
    n += t[n].coef != 0;
  }
  *p = (Poly){t, n};
  return true;
}

UOp *poly_node_compare(Job *job, Op op, UOp *x, UOp *y) {
  Poly p = poly_add(job, poly_of(job, x), poly_of(job, y), -1), none = {0};
  bool less = op == OP_CMPLT, below = poly_proves_less(job, p, none);
  if (less) {
    if (below) return uop_int(job, DT_BOOL, 1);
    if (poly_proves(job, p)) return uop_int(job, DT_BOOL, 0);
  } else if (below || poly_proves_less(job, none, p) || !p.n) {
    return uop_int(job, DT_BOOL, (op == OP_CMPEQ) == !p.n);
  }
  if (!lessen(job, &p, less)) return uop_int(job, DT_BOOL, op == OP_CMPNE);
  if (!less && p.n && p.at[0].coef < 0) p = poly_add(job, none, p, -1);
  return uop2(job, op, side(job, p, 1), side(job, p, -1));
}
