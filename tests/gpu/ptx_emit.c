/* Every kernel of models as PTX, for a GPU that need not be there.
 *
 *   ptx_emit CPU FEATURES OUT [--opts TEXT] [--fast-math] [--cuda-c] [--local KIB] MODEL...
 *   ptx_emit sm_90a +ptx83 build/ptx model.onnx
 *
 * Writes OUT/MODEL-N.ptx per kernel and prints its name and schedule. A kernel that cannot be
 * compiled is named and makes the exit status 1; a model that is not taken (open sizes, unknown
 * ops) is only named. KIB: the memory that a workgroup may have. --cuda-c: also OUT/MODEL-N.cu
 * per kernel that may be compiled by NVRTC. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/compile.h"
#include "tests/read_file.h"
#include "tests/unit/zoo_targets.h"

static int failures;
static bool fast_math;
static bool cuda_c;      /* the same schedules as CUDA C++, where that is printed */
static const char *opts; /* where legal; else, and when NULL: the heuristic's */

static void report(const char *what, Status st) {
  char text[2048];
  status_text(st, text, sizeof text);
  status_drop(st);
  fprintf(stderr, "%s: %s\n", what, text);
  failures++;
}

static void skip(const char *model, Status st) {
  char text[2048];
  status_text(st, text, sizeof text);
  status_drop(st);
  printf("%s: not taken: %s\n", model, text);
}

static void write_kernel(const char *folder, const char *model, size_t k, const char *ending,
                         const StrBuf *ptx) {
  char path[4096];
  const char *name = strrchr(model, '/') ? strrchr(model, '/') + 1 : model;
  snprintf(path, sizeof path, "%s/%s-%zu.%s", folder, name, k, ending);
  FILE *f = fopen(path, "wb");
  bool ok = f && fwrite(ptx->ptr, 1, ptx->len, f) == ptx->len;
  if (f) ok &= !fclose(f);
  if (!ok) report(path, FAIL(UNAVAILABLE, "cannot be written"));
}

/* The kernel's schedule, by the other compiler. What that does not take is no failure. */
static void write_cuda_c(Job *job, const char *path, const Kernel *kernel, size_t k,
                         const Target *target, const char *folder, const char *schedule) {
  StrBuf list = {0};
  KernelObject object = {0};
  strbuf_addf(&list, "%s COMPILER(0,1)", schedule);
  Status st = compile_kernel(job, kernel->sink, kernel->name, target, list.ptr, &object);
  if (!st) write_kernel(folder, path, k, "cu", &object.object);
  StatusCode code = status_code(st);
  if (st && code != ST_UNIMPLEMENTED && code != ST_INVALID_ARGUMENT)
    report(path, st);
  else
    status_drop(st);
  strbuf_deinit(&object.object);
  strbuf_deinit(&list);
}

static Status emit_model(Job *job, const char *path, Bytes model, const Target *target,
                         const char *folder) {
  const char *dot = strrchr(path, '.');
  FrontendOptions o = {.kind = dot && !strcmp(dot, ".onnx") ? MODEL_ONNX : MODEL_KGRAPH,
                       .fast_math = fast_math};
  TensorGraph graph;
  Plan plan;
  Status st = compile_frontend(job, model, &o, &graph);
  if (!st) st = compile_plan(job, &graph, target, &plan);
  for (size_t k = 0; !st && k < plan.nkernels; k++) {
    KernelObject object;
    Status bad =
        compile_kernel(job, plan.kernels[k].sink, plan.kernels[k].name, target, opts, &object);
    if (bad && opts) { /* that is for another kernel of the model */
      status_drop(bad);
      strbuf_deinit(&object.object);
      bad = compile_kernel(job, plan.kernels[k].sink, plan.kernels[k].name, target, NULL, &object);
    }
    if (bad) {
      report(path, bad);
    } else {
      write_kernel(folder, path, k, "ptx", &object.object);
      if (cuda_c) write_cuda_c(job, path, &plan.kernels[k], k, target, folder, object.opts);
      printf("%s-%zu %s grid %lld,%lld,%lld block %u,%u,%u shared %llu: %s\n", path, k,
             plan.kernels[k].name, (long long)object.grid[0], (long long)object.grid[1],
             (long long)object.grid[2], object.block[0], object.block[1], object.block[2],
             (unsigned long long)object.scratch_bytes, object.opts);
    }
    strbuf_deinit(&object.object);
  }
  for (size_t c = 0; !st && c < plan.ncalls; c++) {
    printf("%s calls %u%s:", path, plan.calls[c].kernel, plan.calls[c].once ? " once" : "");
    for (uint32_t a = 0; a < plan.calls[c].nargs; a++) {
      const PlanBuffer *b = &plan.buffers[plan.calls[c].args[a]];
      printf(" %u,%d,%lld,%lld", plan.calls[c].args[a], (int)b->kind, (long long)b->slot,
             (long long)(dim_low(b->numel) * dtype_info[b->dtype].bytes));
    }
    printf("\n");
  }
  strbuf_deinit(&graph.constants);
  return st;
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fprintf(stderr,
            "usage: %s CPU FEATURES OUT [--opts TEXT] [--fast-math] [--cuda-c] [--local KIB] "
            "MODEL...\n",
            argv[0]);
    return 64;
  }
  Target target = zoo_cuda;
  target.cpu = argv[1];
  target.features = argv[2];
  for (int i = 4; i < argc; i++) {
    if (!strcmp(argv[i], "--opts") && i + 2 < argc) {
      opts = argv[++i];
      continue;
    }
    if (!strcmp(argv[i], "--fast-math")) {
      fast_math = true;
      continue;
    }
    if (!strcmp(argv[i], "--cuda-c")) {
      cuda_c = true;
      target.compiler = "NVRTC";
      continue;
    }
    if (!strcmp(argv[i], "--local") && i + 2 < argc) {
      target.local_bytes = target.l1_bytes = strtoull(argv[++i], NULL, 10) << 10;
      continue;
    }
    StrBuf model = {0};
    Job job;
    job_init(&job, (size_t)4 << 30);
    Status st = read_file(argv[i], &model) ? NULL : FAIL(NOT_FOUND, "cannot be read");
    if (!st)
      st = emit_model(&job, argv[i], (Bytes){(uint8_t *)model.ptr, model.len}, &target, argv[3]);
    if (st) skip(argv[i], st);
    strbuf_deinit(&model);
    job_deinit(&job);
  }
  return failures > 0;
}
