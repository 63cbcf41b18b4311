/* Authorization headers on one connection: a line of the input each, over a table with tokens. Only
 * the tokens themselves make somebody a tenant, whatever came before, and over reloads. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <strings.h>

#include "base/log.h"
#include "daemon/server/config.h"
#include "daemon/server/rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The tokens are "one" and "two", with eight bytes of 0x11 and 0x22 before them. */
static const char text[] = "[tenant a]\nroles = run\n"
                           "token = sha256:1111111111111111:"
                           "ff995c308f35087b5152e9251604f4b27a28313a4464bad95c11e49d823e5ce4\n"
                           "[tenant b]\nroles = tune\n"
                           "token = sha256:2222222222222222:"
                           "1e1b4178ffa54627b336e168813ab1e0e67479e96f96c45fc6a549c4781e4aaa\n";

static TenantTable tenants;
static AuthTable *table;

static void load(void) {
  Config c;
  AuthTable *auth;
  if (config_init(&c) || config_read_text(&c, text, "fuzz") || tenants_load(&tenants, &c) ||
      auth_load(&c, &tenants, &auth))
    abort();
  config_deinit(&c);
  auth_release(table);
  table = auth;
}

static bool is_token(Str h, const char *token) {
  return h.len == 7 + strlen(token) && !strncasecmp(h.ptr, "bearer ", 7) &&
         !memcmp(h.ptr + 7, token, strlen(token));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Peer peer = {.has_uid = false};
  log_init("fuzz", LOG_LEVEL_OFF);
  load();
  for (size_t at = 0, n; at < size; at += n + 1) {
    const uint8_t *end = memchr(data + at, '\n', size - at);
    n = end ? (size_t)(end - data) - at : size - at;
    Str header = {(const char *)data + at, n};
    Tenant *t;
    if (n == 6 && !memcmp(header.ptr, "reload", 6)) load();
    Status st = auth_request(table, &tenants, &peer, header, TENANT, &t);
    bool right = is_token(header, "one") || is_token(header, "two");
    assert(!st == right && (st ? t == &tenants.nobody : t->name[1] == 0));
    status_drop(st);
  }
  peer_deinit(&peer);
  return 0;
}
