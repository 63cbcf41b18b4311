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

/* PARAM k of raw is plan buffer buffers[k]; 0 is written. Its VARs are those of the plan; the
 * kernel's are numbered anew, so that equal kernels over other VARs meet. */
PlanCall kernelize(Kernelizer *kz, UOp *raw, const uint32_t *buffers);
