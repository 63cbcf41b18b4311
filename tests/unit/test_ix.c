/* Index arithmetic: whatever ix_* builds has the value that the operation says, for every value of
 * the ranges, and the simplifications that kernels rely on happen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/passes/ix.h"

enum { RANGES = 3, SIZE = 6 };

static Job job;
static UOp *range[RANGES];
static int64_t at[RANGES];
static uint32_t seed = 7;

static int setup(void **state) {
  (void)state;
  job_init(&job, 0);
  for (int k = 0; k < RANGES; k++) range[k] = uop_range(&job, k, AX_LOOP, uop_index(&job, SIZE));
  return 0;
}

static int teardown(void **state) {
  (void)state;
  job_deinit(&job);
  return 0;
}

static int64_t below(int64_t n) {
  seed = seed * 1664525u + 1013904223u;
  return (int64_t)(seed >> 8) % n;
}

static int64_t value(const UOp *u) {
  Scalar v[3] = {{0}};
  if (u->op == OP_RANGE) return at[u->arg.i];
  if (u->op == OP_CONST) return u->arg.i;
  for (uint32_t s = 0; s < u->nsrc; s++) v[s].i = value(u->src[s]);
  return op_eval((Op)u->op, (DType)u->dtype, (DType)u->src[u->nsrc - 1]->dtype, v).i;
}

static void next_point(void) {
  for (int k = 0; k < RANGES; k++) at[k] = below(SIZE);
}

static int64_t floored(int64_t a, int64_t c) { return a / c - (a % c < 0); }

static UOp *random_sum(int depth) {
  UOp *x = range[below(RANGES)];
  if (depth && below(3)) x = random_sum(depth - 1);
  switch (below(5)) {
  case 0: return ix_add(&job, x, range[below(RANGES)]);
  case 1: return ix_scale(&job, x, below(9) - 4, below(20) - 10);
  case 2: return ix_div(&job, x, 1 + below(12));
  case 3: return ix_mod(&job, x, 1 + below(12));
  default: return ix_add(&job, ix_scale(&job, range[below(RANGES)], SIZE, 0), x);
  }
}

static void values_are_right(void **state) {
  (void)state;
  for (int n = 0; n < 3000; n++) {
    UOp *x = random_sum(3), *y = random_sum(3);
    int64_t c = 1 + below(30), m = below(9) - 4, a = below(30) - 15, lo = below(9) - 4;
    UOp *sum = ix_add(&job, x, y), *scaled = ix_scale(&job, x, m, a);
    UOp *div = ix_div(&job, sum, c), *mod = ix_mod(&job, sum, c);
    UOp *inside = ix_inside(&job, x, lo, lo + c);
    for (int point = 0; point < 20; point++) {
      next_point();
      int64_t vx = value(x), s = vx + value(y);
      assert_int_equal(value(sum), s);
      assert_int_equal(value(scaled), vx * m + a);
      assert_int_equal(value(div), floored(s, c));
      assert_int_equal(value(mod), s - c * floored(s, c));
      assert_int_equal(inside ? value(inside) : 1, vx >= lo && vx < lo + c);
    }
  }
}

static void equal_sums_are_one_node(void **state) {
  (void)state;
  UOp *a = range[0], *b = range[1];
  UOp *x = ix_add(&job, ix_scale(&job, a, 4, 1), ix_scale(&job, b, 2, 3));
  UOp *y = ix_scale(&job, ix_add(&job, b, ix_scale(&job, a, 2, 2)), 2, 0);
  assert_ptr_equal(x, y);
}

static void flattening_is_undone(void **state) {
  (void)state;
  int64_t dims[] = {SIZE, SIZE, SIZE};
  UOp *flat = ix_flat(&job, (Ints){dims, 3}, range);
  assert_ptr_equal(ix_mod(&job, flat, SIZE), range[2]);
  assert_ptr_equal(ix_mod(&job, ix_div(&job, flat, SIZE), SIZE), range[1]);
  assert_ptr_equal(ix_div(&job, flat, SIZE * SIZE), range[0]);
}

static void quotient_and_remainder_recombine(void **state) {
  (void)state;
  UOp *q = ix_scale(&job, ix_div(&job, range[0], 4), 12, 0);
  UOp *r = ix_scale(&job, ix_mod(&job, range[0], 4), 3, 0);
  assert_ptr_equal(ix_add(&job, q, r), ix_scale(&job, range[0], 3, 0));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(values_are_right, setup, teardown),
      cmocka_unit_test_setup_teardown(equal_sums_are_one_node, setup, teardown),
      cmocka_unit_test_setup_teardown(flattening_is_undone, setup, teardown),
      cmocka_unit_test_setup_teardown(quotient_and_remainder_recombine, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
