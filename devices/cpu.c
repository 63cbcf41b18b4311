/* The CPU as a device.
 *
 * submit runs the launches before it returns: the process that drives a CPU device has nothing
 * better to do, and a queue would add a thread switch to every small plan. wait therefore never
 * waits. Each launch is spread over the pool with a barrier behind it; launches of one thread run
 * on the caller and wake nobody. Every member has scratch memory of its own, grown before the first
 * launch that needs more, so nothing can fail once the first launch has begun.
 *
 * A kernel that nobody waits for any more is left by a jump out of a signal handler: it holds
 * nothing, for it calls nothing that takes locks or memory. Each thread says where to land before
 * it looks whether it may begin, so a signal comes either before that look or when there is a place
 * to land. The handler's thread is the one that drives the device; it passes the signal on to the
 * pool. */
#include <assert.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "devices/cpu_caps.h"
#include "devices/cpu_jit.h"
#include "devices/cpu_pool.h"
#include "devices/host_memory.h"

enum { PAGE = 4096, HUGE_PAGE = 2 << 20, STACK_BYTES = 256 << 10 };
enum { LEAVE_SIGNAL = SIGUSR2 }; /* to members of the pool */

typedef struct Member {
  uint32_t cleared; /* the generation in which it has cleared its stack */
  size_t used;      /* bytes of its scratch that kernels may have written since the last scrub */
} Member;

typedef struct CpuDevice {
  Device base; /* first */
  CpuStrings strings;
  CpuJit *jit;
  CpuPool *pool;
  char *scratch; /* one part of scratch_stride bytes per member of the pool */
  size_t scratch_stride;
  uint32_t generation; /* counts scrubs */
  Member *members;     /* of the pool */
  void **addresses;    /* the arguments of the launch that runs */
  size_t addresses_cap;
  Fence last;
  atomic_bool interrupted;
} CpuDevice;

struct Program {
  CpuModule *module;
  CpuEntry entry;
  uint32_t threads;
  size_t scratch_bytes;
};

static const DeviceVtbl cpu_vtbl;

static CpuDevice *cpu_device(Device *d) {
  assert(d->v == &cpu_vtbl);
  return (CpuDevice *)d;
}

static void cpu_destroy(Device *d) {
  CpuDevice *c = cpu_device(d);
  cpu_pool_destroy(c->pool);
  cpu_jit_destroy(c->jit);
  if (c->scratch) munmap(c->scratch, c->scratch_stride * c->base.caps.threads);
  cpu_caps_deinit(&c->strings);
  free(c->addresses);
  free(c->members);
  free(c);
}

static Status cpu_buffer_alloc(Device *d, size_t size, int fd, Buffer **out) {
  return host_memory_alloc(d, size, fd, out);
}

static void cpu_buffer_free(Device *d, Buffer *b) {
  (void)d;
  host_memory_free(b);
}

static Status cpu_program_load(Device *d, const ProgramSpec *spec, Program **out) {
  CpuDevice *c = cpu_device(d);
  if (spec->scratch_bytes > c->base.caps.memory_bytes / c->base.caps.threads) {
    return FAIL(RESOURCE_EXHAUSTED, "program '%s' needs %llu bytes of scratch per thread",
                spec->entry, (unsigned long long)spec->scratch_bytes);
  }
  Program *p = calloc(1, sizeof *p);
  if (!p) return FAIL(RESOURCE_EXHAUSTED, "memory for a program");
  p->threads = spec->threads;
  p->scratch_bytes = (size_t)spec->scratch_bytes;
  Status st = cpu_jit_load(c->jit, spec->image, spec->entry, &p->module, &p->entry);
  if (st) {
    free(p);
    return WRAP(st, "loading program '%s'", spec->entry);
  }
  *out = p;
  return NULL;
}

static void cpu_program_free(Device *d, Program *p) {
  cpu_jit_unload(cpu_device(d)->jit, p->module);
  free(p);
}

/* Pages are touched first by the member that uses them. */
static Status reserve_scratch(CpuDevice *c, size_t bytes) {
  if (bytes <= c->scratch_stride) return NULL;
  size_t unit = bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE;
  size_t stride = (bytes + unit - 1) / unit * unit, total;
  if (!size_mul(stride, c->base.caps.threads, &total)) {
    return FAIL(RESOURCE_EXHAUSTED, "%zu bytes of scratch per thread", bytes);
  }
  void *at = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return FAIL(RESOURCE_EXHAUSTED, "%zu bytes of scratch", total);
  (void)madvise(at, total, MADV_HUGEPAGE);
  if (c->scratch) munmap(c->scratch, c->scratch_stride * c->base.caps.threads);
  c->scratch = at;
  c->scratch_stride = stride;
  for (uint32_t i = 0; i < c->base.caps.threads; i++) c->members[i].used = 0;
  return NULL;
}

static Status reserve_addresses(CpuDevice *c, size_t n) {
  if (n <= c->addresses_cap) return NULL;
  void **p = realloc(c->addresses, n * sizeof *p);
  if (!p) return FAIL(RESOURCE_EXHAUSTED, "memory for %zu kernel arguments", n);
  c->addresses = p;
  c->addresses_cap = n;
  return NULL;
}

static void find_addresses(CpuDevice *c, const Launch *l) {
  for (uint32_t i = 0; i < l->nargs; i++)
    c->addresses[i] = (char *)l->args[i].buffer->host + l->args[i].offset;
  for (uint32_t i = 0; i < l->nvars; i++)
    c->addresses[l->nargs + i] = (void *)(uintptr_t)&l->vars[i];
}

typedef struct Work {
  const CpuDevice *device;
  const Launch *launch;
} Work;

/* What kernels left on this thread's stack, where the next one will have its own. */
static __attribute__((noinline)) void clear_stack(void) {
  char below[STACK_BYTES];
  explicit_bzero(below, sizeof below);
}

/* Where this thread goes when it is to leave its kernel; NULL outside of kernels. */
static _Thread_local jmp_buf *volatile landing;

static void leave(int signal) {
  (void)signal;
  if (landing) longjmp(*landing, 1);
}

static void run_kernel(const Work *w, uint32_t index, void *scratch) {
  jmp_buf here;
  if (!_setjmp(here)) {
    landing = &here;
    atomic_signal_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&w->device->interrupted, memory_order_acquire))
      w->launch->program->entry(w->device->addresses, index, scratch);
  }
  landing = NULL;
}

static void run_piece(void *ctx, uint32_t worker, uint32_t index) {
  const Work *w = ctx;
  Member *m = &w->device->members[worker];
  if (m->cleared != w->device->generation) {
    clear_stack();
    m->cleared = w->device->generation;
  }
  if (m->used < w->launch->program->scratch_bytes) m->used = w->launch->program->scratch_bytes;
  void *scratch =
      w->device->scratch ? w->device->scratch + w->device->scratch_stride * worker : NULL;
  run_kernel(w, index, scratch);
}

static void cpu_interrupt(Device *d, bool on) {
  CpuDevice *c = cpu_device(d);
  atomic_store(&c->interrupted, on);
  if (!on) return;
  cpu_pool_signal(c->pool, LEAVE_SIGNAL);
  leave(LEAVE_SIGNAL);
}

static Status cpu_submit(Device *d, const Launch *launches, size_t n, Fence *out) {
  CpuDevice *c = cpu_device(d);
  size_t scratch = 0, args = 0;
  for (size_t i = 0; i < n; i++) {
    size_t count = (size_t)launches[i].nargs + launches[i].nvars;
    if (launches[i].program->scratch_bytes > scratch) scratch = launches[i].program->scratch_bytes;
    if (count > args) args = count;
  }
  TRY(reserve_scratch(c, scratch));
  TRY(reserve_addresses(c, args));
  for (size_t i = 0; i < n; i++) {
    Work w = {c, &launches[i]};
    find_addresses(c, &launches[i]);
    cpu_pool_run(c->pool, run_piece, &w, launches[i].program->threads);
    if (atomic_load_explicit(&c->interrupted, memory_order_relaxed))
      return FAIL(CANCELLED, "at launch %zu of %zu", i + 1, n);
  }
  *out = ++c->last;
  return NULL;
}

static Status cpu_wait(Device *d, Fence fence, int64_t timeout_ns) {
  (void)timeout_ns; /* every fence that submit gave out has passed */
  if (fence <= cpu_device(d)->last) return NULL;
  return FAIL(INVALID_ARGUMENT, "fence %llu was never submitted", (unsigned long long)fence);
}

/* What is large is given back, which is sooner done: who needs it next gets pages of zeros. */
static void zero_scratch(char *at, size_t n) {
  size_t whole = (n + PAGE - 1) / PAGE * PAGE;
  if (n < HUGE_PAGE || madvise(at, whole, MADV_DONTNEED)) memset(at, 0, n);
}

/* The scratch memory, as nobody runs now; each member clears its stack before it runs again. */
static Status cpu_scrub(Device *d) {
  CpuDevice *c = cpu_device(d);
  c->generation++;
  for (uint32_t i = 0; i < c->base.caps.threads; i++) {
    if (c->members[i].used) zero_scratch(c->scratch + c->scratch_stride * i, c->members[i].used);
    c->members[i].used = 0;
  }
  return NULL;
}

static const DeviceVtbl cpu_vtbl = {
    .name = "cpu",
    .destroy = cpu_destroy,
    .buffer_alloc = cpu_buffer_alloc,
    .buffer_free = cpu_buffer_free,
    .program_load = cpu_program_load,
    .program_free = cpu_program_free,
    .write = host_memory_write,
    .read = host_memory_read,
    .copy = host_memory_copy,
    .scrub = cpu_scrub,
    .submit = cpu_submit,
    .wait = cpu_wait,
    .interrupt = cpu_interrupt,
};

Status device_cpu_create(uint32_t threads, Device **out) {
  *out = NULL;
  CpuDevice *c = calloc(1, sizeof *c);
  if (!c) return FAIL(RESOURCE_EXHAUSTED, "memory for a device");
  c->base.v = &cpu_vtbl;
  Status st = cpu_caps_init(threads, &c->strings, &c->base.caps);
  c->base.caps.shares_memory = true;
  bool spin = cpu_caps_cores() >= c->base.caps.threads;
  if (!st) c->members = calloc(c->base.caps.threads, sizeof *c->members);
  if (!st && !c->members) st = FAIL(RESOURCE_EXHAUSTED, "memory for a device");
  if (!st) st = cpu_jit_create(&c->jit);
  /* not masked while it is handled, for the handler does not return */
  struct sigaction on_leave = {.sa_handler = leave, .sa_flags = SA_NODEFER | SA_RESTART};
  sigaction(LEAVE_SIGNAL, &on_leave, NULL);
  if (!st) st = cpu_pool_create(c->base.caps.threads, spin, LEAVE_SIGNAL, &c->pool);
  if (st) {
    cpu_destroy(&c->base);
    return WRAP(st, "starting the CPU device");
  }
  *out = &c->base;
  return NULL;
}
