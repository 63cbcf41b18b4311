/* The graph builder. A graph is its own serialized form, a kiln.v1.Graph that grows by one field
 * per call, because fields of a message may come in any order; nothing is kept per node but the
 * count. proto/graph_ops.def says how many sources and integers an op has. The first mistake is
 * kept in `failed`, and ends the building. */
#include <stdlib.h>

#include "client/c/internal.h"
#include "kiln/v1/graph.pb-c.h"
#include "proto/graph_ops.h"

enum { FIELD_NODE = 1, FIELD_PARAM = 2, FIELD_OUTPUT = 3, FIELD_SIZE = 4 };
enum { MAX_SOURCES = 65536, MAX_PARAM_RANK = 16 };

struct KilnGraph {
  StrBuf bytes;
  Status failed;
  int64_t nnodes, nparams, nsizes, noutputs;
};

typedef struct OpRow {
  const char *name;
  int nsrc, nints;
} OpRow;

static const OpRow rows[] = {
#define GRAPH_OP(name_, group_, nsrc_, nints_, dtypes_, result_, ir_, handler_, ints_doc_, doc_)   \
  [KILN_OP_##name_] = {#name_, nsrc_, nints_},
#include "proto/graph_ops.def"
#undef GRAPH_OP
};
enum { NROWS = sizeof rows / sizeof *rows };

#define GRAPH_OP(name_, group_, nsrc_, nints_, dtypes_, result_, ir_, handler_, ints_doc_, doc_)   \
  _Static_assert((int)KILN_OP_##name_ == (int)KILN__V1__GRAPH_OP__##name_, #name_);
#include "proto/graph_ops.def"
#undef GRAPH_OP
_Static_assert((int)KILN_SIZE_ADD == (int)KILN__V1__SIZE_OP__SIZE_ADD, "size ops");
_Static_assert((int)KILN_SIZE_MAX == (int)KILN__V1__SIZE_OP__SIZE_MAX, "size ops");

/* Takes st: the graph's first mistake. */
static KilnNode refuse(KilnGraph *g, Status st) {
  if (g->failed)
    status_drop(st);
  else
    g->failed = st;
  return KILN_NO_NODE;
}

static void put_varint(StrBuf *b, uint64_t v) {
  for (; v >= 0x80; v >>= 7) strbuf_add(b, (char[]){(char)(v | 0x80)}, 1);
  strbuf_add(b, (char[]){(char)v}, 1);
}

static void append(KilnGraph *g, unsigned field, const ProtobufCMessage *m) {
  size_t n = protobuf_c_message_get_packed_size(m);
  put_varint(&g->bytes, field << 3 | 2);
  put_varint(&g->bytes, n);
  if (!g->bytes.failed && strbuf_reserve(&g->bytes, n))
    g->bytes.len += protobuf_c_message_pack(m, (uint8_t *)g->bytes.ptr + g->bytes.len);
  if (g->bytes.failed) (void)refuse(g, FAIL(RESOURCE_EXHAUSTED, "no memory for the graph"));
}

KilnCode kiln_graph_create(KilnGraph **out, KilnError *err) {
  *out = calloc(1, sizeof **out);
  if (!*out) return error_take(FAIL(RESOURCE_EXHAUSTED, "no memory for a graph"), err);
  return KILN_OK;
}

void kiln_graph_free(KilnGraph *g) {
  if (!g) return;
  strbuf_deinit(&g->bytes);
  status_drop(g->failed);
  free(g);
}

/* -- nodes ------------------------------------------------------------------------------------- */

static Status check_spec(const KilnGraph *g, const KilnNodeSpec *s) {
  const OpRow *op = (unsigned)s->op < NROWS ? &rows[s->op] : NULL;
  if (!op || !op->name) return FAIL(INVALID_ARGUMENT, "%d is not an op", (int)s->op);
  if (op->nsrc >= 0 ? s->nsrc != (size_t)op->nsrc : !s->nsrc || s->nsrc > MAX_SOURCES)
    return FAIL(INVALID_ARGUMENT, "%s of %zu sources, expected %s%d", op->name, s->nsrc,
                op->nsrc < 0 ? "at least " : "", op->nsrc < 0 ? 1 : op->nsrc);
  if (s->nints > KILN_GRAPH_MAX_INTS || (op->nints >= 0 && s->nints != (size_t)op->nints))
    return FAIL(INVALID_ARGUMENT, "%s of %zu integers, expected %s%d", op->name, s->nints,
                op->nints < 0 ? "at most " : "", op->nints < 0 ? KILN_GRAPH_MAX_INTS : op->nints);
  for (size_t k = 0; k < s->nsrc; k++)
    if (s->src[k] < 0 || s->src[k] >= g->nnodes)
      return FAIL(INVALID_ARGUMENT, "source %zu of %s is node %lld of %lld", k, op->name,
                  (long long)s->src[k], (long long)g->nnodes);
  for (size_t k = 0; s->sizes && k < s->nints; k++)
    if (s->sizes[k] < 0 || s->sizes[k] > g->nsizes)
      return FAIL(INVALID_ARGUMENT, "integer %zu of %s is size %lld of %lld", k, op->name,
                  (long long)s->sizes[k], (long long)g->nsizes);
  if (s->dtype && !kiln_dtype_size(s->dtype))
    return FAIL(INVALID_ARGUMENT, "%s: %d is not a dtype", op->name, (int)s->dtype);
  if (g->nnodes >= KILN_GRAPH_MAX_NODES)
    return FAIL(RESOURCE_EXHAUSTED, "a graph of more than %d nodes", KILN_GRAPH_MAX_NODES);
  return NULL;
}

KilnNode kiln_graph_node(KilnGraph *g, const KilnNodeSpec *s) {
  Kiln__V1__Node m = KILN__V1__NODE__INIT;
  uint32_t few[8], sizes[KILN_GRAPH_MAX_INTS], *src = few;
  int64_t ints[KILN_GRAPH_MAX_INTS];
  if (g->failed) return KILN_NO_NODE;
  Status st = check_spec(g, s);
  if (st) return refuse(g, st);
  if (s->nsrc > sizeof few / sizeof *few && !(src = malloc(s->nsrc * sizeof *src)))
    return refuse(g, FAIL(RESOURCE_EXHAUSTED, "no memory for the graph"));
  for (size_t k = 0; k < s->nsrc; k++) src[k] = (uint32_t)s->src[k];
  for (size_t k = 0; k < s->nints; k++) {
    sizes[k] = s->sizes ? (uint32_t)s->sizes[k] : 0;
    ints[k] = sizes[k] ? 0 : s->ints[k];
  }
  m.op = (Kiln__V1__GraphOp)s->op, m.dtype = (Kiln__V1__DType)s->dtype;
  m.src = src, m.n_src = s->nsrc;
  m.ints = ints, m.n_ints = s->nints;
  m.sizes = sizes, m.n_sizes = s->sizes ? s->nints : 0;
  m.f = s->f, m.i = s->i;
  append(g, FIELD_NODE, &m.base);
  if (src != few) free(src);
  return g->failed ? KILN_NO_NODE : g->nnodes++;
}

static KilnNode simple(KilnGraph *g, KilnOp op, const KilnNode *src, size_t nsrc,
                       const int64_t *ints, size_t nints) {
  return kiln_graph_node(
      g, &(KilnNodeSpec){.op = op, .src = src, .nsrc = nsrc, .ints = ints, .nints = nints});
}

KilnNode kiln_graph_op1(KilnGraph *g, KilnOp op, KilnNode x) {
  return simple(g, op, &x, 1, NULL, 0);
}
KilnNode kiln_graph_op2(KilnGraph *g, KilnOp op, KilnNode a, KilnNode b) {
  return simple(g, op, (KilnNode[]){a, b}, 2, NULL, 0);
}
KilnNode kiln_graph_where(KilnGraph *g, KilnNode condition, KilnNode a, KilnNode b) {
  return simple(g, KILN_OP_WHERE, (KilnNode[]){condition, a, b}, 3, NULL, 0);
}
KilnNode kiln_graph_cast(KilnGraph *g, KilnNode x, KilnDType dtype) {
  return kiln_graph_node(g,
                         &(KilnNodeSpec){.op = KILN_OP_CAST, .dtype = dtype, .src = &x, .nsrc = 1});
}
KilnNode kiln_graph_bitcast(KilnGraph *g, KilnNode x, KilnDType dtype) {
  return kiln_graph_node(
      g, &(KilnNodeSpec){.op = KILN_OP_BITCAST, .dtype = dtype, .src = &x, .nsrc = 1});
}
KilnNode kiln_graph_reshape(KilnGraph *g, KilnNode x, size_t n, const int64_t *dims) {
  return simple(g, KILN_OP_RESHAPE, &x, 1, dims, n);
}
KilnNode kiln_graph_expand(KilnGraph *g, KilnNode x, size_t n, const int64_t *dims) {
  return simple(g, KILN_OP_EXPAND, &x, 1, dims, n);
}
KilnNode kiln_graph_permute(KilnGraph *g, KilnNode x, size_t n, const int64_t *order) {
  return simple(g, KILN_OP_PERMUTE, &x, 1, order, n);
}
KilnNode kiln_graph_flip(KilnGraph *g, KilnNode x, size_t n, const int64_t *axes) {
  return simple(g, KILN_OP_FLIP, &x, 1, axes, n);
}
KilnNode kiln_graph_pad(KilnGraph *g, KilnNode x, size_t rank, const int64_t *amounts,
                        KilnNode fill) {
  if (rank > MAX_PARAM_RANK)
    return refuse(g, FAIL(INVALID_ARGUMENT, "PAD of rank %zu, at most %d", rank, MAX_PARAM_RANK));
  return simple(g, KILN_OP_PAD, (KilnNode[]){x, fill}, 2, amounts, 2 * rank);
}
KilnNode kiln_graph_shrink(KilnGraph *g, KilnNode x, size_t rank, const int64_t *bounds) {
  if (rank > MAX_PARAM_RANK)
    return refuse(g,
                  FAIL(INVALID_ARGUMENT, "SHRINK of rank %zu, at most %d", rank, MAX_PARAM_RANK));
  return simple(g, KILN_OP_SHRINK, &x, 1, bounds, 2 * rank);
}
KilnNode kiln_graph_window(KilnGraph *g, KilnNode x, int64_t axis, int64_t size, int64_t stride,
                           int64_t dilation) {
  return simple(g, KILN_OP_WINDOW, &x, 1, (int64_t[]){axis, size, stride, dilation}, 4);
}
KilnNode kiln_graph_cat(KilnGraph *g, size_t n, const KilnNode *src, int64_t axis) {
  return simple(g, KILN_OP_CAT, src, n, &axis, 1);
}
KilnNode kiln_graph_gather(KilnGraph *g, KilnNode x, KilnNode indices, int64_t axis) {
  return simple(g, KILN_OP_GATHER, (KilnNode[]){x, indices}, 2, &axis, 1);
}
KilnNode kiln_graph_scatter(KilnGraph *g, KilnNode x, KilnNode indices, KilnNode updates,
                            int64_t axis, KilnScatter how) {
  const KilnNode src[] = {x, indices, updates};
  return kiln_graph_node(
      g,
      &(KilnNodeSpec){
          .op = KILN_OP_SCATTER_ALONG, .src = src, .nsrc = 3, .ints = &axis, .nints = 1, .i = how});
}
KilnNode kiln_graph_reduce(KilnGraph *g, KilnOp op, KilnNode x, size_t n, const int64_t *axes,
                           int keep) {
  return kiln_graph_node(
      g,
      &(KilnNodeSpec){.op = op, .src = &x, .nsrc = 1, .ints = axes, .nints = n, .i = keep ? 0 : 1});
}

/* -- leaves ------------------------------------------------------------------------------------ */

KilnNode kiln_graph_float(KilnGraph *g, KilnDType dtype, double value) {
  return kiln_graph_node(g, &(KilnNodeSpec){.op = KILN_OP_CONST, .dtype = dtype, .f = value});
}
KilnNode kiln_graph_int(KilnGraph *g, KilnDType dtype, int64_t value) {
  return kiln_graph_node(g, &(KilnNodeSpec){.op = KILN_OP_CONST, .dtype = dtype, .i = value});
}

KilnNode kiln_graph_iota(KilnGraph *g, KilnDType dtype, size_t axis, size_t rank,
                         const int64_t *dims) {
  int64_t ints[MAX_PARAM_RANK + 1] = {(int64_t)axis};
  if (rank > MAX_PARAM_RANK)
    return refuse(g, FAIL(INVALID_ARGUMENT, "IOTA of rank %zu, at most %d", rank, MAX_PARAM_RANK));
  for (size_t k = 0; k < rank; k++) ints[1 + k] = dims[k];
  return kiln_graph_node(
      g, &(KilnNodeSpec){.op = KILN_OP_IOTA, .dtype = dtype, .ints = ints, .nints = rank + 1});
}

/* The parameter and the node that reads it. */
static KilnNode add_param(KilnGraph *g, Kiln__V1__Param *m, const KilnGraphDim *dims, size_t rank) {
  Kiln__V1__Dim at[MAX_PARAM_RANK], *list[MAX_PARAM_RANK];
  if (g->failed) return KILN_NO_NODE;
  if (rank > MAX_PARAM_RANK)
    return refuse(g, FAIL(INVALID_ARGUMENT, "parameter '%s' of rank %zu, at most %d", m->name, rank,
                          MAX_PARAM_RANK));
  if (!kiln_dtype_size((KilnDType)m->dtype))
    return refuse(
        g, FAIL(INVALID_ARGUMENT, "parameter '%s': %d is not a dtype", m->name, (int)m->dtype));
  for (size_t k = 0; k < rank; k++) {
    at[k] = (Kiln__V1__Dim)KILN__V1__DIM__INIT;
    at[k].size = dims[k].size;
    if (dims[k].name) {
      at[k].size = 0, at[k].name = message_text(dims[k].name);
      at[k].min = dims[k].min, at[k].max = dims[k].max, at[k].multiple = dims[k].multiple;
    }
    list[k] = &at[k];
  }
  m->dims = list, m->n_dims = rank;
  append(g, FIELD_PARAM, &m->base);
  m->dims = NULL, m->n_dims = 0;
  return simple(g, KILN_OP_PARAM, NULL, 0, &(int64_t){g->nparams++}, 1);
}

KilnNode kiln_graph_param(KilnGraph *g, const char *name, KilnDType dtype, size_t rank,
                          const KilnGraphDim *dims, int state) {
  Kiln__V1__Param m = KILN__V1__PARAM__INIT;
  if (!name || !*name) return refuse(g, FAIL(INVALID_ARGUMENT, "an input needs a name"));
  m.name = message_text(name), m.dtype = (Kiln__V1__DType)dtype, m.state = state != 0;
  return add_param(g, &m, dims, rank);
}

KilnNode kiln_graph_constant(KilnGraph *g, const KilnTensor *t) {
  Kiln__V1__Param m = KILN__V1__PARAM__INIT;
  KilnGraphDim dims[MAX_PARAM_RANK] = {{0}};
  uint64_t bytes = kiln_dtype_size(t->dtype);
  m.name = message_text("constant"), m.dtype = (Kiln__V1__DType)t->dtype;
  if (t->rank > MAX_PARAM_RANK) return add_param(g, &m, dims, t->rank);
  for (size_t k = 0; k < t->rank; k++) {
    dims[k].size = t->dims[k];
    if (__builtin_mul_overflow(bytes, t->dims[k], &bytes)) bytes = UINT64_MAX;
  }
  if (bytes != t->bytes)
    return refuse(g, FAIL(INVALID_ARGUMENT, "a constant of %zu bytes, expected %llu", t->bytes,
                          (unsigned long long)bytes));
  m.value_case = KILN__V1__PARAM__VALUE_DATA;
  m.data = (ProtobufCBinaryData){t->bytes, (uint8_t *)(uintptr_t)t->data};
  return add_param(g, &m, dims, t->rank);
}

/* -- sizes ------------------------------------------------------------------------------------- */

static KilnSize no_size(KilnGraph *g, Status st) {
  (void)refuse(g, st);
  return 0;
}

static KilnSize add_size(KilnGraph *g, const Kiln__V1__Size *m) {
  if (g->failed) return 0;
  if (g->nsizes >= KILN_GRAPH_MAX_NODES)
    return (void)refuse(
               g, FAIL(RESOURCE_EXHAUSTED, "a graph of more than %d sizes", KILN_GRAPH_MAX_NODES)),
           0;
  append(g, FIELD_SIZE, &m->base);
  return g->failed ? 0 : ++g->nsizes;
}

KilnSize kiln_graph_size_dim(KilnGraph *g, const char *name) {
  Kiln__V1__Size m = KILN__V1__SIZE__INIT;
  m.op = KILN__V1__SIZE_OP__SIZE_DIM, m.name = message_text(name ? name : "");
  return add_size(g, &m);
}

KilnSize kiln_graph_size_const(KilnGraph *g, int64_t value) {
  Kiln__V1__Size m = KILN__V1__SIZE__INIT;
  m.op = KILN__V1__SIZE_OP__SIZE_CONST, m.value = value;
  return add_size(g, &m);
}

KilnSize kiln_graph_size_op(KilnGraph *g, KilnSizeOp op, KilnSize a, KilnSize b) {
  Kiln__V1__Size m = KILN__V1__SIZE__INIT;
  uint32_t src[2] = {(uint32_t)(a - 1), (uint32_t)(b - 1)};
  if (g->failed) return 0;
  if (op < KILN_SIZE_ADD || op > KILN_SIZE_MAX || a < 1 || a > g->nsizes || b < 1 || b > g->nsizes)
    return no_size(g, FAIL(INVALID_ARGUMENT, "size op %d of sizes %lld and %lld of %lld", (int)op,
                           (long long)a, (long long)b, (long long)g->nsizes));
  m.op = (Kiln__V1__SizeOp)op, m.src = src, m.n_src = 2;
  return add_size(g, &m);
}

KilnSize kiln_graph_size_node(KilnGraph *g, KilnNode node, uint64_t min, uint64_t max) {
  Kiln__V1__Size m = KILN__V1__SIZE__INIT;
  if (g->failed) return 0;
  if (node < 0 || node >= g->nnodes)
    return no_size(g, FAIL(INVALID_ARGUMENT, "a size by node %lld of %lld", (long long)node,
                           (long long)g->nnodes));
  m.op = KILN__V1__SIZE_OP__SIZE_NODE, m.node = (uint32_t)node, m.min = min, m.max = max;
  return add_size(g, &m);
}

/* -- the end ----------------------------------------------------------------------------------- */

void kiln_graph_output(KilnGraph *g, const char *name, KilnNode node) {
  Kiln__V1__GraphOutput m = KILN__V1__GRAPH_OUTPUT__INIT;
  if (g->failed) return;
  if (!name || !*name || node < 0 || node >= g->nnodes) {
    (void)refuse(g, FAIL(INVALID_ARGUMENT, "output '%s' is node %lld of %lld", name ? name : "",
                         (long long)node, (long long)g->nnodes));
    return;
  }
  m.name = message_text(name), m.node = (uint32_t)node;
  append(g, FIELD_OUTPUT, &m.base);
  g->noutputs++;
}

KilnCode kiln_graph_finish(KilnGraph *g, KilnModel *out, KilnError *err) {
  char text[512];
  *out = (KilnModel){0};
  if (g->failed) {
    status_text(g->failed, text, sizeof text);
    return error_take(status_new(g->failed->code, NULL, __FILE__, __LINE__, "%s", text), err);
  }
  if (!g->noutputs) return error_take(FAIL(FAILED_PRECONDITION, "the graph has no output"), err);
  *out = (KilnModel){
      .bytes = g->bytes.ptr, .size = g->bytes.len, .name = "graph", .format = KILN_FORMAT_KGRAPH};
  return KILN_OK;
}
