/* compiler/ir: hash-consing, folding, shapes, bounds, walks, open ranges, and leaving a job. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/map.h"
#include "compiler/ir/uop.h"

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

#define DIMS(...) ((int64_t[]){__VA_ARGS__}), sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

static void test_identity(void **state) {
  Job *job = *state;
  UOp *x = uop_param(job, 0, DT_F32, DIMS(4, 8)), *y = uop_param(job, 1, DT_F32, DIMS(4, 8));
  assert_ptr_equal(x, uop_param(job, 0, DT_F32, DIMS(4, 8)));
  assert_ptr_not_equal(x, uop_param(job, 0, DT_F32, DIMS(8, 4)));
  assert_ptr_not_equal(x, uop_param(job, 0, DT_F16, DIMS(4, 8)));
  assert_ptr_equal(uop2(job, OP_ADD, x, y), uop2(job, OP_ADD, x, y));
  assert_ptr_not_equal(uop2(job, OP_SUB, x, y), uop2(job, OP_SUB, y, x));
  UOp *list[1000];
  for (int64_t k = 0; k < 1000; k++) list[k] = uop_int(job, DT_I32, k * 77);
  for (int64_t k = 0; k < 1000; k++) assert_ptr_equal(list[k], uop_int(job, DT_I32, k * 77));
  assert_ptr_not_equal(uop_float(job, DT_F32, 0.0), uop_float(job, DT_F32, -0.0));
  assert_ptr_equal(uop_float(job, DT_F32, 0.1), uop_float(job, DT_F32, (double)0.1f));
  assert_ptr_equal(uop_int(job, DT_U8, 257), uop_int(job, DT_U8, 1));
}

static void test_folding(void **state) {
  Job *job = *state;
  UOp *a = uop_int(job, DT_I8, 100), *three = uop_int(job, DT_I8, 3);
  assert_true(uop_is_int(uop2(job, OP_MUL, a, three), 44));
  assert_true(uop_is_int(uop2(job, OP_CMPLT, three, a), 1));
  assert_true(uop_is_number(uop_cast(job, a, DT_F32), 100));
  UOp *nan_bits = uop_int(job, DT_I32, 0x7fc00001);
  UOp *cast = uop_make(job, OP_BITCAST, DT_F32, arg_none(), &nan_bits, 1);
  assert_int_equal(cast->op, OP_BITCAST); /* the payload is kept */
  UOp *x = uop_param(job, 0, DT_I8, NULL, 0);
  assert_int_equal(uop2(job, OP_MUL, x, three)->op, OP_MUL);
}

static void expect_shape(const UOp *u, const int64_t *dims, size_t n) {
  assert_int_equal(u->shape.n, n);
  for (size_t k = 0; k < n; k++) assert_int_equal(u->shape.at[k], dims[k]);
}

static UOp *move(Job *job, Op op, UOp *x, const int64_t *v, size_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(v, n), &x, 1);
}

static void test_shapes(void **state) {
  Job *job = *state;
  UOp *x = uop_param(job, 0, DT_F32, DIMS(4, 9)), *one = uop_float(job, DT_F32, 1);
  expect_shape(uop2(job, OP_ADD, x, one), DIMS(4, 9));
  expect_shape(uop2(job, OP_ADD, one, x), DIMS(4, 9));
  expect_shape(move(job, OP_RESHAPE, x, DIMS(6, 6)), DIMS(6, 6));
  expect_shape(move(job, OP_PERMUTE, x, DIMS(1, 0)), DIMS(9, 4));
  expect_shape(move(job, OP_SHRINK, x, DIMS(1, 3, 0, 9)), DIMS(2, 9));
  expect_shape(move(job, OP_WINDOW, x, DIMS(1, 3, 2, 2)), DIMS(4, 3, 3));
  expect_shape(uop_make(job, OP_PAD, DT_VOID, arg_ints(DIMS(1, 2, 0, 3)), (UOp *[]){x, one}, 2),
               DIMS(7, 12));
  expect_shape(uop_make(job, OP_REDUCE, DT_VOID, arg_both(OP_ADD, DIMS(1)), &x, 1), DIMS(4, 1));
  UOp *index = uop_param(job, 1, DT_I64, DIMS(2, 5));
  expect_shape(uop_make(job, OP_GATHER, DT_VOID, arg_i(0), (UOp *[]){x, index}, 2), DIMS(2, 5, 9));
  expect_shape(uop_make(job, OP_CAT, DT_VOID, arg_i(1), (UOp *[]){x, x, x}, 3), DIMS(4, 27));
}

static void refuse(Job *job, Op op, DType d, Arg arg, UOp *const *src, size_t n, const char *part) {
  const char *why = uop_check(job, op, d, 0, arg, src, n);
  if (!why || !strstr(why, part)) fail_msg("%s: '%s'", op_info[op].name, why ? why : "accepted");
}

static void test_refusals(void **state) {
  Job *job = *state;
  UOp *x = uop_param(job, 0, DT_F32, DIMS(4, 9)), *y = uop_param(job, 1, DT_F32, DIMS(9, 4));
  UOp *i = uop_param(job, 2, DT_I32, DIMS(4, 9));
  UOp *b = uop2(job, OP_CMPLT, x, x), *void_ = uop_make(job, OP_SINK, DT_VOID, arg_none(), NULL, 0);
  refuse(job, OP_ADD, DT_VOID, arg_none(), (UOp *[]){x}, 1, "expected 2 sources, got 1");
  refuse(job, OP_ADD, DT_VOID, arg_none(), (UOp *[]){x, i}, 2, "differ in dtype");
  refuse(job, OP_ADD, DT_VOID, arg_none(), (UOp *[]){x, y}, 2, "[4, 9] and [9, 4] differ");
  refuse(job, OP_ADD, DT_VOID, arg_none(), (UOp *[]){b, b}, 2, "bool");
  refuse(job, OP_SQRT, DT_VOID, arg_none(), (UOp *[]){i}, 1, "float");
  refuse(job, OP_AND, DT_VOID, arg_none(), (UOp *[]){x, x}, 2, "float");
  refuse(job, OP_WHERE, DT_VOID, arg_none(), (UOp *[]){i, x, x}, 3, "not bool");
  refuse(job, OP_NEG, DT_VOID, arg_none(), (UOp *[]){void_}, 1, "no value");
  refuse(job, OP_NEG, DT_VOID, arg_i(1), (UOp *[]){x}, 1, "argument");
  refuse(job, OP_CAST, DT_VOID, arg_none(), (UOp *[]){x}, 1, "no dtype");
  refuse(job, OP_BITCAST, DT_I64, arg_none(), (UOp *[]){x}, 1, "differ in size");
  refuse(job, OP_RESHAPE, DT_VOID, arg_ints(DIMS(5, 7)), (UOp *[]){x}, 1, "as many elements");
  refuse(job, OP_PERMUTE, DT_VOID, arg_ints(DIMS(0, 0)), (UOp *[]){x}, 1, "every axis once");
  refuse(job, OP_EXPAND, DT_VOID, arg_ints(DIMS(8, 9)), (UOp *[]){x}, 1, "does not expand");
  refuse(job, OP_SHRINK, DT_VOID, arg_ints(DIMS(0, 4, 3, 10)), (UOp *[]){x}, 1, "[3, 10)");
  refuse(job, OP_WINDOW, DT_VOID, arg_ints(DIMS(1, 5, 1, 3)), (UOp *[]){x}, 1, "larger");
  refuse(job, OP_WINDOW, DT_VOID, arg_ints(DIMS(1, INT64_MAX, 1, 3)), (UOp *[]){x}, 1, "larger");
  refuse(job, OP_FLIP, DT_VOID, arg_ints(DIMS(2)), (UOp *[]){x}, 1, "out of range");
  refuse(job, OP_REDUCE, DT_VOID, arg_both(OP_SUB, DIMS(1)), (UOp *[]){x}, 1, "not ADD");
  refuse(job, OP_PARAM, DT_F32, arg_both(0, DIMS(INT64_MAX, INT64_MAX)), NULL, 0, "not allowed");
  refuse(job, OP_PARAM, DT_F32, arg_both(0, DIMS(-1)), NULL, 0, "not allowed");
  refuse(job, OP_INDEX, DT_VOID, arg_none(), (UOp *[]){x, i}, 2, "not index");
  refuse(job, OP_STORE, DT_VOID, arg_none(), (UOp *[]){x, y}, 2, "shape");
}

/* Random integer expressions: every value lies in the bounds, and so do all others tried. */
static UOp *random_expression(Job *job, uint64_t *rng, UOp **vars, int depth) {
  static const Op ops[] = {OP_ADD, OP_SUB, OP_MUL, OP_IDIV, OP_IMOD, OP_FLOORDIV, OP_FLOORMOD,
                           OP_MAX, OP_MIN, OP_AND, OP_OR,   OP_XOR,  OP_SHL,      OP_SHR};
  *rng = hash_u64(*rng + 1);
  uint64_t r = *rng;
  DType d = (DType)vars[0]->dtype;
  if (!depth || r % 5 == 0) return vars[(r >> 8) % 3];
  if (r % 5 == 1) return uop_int(job, d, (int64_t)(r >> 8) % 23 - 7);
  UOp *a = random_expression(job, rng, vars, depth - 1);
  UOp *b = random_expression(job, rng, vars, depth - 1);
  if (r % 31 == 0) return uop1(job, OP_NEG, a);
  if (r % 37 == 0) return uop1(job, OP_ABS, a);
  if (r % 29 == 0) return uop3(job, OP_WHERE, uop2(job, OP_CMPLE, a, b), b, a);
  return uop2(job, ops[(r >> 16) % (sizeof ops / sizeof *ops)], a, b);
}

static void test_bounds_hold(void **state) {
  Job *job = *state;
  static const DType dtypes[] = {DT_INDEX, DT_I8, DT_U8, DT_U64, DT_I64};
  uint64_t rng = 11;
  for (int round = 0; round < 20000; round++) {
    DType d = dtypes[round % 5];
    UOp *vars[3], *to[3];
    for (int64_t k = 0; k < 3; k++) {
      vars[k] = uop_cast(job, uop_range(job, k, AX_LOOP, uop_index(job, 3 + 4 * k)), d);
      rng = hash_u64(rng + 1);
      to[k] = uop_int(job, d, (int64_t)(rng % (uint64_t)(3 + 4 * k)));
    }
    UOp *u = random_expression(job, &rng, vars, 4);
    UOp *value = uop_substitute(job, u, vars, to, 3);
    assert_true(uop_is_const(value));
    bool wide = d == DT_U64 && value->arg.i < 0;
    if (wide ? u->vmin != INT64_MIN : value->arg.i < u->vmin || value->arg.i > u->vmax) {
      fail_msg("%lld is outside [%lld, %lld]", (long long)value->arg.i, (long long)u->vmin,
               (long long)u->vmax);
    }
  }
}

static void expect_bounds(const UOp *u, int64_t lo, int64_t hi) {
  if (u->vmin != lo || u->vmax != hi) {
    fail_msg("%s: [%lld, %lld], expected [%lld, %lld]", op_info[u->op].name, (long long)u->vmin,
             (long long)u->vmax, (long long)lo, (long long)hi);
  }
}

static void test_bounds_exact(void **state) {
  Job *job = *state;
  UOp *i = uop_range(job, 0, AX_LOOP, uop_index(job, 10)), *c = uop_index(job, 4);
  UOp *k = uop_range(job, 1, AX_REDUCE, uop_index(job, 7));
  expect_bounds(uop2(job, OP_ADD, uop2(job, OP_MUL, i, uop_index(job, 7)), k), 0, 69);
  expect_bounds(uop2(job, OP_SUB, i, k), -6, 9);
  expect_bounds(uop2(job, OP_FLOORDIV, uop2(job, OP_SUB, i, c), c), -1, 1);
  expect_bounds(uop2(job, OP_IDIV, uop2(job, OP_SUB, i, c), c), -1, 1);
  expect_bounds(uop2(job, OP_FLOORMOD, i, c), 0, 3);
  expect_bounds(uop2(job, OP_FLOORMOD, uop2(job, OP_ADD, k, uop_index(job, 8)), uop_index(job, 16)),
                8, 14);
  expect_bounds(uop2(job, OP_IMOD, uop2(job, OP_SUB, i, c), c), -3, 3);
  expect_bounds(uop2(job, OP_CMPLT, i, uop_index(job, 10)), 1, 1);
  expect_bounds(uop2(job, OP_CMPLT, i, uop_index(job, 9)), 0, 1);
  expect_bounds(uop2(job, OP_CMPEQ, i, uop_index(job, -1)), 0, 0);
  expect_bounds(uop2(job, OP_AND, i, uop_index(job, 3)), 0, 3);
  expect_bounds(uop_reduce(job, OP_ADD, i, &k, 1), 0, 63);
  expect_bounds(uop_cast(job, uop2(job, OP_SUB, i, c), DT_U8), 0, 255);
  expect_bounds(uop_cast(job, i, DT_I8), 0, 9);
  UOp *wide = uop_param(job, 1, DT_U64, NULL, 0); /* from 2^63 on it is a negative index */
  expect_bounds(uop_cast(job, wide, DT_INDEX), INT64_MIN, INT64_MAX);
  expect_bounds(uop_cast(job, uop2(job, OP_SHR, wide, uop_int(job, DT_U64, 60)), DT_INDEX), 0, 15);
  UOp *p = uop_param(job, 0, DT_INDEX, NULL, 0);
  expect_bounds(uop2(job, OP_ADD, p, i), INT64_MIN, INT64_MAX);
  expect_bounds(uop2(job, OP_MUL, p, uop_index(job, 0)), 0, 0);
  expect_bounds(uop2(job, OP_FLOORMOD, p, uop_index(job, 5)), 0, 4);
  expect_bounds(uop2(job, OP_MAX, p, uop_index(job, 5)), 5, INT64_MAX);
  expect_bounds(uop2(job, OP_MUL, uop2(job, OP_MAX, p, uop_index(job, 5)), uop_index(job, -2)),
                INT64_MIN, -10);
}

static void test_toposort(void **state) {
  Job *job = *state;
  UOp *x = uop_param(job, 0, DT_F32, NULL, 0), *u = x;
  enum { DEPTH = 300000 };
  for (int k = 0; k < DEPTH; k++) u = uop2(job, k & 1 ? OP_ADD : OP_MUL, u, k % 3 ? x : u);
  UOpList list = uop_toposort(job, u);
  assert_int_equal(list.len, DEPTH + 1);
  for (size_t k = 0; k < list.len; k++) {
    for (uint32_t s = 0; s < list.at[k]->nsrc; s++) assert_true(list.at[k]->src[s]->place < k);
  }
  assert_ptr_equal(list.at[DEPTH], u);
  UOp *y = uop_param(job, 1, DT_F32, NULL, 0);
  UOp *v = uop_substitute(job, u, &x, &y, 1);
  assert_ptr_not_equal(u, v);
  assert_ptr_equal(uop_substitute(job, v, &y, &x, 1), u);
}

static void test_substitute(void **state) {
  Job *job = *state;
  UOp *x = uop_param(job, 0, DT_F32, NULL, 0), *y = uop_param(job, 1, DT_F32, NULL, 0);
  UOp *sum = uop2(job, OP_ADD, x, y);
  /* at once, not one after the other */
  assert_ptr_equal(uop_substitute(job, sum, (UOp *[]){x, y}, (UOp *[]){y, x}, 2),
                   uop2(job, OP_ADD, y, x));
  UOp *neg = uop1(job, OP_NEG, x);
  assert_ptr_equal(uop_substitute(job, sum, &x, &neg, 1), uop2(job, OP_ADD, neg, y));
  assert_ptr_equal(uop_substitute(job, sum, &sum, &x, 1), x);
  UOp *other = uop1(job, OP_ABS, y);
  assert_ptr_equal(uop_substitute(job, sum, &other, &x, 1), sum);
}

static void test_open_ranges(void **state) {
  Job *job = *state;
  UOp *i = uop_range(job, 5, AX_LOOP, uop_index(job, 10));
  UOp *j = uop_range(job, 2, AX_LOOP, uop_index(job, 10));
  UOp *k = uop_range(job, 900, AX_REDUCE, uop2(job, OP_ADD, i, uop_index(job, 1)));
  UOp *u = uop2(job, OP_ADD, uop2(job, OP_MUL, i, k), j);
  assert_int_equal(u->open->n, 3);
  assert_true(u->open->at[0] == j && u->open->at[1] == i && u->open->at[2] == k);
  UOp *sum = uop_reduce(job, OP_ADD, u, &k, 1);
  assert_int_equal(sum->open->n, 2);
  assert_true(uop_is_open(sum, i) && uop_is_open(sum, j) && !uop_is_open(sum, k));
  assert_ptr_equal(sum->open, uop2(job, OP_SUB, j, i)->open);
  UOp *all = uop_reduce(job, OP_ADD, sum, (UOp *[]){i, j}, 2);
  assert_null(all->open);
}

static void many_nodes(Job *job, void *arg) {
  for (int64_t k = 0;; k++) uop_int(job, DT_I64, k);
  (void)arg;
}

static void poll_forever(Job *job, void *arg) {
  (void)arg;
  for (;;) {
    job->steps++;
    job_poll(job);
  }
}

static void test_abort(void **state) {
  (void)state;
  Job job;
  job_init(&job, 1 << 20);
  Status st = job_run(&job, many_nodes, NULL);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
  job_deinit(&job);
  job_init(&job, 0);
  job.step_limit = 1000;
  st = job_run(&job, poll_forever, NULL);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
  job.step_limit = 0;
  job.deadline_ns = clock_now_ns() + 2000000;
  st = job_run(&job, poll_forever, NULL);
  assert_int_equal(status_code(st), ST_DEADLINE_EXCEEDED);
  status_drop(st);
  job_deinit(&job);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
      cmocka_unit_test_setup_teardown(test_folding, setup, teardown),
      cmocka_unit_test_setup_teardown(test_shapes, setup, teardown),
      cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
      cmocka_unit_test_setup_teardown(test_bounds_hold, setup, teardown),
      cmocka_unit_test_setup_teardown(test_bounds_exact, setup, teardown),
      cmocka_unit_test_setup_teardown(test_toposort, setup, teardown),
      cmocka_unit_test_setup_teardown(test_substitute, setup, teardown),
      cmocka_unit_test_setup_teardown(test_open_ranges, setup, teardown),
      cmocka_unit_test(test_abort),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
