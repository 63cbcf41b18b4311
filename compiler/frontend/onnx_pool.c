/* Pooling: windows of the padded source, reduced. Means divide by the number of elements that
 * count, which depends on the position only where there is padding; it is a product of one small
 * vector per axis, computed here. */
#include <math.h>

#include "compiler/frontend/onnx_spatial.h"

static Ints pool_kernel(Node *n) {
  Ints k = attr_ints(n, "kernel_shape");
  if (!k.n) job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute 'kernel_shape' is missing"));
  return k;
}

/* The axes of the windows in the result of build_windows. */
static uint32_t window_axes(const UOp *x, size_t spatial) {
  uint32_t axes = 0;
  for (size_t i = 0; i < spatial; i++) axes |= axis_bit(x->shape.n - 1 - i);
  return axes;
}

static UOp *lowest(Node *n, const UOp *x) {
  DType d = uop_dtype(x);
  if (dtype_is_float(d)) return build_num(n->job, x, -(double)INFINITY);
  return uop_scalar(n->job, d, reduce_identity(OP_MAX, d));
}

/* Row-major index of every element in the whole source, as the Indices output wants it. */
static UOp *flat_positions(Node *n, const UOp *x, bool column_major) {
  UOp *at = NULL;
  int64_t stride = 1, dims[MAX_DIMS];
  for (uint32_t k = 0; k < x->shape.n; k++) dims[k] = x->shape.at[k];
  uint32_t rank = x->shape.n;
  for (uint32_t i = 0; i < rank; i++) {
    uint32_t axis = rank - 1 - i;
    if (column_major && i < rank - 2) axis = 2 + i;
    UOp *c = build_iota(n->job, DT_I64, axis, shape_make(dims, rank));
    c = build2(n->job, OP_MUL, c, build_size(n->job, stride));
    at = at ? build2(n->job, OP_ADD, at, c) : c;
    stride = dim_mul(n->job, stride, dims[axis]);
  }
  return at;
}

static void op_max_pool(Node *n) {
  UOp *x = node_u(n, 0);
  Spatial s = spatial_attrs(n, x, pool_kernel(n));
  UOp *w = build_windows(n->job, x, &s.conv, s.kernel, lowest(n, x));
  uint32_t axes = window_axes(w, s.conv.spatial);
  node_out(n, 0, build_reduce(n->job, OP_MAX, w, axes, false));
  if (!node_wants(n, 1)) return;
  UOp *far = uop_int(n->job, DT_I64, INT64_MAX);
  UOp *at = flat_positions(n, x, attr_int(n, "storage_order", 0) != 0);
  at = build_windows(n->job, at, &s.conv, s.kernel, far);
  UOp *best = build2(n->job, OP_CMPEQ, w, build_reduce(n->job, OP_MAX, w, axes, true));
  node_out(n, 1, build_reduce(n->job, OP_MIN, build_where(n->job, best, at, far), axes, false));
}

/* ceil(span / step), 0 for a negative span */
static UOp *steps_in(Node *n, UOp *span, int64_t step) {
  UOp *up = build2(n->job, OP_ADD, span, uop_int(n->job, DT_I64, step - 1));
  UOp *steps = build2(n->job, OP_FLOORDIV, up, uop_int(n->job, DT_I64, step));
  return build2(n->job, OP_MAX, steps, uop_int(n->job, DT_I64, 0));
}

/* window_counts when sizes are symbolic. */
static UOp *counts_late(Node *n, const Spatial *s, size_t i, int64_t d, bool include, DType type) {
  Job *job = n->job;
  const ConvSpec *c = &s->conv;
  UOp *lo = build_size(job, include ? dim_sub(job, 0, c->lo[i]) : 0);
  UOp *hi = build_size(job, include ? dim_add(job, d, s->pad_hi[i]) : d);
  UOp *first = build_arange(job, DT_I64, s->out[i]);
  first = build2(job, OP_MUL, first, uop_int(job, DT_I64, c->stride[i]));
  first = build2(job, OP_SUB, first, build_size(job, c->lo[i]));
  UOp *below = steps_in(n, build2(job, OP_SUB, lo, first), c->dilation[i]);
  UOp *within = steps_in(n, build2(job, OP_SUB, hi, first), c->dilation[i]);
  within = build2(job, OP_MIN, within, uop_int(job, DT_I64, s->kernel[i]));
  UOp *count = build2(job, OP_SUB, within, below);
  count = build2(job, OP_MAX, count, uop_int(job, DT_I64, 0));
  return build_cast(job, build_along(job, count, 2 + i, 2 + c->spatial), type);
}

/* How many elements of each window along spatial axis i count. */
static UOp *window_counts(Node *n, const Spatial *s, size_t i, int64_t d, bool include,
                          DType type) {
  const ConvSpec *c = &s->conv;
  bool fixed = dim_is_static(d) && dim_is_static(s->out[i]) && dim_is_static(c->lo[i]);
  if (!fixed || !dim_is_static(s->pad_hi[i])) return counts_late(n, s, i, d, include, type);
  float *counts = arena_array(&n->job->arena, (size_t)s->out[i], sizeof *counts);
  for (int64_t o = 0; o < s->out[i]; o++) {
    int64_t first = o * c->stride[i] - c->lo[i], step = c->dilation[i];
    int64_t lo = include ? -c->lo[i] : 0, hi = include ? d + s->pad_hi[i] : d;
    int64_t below = first < lo ? (lo - first + step - 1) / step : 0;
    int64_t within = hi > first ? (hi - first + step - 1) / step : 0;
    int64_t count = (within < s->kernel[i] ? within : s->kernel[i]) - below;
    if (count < 0) count = 0;
    counts[o] = (float)count;
  }
  UOp *v = val_uop(n->f, val_from_data(n->f, DT_F32, shape_make(&s->out[i], 1), counts));
  return build_cast(n->job, build_along(n->job, v, 2 + i, 2 + c->spatial), type);
}

UOp *spatial_average_pool(Node *n, UOp *given) {
  UOp *x = build_widen(n->job, given), *count = NULL;
  Spatial s = spatial_attrs(n, x, pool_kernel(n));
  bool include = attr_int(n, "count_include_pad", 0) != 0;
  UOp *w = build_windows(n->job, x, &s.conv, s.kernel, build_num(n->job, x, 0));
  UOp *sum = build_reduce(n->job, OP_ADD, w, window_axes(w, s.conv.spatial), false);
  for (size_t i = 0; i < s.conv.spatial; i++) {
    UOp *c = window_counts(n, &s, i, x->shape.at[2 + i], include, uop_dtype(x));
    count = count ? build2(n->job, OP_MUL, count, c) : c;
  }
  return build_cast(n->job, build_div(n->job, sum, count), uop_dtype(given));
}

static void op_average_pool(Node *n) { node_out(n, 0, spatial_average_pool(n, node_u(n, 0))); }

/* (sum |x|^p)^(1/p), of half floats in f32 */
static UOp *p_norm(Node *n, UOp *x, uint32_t axes, double p, bool keep) {
  x = build_widen(n->job, x);
  UOp *a = build1(n->job, OP_ABS, x);
  if (p == 1) return build_reduce(n->job, OP_ADD, a, axes, keep);
  if (p == 2) {
    UOp *sum = build_reduce(n->job, OP_ADD, build2(n->job, OP_MUL, x, x), axes, keep);
    return build1(n->job, OP_SQRT, sum);
  }
  UOp *sum =
      build_reduce(n->job, OP_ADD, build2(n->job, OP_POW, a, build_num(n->job, x, p)), axes, keep);
  return build2(n->job, OP_POW, sum, build_num(n->job, x, 1 / p));
}

/* p was a float in opset 1. */
static double norm_p(Node *n) {
  const char *op = n->opset < 2 ? "LpNormalization" : NULL; /* which had an integer already */
  if (op && !str_is(n->proto->op_type, op)) return attr_float(n, "p", 2);
  int64_t p = attr_int(n, "p", 2);
  if (p < 1) job_abort(n->job, FAIL(INVALID_ARGUMENT, "p = %lld", (long long)p));
  return (double)p;
}

static void op_lp_pool(Node *n) {
  UOp *x = node_u(n, 0);
  Spatial s = spatial_attrs(n, x, pool_kernel(n));
  UOp *w = build_windows(n->job, x, &s.conv, s.kernel, build_num(n->job, x, 0));
  w = p_norm(n, w, window_axes(w, s.conv.spatial), norm_p(n), false);
  node_out(n, 0, build_cast(n->job, w, uop_dtype(x)));
}

static uint32_t spatial_axes(Node *n, const UOp *x) {
  if (x->shape.n < 2)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source of shape %s, expected [N, C, ...]",
                           shape_text(n->job, x->shape)));
  return axes_all(x) & ~3u;
}

static void op_global_average_pool(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, build_mean(n->job, x, spatial_axes(n, x), true));
}
static void op_global_max_pool(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, build_reduce(n->job, OP_MAX, x, spatial_axes(n, x), true));
}
static void op_global_lp_pool(Node *n) {
  UOp *x = node_u(n, 0);
  UOp *norm = p_norm(n, x, spatial_axes(n, x), norm_p(n), true);
  node_out(n, 0, build_cast(n->job, norm, uop_dtype(x)));
}

static void op_lp_normalization(Node *n) {
  UOp *x = node_u(n, 0);
  size_t axis = axis_check(n->job, attr_int(n, "axis", -1), x->shape.n);
  UOp *norm = p_norm(n, x, axis_bit(axis), norm_p(n), true), *zero = build_num(n->job, norm, 0);
  UOp *none = build2(n->job, OP_CMPEQ, norm, zero);
  UOp *y = build2(n->job, OP_FDIV, build_widen(n->job, x), norm);
  node_out(n, 0, build_cast(n->job, build_where(n->job, none, zero, y), uop_dtype(x)));
}

const OnnxOp onnx_pool_ops[] = {
    {"", "MaxPool", 1, 1, 1, op_max_pool},
    {"", "AveragePool", 1, 1, 1, op_average_pool},
    {"", "LpPool", 1, 1, 1, op_lp_pool},
    {"", "GlobalAveragePool", 1, 1, 1, op_global_average_pool},
    {"", "GlobalMaxPool", 1, 1, 1, op_global_max_pool},
    {"", "GlobalLpPool", 1, 1, 1, op_global_lp_pool},
    {"", "LpNormalization", 1, 1, 1, op_lp_normalization},
    {0},
};
