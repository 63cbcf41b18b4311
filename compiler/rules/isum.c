/* Sums of index expressions, and what is known about them under /, %, < and ==.
 *
 * FLOORDIV and FLOORMOD round down, INDEX does not wrap, so for c > 0 these hold without
 * conditions: (c*q + r) // c = q + r // c             (c*q + r) % c = r % c (g*a + b) // (g*m) = a
 * // m             (g*a + b) % (g*m) = g*(a % m) + b        for 0 <= b < g (y // a) // b = y //
 * (a*b)              (y % (k*c)) // c = (y // c) % k The functions split the terms of a sum into
 * the two parts and prove 0 <= b < g by interval bounds. */
#include "compiler/rules/isum.h"

#include "compiler/ir/poly.h"

enum { MAX_DEPTH = 48 };

/* -- arithmetic -------------------------------------------------------------------------------- */

static int64_t floor_div(int64_t a, int64_t c) { return a / c - (a % c < 0); }
static int64_t floor_mod(int64_t a, int64_t c) { return a % c + (a % c < 0 ? c : 0); }
static int64_t ceil_div(int64_t a, int64_t c) { return a / c + (a % c > 0); }
static int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    int64_t r = a % b;
    a = b, b = r;
  }
  return a < 0 ? -a : a;
}
static bool mul(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static bool add(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
/* Keeps negation and abs safe. */
static bool sane(int64_t v) { return v > -((int64_t)1 << 62) && v < (int64_t)1 << 62; }

static bool is_const_above_0(const UOp *u) { return u->op == OP_CONST && u->arg.i > 0; }

/* -- sums -------------------------------------------------------------------------------------- */

static bool add_term(IndexSum *a, UOp *x, int64_t k) {
  for (uint32_t i = 0; i < a->n; i++) {
    if (a->t[i].x != x) continue;
    if (!add(a->t[i].k, k, &a->t[i].k) || !sane(a->t[i].k)) return false;
    if (!a->t[i].k) a->t[i] = a->t[--a->n];
    return true;
  }
  if (a->n == ISUM_MAX || !sane(k)) return false;
  a->t[a->n].x = x;
  a->t[a->n++].k = k;
  return true;
}

static bool add_tree(IndexSum *a, const UOp *u, int64_t k, int depth) {
  int64_t v;
  if (!k) return true;
  if (u->op == OP_CONST) return mul(u->arg.i, k, &v) && add(a->c, v, &a->c) && sane(a->c);
  if (depth < MAX_DEPTH) {
    switch (u->op) {
    case OP_ADD:
      return add_tree(a, u->src[0], k, depth + 1) && add_tree(a, u->src[1], k, depth + 1);
    case OP_SUB:
      return add_tree(a, u->src[0], k, depth + 1) && add_tree(a, u->src[1], -k, depth + 1);
    case OP_NEG: return add_tree(a, u->src[0], -k, depth + 1);
    case OP_MUL:
      for (int s = 0; s < 2; s++)
        if (u->src[s]->op == OP_CONST)
          return mul(u->src[s]->arg.i, k, &v) && sane(v) && add_tree(a, u->src[!s], v, depth + 1);
      break;
    default: break;
    }
  }
  return add_term(a, (UOp *)u, k);
}

bool isum_add(IndexSum *a, const UOp *u, int64_t k) { return sane(k) && add_tree(a, u, k, 0); }

bool isum_of(const UOp *u, IndexSum *out) {
  out->n = 0, out->c = 0;
  return u->dtype == DT_INDEX && u->lanes == 1 && !u->shape.n && add_tree(out, u, 1, 0);
}

static int order_at(const UOp *a, const UOp *b, int depth) {
  if (a == b) return 0;
  if (a->op != b->op) return a->op < b->op ? -1 : 1;
  if (a->arg.i != b->arg.i) return a->arg.i < b->arg.i ? -1 : 1;
  if (a->nsrc != b->nsrc) return a->nsrc < b->nsrc ? -1 : 1;
  for (uint32_t s = 0; s < a->nsrc && depth; s++) {
    int o = order_at(a->src[s], b->src[s], depth - 1);
    if (o) return o;
  }
  return 0;
}

int isum_order(const UOp *a, const UOp *b) {
  int o = order_at(a, b, 6);
  return o ? o : (a->id > b->id) - (a->id < b->id);
}

static void sort_terms(IndexSum *a) {
  for (uint32_t i = 1; i < a->n; i++)
    for (uint32_t j = i; j && isum_order(a->t[j - 1].x, a->t[j].x) > 0; j--) {
      UOp *x = a->t[j].x;
      int64_t k = a->t[j].k;
      a->t[j] = a->t[j - 1];
      a->t[j - 1].x = x, a->t[j - 1].k = k;
    }
}

UOp *isum_make(Job *job, const IndexSum *form) {
  IndexSum a = *form;
  UOp *sum = NULL;
  sort_terms(&a);
  for (uint32_t i = 0; i < a.n; i++) {
    UOp *t = a.t[i].x;
    if (a.t[i].k != 1) t = uop2(job, OP_MUL, t, uop_index(job, a.t[i].k));
    sum = sum ? uop2(job, OP_ADD, sum, t) : t;
  }
  if (!sum) return uop_index(job, a.c);
  return a.c ? uop2(job, OP_ADD, sum, uop_index(job, a.c)) : sum;
}

/* Bounds of the sum; false when an end is unknown. */
static bool sum_bounds(const IndexSum *a, int64_t *lo, int64_t *hi) {
  *lo = *hi = a->c;
  for (uint32_t i = 0; i < a->n; i++) {
    const UOp *x = a->t[i].x;
    int64_t k = a->t[i].k, p, q;
    if (!sane(x->vmin) || !sane(x->vmax)) return false;
    if (!mul(k > 0 ? x->vmin : x->vmax, k, &p) || !mul(k > 0 ? x->vmax : x->vmin, k, &q))
      return false;
    if (!add(*lo, p, lo) || !add(*hi, q, hi)) return false;
  }
  return sane(*lo) && sane(*hi);
}

static bool within(const IndexSum *a, int64_t from, int64_t below) {
  int64_t lo, hi;
  return sum_bounds(a, &lo, &hi) && lo >= from && hi < below;
}

/* True when a // c is one number over all of a. */
static bool one_period(const IndexSum *a, int64_t c, int64_t *quotient) {
  int64_t lo, hi;
  if (!sum_bounds(a, &lo, &hi)) return false;
  *quotient = floor_div(lo, c);
  return *quotient == floor_div(hi, c);
}

static int64_t common_factor(const IndexSum *a, int64_t g) {
  for (uint32_t i = 0; i < a->n; i++) g = gcd(g, a->t[i].k);
  return g;
}

/* The terms and the constant of a, divided by f, which divides all of the former; floors the
 * latter. */
static IndexSum divided(const IndexSum *a, int64_t f) {
  IndexSum r = *a;
  for (uint32_t i = 0; i < r.n; i++) r.t[i].k /= f;
  r.c = floor_div(a->c, f);
  return r;
}

/* a = f*whole + rest, rest made of the terms that f does not divide and c % f. */
static void split(const IndexSum *a, int64_t f, IndexSum *whole, IndexSum *rest) {
  whole->n = rest->n = 0;
  whole->c = floor_div(a->c, f);
  rest->c = floor_mod(a->c, f);
  for (uint32_t i = 0; i < a->n; i++) {
    if (a->t[i].k % f == 0) {
      whole->t[whole->n].x = a->t[i].x;
      whole->t[whole->n++].k = a->t[i].k / f;
    } else {
      rest->t[rest->n++] = a->t[i];
    }
  }
}

/* The largest factor f of c, 1 < f < c (or any f when c is 0), that divides some coefficients while
 * the rest of the sum stays in [0, f). */
static int64_t find_split(const IndexSum *a, int64_t c, IndexSum *whole, IndexSum *rest) {
  int64_t best = 0;
  for (uint32_t i = 0; i < a->n; i++) {
    int64_t f = c ? gcd(a->t[i].k, c) : gcd(a->t[i].k, 0);
    if (f <= 1 || f == c || f <= best) continue;
    split(a, f, whole, rest);
    if (within(rest, 0, f)) best = f;
  }
  if (best) split(a, best, whole, rest);
  return best;
}

/* -- recombination: (y // m)*m + y % m = y -------------------------------------------------------
 */

static bool congruent_nodes(const UOp *a, const UOp *b, int64_t m) {
  IndexSum d;
  if (a == b) return true;
  if (!isum_of(a, &d) || !isum_add(&d, b, -1) || d.c % m) return false;
  for (uint32_t i = 0; i < d.n; i++)
    if (d.t[i].k % m) return false;
  return true;
}

/* A node Y with d = Y // m and Y = y modulo m, or NULL; seen through y = z // a. */
static UOp *dividend(UOp *d, UOp *y, int64_t m) {
  int64_t am;
  if (d->op != OP_FLOORDIV || !is_const_above_0(d->src[1])) return NULL;
  if (d->src[1]->arg.i == m && congruent_nodes(d->src[0], y, m)) return d->src[0];
  bool merged = y->op == OP_FLOORDIV && is_const_above_0(y->src[1]) &&
                mul(y->src[1]->arg.i, m, &am) && d->src[1]->arg.i == am && d->src[0] == y->src[0];
  return merged ? y : NULL;
}

/* Looks for a partner of term i, y % m with coefficient k, among the terms with coefficient k*m. */
static bool recombine_term(Job *job, IndexSum *a, uint32_t i) {
  UOp *x = a->t[i].x;
  if (x->op != OP_FLOORMOD || !is_const_above_0(x->src[1])) return false;
  int64_t m = x->src[1]->arg.i, k = a->t[i].k, km, mb;
  if (!mul(k, m, &km)) return false;
  for (uint32_t j = 0; j < a->n; j++) {
    UOp *d = a->t[j].x;
    if (j == i || a->t[j].k != km) continue;
    UOp *to = dividend(d, x->src[0], m);
    if (!to && d->op == OP_FLOORMOD && is_const_above_0(d->src[1]) &&
        mul(m, d->src[1]->arg.i, &mb) && (to = dividend(d->src[0], x->src[0], m)))
      to = uop2(job, OP_FLOORMOD, to, uop_index(job, mb));
    if (!to) continue;
    uint32_t high = i > j ? i : j, low = i > j ? j : i;
    a->t[high] = a->t[--a->n];
    a->t[low] = a->t[--a->n];
    return isum_add(a, to, k);
  }
  return false;
}

/* Scalars only: shapes do not mix with polynomials. */
static bool is_symbolic(const UOp *n) { return n->symbolic && n->lanes == 1 && !n->shape.n; }

UOp *isum_sum(Rewrite *rw, UOp *n) {
  IndexSum a;
  if (is_symbolic(n)) {
    UOp *sum = poly_node_sum(rw->job, n);
    return sum == n ? NULL : sum;
  }
  if (!isum_of(n, &a)) return NULL;
  for (uint32_t i = 0; i < a.n;) {
    IndexSum next = a;
    bool hit = recombine_term(rw->job, &next, i);
    if (hit) a = next;
    i = hit ? 0 : i + 1;
  }
  UOp *to = isum_make(rw->job, &a);
  return to == n ? NULL : to;
}

/* -- division ------------------------------------------------------------------------------------
 */

static UOp *div_by(Job *job, const IndexSum *a, int64_t c) {
  return uop2(job, OP_FLOORDIV, isum_make(job, a), uop_index(job, c));
}

static UOp *mod_by(Job *job, const IndexSum *a, int64_t c) {
  return uop2(job, OP_FLOORMOD, isum_make(job, a), uop_index(job, c));
}

/* Coefficients k = c*q + r, r in [0, c) or, with `nearest`, the r of least magnitude: a = c*whole +
 * rest. */
static void congruent(const IndexSum *a, int64_t c, bool nearest, IndexSum *whole, IndexSum *rest) {
  whole->n = rest->n = 0;
  whole->c = floor_div(a->c, c);
  rest->c = floor_mod(a->c, c);
  for (uint32_t i = 0; i < a->n; i++) {
    int64_t q = floor_div(a->t[i].k, c), r = floor_mod(a->t[i].k, c);
    if (nearest && r > c / 2) q++, r -= c;
    if (q) whole->t[whole->n].x = a->t[i].x, whole->t[whole->n++].k = q;
    if (r) rest->t[rest->n].x = a->t[i].x, rest->t[rest->n++].k = r;
  }
}

/* (y // d + b) // c and (y % m) // c, when that is all there is. */
static UOp *div_nested(Job *job, const IndexSum *a, int64_t c) {
  if (a->n != 1 || a->t[0].k != 1) return NULL;
  const UOp *x = a->t[0].x;
  if ((x->op != OP_FLOORDIV && x->op != OP_FLOORMOD) || !is_const_above_0(x->src[1])) return NULL;
  int64_t d = x->src[1]->arg.i, shift, dc;
  if (x->op == OP_FLOORMOD) {
    if (a->c || d % c) return NULL;
    UOp *q = uop2(job, OP_FLOORDIV, x->src[0], uop_index(job, c));
    return uop2(job, OP_FLOORMOD, q, uop_index(job, d / c));
  }
  IndexSum y;
  if (!mul(a->c, d, &shift) || !mul(d, c, &dc) || !sane(dc) || !isum_of(x->src[0], &y)) return NULL;
  return add(y.c, shift, &y.c) ? div_by(job, &y, dc) : NULL;
}

UOp *isum_div(Rewrite *rw, UOp *n) {
  Job *job = rw->job;
  if (is_symbolic(n)) return isum_symbolic_div(rw, n);
  int64_t c = n->src[1]->arg.i, q;
  IndexSum a, whole, rest;
  if (!sane(c) || !isum_of(n->src[0], &a)) return NULL;
  for (int k = 0; k < 2; k++) {
    congruent(&a, c, k == 1, &whole, &rest);
    if (one_period(&rest, c, &q) && add(whole.c, q, &whole.c)) return isum_make(job, &whole);
  }
  split(&a, c, &whole, &rest);
  if (whole.n || whole.c) return uop2(job, OP_ADD, isum_make(job, &whole), div_by(job, &rest, c));
  int64_t g = common_factor(&a, c);
  if (g > 1) {
    rest = divided(&a, g);
    return div_by(job, &rest, c / g);
  }
  g = find_split(&a, c, &whole, &rest);
  if (g) return div_by(job, &whole, c / g);
  return div_nested(job, &a, c);
}

/* An expression over VARs: a size, above 0 where code runs. Any other divisor may be 0 there. */
static bool is_size(const UOp *u) {
  if (u->op == OP_VAR || u->op == OP_CONST) return true;
  if (!u->nsrc || u->op == OP_RANGE || u->op == OP_LOAD) return false;
  for (uint32_t i = 0; i < u->nsrc; i++)
    if (!is_size(u->src[i])) return false;
  return true;
}

static bool divides_by_size(const UOp *n) {
  return is_symbolic(n) && (n->src[1]->vmin > 0 || is_size(n->src[1]));
}

UOp *isum_symbolic_div(Rewrite *rw, UOp *n) {
  if (!divides_by_size(n) || poly_is_unit(n)) return NULL;
  UOp *to = poly_node_div(rw->job, n->src[0], n->src[1]);
  return to == n ? NULL : to;
}

UOp *isum_symbolic_mod(Rewrite *rw, UOp *n) {
  if (!divides_by_size(n)) return NULL;
  UOp *to = poly_node_mod(rw->job, n->src[0], n->src[1]);
  return to == n ? NULL : to;
}

/* y % m under % c: the same as y when c divides m. True if something changed. */
static bool drop_inner_mods(IndexSum *a, int64_t c) {
  for (uint32_t i = 0; i < a->n; i++) {
    UOp *x = a->t[i].x;
    int64_t k = a->t[i].k, km;
    if (x->op != OP_FLOORMOD || !is_const_above_0(x->src[1])) continue;
    if (!mul(x->src[1]->arg.i, k, &km) || km % c) continue;
    IndexSum next = *a;
    next.t[i] = next.t[--next.n];
    if (!isum_add(&next, x->src[0], k)) continue;
    *a = next;
    return true;
  }
  return false;
}

UOp *isum_mod(Rewrite *rw, UOp *n) {
  Job *job = rw->job;
  if (is_symbolic(n)) return isum_symbolic_mod(rw, n);
  int64_t c = n->src[1]->arg.i, q;
  IndexSum a, whole, rest;
  if (!sane(c) || !isum_of(n->src[0], &a)) return NULL;
  for (int k = 0; k < 2; k++) {
    congruent(&a, c, k == 1, &whole, &rest);
    if (one_period(&rest, c, &q) && add(rest.c, -q * c, &rest.c)) return isum_make(job, &rest);
  }
  IndexSum r = a; /* truncated remainders: a small negative coefficient stays as it is */
  r.c = floor_mod(a.c, c);
  for (uint32_t i = 0; i < r.n;) {
    r.t[i].k %= c;
    if (r.t[i].k)
      i++;
    else
      r.t[i] = r.t[--r.n];
  }
  drop_inner_mods(&r, c);
  UOp *to = mod_by(job, &r, c);
  if (to != n) return to;
  int64_t g = common_factor(&a, c);
  bool all = g > 1;
  if (all)
    whole = divided(&a, g), rest = (IndexSum){.c = floor_mod(a.c, g)};
  else
    g = find_split(&a, c, &whole, &rest);
  if (!g || g == 1) return NULL;
  UOp *high = uop2(job, OP_MUL, mod_by(job, &whole, c / g), uop_index(job, g));
  return uop2(job, OP_ADD, high, isum_make(job, &rest));
}

/* -- comparison ----------------------------------------------------------------------------------
 */

/* a < 0 as a comparison without negative coefficients, the constant alone on its side if it can be.
 */
static void two_sides(Job *job, const IndexSum *a, UOp **left, UOp **right) {
  IndexSum pos = {0}, neg = {0};
  for (uint32_t i = 0; i < a->n; i++) {
    IndexSum *to = a->t[i].k > 0 ? &pos : &neg;
    to->t[to->n].x = a->t[i].x;
    to->t[to->n++].k = a->t[i].k > 0 ? a->t[i].k : -a->t[i].k;
  }
  if (!pos.n)
    pos.c = a->c;
  else
    neg.c = -a->c;
  *left = isum_make(job, &pos);
  *right = isum_make(job, &neg);
}

/* terms < e with terms of the form y // d: y < e*d. */
static bool unwrap_div(IndexSum *a) {
  if (a->n != 1 || (a->t[0].k != 1 && a->t[0].k != -1)) return false;
  const UOp *x = a->t[0].x;
  if (x->op != OP_FLOORDIV || !is_const_above_0(x->src[1])) return false;
  int64_t d = x->src[1]->arg.i, k = a->t[0].k, e;
  IndexSum r = {0};
  if (!sane(d) || !isum_add(&r, x->src[0], k)) return false;
  /* y//d + c < 0: y < -c*d.  -(y//d) + c < 0: y//d >= c + 1: -y + (c+1)*d - 1 < 0 */
  if (k == 1 ? !mul(a->c, d, &e) : !mul(a->c + 1, d, &e)) return false;
  if (!add(r.c, k == 1 ? e : e - 1, &r.c) || !sane(r.c)) return false;
  *a = r;
  return true;
}

/* Divides a < 0 by what its terms have in common, or by f when the rest lies in [0, f) on one side
 * of the constant. True if something changed. */
static bool reduce_less(IndexSum *a) {
  int64_t g = common_factor(a, 0), e = -a->c, lo, hi;
  if (a->n && g > 1) {
    IndexSum r = divided(a, g);
    r.c = -ceil_div(e, g);
    *a = r;
    return true;
  }
  IndexSum terms = *a, whole, rest;
  terms.c = 0;
  int64_t f = find_split(&terms, 0, &whole, &rest);
  if (!f || !rest.n || !sum_bounds(&rest, &lo, &hi)) return unwrap_div(a);
  int64_t q = floor_div(e, f), r = floor_mod(e, f); /* f*whole + rest < f*q + r */
  if (hi < r)
    whole.c = -(q + 1);
  else if (lo >= r)
    whole.c = -q;
  else
    return unwrap_div(a);
  *a = whole;
  return true;
}

static UOp *symbolic_compare(Rewrite *rw, UOp *n) {
  if (n->src[0]->lanes != 1 || n->src[1]->lanes != 1 || n->shape.n) return NULL;
  UOp *to = poly_node_compare(rw->job, (Op)n->op, n->src[0], n->src[1]);
  return to == n ? NULL : to;
}

UOp *isum_less(Rewrite *rw, UOp *n) {
  IndexSum a;
  int64_t lo, hi;
  if (n->symbolic) return symbolic_compare(rw, n);
  if (!isum_of(n->src[0], &a) || !isum_add(&a, n->src[1], -1)) return NULL;
  for (int k = 0; k < ISUM_MAX; k++) {
    if (sum_bounds(&a, &lo, &hi)) {
      if (hi < 0) return rewrite_bool(rw, n, true);
      if (lo >= 0) return rewrite_bool(rw, n, false);
    }
    if (!reduce_less(&a)) break;
  }
  UOp *left, *right;
  two_sides(rw->job, &a, &left, &right);
  UOp *to = uop2(rw->job, OP_CMPLT, left, right);
  return to == n ? NULL : to;
}

UOp *isum_equal(Rewrite *rw, UOp *n) {
  IndexSum a;
  if (n->symbolic) return symbolic_compare(rw, n);
  int64_t lo, hi;
  if (!isum_of(n->src[0], &a) || !isum_add(&a, n->src[1], -1)) return NULL;
  int64_t g = common_factor(&a, 0);
  bool apart = (sum_bounds(&a, &lo, &hi) && (lo > 0 || hi < 0)) || (g && a.c % g);
  if (apart) return rewrite_bool(rw, n, n->op == OP_CMPNE);
  if (!a.n) return rewrite_bool(rw, n, n->op == OP_CMPEQ);
  if (g > 1) a = divided(&a, g);
  sort_terms(&a);
  if (a.t[0].k < 0) { /* the sign is free: the first term in order is positive */
    for (uint32_t k = 0; k < a.n; k++) a.t[k].k = -a.t[k].k;
    a.c = -a.c;
  }
  UOp *left, *right;
  two_sides(rw->job, &a, &left, &right);
  UOp *to = uop2(rw->job, (Op)n->op, left, right);
  return to == n ? NULL : to;
}
