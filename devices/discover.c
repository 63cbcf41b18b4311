/* Which devices are worth a worker on this machine: the processor, every GPU that CUDA takes, and
 * OpenCL devices that are neither of these again. A driver answers questions about its devices
 * without a context on any, which is most of what opening one costs. */
#include "devices/discover.h"

#include <stdbool.h>
#include <stdio.h>

#include "devices/cuda_api.h"
#include "devices/opencl_api.h"

enum { NVIDIA = 0x10de, OLDEST_CUDA = 75 /* compute capability 7.5 */ };

typedef struct Discovery {
  DiscoverFn found;
  void *ctx;
  uint32_t gpus; /* that CUDA takes */
} Discovery;

static void say(const Discovery *d, const char *kind, uint32_t ordinal, const char *why_not) {
  char name[32];
  snprintf(name, sizeof name, "%s:%u", kind, ordinal);
  d->found(d->ctx, name, why_not);
}

static Status find_cuda(Discovery *d) {
  const CudaApi *api;
  int n = 0;
  TRY(cuda_api(&api));
  TRY(cuda_status(api, api->device_count(&n), "counting devices"));
  for (int i = 0; i < n; i++) {
    CuDevice device;
    int major = 0, minor = 0;
    TRY(cuda_status(api, api->device_get(&device, i), "looking at a device"));
    TRY(cuda_status(api, api->device_attribute(&major, CU_ATTR_CC_MAJOR, device), "reading it"));
    TRY(cuda_status(api, api->device_attribute(&minor, CU_ATTR_CC_MINOR, device), "reading it"));
    bool old = major * 10 + minor < OLDEST_CUDA;
    d->gpus += !old;
    say(d, "cuda", (uint32_t)i, old ? "its compute capability is less than 7.5" : NULL);
  }
  return NULL;
}

static uint64_t number(const OpenclApi *cl, ClDevice d, uint32_t what) {
  uint64_t v = 0; /* answers of 4 and of 8 bytes, little-endian */
  return cl->clGetDeviceInfo(d, what, sizeof v, &v, NULL) ? 0 : v;
}

static const char *why_not_opencl(const Discovery *d, const OpenclApi *cl, ClDevice device) {
  if (number(cl, device, CL_DEVICE_TYPE) & CL_DEVICE_TYPE_CPU) return "it is the processor again";
  if (d->gpus && number(cl, device, CL_DEVICE_VENDOR_ID) == NVIDIA) return "CUDA has it";
  return NULL;
}

static Status find_opencl(Discovery *d) {
  const OpenclApi *cl;
  ClDevice all[OPENCL_MAX_DEVICES];
  uint32_t n;
  TRY(opencl_api(&cl));
  TRY(opencl_devices(cl, all, &n));
  for (uint32_t i = 0; i < n; i++) say(d, "opencl", i, why_not_opencl(d, cl, all[i]));
  return NULL;
}

void discover_devices(DiscoverFn found, void *ctx) {
  Discovery d = {.found = found, .ctx = ctx};
  static const struct {
    const char *kind;
    Status (*find)(Discovery *);
  } kinds[] = {{"cuda", find_cuda}, {"opencl", find_opencl}};
  found(ctx, "cpu:0", NULL);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    char text[400];
    Status st = kinds[i].find(&d);
    status_text(st, text, sizeof text);
    if (st) found(ctx, kinds[i].kind, text);
    status_drop(st);
  }
}
