/* Threads of a workgroup wait for each other where the workgroup's memory says so. */
#pragma once

#include "compiler/ir/uop.h"

/* Lowered graph to lowered graph. Without buffers of the workgroup nothing changes. */
UOp *barriers_insert(Job *job, UOp *kernel);
