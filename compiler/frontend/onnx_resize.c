/* Resize, axis by axis. Interpolation is separable, so each axis is a filter with taps (positions
 * and weights per output element): a GATHER, a product, a sum over the taps. When sizes and scales
 * are known, the taps are computed here and become two small constants, and nearest by whole
 * factors is pure movement. Otherwise the run computes them, by the same formulas: the functions
 * whose names begin with late_. */
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/elem.h"
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

/* in and out are dims. late: the scale, and where only the run knows it the region, as rank-0 f64.
 */
typedef struct Axis {
  size_t axis;
  int64_t in, out;
  double scale, roi_lo, roi_hi;
  UOp *late, *late_lo, *late_hi;
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
  int64_t d = x->shape.at[axis], dims[MAX_DIMS]; /* a number */
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

/* -- when the run decides sizes or scales ----------------------------------------------------- */

static UOp *f64(Node *n, double v) { return uop_float(n->job, DT_F64, v); }
static UOp *two(Node *n, Op op, UOp *a, UOp *b) { return build2(n->job, op, a, b); }
static UOp *size_f64(Node *n, int64_t d) {
  return build_cast(n->job, build_size(n->job, d), DT_F64);
}

/* source_of for all output elements. */
static UOp *late_source(const Resize *r, const Axis *a, UOp *scale) {
  Node *n = r->n;
  Job *job = n->job;
  UOp *x = build_cast(job, build_arange(job, DT_I64, a->out), DT_F64), *one = f64(n, 1);
  UOp *in = size_f64(n, a->in), *width = two(n, OP_MUL, scale, in), *half = f64(n, 0.5);
  UOp *single = two(n, OP_CMPEQ, width, one), *reach = two(n, OP_SUB, in, one);
  UOp *span = two(n, OP_SUB, width, one);
  if (r->coords == ALIGN_CORNERS) {
    UOp *at = two(n, OP_FDIV, two(n, OP_MUL, x, reach), span);
    return build_where(job, single, f64(n, 0), at);
  }
  if (r->coords == ASYMMETRIC) return two(n, OP_FDIV, x, scale);
  if (r->coords == TF_HALF_PIXEL_FOR_NN) return two(n, OP_FDIV, two(n, OP_ADD, x, half), scale);
  if (r->coords == TF_CROP_AND_RESIZE) {
    UOp *part = two(n, OP_MUL, two(n, OP_SUB, a->late_hi, a->late_lo), reach);
    UOp *at = two(n, OP_FDIV, two(n, OP_MUL, x, part), span);
    at = build_where(job, single, two(n, OP_MUL, part, half), at);
    return two(n, OP_ADD, at, two(n, OP_MUL, a->late_lo, reach));
  }
  UOp *at = two(n, OP_SUB, two(n, OP_FDIV, two(n, OP_ADD, x, half), scale), half);
  if (r->coords == PYTORCH_HALF_PIXEL) return build_where(job, single, f64(n, -0.5), at);
  if (r->coords != HALF_PIXEL_SYMMETRIC) return at;
  UOp *share = two(n, OP_SUB, one, two(n, OP_FDIV, size_f64(n, a->out), width));
  return two(n, OP_ADD, two(n, OP_MUL, two(n, OP_MUL, in, half), share), at);
}

static UOp *late_cubic(Node *n, double a, UOp *x) {
  Job *job = n->job;
  UOp *one = f64(n, 1);
  UOp *near = two(n, OP_SUB, two(n, OP_MUL, f64(n, a + 2), x), f64(n, a + 3));
  near = two(n, OP_ADD, two(n, OP_MUL, two(n, OP_MUL, near, x), x), one);
  UOp *far = two(n, OP_SUB, two(n, OP_MUL, f64(n, a), x), f64(n, 5 * a));
  far = two(n, OP_ADD, two(n, OP_MUL, far, x), f64(n, 8 * a));
  far = two(n, OP_SUB, two(n, OP_MUL, far, x), f64(n, 4 * a));
  far = build_where(job, two(n, OP_CMPLT, x, f64(n, 2)), far, f64(n, 0));
  return build_where(job, two(n, OP_CMPLE, x, one), near, far);
}

static UOp *late_weight(const Resize *r, UOp *distance, UOp *shrink) {
  Node *n = r->n;
  UOp *x = two(n, OP_MUL, build1(n->job, OP_ABS, distance), shrink);
  if (r->mode == CUBIC) return late_cubic(n, r->cubic_a, x);
  return two(n, OP_MAX, two(n, OP_SUB, f64(n, 1), x), f64(n, 0));
}

static UOp *late_nearest(const Resize *r, UOp *x, UOp *scale) {
  Node *n = r->n;
  Job *job = n->job;
  UOp *low = build1(job, OP_FLOOR, x), *half = f64(n, 0.5);
  if (r->nearest == SIMPLE) {
    UOp *shrinks = two(n, OP_CMPLT, scale, f64(n, 1));
    return build_where(job, shrinks, build1(job, OP_CEIL, x), low);
  }
  if (r->nearest == FLOOR) return low;
  if (r->nearest == CEIL) return build1(job, OP_CEIL, x);
  UOp *stay =
      build2(job, r->nearest == PREFER_CEIL ? OP_CMPLT : OP_CMPLE, two(n, OP_SUB, x, low), half);
  return build_where(job, stay, low, two(n, OP_ADD, low, f64(n, 1)));
}

static UOp *late_clamp(Node *n, UOp *at, int64_t in) {
  UOp *last = two(n, OP_SUB, size_f64(n, in), f64(n, 1));
  at = two(n, OP_MIN, two(n, OP_MAX, at, f64(n, 0)), last);
  return build_cast(n->job, at, DT_I64);
}

/* tap_count when the scale is late too: the number of taps is bound to a VAR. */
static int64_t late_tap_count(const Resize *r, const Axis *a, UOp **first, UOp **shrink) {
  Node *n = r->n;
  int64_t from, taps;
  bool wide = r->antialias && a->late;
  *shrink = f64(n, r->antialias && a->scale < 1 ? a->scale : 1);
  if (!wide) {
    taps = tap_count(r, a, &from);
    *first = f64(n, (double)from);
    return taps;
  }
  *shrink = two(n, OP_MIN, a->late, f64(n, 1));
  UOp *reach = two(n, OP_FDIV, f64(n, r->mode == CUBIC ? -2 : -1), *shrink);
  *first = two(n, OP_ADD, build1(n->job, OP_FLOOR, reach), f64(n, 1));
  UOp *count = two(n, OP_SUB, f64(n, 2), two(n, OP_MUL, *first, f64(n, 2)));
  return front_bind(n->f, count, 0, FRONT_DIM_MAX, node_label(n, "number of taps"));
}

/* Sum over the taps of an axis around x, [out]. */
static UOp *late_filter(const Resize *r, UOp *x, const Axis *a, UOp *source) {
  Node *n = r->n;
  Job *job = n->job;
  UOp *first, *shrink;
  int64_t taps = late_tap_count(r, a, &first, &shrink), dims[MAX_DIMS];
  Ints wide = {(int64_t[]){a->out, taps}, 2};
  UOp *tap = build_cast(job, build_iota(job, DT_I64, 1, wide), DT_F64);
  source = build_unsqueeze(job, source, 1);
  UOp *at = two(n, OP_ADD, build1(job, OP_FLOOR, source), two(n, OP_ADD, tap, first));
  UOp *w = late_weight(r, two(n, OP_SUB, at, source), shrink);
  if (r->exclude_outside) {
    UOp *in =
        two(n, OP_AND, two(n, OP_CMPLE, f64(n, 0), at), two(n, OP_CMPLT, at, size_f64(n, a->in)));
    w = build_where(job, in, w, f64(n, 0));
  }
  UOp *sum = build_reduce(job, OP_ADD, w, axis_bit(1), true),
      *none = two(n, OP_CMPEQ, sum, f64(n, 0));
  w = build_where(job, none, f64(n, 0), two(n, OP_FDIV, w, sum));
  UOp *y = build_cast(job, build_gather(job, x, late_clamp(n, at, a->in), a->axis), DT_F32);
  for (uint32_t i = 0; i < y->shape.n; i++)
    dims[i] = i == a->axis ? a->out : i == a->axis + 1 ? taps : 1;
  y = two(n, OP_MUL, y,
          build_reshape(job, build_cast(job, w, DT_F32), shape_make(dims, y->shape.n)));
  return build_cast(job, build_reduce(job, OP_ADD, y, axis_bit(a->axis + 1), false), uop_dtype(x));
}

static UOp *late_axis(const Resize *r, UOp *x, const Axis *a) {
  Node *n = r->n;
  Job *job = n->job;
  UOp *scale = a->late ? a->late : f64(n, a->scale), *source = late_source(r, a, scale), *y;
  if (r->mode == NEAREST)
    y = build_gather(job, x, late_clamp(n, late_nearest(r, source, scale), a->in), a->axis);
  else
    y = late_filter(r, x, a, source);
  if (r->coords != TF_CROP_AND_RESIZE) return y;
  UOp *last = two(n, OP_SUB, size_f64(n, a->in), f64(n, 1));
  UOp *out = two(n, OP_OR, two(n, OP_CMPLT, source, f64(n, 0)), two(n, OP_CMPLT, last, source));
  out = build_along(job, out, a->axis, y->shape.n);
  return build_where(job, out, build_num(job, y, r->extrapolation), y);
}

/* -- one axis --------------------------------------------------------------------------------- */

static UOp *resize_axis(const Resize *r, UOp *x, const Axis *a) {
  Node *n = r->n;
  Job *job = n->job;
  bool fixed = dim_is_static(a->in) && dim_is_static(a->out) && !a->late;
  if (!a->late && !(a->scale > 1e-6 && a->scale < 1e9))
    job_abort(job, FAIL(INVALID_ARGUMENT, "scale %g of axis %zu", a->scale, a->axis));
  if (!fixed || (a->late_lo && !(uop_is_const(a->late_lo) && uop_is_const(a->late_hi))))
    return late_axis(r, x, a);
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

/* A list of floats: numbers, or where value[i] is not NULL rank-0 f64 that only the run knows. */
typedef struct Floats {
  size_t n;
  double *at;
  UOp **value;
} Floats;

static Floats read_floats(Node *n, size_t k) {
  Val *v = node_in(n, k);
  const uint8_t *data = val_data(n->f, v);
  int64_t len = front_static(n->job, dims_numel(n->job, v->shape), "the number of floats");
  if (!dtype_is_float(v->dtype) || len > 4 * (int64_t)MAX_RANK || v->shape.n > 1)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source %zu: %s of shape %s", k,
                           dtype_info[v->dtype].name, shape_text(n->job, v->shape)));
  Floats f = {.n = (size_t)len};
  f.at = arena_array(&n->job->arena, f.n + 1, sizeof *f.at);
  f.value = arena_array(&n->job->arena, f.n + 1, sizeof(UOp *));
  for (int64_t i = 0; i < len; i++) {
    if (data) {
      f.at[i] = (double)(float)data_float(v->dtype, data, i);
      continue;
    }
    UOp *u = node_u(n, k);
    if (u->shape.n) u = build_squeeze(n->job, build_slice(n->job, u, 0, i, 1, 1), 0);
    f.value[i] = build_cast(n->job, u, DT_F64);
  }
  return f;
}

static void check_count(Node *n, const char *what, size_t got, size_t want) {
  if (got != want)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%zu %s, expected %zu", got, what, want));
}

/* A rank-0 f64 that is a whole number, as a dim. */
static int64_t late_size(Node *n, UOp *size) {
  size = build_cast(n->job, size, DT_I64);
  UOp *known = front_elem(n->f, size, NULL);
  if (known) return dim_of(n->job, known);
  return front_bind(n->f, size, 0, FRONT_DIM_MAX, node_label(n, "resized size"));
}

static void set_scales(Node *n, Floats scales, Axis *axes, size_t count) {
  check_count(n, "scales", scales.n, count);
  for (size_t i = 0; i < count; i++) {
    Axis *a = &axes[i];
    a->scale = scales.at[i];
    a->late = scales.value[i];
    if (!a->late && a->scale == 1) {
      a->out = a->in;
      continue;
    }
    if (a->late || !dim_is_static(a->in)) {
      UOp *scale = a->late ? a->late : f64(n, a->scale);
      a->out = late_size(n, build1(n->job, OP_FLOOR, two(n, OP_MUL, size_f64(n, a->in), scale)));
      if (a->late || a->scale > 0) continue;
    }
    double out = floor((double)dim_low(a->in) * a->scale);
    if (!(a->scale > 0) || out > (double)INT32_MAX)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "scale %g of %s elements", a->scale,
                             dim_text(n->job, a->in)));
    a->out = (int64_t)out;
  }
}

static Floats known_floats(Node *n, const float *at, size_t count) {
  Floats f = {.n = count};
  f.at = arena_array(&n->job->arena, count + 1, sizeof *f.at);
  f.value = arena_array(&n->job->arena, count + 1, sizeof(UOp *));
  for (size_t i = 0; i < count; i++) f.at[i] = (double)at[i];
  return f;
}

/* keep_aspect_ratio_policy: one scale for all axes, the smallest or the largest of theirs. */
static void common_scale(Node *n, Axis *axes, size_t count, bool larger, bool fixed) {
  double common = 0;
  UOp *late = NULL;
  for (size_t i = 0; i < count; i++) {
    double s = axes[i].scale;
    if (i == 0 || (larger ? s > common : s < common)) common = s;
    UOp *l = fixed ? NULL : axes[i].late;
    late = l && late ? two(n, larger ? OP_MAX : OP_MIN, late, l) : l;
  }
  for (size_t i = 0; i < count; i++) {
    Axis *a = &axes[i];
    a->scale = common;
    a->late = late;
    if (fixed) a->out = (int64_t)floor(common * (double)a->in + 0.5);
    if (fixed) continue;
    UOp *out = two(n, OP_ADD, two(n, OP_MUL, late, size_f64(n, a->in)), f64(n, 0.5));
    a->out = late_size(n, build1(n->job, OP_FLOOR, out));
  }
}

static void from_sizes(Node *n, size_t k, Axis *axes, size_t count) {
  NodeSizes sizes = node_sizes(n, k, "sizes");
  Str policy = attr_str(n, "keep_aspect_ratio_policy", "stretch");
  bool all_fixed = true;
  check_count(n, "sizes", sizes.n, count);
  for (uint32_t i = 0; i < count; i++) {
    Axis *a = &axes[i];
    a->out = node_size_bound(n, &sizes, i, FRONT_DIM_MAX, "sizes");
    if (dim_low(a->out) < 0 || dim_low(a->out) > INT32_MAX || !a->in)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "size %s of %s elements", dim_text(n->job, a->out),
                             dim_text(n->job, a->in)));
    bool fixed = dim_is_static(a->in) && dim_is_static(a->out);
    all_fixed = all_fixed && fixed;
    a->scale = a->in == a->out ? 1 : fixed ? (double)a->out / (double)a->in : 0;
    if (!fixed && a->in != a->out)
      a->late = two(n, OP_FDIV, size_f64(n, a->out), size_f64(n, a->in));
  }
  if (str_is(policy, "stretch")) return;
  for (size_t i = 0; i < count; i++)
    if (!all_fixed && !axes[i].late) axes[i].late = f64(n, axes[i].scale);
  common_scale(n, axes, count, str_is(policy, "not_smaller"), all_fixed);
}

static void run(Resize *r, UOp *x, const Axis *axes, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (axes[i].out != axes[i].in || axes[i].late || axes[i].scale != 1 ||
        (axes[i].late_lo && !uop_is_number(axes[i].late_lo, 0)) ||
        (axes[i].late_hi && !uop_is_number(axes[i].late_hi, 1)))
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
  size_t count = list.at ? list.n : x->shape.n;
  Resize r = {.n = n,
              .mode = (Mode)choose(n, "mode", modes),
              .coords = (Coords)choose(n, "coordinate_transformation_mode", coords),
              .nearest = (Nearest)choose(n, "nearest_mode", nearest),
              .cubic_a = attr_float(n, "cubic_coeff_a", -0.75),
              .extrapolation = attr_float(n, "extrapolation_value", 0),
              .antialias = attr_int(n, "antialias", 0) != 0,
              .exclude_outside = attr_int(n, "exclude_outside", 0) != 0};
  if (count > MAX_RANK) job_abort(n->job, FAIL(INVALID_ARGUMENT, "%zu axes", count));
  Floats roi = {0};
  if (node_has(n, 1) && r.coords == TF_CROP_AND_RESIZE) roi = read_floats(n, 1);
  if (roi.at) check_count(n, "roi elements", roi.n, 2 * count);
  for (size_t i = 0; i < count; i++) {
    size_t axis = axis_check(n->job, list.at ? list.at[i] : (int64_t)i, x->shape.n);
    axes[i] = (Axis){.axis = axis, .in = x->shape.at[axis], .roi_hi = 1};
    if (r.coords == TF_CROP_AND_RESIZE) {
      axes[i].roi_lo = roi.at ? roi.at[i] : 0;
      axes[i].roi_hi = roi.at ? roi.at[count + i] : 1;
      axes[i].late_lo = roi.at && roi.value[i] ? roi.value[i] : f64(n, axes[i].roi_lo);
      axes[i].late_hi =
          roi.at && roi.value[count + i] ? roi.value[count + i] : f64(n, axes[i].roi_hi);
    }
  }
  bool sized = node_has(n, 3);
  if (sized)
    from_sizes(n, 3, axes, count);
  else
    set_scales(n, read_floats(n, 2), axes, count);
  run(&r, x, axes, count);
}

/* Upsample's scales: a source from opset 9 on, an attribute in 7, one per spatial axis in 1. */
static Floats upsample_scales(Node *n) {
  const OnnxAttribute *a = n->opset < 9 ? attr_find(n, "scales", ONNX_ATTR_FLOATS) : NULL;
  float four[4] = {1, 1, (float)attr_float(n, "height_scale", 1),
                   (float)attr_float(n, "width_scale", 1)};
  if (n->opset < 7) return known_floats(n, four, 4);
  if (n->opset < 9) return known_floats(n, a ? a->floats.at : NULL, a ? a->floats.n : 0);
  return read_floats(n, 1);
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
  set_scales(n, upsample_scales(n), axes, x->shape.n);
  run(&r, x, axes, x->shape.n);
}

const OnnxOp onnx_resize_ops[] = {
    {"", "Resize", 10, 2, 2, op_upsample},
    {"", "Resize", 11, 1, 4, op_resize},
    {"", "Upsample", 1, 1, 2, op_upsample},
    {0},
};
