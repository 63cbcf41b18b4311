/* The driver's compiler takes 20 to 90 ms for a kernel. Loading PTX holds a lock of the driver all
 * that time; linking it does not, so threads of their own link one kernel at a time, each taking
 * the next that nobody has. They have the context, but queue nothing. NVIDIA's own library for it
 * takes a fraction of the time; what that does not take, the driver's compiler is asked about.
 *
 * A linked kernel is one of several that may call each other. Registers cannot be given from one
 * group of warps to another then (setmaxnreg is ignored), and where there is a call, as for the
 * rare cases of a division, matrix instructions wait for each other. Nor are registers saved in it
 * for the sake of more threads: 255 for a sum of columns, where a whole program has 34. Such
 * kernels are compiled as whole programs (cuda_whole.h), of which the driver gives no code away. */
#include "devices/cuda_assemble.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
  THREADS_MAX = 16,
  LOG_BYTES = 4096,
  NAME_BYTES = 256,
  HALF = 64 /* registers of a thread, of which half of a processor's threads have room */
};

typedef struct Work {
  const CudaAssembler *with;
  const Bytes *images;
  StrBuf *code;
  CudaWhole *whole;
  Status *failed; /* by image */
  size_t n;
  atomic_size_t next;
} Work;

static bool is_text(Bytes image) { return image.len && image.ptr[0] != 0x7f; }

static bool gives_registers(Bytes ptx) {
  static const char instruction[] = "setmaxnreg";
  return memmem(ptx.ptr, ptx.len, instruction, sizeof instruction - 1) != NULL;
}

/* The name of the kernel in a text that ends with a zero. */
static bool find_entry(const char *text, char *name) {
  static const char mark[] = ".entry ";
  const char *at = strstr(text, mark);
  if (!at) return false;
  at += sizeof mark - 1;
  size_t n = strcspn(at, "( \t\n");
  if (!n || n >= NAME_BYTES) return false;
  memcpy(name, at, n);
  name[n] = 0;
  return true;
}

/* What waits for memory has taken registers from the threads that would hide it. Kernels with
 * matrix instructions are not asked: they live in registers. */
static bool crowds(const CudaApi *api, const char *text, const StrBuf *code) {
  char name[NAME_BYTES];
  CuModule module;
  CuFunction function;
  int registers = 0;
  if (strstr(text, "mma") || !find_entry(text, name) ||
      api->module_load(&module, code->ptr, 0, NULL, NULL))
    return false;
  bool known = !api->module_function(&function, module, name) &&
               !api->function_get(&registers, CU_FUNCTION_REGISTERS, function);
  api->module_unload(module);
  return known && registers > HALF;
}

static Status by_driver(const CudaApi *api, const char *text, size_t len, StrBuf *out, char *said) {
  char log[LOG_BYTES] = "";
  int options[4] = {CU_JIT_ERROR_LOG, CU_JIT_ERROR_LOG_BYTES, CU_JIT_INFO_LOG,
                    CU_JIT_INFO_LOG_BYTES};
  void *values[4] = {log, (void *)(uintptr_t)sizeof log, said, (void *)(uintptr_t)LOG_BYTES};
  void *cubin = NULL;
  size_t bytes = 0;
  CuLink link = NULL;
  *said = 0;
  CuResult r = api->link_create(4, options, values, &link);
  if (!r) r = api->link_add(link, CU_JIT_INPUT_PTX, text, len + 1, "kernel", 0, NULL, NULL);
  if (!r) r = api->link_complete(link, &cubin, &bytes);
  if (!r) strbuf_add(out, cubin, bytes); /* which is the link's */
  if (link) api->link_destroy(link);
  log[sizeof log - 1] = said[LOG_BYTES - 1] = 0;
  Status st = cuda_status(api, r, "assembling code");
  if (!st && out->failed) st = FAIL(RESOURCE_EXHAUSTED, "memory for a program");
  return st && *log ? WRAP(st, "%s", log) : st;
}

/* Code that is spoilt is none. */
static Status link_one(const CudaAssembler *a, const char *text, size_t len, StrBuf *out) {
  char said[LOG_BYTES] = "";
  Bytes ptx = {(const uint8_t *)text, len};
  Status st = a->linker ? nvjitlink_assemble(a->linker, a->arch, ptx, out, said, sizeof said)
                        : FAIL(UNAVAILABLE, "nvJitLink is not installed");
  if (st) {
    status_drop(st);
    out->len = 0;
    st = by_driver(a->api, text, len, out, said);
  }
  if (!st && (strstr(said, CUDA_WARNING_WAITING) || crowds(a->api, text, out))) out->len = 0;
  return st;
}

Status cuda_make_ptx(const CudaAssembler *a, Bytes image, StrBuf *out) {
  StrBuf text = {0};
  strbuf_add(&text, image.ptr, image.len);
  Status st = text.failed ? FAIL(RESOURCE_EXHAUSTED, "memory for a program") : NULL;
  if (!st && nvrtc_is_source(image)) {
    Bytes source = {(const uint8_t *)text.ptr, text.len};
    st = a->compiler ? nvrtc_compile(a->compiler, a->arch, source, out)
                     : FAIL(UNAVAILABLE, "the kernel is CUDA C++, and NVRTC is not installed");
  } else if (!st) {
    *out = text;
    text = (StrBuf){0};
  }
  strbuf_deinit(&text);
  return st;
}

static Status assemble_one(const CudaAssembler *a, Bytes image, StrBuf *out, CudaWhole *whole) {
  StrBuf ptx = {0};
  Status st = cuda_make_ptx(a, image, &ptx);
  bool linked = !st && !gives_registers((Bytes){(const uint8_t *)ptx.ptr, ptx.len});
  if (linked) st = link_one(a, ptx.ptr, ptx.len, out);
  if (!st && !out->len) cuda_whole_compile(a->api, ptx.ptr, image, whole);
  strbuf_deinit(&ptx);
  return st;
}

static void *work(void *arg) {
  Work *w = arg;
  const CudaApi *api = w->with->api;
  Status st = cuda_status(api, api->context_set(w->with->context), "assembling code");
  for (size_t i; (i = atomic_fetch_add(&w->next, 1)) < w->n;) {
    if (!is_text(w->images[i])) continue;
    if (!st) st = assemble_one(w->with, w->images[i], &w->code[i], &w->whole[i]);
    w->failed[i] = st;
    st = NULL;
  }
  status_drop(st);
  return NULL;
}

/* Without a thread more, the caller does it all. */
static void work_together(Work *w, size_t wanted) {
  pthread_t threads[THREADS_MAX];
  size_t n = 0;
  while (n + 1 < wanted && n < THREADS_MAX && !pthread_create(&threads[n], NULL, work, w)) n++;
  work(w);
  while (n) pthread_join(threads[--n], NULL);
}

Status cuda_assemble(const CudaAssembler *a, const Bytes *images, size_t n, StrBuf *code,
                     CudaWhole *whole) {
  cpu_set_t cores;
  size_t most = sched_getaffinity(0, sizeof cores, &cores) ? 1 : (size_t)CPU_COUNT(&cores);
  Work w = {.with = a, .images = images, .code = code, .whole = whole, .n = n};
  Status first = NULL;
  w.failed = calloc(n + 1, sizeof(Status));
  if (!w.failed) return FAIL(RESOURCE_EXHAUSTED, "memory for programs");
  work_together(&w, n < most ? n : most);
  for (size_t i = 0; i < n; i++) {
    if (w.failed[i] && !first)
      first = WRAP(w.failed[i], "image %zu of %zu", i, n);
    else
      status_drop(w.failed[i]);
  }
  free(w.failed);
  return first;
}
