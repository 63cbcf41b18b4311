/* Programs that are right, wrong, and at the ends of what fits. */
#include "daemon/channel/size_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define PROGRAM(...)                                                                               \
  (Kiln__V1__SizeProgram) {                                                                        \
    .n_code = sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), .code = (int64_t[]) {            \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
  }

static void accepted(Kiln__V1__SizeProgram p, size_t nvars, bool want) {
  Status st = size_program_check(&p, nvars);
  assert_int_equal(!st, want);
  if (st) assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
}

static void test_check(void **state) {
  (void)state;
  accepted(PROGRAM(0, 7), 0, true);
  accepted(PROGRAM(1, 0, 0, 2, 4), 1, true);
  accepted(PROGRAM(1, 1), 1, false);
  accepted(PROGRAM(1, -1), 1, false);
  accepted(PROGRAM(0), 0, false);
  accepted(PROGRAM(0, 1, 0, 2), 0, false);
  accepted(PROGRAM(0, 1, 2), 0, false);
  accepted(PROGRAM(0, 1, 0, 2, 9), 0, false);
  accepted(PROGRAM(0, 1, 0, 2, -1), 0, false);
  accepted((Kiln__V1__SizeProgram){.n_code = 0}, 0, false);
  int64_t deep[400];
  for (int i = 0; i < 200; i++) deep[2 * i] = 0, deep[2 * i + 1] = 1;
  accepted((Kiln__V1__SizeProgram){.n_code = 400, .code = deep}, 0, false);
}

static int64_t value(Kiln__V1__SizeProgram p, const int64_t *vars) {
  int64_t v;
  return size_program_eval(&p, vars, &v) ? v : -1;
}

static void test_eval(void **state) {
  (void)state;
  const int64_t vars[2] = {7, 3};
  assert_int_equal(value(PROGRAM(1, 0, 1, 1, 2), vars), 10);
  assert_int_equal(value(PROGRAM(1, 0, 1, 1, 3), vars), 4);
  assert_int_equal(value(PROGRAM(1, 1, 1, 0, 3), vars), -1); /* below zero */
  assert_int_equal(value(PROGRAM(1, 0, 1, 1, 4, 0, 5, 2), vars), 26);
  assert_int_equal(value(PROGRAM(1, 0, 0, 2, 5), vars), 3);
  assert_int_equal(value(PROGRAM(1, 0, 0, 4, 6), vars), 3);
  assert_int_equal(value(PROGRAM(1, 0, 1, 1, 7), vars), 3);
  assert_int_equal(value(PROGRAM(1, 0, 1, 1, 8), vars), 7);
  assert_int_equal(value(PROGRAM(1, 0, 0, 0, 5), vars), 0);
  /* Negative on the way: ceil(7 / 2) as -((-7) / 2). */
  assert_int_equal(value(PROGRAM(0, 0, 0, 0, 1, 0, 3, 0, 2, 5, 3), vars), 4);
  const int64_t big[2] = {INT64_MAX, 2};
  assert_int_equal(value(PROGRAM(1, 0, 1, 1, 4), big), -1);
  assert_int_equal(value(PROGRAM(1, 0), big), -1);
}

static void test_range(void **state) {
  (void)state;
  const SizeRange vars[2] = {{1, 512}, {4, 4}};
  SizeRange r;
  Kiln__V1__SizeProgram p = PROGRAM(1, 0, 1, 1, 4, 0, 1, 2);
  assert_true(size_program_range(&p, vars, &r));
  assert_int_equal(r.low, 5);
  assert_int_equal(r.high, 2049);
  p = PROGRAM(1, 0, 0, 100, 3);
  assert_true(size_program_range(&p, vars, &r));
  assert_int_equal(r.low, 0);
  assert_int_equal(r.high, 412);
  p = PROGRAM(1, 0, 1, 1, 5);
  assert_true(size_program_range(&p, vars, &r));
  assert_int_equal(r.high, 128);
}

static void test_uses(void **state) {
  (void)state;
  Kiln__V1__SizeProgram p = PROGRAM(0, 1, 1, 3, 2);
  assert_true(size_program_uses(&p, 3));
  assert_false(size_program_uses(&p, 1));
  assert_int_equal(size_program_var(&p), -1);
  p = PROGRAM(1, 5);
  assert_int_equal(size_program_var(&p), 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_check), cmocka_unit_test(test_eval),
                                     cmocka_unit_test(test_range), cmocka_unit_test(test_uses)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
