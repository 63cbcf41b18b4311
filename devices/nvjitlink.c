/* libnvJitLink by name at run time. Each major version has
 * names of its own for the same functions; of those of a major version, the first ones stay. */
#include "devices/nvjitlink.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/nvidia_library.h"

typedef struct Handle_ *Handle;
enum { INPUT_PTX = 2, LOG_BYTES = 4096 };

/*   name as here, name there; every one returns 0 for success */
#define SYMBOLS(X)                                                                                 \
  X(create, "Create", (Handle * h, uint32_t n, const char **options))                              \
  X(destroy, "Destroy", (Handle * h))                                                              \
  X(add, "AddData", (Handle h, int kind, const void *data, size_t n, const char *name))            \
  X(complete, "Complete", (Handle h))                                                              \
  X(code_size, "GetLinkedCubinSize", (Handle h, size_t * n))                                       \
  X(code, "GetLinkedCubin", (Handle h, void *to))                                                  \
  X(info_size, "GetInfoLogSize", (Handle h, size_t * n))                                           \
  X(info, "GetInfoLog", (Handle h, char *to))                                                      \
  X(error_size, "GetErrorLogSize", (Handle h, size_t * n))                                         \
  X(error, "GetErrorLog", (Handle h, char *to))

struct NvJitLink {
  int version;
#define X(name, symbol, params) int(*name) params;
  SYMBOLS(X)
#undef X
};

typedef struct Symbol {
  const char *name;
  size_t place; /* in NvJitLink */
} Symbol;

static const Symbol symbols[] = {
#define X(name, symbol, params) {symbol, offsetof(NvJitLink, name)},
    SYMBOLS(X)
#undef X
};

static NvJitLink found;

static int resolve(void *library, int major) {
  int (*version)(unsigned *, unsigned *);
  unsigned have[2] = {0};
  void *at = dlsym(library, "nvJitLinkVersion");
  memcpy(&version, &at, sizeof at);
  if (!at || version(&have[0], &have[1]) || have[0] != (unsigned)major) return 0;
  found.version = (int)(have[0] * 1000 + have[1] * 10);
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    char name[64];
    snprintf(name, sizeof name, "__nvJitLink%s_%d_0", symbols[i].name, major);
    if (!(at = dlsym(library, name))) return 0;
    memcpy((char *)&found + symbols[i].place, &at, sizeof at);
  }
  return found.version;
}

const NvJitLink *nvjitlink_open(int driver) {
  return nvidia_library_open("nvJitLink", driver, resolve) ? &found : NULL;
}

int nvjitlink_version(const NvJitLink *l) { return l->version; }

/* -- one kernel ---------------------------------------------------------------------------------
 */

static void read_log(Handle h, int (*size)(Handle, size_t *), int (*get)(Handle, char *), char *to,
                     size_t room) {
  size_t n = 0;
  char *all = size(h, &n) || n > 1 << 24 ? NULL : calloc(1, n + 1);
  if (all && !get(h, all)) snprintf(to, room, "%s", all);
  free(all);
}

static Status take_code(const NvJitLink *l, Handle h, StrBuf *code) {
  size_t n = 0;
  if (l->code_size(h, &n) || !n) return FAIL(INTERNAL, "nvJitLink made no code");
  if (!strbuf_reserve(code, n)) return FAIL(RESOURCE_EXHAUSTED, "memory for a program");
  if (l->code(h, code->ptr + code->len)) return FAIL(INTERNAL, "nvJitLink gave no code");
  code->len += n;
  code->ptr[code->len] = 0;
  return NULL;
}

Status nvjitlink_assemble(const NvJitLink *l, const char *arch, Bytes ptx, StrBuf *code, char *said,
                          size_t room) {
  char option[32], why[LOG_BYTES] = "";
  const char *options[] = {option, "-O3"};
  Handle h = NULL;
  snprintf(option, sizeof option, "-arch=%s", arch);
  *said = 0;
  int r = l->create(&h, 2, options);
  if (!r) r = l->add(h, INPUT_PTX, ptx.ptr, ptx.len + 1, "kernel");
  if (!r) r = l->complete(h);
  if (h) read_log(h, l->info_size, l->info, said, room);
  if (h && r) read_log(h, l->error_size, l->error, why, sizeof why);
  Status st = r ? FAIL(INVALID_ARGUMENT, "nvJitLink: error %d: %s", r, why) : take_code(l, h, code);
  if (h) l->destroy(&h);
  return st;
}
