/* Queries. A number that a driver does not tell is replaced by the least that OpenCL 1.2 promises.
 *
 * A kernel's arguments take 16 bytes per buffer (address and offset) of a space that the device
 * bounds; that is the limit on buffers per kernel. */
#include "devices/opencl_caps.h"

#include <stdio.h>
#include <string.h>

enum {
  VECTOR_BYTES = 16,
  REGISTERS = 64,
  GROUP_MAX = 1024,
  BYTES_PER_BUFFER = 16,
  VARS_ROOM = 256
};
enum { GPU_WARP = 32 };

static uint64_t number(const OpenclApi *cl, ClDevice d, uint32_t what, uint64_t otherwise) {
  uint64_t v = 0; /* answers of 4 and of 8 bytes, little-endian */
  size_t need = 0;
  if (cl->clGetDeviceInfo(d, what, 0, NULL, &need) || !need || need > sizeof v) return otherwise;
  return cl->clGetDeviceInfo(d, what, need, &v, NULL) || !v ? otherwise : v;
}

static void text(const OpenclApi *cl, ClDevice d, uint32_t what, char *out, size_t size) {
  char all[512] = "";
  if (cl->clGetDeviceInfo(d, what, sizeof all, all, NULL)) all[0] = 0;
  all[sizeof all - 1] = 0;
  snprintf(out, size, "%.*s", (int)(size - 1), all);
}

/* The least of the device's limits on a workgroup, whichever way it is laid out. */
static uint32_t group_size(const OpenclApi *cl, ClDevice d) {
  size_t sizes[8] = {0};
  uint64_t n = number(cl, d, CL_DEVICE_MAX_WORK_GROUP_SIZE, 1);
  if (cl->clGetDeviceInfo(d, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof sizes, sizes, NULL)) return 1;
  for (int k = 0; k < 2; k++)
    if (sizes[k] < n) n = sizes[k]; /* z is often smaller, and no schedule puts much there */
  return n > GROUP_MAX ? GROUP_MAX : (uint32_t)n;
}

static void features(const OpenclApi *cl, ClDevice d, char *out, size_t size) {
  uint64_t single = number(cl, d, CL_DEVICE_SINGLE_FP_CONFIG, 0);
  snprintf(out, size, "%s%s%s", number(cl, d, CL_DEVICE_DOUBLE_FP_CONFIG, 0) ? "fp64 " : "",
           single & CL_FP_FMA ? "fma " : "",
           single & CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT ? "crdiv " : "");
  size_t n = strlen(out);
  if (n) out[n - 1] = 0;
}

Status opencl_caps(const OpenclApi *cl, ClDevice d, OpenclStrings *s, DeviceCaps *caps) {
  char version[100], driver[100];
  uint64_t cache = number(cl, d, CL_DEVICE_GLOBAL_MEM_CACHE_SIZE, 1 << 20);
  uint64_t parameters = number(cl, d, CL_DEVICE_MAX_PARAMETER_SIZE, 1024);
  uint32_t units = (uint32_t)number(cl, d, CL_DEVICE_MAX_COMPUTE_UNITS, 1);
  bool cpu = number(cl, d, CL_DEVICE_TYPE, 0) & CL_DEVICE_TYPE_CPU;
  text(cl, d, CL_DEVICE_NAME, s->name, sizeof s->name);
  text(cl, d, CL_DEVICE_VERSION, version, sizeof version);
  text(cl, d, CL_DRIVER_VERSION, driver, sizeof driver);
  features(cl, d, s->features, sizeof s->features);
  snprintf(s->description, sizeof s->description, "%s, %u compute units", s->name, units);
  snprintf(s->compiler, sizeof s->compiler, "%s, driver %s", version, driver);
  *caps = (DeviceCaps){.kind = "opencl",
                       .description = s->description,
                       .triple = "",
                       .cpu = s->name,
                       .features = s->features,
                       .compiler = s->compiler,
                       .vector_bytes = VECTOR_BYTES,
                       .vector_registers = REGISTERS,
                       .threads = units,
                       .l1_bytes = 16 << 10,
                       .l2_bytes = cache > 16 << 10 ? cache : 16 << 10,
                       .l3_bytes = cache,
                       .memory_bytes = number(cl, d, CL_DEVICE_GLOBAL_MEM_SIZE, 1 << 27),
                       .max_buffer_bytes = number(cl, d, CL_DEVICE_MAX_MEM_ALLOC_SIZE, 1 << 27),
                       .max_group = group_size(cl, d),
                       .warp = cpu ? 1 : GPU_WARP,
                       .local_bytes = number(cl, d, CL_DEVICE_LOCAL_MEM_SIZE, 1 << 14)};
  if (parameters < VARS_ROOM + 4 * BYTES_PER_BUFFER)
    return FAIL(UNAVAILABLE, "its kernels take only %llu bytes of arguments",
                (unsigned long long)parameters);
  caps->max_buffers =
      (uint32_t)(parameters > 1 << 16 ? 1 << 12 : (parameters - VARS_ROOM) / BYTES_PER_BUFFER);
  return NULL;
}
