/* Every node goes through uop_make only after its rule has been checked in the caller's terms. The
 * splat shortcuts are the only simplification: the rules do the rest. */
#include "compiler/frontend/build.h"

#include <assert.h>
#include <stdarg.h>

const char *shape_text(Job *job, Ints shape) {
  const char *text = "[";
  for (uint32_t i = 0; i < shape.n; i++)
    text = arena_printf(&job->arena, "%s%s%s", text, i ? ", " : "", dim_text(job, shape.at[i]));
  return arena_printf(&job->arena, "%s]", text);
}

int64_t shape_check(Job *job, Ints shape, int64_t max, const char *what) {
  int64_t n = 1; /* elements when every symbolic dimension is at its lower bound, or 1 */
  for (uint32_t i = 0; i < shape.n; i++)
    if (!dim_le(job, 0, shape.at[i]))
      job_abort(job, FAIL(INVALID_ARGUMENT, "%s: dimension %u %s negative in shape %s", what, i,
                          dim_is_static(shape.at[i]) ? "is" : "may be", shape_text(job, shape)));
  if (shape.n > MAX_DIMS)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%s: rank %u, at most %d", what, shape.n, MAX_DIMS));
  for (uint32_t i = 0; i < shape.n; i++) {
    int64_t d = dim_low(shape.at[i]) > 0 ? dim_low(shape.at[i]) : 1;
    if (n > max / d)
      job_abort(job, FAIL(INVALID_ARGUMENT, "%s: shape %s has more than %lld elements", what,
                          shape_text(job, shape), (long long)max));
    n *= d;
  }
  return dims_numel(job, shape);
}

size_t axis_check(Job *job, int64_t axis, size_t rank) {
  int64_t r = (int64_t)rank;
  if (axis < -r || axis >= r)
    job_abort(job, FAIL(INVALID_ARGUMENT, "axis %lld is outside [%lld, %lld)", (long long)axis,
                        (long long)-r, (long long)r));
  return (size_t)(axis < 0 ? axis + r : axis);
}

/* -- constants ------------------------------------------------------------------------------- */

UOp *build_num(Job *job, const UOp *like, double v) { return uop_number(job, uop_dtype(like), v); }

UOp *build_splat_value(UOp *u) {
  while (u->op == OP_RESHAPE || u->op == OP_EXPAND) u = u->src[0];
  return u->op == OP_CONST ? u : NULL;
}

UOp *build_splat(Job *job, UOp *scalar, Ints shape) {
  shape_check(job, shape, MAX_NUMEL, "result");
  if (!shape.n) return scalar;
  int64_t ones[MAX_DIMS];
  bool same = true;
  for (uint32_t i = 0; i < shape.n; i++) {
    ones[i] = 1;
    if (shape.at[i] != 1) same = false;
  }
  UOp *u = uop_make(job, OP_RESHAPE, DT_VOID, arg_ints(ones, shape.n), &scalar, 1);
  return same ? u : uop_make(job, OP_EXPAND, DT_VOID, arg_ints(shape.at, shape.n), &u, 1);
}

/* -- elementwise ----------------------------------------------------------------------------- */

/* -- sizes that a run decides ---------------------------------------------------------------- */

UOp *build_size(Job *job, int64_t d) {
  if (dim_is_static(d)) return uop_int(job, DT_I64, d);
  return uop_cast(job, dim_uop(job, d), DT_I64);
}

UOp *build_size_num(Job *job, const UOp *like, int64_t d) {
  if (dim_is_static(d)) return build_num(job, like, (double)d);
  return uop_cast(job, build_size(job, d), uop_dtype(like));
}

/* Elements 0, 1, ... d - 1 of an axis; the last one again where x has fewer. Only for an axis that
 * has d elements or 1, which the run checks. */
static UOp *stretch(Job *job, UOp *x, size_t axis, int64_t d, bool repeat) {
  UOp *at = build_arange(job, DT_I64, d);
  if (repeat) {
    UOp *last = build2(job, OP_SUB, build_size(job, x->shape.at[axis]), uop_int(job, DT_I64, 1));
    at = build2(job, OP_MIN, at, last);
  }
  return build_gather(job, x, at, axis);
}

static UOp *sizes_equal(Job *job, int64_t a, int64_t b) {
  return build2(job, OP_CMPEQ, build_size(job, a), build_size(job, b));
}

bool build_may_equal(int64_t a, int64_t b) {
  if (a == b) return true;
  if (dim_is_static(a) && dim_is_static(b)) return false;
  return dim_low(a) <= dim_high(b) && dim_low(b) <= dim_high(a);
}

UOp *build_fit(Job *job, UOp *x, size_t axis, int64_t d) {
  int64_t have = x->shape.at[axis];
  if (have == d) return x;
  assert(build_may_equal(have, d));
  front_require(
      job, sizes_equal(job, have, d),
      arena_printf(&job->arena, "sizes %s and %s differ", dim_text(job, have), dim_text(job, d)));
  UOp *c = build_splat_value(x);
  if (!c) return stretch(job, x, axis, d, false);
  int64_t dims[MAX_DIMS];
  for (uint32_t i = 0; i < x->shape.n; i++) dims[i] = i == axis ? d : x->shape.at[i];
  return build_splat(job, c, shape_make(dims, x->shape.n));
}

/* The size that axes of sizes a and b broadcast to, at least one of them symbolic, when each may be
 * 1 in some runs. */
static int64_t meet(Job *job, int64_t a, int64_t b) {
  if (dim_is_static(a) && a > 1) return a;
  if (dim_is_static(b) && b > 1) return b;
  if (dim_low(a) > 1) return a;
  if (dim_low(b) > 1) return b;
  int64_t more = dim_max(job, a, b);
  if (dim_low(a) > 0 && dim_low(b) > 0) return more;
  return dim_mul(job, more, dim_min(job, dim_min(job, a, b), 1));
}

/* Broadcasts one axis that a run finds to have d elements, or 1. */
static UOp *stretch_axis(Job *job, UOp *x, size_t axis, int64_t d) {
  int64_t have = x->shape.at[axis];
  UOp *one = sizes_equal(job, have, 1), *ok = sizes_equal(job, have, d);
  bool may_be_one = dim_low(have) <= 1;
  if (may_be_one) ok = build2(job, OP_OR, ok, one);
  front_require(job, ok,
                arena_printf(&job->arena, "an axis of size %s does not broadcast to %s",
                             dim_text(job, have), dim_text(job, d)));
  return build_splat_value(x) ? x : stretch(job, x, axis, d, may_be_one);
}

Ints build_broadcast(Job *job, Ints a, Ints b, int64_t *dims) {
  uint32_t n = a.n > b.n ? a.n : b.n;
  for (uint32_t i = 0; i < n; i++) {
    int64_t da = i < n - a.n ? 1 : a.at[i - (n - a.n)];
    int64_t db = i < n - b.n ? 1 : b.at[i - (n - b.n)];
    bool may = build_may_equal(da, db) || (dim_low(da) <= 1 && dim_high(da) >= 1) ||
               (dim_low(db) <= 1 && dim_high(db) >= 1);
    if (!may)
      job_abort(job, FAIL(INVALID_ARGUMENT, "shapes %s and %s do not broadcast", shape_text(job, a),
                          shape_text(job, b)));
    dims[i] = da == 1 || da == db ? db : db == 1 ? da : meet(job, da, db);
  }
  Ints shape = {dims, n};
  shape_check(job, shape, MAX_NUMEL, "result of broadcasting");
  return shape;
}

/* The sources of an elementwise op, made equal in shape; splats become rank 0. */
static UOp *elementwise(Job *job, Op op, DType dtype, UOp **src, size_t n) {
  int64_t dims[2][MAX_DIMS];
  Ints shape = {dims[0], 0};
  bool all = true;
  for (size_t i = 0; i < n; i++) {
    shape = build_broadcast(job, shape, src[i]->shape, dims[(i + 1) & 1]);
    UOp *c = build_splat_value(src[i]);
    if (!c) all = false;
  }
  for (size_t i = 0; i < n; i++) {
    UOp *c = build_splat_value(src[i]);
    src[i] = c ? c : build_expand(job, src[i], shape);
  }
  UOp *u = uop_make(job, op, dtype, arg_none(), src, n);
  return all ? build_splat(job, u, shape) : u;
}

static const char *dtype_name(const UOp *u) { return dtype_info[u->dtype].name; }

static void check_class(Job *job, Op op, const UOp *a) {
  uint32_t flags = op_info[op].flags;
  DType d = uop_dtype(a);
  const char *want = NULL;
  if ((flags & OPF_FLT) && !dtype_is_float(d)) want = "a float dtype";
  if ((flags & OPF_INT) && dtype_is_float(d)) want = "an integer dtype";
  if ((flags & OPF_ARITH) && dtype_is_bool(d)) want = "a numeric dtype";
  if (want)
    job_abort(job,
              FAIL(INVALID_ARGUMENT, "%s needs %s, got %s", op_info[op].name, want, dtype_name(a)));
}

DType build_work(DType d) {
  if (!dtype_is_storage(d)) return d;
  return dtype_is_float(d) ? DT_F32 : dtype_is_uint(d) ? DT_U32 : DT_I32;
}

static UOp *working(Job *job, UOp *x) { return build_cast(job, x, build_work(uop_dtype(x))); }

/* The result of an op whose sources had storage dtype d. */
static UOp *stored(Job *job, UOp *r, DType d) {
  return uop_dtype(r) == build_work(d) ? build_cast(job, r, d) : r;
}

UOp *build1(Job *job, Op op, UOp *a) {
  check_class(job, op, a);
  DType d = uop_dtype(a);
  if (dtype_is_storage(d)) return stored(job, build1(job, op, working(job, a)), d);
  return elementwise(job, op, DT_VOID, (UOp *[]){a}, 1);
}

static void check_same(Job *job, Op op, const UOp *a, const UOp *b) {
  if (a->dtype != b->dtype)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%s of different dtypes: %s and %s", op_info[op].name,
                        dtype_name(a), dtype_name(b)));
}

UOp *build2(Job *job, Op op, UOp *a, UOp *b) {
  check_same(job, op, a, b);
  check_class(job, op, a);
  DType d = uop_dtype(a);
  if (dtype_is_storage(d)) return stored(job, build2(job, op, working(job, a), working(job, b)), d);
  return elementwise(job, op, DT_VOID, (UOp *[]){a, b}, 2);
}

UOp *build_where(Job *job, UOp *cond, UOp *a, UOp *b) {
  if (!dtype_is_bool(uop_dtype(cond)))
    job_abort(job,
              FAIL(INVALID_ARGUMENT, "condition of dtype %s, expected bool", dtype_name(cond)));
  check_same(job, OP_WHERE, a, b);
  return elementwise(job, OP_WHERE, DT_VOID, (UOp *[]){cond, a, b}, 3);
}

UOp *build_cast(Job *job, UOp *a, DType dtype) {
  if (uop_dtype(a) == dtype) return a;
  return elementwise(job, OP_CAST, dtype, (UOp *[]){a}, 1);
}

UOp *build_div(Job *job, UOp *a, UOp *b) {
  return build2(job, dtype_is_float(uop_dtype(a)) ? OP_FDIV : OP_IDIV, a, b);
}

UOp *build_not(Job *job, UOp *a) {
  if (!dtype_is_bool(uop_dtype(a)))
    job_abort(job, FAIL(INVALID_ARGUMENT, "logical not of dtype %s, expected bool", dtype_name(a)));
  return build2(job, OP_XOR, a, uop_int(job, DT_BOOL, 1));
}

/* -- movement -------------------------------------------------------------------------------- */

/* To a shape that has as many elements only in the runs that may go on: element by element from
 * the flattened source. */
static UOp *reshape_late(Job *job, UOp *x, Ints shape) {
  int64_t flat = dims_numel(job, x->shape), stride = 1;
  front_require(job, sizes_equal(job, flat, dims_numel(job, shape)),
                arena_printf(&job->arena, "cannot reshape %s to %s", shape_text(job, x->shape),
                             shape_text(job, shape)));
  UOp *c = build_splat_value(x), *at = NULL;
  if (c) return build_splat(job, c, shape);
  for (size_t i = shape.n; i-- > 0;) {
    UOp *k = build2(job, OP_MUL, build_iota(job, DT_I64, i, shape), build_size(job, stride));
    at = at ? build2(job, OP_ADD, at, k) : k;
    stride = dim_mul(job, stride, shape.at[i]);
  }
  if (!at) at = uop_int(job, DT_I64, 0);
  return build_gather(job, build_reshape(job, x, shape_make(&flat, 1)), at, 0);
}

UOp *build_reshape(Job *job, UOp *x, Ints shape) {
  if (shape_eq(x->shape, shape)) return x;
  int64_t n = shape_check(job, shape, MAX_NUMEL, "reshape"), have = dims_numel(job, x->shape);
  if (n != have && build_may_equal(n, have)) return reshape_late(job, x, shape);
  if (n != have)
    job_abort(job, FAIL(INVALID_ARGUMENT, "cannot reshape %s to %s", shape_text(job, x->shape),
                        shape_text(job, shape)));
  UOp *c = build_splat_value(x);
  if (c) return build_splat(job, c, shape);
  if (x->op == OP_RESHAPE) return build_reshape(job, x->src[0], shape);
  return uop_make(job, OP_RESHAPE, DT_VOID, arg_ints(shape.at, shape.n), &x, 1);
}

UOp *build_reshape_v(Job *job, UOp *x, size_t n, ...) {
  int64_t dims[MAX_DIMS];
  va_list ap;
  va_start(ap, n);
  for (size_t i = 0; i < n; i++) dims[i] = va_arg(ap, int64_t);
  va_end(ap);
  return build_reshape(job, x, shape_make(dims, n));
}

UOp *build_permute(Job *job, UOp *x, const int64_t *order, size_t n) {
  uint32_t seen = 0;
  bool identity = true;
  int64_t dims[MAX_DIMS];
  if (n != x->shape.n)
    job_abort(job, FAIL(INVALID_ARGUMENT, "permutation of %zu axes for a tensor of rank %u", n,
                        x->shape.n));
  for (size_t i = 0; i < n; i++) {
    if (order[i] < 0 || order[i] >= (int64_t)n || (seen & axis_bit((size_t)order[i])))
      job_abort(job, FAIL(INVALID_ARGUMENT, "%s is not a permutation of the axes",
                          shape_text(job, shape_make(order, n))));
    seen |= axis_bit((size_t)order[i]);
    if (order[i] != (int64_t)i) identity = false;
    dims[i] = x->shape.at[order[i]];
  }
  if (identity) return x;
  UOp *c = build_splat_value(x);
  if (c) return build_splat(job, c, shape_make(dims, n));
  return uop_make(job, OP_PERMUTE, DT_VOID, arg_ints(order, n), &x, 1);
}

UOp *build_transpose(Job *job, UOp *x, size_t axis0, size_t axis1) {
  int64_t order[MAX_DIMS];
  for (uint32_t i = 0; i < x->shape.n; i++) order[i] = i;
  order[axis0] = (int64_t)axis1;
  order[axis1] = (int64_t)axis0;
  return build_permute(job, x, order, x->shape.n);
}

UOp *build_expand(Job *job, UOp *x, Ints shape) {
  int64_t dims[MAX_DIMS];
  if (shape_eq(x->shape, shape)) return x;
  UOp *c = build_splat_value(x);
  bool fits = shape.n >= x->shape.n;
  uint32_t lead = fits ? shape.n - x->shape.n : 0;
  for (uint32_t i = 0; fits && i < shape.n; i++) {
    dims[i] = i < lead ? 1 : x->shape.at[i - lead];
    if (dims[i] == 1 || dims[i] == shape.at[i]) continue;
    bool one = dim_low(dims[i]) <= 1 && dim_high(dims[i]) >= 1;
    fits = !dim_is_static(dims[i]) || !dim_is_static(shape.at[i]);
    fits = fits && (one || build_may_equal(dims[i], shape.at[i]));
  }
  if (!fits)
    job_abort(job, FAIL(INVALID_ARGUMENT, "cannot expand %s to %s", shape_text(job, x->shape),
                        shape_text(job, shape)));
  shape_check(job, shape, MAX_NUMEL, "expand");
  UOp *y = build_reshape(job, x, shape_make(dims, shape.n));
  for (uint32_t i = 0; i < shape.n; i++)
    if (dims[i] != 1 && dims[i] != shape.at[i]) y = stretch_axis(job, y, i, shape.at[i]);
  if (c) return build_splat(job, c, shape);
  if (shape_eq(y->shape, shape)) return y;
  return uop_make(job, OP_EXPAND, DT_VOID, arg_ints(shape.at, shape.n), &y, 1);
}

/* begin <= end <= size for every value of the symbols. */
static bool inside(Job *job, int64_t begin, int64_t end, int64_t size) {
  return dim_le(job, 0, begin) && dim_le(job, begin, end) && dim_le(job, end, size);
}

static UOp *shrink(Job *job, UOp *x, const int64_t *begin_end) {
  int64_t dims[MAX_DIMS];
  bool whole = true;
  for (size_t i = 0; i < x->shape.n; i++) {
    int64_t b = begin_end[2 * i], e = begin_end[2 * i + 1];
    if (!inside(job, b, e, x->shape.at[i]))
      job_abort(job, FAIL(INVALID_ARGUMENT, "range [%s, %s) of axis %zu in shape %s",
                          dim_text(job, b), dim_text(job, e), i, shape_text(job, x->shape)));
    dims[i] = dim_sub(job, e, b);
    if (dims[i] != x->shape.at[i]) whole = false;
  }
  if (whole) return x;
  UOp *c = build_splat_value(x);
  if (c) return build_splat(job, c, shape_make(dims, x->shape.n));
  return uop_make(job, OP_SHRINK, DT_VOID, arg_ints(begin_end, 2 * (size_t)x->shape.n), &x, 1);
}

/* A padding that may be negative in some runs and positive in others is out of reach. */
static void check_padding(Job *job, int64_t pad, int64_t size, size_t axis, Ints shape) {
  bool adds = dim_le(job, 0, pad) && dim_low(pad) <= MAX_NUMEL;
  bool cuts = dim_high(pad) <= 0 && dim_le(job, dim_sub(job, 0, pad), size);
  if (adds || cuts) return;
  if (dim_is_static(pad) || dim_high(pad) <= 0)
    job_abort(job, FAIL(INVALID_ARGUMENT, "padding %s of axis %zu in shape %s", dim_text(job, pad),
                        axis, shape_text(job, shape)));
  job_abort(job, FAIL(UNIMPLEMENTED,
                      "padding %s of axis %zu in shape %s: adding in some runs and cropping in "
                      "others is not supported",
                      dim_text(job, pad), axis, shape_text(job, shape)));
}

UOp *build_pad(Job *job, UOp *x, const int64_t *pads, UOp *fill) {
  int64_t crop[2 * MAX_DIMS], grow[2 * MAX_DIMS], dims[MAX_DIMS];
  bool any = false;
  size_t n = x->shape.n;
  check_same(job, OP_PAD, x, fill);
  for (size_t i = 0; i < n; i++) {
    int64_t lo = pads[2 * i], hi = pads[2 * i + 1], d = x->shape.at[i];
    check_padding(job, lo, d, i, x->shape);
    check_padding(job, hi, d, i, x->shape);
    bool more_lo = dim_le(job, 0, lo) && lo, more_hi = dim_le(job, 0, hi) && hi;
    crop[2 * i] = more_lo ? 0 : dim_sub(job, 0, lo);
    crop[2 * i + 1] = more_hi ? d : dim_add(job, d, hi);
    grow[2 * i] = more_lo ? lo : 0;
    grow[2 * i + 1] = more_hi ? hi : 0;
    if (more_lo || more_hi) any = true;
  }
  x = shrink(job, x, crop);
  for (size_t i = 0; i < n; i++)
    dims[i] = dim_add(job, x->shape.at[i], dim_add(job, grow[2 * i], grow[2 * i + 1]));
  shape_check(job, shape_make(dims, n), MAX_NUMEL, "pad");
  if (!any) return x;
  UOp *f = build_splat_value(fill);
  fill = f ? f : fill;
  if (build_splat_value(x) == fill) return build_splat(job, fill, shape_make(dims, n));
  if (fill->shape.n) fill = build_reshape(job, fill, (Ints){0});
  return uop_make(job, OP_PAD, DT_VOID, arg_ints(grow, 2 * n), (UOp *[]){x, fill}, 2);
}

UOp *build_pad_axis(Job *job, UOp *x, size_t axis, int64_t lo, int64_t hi, UOp *fill) {
  int64_t pads[2 * MAX_DIMS] = {0};
  pads[2 * axis] = lo;
  pads[2 * axis + 1] = hi;
  return build_pad(job, x, pads, fill);
}

UOp *build_flip(Job *job, UOp *x, size_t axis) {
  int64_t a = (int64_t)axis;
  if (x->shape.at[axis] == 1 || build_splat_value(x)) return x;
  return uop_make(job, OP_FLIP, DT_VOID, arg_ints(&a, 1), &x, 1);
}

/* A slice that cannot be proven to lie inside the axis, though it does in every run. */
static UOp *slice_late(Job *job, UOp *x, size_t axis, int64_t start, int64_t count, int64_t step) {
  UOp *at = build2(job, OP_MUL, build_arange(job, DT_I64, count), uop_int(job, DT_I64, step));
  return build_gather(job, x, build2(job, OP_ADD, at, build_size(job, start)), axis);
}

UOp *build_slice(Job *job, UOp *x, size_t axis, int64_t start, int64_t count, int64_t step) {
  int64_t be[2 * MAX_DIMS], d = x->shape.at[axis];
  bool fixed = dim_is_static(start) && dim_is_static(count) && dim_is_static(d);
  bool whole = step == 1 || step == -1 || dim_low(count) > 0;
  for (size_t i = 0; i < x->shape.n; i++) {
    be[2 * i] = 0;
    be[2 * i + 1] = x->shape.at[i];
  }
  int64_t more = count ? dim_mul(job, dim_sub(job, count, 1), step) : 0;
  int64_t last = dim_add(job, start, more);
  if (!fixed) {
    int64_t low = step > 0 ? start : last, high = dim_add(job, step > 0 ? last : start, 1);
    bool in = inside(job, low, high, d);
    if (!whole || !in) return slice_late(job, x, axis, start, count, step);
  }
  be[2 * axis] = count ? (step > 0 ? start : last) : 0;
  be[2 * axis + 1] = count ? dim_add(job, step > 0 ? last : start, 1) : 0;
  x = shrink(job, x, be);
  if (dim_is_static(count) && count <= 1) return x;
  if (step < 0) x = build_flip(job, x, axis);
  int64_t stride = step < 0 ? -step : step;
  if (stride == 1) return x;
  return build_squeeze(job, build_window(job, x, axis, 1, stride, 1), axis + 1);
}

/* x with at least `reach` elements along the axis: the run fails when it has fewer, so what is
 * added is never read. */
static UOp *at_least(Job *job, UOp *x, size_t axis, int64_t reach) {
  int64_t d = x->shape.at[axis];
  const char *why =
      arena_printf(&job->arena, "window of %lld elements over axis %zu of %s elements",
                   (long long)reach, axis, dim_text(job, d));
  if (dim_high(d) < reach) job_abort(job, FAIL(INVALID_ARGUMENT, "%s", why));
  front_require(job, build2(job, OP_CMPLE, uop_int(job, DT_I64, reach), build_size(job, d)), why);
  UOp *at = build_arange(job, DT_I64, dim_max(job, d, reach)), *c = build_splat_value(x);
  if (!c) return build_gather(job, x, at, axis);
  int64_t dims[MAX_DIMS];
  for (uint32_t i = 0; i < x->shape.n; i++) dims[i] = i == axis ? at->shape.at[0] : x->shape.at[i];
  return build_splat(job, c, shape_make(dims, x->shape.n));
}

UOp *build_window(Job *job, UOp *x, size_t axis, int64_t size, int64_t stride, int64_t dilation) {
  int64_t dims[MAX_DIMS], args[4] = {(int64_t)axis, size, stride, dilation};
  if (size < 1 || stride < 1 || dilation < 1 || size > MAX_NUMEL / dilation)
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "window of size %lld, stride %lld, dilation %lld: all must be positive",
                        (long long)size, (long long)stride, (long long)dilation));
  int64_t d = x->shape.at[axis], reach = dilation * (size - 1) + 1;
  if (!dim_le(job, reach, d)) {
    x = at_least(job, x, axis, reach);
    d = x->shape.at[axis];
  }
  uint32_t n = 0;
  for (uint32_t i = 0; i < x->shape.n; i++) {
    dims[n++] = i == axis ? dim_add(job, dim_floordiv(job, dim_sub(job, d, reach), stride), 1)
                          : x->shape.at[i];
    if (i == axis) dims[n++] = size;
    if (n + 1 >= MAX_DIMS) job_abort(job, FAIL(INVALID_ARGUMENT, "too many axes"));
  }
  shape_check(job, shape_make(dims, n), MAX_NUMEL, "window");
  UOp *c = build_splat_value(x);
  if (c) return build_splat(job, c, shape_make(dims, n));
  return uop_make(job, OP_WINDOW, DT_VOID, arg_ints(args, 4), &x, 1);
}

/* xs[i] made to fit xs[0] in all axes but one. */
static UOp *cat_source(Job *job, UOp *const *xs, size_t i, size_t axis) {
  UOp *x = xs[i];
  check_same(job, OP_CAT, xs[0], x);
  bool same = x->shape.n == xs[0]->shape.n;
  for (uint32_t d = 0; same && d < x->shape.n; d++)
    if (d != axis && !build_may_equal(x->shape.at[d], xs[0]->shape.at[d])) same = false;
  if (!same)
    job_abort(job, FAIL(INVALID_ARGUMENT, "shapes %s and %s cannot be joined along axis %zu",
                        shape_text(job, xs[0]->shape), shape_text(job, x->shape), axis));
  for (uint32_t d = 0; d < x->shape.n; d++)
    if (d != axis) x = build_fit(job, x, d, xs[0]->shape.at[d]);
  return x;
}

UOp *build_cat(Job *job, UOp *const *xs, size_t n, size_t axis) {
  UOp **src = arena_array(&job->arena, n, sizeof *src);
  int64_t dims[MAX_DIMS], sum = 0;
  size_t k = 0;
  bool splat = true;
  UOp *c = build_splat_value(xs[0]);
  for (size_t i = 0; i < n; i++) {
    UOp *x = cat_source(job, xs, i, axis);
    if (dim_low(sum) > MAX_NUMEL) job_abort(job, FAIL(INVALID_ARGUMENT, "the result is too large"));
    sum = dim_add(job, sum, x->shape.at[axis]);
    if (!c || build_splat_value(x) != c) splat = false;
    if (x->shape.at[axis]) src[k++] = x;
  }
  for (uint32_t d = 0; d < xs[0]->shape.n; d++) dims[d] = d == axis ? sum : xs[0]->shape.at[d];
  shape_check(job, shape_make(dims, xs[0]->shape.n), MAX_NUMEL, "concatenation");
  if (splat) return build_splat(job, c, shape_make(dims, xs[0]->shape.n));
  if (!k) return xs[0];
  return k == 1 ? src[0] : uop_make(job, OP_CAT, DT_VOID, arg_i((int64_t)axis), src, k);
}

UOp *build_unsqueeze(Job *job, UOp *x, size_t axis) {
  int64_t dims[MAX_DIMS];
  uint32_t n = 0;
  if (x->shape.n + 1 > MAX_DIMS) job_abort(job, FAIL(INVALID_ARGUMENT, "too many axes"));
  for (uint32_t i = 0; i <= x->shape.n; i++) {
    if (i == axis) dims[n++] = 1;
    if (i < x->shape.n) dims[n++] = x->shape.at[i];
  }
  return build_reshape(job, x, shape_make(dims, n));
}

UOp *build_squeeze(Job *job, UOp *x, size_t axis) {
  int64_t dims[MAX_DIMS];
  uint32_t n = 0;
  for (uint32_t i = 0; i < x->shape.n; i++)
    if (i != axis) dims[n++] = x->shape.at[i];
  return build_reshape(job, x, shape_make(dims, n));
}

UOp *build_iota(Job *job, DType dtype, size_t axis, Ints shape) {
  shape_check(job, shape, MAX_NUMEL, "iota");
  if (dtype_is_storage(dtype)) return build_cast(job, build_iota(job, DT_I64, axis, shape), dtype);
  return uop_make(job, OP_IOTA, dtype, arg_both((int64_t)axis, shape.at, shape.n), NULL, 0);
}

UOp *build_arange(Job *job, DType dtype, int64_t n) {
  return build_iota(job, dtype, 0, shape_make(&n, 1));
}

UOp *build_gather(Job *job, UOp *data, UOp *indices, size_t axis) {
  int64_t dims[MAX_DIMS];
  uint32_t n = 0;
  if (!dtype_is_int(uop_dtype(indices)))
    job_abort(job, FAIL(INVALID_ARGUMENT, "indices of dtype %s, expected an integer dtype",
                        dtype_name(indices)));
  if (data->shape.n + indices->shape.n > MAX_DIMS)
    job_abort(job, FAIL(INVALID_ARGUMENT, "too many axes"));
  for (uint32_t i = 0; i < data->shape.n; i++) {
    if (i != axis) dims[n++] = data->shape.at[i];
    for (uint32_t k = 0; i == axis && k < indices->shape.n; k++) dims[n++] = indices->shape.at[k];
  }
  shape_check(job, shape_make(dims, n), MAX_NUMEL, "gather");
  return uop_make(job, OP_GATHER, DT_VOID, arg_i((int64_t)axis), (UOp *[]){data, indices}, 2);
}

/* -- reductions ------------------------------------------------------------------------------ */

uint32_t axes_all(const UOp *x) { return x->shape.n >= 32 ? UINT32_MAX : (1u << x->shape.n) - 1; }

int64_t axes_numel(Job *job, const UOp *x, uint32_t axes) {
  int64_t n = 1;
  for (uint32_t i = 0; i < x->shape.n; i++)
    if (axes & axis_bit(i)) n = dim_mul(job, n, x->shape.at[i]);
  return n;
}

/* In the wider dtype. The maximum or minimum of nothing stays inside the range of d. */
static UOp *reduce_storage(Job *job, Op op, UOp *x, uint32_t axes, bool keep) {
  DType d = uop_dtype(x);
  const FloatFormat *f = float_format(d);
  int64_t top = 1 << (dtype_info[d].bits - 1);
  double lo = dtype_is_uint(d) ? 0 : -(double)top,
         hi = (double)(dtype_is_uint(d) ? 2 * top : top) - 1;
  if (f) lo = f->specials == FS_E8M0 ? 0x1p-127 : -f->max, hi = f->max;
  UOp *r = build_reduce(job, op, working(job, x), axes, keep);
  bool infinite = f && f->specials == FS_IEEE;
  if (op == OP_MAX && !infinite) r = build2(job, OP_MAX, r, build_num(job, r, lo));
  if (op == OP_MIN && !infinite) r = build2(job, OP_MIN, r, build_num(job, r, hi));
  return build_cast(job, r, d);
}

UOp *build_reduce(Job *job, Op op, UOp *x, uint32_t axes, bool keep) {
  int64_t list[MAX_DIMS], dims[MAX_DIMS];
  size_t n = 0;
  uint32_t rank = 0;
  check_class(job, op, x);
  if (dtype_is_storage(uop_dtype(x))) return reduce_storage(job, op, x, axes, keep);
  for (uint32_t i = 0; i < x->shape.n; i++) {
    if (!(axes & axis_bit(i)))
      dims[rank++] = x->shape.at[i];
    else if (x->shape.at[i] != 1)
      list[n++] = i;
  }
  if (n) x = uop_make(job, OP_REDUCE, DT_VOID, arg_both(op, list, n), &x, 1);
  return keep ? x : build_reshape(job, x, shape_make(dims, rank));
}

UOp *build_widen(Job *job, UOp *x) {
  bool half = x->dtype == DT_F16 || x->dtype == DT_BF16;
  return half ? build_cast(job, x, DT_F32) : working(job, x);
}

UOp *build_mean(Job *job, UOp *x, uint32_t axes, bool keep) {
  int64_t n = axes_numel(job, x, axes);
  UOp *sum = build_reduce(job, OP_ADD, build_widen(job, x), axes, keep);
  return build_cast(job, build_div(job, sum, build_size_num(job, sum, n)), uop_dtype(x));
}
