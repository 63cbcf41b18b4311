/* Sequences and optionals. Both are values of the frontend: a sequence is a list of tensors, so
 * inserting, erasing and mapping change lists and leave no node behind. Positions and lengths are
 * therefore known at compile time; only SequenceAt may take a position that depends on an input,
 * when the elements are of one shape. */
#include "compiler/frontend/onnx_graph.h"

enum { MAX_ITEMS = 1 << 16 };

static Val *sequence(Node *n, size_t k) {
  Val *v = node_val(n, k);
  if (v->kind != VAL_SEQUENCE)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source %zu ('" STR_FMT "') is not a sequence", k,
                           STR_ARG(n->proto->input.at[k])));
  return v;
}

static void put_scalar(Node *n, DType dtype, int64_t v) {
  int64_t *data = arena_copy(&n->job->arena, &v, sizeof v);
  node_out_val(n, 0, val_from_data(n->f, dtype, (Ints){0}, data));
}

/* The k-th source as a position in [0, n), or [0, n] when `end`; `absent` when there is none. */
static size_t position(Node *n, size_t k, size_t count, bool end, int64_t absent) {
  int64_t len = (int64_t)count, at = node_has(n, k) ? node_int(n, k, "position") : absent;
  if (at < 0 && node_has(n, k)) at += len;
  if (at < 0 || at > len || (at == len && !end))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "position %lld of a sequence of %lld tensors",
                           (long long)at, (long long)len));
  return (size_t)at;
}

static void check_item(Node *n, const Val *seq, const Val *item) {
  if (item->dtype != seq->dtype)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "a tensor of %s in a sequence of %s",
                           dtype_info[item->dtype].name, dtype_info[seq->dtype].name));
}

static void op_empty(Node *n) {
  DType d = onnx_dtype(n->job, attr_int(n, "dtype", ONNX_FLOAT));
  node_out_val(n, 0, val_sequence(n->f, d, NULL, 0));
}

static void op_construct(Node *n) {
  Val **items = arena_array(&n->job->arena, n->nin, sizeof *items);
  for (size_t i = 0; i < n->nin; i++) items[i] = node_in(n, i);
  for (size_t i = 1; i < n->nin; i++) check_item(n, items[0], items[i]);
  node_out_val(n, 0, val_sequence(n->f, items[0]->dtype, items, n->nin));
}

static void op_insert(Node *n) {
  Val *s = sequence(n, 0), *item = node_in(n, 1);
  size_t at = position(n, 2, s->nitems, true, (int64_t)s->nitems);
  if (s->nitems) check_item(n, s, item);
  if (s->nitems >= MAX_ITEMS)
    job_abort(n->job, FAIL(RESOURCE_EXHAUSTED, "a sequence of more than %d tensors", MAX_ITEMS));
  Val **items = arena_array(&n->job->arena, s->nitems + 1, sizeof *items);
  for (size_t i = 0; i <= s->nitems; i++)
    items[i] = i < at ? s->items[i] : i == at ? item : s->items[i - 1];
  node_out_val(n, 0, val_sequence(n->f, item->dtype, items, s->nitems + 1));
}

static void op_erase(Node *n) {
  Val *s = sequence(n, 0);
  size_t at = position(n, 1, s->nitems, false, (int64_t)s->nitems - 1);
  Val **items = arena_array(&n->job->arena, s->nitems, sizeof *items);
  for (size_t i = 0; i + 1 < s->nitems; i++) items[i] = s->items[i < at ? i : i + 1];
  node_out_val(n, 0, val_sequence(n->f, s->dtype, items, s->nitems - 1));
}

/* Elements of one shape, picked by a position that depends on an input. */
static bool gather_item(Node *n, const Val *s, Val *at) {
  if (!at->dynamic || !s->nitems || !dtype_is_int(at->dtype) || dims_numel(n->job, at->shape) != 1)
    return false;
  UOp **items = arena_array(&n->job->arena, s->nitems, sizeof *items);
  for (size_t i = 0; i < s->nitems; i++) {
    UOp *u = val_uop(n->f, s->items[i]);
    if (!shape_eq(u->shape, s->items[0]->shape)) return false;
    items[i] = build_unsqueeze(n->job, u, 0);
  }
  UOp *k = build_reshape(n->job, build_cast(n->job, val_uop(n->f, at), DT_I64), (Ints){0});
  UOp *up = build2(n->job, OP_ADD, k, uop_int(n->job, DT_I64, (int64_t)s->nitems));
  UOp *neg = build2(n->job, OP_CMPLT, k, uop_int(n->job, DT_I64, 0));
  UOp *all = build_cat(n->job, items, s->nitems, 0);
  node_out(n, 0, build_gather(n->job, all, build_where(n->job, neg, up, k), 0));
  return true;
}

static void op_at(Node *n) {
  Val *s = sequence(n, 0);
  if (gather_item(n, s, node_in(n, 1))) return;
  node_out_val(n, 0, s->items[position(n, 1, s->nitems, false, 0)]);
}

static void op_length(Node *n) { put_scalar(n, DT_I64, (int64_t)sequence(n, 0)->nitems); }

/* The sizes of the parts: a list, or one size for all but a shorter last one. */
static Ints part_sizes(Node *n, int64_t d, bool *drop) {
  int64_t each = 1;
  *drop = false;
  if (!node_has(n, 1)) {
    *drop = !attr_int(n, "keepdims", 1);
  } else if (node_in(n, 1)->shape.n) {
    NodeSizes sizes = node_sizes(n, 1, "split");
    node_part_sizes(n, &sizes, d);
    return shape_make(sizes.at, sizes.n);
  } else {
    each = node_int(n, 1, "split");
  }
  d = front_static(n->job, d, "the axis that is split");
  if (each < 1 || d > MAX_ITEMS * each)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "parts of %lld of an axis of %lld", (long long)each,
                           (long long)d));
  size_t count = (size_t)((d + each - 1) / each);
  int64_t *list = arena_array(&n->job->arena, count + 1, sizeof *list);
  for (size_t i = 0; i < count; i++)
    list[i] = i + 1 < count ? each : d - (int64_t)(count - 1) * each;
  return shape_make(list, count);
}

static void op_split(Node *n) {
  UOp *x = node_u(n, 0);
  size_t axis = axis_check(n->job, attr_int(n, "axis", 0), x->shape.n);
  bool drop;
  Ints sizes = part_sizes(n, front_static(n->job, x->shape.at[axis], "the split axis"), &drop);
  Val **items = arena_array(&n->job->arena, sizes.n, sizeof *items);
  int64_t at = 0;
  for (uint32_t i = 0; i < sizes.n; at = dim_add(n->job, at, sizes.at[i++])) {
    UOp *part = build_slice(n->job, x, axis, at, sizes.at[i], 1);
    items[i] =
        val_from_uop(n->f, drop ? build_squeeze(n->job, part, axis) : part, n->in[0]->dynamic);
    val_fold(n->f, items[i]);
  }
  node_out_val(n, 0, val_sequence(n->f, uop_dtype(x), items, sizes.n));
}

static void op_concat(Node *n) {
  Val *s = sequence(n, 0);
  bool fresh = attr_int(n, "new_axis", 0) != 0;
  if (!s->nitems) job_abort(n->job, FAIL(INVALID_ARGUMENT, "the sequence is empty"));
  UOp **items = arena_array(&n->job->arena, s->nitems, sizeof *items);
  size_t rank = s->items[0]->shape.n + (size_t)fresh;
  size_t axis = axis_check(n->job, attr_need_int(n, "axis"), rank);
  for (size_t i = 0; i < s->nitems; i++) {
    items[i] = val_uop(n->f, s->items[i]);
    if (fresh) items[i] = build_unsqueeze(n->job, items[i], axis);
  }
  node_out(n, 0, build_cat(n->job, items, s->nitems, axis));
}

/* The body once per element of the first source; further sources that are sequences give their
 * element of the same position, tensors are the same every time. */
static void op_map(Node *n) {
  const OnnxAttribute *body = attr_find(n, "body", ONNX_ATTR_GRAPH);
  size_t count = sequence(n, 0)->nitems;
  if (!body || body->g->output.n < n->nout)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "attribute 'body' is missing, or has too few outputs"));
  size_t nout = body->g->output.n;
  Val **args = arena_array(&n->job->arena, n->nin, sizeof *args);
  Val **results = arena_array(&n->job->arena, nout, sizeof *results);
  Val ***lists = arena_array(&n->job->arena, nout, sizeof *lists);
  for (size_t o = 0; o < nout; o++) lists[o] = arena_array(&n->job->arena, count, sizeof(Val *));
  for (size_t k = 0; k < count; k++) {
    for (size_t i = 0; i < n->nin; i++) {
      Val *v = node_val(n, i);
      if (v->kind == VAL_SEQUENCE && v->nitems != count)
        job_abort(n->job,
                  FAIL(INVALID_ARGUMENT, "sequences of %zu and %zu tensors", count, v->nitems));
      args[i] = v->kind == VAL_SEQUENCE ? v->items[k] : v;
    }
    onnx_subgraph(n, body->g, args, n->nin, results);
    for (size_t o = 0; o < nout; o++) {
      if (results[o]->kind != VAL_TENSOR)
        job_abort(n->job, FAIL(INVALID_ARGUMENT, "output %zu of the body is not a tensor", o));
      lists[o][k] = results[o];
    }
  }
  for (size_t o = 0; o < n->nout; o++) {
    DType d = count ? lists[o][0]->dtype : DT_F32;
    node_out_val(n, o, val_sequence(n->f, d, lists[o], count));
  }
}

/* -- optionals ------------------------------------------------------------------------------- */

static void op_optional(Node *n) {
  node_out_val(n, 0, node_has(n, 0) ? node_val(n, 0) : val_none(n->f));
}

static void op_has_element(Node *n) {
  put_scalar(n, DT_BOOL, node_has(n, 0) && node_val(n, 0)->kind != VAL_NONE);
}

static void op_get_element(Node *n) {
  Val *v = node_val(n, 0);
  if (v->kind == VAL_NONE) job_abort(n->job, FAIL(INVALID_ARGUMENT, "the optional has no value"));
  node_out_val(n, 0, v);
}

const OnnxOp onnx_sequence_ops[] = {
    {"", "SequenceEmpty", 11, 0, 0, op_empty},
    {"", "SequenceConstruct", 11, 1, 255, op_construct},
    {"", "SequenceInsert", 11, 2, 3, op_insert},
    {"", "SequenceErase", 11, 1, 2, op_erase},
    {"", "SequenceAt", 11, 2, 2, op_at},
    {"", "SequenceLength", 11, 1, 1, op_length},
    {"", "SplitToSequence", 11, 1, 2, op_split},
    {"", "ConcatFromSequence", 11, 1, 1, op_concat},
    {"", "SequenceMap", 17, 1, 255, op_map},
    {"", "Optional", 15, 0, 1, op_optional},
    {"", "OptionalHasElement", 15, 0, 1, op_has_element},
    {"", "OptionalGetElement", 15, 1, 1, op_get_element},
    {0},
};
