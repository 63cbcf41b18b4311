/* TLS 1.3 over any transport, sans I/O: bytes from the peer in, plain bytes out, and the other way
 * round. Both ends speak HTTP/2 ("h2" by ALPN) or nothing, unless a context says otherwise.
 *
 * A TlsContext is what a process knows: its certificate and whom it believes. It is shared by
 * sessions and may be released while they live. A TlsSession is one connection; it belongs to one
 * thread, and so does its context while sessions are made of it.
 *
 * Bounds: a session holds what was given to tls_input until tls_read has taken it (the caller reads
 * until there is nothing left before it gives more), and encrypts no further ahead than
 * TLS_OUTPUT_MAX. */
#pragma once

#include "base/status.h"
#include "base/str.h"

typedef struct TlsContext TlsContext;
typedef struct TlsSession TlsSession;

typedef struct TlsFiles {
  const char *certificate; /* PEM, with the chain; NULL or "": none */
  const char *key;         /* PEM; its owner alone should be able to read it */
  const char *ca;          /* PEM: whom to believe; "system": whom this machine believes */
  bool no_alpn;            /* the ends speak something else and know what */
} TlsFiles;

/* Needs certificate and key. With a ca clients may show a certificate, and it must be right. */
Status tls_server_context(const TlsFiles *files, TlsContext **out);
/* Needs a ca. */
Status tls_client_context(const TlsFiles *files, TlsContext **out);
void tls_context_release(TlsContext *c); /* NULL allowed */

/* server_name: of a client, whom the certificate must name (a DNS name or an address); NULL makes a
 * server's end. */
Status tls_session_create(TlsContext *c, const char *server_name, TlsSession **out);
void tls_session_release(TlsSession *t); /* NULL allowed */

/* Bytes from the peer. */
Status tls_input(TlsSession *t, const void *bytes, size_t n);
/* Goes on with the handshake, and decrypts up to cap bytes; *n = 0: more input is needed first.
 * UNAVAILABLE: the peer has ended the connection or broke the rules. There may be output after
 * either. */
Status tls_read(TlsSession *t, void *buf, size_t cap, size_t *n);
/* Encrypts; *taken is less than n when enough output waits, and 0 before the handshake is over. */
Status tls_write(TlsSession *t, const void *bytes, size_t n, size_t *taken);
enum { TLS_OUTPUT_MAX = 256 << 10 };
/* What is to be sent to the peer; valid until the next call. */
Bytes tls_output(const TlsSession *t);
void tls_wrote(TlsSession *t, size_t n);
/* Tells the peer that nothing follows. */
void tls_close(TlsSession *t);
/* Gives back memory that traffic has needed and nothing lies in; what comes later takes it anew. */
void tls_rest(TlsSession *t);
/* The handshake is over. */
bool tls_ready(const TlsSession *t);
/* Every name of the peer's certificate, which was verified, as "cn:x", "dns:x", "uri:x", "email:x";
 * calls back for each. Nothing without a certificate. */
void tls_peer_names(const TlsSession *t, void (*name)(void *ctx, const char *name), void *ctx);
