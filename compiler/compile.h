/* The compiler as its callers see it: three steps that can run in different processes.
 *
 *   compile_frontend   model bytes        -> tensor graph, canonical bytes, interface
 *   compile_plan       tensor graph       -> kernels, calls, memory plan
 *   compile_kernel     one kernel, target -> machine code
 *
 * All results live in the job (or, where noted, on the heap) until job_deinit. Errors name nodes of
 * the model. */
#pragma once

#include "compiler/ir/plan.h"

typedef enum ModelKind { MODEL_ONNX, MODEL_KGRAPH } ModelKind;

/* What a request says about a named dimension: that it is a number, or (max above 0) in which
 * bounds every run chooses it. */
typedef struct DimBinding {
  Str name;
  int64_t size;
  int64_t min, max, multiple;
} DimBinding;

typedef struct FrontendOptions {
  ModelKind kind;
  const DimBinding *dims;
  size_t ndims;
  bool fast_math; /* as TensorGraph.fast_math */
} FrontendOptions;

/* Decodes, checks and simplifies a model. The caller frees out->constants with strbuf_deinit. */
Status compile_frontend(Job *job, Bytes model, const FrontendOptions *options, TensorGraph *out);
/* The bytes that are hashed and compared: the graph, the slots' kinds, dtypes and shapes, and what
 * the request says about numbers. */
Status compile_canonical(Job *job, const TensorGraph *graph, StrBuf *out);
/* Whether runs of it may share one run, their rows behind each other (rowwise.h). */
Status compile_rowwise(Job *job, const TensorGraph *graph, bool *out);
Status compile_plan(Job *job, const TensorGraph *graph, const Target *target, Plan *out);

typedef struct KernelObject {
  StrBuf object; /* heap-owned */
  const char *entry;
  uint32_t threads;
  uint64_t scratch_bytes;
  int64_t grid[3];   /* workgroups along x, y, z: dims over the kernel's VARs */
  uint32_t block[3]; /* threads of one */
  const char *opts;  /* the schedule that was applied, as text */
} KernelObject;
/* `opts` as printed by opts_print; NULL or empty = heuristic. */
Status compile_kernel(Job *job, UOp *kernel, const char *name, const Target *target,
                      const char *opts, KernelObject *out);

/* Text of one stage: "tensor", "ranged" (one graph per kernel, before dedup), "kernels" (the plan),
 * "scheduled", "lowered", "linear", "code" (LLVM IR and assembly). kernel -1 = all. */
Status compile_inspect(Job *job, const TensorGraph *graph, const Target *target, const char *stage,
                       int kernel, StrBuf *out);
