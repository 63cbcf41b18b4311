/* Reductions, and what is built on them: ArgMax, TopK, cumulative sums. */
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/build_sort.h"
#include "compiler/frontend/onnx_node.h"

/* What is reduced, and the shape of the result. Axes: a source from opset 18 on (ReduceSum: 13), an
 * attribute before. None means all, unless noop_with_empty_axes. */
typedef struct Reduction {
  UOp *x;
  uint32_t axes;
  bool keep;
  Ints late; /* the result's shape, when the run chooses the axes; x is then [reduced, kept] */
  int64_t dims[MAX_DIMS];
} Reduction;

/* x rearranged so that the axes which the run chooses are the rows of a matrix: element (r, k) is
 * found by splitting r over the sizes of the reduced axes and k over those of the others. */
static void reduce_late(Node *n, Reduction *red, UOp *const *on, uint32_t count) {
  Job *job = n->job;
  UOp *x = red->x, *one = uop_int(job, DT_I64, 1), *rows = one, *columns = one, *at = NULL;
  int64_t high = 1, stride = 1, flat = dims_numel(job, x->shape), dims[2];
  for (uint32_t a = 0; a < x->shape.n; a++) {
    UOp *d = build_size(job, x->shape.at[a]);
    rows = build2(job, OP_MUL, rows, build_where(job, on[a], d, one));
    columns = build2(job, OP_MUL, columns, build_where(job, on[a], one, d));
    int64_t most = dim_high(x->shape.at[a]) > 0 ? dim_high(x->shape.at[a]) : 1;
    if (__builtin_mul_overflow(high, most, &high) || high > 1ll << 40) high = 1ll << 40;
  }
  dims[0] = front_bind(n->f, rows, 0, high, node_label(n, "number of reduced elements"));
  dims[1] = front_bind(n->f, columns, 0, high, node_label(n, "number of results"));
  UOp *r = build_iota(job, DT_I64, 0, shape_make(dims, 2)), *inner = one;
  UOp *k = build_iota(job, DT_I64, 1, shape_make(dims, 2)), *outer = one;
  for (uint32_t a = x->shape.n; a-- > 0;) {
    UOp *d = build_size(job, x->shape.at[a]);
    UOp *from = build_where(job, on[a], build2(job, OP_FLOORDIV, r, inner),
                            build2(job, OP_FLOORDIV, k, outer));
    from = build2(job, OP_MUL, build2(job, OP_FLOORMOD, from, d), build_size(job, stride));
    at = at ? build2(job, OP_ADD, at, from) : from;
    inner = build2(job, OP_MUL, inner, build_where(job, on[a], d, one));
    outer = build2(job, OP_MUL, outer, build_where(job, on[a], one, d));
    stride = dim_mul(job, stride, x->shape.at[a]);
  }
  uint32_t rank = x->shape.n - (red->keep ? 0 : count);
  if (!red->keep) node_sizes_of_others(n, x, on, count, red->dims);
  for (uint32_t a = 0; red->keep && a < rank; a++) {
    UOp *d = build_where(job, on[a], one, build_size(job, x->shape.at[a]));
    int64_t most = dim_high(x->shape.at[a]) > 1 ? dim_high(x->shape.at[a]) : 1;
    red->dims[a] = front_bind(n->f, d, 0, most, node_label(n, "size"));
  }
  red->late = shape_make(red->dims, rank);
  red->x = build_gather(job, build_reshape(job, x, shape_make(&flat, 1)), at, 0);
  red->axes = axis_bit(0);
}

static void read_reduction(Node *n, Reduction *red) {
  bool given, keep = attr_int(n, "keepdims", 1) != 0;
  UOp *x = node_u(n, 0);
  uint32_t count;
  int64_t since = str_is(n->proto->op_type, "ReduceSum") ? 13 : 18;
  *red = (Reduction){.x = x, .keep = keep};
  UOp **on = x->shape.n ? node_late_axes(n, 1, since, x->shape.n, &count) : NULL;
  if (on) {
    reduce_late(n, red, on, count);
    return;
  }
  uint32_t axes = node_axes(n, 1, since, x->shape.n, &given);
  bool noop = !given && attr_int(n, "noop_with_empty_axes", 0);
  red->axes = given ? axes : noop ? 0 : axes_all(x);
  red->keep = keep || noop;
}

/* Whether the reduction itself keeps its axes. */
static bool keeps(const Reduction *red) { return red->keep || red->late.at; }

/* A reduced value in the shape of the result. */
static UOp *shaped(Node *n, const Reduction *red, UOp *y) {
  return red->late.at ? build_reshape(n->job, y, red->late) : y;
}

typedef UOp *(*MapFn)(Job *job, UOp *x);

static UOp *same(Job *job, UOp *x) {
  (void)job;
  return x;
}
static UOp *square(Job *job, UOp *x) { return build2(job, OP_MUL, x, x); }
static UOp *magnitude(Job *job, UOp *x) { return build1(job, OP_ABS, x); }
static UOp *logarithm(Job *job, UOp *x) { return build1(job, OP_LOG, x); }
static UOp *exponential(Job *job, UOp *x) { return build1(job, OP_EXP, x); }
/* Square root of an integer sum goes through f64. */
static UOp *root(Job *job, UOp *x) {
  DType d = uop_dtype(x);
  if (dtype_is_float(d)) return build1(job, OP_SQRT, x);
  return build_cast(job, build1(job, OP_SQRT, build_cast(job, x, DT_F64)), d);
}

static void reduce(Node *n, MapFn before, Op op, MapFn after) {
  Reduction red;
  read_reduction(n, &red);
  UOp *x = red.x;
  DType d = uop_dtype(x);
  if (dtype_is_bool(d)) x = build_cast(n->job, x, DT_U8);
  if (after != same) x = build_widen(n->job, x);
  x = shaped(n, &red, build_reduce(n->job, op, before(n->job, x), red.axes, keeps(&red)));
  node_out(n, 0, build_cast(n->job, after(n->job, x), d));
}

static void op_sum(Node *n) { reduce(n, same, OP_ADD, same); }
static void op_prod(Node *n) { reduce(n, same, OP_MUL, same); }
static void op_max(Node *n) { reduce(n, same, OP_MAX, same); }
static void op_min(Node *n) { reduce(n, same, OP_MIN, same); }
static void op_l1(Node *n) { reduce(n, magnitude, OP_ADD, same); }
static void op_l2(Node *n) { reduce(n, square, OP_ADD, root); }
static void op_sum_square(Node *n) { reduce(n, square, OP_ADD, same); }
static void op_log_sum(Node *n) { reduce(n, same, OP_ADD, logarithm); }

static void op_mean(Node *n) {
  Reduction red;
  read_reduction(n, &red);
  node_out(n, 0, shaped(n, &red, build_mean(n->job, red.x, red.axes, keeps(&red))));
}

/* max + log(sum(exp(x - max))), with an infinite or absent maximum counted as 0. */
static void op_log_sum_exp(Node *n) {
  Reduction red;
  read_reduction(n, &red);
  UOp *x = build_widen(n->job, red.x);
  UOp *top = build_reduce(n->job, OP_MAX, x, red.axes, true), *zero = build_num(n->job, x, 0);
  UOp *inf = build_num(n->job, x, (double)INFINITY);
  UOp *finite = build2(n->job, OP_CMPLT, build1(n->job, OP_ABS, top), inf);
  top = build_where(n->job, finite, top, zero);
  UOp *e = exponential(n->job, build2(n->job, OP_SUB, x, top));
  UOp *sum = build_reduce(n->job, OP_ADD, e, red.axes, true);
  UOp *y = build2(n->job, OP_ADD, logarithm(n->job, sum), top);
  y = shaped(n, &red, build_reduce(n->job, OP_ADD, y, keeps(&red) ? 0 : red.axes, false));
  node_out(n, 0, build_cast(n->job, y, uop_dtype(red.x)));
}

static void arg_extreme(Node *n, Op op) {
  UOp *x = node_u(n, 0);
  size_t axis = axis_check(n->job, attr_int(n, "axis", 0), x->shape.n);
  if (!x->shape.at[axis])
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "axis %zu of shape %s is empty", axis,
                           shape_text(n->job, x->shape)));
  UOp *at = build_argmax(n->job, x, axis, op, attr_int(n, "select_last_index", 0) != 0);
  node_out(n, 0, attr_int(n, "keepdims", 1) ? at : build_squeeze(n->job, at, axis));
}
static void op_arg_max(Node *n) { arg_extreme(n, OP_MAX); }
static void op_arg_min(Node *n) { arg_extreme(n, OP_MIN); }

/* -- prefix sums and products ---------------------------------------------------------------- */

enum { SCAN_SHORT = 128, SCAN_BLOCK = 32 };

/* The identity of + or *, of x's dtype. */
static UOp *neutral(Job *job, const UOp *x, Op op) {
  return build_num(job, x, op == OP_MUL ? 1 : 0);
}

/* Every prefix on its own: quadratic, in one kernel. */
static UOp *scan_short(Job *job, Op op, UOp *x, size_t axis) {
  int64_t d = x->shape.at[axis], dims[MAX_DIMS];
  if (dim_is_static(d)) {
    x = build_pad_axis(job, x, axis, d - 1, 0, neutral(job, x, op));
    return build_reduce(job, op, build_window(job, x, axis, d, 1, 1), axis_bit(axis + 1), false);
  }
  UOp *from = build_unsqueeze(job, x, axis); /* [.., 1, j, ..] */
  for (uint32_t i = 0; i < from->shape.n; i++) dims[i] = i == axis ? d : 1;
  dims[axis + 1] = d;
  Ints wide = shape_make(dims, from->shape.n);
  UOp *upto = build2(job, OP_CMPLE, build_iota(job, DT_I64, axis + 1, wide),
                     build_iota(job, DT_I64, axis, wide));
  from = build_where(job, upto, from, neutral(job, x, op));
  return build_reduce(job, op, from, axis_bit(axis + 1), false);
}

/* Moved up by one along the axis. */
static UOp *exclusive(Job *job, Op op, UOp *x, size_t axis) {
  UOp *wide = build_pad_axis(job, x, axis, 1, 0, neutral(job, x, op));
  return build_slice(job, wide, axis, 0, x->shape.at[axis], 1);
}

/* Inclusive scan. A long axis is cut into blocks: each is scanned, the blocks' totals are scanned
 * the same way, and each block gets what comes before it. */
static UOp *scan(Job *job, Op op, UOp *x, size_t axis) {
  int64_t d = x->shape.at[axis], dims[MAX_DIMS];
  if (dim_high(d) <= SCAN_SHORT) return scan_short(job, op, x, axis);
  int64_t blocks = dim_ceildiv(job, d, SCAN_BLOCK), whole = dim_mul(job, blocks, SCAN_BLOCK);
  uint32_t r = x->shape.n + 1;
  int64_t more = dim_sub(job, whole, d);
  if (!dim_is_static(more)) dim_mark_size(more);
  UOp *wide = build_pad_axis(job, x, axis, 0, more, neutral(job, x, op));
  for (uint32_t i = 0; i < r; i++)
    dims[i] = i < axis ? x->shape.at[i] : i > axis ? x->shape.at[i - 1] : blocks;
  dims[axis + 1] = SCAN_BLOCK;
  UOp *inner = build_reshape(job, wide, shape_make(dims, r));
  inner = uop1(job, OP_CONTIGUOUS, scan_short(job, op, inner, axis + 1));
  UOp *total = build_slice(job, inner, axis + 1, SCAN_BLOCK - 1, 1, 1);
  total = scan(job, op, build_squeeze(job, total, axis + 1), axis);
  total = build_unsqueeze(job, exclusive(job, op, total, axis), axis + 1);
  UOp *y = build2(job, op, inner, uop1(job, OP_CONTIGUOUS, total));
  for (uint32_t i = 0; i + 1 < r; i++) dims[i] = i == axis ? whole : x->shape.at[i];
  return build_slice(job, build_reshape(job, y, shape_make(dims, r - 1)), axis, 0, d, 1);
}

static UOp *cumulate_axis(Node *n, Op op, UOp *x, size_t axis) {
  bool reverse = attr_int(n, "reverse", 0) != 0;
  if (!x->shape.at[axis]) return x;
  if (reverse) x = build_flip(n->job, x, axis);
  x = scan(n->job, op, x, axis);
  if (attr_int(n, "exclusive", 0)) x = exclusive(n->job, op, x, axis);
  return reverse ? build_flip(n->job, x, axis) : x;
}

/* Along an axis that only the run knows: every axis is tried. */
static UOp *cumulate_late(Node *n, Op op, UOp *x) {
  Job *job = n->job;
  UOp *axis = build_cast(job, build_reshape(job, node_u(n, 1), (Ints){0}), DT_I64);
  UOp *negative = build2(job, OP_CMPLT, axis, uop_int(job, DT_I64, 0)), *y = x;
  UOp *up = build2(job, OP_ADD, axis, uop_int(job, DT_I64, x->shape.n));
  axis = build_where(job, negative, up, axis);
  for (uint32_t a = 0; a < x->shape.n; a++) {
    UOp *here = build2(job, OP_CMPEQ, axis, uop_int(job, DT_I64, a));
    y = a ? build_where(job, here, cumulate_axis(n, op, x, a), y) : cumulate_axis(n, op, x, a);
  }
  return y;
}

static void cumulate(Node *n, Op op) {
  UOp *given = node_u(n, 0), *x = build_widen(n->job, given), *y;
  NodeSizes axis = node_sizes(n, 1, "axis");
  if (axis.n != 1) job_abort(n->job, FAIL(INVALID_ARGUMENT, "%u axes, expected 1", axis.n));
  if (axis.value[0] || !dim_is_static(axis.at[0]))
    y = cumulate_late(n, op, x);
  else
    y = cumulate_axis(n, op, x, axis_check(n->job, axis.at[0], x->shape.n));
  node_out(n, 0, build_cast(n->job, y, uop_dtype(given)));
}
static void op_cum_sum(Node *n) { cumulate(n, OP_ADD); }
static void op_cum_prod(Node *n) { cumulate(n, OP_MUL); }

const OnnxOp onnx_reduce_ops[] = {
    {"", "ReduceSum", 1, 1, 2, op_sum},
    {"", "ReduceProd", 1, 1, 2, op_prod},
    {"", "ReduceMax", 1, 1, 2, op_max},
    {"", "ReduceMin", 1, 1, 2, op_min},
    {"", "ReduceMean", 1, 1, 2, op_mean},
    {"", "ReduceL1", 1, 1, 2, op_l1},
    {"", "ReduceL2", 1, 1, 2, op_l2},
    {"", "ReduceSumSquare", 1, 1, 2, op_sum_square},
    {"", "ReduceLogSum", 1, 1, 2, op_log_sum},
    {"", "ReduceLogSumExp", 1, 1, 2, op_log_sum_exp},
    {"", "ArgMax", 1, 1, 1, op_arg_max},
    {"", "ArgMin", 1, 1, 1, op_arg_min},
    {"", "CumSum", 11, 2, 2, op_cum_sum},
    {"", "CumProd", 26, 2, 2, op_cum_prod},
    {0},
};
