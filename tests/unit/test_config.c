/* kilnd's configuration: every key, units, errors with file, line and key. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "daemon/server/config.h"
#include "tests/unit/status_check.h"

static void expect_error(const char *text, const char *words) {
  Config c;
  assert_null(config_init(&c));
  Status st = config_read_text(&c, text, "test.conf");
  if (!st) st = config_check(&c);
  check_refused(st, ST_INVALID_ARGUMENT, words);
  config_deinit(&c);
}

static void test_defaults(void **state) {
  (void)state;
  Config c;
  assert_null(config_init(&c));
  assert_null(config_check(&c));
  assert_int_equal(c.listen.len, 1);
  assert_memory_equal(c.listen.at[0], "unix:/", 6);
  assert_string_equal(c.devices.at[0], "auto");
  assert_true(c.cache_enabled && *c.cache_path);
  config_deinit(&c);
}

static void test_values(void **state) {
  (void)state;
  Config c;
  assert_null(config_init(&c));
  assert_null(config_read_text(&c,
                               "# a comment\n"
                               "[server]\n"
                               "listen = unix:/a.sock\n"
                               "listen = 127.0.0.1:80 ; another\n"
                               "grace = 2m\n"
                               "socket_mode = 0660\n"
                               "[cache]\npath = /x/y\nenabled = no\nmax_bytes = 3G\n"
                               "[limits]\nmodel = 5K\nqueue = 7\n"
                               "[patience]\nreader = 3m\nheaders = 0\n"
                               "[tenant a]\nconnections = 9\n"
                               "[workers]\ncompile_seconds = 1h\ndevice = null:0\n",
                               "test.conf"));
  assert_null(config_check(&c));
  assert_int_equal(c.listen.len, 2); /* the default was replaced, the second added */
  assert_string_equal(c.listen.at[1], "127.0.0.1:80");
  assert_int_equal(c.grace, 120);
  assert_int_equal(c.socket_mode, 0660);
  assert_string_equal(c.cache_path, "/x/y");
  assert_false(c.cache_enabled);
  assert_int_equal(c.cache_max_bytes, 3ull << 30);
  assert_int_equal(c.max_model_bytes, 5 << 10);
  assert_int_equal(c.max_queue, 7);
  assert_int_equal(c.patience.reader, 180);
  assert_int_equal(c.patience.headers, 0);
  assert_int_equal(c.patience.message, 120);
  assert_int_equal(c.tenants[0].quota.connections, 9);
  assert_int_equal(c.compile_seconds, 3600);
  assert_int_equal(c.devices.len, 1);
  assert_string_equal(c.devices.at[0], "null:0");
  config_deinit(&c);
}

static void test_errors(void **state) {
  (void)state;
  expect_error("[server]\nlissen = x\n", "test.conf:2: unknown key 'lissen'");
  expect_error("\n\n[servr]\nlisten = x\n", "test.conf:4: unknown section [servr]");
  expect_error("[limits]\nmodel = big\n", "[limits] model: expected a number");
  expect_error("[limits]\nmodel = -1\n", "got '-1'");
  expect_error("[limits]\nmodel = 1KK\n", "got '1KK'");
  expect_error("[limits]\nmodel = 99999999999999999999\n", "expected a number");
  expect_error("[limits]\nmodel = 99999999999999T\n", "too large");
  expect_error("[limits]\nqueue = 5K\n", "got '5K'");
  expect_error("[tenant a b]\nweight = 1\n", "a tenant's name");
  expect_error("[tenant nobody]\nweight = 1\n", "a tenant's name");
  expect_error("[tenant a]\nweight = 0\n", "[tenant a] weight: expected 1 to 1000");
  expect_error("[tenant a]\nroles = run, walk\n",
               "[tenant a]: [tenant] roles: unknown role 'walk'");
  expect_error("[tenant a]\nwait = 1\n", "unknown key 'wait'");
  expect_error("[server]\ninsecure_tcp = maybe\n", "expected true or false");
  expect_error("[server]\nsocket_mode = 0888\n", "permissions");
  expect_error("[server]\nsocket_mode = rw\n", "permissions");
  expect_error("what is this\n", "test.conf:1");
  expect_error("[limits]\nqueue = 0\n", "at least 1");
  expect_error("[limits]\nmessage = 3G\n", "64K to 2G");
  expect_error("[workers]\ncompile = 1000\n", "at most 256");
  expect_error("[workers]\nrun_seconds = 0\n", "at least 1");
  expect_error("[server]\nlog_level = loud\n", "got 'loud'");
}

static void test_addresses(void **state) {
  (void)state;
  expect_error("[server]\nlisten = 0.0.0.0:80\n", "insecure_tcp");
  expect_error("[server]\nlisten = 10.1.2.3:80\n", "insecure_tcp");
  expect_error("[server]\nlisten = [::]:80\n", "insecure_tcp");
  expect_error("[server]\nlisten = somewhere\n", "HOST:PORT");
  expect_error("[server]\nlisten = unix:\n", "without a path");
  expect_error("[server]\nlisten =\n", "expected a value");
  char text[300];
  snprintf(text, sizeof text, "[server]\nlisten = unix:/%0120d\n", 0);
  expect_error(text, "longer");
  Config c;
  assert_null(config_init(&c));
  assert_null(config_read_text(&c,
                               "[server]\ninsecure_tcp = yes\nlisten = 0.0.0.0:1\n"
                               "listen = localhost:2\nlisten = [::1]:3\n",
                               "test.conf"));
  assert_null(config_check(&c));
  config_deinit(&c);
}

static void test_too_many(void **state) {
  (void)state;
  char text[1000] = "[server]\n";
  for (int i = 0; i <= CONFIG_LIST_MAX; i++) strcat(text, "listen = unix:/a\n");
  expect_error(text, "more than 16 times");
}

static void test_missing_file(void **state) {
  (void)state;
  Config c;
  assert_null(config_init(&c));
  Status st = config_read_file(&c, "/nonexistent/kiln.conf");
  assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
  status_drop(st);
  config_deinit(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults), cmocka_unit_test(test_values),
      cmocka_unit_test(test_errors),   cmocka_unit_test(test_addresses),
      cmocka_unit_test(test_too_many), cmocka_unit_test(test_missing_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
