/* symbolic.rules: its guards and results in C. Sums are in isum.c, reductions in closed_form.c.
 */
#include <math.h>
#include <stdlib.h>

#include "compiler/ir/dim.h"
#include "compiler/rules/clauses.h"
#include "compiler/rules/closed_form.h"
#include "compiler/rules/isum.h"

/* -- bounds ------------------------------------------------------------------------------------ */

static bool is_known(const UOp *u) {
  return u->vmin == u->vmax && u->vmin != INT64_MIN && u->vmax != INT64_MAX &&
         !dtype_is_float((DType)u->dtype);
}

/* Bounds of u64 are known only inside [0, INT64_MAX]. */
static bool has_bounds(const UOp *u) { return u->dtype != DT_U64 || u->vmin >= 0; }

static bool is_unsigned(const UOp *u) { return dtype_is_uint((DType)u->dtype) || u->vmin >= 0; }

/* The source of a MAX or MIN that always wins; never the node of a tie both ways. */
static UOp *pick_by_bounds(const UOp *n, UOp *x, UOp *y) {
  if (!has_bounds(x) || !has_bounds(y)) return NULL;
  if (x->vmin >= y->vmax) return n->op == OP_MAX ? x : y;
  return NULL;
}

static bool both_above_0(const UOp *a, const UOp *b) {
  int64_t v;
  if (a->arg.i <= 0 || b->arg.i <= 0 || __builtin_mul_overflow(a->arg.i, b->arg.i, &v))
    return false;
  unsigned bits = dtype_info[a->dtype].bits - !dtype_is_uint((DType)a->dtype);
  return bits >= 63 || v < (int64_t)1 << bits;
}

/* It is proven that a scalar index is an element of the buffer. */
static bool is_inside(Rewrite *rw, const UOp *buffer, UOp *index) {
  while (buffer->op == OP_AFTER) buffer = buffer->src[0];
  if (!buffer->arg.ints.n) return false;
  int64_t n = buffer->arg.ints.at[0];
  if (index->lanes == 1 && (index->symbolic || !dim_is_static(n))) {
    return dim_contains(rw->job, 0, n, index);
  }
  return dim_is_static(n) && index->vmin >= 0 && index->vmax < n;
}

/* A cast of an index that changes no value. */
static bool same_values(const UOp *cast) {
  const UOp *x = cast->src[0];
  return dtype_is_int((DType)cast->dtype) && cast->vmin == x->vmin && cast->vmax == x->vmax &&
         (cast->dtype != DT_U64 || x->vmin >= 0);
}

/* -- order ---------------------------------------------------------------------------------------
 */

/* Sorting a commutative pair, where sorting is worth it: index products and logic. */
static bool in_order(const UOp *n, const UOp *a, const UOp *b) {
  if (n->dtype != DT_INDEX && n->dtype != DT_BOOL) return false;
  if (n->shape.n || a->op == OP_CONST || b->op == OP_CONST) return false;
  if (n->symbolic && n->dtype == DT_INDEX && n->op == OP_MUL) return false; /* isum_sum's */
  return isum_order(a, b) < 0;
}

/* -- floats --------------------------------------------------------------------------------------
 */

/* x / c = x * (1/c) when 1/c is exact: c a power of two with a normal inverse. */
static UOp *divide_exactly(Rewrite *rw, UOp *n, UOp *x, UOp *c) {
  int e;
  double v = uop_float_value(c), m = fabs(frexp(v, &e));
  if (m != 0.5 || abs(e) > (n->dtype == DT_F64 ? 1000 : n->dtype == DT_F16 ? 12 : 120)) return NULL;
  return uop2(rw->job, OP_MUL, x, rewrite_number(rw, c, 1 / v));
}

/* -- casts ---------------------------------------------------------------------------------------
 */

static unsigned mantissa_bits(DType d) {
  const FloatFormat *f = float_format(d);
  return f ? f->mant + 1u : d == DT_F64 ? 53 : 24;
}

/* Small floats all fit f32 and, but for the exponents of e8m0 and bf16, f16. */
static bool float_lossless(DType from, DType to) {
  if (dtype_is_storage(to)) return false;
  if (to == DT_F16) return dtype_is_storage(from) && from != DT_F8E8M0;
  return dtype_info[from].bits < dtype_info[to].bits;
}

static bool is_lossless(DType from, DType to) {
  if (from == to) return true;
  if (from == DT_BOOL) return to != DT_VOID && !(dtype_is_storage(to) && dtype_is_float(to));
  if (to == DT_BOOL) return false;
  unsigned a = dtype_info[from].bits, b = dtype_info[to].bits;
  if (dtype_is_float(from)) return dtype_is_float(to) && float_lossless(from, to);
  if (dtype_is_float(to)) {
    if (dtype_is_storage(to)) return false;
    return to != DT_F16 ? a <= mantissa_bits(to) : a <= 8;
  }
  if (dtype_is_uint(from) == dtype_is_uint(to)) return a <= b;
  return dtype_is_uint(from) && a < b;
}

/* cast(cast(x)) = cast(x): the middle dtype m loses nothing of x, or nothing that n keeps. */
static bool cast_keeps(const UOp *x, const UOp *m, const UOp *n) {
  DType from = (DType)x->dtype, mid = (DType)m->dtype, to = (DType)n->dtype;
  if (is_lossless(from, mid)) { /* a float saturates where an integer wraps */
    return !dtype_is_float(mid) || !dtype_is_int(from) || !dtype_is_int(to) ||
           is_lossless(from, to);
  }
  if (!dtype_is_int(from) || !dtype_is_int(mid)) return false;
  if (dtype_is_int(to) && to != DT_INDEX && dtype_info[to].bits <= dtype_info[mid].bits)
    return true;
  return from != DT_U64 && mid != DT_U64 && m->vmin == x->vmin && m->vmax == x->vmax;
}

static UOp *cast_to(Rewrite *rw, const UOp *n, UOp *x) {
  return uop_cast(rw->job, x, (DType)n->dtype);
}

static bool fits(const UOp *index, DType d) {
  unsigned bits = dtype_info[d].bits;
  if (index->vmin == INT64_MIN || index->vmax == INT64_MAX) return false;
  if (dtype_is_uint(d)) return index->vmin >= 0 && (bits == 64 || index->vmax >> bits == 0);
  return bits == 64 ||
         (index->vmin >= -((int64_t)1 << (bits - 1)) && index->vmax < (int64_t)1 << (bits - 1));
}

/* op(cast(x), cast(y)) = cast(op(x, y)) when nothing wraps on either side. */
static UOp *hoist_cast(Rewrite *rw, const UOp *n, UOp *x, UOp *y) {
  DType d = (DType)n->dtype;
  if (!dtype_is_int(d) || !fits(x, d) || !fits(y, d)) return NULL;
  UOp *r = uop2(rw->job, (Op)n->op, x, y);
  return fits(r, d) ? uop_cast(rw->job, r, d) : NULL;
}

/* -- conjunctions
 * ---------------------------------------------------------------------------------- */

/* x < c or c < x. */
static bool is_bound(const UOp *u, int side) {
  return u->op == OP_CMPLT && u->src[side]->op == OP_CONST && u->src[!side]->dtype == DT_INDEX;
}

/* The stronger of two bounds on the same side of the same sum, or NULL. */
static UOp *stronger(UOp *a, UOp *b) {
  if (is_bound(a, 1) && is_bound(b, 1) && a->src[0] == b->src[0])
    return a->src[1]->arg.i <= b->src[1]->arg.i ? a : b;
  if (is_bound(a, 0) && is_bound(b, 0) && a->src[1] == b->src[1])
    return a->src[0]->arg.i >= b->src[0]->arg.i ? a : b;
  return NULL;
}

/* a < x and x < b with nothing between. */
static bool contradict(const UOp *a, const UOp *b) {
  if (a->op == OP_XOR && uop_is_int(a->src[1], 1) && a->src[0] == b) return true;
  return is_bound(a, 0) && is_bound(b, 1) && a->src[1] == b->src[0] &&
         (__int128_t)a->src[0]->arg.i + 1 >= b->src[1]->arg.i;
}

/* An AND of many: duplicates and weaker bounds dropped, sorted. */
static UOp *conjunction(Rewrite *rw, UOp *n) {
  Clauses c = {0};
  if (!clauses_add(n, &c)) return NULL;
  for (uint32_t i = 0; i < c.n; i++)
    for (uint32_t j = 0; j < c.n; j++) {
      if (i == j) continue;
      if (contradict(c.at[i], c.at[j])) return rewrite_bool(rw, n, false);
      if (stronger(c.at[i], c.at[j]) == c.at[i]) {
        c.at[j] = c.at[--c.n];
        i = j = 0;
      }
    }
  for (uint32_t i = 1; i < c.n && !n->shape.n; i++)
    for (uint32_t j = i; j && isum_order(c.at[j - 1], c.at[j]) > 0; j--) {
      UOp *t = c.at[j];
      c.at[j] = c.at[j - 1], c.at[j - 1] = t;
    }
  UOp *all = c.at[0];
  for (uint32_t i = 1; i < c.n; i++) all = uop2(rw->job, OP_AND, all, c.at[i]);
  return all == n ? NULL : all;
}

#include "compiler/rules/symbolic.inc"
