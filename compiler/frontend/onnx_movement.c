/* Ops that move elements without changing them: shapes, axes, slices, padding, joins. Targets of
 * Reshape, Slice, Expand and the like must be known at compile time, because shapes are static. */
#include "compiler/frontend/onnx_node.h"

/* 0 copies a dimension (unless allowzero), one -1 is inferred. */
static void op_reshape(Node *n) {
  UOp *x = node_u(n, 0);
  Ints want = n->opset >= 5 ? node_ints(n, 1, "shape") : attr_ints(n, "shape");
  bool allowzero = attr_int(n, "allowzero", 0) != 0;
  int64_t dims[MAX_RANK], known = 1, infer = -1, total = shape_numel(x->shape);
  if (want.n > MAX_RANK)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "shape of rank %u, at most %d", want.n, MAX_RANK));
  for (uint32_t i = 0; i < want.n; i++) {
    dims[i] = want.at[i];
    if (dims[i] == 0 && !allowzero) {
      if (i >= x->shape.n)
        job_abort(n->job, FAIL(INVALID_ARGUMENT,
                               "shape %s copies dimension %u of a source of "
                               "shape %s",
                               shape_text(n->job, want), i, shape_text(n->job, x->shape)));
      dims[i] = x->shape.at[i];
    }
    if (dims[i] == -1 && infer < 0)
      infer = i;
    else if (dims[i] < 0)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "bad shape %s", shape_text(n->job, want)));
    else if (__builtin_mul_overflow(known, dims[i], &known))
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "shape %s overflows", shape_text(n->job, want)));
  }
  if (infer >= 0) {
    if (known == 0 || total % known)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "cannot reshape %s to %s",
                             shape_text(n->job, x->shape), shape_text(n->job, want)));
    dims[infer] = total / known;
  }
  node_out(n, 0, build_reshape(n->job, x, shape_make(dims, want.n)));
}

static void op_flatten(Node *n) {
  UOp *x = node_u(n, 0);
  int64_t axis = attr_int(n, "axis", 1), dims[2] = {1, 1}, r = x->shape.n;
  if (axis < -r || axis > r)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "axis %lld is outside [%lld, %lld]", (long long)axis,
                           (long long)-r, (long long)r));
  if (axis < 0) axis += r;
  for (int64_t i = 0; i < r; i++) dims[i >= axis] *= x->shape.at[i];
  node_out(n, 0, build_reshape(n->job, x, shape_make(dims, 2)));
}

static void op_transpose(Node *n) {
  UOp *x = node_u(n, 0);
  int64_t order[MAX_DIMS];
  Ints perm = attr_ints(n, "perm");
  if (perm.at && (perm.n || !x->shape.n)) {
    node_out(n, 0, build_permute(n->job, x, perm.at, perm.n));
    return;
  }
  for (uint32_t i = 0; i < x->shape.n; i++) order[i] = (int64_t)(x->shape.n - 1 - i);
  node_out(n, 0, build_permute(n->job, x, order, x->shape.n));
}

static void op_squeeze(Node *n) {
  UOp *x = node_u(n, 0);
  bool given;
  uint32_t axes = node_axes(n, 1, 13, x->shape.n, &given);
  int64_t dims[MAX_DIMS];
  uint32_t rank = 0;
  for (uint32_t i = 0; i < x->shape.n; i++) {
    bool drop = given ? axes & axis_bit(i) : x->shape.at[i] == 1;
    if (drop && x->shape.at[i] != 1)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "axis %u has size %lld, expected 1", i,
                             (long long)x->shape.at[i]));
    if (!drop) dims[rank++] = x->shape.at[i];
  }
  node_out(n, 0, build_reshape(n->job, x, shape_make(dims, rank)));
}

static void op_unsqueeze(Node *n) {
  UOp *x = node_u(n, 0);
  Ints list = n->opset >= 13 ? node_ints(n, 1, "axes") : attr_ints(n, "axes");
  if (x->shape.n + list.n > MAX_RANK) job_abort(n->job, FAIL(INVALID_ARGUMENT, "too many axes"));
  bool given;
  size_t rank = x->shape.n + list.n;
  uint32_t axes = node_axes(n, 1, 13, rank, &given), from = 0;
  int64_t dims[MAX_RANK];
  for (uint32_t i = 0; i < rank; i++) dims[i] = axes & axis_bit(i) ? 1 : x->shape.at[from++];
  node_out(n, 0, build_reshape(n->job, x, shape_make(dims, rank)));
}

static void op_concat(Node *n) {
  UOp **xs = arena_array(&n->job->arena, n->nin, sizeof *xs);
  for (size_t i = 0; i < n->nin; i++) xs[i] = node_u(n, i);
  int64_t axis = n->opset >= 4 ? attr_need_int(n, "axis") : attr_int(n, "axis", 1);
  node_out(n, 0, build_cat(n->job, xs, n->nin, axis_check(n->job, axis, xs[0]->shape.n)));
}

/* Sizes from source 1 (opset 13), attribute `split`, `num_outputs`, or equal parts. */
static void op_split(Node *n) {
  UOp *x = node_u(n, 0);
  size_t axis = axis_check(n->job, attr_int(n, "axis", 0), x->shape.n);
  int64_t d = x->shape.at[axis], at = 0, parts = (int64_t)n->nout;
  Ints sizes = {0};
  if (n->opset < 13)
    sizes = attr_ints(n, "split");
  else if (node_has(n, 1))
    sizes = node_ints(n, 1, "split");
  if (attr_has(n, "num_outputs")) parts = attr_int(n, "num_outputs", 0);
  if (parts < (int64_t)n->nout || (sizes.at && sizes.n != n->nout) || parts < 1)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%zu outputs, but the split has %lld parts", n->nout,
                           (long long)(sizes.at ? (int64_t)sizes.n : parts)));
  int64_t chunk = d / parts + (d % parts != 0), sum = 0;
  for (uint32_t i = 0; sizes.at && i < sizes.n; i++) {
    if (sizes.at[i] < 0 || sizes.at[i] > d) sum = -1;
    if (sum >= 0) sum += sizes.at[i];
  }
  if (sizes.at && sum != d)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "parts %s of an axis of %lld",
                           shape_text(n->job, sizes), (long long)d));
  for (size_t i = 0; i < n->nout; i++) {
    int64_t size = sizes.at ? sizes.at[i] : chunk;
    if (size > d - at) size = d - at;
    node_out(n, i, build_slice(n->job, x, axis, at, size, 1));
    at += size;
  }
}

static int64_t clamp(int64_t v, int64_t lo, int64_t hi) { return v < lo ? lo : v > hi ? hi : v; }

/* numpy slicing: ends are clamped, negative ones count from the end. */
static UOp *slice_axis(Node *n, UOp *x, int64_t axis_, int64_t start, int64_t end, int64_t step) {
  size_t axis = axis_check(n->job, axis_, x->shape.n);
  int64_t d = x->shape.at[axis], count;
  if (step == 0 || step == INT64_MIN)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "step %lld", (long long)step));
  if (start < 0) start = start < -d ? -1 : start + d;
  if (end < 0) end = end < -d ? -1 : end + d;
  if (step > 0) {
    start = clamp(start, 0, d);
    end = clamp(end, 0, d);
    count = end > start ? (end - start - 1) / step + 1 : 0;
  } else {
    start = clamp(start, -1, d - 1);
    end = clamp(end, -1, d - 1);
    count = start > end ? (start - end - 1) / -step + 1 : 0;
  }
  return build_slice(n->job, x, axis, start, count, step);
}

static void op_slice(Node *n) {
  UOp *x = node_u(n, 0);
  bool attrs = n->opset < 10;
  Ints starts = attrs ? attr_ints(n, "starts") : node_ints(n, 1, "starts");
  Ints ends = attrs ? attr_ints(n, "ends") : node_ints(n, 2, "ends");
  Ints axes = {0}, steps = {0};
  if (attrs)
    axes = attr_ints(n, "axes");
  else if (node_has(n, 3))
    axes = node_ints(n, 3, "axes");
  if (!attrs && node_has(n, 4)) steps = node_ints(n, 4, "steps");
  if (starts.n != ends.n || (axes.at && axes.n != starts.n) || (steps.at && steps.n != starts.n))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "starts, ends, axes and steps differ in length"));
  for (uint32_t i = 0; i < starts.n; i++)
    x = slice_axis(n, x, axes.at ? axes.at[i] : i, starts.at[i], ends.at[i],
                   steps.at ? steps.at[i] : 1);
  node_out(n, 0, x);
}

static void op_expand(Node *n) {
  UOp *x = node_u(n, 0);
  Ints want = node_ints(n, 1, "shape");
  int64_t dims[MAX_DIMS];
  if (want.n > MAX_RANK) job_abort(n->job, FAIL(INVALID_ARGUMENT, "shape of rank %u", want.n));
  for (uint32_t i = 0; i < want.n; i++)
    if (want.at[i] < 0)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "bad shape %s", shape_text(n->job, want)));
  node_out(n, 0, build_expand(n->job, x, build_broadcast(n->job, x->shape, want, dims)));
}

static void op_tile(Node *n) {
  UOp *x = node_u(n, 0);
  Ints reps = node_ints(n, 1, "repeats");
  int64_t wide[2 * MAX_RANK], dims[2 * MAX_RANK], out[MAX_RANK];
  if (reps.n != x->shape.n)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "%u repeats for a tensor of rank %u", reps.n, x->shape.n));
  for (size_t i = 0; i < reps.n; i++) {
    int64_t d = x->shape.at[i], r = reps.at[i];
    wide[2 * i] = 1;
    dims[2 * i] = r;
    wide[2 * i + 1] = dims[2 * i + 1] = d;
    if (r < 0 || __builtin_mul_overflow(r, d, &out[i]))
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "bad repeats %s", shape_text(n->job, reps)));
  }
  x = build_reshape(n->job, x, shape_make(wide, 2 * (size_t)reps.n));
  x = build_expand(n->job, x, shape_make(dims, 2 * (size_t)reps.n));
  node_out(n, 0, build_reshape(n->job, x, shape_make(out, reps.n)));
}

/* -- padding --------------------------------------------------------------------------------- */

/* `count` elements beside the border of an axis, as a mode makes them: reflect skips the border
 * element itself, edge repeats it, wrap takes the other end. */
static UOp *border(Node *n, UOp *x, size_t axis, int64_t count, bool low, Str mode) {
  int64_t d = x->shape.at[axis], dims[MAX_DIMS];
  if (str_is(mode, "edge")) {
    UOp *e = build_slice(n->job, x, axis, low ? 0 : d - 1, 1, 1);
    for (uint32_t i = 0; i < x->shape.n; i++) dims[i] = i == axis ? count : x->shape.at[i];
    return build_expand(n->job, e, shape_make(dims, x->shape.n));
  }
  if (str_is(mode, "wrap")) return build_slice(n->job, x, axis, low ? d - count : 0, count, 1);
  return build_slice(n->job, x, axis, low ? count : d - 2, count, -1);
}

static UOp *pad_mode(Node *n, UOp *x, size_t axis, int64_t lo, int64_t hi, Str mode) {
  int64_t crop[2 * MAX_DIMS] = {0}, d;
  crop[2 * axis] = lo < 0 ? lo : 0;
  crop[2 * axis + 1] = hi < 0 ? hi : 0;
  x = build_pad(n->job, x, crop, build_num(n->job, x, 0));
  d = x->shape.at[axis];
  int64_t room = str_is(mode, "reflect") ? d - 1 : str_is(mode, "wrap") ? d : d ? INT64_MAX : 0;
  if (lo > room || hi > room || lo > MAX_NUMEL || hi > MAX_NUMEL)
    job_abort(n->job, FAIL(INVALID_ARGUMENT,
                           "padding %lld, %lld in mode '" STR_FMT "' of axis %zu of %lld elements",
                           (long long)lo, (long long)hi, STR_ARG(mode), axis, (long long)d));
  UOp *parts[3];
  size_t k = 0;
  if (lo > 0) parts[k++] = border(n, x, axis, lo, true, mode);
  parts[k++] = x;
  if (hi > 0) parts[k++] = border(n, x, axis, hi, false, mode);
  return build_cat(n->job, parts, k, axis);
}

/* pads[axis] = {begin, end} from ONNX's begins-then-ends list over `axes` (absent: all). */
static void pad_list(Node *n, size_t rank, int64_t *pads) {
  Ints list = n->opset >= 11 ? node_ints(n, 1, "pads") : attr_ints(n, "pads");
  Ints axes = {0};
  if (n->opset >= 18 && node_has(n, 3)) axes = node_ints(n, 3, "axes");
  size_t count = axes.at ? axes.n : rank;
  if (list.n != 2 * count)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%u pads, expected %zu", list.n, 2 * count));
  for (size_t i = 0; i < count; i++) {
    size_t axis = axes.at ? axis_check(n->job, axes.at[i], rank) : i;
    pads[2 * axis] = list.at[i];
    pads[2 * axis + 1] = list.at[count + i];
  }
}

static void op_pad(Node *n) {
  UOp *x = node_u(n, 0), *fill = build_num(n->job, x, 0);
  int64_t pads[2 * MAX_DIMS] = {0};
  Str mode = attr_str(n, "mode", "constant");
  pad_list(n, x->shape.n, pads);
  if (str_is(mode, "constant")) {
    if (n->opset < 11)
      fill = build_num(n->job, x, attr_float(n, "value", 0));
    else if (node_has(n, 2))
      fill = node_u(n, 2);
    if (shape_numel(fill->shape) != 1)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "constant_value of shape %s, expected a scalar",
                             shape_text(n->job, fill->shape)));
    node_out(n, 0, build_pad(n->job, x, pads, build_reshape(n->job, fill, (Ints){0})));
    return;
  }
  if (!str_is(mode, "reflect") && !str_is(mode, "edge") && !str_is(mode, "wrap"))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown mode '" STR_FMT "'", STR_ARG(mode)));
  for (size_t i = 0; i < node_in(n, 0)->shape.n; i++)
    x = pad_mode(n, x, i, pads[2 * i], pads[2 * i + 1], mode);
  node_out(n, 0, x);
}

/* Axis sizes become `shape`: cropped or padded with zeros about the centre. */
static void op_center_crop_pad(Node *n) {
  UOp *x = node_u(n, 0);
  Ints want = node_ints(n, 1, "shape"), axes = attr_ints(n, "axes");
  int64_t pads[2 * MAX_DIMS] = {0};
  if (want.n != (axes.at ? axes.n : x->shape.n))
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "shape %s does not fit the axes", shape_text(n->job, want)));
  for (uint32_t i = 0; i < want.n; i++) {
    size_t axis = axis_check(n->job, axes.at ? axes.at[i] : i, x->shape.n);
    int64_t d = x->shape.at[axis], more = want.at[i] - d;
    if (want.at[i] < 0 || want.at[i] > MAX_NUMEL)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "bad shape %s", shape_text(n->job, want)));
    int64_t lo = more >= 0 ? more / 2 : -((-more) / 2);
    pads[2 * axis] = lo;
    pads[2 * axis + 1] = more - lo;
  }
  node_out(n, 0, build_pad(n->job, x, pads, build_num(n->job, x, 0)));
}

/* -- blocks ---------------------------------------------------------------------------------- */

static int64_t block_size(Node *n, const UOp *x) {
  int64_t b = attr_need_int(n, "blocksize");
  if (x->shape.n != 4 || b < 1 || b > 1 << 15)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "blocksize %lld of shape %s", (long long)b,
                           shape_text(n->job, x->shape)));
  return b;
}

static void op_depth_to_space(Node *n) {
  UOp *x = node_u(n, 0);
  int64_t b = block_size(n, x), N = x->shape.at[0], C = x->shape.at[1], H = x->shape.at[2],
          W = x->shape.at[3], c = C / (b * b);
  if (str_is(attr_str(n, "mode", "DCR"), "DCR")) {
    x = build_reshape_v(n->job, x, 6, N, b, b, c, H, W);
    x = build_permute(n->job, x, (int64_t[]){0, 3, 4, 1, 5, 2}, 6);
  } else {
    x = build_reshape_v(n->job, x, 6, N, c, b, b, H, W);
    x = build_permute(n->job, x, (int64_t[]){0, 1, 4, 2, 5, 3}, 6);
  }
  node_out(n, 0, build_reshape_v(n->job, x, 4, N, c, H * b, W * b));
}

static void op_space_to_depth(Node *n) {
  UOp *x = node_u(n, 0);
  int64_t b = block_size(n, x), N = x->shape.at[0], C = x->shape.at[1], H = x->shape.at[2],
          W = x->shape.at[3];
  bool dcr = str_is(attr_str(n, "mode", "DCR"), "DCR");
  const int64_t *order =
      dcr ? (const int64_t[]){0, 3, 5, 1, 2, 4} : (const int64_t[]){0, 1, 3, 5, 2, 4};
  x = build_reshape_v(n->job, x, 6, N, C, H / b, b, W / b, b);
  x = build_permute(n->job, x, order, 6);
  node_out(n, 0, build_reshape_v(n->job, x, 4, N, C * b * b, H / b, W / b));
}

static void op_identity(Node *n) { node_out_val(n, 0, node_val(n, 0)); }

/* Inference: the value itself, and a mask of ones. Training mode draws random numbers. */
static void op_dropout(Node *n) {
  UOp *x = node_u(n, 0);
  if (n->opset >= 12 && node_has(n, 2) && node_int(n, 2, "training_mode") &&
      !(node_has(n, 1) && node_float(n, 1, "ratio") == 0))
    job_abort(n->job, FAIL(UNIMPLEMENTED, "training mode is not supported"));
  node_out_val(n, 0, n->in[0]);
  DType mask = n->opset >= 10 ? DT_BOOL : uop_dtype(x);
  if (node_wants(n, 1)) node_out(n, 1, build_splat(n->job, uop_number(n->job, mask, 1), x->shape));
}

const OnnxOp onnx_movement_ops[] = {
    {"", "Reshape", 1, 1, 2, op_reshape},
    {"", "Flatten", 1, 1, 1, op_flatten},
    {"", "Transpose", 1, 1, 1, op_transpose},
    {"", "Squeeze", 1, 1, 2, op_squeeze},
    {"", "Unsqueeze", 1, 1, 2, op_unsqueeze},
    {"", "Concat", 1, 1, 255, op_concat},
    {"", "Split", 2, 1, 2, op_split},
    {"", "Slice", 1, 1, 5, op_slice},
    {"", "Expand", 8, 2, 2, op_expand},
    {"", "Tile", 6, 2, 2, op_tile},
    {"", "Pad", 2, 1, 4, op_pad},
    {"", "CenterCropPad", 18, 2, 2, op_center_crop_pad},
    {"", "DepthToSpace", 1, 1, 1, op_depth_to_space},
    {"", "SpaceToDepth", 1, 1, 1, op_space_to_depth},
    {"", "Identity", 1, 1, 1, op_identity},
    {"", "Dropout", 7, 1, 3, op_dropout},
    {0},
};
