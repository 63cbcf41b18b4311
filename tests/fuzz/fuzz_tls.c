/* A TLS server end and a client end of ours, with a network between them that the input plays: it
 * says who sends what, in which pieces it arrives, which bytes are changed, and what is put in
 * between. As long as nothing was changed, what is read is what was written; once something was,
 * one end refuses, and reads nothing that the other did not write. */
#include <assert.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "proto/tls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ENDS = 2, SERVER = 0, CLIENT = 1, STREAM = 1 << 20 };

typedef struct End {
  TlsSession *tls;
  size_t wrote, got; /* plain bytes; the n-th byte of a stream is pattern(n) */
  bool broken;
} End;

static TlsContext *contexts[ENDS];
static uint8_t stream[STREAM];

/* -- a certificate that names localhost, with the client's name too ---------------------------- */

static void write_pem(const char *path, EVP_PKEY *key, X509 *cert) {
  FILE *f = fopen(path, "w");
  if (!f ||
      !(cert ? PEM_write_X509(f, cert) : PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL)))
    abort();
  fclose(f);
}

static void make_files(const char *cert_path, const char *key_path) {
  EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
  X509 *cert = X509_new();
  X509_NAME *name = X509_get_subject_name(cert);
  ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
  X509_set_version(cert, X509_VERSION_3);
  X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
  X509_gmtime_adj(X509_getm_notAfter(cert), 1000000);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const uint8_t *)"localhost", -1, -1, 0);
  X509_set_issuer_name(cert, name);
  X509_EXTENSION *ext =
      X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:localhost,URI:kiln:fuzz");
  X509_add_ext(cert, ext, -1);
  X509_EXTENSION_free(ext);
  X509_set_pubkey(cert, key);
  if (!X509_sign(cert, key, NULL)) abort();
  write_pem(cert_path, NULL, cert);
  write_pem(key_path, key, NULL);
  X509_free(cert);
  EVP_PKEY_free(key);
}

static void make_contexts(void) {
  char folder[] = "/tmp/kiln-fuzz-XXXXXX", cert[64], key[64];
  if (!mkdtemp(folder)) abort();
  snprintf(cert, sizeof cert, "%s/cert", folder);
  snprintf(key, sizeof key, "%s/key", folder);
  make_files(cert, key);
  const TlsFiles files = {.certificate = cert, .key = key, .ca = cert};
  if (tls_server_context(&files, &contexts[SERVER]) ||
      tls_client_context(&files, &contexts[CLIENT]))
    abort();
  unlink(cert);
  unlink(key);
  rmdir(folder);
  for (size_t i = 0; i < STREAM; i++) stream[i] = (uint8_t)(i * 31 + i / 251);
}

/* -- the two ends ------------------------------------------------------------------------------ */

static void count_name(void *ctx, const char *name) { *(size_t *)ctx += strlen(name); }

/* Reads all there is, as the owner of a session must. */
static void take(End *e, const End *peer) {
  uint8_t plain[5000];
  for (size_t n = 1; n && !e->broken;) {
    Status st = tls_read(e->tls, plain, sizeof plain, &n);
    e->broken = st != NULL;
    status_drop(st);
    assert(e->got + n <= peer->wrote && !memcmp(plain, stream + e->got, n));
    e->got += n;
  }
  size_t names = 0;
  if (tls_ready(e->tls)) tls_peer_names(e->tls, count_name, &names);
  assert(!tls_ready(e->tls) || names); /* both have shown a certificate */
}

static void put(End *e, size_t n) {
  size_t taken;
  if (e->broken || e->wrote + n > STREAM) return;
  Status st = tls_write(e->tls, stream + e->wrote, n, &taken);
  e->broken = st != NULL;
  status_drop(st);
  e->wrote += taken;
  assert(tls_output(e->tls).len < TLS_OUTPUT_MAX + (32 << 10));
}

/* Up to n bytes from one to the other; flip: changes the byte there. */
static void carry(End *from, End *to, size_t n, size_t flip, uint8_t mask) {
  Bytes out = tls_output(from->tls);
  if (n > out.len) n = out.len;
  uint8_t *copy = malloc(n + 1); /* so that reading past it shows */
  if (!copy) abort();
  if (n) memcpy(copy, out.ptr, n);
  if (flip < n) copy[flip] ^= mask;
  tls_wrote(from->tls, n);
  if (n && !to->broken) {
    Status st = tls_input(to->tls, copy, n);
    to->broken = st != NULL;
    status_drop(st);
    take(to, from);
  }
  free(copy);
}

static size_t act(End ends[ENDS], const uint8_t *p, size_t left, bool *touched) {
  if (left < 3) return left;
  int who = p[0] & 1;
  End *e = &ends[who], *other = &ends[!who];
  size_t n = (size_t)(p[1] | p[2] << 8);
  switch (p[0] >> 1 & 7) {
  case 0:
  case 1: carry(e, other, n, SIZE_MAX, 0); return 3;
  case 2: carry(e, other, SIZE_MAX, SIZE_MAX, 0); return 3;
  case 3: put(e, n * 4); return 3;
  case 4: put(e, p[1]); return 3;
  case 5:
    if (p[0] & 0x80) {
      carry(e, other, SIZE_MAX, n % 64, (uint8_t)(1u << (p[0] >> 4 & 7)));
      *touched = true;
    }
    return 3;
  case 6:
    if (p[0] & 0x80) tls_close(e->tls), *touched = true;
    return 3;
  default: /* bytes of the input itself */
    n = p[1] < left - 3 ? p[1] : left - 3;
    if (!(p[0] & 0x80) || other->broken) return 3;
    *touched = true;
    Status st = tls_input(other->tls, p + 3, n);
    other->broken = st != NULL;
    status_drop(st);
    take(other, e);
    return 3 + n;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  End ends[ENDS] = {{0}};
  bool touched = false;
  if (!contexts[SERVER]) make_contexts();
  for (int i = 0; i < ENDS; i++) {
    Status st = tls_session_create(contexts[i], i == CLIENT ? "localhost" : NULL, &ends[i].tls);
    if (st) abort();
  }
  take(&ends[CLIENT], &ends[SERVER]); /* the first move is the client's */
  for (size_t at = 0; at < size;) at += act(ends, data + at, size - at, &touched);
  for (int i = 0; i < 8 && !touched; i++) {
    carry(&ends[i & 1], &ends[!(i & 1)], SIZE_MAX, SIZE_MAX, 0);
    assert(!ends[0].broken && !ends[1].broken);
  }
  for (int i = 0; i < ENDS && !touched; i++)
    assert(tls_ready(ends[i].tls) && ends[i].got == ends[!i].wrote);
  for (int i = 0; i < ENDS; i++) tls_session_release(ends[i].tls);
  return 0;
}
