/* OpenSSL works on two memory BIOs: what the peer sent goes into one, what it is to be sent comes
 * out of the other.
 *
 * Only TLS 1.3: no renegotiation, no compression, no old ciphers to choose from. No tickets and no
 * early data, so a connection's certificate is always its own. */
#include "proto/tls.h"

#include <arpa/inet.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

struct TlsContext {
  SSL_CTX *ctx;
  bool no_alpn;
};

struct TlsSession {
  SSL *ssl;
  BIO *in, *out; /* the ssl's */
  bool ready, no_alpn;
  bool settled; /* what the handshake needed has been given back */
};

enum { RECORD_BYTES = 16 << 10, CHAIN_MAX = 8, NAME_BYTES = 255 };

/* The first thing that OpenSSL has to say, and clears the rest. */
static Status failed(const char *what) {
  char text[160] = "no reason given";
  unsigned long error = ERR_get_error();
  if (error) {
    const char *reason = ERR_reason_error_string(error);
    snprintf(text, sizeof text, "%s", reason ? reason : "unknown error");
  }
  ERR_clear_error();
  return FAIL(UNAVAILABLE, "%s: %s", what, text);
}

/* -- contexts -----------------------------------------------------------------------------------
 */

static bool given(const char *path) { return path && *path; }

static Status wrong_file(const char *what, const char *path) {
  Status st = failed(what);
  char text[256];
  status_text(st, text, sizeof text);
  status_drop(st);
  return FAIL(INVALID_ARGUMENT, "%s (%s)", text, path);
}

static Status load_own(SSL_CTX *ctx, const TlsFiles *f) {
  if (!given(f->certificate) != !given(f->key))
    return FAIL(INVALID_ARGUMENT, "a TLS certificate and its key belong together");
  if (!given(f->certificate)) return NULL;
  if (SSL_CTX_use_certificate_chain_file(ctx, f->certificate) != 1)
    return wrong_file("TLS certificate", f->certificate);
  if (SSL_CTX_use_PrivateKey_file(ctx, f->key, SSL_FILETYPE_PEM) != 1)
    return wrong_file("TLS key", f->key);
  if (SSL_CTX_check_private_key(ctx) != 1) return wrong_file("the TLS key", f->key);
  return NULL;
}

static Status load_ca(SSL_CTX *ctx, const TlsFiles *f, bool server) {
  if (!given(f->ca)) return NULL;
  if (!strcmp(f->ca, "system")) {
    if (SSL_CTX_set_default_verify_paths(ctx) == 1) return NULL;
    return failed("the certificates of this machine");
  }
  if (SSL_CTX_load_verify_file(ctx, f->ca) != 1) return wrong_file("TLS authorities", f->ca);
  if (!server) return NULL;
  STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(f->ca);
  if (!names) return wrong_file("TLS authorities", f->ca);
  SSL_CTX_set_client_CA_list(ctx, names); /* takes it */
  return NULL;
}

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                     const unsigned char *in, unsigned in_len, void *arg) {
  (void)ssl;
  (void)arg;
  for (unsigned i = 0; i < in_len; i += 1u + in[i])
    if (in[i] == 2 && i + 2 < in_len && in[i + 1] == 'h' && in[i + 2] == '2') {
      *out = in + i + 1;
      *out_len = 2;
      return SSL_TLSEXT_ERR_OK;
    }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static Status make_context(const SSL_METHOD *method, const TlsFiles *files, bool server,
                           TlsContext **out) {
  static const unsigned char h2[] = {2, 'h', '2'};
  *out = NULL;
  TlsContext *c = calloc(1, sizeof *c);
  SSL_CTX *ctx = c ? c->ctx = SSL_CTX_new(method) : NULL;
  if (!ctx) {
    free(c);
    return FAIL(RESOURCE_EXHAUSTED, "TLS");
  }
  c->no_alpn = files->no_alpn;
  SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
  SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                            SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(ctx, 0);
  SSL_CTX_set_verify_depth(ctx, CHAIN_MAX);
  if (server && !files->no_alpn)
    SSL_CTX_set_alpn_select_cb(ctx, select_h2, NULL);
  else if (!files->no_alpn)
    SSL_CTX_set_alpn_protos(ctx, h2, sizeof h2); /* 0 is success; it fails without memory */
  SSL_CTX_set_verify(ctx, !server || given(files->ca) ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
  Status st = load_own(ctx, files);
  if (!st) st = load_ca(ctx, files, server);
  if (st) {
    tls_context_release(c);
    return st;
  }
  *out = c;
  return NULL;
}

Status tls_server_context(const TlsFiles *files, TlsContext **out) {
  *out = NULL;
  if (!given(files->certificate)) return FAIL(INVALID_ARGUMENT, "TLS needs a certificate");
  return make_context(TLS_server_method(), files, true, out);
}

Status tls_client_context(const TlsFiles *files, TlsContext **out) {
  *out = NULL;
  if (!given(files->ca)) return FAIL(INVALID_ARGUMENT, "TLS needs to know whom to believe");
  return make_context(TLS_client_method(), files, false, out);
}

void tls_context_release(TlsContext *c) {
  if (!c) return;
  SSL_CTX_free(c->ctx); /* sessions hold it too */
  free(c);
}

/* -- sessions -----------------------------------------------------------------------------------
 */

/* Whom the server's certificate must name. */
static bool expect_name(SSL *ssl, const char *name) {
  unsigned char unused[sizeof(struct in6_addr)];
  bool address = inet_pton(AF_INET, name, unused) == 1 || inet_pton(AF_INET6, name, unused) == 1;
  if (address) return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
  SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

Status tls_session_create(TlsContext *c, const char *server_name, TlsSession **out) {
  TlsSession *t = *out = calloc(1, sizeof *t);
  if (!t) return FAIL(RESOURCE_EXHAUSTED, "TLS");
  t->no_alpn = c->no_alpn;
  t->ssl = SSL_new(c->ctx);
  t->in = BIO_new(BIO_s_mem());
  t->out = BIO_new(BIO_s_mem());
  if (!t->ssl || !t->in || !t->out) {
    BIO_free(t->in);
    BIO_free(t->out);
    SSL_free(t->ssl);
    free(t);
    *out = NULL;
    return FAIL(RESOURCE_EXHAUSTED, "TLS");
  }
  BIO_set_mem_eof_return(t->in, -1); /* empty is not the end */
  BIO_set_mem_eof_return(t->out, -1);
  SSL_set_bio(t->ssl, t->in, t->out);
  if (server_name && !expect_name(t->ssl, server_name)) {
    tls_session_release(t);
    *out = NULL;
    ERR_clear_error();
    return FAIL(INVALID_ARGUMENT, "TLS: '%.64s' is no name of a server", server_name);
  }
  if (server_name)
    SSL_set_connect_state(t->ssl);
  else
    SSL_set_accept_state(t->ssl);
  return NULL;
}

void tls_session_release(TlsSession *t) {
  if (!t) return;
  SSL_free(t->ssl); /* and the BIOs */
  free(t);
}

Status tls_input(TlsSession *t, const void *bytes, size_t n) {
  if (n <= INT_MAX && BIO_write(t->in, bytes, (int)n) == (int)n) return NULL;
  ERR_clear_error();
  return FAIL(RESOURCE_EXHAUSTED, "TLS");
}

/* Why a certificate was refused, when that is what went wrong. */
static Status broken(TlsSession *t, int rv) {
  int error = SSL_get_error(t->ssl, rv);
  long verify = SSL_get_verify_result(t->ssl);
  if (error == SSL_ERROR_ZERO_RETURN) return FAIL(UNAVAILABLE, "the peer ended the connection");
  if (!t->ready && verify != X509_V_OK) {
    ERR_clear_error();
    return FAIL(UNAVAILABLE, "TLS: the certificate is refused: %s",
                X509_verify_cert_error_string(verify));
  }
  return failed("TLS");
}

static Status handshake(TlsSession *t) {
  ERR_clear_error();
  int rv = SSL_do_handshake(t->ssl);
  if (rv == 1) {
    const unsigned char *protocol = NULL;
    unsigned n = 0;
    SSL_get0_alpn_selected(t->ssl, &protocol, &n);
    if (!t->no_alpn && (n != 2 || memcmp(protocol, "h2", 2)))
      return FAIL(UNAVAILABLE, "TLS: the peer speaks no h2");
    t->ready = true;
    return NULL;
  }
  int error = SSL_get_error(t->ssl, rv);
  return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? NULL : broken(t, rv);
}

Status tls_read(TlsSession *t, void *buf, size_t cap, size_t *n) {
  *n = 0;
  if (!t->ready) TRY(handshake(t));
  if (!t->ready) return NULL;
  ERR_clear_error();
  int rv = SSL_read_ex(t->ssl, buf, cap, n);
  if (rv == 1) return NULL;
  *n = 0;
  int error = SSL_get_error(t->ssl, rv);
  return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? NULL : broken(t, rv);
}

Status tls_write(TlsSession *t, const void *bytes, size_t n, size_t *taken) {
  *taken = 0;
  if (!t->ready) return NULL;
  while (*taken < n && tls_output(t).len < TLS_OUTPUT_MAX) {
    size_t left = n - *taken, piece = left < RECORD_BYTES ? left : RECORD_BYTES, done = 0;
    ERR_clear_error();
    int rv = SSL_write_ex(t->ssl, (const char *)bytes + *taken, piece, &done);
    if (rv != 1) {
      int error = SSL_get_error(t->ssl, rv);
      if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return NULL;
      return broken(t, rv);
    }
    *taken += done;
  }
  return NULL;
}

Bytes tls_output(const TlsSession *t) {
  char *at = NULL;
  long n = BIO_get_mem_data(t->out, &at);
  return (Bytes){(const uint8_t *)at, n > 0 ? (size_t)n : 0};
}

/* A memory BIO keeps what it has grown to. */
static void bio_rest(BIO *bio) {
  BUF_MEM *m = NULL;
  if (BIO_pending(bio) || BIO_get_mem_ptr(bio, &m) != 1 || !m || !m->max) return;
  BUF_MEM *fresh = BUF_MEM_new();
  if (fresh) BIO_set_mem_buf(bio, fresh, BIO_CLOSE); /* frees the other */
}

void tls_rest(TlsSession *t) {
  if (!t->ready) return;
  bio_rest(t->in);
  bio_rest(t->out);
}

/* Reading moves the BIO's position; its memory is used again when it is empty. */
void tls_wrote(TlsSession *t, size_t n) {
  char unused[RECORD_BYTES];
  while (n) {
    int piece = (int)(n < sizeof unused ? n : sizeof unused);
    int got = BIO_read(t->out, unused, piece);
    if (got <= 0) return;
    n -= (size_t)got;
  }
  if (!t->ready || t->settled || tls_output(t).len) return;
  t->settled = true;
  tls_rest(t);
}

void tls_close(TlsSession *t) {
  if (t->ready) SSL_shutdown(t->ssl);
  ERR_clear_error();
}

bool tls_ready(const TlsSession *t) { return t->ready; }

/* -- names --------------------------------------------------------------------------------------
 */

typedef struct NameSink {
  void (*name)(void *ctx, const char *name);
  void *ctx;
} NameSink;

/* One that holds a NUL would be read as a shorter one: it is left out. */
static void give_name(const NameSink *to, const char *kind, const ASN1_STRING *s) {
  char text[NAME_BYTES + 8];
  unsigned char *utf8 = NULL;
  int n = ASN1_STRING_to_UTF8(&utf8, s);
  if (n > 0 && n <= NAME_BYTES && !memchr(utf8, 0, (size_t)n)) {
    snprintf(text, sizeof text, "%s:%.*s", kind, n, (const char *)utf8);
    to->name(to->ctx, text);
  }
  OPENSSL_free(utf8);
}

static void alternative_names(const X509 *cert, const NameSink *to) {
  GENERAL_NAMES *all = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
  for (int i = 0; all && i < sk_GENERAL_NAME_num(all); i++) {
    int type;
    const ASN1_STRING *s = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(all, i), &type);
    if (type == GEN_DNS) give_name(to, "dns", s);
    if (type == GEN_URI) give_name(to, "uri", s);
    if (type == GEN_EMAIL) give_name(to, "email", s);
  }
  GENERAL_NAMES_free(all);
}

void tls_peer_names(const TlsSession *t, void (*name)(void *ctx, const char *name), void *ctx) {
  const NameSink to = {name, ctx};
  const X509 *cert = SSL_get0_peer_certificate(t->ssl);
  if (!cert || SSL_get_verify_result(t->ssl) != X509_V_OK) return;
  alternative_names(cert, &to);
  const X509_NAME *subject = X509_get_subject_name(cert);
  for (int i = -1; (i = X509_NAME_get_index_by_NID(subject, NID_commonName, i)) >= 0;)
    give_name(&to, "cn", X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, i)));
  ERR_clear_error();
}
