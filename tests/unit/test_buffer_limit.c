/* Devices that allow a kernel 8 or 31 buffers: plans stay within, and give the same. */
#include "tests/unit/plan_fixture.h"

static uint32_t limit;

static void plan_limited(Job *j, void *arg) {
  Graph *g = arg;
  Target target = test_target;
  target.max_buffers = limit;
  plan_build(j, &g->tg, &target, &g->plan);
}

static size_t most_buffers(const Graph *g) {
  size_t most = 0;
  for (size_t k = 0; k < g->plan.nkernels; k++)
    if (g->plan.kernels[k].nargs > most) most = g->plan.kernels[k].nargs;
  return most;
}

/* Planned with the limit, it needs that many kernels and gives what the graph gives. */
static void expect_kernels(uint32_t buffers, size_t least, size_t most) {
  limit = buffers;
  check(job_run(&job, plan_limited, &graph));
  if (limit) assert_true(most_buffers(&graph) <= limit);
  if (graph.plan.ncalls < least || graph.plan.ncalls > most) {
    show_plan(&graph);
    fail_msg("%zu kernels with at most %u buffers", graph.plan.ncalls, buffers);
  }
  assert_true(plan_equals_graph(&graph, 1e-4));
}

static UOp *sum_of_inputs(int n, int64_t size) {
  UOp *sum = NULL;
  for (int i = 0; i < n; i++) {
    UOp *x = graph_input(&graph, DIMS(size));
    sum = sum ? uop2(&job, OP_ADD, sum, x) : x;
  }
  return sum;
}

static void sums_are_split(void **state) {
  (void)state;
  graph_output(&graph, sum_of_inputs(40, 50));
  expect_kernels(0, 1, 1);
  expect_kernels(31, 2, 2);
  expect_kernels(8, 6, 7); /* six more inputs each */
  expect_kernels(4, 13, 20);
}

/* A tree, so that a kernel has many tensors undecided at once. */
static void trees_are_split(void **state) {
  (void)state;
  UOp *level[32];
  for (int i = 0; i < 32; i++) level[i] = graph_input(&graph, DIMS(30));
  for (int n = 32; n > 1; n /= 2)
    for (int i = 0; i < n / 2; i++) level[i] = uop2(&job, OP_MUL, level[2 * i], level[2 * i + 1]);
  graph_output(&graph, level[0]);
  expect_kernels(0, 1, 1);
  expect_kernels(31, 2, 3);
  expect_kernels(8, 5, 9);
}

/* A reduction over what has many sources, and what is done with its result. */
static void reductions_are_split(void **state) {
  (void)state;
  UOp *x = sum_of_inputs(12, 64), *sum = t_reduce(&graph, OP_ADD, x, DIMS(0));
  UOp *wide = t_expand(&graph, sum, DIMS(64));
  for (int i = 0; i < 12; i++) wide = uop2(&job, OP_MUL, wide, graph_input(&graph, DIMS(64)));
  graph_output(&graph, wide);
  expect_kernels(0, 1, 2);
  expect_kernels(8, 4, 6);
}

/* A CAT of many that a kernel would read as one. */
static void parts_are_split(void **state) {
  (void)state;
  UOp *parts[20];
  for (int i = 0; i < 20; i++) parts[i] = graph_input(&graph, DIMS(2));
  UOp *cat = uop_make(&job, OP_CAT, DT_VOID, arg_i(0), parts, 20);
  graph_output(&graph, uop2(&job, OP_MUL, cat, graph_input(&graph, DIMS(40))));
  expect_kernels(0, 1, 21);
  expect_kernels(8, 2, 22);
}

/* One tensor that two kernels ask for. */
static void shared_tensors(void **state) {
  (void)state;
  UOp *x = sum_of_inputs(9, 40);
  graph_output(&graph, uop1(&job, OP_EXP, x));
  graph_output(&graph, t_reduce(&graph, OP_MAX, x, DIMS(0)));
  expect_kernels(8, 3, 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      T(sums_are_split),  T(trees_are_split), T(reductions_are_split),
      T(parts_are_split), T(shared_tensors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
