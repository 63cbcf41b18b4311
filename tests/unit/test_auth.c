/* Who somebody is, without a server: rows, tokens, names, users, and what a reload changes. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <unistd.h>

#include "daemon/server/config.h"
#include "daemon/server/rpc.h"
#include "proto/digest.h"

typedef struct Fixture {
  TenantTable tenants;
  AuthTable *auth;
  Peer peer;
} Fixture;

static void load(Fixture *f, const char *text) {
  Config c;
  AuthTable *auth;
  assert_null(config_init(&c));
  assert_null(config_read_text(&c, text, "test.conf"));
  assert_null(tenants_load(&f->tenants, &c));
  assert_null(auth_load(&c, &f->tenants, &auth));
  auth_release(f->auth);
  f->auth = auth;
  config_deinit(&c);
}

static int setup(void **state) {
  *state = calloc(1, sizeof(Fixture));
  return 0;
}

static int teardown(void **state) {
  Fixture *f = *state;
  peer_deinit(&f->peer);
  auth_release(f->auth);
  tenants_deinit(&f->tenants);
  free(f);
  return 0;
}

/* "token = sha256:..." with a salt of eight equal bytes. */
static const char *row(const char *token, unsigned char salt, char buf[200]) {
  unsigned char salted[300], hash[DIGEST_BYTES];
  char salt_hex[17], hash_hex[DIGEST_HEX + 1];
  memset(salted, salt, 8);
  memcpy(salted + 8, token, strlen(token));
  digest_sha256(salted, 8 + strlen(token), hash);
  snprintf(buf, 200, "token = sha256:%s:%s\n", digest_to_hex(salted, 8, salt_hex),
           digest_to_hex(hash, sizeof hash, hash_hex));
  return buf;
}

/* The tenant's name, or the code's. */
static const char *who(Fixture *f, const char *authorization, unsigned needs) {
  Tenant *t;
  Status st = auth_request(f->auth, &f->tenants, &f->peer, str_from(authorization), needs, &t);
  const char *name = st ? status_code_name(status_code(st)) : t->name;
  assert_non_null(t);
  status_drop(st);
  return name;
}

static void test_tokens(void **state) {
  Fixture *f = *state;
  char text[1000], a[200], b[200], c[200];
  snprintf(text, sizeof text, "[tenant a]\nroles = run\n%s%s[tenant b]\nroles = tune,admin\n%s",
           row("one", 1, a), row("two", 2, b), row("three", 3, c));
  load(f, text);
  for (int round = 0; round < 3; round++) { /* the second time it is remembered */
    assert_string_equal(who(f, "Bearer one", ROLE_RUN), "a");
    assert_string_equal(who(f, "bearer two", ROLE_RUN), "a");
    assert_string_equal(who(f, "Bearer three", ROLE_TUNE), "b");
  }
  assert_string_equal(who(f, "Bearer three", TENANT), "b");
  assert_string_equal(who(f, "Bearer three", ROLE_RUN), "PERMISSION_DENIED");
  assert_string_equal(who(f, "Bearer one", ROLE_ADMIN), "PERMISSION_DENIED");
  static const char *const wrong[] = {"Bearer on",   "Bearer onee", "Bearer ", "Bearer",
                                      "Bearer  one", "Basic one",   "one",     "Bearer One"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_string_equal(who(f, wrong[i], TENANT), "UNAUTHENTICATED");
    assert_string_equal(who(f, wrong[i], ANYBODY), "nobody");
  }
  assert_string_equal(who(f, "", TENANT), "UNAUTHENTICATED");
}

static void test_long_tokens(void **state) {
  Fixture *f = *state;
  char longest[AUTH_TOKEN_MAX + 1], text[400], header[AUTH_TOKEN_MAX + 20], line[200];
  memset(longest, 'x', sizeof longest);
  longest[AUTH_TOKEN_MAX] = 0;
  snprintf(text, sizeof text, "[tenant a]\n%s", row(longest, 7, line));
  load(f, text);
  snprintf(header, sizeof header, "Bearer %s", longest);
  assert_string_equal(who(f, header, TENANT), "a");
  snprintf(header, sizeof header, "Bearer %sx", longest);
  assert_string_equal(who(f, header, TENANT), "UNAUTHENTICATED");
}

static void test_reload(void **state) {
  Fixture *f = *state;
  char text[400], line[200];
  snprintf(text, sizeof text, "[tenant a]\n%s", row("one", 1, line));
  load(f, text);
  assert_string_equal(who(f, "Bearer one", TENANT), "a");
  snprintf(text, sizeof text, "[tenant a]\n%s", row("two", 1, line));
  load(f, text);
  assert_string_equal(who(f, "Bearer one", TENANT), "UNAUTHENTICATED"); /* not remembered */
  assert_string_equal(who(f, "Bearer two", TENANT), "a");
  load(f, "");
  assert_string_equal(who(f, "Bearer one", ROLE_ADMIN), "local");
}

static void test_users(void **state) {
  Fixture *f = *state;
  int pair[2];
  char text[200];
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  peer_from_socket(&f->peer, pair[0]);
  assert_true(f->peer.has_uid);
  assert_int_equal(f->peer.uid, getuid());
  snprintf(text, sizeof text, "[tenant me]\nuid = %u\n[tenant you]\nuid = %u\n", (unsigned)getuid(),
           (unsigned)getuid() + 1);
  load(f, text);
  assert_string_equal(who(f, "", ROLE_RUN), "me");
  assert_string_equal(who(f, "Bearer x", ROLE_RUN), "UNAUTHENTICATED");
  f->peer.uid = getuid() + 1;
  load(f, text);
  assert_string_equal(who(f, "", ROLE_RUN), "you");
  f->peer.uid = getuid() + 2;
  load(f, text);
  assert_string_equal(who(f, "", ROLE_RUN), "UNAUTHENTICATED");
  close(pair[0]);
  close(pair[1]);
}

static void test_names(void **state) {
  Fixture *f = *state;
  load(f, "[tenant a]\ncertificate = dns:a.example\n[tenant b]\ncertificate = cn:b\n");
  f->peer.names[f->peer.nnames++] = strdup("cn:a.example"); /* a name of another kind */
  assert_string_equal(who(f, "", TENANT), "UNAUTHENTICATED");
  f->peer.names[f->peer.nnames++] = strdup("dns:a.example");
  load(f, "[tenant a]\ncertificate = dns:a.example\n[tenant b]\ncertificate = cn:b\n");
  assert_string_equal(who(f, "", TENANT), "a");
}

int main(void) {
#define WITH(test_) cmocka_unit_test_setup_teardown(test_, setup, teardown)
  const struct CMUnitTest tests[] = {WITH(test_tokens), WITH(test_long_tokens), WITH(test_reload),
                                     WITH(test_users), WITH(test_names)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
