/* A configuration file, and a second one that is loaded over it as SIGHUP does (the input is cut at
 * its first zero byte). What is accepted is consistent: tenants have names, weights and roles that
 * the rest relies on, and a file that is refused leaves tenants and tokens as they were. */
#include <assert.h>
#include <stdlib.h>

#include "daemon/server/config.h"

#include "base/log.h"
#include "daemon/server/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct State {
  TenantTable tenants;
  AuthTable *auth;
} State;

static void check(const Config *c) {
  assert(c->listen.len <= CONFIG_LIST_MAX && c->devices.len <= CONFIG_LIST_MAX);
  assert(c->max_message_bytes && c->max_connections);
  for (size_t i = 0; i < c->ntenants; i++) {
    const TenantSpec *t = &c->tenants[i];
    assert(*t->name && t->weight >= 1 && t->weight <= 1000 && !(t->roles & ~(unsigned)ROLE_ALL));
  }
}

/* As a server takes it. */
static Status load(State *s, const char *text) {
  Config c;
  AuthTable *auth = NULL;
  Status st = config_init(&c);
  if (!st) st = config_read_text(&c, text, "fuzz.conf");
  if (!st) st = config_check(&c);
  if (!st) {
    check(&c);
    st = tenants_load(&s->tenants, &c);
  }
  if (!st) st = auth_load(&c, &s->tenants, &auth);
  if (!st) {
    auth_release(s->auth);
    s->auth = auth;
  }
  config_deinit(&c);
  return st;
}

static void ask(State *s) {
  Peer peer = {.has_uid = true, .uid = 1000};
  Tenant *t;
  static const char *const headers[] = {"", "Bearer x", "bearer kiln", "Basic eDp5"};
  for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
    Status st = auth_request(s->auth, &s->tenants, &peer, str_from(headers[i]), 1 << 16, &t);
    assert(t && (st || !t->retired));
    status_drop(st);
  }
  peer_deinit(&peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  State s = {.auth = NULL};
  log_init("fuzz", LOG_LEVEL_OFF);
  char *text = malloc(size + 2);
  if (!text) abort();
  memcpy(text, data, size);
  text[size] = text[size + 1] = 0;
  const char *second = text + strlen(text) + (strlen(text) < size);
  for (int i = 0; i < 2; i++) {
    uint32_t before = s.tenants.len;
    Status st = load(&s, i ? second : text);
    assert(!st || s.tenants.len == before);
    status_drop(st);
    if (s.auth) ask(&s);
  }
  auth_release(s.auth);
  tenants_deinit(&s.tenants);
  free(text);
  return 0;
}
