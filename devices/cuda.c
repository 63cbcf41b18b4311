/* NVIDIA GPUs through the CUDA driver.
 *
 * One context and one stream per device: launches, copies and fills are queued in order, so a
 * program that runs in order on the CPU device runs in order here. Host memory goes through two
 * pinned buffers that are filled and sent by turns, because the driver copies pageable memory at a
 * fraction of the bus.
 *
 * Allocating and freeing waits for the GPU, so freed memory is kept by size for the next buffer;
 * every buffer starts zeroed, and nobody sees what another left behind. An error of the context
 * (a kernel that faulted) is final: every later call answers UNAVAILABLE, and the process that owns
 * the device is expected to end. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/vec.h"
#include "devices/cuda_assemble.h"
#include "devices/cuda_graph.h"
#include "devices/cuda_maps.h"
#include "devices/device.h"

enum { FENCES = 64, STAGING = 4 << 20, ALIGN = 512, KEPT_MAX = 256, LOG_BYTES = 4096 };

typedef struct CudaBuffer {
  Buffer base; /* first */
  CuPointer at;
  size_t room;      /* size, rounded up */
  uint64_t written; /* by launches that were queued together, the last so far: their number */
} CudaBuffer;

typedef struct Kept {
  CuPointer at;
  size_t room;
} Kept;

typedef struct CudaDevice {
  Device base; /* first */
  const CudaApi *api;
  CuDevice ordinal;
  CuContext context;
  CuStream stream;
  CuEvent done[FENCES]; /* of fence n: n % FENCES */
  Fence last;
  void *staging[2];
  CuEvent sent[2];  /* staging may be filled again */
  CuEvent timer[2]; /* its start and its end */
  bool timing;      /* the timer starts with the next launch */
  VEC(Kept) kept;
  CudaGraphs *graphs;
  uint64_t submitted;       /* how often launches were */
  VEC(CudaLaunch) launches; /* being queued */
  VEC(uint64_t) values;     /* their arguments */
  uint64_t shared_all;      /* memory that the workgroups of a processor share */
  CudaAssembler assembler;
  CudaWholes wholes; /* of the executable that is being loaded */
  char description[160], compiler[64], cpu[16], features[16], model[128];
} CudaDevice;

struct Program {
  CuModule module;
  CuLibrary library; /* that it is part of, or NULL */
  CuFunction function;
  CudaMaps *maps;  /* NULL: it copies no tiles */
  bool dependent;  /* waits for the kernel before it by itself */
  bool serialized; /* as far as the driver said when it compiled it */
  uint32_t grid[3], block[3];
  uint32_t shared_bytes; /* of a workgroup, when a kernel may not declare so many */
  uint32_t declared;     /* that its code declares */
};

static const DeviceVtbl cuda_vtbl;

static CudaDevice *cuda_device(Device *d) {
  assert(d->v == &cuda_vtbl);
  return (CudaDevice *)d;
}
static CudaBuffer *cuda_buffer(const Buffer *b) {
  return (CudaBuffer *)(uintptr_t)b; /* base is first */
}

#define CALL(c, what, call) TRY(cuda_status((c)->api, (c)->api->call, what))

/* -- memory
 * ---------------------------------------------------------------------------------------------- */

static void release_kept(CudaDevice *c) {
  for (size_t i = 0; i < c->kept.len; i++) c->api->memory_free(c->kept.at[i].at);
  c->kept.len = 0;
}

static bool take_kept(CudaDevice *c, size_t room, CuPointer *out) {
  for (size_t i = c->kept.len; i-- > 0;) {
    if (c->kept.at[i].room != room) continue;
    *out = c->kept.at[i].at;
    c->kept.at[i] = c->kept.at[--c->kept.len];
    return true;
  }
  return false;
}

static Status find_memory(CudaDevice *c, size_t room, CuPointer *out) {
  if (take_kept(c, room, out)) return NULL;
  CuResult r = c->api->memory_alloc(out, room);
  if (r == CU_OUT_OF_MEMORY && c->kept.len) {
    release_kept(c);
    r = c->api->memory_alloc(out, room);
  }
  if (!r) return NULL;
  return WRAP(cuda_status(c->api, r, "allocating device memory"), "a buffer of %zu bytes", room);
}

static Status cuda_buffer_alloc(Device *d, size_t size, int fd, Buffer **out) {
  CudaDevice *c = cuda_device(d);
  assert(fd < 0);
  if (size > SIZE_MAX - ALIGN)
    return FAIL(RESOURCE_EXHAUSTED, "a buffer of %zu bytes: no address space is that large", size);
  CudaBuffer *b = calloc(1, sizeof *b);
  if (!b) return FAIL(RESOURCE_EXHAUSTED, "memory for a buffer");
  b->base = (Buffer){.dev = d, .size = size, .fd = -1};
  b->room = (size + ALIGN - 1) / ALIGN * ALIGN;
  if (!b->room) b->room = ALIGN;
  Status st = find_memory(c, b->room, &b->at);
  if (!st) {
    st = cuda_status(c->api, c->api->memory_fill(b->at, 0, b->room, c->stream), "clearing memory");
    if (st) c->api->memory_free(b->at);
  }
  if (st) {
    free(b);
    return st;
  }
  *out = &b->base;
  return NULL;
}

static void cuda_buffer_free(Device *d, Buffer *buffer) {
  CudaDevice *c = cuda_device(d);
  CudaBuffer *b = cuda_buffer(buffer);
  /* Work queued before still uses the memory, and work queued later comes after it. */
  if (c->kept.len >= KEPT_MAX || !vec_push(&c->kept, ((Kept){b->at, b->room})))
    c->api->memory_free(b->at);
  free(b);
}

/* -- copies
 * ---------------------------------------------------------------------------------------------- */

static Status wait_event(CudaDevice *c, CuEvent event, int64_t timeout_ns) {
  int64_t end = clock_now_ns() + timeout_ns, spin = clock_now_ns() + 200000;
  for (;;) {
    CuResult r = c->api->event_query(event);
    if (r != CU_NOT_READY) return cuda_status(c->api, r, "running kernels");
    int64_t now = clock_now_ns();
    if (timeout_ns >= 0 && now >= end)
      return FAIL(DEADLINE_EXCEEDED, "the device did not finish in time");
    if (now > spin) nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
  }
}

static Status cuda_write(Device *d, Buffer *b, uint64_t offset, const void *from, uint64_t bytes) {
  CudaDevice *c = cuda_device(d);
  for (uint64_t at = 0; at < bytes; at += STAGING) {
    unsigned k = at / STAGING % 2;
    size_t n = bytes - at < STAGING ? (size_t)(bytes - at) : STAGING;
    TRY(wait_event(c, c->sent[k], -1));
    memcpy(c->staging[k], (const char *)from + at, n);
    CALL(c, "copying to the device",
         to_device(cuda_buffer(b)->at + offset + at, c->staging[k], n, c->stream));
    CALL(c, "copying to the device", event_record(c->sent[k], c->stream));
  }
  return NULL;
}

static Status receive(CudaDevice *c, const CudaBuffer *b, uint64_t at, unsigned k, size_t n) {
  CALL(c, "copying from the device", to_host(c->staging[k], b->at + at, n, c->stream));
  CALL(c, "copying from the device", event_record(c->sent[k], c->stream));
  return NULL;
}

/* The next part is on its way while one is copied out. */
static Status cuda_read(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t bytes) {
  CudaDevice *c = cuda_device(d);
  size_t n = bytes < STAGING ? (size_t)bytes : STAGING;
  TRY(wait_event(c, c->sent[0], -1));
  TRY(receive(c, cuda_buffer(b), offset, 0, n));
  for (uint64_t at = 0; at < bytes; at += STAGING) {
    unsigned k = at / STAGING % 2;
    uint64_t next = at + n;
    size_t more = bytes - next < STAGING ? (size_t)(bytes - next) : STAGING;
    if (more) {
      TRY(wait_event(c, c->sent[!k], -1));
      TRY(receive(c, cuda_buffer(b), offset + next, !k, more));
    }
    TRY(wait_event(c, c->sent[k], -1));
    memcpy((char *)to + at, c->staging[k], n);
    n = more;
  }
  return NULL;
}

static Status cuda_copy(Device *d, Buffer *to, uint64_t to_offset, const Buffer *from,
                        uint64_t from_offset, uint64_t bytes) {
  CudaDevice *c = cuda_device(d);
  CALL(c, "copying on the device",
       on_device(cuda_buffer(to)->at + to_offset, cuda_buffer(from)->at + from_offset, bytes,
                 c->stream));
  return NULL;
}

/* What passed through the pinned buffers. */
static Status cuda_scrub(Device *d) {
  CudaDevice *c = cuda_device(d);
  for (unsigned k = 0; k < 2; k++) {
    TRY(wait_event(c, c->sent[k], -1));
    memset(c->staging[k], 0, STAGING);
  }
  return NULL;
}

/* -- programs
 * -------------------------------------------------------------------------------------------- */

/* Machine code that was made here of PTX has a byte behind it: whether the kernel waits for the one
 * before it by itself. */
enum { MADE_DEPENDENT = 1 };
static const char elf[] = "\177ELF", wait_text[] = "griddepcontrol.wait"; /* PTX is text */

static unsigned made_here(Bytes image) {
  bool machine = image.len > sizeof elf && !memcmp(image.ptr, elf, sizeof elf - 1);
  return machine ? image.ptr[image.len - 1] : 0;
}

static bool take_whole(CudaDevice *c, Bytes image, Program *p) {
  CudaWhole whole;
  if (!cuda_whole_take(&c->wholes, image, &whole)) return false;
  p->library = whole.library;
  p->module = whole.module;
  p->serialized = whole.waiting;
  return true;
}

static void unload_module(const CudaDevice *c, const Program *p) {
  if (p->library)
    c->api->library_unload(p->library);
  else if (p->module)
    c->api->module_unload(p->module);
}

/* PTX is text and ends with a zero; a cubin is an ELF file and says itself where it ends. */
static Status load_module(CudaDevice *c, const ProgramSpec *spec, Program *p) {
  char log[LOG_BYTES] = "", said[LOG_BYTES] = "";
  int options[4] = {CU_JIT_ERROR_LOG, CU_JIT_ERROR_LOG_BYTES, CU_JIT_INFO_LOG,
                    CU_JIT_INFO_LOG_BYTES};
  void *values[4] = {log, (void *)(uintptr_t)sizeof log, said, (void *)(uintptr_t)sizeof said};
  if (take_whole(c, spec->image, p)) return NULL;
  StrBuf image = {0};
  TRY(cuda_make_ptx(&c->assembler, spec->image, &image));
  CuResult r = c->api->module_load(&p->module, image.ptr, 4, options, values);
  strbuf_deinit(&image);
  log[sizeof log - 1] = said[sizeof said - 1] = 0;
  p->serialized = strstr(said, CUDA_WARNING_WAITING) != NULL;
  Status st = cuda_status(c->api, r, "loading code");
  return st && *log ? WRAP(st, "%s", log) : st;
}

static bool waits(Bytes image) {
  return made_here(image) & MADE_DEPENDENT ||
         memmem(image.ptr, image.len, wait_text, sizeof wait_text - 1) != NULL;
}

static Status cuda_code_of(Device *d, const Bytes *images, size_t n, StrBuf *code) {
  CudaDevice *c = cuda_device(d);
  CudaWhole *whole = calloc(n + 1, sizeof *whole);
  if (!whole) return FAIL(RESOURCE_EXHAUSTED, "memory for programs");
  cuda_whole_drop(c->api, &c->wholes);
  Status st = cuda_assemble(&c->assembler, images, n, code, whole);
  for (size_t i = 0; i < n; i++) {
    char made = waits(images[i]) ? MADE_DEPENDENT : 0;
    if (code[i].len) strbuf_add(&code[i], &made, 1);
    CudaWholes one = {.at = &whole[i], .len = 1};
    if (whole[i].library && !vec_push(&c->wholes, whole[i])) cuda_whole_drop(c->api, &one);
  }
  free(whole);
  return st;
}

/* What its launches may bring. */
static Status give_memory(const CudaDevice *c, Program *p) {
  int declared = 0;
  uint64_t most = p->shared_bytes;
  CALL(c, "looking at a kernel", function_get(&declared, CU_FUNCTION_SHARED_BYTES, p->function));
  p->declared = (uint32_t)declared;
  if (p->dependent && p->declared < c->base.caps.local_bytes)
    most = c->base.caps.local_bytes - p->declared;
  if (!most) return NULL;
  CALL(c, "giving a kernel memory of workgroups",
       function_set(p->function, CU_FUNCTION_MAX_SHARED, (int)most));
  return NULL;
}

static Status cuda_program_load(Device *d, const ProgramSpec *spec, Program **out) {
  CudaDevice *c = cuda_device(d);
  if (spec->scratch_bytes > d->caps.memory_bytes)
    return FAIL(RESOURCE_EXHAUSTED, "program '%s' needs %" PRIu64 " bytes of scratch per thread",
                spec->entry, spec->scratch_bytes);
  uint64_t threads = (uint64_t)spec->block[0] * spec->block[1] * spec->block[2];
  if (!threads || threads > d->caps.max_group)
    return FAIL(INVALID_ARGUMENT, "program '%s' wants workgroups of %" PRIu64 " threads",
                spec->entry, threads);
  if (spec->scratch_bytes > d->caps.local_bytes)
    return FAIL(INVALID_ARGUMENT, "program '%s' wants %" PRIu64 " bytes for a workgroup",
                spec->entry, spec->scratch_bytes);
  Program *p = calloc(1, sizeof *p);
  if (!p) return FAIL(RESOURCE_EXHAUSTED, "memory for a program");
  p->shared_bytes = (uint32_t)spec->scratch_bytes;
  memcpy(p->grid, spec->grid, sizeof p->grid);
  memcpy(p->block, spec->block, sizeof p->block);
  if (spec->threads > 1) { /* one workgroup of one thread for each */
    p->grid[0] = spec->threads;
    p->grid[1] = p->grid[2] = 1;
  }
  p->dependent = waits(spec->image);
  Status st = load_module(c, spec, p);
  if (!st)
    st = cuda_status(c->api, c->api->module_function(&p->function, p->module, spec->entry),
                     "finding the entry");
  if (!st) st = give_memory(c, p);
  if (!st) st = cuda_maps_read(c->api, p->module, c->stream, &p->maps);
  if (st) {
    unload_module(c, p);
    cuda_maps_free(p->maps);
    free(p);
    return WRAP(st, "program '%s'", spec->entry);
  }
  *out = p;
  return NULL;
}

static Status cuda_program_check(Device *d, const Program *p) {
  const CudaDevice *c = cuda_device(d);
  int bytes = 0;
  CALL(c, "looking at a kernel", function_get(&bytes, CU_FUNCTION_LOCAL_BYTES, p->function));
  if (p->serialized)
    return FAIL(INVALID_ARGUMENT, "the driver's compiler makes matrix instructions wait");
  if (bytes) return FAIL(INVALID_ARGUMENT, "%d bytes of each thread are not in registers", bytes);
  return NULL;
}

static void cuda_program_free(Device *d, Program *p) {
  CudaDevice *c = cuda_device(d);
  c->api->stream_wait(c->stream);
  cuda_graphs_forget(c->graphs, p->function);
  unload_module(c, p);
  cuda_maps_free(p->maps);
  free(p);
}

/* -- launches
 * -------------------------------------------------------------------------------------------- */

/* A bit for each argument in memory that none of the launches being queued writes. */
static uint64_t fixed_arguments(const CudaDevice *c, const Launch *l) {
  uint64_t fixed = 0;
  for (uint32_t k = 0; k < l->nargs && k < 64; k++)
    if (cuda_buffer(l->args[k].buffer)->written != c->submitted) fixed |= (uint64_t)1 << k;
  return fixed;
}

/* A kernel that starts while the one before it runs finds some processors with nothing to do, and
 * more of its workgroups would go there than are theirs when all are shared evenly. So workgroups
 * ask for as much memory as leaves no room for more than that. */
static uint32_t launch_memory(const CudaDevice *c, const Program *p, const uint32_t *grid) {
  enum { MOST_SHARE = 8, OWN = 1024, UNIT = 128 }; /* OWN: the driver's, of each workgroup */
  uint64_t groups = (uint64_t)grid[0] * grid[1] * grid[2], processors = c->base.caps.threads;
  uint64_t share = (groups + processors - 1) / processors;
  if (!p->dependent || share > MOST_SHARE) return p->shared_bytes;
  uint64_t want = c->shared_all / (share + 1) + 1, rest = OWN + p->declared;
  want = want > rest ? (want - rest + UNIT - 1) / UNIT * UNIT : 0;
  if (want + p->declared > c->base.caps.local_bytes) return p->shared_bytes;
  return want > p->shared_bytes ? (uint32_t)want : p->shared_bytes;
}

/* Behind its arguments a kernel may ask which of them are fixed; one that does not ignores it. */
static Status add_launch(CudaDevice *c, const Launch *l) {
  const Program *p = l->program;
  const uint32_t *grid = l->grid ? l->grid : p->grid;
  CudaLaunch x = {.function = p->function,
                  .dependent = p->dependent,
                  .shared_bytes = launch_memory(c, p, grid),
                  .first = (uint32_t)c->values.len,
                  .values = l->nargs + l->nvars + 1,
                  .maps = cuda_maps_count(p->maps)};
  size_t room = x.values + (size_t)x.maps * CUDA_MAP_VALUES;
  memcpy(x.grid, grid, sizeof x.grid);
  memcpy(x.block, p->block, sizeof x.block);
  if (!vec_reserve(&c->values, c->values.len + room) || !vec_push(&c->launches, x))
    return FAIL(RESOURCE_EXHAUSTED, "arguments of a launch");
  uint64_t *to = c->values.at + c->values.len;
  for (uint32_t k = 0; k < l->nargs; k++)
    *to++ = cuda_buffer(l->args[k].buffer)->at + l->args[k].offset;
  for (uint32_t k = 0; k < l->nvars; k++) *to++ = (uint64_t)l->vars[k];
  *to++ = fixed_arguments(c, l);
  TRY(cuda_maps_fill(c->api, p->maps, c->values.at + x.first, l->nargs, to));
  c->values.len += room;
  return NULL;
}

static Status mark_start(CudaDevice *c) {
  if (!c->timing) return NULL;
  c->timing = false;
  CALL(c, "starting a timer", event_record(c->timer[0], c->stream));
  return NULL;
}

static Status cuda_submit(Device *d, const Launch *launches, size_t n, Fence *out) {
  CudaDevice *c = cuda_device(d);
  c->launches.len = c->values.len = 0;
  c->submitted++;
  for (size_t i = 0; i < n; i++)
    if (launches[i].nargs) cuda_buffer(launches[i].args[0].buffer)->written = c->submitted;
  for (size_t i = 0; i < n; i++) TRY(add_launch(c, &launches[i]));
  CudaLaunches all = {.key = launches, .at = c->launches.at, .n = n, .values = c->values.at};
  CudaGraph *graph;
  TRY(cuda_graphs_prepare(c->graphs, &all, &graph));
  TRY(mark_start(c));
  TRY(cuda_graphs_launch(c->graphs, &all, graph));
  Fence fence = c->last + 1;
  CALL(c, "queueing a fence", event_record(c->done[fence % FENCES], c->stream));
  *out = c->last = fence;
  return NULL;
}

/* The event of an old fence may belong to a newer one by now, which passes later: safe. */
static Status cuda_wait(Device *d, Fence fence, int64_t timeout_ns) {
  CudaDevice *c = cuda_device(d);
  if (fence > c->last)
    return FAIL(INVALID_ARGUMENT, "fence %" PRIu64 " was never submitted", fence);
  return fence ? wait_event(c, c->done[fence % FENCES], timeout_ns) : NULL;
}

/* From the moment that the next launches are queued: what it takes to prepare them is the
 * processor's time. */
static Status cuda_timer_start(Device *d) {
  cuda_device(d)->timing = true;
  return NULL;
}

static Status cuda_timer_stop(Device *d, int64_t *ns) {
  CudaDevice *c = cuda_device(d);
  float ms = 0;
  TRY(mark_start(c));
  CALL(c, "stopping a timer", event_record(c->timer[1], c->stream));
  TRY(wait_event(c, c->timer[1], -1));
  CALL(c, "reading a timer", event_elapsed(&ms, c->timer[0], c->timer[1]));
  *ns = (int64_t)((double)ms * 1e6);
  return NULL;
}

/* -- the device
 * ------------------------------------------------------------------------------------------ */

static void cuda_destroy(Device *d) {
  CudaDevice *c = cuda_device(d);
  const CudaApi *api = c->api;
  if (c->stream) api->stream_wait(c->stream);
  cuda_graphs_release(c->graphs);
  release_kept(c);
  for (int k = 0; k < FENCES; k++) {
    if (c->done[k]) api->event_destroy(c->done[k]);
  }
  for (int k = 0; k < 2; k++) {
    if (c->timer[k]) api->event_destroy(c->timer[k]);
    if (c->sent[k]) api->event_destroy(c->sent[k]);
    if (c->staging[k]) api->host_free(c->staging[k]);
  }
  if (c->stream) api->stream_destroy(c->stream);
  cuda_whole_drop(api, &c->wholes);
  if (c->context) api->context_release(c->ordinal);
  vec_deinit(&c->kept);
  vec_deinit(&c->wholes);
  vec_deinit(&c->launches);
  vec_deinit(&c->values);
  free(c);
}

static int attribute(const CudaDevice *c, int which) {
  int value = 0;
  return c->api->device_attribute(&value, which, c->ordinal) ? 0 : value;
}

/* The newest PTX that both the driver and the code generator know; PTX 8.n came with CUDA 12.n. */
static int ptx_version(int driver) {
  if (driver < 12000) return 78;
  int minor = driver >= 13000 ? 5 : driver % 1000 / 10;
  return 80 + (minor < 5 ? minor : 5);
}

/* GPUs that the code generator does not know get PTX for the newest before them that it does. */
static int newest_known(int sm) {
  static const int known[] = {75, 80, 86, 87, 89, 90};
  int newest = known[0];
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (known[i] <= sm) newest = known[i];
  return newest;
}

static Status describe(CudaDevice *c) {
  char name[96] = "";
  size_t memory = 0;
  int driver = 0;
  CALL(c, "reading the name of the device", device_name(name, sizeof name, c->ordinal));
  CALL(c, "reading the size of the device", device_memory(&memory, c->ordinal));
  CALL(c, "reading the driver's version", driver_version(&driver));
  int major = attribute(c, CU_ATTR_CC_MAJOR), minor = attribute(c, CU_ATTR_CC_MINOR);
  if (major * 10 + minor < 75)
    return FAIL(UNAVAILABLE, "%s has compute capability %d.%d; 7.5 is the least", name, major,
                minor);
  c->shared_all = (uint64_t)attribute(c, CU_ATTR_SHARED_ALL);
  int sms = attribute(c, CU_ATTR_SM_COUNT), sm = major * 10 + minor;
  CudaAssembler *a = &c->assembler;
  *a = (CudaAssembler){c->api, c->context, nvjitlink_open(driver), nvrtc_open(driver), ""};
  char nvrtc[32] = "no NVRTC";
  if (a->compiler)
    snprintf(nvrtc, sizeof nvrtc, "NVRTC %d.%d", nvrtc_version(a->compiler) / 1000,
             nvrtc_version(a->compiler) % 1000 / 10);
  snprintf(c->description, sizeof c->description, "%s, %d SMs, %zu GiB, CUDA %d.%d, %s", name, sms,
           memory >> 30, driver / 1000, driver % 1000 / 10, nvrtc);
  snprintf(a->arch, sizeof a->arch, "sm_%d%s", sm, sm == 90 ? "a" : "");
  snprintf(c->model, sizeof c->model, "%s, %s", name, a->arch);
  int n = snprintf(c->compiler, sizeof c->compiler, "CUDA driver %d", driver);
  if (a->linker)
    n += snprintf(c->compiler + n, sizeof c->compiler - (size_t)n, ", nvJitLink %d",
                  nvjitlink_version(a->linker));
  if (a->compiler) /* which target_has_nvrtc reads */
    snprintf(c->compiler + n, sizeof c->compiler - (size_t)n, ", NVRTC %d",
             nvrtc_version(a->compiler));
  snprintf(c->cpu, sizeof c->cpu, "sm_%d%s", newest_known(sm), sm == 90 ? "a" : "");
  snprintf(c->features, sizeof c->features, "+ptx%d", ptx_version(driver));
  c->base.caps = (DeviceCaps){.kind = "cuda",
                              .description = c->description,
                              .triple = "nvptx64-nvidia-cuda",
                              .cpu = c->cpu,
                              .features = c->features,
                              .compiler = c->compiler,
                              .model = c->model,
                              .vector_bytes = 16,
                              .vector_registers = 64,
                              .threads = (uint32_t)sms,
                              .l1_bytes = (uint64_t)attribute(c, CU_ATTR_SHARED_OPTIN),
                              .l2_bytes = (uint64_t)attribute(c, CU_ATTR_L2_BYTES),
                              .l3_bytes = (uint64_t)attribute(c, CU_ATTR_L2_BYTES),
                              .memory_bytes = memory,
                              .max_buffer_bytes = memory,
                              .max_group = (uint32_t)attribute(c, CU_ATTR_MAX_THREADS),
                              .warp = (uint32_t)attribute(c, CU_ATTR_WARP),
                              .local_bytes = (uint64_t)attribute(c, CU_ATTR_SHARED_OPTIN)};
  return NULL;
}

static Status start(CudaDevice *c) {
  CALL(c, "making a context", context_retain(&c->context, c->ordinal));
  CALL(c, "making a context", context_set(c->context));
  CALL(c, "making a stream", stream_create(&c->stream, CU_STREAM_NON_BLOCKING));
  for (int k = 0; k < FENCES; k++)
    CALL(c, "making an event", event_create(&c->done[k], CU_EVENT_NO_TIMING));
  for (int k = 0; k < 2; k++) {
    CALL(c, "making an event", event_create(&c->timer[k], 0));
    CALL(c, "making an event", event_create(&c->sent[k], CU_EVENT_NO_TIMING));
    CALL(c, "pinning memory", host_alloc(&c->staging[k], STAGING, 0));
  }
  TRY(cuda_graphs_create(c->api, c->stream, &c->graphs));
  return describe(c);
}

static const DeviceVtbl cuda_vtbl = {
    .name = "cuda",
    .destroy = cuda_destroy,
    .buffer_alloc = cuda_buffer_alloc,
    .buffer_free = cuda_buffer_free,
    .program_load = cuda_program_load,
    .program_free = cuda_program_free,
    .program_check = cuda_program_check,
    .assemble = cuda_code_of,
    .write = cuda_write,
    .read = cuda_read,
    .copy = cuda_copy,
    .scrub = cuda_scrub,
    .submit = cuda_submit,
    .wait = cuda_wait,
    .timer_start = cuda_timer_start,
    .timer_stop = cuda_timer_stop,
};

Status device_cuda_create(uint32_t ordinal, Device **out) {
  const CudaApi *api;
  int n = 0;
  CuDevice handle;
  *out = NULL;
  TRY(cuda_api(&api));
  TRY(cuda_status(api, api->device_count(&n), "counting devices"));
  if (n < 0 || ordinal >= (uint32_t)n)
    return FAIL(UNAVAILABLE, "this machine has %d CUDA devices", n);
  TRY(cuda_status(api, api->device_get(&handle, (int)ordinal), "opening the device"));
  CudaDevice *c = calloc(1, sizeof *c);
  if (!c) return FAIL(RESOURCE_EXHAUSTED, "memory for a device");
  c->base.v = &cuda_vtbl;
  c->api = api;
  c->ordinal = handle;
  Status st = start(c);
  if (st) {
    cuda_destroy(&c->base);
    return st;
  }
  *out = &c->base;
  return NULL;
}
