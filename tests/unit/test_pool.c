/* Blocks of a pool: aligned, apart from each other, their bytes kept by realloc, and all given
 * back. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

enum { BLOCKS = 500 };

static void check(const uint8_t *at, size_t n, uint8_t with) {
  for (size_t i = 0; i < n; i++) assert_int_equal(at[i], with);
}

static void test_random(void **state) {
  (void)state;
  Pool pool = {.idle_bytes = 0};
  uint8_t *at[BLOCKS] = {NULL};
  size_t size[BLOCKS] = {0};
  srand(1);
  for (int k = 0; k < 100000; k++) {
    size_t i = (size_t)rand() % BLOCKS, n = (size_t)rand() % (k % 10 ? 700 : 30000);
    Pool *from = i % 7 ? &pool : NULL;
    check(at[i], size[i], (uint8_t)i);
    if (k % 3 == 0) {
      uint8_t *to = pool_realloc(from, at[i], n);
      assert_non_null(to);
      check(to, n < size[i] ? n : size[i], (uint8_t)i);
      at[i] = to;
    } else {
      pool_free(at[i]);
      at[i] = k % 3 == 1 ? pool_alloc(from, n) : pool_zalloc(from, n);
      assert_non_null(at[i]);
      if (k % 3 == 2) check(at[i], n, 0);
    }
    assert_int_equal((uintptr_t)at[i] % 16, 0);
    memset(at[i], (int)i, n);
    size[i] = n;
  }
  for (int i = 0; i < BLOCKS; i++) pool_free(at[i]);
  pool_trim(&pool);
  assert_int_equal(pool.idle_bytes, 0);
}

static void test_too_large(void **state) {
  (void)state;
  Pool pool = {.idle_bytes = 0};
  assert_null(pool_alloc(&pool, SIZE_MAX));
  assert_null(pool_alloc(&pool, SIZE_MAX - 20));
  pool_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random),
                                     cmocka_unit_test(test_too_large)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
