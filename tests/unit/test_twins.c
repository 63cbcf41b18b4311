/* Products of one tensor with different weights: which are done together, and that nothing changes.
 */
#include "tests/unit/zoo_targets.h"
#define PLAN_TARGET zoo_cuda
#include "tests/unit/plan_fixture.h"

enum { ROWS = 6, WIDTH = 16 };

static UOp *weight(SlotKind kind, const int64_t *dims, size_t n) {
  return graph_param(&graph, kind, DT_F32, dims, n);
}

/* x [ROWS, WIDTH] times w [WIDTH, n] plus b [n]. */
static UOp *linear(UOp *x, UOp *w, UOp *b) {
  int64_t n = w->shape.at[1];
  x = t_expand(&graph, t_reshape(&graph, x, DIMS(ROWS, 1, WIDTH)), DIMS(ROWS, n, WIDTH));
  w = t_permute(&graph, w, DIMS(1, 0));
  w = t_expand(&graph, t_reshape(&graph, w, DIMS(1, n, WIDTH)), DIMS(ROWS, n, WIDTH));
  UOp *y = t_reduce(&graph, OP_ADD, uop2(&job, OP_MUL, x, w), DIMS(2));
  b = t_expand(&graph, t_reshape(&graph, b, DIMS(1, n)), DIMS(ROWS, n));
  return uop2(&job, OP_ADD, t_reshape(&graph, y, DIMS(ROWS, n)), b);
}

/* Three of them, as columns of the output's rows of 3, 5 and 7; the last may have another size, or
 * weights that come with a run. */
static void three(int64_t last, SlotKind kind) {
  UOp *x = graph_input(&graph, DIMS(ROWS, WIDTH)), *w[3], *b[3], *y[3];
  if (kind == SLOT_INPUT) w[2] = weight(kind, DIMS(WIDTH, last));
  size_t outputs = graph.tg.nslots;
  for (int i = 0; i < 3; i++)
    graph_param(&graph, SLOT_OUTPUT, DT_F32, DIMS(ROWS, i < 2 ? WIDTH : last));
  for (int i = 0; i < 3; i++) {
    int64_t n = i < 2 ? WIDTH : last;
    if (i < 2 || kind != SLOT_INPUT) w[i] = weight(SLOT_WEIGHT, DIMS(WIDTH, n));
    b[i] = weight(SLOT_WEIGHT, DIMS(n));
    y[i] = linear(x, w[i], b[i]);
    if (i) y[i] = uop1(&job, i > 1 ? OP_EXP : OP_SQRT, uop2(&job, OP_MUL, y[i], y[i]));
    UOp *out = uop_param(&job, (int64_t)outputs + i, DT_F32, DIMS(ROWS, n));
    graph.stores[i] = uop2(&job, OP_STORE, out, y[i]);
  }
  graph.tg.sink = uop_make(&job, OP_SINK, DT_VOID, arg_none(), graph.stores, 3);
  graph_plan(&graph);
}

/* How many kernels of a run sum anything. */
static size_t sums(void) {
  size_t n = 0;
  for (size_t c = graph.plan.nonce; c < graph.plan.ncalls; c++) {
    UOpList list = uop_toposort(&job, graph.plan.kernels[graph.plan.calls[c].kernel].sink);
    bool any = false;
    for (size_t i = 0; i < list.len; i++) any |= list.at[i]->op == OP_REDUCE;
    n += any;
  }
  return n;
}

static void equal_products_are_one(void **state) {
  (void)state;
  three(WIDTH, SLOT_WEIGHT);
  assert_int_equal(sums(), 1);
  assert_int_equal(graph.plan.nonce, 2); /* weights, and biases */
  assert_true(plan_equals_graph(&graph, 1e-4));
}

static void another_size_stays_alone(void **state) {
  (void)state;
  three(WIDTH + 3, SLOT_WEIGHT);
  assert_int_equal(sums(), 2);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

static void weights_of_a_run_stay_alone(void **state) {
  (void)state;
  three(WIDTH, SLOT_INPUT);
  assert_int_equal(sums(), 2);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

/* A product that meets another right behind it shares a kernel with it already. */
static void what_meets_is_left_alone(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(ROWS, WIDTH)), *y[2];
  graph_param(&graph, SLOT_OUTPUT, DT_F32, DIMS(ROWS, WIDTH));
  for (int i = 0; i < 2; i++) {
    UOp *w = weight(SLOT_WEIGHT, DIMS(WIDTH, WIDTH));
    y[i] = linear(x, w, weight(SLOT_WEIGHT, DIMS(WIDTH)));
  }
  UOp *out = uop_param(&job, 1, DT_F32, DIMS(ROWS, WIDTH));
  graph.stores[0] = uop2(&job, OP_STORE, out, uop2(&job, OP_MUL, uop1(&job, OP_NEG, y[0]), y[1]));
  graph.tg.sink = uop_make(&job, OP_SINK, DT_VOID, arg_none(), graph.stores, 1);
  graph_plan(&graph);
  assert_int_equal(graph.plan.nonce, 0);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      T(equal_products_are_one),
      T(another_size_stays_alone),
      T(weights_of_a_run_stay_alone),
      T(what_meets_is_left_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
