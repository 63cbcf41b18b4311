/* Ops of object detection. RoiAlign and MaxRoiPool are separable: what a bin of a region takes from
 * a feature map is a matrix over its rows times one over its columns, so both are contractions (or
 * maxima) along one axis after the other, with no limit on how many samples a bin has. DeformConv
 * samples the image at computed points and goes on as a matrix product. */
#include <math.h>

#include "compiler/frontend/onnx_math.h"
#include "compiler/frontend/onnx_spatial.h"

/* The bins of all regions along one axis: [R, 1] start and bin size, samples per bin. */
typedef struct Bins {
  UOp *start, *size, *samples; /* samples: a float that is whole */
  int64_t bins, pixels;
} Bins;

/* The samples of a bin that can lie in [-1, pixels], [R, bins, samples]: their coordinates, and
 * whether they are there. Neighbours are more than half a pixel apart when a bin has several. */
static UOp *samples_of(Node *n, const Bins *b, int64_t fixed, UOp **there, UOp **cut) {
  Job *job = n->job;
  int64_t r = b->start->shape.at[0], count = fixed > 0 ? fixed : 2 * b->pixels + 6;
  Ints wide = {(int64_t[]){r, b->bins, count}, 3};
  DType d = uop_dtype(b->start);
  UOp *size = build_unsqueeze(job, b->size, 2);
  UOp *samples = build_unsqueeze(job, b->samples, 2);
  UOp *step = quot(n, size, larger(n, samples, num(n, samples, 1)));
  UOp *base = add(n, b->start, mul(n, build_iota(job, d, 1, (Ints){wide.at, 2}), b->size));
  base = build_unsqueeze(job, base, 2);
  UOp *k = build_iota(job, d, 2, wide), *first = NULL;
  if (fixed <= 0) { /* skip what lies before -1 */
    first = un(n, OP_FLOOR, quot(n, sub(n, num(n, base, -1.5), base), step));
    UOp *usable = both(n, less(n, num(n, step, 0), step), less(n, num(n, first, 0), first));
    first = choose(n, usable, first, num(n, first, 0));
    k = add(n, k, first);
  }
  *there = less(n, k, samples);
  UOp *after = less(n, add(n, num(n, k, (double)count), first ? first : num(n, k, 0)), samples);
  *cut = first ? either(n, less(n, num(n, first, 0), first), after) : NULL;
  return add(n, base, mul(n, plus(n, k, 0.5), step));
}

/* How much pixel row y counts for a sample at x: linear interpolation, border pixels continued by
 * one, nothing beyond. Shape of x and one more axis of `pixels`. Only one of the two taps when
 * tap is 0 (the lower) or 1. */
static UOp *hat(Node *n, UOp *x, UOp *there, int64_t pixels, int tap) {
  Job *job = n->job;
  double last = (double)pixels - 1;
  UOp *in = both(n, upto(n, num(n, x, -1), x), upto(n, x, num(n, x, last + 1)));
  in = both(n, in, there);
  x = smaller(n, larger(n, x, num(n, x, 0)), num(n, x, last));
  UOp *low = un(n, OP_FLOOR, x), *t = sub(n, x, low);
  size_t r = x->shape.n;
  int64_t dims[MAX_DIMS];
  for (size_t i = 0; i < r; i++) dims[i] = x->shape.at[i];
  dims[r] = pixels;
  UOp *y = build_iota(job, uop_dtype(x), r, shape_make(dims, r + 1));
  UOp *at_low = equal(n, y, build_unsqueeze(job, low, r));
  UOp *at_high = equal(n, y, build_unsqueeze(job, plus(n, low, 1), r));
  UOp *zero = num(n, x, 0), *w_low = build_unsqueeze(job, sub(n, num(n, x, 1), t), r);
  UOp *w_high = build_unsqueeze(job, t, r), *w = zero;
  if (tap != 0) w = choose(n, at_high, w_high, w);
  if (tap != 1) w = choose(n, at_low, w_low, w);
  return choose(n, build_unsqueeze(job, in, r), w, zero);
}

/* Row weights of every bin, [R, bins, pixels]: the sum over its samples. */
static UOp *bin_weights(Node *n, const Bins *b, int64_t fixed) {
  UOp *there, *cut, *x = samples_of(n, b, fixed, &there, &cut);
  return build_reduce(n->job, OP_ADD, hat(n, x, there, b->pixels, -1), axis_bit(2), false);
}

/* sum over y, x of wy[r, p, y] * wx[r, q, x] * maps[r, c, y, x]: [R, C, P, Q] */
static UOp *contract(Node *n, UOp *maps, UOp *wy, UOp *wx) {
  Job *job = n->job;
  UOp *a = build_unsqueeze(job, build_unsqueeze(job, wy, 1), 3);           /* [R, 1, P, 1, Y] */
  UOp *m = build_unsqueeze(job, build_transpose(job, maps, 2, 3), 2);      /* [R, C, 1, X, Y] */
  UOp *rows = build_reduce(job, OP_ADD, mul(n, m, a), axis_bit(4), false); /* [R, C, P, X] */
  UOp *b = build_unsqueeze(job, build_unsqueeze(job, wx, 1), 1);           /* [R, 1, 1, Q, X] */
  return build_reduce(job, OP_ADD, mul(n, build_unsqueeze(job, rows, 3), b), axis_bit(4), false);
}

/* The largest single product of a tap's weight and its pixel, over the samples of a bin; a sample
 * outside the map counts as 0. */
static UOp *largest_tap(Node *n, UOp *maps, const Bins *by, const Bins *bx, int64_t fixed) {
  Job *job = n->job;
  UOp *there_y, *there_x, *cut_y, *cut_x, *best = NULL;
  UOp *y = samples_of(n, by, fixed, &there_y, &cut_y);
  UOp *x = samples_of(n, bx, fixed, &there_x, &cut_x);
  for (int tap = 0; tap < 4; tap++) {
    UOp *wy = hat(n, y, there_y, by->pixels, tap >> 1);
    UOp *wx = hat(n, x, there_x, bx->pixels, tap & 1);
    int64_t r = wy->shape.at[0], p = by->bins, q = bx->bins, s = wy->shape.at[2];
    int64_t t = wx->shape.at[2], c = maps->shape.at[1];
    UOp *v = contract(n, maps, build_reshape_v(job, wy, 3, r, p * s, by->pixels),
                      build_reshape_v(job, wx, 3, r, q * t, bx->pixels));
    v = build_reshape_v(job, v, 6, r, c, p, s, q, t);
    UOp *ok = both(n, build_reshape_v(job, there_y, 6, r, (int64_t)1, p, s, (int64_t)1, (int64_t)1),
                   build_reshape_v(job, there_x, 6, r, (int64_t)1, (int64_t)1, (int64_t)1, q, t));
    v = choose(n, ok, v, num(n, v, -(double)INFINITY));
    v = build_reduce(job, OP_MAX, v, axis_bit(3) | axis_bit(5), false);
    best = best ? larger(n, best, v) : v;
  }
  UOp *none = equal(n, best, num(n, best, -(double)INFINITY));
  return choose(n, none, num(n, best, 0), best);
}

static Bins roi_bins(Node *n, UOp *rois, int64_t at, int64_t bins, int64_t pixels, bool half,
                     int64_t fixed) {
  double scale = attr_float(n, "spatial_scale", 1), offset = half ? 0.5 : 0;
  Bins b = {.bins = bins, .pixels = pixels};
  UOp *from = plus(n, scaled(n, build_slice(n->job, rois, 1, at, 1, 1), scale), -offset);
  UOp *to = plus(n, scaled(n, build_slice(n->job, rois, 1, at + 2, 1, 1), scale), -offset);
  UOp *size = sub(n, to, from);
  if (!half) size = larger(n, size, num(n, size, 1));
  b.start = from;
  b.size = quot(n, size, num(n, size, (double)bins));
  b.samples = fixed > 0 ? num(n, size, (double)fixed) : un(n, OP_CEIL, b.size);
  b.samples = build_expand(n->job, b.samples, size->shape);
  return b;
}

static void op_roi_align(Node *n) {
  need_static(n);
  UOp *x = node_u(n, 0), *rois = node_u(n, 1), *batch = node_u(n, 2);
  int64_t h = attr_int(n, "output_height", 1), w = attr_int(n, "output_width", 1);
  int64_t fixed = attr_int(n, "sampling_ratio", 0);
  const char *usual = n->opset >= 16 ? "half_pixel" : "output_half_pixel";
  Str how = attr_str(n, "coordinate_transformation_mode", usual), mode = attr_str(n, "mode", "avg");
  bool half = str_is(how, "half_pixel"), max = str_is(mode, "max");
  if (x->shape.n != 4 || rois->shape.n != 2 || rois->shape.at[1] != 4 || batch->shape.n != 1 ||
      batch->shape.at[0] != rois->shape.at[0] || !dtype_is_float(uop_dtype(x)))
    bad_shape(n, "regions", rois);
  if (h < 1 || w < 1 || h > INT32_MAX || w > INT32_MAX || fixed < 0 || fixed > 1 << 12 ||
      (!half && !str_is(how, "output_half_pixel")) || (!max && !str_is(mode, "avg")) ||
      !x->shape.at[2] || !x->shape.at[3])
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT,
                   "%lld x %lld bins, sampling_ratio %lld, mode '" STR_FMT
                   "', coordinates '" STR_FMT "'",
                   (long long)h, (long long)w, (long long)fixed, STR_ARG(mode), STR_ARG(how)));
  DType d = uop_dtype(x), work = d == DT_F64 ? DT_F64 : DT_F32;
  rois = cast(n, rois, work);
  Bins by = roi_bins(n, rois, 1, h, x->shape.at[2], half, fixed);
  Bins bx = roi_bins(n, rois, 0, w, x->shape.at[3], half, fixed);
  UOp *maps = build_gather(n->job, cast(n, x, work), batch, 0), *y;
  if (max) {
    y = largest_tap(n, maps, &by, &bx, fixed);
  } else {
    y = contract(n, maps, bin_weights(n, &by, fixed), bin_weights(n, &bx, fixed));
    UOp *count = mul(n, by.samples, bx.samples);
    count = larger(n, count, num(n, count, 1));
    y = quot(n, y, build_unsqueeze(n->job, build_unsqueeze(n->job, count, 2), 3));
  }
  node_out(n, 0, cast(n, y, d));
}

/* Nearest, halves away from zero. */
static UOp *round_away(Node *n, UOp *x) {
  UOp *up = un(n, OP_FLOOR, plus(n, un(n, OP_ABS, x), 0.5));
  return choose(n, less(n, x, num(n, x, 0)), un(n, OP_NEG, up), up);
}

/* Whether pixel i belongs to bin p of region r: [R, bins, pixels]. */
static UOp *bin_mask(Node *n, UOp *rois, int64_t at, int64_t bins, int64_t pixels, double scale) {
  Job *job = n->job;
  UOp *from = round_away(n, scaled(n, build_slice(job, rois, 1, at, 1, 1), scale));
  UOp *to = round_away(n, scaled(n, build_slice(job, rois, 1, at + 2, 1, 1), scale));
  UOp *size = plus(n, sub(n, to, from), 1);
  size = quot(n, larger(n, size, num(n, size, 1)), num(n, size, (double)bins));
  UOp *p = build_along(job, build_arange(job, DT_F32, bins), 1, 2);
  UOp *first = add(n, from, un(n, OP_FLOOR, mul(n, p, size)));
  UOp *end = add(n, from, un(n, OP_CEIL, mul(n, plus(n, p, 1), size)));
  UOp *i = build_along(job, build_arange(job, DT_F32, pixels), 2, 3);
  return both(n, upto(n, build_unsqueeze(job, first, 2), i),
              less(n, i, build_unsqueeze(job, end, 2)));
}

static void op_max_roi_pool(Node *n) {
  need_static(n);
  Job *job = n->job;
  UOp *x = node_u(n, 0), *rois = node_u(n, 1);
  Ints pooled = attr_ints(n, "pooled_shape");
  double scale = attr_float(n, "spatial_scale", 1);
  if (x->shape.n != 4 || rois->shape.n != 2 || rois->shape.at[1] != 5)
    bad_shape(n, "regions", rois);
  if (pooled.n != 2 || pooled.at[0] < 1 || pooled.at[1] < 1)
    job_abort(job, FAIL(INVALID_ARGUMENT, "pooled_shape %s", shape_text(job, pooled)));
  UOp *batch = cast(n, column(n, rois, 0), DT_I64), *none = num(n, x, -(double)INFINITY);
  rois = cast(n, rois, DT_F32);
  UOp *rows = bin_mask(n, rois, 2, pooled.at[0], x->shape.at[2], scale);
  UOp *cols = bin_mask(n, rois, 1, pooled.at[1], x->shape.at[3], scale);
  UOp *maps = build_gather(job, x, batch, 0); /* [R, C, Y, X] */
  rows = build_unsqueeze(job, build_unsqueeze(job, rows, 1), 4);
  UOp *y = choose(n, rows, build_unsqueeze(job, maps, 2), none); /* [R, C, P, Y, X] */
  y = build_reduce(job, OP_MAX, y, axis_bit(3), false);
  cols = build_unsqueeze(job, build_unsqueeze(job, cols, 1), 1);
  y = choose(n, cols, build_unsqueeze(job, y, 3), none); /* [R, C, P, Q, X] */
  y = build_reduce(job, OP_MAX, y, axis_bit(4), false);
  node_out(n, 0, choose(n, equal(n, y, none), num(n, y, 0), y));
}

/* -- DeformConv ------------------------------------------------------------------------------ */

typedef struct Deform {
  Node *n;
  int64_t groups; /* of offsets */
  int64_t h, w;   /* of the image */
  UOp *pixels;    /* [N * groups * h * w, C / groups] */
  UOp *base;      /* first pixel of the image that a point reads */
} Deform;

/* The pixel dy, dx away from (y, x), times its weight; 0 outside the image. */
static UOp *corner(const Deform *f, UOp *y, UOp *x, UOp *weight) {
  Node *n = f->n;
  UOp *in = both(n, both(n, upto(n, num(n, y, 0), y), less(n, y, num(n, y, (double)f->h))),
                 both(n, upto(n, num(n, x, 0), x), less(n, x, num(n, x, (double)f->w))));
  UOp *at = add(n, mul(n, cast(n, y, DT_I64), i64(n, f->w)), cast(n, x, DT_I64));
  at = choose(n, in, add(n, at, f->base), i64(n, -1));
  UOp *v = build_gather(n->job, f->pixels, at, 0);
  return mul(n, v, build_unsqueeze(n->job, weight, weight->shape.n));
}

/* The image at y, x (each [N, groups, kh, kw, oh, ow]): [the same..., C / groups] */
static UOp *interpolate(const Deform *f, UOp *y, UOp *x) {
  Node *n = f->n;
  UOp *y0 = un(n, OP_FLOOR, y), *x0 = un(n, OP_FLOOR, x), *sum = NULL;
  UOp *ty = sub(n, y, y0), *tx = sub(n, x, x0), *one = num(n, y, 1);
  for (int k = 0; k < 4; k++) {
    UOp *wy = k >> 1 ? ty : sub(n, one, ty), *wx = k & 1 ? tx : sub(n, one, tx);
    UOp *v = corner(f, plus(n, y0, k >> 1), plus(n, x0, k & 1), mul(n, wy, wx));
    sum = sum ? add(n, sum, v) : v;
  }
  return sum;
}

/* Where the kernel's element (along spatial axis s) stands without an offset: [.., k, .., o, ..] */
static UOp *grid(Node *n, const Spatial *s, size_t axis, Ints wide, DType d) {
  UOp *k = build_iota(n->job, d, 2 + axis, wide), *o = build_iota(n->job, d, 4 + axis, wide);
  UOp *at = add(n, scaled(n, o, (double)s->conv.stride[axis]),
                scaled(n, k, (double)s->conv.dilation[axis]));
  return plus(n, at, -(double)s->conv.lo[axis]);
}

static UOp *deformed_columns(Node *n, UOp *x, UOp *offset, UOp *mask, const Spatial *s,
                             int64_t groups) {
  Job *job = n->job;
  const int64_t *k = s->kernel, *o = s->out;
  int64_t N = x->shape.at[0], c = x->shape.at[1] / groups,
          dims[6] = {N, groups, k[0], k[1], o[0], o[1]};
  Ints wide = {dims, 6};
  Deform f = {.n = n, .groups = groups, .h = x->shape.at[2], .w = x->shape.at[3]};
  UOp *p = build_reshape_v(job, x, 4, N * groups, c, f.h, f.w);
  p = build_permute(job, p, (int64_t[]){0, 2, 3, 1}, 4);
  f.pixels = build_reshape_v(job, p, 2, N * groups * f.h * f.w, c);
  UOp *image = add(n, mul(n, build_iota(job, DT_I64, 0, wide), i64(n, groups)),
                   build_iota(job, DT_I64, 1, wide));
  f.base = mul(n, image, i64(n, f.h * f.w));
  offset = build_reshape_v(job, offset, 7, N, groups, k[0], k[1], (int64_t)2, o[0], o[1]);
  UOp *at[2];
  for (size_t i = 0; i < 2; i++) {
    UOp *moved = build_squeeze(job, build_slice(job, offset, 4, (int64_t)i, 1, 1), 4);
    at[i] = add(n, grid(n, s, i, wide, uop_dtype(offset)), moved);
  }
  UOp *cols = interpolate(&f, at[0], at[1]);
  if (mask) cols = mul(n, cols, build_unsqueeze(job, build_reshape(job, mask, wide), 6));
  /* [N, groups, kh, kw, oh, ow, c] to [N, groups * c, kh * kw, oh * ow] */
  cols = build_permute(job, cols, (int64_t[]){0, 1, 6, 2, 3, 4, 5}, 7);
  return build_reshape_v(job, cols, 4, N, groups * c, k[0] * k[1], o[0] * o[1]);
}

static void op_deform_conv(Node *n) {
  need_static(n);
  Job *job = n->job;
  UOp *x = node_u(n, 0), *w = node_u(n, 1), *offset = node_u(n, 2), *bias = node_opt(n, 3);
  UOp *mask = node_opt(n, 4);
  int64_t g = attr_int(n, "group", 1), og = attr_int(n, "offset_group", 1);
  if (x->shape.n != 4 || w->shape.n != 4)
    job_abort(job, FAIL(UNIMPLEMENTED, "data of shape %s; only two spatial axes are supported",
                        shape_text(job, x->shape)));
  Spatial s = spatial_attrs(n, x, (Ints){w->shape.at + 2, 2});
  int64_t c = x->shape.at[1], m = w->shape.at[0], k = s.kernel[0] * s.kernel[1], N = x->shape.at[0];
  int64_t out = s.out[0] * s.out[1], points = og > 0 && og <= c ? N * og * k * out : -1;
  if (g < 1 || c % g || m % g || w->shape.at[1] != c / g || points < 0 || c % og ||
      shape_numel(offset->shape) != 2 * points || (mask && shape_numel(mask->shape) != points) ||
      !shape_numel(x->shape))
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "data %s, weights %s and offsets %s in %lld groups and %lld offset groups",
                        shape_text(job, x->shape), shape_text(job, w->shape),
                        shape_text(job, offset->shape), (long long)g, (long long)og));
  DType d = uop_dtype(x), work = d == DT_F64 ? DT_F64 : DT_F32;
  UOp *cols = deformed_columns(n, cast(n, x, work), cast(n, offset, work),
                               mask ? cast(n, mask, work) : NULL, &s, og);
  cols = build_reshape_v(job, cols, 4, N, g, c / g * k, out);
  UOp *rows = build_reshape_v(job, cast(n, w, work), 4, (int64_t)1, g, m / g, c / g * k);
  UOp *y = build_reshape_v(job, build_matmul(job, rows, cols), 4, N, m, s.out[0], s.out[1]);
  if (bias) y = add(n, y, build_along(job, cast(n, bias, work), 1, 4));
  node_out(n, 0, cast(n, y, d));
}

const OnnxOp onnx_vision_ops[] = {
    {"", "RoiAlign", 10, 3, 3, op_roi_align},
    {"", "MaxRoiPool", 1, 2, 2, op_max_roi_pool},
    {"", "DeformConv", 19, 3, 5, op_deform_conv},
    {0},
};
