/* What executes kernels.
 *
 * A backend is a const vtable and a struct whose first member is Device. Callers use the device_*
 * wrappers. Devices, buffers and programs are reference-counted by their creators' discipline:
 * whoever creates destroys; a program or buffer must outlive the launches that use it. A device is
 * driven by one thread. Binaries arrive as bytes; devices/ knows nothing of the compiler. */
#pragma once

#include "base/status.h"
#include "base/str.h"

typedef struct Device Device;
typedef struct Buffer Buffer;
typedef struct Program Program;

/* Constant for the life of the device. Strings live as long as it does. */
typedef struct DeviceCaps {
  const char *kind;                    /* "cpu" */
  const char *description;             /* "Intel Xeon, 2 threads, AVX-512" */
  const char *triple, *cpu, *features; /* for code generation; empty when not applicable */
  const char *compiler;                /* version of the library that links or generates code */
  const char *model; /* what else machine code and its speed depend on; NULL: cpu says it all */
  uint32_t vector_bytes, vector_registers, threads;
  uint64_t l1_bytes, l2_bytes, l3_bytes, memory_bytes, max_buffer_bytes;
  /* Workgroups: 0 where there are none (the CPU). */
  uint32_t max_group;   /* threads of one workgroup */
  uint32_t warp;        /* threads that run in step; 1 when each runs for itself */
  uint64_t local_bytes; /* memory that a workgroup shares */
  uint32_t max_buffers; /* per kernel; 0 = no limit */
  /* Buffers have host addresses and can be made from memfds. Elsewhere fd is always -1 and bytes go
   * in and out by device_write and device_read. */
  bool shares_memory;
} DeviceCaps;

/* In place of a descriptor: memory that no other process will be given, which may then have larger
 * pages. -1: memory that may be given away, where the device shares its memory. */
enum { BUFFER_PRIVATE = -2 };

struct Buffer {
  Device *dev;
  size_t size;
  void *host; /* host address when the memory is host-visible, else NULL */
  int fd;     /* memfd behind it, or -1 */
};

typedef struct ProgramSpec {
  Bytes image; /* relocatable object (CPU), source (OpenCL), PTX or what was made of it (CUDA) */
  const char *entry;
  uint32_t threads; /* thread indices the entry is called with (CPU) */
  uint64_t
      scratch_bytes; /* per thread (CPU); per workgroup, beside what the code declares (CUDA) */
  uint32_t grid[3];  /* workgroups along x, y, z, where a launch says nothing else */
  uint32_t block[3]; /* threads of one workgroup along x, y, z */
} ProgramSpec;

typedef struct LaunchArg {
  Buffer *buffer;
  uint64_t offset; /* in bytes; a multiple of the element's size */
} LaunchArg;

/* One kernel call, which writes its first argument and no other. The CPU entry's signature is void
 * entry(void *const *args, int64_t thread, void *scratch); args[nargs + k] points to the value of
 * variable k. */
typedef struct Launch {
  Program *program;
  const LaunchArg *args;
  uint32_t nargs, nvars;
  const int64_t *vars;  /* values of the kernel's variables */
  const uint32_t *grid; /* three numbers; NULL: as the program says */
} Launch;

typedef uint64_t Fence;

typedef struct DeviceVtbl {
  const char *name;
  void (*destroy)(Device *d);
  /* Zeroed memory (-1, BUFFER_PRIVATE). fd >= 0 (only where caps.shares_memory): map that memfd
   * instead (shared, size bytes from offset 0) and own the descriptor; on failure it stays the
   * caller's. Memory sealed against writing is mapped for reading. */
  Status (*buffer_alloc)(Device *d, size_t size, int fd, Buffer **out);
  void (*buffer_free)(Device *d, Buffer *b);
  Status (*program_load)(Device *d, const ProgramSpec *spec, Program **out);
  void (*program_free)(Device *d, Program *p);
  /* Optional: INVALID_ARGUMENT where the driver's compiler could not make of the code what was
   * meant: registers that did not suffice, matrix instructions that wait for each other. It runs
   * all the same. */
  Status (*program_check)(Device *d, const Program *p);
  /* Optional: does ahead what takes long in loading images, several at a time. code[i], which is
   * the caller's, is to be loaded in place of images[i], now or whenever the device has the same
   * driver; it stays empty where there is nothing to gain. */
  Status (*assemble)(Device *d, const Bytes *images, size_t n, StrBuf *code);
  /* Between host memory and a buffer, in order with the launches submitted before; when they
   * return, `from` may be used again and `to` is filled. */
  Status (*write)(Device *d, Buffer *b, uint64_t offset, const void *from, uint64_t bytes);
  Status (*read)(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t bytes);
  /* Between two buffers of the device, or two parts of one that do not overlap, in the same order.
   */
  Status (*copy)(Device *d, Buffer *to, uint64_t to_offset, const Buffer *from,
                 uint64_t from_offset, uint64_t bytes);
  /* Queues n launches that run in order, each seeing the writes of those before it. Nothing that
   * they point to is used after it returns, save buffers and programs. A device whose kernels run
   * on the caller's processor (cpu) runs them here, before it returns. */
  Status (*submit)(Device *d, const Launch *launches, size_t n, Fence *out);
  /* DEADLINE_EXCEEDED when the fence has not passed in time. timeout_ns < 0: no limit. */
  Status (*wait)(Device *d, Fence fence, int64_t timeout_ns);
  /* Optional: zeroes the memory that kernels have beside buffers, where it outlives them. */
  Status (*scrub)(Device *d);
  /* Optional, both or none: marks the beginning and the end of a stretch of the device's time; the
   * end waits for it. Where they are NULL, the clock of the processor says how long it took. */
  Status (*timer_start)(Device *d);
  Status (*timer_stop)(Device *d, int64_t *ns);
  /* Optional, where submit runs kernels itself: see device_interrupt. */
  void (*interrupt)(Device *d, bool on);
} DeviceVtbl;

struct Device {
  const DeviceVtbl *v;
  DeviceCaps caps;
  int64_t started_ns; /* of devices without a timer of their own */
  /* An operation answered UNAVAILABLE: its driver will do nothing more for this process, which is
   * expected to end. */
  bool lost;
};

Status device_cpu_create(uint32_t threads, Device **out); /* threads 0 = one per core */
Status device_null_create(Device **out);                  /* accepts everything, runs nothing */
/* UNAVAILABLE with the reason when there is no driver or no such GPU. */
Status device_cuda_create(uint32_t ordinal, Device **out);
/* A decorator that checks sizes, lifetimes, double frees and the calling thread, then forwards.
 * Owns inner. */
Status device_check_create(Device *inner, Device **out);
/* The index-th of all OpenCL devices of the machine, platform by platform. */
Status device_opencl_create(uint32_t index, Device **out);
/* "cpu:0", "null:0", "opencl:1"; UNAVAILABLE with the reason when the machine has none. */
Status device_open(const char *name, Device **out);

void device_destroy(Device *d); /* NULL allowed */
Status device_buffer_alloc(Device *d, size_t size, int fd, Buffer **out);
void device_buffer_free(Device *d, Buffer *b); /* NULL allowed */
Status device_program_load(Device *d, const ProgramSpec *spec, Program **out);
void device_program_free(Device *d, Program *p); /* NULL allowed */
Status device_program_check(Device *d, const Program *p);
Status device_assemble(Device *d, const Bytes *images, size_t n, StrBuf *code);
/* OUT_OF_RANGE when the bytes lie outside the buffer. */
Status device_write(Device *d, Buffer *b, uint64_t offset, const void *from, uint64_t bytes);
Status device_read(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t bytes);
Status device_copy(Device *d, Buffer *to, uint64_t to_offset, const Buffer *from,
                   uint64_t from_offset, uint64_t bytes);
/* Zeroes the first bytes of a buffer, in order with the launches. */
Status device_zero(Device *d, Buffer *b, uint64_t bytes);
/* Nothing that a kernel left behind outside buffers is seen by the next. */
Status device_scrub(Device *d);
Status device_submit(Device *d, const Launch *launches, size_t n, Fence *out);
Status device_wait(Device *d, Fence fence, int64_t timeout_ns);
/* How long the device works on what is submitted between the two, by its own clock where it has
 * one. device_timer_stop returns when all of it is done. */
Status device_timer_start(Device *d);
Status device_timer_stop(Device *d, Fence last, int64_t *ns);
/* on: the submit that goes on, and those that follow until it is off again, end at once with
 * CANCELLED, in the middle of a kernel too; what the launches were to write is undefined. Made for
 * a signal handler on the thread that drives the device: when that is inside a kernel, the call
 * does not return, but the submit does. Nothing on devices that work by themselves. */
void device_interrupt(Device *d, bool on);
