/* libnvrtc by name at run time, the newest that the driver can follow.
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

typedef struct Unit_ *Unit;
enum { OLDEST = 12 };

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

static bool resolve(void *library, Nvrtc *l) {
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *at = dlsym(library, symbols[i].name);
    if (!at) return false;
    memcpy((char *)l + symbols[i].place, &at, sizeof at);
  }
  int major = 0, minor = 0;
  if (l->version_of(&major, &minor)) return false;
  l->version = major * 1000 + minor * 10;
  return true;
}

const Nvrtc *nvrtc_open(int driver) {
  static Nvrtc found;
  for (int major = driver / 1000; major >= OLDEST; major--) {
    char name[32];
    snprintf(name, sizeof name, "libnvrtc.so.%d", major);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) continue;
    if (resolve(library, &found) && found.version <= driver) return &found;
    dlclose(library);
  }
  return NULL;
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
