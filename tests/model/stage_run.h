/* One kernel as a stage of the compiler left it, run by the reference interpreter: what tells the
 * pass that changed a value from those before it. */
#pragma once

#include "compiler/compile.h"
#include "compiler/ir/interp.h"

/* The kernel after fusion, after scheduling, as the linear program that code is generated from, as
 * CUDA C++ on this processor (targets of kind "cuda"), and as machine code on the device (which is
 * not for stage_run). */
typedef enum RunStage {
  RUN_RANGED,
  RUN_SCHEDULED,
  RUN_LINEAR,
  RUN_CUDA_C,
  RUN_CODE,
  RUN__COUNT
} RunStage;
extern const char *const run_stage_names[RUN__COUNT];

Status stage_run(Job *job, UOp *kernel, const Target *target, RunStage stage, InterpBuffer *args,
                 size_t nargs);
