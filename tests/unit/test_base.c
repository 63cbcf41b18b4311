/* base/: status chains, arena limits, checked sizes, maps against a plain array. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/map.h"
#include "base/status.h"
#include "base/vec.h"

static void test_status_chain(void **state) {
  (void)state;
  char text[64];
  Status st = FAIL(NOT_FOUND, "no '%s'", "x");
  st = WRAP(st, "opening");
  assert_int_equal(status_code(st), ST_NOT_FOUND);
  assert_int_equal(status_text(st, text, sizeof text), 15);
  assert_string_equal(text, "opening: no 'x'");
  assert_string_equal(status_code_name(st->code), "NOT_FOUND");
  status_drop(st);
  assert_int_equal(status_code(NULL), ST_OK);
}

static void test_arena_reset(void **state) {
  (void)state;
  Arena a;
  arena_init(&a, 0);
  arena_reset(&a);
  for (size_t total = 1; total < 3 << 20; total *= 3) {
    for (size_t left = total, n; left; left -= n) {
      n = left < 1000 ? left : 1000;
      uint8_t *p = arena_alloc(&a, n);
      for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
      memset(p, 0xff, n);
    }
    arena_reset(&a);
    assert_true(a.used <= 16 << 10);
  }
  arena_deinit(&a);
}

static void test_arena_limit(void **state) {
  (void)state;
  Arena a;
  arena_init(&a, 64 << 10);
  size_t total = 0;
  for (void *p; (p = arena_alloc(&a, 1000)); total += 1000) memset(p, 0xff, 1000);
  assert_true(total > (55 << 10) && total <= (64 << 10));
  assert_null(arena_array(&a, SIZE_MAX / 2, 4));
  arena_deinit(&a);
}

static void test_map_against_array(void **state) {
  (void)state;
  enum { KEYS = 257 };
  void *expect[KEYS] = {0};
  Map m = {0};
  uint64_t rng = 1;
  for (int step = 0; step < 20000; step++) {
    rng = hash_u64(rng + 1);
    uint64_t key = rng % KEYS;
    if (rng & (1ull << 40)) {
      void *value = (void *)(uintptr_t)(step + 1);
      assert_true(map_put(&m, key * 16, value));
      expect[key] = value;
    } else {
      assert_ptr_equal(map_remove(&m, key * 16), expect[key]);
      expect[key] = NULL;
    }
    assert_ptr_equal(map_find(&m, key * 16), expect[key]);
  }
  for (uint64_t k = 0; k < KEYS; k++) assert_ptr_equal(map_find(&m, k * 16), expect[k]);
  map_deinit(&m);
}

static void test_strmap(void **state) {
  (void)state;
  StrMap m = {0};
  char key[16];
  for (int i = 0; i < 500; i++) {
    snprintf(key, sizeof key, "k%d", i);
    assert_true(strmap_put(&m, str_from(key), &m));
  }
  assert_true(strmap_put(&m, STR("k7"), key)); /* replaces */
  assert_int_equal(m.len, 500);
  for (int i = 0; i < 500; i++) {
    snprintf(key, sizeof key, "k%d", i);
    assert_ptr_equal(strmap_find(&m, str_from(key)), i == 7 ? (void *)key : &m);
  }
  assert_null(strmap_find(&m, STR("k500")));
  strmap_deinit(&m);
}

static void test_vec_and_strbuf(void **state) {
  (void)state;
  VEC(int) v = {0};
  for (int i = 0; i < 1000; i++) assert_true(vec_push(&v, i));
  assert_int_equal(v.at[999], 999);
  vec_deinit(&v);
  StrBuf b = {0};
  for (int i = 0; i < 100; i++) strbuf_addf(&b, "%d,", i);
  assert_false(b.failed);
  assert_int_equal(b.len, 290);
  strbuf_deinit(&b);
  size_t n;
  assert_false(size_mul(SIZE_MAX, 2, &n));
  assert_false(size_add(SIZE_MAX, 1, &n));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_status_chain), cmocka_unit_test(test_arena_limit),
      cmocka_unit_test(test_arena_reset),  cmocka_unit_test(test_map_against_array),
      cmocka_unit_test(test_strmap),       cmocka_unit_test(test_vec_and_strbuf),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
