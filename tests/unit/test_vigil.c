/* How long the loop stays awake, with time that the test makes up. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/server/vigil.h"

enum { SHORT = 10 * 1000, LONG = 20 * VIGIL_NS };

typedef struct Bench {
  uv_loop_t loop;
  Vigil vigil;
  int64_t now;
} Bench;

static int begin(void **state) {
  static Bench b;
  b = (Bench){.now = 1};
  if (uv_loop_init(&b.loop)) return -1;
  vigil_init(&b.vigil, &b.loop);
  *state = &b;
  return 0;
}

static int end(void **state) {
  Bench *b = *state;
  vigil_close(&b->vigil);
  uv_run(&b->loop, UV_RUN_DEFAULT);
  return uv_loop_close(&b->loop);
}

/* A call ends, and the next comes after so long; whether the loop was awake all the while. */
static bool pause_of(Bench *b, int64_t ns) {
  vigil_answered(&b->vigil);
  for (int64_t at = 0; at < ns; at += SHORT / 2) vigil_rest(&b->vigil, b->now + at);
  b->now += ns;
  bool awake = vigil_awake(&b->vigil);
  vigil_called(&b->vigil, b->now);
  assert_false(vigil_awake(&b->vigil));
  return awake;
}

static void test_calls_far_between(void **state) {
  for (int i = 0; i < 100; i++) {
    assert_false(pause_of(*state, LONG));
    assert_false(vigil_minds(&((Bench *)*state)->vigil));
  }
}

static void test_a_series(void **state) {
  assert_false(pause_of(*state, SHORT)); /* who knows */
  for (int i = 0; i < 100; i++) assert_true(pause_of(*state, SHORT));
  assert_false(pause_of(*state, LONG)); /* it looked for a while, and gave up */
  assert_false(pause_of(*state, SHORT));
  assert_true(pause_of(*state, SHORT)); /* the next series */
}

static void test_no_longer_than_that(void **state) {
  Bench *b = *state;
  pause_of(b, SHORT);
  vigil_answered(&b->vigil);
  vigil_rest(&b->vigil, b->now);
  vigil_rest(&b->vigil, b->now + VIGIL_NS);
  assert_true(vigil_awake(&b->vigil));
  vigil_rest(&b->vigil, b->now + VIGIL_NS + 1);
  assert_false(vigil_awake(&b->vigil));
  assert_false(vigil_minds(&b->vigil));
}

/* As where looking keeps the client from answering: pauses are short only when it sleeps. */
static void test_looking_in_vain(void **state) {
  size_t looked = 0;
  for (int i = 0; i < 10000; i++) {
    Bench *b = *state;
    bool looks = !b->vigil.miss;
    looked += looks;
    pause_of(b, looks ? LONG : SHORT);
  }
  assert_in_range(looked, 10, 20); /* after 1, 3, 7 ... 1023 short ones */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_calls_far_between, begin, end),
      cmocka_unit_test_setup_teardown(test_a_series, begin, end),
      cmocka_unit_test_setup_teardown(test_no_longer_than_that, begin, end),
      cmocka_unit_test_setup_teardown(test_looking_in_vain, begin, end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
