/* Sums over a range without the loop.
 *
 * sum_over(r, v) asks for an expression without r that equals the sum of v over 0 <= r < N:
 *   v free of r                         N * v
 *   v affine in r, an integer           k * N(N-1)/2 + N * rest
 *   cast(v), v an index                 cast of the sum: no rounding on the way
 *   a + b, a * v with a free of r       of the parts, when they have closed forms
 *   where(lo <= r < hi, v, 0)           the number of such r, times v
 *   where(r == e, v, 0)                 where(0 <= e < N, v with r := e, 0); loads get the gate
 * All of them reassociate a reduction; none of them assumes that a float is finite, except that the
 * sum of zeros and one -0.0 is +0.0 while the one-hot form gives -0.0. */
#include "compiler/rules/closed_form.h"

#include <math.h>

#include "compiler/rules/clauses.h"
#include "compiler/rules/isum.h"

enum { SEARCH_FUEL = 200 };
/* `fuel` bounds the search: values may share parts, and a part is summed once per use. */
static UOp *sum_over(Rewrite *rw, UOp *r, UOp *v, int *fuel);

static int64_t range_size(const UOp *r) {
  return r->src[0]->op == OP_CONST ? r->src[0]->arg.i : -1;
}

/* -- repeating one value -------------------------------------------------------------------------
 */

/* Half floats count in f32: 65504 is the largest f16. */
static UOp *times(Rewrite *rw, UOp *x, int64_t count) {
  DType d = (DType)x->dtype;
  if (d != DT_F16 && d != DT_BF16)
    return uop2(rw->job, OP_MUL, x, uop_number(rw->job, d, (double)count));
  UOp *wide = uop_cast(rw->job, x, DT_F32);
  wide = uop2(rw->job, OP_MUL, wide, uop_number(rw->job, DT_F32, (double)count));
  return uop_cast(rw->job, wide, d);
}

static UOp *power(Rewrite *rw, UOp *x, int64_t count) {
  UOp *r = NULL;
  for (UOp *square = x; count; count >>= 1) {
    if (count & 1) r = r ? uop2(rw->job, OP_MUL, r, square) : square;
    if (count > 1) square = uop2(rw->job, OP_MUL, square, square);
  }
  return r;
}

UOp *closed_form_repeat(Rewrite *rw, Op op, UOp *x, int64_t count) {
  if (count < 1 || count > (int64_t)1 << 52) return NULL;
  if (op == OP_ADD) return times(rw, x, count);
  if (op == OP_MUL) return power(rw, x, count);
  return x;
}

/* -- counting: where(conditions on r, v, 0)
 * -------------------------------------------------------- */

/* c as k*r + rest with rest free of r; false when r occurs otherwise. */
static bool solve(const UOp *left, const UOp *right, const UOp *r, int64_t *k, IndexSum *rest) {
  *k = 0;
  if (!isum_of(left, rest) || !isum_add(rest, right, -1)) return false;
  for (uint32_t i = 0; i < rest->n;) {
    if (rest->t[i].x == r) {
      *k = rest->t[i].k;
      rest->t[i] = rest->t[--rest->n];
    } else if (uop_is_open(rest->t[i].x, r)) {
      return false;
    } else {
      i++;
    }
  }
  return *k != 0;
}

/* -(a) */
static void negate(IndexSum *a) {
  a->c = -a->c;
  for (uint32_t i = 0; i < a->n; i++) a->t[i].k = -a->t[i].k;
}

/* Narrows *lo <= r < *hi by a clause left < right. */
static bool narrow(Job *job, const UOp *clause, const UOp *r, UOp **lo, UOp **hi) {
  IndexSum e;
  int64_t k;
  if (clause->op != OP_CMPLT || !solve(clause->src[0], clause->src[1], r, &k, &e)) return false;
  bool below = k > 0; /* k*r + e < 0 */
  if (below) negate(&e);
  if (!below)
    k = -k; /* k*r > e: r >= e // k + 1; else k*r < -e: r < ceil(-e / k) = (-e - 1) // k + 1 */
  if (below) e.c -= 1;
  UOp *b = isum_make(job, &e);
  if (k != 1) b = uop2(job, OP_FLOORDIV, b, uop_index(job, k));
  b = uop2(job, OP_ADD, b, uop_index(job, 1));
  UOp **end = below ? hi : lo;
  *end = uop2(job, below ? OP_MIN : OP_MAX, *end, b);
  return true;
}

static UOp *scaled(Rewrite *rw, UOp *count, UOp *v) {
  Job *job = rw->job;
  DType d = (DType)v->dtype;
  UOp *many = uop2(job, OP_MUL, uop_cast(job, count, d), v);
  if (!dtype_is_float(d) || (v->op == OP_CONST && isfinite(uop_float_value(v)))) return many;
  /* 0 * inf: only a range that runs counts */
  UOp *some = uop2(job, OP_CMPLT, uop_index(job, 0), count);
  return uop3(job, OP_WHERE, some, many, uop_number(job, d, 0));
}

/* The sum of where(all clauses, v, 0), v free of r. */
static UOp *count_over(Rewrite *rw, UOp *r, const Clauses *c, UOp *v) {
  Job *job = rw->job;
  if (v->dtype == DT_F16 || v->dtype == DT_BF16 || v->dtype == DT_BOOL) return NULL;
  UOp *lo = uop_index(job, 0), *hi = r->src[0];
  for (uint32_t i = 0; i < c->n; i++)
    if (!narrow(job, c->at[i], r, &lo, &hi)) return NULL;
  UOp *count = uop2(job, OP_MAX, uop2(job, OP_SUB, hi, lo), uop_index(job, 0));
  return scaled(rw, count, v);
}

/* -- one-hot: where(r == e, v(r), 0)
 * ---------------------------------------------------------------- */

typedef struct GateCtx {
  UOp *range, *gate;
} GateCtx;

/* A rule: loads whose address depends on the range get the gate. */
static UOp *gate_loads(Rewrite *rw, UOp *n) {
  const GateCtx *c = rw->ctx;
  if (n->op != OP_INDEX || !uop_is_open(n, c->range)) return NULL;
  if (n->nsrc == 2) {
    return uop_make(rw->job, OP_INDEX, DT_VOID, arg_none(),
                    (UOp *[]){n->src[0], n->src[1], c->gate}, 3);
  }
  UOp *old = n->src[2];
  if (old == c->gate || (old->op == OP_AND && old->src[1] == c->gate)) return NULL;
  UOp *both = uop2(rw->job, OP_AND, old, c->gate);
  return uop_make(rw->job, OP_INDEX, DT_VOID, arg_none(), (UOp *[]){n->src[0], n->src[1], both}, 3);
}

/* e with r == e from an equality; integer compares of cast ranges are seen through. */
static UOp *solution(Job *job, UOp *clause, UOp *r) {
  IndexSum e;
  int64_t k;
  if (clause->op != OP_CMPEQ) return NULL;
  UOp *a = clause->src[0], *b = clause->src[1];
  if (a->dtype == DT_INDEX) {
    if (!solve(a, b, r, &k, &e) || (k != 1 && k != -1)) return NULL;
    if (k == 1) negate(&e);
    return isum_make(job, &e);
  }
  for (int s = 0; s < 2;
       s++) { /* cast(y) == z, z anything: y == cast(z) when no y is changed by its cast */
    UOp *y = clause->src[s], *z = clause->src[!s];
    if (y->op != OP_CAST || y->src[0]->dtype != DT_INDEX || uop_is_open(z, r)) continue;
    if (!dtype_is_int((DType)z->dtype) || z->dtype == DT_U64) return NULL;
    if (y->vmin != y->src[0]->vmin || y->vmax != y->src[0]->vmax) return NULL;
    UOp *wide = uop_cast(job, z, DT_INDEX);
    if (!solve(y->src[0], wide, r, &k, &e) || (k != 1 && k != -1)) return NULL;
    if (k == 1) negate(&e);
    return isum_make(job, &e);
  }
  return NULL;
}

static UOp *one_hot(Rewrite *rw, UOp *r, UOp *e, UOp *v) {
  Job *job = rw->job;
  UOp *low = uop2(job, OP_CMPLE, uop_index(job, 0), e);
  UOp *gate = uop2(job, OP_AND, low, uop2(job, OP_CMPLT, e, r->src[0]));
  if (e->vmin >= 0 && e->vmax < range_size(r)) gate = uop_int(job, DT_BOOL, 1);
  GateCtx ctx = {r, gate};
  Rewrite inner = {.job = job, .ctx = &ctx};
  if (!uop_is_int(gate, 1)) v = rewrite_graph(&inner, v, gate_loads);
  v = uop_substitute(job, v, &r, &e, 1);
  return uop3(job, OP_WHERE, gate, v, uop_number(job, (DType)v->dtype, 0));
}

/* -- the sum -------------------------------------------------------------------------------------
 */

static UOp *where_over(Rewrite *rw, UOp *r, UOp *cond, UOp *v, int *fuel) {
  Clauses all = {0}, on = {0};
  UOp *outer = NULL;
  if (!clauses_add(cond, &all)) return NULL;
  for (uint32_t i = 0; i < all.n; i++) {
    if (uop_is_open(all.at[i], r))
      on.at[on.n++] = all.at[i];
    else
      outer = outer ? uop2(rw->job, OP_AND, outer, all.at[i]) : all.at[i];
  }
  UOp *sum = NULL;
  if (!on.n) sum = sum_over(rw, r, v, fuel);
  for (uint32_t i = 0; i < on.n && !sum; i++) {
    UOp *e = solution(rw->job, on.at[i], r);
    if (!e) continue;
    for (uint32_t k = 0; k < on.n; k++) { /* the other clauses hold at r == e or not */
      if (k != i) v = uop3(rw->job, OP_WHERE, on.at[k], v, uop_number(rw->job, (DType)v->dtype, 0));
    }
    sum = one_hot(rw, r, e, v);
  }
  if (!sum && on.n && !uop_is_open(v, r)) sum = count_over(rw, r, &on, v);
  if (!sum || !outer) return sum;
  return uop3(rw->job, OP_WHERE, outer, sum, uop_number(rw->job, (DType)v->dtype, 0));
}

static UOp *affine_over(Rewrite *rw, UOp *r, UOp *v) {
  int64_t n = range_size(r), k, half, head;
  IndexSum rest;
  if (n < 1 || !solve(v, uop_index(rw->job, 0), r, &k, &rest)) return NULL;
  if (__builtin_mul_overflow(n, n - 1, &half) || __builtin_mul_overflow(half / 2, k, &head))
    return NULL;
  IndexSum sum = {.c = head};
  return isum_add(&sum, isum_make(rw->job, &rest), n) ? isum_make(rw->job, &sum) : NULL;
}

static UOp *cast_over(Rewrite *rw, UOp *r, UOp *v, int *fuel) {
  UOp *x = v->src[0], *sum = NULL;
  DType d = (DType)v->dtype;
  if (d == DT_BOOL) return NULL;
  if (x->dtype == DT_BOOL) return where_over(rw, r, x, uop_number(rw->job, d, 1), fuel);
  if (x->dtype == DT_INDEX) sum = sum_over(rw, r, x, fuel);
  return sum ? uop_cast(rw->job, sum, d) : NULL;
}

static UOp *product_over(Rewrite *rw, UOp *r, UOp *v, int *fuel) {
  bool flt = dtype_is_float((DType)v->dtype);
  for (int s = 0; s < 2; s++) {
    UOp *a = v->src[s];
    if (uop_is_open(a, r) || (flt && (a->op != OP_CONST || !isfinite(uop_float_value(a)))))
      continue;
    UOp *sum = sum_over(rw, r, v->src[!s], fuel);
    if (sum) return uop2(rw->job, OP_MUL, sum, a);
  }
  return NULL;
}

static UOp *sum_over(Rewrite *rw, UOp *r, UOp *v, int *fuel) {
  UOp *a, *b;
  if (--*fuel < 0) return NULL;
  if (!uop_is_open(v, r)) {
    int64_t n = range_size(r);
    return n > 0 ? closed_form_repeat(rw, OP_ADD, v, n) : NULL;
  }
  if (v->dtype == DT_INDEX && (a = affine_over(rw, r, v))) return a;
  switch (v->op) {
  case OP_CAST: return cast_over(rw, r, v, fuel);
  case OP_MUL: return product_over(rw, r, v, fuel);
  case OP_ADD:
    a = sum_over(rw, r, v->src[0], fuel);
    b = a ? sum_over(rw, r, v->src[1], fuel) : NULL;
    return b ? uop2(rw->job, OP_ADD, a, b) : NULL;
  case OP_WHERE:
    if (rewrite_is(v->src[2], 0)) return where_over(rw, r, v->src[0], v->src[1], fuel);
    return NULL;
  default: return NULL;
  }
}

/* -- the reduce
 * ------------------------------------------------------------------------------------ */

/* n over the ranges of `keep`, value x. */
static UOp *over(Rewrite *rw, UOp *n, UOp *x, UOp *const *keep, size_t nkeep) {
  return uop_reduce(rw->job, (Op)n->arg.i, x, keep, nkeep);
}

static UOp *merge_nested(Rewrite *rw, UOp *n) {
  UOp *in = n->src[0];
  if (in->op != OP_REDUCE || in->arg.i != n->arg.i || in->nsrc < 2) return NULL;
  size_t count = n->nsrc - 1 + in->nsrc - 1;
  UOp **ranges = arena_array(&rw->job->arena, count, sizeof *ranges);
  for (uint32_t k = 1; k < n->nsrc; k++) ranges[k - 1] = n->src[k];
  for (uint32_t k = 1; k < in->nsrc; k++) ranges[n->nsrc - 2 + k] = in->src[k];
  return over(rw, n, in->src[0], ranges, count);
}

static UOp *drop_unused(Rewrite *rw, UOp *n) {
  UOp *x = n->src[0];
  UOp **keep = arena_array(&rw->job->arena, n->nsrc, sizeof *keep);
  size_t nkeep = 0;
  int64_t count = 1;
  for (uint32_t k = 1; k < n->nsrc; k++) {
    int64_t size = range_size(n->src[k]);
    bool used =
        uop_is_open(x, n->src[k]) || size < 1 || __builtin_mul_overflow(count, size, &count);
    if (used) keep[nkeep++] = n->src[k];
  }
  if (nkeep == n->nsrc - 1) return NULL;
  return closed_form_repeat(rw, (Op)n->arg.i, over(rw, n, x, keep, nkeep), count);
}

/* x as often as a size says, of which only loops know that it is not 0. NULL: keep the loop. */
static UOp *repeat_symbolic(Rewrite *rw, Op op, UOp *x, UOp *count) {
  Job *job = rw->job;
  DType d = (DType)x->dtype, wide = d == DT_F16 || d == DT_BF16 ? DT_F32 : d;
  UOp *many = x;
  if (op == OP_MUL || !dtype_info[d].bytes) return NULL;
  if (op == OP_ADD) {
    many = uop2(job, OP_MUL, uop_cast(job, x, wide), uop_cast(job, count, wide));
    many = uop_cast(job, many, d);
  }
  if (count->vmin > 0 || (op == OP_ADD && !dtype_is_float(d))) return many;
  UOp *none = uop_scalar(job, d, reduce_identity(op, d));
  return uop3(job, OP_WHERE, uop2(job, OP_CMPLT, uop_index(job, 0), count), many, none);
}

/* Of the ranges with symbolic sizes, one that the value does not use. */
static UOp *drop_unused_symbolic(Rewrite *rw, UOp *n) {
  UOp *x = n->src[0];
  for (uint32_t k = 1; k < n->nsrc; k++) {
    if (!n->src[k]->src[0]->symbolic || uop_is_open(x, n->src[k])) continue;
    UOp **keep = arena_array(&rw->job->arena, n->nsrc, sizeof *keep);
    size_t nkeep = 0;
    for (uint32_t j = 1; j < n->nsrc; j++)
      if (j != k) keep[nkeep++] = n->src[j];
    return repeat_symbolic(rw, (Op)n->arg.i, over(rw, n, x, keep, nkeep), n->src[k]->src[0]);
  }
  return NULL;
}

static bool free_of_ranges(const UOp *x, const UOp *n) {
  for (uint32_t k = 1; k < n->nsrc; k++)
    if (uop_is_open(x, n->src[k])) return false;
  return true;
}

/* An integer factor, and a condition, that no range of the sum touches. */
static UOp *move_out(Rewrite *rw, UOp *n) {
  UOp *x = n->src[0];
  if (x->op == OP_WHERE && rewrite_is(x->src[2], 0) && free_of_ranges(x->src[0], n)) {
    UOp *sum = over(rw, n, x->src[1], n->src + 1, n->nsrc - 1);
    return uop3(rw->job, OP_WHERE, x->src[0], sum, x->src[2]);
  }
  if (x->op != OP_MUL || dtype_is_float((DType)x->dtype)) return NULL;
  for (int s = 0; s < 2; s++) {
    if (!free_of_ranges(x->src[s], n)) continue;
    return uop2(rw->job, OP_MUL, over(rw, n, x->src[!s], n->src + 1, n->nsrc - 1), x->src[s]);
  }
  return NULL;
}

UOp *closed_form_reduce(Rewrite *rw, UOp *n) {
  UOp *to;
  if (n->nsrc < 2 || n->lanes > 1) return NULL;
  if ((to = merge_nested(rw, n)) || (to = drop_unused(rw, n))) return to;
  if (n->symbolic && (to = drop_unused_symbolic(rw, n))) return to;
  if (n->arg.i != OP_ADD) return NULL;
  if ((to = move_out(rw, n))) return to;
  for (uint32_t k = 1; k < n->nsrc; k++) {
    int fuel = SEARCH_FUEL;
    to = sum_over(rw, n->src[k], n->src[0], &fuel);
    if (!to) continue;
    UOp **keep = arena_array(&rw->job->arena, n->nsrc, sizeof *keep);
    size_t nkeep = 0;
    for (uint32_t j = 1; j < n->nsrc; j++)
      if (j != k) keep[nkeep++] = n->src[j];
    return over(rw, n, to, keep, nkeep);
  }
  return NULL;
}
