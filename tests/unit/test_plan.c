/* Kernel counts of the patterns that must fuse, and plans against the interpreter. */
#include "tests/unit/plan_fixture.h"
#include "tests/unit/zoo_targets.h"

static void expect_calls(Graph *g, size_t calls) {
  graph_plan(g);
  if (g->plan.ncalls != calls || getenv("KILN_SHOW")) show_plan(g);
  assert_int_equal(g->plan.ncalls, calls);
  assert_true(plan_equals_graph(g, 1e-4));
}

/* x with axis reduced, broadcast back to x's shape. */
static UOp *reduced(Graph *g, Op op, UOp *x, int64_t axis) {
  return t_expand(g, t_reduce(g, op, x, &axis, 1), x->shape.at, x->shape.n);
}

static UOp *reduced_in(Job *j, UOp *x) {
  UOp *r = uop_make(j, OP_REDUCE, DT_VOID, arg_both(OP_MAX, DIMS(1)), &x, 1);
  return uop_make(j, OP_EXPAND, DT_VOID, arg_ints(x->shape.at, x->shape.n), &r, 1);
}

static UOp *softmax(Graph *g, UOp *x, int64_t axis) {
  UOp *e = uop1(&job, OP_EXP, uop2(&job, OP_SUB, x, reduced(g, OP_MAX, x, axis)));
  return uop2(&job, OP_FDIV, e, reduced(g, OP_ADD, e, axis));
}

static UOp *row(Graph *g, UOp *v, const UOp *like) {
  int64_t dims[8];
  for (uint32_t k = 0; k < like->shape.n; k++) dims[k] = 1;
  dims[like->shape.n - 1] = v->shape.at[0];
  return t_expand(g, t_reshape(g, v, dims, like->shape.n), like->shape.at, like->shape.n);
}

static UOp *mean(Graph *g, UOp *x, int64_t axis) {
  return uop2(&job, OP_MUL, reduced(g, OP_ADD, x, axis), t_f32(g, 1.0 / (double)x->shape.at[axis]));
}

static UOp *layernorm(Graph *g, UOp *x, UOp *gamma, UOp *beta) {
  int64_t axis = x->shape.n - 1;
  UOp *d = uop2(&job, OP_SUB, x, mean(g, x, axis));
  UOp *var = uop2(&job, OP_ADD, mean(g, uop2(&job, OP_MUL, d, d), axis), t_f32(g, 1e-5));
  UOp *y = uop2(&job, OP_MUL, d, uop1(&job, OP_RECIP, uop1(&job, OP_SQRT, var)));
  return uop2(&job, OP_ADD, uop2(&job, OP_MUL, y, row(g, gamma, y)), row(g, beta, y));
}

static UOp *matmul(Graph *g, UOp *a, UOp *b) {
  int64_t m = a->shape.at[0], k = a->shape.at[1], n = b->shape.at[1];
  a = t_expand(g, t_reshape(g, a, DIMS(m, 1, k)), DIMS(m, n, k));
  b = t_permute(g, b, DIMS(1, 0));
  b = t_expand(g, t_reshape(g, b, DIMS(1, n, k)), DIMS(m, n, k));
  return t_reshape(g, t_reduce(g, OP_ADD, uop2(&job, OP_MUL, a, b), DIMS(2)), DIMS(m, n));
}

static UOp *relu(Graph *g, UOp *x) { return uop2(&job, OP_MAX, x, t_f32(g, 0)); }

/* x [n, c, h, w], weights [o, c, 3, 3], padding 1. */
static UOp *conv3(Graph *g, UOp *x, UOp *w) {
  int64_t n = x->shape.at[0], c = x->shape.at[1], h = x->shape.at[2], v = x->shape.at[3];
  int64_t o = w->shape.at[0];
  UOp *src[] = {x, t_f32(g, 0)};
  x = uop_make(&job, OP_PAD, DT_VOID, arg_ints(DIMS(0, 0, 0, 0, 1, 1, 1, 1)), src, 2);
  x = t_int(g, OP_WINDOW, x, DIMS(2, 3, 1, 1));
  x = t_int(g, OP_WINDOW, x, DIMS(4, 3, 1, 1));
  x = t_permute(g, x, DIMS(0, 2, 4, 1, 3, 5));
  x = t_expand(g, t_reshape(g, x, DIMS(n, 1, h, v, c, 3, 3)), DIMS(n, o, h, v, c, 3, 3));
  w = t_expand(g, t_reshape(g, w, DIMS(1, o, 1, 1, c, 3, 3)), DIMS(n, o, h, v, c, 3, 3));
  UOp *r = t_reduce(g, OP_ADD, uop2(&job, OP_MUL, x, w), DIMS(4, 5, 6));
  return t_reshape(g, r, DIMS(n, o, h, v));
}

static UOp *channel(Graph *g, UOp *v, const UOp *like) {
  int64_t c = v->shape.at[0];
  return t_expand(g, t_reshape(g, v, DIMS(1, c, 1, 1)), like->shape.at, 4);
}

static UOp *batchnorm(Graph *g, UOp *x, UOp *const p[4]) {
  UOp *s = uop1(&job, OP_SQRT, uop2(&job, OP_ADD, p[0], t_f32(g, 1e-5)));
  s = uop2(&job, OP_FDIV, p[1], s);
  UOp *d = uop2(&job, OP_SUB, x, channel(g, p[2], x));
  return uop2(&job, OP_ADD, uop2(&job, OP_MUL, d, channel(g, s, x)), channel(g, p[3], x));
}

/* -- counts ------------------------------------------------------------------------------------ */

static void elementwise_is_one(void **state) {
  (void)state;
  UOp *a = graph_input(&graph, DIMS(8, 6)), *b = graph_input(&graph, DIMS(8, 6));
  UOp *x = relu(&graph, uop2(&job, OP_ADD, a, b));
  graph_output(&graph, uop2(&job, OP_MUL, x, uop1(&job, OP_EXP, x)));
  expect_calls(&graph, 1);
  assert_string_equal(graph.plan.kernels[0].name, "E_48");
}

static void softmax_is_one(void **state) {
  (void)state;
  graph_output(&graph, softmax(&graph, graph_input(&graph, DIMS(8, 16)), 1));
  expect_calls(&graph, 1);
}

static void softmax_of_inner_axis_is_one(void **state) {
  (void)state;
  graph_output(&graph, softmax(&graph, graph_input(&graph, DIMS(2, 10, 4, 3)), 1));
  expect_calls(&graph, 1);
}

static void log_softmax_is_one(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(8, 16));
  UOp *d = uop2(&job, OP_SUB, x, reduced(&graph, OP_MAX, x, 1));
  UOp *s = uop1(&job, OP_LOG, reduced(&graph, OP_ADD, uop1(&job, OP_EXP, d), 1));
  graph_output(&graph, uop2(&job, OP_SUB, d, s));
  expect_calls(&graph, 1);
}

static void layernorm_is_one(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(3, 8, 16));
  UOp *gamma = graph_input(&graph, DIMS(16)), *beta = graph_input(&graph, DIMS(16));
  graph_output(&graph, layernorm(&graph, x, gamma, beta));
  expect_calls(&graph, 1);
}

static void matmul_bias_relu_is_one(void **state) {
  (void)state;
  UOp *a = graph_input(&graph, DIMS(12, 20)), *b = graph_input(&graph, DIMS(20, 15));
  UOp *c = graph_input(&graph, DIMS(15)), *m = matmul(&graph, a, b);
  graph_output(&graph, relu(&graph, uop2(&job, OP_ADD, m, row(&graph, c, m))));
  expect_calls(&graph, 1);
  assert_string_equal(graph.plan.kernels[0].name, "r_12_15_20");
}

static void chained_matmuls_are_two(void **state) {
  (void)state;
  UOp *a = graph_input(&graph, DIMS(16, 16)), *b = graph_input(&graph, DIMS(16, 16));
  UOp *c = graph_input(&graph, DIMS(16, 16));
  graph_output(&graph, matmul(&graph, matmul(&graph, a, b), c));
  expect_calls(&graph, 2);
  assert_int_equal(graph.plan.nkernels, 1);
}

static UOp *scores(Graph *g, UOp **p) {
  UOp *q = graph_input(g, DIMS(16, 16)), *k = graph_input(g, DIMS(16, 16));
  UOp *s = matmul(g, q, t_permute(g, k, DIMS(1, 0)));
  *p = softmax(g, uop2(&job, OP_MUL, s, t_f32(g, 0.25)), 1);
  return s;
}

static void attention_is_one(void **state) {
  (void)state;
  UOp *p;
  scores(&graph, &p);
  graph_output(&graph, relu(&graph, matmul(&graph, p, graph_input(&graph, DIMS(16, 16)))));
  expect_calls(&graph, 1);
}

static void attention_whose_weights_are_read_is_three(void **state) {
  (void)state;
  UOp *p;
  scores(&graph, &p);
  graph_output(&graph, matmul(&graph, p, graph_input(&graph, DIMS(16, 16))));
  graph_output(&graph, p);
  expect_calls(&graph, 3);
}

/* Every block of rows would read all of both weights. */
static void deep_contractions_around_a_norm_are_three(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(64, 400)), *w = graph_input(&graph, DIMS(400, 64));
  UOp *v = graph_input(&graph, DIMS(64, 400)), *h = matmul(&graph, x, w);
  UOp *norm = uop1(&job, OP_SQRT, reduced(&graph, OP_ADD, uop2(&job, OP_MUL, h, h), 1));
  graph_output(&graph, matmul(&graph, uop2(&job, OP_FDIV, h, norm), v));
  expect_calls(&graph, 3);
}

static void conv_batchnorm_relu_residual_is_one(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(1, 4, 6, 7)), *r = graph_input(&graph, DIMS(1, 5, 6, 7));
  UOp *w = graph_input(&graph, DIMS(5, 4, 3, 3)), *p[4];
  for (int k = 0; k < 4; k++) p[k] = graph_input(&graph, DIMS(5));
  p[0] = uop1(&job, OP_ABS, p[0]);
  UOp *y = batchnorm(&graph, conv3(&graph, x, w), p);
  graph_output(&graph, relu(&graph, uop2(&job, OP_ADD, y, r)));
  expect_calls(&graph, 1);
  assert_string_equal(graph.plan.kernels[0].name, "r_5_42_4_3_3");
}

static void two_convolutions_are_two(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(1, 4, 6, 6)), *w = graph_input(&graph, DIMS(4, 4, 3, 3));
  UOp *y = relu(&graph, conv3(&graph, x, w));
  y = uop2(&job, OP_ADD, conv3(&graph, y, w), y);
  graph_output(&graph, relu(&graph, y));
  expect_calls(&graph, 2);
}

static void gather_is_one(void **state) {
  (void)state;
  UOp *table = graph_input(&graph, DIMS(20, 8));
  UOp *at = graph_param(&graph, SLOT_INPUT, DT_I64, DIMS(3, 5));
  UOp *src[] = {table, at};
  graph_output(&graph, uop_make(&job, OP_GATHER, DT_VOID, arg_i(0), src, 2));
  expect_calls(&graph, 1);
}

static void gather_of_gather_is_one(void **state) {
  (void)state;
  UOp *table = graph_input(&graph, DIMS(6, 8, 3));
  UOp *at = graph_param(&graph, SLOT_INPUT, DT_I32, DIMS(4));
  UOp *of = graph_param(&graph, SLOT_INPUT, DT_I64, DIMS(8, 2));
  UOp *inner = uop_make(&job, OP_GATHER, DT_VOID, arg_i(0), (UOp *[]){of, at}, 2);
  UOp *x = uop_make(&job, OP_GATHER, DT_VOID, arg_i(1), (UOp *[]){table, inner}, 2);
  graph_output(&graph, uop_make(&job, OP_GATHER, DT_VOID, arg_i(0), (UOp *[]){x, at}, 2));
  expect_calls(&graph, 1);
}

static void arange_sum_is_none(void **state) {
  (void)state;
  UOp *x = uop_make(&job, OP_IOTA, DT_I64, arg_both(0, DIMS(10000)), NULL, 0);
  graph_output(&graph, t_reshape(&graph, t_reduce(&graph, OP_ADD, x, DIMS(0)), NULL, 0));
  expect_calls(&graph, 0);
  assert_int_equal(graph.plan.buffers[0].constant.len, 8);
}

static void constant_in_a_graph_is_no_reduce(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(4, 5));
  UOp *n = uop_make(&job, OP_IOTA, DT_F32, arg_both(1, DIMS(4, 5)), NULL, 0);
  UOp *m = uop_make(&job, OP_IOTA, DT_F32, arg_both(0, DIMS(4, 5)), NULL, 0);
  x = uop2(&job, OP_MUL, x, reduced(&graph, OP_ADD, n, 1));
  graph_output(&graph, uop2(&job, OP_MUL, x, reduced(&graph, OP_ADD, m, 1)));
  expect_calls(&graph, 1);
  assert_int_equal(count_reduces(&graph), 0);
}

static void transposed_diamond_is_one(void **state) {
  (void)state;
  UOp *e = uop1(&job, OP_EXP, graph_input(&graph, DIMS(4, 4)));
  graph_output(&graph, uop2(&job, OP_ADD, e, t_permute(&graph, e, DIMS(1, 0))));
  expect_calls(&graph, 1);
}

static void cat_of_matmuls_writes_slices(void **state) {
  (void)state;
  UOp *a = graph_input(&graph, DIMS(16, 16)), *b = graph_input(&graph, DIMS(16, 16));
  UOp *m = matmul(&graph, a, b), *n = relu(&graph, matmul(&graph, b, a));
  UOp *inner = uop_make(&job, OP_CAT, DT_VOID, arg_i(1), (UOp *[]){m, n}, 2);
  UOp *p = matmul(&graph, t_int(&graph, OP_SHRINK, inner, DIMS(0, 16, 8, 24)), a);
  UOp *outer = uop_make(&job, OP_CAT, DT_VOID, arg_i(0),
                        (UOp *[]){inner, t_reshape(&graph, p, DIMS(8, 32))}, 2);
  graph_output(&graph, uop2(&job, OP_MUL, outer, t_f32(&graph, 2)));
  graph_output(&graph, uop2(&job, OP_MUL, m, t_f32(&graph, 3)));
  expect_calls(&graph, 5);
}

static void slices_share_a_kernel(void **state) {
  (void)state;
  UOp *a = graph_input(&graph, DIMS(16, 16)), *b = graph_input(&graph, DIMS(16, 16)), *parts[3];
  parts[0] = matmul(&graph, a, b);
  parts[1] = matmul(&graph, b, a);
  parts[2] = matmul(&graph, a, a);
  graph_output(&graph, uop_make(&job, OP_CAT, DT_VOID, arg_i(0), parts, 3));
  expect_calls(&graph, 3);
  assert_int_equal(graph.plan.nkernels, 2); /* a times a has one argument less */
}

static void heads_are_stored_merged(void **state) {
  (void)state;
  UOp *p = graph_input(&graph, DIMS(4, 32, 32)), *v = graph_input(&graph, DIMS(4, 8, 32));
  UOp *w = graph_input(&graph, DIMS(32, 16));
  UOp *x = t_expand(&graph, t_reshape(&graph, p, DIMS(4, 32, 1, 32)), DIMS(4, 32, 8, 32));
  UOp *y = t_expand(&graph, t_reshape(&graph, v, DIMS(4, 1, 8, 32)), DIMS(4, 32, 8, 32));
  x = t_reduce(&graph, OP_ADD, uop2(&job, OP_MUL, x, y), DIMS(3));
  x = t_permute(&graph, t_reshape(&graph, x, DIMS(4, 32, 8)), DIMS(1, 0, 2));
  graph_output(&graph, matmul(&graph, t_reshape(&graph, x, DIMS(32, 32)), w));
  expect_calls(&graph, 2);
  assert_string_equal(graph.plan.kernels[0].name, "r_4_32_8_32");
  assert_string_equal(graph.plan.kernels[1].name, "r_32_16_32");
}

static void cheap_cat_is_inlined(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(6, 8));
  UOp *lo = t_int(&graph, OP_SHRINK, x, DIMS(0, 6, 0, 4));
  UOp *hi = uop1(&job, OP_NEG, t_int(&graph, OP_SHRINK, x, DIMS(0, 6, 4, 8)));
  UOp *rotated = uop_make(&job, OP_CAT, DT_VOID, arg_i(1), (UOp *[]){hi, lo}, 2);
  graph_output(&graph, uop2(&job, OP_ADD, x, rotated));
  expect_calls(&graph, 1);
}

static void pooling_then_matmul_is_two(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(8, 16, 9)), *w = graph_input(&graph, DIMS(16, 32));
  UOp *pooled = t_reshape(&graph, t_reduce(&graph, OP_ADD, x, DIMS(2)), DIMS(8, 16));
  graph_output(&graph, matmul(&graph, pooled, w));
  expect_calls(&graph, 2);
}

static void long_sum_is_split(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(65536));
  graph_output(&graph, t_reduce(&graph, OP_ADD, x, DIMS(0)));
  expect_calls(&graph, 2);
}

static void outputs_in_every_shape(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(4, 6));
  UOp *y = uop1(&job, OP_NEG, x), *c = t_reshape(&graph, t_f32(&graph, 3), DIMS(1, 1));
  graph_output(&graph, x);
  graph_output(&graph, y);
  graph_output(&graph, t_reshape(&graph, y, DIMS(24)));
  graph_output(&graph, t_permute(&graph, y, DIMS(1, 0)));
  graph_output(&graph, t_expand(&graph, c, DIMS(5, 7)));
  graph_output(&graph, t_int(&graph, OP_SHRINK, x, DIMS(2, 2, 0, 6)));
  expect_calls(&graph, 4);
}

static void chain_is_cut_into_kernels(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(4));
  for (int k = 0; k < 1000; k++) x = uop1(&job, k % 2 ? OP_SIN : OP_NEG, x);
  graph_output(&graph, x);
  graph_plan(&graph);
  assert_in_range(graph.plan.ncalls, 2, 8);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

/* -- plans as a whole -------------------------------------------------------------------------- */

static size_t nodes_for_chain(int n) {
  Job own;
  Graph g;
  job_init(&own, 0);
  graph_init(&g, &own);
  UOp *x = graph_input(&g, DIMS(16, 64));
  for (int k = 0; k < n; k++) {
    x = k % 2 ? uop1(&own, OP_NEG, x) : uop2(&own, OP_SUB, x, reduced_in(&own, x));
  }
  graph_output(&g, x);
  graph_plan(&g);
  size_t nodes = own.next_id;
  job_deinit(&own);
  return nodes;
}

static void work_grows_linearly(void **state) {
  (void)state;
  size_t small = nodes_for_chain(200), large = nodes_for_chain(2000);
  assert_true(large <= 12 * small);
}

/* No two temporaries that are alive at the same call share a byte. */
static void check_temporaries(const Plan *p) {
  for (size_t a = 0; a < p->nbuffers; a++) {
    for (size_t b = a + 1; b < p->nbuffers; b++) {
      const PlanBuffer *x = &p->buffers[a], *y = &p->buffers[b];
      if (x->kind != PB_TEMP || y->kind != PB_TEMP) continue;
      size_t first[2] = {SIZE_MAX, SIZE_MAX}, last[2] = {0};
      for (size_t c = 0; c < p->ncalls; c++) {
        for (uint32_t k = 0; k < p->calls[c].nargs; k++) {
          for (int w = 0; w < 2; w++) {
            if (p->calls[c].args[k] != (w ? b : a)) continue;
            if (first[w] == SIZE_MAX) first[w] = c;
            last[w] = c;
          }
        }
      }
      bool together = first[0] <= last[1] && first[1] <= last[0];
      int64_t xend = x->offset + x->numel * dtype_info[x->dtype].bytes;
      int64_t yend = y->offset + y->numel * dtype_info[y->dtype].bytes;
      assert_true(!together || x->offset >= yend || y->offset >= xend);
      assert_true(x->offset % 64 == 0 && xend <= p->temp_bytes);
    }
  }
}

static void memory_is_reused(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(32, 32)), *w = graph_input(&graph, DIMS(32, 32)), *first = NULL;
  for (int k = 0; k < 12; k++) {
    x = matmul(&graph, x, w);
    if (k == 2) first = x;
  }
  graph_output(&graph, uop2(&job, OP_ADD, x, first));
  expect_calls(&graph, 12);
  check_temporaries(&graph.plan);
  assert_int_equal(graph.plan.temp_bytes, 3 * 32 * 32 * 4); /* one kept, two in turn */
}

/* An index of 2^63 and more is outside, not before, its tensor. */
static void gather_by_u64(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(7));
  UOp *at = graph_param(&graph, SLOT_INPUT, DT_U64, DIMS(40)); /* some wrap below zero */
  graph_output(&graph, uop_make(&job, OP_GATHER, DT_VOID, arg_i(0), (UOp *[]){x, at}, 2));
  graph_plan(&graph);
  assert_true(plan_equals_graph(&graph, 0));
}

/* What is gathered from a coordinate is an index that is inside by its meaning, not by the bounds
 * of the numbers it is computed from: the second load keeps its gate. */
static void gather_by_gathered(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(17));
  UOp *at = graph_param(&graph, SLOT_INPUT, DT_U8, DIMS(30));
  UOp *iota = uop_make(&job, OP_IOTA, DT_I32, arg_both(0, DIMS(16)), NULL, 0);
  at = uop_make(&job, OP_GATHER, DT_VOID, arg_i(0), (UOp *[]){iota, at}, 2);
  graph_output(&graph, uop_make(&job, OP_GATHER, DT_VOID, arg_i(0), (UOp *[]){x, at}, 2));
  expect_calls(&graph, 1);
  UOpList list = uop_toposort(&job, graph.plan.kernels[0].sink);
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    if (u->op != OP_INDEX || (u->nsrc > 2 && !uop_is_const(u->src[2]))) continue;
    assert_true(u->src[1]->vmax < shape_numel(u->src[0]->shape));
  }
}

/* -- 16-bit floats ----------------------------------------------------------------------------- */

/* No sum or product in a plan rounds at each step, and `products` of them sum products of widened
 * factors. */
static void expect_wide(Graph *g, size_t calls, size_t products) {
  size_t n = 0;
  graph_plan(g);
  if (g->plan.ncalls != calls) show_plan(g);
  assert_int_equal(g->plan.ncalls, calls);
  for (size_t c = 0; c < g->plan.ncalls; c++) {
    UOpList list = uop_toposort(g->job, g->plan.kernels[g->plan.calls[c].kernel].sink);
    for (size_t i = 0; i < list.len; i++) {
      const UOp *u = list.at[i];
      if (u->op != OP_REDUCE || u->arg.i == OP_MAX) continue;
      assert_int_equal(u->dtype, DT_F32);
      n += u->src[0]->op == OP_MUL && u->src[0]->src[0]->op == OP_CAST;
    }
  }
  assert_int_equal(n, products);
}

static UOp *half_input(Graph *g, DType dtype, const int64_t *dims, size_t n) {
  return graph_param(g, SLOT_INPUT, dtype, dims, n);
}

static void half_sums_are_f32(void **state) {
  (void)state;
  UOp *x = half_input(&graph, DT_F16, DIMS(8, 300));
  UOp *y = half_input(&graph, DT_BF16, DIMS(8, 300));
  graph_output(&graph, t_reduce(&graph, OP_ADD, x, DIMS(1)));
  graph_output(&graph, t_reduce(&graph, OP_MUL, y, DIMS(1)));
  graph_output(&graph, t_reduce(&graph, OP_MAX, x, DIMS(1)));
  expect_wide(&graph, 3, 0);
  assert_true(plan_equals_graph(&graph, 1e-2));
}

static void half_max_stays_half(void **state) {
  (void)state;
  UOp *x = half_input(&graph, DT_F16, DIMS(8, 300));
  graph_output(&graph, t_reduce(&graph, OP_MAX, x, DIMS(1)));
  graph_plan(&graph);
  UOpList list = uop_toposort(&job, graph.plan.kernels[0].sink);
  for (size_t i = 0; i < list.len; i++) assert_int_not_equal(list.at[i]->dtype, DT_F32);
}

static void half_matmul_is_a_contraction(void **state) {
  (void)state;
  UOp *a = half_input(&graph, DT_F16, DIMS(20, 30)), *b = half_input(&graph, DT_F16, DIMS(30, 40));
  graph_output(&graph, matmul(&graph, a, b));
  expect_wide(&graph, 1, 1);
  assert_true(plan_equals_graph(&graph, 1e-2));
}

/* The product is summed after it was moved about. */
static void half_product_behind_moves(void **state) {
  (void)state;
  UOp *a = half_input(&graph, DT_BF16, DIMS(6, 8)), *b = half_input(&graph, DT_BF16, DIMS(6, 8));
  UOp *x = t_permute(&graph, uop2(&job, OP_MUL, a, b), DIMS(1, 0));
  x = t_reshape(&graph, x, DIMS(4, 12));
  graph_output(&graph, t_reduce(&graph, OP_ADD, x, DIMS(1)));
  expect_wide(&graph, 1, 1);
}

static void split_half_sum_stays_wide(void **state) {
  (void)state;
  UOp *x = half_input(&graph, DT_F16, DIMS(1 << 17));
  graph_output(&graph, t_reduce(&graph, OP_ADD, x, DIMS(0)));
  expect_wide(&graph, 2, 0);
  for (size_t b = 0; b < graph.plan.nbuffers; b++) {
    if (graph.plan.buffers[b].kind == PB_TEMP)
      assert_int_equal(graph.plan.buffers[b].dtype, DT_F32);
  }
}

static void plan_for_gpu(Job *j, void *arg) {
  Graph *g = arg;
  plan_build(j, &g->tg, &zoo_cuda, &g->plan);
}

/* A few vectors times a matrix for each of some heads, the sum along its rows or across them. */
static void expect_few(int64_t heads, int64_t vectors, int64_t keys, bool across, uint32_t calls) {
  enum { WIDTH = 128 };
  Graph g;
  graph_init(&g, &job);
  const int64_t rows[] = {heads, across ? keys : WIDTH, across ? WIDTH : keys};
  UOp *w = half_input(&g, DT_BF16, DIMS(heads, vectors, keys)),
      *v = half_input(&g, DT_BF16, rows, 3);
  if (across) v = t_permute(&g, v, DIMS(0, 2, 1));
  v = t_expand(&g, t_reshape(&g, v, DIMS(heads, 1, WIDTH, keys)),
               DIMS(heads, vectors, WIDTH, keys));
  w = t_expand(&g, t_reshape(&g, w, DIMS(heads, vectors, 1, keys)),
               DIMS(heads, vectors, WIDTH, keys));
  graph_output(&g, t_reduce(&g, OP_ADD, uop2(&job, OP_MUL, w, v), DIMS(3)));
  Status st = job_run(&job, plan_for_gpu, &g);
  assert_null(st);
  assert_int_equal(g.plan.ncalls, calls);
}

/* Where heads are too few to keep the processors busy the sum is cut, if it is long. */
static void few_vectors_of_few_heads(void **state) {
  (void)state;
  expect_few(8, 4, 16384, true, 2);
  expect_few(33, 1, 1024, true, 2);
  expect_few(34, 1, 1024, true, 1);  /* more than half have a tile */
  expect_few(8, 4, 512, true, 1);    /* a piece would be short */
  expect_few(8, 16, 16384, true, 1); /* rows of instructions for matrices */
  expect_few(8, 4, 16384, false, 1); /* threads share a row as it is */
}

typedef struct Small {
  Graph *g;
  uint64_t memory;
} Small;

static void plan_small(Job *j, void *arg) {
  const Small *s = arg;
  Target target = test_target;
  target.memory_bytes = s->memory;
  plan_build(j, &s->g->tg, &target, &s->g->plan);
}

static void expect_refused(Graph *g, uint64_t memory, const char *why) {
  Small s = {g, memory};
  check_refused(job_run(&job, plan_small, &s), ST_RESOURCE_EXHAUSTED, why);
}

static void too_large_plans_are_refused(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(100, 100));
  graph.slots[0].name = STR("pixels");
  graph_output(&graph, t_reduce(&graph, OP_ADD, x, DIMS(1)));
  expect_refused(&graph, 39999, "input 'pixels' of 10000 f32 takes 40000 bytes");
  expect_refused(&graph, 40001, "the largest buffer, input 'pixels' of 10000 f32, takes 40000");
}

/* -- what is done once ------------------------------------------------------------------------- */

/* One output of that shape, and weights behind it. */
static UOp *output_first(int64_t rows, int64_t cols) {
  return graph_param(&graph, SLOT_OUTPUT, DT_F32, DIMS(rows, cols));
}
static UOp *weight(const int64_t *dims, size_t n) {
  return graph_param(&graph, SLOT_WEIGHT, DT_F32, dims, n);
}
static void store_output(UOp *out, UOp *value) {
  graph.stores[0] = uop2(&job, OP_STORE, out, value);
  graph.tg.sink = uop_make(&job, OP_SINK, DT_VOID, arg_none(), graph.stores, 1);
}

static const PlanBuffer *kept_buffer(size_t *n) {
  const PlanBuffer *kept = NULL;
  *n = 0;
  for (size_t b = 0; b < graph.plan.nbuffers; b++) {
    if (graph.plan.buffers[b].kind != PB_KEPT) continue;
    kept = &graph.plan.buffers[b];
    ++*n;
  }
  return kept;
}

/* A weight that is centred and scaled before a matmul of many rows; its mean is one kernel more,
 * whose result nobody needs afterwards. */
static void prepared_weights_are_kept(void **state) {
  (void)state;
  size_t n;
  UOp *x = graph_input(&graph, DIMS(64, 96)), *out = output_first(64, 96);
  UOp *w = weight(DIMS(96, 96)), *s = weight(DIMS(96));
  UOp *centred = uop2(&job, OP_SUB, w, mean(&graph, w, 0));
  UOp *scaled = uop2(&job, OP_MUL, uop1(&job, OP_EXP, centred), row(&graph, s, w));
  store_output(out, matmul(&graph, x, scaled));
  graph_plan(&graph);
  const PlanBuffer *kept = kept_buffer(&n);
  assert_int_equal(n, 1);
  assert_int_equal(kept->numel, 96 * 96);
  assert_int_equal(graph.plan.kept_bytes, 96 * 96 * 4);
  assert_int_equal(graph.plan.ncalls, graph.plan.nonce + 1);
  check_temporaries(&graph.plan);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

static void cheap_weights_are_not_kept(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(1, 96)), *out = output_first(1, 96);
  UOp *w = weight(DIMS(96, 96)), *s = weight(DIMS(96));
  UOp *scaled = uop2(&job, OP_MUL, uop2(&job, OP_ADD, w, t_f32(&graph, 1)), row(&graph, s, w));
  store_output(out, matmul(&graph, x, scaled));
  expect_calls(&graph, 1);
  assert_int_equal(graph.plan.nonce, 0);
}

/* An output that depends on weights alone is written by every run, from what is kept. */
static void fixed_outputs_are_copied(void **state) {
  (void)state;
  UOp *out = output_first(32, 32), *w = weight(DIMS(32, 32));
  UOp *packed = uop1(&job, OP_CONTIGUOUS, t_permute(&graph, w, DIMS(1, 0)));
  store_output(out, packed);
  expect_calls(&graph, 2);
  assert_int_equal(graph.plan.nonce, 1);
}

/* A fixed part of a CAT that is not. */
static void fixed_slices_are_copied(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(8, 32)), *out = output_first(24, 32), *w = weight(DIMS(16, 32));
  UOp *y = matmul(&graph, x, weight(DIMS(32, 32)));
  UOp *parts[] = {y, uop1(&job, OP_CONTIGUOUS, uop1(&job, OP_EXP, w))};
  store_output(out, uop_make(&job, OP_CAT, DT_VOID, arg_i(0), parts, 2));
  graph_plan(&graph);
  assert_int_equal(graph.plan.nonce, 1);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      T(elementwise_is_one),
      T(softmax_is_one),
      T(softmax_of_inner_axis_is_one),
      T(log_softmax_is_one),
      T(layernorm_is_one),
      T(matmul_bias_relu_is_one),
      T(chained_matmuls_are_two),
      T(attention_is_one),
      T(attention_whose_weights_are_read_is_three),
      T(deep_contractions_around_a_norm_are_three),
      T(conv_batchnorm_relu_residual_is_one),
      T(two_convolutions_are_two),
      T(gather_is_one),
      T(gather_of_gather_is_one),
      T(arange_sum_is_none),
      T(constant_in_a_graph_is_no_reduce),
      T(transposed_diamond_is_one),
      T(cat_of_matmuls_writes_slices),
      T(slices_share_a_kernel),
      T(heads_are_stored_merged),
      T(cheap_cat_is_inlined),
      T(pooling_then_matmul_is_two),
      T(long_sum_is_split),
      T(outputs_in_every_shape),
      T(chain_is_cut_into_kernels),
      T(work_grows_linearly),
      T(memory_is_reused),
      T(gather_by_u64),
      T(gather_by_gathered),
      T(half_sums_are_f32),
      T(half_max_stays_half),
      T(half_matmul_is_a_contraction),
      T(half_product_behind_moves),
      T(split_half_sum_stays_wide),
      T(few_vectors_of_few_heads),
      T(too_large_plans_are_refused),
      T(prepared_weights_are_kept),
      T(cheap_weights_are_not_kept),
      T(fixed_outputs_are_copied),
      T(fixed_slices_are_copied),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
