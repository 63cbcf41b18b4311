/* Buffers that a workgroup's threads hold parts of. */
#pragma once

#include "compiler/ir/plan.h"

/* Every buffer of space 3 becomes one of each thread, without the digits of thread numbers in its
 * indices. */
UOp *spread_rows(Job *job, UOp *kernel);
