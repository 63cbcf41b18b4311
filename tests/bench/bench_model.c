/* Compiles a model in this process and times it kernel by kernel, without the daemon: what a person
 * who tunes schedules wants to see.
 *
 *   bench_model MODEL.onnx [--dim NAME=N]... [--repeat N] [--kernels] [--turns] [--threads N]
 *               [--try KERNEL OPTS]...
 *
 * Inputs are random. The table has, per call: time, share, GFLOP/s and GB/s from the plan's
 * estimates, the schedule. With --try one kernel is timed under several schedules ("": the
 * heuristic's). With --turns each line of the standard input is a number of runs, and is
 * answered by a line with the nanoseconds of each: a script takes turns with a peer. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "tests/model/local_target.h"

enum { DIMS_MAX = 16, TRIES_MAX = 64 };

typedef struct Bench {
  const char *path;
  DimBinding dims[DIMS_MAX];
  size_t ndims;
  int repeat;
  size_t tried; /* kernel */
  const char *tries[TRIES_MAX];
  size_t ntries;
  bool kernels, turns;
  uint32_t threads;
  Job job;
  TensorGraph graph;
  Plan plan;
  Target target;
  Device *dev;
  Program **programs;
  const char **opts;
  void **addresses; /* per plan buffer */
} Bench;

static void die(Status st) {
  char text[2000];
  status_text(st, text, sizeof text);
  fprintf(stderr, "bench_model: %s\n", text);
  exit(1);
}
static void must(Status st) {
  if (st) die(st);
}

static Bytes map_file(const char *path) {
  struct stat st;
  int fd = open(path, O_RDONLY);
  if (fd < 0 || fstat(fd, &st)) die(FAIL(NOT_FOUND, "cannot open %s", path));
  void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  return (Bytes){p, (size_t)st.st_size};
}

static void parse_args(Bench *b, int argc, char **argv) {
  b->repeat = 20;
  for (int i = 1; i < argc; i++) {
    Str a = str_from(argv[i]);
    if (str_is(a, "--kernels"))
      b->kernels = true;
    else if (str_is(a, "--turns"))
      b->turns = true;
    else if (str_is(a, "--repeat") && i + 1 < argc)
      b->repeat = atoi(argv[++i]);
    else if (str_is(a, "--threads") && i + 1 < argc)
      b->threads = (uint32_t)atoi(argv[++i]);
    else if (str_is(a, "--try") && i + 2 < argc && b->ntries < TRIES_MAX) {
      b->tried = (size_t)atoll(argv[++i]);
      b->tries[b->ntries++] = argv[++i];
    } else if (str_is(a, "--dim") && i + 1 < argc && b->ndims < DIMS_MAX) {
      char *eq = strchr(argv[++i], '=');
      if (!eq) die(FAIL(INVALID_ARGUMENT, "--dim wants NAME=N"));
      b->dims[b->ndims++] =
          (DimBinding){.name = {argv[i], (size_t)(eq - argv[i])}, .size = atoll(eq + 1)};
    } else
      b->path = argv[i];
  }
  if (!b->path)
    die(FAIL(INVALID_ARGUMENT,
             "usage: bench_model MODEL.onnx [--dim NAME=N] [--repeat N] [--threads N] [--kernels] "
             "[--turns] [--try KERNEL OPTS]..."));
}

static void make_target(Bench *b) {
  must(device_cpu_create(b->threads, &b->dev));
  b->target = local_target(b->dev);
}

/* Kernel k under a schedule; NULL: that of the heuristic. */
static void compile_one(Bench *b, size_t k, const char *opts) {
  KernelObject o;
  int64_t t = clock_now_ns();
  const char *name = b->plan.kernels[k].name;
  must(compile_kernel(&b->job, b->plan.kernels[k].sink, name, &b->target, opts, &o));
  ProgramSpec spec = {.image = {(uint8_t *)o.object.ptr, o.object.len},
                      .entry = o.entry,
                      .threads = o.threads,
                      .scratch_bytes = o.scratch_bytes};
  must(device_program_load(b->dev, &spec, &b->programs[k]));
  b->opts[k] = o.opts;
  if (b->kernels)
    printf("compile %-40s %6.1f ms %6zu B\n", name, (double)(clock_now_ns() - t) / 1e6,
           o.object.len);
  strbuf_deinit(&o.object);
}

static void compile_kernels(Bench *b) {
  b->programs = calloc(b->plan.nkernels + 1, sizeof *b->programs);
  b->opts = calloc(b->plan.nkernels + 1, sizeof *b->opts);
  for (size_t i = 0; i < b->plan.nkernels; i++) compile_one(b, i, NULL);
}

static void fill_random(void *p, DType dtype, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    double r = (double)rand() / RAND_MAX - 0.5;
    if (dtype == DT_F32)
      ((float *)p)[i] = (float)r;
    else if (dtype == DT_F64)
      ((double *)p)[i] = r;
    else
      memset((char *)p + i * dtype_info[dtype].bytes, 0, dtype_info[dtype].bytes);
  }
}

static void place_buffers(Bench *b, Bytes model) {
  char *temp = aligned_alloc(4096, ((size_t)b->plan.temp_bytes + 8191) & ~(size_t)4095);
  char *kept = aligned_alloc(4096, ((size_t)b->plan.kept_bytes + 8191) & ~(size_t)4095);
  b->addresses = calloc(b->plan.nbuffers + 1, sizeof *b->addresses);
  for (size_t i = 0; i < b->plan.nbuffers; i++) {
    const PlanBuffer *p = &b->plan.buffers[i];
    size_t bytes = (size_t)p->numel * dtype_info[p->dtype].bytes;
    if (p->kind == PB_TEMP || p->kind == PB_KEPT) {
      b->addresses[i] = (p->kind == PB_TEMP ? temp : kept) + p->offset;
      continue;
    }
    const GraphSlot *s = &b->graph.slots[p->slot];
    if (p->kind == PB_WEIGHT) {
      const char *base = s->in_constants ? b->graph.constants.ptr : (const char *)model.ptr;
      b->addresses[i] = (void *)(uintptr_t)(base + s->offset + p->offset);
      continue;
    }
    if (p->base != i) { /* its whole came before */
      b->addresses[i] = (char *)b->addresses[p->base] + p->offset;
      continue;
    }
    b->addresses[i] = aligned_alloc(64, (bytes + 127) & ~(size_t)63);
    fill_random(b->addresses[i], p->dtype, p->numel);
  }
}

/* One thread is measured in CPU time: the machine may be shared. */
static int64_t now_ns(const Bench *b) { return b->threads == 1 ? clock_cpu_ns() : clock_now_ns(); }

static void do_call(Bench *b, const PlanCall *c) {
  Buffer buffers[64];
  LaunchArg args[64];
  for (uint32_t k = 0; k < c->nargs && k < 64; k++) {
    buffers[k] = (Buffer){.size = SIZE_MAX, .host = b->addresses[c->args[k]], .fd = -1};
    args[k] = (LaunchArg){&buffers[k], 0};
  }
  Launch launch = {.program = b->programs[c->kernel], .args = args, .nargs = c->nargs};
  Fence fence;
  must(device_submit(b->dev, &launch, 1, &fence));
  must(device_wait(b->dev, fence, -1));
}

static int64_t run_call(Bench *b, const PlanCall *c) {
  int64_t t = now_ns(b);
  do_call(b, c);
  return now_ns(b) - t;
}

/* All calls between two looks at the clock, which cost more than a small kernel. */
static int64_t run_all(Bench *b) {
  int64_t t = now_ns(b);
  for (size_t i = b->plan.nonce; i < b->plan.ncalls; i++) do_call(b, &b->plan.calls[i]);
  return now_ns(b) - t;
}

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static int64_t median(int64_t *t, size_t n) {
  qsort(t, n, sizeof *t, compare);
  return t[n / 2];
}

/* The first call of the kernel under each of the schedules, in turns. */
static void time_tries(Bench *b) {
  Program *programs[TRIES_MAX];
  const char *opts[TRIES_MAX];
  size_t reps = (size_t)b->repeat;
  const PlanCall *c = NULL;
  int64_t *t = calloc(TRIES_MAX * reps + 1, sizeof *t);
  for (size_t i = b->plan.ncalls; i-- > 0;)
    if (b->plan.calls[i].kernel == b->tried) c = &b->plan.calls[i];
  if (!c) die(FAIL(NOT_FOUND, "no call of kernel %zu", b->tried));
  for (size_t k = 0; k < b->ntries; k++) {
    compile_one(b, b->tried, *b->tries[k] ? b->tries[k] : NULL);
    programs[k] = b->programs[b->tried], opts[k] = b->opts[b->tried];
  }
  for (size_t r = 0; r < reps; r++)
    for (size_t k = 0; k < b->ntries; k++) {
      b->programs[b->tried] = programs[k];
      t[k * reps + r] = run_call(b, c);
    }
  const Kernel *kernel = &b->plan.kernels[b->tried];
  for (size_t k = 0; k < b->ntries; k++) {
    double ns = (double)median(t + k * reps, reps);
    printf("%-30s %9.1f us, least %9.1f us, %7.1f GF/s  %s\n", kernel->name, ns / 1e3,
           (double)t[k * reps] / 1e3, (double)kernel->flops / ns, opts[k]);
  }
  free(t);
}

static void time_calls(Bench *b) {
  size_t n = b->plan.ncalls, reps = (size_t)b->repeat;
  int64_t *t = calloc(n * reps + 1, sizeof *t), *total = calloc(reps + 1, sizeof *total);
  for (size_t r = 0; r < reps; r++)
    for (size_t i = b->plan.nonce; i < n; i++) t[i * reps + r] = run_call(b, &b->plan.calls[i]);
  for (size_t r = 0; r < reps; r++) total[r] = run_all(b);
  qsort(total, reps, sizeof *total, compare);
  double sum = (double)total[reps / 2], least = 0;
  for (size_t i = b->plan.nonce; i < n; i++) {
    const PlanCall *c = &b->plan.calls[i];
    const Kernel *k = &b->plan.kernels[c->kernel];
    double ns = (double)median(t + i * reps, reps);
    least += (double)t[i * reps];
    if (!b->kernels) continue;
    printf("%4zu k%-3u %-36s %9.1f us %5.1f%% %7.1f GF/s %6.1f GB/s  %s\n", i, c->kernel, k->name,
           ns / 1e3, 100 * ns / sum, (double)k->flops / ns, (double)k->traffic_bytes / ns,
           b->opts[c->kernel]);
  }
  printf("run: median %.4f ms, min %.4f ms, the least of every call %.4f ms\n", sum / 1e6,
         (double)total[0] / 1e6, least / 1e6);
  free(t);
  free(total);
}

static void take_turns(Bench *b) {
  char line[32];
  for (size_t i = b->plan.nonce; i < b->plan.ncalls && b->kernels; i++) {
    const PlanCall *c = &b->plan.calls[i];
    printf("call %s %u %s\n", b->plan.kernels[c->kernel].name, c->nargs, b->opts[c->kernel]);
  }
  printf("ready\n");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    for (int n = atoi(line); n > 0; n--) {
      for (size_t i = b->plan.nonce; i < b->plan.ncalls && b->kernels; i++)
        printf("%lld ", (long long)run_call(b, &b->plan.calls[i]));
      if (!b->kernels) printf("%lld ", (long long)run_all(b));
    }
    printf("\n");
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  Bench b = {0};
  parse_args(&b, argc, argv);
  job_init(&b.job, (size_t)4 << 30);
  Bytes model = map_file(b.path);
  make_target(&b);
  FrontendOptions options = {.kind = MODEL_ONNX, .dims = b.dims, .ndims = b.ndims};
  size_t len = strlen(b.path);
  if (len > 7 && str_is(str_from(b.path + len - 7), ".kgraph")) options.kind = MODEL_KGRAPH;
  int64_t t0 = clock_now_ns();
  must(compile_frontend(&b.job, model, &options, &b.graph));
  int64_t t1 = clock_now_ns();
  must(compile_plan(&b.job, &b.graph, &b.target, &b.plan));
  int64_t t2 = clock_now_ns();
  if (!getenv("PLAN_ONLY")) compile_kernels(&b);
  int64_t t3 = clock_now_ns();
  printf("%s: frontend %.1f ms, plan %.1f ms, codegen %.1f ms; %zu calls (%zu once), %zu kernels, "
         "temp %.2f MB, kept %.2f MB, job %.1f MB\n",
         b.path, (double)(t1 - t0) / 1e6, (double)(t2 - t1) / 1e6, (double)(t3 - t2) / 1e6,
         b.plan.ncalls, b.plan.nonce, b.plan.nkernels, (double)b.plan.temp_bytes / 1e6,
         (double)b.plan.kept_bytes / 1e6, (double)b.job.arena.used / 1e6);
  if (getenv("PLAN_ONLY")) return 0;
  if (b.plan.nvars) {
    Str name = b.plan.vars[0].name;
    fprintf(stderr, "bench_model: dimension %.*s has no size: give it one with --dim\n",
            (int)name.len, name.ptr);
    return 64;
  }
  place_buffers(&b, model);
  for (size_t i = 0; i < b.plan.nonce; i++) run_call(&b, &b.plan.calls[i]);
  if (b.ntries)
    time_tries(&b);
  else if (b.turns)
    take_turns(&b);
  else
    time_calls(&b);
  return 0;
}
