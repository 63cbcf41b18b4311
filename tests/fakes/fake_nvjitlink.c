/* NVIDIA's linker library without anything behind it: its code is an ELF file's first four bytes
 * and the text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakes/fake_cuda.h"

__attribute__((visibility("default"))) FakeLinker fake_linker = {.version = 13000};

typedef struct Handle_ {
  char *code;
  size_t bytes;
} * Handle;

#define FAKE(symbol, ...)                                                                          \
  __attribute__((visibility("default"))) int symbol(__VA_ARGS__);                                  \
  int symbol(__VA_ARGS__)
#define JIT(name, ...) FAKE(__nvJitLink##name##_13_0, __VA_ARGS__)

FAKE(nvJitLinkVersion, unsigned *major, unsigned *minor) {
  *major = (unsigned)fake_linker.version / 1000;
  *minor = (unsigned)fake_linker.version % 1000 / 10;
  return 0;
}
JIT(Create, Handle *h, uint32_t n, const char **options) {
  *h = calloc(1, sizeof **h);
  if (n) strncpy(fake_linker.arch, options[0], sizeof fake_linker.arch - 1);
  return *h ? 0 : 6;
}
JIT(Destroy, Handle *h) { return free((*h)->code), free(*h), 0; }
JIT(AddData, Handle h, int kind, const void *data, size_t n, const char *name) {
  if (fake_linker.fails || kind != 2 || ((const char *)data)[n - 1]) return 4;
  h->bytes = n + 3;
  h->code = malloc(h->bytes);
  if (!h->code) return 6;
  memcpy(h->code, "\177ELF", 4);
  memcpy(h->code + 4, data, n - 1);
  return 0;
}
JIT(Complete, Handle h) {
  __atomic_fetch_add(&fake_linker.linked, 1, __ATOMIC_RELAXED); /* on several threads */
  return 0;
}
JIT(GetLinkedCubinSize, Handle h, size_t *n) { return *n = h->bytes, 0; }
JIT(GetLinkedCubin, Handle h, void *to) { return memcpy(to, h->code, h->bytes), 0; }
static const char *said(void) { return fake_linker.said ? fake_linker.said : ""; }
JIT(GetInfoLogSize, Handle h, size_t *n) { return *n = strlen(said()) + 1, 0; }
JIT(GetInfoLog, Handle h, char *to) { return memcpy(to, said(), strlen(said()) + 1), 0; }
JIT(GetErrorLogSize, Handle h, size_t *n) { return *n = 6, 0; }
JIT(GetErrorLog, Handle h, char *to) { return memcpy(to, "wrong", 6), 0; }
