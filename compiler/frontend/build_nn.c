/* See build_nn.h. Convolution: the windows [N, C, out..., k...] are put beside the weights as
 * [N, G, M/G, out..., C/G, k...], multiplied, and summed over C/G and k. Nothing of that size is
 * ever stored: the product exists only as the body of the reduction. */
#include "compiler/frontend/build_nn.h"

static void check_contraction(Job *job, const UOp *a, const UOp *b) {
  if (a->dtype != b->dtype)
    job_abort(job, FAIL(INVALID_ARGUMENT, "product of different dtypes: %s and %s",
                        dtype_info[a->dtype].name, dtype_info[b->dtype].name));
  if (dtype_is_bool(uop_dtype(a)))
    job_abort(job, FAIL(INVALID_ARGUMENT, "product of bool tensors, expected a numeric dtype"));
}

UOp *build_matmul(Job *job, UOp *a, UOp *b) {
  check_contraction(job, a, b);
  DType d = uop_dtype(a);
  bool vec_a = a->shape.n == 1, vec_b = b->shape.n == 1;
  Ints sa = a->shape, sb = b->shape;
  if (!sa.n || !sb.n)
    job_abort(job, FAIL(INVALID_ARGUMENT, "matrix product with a scalar: shapes %s and %s",
                        shape_text(job, sa), shape_text(job, sb)));
  int64_t ka = sa.at[sa.n - 1], kb = sb.at[vec_b ? 0 : sb.n - 2];
  if (!build_may_equal(ka, kb))
    job_abort(job,
              FAIL(INVALID_ARGUMENT, "matrix product of shapes %s and %s: %s and %s differ",
                   shape_text(job, sa), shape_text(job, sb), dim_text(job, ka), dim_text(job, kb)));
  b = build_fit(job, b, vec_b ? 0 : sb.n - 2, ka);
  if (vec_a) a = build_unsqueeze(job, a, 0);
  if (vec_b) b = build_unsqueeze(job, b, 1);
  size_t ra = a->shape.n, rb = b->shape.n, rank = ra > rb ? ra : rb;
  b = build_transpose(job, b, rb - 1, rb - 2);
  a = build_unsqueeze(job, build_widen(job, a), ra - 1);
  b = build_unsqueeze(job, build_widen(job, b), rb - 2);
  UOp *product = build2(job, OP_MUL, a, b);
  UOp *sum = build_reduce(job, OP_ADD, product, axis_bit(rank), false);
  if (vec_b) sum = build_squeeze(job, sum, rank - 1);
  if (vec_a) sum = build_squeeze(job, sum, rank - 2);
  return build_cast(job, sum, d);
}

static bool is_zero(const UOp *u) { return !u || (uop_is_const(u) && u->arg.i == 0); }

/* x + 128 in the byte type of the other sign, and its zero point likewise. */
static UOp *shift_byte(Job *job, UOp *x, DType to, UOp **zero) {
  bool wants_unsigned = to == DT_U8;
  UOp *old = *zero ? build_cast(job, *zero, DT_I32) : NULL;
  UOp *by = uop_int(job, DT_I32, wants_unsigned ? 128 : -128);
  *zero = old ? build2(job, OP_ADD, old, by) : by;
  UOp *bits = uop_make(job, OP_BITCAST, DT_U8, arg_none(), &x, 1);
  if (uop_dtype(x) == DT_U8) bits = x;
  bits = build2(job, OP_XOR, bits, uop_int(job, DT_U8, 128));
  return wants_unsigned ? bits : uop_make(job, OP_BITCAST, DT_I8, arg_none(), &bits, 1);
}

static UOp *times_sums(Job *job, UOp *y, UOp *zero, UOp *x, size_t axis) {
  if (is_zero(zero)) return y;
  UOp *sums = build_reduce(job, OP_ADD, x, axis_bit(axis), true);
  return build2(job, OP_SUB, y, build2(job, OP_MUL, build_cast(job, zero, DT_I32), sums));
}

UOp *build_matmul_centred(Job *job, UOp *a, UOp *za, UOp *b, UOp *zb) {
  bool bytes = dtype_info[uop_dtype(a)].bytes == 1 && dtype_info[uop_dtype(b)].bytes == 1;
  size_t ra = a->shape.n, rb = b->shape.n;
  if (!bytes || ra < 2 || rb < 2) {
    UOp *x = build_cast(job, a, DT_I32), *w = build_cast(job, b, DT_I32);
    if (za) x = build2(job, OP_SUB, x, build_cast(job, za, DT_I32));
    if (zb) w = build2(job, OP_SUB, w, build_cast(job, zb, DT_I32));
    return build_matmul(job, x, w);
  }
  if (uop_dtype(a) == DT_I8) a = shift_byte(job, a, DT_U8, &za);
  if (uop_dtype(b) == DT_U8) b = shift_byte(job, b, DT_I8, &zb);
  UOp *x = build_cast(job, a, DT_I32), *w = build_cast(job, b, DT_I32);
  UOp *y = build_matmul(job, x, w);
  y = times_sums(job, y, za, w, rb - 2);
  y = times_sums(job, y, zb, x, ra - 1);
  if (is_zero(za) || is_zero(zb)) return y;
  UOp *depth = build_cast(job, build_size(job, a->shape.at[ra - 1]), DT_I32);
  UOp *zeros = build2(job, OP_MUL, build_cast(job, za, DT_I32), build_cast(job, zb, DT_I32));
  return build2(job, OP_ADD, y, build2(job, OP_MUL, depth, zeros));
}

UOp *build_windows(Job *job, UOp *x, const ConvSpec *spec, const int64_t *kernel, UOp *fill) {
  int64_t pads[2 * MAX_DIMS] = {0}, order[MAX_DIMS];
  size_t n = spec->spatial, first = x->shape.n - n;
  for (size_t i = 0; i < n; i++) {
    pads[2 * (first + i)] = spec->lo[i];
    pads[2 * (first + i) + 1] = spec->hi[i];
  }
  x = build_pad(job, x, pads, fill);
  for (size_t i = n; i-- > 0;)
    x = build_window(job, x, first + i, kernel[i], spec->stride[i], spec->dilation[i]);
  for (size_t i = 0; i < first; i++) order[i] = (int64_t)i;
  for (size_t i = 0; i < n; i++) {
    order[first + i] = (int64_t)(first + 2 * i);
    order[first + n + i] = (int64_t)(first + 2 * i + 1);
  }
  return build_permute(job, x, order, first + 2 * n);
}

/* x with the number of channels that the weights say. Weights have a fixed shape, and so have
 * channels; batch and spatial sizes are free. */
static UOp *check_conv(Job *job, UOp *x, const UOp *w, const ConvSpec *spec, size_t in_axis) {
  check_contraction(job, x, w);
  int64_t g = spec->groups;
  bool ok = x->shape.n == spec->spatial + 2 && w->shape.n == x->shape.n && g >= 1;
  for (uint32_t i = 0; i < w->shape.n; i++)
    front_static(job, w->shape.at[i], "a dimension of the weights");
  int64_t want = ok ? w->shape.at[in_axis] : 0, m = ok ? w->shape.at[0] : 0;
  if (ok && in_axis == 1) ok = m % g == 0 && !__builtin_mul_overflow(want, g, &want);
  if (ok && in_axis == 0) ok = want % g == 0;
  if (!ok || !build_may_equal(x->shape.at[1], want))
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "convolution of %s with weights %s in %lld groups: channels do not match",
                        shape_text(job, x->shape), shape_text(job, w->shape), (long long)g));
  return build_fit(job, x, 1, want);
}

UOp *build_along(Job *job, UOp *vector, size_t axis, size_t rank) {
  int64_t dims[MAX_DIMS];
  for (size_t i = 0; i < rank; i++) dims[i] = i == axis ? dims_numel(job, vector->shape) : 1;
  return build_reshape(job, vector, shape_make(dims, rank));
}

static UOp *add_bias(Job *job, UOp *y, UOp *bias) {
  if (!bias) return y;
  if (bias->shape.n != 1 || !build_may_equal(bias->shape.at[0], y->shape.at[1]))
    job_abort(job, FAIL(INVALID_ARGUMENT, "bias of shape %s, expected [%s]",
                        shape_text(job, bias->shape), dim_text(job, y->shape.at[1])));
  return build2(job, OP_ADD, y, build_along(job, bias, 1, y->shape.n));
}

UOp *build_conv(Job *job, UOp *x, UOp *w, UOp *bias, const ConvSpec *spec) {
  x = check_conv(job, x, w, spec, 1);
  DType d = uop_dtype(x);
  size_t n = spec->spatial;
  int64_t g = spec->groups, mg = w->shape.at[0] / g, cg = w->shape.at[1];
  int64_t dims[MAX_DIMS], order[MAX_DIMS], batch = x->shape.at[0];
  const int64_t *kernel = w->shape.at + 2;
  x = build_windows(job, build_widen(job, x), spec, kernel, build_num(job, build_widen(job, x), 0));
  const int64_t *out = x->shape.at + 2;
  /* x: [N, G, C/G, out..., k...] to [N, G, 1, out..., C/G, k...] */
  dims[0] = batch, dims[1] = g, dims[2] = cg;
  for (size_t i = 0; i < 2 * n; i++) dims[3 + i] = out[i];
  x = build_reshape(job, x, shape_make(dims, 3 + 2 * n));
  order[0] = 0, order[1] = 1, order[2 + n] = 2;
  for (size_t i = 0; i < n; i++) {
    order[2 + i] = (int64_t)(3 + i);
    order[3 + n + i] = (int64_t)(3 + n + i);
  }
  x = build_unsqueeze(job, build_permute(job, x, order, 3 + 2 * n), 2);
  /* w: [1, G, M/G, 1..., C/G, k...] */
  int64_t wdims[MAX_DIMS] = {1, g, mg}, ydims[MAX_DIMS] = {batch, g * mg};
  uint32_t axes = 0;
  for (size_t i = 0; i < n; i++) {
    wdims[3 + i] = 1;
    wdims[4 + n + i] = kernel[i];
    ydims[2 + i] = dims[3 + i];
  }
  wdims[3 + n] = cg;
  for (size_t i = 0; i <= n; i++) axes |= axis_bit(3 + n + i);
  w = build_reshape(job, build_widen(job, w), shape_make(wdims, 4 + 2 * n));
  UOp *y = build_reduce(job, OP_ADD, build2(job, OP_MUL, x, w), axes, true);
  y = build_cast(job, build_reshape(job, y, shape_make(ydims, 2 + n)), d);
  return add_bias(job, y, bias);
}

/* stride - 1 zeros between the elements of an axis. */
static UOp *spread(Job *job, UOp *x, size_t axis, int64_t stride) {
  int64_t d = x->shape.at[axis], dims[MAX_DIMS];
  if (stride == 1 || d == 0) return x;
  x = build_unsqueeze(job, x, axis + 1);
  x = build_pad_axis(job, x, axis + 1, 0, stride - 1, build_num(job, x, 0));
  for (uint32_t i = 0, o = 0; i < x->shape.n; i++)
    if (i != axis + 1) dims[o++] = i == axis ? dim_mul(job, d, stride) : x->shape.at[i];
  x = build_reshape(job, x, shape_make(dims, x->shape.n - 1));
  int64_t size = dim_add(job, dim_mul(job, dim_sub(job, d, 1), stride), 1);
  return build_slice(job, x, axis, 0, dim_low(size) < 0 ? dim_max(job, size, 0) : size, 1);
}

UOp *build_conv_transpose(Job *job, UOp *x, UOp *w, UOp *bias, const ConvSpec *spec) {
  x = check_conv(job, x, w, spec, 0);
  size_t n = spec->spatial, rank = n + 2;
  int64_t g = spec->groups, c = w->shape.at[0], mg = w->shape.at[1];
  int64_t dims[MAX_DIMS] = {g, c / g, mg};
  ConvSpec flat = *spec;
  for (size_t i = 0; i < n; i++) {
    int64_t k = w->shape.at[2 + i], reach = spec->dilation[i] * (k - 1);
    if (spec->stride[i] < 1 || spec->stride[i] > MAX_NUMEL || k < 1)
      job_abort(job, FAIL(INVALID_ARGUMENT, "stride %lld, kernel %lld", (long long)spec->stride[i],
                          (long long)k));
    x = spread(job, x, 2 + i, spec->stride[i]);
    w = build_flip(job, w, 2 + i);
    flat.stride[i] = 1;
    flat.lo[i] = dim_sub(job, reach, spec->lo[i]);
    flat.hi[i] = dim_sub(job, reach, spec->hi[i]);
    dims[3 + i] = k;
  }
  w = build_reshape(job, w, shape_make(dims, rank + 1));
  w = build_transpose(job, w, 1, 2);
  dims[0] = g * mg, dims[1] = c / g;
  for (size_t i = 0; i < n; i++) dims[2 + i] = dims[3 + i];
  w = build_reshape(job, w, shape_make(dims, rank));
  return build_conv(job, x, w, bias, &flat);
}

/* -- normalisation --------------------------------------------------------------------------- */

static UOp *shifted(Job *job, UOp *x, uint32_t axes) {
  return build2(job, OP_SUB, x, build_reduce(job, OP_MAX, x, axes, true));
}

UOp *build_softmax(Job *job, UOp *x, uint32_t axes) {
  DType d = uop_dtype(x);
  UOp *e = build1(job, OP_EXP, shifted(job, build_widen(job, x), axes));
  UOp *share = build1(job, OP_RECIP, build_reduce(job, OP_ADD, e, axes, true));
  return build_cast(job, build2(job, OP_MUL, e, share), d);
}

UOp *build_log_softmax(Job *job, UOp *x, uint32_t axes) {
  DType d = uop_dtype(x);
  UOp *s = shifted(job, build_widen(job, x), axes);
  UOp *sum = build_reduce(job, OP_ADD, build1(job, OP_EXP, s), axes, true);
  return build_cast(job, build2(job, OP_SUB, s, build1(job, OP_LOG, sum)), d);
}

UOp *build_normalize(Job *job, UOp *x, uint32_t axes, double epsilon, UOp **mean, UOp **inv_std) {
  UOp *m = build_mean(job, x, axes, true);
  UOp *centred = build2(job, OP_SUB, x, m);
  UOp *var = build_mean(job, build2(job, OP_MUL, centred, centred), axes, true);
  UOp *dev = build1(job, OP_SQRT, build2(job, OP_ADD, var, build_num(job, x, epsilon)));
  UOp *inv = build1(job, OP_RECIP, dev);
  if (mean) *mean = m;
  if (inv_std) *inv_std = inv;
  return build2(job, OP_MUL, centred, inv);
}

UOp *build_sigmoid(Job *job, UOp *x) {
  UOp *e = build1(job, OP_EXP, build1(job, OP_NEG, x));
  return build1(job, OP_RECIP, build2(job, OP_ADD, e, build_num(job, x, 1)));
}

UOp *build_argmax(Job *job, UOp *x, size_t axis, Op op, bool last) {
  uint32_t bit = axis_bit(axis);
  int64_t n = x->shape.at[axis];
  UOp *none = last ? uop_int(job, DT_I64, -1) : build_size(job, n);
  if (dtype_is_bool(uop_dtype(x))) x = build_cast(job, x, DT_U8);
  UOp *best = build_reduce(job, op, x, bit, true);
  UOp *hit = build2(job, OP_CMPEQ, x, best);
  if (dtype_is_float(uop_dtype(x))) /* a NaN is both the largest and the smallest */
    hit = build2(job, OP_OR, hit, build2(job, OP_CMPNE, x, x));
  UOp *at = build_iota(job, DT_I64, axis, x->shape);
  return build_reduce(job, last ? OP_MAX : OP_MIN, build_where(job, hit, at, none), bit, true);
}
