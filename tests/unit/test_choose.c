/* Halves that are computed from the same sums: made by the kernel that computes these, and that
 * nothing changes. */
#include "tests/unit/zoo_targets.h"
#define PLAN_TARGET zoo_cuda
#include "tests/unit/plan_fixture.h"

enum { HEADS = 4, HALF = 8, DEEP = 32, ROW = HEADS * 2 * HALF };

/* Half `part` of each head. */
static UOp *half(UOp *y, int64_t part) {
  int64_t bounds[6] = {0, HEADS, part, part + 1, 0, HALF};
  y = t_reshape(&graph, y, DIMS(HEADS, 2, HALF));
  return t_reshape(&graph, t_int(&graph, OP_SHRINK, y, bounds, 6), DIMS(HEADS, HALF));
}

static UOp *turned(UOp *y, UOp *cos, UOp *sin) {
  UOp *a = half(y, 0), *b = half(y, 1), *part[2];
  cos = t_expand(&graph, t_reshape(&graph, cos, DIMS(1, HALF)), DIMS(HEADS, HALF));
  sin = t_expand(&graph, t_reshape(&graph, sin, DIMS(1, HALF)), DIMS(HEADS, HALF));
  part[0] = uop2(&job, OP_SUB, uop2(&job, OP_MUL, a, cos), uop2(&job, OP_MUL, b, sin));
  part[1] = uop2(&job, OP_ADD, uop2(&job, OP_MUL, b, cos), uop2(&job, OP_MUL, a, sin));
  return uop_make(&job, OP_CAT, DT_VOID, arg_i(1), part, 2);
}

static UOp *product(UOp *x, UOp *w) {
  x = t_expand(&graph, t_reshape(&graph, x, DIMS(1, DEEP)), DIMS(ROW, DEEP));
  UOp *y = t_reduce(&graph, OP_ADD, uop2(&job, OP_MUL, x, w), DIMS(1));
  return t_reshape(&graph, y, DIMS(ROW));
}

static void a_turned_product_is_one_kernel(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(DEEP)), *w = graph_input(&graph, DIMS(ROW, DEEP));
  UOp *cos = graph_input(&graph, DIMS(HALF)), *sin = graph_input(&graph, DIMS(HALF));
  graph_output(&graph, turned(product(x, w), cos, sin));
  graph_plan(&graph);
  assert_int_equal(graph.plan.ncalls, 1);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

/* Somebody else wants the product too. */
static void what_others_read_is_stored(void **state) {
  (void)state;
  UOp *x = graph_input(&graph, DIMS(DEEP)), *w = graph_input(&graph, DIMS(ROW, DEEP));
  UOp *cos = graph_input(&graph, DIMS(HALF)), *sin = graph_input(&graph, DIMS(HALF));
  UOp *y = product(x, w);
  UOp *turn = t_reshape(&graph, turned(y, cos, sin), DIMS(ROW));
  graph_output(&graph, uop2(&job, OP_ADD, turn, y));
  graph_plan(&graph);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      T(a_turned_product_is_one_kernel),
      T(what_others_read_is_stored),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
