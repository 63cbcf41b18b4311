/* com.microsoft, quantised. Elementwise ops and pools compute in f32 between a dequantisation and a
 * quantisation; products stay exact in i32 until their result is scaled. MatMulNBits keeps its
 * weights packed: they are unpacked where they are used. */
#include <math.h>

#include "compiler/frontend/onnx_math.h"
#include "compiler/frontend/onnx_quant.h"
#include "compiler/frontend/onnx_spatial.h"

static UOp *scalar_of(Node *n, UOp *p) {
  return shape_numel(p->shape) == 1 ? build_reshape(n->job, p, (Ints){0}) : p;
}

/* (source k - source k + 2) * source k + 1 */
static UOp *dequantized(Node *n, size_t k) {
  UOp *zero = node_opt(n, k + 2);
  UOp *x = cast(n, node_centred(n, node_u(n, k), zero ? scalar_of(n, zero) : NULL), DT_F32);
  return mul(n, x, scalar_of(n, node_u(n, k + 1)));
}

/* y with scale source k and zero point source k + 1, as `absent` without one. */
static UOp *quantized(Node *n, UOp *y, size_t k, DType absent) {
  UOp *zero = node_opt(n, k + 1), *ratio = quot(n, y, scalar_of(n, node_u(n, k)));
  return quant_round(n, ratio, zero ? scalar_of(n, zero) : NULL, zero ? uop_dtype(zero) : absent);
}

static void op_add(Node *n) {
  UOp *y = add(n, dequantized(n, 0), dequantized(n, 3));
  node_out(n, 0, quantized(n, y, 6, node_in(n, 0)->dtype));
}
static void op_mul(Node *n) {
  UOp *y = mul(n, dequantized(n, 0), dequantized(n, 3));
  node_out(n, 0, quantized(n, y, 6, node_in(n, 0)->dtype));
}
static void op_sigmoid(Node *n) {
  UOp *y = build_sigmoid(n->job, dequantized(n, 0));
  node_out(n, 0, quantized(n, y, 3, node_in(n, 0)->dtype));
}
static void op_leaky_relu(Node *n) {
  UOp *x = dequantized(n, 0);
  UOp *low = scaled(n, x, attr_float(n, "alpha", (double)0.01f));
  node_out(n, 0,
           quantized(n, choose(n, less(n, x, num(n, x, 0)), low, x), 3, node_in(n, 0)->dtype));
}

/* From opset 13 on along one axis, before over all axes from `axis` on. */
static void op_softmax(Node *n) {
  UOp *x = dequantized(n, 0);
  bool one = attr_int(n, "opset", 13) >= 13;
  size_t axis = axis_check(n->job, attr_int(n, "axis", -1), x->shape.n);
  uint32_t axes = one ? axis_bit(axis) : axes_all(x) & ~(axis_bit(axis) - 1);
  node_out(n, 0, quantized(n, build_softmax(n->job, x, axes), 3, DT_U8));
}

static void op_where(Node *n) { /* condition, x, scale, zero, y, scale, zero, scale, zero */
  UOp *y = choose(n, node_u(n, 0), dequantized(n, 1), dequantized(n, 4));
  node_out(n, 0, quantized(n, y, 7, node_in(n, 1)->dtype));
}

static void op_concat(Node *n) {
  size_t count = (n->nin - 2) / 3;
  if (!count || (n->nin - 2) % 3)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%zu sources, expected 2 and 3 per part", n->nin));
  UOp **parts = arena_array(&n->job->arena, count, sizeof *parts);
  for (size_t i = 0; i < count; i++) parts[i] = dequantized(n, 2 + 3 * i);
  size_t axis = axis_check(n->job, attr_need_int(n, "axis"), parts[0]->shape.n);
  node_out(n, 0, quantized(n, build_cat(n->job, parts, count, axis), 0, node_in(n, 2)->dtype));
}

static UOp *channels(Node *n, UOp *x, bool first) {
  int64_t order[MAX_DIMS];
  uint32_t r = x->shape.n;
  if (!attr_int(n, "channels_last", 0)) return x;
  if (r < 3) bad_shape(n, "data", x);
  order[0] = 0;
  for (uint32_t i = 1; i < r; i++)
    order[i] = first ? (i == 1 ? r - 1 : i - 1) : (i == r - 1 ? 1 : i + 1);
  return build_permute(n->job, x, order, r);
}

static void op_global_average(Node *n) {
  UOp *x = channels(n, dequantized(n, 0), true);
  if (x->shape.n < 3) bad_shape(n, "data", x);
  UOp *y = channels(n, build_mean(n->job, x, axes_all(x) & ~3u, true), false);
  node_out(n, 0, quantized(n, y, 3, node_in(n, 0)->dtype));
}
static void op_average(Node *n) {
  UOp *y = spatial_average_pool(n, channels(n, dequantized(n, 0), true));
  node_out(n, 0, quantized(n, channels(n, y, false), 3, node_in(n, 0)->dtype));
}

static void op_reduce_mean(Node *n) {
  UOp *x = dequantized(n, 0);
  Ints list = attr_ints(n, "axes");
  uint32_t axes = list.n ? 0 : axes_all(x);
  for (uint32_t i = 0; i < list.n; i++)
    axes |= axis_bit(axis_check(n->job, list.at[i], x->shape.n));
  UOp *y = build_mean(n->job, x, axes, attr_int(n, "keepdims", 1) != 0);
  node_out(n, 0, quantized(n, y, 3, node_in(n, 0)->dtype));
}

static void op_conv(Node *n) {
  UOp *x = channels(n, node_u(n, 0), true);
  node_out(n, 0, channels(n, quant_conv(n, x), false));
}

/* -- products -------------------------------------------------------------------------------- */

static UOp *wide(Node *n, UOp *x, UOp *zero) {
  return node_centred(n, x, zero ? scalar_of(n, zero) : NULL);
}

/* A quantised while it runs, times quantised B. */
static void op_dynamic_matmul(Node *n) {
  UOp *scale, *point, *bias = node_opt(n, 4);
  UOp *a = quant_dynamic(n, node_u(n, 0), &scale, &point);
  UOp *y = build_matmul(n->job, node_centred(n, a, point), wide(n, node_u(n, 1), node_opt(n, 3)));
  scale = mul(n, scale, scalar_of(n, node_u(n, 2)));
  UOp *f = mul(n, cast(n, y, DT_F32), scale);
  node_out(n, 0, bias ? add(n, f, bias) : f);
}

static void op_matmul_to_float(Node *n) {
  UOp *a = wide(n, node_u(n, 0), node_opt(n, 4)), *b = wide(n, node_u(n, 1), node_opt(n, 5));
  UOp *bias = node_opt(n, 6), *y = build_matmul(n->job, a, b);
  UOp *scale = mul(n, scalar_of(n, node_u(n, 2)), scalar_of(n, node_u(n, 3)));
  UOp *f = mul(n, cast(n, y, uop_dtype(scale)), scale);
  node_out(n, 0, bias ? add(n, f, bias) : f);
}

static void op_matmul_integer16(Node *n) {
  node_out(n, 0, build_matmul(n->job, wide(n, node_u(n, 0), NULL), wide(n, node_u(n, 1), NULL)));
}

/* a, scale, zero, b, scale, zero, bias, scale of the result, its zero point: without the latter two
 * the result stays f32. */
static void op_qgemm(Node *n) {
  UOp *a = wide(n, node_u(n, 0), node_opt(n, 2)), *b = node_u(n, 3), *bias = node_opt(n, 6);
  UOp *zero = node_opt(n, 5), *sb = scalar_of(n, node_u(n, 4));
  bool ta = attr_int(n, "transA", 0) != 0, tb = attr_int(n, "transB", 0) != 0;
  if (a->shape.n != 2 || b->shape.n != 2) bad_shape(n, "matrix", b);
  if (ta) a = build_transpose(n->job, a, 0, 1);
  b = wide(n, tb ? build_transpose(n->job, b, 0, 1) : b, zero);
  UOp *y = build_matmul(n->job, a, b);
  if (bias) y = add(n, y, bias);
  UOp *scale = scaled(n, mul(n, scalar_of(n, node_u(n, 1)), sb), attr_float(n, "alpha", 1));
  UOp *f = mul(n, cast(n, y, DT_F32), scale);
  node_out(n, 0, node_has(n, 7) ? quantized(n, f, 7, node_in(n, 0)->dtype) : f);
}

static void op_mul_integer(Node *n) { /* a, zero, b, zero */
  node_out(n, 0,
           mul(n, wide(n, node_u(n, 0), node_opt(n, 1)), wide(n, node_u(n, 2), node_opt(n, 3))));
}

static void op_reduce_sum_integer(Node *n) {
  UOp *x = cast(n, node_u(n, 0), DT_I32);
  Ints list = attr_ints(n, "axes");
  uint32_t axes = 0;
  for (uint32_t i = 0; i < list.n; i++)
    axes |= axis_bit(axis_check(n->job, list.at[i], x->shape.n));
  node_out(n, 0, build_reduce(n->job, OP_ADD, x, axes, attr_int(n, "keepdims", 1) != 0));
}

/* -- packed weights -------------------------------------------------------------------------- */

/* The last axis of bytes to `count` numbers of `bits` bits each, the lowest bits first. */
static UOp *unpack(Node *n, UOp *x, int64_t bits, int64_t count) {
  Job *job = n->job;
  int64_t per = 8 / bits, dims[MAX_DIMS];
  uint32_t last = x->shape.n - 1;
  if (x->shape.at[last] != (count + per - 1) / per) bad_shape(n, "packed numbers", x);
  if (per > 1) {
    x = build_unsqueeze(job, x, last + 1);
    UOp *shift = build_along(job, build_arange(job, DT_U8, per), last + 1, last + 2);
    x = two(n, OP_SHR, x, mul(n, shift, uop_int(job, DT_U8, bits)));
    x = both(n, x, uop_int(job, DT_U8, (1 << bits) - 1));
    for (uint32_t i = 0; i < last; i++) dims[i] = x->shape.at[i];
    dims[last] = x->shape.at[last] * per;
    x = build_reshape(job, x, shape_make(dims, last + 1));
  }
  return build_slice(job, x, last, 0, count, 1);
}

typedef struct Blocks {
  int64_t rows, k, size, count, bits; /* count blocks of `size` cover k columns */
  DType type;
} Blocks;

static Blocks block_attrs(Node *n) {
  Blocks b = {.rows = attr_need_int(n, "N"),
              .k = attr_need_int(n, "K"),
              .size = attr_need_int(n, "block_size"),
              .bits = attr_int(n, "bits", 4)};
  if (b.rows < 1 || b.k < 1 || b.size < 8 || b.size > 1 << 20 || b.rows > INT32_MAX ||
      b.k > INT32_MAX || (b.bits != 2 && b.bits != 4 && b.bits != 8))
    job_abort(n->job,
              FAIL(UNIMPLEMENTED, "%lld bits in blocks of %lld, N %lld, K %lld", (long long)b.bits,
                   (long long)b.size, (long long)b.rows, (long long)b.k));
  b.count = (b.k + b.size - 1) / b.size;
  return b;
}

/* [rows, blocks] of scales or zero points to one per weight, [rows, blocks, 1] or, by the group
 * that g_idx names for a column, [rows, k]. */
static UOp *per_weight(Node *n, UOp *p, const Blocks *b, UOp *groups) {
  p = build_reshape_v(n->job, p, 2, b->rows, b->count);
  return groups ? build_gather(n->job, p, groups, 1) : build_unsqueeze(n->job, p, 2);
}

static UOp *zero_points(Node *n, UOp *zero, const Blocks *b) {
  if (uop_dtype(zero) != DT_U8) return zero;
  int64_t bytes = (b->count * b->bits + 7) / 8;
  if (shape_numel(zero->shape) != b->rows * bytes) bad_shape(n, "zero_points", zero);
  return cast(n, unpack(n, build_reshape_v(n->job, zero, 2, b->rows, bytes), b->bits, b->count),
              b->type);
}

static void op_matmul_nbits(Node *n) {
  need_static(n);
  Job *job = n->job;
  UOp *a = node_u(n, 0), *w = node_u(n, 1), *scale = node_u(n, 2), *zero = node_opt(n, 3);
  UOp *groups = node_opt(n, 4), *bias = node_opt(n, 5);
  Blocks b = block_attrs(n);
  b.type = uop_dtype(build_widen(job, a));
  if (uop_dtype(w) != DT_U8 || shape_numel(w->shape) != b.rows * b.count * b.size * b.bits / 8 ||
      shape_numel(scale->shape) != b.rows * b.count || !a->shape.n ||
      a->shape.at[a->shape.n - 1] != b.k ||
      (groups && (groups->shape.n != 1 || groups->shape.at[0] < b.k)))
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "packed weights of shape %s and scales of shape %s for a "
                        "source of shape %s",
                        shape_text(job, w->shape), shape_text(job, scale->shape),
                        shape_text(job, a->shape)));
  if (groups) groups = build_slice(job, groups, 0, 0, b.k, 1);
  w = build_reshape_v(job, w, 2, b.rows, b.count * b.size * b.bits / 8);
  w = cast(n, unpack(n, w, b.bits, b.count * b.size), b.type);
  if (groups)
    w = build_slice(job, w, 1, 0, b.k, 1);
  else
    w = build_reshape_v(job, w, 3, b.rows, b.count, b.size);
  UOp *z = zero ? per_weight(n, cast(n, zero_points(n, zero, &b), b.type), &b, groups)
                : num(n, w, (double)(1 << (b.bits - 1)));
  w = mul(n, sub(n, w, z), per_weight(n, cast(n, scale, b.type), &b, groups));
  if (!groups)
    w = build_slice(job, build_reshape_v(job, w, 2, b.rows, b.count * b.size), 1, 0, b.k, 1);
  UOp *y = build_matmul(job, cast(n, a, b.type), build_transpose(job, w, 0, 1));
  if (bias) y = add(n, y, cast(n, bias, b.type));
  node_out(n, 0, cast(n, y, uop_dtype(a)));
}

const OnnxOp onnx_ms_quant_ops[] = {
    {"com.microsoft", "QLinearAdd", 1, 7, 8, op_add},
    {"com.microsoft", "QLinearMul", 1, 7, 8, op_mul},
    {"com.microsoft", "QLinearSigmoid", 1, 4, 5, op_sigmoid},
    {"com.microsoft", "QLinearLeakyRelu", 1, 4, 5, op_leaky_relu},
    {"com.microsoft", "QLinearSoftmax", 1, 5, 5, op_softmax},
    {"com.microsoft", "QLinearWhere", 1, 9, 9, op_where},
    {"com.microsoft", "QLinearConcat", 1, 5, 255, op_concat},
    {"com.microsoft", "QLinearGlobalAveragePool", 1, 5, 5, op_global_average},
    {"com.microsoft", "QLinearAveragePool", 1, 4, 5, op_average},
    {"com.microsoft", "QLinearReduceMean", 1, 4, 5, op_reduce_mean},
    {"com.microsoft", "QLinearConv", 1, 8, 9, op_conv},
    {"com.microsoft", "QGemm", 1, 6, 9, op_qgemm},
    {"com.microsoft", "DynamicQuantizeMatMul", 1, 3, 5, op_dynamic_matmul},
    {"com.microsoft", "MatMulIntegerToFloat", 1, 4, 7, op_matmul_to_float},
    {"com.microsoft", "MatMulInteger16", 1, 2, 2, op_matmul_integer16},
    {"com.microsoft", "MulInteger", 1, 3, 4, op_mul_integer},
    {"com.microsoft", "ReduceSumInteger", 1, 1, 1, op_reduce_sum_integer},
    {"com.microsoft", "QuantizeLinear", 1, 2, 3, quant_quantize_linear},
    {"com.microsoft", "DequantizeLinear", 1, 2, 3, quant_dequantize_linear},
    {"com.microsoft", "MatMulNBits", 1, 3, 6, op_matmul_nbits},
    {0},
};
