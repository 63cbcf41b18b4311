/* Opts by rules of thumb for devices with workgroups. */
#pragma once

#include "compiler/ir/plan.h"

/* Appends to *opts, which stay legal for the kernel. */
void heuristic_gpu(Job *job, UOp *kernel, const Target *target, OptList *opts);
