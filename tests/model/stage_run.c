/* The passes of compile_kernel up to a stage, with the verifier after each, and the interpreter for
 * what they give. Expanding and lowering make vectors, which only a linear program has an
 * interpreter for, so those two and linearising are judged together. */
#include "tests/model/stage_run.h"

#include "compiler/codegen/codegen.h"
#include "compiler/ir/verify.h"
#include "compiler/passes/expand.h"
#include "compiler/passes/linearize.h"
#include "compiler/passes/lower.h"
#include "compiler/passes/schedule.h"
#include "compiler/rules/rewrite.h"
#include "tests/model/cuda_host.h"

const char *const run_stage_names[RUN__COUNT] = {
    [RUN_RANGED] = "ranged", [RUN_SCHEDULED] = "scheduled", [RUN_LINEAR] = "linear",
    [RUN_CUDA_C] = "cuda",   [RUN_CODE] = "code",
};

typedef struct Passes {
  UOp *kernel;
  const Target *target;
  RunStage stage;
  bool plain; /* no schedule */
  UOp *scheduled;
  Linear linear;
} Passes;

static void check(Job *job, UOp *graph, Stage stage, const char *pass) {
  Status st = verify_graph(job, graph, stage, pass);
  if (st) job_abort(job, st);
}

static void steps(Job *job, void *arg) {
  Passes *p = arg;
  OptList opts = {0};
  Rewrite rw = {.job = job, .no_fma = !codegen_fuses(p->target), .target = p->target};
  check(job, p->kernel, STAGE_RANGED, "kernel");
  if (p->stage == RUN_RANGED) return;
  p->scheduled = p->plain ? schedule_apply(job, p->kernel, p->target, &opts)
                          : schedule_heuristic(job, p->kernel, p->target, &opts);
  check(job, p->scheduled, STAGE_SCHEDULED, "schedule");
  if (p->stage == RUN_SCHEDULED) return;
  UOp *u = lower_kernel(job, expand_kernel(job, p->scheduled, p->target), p->target);
  u = rewrite_graph(&rw, u, rules_decomp);
  check(job, u, STAGE_LOWERED, "lower");
  p->linear = linearize_kernel(job, u, p->target);
}

/* What the other compiler does not take has another schedule. */
static Status run_cuda_c(Job *job, Passes *p, InterpBuffer *args, size_t nargs) {
  p->linear.nargs = (uint32_t)nargs;
  Status st = cuda_host_launch(&p->linear, args, nargs);
  if (status_code(st) != ST_UNIMPLEMENTED) return st;
  status_drop(st);
  p->plain = true;
  TRY(job_run(job, steps, p));
  p->linear.nargs = (uint32_t)nargs;
  return cuda_host_launch(&p->linear, args, nargs);
}

Status stage_run(Job *job, UOp *kernel, const Target *target, RunStage stage, InterpBuffer *args,
                 size_t nargs) {
  Passes p = {.kernel = kernel, .target = target, .stage = stage};
  TRY(job_run(job, steps, &p));
  if (stage == RUN_RANGED) return interp_kernel(job, kernel, args, nargs);
  if (stage == RUN_SCHEDULED) return interp_kernel(job, p.scheduled, args, nargs);
  return stage == RUN_CUDA_C ? run_cuda_c(job, &p, args, nargs)
                             : interp_launch(job, &p.linear, args, nargs);
}
