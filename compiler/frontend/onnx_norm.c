/* Normalisations and softmax. Statistics of half floats are computed in f32 (stash_type). */
#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

static UOp *per_channel(Node *n, UOp *v, const UOp *x) {
  if (!build_may_equal(dims_numel(n->job, v->shape), x->shape.at[1]))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "per-channel source of shape %s for %s channels",
                           shape_text(n->job, v->shape), dim_text(n->job, x->shape.at[1])));
  return build_along(n->job, v, 1, x->shape.n);
}

static void need_rank(Node *n, const UOp *x, uint32_t rank) {
  if (x->shape.n < rank)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source of shape %s, expected at least %u axes",
                           shape_text(n->job, x->shape), rank));
}

/* From opset 13 along one axis; before, over all axes from `axis` on (2-D coercion). */
static uint32_t softmax_axes(Node *n, const UOp *x) {
  bool one = n->opset >= 13;
  size_t axis = axis_check(n->job, attr_int(n, "axis", one ? -1 : 1), x->shape.n);
  return one ? axis_bit(axis) : axes_all(x) & ~(axis_bit(axis) - 1);
}
static void op_softmax(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, build_softmax(n->job, x, softmax_axes(n, x)));
}
static void op_log_softmax(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, build_log_softmax(n->job, x, softmax_axes(n, x)));
}

/* 1 at the first largest element. */
static void op_hardmax(Node *n) {
  UOp *x = node_u(n, 0);
  uint32_t axes = softmax_axes(n, x);
  int64_t dims[MAX_DIMS], flat = axes_numel(n->job, x, axes);
  uint32_t rank = 0;
  for (uint32_t i = 0; i < x->shape.n; i++)
    if (!(axes & axis_bit(i)) || n->opset >= 13) dims[rank++] = x->shape.at[i];
  if (n->opset < 13) dims[rank++] = flat;
  UOp *f = build_reshape(n->job, x, shape_make(dims, rank));
  size_t axis = n->opset < 13 ? rank - 1 : axis_check(n->job, attr_int(n, "axis", -1), rank);
  UOp *best = build_argmax(n->job, f, axis, OP_MAX, false);
  UOp *at = build_iota(n->job, DT_I64, axis, f->shape);
  UOp *y = build_cast(n->job, build2(n->job, OP_CMPEQ, at, best), uop_dtype(x));
  node_out(n, 0, build_reshape(n->job, y, x->shape));
}

static UOp *blend(Node *n, UOp *old, UOp *now, double momentum) {
  now = build_cast(n->job, build_reshape(n->job, now, old->shape), uop_dtype(old));
  return build2(n->job, OP_ADD, build2(n->job, OP_MUL, old, build_num(n->job, old, momentum)),
                build2(n->job, OP_MUL, now, build_num(n->job, now, 1 - momentum)));
}

/* An attribute from opset 14 on. Before, a node in training mode is one with more than one output,
 * unless (before 7) is_test says that it is not. */
static bool trains(Node *n) {
  if (n->opset >= 14) return attr_int(n, "training_mode", 0) != 0;
  bool more = false;
  for (size_t k = 1; k < n->nout; k++) more |= node_wants(n, k);
  return more && !(n->opset < 7 && attr_int(n, "is_test", 0));
}

/* Source k, one number per element of x but for the axes that statistics are taken over: per
 * channel, or per activation (opset < 9, spatial = 0). */
static UOp *per_feature(Node *n, size_t k, const UOp *x, uint32_t axes) {
  UOp *v = node_u(n, k);
  if (axes != axis_bit(0) || x->shape.n < 3) return per_channel(n, v, x);
  if (v->shape.n != x->shape.n - 1)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "per-activation source of shape %s for data of shape %s",
                   shape_text(n->job, v->shape), shape_text(n->job, x->shape)));
  return build_unsqueeze(n->job, v, 0);
}

/* Training mode: mean and variance of this batch; outputs 1 and 2 are the running ones, 3 and 4
 * (before opset 14) those of the batch. */
static void batch_statistics(Node *n, UOp *x, uint32_t axes, UOp **mean, UOp **var) {
  double momentum = attr_float(n, "momentum", (double)0.9f);
  *mean = build_mean(n->job, x, axes, true);
  UOp *c = build2(n->job, OP_SUB, x, *mean);
  *var = build_mean(n->job, build2(n->job, OP_MUL, c, c), axes, true);
  node_out(n, 1, blend(n, node_u(n, 3), *mean, momentum));
  node_out(n, 2, blend(n, node_u(n, 4), *var, momentum));
  if (node_wants(n, 3)) node_out(n, 3, build_reshape(n->job, *mean, node_in(n, 3)->shape));
  if (node_wants(n, 4)) node_out(n, 4, build_reshape(n->job, *var, node_in(n, 4)->shape));
}

/* Inference form: y = (x - mean) * (scale / sqrt(var + epsilon)) + bias. Folding scale and
 * deviation first keeps two per-channel vectors in the kernel. */
static void op_batch_norm(Node *n) {
  UOp *x = node_u(n, 0);
  need_rank(n, x, 2);
  double eps = attr_float(n, "epsilon", (double)1e-5f);
  DType d = uop_dtype(x);
  uint32_t axes = axes_all(x) & ~axis_bit(1);
  if (n->opset < 9 && !attr_int(n, "spatial", 1)) axes = axis_bit(0);
  UOp *scale = per_feature(n, 1, x, axes), *bias = per_feature(n, 2, x, axes);
  UOp *mean = per_feature(n, 3, x, axes), *var = per_feature(n, 4, x, axes);
  if (trains(n)) batch_statistics(n, x, axes, &mean, &var);
  UOp *dev = build1(n->job, OP_SQRT, build2(n->job, OP_ADD, var, build_num(n->job, var, eps)));
  UOp *k = build2(n->job, OP_FDIV, build_cast(n->job, scale, uop_dtype(dev)), dev);
  UOp *y = build2(n->job, OP_SUB, build_cast(n->job, x, uop_dtype(mean)), mean);
  y = build2(n->job, OP_MUL, y, k);
  y = build2(n->job, OP_ADD, y, build_cast(n->job, bias, uop_dtype(y)));
  node_out(n, 0, build_cast(n->job, y, d));
}

static DType stash(Node *n, const UOp *x) {
  DType d = uop_dtype(x);
  if (!dtype_is_float(d))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%s needs a float dtype", dtype_info[d].name));
  return d == DT_F16 || d == DT_BF16 ? DT_F32 : d;
}

static UOp *affine(Node *n, UOp *y, UOp *scale, UOp *bias) {
  if (scale) y = build2(n->job, OP_MUL, y, build_cast(n->job, scale, uop_dtype(y)));
  if (bias) y = build2(n->job, OP_ADD, y, build_cast(n->job, bias, uop_dtype(y)));
  return y;
}

static void op_instance_norm(Node *n) {
  UOp *x = node_u(n, 0);
  need_rank(n, x, 2);
  double eps = attr_float(n, "epsilon", (double)1e-5f);
  UOp *w = build_cast(n->job, x, stash(n, x));
  UOp *y = build_normalize(n->job, w, axes_all(x) & ~3u, eps, NULL, NULL);
  y = affine(n, y, per_channel(n, node_u(n, 1), x), per_channel(n, node_u(n, 2), x));
  node_out(n, 0, build_cast(n->job, y, uop_dtype(x)));
}

/* Scale and bias: per group before opset 21, per channel from then on. */
static void op_group_norm(Node *n) {
  UOp *x = node_u(n, 0), *scale = node_u(n, 1), *bias = node_u(n, 2);
  need_rank(n, x, 2);
  double eps = attr_float(n, "epsilon", (double)1e-5f);
  int64_t g = attr_need_int(n, "num_groups"), c = front_static(n->job, x->shape.at[1], "channels");
  if (g < 1 || c % g)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "%lld channels in %lld groups", (long long)c, (long long)g));
  int64_t dims[3] = {x->shape.at[0], g, c / g};
  for (uint32_t i = 2; i < x->shape.n; i++) dims[2] = dim_mul(n->job, dims[2], x->shape.at[i]);
  UOp *y = build_reshape(n->job, build_cast(n->job, x, stash(n, x)), shape_make(dims, 3));
  y = build_normalize(n->job, y, axis_bit(2), eps, NULL, NULL);
  if (n->opset < 21) {
    y = affine(n, y, per_channel(n, scale, y), per_channel(n, bias, y));
    y = build_reshape(n->job, y, x->shape);
  } else {
    y = build_reshape(n->job, y, x->shape);
    y = affine(n, y, per_channel(n, scale, y), per_channel(n, bias, y));
  }
  node_out(n, 0, build_cast(n->job, y, uop_dtype(x)));
}

static void op_layer_norm(Node *n) {
  UOp *x = node_u(n, 0), *mean, *inv;
  size_t axis = axis_check(n->job, attr_int(n, "axis", -1), x->shape.n);
  double eps = attr_float(n, "epsilon", (double)1e-5f);
  uint32_t axes = axes_all(x) & ~(axis_bit(axis) - 1);
  UOp *y = build_normalize(n->job, build_cast(n->job, x, stash(n, x)), axes, eps, &mean, &inv);
  y = affine(n, build_cast(n->job, y, uop_dtype(x)), node_u(n, 1), node_opt(n, 2));
  node_out(n, 0, y);
  node_out(n, 1, mean);
  node_out(n, 2, inv);
}

static void op_rms_norm(Node *n) {
  UOp *x = node_u(n, 0);
  size_t axis = axis_check(n->job, attr_int(n, "axis", -1), x->shape.n);
  double eps = attr_float(n, "epsilon", (double)1e-5f);
  UOp *w = build_cast(n->job, x, stash(n, x));
  UOp *ms =
      build_mean(n->job, build2(n->job, OP_MUL, w, w), axes_all(x) & ~(axis_bit(axis) - 1), true);
  UOp *inv = build1(n->job, OP_SQRT, build2(n->job, OP_ADD, ms, build_num(n->job, ms, eps)));
  UOp *y = build_cast(n->job, build2(n->job, OP_FDIV, w, inv), uop_dtype(x));
  node_out(n, 0, affine(n, y, node_u(n, 1), NULL));
}

/* y = x / (bias + alpha / size * sum of squares over `size` channels)^beta */
static void op_lrn(Node *n) {
  UOp *given = node_u(n, 0), *x = build_widen(n->job, given);
  need_rank(n, x, 2);
  int64_t size = attr_need_int(n, "size");
  double alpha = attr_float(n, "alpha", (double)1e-4f), beta = attr_float(n, "beta", 0.75);
  double bias = attr_float(n, "bias", 1);
  if (size < 1 || size > INT32_MAX)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "size %lld", (long long)size));
  UOp *sq = build2(n->job, OP_MUL, x, x);
  sq = build_pad_axis(n->job, sq, 1, (size - 1) / 2, size / 2, build_num(n->job, x, 0));
  UOp *sum =
      build_reduce(n->job, OP_ADD, build_window(n->job, sq, 1, size, 1, 1), axis_bit(2), false);
  sum = build2(n->job, OP_MUL, sum, build_num(n->job, x, alpha / (double)size));
  sum = build2(n->job, OP_ADD, sum, build_num(n->job, x, bias));
  UOp *p = build2(n->job, OP_POW, sum, build_num(n->job, x, beta));
  node_out(n, 0, build_cast(n->job, build2(n->job, OP_FDIV, x, p), uop_dtype(given)));
}

/* (x - mean) / (standard deviation + 1e-9) over `axes` */
static void op_mvn(Node *n) {
  UOp *given = node_u(n, 0), *x = build_widen(n->job, given);
  Ints list = attr_ints(n, "axes");
  static const int64_t usual[] = {0, 2, 3};
  if (!list.at) list = shape_make(usual, 3);
  uint32_t axes = 0;
  for (uint32_t i = 0; i < list.n; i++)
    axes |= axis_bit(axis_check(n->job, list.at[i], x->shape.n));
  UOp *c = build2(n->job, OP_SUB, x, build_mean(n->job, x, axes, true));
  UOp *dev = build1(n->job, OP_SQRT, build_mean(n->job, build2(n->job, OP_MUL, c, c), axes, true));
  UOp *y = build2(n->job, OP_FDIV, c, build2(n->job, OP_ADD, dev, build_num(n->job, x, 1e-9)));
  node_out(n, 0, build_cast(n->job, y, uop_dtype(given)));
}

const OnnxOp onnx_norm_ops[] = {
    {"", "Softmax", 1, 1, 1, op_softmax},
    {"", "LogSoftmax", 1, 1, 1, op_log_softmax},
    {"", "Hardmax", 1, 1, 1, op_hardmax},
    {"", "BatchNormalization", 1, 5, 5, op_batch_norm},
    {"", "InstanceNormalization", 1, 3, 3, op_instance_norm},
    {"", "GroupNormalization", 18, 3, 3, op_group_norm},
    {"", "LayerNormalization", 1, 2, 3, op_layer_norm}, /* before 17 as ONNX Runtime has it */
    {"com.microsoft", "LayerNormalization", 1, 2, 3, op_layer_norm},
    {"", "RMSNormalization", 23, 2, 2, op_rms_norm},
    {"", "LRN", 1, 1, 1, op_lrn},
    {"", "MeanVarianceNormalization", 9, 1, 1, op_mvn},
    {0},
};
