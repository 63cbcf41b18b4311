/* Random graphs, planned, scheduled and run as linear programs: the kernels of test_plan_random go
 * through all passes, with the heuristic or with random opts, instead of through interp_kernel. */
#include "compiler/ir/interp.h"

static Status run_scheduled(Job *job, UOp *kernel, InterpBuffer *args, size_t nargs);
#define RUN_KERNEL run_scheduled
#include "tests/unit/test_plan_random.c"

#include "tests/unit/run_scheduled.h"
