/* kiln.v1.Graph (proto/kiln/v1/graph.proto) to tensor graph.
 *
 * The message is decoded in place, so a Param's data stays where it is. A node is converted when
 * its turn comes: its sources are earlier ones, by number. proto/graph_ops.def says for every op
 * how many sources it has, how many integers, and which function here converts it; docs/graph.md
 * and docs/graph-ops.md are the reference pages for users. */
#include "compiler/frontend/build_nn.h"
#include <stdlib.h>

#include "compiler/frontend/build_scatter.h"
#include "compiler/frontend/build_sort.h"
#include "compiler/frontend/front.h"
#include "compiler/frontend/kgraph_size.h"
#include "compiler/frontend/random.h"
#include "compiler/ir/view.h"
#include "kiln/v1/graph.pb-c.h"
#include "proto/graph_ops.h"
#include "proto/view.h"

typedef struct GNode {
  uint64_t seen;
  int64_t op, dtype;
  VIEW_LIST(int64_t) src;
  VIEW_LIST(int64_t) ints;
  double f;
  int64_t i;
  VIEW_LIST(int64_t) sizes;
} GNode;
typedef struct GDim {
  uint64_t seen;
  int64_t size;
  Str name;
  int64_t min, max, multiple;
} GDim;
typedef struct GParam {
  uint64_t seen; /* PARAM_DATA */
  Str name;
  int64_t dtype;
  VIEW_LIST(GDim) dims;
  Str data;
  int64_t state;
} GParam;
typedef struct GOutput {
  uint64_t seen;
  Str name;
  int64_t node;
} GOutput;
typedef struct GGraph {
  uint64_t seen;
  VIEW_LIST(GNode) nodes;
  VIEW_LIST(GParam) params;
  VIEW_LIST(GOutput) outputs;
  VIEW_LIST(GSize) sizes;
} GGraph;

static const ViewField node_rows[] = {
    VIEW_ROW(GNode, 1, VIEW_INT, false, op, NULL),
    VIEW_ROW(GNode, 2, VIEW_INT, false, dtype, NULL),
    VIEW_ROW(GNode, 3, VIEW_INT, true, src, NULL),
    VIEW_ROW(GNode, 4, VIEW_SINT, true, ints, NULL),
    VIEW_ROW(GNode, 5, VIEW_DOUBLE, false, f, NULL),
    VIEW_ROW(GNode, 6, VIEW_SINT, false, i, NULL),
    VIEW_ROW(GNode, 7, VIEW_INT, true, sizes, NULL),
};
static const ViewMessage node_message = VIEW_TABLE(node_rows, GNode, "Node");
static const ViewField dim_rows[] = {
    VIEW_ROW(GDim, 1, VIEW_INT, false, size, NULL),
    VIEW_ROW(GDim, 2, VIEW_STR, false, name, NULL),
    VIEW_ROW(GDim, 3, VIEW_INT, false, min, NULL),
    VIEW_ROW(GDim, 4, VIEW_INT, false, max, NULL),
    VIEW_ROW(GDim, 5, VIEW_INT, false, multiple, NULL),
};
static const ViewMessage dim_message = VIEW_TABLE(dim_rows, GDim, "Dim");
static const ViewField param_rows[] = {
    VIEW_ROW(GParam, 1, VIEW_STR, false, name, NULL),
    VIEW_ROW(GParam, 2, VIEW_INT, false, dtype, NULL),
    VIEW_ROW(GParam, 3, VIEW_MSG, true, dims, &dim_message),
    VIEW_ROW(GParam, 4, VIEW_STR, false, data, NULL),
    VIEW_ROW(GParam, 5, VIEW_INT, false, state, NULL),
};
enum { PARAM_DATA = 1 << 3 };
static const ViewMessage param_message = VIEW_TABLE(param_rows, GParam, "Param");
static const ViewField output_rows[] = {
    VIEW_ROW(GOutput, 1, VIEW_STR, false, name, NULL),
    VIEW_ROW(GOutput, 2, VIEW_INT, false, node, NULL),
};
static const ViewMessage output_message = VIEW_TABLE(output_rows, GOutput, "GraphOutput");
static const ViewField graph_rows[] = {
    VIEW_ROW(GGraph, 1, VIEW_MSG, true, nodes, &node_message),
    VIEW_ROW(GGraph, 2, VIEW_MSG, true, params, &param_message),
    VIEW_ROW(GGraph, 3, VIEW_MSG, true, outputs, &output_message),
    VIEW_ROW(GGraph, 4, VIEW_MSG, true, sizes, &kgraph_size_message),
};
static const ViewMessage graph_message = VIEW_TABLE(graph_rows, GGraph, "Graph");

/* A parameter that is updated in place. */
typedef struct GState {
  UOp *param, *version; /* before the first, and after the last update so far */
  UOp *update;          /* the last; NULL: none */
} GState;

typedef struct Walk {
  Front front;
  GGraph graph;
  Val **params;
  GState *states; /* by slot */
  UOp **values;   /* by node */
  size_t nvalues; /* of the nodes so far */
  GraphSizes sizes;
  /* By node: the state that it is a view of, else NULL. Its value is a view of the PARAM then, and
   * shows the contents at the time when it is used, not when it was made. */
  GState **shows;
  const char *doing; /* "node 3 (ADD)", for errors */
  TensorGraph *out;
} Walk;

typedef UOp *(*Handler)(Walk *w, const GNode *n, UOp *const *src);
typedef struct GOp {
  const char *name;
  int8_t nsrc;  /* -1: at least one */
  int8_t nints; /* or G_ANY, ... */
  Op op;        /* the elementwise or reduce op of generic handlers */
  Handler fn;
} GOp;

static const GOp *find_op(int64_t op);

/* -- checks ---------------------------------------------------------------------------------- */

static const DType dtypes[] = {
    [KILN__V1__DTYPE__DTYPE_BOOL] = DT_BOOL,
    [KILN__V1__DTYPE__DTYPE_I8] = DT_I8,
    [KILN__V1__DTYPE__DTYPE_I16] = DT_I16,
    [KILN__V1__DTYPE__DTYPE_I32] = DT_I32,
    [KILN__V1__DTYPE__DTYPE_I64] = DT_I64,
    [KILN__V1__DTYPE__DTYPE_U8] = DT_U8,
    [KILN__V1__DTYPE__DTYPE_U16] = DT_U16,
    [KILN__V1__DTYPE__DTYPE_U32] = DT_U32,
    [KILN__V1__DTYPE__DTYPE_U64] = DT_U64,
    [KILN__V1__DTYPE__DTYPE_F16] = DT_F16,
    [KILN__V1__DTYPE__DTYPE_BF16] = DT_BF16,
    [KILN__V1__DTYPE__DTYPE_F32] = DT_F32,
    [KILN__V1__DTYPE__DTYPE_F64] = DT_F64,
    [KILN__V1__DTYPE__DTYPE_F8E4M3FN] = DT_F8E4M3FN,
    [KILN__V1__DTYPE__DTYPE_F8E4M3FNUZ] = DT_F8E4M3FNUZ,
    [KILN__V1__DTYPE__DTYPE_F8E5M2] = DT_F8E5M2,
    [KILN__V1__DTYPE__DTYPE_F8E5M2FNUZ] = DT_F8E5M2FNUZ,
    [KILN__V1__DTYPE__DTYPE_F8E8M0] = DT_F8E8M0,
    [KILN__V1__DTYPE__DTYPE_F4E2M1] = DT_F4E2M1,
    [KILN__V1__DTYPE__DTYPE_I4] = DT_I4,
    [KILN__V1__DTYPE__DTYPE_U4] = DT_U4,
    [KILN__V1__DTYPE__DTYPE_I2] = DT_I2,
    [KILN__V1__DTYPE__DTYPE_U2] = DT_U2,
};

static DType dtype_of(Walk *w, int64_t d) {
  if (d <= 0 || d >= (int64_t)(sizeof dtypes / sizeof *dtypes))
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "%lld is not a dtype", (long long)d));
  return dtypes[d];
}

static Ints ints_of(const GNode *n) {
  static const int64_t none[1] = {0};
  return shape_make(n->ints.n ? n->ints.at : none, n->ints.n);
}

static size_t axis_of(Walk *w, int64_t axis, const UOp *x) {
  return axis_check(w->front.job, axis, x->shape.n);
}

static Ints dims_of(Walk *w, const int64_t *at, size_t n, DType d) {
  if (n > MAX_RANK)
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "rank %zu, at most %d", n, MAX_RANK));
  Ints shape = shape_make(at, n);
  shape_check(w->front.job, shape, MAX_TENSOR / dtype_info[d].bytes, "shape");
  return shape;
}

/* -- state ----------------------------------------------------------------------------------- */

/* A node's value, now. */
static UOp *current(Walk *w, int64_t node) {
  const GState *s = w->shows[node];
  UOp *u = w->values[node];
  if (!s || !s->update) return u;
  return uop_substitute(w->front.job, u, (UOp *[]){s->param}, (UOp *[]){s->version}, 1);
}

static UOp *g_assign(Walk *w, const GNode *n, UOp *const *src) {
  Job *job = w->front.job;
  GState *s = w->shows[n->src.at[0]];
  if (!s) job_abort(job, FAIL(INVALID_ARGUMENT, "the target is not a view of a state"));
  if (!view_param(src[0])) /* a RESHAPE that the run decides may be a GATHER */
    job_abort(job, FAIL(INVALID_ARGUMENT, "the target is reshaped by sizes of the run, and not by "
                                          "splitting or joining dimensions: it is no view"));
  if (!view_is_injective(src[0]))
    job_abort(job, FAIL(INVALID_ARGUMENT, "the target shows an element twice"));
  UOp *value = current(w, n->src.at[1]);
  if (uop_dtype(value) != uop_dtype(src[0]))
    job_abort(job, FAIL(INVALID_ARGUMENT, "the value is %s, the target %s",
                        dtype_info[value->dtype].name, dtype_info[src[0]->dtype].name));
  value = build_expand(job, value, src[0]->shape);
  if (shape_is_static(value->shape) && !shape_numel(value->shape)) return src[0];
  s->update = uop2(job, OP_STORE, current(w, n->src.at[0]), value);
  s->version = uop2(job, OP_AFTER, s->param, s->update);
  return src[0];
}

static int by_creation(const void *a, const void *b) {
  const UOp *x = *(UOp *const *)a, *y = *(UOp *const *)b;
  return x->id < y->id ? -1 : x->id > y->id;
}

static void finish_states(Walk *w) {
  Front *f = &w->front;
  for (size_t k = 0; k < w->graph.params.n; k++)
    if (w->states[k].update) avec_push(&f->job->arena, &f->updates, w->states[k].update);
  if (f->updates.len) qsort(f->updates.at, f->updates.len, sizeof *f->updates.at, by_creation);
}

/* -- handlers -------------------------------------------------------------------------------- */

static UOp *g_param(Walk *w, const GNode *n, UOp *const *src) {
  (void)src;
  int64_t k = n->ints.at[0];
  if (k < 0 || k >= (int64_t)w->graph.params.n)
    job_abort(w->front.job,
              FAIL(INVALID_ARGUMENT, "parameter %lld of %zu", (long long)k, w->graph.params.n));
  return val_uop(&w->front, w->params[k]);
}

static UOp *g_const(Walk *w, const GNode *n, UOp *const *src) {
  (void)src;
  DType d = dtype_of(w, n->dtype);
  return dtype_is_float(d) ? uop_float(w->front.job, d, n->f) : uop_int(w->front.job, d, n->i);
}

static UOp *g_iota(Walk *w, const GNode *n, UOp *const *src) {
  (void)src;
  DType d = dtype_of(w, n->dtype);
  if (dtype_is_bool(d) || n->ints.n < 2)
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "needs an axis, dims and a numeric dtype"));
  Ints shape = dims_of(w, n->ints.at + 1, n->ints.n - 1, d);
  return build_iota(w->front.job, d, axis_check(w->front.job, n->ints.at[0], shape.n), shape);
}

static UOp *g_size(Walk *w, const GNode *n, UOp *const *src) {
  (void)src;
  return build_size(w->front.job, n->ints.at[0]);
}

/* What a -1 stands for: `total` elements over those of the other dims. */
static int64_t inferred(Job *job, const UOp *x, const GNode *n, int64_t known) {
  int64_t rest, total = dims_numel(job, x->shape);
  if (!dim_divides(job, total, known, &rest))
    job_abort(job, FAIL(INVALID_ARGUMENT, "cannot reshape %s to %s", shape_text(job, x->shape),
                        shape_text(job, ints_of(n))));
  return rest;
}

static UOp *g_reshape(Walk *w, const GNode *n, UOp *const *src) {
  Job *job = w->front.job;
  int64_t dims[MAX_RANK], other[MAX_RANK], infer = -1;
  size_t nother = 0;
  if (n->ints.n > MAX_RANK)
    job_abort(job, FAIL(INVALID_ARGUMENT, "rank %zu, at most %d", n->ints.n, MAX_RANK));
  for (size_t i = 0; i < n->ints.n; i++) {
    dims[i] = n->ints.at[i];
    if (dims[i] == -1 && infer < 0)
      infer = (int64_t)i;
    else if (dim_is_static(dims[i]) && dims[i] < 0)
      job_abort(job, FAIL(INVALID_ARGUMENT, "bad shape %s", shape_text(job, ints_of(n))));
    else
      other[nother++] = dims[i];
  }
  if (infer >= 0) {
    int64_t known = shape_check(job, shape_make(other, nother), MAX_NUMEL, "reshape");
    dims[infer] = inferred(job, src[0], n, known);
  }
  return build_reshape(job, src[0], shape_make(dims, n->ints.n));
}

static UOp *g_permute(Walk *w, const GNode *n, UOp *const *src) {
  return build_permute(w->front.job, src[0], ints_of(n).at, n->ints.n);
}

static UOp *g_expand(Walk *w, const GNode *n, UOp *const *src) {
  Ints shape = dims_of(w, ints_of(n).at, n->ints.n, uop_dtype(src[0]));
  return build_expand(w->front.job, src[0], shape);
}

static UOp *g_pad(Walk *w, const GNode *n, UOp *const *src) {
  for (size_t i = 0; i < n->ints.n; i++)
    if (!dim_le(w->front.job, 0, n->ints.at[i]))
      job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "padding %s, which %s negative",
                                   dim_text(w->front.job, n->ints.at[i]),
                                   dim_is_static(n->ints.at[i]) ? "is" : "may be"));
  if (src[1]->shape.n)
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "fill value of shape %s, expected a scalar",
                                 shape_text(w->front.job, src[1]->shape)));
  return build_pad(w->front.job, src[0], ints_of(n).at, src[1]);
}

static UOp *g_shrink(Walk *w, const GNode *n, UOp *const *src) {
  Job *job = w->front.job;
  UOp *x = src[0];
  for (size_t i = 0; i < src[0]->shape.n; i++) {
    int64_t b = n->ints.at[2 * i], e = n->ints.at[2 * i + 1], d = src[0]->shape.at[i];
    if (!dim_le(job, 0, b) || !dim_le(job, b, e) || !dim_le(job, e, d))
      job_abort(job, FAIL(INVALID_ARGUMENT, "range [%s, %s) of axis %zu with %s elements",
                          dim_text(job, b), dim_text(job, e), i, dim_text(job, d)));
    x = build_slice(job, x, i, b, dim_sub(job, e, b), 1);
  }
  return x;
}

static UOp *g_flip(Walk *w, const GNode *n, UOp *const *src) {
  UOp *x = src[0];
  uint32_t seen = 0;
  for (size_t i = 0; i < n->ints.n; i++) {
    size_t axis = axis_of(w, n->ints.at[i], x);
    if (seen & axis_bit(axis))
      job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "axis %zu occurs twice", axis));
    seen |= axis_bit(axis);
    x = build_flip(w->front.job, x, axis);
  }
  return x;
}

static UOp *g_window(Walk *w, const GNode *n, UOp *const *src) {
  const int64_t *v = n->ints.at;
  return build_window(w->front.job, src[0], axis_of(w, v[0], src[0]), v[1], v[2], v[3]);
}

static UOp *g_cat(Walk *w, const GNode *n, UOp *const *src) {
  size_t axis = axis_of(w, n->ints.at[0], src[0]);
  return build_cat(w->front.job, src, n->src.n, axis);
}

static UOp *g_gather(Walk *w, const GNode *n, UOp *const *src) {
  return build_gather(w->front.job, src[0], src[1], axis_of(w, n->ints.at[0], src[0]));
}

static UOp *g_reduce(Walk *w, const GNode *n, UOp *const *src) {
  uint32_t axes = 0;
  for (size_t i = 0; i < n->ints.n; i++) {
    size_t axis = axis_of(w, n->ints.at[i], src[0]);
    if (axes & axis_bit(axis))
      job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "axis %zu occurs twice", axis));
    axes |= axis_bit(axis);
  }
  if (n->i < 0 || n->i > 1)
    job_abort(w->front.job,
              FAIL(INVALID_ARGUMENT, "i is %lld, expected 0 (keep the axes) or 1 (drop them)",
                   (long long)n->i));
  return build_reduce(w->front.job, find_op(n->op)->op, src[0], axes, n->i == 0);
}

static UOp *g_cast(Walk *w, const GNode *n, UOp *const *src) {
  return build_cast(w->front.job, src[0], dtype_of(w, n->dtype));
}

static UOp *g_bitcast(Walk *w, const GNode *n, UOp *const *src) {
  DType d = dtype_of(w, n->dtype), s = uop_dtype(src[0]);
  if (d == s) return src[0];
  if (dtype_info[d].bytes != dtype_info[s].bytes || dtype_is_bool(d) || dtype_is_bool(s))
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "cannot reinterpret %s as %s",
                                 dtype_info[s].name, dtype_info[d].name));
  return uop_make(w->front.job, OP_BITCAST, d, arg_none(), src, 1);
}

static UOp *g_contiguous(Walk *w, const GNode *n, UOp *const *src) {
  (void)n;
  return uop1(w->front.job, OP_CONTIGUOUS, src[0]);
}

static UOp *g_unary(Walk *w, const GNode *n, UOp *const *src) {
  return build1(w->front.job, find_op(n->op)->op, src[0]);
}
static UOp *g_binary(Walk *w, const GNode *n, UOp *const *src) {
  return build2(w->front.job, find_op(n->op)->op, src[0], src[1]);
}
/* Logical for bool, bitwise for integers. */
static UOp *g_not(Walk *w, const GNode *n, UOp *const *src) {
  (void)n;
  DType d = uop_dtype(src[0]);
  if (dtype_is_float(d))
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "NOT of %s", dtype_info[d].name));
  return build2(w->front.job, OP_XOR, src[0], uop_int(w->front.job, d, dtype_is_bool(d) ? 1 : -1));
}
static UOp *g_div(Walk *w, const GNode *n, UOp *const *src) {
  (void)n;
  return build_div(w->front.job, src[0], src[1]);
}
static UOp *g_mod(Walk *w, const GNode *n, UOp *const *src) {
  (void)n;
  Op op = dtype_is_float(uop_dtype(src[0])) ? OP_FMOD : OP_IMOD;
  return build2(w->front.job, op, src[0], src[1]);
}
/* Of floats: floor(a / b), and a - b * floor(a / b). */
static UOp *g_floor_div(Walk *w, const GNode *n, UOp *const *src) {
  Job *job = w->front.job;
  bool rest = n->op == KILN__V1__GRAPH_OP__FLOORMOD;
  if (!dtype_is_float(uop_dtype(src[0])))
    return build2(job, rest ? OP_FLOORMOD : OP_FLOORDIV, src[0], src[1]);
  UOp *q = build1(job, OP_FLOOR, build2(job, OP_FDIV, src[0], src[1]));
  return rest ? build2(job, OP_SUB, src[0], build2(job, OP_MUL, src[1], q)) : q;
}
static UOp *g_where(Walk *w, const GNode *n, UOp *const *src) {
  (void)n;
  return build_where(w->front.job, src[0], src[1], src[2]);
}
static UOp *g_matmul(Walk *w, const GNode *n, UOp *const *src) {
  (void)n;
  return build_matmul(w->front.job, src[0], src[1]);
}

/* [..., n, ...] as rows of n, sorted, and back. */
static UOp *g_argsort(Walk *w, const GNode *n, UOp *const *src) {
  Job *job = w->front.job;
  size_t axis = axis_of(w, n->ints.at[0], src[0]), last = src[0]->shape.n - 1;
  int64_t order[MAX_RANK], back[MAX_RANK];
  if (n->i < 0 || n->i > 1)
    job_abort(job, FAIL(INVALID_ARGUMENT, "i is %lld, expected 0 (ascending) or 1 (descending)",
                        (long long)n->i));
  for (size_t k = 0; k <= last; k++) order[k] = (int64_t)(k < axis ? k : k == last ? axis : k + 1);
  for (size_t k = 0; k <= last; k++) back[order[k]] = (int64_t)k;
  UOp *x = build_permute(job, src[0], order, last + 1), *keys = build_sort_key(job, x);
  if (n->i) {
    int64_t nan = uop_dtype(x) == DT_F64 ? INT64_MAX : INT32_MAX;
    keys = build2(job, OP_SUB, uop_int(job, DT_I64, -1), keys);
    if (dtype_is_float(uop_dtype(x)))
      keys = build_where(job, build2(job, OP_CMPNE, x, x), uop_int(job, DT_I64, nan), keys);
  }
  int64_t size = x->shape.at[last], rows = dims_numel(job, shape_make(x->shape.at, last));
  keys = build_reshape_v(job, keys, 2, rows, size);
  if (build_sort_pays(keys)) keys = uop1(job, OP_CONTIGUOUS, keys);
  UOp *at = build_sort(job, keys);
  return build_permute(job, build_reshape(job, at, x->shape), back, last + 1);
}

static UOp *g_scatter_along(Walk *w, const GNode *n, UOp *const *src) {
  static const Op how[] = {OP_STORE, OP_ADD, OP_MUL, OP_MAX, OP_MIN};
  size_t axis = axis_of(w, n->ints.at[0], src[0]);
  if (n->i < 0 || n->i > 4)
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "i is %lld, expected 0 to 4", (long long)n->i));
  return build_scatter(w->front.job, src[0], src[1], src[2], axis, how[n->i]);
}

static UOp *g_random_key(Walk *w, const GNode *n, UOp *const *src) {
  (void)src;
  if (dtype_of(w, n->dtype) != DT_U32)
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "dtype %s, expected u32",
                                 dtype_info[dtype_of(w, n->dtype)].name));
  return random_run_tensor(&w->front);
}
static UOp *g_random_fold(Walk *w, const GNode *n, UOp *const *src) {
  int64_t v = n->ints.at[0];
  if (v < 0 || v > UINT32_MAX)
    job_abort(w->front.job,
              FAIL(INVALID_ARGUMENT, "%lld, expected a number of 32 bits", (long long)v));
  return random_fold(w->front.job, random_key_of(w->front.job, src[0], 0), (uint32_t)v);
}
static UOp *g_random(Walk *w, const GNode *n, UOp *const *src) {
  Job *job = w->front.job;
  DType d = dtype_of(w, n->dtype);
  if (!n->ints.n) job_abort(job, FAIL(INVALID_ARGUMENT, "needs a stream and dims"));
  RandomKey key = random_key_of(job, src[0], n->ints.at[0]);
  Ints shape = dims_of(w, n->ints.at + 1, n->ints.n - 1, d);
  if (n->op == KILN__V1__GRAPH_OP__RANDOM_BITS) return random_bits(job, key, shape, d);
  bool normal = n->op == KILN__V1__GRAPH_OP__RANDOM_NORMAL;
  return (normal ? random_normal : random_uniform)(job, key, shape, d);
}

static const GOp ops[] = {
#define GRAPH_OP(name_, group_, nsrc_, nints_, dtypes_, result_, ir_, handler_, ints_doc_, doc_)   \
  [KILN__V1__GRAPH_OP__##name_] = {#name_, nsrc_, nints_, OP_##ir_, g_##handler_},
#include "proto/graph_ops.def"
#undef GRAPH_OP
};

static const GOp *find_op(int64_t op) {
  if (op < 0 || op >= (int64_t)(sizeof ops / sizeof *ops) || !ops[op].name) return NULL;
  return &ops[op];
}

/* -- the graph ------------------------------------------------------------------------------- */

static Val *constant_param(Walk *w, const GParam *p, DType d, Ints shape) {
  Job *job = w->front.job;
  if (!shape_is_static(shape))
    job_abort(job, FAIL(INVALID_ARGUMENT, "a constant of shape %s: its dimensions are numbers",
                        shape_text(job, shape)));
  size_t bytes = (size_t)shape_numel(shape) * dtype_info[d].bytes;
  if (p->data.len != bytes)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%zu bytes of data for %s of shape %s, expected %zu",
                        p->data.len, dtype_info[d].name, shape_text(job, shape), bytes));
  const uint8_t *data = (const uint8_t *)p->data.ptr;
  if (dtype_is_bool(d)) {
    uint8_t *clean = arena_alloc(&job->arena, bytes + 1);
    for (size_t i = 0; i < bytes; i++) clean[i] = data[i] != 0;
    data = clean;
  }
  Val *v = val_from_data(&w->front, d, shape, data);
  v->name = p->name;
  return v;
}

static int64_t param_dim(Walk *w, const GParam *p, size_t axis) {
  const GDim *d = &p->dims.at[axis];
  Job *job = w->front.job;
  const DimRange own = {d->min, d->max, d->multiple};
  if (!d->name.len && !dim_is_static(d->size))
    job_abort(job, FAIL(INVALID_ARGUMENT, "dimension %zu is %lld", axis, (long long)d->size));
  if (!d->name.len) return d->size;
  if (d->min < 0 || d->max < d->min || d->max > MAX_NUMEL || d->multiple < 0 ||
      d->multiple > MAX_NUMEL)
    job_abort(job,
              FAIL(INVALID_ARGUMENT, "dimension '" STR_FMT "' in [%lld, %lld], a multiple of %lld",
                   STR_ARG(d->name), (long long)d->min, (long long)d->max, (long long)d->multiple));
  return front_dim(&w->front, p->name, axis, d->name, own);
}

static void add_params(Walk *w) {
  Job *job = w->front.job;
  w->params = arena_array(&job->arena, w->graph.params.n, sizeof *w->params);
  w->states = arena_array(&job->arena, w->graph.params.n, sizeof *w->states);
  for (size_t i = 0; i < w->graph.params.n; i++) {
    const GParam *p = &w->graph.params.at[i];
    int64_t dims[MAX_RANK];
    w->doing = arena_printf(&job->arena, "parameter %zu ('" STR_FMT "')", i, STR_ARG(p->name));
    DType d = dtype_of(w, p->dtype);
    if (p->dims.n > MAX_RANK)
      job_abort(job, FAIL(INVALID_ARGUMENT, "rank %zu, at most %d", p->dims.n, MAX_RANK));
    for (size_t k = 0; k < p->dims.n; k++) dims[k] = param_dim(w, p, k);
    Ints shape = dims_of(w, dims, p->dims.n, d);
    bool constant = p->seen & PARAM_DATA;
    if (!constant && !p->name.len) job_abort(job, FAIL(INVALID_ARGUMENT, "an input needs a name"));
    if (constant && p->state)
      job_abort(job,
                FAIL(INVALID_ARGUMENT, "a state has no data; its buffer is given to each run"));
    w->params[i] =
        constant ? constant_param(w, p, d, shape) : front_input(&w->front, p->name, d, shape);
    if (!p->state) continue;
    w->params[i]->state = true;
    UOp *param = val_uop(&w->front, w->params[i]);
    w->states[param->arg.i] = (GState){.param = param, .version = param};
  }
  w->doing = NULL;
  front_dims_used(&w->front);
}

static void check_counts(Walk *w, const GOp *op, const GNode *n, UOp *const *src) {
  Job *job = w->front.job;
  if (op->nsrc >= 0 ? n->src.n != (size_t)op->nsrc : !n->src.n)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%zu sources, expected %s%d", n->src.n,
                        op->nsrc < 0 ? "at least " : "", op->nsrc < 0 ? 1 : op->nsrc));
  size_t rank = n->src.n ? src[0]->shape.n : 0, want = n->ints.n;
  if (op->nints >= 0) want = (size_t)op->nints;
  if (op->nints == G_AXES) want = rank;
  if (op->nints == G_AXES2) want = 2 * rank;
  if (n->ints.n != want)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%zu integers, expected %zu", n->ints.n, want));
}

/* Of source 0, if that is a state. */
static bool is_view(const GOp *op) {
  return op_info[op->op].flags & OPF_MOVE && op->op != OP_PAD && op->op != OP_CAT &&
         op->op != OP_GATHER;
}

static GState *state_at(Walk *w, const UOp *param) {
  if (param->op != OP_PARAM || param->arg.i >= (int64_t)w->graph.params.n)
    return NULL; /* constant */
  GState *s = &w->states[param->arg.i];
  return s->param == param ? s : NULL;
}

static UOp *value_for_size(void *ctx, int64_t node) {
  Walk *w = ctx;
  if (node < 0 || node >= (int64_t)w->nvalues)
    job_abort(w->front.job, FAIL(INVALID_ARGUMENT, "a size by node %lld, expected an earlier one",
                                 (long long)node));
  return current(w, node);
}

/* The integers with the sizes that stand for some of them. An integer of the message has to be a
 * number: as a dim, one far below 0 would be an address. */
static void resolve_ints(Walk *w, const GOp *op, GNode *n) {
  Job *job = w->front.job;
  bool takes = op->op == OP_RESHAPE || op->op == OP_EXPAND || op->op == OP_PAD ||
               op->op == OP_SHRINK || op->op == OP_IOTA || op->fn == g_size;
  if (n->sizes.n && (!takes || n->sizes.n != n->ints.n))
    job_abort(job, FAIL(INVALID_ARGUMENT, "%zu sizes for %zu integers%s", n->sizes.n, n->ints.n,
                        takes ? "" : " of an op that takes none"));
  for (size_t k = 0; k < n->ints.n; k++)
    if (!dim_is_static(n->ints.at[k]))
      job_abort(job, FAIL(INVALID_ARGUMENT, "integer %zu is %lld", k, (long long)n->ints.at[k]));
  for (size_t k = 0; k < n->sizes.n; k++)
    if (n->sizes.at[k]) n->ints.at[k] = kgraph_size(&w->sizes, n->sizes.at[k] - 1);
}

static void convert_node(Walk *w, size_t i) {
  Job *job = w->front.job;
  GNode *n = &w->graph.nodes.at[i];
  const GOp *op = find_op(n->op);
  w->doing = arena_printf(&job->arena, "node %zu (%s)", i, op ? op->name : "?");
  job_poll(job);
  if (!op) job_abort(job, FAIL(UNIMPLEMENTED, "op %lld is not known", (long long)n->op));
  UOp **src = arena_array(&job->arena, n->src.n, sizeof *src);
  for (size_t k = 0; k < n->src.n; k++) {
    int64_t s = n->src.at[k];
    if (s < 0 || s >= (int64_t)i)
      job_abort(job, FAIL(INVALID_ARGUMENT, "source %zu is node %lld, expected an earlier node", k,
                          (long long)s));
    /* everything but a view, or the target of an update, reads what a state is now */
    src[k] = is_view(op) || op->fn == g_assign ? w->values[s] : current(w, s);
  }
  check_counts(w, op, n, src);
  w->nvalues = i;
  resolve_ints(w, op, n);
  UOp *u = op->fn(w, n, src);
  if (is_view(op) || op->fn == g_assign) w->shows[i] = w->shows[n->src.at[0]];
  if (op->fn == g_param) w->shows[i] = state_at(w, u);
  if (u->shape.n > MAX_RANK)
    job_abort(job, FAIL(INVALID_ARGUMENT, "result of rank %u, at most %d", u->shape.n, MAX_RANK));
  w->values[i] = u;
}

static void convert_graph(Job *job, void *arg) {
  Walk *w = arg;
  static const ViewLimits limits = {.depth = 4, .elements = 16u << 20};
  Status st = view_decode(&job->arena, w->front.model, &graph_message, &limits, &w->graph);
  if (st) job_abort(job, WRAP(st, "not a valid kiln.v1.Graph"));
  size_t n = w->graph.nodes.n;
  add_params(w);
  w->values = arena_array(&job->arena, n, sizeof *w->values);
  w->shows = arena_array(&job->arena, n, sizeof *w->shows);
  size_t nsizes = w->graph.sizes.n;
  w->sizes = (GraphSizes){.front = &w->front,
                          .at = w->graph.sizes.at,
                          .n = nsizes,
                          .dims = arena_array(&job->arena, nsizes, sizeof(int64_t)),
                          .known = arena_alloc(&job->arena, nsizes + 1),
                          .node_value = value_for_size,
                          .ctx = w};
  for (size_t i = 0; i < n; i++) convert_node(w, i);
  w->doing = NULL;
  finish_states(w);
  if (!w->graph.outputs.n && !w->front.updates.len)
    job_abort(job, FAIL(INVALID_ARGUMENT, "the graph has no outputs and updates no state"));
  for (size_t i = 0; i < w->graph.outputs.n; i++) {
    const GOutput *o = &w->graph.outputs.at[i];
    w->doing = arena_printf(&job->arena, "output %zu ('" STR_FMT "')", i, STR_ARG(o->name));
    if (!o->name.len) job_abort(job, FAIL(INVALID_ARGUMENT, "an output needs a name"));
    if (o->node < 0 || o->node >= (int64_t)n)
      job_abort(job, FAIL(INVALID_ARGUMENT, "node %lld of %zu", (long long)o->node, n));
    UOp *u = current(w, o->node);
    shape_check(job, u->shape, MAX_TENSOR / dtype_info[u->dtype].bytes, "output");
    front_output(&w->front, o->name, u);
  }
  front_finish(&w->front, w->out);
}

Status frontend_kgraph(Job *job, Bytes model, const FrontendOptions *options, TensorGraph *out) {
  *out = (TensorGraph){0};
  Walk w = {.front = {.job = job, .model = model, .options = options}, .out = out};
  job->frontend = &w.front;
  Status st = job_run(job, convert_graph, &w);
  job->frontend = NULL;
  if (!st) return NULL;
  strbuf_deinit(&out->constants);
  return w.doing ? WRAP(st, "%s", w.doing) : st;
}
