/* NVIDIA's compiler of CUDA C++ without anything behind it: its "PTX" is a line and the source. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakes/fake_cuda.h"

/* newer than any driver, so that it is left alone where no test asks for it */
__attribute__((visibility("default"))) FakeCompiler fake_compiler = {.version = 99000};

typedef struct Unit_ {
  char *ptx;
} * Unit;

#define FAKE(symbol, ...)                                                                          \
  __attribute__((visibility("default"))) int symbol(__VA_ARGS__);                                  \
  int symbol(__VA_ARGS__)

static const char made[] = "// ptx of\n", wrong[] = "wrong";

FAKE(nvrtcVersion, int *major, int *minor) {
  *major = fake_compiler.version / 1000;
  *minor = fake_compiler.version % 1000 / 10;
  return 0;
}
FAKE(nvrtcCreateProgram, Unit *u, const char *source, const char *name, int headers,
     const char *const *texts, const char *const *names) {
  size_t n = strlen(source) + sizeof made;
  *u = calloc(1, sizeof **u);
  if (!*u || !((*u)->ptx = malloc(n))) return 1;
  snprintf((*u)->ptx, n, "%s%s", made, source);
  return 0;
}
FAKE(nvrtcDestroyProgram, Unit *u) { return free((*u)->ptx), free(*u), 0; }
FAKE(nvrtcCompileProgram, Unit u, int n, const char *const *options) {
  size_t at = 0;
  fake_compiler.compiled++;
  for (int i = 0; i < n; i++)
    at += (size_t)snprintf(fake_compiler.options + at, sizeof fake_compiler.options - at, "%s ",
                           options[i]);
  return fake_compiler.fails ? 6 : 0;
}
FAKE(nvrtcGetPTXSize, Unit u, size_t *n) { return *n = strlen(u->ptx) + 1, 0; }
FAKE(nvrtcGetPTX, Unit u, char *to) { return memcpy(to, u->ptx, strlen(u->ptx) + 1), 0; }
FAKE(nvrtcGetProgramLogSize, Unit u, size_t *n) { return *n = sizeof wrong, 0; }
FAKE(nvrtcGetProgramLog, Unit u, char *to) { return memcpy(to, wrong, sizeof wrong), 0; }
