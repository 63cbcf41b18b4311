/* Any bytes as a model of some format: a tensor graph that verifies, or an error; never a crash. */
#pragma once

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "compiler/frontend/frontend.h"
#include "compiler/ir/verify.h"

typedef Status (*FuzzFrontend)(Job *job, Bytes model, const FrontendOptions *options,
                               TensorGraph *out);

static inline void verify(Job *job, void *arg) {
  const TensorGraph *g = arg;
  Status st = verify_graph(job, g->sink, STAGE_TENSOR, "frontend");
  if (st) {
    char text[1000];
    status_text(st, text, sizeof text);
    fprintf(stderr, "%s\n", text);
    abort();
  }
  for (size_t i = g->ninputs + g->noutputs; i < g->nslots - g->nlocals; i++)
    assert(g->slots[i].bytes ==
           (uint64_t)shape_numel(g->slots[i].shape) * dtype_info[g->slots[i].dtype].bytes);
}

static inline void fuzz_frontend(FuzzFrontend frontend, ModelKind kind, const uint8_t *data,
                                 size_t size) {
  uint8_t *copy = malloc(size + 1); /* so that asan sees the end */
  const DimBinding dims[] = {{.name = STR("N"), .size = 2}};
  FrontendOptions options = {.kind = kind, .dims = dims, .ndims = size & 1};
  Job job;
  TensorGraph g;
  if (!copy) return;
  if (size) memcpy(copy, data, size);
  job_init(&job, (size_t)256 << 20);
  Status st = frontend(&job, (Bytes){copy, size}, &options, &g);
  if (!st) st = job_run(&job, verify, &g);
  status_drop(st);
  strbuf_deinit(&g.constants);
  job_deinit(&job);
  free(copy);
}
