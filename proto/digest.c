/* One fetched EVP_MD for the life of the process: an implicit fetch per call costs more than
 * hashing 64 bytes does. A Digest is an EVP_MD_CTX under another name, so there is nothing to
 * unpack between the two. OpenSSL allocates when one begins; so each thread has some that have
 * begun already, and a process that is short of memory for a moment goes on hashing. */
#include "proto/digest.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { READY_MAX = 4 };
typedef struct Ready {
  EVP_MD_CTX *at[READY_MAX];
  size_t n;
} Ready;

static EVP_MD *sha256;
static pthread_key_t ready; /* of each thread; NULL before its first */
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

static void must(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "SHA-256: %s failed (out of memory, or OpenSSL without its default provider)\n",
          what);
  abort();
}

static void free_ready(void *at) {
  Ready *r = at;
  for (size_t i = 0; i < r->n; i++) EVP_MD_CTX_free(r->at[i]);
  free(r);
}

static void fetch(void) {
  must((sha256 = EVP_MD_fetch(NULL, "SHA256", NULL)) != NULL, "fetch");
  must(!pthread_key_create(&ready, free_ready), "key");
}

void digest_init(void) { pthread_once(&fetched, fetch); }

static EVP_MD_CTX *context(Digest *d) { return (EVP_MD_CTX *)(void *)d; }

/* c, begun; NULL without memory, and c is freed. */
static EVP_MD_CTX *begin(EVP_MD_CTX *c) {
  if (c && EVP_DigestInit_ex2(c, sha256, NULL)) return c;
  EVP_MD_CTX_free(c);
  return NULL;
}

/* This thread's; NULL without memory. */
static Ready *own(void) {
  Ready *r = pthread_getspecific(ready);
  if (r || !(r = calloc(1, sizeof *r))) return r;
  if (!pthread_setspecific(ready, r)) return r;
  free(r);
  return NULL;
}

/* Makes good what was taken and what there was no memory for, with first for one of them. */
static void refill(Ready *r, EVP_MD_CTX *first) {
  while (r->n < READY_MAX) {
    EVP_MD_CTX *c = begin(first ? first : EVP_MD_CTX_new());
    first = NULL;
    if (!c) return;
    r->at[r->n++] = c;
  }
  EVP_MD_CTX_free(first);
}

Digest *digest_create(void) {
  digest_init();
  Ready *r = own();
  EVP_MD_CTX *c = r && r->n ? r->at[--r->n] : begin(EVP_MD_CTX_new());
  must(c != NULL, "init");
  return (Digest *)(void *)c;
}

void digest_add(Digest *d, const void *bytes, size_t n) {
  if (n) must(EVP_DigestUpdate(context(d), bytes, n), "update");
}

void digest_finish(Digest *d, uint8_t out[DIGEST_BYTES]) {
  must(EVP_DigestFinal_ex(context(d), out, NULL), "final");
  digest_release(d);
}

void digest_release(Digest *d) {
  if (!d) return;
  Ready *r = own();
  if (r)
    refill(r, context(d));
  else
    EVP_MD_CTX_free(context(d));
}

void digest_sha256(const void *bytes, size_t n, uint8_t out[DIGEST_BYTES]) {
  Digest *d = digest_create();
  digest_add(d, bytes, n);
  digest_finish(d, out);
}

char *digest_to_hex(const uint8_t *bytes, size_t n, char *out) {
  static const char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < n; i++) {
    out[2 * i] = digits[bytes[i] >> 4];
    out[2 * i + 1] = digits[bytes[i] & 15];
  }
  out[2 * n] = 0;
  return out;
}

bool digest_from_hex(Str hex, uint8_t *out, size_t n) {
  if (hex.len / 2 != n || hex.len % 2) return false;
  for (size_t i = 0; i < n; i++) {
    int hi = str_hex_digit(hex.ptr[2 * i]), lo = str_hex_digit(hex.ptr[2 * i + 1]);
    if (hi < 0 || lo < 0) return false;
    out[i] = (uint8_t)(hi << 4 | lo);
  }
  return true;
}
