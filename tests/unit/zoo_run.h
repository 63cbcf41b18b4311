/* What tests and fuzzers that put zoo kernels through the passes share. */
#pragma once

#include "compiler/ir/verify.h"
#include "compiler/passes/expand.h"
#include "compiler/passes/linearize.h"
#include "compiler/passes/lower.h"
#include "compiler/passes/schedule.h"
#include "tests/unit/zoo.h"
#include "tests/unit/zoo_targets.h"

static inline uint32_t zoo_below(uint64_t *state, uint32_t n) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(*state >> 33) % n;
}

/* A kernel for a fuzzer's byte. */
static inline UOp *zoo_pick(Job *job, uint8_t which) {
  ZooConv conv = {
      .n = 2, .c = 3, .h = 9, .w = 10, .oc = 8, .kh = 3, .kw = 3, .stride = 1, .pad = 1};
  switch (which % 5) {
  case 0: return zoo_matmul(job, DT_F32, 12, 40, 24, false).sink;
  case 1: return zoo_conv(job, conv).sink;
  case 2: return zoo_softmax(job, 3, 37, true).sink;
  case 3: return zoo_nested(job, 6, 9, 12).sink;
  default: return zoo_gather(job, 6, 11, 24).sink;
  }
}

/* The linear code of a scheduled kernel, verified after every pass. */
static inline Status zoo_lower(Job *job, UOp *scheduled, const Target *t, Linear *out) {
  TRY(verify_graph(job, scheduled, STAGE_SCHEDULED, "schedule"));
  UOp *u = lower_kernel(job, expand_kernel(job, scheduled, t), t);
  TRY(verify_graph(job, u, STAGE_LOWERED, "lower"));
  *out = linearize_kernel(job, u, t);
  return NULL;
}

/* A kernel with the opts given, or with those that the heuristic picks and leaves here. */
typedef struct ZooRun {
  ZooKernel k;
  const Target *target;
  OptList opts;
  bool heuristic;
  UOp *scheduled;
  Linear linear;
  int64_t vars[2]; /* values of the kernel's VARs */
} ZooRun;

static inline void zoo_compile(Job *job, void *arg) {
  ZooRun *r = arg;
  r->scheduled = r->heuristic ? schedule_heuristic(job, r->k.sink, r->target, &r->opts)
                              : schedule_apply(job, r->k.sink, r->target, &r->opts);
  Status st = zoo_lower(job, r->scheduled, r->target, &r->linear);
  if (st) job_abort(job, st);
}
