/* The request state machine as a table: every state is named and reachable, ends in done, and no
 * answered request comes back to life. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/server/rpc.h"

static void test_names(void **state) {
  (void)state;
  for (RequestState s = 0; s < RS__COUNT; s++) assert_non_null(request_state_name(s));
}

static void test_every_state_can_end(void **state) {
  (void)state;
  for (RequestState s = 0; s < RS_DONE; s++) {
    assert_true(request_may_move(s, RS_DONE)); /* the client may go at any time */
    if (s != RS_REPLYING) assert_true(request_may_move(s, RS_REPLYING));
  }
}

static void test_nothing_leaves_the_end(void **state) {
  (void)state;
  for (RequestState to = 0; to < RS__COUNT; to++) {
    assert_false(request_may_move(RS_DONE, to));
    if (to != RS_DONE) assert_false(request_may_move(RS_REPLYING, to));
  }
}

static void test_reachable(void **state) {
  (void)state;
  bool seen[RS__COUNT] = {[RS_READING] = true};
  for (int round = 0; round < RS__COUNT; round++)
    for (RequestState a = 0; a < RS__COUNT; a++)
      for (RequestState b = 0; seen[a] && b < RS__COUNT; b++)
        if (request_may_move(a, b)) seen[b] = true;
  for (RequestState s = 0; s < RS__COUNT; s++) assert_true(seen[s]);
}

static void test_nothing_goes_back_to_reading(void **state) {
  (void)state;
  for (RequestState s = 0; s < RS__COUNT; s++) assert_false(request_may_move(s, RS_READING));
}

static void test_methods(void **state) {
  (void)state;
  assert_non_null(rpc_find(STR("/kiln.v1.Kiln/Run")));
  assert_null(rpc_find(STR("/kiln.v1.Kiln/Ru")));
  assert_null(rpc_find(STR("/kiln.v1.Kiln/Runn")));
  assert_null(rpc_find(STR("")));
}

/* Each row is found at its own path, and asks for one thing. */
static void test_rows(void **state) {
  (void)state;
  size_t n = 0;
  for (const Rpc *r; (r = rpc_at(n)); n++) {
    assert_ptr_equal(r, rpc_find(str_from(r->method->path)));
    if (r->needs != ANYBODY && r->needs != TENANT) {
      assert_int_equal(r->needs & ~(unsigned)ROLE_ALL, 0);
      assert_int_equal(r->needs & (r->needs - 1), 0);
    }
  }
  assert_true(n >= 25);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_every_state_can_end),
      cmocka_unit_test(test_reachable),
      cmocka_unit_test(test_nothing_leaves_the_end),
      cmocka_unit_test(test_methods),
      cmocka_unit_test(test_rows),
      cmocka_unit_test(test_nothing_goes_back_to_reading),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
