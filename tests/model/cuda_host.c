/* A kernel is a library of one function. Its threads are called one after the other, workgroup by
 * workgroup; one that has to wait for others, at a barrier or for a value of its warp, gives way to
 * the next one, for which each has a stack of its own. What the GPU has instructions for is left to
 * helpers (cuda_print with sm 0), so that those are tested too. */
#include "tests/model/cuda_host.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>

#include "compiler/codegen/cuda_emit.h"

enum { STACK = 128 << 10, WARP = 32, THREADS_MAX = 1024 };

static const char before[] =
    "#define __device__\n"
    "#define __global__\n"
    "#define __shared__ static\n"
    "#define __launch_bounds__(n)\n"
    "struct Three { unsigned x, y, z; };\n"
    "extern \"C\" {\n"
    "Three threadIdx, blockIdx;\n"
    "void (*wait_for)(int all);\n"
    "unsigned number, words[1024], nwords;\n"
    "}\n"
    "#define __syncthreads() wait_for(1)\n"
    "#define BOTH1(name)                                                 \\\n"
    "  static float host_##name(float x) { return __builtin_##name##f(x); } \\\n"
    "  static double host_##name(double x) { return __builtin_##name(x); }\n"
    "BOTH1(fabs) BOTH1(sqrt) BOTH1(trunc) BOTH1(floor) BOTH1(ceil) BOTH1(rint)\n"
    "static float host_fmod(float x, float y) { return __builtin_fmodf(x, y); }\n"
    "static double host_fmod(double x, double y) { return __builtin_fmod(x, y); }\n"
    "static float host_fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }\n"
    "static double host_fma(double x, double y, double z) { return __builtin_fma(x, y, z); }\n"
    "#define fabs host_fabs\n"
    "#define sqrt host_sqrt\n"
    "#define trunc host_trunc\n"
    "#define floor host_floor\n"
    "#define ceil host_ceil\n"
    "#define rint host_rint\n"
    "#define fmod host_fmod\n"
    "#define fma host_fma\n"
    "template <class T> static T max(T x, T y) { return x > y ? x : y; }\n"
    "template <class T> static T min(T x, T y) { return x < y ? x : y; }\n"
    "static float quick_exp2(float x) {\n"
    "  float r = __builtin_exp2f(x);\n"
    "  return r < 0x1p-126f ? 0 : r;\n}\n"
    "static float quick_recip(float x) {\n"
    "  float r = 1 / x;\n"
    "  return __builtin_fabsf(r) < 0x1p-126f ? 0 * r : r;\n}\n"
    "static unsigned peer_word(unsigned x, int mask) {\n"
    "  unsigned at = number;\n"
    "  words[at] = x;\n"
    "  wait_for(0);\n"
    "  unsigned r = words[(at ^ mask) < nwords ? at ^ mask : at];\n"
    "  wait_for(0);\n"
    "  return r;\n}\n"
    "static unsigned char *workgroup_memory() {\n"
    "  alignas(1024) static unsigned char given[256 << 10];\n"
    "  return given;\n}\n";

typedef struct Three {
  unsigned x, y, z;
} Three;

typedef struct Fiber {
  ucontext_t at;
  bool done;
} Fiber;

/* Threads that wait for each other: all of a workgroup, or a warp. */
typedef struct Meeting {
  unsigned size, here, past;
} Meeting;

/* The launch that runs: code that is called from elsewhere finds it here. */
static struct {
  void *library;
  Three *thread, *group;
  unsigned *number;
  void (*run)(void *const *args);
  void *const *args;
  Three block;
  unsigned threads, now;
  bool stuck; /* nobody came further */
  Fiber fibers[THREADS_MAX];
  Meeting all, warps[THREADS_MAX / WARP];
  ucontext_t back;
  char *stacks;
} host;

static Status write_source(const char *path, const StrBuf *text) {
  FILE *f = fopen(path, "wb");
  bool ok = f && fwrite(text->ptr, 1, text->len, f) == text->len;
  if (f) ok &= !fclose(f);
  return ok ? NULL : FAIL(UNAVAILABLE, "%s cannot be written", path);
}

static Status load(const char *path) {
  host.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!host.library) return FAIL(INTERNAL, "%s", dlerror());
  host.thread = dlsym(host.library, "threadIdx");
  host.group = dlsym(host.library, "blockIdx");
  host.number = dlsym(host.library, "number");
  void *run = dlsym(host.library, "run");
  memcpy(&host.run, &run, sizeof run);
  return run && host.thread && host.group && host.number ? NULL : FAIL(INTERNAL, "no kernel");
}

static Status compile(const StrBuf *text) {
  char folder[] = "/tmp/kiln-cuda-host-XXXXXX", source[64], library[64], command[256];
  if (!mkdtemp(folder)) return FAIL(UNAVAILABLE, "no folder for a kernel");
  snprintf(source, sizeof source, "%s/kernel.cc", folder);
  snprintf(library, sizeof library, "%s/kernel.so", folder);
  snprintf(
      command, sizeof command,
      "g++ -std=c++17 -O1 -w -fPIC -shared -fno-strict-aliasing -ffp-contract=off -o %s %s -lm",
      library, source);
  Status st = write_source(source, text);
  if (!st && system(command)) st = FAIL(INTERNAL, "g++ does not take a kernel");
  if (!st) st = load(library);
  if (st && text->ptr) fprintf(stderr, "%s\n", text->ptr);
  unlink(source);
  unlink(library);
  rmdir(folder);
  return st;
}

/* The text with a function that takes the arguments as a list. */
static Status print(const Linear *l, StrBuf *text) {
  strbuf_adds(text, before);
  TRY(cuda_print(l, "kernel", 0, text));
  strbuf_adds(text, "\nextern \"C\" void run(uchar *const *a) { kernel(");
  for (uint32_t k = 0; k < l->nargs; k++) strbuf_addf(text, "%sa[%u]", k ? ", " : "", k);
  strbuf_adds(text, "); }\n");
  return text->failed ? FAIL(RESOURCE_EXHAUSTED, "memory for a kernel's text") : NULL;
}

/* -- a workgroup ------------------------------------------------------------------------------- */

static void resume(unsigned k) {
  unsigned x = host.block.x, y = host.block.y;
  *host.thread = (Three){k % x, k / x % y, k / x / y};
  *host.number = host.now = k;
}

static void wait_for(int all) {
  Meeting *m = all ? &host.all : &host.warps[host.now / WARP];
  unsigned past = m->past;
  host.stuck = false;
  if (++m->here == m->size) {
    m->here = 0;
    m->past++;
  }
  while (m->past == past) swapcontext(&host.fibers[host.now].at, &host.back);
}

static void live(void) {
  host.run(host.args);
  host.fibers[host.now].done = true;
  host.stuck = false;
}

static Status run_together(void) {
  host.all = (Meeting){.size = host.threads};
  for (unsigned k = 0; k < host.threads; k++) {
    unsigned left = host.threads - k / WARP * WARP;
    host.warps[k / WARP] = (Meeting){.size = left < WARP ? left : WARP};
    Fiber *f = &host.fibers[k];
    getcontext(&f->at);
    f->at.uc_stack.ss_sp = host.stacks + (size_t)k * STACK;
    f->at.uc_stack.ss_size = STACK;
    f->at.uc_link = &host.back;
    f->done = false;
    makecontext(&f->at, live, 0);
  }
  for (unsigned left = host.threads; left;) {
    host.stuck = true;
    left = 0;
    for (unsigned k = 0; k < host.threads; k++) {
      if (host.fibers[k].done) continue;
      resume(k);
      swapcontext(&host.back, &host.fibers[k].at);
      left += !host.fibers[k].done;
    }
    if (left && host.stuck) return FAIL(INTERNAL, "threads wait for others that never come");
  }
  return NULL;
}

static Status run_group(bool together) {
  if (together) return run_together();
  for (unsigned k = 0; k < host.threads; k++) {
    resume(k);
    host.run(host.args);
  }
  return NULL;
}

static bool waits(const Linear *l) {
  bool any = false;
  for (size_t i = 0; i < l->len; i++)
    any |= l->list[i]->op == OP_BARRIER || l->list[i]->op == OP_PEER;
  return any;
}

static Status run_all(const Linear *l) {
  unsigned n[3] = {l->threads > 1 ? l->threads : 1, 1, 1};
  void (**wait)(int) = dlsym(host.library, "wait_for");
  unsigned *nwords = dlsym(host.library, "nwords");
  for (int d = 0; d < 3; d++) {
    if (!l->grid[d]) continue;
    if (!uop_is_const(l->grid[d])) return FAIL(UNIMPLEMENTED, "workgroups by a variable");
    n[d] = (unsigned)l->grid[d]->arg.i;
  }
  host.block = (Three){l->block[0], l->block[1], l->block[2]};
  host.threads = l->block[0] * l->block[1] * l->block[2];
  *wait = wait_for;
  *nwords = host.threads;
  Status st = NULL;
  for (unsigned k = 0; k < n[0] * n[1] * n[2] && !st; k++) {
    *host.group = (Three){k % n[0], k / n[0] % n[1], k / n[0] / n[1]};
    st = run_group(waits(l));
  }
  return st;
}

Status cuda_host_launch(const Linear *l, const InterpBuffer *args, size_t nargs) {
  StrBuf text = {0};
  void **at = calloc(nargs + 1, sizeof *at);
  if (!host.stacks) host.stacks = malloc((size_t)THREADS_MAX * STACK);
  Status st = at && host.stacks ? print(l, &text) : FAIL(RESOURCE_EXHAUSTED, "memory for stacks");
  if (!st) st = compile(&text);
  for (size_t k = 0; k < nargs && !st; k++) at[k] = args[k].data;
  host.args = at;
  if (!st) st = run_all(l);
  if (host.library) dlclose(host.library);
  host.library = NULL;
  strbuf_deinit(&text);
  free(at);
  return st;
}
