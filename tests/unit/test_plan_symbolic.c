/* Plans over symbolic sizes: by hand, and what kernels are made of. */
#include "symbolic_check.h"

static int setup(void **state) {
  static Job job;
  job_init(&job, (size_t)1 << 30);
  *state = &job;
  return 0;
}

static int teardown(void **state) {
  job_deinit(*state);
  return 0;
}

#define AT(...) ((int64_t[MAX_VARS]){__VA_ARGS__})

static size_t count_op(Sized *s, Op op) {
  size_t n = 0;
  for (size_t k = 0; k < s->g.plan.nkernels; k++) {
    UOpList list = uop_toposort(s->g.job, s->g.plan.kernels[k].sink);
    for (size_t i = 0; i < list.len; i++) n += list.at[i]->op == op;
  }
  return n;
}

static void test_elementwise(void **state) {
  Sized s;
  sized_init(&s, *state);
  Job *job = *state;
  int64_t b = sized_var(&s, VAR_INPUT, 1, 64, 1), n = sized_var(&s, VAR_INPUT, 1, 512, 1);
  UOp *x = graph_input(&s.g, DIMS(b, n, 8)), *w = graph_input(&s.g, DIMS(8));
  w = t_expand(&s.g, t_reshape(&s.g, w, DIMS(1, 1, 8)), DIMS(b, n, 8));
  graph_output(&s.g, uop2(job, OP_ADD, uop2(job, OP_MUL, x, w), t_f32(&s.g, 1)));
  sized_finish(&s);
  graph_plan(&s.g);
  assert_int_equal(s.g.plan.ncalls, 1);
  assert_int_equal(count_op(&s, OP_FLOORDIV) + count_op(&s, OP_FLOORMOD), 0);
  assert_int_equal(count_op(&s, OP_WHERE), 0);
  expect_equal_at(&s, AT(1, 1));
  expect_equal_at(&s, AT(3, 7));
}

/* The least of no numbers is the largest there is, and no element: the distance of that from what
 * lies inside is no number any more. */
static void test_far_index(void **state) {
  Sized s;
  sized_init(&s, *state);
  Job *job = *state;
  int64_t m = sized_var(&s, VAR_INPUT, 1, 64, 1), n = sized_var(&s, VAR_INPUT, 4, 4096, 4);
  UOp *x = graph_input(&s.g, DIMS(3, m, n));
  x = t_reshape(&s.g, x, DIMS(dim_mul(job, dim_mul(job, m, n), 3)));
  int64_t dims[2] = {1, n};
  UOp *at = uop_make(job, OP_IOTA, DT_I64, arg_both(1, dims, 2), NULL, 0);
  at = t_reduce(&s.g, OP_MIN, t_int(&s.g, OP_SHRINK, at, DIMS(0, 0, 0, n)), DIMS(0));
  graph_output(&s.g, uop_make(job, OP_GATHER, DT_VOID, arg_i(0), (UOp *[]){x, at}, 2));
  sized_finish(&s);
  graph_plan(&s.g);
  expect_equal_at(&s, AT(1, 4));
  expect_equal_at(&s, AT(3, 8));
}

/* [b, n, 24] -> [b*n, 24] -> [b, n, 3, 8] -> [b, 3, n, 8]: no division is left, no gate. */
static void test_heads(void **state) {
  Sized s;
  sized_init(&s, *state);
  Job *job = *state;
  int64_t b = sized_var(&s, VAR_INPUT, 1, 64, 1), n = sized_var(&s, VAR_INPUT, 1, 512, 1);
  UOp *x = graph_input(&s.g, DIMS(b, n, 24));
  UOp *y = t_reshape(&s.g, x, DIMS(dim_mul(job, b, n), 24));
  y = uop2(job, OP_MUL, y, t_f32(&s.g, 2));
  y = t_permute(&s.g, t_reshape(&s.g, y, DIMS(b, n, 3, 8)), DIMS(0, 2, 1, 3));
  graph_output(&s.g, y);
  graph_output(&s.g, t_reshape(&s.g, x, DIMS(dim_mul(job, n, b), 24)));
  sized_finish(&s);
  graph_plan(&s.g);
  assert_int_equal(count_op(&s, OP_FLOORDIV) + count_op(&s, OP_FLOORMOD), 0);
  expect_equal_at(&s, AT(1, 1));
  expect_equal_at(&s, AT(2, 5));
}

static UOp *softmax(Sized *s, UOp *x, int64_t axis) {
  Job *job = s->g.job;
  UOp *m = t_expand(&s->g, t_reduce(&s->g, OP_MAX, x, DIMS(axis)), x->shape.at, x->shape.n);
  UOp *e = uop1(job, OP_EXP, uop2(job, OP_SUB, x, m));
  UOp *sum = t_expand(&s->g, t_reduce(&s->g, OP_ADD, e, DIMS(axis)), x->shape.at, x->shape.n);
  return uop2(job, OP_FDIV, e, sum);
}

static UOp *matmul(Sized *s, UOp *x, UOp *y) { /* [b, m, k] x [b, n, k] */
  Graph *g = &s->g;
  int64_t b = x->shape.at[0], m = x->shape.at[1], k = x->shape.at[2], n = y->shape.at[1];
  UOp *p = t_expand(g, t_reshape(g, x, DIMS(b, m, 1, k)), DIMS(b, m, n, k));
  UOp *q = t_expand(g, t_reshape(g, y, DIMS(b, 1, n, k)), DIMS(b, m, n, k));
  return t_reshape(g, t_reduce(g, OP_ADD, uop2(g->job, OP_MUL, p, q), DIMS(3)), DIMS(b, m, n));
}

static void test_attention(void **state) {
  Sized s;
  sized_init(&s, *state);
  int64_t b = sized_var(&s, VAR_INPUT, 1, 8, 1), n = sized_var(&s, VAR_INPUT, 1, 512, 1);
  UOp *q = graph_input(&s.g, DIMS(b, n, 4)), *k = graph_input(&s.g, DIMS(b, n, 4));
  UOp *v = graph_input(&s.g, DIMS(b, n, 4));
  UOp *p = softmax(&s, matmul(&s, q, k), 2);
  graph_output(&s.g, matmul(&s, p, t_permute(&s.g, v, DIMS(0, 2, 1))));
  sized_finish(&s);
  graph_plan(&s.g);
  assert_int_equal(s.g.plan.ncalls, 4); /* as with b = 8 and n = 128 */
  assert_true(s.g.plan.temp_bytes > 0);
  assert_int_equal(count_op(&s, OP_FLOORDIV) + count_op(&s, OP_FLOORMOD), 0);
  assert_int_equal(count_op(&s, OP_WHERE), 0);
  expect_equal_at(&s, AT(1, 1));
  expect_equal_at(&s, AT(2, 6));
}

/* Layers over other VARs are one kernel. */
static void test_dedup(void **state) {
  Sized s;
  sized_init(&s, *state);
  Job *job = *state;
  int64_t n = sized_var(&s, VAR_INPUT, 1, 64, 1), m = sized_var(&s, VAR_INPUT, 1, 64, 1);
  UOp *x = graph_input(&s.g, DIMS(n, 3)), *y = graph_input(&s.g, DIMS(m, 3));
  graph_output(&s.g, uop1(job, OP_EXP, x));
  graph_output(&s.g, uop1(job, OP_EXP, y));
  sized_finish(&s);
  graph_plan(&s.g);
  assert_int_equal(s.g.plan.ncalls, 2);
  assert_int_equal(s.g.plan.nkernels, 1);
  assert_int_equal(s.g.plan.kernels[0].nvars, 1);
  assert_int_not_equal(s.g.plan.calls[0].vars[0], s.g.plan.calls[1].vars[0]);
  expect_equal_at(&s, AT(4, 9));
}

static void test_cat_pad_shrink(void **state) {
  Sized s;
  sized_init(&s, *state);
  Job *job = *state;
  int64_t n = sized_var(&s, VAR_INPUT, 3, 64, 1), m = sized_var(&s, VAR_INPUT, 1, 64, 1);
  UOp *x = graph_input(&s.g, DIMS(n, 4)), *y = graph_input(&s.g, DIMS(m, 4));
  UOp *all = uop_make(job, OP_CAT, DT_VOID, arg_i(0), (UOp *[]){x, y, x}, 3);
  graph_output(&s.g, all);
  graph_output(&s.g, t_int(&s.g, OP_SHRINK, all, DIMS(n, dim_add(job, n, m), 1, 3)));
  UOp *pad[] = {x, t_f32(&s.g, 7)};
  UOp *padded = uop_make(job, OP_PAD, DT_VOID, arg_ints(DIMS(m, 2, 0, 1)), pad, 2);
  graph_output(&s.g, t_int(&s.g, OP_FLIP, padded, DIMS(0)));
  UOp *w = t_int(&s.g, OP_WINDOW, x, DIMS(0, 3, 2, 1));
  graph_output(&s.g, t_reduce(&s.g, OP_ADD, w, DIMS(1)));
  sized_finish(&s);
  graph_plan(&s.g);
  expect_equal_at(&s, AT(3, 1));
  expect_equal_at(&s, AT(8, 5));
}

/* A size that the run computes: the sum of a mask, what is kept of x, and its mean. */
static void test_bind(void **state) {
  Sized s;
  sized_init(&s, *state);
  Job *job = *state;
  int64_t n = sized_var(&s, VAR_INPUT, 1, 40, 1), k = sized_var(&s, VAR_BOUND, 0, 40, 1);
  UOp *x = graph_param(&s.g, SLOT_INPUT, DT_I64, DIMS(n));
  UOp *count = uop2(job, OP_CMPLT, uop_int(job, DT_I64, 0), x);
  count = t_reduce(&s.g, OP_ADD, uop_cast(job, count, DT_I64), DIMS(0));
  count = t_reshape(&s.g, count, NULL, 0);
  sized_bind(&s, 1, count);
  UOp *iota = uop_make(job, OP_IOTA, DT_I64, arg_both(0, &k, 1), NULL, 0);
  UOp *at = uop2(job, OP_MUL, iota, uop_int(job, DT_I64, 1));
  UOp *kept = uop_make(job, OP_GATHER, DT_VOID, arg_i(0), (UOp *[]){x, at}, 2);
  graph_output(&s.g, kept);
  graph_output(&s.g, t_reduce(&s.g, OP_ADD, uop1(job, OP_CONTIGUOUS, kept), DIMS(0)));
  graph_output(&s.g, uop_cast(job, s.var[1], DT_I64));
  sized_finish(&s);
  graph_plan(&s.g);
  bool bound = false;
  for (size_t i = 0; i < s.g.plan.nsteps; i++) bound |= s.g.plan.steps[i].kind == STEP_BIND;
  assert_true(bound);
  expect_equal_at(&s, AT(1));
  expect_equal_at(&s, AT(17));
  expect_equal_at(&s, AT(40));
}

static void test_mean(void **state) { /* of as many as there are; no loop for the count */
  Sized s;
  sized_init(&s, *state);
  Job *job = *state;
  int64_t n = sized_var(&s, VAR_INPUT, 1, 64, 1);
  UOp *x = graph_input(&s.g, DIMS(n)), *one = t_reshape(&s.g, t_f32(&s.g, 1), DIMS(1));
  UOp *ones = t_reduce(&s.g, OP_ADD, t_expand(&s.g, one, DIMS(n)), DIMS(0));
  graph_output(&s.g, uop2(job, OP_FDIV, t_reduce(&s.g, OP_ADD, x, DIMS(0)), ones));
  sized_finish(&s);
  graph_plan(&s.g);
  assert_int_equal(count_reduces(&s.g), 1);
  expect_equal_at(&s, AT(1));
  expect_equal_at(&s, AT(50));
}

/* What is stored under a broadcast is stored without it. */
static void test_dead_axes(void **state) {
  Sized s;
  sized_init(&s, *state);
  Job *job = *state;
  int64_t n = sized_var(&s, VAR_INPUT, 1, 64, 1), m = sized_var(&s, VAR_INPUT, 1, 64, 1);
  UOp *x = graph_input(&s.g, DIMS(n, 1, 5)), *y = graph_input(&s.g, DIMS(n, m, 5));
  UOp *wide = uop1(job, OP_SIN, t_expand(&s.g, x, DIMS(n, m, 5)));
  UOp *turned = t_permute(&s.g, uop1(job, OP_CONTIGUOUS, wide), DIMS(1, 0, 2));
  UOp *both[] = {turned, t_permute(&s.g, y, DIMS(1, 0, 2))};
  graph_output(&s.g, uop2(job, OP_ADD, both[0], both[1]));
  graph_output(&s.g, uop_make(job, OP_CAT, DT_VOID, arg_i(1), both, 2));
  sized_finish(&s);
  graph_plan(&s.g);
  size_t temporaries = 0;
  for (size_t b = 0; b < s.g.plan.nbuffers; b++) {
    if (s.g.plan.buffers[b].kind != PB_TEMP) continue;
    temporaries++;
    assert_true(s.g.plan.buffers[b].numel == dim_mul(job, n, 5));
  }
  assert_int_equal(temporaries, 1);
  expect_equal_at(&s, AT(1, 1));
  expect_equal_at(&s, AT(7, 3));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_elementwise, setup, teardown),
      cmocka_unit_test_setup_teardown(test_far_index, setup, teardown),
      cmocka_unit_test_setup_teardown(test_heads, setup, teardown),
      cmocka_unit_test_setup_teardown(test_attention, setup, teardown),
      cmocka_unit_test_setup_teardown(test_dedup, setup, teardown),
      cmocka_unit_test_setup_teardown(test_cat_pad_shrink, setup, teardown),
      cmocka_unit_test_setup_teardown(test_bind, setup, teardown),
      cmocka_unit_test_setup_teardown(test_dead_axes, setup, teardown),
      cmocka_unit_test_setup_teardown(test_mean, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
