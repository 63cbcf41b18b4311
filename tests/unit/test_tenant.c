/* The table of tenants over reloads: pointers stay, who is gone is retired and may come back. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "daemon/server/config.h"

static void load(TenantTable *t, const char *text) {
  Config c;
  assert_null(config_init(&c));
  assert_null(config_read_text(&c, text, "test.conf"));
  assert_null(config_check(&c));
  assert_null(tenants_load(t, &c));
  config_deinit(&c);
}

static void test_local(void **state) {
  (void)state;
  TenantTable t = {.first = NULL};
  load(&t, "");
  assert_non_null(t.local);
  assert_ptr_equal(t.local, tenants_find(&t, "local"));
  assert_int_equal(t.local->roles, ROLE_ALL);
  assert_int_equal(t.local->weight, 1);
  assert_int_equal(t.local->id, 1);
  assert_int_equal(t.nobody.roles, 0);
  tenants_deinit(&t);
}

static void test_reload(void **state) {
  (void)state;
  TenantTable t = {.first = NULL};
  load(&t, "[tenant alice]\nroles = run, tune\nweight = 4\nruns = 3\ndevice_bytes = 2G\n"
           "compile_seconds = 2m\n[tenant bob]\nroles = cache-write admin\n");
  Tenant *alice = tenants_find(&t, "alice"), *bob = tenants_find(&t, "bob");
  assert_non_null(alice);
  assert_null(t.local);
  assert_null(tenants_find(&t, "local"));
  assert_int_equal(alice->roles, ROLE_RUN | ROLE_TUNE);
  assert_int_equal(alice->weight, 4);
  assert_int_equal(alice->quota.runs, 3);
  assert_int_equal(alice->quota.device_bytes, 2ull << 30);
  assert_int_equal(alice->quota.compile_seconds, 120);
  assert_int_equal(bob->roles, ROLE_CACHE_WRITE | ROLE_ADMIN);
  uint64_t generation = t.generation;

  load(&t, "[tenant bob]\nweight = 1\n[tenant carol]\nroles = all\n");
  assert_true(t.generation > generation);
  assert_null(tenants_find(&t, "alice"));
  assert_true(alice->retired);
  assert_ptr_equal(bob, tenants_find(&t, "bob"));
  assert_int_equal(bob->roles, ROLE_RUN); /* the default again */
  assert_int_equal(tenants_find(&t, "carol")->roles, ROLE_ALL);
  assert_int_equal(tenants_find(&t, "carol")->id, 3);

  load(&t, "[tenant alice]\nweight = 2\n");
  assert_ptr_equal(alice, tenants_find(&t, "alice"));
  assert_int_equal(alice->quota.runs, 0);
  assert_int_equal(alice->weight, 2);
  tenants_deinit(&t);
}

static void test_roles(void **state) {
  (void)state;
  char text[ROLES_TEXT];
  unsigned roles;
  assert_null(roles_parse(" admin,run  cache-write", &roles));
  assert_string_equal(roles_text(roles, text), "run, cache-write, admin");
  assert_null(roles_parse("all", &roles));
  assert_string_equal(roles_text(roles, text), "run, tune, cache-write, admin");
  assert_null(roles_parse("", &roles));
  assert_string_equal(roles_text(roles, text), "");
  Status st = roles_parse("runs", &roles);
  assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
  status_drop(st);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_local), cmocka_unit_test(test_reload),
                                     cmocka_unit_test(test_roles)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
