/* Who the client is and whom it trusts: the token that goes with every call, and TLS between the
 * socket and the session.
 *
 * A token is not sent to another machine in plain text: whoever is on the way could be the client
 * from then on. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "client/c/internal.h"

enum { PLAIN_BYTES = 16 << 10, PIECES = 64 };

/* What was given, else the environment's; NULL when there is none. */
static const char *setting(const char *given, const char *variable) {
  const char *text = given ? given : getenv(variable);
  return text && *text ? text : NULL;
}

static bool is_local(const Address *a) {
  return a->is_unix || !strcmp(a->host, "localhost") || !strncmp(a->host, "127.", 4) ||
         !strcmp(a->host, "::1");
}

static Status set_token(KilnClient *c, const char *token) {
  static const char scheme[] = "Bearer ";
  if (!token) return NULL;
  if (!is_local(&c->address) && !c->tls)
    return FAIL(FAILED_PRECONDITION, "a token is not sent to %s in plain text; use TLS",
                c->address.text);
  for (const char *at = token; *at; at++)
    if (*at <= ' ' || *at > '~')
      return FAIL(INVALID_ARGUMENT, "the token has a space or a character that is not ASCII");
  size_t n = sizeof scheme + strlen(token);
  if (!(c->authorization = malloc(n))) return FAIL(RESOURCE_EXHAUSTED, "no memory for a client");
  snprintf(c->authorization, n, "%s%s", scheme, token);
  return NULL;
}

static Status set_tls(KilnClient *c, const KilnConnectOptions *o) {
  const TlsFiles files = {.certificate = setting(o->tls_cert, "KILN_TLS_CERT"),
                          .key = setting(o->tls_key, "KILN_TLS_KEY"),
                          .ca = setting(o->tls_ca, "KILN_TLS_CA")};
  const char *name = setting(o->tls_server_name, "KILN_TLS_SERVER_NAME");
  if (c->address.is_unix && o->tls_ca)
    return FAIL(INVALID_ARGUMENT, "TLS is for HOST:PORT, not for a Unix socket");
  if (!files.ca && (o->tls_cert || o->tls_key || o->tls_server_name))
    return FAIL(INVALID_ARGUMENT, "TLS needs to know whom to believe: name the authorities");
  if (!files.ca || c->address.is_unix) return NULL;
  if (!(c->server_name = strdup(name ? name : c->address.host)))
    return FAIL(RESOURCE_EXHAUSTED, "no memory for a client");
  return tls_client_context(&files, &c->tls);
}

Status secure_setup(KilnClient *c, const KilnConnectOptions *o) {
  TRY(set_tls(c, o));
  return set_token(c, setting(o->token, "KILN_TOKEN"));
}

void secure_deinit(KilnClient *c) {
  tls_session_release(c->tls_session);
  tls_context_release(c->tls);
  if (c->authorization) explicit_bzero(c->authorization, strlen(c->authorization));
  free(c->authorization);
  free(c->server_name);
}

Status secure_begin(KilnClient *c) {
  size_t none;
  tls_session_release(c->tls_session);
  c->tls_session = NULL;
  if (!c->tls) return NULL;
  TRY(tls_session_create(c->tls, c->server_name, &c->tls_session));
  return tls_read(c->tls_session, (char[1]){0}, 1, &none); /* the first flight */
}

bool secure_ready(const KilnClient *c) { return !c->tls_session || tls_ready(c->tls_session); }

Status secure_input(KilnClient *c, const void *bytes, size_t n) {
  uint8_t plain[PLAIN_BYTES];
  if (!c->tls_session) return grpc_session_input(c->session, bytes, n);
  TRY(tls_input(c->tls_session, bytes, n));
  for (size_t got = 1; got;) {
    TRY(tls_read(c->tls_session, plain, sizeof plain, &got));
    if (got) TRY(grpc_session_input(c->session, plain, got));
  }
  return NULL;
}

/* Encrypts what the session offers until enough waits. A failure shows when reading. */
static void encrypt(KilnClient *c) {
  struct iovec iov[PIECES];
  for (bool more = true; more;) {
    int n = grpc_session_output(c->session, iov, PIECES);
    size_t all = 0;
    more = n > 0;
    for (int i = 0; i < n && more; i++) {
      size_t taken;
      status_drop(tls_write(c->tls_session, iov[i].iov_base, iov[i].iov_len, &taken));
      all += taken;
      more = taken == iov[i].iov_len;
    }
    if (all) grpc_session_wrote(c->session, all);
  }
}

int secure_output(KilnClient *c, struct iovec *iov, int cap) {
  if (!c->tls_session) return grpc_session_output(c->session, iov, cap);
  if (!tls_output(c->tls_session).len) encrypt(c);
  Bytes out = tls_output(c->tls_session);
  *iov = (struct iovec){.iov_base = (void *)(uintptr_t)out.ptr, .iov_len = out.len};
  return out.len > 0;
}

void secure_wrote(KilnClient *c, size_t n) {
  if (c->tls_session)
    tls_wrote(c->tls_session, n);
  else
    grpc_session_wrote(c->session, n);
}
