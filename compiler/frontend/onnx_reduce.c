/* Reductions, and what is built on them: ArgMax, TopK, cumulative sums. */
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

/* Axes: a source from opset 18 on (ReduceSum: 13), an attribute before. None means all, unless
 * noop_with_empty_axes. */
static uint32_t reduce_axes(Node *n, const UOp *x, bool *noop) {
  bool given;
  int64_t since = str_is(n->proto->op_type, "ReduceSum") ? 13 : 18;
  uint32_t axes = node_axes(n, 1, since, x->shape.n, &given);
  *noop = !given && attr_int(n, "noop_with_empty_axes", 0);
  return given ? axes : *noop ? 0 : axes_all(x);
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
  UOp *x = node_u(n, 0);
  bool noop, keep = attr_int(n, "keepdims", 1) != 0;
  uint32_t axes = reduce_axes(n, x, &noop);
  DType d = uop_dtype(x);
  if (dtype_is_bool(d)) x = build_cast(n->job, x, DT_U8);
  if (after != same) x = build_widen(n->job, x);
  x = build_reduce(n->job, op, before(n->job, x), axes, keep || noop);
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
  UOp *x = node_u(n, 0);
  bool noop, keep = attr_int(n, "keepdims", 1) != 0;
  uint32_t axes = reduce_axes(n, x, &noop);
  node_out(n, 0, build_mean(n->job, x, axes, keep || noop));
}

/* max + log(sum(exp(x - max))), with an infinite or absent maximum counted as 0. */
static void op_log_sum_exp(Node *n) {
  UOp *given = node_u(n, 0), *x = build_widen(n->job, given);
  bool noop, keep = attr_int(n, "keepdims", 1) != 0;
  uint32_t axes = reduce_axes(n, x, &noop);
  UOp *top = build_reduce(n->job, OP_MAX, x, axes, true), *zero = build_num(n->job, x, 0);
  UOp *inf = build_num(n->job, x, (double)INFINITY);
  UOp *finite = build2(n->job, OP_CMPLT, build1(n->job, OP_ABS, top), inf);
  top = build_where(n->job, finite, top, zero);
  UOp *e = exponential(n->job, build2(n->job, OP_SUB, x, top));
  UOp *y =
      build2(n->job, OP_ADD, logarithm(n->job, build_reduce(n->job, OP_ADD, e, axes, true)), top);
  y = build_reduce(n->job, OP_ADD, y, keep || noop ? 0 : axes, false);
  node_out(n, 0, build_cast(n->job, y, uop_dtype(given)));
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

static void cumulate(Node *n, Op op) {
  UOp *given = node_u(n, 0), *x = build_widen(n->job, given);
  size_t axis = axis_check(n->job, node_int(n, 1, "axis"), x->shape.n);
  bool reverse = attr_int(n, "reverse", 0) != 0;
  if (x->shape.at[axis]) {
    if (reverse) x = build_flip(n->job, x, axis);
    x = scan(n->job, op, x, axis);
    if (attr_int(n, "exclusive", 0)) x = exclusive(n->job, op, x, axis);
    if (reverse) x = build_flip(n->job, x, axis);
  }
  node_out(n, 0, build_cast(n->job, x, uop_dtype(given)));
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
