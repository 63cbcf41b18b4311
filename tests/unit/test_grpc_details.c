/* The retry delay in grpc-status-details-bin: what is written is read, bytes are those that other
 * implementations write, and nonsense is no delay. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>

#include "proto/grpc.h"

static void test_round_trip(void **state) {
  (void)state;
  static const int64_t delays[] = {1, 999999999, 1000000000, 2500000000, 3600000000000};
  char buf[GRPC_DETAILS_CAP], text[1000];
  memset(text, 'x', sizeof text);
  for (size_t len = 0; len < sizeof text; len += 37)
    for (size_t i = 0; i < sizeof delays / sizeof *delays; i++) {
      char save = text[len];
      text[len] = 0;
      Str header = str_from(grpc_retry_encode(ST_RESOURCE_EXHAUSTED, text, delays[i], buf));
      assert_int_equal(grpc_retry_decode(header), delays[i]);
      text[len] = save;
    }
}

/* As python's protobuf packs Status(code=8, message="full", details=[RetryInfo(1.5 s)]). */
static void test_known_bytes(void **state) {
  (void)state;
  static const char known[] =
      "CAgSBGZ1bGwaNgoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIKCggIARCAyrXuAQ==";
  char buf[GRPC_DETAILS_CAP];
  Str made = str_from(grpc_retry_encode(ST_RESOURCE_EXHAUSTED, "full", 1500000000, buf));
  Str padded = str_from(known);
  assert_int_equal(grpc_retry_decode(padded), 1500000000);
  assert_int_equal(grpc_retry_decode((Str){known, padded.len - 2}), 1500000000);
  assert_memory_equal(made.ptr, known, padded.len - 2);
}

static void test_nonsense(void **state) {
  (void)state;
  char buf[GRPC_DETAILS_CAP];
  Str whole = str_from(grpc_retry_encode(ST_RESOURCE_EXHAUSTED, "full", 1500000000, buf));
  for (size_t n = 0; n < whole.len; n++) assert_int_equal(grpc_retry_decode((Str){buf, n}), 0);
  assert_int_equal(grpc_retry_decode(STR("!!!!")), 0);
  assert_int_equal(grpc_retry_decode(STR("====")), 0);
  static char long_text[100000];
  memset(long_text, 'A', sizeof long_text);
  assert_int_equal(grpc_retry_decode((Str){long_text, sizeof long_text}), 0);
  srand(1);
  for (int k = 0; k < 20000; k++) {
    char copy[GRPC_DETAILS_CAP];
    memcpy(copy, buf, whole.len);
    for (int i = 0; i < 3; i++) copy[(size_t)rand() % whole.len] = (char)('A' + rand() % 60);
    assert_true(grpc_retry_decode((Str){copy, whole.len}) >= 0);
  }
}

static void test_on_a_status(void **state) {
  (void)state;
  Status st = status_retry(FAIL(RESOURCE_EXHAUSTED, "full"), 5000000);
  st = WRAP(st, "outer");
  assert_int_equal(status_retry_ns(st), 5000000);
  status_drop(st);
  assert_int_equal(status_retry_ns(NULL), 0);
  st = status_retry(FAIL(RESOURCE_EXHAUSTED, "full"), INT64_MAX);
  assert_int_equal(status_retry_ns(st), 3600000000000);
  status_drop(st);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_known_bytes),
      cmocka_unit_test(test_nonsense),
      cmocka_unit_test(test_on_a_status),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
