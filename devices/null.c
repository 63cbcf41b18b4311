/* The null device: takes everything and runs nothing. Its buffers are real memory, so that code
 * around devices can be tested and measured without the cost, or the presence, of a device. */
#include <stdlib.h>

#include "devices/host_memory.h"

typedef struct NullDevice {
  Device base; /* first */
  Fence last;
} NullDevice;

struct Program {
  int unused;
};

static void null_destroy(Device *d) { free(d); }

static Status null_buffer_alloc(Device *d, size_t size, int fd, Buffer **out) {
  return host_memory_alloc(d, size, fd, out);
}

static void null_buffer_free(Device *d, Buffer *b) {
  (void)d;
  host_memory_free(b);
}

static Status null_program_load(Device *d, const ProgramSpec *spec, Program **out) {
  (void)d;
  (void)spec;
  *out = calloc(1, sizeof **out);
  return *out ? NULL : FAIL(RESOURCE_EXHAUSTED, "memory for a program");
}

static void null_program_free(Device *d, Program *p) {
  (void)d;
  free(p);
}

static Status null_submit(Device *d, const Launch *launches, size_t n, Fence *out) {
  (void)launches;
  (void)n;
  *out = ++((NullDevice *)d)->last;
  return NULL;
}

static Status null_wait(Device *d, Fence fence, int64_t timeout_ns) {
  (void)timeout_ns;
  if (fence <= ((NullDevice *)d)->last) return NULL;
  return FAIL(INVALID_ARGUMENT, "fence %llu was never submitted", (unsigned long long)fence);
}

static const DeviceVtbl null_vtbl = {
    .name = "null",
    .destroy = null_destroy,
    .buffer_alloc = null_buffer_alloc,
    .buffer_free = null_buffer_free,
    .program_load = null_program_load,
    .program_free = null_program_free,
    .write = host_memory_write,
    .read = host_memory_read,
    .copy = host_memory_copy,
    .submit = null_submit,
    .wait = null_wait,
};

Status device_null_create(Device **out) {
  NullDevice *n = calloc(1, sizeof *n);
  *out = n ? &n->base : NULL;
  if (!n) return FAIL(RESOURCE_EXHAUSTED, "memory for a device");
  n->base.v = &null_vtbl;
  n->base.caps = (DeviceCaps){.kind = "null",
                              .description = "null device, runs nothing",
                              .triple = "",
                              .cpu = "",
                              .features = "",
                              .compiler = "",
                              .vector_bytes = 16,
                              .vector_registers = 16,
                              .threads = 1,
                              .l1_bytes = 32 << 10,
                              .l2_bytes = 1 << 20,
                              .l3_bytes = 1 << 20,
                              .memory_bytes = (uint64_t)1 << 40,
                              .max_buffer_bytes = (uint64_t)1 << 40,
                              .shares_memory = true};
  return NULL;
}
