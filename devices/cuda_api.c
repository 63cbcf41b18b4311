/* libcuda by name at run time: a machine without it runs the same programs, it only has no CUDA
 * device. The symbols are a table, so a driver that lacks one is refused with its name. */
#include "devices/cuda_api.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

typedef struct Symbol {
  const char *name;
  size_t place; /* in CudaApi */
} Symbol;

#define X(name, symbol, params) {symbol, offsetof(CudaApi, name)},
static const Symbol symbols[] = {CUDA_SYMBOLS(X)}, new_symbols[] = {CUDA_NEW_SYMBOLS(X)};
#undef X

static Status resolve(void *library, CudaApi *api) {
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *at = dlsym(library, symbols[i].name);
    if (!at) return FAIL(UNAVAILABLE, "the CUDA driver lacks %s; it is too old", symbols[i].name);
    memcpy((char *)api + symbols[i].place, &at, sizeof at);
  }
  for (size_t i = 0; i < sizeof new_symbols / sizeof *new_symbols; i++) {
    void *at = dlsym(library, new_symbols[i].name);
    memcpy((char *)api + new_symbols[i].place, &at, sizeof at);
  }
  return NULL;
}

Status cuda_status(const CudaApi *api, CuResult r, const char *what) {
  const char *name = NULL, *text = NULL;
  if (!r) return NULL;
  if (api->error_name(r, &name)) name = "unknown error";
  if (api->error_text(r, &text)) text = "";
  if (r == CU_OUT_OF_MEMORY) return FAIL(RESOURCE_EXHAUSTED, "%s: %s (%s)", what, text, name);
  bool program = r == CU_INVALID_IMAGE || r == CU_NO_BINARY || r == CU_INVALID_PTX ||
                 r == CU_UNSUPPORTED_PTX || r == CU_NOT_FOUND || r == CU_LAUNCH_RESOURCES;
  bool call = r == CU_INVALID_VALUE || r == CU_INVALID_HANDLE || r == CU_NOT_SUPPORTED;
  if (call) return FAIL(INTERNAL, "%s: %s (%s, %d)", what, text, name, r);
  if (program) return FAIL(INVALID_ARGUMENT, "%s: %s (%s, %d)", what, text, name, r);
  return FAIL(UNAVAILABLE, "%s: %s (%s, %d)", what, text, name, r);
}

Status cuda_api(const CudaApi **out) {
  static CudaApi api;
  static bool ready;
  if (!ready) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return FAIL(UNAVAILABLE, "no NVIDIA driver: %s", dlerror());
    TRY(resolve(library, &api));
    TRY(cuda_status(&api, api.init(0), "starting the CUDA driver"));
    ready = true;
  }
  *out = &api;
  return NULL;
}
