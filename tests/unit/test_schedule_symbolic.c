/* Random graphs with symbolic sizes through all passes: the kernels of test_plan_symbolic_random
 * are scheduled once and run as linear programs at every value of the VARs. */
#include "compiler/ir/interp.h"

static Status run_scheduled(Job *job, UOp *kernel, InterpBuffer *args, size_t nargs);
#define RUN_KERNEL run_scheduled
#include "tests/unit/test_plan_symbolic_random.c"

#include "tests/unit/run_scheduled.h"
