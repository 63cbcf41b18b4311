/* The programs of test_state with kernels that are scheduled and run as linear programs: one that
 * reads what it writes computes no element twice. */
#include "compiler/ir/interp.h"

static Status run_scheduled(Job *job, UOp *kernel, InterpBuffer *args, size_t nargs);
#define RUN_KERNEL run_scheduled
#include "tests/unit/test_state.c"

#include "tests/unit/run_scheduled.h"
