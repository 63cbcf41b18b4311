/* The ONNX frontend's answers to models that are wrong, and its treatment of weights and constants.
 * Models are packed with protobuf-c from a few literals; what right models compute is the business
 * of tests/model/onnx_suite.py. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "compiler/frontend/onnx_graph.h"
#include "onnx/onnx.pb-c.h"
#include "proto/onnx.h"
#include "tests/unit/frontend_outcome.h"

enum { MAX_PARTS = 8 };

/* A model under construction; everything it holds is static or in here. */
typedef struct Build {
  Kiln__Onnx__ModelProto model;
  Kiln__Onnx__GraphProto graph;
  Kiln__Onnx__OperatorSetIdProto opset, *opsets[1];
  Kiln__Onnx__NodeProto nodes[MAX_PARTS], *node_list[MAX_PARTS];
  Kiln__Onnx__AttributeProto attrs[MAX_PARTS], *attr_list[MAX_PARTS];
  Kiln__Onnx__TensorProto tensors[MAX_PARTS], *tensor_list[MAX_PARTS];
  Kiln__Onnx__ValueInfoProto infos[MAX_PARTS], *inputs[MAX_PARTS], *outputs[MAX_PARTS];
  Kiln__Onnx__TypeProto types[MAX_PARTS];
  Kiln__Onnx__TensorTypeProto tensor_types[MAX_PARTS];
  Kiln__Onnx__TensorShapeProto shapes[MAX_PARTS];
  Kiln__Onnx__DimensionProto dims[MAX_PARTS][MAX_PARTS], *dim_list[MAX_PARTS][MAX_PARTS];
  char *names[MAX_PARTS][MAX_PARTS];
  size_t nattrs, ninfos;
} Build;

static void begin(Build *b, int64_t opset) {
  memset(b, 0, sizeof *b);
  kiln__onnx__model_proto__init(&b->model);
  kiln__onnx__graph_proto__init(&b->graph);
  kiln__onnx__operator_set_id_proto__init(&b->opset);
  b->model.graph = &b->graph;
  b->opset.has_version = 1, b->opset.version = opset;
  b->opsets[0] = &b->opset;
  b->model.opset_import = b->opsets, b->model.n_opset_import = 1;
  b->graph.node = b->node_list, b->graph.initializer = b->tensor_list;
  b->graph.input = b->inputs, b->graph.output = b->outputs;
}

/* One or two sources, one output. */
static Kiln__Onnx__NodeProto *node(Build *b, const char *op, const char *a, const char *c,
                                   const char *out) {
  size_t k = b->graph.n_node++;
  Kiln__Onnx__NodeProto *n = &b->nodes[k];
  kiln__onnx__node_proto__init(n);
  n->op_type = text(op);
  b->names[k][0] = text(a), b->names[k][1] = text(c), b->names[k][2] = text(out);
  n->input = b->names[k], n->n_input = a ? (c ? 2 : 1) : 0;
  n->output = &b->names[k][2], n->n_output = 1;
  b->node_list[k] = n;
  return n;
}

static Kiln__Onnx__AttributeProto *attribute(Build *b, Kiln__Onnx__NodeProto *n, const char *name,
                                             int type) {
  Kiln__Onnx__AttributeProto *a = &b->attrs[b->nattrs];
  kiln__onnx__attribute_proto__init(a);
  a->name = text(name), a->has_type = 1, a->type = type;
  b->attr_list[b->nattrs] = a;
  if (!n->n_attribute) n->attribute = &b->attr_list[b->nattrs];
  n->n_attribute++;
  b->nattrs++;
  return a;
}

static Kiln__Onnx__TensorProto *tensor(Build *b, const char *name, int type, int64_t *dims,
                                       size_t ndim, const void *raw, size_t len) {
  size_t k = b->graph.n_initializer++;
  Kiln__Onnx__TensorProto *t = &b->tensors[k];
  kiln__onnx__tensor_proto__init(t);
  t->name = text(name), t->has_data_type = 1, t->data_type = type;
  t->dims = dims, t->n_dims = ndim;
  t->has_raw_data = 1, t->raw_data = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)raw};
  b->tensor_list[k] = t;
  return t;
}

/* dims: negative = no value; -2 = named "N". */
static void input(Build *b, const char *name, const int64_t *dims, size_t ndim) {
  size_t k = b->ninfos++;
  kiln__onnx__value_info_proto__init(&b->infos[k]);
  kiln__onnx__type_proto__init(&b->types[k]);
  kiln__onnx__tensor_type_proto__init(&b->tensor_types[k]);
  kiln__onnx__tensor_shape_proto__init(&b->shapes[k]);
  b->infos[k].name = text(name), b->infos[k].type = &b->types[k];
  b->types[k].tensor_type = &b->tensor_types[k];
  b->tensor_types[k].has_elem_type = 1, b->tensor_types[k].elem_type = ONNX_FLOAT;
  b->tensor_types[k].shape = &b->shapes[k];
  for (size_t i = 0; i < ndim; i++) {
    Kiln__Onnx__DimensionProto *d = &b->dims[k][i];
    kiln__onnx__dimension_proto__init(d);
    if (dims[i] != -1 && dims[i] != -2) d->has_dim_value = 1, d->dim_value = dims[i];
    if (dims[i] == -2) d->dim_param = text("N");
    b->dim_list[k][i] = d;
  }
  b->shapes[k].dim = b->dim_list[k], b->shapes[k].n_dim = ndim;
  b->inputs[b->graph.n_input++] = &b->infos[k];
}

static void output(Build *b, const char *name) {
  size_t k = b->ninfos++;
  kiln__onnx__value_info_proto__init(&b->infos[k]);
  b->infos[k].name = text(name);
  b->outputs[b->graph.n_output++] = &b->infos[k];
}

static void convert(Build *b, const DimBinding *dims, size_t ndims, Outcome *o) {
  FrontendOptions options = {.kind = MODEL_ONNX, .dims = dims, .ndims = ndims};
  Bytes model = outcome_begin(o, &b->model.base);
  o->st = frontend_onnx(&o->job, model, &options, &o->graph);
}

/* The model is refused with that code, and the message holds every part (separated by |). */
static void refused(Build *b, StatusCode code, const char *parts) {
  Outcome o;
  convert(b, NULL, 0, &o);
  outcome_refused(&o, code, parts);
}

static const int64_t shape23[] = {2, 3};
static const float six[] = {1, 2, 3, 4, 5, 6};

static void one_op(Build *b, const char *op, int64_t opset) {
  begin(b, opset);
  input(b, "x", shape23, 2);
  node(b, op, "x", NULL, "y");
  output(b, "y");
}

static void test_ops_and_opsets(void **state) {
  (void)state;
  Build b;
  one_op(&b, "Frobnicate", 17);
  b.nodes[0].name = text("n7");
  refused(&b, ST_UNIMPLEMENTED, "n7|Frobnicate|opset 17|ai.onnx");
  one_op(&b, "Relu", 17);
  b.nodes[0].domain = text("com.example");
  refused(&b, ST_INVALID_ARGUMENT, "com.example|Relu");
  one_op(&b, "Relu", 999);
  refused(&b, ST_UNIMPLEMENTED, "opset 999");
  one_op(&b, "Gelu", 13);
  refused(&b, ST_UNIMPLEMENTED, "version 13|Gelu");
  one_op(&b, "Add", 13);
  refused(&b, ST_INVALID_ARGUMENT, "1 sources, expected 2|Add");
  one_op(&b, "Relu", 13);
  b.model.n_opset_import = 0;
  refused(&b, ST_INVALID_ARGUMENT, "opset");
}

static void test_names_and_cycles(void **state) {
  (void)state;
  Build b;
  begin(&b, 17);
  input(&b, "x", shape23, 2);
  node(&b, "Add", "x", "c", "a");
  node(&b, "Relu", "a", NULL, "c");
  output(&b, "c");
  refused(&b, ST_INVALID_ARGUMENT, "cycle");
  one_op(&b, "Relu", 17);
  node(&b, "Abs", "x", NULL, "y");
  refused(&b, ST_INVALID_ARGUMENT, "'y' is defined twice");
  one_op(&b, "Relu", 17);
  b.names[0][0] = text("nobody");
  refused(&b, ST_INVALID_ARGUMENT, "nobody|not defined");
  one_op(&b, "Relu", 17);
  b.outputs[0]->name = text("nothing");
  refused(&b, ST_INVALID_ARGUMENT, "output 'nothing'");
  one_op(&b, "Relu", 17);
  b.graph.n_output = 0;
  refused(&b, ST_INVALID_ARGUMENT, "no outputs");
}

/* Nodes out of order are sorted; nodes that nothing needs may be of any op. */
static void test_order(void **state) {
  (void)state;
  Build b;
  Outcome o;
  begin(&b, 17);
  input(&b, "x", shape23, 2);
  node(&b, "Relu", "a", NULL, "y");
  node(&b, "Frobnicate", "x", NULL, "unused");
  node(&b, "Neg", "x", NULL, "a");
  output(&b, "y");
  convert(&b, NULL, 0, &o);
  assert_null(o.st);
  assert_int_equal(o.graph.nslots, 2);
  outcome_deinit(&o);
}

static void check_var(const TensorGraph *g, size_t k, const char *name, int64_t min, int64_t max,
                      int64_t multiple) {
  assert_true(k < g->nvars);
  assert_true(str_is(g->vars[k].name, name));
  assert_int_equal(g->vars[k].min, min);
  assert_int_equal(g->vars[k].max, max);
  assert_int_equal(g->vars[k].divisor, multiple);
}

static void test_dims(void **state) {
  (void)state;
  Build b;
  Outcome o;
  const int64_t named[] = {-2, 3}, open[] = {2, -1}, negative[] = {-5, 3};
  const int64_t huge[] = {1ll << 40, 1ll << 40};
  const DimBinding n4 = {.name = STR("N"), .size = 4}, x1 = {.name = STR("x.1"), .size = 9},
                   other = {.name = STR("M"), .size = 4};
  begin(&b, 17);
  input(&b, "x", named, 2);
  node(&b, "Relu", "x", NULL, "y");
  output(&b, "y");
  convert(&b, NULL, 0, &o);
  assert_null(o.st);
  check_var(&o.graph, 0, "N", 1, 65536, 1);
  assert_int_equal(o.graph.slots[1].shape.at[0], o.graph.slots[0].shape.at[0]);
  assert_false(dim_is_static(o.graph.slots[1].shape.at[0]));
  outcome_deinit(&o);
  convert(&b, &(DimBinding){.name = STR("x.0"), .min = 2, .max = 90, .multiple = 3}, 1, &o);
  assert_null(o.st);
  check_var(&o.graph, 0, "N", 2, 90, 3);
  outcome_deinit(&o);
  convert(&b, &(DimBinding){.name = STR("N"), .min = 9, .max = 3}, 1, &o);
  assert_int_equal(status_code(o.st), ST_INVALID_ARGUMENT);
  outcome_deinit(&o);
  convert(&b, &n4, 1, &o);
  assert_null(o.st);
  assert_int_equal(o.graph.slots[1].shape.at[0], 4);
  outcome_deinit(&o);
  convert(&b, (const DimBinding[]){n4, other}, 2, &o);
  assert_int_equal(status_code(o.st), ST_INVALID_ARGUMENT);
  outcome_deinit(&o);
  const int64_t *bad[] = {open, negative, huge};
  const char *say[] = {NULL, "negative", "more than"};
  for (int i = 0; i < 3; i++) {
    begin(&b, 17);
    input(&b, "x", bad[i], 2);
    node(&b, "Relu", "x", NULL, "y");
    output(&b, "y");
    if (say[i]) {
      refused(&b, ST_INVALID_ARGUMENT, say[i]);
      continue;
    }
    convert(&b, &x1, 1, &o);
    assert_null(o.st);
    assert_int_equal(o.graph.slots[0].shape.at[1], 9);
    outcome_deinit(&o);
  }
}

static void with_weight(Build *b, int64_t *dims, size_t ndim, const void *raw, size_t len) {
  begin(b, 17);
  input(b, "x", shape23, 2);
  tensor(b, "w", ONNX_FLOAT, dims, ndim, raw, len);
  node(b, "Mul", "x", "w", "y");
  output(b, "y");
}

static void test_tensors(void **state) {
  (void)state;
  Build b;
  int64_t d23[] = {2, 3}, d7[] = {7}, neg[] = {-1}, big[] = {1ll << 32, 1ll << 32};
  with_weight(&b, d23, 2, six, 20);
  refused(&b, ST_INVALID_ARGUMENT, "initializer 'w'|20 bytes|expected 24");
  with_weight(&b, d7, 1, "0123456789012345678901234567", 28);
  refused(&b, ST_INVALID_ARGUMENT, "Mul|[2, 3]|[7]|broadcast");
  with_weight(&b, neg, 1, six, 4);
  refused(&b, ST_INVALID_ARGUMENT, "initializer 'w'|negative");
  with_weight(&b, big, 2, six, 4);
  refused(&b, ST_INVALID_ARGUMENT, "initializer 'w'|more than");
  with_weight(&b, d23, 2, six, 24);
  b.tensors[0].data_type = ONNX_INT32;
  refused(&b, ST_INVALID_ARGUMENT, "different dtypes|f32|i32");
  b.tensors[0].data_type = ONNX_STRING;
  refused(&b, ST_UNIMPLEMENTED, "STRING");
  b.tensors[0].data_type = 77;
  refused(&b, ST_INVALID_ARGUMENT, "77");
  with_weight(&b, d23, 2, six, 24);
  b.tensors[0].has_data_location = 1, b.tensors[0].data_location = 1;
  refused(&b, ST_INVALID_ARGUMENT, "external_data|inside");
  with_weight(&b, d23, 2, six, 24);
  b.tensors[0].has_raw_data = 0;
  refused(&b, ST_INVALID_ARGUMENT, "0 elements|expected 6");
}

static void test_attributes(void **state) {
  (void)state;
  Build b;
  one_op(&b, "Softmax", 17);
  attribute(&b, &b.nodes[0], "axis", ONNX_ATTR_FLOAT);
  refused(&b, ST_INVALID_ARGUMENT, "'axis'|a float|an integer");
  one_op(&b, "Softmax", 17);
  Kiln__Onnx__AttributeProto *a = attribute(&b, &b.nodes[0], "axis", ONNX_ATTR_INT);
  a->has_i = 1, a->i = 5;
  refused(&b, ST_INVALID_ARGUMENT, "axis 5|[-2, 2)|Softmax");
  one_op(&b, "Transpose", 17);
  a = attribute(&b, &b.nodes[0], "perm", ONNX_ATTR_INTS);
  int64_t perm[] = {0, 0};
  a->ints = perm, a->n_ints = 2;
  refused(&b, ST_INVALID_ARGUMENT, "permutation");
  one_op(&b, "MaxPool", 17);
  refused(&b, ST_INVALID_ARGUMENT, "kernel_shape");
}

static void test_runtime_shape(void **state) {
  (void)state;
  Build b;
  Outcome o;
  begin(&b, 17);
  input(&b, "x", shape23, 2);
  input(&b, "s", shape23, 1);
  b.tensor_types[1].elem_type = ONNX_INT64;
  node(&b, "Reshape", "x", "s", "y");
  output(&b, "y");
  convert(&b, NULL, 0, &o); /* one size and the check of what is left are computed by the run */
  assert_null(o.st);
  assert_int_equal(o.graph.slots[2].shape.n, 2);
  assert_int_equal(o.graph.nvars, 3);
  assert_int_equal(o.graph.vars[0].source, VAR_BOUND);
  outcome_deinit(&o);
  begin(&b, 18);
  input(&b, "x", shape23, 2);
  input(&b, "s", shape23, 1);
  b.tensor_types[1].elem_type = ONNX_INT64;
  node(&b, "Split", "x", "s", "y");
  output(&b, "y");
  refused(&b, ST_INVALID_ARGUMENT, "Split|1 outputs");
}

/* Weights are byte ranges of the model, in graph order; constants never become slots. */
static void test_weights(void **state) {
  (void)state;
  Build b;
  Outcome o;
  int64_t d23[] = {2, 3}, d1[] = {1};
  float half = 0.5f;
  with_weight(&b, d23, 2, six, 24);
  tensor(&b, "unused", ONNX_FLOAT, d23, 2, six, 24);
  tensor(&b, "half", ONNX_FLOAT, d1, 1, &half, 4);
  b.outputs[0]->name = text("z");
  node(&b, "Mul", "y", "half", "z");
  convert(&b, NULL, 0, &o);
  assert_null(o.st);
  assert_int_equal(o.graph.nslots, 3);
  const GraphSlot *w = &o.graph.slots[2];
  assert_int_equal(w->kind, SLOT_WEIGHT);
  assert_true(!w->in_constants && w->bytes == 24 && str_is(w->name, "w"));
  assert_memory_equal(o.bytes + w->offset, six, 24);
  outcome_deinit(&o);
}

/* Data in the typed fields is decoded into the constants. */
static void test_typed_data(void **state) {
  (void)state;
  Build b;
  Outcome o;
  int64_t d23[] = {2, 3};
  float data[] = {1, 2, 3, 4, 5, 6};
  with_weight(&b, d23, 2, NULL, 0);
  b.tensors[0].has_raw_data = 0;
  b.tensors[0].float_data = data, b.tensors[0].n_float_data = 6;
  convert(&b, NULL, 0, &o);
  assert_null(o.st);
  const GraphSlot *w = &o.graph.slots[2];
  assert_true(w->in_constants && w->bytes == 24);
  assert_memory_equal(o.graph.constants.ptr + w->offset, data, 24);
  outcome_deinit(&o);
}

static void test_memory_limit(void **state) {
  (void)state;
  Build b;
  one_op(&b, "Relu", 17);
  uint8_t bytes[256];
  size_t n = kiln__onnx__model_proto__pack(&b.model, bytes);
  FrontendOptions options = {.kind = MODEL_ONNX};
  TensorGraph g;
  Job job;
  job_init(&job, 1024);
  Status st = frontend_onnx(&job, (Bytes){bytes, n}, &options, &g);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
  job_deinit(&job);
}

static void test_not_a_model(void **state) {
  (void)state;
  FrontendOptions options = {.kind = MODEL_ONNX};
  const char *const inputs[] = {"", "hello, this is not a model", "\x08\x08"};
  for (size_t i = 0; i < 3; i++) {
    TensorGraph g;
    Job job;
    job_init(&job, 1 << 20);
    Bytes bytes = {(const uint8_t *)inputs[i], strlen(inputs[i])};
    Status st = frontend_onnx(&job, bytes, &options, &g);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ops_and_opsets), cmocka_unit_test(test_names_and_cycles),
      cmocka_unit_test(test_order),          cmocka_unit_test(test_dims),
      cmocka_unit_test(test_tensors),        cmocka_unit_test(test_attributes),
      cmocka_unit_test(test_runtime_shape),  cmocka_unit_test(test_weights),
      cmocka_unit_test(test_typed_data),     cmocka_unit_test(test_memory_limit),
      cmocka_unit_test(test_not_a_model),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
