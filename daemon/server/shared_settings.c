/* The address, the key and the trusted nodes, from the configuration and the files beside it. */
#include "daemon/server/shared_settings.h"

#include <libgen.h>
#include <stdio.h>
#include <unistd.h>

static Status load_key(const Config *c, NodeKey **out) {
  char folder[4096], path[4200];
  if (*c->shared_key) return node_key_load(c->shared_key, out);
  snprintf(folder, sizeof folder, "%s", c->cache_path);
  snprintf(path, sizeof path, "%s/node.key", dirname(folder));
  return node_key_load(path, out);
}

static Status add_self(SharedSettings *s) {
  TrustedNode self = {.name = ""};
  if (trusted_find(s->nodes.at, s->nodes.len, node_key_public(s->key))) return NULL;
  memcpy(self.node, node_key_public(s->key), NODE_KEY_BYTES);
  if (gethostname(self.name, sizeof self.name - 1)) self.name[0] = 0;
  return vec_push(&s->nodes, self) ? NULL : FAIL(RESOURCE_EXHAUSTED, "trusted nodes");
}

static Status load_tls(const Config *c, SharedSettings *out) {
  const TlsFiles files = {.certificate = c->shared_certificate,
                          .key = c->shared_tls_key,
                          .ca = *c->shared_ca ? c->shared_ca : "system",
                          .no_alpn = true};
  return out->address.tls ? tls_client_context(&files, &out->tls) : NULL;
}

Status shared_settings_load(const Config *c, SharedSettings *out) {
  *out = (SharedSettings){.key = NULL};
  Status st = resp_address_parse(c->shared_server, &out->address);
  if (!st) st = load_tls(c, out);
  if (!st) st = load_key(c, &out->key);
  if (!st) st = shared_trust_load(c, &out->nodes);
  if (!st) st = add_self(out);
  if (st) {
    shared_settings_deinit(out);
    return WRAP(st, "[shared]");
  }
  resp_address_text(&out->address, out->address_text, sizeof out->address_text);
  node_key_text(node_key_public(out->key), out->node_text);
  return NULL;
}

void shared_settings_deinit(SharedSettings *s) {
  vec_deinit(&s->nodes);
  node_key_release(s->key);
  tls_context_release(s->tls);
  *s = (SharedSettings){.key = NULL};
}

bool shared_settings_same(const SharedSettings *a, const SharedSettings *b) {
  const RespAddress *x = &a->address, *y = &b->address;
  return x->tls == y->tls && dial_same(&x->at, &y->at) && !strcmp(x->user, y->user) &&
         !strcmp(x->password, y->password) && !strcmp(x->db, y->db) &&
         !memcmp(node_key_public(a->key), node_key_public(b->key), NODE_KEY_BYTES) &&
         a->nodes.len == b->nodes.len &&
         (!a->nodes.len || !memcmp(a->nodes.at, b->nodes.at, a->nodes.len * sizeof *a->nodes.at));
}
