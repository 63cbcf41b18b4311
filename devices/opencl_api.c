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

Status opencl_devices(const OpenclApi *cl, ClDevice out[OPENCL_MAX_DEVICES], uint32_t *n) {
  enum { MAX_PLATFORMS = 16 };
  ClPlatform platforms[MAX_PLATFORMS];
  uint32_t nplatforms = 0;
  *n = 0;
  if (cl->clGetPlatformIDs(MAX_PLATFORMS, platforms, &nplatforms) || !nplatforms)
    return FAIL(UNAVAILABLE, "OpenCL has no driver");
  if (nplatforms > MAX_PLATFORMS) nplatforms = MAX_PLATFORMS;
  for (uint32_t p = 0; p < nplatforms; p++) {
    uint32_t room = OPENCL_MAX_DEVICES - *n, more = 0;
    if (!room || cl->clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, room, out + *n, &more))
      continue;
    *n += more < room ? more : room;
  }
  return NULL;
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
