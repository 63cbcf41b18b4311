/* Writes at computed positions: SCATTER, given the shapes of each operator. An index outside of its
 * axis writes nothing, which ONNX leaves open. */
#include "compiler/frontend/build_scatter.h"
#include "compiler/frontend/onnx_spatial.h"

static Op reduction_op(Node *n) {
  static const struct {
    const char *name;
    Op op;
  } ops[] = {
      {"none", OP_STORE}, {"add", OP_ADD}, {"mul", OP_MUL}, {"max", OP_MAX}, {"min", OP_MIN}};
  Str reduction = attr_str(n, "reduction", "none");
  for (size_t k = 0; k < sizeof ops / sizeof *ops; k++)
    if (str_is(reduction, ops[k].name)) return ops[k].op;
  job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown reduction '" STR_FMT "'", STR_ARG(reduction)));
}

static void op_scatter_elements(Node *n) {
  UOp *x = node_u(n, 0), *idx = node_u(n, 1), *upd = node_u(n, 2);
  size_t axis = axis_check(n->job, attr_int(n, "axis", 0), x->shape.n);
  bool ok = idx->shape.n == upd->shape.n && dtype_is_int(uop_dtype(idx));
  for (uint32_t i = 0; ok && i < idx->shape.n; i++) {
    ok = build_may_equal(idx->shape.at[i], upd->shape.at[i]);
    if (ok) idx = build_fit(n->job, idx, i, upd->shape.at[i]);
  }
  if (!ok)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "indices %s and updates %s for data of shape %s",
                           shape_text(n->job, idx->shape), shape_text(n->job, upd->shape),
                           shape_text(n->job, x->shape)));
  idx = build_wrap(n->job, idx, x->shape.at[axis]);
  node_out(n, 0, build_scatter(n->job, x, idx, upd, axis, reduction_op(n)));
}

/* A coordinate of the indices as one of rows `rows` apart; -1 where it is out of bounds, or `flat`,
 * that of the axes before, is. */
static UOp *add_coordinate(Node *n, UOp *flat, UOp *c, int64_t size) {
  Job *job = n->job;
  UOp *zero = uop_int(job, DT_I64, 0), *none = uop_int(job, DT_I64, -1);
  c = build_wrap(job, c, size);
  UOp *in = build2(job, OP_AND, build2(job, OP_CMPLE, zero, c),
                   build2(job, OP_CMPLT, c, build_size(job, size)));
  if (!flat) return build_where(job, in, c, none);
  in = build2(job, OP_AND, in, build2(job, OP_CMPLE, zero, flat));
  flat = build2(job, OP_ADD, build2(job, OP_MUL, flat, build_size(job, size)), c);
  return build_where(job, in, flat, none);
}

static void op_scatter_nd(Node *n) {
  UOp *x = node_u(n, 0), *idx = node_u(n, 1), *upd = node_u(n, 2), *flat = NULL;
  uint32_t r = x->shape.n, q = idx->shape.n;
  int64_t k = q ? front_static(n->job, idx->shape.at[q - 1], "the last axis of the indices") : 0;
  int64_t rows = 1, rest = 1, count = 1;
  bool ok = q && k >= 1 && k <= r && dtype_is_int(uop_dtype(idx)) &&
            upd->shape.n == q - 1 + r - (uint32_t)k;
  for (uint32_t i = 0; ok && i < upd->shape.n; i++)
    ok = build_may_equal(upd->shape.at[i],
                         i < q - 1 ? idx->shape.at[i] : x->shape.at[(uint32_t)k + i - (q - 1)]);
  if (!ok)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "indices %s and updates %s for data of shape %s",
                           shape_text(n->job, idx->shape), shape_text(n->job, upd->shape),
                           shape_text(n->job, x->shape)));
  for (uint32_t i = 0; i < upd->shape.n; i++)
    upd = build_fit(n->job, upd, i,
                    i < q - 1 ? idx->shape.at[i] : x->shape.at[(uint32_t)k + i - (q - 1)]);
  for (uint32_t i = (uint32_t)k; i < r; i++) rest = dim_mul(n->job, rest, x->shape.at[i]);
  for (uint32_t i = 0; i < q - 1; i++) count = dim_mul(n->job, count, idx->shape.at[i]);
  for (int64_t i = 0; i < k; i++) {
    UOp *c = build_squeeze(n->job, build_slice(n->job, idx, q - 1, i, 1, 1), q - 1);
    flat =
        k == 1 ? build_wrap(n->job, c, x->shape.at[i]) : add_coordinate(n, flat, c, x->shape.at[i]);
    rows = dim_mul(n->job, rows, x->shape.at[i]);
  }
  UOp *at = build_reshape_v(n->job, flat, 2, count, (int64_t)1);
  UOp *data = build_reshape_v(n->job, x, 2, rows, rest);
  upd = build_reshape_v(n->job, upd, 2, count, rest);
  UOp *y = build_scatter(n->job, data, at, upd, 0, reduction_op(n));
  node_out(n, 0, build_reshape(n->job, y, x->shape));
}

/* A cache with `update` written along an axis from write_indices[batch] on. */
static void op_tensor_scatter(Node *n) {
  UOp *x = node_u(n, 0), *upd = node_u(n, 1), *start = node_opt(n, 2);
  size_t axis = axis_check(n->job, attr_int(n, "axis", -2), x->shape.n);
  bool circular = str_is(attr_str(n, "mode", "linear"), "circular");
  bool ok =
      axis > 0 && upd->shape.n == x->shape.n &&
      (!start || (start->shape.n == 1 && build_may_equal(start->shape.at[0], x->shape.at[0])));
  for (uint32_t i = 0; ok && i < x->shape.n; i++) {
    if (i == axis) {
      ok = dim_low(upd->shape.at[i]) <= dim_high(x->shape.at[i]);
      continue;
    }
    ok = build_may_equal(upd->shape.at[i], x->shape.at[i]);
    if (ok) upd = build_fit(n->job, upd, i, x->shape.at[i]);
  }
  if (!ok)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "update of shape %s for a cache of shape %s",
                           shape_text(n->job, upd->shape), shape_text(n->job, x->shape)));
  int64_t dims[MAX_DIMS];
  for (uint32_t i = 0; i < x->shape.n; i++) dims[i] = i == axis ? upd->shape.at[i] : 1;
  UOp *at = build_iota(n->job, DT_I64, axis, shape_make(dims, x->shape.n));
  if (start) {
    start = build_fit(n->job, build_cast(n->job, start, DT_I64), 0, x->shape.at[0]);
    start = build_along(n->job, start, 0, x->shape.n);
    at = build2(n->job, OP_ADD, at, start);
  }
  if (circular) at = build2(n->job, OP_FLOORMOD, at, build_size(n->job, x->shape.at[axis]));
  node_out(n, 0, build_scatter(n->job, x, at, upd, axis, OP_STORE));
}

/* The values go back to the positions that MaxPool reported; the rest is 0. */
static void op_max_unpool(Node *n) {
  UOp *x = node_u(n, 0), *idx = node_u(n, 1);
  Job *job = n->job;
  Ints kernel = attr_ints(n, "kernel_shape");
  NodeSizes want = {0};
  int64_t stride[MAX_SPATIAL], pads[2 * MAX_SPATIAL], dims[MAX_DIMS], total = 1;
  if (kernel.n < 1 || kernel.n > MAX_SPATIAL || x->shape.n != kernel.n + 2 ||
      x->shape.n != idx->shape.n || !dtype_is_int(uop_dtype(idx)))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "values %s, positions %s, kernel %s",
                           shape_text(n->job, x->shape), shape_text(n->job, idx->shape),
                           shape_text(n->job, kernel)));
  spatial_ints(n, "strides", kernel.n, 1, 1, stride);
  spatial_ints(n, "pads", 2 * (size_t)kernel.n, 0, 0, pads);
  dims[0] = x->shape.at[0], dims[1] = x->shape.at[1];
  for (uint32_t i = 0; i < x->shape.n; i++) {
    if (!build_may_equal(idx->shape.at[i], x->shape.at[i]))
      job_abort(job, FAIL(INVALID_ARGUMENT, "values %s, positions %s", shape_text(job, x->shape),
                          shape_text(job, idx->shape)));
    idx = build_fit(job, idx, i, x->shape.at[i]);
  }
  for (uint32_t i = 0; i < kernel.n; i++) {
    int64_t starts = dim_mul(job, dim_sub(job, x->shape.at[2 + i], 1), stride[i]);
    dims[2 + i] = dim_add(job, starts, kernel.at[i] - pads[i] - pads[kernel.n + i]);
  }
  Ints inner = shape_make(dims, x->shape.n);
  total = shape_check(n->job, inner, MAX_NUMEL, "result");
  int64_t count = dims_numel(job, x->shape);
  UOp *zero = build_splat(job, build_num(job, x, 0), shape_make(&total, 1));
  idx = build_reshape(job, build_cast(job, idx, DT_I64), shape_make(&count, 1));
  x = build_reshape(job, x, shape_make(&count, 1));
  UOp *y = build_reshape(job, build_scatter(job, zero, idx, x, 0, OP_STORE), inner);
  if (node_has(n, 2)) want = node_sizes(n, 2, "output_shape");
  if (want.at && want.n != inner.n)
    job_abort(job, FAIL(INVALID_ARGUMENT, "output_shape of %u sizes for %u axes", want.n, inner.n));
  for (uint32_t i = 0; i < want.n; i++) { /* cut, or filled up with zeros */
    int64_t size = node_size_bound(n, &want, i, FRONT_DIM_MAX, "output_shape");
    if (dim_low(size) < 0 || dim_low(size) > MAX_NUMEL)
      job_abort(job, FAIL(INVALID_ARGUMENT, "output_shape %s", dim_text(job, size)));
    bool fixed = dim_is_static(size) && dim_is_static(inner.at[i]);
    if (fixed)
      y = build_pad_axis(job, y, i, 0, size - inner.at[i], build_num(job, y, 0));
    else if (size != inner.at[i])
      y = build_gather(job, y, build_arange(job, DT_I64, size), i);
  }
  node_out(n, 0, y);
}

const OnnxOp onnx_scatter_ops[] = {
    {"", "Scatter", 9, 3, 3, op_scatter_elements},
    {"", "ScatterElements", 11, 3, 3, op_scatter_elements},
    {"", "ScatterND", 11, 3, 3, op_scatter_nd},
    {"", "TensorScatter", 24, 2, 3, op_tensor_scatter},
    {"", "MaxUnpool", 9, 2, 3, op_max_unpool},
    {0},
};
