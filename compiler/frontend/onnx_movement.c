/* Ops that move elements without changing them: shapes, axes, slices, padding, joins. Sizes are
 * dims; one that only the run knows (a computed Reshape target, a Slice end from an input) becomes
 * a VAR bound to it, and where the IR's movement ops want proof that a range lies inside an axis,
 * the elements are gathered by position instead. */
#include "compiler/frontend/onnx_node.h"

static UOp *i64(Node *n, int64_t v) { return uop_int(n->job, DT_I64, v); }
static UOp *two(Node *n, Op op, UOp *a, UOp *b) { return build2(n->job, op, a, b); }
static UOp *size_of(Node *n, const UOp *x, size_t axis) {
  return build_size(n->job, x->shape.at[axis]);
}

/* -- shapes ---------------------------------------------------------------------------------- */

typedef struct Shaping {
  NodeSizes want;
  bool copies;            /* 0 means the source's size */
  int64_t infer, unknown; /* the axis that takes what is left: of -1, of a run-time size; or -1 */
  int64_t known;          /* product of the others, a dim */
} Shaping;

/* What a run-time element asks for: its own value, or the source's size for 0. */
static UOp *asked(Node *n, const Shaping *t, const UOp *x, uint32_t i) {
  UOp *v = t->want.value[i], *zero = i64(n, 0);
  if (!t->copies || i >= x->shape.n) return v;
  return build_where(n->job, two(n, OP_CMPEQ, v, zero), size_of(n, x, i), v);
}

static void read_known(Node *n, Shaping *t, const UOp *x) {
  Job *job = n->job;
  for (uint32_t i = 0; i < t->want.n; i++) {
    int64_t *d = &t->want.at[i];
    if (t->want.value[i]) continue;
    if (*d == 0 && t->copies) {
      if (i >= x->shape.n)
        job_abort(job,
                  FAIL(INVALID_ARGUMENT, "shape %s copies dimension %u of a source of shape %s",
                       shape_text(job, shape_make(t->want.at, t->want.n)), i,
                       shape_text(job, x->shape)));
      *d = x->shape.at[i];
    }
    if (*d == -1 && t->infer < 0) {
      t->infer = i;
      continue;
    }
    if (dim_low(*d) < 0 && dim_is_static(*d))
      job_abort(job, FAIL(INVALID_ARGUMENT, "bad shape %s",
                          shape_text(job, shape_make(t->want.at, t->want.n))));
    if (dim_low(*d) < 0) *d = dim_max(job, *d, 0);
    if (dim_low(t->known) > MAX_NUMEL)
      job_abort(job, FAIL(INVALID_ARGUMENT, "shape %s overflows",
                          shape_text(job, shape_make(t->want.at, t->want.n))));
    t->known = dim_mul(job, t->known, *d);
  }
}

/* All run-time sizes but the last become VARs; the last is what is left, unless a -1 is. A -1 among
 * run-time sizes counts as what is left too. */
static void read_unknown(Node *n, Shaping *t, const UOp *x, int64_t total) {
  Job *job = n->job;
  int64_t max = dim_high(total);
  for (uint32_t i = 0; i < t->want.n; i++)
    if (t->want.value[i]) t->unknown = i;
  if (t->infer >= 0) t->unknown = -1;
  UOp *others = build_size(job, t->known), *whole = build_size(job, total), *one = i64(n, 1);
  for (uint32_t i = 0; i < t->want.n; i++) {
    if (!t->want.value[i]) continue;
    UOp *v = asked(n, t, x, i);
    others = two(n, OP_MUL, others, build_where(job, two(n, OP_CMPLT, v, i64(n, 0)), one, v));
  }
  if (max > (int64_t)1 << 40) max = (int64_t)1 << 40;
  if (dim_low(total) == 0 && max < FRONT_DIM_MAX) max = FRONT_DIM_MAX; /* of nothing, any */
  for (uint32_t i = 0; i < t->want.n; i++) {
    if (!t->want.value[i]) continue;
    UOp *v = asked(n, t, x, i), *left = two(n, OP_IDIV, whole, others);
    if (t->infer < 0) v = build_where(job, two(n, OP_CMPLT, v, i64(n, 0)), left, v);
    if (i == t->unknown) {
      t->infer = i;
      continue;
    }
    t->want.at[i] = front_bind(n->f, v, 0, max, node_label(n, "shape"));
    t->known = dim_mul(job, t->known, t->want.at[i]);
  }
}

/* The run has to ask for what is left there, or for -1. */
static void check_left(Node *n, const Shaping *t, const UOp *x, int64_t left) {
  UOp *v = asked(n, t, x, (uint32_t)t->unknown);
  UOp *ok =
      two(n, OP_OR, two(n, OP_CMPEQ, v, build_size(n->job, left)), two(n, OP_CMPEQ, v, i64(n, -1)));
  front_require(n->job, ok, node_label(n, "the target has another number of elements"));
}

/* 0 copies a dimension (unless allowzero), one -1 is inferred. */
static void op_reshape(Node *n) {
  UOp *x = node_u(n, 0);
  Job *job = n->job;
  Shaping t = {.copies = attr_int(n, "allowzero", 0) == 0, .infer = -1, .unknown = -1, .known = 1};
  t.want = n->opset >= 5 ? node_sizes(n, 1, "shape") : node_size_list(n, attr_ints(n, "shape"));
  if (t.want.n > MAX_RANK)
    job_abort(job, FAIL(INVALID_ARGUMENT, "shape of rank %u, at most %d", t.want.n, MAX_RANK));
  int64_t total = dims_numel(job, x->shape), left;
  read_known(n, &t, x);
  read_unknown(n, &t, x, total);
  if (t.infer >= 0) {
    bool fits = dim_divides(job, total, t.known, &left);
    bool fixed = dim_is_static(total) && dim_is_static(t.known);
    if (!fits && (fixed || dim_high(t.known) <= 0))
      job_abort(job, FAIL(INVALID_ARGUMENT, "cannot reshape %s to %s", shape_text(job, x->shape),
                          shape_text(job, shape_make(t.want.at, t.want.n))));
    if (!fits) left = dim_floordiv(job, total, dim_max(job, t.known, 1));
    t.want.at[t.infer] = left;
    if (t.unknown >= 0) check_left(n, &t, x, left);
  }
  node_out(n, 0, build_reshape(job, x, shape_make(t.want.at, t.want.n)));
}

static void op_flatten(Node *n) {
  UOp *x = node_u(n, 0);
  int64_t axis = attr_int(n, "axis", 1), dims[2] = {1, 1}, r = x->shape.n;
  if (axis < -r || axis > r)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "axis %lld is outside [%lld, %lld]", (long long)axis,
                           (long long)-r, (long long)r));
  if (axis < 0) axis += r;
  for (int64_t i = 0; i < r; i++)
    dims[i >= axis] = dim_mul(n->job, dims[i >= axis], x->shape.at[i]);
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

/* x without `count` axes of size 1 that the run chooses. */
static UOp *squeeze_late(Node *n, UOp *x, UOp *const *on, uint32_t count) {
  int64_t dims[MAX_DIMS];
  node_sizes_of_others(n, x, on, count, dims);
  return build_reshape(n->job, x, shape_make(dims, x->shape.n - count));
}

static void op_squeeze(Node *n) {
  UOp *x = node_u(n, 0);
  bool given;
  uint32_t count;
  UOp **late = node_late_axes(n, 1, 13, x->shape.n, &count);
  if (late) {
    node_out(n, 0, squeeze_late(n, x, late, count));
    return;
  }
  uint32_t axes = node_axes(n, 1, 13, x->shape.n, &given);
  int64_t dims[MAX_DIMS];
  uint32_t rank = 0;
  for (uint32_t i = 0; i < x->shape.n; i++) {
    bool drop = given ? axes & axis_bit(i) : x->shape.at[i] == 1;
    if (drop && !build_may_equal(x->shape.at[i], 1))
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "axis %u has size %s, expected 1", i,
                             dim_text(n->job, x->shape.at[i])));
    if (drop) x = build_fit(n->job, x, i, 1);
    if (!drop) dims[rank++] = x->shape.at[i];
  }
  node_out(n, 0, build_reshape(n->job, x, shape_make(dims, rank)));
}

/* x with axes of size 1 where the run says. */
static UOp *unsqueeze_late(Node *n, UOp *x, UOp *const *on, size_t rank) {
  Job *job = n->job;
  int64_t dims[MAX_DIMS], high = 1;
  UOp *before = i64(n, 0);
  for (uint32_t i = 0; i < x->shape.n; i++)
    if (dim_high(x->shape.at[i]) > high) high = dim_high(x->shape.at[i]);
  for (size_t o = 0; o < rank; o++) {
    UOp *size = i64(n, 1);
    for (uint32_t a = 0; a < x->shape.n; a++)
      size = build_where(job, two(n, OP_CMPEQ, before, i64(n, a)), size_of(n, x, a), size);
    size = build_where(job, on[o], i64(n, 1), size);
    before = two(n, OP_ADD, before, build_cast(job, build_not(job, on[o]), DT_I64));
    dims[o] = front_bind(n->f, size, 0, high, node_label(n, "size"));
  }
  return build_reshape(job, x, shape_make(dims, rank));
}

static void op_unsqueeze(Node *n) {
  UOp *x = node_u(n, 0);
  size_t extra = n->opset >= 13 ? node_sizes(n, 1, "axes").n : attr_ints(n, "axes").n;
  size_t rank = x->shape.n + extra;
  if (extra > MAX_RANK || rank > MAX_RANK)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "too many axes"));
  bool given;
  uint32_t count;
  UOp **late = node_late_axes(n, 1, 13, rank, &count);
  if (late) {
    node_out(n, 0, unsqueeze_late(n, x, late, rank));
    return;
  }
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

void node_part_sizes(Node *n, const NodeSizes *sizes, int64_t d) {
  Job *job = n->job;
  int64_t sum = 0;
  for (uint32_t i = 0; i < sizes->n; i++) {
    if (dim_is_static(sizes->at[i]) && !sizes->value[i] && sizes->at[i] < 0) sum = -1;
    sizes->at[i] = node_size_bound(n, sizes, i, dim_high(d), "size of a part");
    if (dim_is_static(sum) && sum < 0) continue;
    sum = dim_add(job, sum, sizes->at[i]);
  }
  if (!build_may_equal(sum, d))
    job_abort(job, FAIL(INVALID_ARGUMENT, "parts %s of an axis of %s",
                        shape_text(job, shape_make(sizes->at, sizes->n)), dim_text(job, d)));
  if (sum != d)
    front_require(job, two(n, OP_CMPEQ, build_size(job, sum), build_size(job, d)),
                  node_label(n, "the parts do not add up to the axis"));
}

/* Sizes from source 1 (opset 13), attribute `split`, `num_outputs`, or equal parts. */
static void op_split(Node *n) {
  Job *job = n->job;
  UOp *x = node_u(n, 0);
  size_t axis = axis_check(job, attr_int(n, "axis", 0), x->shape.n);
  int64_t d = x->shape.at[axis], at = 0, parts = (int64_t)n->nout;
  NodeSizes sizes = {0};
  if (n->opset < 13 && attr_has(n, "split"))
    sizes = node_size_list(n, attr_ints(n, "split"));
  else if (node_has(n, 1)) /* opset 1 had both forms */
    sizes = node_sizes(n, 1, "split");
  if (attr_has(n, "num_outputs")) parts = attr_int(n, "num_outputs", 0);
  if (parts < (int64_t)n->nout || (sizes.at && sizes.n != n->nout) || parts < 1)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%zu outputs, but the split has %lld parts", n->nout,
                        (long long)(sizes.at ? (int64_t)sizes.n : parts)));
  if (sizes.at) node_part_sizes(n, &sizes, d);
  int64_t chunk = dim_ceildiv(job, d, parts);
  for (size_t i = 0; i < n->nout; i++) {
    int64_t size = sizes.at ? sizes.at[i] : dim_min(job, chunk, dim_sub(job, d, at));
    if (!sizes.at && dim_low(size) < 0) size = dim_max(job, size, 0);
    node_out(n, i, build_slice(job, x, axis, at, size, 1));
    at = dim_add(job, at, size);
  }
}

/* -- slices ---------------------------------------------------------------------------------- */

/* A slice position as numpy clamps it: negative ones count from the end; then into [low, high],
 * where low is 0 or -1 and high the size or the size - 1. False when the sign is not known. */
static bool clamp_known(Job *job, int64_t *at, int64_t d, int64_t back) {
  int64_t low = -back, high = dim_sub(job, d, back);
  if (dim_low(*at) < 0 && dim_high(*at) >= 0) return false;
  if (dim_low(*at) >= 0) {
    *at = dim_low(*at) >= dim_high(high) ? high : dim_min(job, *at, high);
    return true;
  }
  if (dim_high(*at) + dim_high(d) <= low) {
    *at = low;
    return true;
  }
  *at = dim_max(job, dim_add(job, *at, d), low);
  return true;
}

/* back: 1 for negative steps, else 0. */
static UOp *clamp_late(Node *n, UOp *at, UOp *d, UOp *back) {
  Job *job = n->job;
  UOp *limit = i64(n, (int64_t)1 << 60); /* so that adding the size does not wrap */
  at = two(n, OP_MIN, two(n, OP_MAX, at, build1(job, OP_NEG, limit)), limit);
  at = build_where(job, two(n, OP_CMPLT, at, i64(n, 0)), two(n, OP_ADD, at, d), at);
  at = two(n, OP_MAX, at, build1(job, OP_NEG, back));
  return two(n, OP_MIN, at, two(n, OP_SUB, d, back));
}

/* A position is known as a dim, or only to the run. */
typedef struct Position {
  int64_t at;
  UOp *value;
} Position;

/* Elements start, start + step, ... before end, when the run decides. */
static UOp *slice_late(Node *n, UOp *x, size_t axis, UOp *start, UOp *end, UOp *step) {
  Job *job = n->job;
  UOp *d = size_of(n, x, axis), *zero = i64(n, 0);
  UOp *down = two(n, OP_CMPLT, step, zero), *back = build_cast(job, down, DT_I64);
  start = clamp_late(n, start, d, back);
  end = clamp_late(n, end, d, back);
  UOp *span = two(n, OP_SUB, end, start), *width = build1(job, OP_ABS, step);
  span = build_where(job, down, build1(job, OP_NEG, span), span);
  span = two(n, OP_ADD, two(n, OP_MAX, span, zero), two(n, OP_SUB, width, i64(n, 1)));
  UOp *count = two(n, OP_FLOORDIV, span, width);
  int64_t size =
      front_bind(n->f, count, 0, dim_high(x->shape.at[axis]), node_label(n, "number of elements"));
  UOp *at = two(n, OP_MUL, build_arange(job, DT_I64, size), step);
  return build_gather(job, x, two(n, OP_ADD, at, start), axis);
}

static void note_loop(void *ctx, const UOp *var) {
  Node *n = ((void **)ctx)[0];
  bool *any = ((void **)ctx)[1];
  *any |= n->f->vars.at[var->arg.i].source == VAR_LOOP;
}

/* In the body of a loop x[k:k+c] has c elements in every iteration, or the run fails: the shapes
 * of a loop do not change. NULL: it is no such slice. */
static UOp *slice_in_loop(Node *n, UOp *x, size_t axis, int64_t from, int64_t to, int64_t span) {
  Job *job = n->job;
  int64_t width = dim_sub(job, to, from), d = x->shape.at[axis];
  bool loop = false;
  void *ctx[] = {n, &loop};
  if (dim_is_static(span) || !dim_is_static(width) || width < 1 || !dim_le(job, width, d))
    return NULL;
  dim_vars(dim_node(span), note_loop, ctx);
  if (!loop) return NULL;
  front_bind(n->f, build_size(job, span), width, width,
             node_label(n, "number of elements in an iteration"));
  return build_slice(job, x, axis, dim_min(job, from, dim_sub(job, d, width)), width, 1);
}

/* numpy slicing: ends are clamped, negative ones count from the end. */
static UOp *slice_axis(Node *n, UOp *x, int64_t axis_, Position start, Position end,
                       Position step) {
  Job *job = n->job;
  size_t axis = axis_check(job, axis_, x->shape.n);
  bool known = !start.value && !end.value && !step.value && dim_is_static(step.at);
  if (known && step.at == 0) job_abort(job, FAIL(INVALID_ARGUMENT, "step 0"));
  int64_t d = x->shape.at[axis], from = start.at, to = end.at, back = step.at < 0;
  known = known && clamp_known(job, &from, d, back) && clamp_known(job, &to, d, back);
  if (!known) {
    Position *all[] = {&start, &end, &step};
    for (size_t i = 0; i < 3; i++)
      if (!all[i]->value) all[i]->value = build_size(job, all[i]->at);
    return slice_late(n, x, axis, start.value, end.value, step.value);
  }
  int64_t span = back ? dim_sub(job, from, to) : dim_sub(job, to, from);
  if (dim_low(span) < 0) span = dim_max(job, span, 0);
  UOp *fixed = step.at == 1 ? slice_in_loop(n, x, axis, start.at, end.at, span) : NULL;
  if (fixed) return fixed;
  int64_t count = dim_ceildiv(job, span, back ? -step.at : step.at);
  return build_slice(job, x, axis, from, count, step.at);
}

/* Axes that only the run knows: every axis is sliced by its element of the lists, or not at all. */
static UOp *slice_any_axes(Node *n, UOp *x, const NodeSizes *starts, const NodeSizes *ends,
                           const NodeSizes *axes, const NodeSizes *steps) {
  Job *job = n->job;
  UOp *rank = i64(n, x->shape.n);
  for (uint32_t a = 0; a < x->shape.n; a++) {
    UOp *from = i64(n, 0), *to = i64(n, MAX_NUMEL), *by = i64(n, 1);
    for (uint32_t i = 0; i < starts->n; i++) {
      UOp *v = node_size_value(n, axes, i);
      v = build_where(job, two(n, OP_CMPLT, v, i64(n, 0)), two(n, OP_ADD, v, rank), v);
      UOp *here = two(n, OP_CMPEQ, v, i64(n, a));
      from = build_where(job, here, node_size_value(n, starts, i), from);
      to = build_where(job, here, node_size_value(n, ends, i), to);
      if (steps->n) by = build_where(job, here, node_size_value(n, steps, i), by);
    }
    x = slice_late(n, x, a, from, to, by);
  }
  return x;
}

static NodeSizes slice_list(Node *n, bool attrs, size_t k, const char *what) {
  NodeSizes none = {0};
  if (attrs) return attr_has(n, what) ? node_size_list(n, attr_ints(n, what)) : none;
  return node_has(n, k) ? node_sizes(n, k, what) : none;
}

static void op_slice(Node *n) {
  UOp *x = node_u(n, 0);
  bool attrs = n->opset < 10, late = false;
  NodeSizes starts = slice_list(n, attrs, 1, "starts"), ends = slice_list(n, attrs, 2, "ends");
  NodeSizes axes = slice_list(n, attrs, 3, "axes"), steps = {0};
  if (!attrs) steps = slice_list(n, false, 4, "steps");
  if (starts.n != ends.n || (axes.at && axes.n != starts.n) || (steps.at && steps.n != starts.n))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "starts, ends, axes and steps differ in length"));
  for (uint32_t i = 0; axes.at && i < axes.n; i++)
    late = late || axes.value[i] || !dim_is_static(axes.at[i]);
  if (late) {
    node_out(n, 0, slice_any_axes(n, x, &starts, &ends, &axes, &steps));
    return;
  }
  for (uint32_t i = 0; i < starts.n; i++)
    x = slice_axis(n, x, axes.at ? axes.at[i] : i, (Position){starts.at[i], starts.value[i]},
                   (Position){ends.at[i], ends.value[i]},
                   steps.at ? (Position){steps.at[i], steps.value[i]} : (Position){1, NULL});
  node_out(n, 0, x);
}

static void op_expand(Node *n) {
  UOp *x = node_u(n, 0);
  NodeSizes want = node_sizes(n, 1, "shape");
  int64_t dims[MAX_DIMS];
  if (want.n > MAX_RANK) job_abort(n->job, FAIL(INVALID_ARGUMENT, "shape of rank %u", want.n));
  for (uint32_t i = 0; i < want.n; i++) {
    want.at[i] = node_size_bound(n, &want, i, FRONT_DIM_MAX, "shape");
    if (dim_low(want.at[i]) >= 0) continue;
    if (dim_is_static(want.at[i]))
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "bad shape %s",
                             shape_text(n->job, shape_make(want.at, want.n))));
    want.at[i] = dim_max(n->job, want.at[i], 0);
  }
  Ints shape = shape_make(want.at, want.n);
  node_out(n, 0, build_expand(n->job, x, build_broadcast(n->job, x->shape, shape, dims)));
}

/* Before opset 6: how often, and along which axis. */
static NodeSizes tile_one_axis(Node *n, size_t rank) {
  int64_t *reps = arena_array(&n->job->arena, rank + 1, sizeof *reps);
  size_t axis = axis_check(n->job, node_int(n, 2, "axis"), rank);
  for (size_t i = 0; i < rank; i++) reps[i] = i == axis ? node_int(n, 1, "tiles") : 1;
  return node_size_list(n, shape_make(reps, rank));
}

static void op_tile(Node *n) {
  UOp *x = node_u(n, 0);
  NodeSizes reps = n->opset < 6 ? tile_one_axis(n, x->shape.n) : node_sizes(n, 1, "repeats");
  int64_t wide[2 * MAX_RANK], dims[2 * MAX_RANK], out[MAX_RANK];
  if (reps.n != x->shape.n)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "%u repeats for a tensor of rank %u", reps.n, x->shape.n));
  for (size_t i = 0; i < reps.n; i++) {
    int64_t d = x->shape.at[i],
            r = node_size_bound(n, &reps, (uint32_t)i, FRONT_DIM_MAX, "repeats");
    if (dim_low(r) < 0 || dim_low(r) > MAX_NUMEL)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "bad repeats %s",
                             shape_text(n->job, shape_make(reps.at, reps.n))));
    wide[2 * i] = 1;
    dims[2 * i] = r;
    wide[2 * i + 1] = dims[2 * i + 1] = d;
    out[i] = dim_mul(n->job, r, d);
  }
  x = build_reshape(n->job, x, shape_make(wide, 2 * (size_t)reps.n));
  x = build_expand(n->job, x, shape_make(dims, 2 * (size_t)reps.n));
  node_out(n, 0, build_reshape(n->job, x, shape_make(out, reps.n)));
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
          W = x->shape.at[3], c;
  if (!dim_divides(n->job, C, b * b, &c))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%s channels in blocks of %lld", dim_text(n->job, C),
                           (long long)(b * b)));
  if (str_is(attr_str(n, "mode", "DCR"), "DCR")) {
    x = build_reshape_v(n->job, x, 6, N, b, b, c, H, W);
    x = build_permute(n->job, x, (int64_t[]){0, 3, 4, 1, 5, 2}, 6);
  } else {
    x = build_reshape_v(n->job, x, 6, N, c, b, b, H, W);
    x = build_permute(n->job, x, (int64_t[]){0, 1, 4, 2, 5, 3}, 6);
  }
  node_out(n, 0, build_reshape_v(n->job, x, 4, N, c, dim_mul(n->job, H, b), dim_mul(n->job, W, b)));
}

static void op_space_to_depth(Node *n) {
  UOp *x = node_u(n, 0);
  int64_t b = block_size(n, x), N = x->shape.at[0], C = x->shape.at[1], H = x->shape.at[2],
          W = x->shape.at[3];
  bool dcr = str_is(attr_str(n, "mode", "DCR"), "DCR");
  const int64_t *order =
      dcr ? (const int64_t[]){0, 3, 5, 1, 2, 4} : (const int64_t[]){0, 1, 3, 5, 2, 4};
  int64_t h = dim_floordiv(n->job, H, b), w = dim_floordiv(n->job, W, b);
  x = build_reshape_v(n->job, x, 6, N, C, h, b, w, b);
  x = build_permute(n->job, x, order, 6);
  node_out(n, 0, build_reshape_v(n->job, x, 4, N, dim_mul(n->job, C, b * b), h, w));
}

static void op_identity(Node *n) { node_out_val(n, 0, node_val(n, 0)); }

/* Inference: the value itself, and a mask of ones. Training mode draws random numbers. */
const OnnxOp onnx_movement_ops[] = {
    {"", "Reshape", 1, 1, 2, op_reshape},
    {"", "Flatten", 1, 1, 1, op_flatten},
    {"", "Transpose", 1, 1, 1, op_transpose},
    {"", "Squeeze", 1, 1, 2, op_squeeze},
    {"", "Unsqueeze", 1, 1, 2, op_unsqueeze},
    {"", "Concat", 1, 1, 255, op_concat},
    {"", "Split", 1, 1, 2, op_split},
    {"", "Slice", 1, 1, 5, op_slice},
    {"", "Expand", 8, 2, 2, op_expand},
    {"", "Tile", 1, 2, 3, op_tile},
    {"", "DepthToSpace", 1, 1, 1, op_depth_to_space},
    {"", "SpaceToDepth", 1, 1, 1, op_space_to_depth},
    {"", "Identity", 1, 1, 1, op_identity},
    {0},
};
