/* Writes at computed positions, as the functional form that a compiler without scatter wants:
 * every element of the result asks which updates name it. The last of several updates of one
 * element wins; with a reduction all of them are combined.
 *
 * Work is the size of the axis times the number of updates along it, in one kernel. Where that is
 * much, and nothing is combined, the updates are sorted by what they name, and every element
 * searches for its own. */
#include "compiler/frontend/build_sort.h"
#include "compiler/frontend/onnx_spatial.h"

static const int64_t SORT_UPDATES = 64, SORT_WORK = 4 << 20;

static bool worth_sorting(const UOp *data, const UOp *idx, const UOp *upd) {
  for (uint32_t i = 0; i < 3; i++)
    if (!dim_is_static(data->shape.at[i]) || !dim_is_static(upd->shape.at[i])) return false;
  bool fits = idx->shape.at[0] == upd->shape.at[0] &&
              (idx->shape.at[2] == 1 || idx->shape.at[2] == upd->shape.at[2]);
  int64_t updates = upd->shape.at[1];
  return fits && updates > SORT_UPDATES && shape_numel(data->shape) > SORT_WORK / updates;
}

/* As scatter without a reduction; idx is [A, U, B] or [A, U, 1]. */
static UOp *scatter_sorted(Node *n, UOp *data, UOp *idx, UOp *upd) {
  Job *job = n->job;
  int64_t A = data->shape.at[0], N = data->shape.at[1], B = data->shape.at[2];
  int64_t u = upd->shape.at[1], b = idx->shape.at[2], count = A * u * b, slots = A * N * b;
  UOp *size = uop_int(job, DT_I64, N), *zero = uop_int(job, DT_I64, 0);
  UOp *key = build2(job, OP_MUL, build_iota(job, DT_I64, 0, idx->shape), size);
  key = build2(job, OP_MUL, build2(job, OP_ADD, key, idx), uop_int(job, DT_I64, b));
  key = build2(job, OP_ADD, key, build_iota(job, DT_I64, 2, idx->shape));
  UOp *in = build2(job, OP_AND, build2(job, OP_CMPLE, zero, idx), build2(job, OP_CMPLT, idx, size));
  key = build_where(job, in, key, uop_int(job, DT_I64, slots));
  key = uop1(job, OP_CONTIGUOUS, build_reshape(job, key, shape_make(&count, 1)));
  UOp *order = build_squeeze(job, build_sort(job, build_unsqueeze(job, key, 0)), 0);
  UOp *sorted = uop1(job, OP_CONTIGUOUS, build_gather(job, key, order, 0));
  UOp *slot = build_arange(job, DT_I64, slots);
  UOp *at =
      build2(job, OP_SUB, build_count_below(job, sorted, slot, false), uop_int(job, DT_I64, 1));
  at = uop1(job, OP_CONTIGUOUS, at);
  /* below the first update there is position -1, where a gather reads 0 */
  UOp *mine = build2(job, OP_CMPEQ, build_gather(job, sorted, at, 0), slot);
  UOp *hit = build2(job, OP_AND, mine, build2(job, OP_CMPLE, zero, at));
  UOp *rows = build_reshape_v(job, upd, 2, count, B / b);
  UOp *value = build_gather(job, rows, build_gather(job, order, at, 0), 0);
  hit = build_reshape_v(job, hit, 3, A, N, b);
  return build_where(job, hit, build_reshape(job, value, data->shape), data);
}

/* data [A, N, B], idx and upd [A, U, B]; idx in [0, N), anything else writes nothing. */
static UOp *scatter(Node *n, UOp *data, UOp *idx, UOp *upd, Str reduction) {
  Job *job = n->job;
  DType d = uop_dtype(data);
  int64_t dims[4] = {data->shape.at[0], data->shape.at[1], upd->shape.at[1], data->shape.at[2]};
  if (uop_dtype(upd) != d)
    job_abort(job, FAIL(INVALID_ARGUMENT, "updates of dtype %s for data of dtype %s",
                        dtype_info[upd->dtype].name, dtype_info[d].name));
  if (!dims[2]) return data;
  if (dtype_is_bool(d)) {
    UOp *wide =
        scatter(n, build_cast(job, data, DT_U8), idx, build_cast(job, upd, DT_U8), reduction);
    return build_cast(job, wide, DT_BOOL);
  }
  if (str_is(reduction, "none") && worth_sorting(data, idx, upd))
    return scatter_sorted(n, data, idx, upd);
  Ints wide = shape_make(dims, 4);
  UOp *i = build_iota(job, DT_I64, 1, wide), *u = build_iota(job, DT_I64, 2, wide);
  UOp *hit = build2(job, OP_CMPEQ, build_unsqueeze(job, idx, 1), i);
  UOp *value = build_unsqueeze(job, upd, 1);
  Op op = OP_ADD;
  if (str_is(reduction, "none")) {
    UOp *no = uop_int(job, DT_I64, -1);
    UOp *last = build_reduce(job, OP_MAX, build_where(job, hit, u, no), axis_bit(2), true);
    UOp *mine = build2(job, OP_CMPEQ, u, last);
    UOp *sum = build_where(job, mine, value, build_num(job, data, 0));
    sum = build_reduce(job, OP_ADD, sum, axis_bit(2), false);
    UOp *written = build2(job, OP_CMPLE, uop_int(job, DT_I64, 0), build_squeeze(job, last, 2));
    return build_where(job, written, sum, data);
  }
  if (str_is(reduction, "mul"))
    op = OP_MUL;
  else if (str_is(reduction, "max"))
    op = OP_MAX;
  else if (str_is(reduction, "min"))
    op = OP_MIN;
  else if (!str_is(reduction, "add"))
    job_abort(job, FAIL(INVALID_ARGUMENT, "unknown reduction '" STR_FMT "'", STR_ARG(reduction)));
  UOp *none = uop_scalar(job, d, reduce_identity(op, d));
  UOp *all = build_reduce(job, op, build_where(job, hit, value, none), axis_bit(2), false);
  return build2(job, op, data, all);
}

static UOp *wrap(Node *n, UOp *idx, int64_t size) {
  idx = build_cast(n->job, idx, DT_I64);
  UOp *up = build2(n->job, OP_ADD, idx, build_size(n->job, size));
  return build_where(n->job, build2(n->job, OP_CMPLT, idx, uop_int(n->job, DT_I64, 0)), up, idx);
}

/* x seen as [before the axis, axis, after it]. */
static UOp *around(Node *n, UOp *x, size_t axis) {
  int64_t dims[3] = {1, x->shape.at[axis], 1};
  for (uint32_t i = 0; i < x->shape.n; i++)
    if (i != axis) dims[i < axis ? 0 : 2] = dim_mul(n->job, dims[i < axis ? 0 : 2], x->shape.at[i]);
  return build_reshape(n->job, x, shape_make(dims, 3));
}

static void op_scatter_elements(Node *n) {
  UOp *x = node_u(n, 0), *idx = node_u(n, 1), *upd = node_u(n, 2);
  size_t axis = axis_check(n->job, attr_int(n, "axis", 0), x->shape.n);
  int64_t pads[2 * MAX_DIMS] = {0};
  bool ok =
      idx->shape.n == x->shape.n && idx->shape.n == upd->shape.n && dtype_is_int(uop_dtype(idx));
  for (uint32_t i = 0; ok && i < x->shape.n; i++) {
    ok = build_may_equal(idx->shape.at[i], upd->shape.at[i]);
    if (!ok) break;
    upd = build_fit(n->job, upd, i, idx->shape.at[i]);
    if (i == axis) continue;
    pads[2 * i + 1] = dim_sub(n->job, x->shape.at[i], idx->shape.at[i]);
    ok = dim_high(pads[2 * i + 1]) >= 0;
    if (!ok || dim_low(pads[2 * i + 1]) >= 0) continue;
    idx = build_fit(n->job, idx, i, x->shape.at[i]); /* may be longer: taken to be equal */
    upd = build_fit(n->job, upd, i, x->shape.at[i]);
    pads[2 * i + 1] = 0;
  }
  if (!ok)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "indices %s and updates %s for data of shape %s",
                           shape_text(n->job, idx->shape), shape_text(n->job, upd->shape),
                           shape_text(n->job, x->shape)));
  idx = build_pad(n->job, wrap(n, idx, x->shape.at[axis]), pads, uop_int(n->job, DT_I64, -1));
  upd = build_pad(n->job, upd, pads, build_num(n->job, upd, 0));
  UOp *y = scatter(n, around(n, x, axis), around(n, idx, axis), around(n, upd, axis),
                   attr_str(n, "reduction", "none"));
  node_out(n, 0, build_reshape(n->job, y, x->shape));
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
  for (int64_t i = k; i-- > 0;) {
    UOp *c = build_squeeze(n->job, build_slice(n->job, idx, q - 1, i, 1, 1), q - 1);
    c = build2(n->job, OP_MUL, wrap(n, c, x->shape.at[i]), build_size(n->job, rows));
    flat = flat ? build2(n->job, OP_ADD, flat, c) : c;
    rows = dim_mul(n->job, rows, x->shape.at[i]);
  }
  UOp *at = build_reshape_v(n->job, flat, 3, (int64_t)1, count, (int64_t)1);
  UOp *data = build_reshape_v(n->job, x, 3, (int64_t)1, rows, rest);
  upd = build_reshape_v(n->job, upd, 3, (int64_t)1, count, rest);
  UOp *y = scatter(n, data, at, upd, attr_str(n, "reduction", "none"));
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
  UOp *at = build_iota(n->job, DT_I64, axis, upd->shape);
  if (start) {
    start = build_fit(n->job, build_cast(n->job, start, DT_I64), 0, x->shape.at[0]);
    start = build_along(n->job, start, 0, x->shape.n);
    at = build2(n->job, OP_ADD, at, start);
  }
  if (circular) at = build2(n->job, OP_FLOORMOD, at, build_size(n->job, x->shape.at[axis]));
  UOp *y = scatter(n, around(n, x, axis), around(n, at, axis), around(n, upd, axis), STR("none"));
  node_out(n, 0, build_reshape(n->job, y, x->shape));
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
  UOp *zero = build_splat(n->job, build_num(n->job, x, 0), shape_make((int64_t[]){1, total, 1}, 3));
  idx = build_reshape_v(n->job, build_cast(n->job, idx, DT_I64), 3, (int64_t)1, count, (int64_t)1);
  x = build_reshape_v(n->job, x, 3, (int64_t)1, count, (int64_t)1);
  UOp *y = build_reshape(n->job, scatter(n, zero, idx, x, STR("none")), inner);
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
