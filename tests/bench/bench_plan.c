/* What the middle of the compiler makes of models: kernel counts, time, memory.
 *
 *   bench_plan [--dim NAME=N]... MODEL...          .kgraph: a serialized native graph, else ONNX
 *
 * CPU times are of the frontend and of the plan. `peak` is the arena of temporaries, `live` the
 * largest sum of temporaries alive at one call, which no plan in this order can be below. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "compiler/compile.h"
#include "tests/read_file.h"

enum { DIMS_MAX = 16 };

static int64_t bytes_of(const PlanBuffer *b) {
  return dim_typical(b->numel) * dtype_info[b->dtype].bytes;
}

static int64_t most_alive(const Plan *p) {
  size_t *last = calloc(p->nbuffers + 1, sizeof *last);
  bool *alive = calloc(p->nbuffers + 1, sizeof *alive);
  int64_t now = 0, most = 0;
  for (size_t c = 0; last && c < p->ncalls; c++) {
    for (uint32_t a = 0; a < p->calls[c].nargs; a++) last[p->buffers[p->calls[c].args[a]].base] = c;
  }
  for (size_t c = 0; last && alive && c < p->ncalls; c++) {
    const PlanCall *call = &p->calls[c];
    for (uint32_t a = 0; a < call->nargs; a++) {
      uint32_t whole = p->buffers[call->args[a]].base;
      const PlanBuffer *b = &p->buffers[whole];
      if (b->kind != PB_TEMP || alive[whole]) continue;
      alive[whole] = true;
      now += bytes_of(b);
    }
    if (now > most) most = now;
    for (uint32_t a = 0; a < call->nargs; a++) {
      uint32_t whole = p->buffers[call->args[a]].base;
      if (!alive[whole] || last[whole] != c) continue;
      alive[whole] = false;
      now -= bytes_of(&p->buffers[whole]);
    }
  }
  free(last);
  free(alive);
  return most;
}

static Status bench(Job *job, Bytes model, const FrontendOptions *options, const char *path) {
  const Target target = {.kind = "cpu", .threads = 2, .vector_bytes = 32, .vector_registers = 16};
  TensorGraph graph = {0};
  Plan plan;
  int64_t start = clock_cpu_ns(), middle;
  Status st = compile_frontend(job, model, options, &graph);
  middle = clock_cpu_ns();
  if (!st) st = compile_plan(job, &graph, &target, &plan);
  int64_t end = clock_cpu_ns(), flops = 0, traffic = 0;
  for (size_t c = 0; !st && c < plan.ncalls; c++) {
    flops += plan.kernels[plan.calls[c].kernel].flops;
    traffic += plan.kernels[plan.calls[c].kernel].traffic_bytes;
  }
  strbuf_deinit(&graph.constants);
  if (st) return st;
  const char *name = strrchr(path, '/');
  printf("%-26s frontend %6.2f ms  plan %6.2f ms  calls %4zu  kernels %4zu  GFLOP %6.2f  traffic "
         "%6.1f MB  peak %7.3f MB  live %7.3f MB\n",
         name ? name + 1 : path, (double)(middle - start) / 1e6, (double)(end - middle) / 1e6,
         plan.ncalls, plan.nkernels, (double)flops / 1e9, (double)traffic / 1e6,
         (double)plan.temp_bytes / 1e6, (double)most_alive(&plan) / 1e6);
  return NULL;
}

int main(int argc, char **argv) {
  DimBinding dims[DIMS_MAX];
  FrontendOptions options = {.dims = dims};
  int failed = 0;
  for (int i = 1; i < argc; i++) {
    char *eq = i + 1 < argc && !strcmp(argv[i], "--dim") ? strchr(argv[i + 1], '=') : NULL;
    if (eq && options.ndims < DIMS_MAX) {
      i++;
      Str name = {argv[i], (size_t)(eq - argv[i])};
      dims[options.ndims++] = (DimBinding){.name = name, .size = strtoll(eq + 1, NULL, 10)};
      continue;
    }
    Job job;
    job_init(&job, 0);
    StrBuf model = {0};
    if (!read_file(argv[i], &model)) fprintf(stderr, "%s: cannot be read\n", argv[i]);
    size_t len = strlen(argv[i]);
    bool kgraph = len > 7 && !strcmp(argv[i] + len - 7, ".kgraph");
    options.kind = kgraph ? MODEL_KGRAPH : MODEL_ONNX;
    Status st = bench(&job, (Bytes){(const uint8_t *)model.ptr, model.len}, &options, argv[i]);
    if (st) {
      char text[1000];
      status_text(st, text, sizeof text);
      status_drop(st);
      fprintf(stderr, "%s: %s\n", argv[i], text);
      failed = 1;
    }
    job_deinit(&job);
    strbuf_deinit(&model);
  }
  return failed;
}
