/* libnvrtc by name at run time.
 *
 * Products and sums stay as they are written (--fmad=false): the kernel says where a product and a
 * sum are one. Division, square root and subnormals are as IEEE 754 has them, which is the default.
 * The PTX gets what ptxas needs (base/ptx.h). */
#include "devices/nvrtc.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ptx.h"
#include "devices/nvidia_library.h"

typedef struct Unit_ *Unit;

/*   name as here, name there; every one returns 0 for success */
#define SYMBOLS(X)                                                                                 \
  X(version_of, "nvrtcVersion", (int *major, int *minor))                                          \
  X(create, "nvrtcCreateProgram",                                                                  \
    (Unit * unit, const char *source, const char *name, int headers, const char *const *texts,     \
     const char *const *names))                                                                    \
  X(destroy, "nvrtcDestroyProgram", (Unit * unit))                                                 \
  X(compile, "nvrtcCompileProgram", (Unit unit, int n, const char *const *options))                \
  X(ptx_size, "nvrtcGetPTXSize", (Unit unit, size_t * n))                                          \
  X(ptx, "nvrtcGetPTX", (Unit unit, char *to))                                                     \
  X(log_size, "nvrtcGetProgramLogSize", (Unit unit, size_t * n))                                   \
  X(log, "nvrtcGetProgramLog", (Unit unit, char *to))

struct Nvrtc {
  int version;
#define X(name, symbol, params) int(*name) params;
  SYMBOLS(X)
#undef X
};

static const struct Symbol {
  const char *name;
  size_t place; /* in Nvrtc */
} symbols[] = {
#define X(name, symbol, params) {symbol, offsetof(Nvrtc, name)},
    SYMBOLS(X)
#undef X
};

static Nvrtc found;

static int resolve(void *library, int major) {
  (void)major;
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *at = dlsym(library, symbols[i].name);
    if (!at) return 0;
    memcpy((char *)&found + symbols[i].place, &at, sizeof at);
  }
  int have[2] = {0};
  if (found.version_of(&have[0], &have[1])) return 0;
  return found.version = have[0] * 1000 + have[1] * 10;
}

const Nvrtc *nvrtc_open(int driver) {
  return nvidia_library_open("nvrtc", driver, resolve) ? &found : NULL;
}

int nvrtc_version(const Nvrtc *l) { return l->version; }

bool nvrtc_is_source(Bytes image) {
  static const char mark[] = CUDA_C_MARK;
  return image.len >= sizeof mark && !memcmp(image.ptr, mark, sizeof mark - 1);
}

/* -- one kernel -------------------------------------------------------------------------------- */

/* A text that the library has; NULL when it has none. The caller frees it. */
static char *take(Unit unit, int (*size)(Unit, size_t *), int (*get)(Unit, char *)) {
  size_t n = 0;
  char *text = size(unit, &n) || !n || n > (size_t)1 << 28 ? NULL : calloc(1, n + 1);
  if (!text || !get(unit, text)) return text;
  free(text);
  return NULL;
}

static Status refused(const Nvrtc *l, Unit unit, int error) {
  char *said = unit ? take(unit, l->log_size, l->log) : NULL;
  Status st = FAIL(INVALID_ARGUMENT, "NVRTC: error %d: %.2000s", error, said ? said : "");
  free(said);
  return st;
}

static Status take_ptx(const Nvrtc *l, Unit unit, StrBuf *ptx) {
  char *text = take(unit, l->ptx_size, l->ptx);
  if (!text) return FAIL(INTERNAL, "NVRTC made no code");
  ptx_add(ptx, str_from(text));
  free(text);
  return ptx->failed ? FAIL(RESOURCE_EXHAUSTED, "memory for a program") : NULL;
}

Status nvrtc_compile(const Nvrtc *l, const char *arch, Bytes source, StrBuf *ptx) {
  char for_arch[64];
  const char *options[] = {for_arch, "--fmad=false", "--std=c++17", "--disable-warnings"};
  Unit unit = NULL;
  snprintf(for_arch, sizeof for_arch, "--gpu-architecture=compute_%s",
           strncmp(arch, "sm_", 3) ? arch : arch + 3);
  int r = l->create(&unit, (const char *)source.ptr, "kernel.cu", 0, NULL, NULL);
  if (!r) r = l->compile(unit, sizeof options / sizeof *options, options);
  Status st = r ? refused(l, unit, r) : take_ptx(l, unit, ptx);
  if (unit) l->destroy(&unit);
  return st;
}
