/* Machine code that the device has assembled (device_assemble), by the digest of what it was made
 * of. A driver's compiler takes longer for a kernel than timing it does, and the same kernels come
 * again: the incumbent in every round, a winner in every comparison. What a job needs is assembled
 * together, before anything of it runs. */
#include <stdlib.h>

#include "daemon/worker/timing.h"
#include "proto/digest.h"

_Static_assert(sizeof((TimingCode){0}).key == DIGEST_BYTES, "the key is a SHA-256");

enum { KEPT_MAX = 256 };

static void drop_all(TimingCodes *c) {
  for (size_t i = 0; i < c->len; i++) strbuf_deinit(&c->at[i].code);
  c->len = 0;
}

void timing_code_deinit(TimingCodes *c) {
  drop_all(c);
  vec_deinit(c);
}

static const TimingCode *find(const TimingCodes *c, const uint8_t *key) {
  for (size_t i = 0; i < c->len; i++)
    if (!memcmp(c->at[i].key, key, DIGEST_BYTES)) return &c->at[i];
  return NULL;
}

static void key_of(const Kiln__V1__KernelBinary *b, uint8_t out[DIGEST_BYTES]) {
  digest_sha256(b->object.data, b->object.len, out);
}

Bytes timing_code(const TimingCodes *c, const Kiln__V1__KernelBinary *b) {
  uint8_t key[DIGEST_BYTES];
  if (!c->len || !b) return (Bytes){NULL, 0};
  key_of(b, key);
  const TimingCode *found = find(c, key);
  return found ? (Bytes){(const uint8_t *)found->code.ptr, found->code.len} : (Bytes){NULL, 0};
}

/* Takes code. */
static void keep(TimingCodes *c, const Kiln__V1__KernelBinary *b, StrBuf *code) {
  TimingCode one = {.code = *code};
  if (code->len) key_of(b, one.key); /* a device that assembles nothing makes none */
  if (!code->len || find(c, one.key) || !vec_push(c, one)) strbuf_deinit(code);
}

Status timing_code_prepare(Device *dev, TimingCodes *c, const Kiln__V1__KernelBinary *const *b,
                           size_t n) {
  Bytes *images = calloc(n + 1, sizeof *images);
  StrBuf *code = calloc(n + 1, sizeof *code);
  Status st = images && code ? NULL : FAIL(RESOURCE_EXHAUSTED, "candidates");
  if (c->len + n > KEPT_MAX) drop_all(c);
  for (size_t i = 0; !st && i < n; i++)
    if (b[i] && !timing_code(c, b[i]).len) images[i] = (Bytes){b[i]->object.data, b[i]->object.len};
  /* what cannot be made is loaded as it is, which fails with the reason */
  if (!st) status_drop(device_assemble(dev, images, n, code));
  for (size_t i = 0; !st && i < n; i++)
    if (b[i]) keep(c, b[i], &code[i]);
  free(images);
  free(code);
  return st;
}
