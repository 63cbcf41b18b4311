/* One fetched EVP_MD for the life of the process: an implicit fetch per call costs more than
 * hashing 64 bytes does. A Digest is an EVP_MD_CTX under another name, so there is nothing to
 * unpack between the two. Each thread keeps the last one that it has done with: beginning anew with
 * it allocates nothing, so that a process which is short of memory goes on hashing. */
#include "proto/digest.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static EVP_MD *sha256;
static pthread_key_t spare; /* of each thread: an idle EVP_MD_CTX */
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

static void must(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "SHA-256: %s failed (out of memory, or OpenSSL without its default provider)\n",
          what);
  abort();
}

static void free_context(void *c) { EVP_MD_CTX_free(c); }

static void fetch(void) {
  must((sha256 = EVP_MD_fetch(NULL, "SHA256", NULL)) != NULL, "fetch");
  must(!pthread_key_create(&spare, free_context), "key");
}

void digest_init(void) { pthread_once(&fetched, fetch); }

static EVP_MD_CTX *context(Digest *d) { return (EVP_MD_CTX *)(void *)d; }

Digest *digest_create(void) {
  digest_init();
  EVP_MD_CTX *c = pthread_getspecific(spare);
  if (c)
    pthread_setspecific(spare, NULL);
  else
    c = EVP_MD_CTX_new();
  must(c && EVP_DigestInit_ex2(c, sha256, NULL), "init");
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
  if (pthread_getspecific(spare) || pthread_setspecific(spare, d)) EVP_MD_CTX_free(context(d));
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
