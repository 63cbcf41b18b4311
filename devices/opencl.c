/* OpenCL devices of any driver, through the ICD loader.
 *
 * One context and one queue in order, so launches and copies follow each other without events. A
 * program is source text, built when it is loaded; what a driver keeps of it on disk is the
 * driver's. A buffer is a cl_mem and has no host address: kernels get it with an offset beside it,
 * because a sub-buffer would have to begin at multiples that plans do not know.
 *
 * Fences count submissions. A wait without a limit is clFinish; one with a limit watches a marker
 * behind the last submission. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "devices/device.h"
#include "devices/opencl_caps.h"

enum { LOG_MAX = 1500 };

typedef struct OpenclDevice {
  Device base; /* first */
  const OpenclApi *cl;
  OpenclStrings strings;
  ClDevice device;
  ClContext context;
  ClQueue queue;
  ClEvent marker; /* behind the last submission, or NULL */
  Fence last, passed;
} OpenclDevice;

typedef struct OpenclBuffer {
  Buffer base; /* first */
  ClMem mem;
} OpenclBuffer;

struct Program {
  ClProgram program;
  ClKernel kernel;
  uint32_t nargs;
  uint32_t grid[3], block[3];
};

static const DeviceVtbl opencl_vtbl;

static OpenclDevice *opencl_device(Device *d) {
  assert(d->v == &opencl_vtbl);
  return (OpenclDevice *)d;
}

static ClMem mem_of(const Buffer *b) { return ((const OpenclBuffer *)b)->mem; }

#define CALL(o, name_, ...)                                                                        \
  do {                                                                                             \
    int32_t error_ = (o)->cl->name_(__VA_ARGS__);                                                  \
    if (error_) return opencl_error(#name_, error_);                                               \
  } while (0)

static void opencl_destroy(Device *d) {
  OpenclDevice *o = opencl_device(d);
  if (o->marker) o->cl->clReleaseEvent(o->marker);
  if (o->queue) o->cl->clFinish(o->queue);
  if (o->queue) o->cl->clReleaseCommandQueue(o->queue);
  if (o->context) o->cl->clReleaseContext(o->context);
  free(o);
}

/* -- memory ------------------------------------------------------------------------------------ */

static Status zero(OpenclDevice *o, ClMem mem, size_t size) {
  const uint8_t nothing = 0;
  CALL(o, clEnqueueFillBuffer, o->queue, mem, &nothing, 1, 0, size, 0, NULL, NULL);
  return NULL;
}

static Status opencl_buffer_alloc(Device *d, size_t size, int fd, Buffer **out) {
  OpenclDevice *o = opencl_device(d);
  size_t real = size ? size : 1;
  int32_t error;
  if (fd >= 0) return FAIL(INVALID_ARGUMENT, "an OpenCL device cannot use shared memory");
  if (real > d->caps.max_buffer_bytes)
    return FAIL(RESOURCE_EXHAUSTED, "a buffer of %zu bytes exceeds the device's limit of %llu",
                size, (unsigned long long)d->caps.max_buffer_bytes);
  OpenclBuffer *b = calloc(1, sizeof *b);
  if (!b) return FAIL(RESOURCE_EXHAUSTED, "memory for a buffer");
  b->base = (Buffer){.dev = d, .size = size, .fd = -1};
  b->mem = o->cl->clCreateBuffer(o->context, CL_MEM_READ_WRITE, real, NULL, &error);
  Status st = error ? opencl_error("clCreateBuffer", error) : zero(o, b->mem, real);
  if (st) {
    if (!error) o->cl->clReleaseMemObject(b->mem);
    free(b);
    return WRAP(st, "a buffer of %zu bytes", size);
  }
  *out = &b->base;
  return NULL;
}

/* The driver keeps the memory until launches that use it are done. */
static void opencl_buffer_free(Device *d, Buffer *b) {
  opencl_device(d)->cl->clReleaseMemObject(mem_of(b));
  free(b);
}

static Status opencl_write(Device *d, Buffer *b, uint64_t offset, const void *from,
                           uint64_t bytes) {
  OpenclDevice *o = opencl_device(d);
  CALL(o, clEnqueueWriteBuffer, o->queue, mem_of(b), 1, offset, bytes, from, 0, NULL, NULL);
  return NULL;
}

static Status opencl_read(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t bytes) {
  OpenclDevice *o = opencl_device(d);
  CALL(o, clEnqueueReadBuffer, o->queue, mem_of(b), 1, offset, bytes, to, 0, NULL, NULL);
  return NULL;
}

static Status opencl_copy(Device *d, Buffer *to, uint64_t to_offset, const Buffer *from,
                          uint64_t from_offset, uint64_t bytes) {
  OpenclDevice *o = opencl_device(d);
  CALL(o, clEnqueueCopyBuffer, o->queue, mem_of(from), mem_of(to), from_offset, to_offset, bytes, 0,
       NULL, NULL);
  return NULL;
}

/* -- programs ---------------------------------------------------------------------------------- */

static void opencl_program_free(Device *d, Program *p) {
  const OpenclApi *cl = opencl_device(d)->cl;
  if (p->kernel) cl->clReleaseKernel(p->kernel);
  if (p->program) cl->clReleaseProgram(p->program);
  free(p);
}

static Status build_failed(OpenclDevice *o, const Program *p, int32_t error) {
  char log[LOG_MAX + 1] = "";
  size_t need = 0;
  char *all = NULL;
  o->cl->clGetProgramBuildInfo(p->program, o->device, CL_PROGRAM_BUILD_LOG, 0, NULL, &need);
  if (need && (all = calloc(1, need + 1)))
    o->cl->clGetProgramBuildInfo(p->program, o->device, CL_PROGRAM_BUILD_LOG, need, all, NULL);
  if (all) snprintf(log, sizeof log, "%s", all);
  free(all);
  return FAIL(INVALID_ARGUMENT, "the driver does not build it (error %d): %s", error, log);
}

static Status build(OpenclDevice *o, const ProgramSpec *spec, Program *p) {
  const char *text = (const char *)spec->image.ptr;
  bool exact = strstr(o->base.caps.features, "crdiv");
  int32_t error;
  if (!spec->image.len || memchr(text, 0, spec->image.len))
    return FAIL(INVALID_ARGUMENT, "the program is no text");
  p->program = o->cl->clCreateProgramWithSource(o->context, 1, &text, &spec->image.len, &error);
  if (error) return opencl_error("clCreateProgramWithSource", error);
  error = o->cl->clBuildProgram(
      p->program, 1, &o->device,
      exact ? "-cl-std=CL1.2 -cl-fp32-correctly-rounded-divide-sqrt" : "-cl-std=CL1.2", NULL, NULL);
  if (error) return build_failed(o, p, error);
  p->kernel = o->cl->clCreateKernel(p->program, spec->entry, &error);
  if (error)
    return FAIL(INVALID_ARGUMENT, "the program has no kernel '%s' (error %d)", spec->entry, error);
  CALL(o, clGetKernelInfo, p->kernel, CL_KERNEL_NUM_ARGS, sizeof p->nargs, &p->nargs, NULL);
  return NULL;
}

static Status opencl_program_load(Device *d, const ProgramSpec *spec, Program **out) {
  OpenclDevice *o = opencl_device(d);
  if (spec->scratch_bytes > d->caps.memory_bytes)
    return FAIL(RESOURCE_EXHAUSTED, "program '%s' needs %llu bytes of scratch per thread",
                spec->entry, (unsigned long long)spec->scratch_bytes);
  Program *p = calloc(1, sizeof *p);
  if (!p) return FAIL(RESOURCE_EXHAUSTED, "memory for a program");
  for (int k = 0; k < 3; k++) {
    p->grid[k] = spec->grid[k];
    p->block[k] = spec->block[k] ? spec->block[k] : 1;
  }
  if (spec->threads > 1) { /* one workgroup of one thread for each */
    p->grid[0] = spec->threads;
    p->grid[1] = p->grid[2] = 1;
  }
  Status st = build(o, spec, p);
  if (st) {
    opencl_program_free(d, p);
    return WRAP(st, "loading program '%s'", spec->entry);
  }
  *out = p;
  return NULL;
}

/* -- running ----------------------------------------------------------------------------------- */

static Status set_arguments(OpenclDevice *o, const Launch *l) {
  ClKernel k = l->program->kernel;
  uint32_t at = 0;
  for (uint32_t i = 0; i < l->nargs; i++) {
    ClMem mem = mem_of(l->args[i].buffer);
    uint64_t offset = l->args[i].offset;
    CALL(o, clSetKernelArg, k, at++, sizeof mem, &mem);
    CALL(o, clSetKernelArg, k, at++, sizeof offset, &offset);
  }
  for (uint32_t i = 0; i < l->nvars && at < l->program->nargs; i++)
    CALL(o, clSetKernelArg, k, at++, sizeof l->vars[i], &l->vars[i]);
  if (at == l->program->nargs) return NULL;
  return FAIL(INVALID_ARGUMENT, "the kernel takes %u arguments, the launch has %u",
              l->program->nargs, at);
}

static Status run(OpenclDevice *o, const Launch *l) {
  const Program *p = l->program;
  const uint32_t *grid = l->grid ? l->grid : p->grid;
  size_t local[3], global[3];
  for (int k = 0; k < 3; k++) {
    local[k] = p->block[k];
    global[k] = (size_t)grid[k] * p->block[k];
    if (!global[k]) return NULL;
  }
  TRY(set_arguments(o, l));
  CALL(o, clEnqueueNDRangeKernel, o->queue, p->kernel, 3, NULL, global, local, 0, NULL, NULL);
  return NULL;
}

static Status opencl_submit(Device *d, const Launch *launches, size_t n, Fence *out) {
  OpenclDevice *o = opencl_device(d);
  for (size_t i = 0; i < n; i++) TRY(run(o, &launches[i]));
  if (o->marker) o->cl->clReleaseEvent(o->marker);
  o->marker = NULL;
  CALL(o, clEnqueueMarkerWithWaitList, o->queue, 0, NULL, &o->marker);
  CALL(o, clFlush, o->queue);
  *out = ++o->last;
  return NULL;
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static Status wait_for_marker(OpenclDevice *o, int64_t timeout_ns) {
  int64_t start = now_ns();
  for (;;) {
    int32_t status = 1;
    CALL(o, clGetEventInfo, o->marker, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status,
         NULL);
    if (status == CL_COMPLETE) return NULL;
    if (status < 0) return opencl_error("a launch", status);
    if (now_ns() - start >= timeout_ns) return FAIL(DEADLINE_EXCEEDED, "the device is still busy");
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
  }
}

static Status opencl_wait(Device *d, Fence fence, int64_t timeout_ns) {
  OpenclDevice *o = opencl_device(d);
  if (fence > o->last)
    return FAIL(INVALID_ARGUMENT, "fence %llu was never submitted", (unsigned long long)fence);
  if (fence <= o->passed) return NULL;
  if (timeout_ns < 0)
    CALL(o, clFinish, o->queue);
  else
    TRY(wait_for_marker(o, timeout_ns));
  o->passed = o->last;
  return NULL;
}

static const DeviceVtbl opencl_vtbl = {
    .name = "opencl",
    .destroy = opencl_destroy,
    .buffer_alloc = opencl_buffer_alloc,
    .buffer_free = opencl_buffer_free,
    .program_load = opencl_program_load,
    .program_free = opencl_program_free,
    .write = opencl_write,
    .read = opencl_read,
    .copy = opencl_copy,
    .submit = opencl_submit,
    .wait = opencl_wait,
};

/* -- which device ------------------------------------------------------------------------------ */

static Status pick(const OpenclApi *cl, uint32_t index, ClDevice *out) {
  ClDevice all[OPENCL_MAX_DEVICES];
  uint32_t n;
  TRY(opencl_devices(cl, all, &n));
  if (index >= n) return FAIL(UNAVAILABLE, "OpenCL has %u devices on this machine", n);
  *out = all[index];
  return NULL;
}

static Status open_context(OpenclDevice *o) {
  int32_t error;
  o->context = o->cl->clCreateContext(NULL, 1, &o->device, NULL, NULL, &error);
  if (error) return opencl_error("clCreateContext", error);
  o->queue = o->cl->clCreateCommandQueue(o->context, o->device, 0, &error);
  return error ? opencl_error("clCreateCommandQueue", error) : NULL;
}

Status device_opencl_create(uint32_t index, Device **out) {
  *out = NULL;
  OpenclDevice *o = calloc(1, sizeof *o);
  if (!o) return FAIL(RESOURCE_EXHAUSTED, "memory for a device");
  o->base.v = &opencl_vtbl;
  Status st = opencl_api(&o->cl);
  if (!st) st = pick(o->cl, index, &o->device);
  if (!st) st = opencl_caps(o->cl, o->device, &o->strings, &o->base.caps);
  if (!st) st = open_context(o);
  if (st) {
    opencl_destroy(&o->base);
    return st;
  }
  *out = &o->base;
  return NULL;
}
