/* Access to a node's sources and attributes, with the checks that every handler would repeat. */
#include "compiler/frontend/onnx_node.h"

#include "compiler/frontend/elem.h"

Val *node_val(Node *n, size_t k) {
  if (!node_has(n, k)) job_abort(n->job, FAIL(INVALID_ARGUMENT, "source %zu is missing", k));
  return n->in[k];
}

Val *node_in(Node *n, size_t k) {
  Val *v = node_val(n, k);
  if (v->kind != VAL_TENSOR)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source %zu ('" STR_FMT "') is %s, expected a tensor",
                           k, STR_ARG(n->proto->input.at[k]),
                           v->kind == VAL_SEQUENCE ? "a sequence" : "an optional without a value"));
  return v;
}

UOp *node_u(Node *n, size_t k) { return val_uop(n->f, node_in(n, k)); }

UOp *node_opt(Node *n, size_t k) { return node_has(n, k) ? node_u(n, k) : NULL; }

static const uint8_t *known(Node *n, size_t k, const char *what) {
  Val *v = node_in(n, k);
  const uint8_t *data = val_data(n->f, v);
  if (!data)
    job_abort(n->job, FAIL(FAILED_PRECONDITION,
                           "source %zu (%s, '" STR_FMT
                           "') has to be known at compile time, but depends on an input",
                           k, what, STR_ARG(n->proto->input.at[k])));
  return data;
}

/* A number that no arithmetic on sizes can take for a handle, or overflow. */
static int64_t tame(int64_t v) {
  const int64_t limit = (int64_t)1 << 60;
  return v < -limit ? -limit : v > limit ? limit : v;
}

static int64_t list_length(Node *n, size_t k, const char *what) {
  Val *v = node_in(n, k);
  if (dtype_is_float(v->dtype) || v->shape.n > 1)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source %zu (%s) is %s of shape %s, expected integers",
                           k, what, dtype_info[v->dtype].name, shape_text(n->job, v->shape)));
  int64_t len = front_static(n->job, dims_numel(n->job, v->shape), "the number of integers");
  if (len > FRONT_FOLD)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source %zu (%s) has %lld elements, at most %d", k,
                           what, (long long)len, FRONT_FOLD));
  return len;
}

NodeSizes node_sizes(Node *n, size_t k, const char *what) {
  int64_t len = list_length(n, k, what);
  Val *v = node_in(n, k);
  NodeSizes s = {.n = (uint32_t)len};
  const uint8_t *data = val_data(n->f, v);
  s.at = arena_array(&n->job->arena, (size_t)len + 1, sizeof *s.at);
  s.value = arena_array(&n->job->arena, (size_t)len + 1, sizeof(UOp *));
  for (int64_t i = 0; i < len; i++) {
    UOp *x = data ? NULL : front_elem(n->f, val_uop(n->f, v), &i);
    if (data) {
      s.at[i] = tame(data_int(v->dtype, data, i));
    } else if (x) {
      s.at[i] = uop_is_const(x) ? x->arg.i : dim_of(n->job, x);
      if (uop_is_const(x) || dim_is_static(s.at[i])) s.at[i] = tame(s.at[i]);
    } else {
      x = v->u;
      if (x->shape.n) x = build_squeeze(n->job, build_slice(n->job, x, 0, i, 1, 1), 0);
      s.value[i] = build_cast(n->job, x, DT_I64);
    }
  }
  return s;
}

NodeSizes node_size_list(Node *n, Ints list) {
  NodeSizes s = {.n = list.n};
  s.at = arena_array(&n->job->arena, (size_t)list.n + 1, sizeof *s.at);
  s.value = arena_array(&n->job->arena, (size_t)list.n + 1, sizeof(UOp *));
  for (uint32_t i = 0; i < list.n; i++) s.at[i] = list.at[i];
  return s;
}

UOp *node_size_value(Node *n, const NodeSizes *s, uint32_t i) {
  return s->value[i] ? s->value[i] : build_size(n->job, s->at[i]);
}

int64_t node_size_bound(Node *n, const NodeSizes *s, uint32_t i, int64_t max, const char *what) {
  if (!s->value[i]) return s->at[i];
  return front_bind(n->f, s->value[i], 0, max, node_label(n, what));
}

const char *node_label(Node *n, const char *what) {
  Str name = n->proto->name;
  if (!name.len && n->proto->output.n) name = n->proto->output.at[0];
  return arena_printf(&n->job->arena, "node '" STR_FMT "' (" STR_FMT "): %s", STR_ARG(name),
                      STR_ARG(n->proto->op_type), what);
}

Ints node_ints(Node *n, size_t k, const char *what) {
  NodeSizes s = node_sizes(n, k, what);
  for (uint32_t i = 0; i < s.n; i++)
    if (s.value[i] || !dim_is_static(s.at[i])) known(n, k, what);
  return shape_make(s.at, s.n);
}

int64_t node_int(Node *n, size_t k, const char *what) {
  Ints v = node_ints(n, k, what);
  if (v.n != 1)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "source %zu (%s) has %u elements, expected 1", k, what, v.n));
  return v.at[0];
}

double node_float(Node *n, size_t k, const char *what) {
  Val *v = node_in(n, k);
  if (dims_numel(n->job, v->shape) != 1)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "source %zu (%s) has shape %s, expected one element",
                           k, what, shape_text(n->job, v->shape)));
  if (!dtype_is_float(v->dtype)) return (double)node_int(n, k, what);
  return data_float(v->dtype, known(n, k, what), 0);
}

/* -- attributes ------------------------------------------------------------------------------ */

static const char *attr_type_name(int64_t type) {
  static const char *const names[] = {"nothing",  "a float", "an integer", "a string",
                                      "a tensor", "a graph", "floats",     "integers",
                                      "strings",  "tensors", "graphs",     "a sparse tensor"};
  return type >= 0 && type < 12 ? names[type] : "something else";
}

const OnnxAttribute *attr_find(Node *n, const char *name, int type) {
  for (size_t i = 0; i < n->proto->attribute.n; i++) {
    const OnnxAttribute *a = &n->proto->attribute.at[i];
    if (!str_is(a->name, name)) continue;
    bool present = type == ONNX_ATTR_TENSOR  ? a->t != NULL
                   : type == ONNX_ATTR_GRAPH ? !!a->g
                                             : true;
    if (a->type == type && present) return a;
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute '%s' holds %s, expected %s", name,
                           attr_type_name(a->type), attr_type_name(type)));
  }
  return NULL;
}

bool attr_has(Node *n, const char *name) {
  for (size_t i = 0; i < n->proto->attribute.n; i++)
    if (str_is(n->proto->attribute.at[i].name, name)) return true;
  return false;
}

int64_t attr_int(Node *n, const char *name, int64_t absent) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_INT);
  return a ? tame(a->i) : absent;
}

double attr_float(Node *n, const char *name, double absent) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_FLOAT);
  return a ? (double)a->f : absent;
}

Str attr_str(Node *n, const char *name, const char *absent) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_STRING);
  return a ? a->s : str_from(absent);
}

Ints attr_ints(Node *n, const char *name) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_INTS);
  if (!a) return (Ints){0};
  if (a->ints.n > FRONT_FOLD)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute '%s' has %zu elements", name, a->ints.n));
  int64_t *list = arena_array(&n->job->arena, a->ints.n + 1, sizeof *list);
  for (size_t i = 0; i < a->ints.n; i++) list[i] = tame(a->ints.at[i]);
  return shape_make(list, a->ints.n);
}

int64_t attr_need_int(Node *n, const char *name) {
  if (!attr_has(n, name))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute '%s' is missing", name));
  return attr_int(n, name, 0);
}

uint32_t node_axes(Node *n, size_t k, int64_t since, size_t rank, bool *given) {
  uint32_t bits = 0;
  Ints axes = {0};
  if (n->opset >= since) {
    if (node_has(n, k)) axes = node_ints(n, k, "axes");
  } else {
    axes = attr_ints(n, "axes");
  }
  *given = axes.n > 0;
  for (uint32_t i = 0; i < axes.n; i++) {
    uint32_t bit = axis_bit(axis_check(n->job, axes.at[i], rank));
    if (bits & bit)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "axis %lld occurs twice", (long long)axes.at[i]));
    bits |= bit;
  }
  return bits;
}

UOp **node_late_axes(Node *n, size_t k, int64_t since, size_t rank, uint32_t *count) {
  Job *job = n->job;
  bool late = false;
  if (n->opset < since || !node_has(n, k)) return NULL;
  NodeSizes list = node_sizes(n, k, "axes");
  for (uint32_t i = 0; i < list.n; i++) late = late || list.value[i];
  *count = list.n;
  if (!late) return NULL;
  UOp **on = arena_array(&job->arena, rank + 1, sizeof *on);
  UOp *r = uop_int(job, DT_I64, (int64_t)rank), *zero = uop_int(job, DT_I64, 0);
  for (size_t a = 0; a < rank; a++) {
    on[a] = uop_int(job, DT_BOOL, 0);
    for (uint32_t i = 0; i < list.n; i++) {
      UOp *v = node_size_value(n, &list, i);
      v = build_where(job, build2(job, OP_CMPLT, v, zero), build2(job, OP_ADD, v, r), v);
      UOp *here = build2(job, OP_CMPEQ, v, uop_int(job, DT_I64, (int64_t)a));
      on[a] = build2(job, OP_OR, on[a], here);
    }
  }
  return on;
}

void node_sizes_of_others(Node *n, const UOp *x, UOp *const *on, uint32_t count, int64_t *dims) {
  Job *job = n->job;
  int64_t r = x->shape.n, high = 1;
  for (int64_t i = 0; i < r; i++)
    if (dim_high(x->shape.at[i]) > high) high = dim_high(x->shape.at[i]);
  if (count > r) job_abort(job, FAIL(INVALID_ARGUMENT, "%u axes of %lld", count, (long long)r));
  for (int64_t o = 0; o < r - count; o++) {
    UOp *size = uop_int(job, DT_I64, 0), *before = size;
    for (int64_t a = 0; a < r; a++) {
      UOp *stays = build_not(job, on[a]);
      UOp *turn = build2(job, OP_CMPEQ, before, uop_int(job, DT_I64, o));
      UOp *here = build2(job, OP_AND, stays, turn);
      size = build_where(job, here, build_size(job, x->shape.at[a]), size);
      before = build2(job, OP_ADD, before, build_cast(job, stays, DT_I64));
    }
    dims[o] = front_bind(n->f, size, 0, high, node_label(n, "size"));
  }
}

/* -- results --------------------------------------------------------------------------------- */

static bool any_dynamic(const Node *n) {
  for (size_t i = 0; i < n->nin; i++)
    if (n->in[i] && n->in[i]->dynamic) return true;
  return false;
}

void node_out_val(Node *n, size_t k, Val *v) {
  if (k < n->nout) n->out[k] = v;
}

void node_out(Node *n, size_t k, UOp *u) {
  if (!node_wants(n, k)) return;
  if (u->shape.n > MAX_RANK)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "result of rank %u, at most %d", u->shape.n, MAX_RANK));
  int64_t item = dtype_info[u->dtype].bytes;
  shape_check(n->job, u->shape, MAX_TENSOR / item, "result");
  Val *v = val_from_uop(n->f, u, any_dynamic(n) || u->symbolic);
  if (!v->dynamic) val_fold(n->f, v);
  n->out[k] = v;
}

UOp *node_centred(Node *n, UOp *x, UOp *zero) {
  x = build_cast(n->job, x, DT_I32);
  return zero ? build2(n->job, OP_SUB, x, build_cast(n->job, zero, DT_I32)) : x;
}
