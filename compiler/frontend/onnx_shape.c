/* Ops whose result is known at compile time once shapes are: constants, shapes, ranges. */
#include <math.h>

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
  Ints shape = node_ints(n, 0, "shape");
  const OnnxAttribute *a = attr_find(n, "value", ONNX_ATTR_TENSOR);
  UOp *scalar = uop_float(n->job, DT_F32, 0);
  if (shape.n > MAX_RANK) job_abort(n->job, FAIL(INVALID_ARGUMENT, "rank %u", shape.n));
  if (a) {
    Val *v = onnx_tensor(n->f, a->t, "attribute 'value'");
    if (shape_numel(v->shape) != 1)
      job_abort(n->job,
                FAIL(INVALID_ARGUMENT, "attribute 'value' has shape %s, expected one element",
                     shape_text(n->job, v->shape)));
    scalar = build_splat_value(val_uop(n->f, v));
  }
  node_out(n, 0, build_splat(n->job, scalar, shape));
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
  node_out_val(n, 0, val_from_i64(n->f, s.at + start, count));
}

static void op_size(Node *n) {
  int64_t *size = arena_alloc(&n->job->arena, sizeof *size);
  *size = shape_numel(node_in(n, 0)->shape);
  node_out_val(n, 0, val_from_data(n->f, DT_I64, (Ints){0}, size));
}

/* start + i * delta */
static void op_range(Node *n) {
  Val *v = node_in(n, 0);
  DType d = v->dtype;
  double start = node_float(n, 0, "start"), limit = node_float(n, 1, "limit");
  double delta = node_float(n, 2, "delta"), count = ceil((limit - start) / delta);
  if (node_in(n, 1)->dtype != d || node_in(n, 2)->dtype != d || dtype_is_bool(d))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "start, limit and delta differ in dtype"));
  if (!(count <= (double)MAX_TENSOR) || delta == 0)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "range from %g to %g by %g", start, limit, delta));
  int64_t len = count > 0 ? (int64_t)count : 0;
  UOp *i = build_arange(n->job, d, len);
  i = build2(n->job, OP_MUL, i, build_reshape(n->job, node_u(n, 2), (Ints){0}));
  node_out(n, 0, build2(n->job, OP_ADD, i, build_reshape(n->job, node_u(n, 0), (Ints){0})));
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
  UOp *x = node_u(n, 0);
  uint32_t r = x->shape.n;
  int64_t k = node_has(n, 1) ? node_int(n, 1, "k") : 0;
  bool upper = attr_int(n, "upper", 1) != 0;
  if (r < 2 || k > MAX_NUMEL || k < -MAX_NUMEL)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source of shape %s, k = %lld",
                           shape_text(n->job, x->shape), (long long)k));
  Ints m = {x->shape.at + r - 2, 2};
  UOp *row = build_iota(n->job, DT_I64, 0, m), *col = build_iota(n->job, DT_I64, 1, m);
  row = build2(n->job, OP_ADD, row, uop_int(n->job, DT_I64, k));
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
