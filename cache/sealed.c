/* Head and payload are hashed in one pass, as if the place of the hash between them were not there:
 * so a payload can be written in place before its hash is known, and nothing is copied to check it.
 * Numbers are little-endian on every machine, since exported records travel between them. */
#include "cache/sealed.h"

void sealed_put(uint8_t *at, uint64_t v, int n) {
  for (int k = 0; k < n; k++) at[k] = (uint8_t)(v >> (8 * k));
}

uint64_t sealed_get(const uint8_t *at, int n) {
  uint64_t v = 0;
  for (int k = 0; k < n; k++) v |= (uint64_t)at[k] << (8 * k);
  return v;
}

static void hash_of(const uint8_t *bytes, size_t head, size_t payload, uint8_t out[DIGEST_BYTES]) {
  Digest *d = digest_create();
  digest_add(d, bytes, head);
  digest_add(d, bytes + head + DIGEST_BYTES, payload);
  digest_finish(d, out);
}

void sealed_close(uint8_t *bytes, size_t head, size_t payload) {
  hash_of(bytes, head, payload, bytes + head);
}

bool sealed_holds(const uint8_t *bytes, size_t head, size_t payload) {
  uint8_t hash[DIGEST_BYTES];
  hash_of(bytes, head, payload, hash);
  return memcmp(hash, bytes + head, sizeof hash) == 0;
}
