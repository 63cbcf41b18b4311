/* The native graph's frontend: values through the interpreter, and every kind of refusal. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/ir/interp.h"
#include "kiln/v1/graph.pb-c.h"
#include "tests/unit/frontend_outcome.h"

enum { MAX_NODES = 16, MAX_INTS = 8 };

typedef struct Build {
  Kiln__V1__Graph graph;
  Kiln__V1__Node nodes[MAX_NODES], *node_list[MAX_NODES];
  uint32_t src[MAX_NODES][3];
  int64_t ints[MAX_NODES][MAX_INTS];
  Kiln__V1__Param params[3], *param_list[3];
  Kiln__V1__Dim dims[3][4], *dim_list[3][4];
  Kiln__V1__GraphOutput output, *outputs[1];
  Kiln__V1__Size sizes[8], *size_list[8];
  uint32_t size_src[8][2], node_sizes[MAX_NODES][MAX_INTS];
} Build;

static void begin(Build *b) {
  memset(b, 0, sizeof *b);
  kiln__v1__graph__init(&b->graph);
  b->graph.nodes = b->node_list;
  b->graph.params = b->param_list;
  kiln__v1__graph_output__init(&b->output);
  b->outputs[0] = &b->output;
  b->output.name = text("y");
  b->graph.outputs = b->outputs, b->graph.n_outputs = 1;
}

/* Adds a node over sources (-1: none); returns its number, which is also the output. */
static uint32_t node(Build *b, Kiln__V1__GraphOp op, int a, int c, int d) {
  size_t k = b->graph.n_nodes++;
  const int src[3] = {a, c, d};
  Kiln__V1__Node *n = &b->nodes[k];
  kiln__v1__node__init(n);
  n->op = op;
  n->src = b->src[k], n->ints = b->ints[k];
  for (int i = 0; i < 3; i++)
    if (src[i] >= 0) b->src[k][n->n_src++] = (uint32_t)src[i];
  b->node_list[k] = n;
  b->output.node = (uint32_t)k;
  return (uint32_t)k;
}

static void ints(Build *b, size_t n, ...) {
  size_t k = b->graph.n_nodes - 1;
  va_list ap;
  va_start(ap, n);
  for (size_t i = 0; i < n; i++) b->ints[k][i] = va_arg(ap, int);
  va_end(ap);
  b->nodes[k].n_ints = n;
}

static uint32_t param(Build *b, const char *name, Kiln__V1__DType dtype, size_t rank,
                      const uint64_t *dims) {
  size_t k = b->graph.n_params++;
  Kiln__V1__Param *p = &b->params[k];
  kiln__v1__param__init(p);
  p->name = text(name), p->dtype = dtype;
  for (size_t i = 0; i < rank; i++) {
    kiln__v1__dim__init(&b->dims[k][i]);
    b->dims[k][i].size = dims[i];
    b->dim_list[k][i] = &b->dims[k][i];
  }
  p->dims = b->dim_list[k], p->n_dims = rank;
  b->param_list[k] = p;
  uint32_t id = node(b, KILN__V1__GRAPH_OP__PARAM, -1, -1, -1);
  ints(b, 1, (int)k);
  return id;
}

static uint32_t constant(Build *b, double v) {
  uint32_t id = node(b, KILN__V1__GRAPH_OP__CONST, -1, -1, -1);
  b->nodes[id].dtype = KILN__V1__DTYPE__DTYPE_F32;
  b->nodes[id].f = v;
  return id;
}

static void convert(Build *b, const DimBinding *dims, size_t ndims, Outcome *o) {
  FrontendOptions options = {.kind = MODEL_KGRAPH, .dims = dims, .ndims = ndims};
  Bytes model = outcome_begin(o, &b->graph.base);
  o->st = frontend_kgraph(&o->job, model, &options, &o->graph);
}

static void refused(Build *b, StatusCode code, const char *parts) {
  Outcome o;
  convert(b, NULL, 0, &o);
  outcome_refused(&o, code, parts);
}

typedef struct Run {
  Outcome *o;
  InterpBuffer *slots;
} Run;
static void interpret(Job *job, void *arg) {
  Run *r = arg;
  Status st = interp_tensor(job, r->o->graph.sink, r->slots, r->o->graph.nslots);
  if (st) job_abort(job, st);
}

static const uint64_t d23[] = {2, 3}, d32[] = {3, 2};

static void set_data(Kiln__V1__Param *p, const void *data, size_t n) {
  p->value_case = KILN__V1__PARAM__VALUE_DATA;
  p->data = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)data};
}

/* A constant may have no elements; it is no input. */
static void test_empty_constant(void **state) {
  (void)state;
  static const uint64_t d03[] = {0, 3};
  Build b;
  Outcome o;
  float y[3] = {7, 7, 7};
  const float zeros[3] = {0};
  begin(&b);
  uint32_t x = param(&b, "x", KILN__V1__DTYPE__DTYPE_F32, 2, d03);
  set_data(&b.params[0], "", 0);
  node(&b, KILN__V1__GRAPH_OP__REDUCE_SUM, (int)x, -1, -1);
  ints(&b, 1, 0);
  convert(&b, NULL, 0, &o);
  assert_null(o.st);
  assert_int_equal(o.graph.ninputs, 0);
  InterpBuffer slots[] = {{y, sizeof y}, {y, 0}};
  Run run = {&o, slots};
  assert_null(job_run(&o.job, interpret, &run));
  assert_memory_equal(y, zeros, sizeof zeros);
  outcome_deinit(&o);
}

static void test_values(void **state) {
  (void)state;
  Build b;
  Outcome o;
  float x[6] = {1, 2, 3, 4, 5, 6}, w[6] = {1, 0, 0, 1, 1, 1}, y[4] = {0};
  begin(&b);
  uint32_t px = param(&b, "x", KILN__V1__DTYPE__DTYPE_F32, 2, d23);
  uint32_t pw = param(&b, "w", KILN__V1__DTYPE__DTYPE_F32, 2, d32);
  set_data(&b.params[1], w, sizeof w);
  uint32_t m = node(&b, KILN__V1__GRAPH_OP__MATMUL, (int)px, (int)pw, -1);
  uint32_t c = constant(&b, 10);
  node(&b, KILN__V1__GRAPH_OP__ADD, (int)m, (int)c, -1);
  convert(&b, NULL, 0, &o);
  assert_null(o.st);
  assert_int_equal(o.graph.nslots, 3);
  const GraphSlot *weight = &o.graph.slots[2];
  assert_true(weight->kind == SLOT_WEIGHT && !weight->in_constants && weight->bytes == sizeof w);
  assert_memory_equal(o.bytes + weight->offset, w, sizeof w);
  InterpBuffer slots[] = {{x, sizeof x}, {y, sizeof y}, {w, sizeof w}};
  Run run = {&o, slots};
  assert_null(job_run(&o.job, interpret, &run));
  const float want[] = {14, 15, 20, 21};
  assert_memory_equal(y, want, sizeof want);
  outcome_deinit(&o);
}

static void test_symbolic(void **state) {
  (void)state;
  Build b;
  Outcome o;
  const DimBinding n = {.name = STR("n"), .size = 7};
  begin(&b);
  uint32_t x = param(&b, "x", KILN__V1__DTYPE__DTYPE_F32, 2, d23);
  b.dims[0][0].name = text("n");
  node(&b, KILN__V1__GRAPH_OP__EXP2, (int)x, -1, -1);
  convert(&b, NULL, 0, &o);
  assert_null(o.st);
  assert_int_equal(o.graph.nvars, 1);
  assert_int_equal(dim_high(o.graph.slots[1].shape.at[0]), 65536);
  outcome_deinit(&o);
  convert(&b, &n, 1, &o);
  assert_null(o.st);
  assert_int_equal(o.graph.slots[0].shape.at[0], 7);
  outcome_deinit(&o);
}

static uint32_t size(Build *b, Kiln__V1__SizeOp op, int left, int right) {
  size_t k = b->graph.n_sizes++;
  Kiln__V1__Size *s = &b->sizes[k];
  kiln__v1__size__init(s);
  s->op = op;
  s->src = b->size_src[k];
  if (left >= 0) {
    b->size_src[k][0] = (uint32_t)left, b->size_src[k][1] = (uint32_t)right;
    s->n_src = 2;
  }
  b->size_list[k] = s;
  b->graph.sizes = b->size_list;
  return (uint32_t)k;
}

/* The k-th int of the last node is that size. */
static void use_size(Build *b, size_t k, uint32_t id) {
  size_t n = b->graph.n_nodes - 1;
  b->nodes[n].sizes = b->node_sizes[n];
  b->nodes[n].n_sizes = b->nodes[n].n_ints;
  b->node_sizes[n][k] = id + 1;
  b->ints[n][k] = 0;
}

/* x [n] shrunk to its first n // 2 elements, then as many 7s as x's sum says behind it. */
static void build_sized(Build *b) {
  begin(b);
  uint32_t x = param(b, "x", KILN__V1__DTYPE__DTYPE_I64, 1, d23);
  b->dims[0][0].name = text("n"), b->dims[0][0].min = 2, b->dims[0][0].max = 10;
  uint32_t n = size(b, KILN__V1__SIZE_OP__SIZE_DIM, -1, -1);
  b->sizes[n].name = text("n");
  uint32_t two = size(b, KILN__V1__SIZE_OP__SIZE_CONST, -1, -1);
  b->sizes[two].value = 2;
  uint32_t half = size(b, KILN__V1__SIZE_OP__SIZE_FLOORDIV, (int)n, (int)two);
  uint32_t part = node(b, KILN__V1__GRAPH_OP__SHRINK, (int)x, -1, -1);
  ints(b, 2, 0, 0);
  use_size(b, 1, half);
  uint32_t sum = node(b, KILN__V1__GRAPH_OP__REDUCE_SUM, (int)x, -1, -1);
  ints(b, 1, 0);
  b->nodes[sum].i = 1;
  uint32_t count = size(b, KILN__V1__SIZE_OP__SIZE_NODE, -1, -1);
  b->sizes[count].node = sum, b->sizes[count].max = 9;
  uint32_t seven = node(b, KILN__V1__GRAPH_OP__CONST, -1, -1, -1);
  b->nodes[seven].dtype = KILN__V1__DTYPE__DTYPE_I64, b->nodes[seven].i = 7;
  uint32_t wide = node(b, KILN__V1__GRAPH_OP__EXPAND, (int)seven, -1, -1);
  ints(b, 1, 0);
  use_size(b, 0, count);
  node(b, KILN__V1__GRAPH_OP__CAT, (int)part, (int)wide, -1);
  ints(b, 1, 0);
}

typedef struct SizedRun {
  Outcome *o;
  InterpBuffer slots[2];
  int64_t n;
} SizedRun;

static void run_sized(Job *job, void *arg) {
  SizedRun *r = arg;
  int64_t values[2] = {r->n, INTERP_UNBOUND};
  const TensorGraph *g = &r->o->graph;
  UOp *sink;
  Status st = interp_settle(job, g->sink, r->slots, g->nslots, values, g->nvars, &sink);
  if (!st) st = interp_tensor(job, sink, r->slots, 2);
  if (st) job_abort(job, st);
}

static void test_sizes(void **state) {
  (void)state;
  Build b;
  Outcome o;
  int64_t x[] = {1, 0, 1, 0, 0}, y[8] = {0};
  const int64_t want[] = {1, 0, 7, 7};
  build_sized(&b);
  convert(&b, NULL, 0, &o);
  assert_null(o.st);
  assert_int_equal(o.graph.nvars, 2);
  assert_int_equal(o.graph.vars[0].max, 10);
  assert_int_equal(o.graph.vars[1].source, VAR_BOUND);
  SizedRun run = {&o, {{x, sizeof x}, {y, sizeof y}}, 5};
  assert_null(job_run(&o.job, run_sized, &run));
  assert_memory_equal(y, want, sizeof want);
  x[4] = 9; /* the sum is outside of its bounds */
  Status st = job_run(&o.job, run_sized, &run);
  assert_int_equal(status_code(st), ST_OUT_OF_RANGE);
  status_drop(st);
  outcome_deinit(&o);
  build_sized(&b);
  b.node_sizes[1][1] = 9;
  refused(&b, ST_INVALID_ARGUMENT, "node 1 (SHRINK)|size 8 of 4");
  build_sized(&b);
  b.sizes[0].name = text("m");
  refused(&b, ST_INVALID_ARGUMENT, "size 0|'m'");
  build_sized(&b);
  b.sizes[1].value = 0;
  refused(&b, ST_INVALID_ARGUMENT, "size 2|less than 1");
  build_sized(&b);
  b.sizes[3].node = 5;
  refused(&b, ST_INVALID_ARGUMENT, "EXPAND|earlier one");
  build_sized(&b);
  b.sizes[2].op = KILN__V1__SIZE_OP__SIZE_MUL;
  refused(&b, ST_INVALID_ARGUMENT, "SHRINK|range [0, n0*2)");
  build_sized(&b);
  b.nodes[5].sizes = b.node_sizes[5], b.nodes[5].n_sizes = 1, b.node_sizes[5][0] = 1;
  refused(&b, ST_INVALID_ARGUMENT, "CAT|takes none");
}

/* One op over x [2, 3], refused with a text. */
static void bad_op(Kiln__V1__GraphOp op, size_t nints, int i0, int i1, const char *parts) {
  Build b;
  begin(&b);
  uint32_t x = param(&b, "x", KILN__V1__DTYPE__DTYPE_F32, 2, d23);
  node(&b, op, (int)x, -1, -1);
  ints(&b, nints, i0, i1);
  refused(&b, ST_INVALID_ARGUMENT, parts);
}

static void test_refusals(void **state) {
  (void)state;
  bad_op(KILN__V1__GRAPH_OP__RESHAPE, 2, 4, 2, "node 1 (RESHAPE)|[2, 3]|[4, 2]");
  bad_op(KILN__V1__GRAPH_OP__RESHAPE, 2, -1, 0, "node 1 (RESHAPE)");
  bad_op(KILN__V1__GRAPH_OP__PERMUTE, 2, 0, 0, "permutation");
  bad_op(KILN__V1__GRAPH_OP__PERMUTE, 1, 0, 0, "1 integers, expected 2");
  bad_op(KILN__V1__GRAPH_OP__EXPAND, 2, 5, 3, "expand [2, 3] to [5, 3]");
  bad_op(KILN__V1__GRAPH_OP__REDUCE_SUM, 1, 2, 0, "axis 2|[-2, 2)");
  bad_op(KILN__V1__GRAPH_OP__REDUCE_SUM, 2, 0, 0, "axis 0 occurs twice");
  bad_op(KILN__V1__GRAPH_OP__FLIP, 2, 1, -1, "axis 1 occurs twice");
  bad_op(KILN__V1__GRAPH_OP__ADD, 0, 0, 0, "1 sources, expected 2");
  bad_op(KILN__V1__GRAPH_OP__NOT, 0, 0, 0, "NOT of f32");
  bad_op(KILN__V1__GRAPH_OP__CAST, 0, 0, 0, "0 is not a dtype");
  bad_op(KILN__V1__GRAPH_OP__WINDOW, 2, 0, 3, "2 integers, expected 4");
}

static void test_structure(void **state) {
  (void)state;
  Build b;
  begin(&b);
  uint32_t x = param(&b, "x", KILN__V1__DTYPE__DTYPE_F32, 2, d23);
  node(&b, KILN__V1__GRAPH_OP__NEG, 1, -1, -1);
  refused(&b, ST_INVALID_ARGUMENT, "node 1 (NEG)|earlier node");
  b.graph.n_nodes = 1;
  b.output.node = 4;
  refused(&b, ST_INVALID_ARGUMENT, "output 0 ('y')|node 4 of 1");
  b.output.node = x;
  b.graph.n_outputs = 0;
  refused(&b, ST_INVALID_ARGUMENT, "no outputs");
  b.graph.n_outputs = 1;
  b.nodes[0].op = (Kiln__V1__GraphOp)1234;
  refused(&b, ST_UNIMPLEMENTED, "node 0|1234");
  b.nodes[0].op = KILN__V1__GRAPH_OP__PARAM;
  b.ints[0][0] = 3;
  refused(&b, ST_INVALID_ARGUMENT, "parameter 3 of 1");
  b.ints[0][0] = 0;
  set_data(&b.params[0], "12345", 5);
  refused(&b, ST_INVALID_ARGUMENT, "parameter 0 ('x')|5 bytes|expected 24");
  set_data(&b.params[0], "", 0);
  refused(&b, ST_INVALID_ARGUMENT, "parameter 0 ('x')|0 bytes|expected 24");
  b.params[0].value_case = KILN__V1__PARAM__VALUE__NOT_SET;
  b.dims[0][0].size = b.dims[0][1].size = 1ull << 33;
  refused(&b, ST_INVALID_ARGUMENT, "parameter 0 ('x')|more than");
  b.dims[0][0].size = UINT64_MAX;
  refused(&b, ST_INVALID_ARGUMENT, "parameter 0 ('x')|negative");
}

static void test_dtypes(void **state) {
  (void)state;
  Build b;
  begin(&b);
  uint32_t x = param(&b, "x", KILN__V1__DTYPE__DTYPE_F32, 2, d23);
  uint32_t i = param(&b, "i", KILN__V1__DTYPE__DTYPE_I32, 2, d23);
  node(&b, KILN__V1__GRAPH_OP__ADD, (int)x, (int)i, -1);
  refused(&b, ST_INVALID_ARGUMENT, "node 2 (ADD)|f32 and i32");
  b.nodes[2].op = KILN__V1__GRAPH_OP__GATHER;
  ints(&b, 1, 0);
  b.src[2][0] = i, b.src[2][1] = x;
  refused(&b, ST_INVALID_ARGUMENT, "indices of dtype f32");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_values),         cmocka_unit_test(test_symbolic),
      cmocka_unit_test(test_sizes),          cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_structure),      cmocka_unit_test(test_dtypes),
      cmocka_unit_test(test_empty_constant),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
