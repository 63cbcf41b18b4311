/* Ops about shapes: constants, sizes as data, ranges, triangles. A size that a run decides is data
 * by build_size, so that front_elem finds it again where the model makes a shape of it. */
#include <math.h>

#include "compiler/frontend/elem.h"
#include "compiler/frontend/onnx_node.h"

static void op_constant(Node *n) {
  const OnnxAttribute *a;
  Front *f = n->f;
  if ((a = attr_find(n, "value", ONNX_ATTR_TENSOR))) {
    node_out_val(n, 0, onnx_tensor(f, a->t, "attribute 'value'"));
  } else if ((a = attr_find(n, "value_float", ONNX_ATTR_FLOAT))) {
    node_out_val(n, 0, val_from_data(f, DT_F32, (Ints){0}, &a->f));
  } else if ((a = attr_find(n, "value_int", ONNX_ATTR_INT))) {
    node_out_val(n, 0, val_from_data(f, DT_I64, (Ints){0}, &a->i));
  } else if ((a = attr_find(n, "value_floats", ONNX_ATTR_FLOATS))) {
    int64_t len = (int64_t)a->floats.n;
    node_out_val(n, 0, val_from_data(f, DT_F32, shape_make(&len, 1), a->floats.at));
  } else if ((a = attr_find(n, "value_ints", ONNX_ATTR_INTS))) {
    node_out_val(n, 0, val_from_i64(f, a->ints.at, a->ints.n));
  } else {
    job_abort(n->job, FAIL(UNIMPLEMENTED, "a Constant that is neither a tensor nor numbers"));
  }
}

static void op_constant_of_shape(Node *n) {
  NodeSizes s = node_sizes(n, 0, "shape");
  const OnnxAttribute *a = attr_find(n, "value", ONNX_ATTR_TENSOR);
  UOp *scalar = uop_float(n->job, DT_F32, 0);
  if (s.n > MAX_RANK) job_abort(n->job, FAIL(INVALID_ARGUMENT, "rank %u", s.n));
  for (uint32_t i = 0; i < s.n; i++) s.at[i] = node_size_bound(n, &s, i, FRONT_DIM_MAX, "shape");
  if (a) {
    Val *v = onnx_tensor(n->f, a->t, "attribute 'value'");
    if (shape_numel(v->shape) != 1)
      job_abort(n->job,
                FAIL(INVALID_ARGUMENT, "attribute 'value' has shape %s, expected one element",
                     shape_text(n->job, v->shape)));
    scalar = build_splat_value(val_uop(n->f, v));
  }
  node_out(n, 0, build_splat(n->job, scalar, shape_make(s.at, s.n)));
}

static int64_t clamp_axis(int64_t axis, int64_t rank) {
  if (axis < 0) axis += rank;
  return axis < 0 ? 0 : axis > rank ? rank : axis;
}

static void op_shape(Node *n) {
  Ints s = node_in(n, 0)->shape;
  int64_t start = clamp_axis(attr_int(n, "start", 0), s.n);
  int64_t end = clamp_axis(attr_int(n, "end", s.n), s.n);
  size_t count = end > start ? (size_t)(end - start) : 0;
  Ints part = {s.at + start, (uint32_t)count};
  if (shape_is_static(part)) {
    node_out_val(n, 0, val_from_i64(n->f, part.at, count));
    return;
  }
  UOp *sizes[MAX_DIMS];
  for (size_t i = 0; i < count; i++)
    sizes[i] = build_unsqueeze(n->job, build_size(n->job, part.at[i]), 0);
  node_out(n, 0, build_cat(n->job, sizes, count, 0));
}

static void op_size(Node *n) {
  int64_t count = dims_numel(n->job, node_in(n, 0)->shape);
  if (!dim_is_static(count)) {
    node_out(n, 0, build_size(n->job, count));
    return;
  }
  int64_t *size = arena_alloc(&n->job->arena, sizeof *size);
  *size = count;
  node_out_val(n, 0, val_from_data(n->f, DT_I64, (Ints){0}, size));
}

/* How many elements start + i * delta lie before limit, when only the run knows. */
static UOp *range_count(Node *n, UOp *start, UOp *limit, UOp *delta) {
  Job *job = n->job;
  UOp *span = build2(job, OP_SUB, limit, start), *zero = uop_int(job, DT_I64, 0);
  UOp *count;
  if (dtype_is_float(uop_dtype(start))) {
    UOp *ratio =
        build2(job, OP_FDIV, build_cast(job, span, DT_F64), build_cast(job, delta, DT_F64));
    count = build_cast(job, build1(job, OP_CEIL, ratio), DT_I64);
  } else { /* ceil(span / delta) = -floor(-span / delta) */
    span = build_cast(job, span, DT_I64);
    UOp *down = build2(job, OP_SUB, zero, span);
    count = build2(job, OP_FLOORDIV, down, build_cast(job, delta, DT_I64));
    count = build2(job, OP_SUB, zero, count);
  }
  return build2(job, OP_MAX, count, zero);
}

static int64_t range_size(Node *n, UOp *start, UOp *limit, UOp *delta) {
  Job *job = n->job;
  if (dtype_is_int(uop_dtype(start))) {
    UOp *a = front_elem(n->f, start, NULL), *b = front_elem(n->f, limit, NULL);
    UOp *by = front_elem(n->f, delta, NULL);
    int64_t step = by ? dim_of(job, by) : 0;
    if (a && b && dim_is_static(step) && step) {
      int64_t from = dim_of(job, a), to = dim_of(job, b);
      int64_t span = step > 0 ? dim_sub(job, to, from) : dim_sub(job, from, to);
      return dim_max(job, dim_ceildiv(job, span, step > 0 ? step : -step), 0);
    }
  }
  UOp *count = range_count(n, start, limit, delta);
  UOp *size = front_elem(n->f, count, NULL);
  if (size) return dim_of(job, size);
  return front_bind(n->f, count, 0, FRONT_DIM_MAX, node_label(n, "number of elements"));
}

/* start + i * delta */
static void op_range(Node *n) {
  UOp *v[3];
  DType d = node_in(n, 0)->dtype;
  bool known = true;
  for (size_t i = 0; i < 3; i++) {
    Val *x = node_in(n, i);
    if (x->dtype != d || dtype_is_bool(d) || dims_numel(n->job, x->shape) != 1)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "start, limit and delta: %s of shape %s",
                             dtype_info[x->dtype].name, shape_text(n->job, x->shape)));
    known = known && val_data(n->f, x);
    v[i] = build_reshape(n->job, node_u(n, i), (Ints){0});
  }
  int64_t len;
  if (known) {
    double start = node_float(n, 0, "start"), limit = node_float(n, 1, "limit");
    double delta = node_float(n, 2, "delta"), count = ceil((limit - start) / delta);
    if (!(count <= (double)MAX_TENSOR) || delta == 0)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "range from %g to %g by %g", start, limit, delta));
    len = count > 0 ? (int64_t)count : 0;
  } else {
    len = range_size(n, v[0], v[1], v[2]);
  }
  UOp *i = build2(n->job, OP_MUL, build_arange(n->job, d, len), v[2]);
  node_out(n, 0, build2(n->job, OP_ADD, i, v[0]));
}

static void op_eye_like(Node *n) {
  Val *v = node_in(n, 0);
  int64_t k = attr_int(n, "k", 0);
  DType d = attr_has(n, "dtype") ? onnx_dtype(n->job, attr_int(n, "dtype", 1)) : v->dtype;
  if (v->shape.n != 2 || k > MAX_NUMEL || k < -MAX_NUMEL)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source of shape %s, expected a matrix",
                           shape_text(n->job, v->shape)));
  UOp *row = build_iota(n->job, DT_I64, 0, v->shape),
      *col = build_iota(n->job, DT_I64, 1, v->shape);
  row = build2(n->job, OP_ADD, row, uop_int(n->job, DT_I64, k));
  node_out(n, 0, build_cast(n->job, build2(n->job, OP_CMPEQ, row, col), d));
}

/* Keeps one triangle of the last two axes. */
static void op_trilu(Node *n) {
  UOp *x = node_u(n, 0), *k = node_opt(n, 1);
  uint32_t r = x->shape.n;
  bool upper = attr_int(n, "upper", 1) != 0;
  if (r < 2 || (k && (dims_numel(n->job, k->shape) != 1 || !dtype_is_int(uop_dtype(k)))))
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "source of shape %s, k of shape %s",
                   shape_text(n->job, x->shape), shape_text(n->job, k ? k->shape : (Ints){0})));
  k = k ? build_cast(n->job, build_reshape(n->job, k, (Ints){0}), DT_I64)
        : uop_int(n->job, DT_I64, 0);
  k = build2(n->job, OP_MAX, k, uop_int(n->job, DT_I64, -MAX_NUMEL));
  k = build2(n->job, OP_MIN, k, uop_int(n->job, DT_I64, MAX_NUMEL));
  Ints m = {x->shape.at + r - 2, 2};
  UOp *row = build_iota(n->job, DT_I64, 0, m), *col = build_iota(n->job, DT_I64, 1, m);
  row = build2(n->job, OP_ADD, row, k);
  UOp *keep = upper ? build2(n->job, OP_CMPLE, row, col) : build2(n->job, OP_CMPLE, col, row);
  node_out(n, 0, build_where(n->job, keep, x, build_num(n->job, x, 0)));
}

const OnnxOp onnx_shape_ops[] = {
    {"", "Constant", 1, 0, 0, op_constant},
    {"", "ConstantOfShape", 9, 1, 1, op_constant_of_shape},
    {"", "Shape", 1, 1, 1, op_shape},
    {"", "Size", 1, 1, 1, op_size},
    {"", "Range", 11, 3, 3, op_range},
    {"", "EyeLike", 9, 1, 1, op_eye_like},
    {"", "Trilu", 14, 1, 2, op_trilu},
    {"com.microsoft", "Trilu", 1, 1, 2, op_trilu},
    {0},
};
