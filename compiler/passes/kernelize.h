/* Raw ranged graphs become the plan's kernels: simplified, in canonical form, each once. */
#pragma once

#include "compiler/ir/plan.h"
#include "compiler/passes/nodemap.h"

typedef struct Kernelizer {
  Job *job;
  struct {
    struct Finished **at;
    size_t len, cap;
  } finished; /* what became of each raw graph */
  struct {
    Kernel *at;
    size_t len, cap;
  } kernels;
  NodeMap by_raw, by_sink;
} Kernelizer;

void kernelize_init(Kernelizer *kz, Job *job);

/* raw: PARAM arg.i is 0 for what is written, 1 + k for reads[k]; `target` is the plan buffer that
 * is written. */
PlanCall kernelize(Kernelizer *kz, UOp *raw, uint32_t target, const uint32_t *reads);
