/* Index expressions as sums of terms, and the arithmetic on them that rangeify needs.
 *
 * Quotients and remainders by a constant c are split term by term: what is a multiple of c leaves
 * the quotient exactly, a common factor of the rest and c is cancelled, and only what then is not
 * proven to lie in [0, c) by its bounds becomes a FLOORDIV or FLOORMOD node. All identities used
 * hold for all integers, so nothing here depends on gates. */
#include "compiler/passes/ix.h"

#include <assert.h>

#include "compiler/ir/poly.h"
#include "compiler/passes/gates.h"

static bool is_range(const UOp *u) { return u->op == OP_RANGE; }

/* Ranges by id, then everything else by age; both are functions of the graph. */
static bool before(const UOp *a, const UOp *b) {
  if (is_range(a) != is_range(b)) return is_range(a);
  if (is_range(a) && a->arg.i != b->arg.i) return a->arg.i < b->arg.i;
  return a->id < b->id;
}

/* False, and a unchanged, when there is no room or a coefficient overflows. */
static bool sum_add(IxSum *a, UOp *term, int64_t coef) {
  uint32_t k = 0;
  while (k < a->n && before(a->term[k], term)) k++;
  if (k < a->n && a->term[k] == term) {
    if (__builtin_add_overflow(a->coef[k], coef, &coef)) return false;
    a->coef[k] = coef;
    if (coef) return true;
    a->n--;
    memmove(a->term + k, a->term + k + 1, (a->n - k) * sizeof *a->term);
    memmove(a->coef + k, a->coef + k + 1, (a->n - k) * sizeof *a->coef);
    return true;
  }
  if (!coef) return true;
  if (a->n == IX_TERMS) return false;
  memmove(a->term + k + 1, a->term + k, (a->n - k) * sizeof *a->term);
  memmove(a->coef + k + 1, a->coef + k, (a->n - k) * sizeof *a->coef);
  a->term[k] = term;
  a->coef[k] = coef;
  a->n++;
  return true;
}

/* a += coef * u; false when it does not fit the form (a is then spoiled). */
static bool collect(IxSum *a, UOp *u, int64_t coef, int depth) {
  if (u->op == OP_CONST) {
    int64_t v;
    return !__builtin_mul_overflow(u->arg.i, coef, &v) &&
           !__builtin_add_overflow(a->constant, v, &a->constant);
  }
  if (depth) {
    if (u->op == OP_ADD) {
      return collect(a, u->src[0], coef, depth - 1) && collect(a, u->src[1], coef, depth - 1);
    }
    if (u->op == OP_SUB && coef != INT64_MIN) {
      return collect(a, u->src[0], coef, depth - 1) && collect(a, u->src[1], -coef, depth - 1);
    }
    for (int s = 0; u->op == OP_MUL && s < 2; s++) {
      int64_t v;
      if (u->src[s]->op != OP_CONST) continue;
      if (__builtin_mul_overflow(u->src[s]->arg.i, coef, &v)) return false;
      return !v || collect(a, u->src[!s], v, depth - 1);
    }
  }
  return sum_add(a, u, coef);
}

IxSum ix_sum_of(UOp *u) {
  enum { DEPTH = 2 * IX_TERMS };
  IxSum a = {.n = 0};
  if (collect(&a, u, 1, DEPTH)) return a;
  a = (IxSum){.term = {u}, .coef = {1}, .n = 1};
  return a;
}

/* a += coef * b; false when it does not fit. */
static bool accumulate(IxSum *a, const IxSum *b, int64_t coef) {
  for (uint32_t k = 0; k < b->n; k++) {
    int64_t v;
    if (__builtin_mul_overflow(b->coef[k], coef, &v) || !sum_add(a, b->term[k], v)) return false;
  }
  int64_t v;
  return !__builtin_mul_overflow(b->constant, coef, &v) &&
         !__builtin_add_overflow(a->constant, v, &a->constant);
}

/* (x / c) * c * m + (x % c) * m is x * m: does that once; false when there is no such pair. */
static bool recombine(IxSum *a) {
  for (uint32_t k = 0; k < a->n; k++) {
    UOp *mod = a->term[k];
    if (mod->op != OP_FLOORMOD || mod->src[1]->op != OP_CONST) continue;
    for (uint32_t j = 0; j < a->n; j++) {
      UOp *div = a->term[j];
      int64_t m = a->coef[k], whole;
      if (div->op != OP_FLOORDIV || div->src[0] != mod->src[0] || div->src[1] != mod->src[1] ||
          __builtin_mul_overflow(m, mod->src[1]->arg.i, &whole) || whole != a->coef[j]) {
        continue;
      }
      IxSum b = *a, x = ix_sum_of(mod->src[0]);
      sum_add(&b, div, -whole);
      sum_add(&b, mod, -m);
      if (!accumulate(&b, &x, m)) continue;
      *a = b;
      return true;
    }
  }
  return false;
}

static UOp *sum_make(Job *job, const IxSum *from) {
  IxSum sum_of = *from, *a = &sum_of;
  UOp *sum = NULL;
  while (recombine(a)) {
  }
  for (uint32_t k = 0; k < a->n; k++) {
    UOp *t = a->term[k];
    if (a->coef[k] != 1) t = uop2(job, OP_MUL, t, uop_index(job, a->coef[k]));
    sum = sum ? uop2(job, OP_ADD, sum, t) : t;
  }
  UOp *c = uop_index(job, a->constant);
  if (!sum) return c;
  return a->constant ? uop2(job, OP_ADD, sum, c) : sum;
}

int64_t ix_coef(const IxSum *a, const UOp *term) {
  for (uint32_t k = 0; k < a->n; k++) {
    if (a->term[k] == term) return a->coef[k];
  }
  return 0;
}

/* A polynomial that came out without VARs is an ordinary sum again. */
static UOp *settled(Job *job, UOp *u) {
  if (u->symbolic) return u;
  IxSum a = ix_sum_of(u);
  return sum_make(job, &a);
}

UOp *ix_add(Job *job, UOp *a, UOp *b) {
  if (a->symbolic || b->symbolic) return settled(job, poly_node_sum(job, uop2(job, OP_ADD, a, b)));
  IxSum x = ix_sum_of(a), y = ix_sum_of(b);
  return accumulate(&x, &y, 1) ? sum_make(job, &x) : uop2(job, OP_ADD, a, b);
}

UOp *ix_scale(Job *job, UOp *x, int64_t mul, int64_t add) {
  if (mul == 1 && add == 0) return x;
  if (x->symbolic || !dim_is_static(mul) || !dim_is_static(add)) {
    UOp *product = uop2(job, OP_MUL, x, dim_uop(job, mul));
    return settled(job, poly_node_sum(job, uop2(job, OP_ADD, product, dim_uop(job, add))));
  }
  IxSum a = {.constant = add}, b = ix_sum_of(x);
  if (accumulate(&a, &b, mul)) return sum_make(job, &a);
  return uop2(job, OP_ADD, uop2(job, OP_MUL, x, uop_index(job, mul)), uop_index(job, add));
}

static int64_t floor_div(int64_t a, int64_t c) { return a / c - (a % c < 0); }

static int64_t gcd(int64_t a, int64_t b) {
  if (a < 0) a = -a;
  while (b) {
    int64_t t = a % b;
    a = b, b = t;
  }
  return a;
}

/* x = c * quotient + rest. */
static void split(const IxSum *x, int64_t c, IxSum *quotient, IxSum *rest) {
  *quotient = *rest = (IxSum){.n = 0};
  for (uint32_t k = 0; k < x->n; k++) {
    bool exact = x->coef[k] % c == 0;
    sum_add(exact ? quotient : rest, x->term[k], exact ? x->coef[k] / c : x->coef[k]);
  }
  quotient->constant = floor_div(x->constant, c);
  rest->constant = x->constant - c * quotient->constant;
}

/* The common factor of c and the rest's coefficients. */
static int64_t common(const IxSum *rest, int64_t c) {
  for (uint32_t k = 0; k < rest->n; k++) c = gcd(rest->coef[k], c);
  return c;
}

/* rest / g, its constant rounded down; g divides the coefficients. */
static UOp *shrunk(Job *job, const IxSum *rest, int64_t g) {
  IxSum a = *rest;
  for (uint32_t k = 0; k < a.n; k++) a.coef[k] /= g;
  a.constant = floor_div(a.constant, g);
  return sum_make(job, &a);
}

static bool within(const UOp *u, int64_t c) { return u->vmin >= 0 && u->vmax < c; }

UOp *ix_div(Job *job, UOp *x, int64_t c) {
  if (x->symbolic || !dim_is_static(c)) {
    return settled(job, poly_node_div(job, x, dim_uop(job, c)));
  }
  assert(c > 0);
  if (c == 1) return x;
  IxSum a = ix_sum_of(x), quotient, rest;
  split(&a, c, &quotient, &rest);
  if (!rest.n) return sum_make(job, &quotient);
  int64_t g = common(&rest, c);
  UOp *r = shrunk(job, &rest, g);
  if (within(r, c / g)) return sum_make(job, &quotient);
  UOp *q = uop2(job, OP_FLOORDIV, r, uop_index(job, c / g));
  if (r->op == OP_FLOORDIV && r->src[1]->op == OP_CONST && r->src[1]->arg.i > 0) {
    int64_t both;
    if (!__builtin_mul_overflow(r->src[1]->arg.i, c / g, &both)) {
      q = ix_div(job, r->src[0], both);
    }
  }
  return ix_add(job, sum_make(job, &quotient), q);
}

UOp *ix_mod(Job *job, UOp *x, int64_t c) {
  if (x->symbolic || !dim_is_static(c)) {
    return settled(job, poly_node_mod(job, x, dim_uop(job, c)));
  }
  assert(c > 0);
  if (c == 1) return uop_index(job, 0);
  IxSum a = ix_sum_of(x), quotient, rest;
  split(&a, c, &quotient, &rest);
  if (!rest.n) return uop_index(job, rest.constant);
  UOp *whole = sum_make(job, &rest);
  if (within(whole, c)) return whole;
  int64_t g = common(&rest, c);
  UOp *r = shrunk(job, &rest, g);
  UOp *m = within(r, c / g) ? r : uop2(job, OP_FLOORMOD, r, uop_index(job, c / g));
  return ix_scale(job, m, g, rest.constant - g * floor_div(rest.constant, g));
}

UOp *ix_inside(Job *job, UOp *x, int64_t lo, int64_t hi) {
  UOp *low = NULL, *high = NULL;
  if (x->symbolic || !dim_is_static(lo) || !dim_is_static(hi)) {
    UOp *from = dim_uop(job, lo), *to = dim_uop(job, hi);
    UOp *above = ix_add(job, x, uop_index(job, 1));
    if (!poly_node_less(job, from, above)) low = uop2(job, OP_CMPLE, from, x);
    if (!poly_node_less(job, x, to)) high = uop2(job, OP_CMPLT, x, to);
    return gates_both(job, low, high);
  }
  if (x->vmin < lo) low = uop2(job, OP_CMPLE, uop_index(job, lo), x);
  if (x->vmax >= hi) high = uop2(job, OP_CMPLT, x, uop_index(job, hi));
  return gates_both(job, low, high);
}

UOp *ix_flat(Job *job, Ints shape, UOp *const *index) {
  enum { DEPTH = 2 * IX_TERMS };
  IxSum sum = {.n = 0};
  int64_t stride = 1;
  bool fits = shape_is_static(shape);
  for (uint32_t k = 0; k < shape.n; k++) fits &= !index[k]->symbolic;
  for (uint32_t k = shape.n; fits && k-- > 0; stride *= shape.at[k]) {
    fits = collect(&sum, index[k], stride, DEPTH);
  }
  if (fits) return sum_make(job, &sum);
  UOp *flat = uop_index(job, 0);
  for (uint32_t k = 0; k < shape.n; k++) {
    flat = ix_add(job, ix_scale(job, flat, shape.at[k], 0), index[k]);
  }
  return flat;
}
