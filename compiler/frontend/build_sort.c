/* The k-th chosen element is found by binary search in the prefix sums.
 *
 * Sorting is merging: runs of 1, 2, 4, ... elements, and every element of a merged run finds its
 * source by searching along its diagonal of the two runs (merge path), so that a level is one
 * gather. The number of levels follows from the largest size. Searches are unrolled; a position
 * beyond the vector is never taken, because the ends of the runs are part of the search. */
#include "compiler/frontend/build_sort.h"

static UOp *i64(Job *job, int64_t v) { return uop_int(job, DT_I64, v); }
static UOp *stored(Job *job, UOp *u) {
  return build_splat_value(u) ? u : uop1(job, OP_CONTIGUOUS, u);
}

/* -- keys -------------------------------------------------------------------------------------- */

UOp *build_sort_key(Job *job, UOp *x) {
  DType d = uop_dtype(x);
  if (d == DT_U64) {
    x = build2(job, OP_XOR, x, uop_int(job, DT_U64, INT64_MIN));
    return uop_make(job, OP_BITCAST, DT_I64, arg_none(), &x, 1);
  }
  if (!dtype_is_float(d)) return build_cast(job, x, DT_I64);
  if (d != DT_F64) x = build_cast(job, x, DT_F32);
  DType bits = d == DT_F64 ? DT_I64 : DT_I32;
  UOp *nan = build2(job, OP_CMPNE, x, x);
  UOp *zero = build2(job, OP_CMPEQ, x, build_num(job, x, 0));
  UOp *k = uop_make(job, OP_BITCAST, bits, arg_none(), &x, 1);
  UOp *neg = build2(job, OP_CMPLT, k, build_num(job, k, 0));
  UOp *low = uop_int(job, bits, d == DT_F64 ? INT64_MIN : INT32_MIN);
  /* the magnitude of a negative number grows with its bits */
  k = build_where(job, neg, build2(job, OP_SUB, low, k), k);
  k = build_where(job, zero, build_num(job, k, 0), k);
  k = build_cast(job, k, DT_I64);
  return build_where(job, nan, i64(job, INT64_MAX), k);
}

/* -- prefix sums ------------------------------------------------------------------------------- */

/* The identity of + or *, of x's dtype. */
static UOp *neutral(Job *job, const UOp *x, Op op) {
  return build_num(job, x, op == OP_MUL ? 1 : 0);
}

UOp *build_shift(Job *job, Op op, UOp *x, size_t axis) {
  UOp *wide = build_pad_axis(job, x, axis, 1, 0, neutral(job, x, op));
  return build_slice(job, wide, axis, 0, x->shape.at[axis], 1);
}

UOp *build_scan(Job *job, Op op, UOp *x, size_t axis) {
  DType d = uop_dtype(x), work = dtype_is_bool(d) ? DT_U8 : build_work(d);
  Arg arg = arg_both(op, &(int64_t){(int64_t)axis}, 1);
  x = build_cast(job, x, work);
  return build_cast(job, uop_make(job, OP_SCAN, DT_VOID, arg, &x, 1), d);
}

/* -- searching --------------------------------------------------------------------------------- */

UOp *build_count_below(Job *job, UOp *ascending, UOp *value, bool strict) {
  UOp *n = build_size(job, ascending->shape.at[0]), *count = i64(job, 0);
  int64_t step = 1;
  while (step <= dim_high(ascending->shape.at[0]) / 2) step *= 2;
  for (; step; step /= 2) { /* count + step elements, when the last of them is below */
    UOp *more = build2(job, OP_ADD, count, i64(job, step));
    UOp *at = build2(job, OP_SUB, more, i64(job, 1));
    if (!at->shape.n) at = build_expand(job, at, value->shape);
    UOp *last = build_gather(job, ascending, at, 0);
    UOp *below = build2(job, strict ? OP_CMPLT : OP_CMPLE, last, value);
    below = build2(job, OP_AND, below, build2(job, OP_CMPLE, more, n));
    count = build_where(job, below, more, count);
  }
  return count;
}

UOp *build_positions(Job *job, UOp *prefix, int64_t count) {
  return build_count_below(job, prefix, build_arange(job, DT_I64, count), false);
}

/* -- sorting ----------------------------------------------------------------------------------- */

UOp *build_take(Job *job, UOp *x, UOp *at) {
  int64_t n = x->shape.at[1], flat = dims_numel(job, x->shape);
  UOp *row = build_iota(job, DT_I64, 0, at->shape);
  at = build2(job, OP_ADD, build2(job, OP_MUL, row, build_size(job, n)), at);
  return build_gather(job, build_reshape(job, x, shape_make(&flat, 1)), at, 0);
}

/* Two neighbouring runs of `run` elements, seen from every element of what they merge to. */
typedef struct Merge {
  Job *job;
  UOp *keys;
  UOp *left, *right;   /* where the runs begin */
  UOp *nleft, *nright; /* their lengths; the last runs are shorter */
  UOp *place;          /* of the element in the merged run */
} Merge;

static Merge merge_begin(Job *job, UOp *keys, int64_t run) {
  Merge m = {.job = job, .keys = keys};
  UOp *n = build_size(job, keys->shape.at[1]), *k = build_iota(job, DT_I64, 1, keys->shape);
  UOp *width = i64(job, run), *both = i64(job, 2 * run);
  m.left = build2(job, OP_MUL, build2(job, OP_FLOORDIV, k, both), both);
  m.right = build2(job, OP_MIN, build2(job, OP_ADD, m.left, width), n);
  m.nleft = build2(job, OP_SUB, m.right, m.left);
  UOp *end = build2(job, OP_MIN, build2(job, OP_ADD, m.left, both), n);
  m.nright = build2(job, OP_SUB, end, m.right);
  m.place = build2(job, OP_SUB, k, m.left);
  return m;
}

/* Whether element a of the left run comes before element b of the right one. */
static UOp *left_first(const Merge *m, UOp *a, UOp *b) {
  UOp *x = build_take(m->job, m->keys, build2(m->job, OP_ADD, m->left, a));
  UOp *y = build_take(m->job, m->keys, build2(m->job, OP_ADD, m->right, b));
  return build2(m->job, OP_CMPLE, x, y);
}

/* Where each element of the merged runs comes from. */
static UOp *merge(Job *job, UOp *keys, int64_t run) {
  Merge m = merge_begin(job, keys, run);
  UOp *zero = i64(job, 0), *one = i64(job, 1);
  UOp *low = build2(job, OP_MAX, build2(job, OP_SUB, m.place, m.nright), zero);
  UOp *high = build2(job, OP_MIN, m.place, m.nleft);
  for (int64_t left = run + 1; left > 0; left /= 2) { /* low: taken from the left run before */
    UOp *mid = build2(job, OP_SHR, build2(job, OP_ADD, low, high), one);
    UOp *other = build2(job, OP_SUB, build2(job, OP_SUB, m.place, one), mid);
    UOp *open = build2(job, OP_CMPLT, low, high);
    UOp *more = build2(job, OP_AND, open, left_first(&m, mid, other));
    UOp *less = build2(job, OP_AND, open, build_not(job, more));
    low = build_where(job, more, build2(job, OP_ADD, mid, one), low);
    high = build_where(job, less, mid, high);
  }
  UOp *other = build2(job, OP_SUB, m.place, low);
  UOp *none = build2(job, OP_CMPLE, m.nright, other);
  UOp *take = build2(job, OP_OR, none, left_first(&m, low, other));
  take = build2(job, OP_AND, take, build2(job, OP_CMPLT, low, m.nleft));
  UOp *a = build2(job, OP_ADD, m.left, low), *b = build2(job, OP_ADD, m.right, other);
  return stored(job, build_where(job, take, a, b));
}

UOp *build_sort(Job *job, UOp *keys) {
  UOp *order = build_iota(job, DT_I64, 1, keys->shape);
  if (build_splat_value(keys)) return order;
  for (int64_t run = 1; run < dim_high(keys->shape.at[1]); run *= 2) {
    UOp *from = merge(job, keys, run);
    keys = stored(job, build_take(job, keys, from));
    order = stored(job, build_take(job, order, from));
  }
  return order;
}
