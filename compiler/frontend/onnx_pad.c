/* Padding. What lies beside an axis is a constant, or made from the axis by a mode: reflect skips
 * the border element itself, edge repeats it, wrap takes the other end.
 *
 * Where the numbers are known, parts are sliced and joined. Where the run decides them, or where it
 * cannot be proven that a part lies inside the axis, the result is gathered: element o of an axis
 * is element f(o - lo) of the source, with f as the mode says. */
#include "compiler/frontend/onnx_node.h"

static UOp *i64(Node *n, int64_t v) { return uop_int(n->job, DT_I64, v); }
static UOp *two(Node *n, Op op, UOp *a, UOp *b) { return build2(n->job, op, a, b); }

/* `count` elements beside the border of an axis. */
static UOp *border(Node *n, UOp *x, size_t axis, int64_t count, bool low, Str mode) {
  int64_t d = x->shape.at[axis], dims[MAX_DIMS];
  if (str_is(mode, "edge")) {
    int64_t at = low ? 0 : dim_sub(n->job, d, 1);
    UOp *e = build_slice(n->job, x, axis, at, 1, 1);
    for (uint32_t i = 0; i < x->shape.n; i++) dims[i] = i == axis ? count : x->shape.at[i];
    return build_expand(n->job, e, shape_make(dims, x->shape.n));
  }
  if (str_is(mode, "wrap"))
    return build_slice(n->job, x, axis, low ? dim_sub(n->job, d, count) : 0, count, 1);
  return build_slice(n->job, x, axis, low ? count : dim_sub(n->job, d, 2), count, -1);
}

/* What may be added on either side of an axis of d elements. */
static int64_t room_of(Node *n, int64_t d, Str mode) {
  if (str_is(mode, "reflect")) return dim_sub(n->job, d, 1);
  return str_is(mode, "wrap") ? d : dim_low(d) > 0 ? MAX_NUMEL : 0;
}

static UOp *pad_mode(Node *n, UOp *x, size_t axis, int64_t lo, int64_t hi, Str mode) {
  int64_t crop[2 * MAX_DIMS] = {0};
  crop[2 * axis] = lo < 0 ? lo : 0;
  crop[2 * axis + 1] = hi < 0 ? hi : 0;
  x = build_pad(n->job, x, crop, build_num(n->job, x, 0));
  int64_t d = x->shape.at[axis], room = room_of(n, d, mode);
  if (lo > dim_high(room) || hi > dim_high(room) || lo > MAX_NUMEL || hi > MAX_NUMEL)
    job_abort(n->job, FAIL(INVALID_ARGUMENT,
                           "padding %lld, %lld in mode '" STR_FMT "' of axis %zu of %s elements",
                           (long long)lo, (long long)hi, STR_ARG(mode), axis, dim_text(n->job, d)));
  UOp *parts[3];
  size_t k = 0;
  if (lo > 0) parts[k++] = border(n, x, axis, lo, true, mode);
  parts[k++] = x;
  if (hi > 0) parts[k++] = border(n, x, axis, hi, false, mode);
  return build_cat(n->job, parts, k, axis);
}

/* Position `at` of an axis brought inside as the mode says. */
static UOp *source_position(Node *n, UOp *at, UOp *d, Str mode) {
  UOp *zero = i64(n, 0), *last = two(n, OP_SUB, d, i64(n, 1));
  if (str_is(mode, "edge")) return two(n, OP_MIN, two(n, OP_MAX, at, zero), last);
  if (str_is(mode, "wrap")) return two(n, OP_FLOORMOD, at, d);
  UOp *period = two(n, OP_MUL, last, i64(n, 2));
  at = two(n, OP_FLOORMOD, at, two(n, OP_MAX, period, i64(n, 1)));
  return two(n, OP_MIN, at, two(n, OP_SUB, period, at));
}

/* The axis becomes `size` elements, of which number lo is the source's first. */
static UOp *pad_late(Node *n, UOp *x, size_t axis, UOp *lo, int64_t size, Str mode, UOp *fill) {
  Job *job = n->job;
  uint32_t r = x->shape.n;
  UOp *d = build_size(job, x->shape.at[axis]);
  UOp *at = two(n, OP_SUB, build_arange(job, DT_I64, size), lo);
  if (!str_is(mode, "constant")) return build_gather(job, x, source_position(n, at, d, mode), axis);
  UOp *in = two(n, OP_AND, two(n, OP_CMPLE, i64(n, 0), at), two(n, OP_CMPLT, at, d));
  int64_t dims[MAX_DIMS];
  for (uint32_t i = 0; i < r; i++) dims[i] = i == axis ? size : 1;
  in = build_reshape(job, in, shape_make(dims, r));
  return build_where(job, in, build_gather(job, x, at, axis), fill);
}

typedef struct Pads {
  NodeSizes list;      /* begins, then ends, over `axes` */
  size_t at[MAX_RANK]; /* per axis, where its begin stands; SIZE_MAX: nowhere */
  size_t count;
  UOp **lo, **hi; /* per axis, when only the run knows the axes; else NULL */
} Pads;

/* Axes that only the run knows: what each axis gets is picked from the list. */
static void late_axes(Node *n, Pads *p, const NodeSizes *axes, size_t rank) {
  Job *job = n->job;
  p->lo = arena_array(&job->arena, rank + 1, sizeof *p->lo);
  p->hi = arena_array(&job->arena, rank + 1, sizeof *p->hi);
  for (size_t a = 0; a < rank; a++) {
    p->lo[a] = p->hi[a] = i64(n, 0);
    for (uint32_t i = 0; i < axes->n; i++) {
      UOp *v = node_size_value(n, axes, i), *up = two(n, OP_ADD, v, i64(n, (int64_t)rank));
      v = build_where(job, two(n, OP_CMPLT, v, i64(n, 0)), up, v);
      UOp *here = two(n, OP_CMPEQ, v, i64(n, (int64_t)a));
      p->lo[a] = build_where(job, here, node_size_value(n, &p->list, i), p->lo[a]);
      UOp *end = node_size_value(n, &p->list, (uint32_t)p->count + i);
      p->hi[a] = build_where(job, here, end, p->hi[a]);
    }
  }
}

static Pads read_pads(Node *n, size_t rank) {
  Pads p = {.count = rank};
  NodeSizes axes = {0};
  bool late = false;
  p.list = n->opset >= 11 ? node_sizes(n, 1, "pads")
                          : node_size_list(n, attr_ints(n, n->opset < 2 ? "paddings" : "pads"));
  if (n->opset >= 18 && node_has(n, 3)) axes = node_sizes(n, 3, "axes");
  if (axes.at) p.count = axes.n;
  if (p.list.n != 2 * p.count)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%u pads, expected %zu", p.list.n, 2 * p.count));
  for (size_t i = 0; i < rank; i++) p.at[i] = axes.at ? SIZE_MAX : i;
  for (uint32_t i = 0; axes.at && i < axes.n; i++)
    late = late || axes.value[i] || !dim_is_static(axes.at[i]);
  for (uint32_t i = 0; axes.at && !late && i < axes.n; i++)
    p.at[axis_check(n->job, axes.at[i], rank)] = i;
  if (late) late_axes(n, &p, &axes, rank);
  return p;
}

static bool provable(Node *n, int64_t pad, int64_t d) {
  return dim_low(pad) >= 0 || (dim_high(pad) <= 0 && dim_le(n->job, dim_sub(n->job, 0, pad), d));
}

/* One axis whose padding is not a plain number. */
static UOp *pad_axis(Node *n, UOp *x, size_t axis, const Pads *p, Str mode, UOp *fill) {
  Job *job = n->job;
  int64_t d = x->shape.at[axis], size;
  if (!p->lo && p->at[axis] == SIZE_MAX) return x;
  uint32_t b = p->lo ? 0 : (uint32_t)p->at[axis], e = b + (uint32_t)p->count;
  bool known = !p->lo && !p->list.value[b] && !p->list.value[e];
  int64_t lo = known ? p->list.at[b] : 0, hi = known ? p->list.at[e] : 0;
  if (known && str_is(mode, "constant") && provable(n, lo, d) && provable(n, hi, d))
    return build_pad_axis(job, x, axis, lo, hi, fill);
  int64_t room = room_of(n, d, mode);
  bool fits = known && dim_is_static(lo) && dim_is_static(hi) && dim_low(d) > 0;
  for (int k = 0; fits && k < 2; k++) {
    int64_t v = k ? hi : lo;
    fits = v < 0 ? dim_le(job, -v, d) && dim_le(job, v + 1, room) && lo + hi >= 0
                 : dim_le(job, v, room);
  }
  if (fits && !str_is(mode, "constant")) return pad_mode(n, x, axis, lo, hi, mode);
  UOp *first = p->lo ? p->lo[axis] : node_size_value(n, &p->list, b);
  UOp *last = p->hi ? p->hi[axis] : node_size_value(n, &p->list, e);
  if (known) {
    size = dim_max(job, dim_add(job, d, dim_add(job, lo, hi)), 0);
  } else {
    UOp *total = two(n, OP_ADD, build_size(job, d), two(n, OP_ADD, first, last));
    int64_t most = dim_high(d) > FRONT_DIM_MAX ? dim_high(d) : FRONT_DIM_MAX;
    total = two(n, OP_MAX, total, i64(n, 0));
    size = front_bind(n->f, total, 0, most, node_label(n, "padded size"));
  }
  return pad_late(n, x, axis, first, size, mode, fill);
}

/* All numbers, for all axes: one PAD. */
static bool plain_pads(const Pads *p, size_t rank, int64_t *pads) {
  bool plain = !p->lo;
  for (uint32_t i = 0; plain && i < p->list.n; i++)
    plain = !p->list.value[i] && dim_is_static(p->list.at[i]);
  for (size_t a = 0; plain && a < rank; a++) {
    if (p->at[a] == SIZE_MAX) continue;
    pads[2 * a] = p->list.at[p->at[a]];
    pads[2 * a + 1] = p->list.at[p->at[a] + p->count];
  }
  return plain;
}

static void op_pad(Node *n) {
  UOp *x = node_u(n, 0), *fill = build_num(n->job, x, 0);
  int64_t pads[2 * MAX_DIMS] = {0};
  Str mode = attr_str(n, "mode", "constant");
  Pads p = read_pads(n, x->shape.n);
  bool constant = str_is(mode, "constant"), plain = plain_pads(&p, x->shape.n, pads);
  if (constant) {
    if (n->opset < 11)
      fill = build_num(n->job, x, attr_float(n, "value", 0));
    else if (node_has(n, 2))
      fill = node_u(n, 2);
    if (dims_numel(n->job, fill->shape) != 1)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "constant_value of shape %s, expected a scalar",
                             shape_text(n->job, fill->shape)));
    fill = build_reshape(n->job, fill, (Ints){0});
  } else if (!str_is(mode, "reflect") && !str_is(mode, "edge") && !str_is(mode, "wrap")) {
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown mode '" STR_FMT "'", STR_ARG(mode)));
  }
  bool fixed = plain && shape_is_static(x->shape);
  if (fixed && constant) {
    node_out(n, 0, build_pad(n->job, x, pads, fill));
    return;
  }
  for (size_t i = 0; i < node_in(n, 0)->shape.n; i++)
    x = fixed ? pad_mode(n, x, i, pads[2 * i], pads[2 * i + 1], mode)
              : pad_axis(n, x, i, &p, mode, fill);
  node_out(n, 0, x);
}

/* Axis sizes become `shape`: cropped or padded with zeros about the centre. */
static void op_center_crop_pad(Node *n) {
  Job *job = n->job;
  UOp *x = node_u(n, 0), *zero = build_num(job, x, 0);
  NodeSizes want = node_sizes(n, 1, "shape");
  Ints axes = attr_ints(n, "axes");
  int64_t pads[2 * MAX_DIMS] = {0};
  if (want.n != (axes.at ? axes.n : x->shape.n))
    job_abort(job, FAIL(INVALID_ARGUMENT, "%u sizes do not fit the axes", want.n));
  for (uint32_t i = 0; i < want.n; i++) {
    size_t axis = axis_check(job, axes.at ? axes.at[i] : i, x->shape.n);
    int64_t d = x->shape.at[axis], w = node_size_bound(n, &want, i, FRONT_DIM_MAX, "shape");
    if (dim_low(w) < 0 || dim_low(w) > MAX_NUMEL)
      job_abort(job, FAIL(INVALID_ARGUMENT, "bad size %s", dim_text(job, w)));
    int64_t more = dim_sub(job, w, d);
    bool grows = dim_low(more) >= 0, shrinks = dim_high(more) <= 0;
    if (grows || shrinks) { /* half of it first, rounded toward zero */
      int64_t half = dim_floordiv(job, grows ? more : dim_sub(job, d, w), 2);
      pads[2 * axis] = grows ? half : dim_sub(job, 0, half);
      pads[2 * axis + 1] = dim_sub(job, more, pads[2 * axis]);
    } else {
      UOp *lo = two(n, OP_IDIV, build_size(job, more), i64(n, 2));
      x = pad_late(n, x, axis, lo, w, STR("constant"), zero);
    }
  }
  node_out(n, 0, build_pad(job, x, pads, zero));
}

const OnnxOp onnx_pad_ops[] = {
    {"", "Pad", 1, 1, 4, op_pad},
    {"", "CenterCropPad", 18, 2, 2, op_center_crop_pad},
    {0},
};
