/* Reads at positions that are themselves computed between the pixels: GridSample; and what belongs
 * to it: AffineGrid, which makes such positions, and Col2Im, which adds windows back. */

#include "compiler/frontend/onnx_spatial.h"

static UOp *num(Node *n, const UOp *like, double v) { return build_num(n->job, like, v); }
static UOp *two(Node *n, Op op, UOp *a, UOp *b) { return build2(n->job, op, a, b); }

typedef struct Sampler {
  Node *n;
  Str padding;
  bool align;
  int taps; /* 1 nearest, 2 linear, 4 cubic */
  uint32_t spatial;
  const int64_t *dims; /* of the image */
  UOp *pixels;         /* [N * dims..., C] */
} Sampler;

/* x folded into [lo, hi] by mirrors at both. */
static UOp *reflect(Node *n, UOp *x, double lo, double hi) {
  double span = hi - lo;
  if (span <= 0) return num(n, x, lo);
  UOp *t = build1(n->job, OP_ABS, two(n, OP_SUB, x, num(n, x, lo)));
  t = two(n, OP_FMOD, t, num(n, x, 2 * span));
  UOp *back = two(n, OP_SUB, num(n, x, 2 * span), t);
  t = two(n, OP_MIN, t, back);
  return two(n, OP_ADD, t, num(n, x, lo));
}

static UOp *clamp(Node *n, UOp *x, double lo, double hi) {
  return two(n, OP_MIN, two(n, OP_MAX, x, num(n, x, lo)), num(n, x, hi));
}

/* Pixel coordinate from a grid value in [-1, 1]; one beyond the border is brought back as the
 * padding mode says. */
static UOp *coordinate(const Sampler *s, UOp *g, int64_t d) {
  Node *n = s->n;
  double size = (double)d, lo = s->align ? 0 : -0.5, hi = s->align ? size - 1 : size - 0.5;
  UOp *x = two(n, OP_ADD, g, num(n, g, 1));
  x = two(n, OP_MUL, x, num(n, g, (s->align ? size - 1 : size) / 2));
  if (!s->align) x = two(n, OP_SUB, x, num(n, g, 0.5));
  if (s->taps == 1) x = build1(n->job, OP_ROUND, x);
  UOp *out = two(n, OP_OR, two(n, OP_CMPLT, x, num(n, x, lo)), two(n, OP_CMPLT, num(n, x, hi), x));
  if (str_is(s->padding, "border")) return build_where(n->job, out, clamp(n, x, 0, size - 1), x);
  if (str_is(s->padding, "reflection")) return build_where(n->job, out, reflect(n, x, lo, hi), x);
  return x;
}

/* Weight of tap k (offset k - first) at fraction t of the way from tap 0 to tap 1. */
static UOp *tap_weight(const Sampler *s, UOp *t, int offset) {
  Node *n = s->n;
  UOp *x = build1(n->job, OP_ABS, two(n, OP_SUB, t, num(n, t, offset))), *one = num(n, t, 1);
  if (s->taps == 1) return NULL;
  if (s->taps == 2) return two(n, OP_SUB, one, x);
  const double a = -0.75;
  if (offset == 0 || offset == 1) {
    UOp *p = two(n, OP_SUB, two(n, OP_MUL, x, num(n, t, a + 2)), num(n, t, a + 3));
    return two(n, OP_ADD, two(n, OP_MUL, two(n, OP_MUL, p, x), x), one);
  }
  UOp *p = two(n, OP_SUB, two(n, OP_MUL, x, num(n, t, a)), num(n, t, 5 * a));
  p = two(n, OP_ADD, two(n, OP_MUL, p, x), num(n, t, 8 * a));
  return two(n, OP_SUB, two(n, OP_MUL, p, x), num(n, t, 4 * a));
}

/* Sum over the taps of axes 0..axis of what the inner axes give; flat and inside so far. */
static UOp *sample_axis(const Sampler *s, UOp *const *x, uint32_t axis, UOp *flat, UOp *inside) {
  Node *n = s->n;
  Job *job = n->job;
  if (axis == s->spatial) {
    UOp *at = build_where(job, inside, flat, uop_int(job, DT_I64, -1));
    return build_gather(job, s->pixels, at, 0);
  }
  int64_t d = s->dims[axis];
  UOp *base = s->taps == 1 ? x[axis] : build1(job, OP_FLOOR, x[axis]), *sum = NULL;
  UOp *t = two(n, OP_SUB, x[axis], base);
  int first = s->taps == 4 ? -1 : 0;
  for (int k = first; k < first + s->taps; k++) {
    UOp *p = two(n, OP_ADD, base, num(n, base, k)), *ok = inside;
    if (str_is(s->padding, "border")) p = clamp(n, p, 0, (double)(d - 1));
    if (str_is(s->padding, "reflection")) {
      p = reflect(n, p, s->align ? 0 : -0.5, (double)d - (s->align ? 1 : 0.5));
      p = clamp(n, p, 0, (double)(d - 1));
    }
    UOp *in = two(n, OP_AND, two(n, OP_CMPLE, num(n, p, 0), p),
                  two(n, OP_CMPLT, p, num(n, p, (double)d)));
    ok = two(n, OP_AND, ok, in);
    UOp *i = two(n, OP_MUL, flat, uop_int(job, DT_I64, d));
    i = two(n, OP_ADD, i, build_cast(job, p, DT_I64));
    UOp *v = sample_axis(s, x, axis + 1, i, ok), *w = tap_weight(s, t, k);
    if (w)
      v = two(n, OP_MUL, v, build_cast(job, build_unsqueeze(job, w, w->shape.n), uop_dtype(v)));
    sum = sum ? two(n, OP_ADD, sum, v) : v;
  }
  return sum;
}

static void check_grid(Node *n, const UOp *x, const UOp *grid) {
  uint32_t r = x->shape.n;
  bool ok = r >= 3 && r <= 5 && grid->shape.n == r && grid->shape.at[r - 1] == r - 2 &&
            grid->shape.at[0] == x->shape.at[0] && dtype_is_float(uop_dtype(grid));
  if (!ok || dims_numel(n->job, x->shape) == 0)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "grid of shape %s for an image of shape %s",
                           shape_text(n->job, grid->shape), shape_text(n->job, x->shape)));
}

/* [N, C, dims...] to [N * dims..., C] */
static UOp *as_pixels(Node *n, UOp *x) {
  int64_t order[MAX_DIMS], count = shape_numel(x->shape) / x->shape.at[1];
  uint32_t r = x->shape.n;
  order[0] = 0, order[r - 1] = 1;
  for (uint32_t i = 2; i < r; i++) order[i - 1] = i;
  int64_t channels = x->shape.at[1];
  return build_reshape_v(n->job, build_permute(n->job, x, order, r), 2, count, channels);
}

/* image [N, C, dims...] at grid [N, out..., axes]: [N, C, out...] */
static UOp *grid_sample(Sampler *s, UOp *image, UOp *grid) {
  Node *n = s->n;
  Job *job = n->job;
  uint32_t r = image->shape.n;
  UOp *x[3];
  int64_t order[MAX_DIMS];
  s->spatial = r - 2, s->dims = image->shape.at + 2;
  s->pixels = as_pixels(n, image);
  grid = build_cast(job, grid, DT_F32);
  for (uint32_t i = 0; i < s->spatial; i++) { /* the grid lists the innermost axis first */
    UOp *g = build_slice(job, grid, r - 1, s->spatial - 1 - i, 1, 1);
    x[i] = coordinate(s, build_squeeze(job, g, r - 1), s->dims[i]);
  }
  Ints out = {grid->shape.at, r - 1};
  UOp *first = build_iota(job, DT_I64, 0, out);
  UOp *yes = build_splat(job, uop_int(job, DT_BOOL, 1), out);
  UOp *y = sample_axis(s, x, 0, first, yes);
  order[0] = 0, order[1] = r - 1;
  for (uint32_t i = 2; i < r; i++) order[i] = i - 1;
  return build_permute(job, y, order, r);
}

static void op_grid_sample(Node *n) {
  UOp *x = node_u(n, 0), *grid = node_u(n, 1);
  Str mode = attr_str(n, "mode", n->opset < 20 ? "bilinear" : "linear");
  Sampler s = {.n = n,
               .padding = attr_str(n, "padding_mode", "zeros"),
               .align = attr_int(n, "align_corners", 0) != 0};
  check_grid(n, x, grid);
  if (str_is(mode, "nearest"))
    s.taps = 1;
  else if (str_is(mode, "linear") || str_is(mode, "bilinear"))
    s.taps = 2;
  else if (str_is(mode, "cubic") || str_is(mode, "bicubic"))
    s.taps = 4;
  else
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown mode '" STR_FMT "'", STR_ARG(mode)));
  if (!str_is(s.padding, "zeros") && !str_is(s.padding, "border") &&
      !str_is(s.padding, "reflection"))
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "unknown padding_mode '" STR_FMT "'", STR_ARG(s.padding)));
  node_out(n, 0, grid_sample(&s, x, grid));
}

/* Base coordinates in [-1, 1] of an image, times theta. */
static void op_affine_grid(Node *n) {
  UOp *theta = node_u(n, 0);
  Ints size = node_ints(n, 1, "size");
  bool align = attr_int(n, "align_corners", 0) != 0;
  uint32_t r = size.n - 2;
  bool ok = (size.n == 4 || size.n == 5) && theta->shape.n == 3 && theta->shape.at[1] == r &&
            theta->shape.at[2] == r + 1;
  int64_t count = 1, dims[MAX_DIMS];
  for (uint32_t i = 2; ok && i < size.n; i++) {
    ok = size.at[i] >= 1 && size.at[i] <= 1 << 16 && count <= 1 << 24;
    count *= size.at[i];
  }
  if (!ok || count > 1 << 24)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "theta of shape %s, size %s",
                           shape_text(n->job, theta->shape), shape_text(n->job, size)));
  float *base = arena_array(&n->job->arena, (size_t)count * (r + 1), sizeof *base);
  for (int64_t p = 0; p < count; p++) {
    int64_t rest = p;
    for (uint32_t i = 0; i < r; i++) { /* innermost axis first */
      int64_t d = size.at[size.n - 1 - i], at = rest % d;
      rest /= d;
      double step = align ? (d > 1 ? 2.0 / (double)(d - 1) : 0) : 2.0 / (double)d;
      base[p * (r + 1) + i] = (float)(-1 + (double)at * step + (align ? 0 : step / 2));
    }
    base[p * (r + 1) + r] = 1;
  }
  Ints shape = {(int64_t[]){count, r + 1}, 2};
  UOp *b =
      build_cast(n->job, val_uop(n->f, val_from_data(n->f, DT_F32, shape, base)), uop_dtype(theta));
  UOp *g = build_matmul(n->job, b, build_transpose(n->job, theta, 1, 2));
  dims[0] = theta->shape.at[0];
  for (uint32_t i = 0; i < r; i++) dims[1 + i] = size.at[2 + i];
  dims[r + 1] = r;
  node_out(n, 0, build_reshape(n->job, g, shape_make(dims, r + 2)));
}

/* Axes (k, o) of x become one of `size` elements, the last: element p sums over k the x[k, o] with
 * o*stride + k*dilation - lo == p, which is one or none. */
static UOp *add_windows(Node *n, UOp *x, size_t k, size_t o, int64_t size, const int64_t *rule) {
  Job *job = n->job;
  int64_t order[MAX_DIMS], dims[MAX_DIMS], K = x->shape.at[k], O = x->shape.at[o];
  uint32_t r = 0;
  for (uint32_t i = 0; i < x->shape.n; i++)
    if (i != k && i != o) order[r++] = i;
  order[r] = (int64_t)k, order[r + 1] = (int64_t)o;
  for (uint32_t i = 0; i < r; i++) dims[i] = x->shape.at[order[i]];
  dims[r] = K * O;
  x = build_permute(job, x, order, x->shape.n);
  x = build_reshape(job, x, shape_make(dims, r + 1));
  Ints wide = {(int64_t[]){K, size}, 2};
  UOp *kernel = build_iota(job, DT_I64, 0, wide), *p = build_iota(job, DT_I64, 1, wide);
  UOp *far = two(n, OP_ADD, p, uop_int(job, DT_I64, rule[2]));
  far = two(n, OP_SUB, far, two(n, OP_MUL, kernel, uop_int(job, DT_I64, rule[1])));
  UOp *stride = uop_int(job, DT_I64, rule[0]), *zero = uop_int(job, DT_I64, 0);
  UOp *at = two(n, OP_FLOORDIV, far, stride);
  UOp *on = two(n, OP_CMPEQ, two(n, OP_FLOORMOD, far, stride), zero);
  on = two(n, OP_AND, on, two(n, OP_CMPLE, zero, at));
  on = two(n, OP_AND, on, two(n, OP_CMPLT, at, uop_int(job, DT_I64, O)));
  at = two(n, OP_ADD, at, two(n, OP_MUL, kernel, uop_int(job, DT_I64, O)));
  at = build_where(job, on, at, uop_int(job, DT_I64, -1));
  return build_reduce(job, OP_ADD, build_gather(job, x, at, r), axis_bit(r), false);
}

static void op_col2im(Node *n) {
  UOp *x = node_u(n, 0);
  Ints image = node_ints(n, 1, "image_shape"), block = node_ints(n, 2, "block_shape");
  size_t s = block.n;
  int64_t stride[MAX_SPATIAL], dilation[MAX_SPATIAL], pads[2 * MAX_SPATIAL], dims[MAX_DIMS];
  int64_t area = 1, windows = 1;
  bool ok = x->shape.n == 3 && s >= 1 && s <= MAX_SPATIAL && image.n == s;
  if (ok) {
    spatial_ints(n, "strides", s, 1, 1, stride);
    spatial_ints(n, "dilations", s, 1, 1, dilation);
    spatial_ints(n, "pads", 2 * s, 0, 0, pads);
  }
  for (size_t i = 0; ok && i < s; i++) {
    ok = block.at[i] >= 1 && block.at[i] <= 1 << 16 && image.at[i] >= 1 && image.at[i] <= INT32_MAX;
    int64_t span =
        ok ? image.at[i] + pads[i] + pads[s + i] - dilation[i] * (block.at[i] - 1) - 1 : -1;
    ok = ok && span >= 0 && area < 1 << 20 && windows < 1ll << 30;
    if (!ok) break;
    dims[2 + i] = block.at[i];
    dims[2 + s + i] = span / stride[i] + 1;
    area *= block.at[i];
    windows *= dims[2 + s + i];
  }
  if (!ok || x->shape.at[1] % area || x->shape.at[2] != windows)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "columns of shape %s, image %s, blocks %s",
                           shape_text(n->job, x->shape), shape_text(n->job, image),
                           shape_text(n->job, block)));
  dims[0] = x->shape.at[0], dims[1] = x->shape.at[1] / area;
  DType d = uop_dtype(x);
  if (dtype_is_bool(d))
    x = build_cast(n->job, x, DT_I32); /* a sum of bools is whether any is set */
  x = build_reshape(n->job, x, shape_make(dims, 2 + 2 * s));
  for (size_t i = 0; i < s; i++) { /* each turn removes the first k and o and appends an axis */
    const int64_t rule[3] = {stride[i], dilation[i], pads[i]};
    x = add_windows(n, x, 2, 2 + s - i, image.at[i], rule);
  }
  node_out(n, 0, build_cast(n->job, x, d));
}

const OnnxOp onnx_sample_ops[] = {
    {"", "GridSample", 16, 2, 2, op_grid_sample},
    {"", "AffineGrid", 20, 2, 2, op_affine_grid},
    {"", "Col2Im", 18, 3, 3, op_col2im},
    {0},
};
