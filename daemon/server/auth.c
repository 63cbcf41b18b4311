/* Rows are few and are gone through linearly. The last right token of a connection is remembered,
 * so a stream of requests with the same one costs a comparison each. */
#include "daemon/server/auth.h"

#include <openssl/crypto.h>
#include <pwd.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/log.h"
#include "daemon/server/config.h"
#include "daemon/server/rpc.h"
#include "proto/digest.h"

enum { SALT_MIN = 8, SALT_MAX = 32 };

typedef struct TokenRow {
  uint8_t salt[SALT_MAX];
  size_t nsalt;
  uint8_t hash[DIGEST_BYTES];
  Tenant *tenant;
} TokenRow;

typedef struct UidRow {
  uid_t uid;
  Tenant *tenant;
} UidRow;

typedef struct NameRow {
  char *name; /* owned */
  Tenant *tenant;
} NameRow;

struct AuthTable {
  TokenRow *tokens;
  UidRow *uids;
  NameRow *names;
  size_t ntokens, nuids, nnames;
};

/* -- loading ------------------------------------------------------------------------------------
 */

/* "sha256:SALT:HASH" */
static Status parse_token(const char *text, TokenRow *out) {
  const char *salt = strncmp(text, "sha256:", 7) ? NULL : text + 7;
  const char *colon = salt ? strchr(salt, ':') : NULL;
  size_t n = colon ? (size_t)(colon - salt) : 0;
  out->nsalt = n / 2;
  if (n % 2 || out->nsalt < SALT_MIN || out->nsalt > SALT_MAX ||
      !digest_from_hex((Str){salt, n}, out->salt, out->nsalt) ||
      !digest_from_hex(str_from(colon + 1), out->hash, DIGEST_BYTES))
    return FAIL(INVALID_ARGUMENT,
                "token: expected sha256:SALT:HASH with a salt of %d to %d bytes in hexadecimal, as "
                "`kiln token` prints it",
                SALT_MIN, SALT_MAX);
  return NULL;
}

/* A number, or the name of a user of this machine. */
static Status parse_uid(const char *text, uid_t *out) {
  char *end;
  unsigned long n = strtoul(text, &end, 10);
  if (end != text && !*end && *text != '-' && n < UINT32_MAX) return *out = (uid_t)n, NULL;
  const struct passwd *user = getpwnam(text);
  if (!user) return FAIL(INVALID_ARGUMENT, "uid: no user '%.64s' on this machine", text);
  return *out = user->pw_uid, NULL;
}

static Status add_uid(AuthTable *a, const char *text, Tenant *t) {
  uid_t uid;
  TRY(parse_uid(text, &uid));
  for (size_t i = 0; i < a->nuids; i++)
    if (a->uids[i].uid == uid && a->uids[i].tenant != t)
      return FAIL(INVALID_ARGUMENT, "uid: %s is tenant '%s' already", text,
                  a->uids[i].tenant->name);
  a->uids[a->nuids++] = (UidRow){uid, t};
  return NULL;
}

static Status add_name(AuthTable *a, const char *text, Tenant *t) {
  if (strncmp(text, "cn:", 3) && strncmp(text, "dns:", 4) && strncmp(text, "uri:", 4) &&
      strncmp(text, "email:", 6))
    return FAIL(INVALID_ARGUMENT,
                "certificate: expected cn:NAME, dns:NAME, uri:NAME or email:NAME, got '%.64s'",
                text);
  for (size_t i = 0; i < a->nnames; i++)
    if (!strcmp(a->names[i].name, text) && a->names[i].tenant != t)
      return FAIL(INVALID_ARGUMENT, "certificate: '%.64s' is tenant '%s' already", text,
                  a->names[i].tenant->name);
  char *copy = strdup(text);
  if (!copy) return FAIL(RESOURCE_EXHAUSTED, "tenants");
  a->names[a->nnames++] = (NameRow){copy, t};
  return NULL;
}

static Status add_tenant(AuthTable *a, const TenantSpec *spec, Tenant *t) {
  for (size_t i = 0; i < spec->tokens.len; i++) {
    TRY(parse_token(spec->tokens.at[i], &a->tokens[a->ntokens]));
    a->tokens[a->ntokens++].tenant = t;
  }
  for (size_t i = 0; i < spec->uids.len; i++) TRY(add_uid(a, spec->uids.at[i], t));
  for (size_t i = 0; i < spec->certificates.len; i++) TRY(add_name(a, spec->certificates.at[i], t));
  return NULL;
}

Status auth_load(const Config *c, const TenantTable *tenants, AuthTable **out) {
  AuthTable *a = calloc(1, sizeof *a);
  size_t rows = c->ntenants * CONFIG_LIST_MAX + 1;
  Status st = NULL;
  if (!a) return FAIL(RESOURCE_EXHAUSTED, "tenants");
  a->tokens = calloc(rows, sizeof *a->tokens);
  a->uids = calloc(rows, sizeof *a->uids);
  a->names = calloc(rows, sizeof *a->names);
  if (!a->tokens || !a->uids || !a->names) st = FAIL(RESOURCE_EXHAUSTED, "tenants");
  for (size_t i = 0; !st && i < c->ntenants; i++) {
    st = add_tenant(a, &c->tenants[i], tenants_find(tenants, c->tenants[i].name));
    if (st) st = WRAP(st, "[tenant %s]", c->tenants[i].name);
  }
  if (st) {
    auth_release(a);
    return st;
  }
  *out = a;
  return NULL;
}

void auth_release(AuthTable *a) {
  if (!a) return;
  for (size_t i = 0; i < a->nnames; i++) free(a->names[i].name);
  free(a->tokens);
  free(a->uids);
  free(a->names);
  free(a);
}

/* -- peers --------------------------------------------------------------------------------------
 */

static void forget_token(Peer *p) {
  if (p->token) OPENSSL_cleanse(p->token, p->token_len);
  free(p->token);
  p->token = NULL;
  p->token_len = 0;
  p->bearer = NULL;
}

void peer_deinit(Peer *p) {
  forget_token(p);
  for (size_t i = 0; i < p->nnames; i++) free(p->names[i]);
  *p = (Peer){.has_uid = false};
}

void peer_from_socket(Peer *p, int fd) {
  struct ucred cred;
  socklen_t len = sizeof cred;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) || len != sizeof cred) return;
  p->has_uid = true;
  p->uid = cred.uid;
}

static Tenant *by_connection(const AuthTable *a, const Peer *p) {
  for (size_t i = 0; p->has_uid && i < a->nuids; i++)
    if (a->uids[i].uid == p->uid) return a->uids[i].tenant;
  for (size_t n = 0; n < p->nnames; n++)
    for (size_t i = 0; i < a->nnames; i++)
      if (!strcmp(a->names[i].name, p->names[n])) return a->names[i].tenant;
  return NULL;
}

/* Every row is hashed and compared, so the time does not tell which one it was. */
static Tenant *by_token(const AuthTable *a, Str token) {
  size_t found = SIZE_MAX;
  for (size_t i = 0; i < a->ntokens; i++) {
    const TokenRow *row = &a->tokens[i];
    uint8_t salted[SALT_MAX + AUTH_TOKEN_MAX], hash[DIGEST_BYTES];
    memcpy(salted, row->salt, row->nsalt);
    memcpy(salted + row->nsalt, token.ptr, token.len);
    digest_sha256(salted, row->nsalt + token.len, hash);
    size_t equal = !CRYPTO_memcmp(hash, row->hash, DIGEST_BYTES);
    found = equal * i + !equal * found;
    OPENSSL_cleanse(salted, sizeof salted);
  }
  return found == SIZE_MAX ? NULL : a->tokens[found].tenant;
}

static void remember(Peer *p, Str token, Tenant *t) {
  forget_token(p);
  if (!(p->token = malloc(token.len))) return; /* it is looked up again */
  memcpy(p->token, token.ptr, token.len);
  p->token_len = token.len;
  p->bearer = t;
}

/* The tenant of an authorization header; NULL when it is none's. */
static Tenant *bearer(const AuthTable *a, Peer *p, Str authorization) {
  Str token = {authorization.ptr + 7, authorization.len - 7};
  if (authorization.len <= 7 || strncasecmp(authorization.ptr, "bearer ", 7)) return NULL;
  if (token.len > AUTH_TOKEN_MAX) return NULL;
  if (p->token && p->token_len == token.len && !CRYPTO_memcmp(p->token, token.ptr, token.len))
    return p->bearer;
  Tenant *t = by_token(a, token);
  if (t) remember(p, token, t);
  return t;
}

/* Once per connection, so that nobody fills the log. */
static Status refuse(Peer *p, const char *why) {
  if (!p->complained) LOG_WARN("authentication failed", "why=\"%s\"", why);
  p->complained = true;
  return FAIL(UNAUTHENTICATED, "%s", why);
}

Status auth_request(const AuthTable *a, TenantTable *tenants, Peer *p, Str authorization,
                    unsigned needs, Tenant **out) {
  char wanted[ROLES_TEXT], has[ROLES_TEXT];
  *out = tenants->local;
  if (*out) return NULL;
  if (p->generation != tenants->generation) {
    forget_token(p);
    p->tenant = by_connection(a, p);
    p->generation = tenants->generation;
  }
  Tenant *t = authorization.len ? bearer(a, p, authorization) : p->tenant;
  *out = t ? t : &tenants->nobody;
  if (needs == ANYBODY) return NULL;
  if (!t && authorization.len) return refuse(p, "the token is not one of this server's");
  if (!t)
    return refuse(p, "this server wants to know who you are: send a token, or show a certificate "
                     "or a user that it knows");
  if (needs == TENANT || (t->roles & needs) == needs) return NULL;
  return FAIL(PERMISSION_DENIED, "this needs the role %s; tenant '%s' has %s",
              roles_text(needs, wanted), t->name, t->roles ? roles_text(t->roles, has) : "none");
}
