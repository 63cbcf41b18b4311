/* libkiln's graph builder: every op of the table can be built, what it builds gives the value that
 * the frontend and the interpreter compute, and mistakes are kept until the end. */
#include "client/c/kiln.h"
#include "compiler/ir/interp.h"
#include "kiln/v1/graph.pb-c.h"
#include "proto/graph_ops.h"
#include "tests/unit/frontend_outcome.h"
#include "tests/unit/status_check.h"

static KilnGraph *created(void) {
  KilnGraph *g;
  KilnError err;
  assert_int_equal(kiln_graph_create(&g, &err), KILN_OK);
  return g;
}

static const int64_t zero_axis[1] = {0};

static KilnNode input(KilnGraph *g, KilnDType dtype, uint64_t rows, uint64_t columns) {
  KilnGraphDim dims[2] = {{.size = rows}, {.size = columns}};
  return kiln_graph_param(g, "x", dtype, 2, dims, 0);
}

/* -- values ------------------------------------------------------------------------------------ */

typedef struct Run {
  const TensorGraph *g;
  InterpBuffer slots[4];
  Status st;
} Run;

static void interpret(Job *job, void *arg) {
  Run *r = arg;
  r->st = interp_tensor(job, r->g->sink, r->slots, r->g->nslots);
}

/* Finishes and frees g, and runs it on one f32 input; the output's bytes have to be n. */
static void run(KilnGraph *g, const float *in, size_t nin, void *out, size_t n) {
  KilnModel model;
  KilnError err;
  FrontendOptions options = {.kind = MODEL_KGRAPH};
  TensorGraph tg;
  Job job;
  if (kiln_graph_finish(g, &model, &err)) fail_msg("%s", err.message);
  assert_int_equal(model.format, KILN_FORMAT_KGRAPH);
  job_init(&job, 64 << 20);
  check(frontend_kgraph(&job, (Bytes){model.bytes, model.size}, &options, &tg));
  Run r = {.g = &tg};
  for (size_t s = 0; s < tg.nslots; s++) {
    const GraphSlot *slot = &tg.slots[s];
    size_t bytes = (size_t)shape_numel(slot->shape) * dtype_info[slot->dtype].bytes;
    const void *weight = slot->in_constants ? (const void *)(tg.constants.ptr + slot->offset)
                                            : (const uint8_t *)model.bytes + slot->offset;
    r.slots[s] = (InterpBuffer){calloc(1, bytes + 1), bytes};
    if (slot->kind == SLOT_INPUT) assert_int_equal(bytes, nin * sizeof *in);
    if (slot->kind == SLOT_OUTPUT) assert_int_equal(bytes, n);
    if (slot->kind != SLOT_OUTPUT)
      memcpy(r.slots[s].data, slot->kind == SLOT_INPUT ? in : weight, bytes);
  }
  assert_null(job_run(&job, interpret, &r));
  assert_null(r.st);
  memcpy(out, r.slots[tg.ninputs].data, n);
  for (size_t s = 0; s < tg.nslots; s++) free(r.slots[s].data);
  strbuf_deinit(&tg.constants);
  job_deinit(&job);
  kiln_graph_free(g);
}

static void test_elementwise_and_reduce(void **state) {
  (void)state;
  static const float in[6] = {1, -2, 3, -4, 5, -6};
  static const int64_t axis = 1;
  float got[2];
  KilnGraph *g = created();
  KilnNode x = input(g, KILN_F32, 2, 3);
  KilnNode a = kiln_graph_op1(g, KILN_OP_ABS, x);
  KilnNode y = kiln_graph_op2(g, KILN_OP_ADD, a, kiln_graph_float(g, KILN_F32, 0.5));
  KilnNode big = kiln_graph_op2(g, KILN_OP_CMPLT, kiln_graph_float(g, KILN_F32, 3), y);
  y = kiln_graph_where(g, big, y, kiln_graph_float(g, KILN_F32, 0));
  kiln_graph_output(g, "y", kiln_graph_reduce(g, KILN_OP_REDUCE_SUM, y, 1, &axis, 0));
  run(g, in, 6, got, sizeof got);
  assert_float_equal(got[0], 3.5, 0);
  assert_float_equal(got[1], 4.5 + 5.5 + 6.5, 0);
}

static void test_movement(void **state) {
  (void)state;
  static const float in[6] = {0, 1, 2, 3, 4, 5};
  static const int64_t order[2] = {1, 0}, pads[4] = {1, 0, 0, 1}, bounds[4] = {0, 3, 1, 3},
                       flat[1] = {6}, wide[2] = {2, 6};
  float got[12];
  KilnGraph *g = created();
  KilnNode x = kiln_graph_permute(g, input(g, KILN_F32, 2, 3), 2, order); /* 0 3 / 1 4 / 2 5 */
  x = kiln_graph_pad(g, x, 2, pads, kiln_graph_float(g, KILN_F32, -1));
  x = kiln_graph_shrink(g, x, 2, bounds); /* -1 -1 / 3 -1 / 4 -1 */
  x = kiln_graph_flip(g, kiln_graph_reshape(g, x, 1, flat), 1, zero_axis);
  KilnNode tens = kiln_graph_op2(g, KILN_OP_MUL, kiln_graph_iota(g, KILN_F32, 0, 1, flat),
                                 kiln_graph_float(g, KILN_F32, 0));
  x = kiln_graph_op2(g, KILN_OP_ADD, x, tens);
  kiln_graph_output(g, "y", kiln_graph_expand(g, x, 2, wide));
  run(g, in, 6, got, sizeof got);
  static const float flipped[6] = {-1, 4, -1, 3, -1, -1};
  for (int k = 0; k < 12; k++) assert_float_equal(got[k], flipped[k % 6], 0);
}

static void test_constants_and_indices(void **state) {
  (void)state;
  static const float in[4] = {10, 20, 30, 40};
  static const int32_t at[2] = {1, 0};
  static const uint64_t dims[1] = {2};
  int64_t got[4];
  KilnGraph *g = created();
  KilnTensor t = {.dtype = KILN_I32, .rank = 1, .dims = dims, .data = at, .bytes = sizeof at};
  KilnNode rows = kiln_graph_gather(g, input(g, KILN_F32, 2, 2), kiln_graph_constant(g, &t), 0);
  KilnNode both[2] = {rows, rows};
  KilnNode y = kiln_graph_window(g, kiln_graph_cat(g, 2, both, 0), 0, 1, 2, 1); /* rows 0 and 2 */
  y = kiln_graph_op1(g, KILN_OP_CONTIGUOUS, kiln_graph_cast(g, y, KILN_I64));
  y = kiln_graph_op2(g, KILN_OP_SUB, y, kiln_graph_int(g, KILN_I64, 1));
  kiln_graph_output(g, "y", kiln_graph_bitcast(g, y, KILN_U64));
  run(g, in, 4, got, sizeof got);
  assert_int_equal(got[0], 29);
  assert_int_equal(got[1], 39);
  assert_int_equal(got[3], 39);
}

/* -- the table --------------------------------------------------------------------------------- */

/* A node of every op, with what the table says it has. */
static void test_every_op(void **state) {
  (void)state;
  static const struct {
    KilnOp op;
    int nsrc, nints;
  } rows[] = {
#define GRAPH_OP(name_, group_, nsrc_, nints_, dtypes_, result_, ir_, handler_, ints_doc_, doc_)   \
  {KILN_OP_##name_, nsrc_, nints_},
#include "proto/graph_ops.def"
#undef GRAPH_OP
  };
  int64_t ints[KILN_GRAPH_MAX_INTS] = {0};
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    KilnGraph *g = created();
    KilnModel model;
    KilnError err;
    KilnNode x = input(g, KILN_F32, 2, 2), src[3] = {x, x, x};
    KilnNodeSpec spec = {.op = rows[k].op, .src = src, .ints = ints, .dtype = KILN_F32};
    spec.nsrc = rows[k].nsrc < 0 ? 3 : (size_t)rows[k].nsrc;
    spec.nints = rows[k].nints < 0 ? 2 : (size_t)rows[k].nints;
    assert_int_equal(kiln_graph_node(g, &spec), 1);
    kiln_graph_output(g, "y", 1);
    assert_int_equal(kiln_graph_finish(g, &model, &err), KILN_OK);
    spec.nsrc = rows[k].nsrc < 0 ? 0 : spec.nsrc + 1;
    src[2] = x;
    assert_int_equal(kiln_graph_node(g, &spec), KILN_NO_NODE);
    assert_int_equal(kiln_graph_finish(g, &model, &err), KILN_INVALID_ARGUMENT);
    kiln_graph_free(g);
  }
}

/* -- mistakes ---------------------------------------------------------------------------------- */

static void refused(KilnGraph *g, const char *part) {
  KilnModel model;
  KilnError err;
  assert_int_equal(kiln_graph_op1(g, KILN_OP_NEG, 0), KILN_NO_NODE);
  assert_int_equal(kiln_graph_finish(g, &model, &err), KILN_INVALID_ARGUMENT);
  assert_null(model.bytes);
  if (!strstr(err.message, part)) fail_msg("\"%s\" does not say \"%s\"", err.message, part);
  kiln_graph_free(g);
}

static void test_mistakes(void **state) {
  (void)state;
  static const int64_t many[KILN_GRAPH_MAX_INTS + 1] = {0};
  static const uint64_t dims[2] = {UINT64_MAX, 3};
  KilnGraphDim wide[17] = {{0}};
  KilnTensor t = {.dtype = KILN_F32, .rank = 2, .dims = dims, .data = dims, .bytes = 12};
  KilnGraph *g = created();
  kiln_graph_op1(g, KILN_OP_EXP, input(g, KILN_F32, 1, 1) + 1);
  refused(g, "source 0 of EXP is node 1 of 1");
  kiln_graph_op1(g = created(), KILN_OP_ADD, 0);
  refused(g, "ADD of 1 sources, expected 2");
  kiln_graph_op1(g = created(), (KilnOp)9999, 0);
  refused(g, "9999 is not an op");
  g = created();
  kiln_graph_reshape(g, input(g, KILN_F32, 1, 1), KILN_GRAPH_MAX_INTS + 1, many);
  refused(g, "RESHAPE of 65 integers, expected at most 64");
  g = created();
  kiln_graph_cast(g, input(g, KILN_F32, 1, 1), (KilnDType)99);
  refused(g, "99 is not a dtype");
  kiln_graph_param(g = created(), "", KILN_F32, 0, NULL, 0);
  refused(g, "an input needs a name");
  kiln_graph_param(g = created(), "w", KILN_F32, 17, wide, 0);
  refused(g, "'w' of rank 17");
  kiln_graph_constant(g = created(), &t);
  refused(g, "a constant of 12 bytes");
  kiln_graph_output(g = created(), "y", 3);
  refused(g, "output 'y' is node 3 of 0");
  kiln_graph_size_op(g = created(), KILN_SIZE_ADD, 1, 1);
  refused(g, "of sizes 1 and 1 of 0");
  kiln_graph_size_node(g = created(), 5, 0, 9);
  refused(g, "a size by node 5 of 0");
  g = created();
  KilnModel model;
  KilnError err;
  assert_int_equal(kiln_graph_finish(g, &model, &err), KILN_FAILED_PRECONDITION);
  kiln_graph_free(g);
}

static void test_sizes_travel(void **state) {
  (void)state;
  KilnModel model;
  KilnError err;
  KilnGraph *g = created();
  KilnGraphDim dims[1] = {{.name = "n", .min = 1, .max = 64, .multiple = 8}};
  KilnNode x = kiln_graph_param(g, "x", KILN_F32, 1, dims, 0);
  KilnSize n = kiln_graph_size_dim(g, "n");
  KilnSize half = kiln_graph_size_op(g, KILN_SIZE_FLOORDIV, n, kiln_graph_size_const(g, 2));
  int64_t ints[2] = {2, 0};
  KilnSize sizes[2] = {0, half};
  KilnNode y = kiln_graph_node(
      g,
      &(KilnNodeSpec){
          .op = KILN_OP_RESHAPE, .src = &x, .nsrc = 1, .ints = ints, .sizes = sizes, .nints = 2});
  kiln_graph_output(g, "y", y);
  assert_int_equal(kiln_graph_finish(g, &model, &err), KILN_OK);
  Kiln__V1__Graph *m = kiln__v1__graph__unpack(NULL, model.size, model.bytes);
  assert_non_null(m);
  assert_int_equal(m->n_sizes, 3);
  assert_int_equal(m->sizes[2]->op, KILN__V1__SIZE_OP__SIZE_FLOORDIV);
  assert_int_equal(m->sizes[2]->src[1], 1);
  assert_int_equal(m->nodes[1]->sizes[1], 3);
  assert_int_equal(m->nodes[1]->ints[0], 2);
  assert_int_equal(m->params[0]->dims[0]->multiple, 8);
  kiln__v1__graph__free_unpacked(m, NULL);
  kiln_graph_free(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_elementwise_and_reduce),
      cmocka_unit_test(test_movement),
      cmocka_unit_test(test_constants_and_indices),
      cmocka_unit_test(test_every_op),
      cmocka_unit_test(test_mistakes),
      cmocka_unit_test(test_sizes_travel),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
