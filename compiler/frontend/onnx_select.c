/* Ops whose result is as long as their data says: NonZero, Compress, Unique, TopK with a computed
 * k.
 *
 * The size is computed first and bound to a VAR; then every element of the result finds its source:
 * the k-th chosen one by searching the prefix sums of the choice, or through a sort. What is known
 * at compile time is computed there. */
#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/build_sort.h"
#include "compiler/frontend/onnx_node.h"

static UOp *i64(Node *n, int64_t v) { return uop_int(n->job, DT_I64, v); }
static UOp *two(Node *n, Op op, UOp *a, UOp *b) { return build2(n->job, op, a, b); }

static UOp *flat(Node *n, UOp *x) {
  int64_t count = dims_numel(n->job, x->shape);
  return build_reshape(n->job, x, shape_make(&count, 1));
}

/* Positions where an i64 vector of 0 and 1 is 1. */
static UOp *chosen(Node *n, UOp *on, int64_t max) {
  UOp *sum = build_reduce(n->job, OP_ADD, on, axis_bit(0), false);
  int64_t count = front_bind(n->f, sum, 0, max, node_label(n, "number of elements"));
  return build_positions(n->job, build_scan(n->job, OP_ADD, on, 0), count);
}

/* -- NonZero ----------------------------------------------------------------------------------- */

static void known_non_zero(Node *n, const Val *v, const uint8_t *data) {
  int64_t total = shape_numel(v->shape), count = 0;
  uint32_t r = v->shape.n ? v->shape.n : 1;
  int64_t *hits = arena_array(&n->job->arena, (size_t)total + 1, sizeof *hits);
  for (int64_t i = 0; i < total; i++) {
    bool on = dtype_is_float(v->dtype) ? data_float(v->dtype, data, i) != 0
                                       : data_int(v->dtype, data, i) != 0;
    if (on) hits[count++] = i;
  }
  int64_t *out = arena_array(&n->job->arena, (size_t)(count * r) + 1, sizeof *out), stride = 1;
  for (uint32_t a = r; a-- > 0;) {
    int64_t d = v->shape.n ? v->shape.at[a] : 1;
    for (int64_t i = 0; i < count; i++) out[a * count + i] = hits[i] / stride % d;
    stride *= d;
  }
  node_out_val(n, 0, val_from_data(n->f, DT_I64, shape_make((int64_t[]){r, count}, 2), out));
}

/* Positions of the elements that are not 0: one row per axis. */
static void op_non_zero(Node *n) {
  Job *job = n->job;
  Val *v = node_in(n, 0);
  const uint8_t *data = val_data(n->f, v);
  if (data) {
    known_non_zero(n, v, data);
    return;
  }
  UOp *x = node_u(n, 0), *rows[MAX_DIMS];
  int64_t total = dims_numel(job, x->shape), stride = 1;
  uint32_t r = x->shape.n ? x->shape.n : 1;
  UOp *on = build2(job, OP_CMPNE, flat(n, x), build_num(job, x, 0));
  UOp *at = chosen(n, build_cast(job, on, DT_I64), dim_high(total));
  for (uint32_t a = r; a-- > 0;) {
    int64_t d = x->shape.n ? x->shape.at[a] : 1;
    UOp *c = two(n, OP_FLOORDIV, at, build_size(job, stride));
    if (a) c = two(n, OP_FLOORMOD, c, build_size(job, d));
    rows[a] = build_unsqueeze(job, c, 0);
    stride = dim_mul(job, stride, d);
  }
  node_out(n, 0, build_cat(job, rows, r, 0));
}

/* -- Compress ---------------------------------------------------------------------------------- */

/* The positions where a condition known at compile time is true. */
static UOp *known_positions(Node *n, const Val *cond, const uint8_t *data, int64_t d) {
  int64_t len = shape_numel(cond->shape), count = 0;
  int64_t *list = arena_array(&n->job->arena, (size_t)len + 1, sizeof *list);
  for (int64_t i = 0; i < len; i++) {
    if (!data_int(cond->dtype, data, i)) continue;
    if (i >= dim_high(d))
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "condition of %lld elements for an axis of %s",
                             (long long)len, dim_text(n->job, d)));
    list[count++] = i;
  }
  return val_uop(n->f, val_from_i64(n->f, list, (size_t)count));
}

/* Elements along an axis, or of the flattened source, where the condition is true. */
static void op_compress(Node *n) {
  UOp *x = node_u(n, 0);
  Val *cond = node_in(n, 1);
  size_t axis = 0;
  if (cond->dtype != DT_BOOL || cond->shape.n != 1)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "condition is %s of shape %s, expected a bool vector",
                           dtype_info[cond->dtype].name, shape_text(n->job, cond->shape)));
  if (attr_has(n, "axis"))
    axis = axis_check(n->job, attr_int(n, "axis", 0), x->shape.n);
  else
    x = flat(n, x);
  int64_t d = x->shape.at[axis], len = cond->shape.at[0];
  const uint8_t *data = val_data(n->f, cond);
  if (data) {
    node_out(n, 0, build_gather(n->job, x, known_positions(n, cond, data, d), axis));
    return;
  }
  int64_t max = dim_high(len) < dim_high(d) ? dim_high(len) : dim_high(d);
  UOp *on = build_cast(n->job, node_u(n, 1), DT_I64);
  node_out(n, 0, build_gather(n->job, x, chosen(n, on, max), axis));
}

/* -- Unique ------------------------------------------------------------------------------------ */

/* One i64 key per slice x[i], ordered as the slices are: the number of slices below it. Compares
 * all pairs, from the first element that differs. */
static UOp *slice_keys(Node *n, UOp *x) {
  Job *job = n->job;
  int64_t d = x->shape.at[0], rest = 1;
  for (uint32_t i = 1; i < x->shape.n; i++) rest = dim_mul(job, rest, x->shape.at[i]);
  UOp *k = build_reshape_v(job, build_sort_key(job, x), 2, d, rest);
  if (rest == 1) return build_squeeze(job, k, 1);
  UOp *a = build_unsqueeze(job, k, 0), *b = build_unsqueeze(job, k, 1); /* [i, j, element] */
  UOp *weight = two(n, OP_SUB, build_size(job, rest), build_arange(job, DT_I64, rest));
  weight = build_along(job, two(n, OP_MUL, weight, i64(n, 2)), 2, 3);
  UOp *below = build_cast(job, build2(job, OP_CMPLT, a, b), DT_I64);
  UOp *found =
      build_where(job, build2(job, OP_CMPNE, a, b), two(n, OP_ADD, weight, below), i64(n, 0));
  found = build_reduce(job, OP_MAX, found, axis_bit(2), false);
  found = two(n, OP_AND, two(n, OP_MAX, found, i64(n, 0)), i64(n, 1));
  return build_reduce(job, OP_ADD, found, axis_bit(1), false);
}

typedef struct Groups {
  UOp *first;   /* [groups]: the first position of each group's value */
  UOp *counts;  /* [groups] */
  UOp *inverse; /* [n]: the group of each position */
} Groups;

/* Groups of equal keys, in the order of the keys. */
static Groups group(Node *n, UOp *keys) {
  Job *job = n->job;
  int64_t d = keys->shape.at[0];
  UOp *order = build_sort(job, build_unsqueeze(job, keys, 0)), *zero = i64(n, 0), *one = i64(n, 1);
  order = build_squeeze(job, order, 0);
  UOp *sorted = uop1(job, OP_CONTIGUOUS, build_gather(job, keys, order, 0));
  UOp *at = build_arange(job, DT_I64, d), *before = two(n, OP_SUB, at, one);
  UOp *fresh = two(n, OP_CMPNE, sorted, build_gather(job, sorted, before, 0));
  fresh = two(n, OP_OR, fresh, two(n, OP_CMPEQ, at, zero));
  fresh = build_cast(job, fresh, DT_I64);
  UOp *sum = build_reduce(job, OP_ADD, fresh, axis_bit(0), false);
  int64_t low = dim_low(d) > 0,
          count = front_bind(n->f, sum, low, dim_high(d), node_label(n, "number of values"));
  UOp *prefix = build_scan(job, OP_ADD, fresh, 0);
  UOp *start = uop1(job, OP_CONTIGUOUS, build_positions(job, prefix, count));
  UOp *next = two(n, OP_ADD, build_arange(job, DT_I64, count), one);
  UOp *end = build_where(job, two(n, OP_CMPLT, next, build_size(job, count)),
                         build_gather(job, start, next, 0), build_size(job, d));
  Groups g = {.first = build_gather(job, order, start, 0), .counts = two(n, OP_SUB, end, start)};
  UOp *place = build_count_below(job, sorted, keys, true);
  g.inverse = two(n, OP_SUB, build_gather(job, prefix, place, 0), one);
  return g;
}

/* The same groups in the order in which their values occur. */
static Groups by_occurrence(Node *n, const Groups *g) {
  Job *job = n->job;
  UOp *inverse = uop1(job, OP_CONTIGUOUS, g->inverse);
  UOp *first = uop1(job, OP_CONTIGUOUS, g->first);
  UOp *mine = build_gather(job, first, inverse, 0);
  UOp *at = build_iota(job, DT_I64, 0, inverse->shape);
  UOp *on = build_cast(job, two(n, OP_CMPEQ, mine, at), DT_I64);
  UOp *prefix = build_scan(job, OP_ADD, on, 0);
  UOp *list = build_positions(job, prefix, first->shape.at[0]);
  UOp *old = build_gather(job, inverse, list, 0);
  return (Groups){.first = list,
                  .counts = build_gather(job, g->counts, old, 0),
                  .inverse = two(n, OP_SUB, build_gather(job, prefix, mine, 0), i64(n, 1))};
}

static void op_unique(Node *n) {
  Job *job = n->job;
  UOp *x = node_u(n, 0);
  size_t axis = 0;
  if (attr_has(n, "axis"))
    axis = axis_check(job, attr_int(n, "axis", 0), x->shape.n);
  else
    x = flat(n, x);
  UOp *rows = build_transpose(job, x, 0, axis);
  Groups g = group(n, uop1(job, OP_CONTIGUOUS, slice_keys(n, rows)));
  if (!attr_int(n, "sorted", 1)) g = by_occurrence(n, &g);
  node_out(n, 0, build_gather(job, x, g.first, axis));
  node_out(n, 1, g.first);
  node_out(n, 2, g.inverse);
  node_out(n, 3, g.counts);
}

/* -- TopK -------------------------------------------------------------------------------------- */

/* By sorting: rows of the axis, then the first k of each. */
static void top_k(Node *n, UOp *x, size_t axis, int64_t k, bool largest) {
  Job *job = n->job;
  size_t last = x->shape.n - 1;
  int64_t dims[MAX_DIMS], rows = 1, d = x->shape.at[axis];
  x = build_transpose(job, x, axis, last);
  for (size_t i = 0; i < last; i++) {
    dims[i] = x->shape.at[i];
    rows = dim_mul(job, rows, dims[i]);
  }
  dims[last] = k;
  UOp *table = build_reshape_v(job, x, 2, rows, d), *key = build_sort_key(job, table);
  if (largest) key = two(n, OP_SUB, i64(n, -1), key);
  bool pays = build_sort_pays(key);
  UOp *at = pays ? build_top_few(job, table, k, largest) : NULL;
  if (pays) key = uop1(job, OP_CONTIGUOUS, key);
  if (!at) at = build_slice(job, build_sort(job, key), 1, 0, k, 1);
  UOp *value = build_reshape(job, build_take(job, table, at), shape_make(dims, last + 1));
  at = build_reshape(job, at, shape_make(dims, last + 1));
  node_out(n, 0, build_transpose(job, value, axis, last));
  node_out(n, 1, build_transpose(job, at, axis, last));
}

/* The k first in order along an axis. */
static void op_top_k(Node *n) {
  UOp *x = node_u(n, 0);
  size_t axis = axis_check(n->job, attr_int(n, "axis", -1), x->shape.n);
  int64_t d = x->shape.at[axis], k = attr_int(n, "k", 0);
  bool largest = attr_int(n, "largest", 1) != 0;
  if (n->opset >= 10) {
    NodeSizes s = node_sizes(n, 1, "k");
    if (s.n != 1) job_abort(n->job, FAIL(INVALID_ARGUMENT, "%u numbers for k", s.n));
    k = node_size_bound(n, &s, 0, dim_high(d), "k");
  } else {
    attr_need_int(n, "k");
  }
  if (dim_low(k) < 0 || dim_low(k) > dim_high(d))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "k = %s of an axis of %s", dim_text(n->job, k),
                           dim_text(n->job, d)));
  if (!dim_le(n->job, k, d))
    front_require(n->job, two(n, OP_CMPLE, build_size(n->job, k), build_size(n->job, d)),
                  node_label(n, "k is larger than the axis"));
  top_k(n, x, axis, k, largest);
}

const OnnxOp onnx_select_ops[] = {
    {"", "NonZero", 9, 1, 1, op_non_zero},
    {"", "Compress", 9, 2, 2, op_compress},
    {"", "Unique", 11, 1, 1, op_unique},
    {"", "TopK", 1, 1, 2, op_top_k},
    {0},
};
