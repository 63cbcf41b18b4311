/* Quantisation: q = saturate(round(x / scale) + zero), x = (q - zero) * scale. Scales are scalars,
 * vectors along an axis, or (opset 21) blocks along an axis. Integer products are exact in i32. To
 * small floats it is a cast of x / scale, and the zero point has to be 0. */
#include "compiler/frontend/onnx_quant.h"
#include "compiler/frontend/onnx_spatial.h"

/* A scale or zero point, in a shape that broadcasts with x. */
static UOp *per_axis(Node *n, UOp *p, const UOp *x, int64_t axis_, int64_t block) {
  Job *job = n->job;
  uint32_t r = x->shape.n;
  if (dims_numel(job, p->shape) == 1 && p->shape.n <= 1) return build_reshape(job, p, (Ints){0});
  size_t axis = axis_check(job, axis_, r);
  int64_t d = x->shape.at[axis], dims[MAX_DIMS];
  if (p->shape.n == 1 && p->shape.at[0] == d) return build_along(job, p, axis, r);
  bool blocked = block > 0 && p->shape.n == r && p->shape.at[axis] == dim_ceildiv(job, d, block);
  for (uint32_t i = 0; blocked && i < r; i++)
    if (i != axis && p->shape.at[i] != x->shape.at[i]) blocked = false;
  if (!blocked || block > MAX_NUMEL)
    job_abort(job, FAIL(INVALID_ARGUMENT, "scale or zero point of shape %s for data of shape %s",
                        shape_text(job, p->shape), shape_text(job, x->shape)));
  p = build_unsqueeze(job, p, axis + 1);
  for (uint32_t i = 0; i <= r; i++) dims[i] = i == axis + 1 ? block : p->shape.at[i];
  p = build_expand(job, p, shape_make(dims, r + 1));
  for (uint32_t i = 0; i < r; i++)
    dims[i] = i == axis ? dim_mul(job, p->shape.at[axis], block) : x->shape.at[i];
  p = build_reshape(job, p, shape_make(dims, r));
  return build_slice(job, p, axis, 0, d, 1);
}

static void limits(Node *n, DType d, double *lo, double *hi) {
  unsigned bits = dtype_info[d].bits;
  if (!dtype_is_int(d) || bits > 16)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "quantisation to %s", dtype_info[d].name));
  *lo = dtype_is_uint(d) ? 0 : -(double)(1 << (bits - 1));
  *hi = dtype_is_uint(d) ? (double)((1 << bits) - 1) : (double)((1 << (bits - 1)) - 1);
}

UOp *quant_round(Node *n, UOp *ratio, UOp *zero, DType d) {
  double lo, hi;
  limits(n, d, &lo, &hi);
  UOp *q = build1(n->job, OP_ROUND, ratio);
  if (zero) q = build2(n->job, OP_ADD, q, build_cast(n->job, zero, uop_dtype(q)));
  q = build2(n->job, OP_MAX, q, build_num(n->job, q, lo));
  return build_cast(n->job, build2(n->job, OP_MIN, q, build_num(n->job, q, hi)), d);
}

/* x / scale, in f32 or as the attribute `precision` says, then as f32. */
static UOp *ratio_of(Node *n, UOp *x, UOp *scale) {
  int64_t precision = attr_int(n, "precision", 0);
  DType d = precision ? onnx_dtype(n->job, precision) : DT_F32;
  if (!dtype_is_float(d) || dtype_is_storage(d))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "precision %s, expected f16, bf16, f32 or f64",
                           dtype_info[d].name));
  UOp *r = build2(n->job, OP_FDIV, build_cast(n->job, x, d), build_cast(n->job, scale, d));
  return build_cast(n->job, r, DT_F32);
}

/* Their zero points are 0. */
static bool is_small_float(DType d) {
  return dtype_is_float(d) && dtype_is_storage(d) && d != DT_F8E8M0;
}

void quant_quantize_linear(Node *n) {
  UOp *x = node_u(n, 0), *zero = node_opt(n, 2);
  int64_t axis = attr_int(n, "axis", 1), block = attr_int(n, "block_size", 0);
  UOp *scale = per_axis(n, node_u(n, 1), x, axis, block);
  DType d = zero ? uop_dtype(zero) : DT_U8;
  if (attr_int(n, "output_dtype", 0)) d = onnx_dtype(n->job, attr_int(n, "output_dtype", 0));
  if (zero) zero = per_axis(n, zero, x, axis, block);
  UOp *ratio = ratio_of(n, x, scale);
  node_out(n, 0, is_small_float(d) ? onnx_cast(n, ratio, d) : quant_round(n, ratio, zero, d));
}

void quant_dequantize_linear(Node *n) {
  UOp *x = node_u(n, 0), *scale = node_u(n, 1), *zero = node_opt(n, 2);
  int64_t axis = attr_int(n, "axis", 1), block = attr_int(n, "block_size", 0);
  DType d = uop_dtype(scale);
  if (attr_int(n, "output_dtype", 0)) d = onnx_dtype(n->job, attr_int(n, "output_dtype", 0));
  scale = per_axis(n, scale, x, axis, block);
  if (zero) zero = per_axis(n, zero, x, axis, block);
  bool small = dtype_is_float(uop_dtype(x));
  UOp *y = build_cast(n->job, small ? x : node_centred(n, x, zero), DT_F32);
  y = build2(n->job, OP_MUL, y, build_cast(n->job, scale, DT_F32));
  node_out(n, 0, build_cast(n->job, y, d));
}

UOp *quant_dynamic(Node *n, UOp *x, UOp **scale_out, UOp **point_out) {
  UOp *zero = build_num(n->job, x, 0), *full = build_num(n->job, x, 255);
  UOp *hi = build2(n->job, OP_MAX, build_reduce(n->job, OP_MAX, x, axes_all(x), false), zero);
  UOp *lo = build2(n->job, OP_MIN, build_reduce(n->job, OP_MIN, x, axes_all(x), false), zero);
  UOp *scale = build2(n->job, OP_FDIV, build2(n->job, OP_SUB, hi, lo), full);
  UOp *flat = build2(n->job, OP_CMPEQ, scale, zero);
  UOp *safe = build_where(n->job, flat, build_num(n->job, x, 1), scale);
  UOp *at = build2(n->job, OP_FDIV, build1(n->job, OP_NEG, lo), safe);
  UOp *point = quant_round(n, at, NULL, DT_U8);
  *scale_out = scale;
  *point_out = point;
  return quant_round(n, build2(n->job, OP_FDIV, x, safe), point, DT_U8);
}

static void op_dynamic_quantize(Node *n) {
  UOp *scale, *point, *y = quant_dynamic(n, node_u(n, 0), &scale, &point);
  node_out(n, 0, y);
  node_out(n, 1, scale);
  node_out(n, 2, point);
}

/* An i32 or f32 result times scale_a * scale_b / scale_y, in f32, requantised. */
static UOp *requantize(Node *n, UOp *y, UOp *scale, UOp *scale_y, UOp *zero_y) {
  UOp *k = build2(n->job, OP_FDIV, scale, build_cast(n->job, scale_y, DT_F32));
  UOp *f = build2(n->job, OP_MUL, build_cast(n->job, y, DT_F32), k);
  DType d = uop_dtype(zero_y);
  return is_small_float(d) ? onnx_cast(n, f, d) : quant_round(n, f, zero_y, d);
}

/* Rows of A and columns of B may have their own scale and zero point. */
static UOp *rowwise(Node *n, UOp *p) {
  bool rows = p->shape.n == 1 && p->shape.at[0] != 1;
  return rows ? build_unsqueeze(n->job, p, 1) : p;
}
static UOp *scalar_if_one(Node *n, UOp *p) {
  return dims_numel(n->job, p->shape) == 1 ? build_reshape(n->job, p, (Ints){0}) : p;
}

static UOp *centred_float(Node *n, UOp *x, UOp *zero) {
  if (!dtype_is_float(uop_dtype(x))) x = node_centred(n, x, zero);
  return build_cast(n->job, x, DT_F32);
}

static void op_qlinear_matmul(Node *n) {
  UOp *in[8];
  for (size_t i = 0; i < 8; i++) in[i] = node_u(n, i);
  for (size_t i = 0; i < 8; i++)
    if (i != 0 && i != 3) in[i] = scalar_if_one(n, in[i]);
  UOp *scale = build2(n->job, OP_MUL, build_cast(n->job, rowwise(n, in[1]), DT_F32),
                      build_cast(n->job, in[4], DT_F32));
  bool floats = dtype_is_float(uop_dtype(in[0])) || dtype_is_float(uop_dtype(in[3]));
  UOp *za = rowwise(n, in[2]);
  UOp *y = floats
               ? build_matmul(n->job, centred_float(n, in[0], za), centred_float(n, in[3], in[5]))
               : build_matmul_centred(n->job, in[0], za, in[3], in[5]);
  node_out(n, 0, requantize(n, y, scale, rowwise(n, in[6]), rowwise(n, in[7])));
}

UOp *quant_conv(Node *n, UOp *x) {
  UOp *in[8];
  for (size_t i = 0; i < 8; i++) in[i] = node_u(n, i);
  UOp *w = in[3];
  if (w->shape.n != x->shape.n || w->shape.n < 3)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "weights of shape %s for a source of shape %s",
                           shape_text(n->job, w->shape), shape_text(n->job, x->shape)));
  Spatial s = spatial_attrs(n, x, (Ints){w->shape.at + 2, w->shape.n - 2});
  s.conv.groups = attr_int(n, "group", 1);
  x = node_centred(n, x, scalar_if_one(n, in[2]));
  w = node_centred(n, w, per_axis(n, in[5], in[3], 0, 0));
  UOp *y = build_conv(n->job, x, w, node_opt(n, 8), &s.conv);
  UOp *ws = scalar_if_one(n, in[4]);
  if (ws->shape.n) ws = build_along(n->job, ws, 1, y->shape.n);
  UOp *scale = build2(n->job, OP_MUL, scalar_if_one(n, in[1]), ws);
  return requantize(n, y, scale, scalar_if_one(n, in[6]), scalar_if_one(n, in[7]));
}

static void op_qlinear_conv(Node *n) { node_out(n, 0, quant_conv(n, node_u(n, 0))); }

const OnnxOp onnx_quant_ops[] = {
    {"", "QuantizeLinear", 10, 2, 3, quant_quantize_linear},
    {"", "DequantizeLinear", 10, 2, 3, quant_dequantize_linear},
    {"", "DynamicQuantizeLinear", 11, 1, 1, op_dynamic_quantize},
    {"", "QLinearMatMul", 10, 8, 8, op_qlinear_matmul},
    {"", "QLinearConv", 10, 8, 9, op_qlinear_conv},
    {0},
};
