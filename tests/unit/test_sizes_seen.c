/* Kinds of sizes: by powers of two, the most frequent first, a bounded number of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/server/sizes_seen.h"

static void kinds_are_powers_of_two(void **state) {
  (void)state;
  assert_int_equal(sizes_kind(0), sizes_kind(-5));
  assert_int_equal(sizes_kind(8), sizes_kind(15));
  assert_int_not_equal(sizes_kind(7), sizes_kind(8));
  assert_int_not_equal(sizes_kind(1), sizes_kind(0));
  assert_int_equal(sizes_kind(INT64_MAX), 63);
}

static void runs_are_counted_by_kind(void **state) {
  SizesSeen s = {.n = 0};
  Arena arena;
  (void)state;
  arena_init(&arena, 0);
  assert_int_equal(sizes_usual(&s), s.n);
  for (int i = 0; i < 3; i++) sizes_note(&s, &arena, (int64_t[]){8 + i, 100}, 2);
  for (int i = 0; i < 5; i++) sizes_note(&s, &arena, (int64_t[]){512, 100 + i}, 2);
  assert_int_equal(s.n, 2);
  assert_int_equal(s.kinds[0].runs, 3);
  assert_int_equal(s.kinds[0].at[0], 10); /* the last run's */
  assert_int_equal(sizes_usual(&s), 1);
  assert_int_equal(s.kinds[1].at[1], 104);
  arena_deinit(&arena);
}

static void the_rarest_makes_room(void **state) {
  SizesSeen s = {.n = 0};
  Arena arena;
  (void)state;
  arena_init(&arena, 0);
  for (int k = 0; k < SIZES_KINDS; k++)
    for (int i = 0; i < 10 - k; i++) sizes_note(&s, &arena, &(int64_t){1ll << k}, 1);
  size_t used = arena.used;
  for (int k = 20; k < 60; k++) sizes_note(&s, &arena, &(int64_t){1ll << k}, 1);
  assert_int_equal(s.n, SIZES_KINDS);
  assert_int_equal(s.kinds[SIZES_KINDS - 1].at[0], 1ll << 59);
  assert_int_equal(s.kinds[0].runs, 10);
  assert_int_equal(arena.used, used); /* however many kinds there are */
  arena_deinit(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(kinds_are_powers_of_two),
                                     cmocka_unit_test(runs_are_counted_by_kind),
                                     cmocka_unit_test(the_rarest_makes_room)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
