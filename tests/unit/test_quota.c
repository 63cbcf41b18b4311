/* Buckets and quotas with time that the test makes up: what is refused says when it will not be,
 * and then it is not. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/server/quota.h"

#define SECOND 1000000000ll

static void test_bucket(void **state) {
  (void)state;
  Bucket b = {.used = 0};
  int64_t now = 5 * SECOND;
  for (int i = 0; i < 10; i++) assert_int_equal(bucket_take(&b, 10, 10, 1, now), 0);
  int64_t wait = bucket_take(&b, 10, 10, 1, now);
  assert_in_range(wait, SECOND / 10, SECOND / 10 + 10);
  assert_true(bucket_take(&b, 10, 10, 1, now + wait / 2) > 0);
  assert_int_equal(bucket_take(&b, 10, 10, 1, now + wait), 0);
  assert_true(bucket_take(&b, 10, 10, 1, now) > 0); /* a clock that goes back gives nothing */
  assert_int_equal(bucket_take(&b, 10, 10, 1000, now + 100 * SECOND), 0);
}

/* Over a long time no more than the rate and one burst gets through. */
static void test_rate(void **state) {
  (void)state;
  Tenant t = {.name = "a", .quota.request_rate = 100};
  int passed = 0;
  for (int64_t now = SECOND; now < 11 * SECOND; now += SECOND / 5000) {
    Status st = quota_request(&t, now);
    passed += !st;
    if (st) assert_int_equal(st->code, ST_RESOURCE_EXHAUSTED);
    if (st) assert_in_range(status_retry_ns(st), 1, SECOND / 100 + 10);
    status_drop(st);
  }
  assert_in_range(passed, 1090, 1101);
  assert_int_equal(t.used.requests, 50000);
}

static void test_runs(void **state) {
  (void)state;
  Tenant t = {.name = "a", .quota.runs = 2}, free_one = {.name = "b"};
  assert_null(quota_run(&t));
  assert_null(quota_run(&t));
  Status st = quota_run(&t);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  assert_true(status_retry_ns(st) > 0);
  status_drop(st);
  assert_int_equal(t.used.runs, 2);
  quota_run_end(&t);
  assert_null(quota_run(&t));
  for (int i = 0; i < 1000; i++) assert_null(quota_run(&free_one));
}

static void test_seconds(void **state) {
  (void)state;
  Tenant t = {.name = "a", .quota.compile_seconds = 36};
  int64_t now = SECOND;
  assert_null(quota_compile(&t, now));
  quota_compiled(&t, 46 * SECOND); /* 10 more than there are */
  Status st = quota_compile(&t, now);
  int64_t wait = status_retry_ns(st);
  status_drop(st);
  assert_in_range(wait, 999 * SECOND, 1001 * SECOND); /* at 1 % */
  assert_null(quota_compile(&t, now + wait + SECOND));
  assert_null(quota_tune(&t, now));
  quota_compiled(NULL, SECOND);
  assert_int_equal(t.used.compile_ns, 46 * SECOND);
}

static void test_memory(void **state) {
  (void)state;
  Tenant t = {.name = "a", .quota = {.device_bytes = 100, .host_bytes = 100}};
  t.used.executable_bytes = 40;
  assert_null(quota_memory(&t, 100, 60));
  Status st = quota_memory(&t, 101, 0);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
  st = quota_memory(&t, 0, 61);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
  t.used.device_bytes = 200; /* the quota was lowered meanwhile */
  st = quota_memory(&t, UINT64_MAX, 0);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
  assert_null(quota_memory(&t, 0, 1));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bucket),  cmocka_unit_test(test_rate),   cmocka_unit_test(test_runs),
      cmocka_unit_test(test_seconds), cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
