/* dlopen of the ICD loader. A driver's library is brought in by the loader; both stay for the life
 * of the process, because drivers leave threads behind. */
#include "devices/opencl_api.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static const char *const libraries[] = {"libOpenCL.so.1", "libOpenCL.so"};

static const struct Symbol {
  const char *name;
  size_t offset;
} symbols[] = {
#define CL(name_, result_, params_) {#name_, offsetof(OpenclApi, name_)},
#include "devices/opencl.def"
#undef CL
};

static Status load(OpenclApi *api) {
  void *library = NULL;
  for (size_t i = 0; !library && i < sizeof libraries / sizeof *libraries; i++)
    library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
  if (!library) return FAIL(UNAVAILABLE, "no OpenCL: %s", dlerror());
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *at = dlsym(library, symbols[i].name);
    if (!at) return FAIL(UNAVAILABLE, "libOpenCL has no %s", symbols[i].name);
    memcpy((char *)api + symbols[i].offset, &at, sizeof at);
  }
  return NULL;
}

Status opencl_api(const OpenclApi **out) {
  static OpenclApi api;
  static bool loaded;
  *out = &api;
  if (loaded) return NULL;
  Status st = load(&api);
  loaded = !st;
  return st;
}

Status opencl_error(const char *call, int32_t error) {
  switch (error) {
  case CL_MEM_OBJECT_ALLOCATION_FAILURE:
  case CL_OUT_OF_RESOURCES:
  case CL_OUT_OF_HOST_MEMORY:
  case CL_INVALID_BUFFER_SIZE:
    return FAIL(RESOURCE_EXHAUSTED, "%s: memory is short (error %d)", call, error);
  default: return FAIL(INTERNAL, "%s: error %d", call, error);
  }
}
