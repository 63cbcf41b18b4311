/* Reads at computed positions. Negative indices count from the end; an index outside reads 0 (the
 * IR's GATHER is total), and one that is known at compile time is refused instead. */
#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/elem.h"
#include "compiler/frontend/onnx_node.h"

/* Indices into an axis of n elements, with negative ones wrapped. */
static UOp *wrap(Node *n, UOp *idx, int64_t size) {
  if (dtype_is_uint(uop_dtype(idx))) return idx;
  UOp *neg = build2(n->job, OP_CMPLT, idx, build_num(n->job, idx, 0));
  UOp *up =
      build2(n->job, OP_ADD, idx, build_cast(n->job, build_size(n->job, size), uop_dtype(idx)));
  return build_where(n->job, neg, up, idx);
}

/* Index values that are cheap to know, checked against the axis; NULL when they are not known. A
 * negative one stays as it is when only the run knows the size. */
static const int64_t *known_indices(Node *n, Val *v, int64_t size, bool negative) {
  if (v->dynamic || !shape_is_static(v->shape) || !dtype_is_int(v->dtype)) return NULL;
  int64_t count = shape_numel(v->shape);
  const uint8_t *data = count > FRONT_FOLD ? NULL : val_data(n->f, v);
  if (!data) return NULL;
  int64_t *list = arena_array(&n->job->arena, (size_t)count + 1, sizeof *list);
  for (int64_t i = 0; i < count; i++) {
    int64_t k = data_int(v->dtype, data, i), high = dim_high(size);
    if (k >= high || k < (negative ? -high : 0))
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "index %lld is outside an axis of %s elements",
                             (long long)k, dim_text(n->job, size)));
    list[i] = k < 0 && dim_is_static(size) ? k + size : k;
  }
  return list;
}

/* One or several consecutive elements are a slice. */
static UOp *gather_slice(Node *n, UOp *x, size_t axis, const int64_t *list, Ints shape) {
  int64_t count = shape_numel(shape), dims[MAX_DIMS];
  uint32_t r = 0;
  if (count < 1) return NULL;
  for (int64_t i = 1; i < count; i++)
    if (list[i] != list[0] + i) return NULL;
  int64_t d = x->shape.at[axis], from = list[0] < 0 ? dim_add(n->job, d, list[0]) : list[0];
  if (!dim_le(n->job, 0, from) || !dim_le(n->job, dim_add(n->job, from, count), d)) return NULL;
  for (uint32_t i = 0; i < x->shape.n; i++) {
    if (i != axis) dims[r++] = x->shape.at[i];
    for (uint32_t k = 0; i == axis && k < shape.n; k++) dims[r++] = shape.at[k];
  }
  x = build_slice(n->job, x, axis, from, count, 1);
  return build_reshape(n->job, x, shape_make(dims, r));
}

static void op_gather(Node *n) {
  UOp *x = node_u(n, 0);
  Val *idx = node_in(n, 1);
  size_t axis = axis_check(n->job, attr_int(n, "axis", 0), x->shape.n);
  int64_t size = x->shape.at[axis];
  if (x->shape.n + idx->shape.n > MAX_RANK)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "result of more than %d axes", MAX_RANK));
  const int64_t *list = known_indices(n, idx, size, true);
  if (list) {
    UOp *slice = gather_slice(n, x, axis, list, idx->shape);
    if (slice) {
      node_out(n, 0, slice);
      return;
    }
    idx = val_from_data(n->f, DT_I64, idx->shape, list);
    UOp *at = val_uop(n->f, idx);
    if (!dim_is_static(size)) at = wrap(n, at, size);
    node_out(n, 0, build_gather(n->job, x, at, axis));
    return;
  }
  node_out(n, 0, build_gather(n->job, x, wrap(n, val_uop(n->f, idx), size), axis));
}

/* data[.., idx[..., i, ...], ..]: positions in the flattened data. */
static void op_gather_elements(Node *n) {
  UOp *x = node_u(n, 0), *idx = node_u(n, 1), *flat = NULL;
  size_t axis = axis_check(n->job, attr_int(n, "axis", 0), x->shape.n);
  if (idx->shape.n != x->shape.n || !dtype_is_int(uop_dtype(idx)))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "indices of shape %s (%s) for data of shape %s",
                           shape_text(n->job, idx->shape), dtype_info[idx->dtype].name,
                           shape_text(n->job, x->shape)));
  int64_t stride = 1;
  for (size_t i = x->shape.n; i-- > 0;) {
    if (i != axis && dim_low(idx->shape.at[i]) > dim_high(x->shape.at[i]))
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "indices of shape %s for data of shape %s",
                             shape_text(n->job, idx->shape), shape_text(n->job, x->shape)));
    UOp *c = i == axis ? build_cast(n->job, wrap(n, idx, x->shape.at[i]), DT_I64)
                       : build_iota(n->job, DT_I64, i, idx->shape);
    c = build2(n->job, OP_MUL, c, build_size(n->job, stride));
    flat = flat ? build2(n->job, OP_ADD, flat, c) : c;
    stride = dim_mul(n->job, stride, x->shape.at[i]);
  }
  x = build_reshape(n->job, x, shape_make(&stride, 1));
  node_out(n, 0, build_gather(n->job, x, flat, 0));
}

/* The last axis of the indices holds a position in the axes after the batch ones. */
static void op_gather_nd(Node *n) {
  UOp *x = node_u(n, 0), *idx = node_u(n, 1), *flat = NULL;
  int64_t batch = attr_int(n, "batch_dims", 0);
  uint32_t r = x->shape.n, q = idx->shape.n;
  bool ok = r && q && dtype_is_int(uop_dtype(idx)) && batch >= 0 && batch < q && batch < r;
  int64_t k = ok ? front_static(n->job, idx->shape.at[q - 1], "the last axis of the indices") : 0;
  for (int64_t i = 0; ok && i < batch; i++) ok = build_may_equal(x->shape.at[i], idx->shape.at[i]);
  if (!ok || k < 1 || k > r - batch || q - 1 + r - batch - k > MAX_RANK)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "indices of shape %s (%s) for data of shape %s",
                           shape_text(n->job, idx->shape), dtype_info[idx->dtype].name,
                           shape_text(n->job, x->shape)));
  for (int64_t i = 0; i < batch; i++) x = build_fit(n->job, x, (size_t)i, idx->shape.at[i]);
  int64_t dims[MAX_DIMS], stride = 1, rows = 1, rest = 1;
  Ints head = {idx->shape.at, q - 1};
  for (int64_t i = batch + k; i < r; i++) rest = dim_mul(n->job, rest, x->shape.at[i]);
  for (int64_t i = batch + k; i-- > 0;) {
    UOp *c;
    if (i >= batch) {
      c = build_slice(n->job, idx, q - 1, i - batch, 1, 1);
      c = build_squeeze(n->job, c, q - 1);
      c = build_cast(n->job, wrap(n, c, x->shape.at[i]), DT_I64);
    } else {
      c = build_iota(n->job, DT_I64, (size_t)i, head);
    }
    c = build2(n->job, OP_MUL, c, build_size(n->job, stride));
    flat = flat ? build2(n->job, OP_ADD, flat, c) : c;
    stride = dim_mul(n->job, stride, x->shape.at[i]);
  }
  rows = stride;
  x = build_reshape_v(n->job, x, 2, rows, rest);
  x = build_gather(n->job, x, flat, 0);
  uint32_t o = 0;
  for (uint32_t i = 0; i < q - 1; i++) dims[o++] = idx->shape.at[i];
  for (int64_t i = batch + k; i < r; i++) dims[o++] = x->shape.n ? n->in[0]->shape.at[i] : 1;
  node_out(n, 0, build_reshape(n->job, x, shape_make(dims, o)));
}

/* off everywhere but on at the index; an index outside [-depth, depth) sets nothing. */
static void op_one_hot(Node *n) {
  UOp *idx = node_u(n, 0), *values = node_u(n, 2);
  Val *v = node_in(n, 1);
  int64_t depth;
  size_t axis = axis_check(n->job, attr_int(n, "axis", -1), (size_t)idx->shape.n + 1);
  if (dims_numel(n->job, v->shape) != 1 || values->shape.n != 1 ||
      !build_may_equal(values->shape.at[0], 2))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "depth of shape %s, values of shape %s, expected [2]",
                           shape_text(n->job, v->shape), shape_text(n->job, values->shape)));
  if (val_data(n->f, v)) {
    depth = (int64_t)node_float(n, 1, "depth");
  } else {
    UOp *d = build_cast(n->job, build_reshape(n->job, node_u(n, 1), (Ints){0}), DT_I64);
    UOp *known = front_elem(n->f, d, NULL);
    depth = known ? dim_of(n->job, known)
                  : front_bind(n->f, d, 0, FRONT_DIM_MAX, node_label(n, "depth"));
  }
  if (dim_low(depth) < 0 || dim_low(depth) > INT32_MAX)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "depth %s", dim_text(n->job, depth)));
  values = build_fit(n->job, values, 0, 2);
  idx = build_unsqueeze(n->job, wrap(n, build_cast(n->job, idx, DT_I64), depth), axis);
  UOp *at = build_along(n->job, build_arange(n->job, DT_I64, depth), axis, idx->shape.n);
  UOp *off = build_reshape(n->job, build_slice(n->job, values, 0, 0, 1, 1), (Ints){0});
  UOp *on = build_reshape(n->job, build_slice(n->job, values, 0, 1, 1, 1), (Ints){0});
  node_out(n, 0, build_where(n->job, build2(n->job, OP_CMPEQ, idx, at), on, off));
}

/* The first lens[b] elements of each row of the time axis, backwards; the rest as they are. */
static void op_reverse_sequence(Node *n) {
  UOp *x = node_u(n, 0), *lens = node_u(n, 1);
  size_t batch = axis_check(n->job, attr_int(n, "batch_axis", 1), x->shape.n);
  size_t time = axis_check(n->job, attr_int(n, "time_axis", 0), x->shape.n);
  if (x->shape.n < 2 || batch == time || lens->shape.n != 1 ||
      !build_may_equal(lens->shape.at[0], x->shape.at[batch]) || !dtype_is_int(uop_dtype(lens)))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "lengths of shape %s for data of shape %s",
                           shape_text(n->job, lens->shape), shape_text(n->job, x->shape)));
  lens = build_fit(n->job, lens, 0, x->shape.at[batch]);
  lens = build_along(n->job, build_cast(n->job, lens, DT_I64), batch, x->shape.n);
  UOp *t = build_iota(n->job, DT_I64, time, x->shape), *one = uop_int(n->job, DT_I64, 1);
  UOp *back = build2(n->job, OP_SUB, build2(n->job, OP_SUB, lens, one), t), *flat = NULL;
  UOp *from = build_where(n->job, build2(n->job, OP_CMPLT, t, lens), back, t);
  int64_t stride = 1;
  for (size_t i = x->shape.n; i-- > 0;) {
    UOp *c = i == time ? from : build_iota(n->job, DT_I64, i, x->shape);
    c = build2(n->job, OP_MUL, c, build_size(n->job, stride));
    flat = flat ? build2(n->job, OP_ADD, flat, c) : c;
    stride = dim_mul(n->job, stride, x->shape.at[i]);
  }
  node_out(n, 0, build_gather(n->job, build_reshape(n->job, x, shape_make(&stride, 1)), flat, 0));
}

const OnnxOp onnx_index_ops[] = {
    {"", "Gather", 1, 2, 2, op_gather},
    {"", "GatherElements", 11, 2, 2, op_gather_elements},
    {"", "GatherND", 11, 2, 2, op_gather_nd},
    {"", "OneHot", 9, 3, 3, op_one_hot},
    {"", "ReverseSequence", 10, 2, 2, op_reverse_sequence},
    {0},
};
