/* com.microsoft: what exporters and graph optimisers of ONNX Runtime leave in transformers and in
 * convolutional networks. Fused ops are taken apart again, so that Kiln's own fusion decides. */
#include <math.h>

#include "compiler/frontend/onnx_math.h"
#include "compiler/frontend/onnx_spatial.h"

/* -- activations ----------------------------------------------------------------------------- */

static UOp *gelu(Node *n, UOp *x) {
  UOp *t = un(n, OP_ERF, scaled(n, x, sqrt(0.5)));
  return mul(n, scaled(n, x, 0.5), plus(n, t, 1));
}

static UOp *fast_gelu(Node *n, UOp *x) {
  UOp *cube = mul(n, mul(n, x, x), x);
  UOp *t = un(n, OP_TANH, scaled(n, add(n, x, scaled(n, cube, 0.044715)), sqrt(2 / acos(-1))));
  return mul(n, scaled(n, x, 0.5), plus(n, t, 1));
}

/* Half floats go through f32 and are rounded once. */
static void in_wide(Node *n, UOp *x, UOp *(*fn)(Node *, UOp *)) {
  node_out(n, 0, cast(n, fn(n, build_widen(n->job, x)), uop_dtype(x)));
}

static void op_gelu(Node *n) { in_wide(n, node_u(n, 0), gelu); }
static void op_bias_gelu(Node *n) { in_wide(n, add(n, node_u(n, 0), node_u(n, 1)), gelu); }
static void op_fast_gelu(Node *n) {
  UOp *x = node_u(n, 0), *bias = node_opt(n, 1);
  in_wide(n, bias ? add(n, x, bias) : x, fast_gelu);
}
static void op_quick_gelu(Node *n) {
  UOp *x = node_u(n, 0), *w = build_widen(n->job, x);
  UOp *gate = build_sigmoid(n->job, scaled(n, w, attr_float(n, "alpha", (double)1.702f)));
  node_out(n, 0, cast(n, mul(n, w, gate), uop_dtype(x)));
}
static void op_bias_split_gelu(Node *n) {
  need_static(n);
  UOp *x = add(n, node_u(n, 0), node_u(n, 1));
  size_t last = x->shape.n ? x->shape.n - 1u : 0;
  if (!x->shape.n || x->shape.at[last] % 2) bad_shape(n, "data", x);
  int64_t half = x->shape.at[last] / 2;
  UOp *a = build_slice(n->job, x, last, 0, half, 1),
      *b = build_slice(n->job, x, last, half, half, 1);
  node_out(n, 0, mul(n, a, cast(n, gelu(n, build_widen(n->job, b)), uop_dtype(x))));
}

static UOp *clamp(Node *n, UOp *x, double lo, double hi) {
  return smaller(n, larger(n, x, num(n, x, lo)), num(n, x, hi));
}

/* The activation that a fused op names, with its parameters. */
static UOp *activate(Node *n, UOp *x, Str name, double a, double b) {
  if (str_is(name, "Relu")) return larger(n, x, num(n, x, 0));
  if (str_is(name, "Tanh")) return un(n, OP_TANH, x);
  if (str_is(name, "Sigmoid")) return build_sigmoid(n->job, x);
  if (str_is(name, "LeakyRelu")) return choose(n, less(n, x, num(n, x, 0)), scaled(n, x, a), x);
  if (str_is(name, "Clip")) return clamp(n, x, a, b);
  if (str_is(name, "HardSigmoid")) return clamp(n, plus(n, scaled(n, x, a), b), 0, 1);
  if (str_is(name, "HardSwish"))
    return mul(n, x, clamp(n, plus(n, scaled(n, x, 1.0 / 6), 0.5), 0, 1));
  if (str_is(name, "Gelu")) return gelu(n, x);
  if (str_is(name, "FastGelu")) return fast_gelu(n, x);
  job_abort(n->job,
            FAIL(UNIMPLEMENTED, "activation '" STR_FMT "' is not supported", STR_ARG(name)));
}

/* -- normalisation --------------------------------------------------------------------------- */

/* Layer normalisation of the last axis, or with rms without its mean. */
static UOp *normalize(Node *n, UOp *x, UOp *scale, UOp *bias, bool rms, double usual, UOp **mean,
                      UOp **inv) {
  UOp *w = build_widen(n->job, x), *y;
  double eps = attr_float(n, "epsilon", usual);
  if (!x->shape.n) bad_shape(n, "data", x);
  uint32_t axis = axis_bit((size_t)x->shape.n - 1);
  if (rms) {
    UOp *ms = build_mean(n->job, mul(n, w, w), axis, true);
    *mean = NULL;
    *inv = un(n, OP_RECIP, un(n, OP_SQRT, plus(n, ms, eps)));
    y = mul(n, w, *inv);
  } else {
    y = build_normalize(n->job, w, axis, eps, mean, inv);
  }
  y = mul(n, y, cast(n, scale, uop_dtype(y)));
  if (bias) y = add(n, y, cast(n, bias, uop_dtype(y)));
  return cast(n, y, uop_dtype(x));
}

static void skip_norm(Node *n, bool rms) {
  UOp *x = node_u(n, 0), *skip = node_u(n, 1), *bias = node_opt(n, rms ? 3 : 4), *mean, *inv;
  UOp *sum = add(n, build_widen(n->job, x), build_widen(n->job, skip));
  if (bias) sum = add(n, sum, cast(n, bias, uop_dtype(sum)));
  UOp *beta = rms ? NULL : node_opt(n, 3);
  UOp *y = normalize(n, sum, node_u(n, 2), beta, rms, (double)1e-12f, &mean, &inv);
  node_out(n, 0, cast(n, y, uop_dtype(x)));
  if (mean) node_out(n, 1, mean);
  node_out(n, 2, inv);
  node_out(n, 3, cast(n, sum, uop_dtype(x)));
}
static void op_skip_layer_norm(Node *n) { skip_norm(n, false); }
static void op_skip_rms_norm(Node *n) { skip_norm(n, true); }

/* x / rms(x) * scale over the axes from `axis` on. */
static void op_simplified_norm(Node *n) {
  UOp *x = node_u(n, 0), *w = build_widen(n->job, x);
  size_t axis = axis_check(n->job, attr_int(n, "axis", -1), x->shape.n);
  UOp *ms = build_mean(n->job, mul(n, w, w), axes_all(x) & ~(axis_bit(axis) - 1), true);
  UOp *inv = un(n, OP_RECIP, un(n, OP_SQRT, plus(n, ms, attr_float(n, "epsilon", (double)1e-5f))));
  UOp *y = mul(n, mul(n, w, inv), cast(n, node_u(n, 1), uop_dtype(w)));
  node_out(n, 0, cast(n, y, uop_dtype(x)));
  node_out(n, 1, inv);
}

/* Word, position and segment embeddings, summed and normalised. */
static void op_embed_layer_norm(Node *n) {
  Job *job = n->job;
  UOp *ids = node_u(n, 0), *segments = node_opt(n, 1), *mask = node_opt(n, 7);
  UOp *at = node_opt(n, 8), *mean, *inv, *count;
  if (ids->shape.n != 2) bad_shape(n, "input_ids", ids);
  Ints shape = ids->shape;
  UOp *sum = build_gather(job, node_u(n, 2), ids, 0);
  if (at && shape_numel(at->shape) != shape.at[1] && !shape_eq(at->shape, shape))
    bad_shape(n, "position_ids", at);
  if (!at) at = build_iota(job, DT_I64, 1, (Ints){(int64_t[]){1, shape.at[1]}, 2});
  sum = add(n, sum, build_gather(job, node_u(n, 3), at, 0));
  if (segments) sum = add(n, sum, build_gather(job, node_u(n, 4), segments, 0));
  node_out(n, 0, normalize(n, sum, node_u(n, 5), node_u(n, 6), false, (double)1e-12f, &mean, &inv));
  node_out(n, 2, sum);
  if (!node_wants(n, 1)) return;
  if (mask) {
    count = build_reduce(job, OP_ADD, cast(n, mask, DT_I32), axis_bit(1), false);
  } else {
    count = build_splat(job, uop_int(job, DT_I32, 0), (Ints){shape.at, 1});
  }
  node_out(n, 1, count);
}

/* -- products -------------------------------------------------------------------------------- */

/* The axes of a batched matrix in the order that numpy's product wants: transBatch puts the row
 * axis before the batch axes, trans exchanges rows and columns. */
static UOp *matrix(Node *n, UOp *x, bool batch, bool trans) {
  uint32_t r = x->shape.n;
  int64_t order[MAX_DIMS];
  if (r < 2 || (!batch && !trans)) return x;
  for (uint32_t i = 0; i < r; i++) order[i] = batch && i + 2 < r ? i + 1 : i;
  if (batch) order[r - 2] = 0;
  if (trans) {
    int64_t t = order[r - 1];
    order[r - 1] = order[r - 2];
    order[r - 2] = t;
  }
  return build_permute(n->job, x, order, r);
}

static UOp *fused_matmul(Node *n) {
  UOp *a = matrix(n, node_u(n, 0), attr_int(n, "transBatchA", 0), attr_int(n, "transA", 0));
  UOp *b = matrix(n, node_u(n, 1), attr_int(n, "transBatchB", 0), attr_int(n, "transB", 0));
  UOp *y = build_matmul(n->job, a, b);
  double alpha = attr_float(n, "alpha", 1);
  return alpha == 1 ? y : scaled(n, y, alpha);
}
static void op_fused_matmul(Node *n) { node_out(n, 0, fused_matmul(n)); }
static void op_fused_matmul_activation(Node *n) {
  double alpha = attr_float(n, "activation_alpha", 0), beta = attr_float(n, "activation_beta", 0);
  node_out(n, 0, activate(n, fused_matmul(n), attr_str(n, "activation", ""), alpha, beta));
}

static void op_fused_gemm(Node *n) {
  Str act = attr_str(n, "activation", "");
  UOp *y = linear_gemm(n);
  double a = attr_float(n, "activation_alpha", str_is(act, "HardSigmoid") ? (double)0.2f : 0.01);
  double b = attr_float(n, "activation_beta", str_is(act, "HardSigmoid") ? 0.5 : 0);
  node_out(n, 0, act.len ? activate(n, y, act, a, b) : y);
}

static void op_gemm_fast_gelu(Node *n) {
  UOp *y = build_matmul(n->job, node_u(n, 0), node_u(n, 1)), *bias = node_opt(n, 2);
  in_wide(n, bias ? add(n, y, bias) : y, fast_gelu);
}

static UOp *activated_conv(Node *n, UOp *x, UOp *sum) {
  const OnnxAttribute *p = attr_find(n, "activation_params", ONNX_ATTR_FLOATS);
  double a = p && p->floats.n > 0 ? (double)p->floats.at[0] : (double)0.01f;
  double b = p && p->floats.n > 1 ? (double)p->floats.at[1] : 0;
  Str act = attr_str(n, "activation", "");
  UOp *y = spatial_conv(n, x, node_u(n, 1), node_opt(n, 2));
  if (sum) y = add(n, y, sum);
  return act.len ? activate(n, y, act, a, b) : y;
}
static void op_fused_conv(Node *n) {
  node_out(n, 0, activated_conv(n, node_u(n, 0), node_opt(n, 3)));
}

/* The channel axis from the end to place 1, or back. */
static UOp *channels(Node *n, UOp *x, bool first) {
  int64_t order[MAX_DIMS];
  uint32_t r = x->shape.n;
  if (r < 3) bad_shape(n, "data", x);
  order[0] = 0;
  for (uint32_t i = 1; i < r; i++)
    order[i] = first ? (i == 1 ? r - 1 : i - 1) : (i == r - 1 ? 1 : i + 1);
  return build_permute(n->job, x, order, r);
}

static void op_nhwc_conv(Node *n) {
  UOp *z = node_opt(n, 3);
  if (z) z = channels(n, z, true);
  node_out(n, 0, channels(n, activated_conv(n, channels(n, node_u(n, 0), true), z), false));
}

static void op_nhwc_max_pool(Node *n) {
  need_static(n);
  UOp *x = channels(n, node_u(n, 0), true);
  Spatial s = spatial_attrs(n, x, attr_ints(n, "kernel_shape"));
  DType d = uop_dtype(x);
  UOp *low = dtype_is_float(d) ? num(n, x, -(double)INFINITY)
                               : uop_scalar(n->job, d, reduce_identity(OP_MAX, d));
  UOp *w = build_windows(n->job, x, &s.conv, s.kernel, low);
  uint32_t axes = 0;
  for (size_t i = 0; i < s.conv.spatial; i++) axes |= axis_bit(w->shape.n - 1 - i);
  node_out(n, 0, channels(n, build_reduce(n->job, OP_MAX, w, axes, false), false));
}

/* -- others ---------------------------------------------------------------------------------- */

static void op_bias_softmax(Node *n) {
  UOp *x = node_u(n, 0), *bias = node_u(n, 1);
  size_t axis = axis_check(n->job, attr_int(n, "axis", 1), x->shape.n);
  node_out(n, 0, build_softmax(n->job, add(n, x, bias), axes_all(x) & ~(axis_bit(axis) - 1)));
}

static void op_bias_add(Node *n) { /* data, bias, skip */
  node_out(n, 0, add(n, add(n, node_u(n, 0), node_u(n, 1)), node_u(n, 2)));
}

/* Distances of all rows of A to all rows of B. */
static void op_cdist(Node *n) {
  UOp *a = node_u(n, 0), *b = node_u(n, 1);
  Str metric = attr_str(n, "metric", "sqeuclidean");
  bool root = str_is(metric, "euclidean");
  if (a->shape.n != 2 || b->shape.n != 2) bad_shape(n, "rows", a);
  if (!root && !str_is(metric, "sqeuclidean"))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown metric '" STR_FMT "'", STR_ARG(metric)));
  UOp *d = sub(n, build_unsqueeze(n->job, a, 1), build_unsqueeze(n->job, b, 0));
  d = build_reduce(n->job, OP_ADD, mul(n, d, d), axis_bit(2), false);
  node_out(n, 0, root ? un(n, OP_SQRT, d) : d);
}

static void op_expand_dims(Node *n) {
  UOp *x = node_u(n, 0);
  size_t axis = axis_check(n->job, node_int(n, 1, "axis"), (size_t)x->shape.n + 1);
  node_out(n, 0, build_unsqueeze(n->job, x, axis));
}

static void complex_mul(Node *n, double sign) {
  UOp *a = node_u(n, 0), *b = node_u(n, 1);
  if (!a->shape.n || !b->shape.n || a->shape.at[a->shape.n - 1] != 2 ||
      b->shape.at[b->shape.n - 1] != 2)
    bad_shape(n, "complex numbers", a);
  UOp *ar = column(n, a, 0), *ai = column(n, a, 1);
  UOp *br = column(n, b, 0), *bi = scaled(n, column(n, b, 1), sign);
  UOp *parts[2] = {sub(n, mul(n, ar, br), mul(n, ai, bi)), add(n, mul(n, ar, bi), mul(n, ai, br))};
  size_t last = parts[0]->shape.n;
  for (int i = 0; i < 2; i++) parts[i] = build_unsqueeze(n->job, parts[i], last);
  node_out(n, 0, build_cat(n->job, parts, 2, last));
}
static void op_complex_mul(Node *n) { complex_mul(n, 1); }
static void op_complex_mul_conj(Node *n) { complex_mul(n, -1); }

static void op_is_all_finite(Node *n) {
  UOp *all = uop_int(n->job, DT_U8, 1);
  bool inf = attr_int(n, "isinf_only", 0) != 0, nan = attr_int(n, "isnan_only", 0) != 0;
  for (size_t i = 0; i < n->nin; i++) {
    UOp *x = node_u(n, i), *top = num(n, x, (double)INFINITY);
    UOp *is_inf = equal(n, un(n, OP_ABS, x), top), *is_nan = two(n, OP_CMPNE, x, x);
    UOp *bad = inf ? is_inf : nan ? is_nan : either(n, is_inf, is_nan);
    UOp *ok = cast(n, build_not(n->job, bad), DT_U8);
    all = smaller(n, all, build_reduce(n->job, OP_MIN, ok, axes_all(x), false));
  }
  node_out(n, 0, cast(n, all, DT_BOOL));
}

const OnnxOp onnx_microsoft_ops[] = {
    {"com.microsoft", "Gelu", 1, 1, 1, op_gelu},
    {"com.microsoft", "BiasGelu", 1, 2, 2, op_bias_gelu},
    {"com.microsoft", "FastGelu", 1, 1, 2, op_fast_gelu},
    {"com.microsoft", "QuickGelu", 1, 1, 1, op_quick_gelu},
    {"com.microsoft", "BiasSplitGelu", 1, 2, 2, op_bias_split_gelu},
    {"com.microsoft", "SkipLayerNormalization", 1, 3, 5, op_skip_layer_norm},
    {"com.microsoft", "SkipSimplifiedLayerNormalization", 1, 3, 4, op_skip_rms_norm},
    {"com.microsoft", "SimplifiedLayerNormalization", 1, 2, 2, op_simplified_norm},
    {"", "SimplifiedLayerNormalization", 1, 2, 2, op_simplified_norm},
    {"com.microsoft", "EmbedLayerNormalization", 1, 7, 9, op_embed_layer_norm},
    {"com.microsoft", "FusedMatMul", 1, 2, 2, op_fused_matmul},
    {"com.microsoft", "TransposeMatMul", 1, 2, 2, op_fused_matmul},
    {"com.microsoft", "FusedMatMulActivation", 1, 2, 2, op_fused_matmul_activation},
    {"com.microsoft", "FusedGemm", 1, 2, 3, op_fused_gemm},
    {"com.microsoft", "GemmFastGelu", 1, 2, 3, op_gemm_fast_gelu},
    {"com.microsoft", "FusedConv", 1, 2, 4, op_fused_conv},
    {"com.microsoft", "NhwcConv", 1, 2, 3, op_nhwc_conv},
    {"com.microsoft", "NhwcFusedConv", 1, 2, 4, op_nhwc_conv},
    {"com.microsoft", "NhwcMaxPool", 1, 1, 1, op_nhwc_max_pool},
    {"com.microsoft", "BiasSoftmax", 1, 2, 2, op_bias_softmax},
    {"com.microsoft", "BiasAdd", 1, 3, 3, op_bias_add},
    {"com.microsoft", "CDist", 1, 2, 2, op_cdist},
    {"com.microsoft", "ExpandDims", 1, 2, 2, op_expand_dims},
    {"com.microsoft", "ComplexMul", 1, 2, 2, op_complex_mul},
    {"com.microsoft", "ComplexMulConj", 1, 2, 2, op_complex_mul_conj},
    {"com.microsoft", "IsAllFinite", 1, 1, 255, op_is_all_finite},
    {0},
};
