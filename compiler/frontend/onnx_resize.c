/* Resize, axis by axis. Interpolation is separable, so each axis is a filter whose taps (positions
 * and weights per output element) are computed here and become two small constants: a GATHER, a
 * product, a sum over the taps. Nearest by whole factors is pure movement. */
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

typedef enum Mode { NEAREST, LINEAR, CUBIC } Mode;
typedef enum Coords {
  HALF_PIXEL,
  HALF_PIXEL_SYMMETRIC,
  PYTORCH_HALF_PIXEL,
  ALIGN_CORNERS,
  ASYMMETRIC,
  TF_CROP_AND_RESIZE,
  TF_HALF_PIXEL_FOR_NN
} Coords;
/* SIMPLE: up when the axis shrinks, else down; opset 10 and before. */
typedef enum Nearest { PREFER_FLOOR, PREFER_CEIL, FLOOR, CEIL, SIMPLE } Nearest;

typedef struct Resize {
  Node *n;
  Mode mode;
  Coords coords;
  Nearest nearest;
  double cubic_a, extrapolation;
  bool antialias, exclude_outside;
} Resize;

enum { MAX_TAPS = 1 << 22 }; /* of an axis */

typedef struct Axis {
  size_t axis;
  int64_t in, out;
  double scale, roi_lo, roi_hi;
} Axis;

/* Where output element o lies in the source. */
static double source_of(const Resize *r, const Axis *a, int64_t o) {
  double x = (double)o, in = (double)a->in, width = a->scale * in;
  if (r->coords == ALIGN_CORNERS) return width == 1 ? 0 : x * (in - 1) / (width - 1);
  if (r->coords == ASYMMETRIC) return x / a->scale;
  if (r->coords == PYTORCH_HALF_PIXEL && width == 1) return -0.5;
  if (r->coords == TF_HALF_PIXEL_FOR_NN) return (x + 0.5) / a->scale;
  if (r->coords == TF_CROP_AND_RESIZE) {
    double span = (a->roi_hi - a->roi_lo) * (in - 1);
    double at = width == 1 ? span / 2 : x * span / (width - 1);
    return at + a->roi_lo * (in - 1);
  }
  double half = (x + 0.5) / a->scale - 0.5;
  if (r->coords == HALF_PIXEL_SYMMETRIC) return in / 2 * (1 - (double)a->out / width) + half;
  return half;
}

static double cubic(double a, double x) {
  x = fabs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

/* Offsets of the first and the number of taps around floor(position). */
static int64_t tap_count(const Resize *r, const Axis *a, int64_t *first) {
  double shrink = r->antialias && a->scale < 1 ? a->scale : 1;
  if (r->mode == NEAREST) return *first = 0, 1;
  double reach = r->mode == CUBIC ? 2 : 1;
  *first = (int64_t)floor(-reach / shrink) + 1;
  return 2 - 2 * *first;
}

static double tap_weight(const Resize *r, const Axis *a, double distance) {
  double shrink = r->antialias && a->scale < 1 ? a->scale : 1;
  if (r->mode == CUBIC) return cubic(r->cubic_a, distance * shrink);
  double w = 1 - fabs(distance * shrink);
  return w > 0 ? w : 0;
}

static int64_t nearest_of(const Resize *r, double x, double scale) {
  double low = floor(x), ratio = x - low;
  Nearest how = r->nearest != SIMPLE ? r->nearest : scale < 1 ? CEIL : FLOOR;
  if (how == FLOOR) return (int64_t)low;
  if (how == CEIL) return (int64_t)ceil(x);
  if (how == PREFER_CEIL) return (int64_t)(ratio < 0.5 ? low : low + 1);
  return (int64_t)(ratio <= 0.5 ? low : low + 1);
}

static int64_t clamp(int64_t v, int64_t n) { return v < 0 ? 0 : v >= n ? n - 1 : v; }

/* The taps of one output element. */
static void fill_taps(const Resize *r, const Axis *a, double x, int64_t first, int64_t taps,
                      int64_t *index, float *weight) {
  if (r->mode == NEAREST) {
    index[0] = clamp(nearest_of(r, x, a->scale), a->in);
    weight[0] = 1;
    return;
  }
  int64_t base = (int64_t)floor(x);
  double sum = 0;
  for (int64_t pass = 0; pass < 2; pass++) {
    for (int64_t k = 0; k < taps; k++) {
      int64_t at = base + first + k;
      double w = tap_weight(r, a, (double)at - x);
      if (r->exclude_outside && (at < 0 || at >= a->in)) w = 0;
      if (pass == 0) sum += w;
      index[k] = clamp(at, a->in);
      weight[k] = (float)(sum != 0 ? w / sum : 0);
    }
  }
}

/* x along an axis at known positions; by slices or repetition where the pattern allows. */
static UOp *pick(Node *n, UOp *x, size_t axis, const int64_t *index, int64_t count) {
  int64_t d = x->shape.at[axis], dims[MAX_DIMS];
  bool repeat = d && count % d == 0, step = count <= d && count > 0 && d % count == 0;
  for (int64_t i = 0; i < count; i++) {
    if (repeat && index[i] != i / (count / d)) repeat = false;
    if (step && index[i] != i * (d / count)) step = false;
  }
  if (step) return build_slice(n->job, x, axis, 0, count, d / count);
  if (!repeat) {
    Val *v = val_from_i64(n->f, index, (size_t)count);
    return build_gather(n->job, x, val_uop(n->f, v), axis);
  }
  x = build_unsqueeze(n->job, x, axis + 1);
  for (uint32_t i = 0; i < x->shape.n; i++) dims[i] = i == axis + 1 ? count / d : x->shape.at[i];
  x = build_expand(n->job, x, shape_make(dims, x->shape.n));
  for (uint32_t i = 0, o = 0; i < x->shape.n; i++)
    if (i != axis + 1) dims[o++] = i == axis ? count : x->shape.at[i];
  return build_reshape(n->job, x, shape_make(dims, x->shape.n - 1));
}

static UOp *resize_axis(const Resize *r, UOp *x, const Axis *a) {
  Node *n = r->n;
  Job *job = n->job;
  if (!(a->scale > 1e-6 && a->scale < 1e9))
    job_abort(job, FAIL(INVALID_ARGUMENT, "scale %g of axis %zu", a->scale, a->axis));
  int64_t first, taps = tap_count(r, a, &first);
  bool crop = r->coords == TF_CROP_AND_RESIZE, any_outside = false;
  size_t total = (size_t)a->out * (size_t)taps;
  if (taps > MAX_TAPS / (a->out + 1) || !a->in)
    job_abort(job, FAIL(INVALID_ARGUMENT, "cannot resize %lld elements to %lld", (long long)a->in,
                        (long long)a->out));
  int64_t *index = arena_array(&job->arena, total, sizeof *index);
  float *weight = arena_array(&job->arena, total, sizeof *weight);
  uint8_t *outside = arena_alloc(&job->arena, (size_t)a->out + 1);
  for (int64_t o = 0; o < a->out; o++) {
    double at = source_of(r, a, o);
    if (o % 4096 == 0) job_poll(job);
    if (!(fabs(at) < 1e15)) job_abort(job, FAIL(INVALID_ARGUMENT, "scale %g", a->scale));
    outside[o] = crop && (at < 0 || at > (double)(a->in - 1));
    if (outside[o]) any_outside = true;
    fill_taps(r, a, at, first, taps, index + o * taps, weight + o * taps);
  }
  DType d = uop_dtype(x);
  UOp *y;
  if (taps == 1) {
    y = pick(n, x, a->axis, index, a->out);
  } else {
    Ints shape = {(int64_t[]){a->out, taps}, 2};
    UOp *at = val_uop(n->f, val_from_data(n->f, DT_I64, shape, index));
    UOp *w = val_uop(n->f, val_from_data(n->f, DT_F32, shape, weight));
    int64_t dims[MAX_DIMS];
    y = build_cast(job, build_gather(job, x, at, a->axis), DT_F32);
    for (uint32_t i = 0; i < y->shape.n; i++)
      dims[i] = i == a->axis ? a->out : i == a->axis + 1 ? taps : 1;
    y = build2(job, OP_MUL, y, build_reshape(job, w, shape_make(dims, y->shape.n)));
    y = build_cast(job, build_reduce(job, OP_ADD, y, axis_bit(a->axis + 1), false), d);
  }
  if (!any_outside) return y;
  UOp *m = val_uop(n->f, val_from_data(n->f, DT_BOOL, shape_make(&a->out, 1), outside));
  m = build_along(job, m, a->axis, y->shape.n);
  return build_where(job, m, build_num(job, y, r->extrapolation), y);
}

/* -- sizes ----------------------------------------------------------------------------------- */

static const float *known_floats(Node *n, size_t k, size_t *count) {
  Val *v = node_in(n, k);
  const uint8_t *data = val_data(n->f, v);
  int64_t len = dims_numel(n->job, v->shape);
  if (!data)
    job_abort(n->job, FAIL(FAILED_PRECONDITION,
                           "source %zu ('" STR_FMT
                           "') has to be known at compile time, but depends on an input",
                           k, STR_ARG(n->proto->input.at[k])));
  if (!dtype_is_float(v->dtype) || len > 4 * (int64_t)MAX_RANK)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source %zu: %s of shape %s", k,
                           dtype_info[v->dtype].name, shape_text(n->job, v->shape)));
  float *out = arena_array(&n->job->arena, (size_t)len + 1, sizeof *out);
  for (int64_t i = 0; i < len; i++) out[i] = (float)data_float(v->dtype, data, i);
  *count = (size_t)len;
  return out;
}

static void check_count(Node *n, const char *what, size_t got, size_t want) {
  if (got != want)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%zu %s, expected %zu", got, what, want));
}

static void set_scales(Node *n, const float *scales, size_t len, Axis *axes, size_t count) {
  check_count(n, "scales", len, count);
  for (size_t i = 0; i < count; i++) {
    axes[i].scale = (double)scales[i];
    double out = floor((double)axes[i].in * axes[i].scale);
    if (!(axes[i].scale > 0) || out > (double)INT32_MAX)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "scale %g of %lld elements", axes[i].scale,
                             (long long)axes[i].in));
    axes[i].out = (int64_t)out;
  }
}

static void from_scales(Node *n, size_t k, Axis *axes, size_t count) {
  size_t len;
  const float *scales = known_floats(n, k, &len);
  set_scales(n, scales, len, axes, count);
}

static void from_sizes(Node *n, size_t k, Axis *axes, size_t count) {
  Ints sizes = node_ints(n, k, "sizes");
  Str policy = attr_str(n, "keep_aspect_ratio_policy", "stretch");
  check_count(n, "sizes", sizes.n, count);
  double common = 0;
  for (size_t i = 0; i < count; i++) {
    if (sizes.at[i] < 0 || sizes.at[i] > INT32_MAX || !axes[i].in)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "size %lld of %lld elements", (long long)sizes.at[i],
                             (long long)axes[i].in));
    double s = (double)sizes.at[i] / (double)axes[i].in;
    bool larger = str_is(policy, "not_smaller");
    if (i == 0 || (larger ? s > common : s < common)) common = s;
    axes[i].out = sizes.at[i];
    axes[i].scale = s;
  }
  if (str_is(policy, "stretch")) return;
  for (size_t i = 0; i < count; i++) {
    axes[i].scale = common;
    axes[i].out = (int64_t)floor(common * (double)axes[i].in + 0.5);
  }
}

static void run(Resize *r, UOp *x, const Axis *axes, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (axes[i].out != axes[i].in || axes[i].scale != 1 || axes[i].roi_lo != 0 ||
        axes[i].roi_hi != 1)
      x = resize_axis(r, x, &axes[i]);
  node_out(r->n, 0, x);
}

/* The position of an attribute's value in a list; the first entry is the default. */
static int choose(Node *n, const char *attr, const char *const *list) {
  Str got = attr_str(n, attr, list[0]);
  for (int i = 0; list[i]; i++)
    if (str_is(got, list[i])) return i;
  job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown %s '" STR_FMT "'", attr, STR_ARG(got)));
}

static const char *const modes[] = {"nearest", "linear", "cubic", NULL};
static const char *const modes_1[] = {"nearest", "bilinear", NULL};
static const char *const coords[] = {
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel",   "align_corners",
    "asymmetric", "tf_crop_and_resize",   "tf_half_pixel_for_nn", NULL};
static const char *const nearest[] = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil",
                                      NULL};

static void op_resize(Node *n) {
  UOp *x = node_u(n, 0);
  Axis axes[MAX_RANK];
  Ints list = attr_ints(n, "axes");
  size_t count = list.at ? list.n : x->shape.n, nroi = 0;
  Resize r = {.n = n,
              .mode = (Mode)choose(n, "mode", modes),
              .coords = (Coords)choose(n, "coordinate_transformation_mode", coords),
              .nearest = (Nearest)choose(n, "nearest_mode", nearest),
              .cubic_a = attr_float(n, "cubic_coeff_a", -0.75),
              .extrapolation = attr_float(n, "extrapolation_value", 0),
              .antialias = attr_int(n, "antialias", 0) != 0,
              .exclude_outside = attr_int(n, "exclude_outside", 0) != 0};
  if (count > MAX_RANK) job_abort(n->job, FAIL(INVALID_ARGUMENT, "%zu axes", count));
  const float *roi = NULL;
  if (node_has(n, 1) && r.coords == TF_CROP_AND_RESIZE) roi = known_floats(n, 1, &nroi);
  if (roi) check_count(n, "roi elements", nroi, 2 * count);
  for (size_t i = 0; i < count; i++) {
    size_t axis = axis_check(n->job, list.at ? list.at[i] : (int64_t)i, x->shape.n);
    axes[i] = (Axis){.axis = axis, .in = x->shape.at[axis], .roi_hi = 1};
    if (roi) {
      axes[i].roi_lo = (double)roi[i];
      axes[i].roi_hi = (double)roi[count + i];
    }
  }
  bool sized = node_has(n, 3);
  if (sized)
    from_sizes(n, 3, axes, count);
  else
    from_scales(n, 2, axes, count);
  run(&r, x, axes, count);
}

/* Upsample's scales: a source from opset 9 on, an attribute in 7, one per spatial axis in 1. */
static void upsample_scales(Node *n, Axis *axes, size_t count) {
  const OnnxAttribute *a = n->opset < 9 ? attr_find(n, "scales", ONNX_ATTR_FLOATS) : NULL;
  float four[4] = {1, 1, (float)attr_float(n, "height_scale", 1),
                   (float)attr_float(n, "width_scale", 1)};
  if (n->opset < 7)
    set_scales(n, four, 4, axes, count);
  else if (n->opset < 9)
    set_scales(n, a ? a->floats.at : NULL, a ? a->floats.n : 0, axes, count);
  else
    from_scales(n, 1, axes, count);
}

/* Upsample, and Resize of opset 10: asymmetric coordinates. */
static void op_upsample(Node *n) {
  UOp *x = node_u(n, 0);
  Axis axes[MAX_RANK];
  Resize r = {.n = n,
              .mode = (Mode)choose(n, "mode", n->opset < 7 ? modes_1 : modes),
              .coords = ASYMMETRIC,
              .nearest = SIMPLE};
  for (uint32_t i = 0; i < x->shape.n; i++)
    axes[i] = (Axis){.axis = i, .in = x->shape.at[i], .roi_hi = 1};
  upsample_scales(n, axes, x->shape.n);
  run(&r, x, axes, x->shape.n);
}

const OnnxOp onnx_resize_ops[] = {
    {"", "Resize", 10, 2, 2, op_upsample},
    {"", "Resize", 11, 1, 4, op_resize},
    {"", "Upsample", 1, 1, 2, op_upsample},
    {0},
};
