/* Compiling and running a tensor graph in this process, on the CPU device: the whole compiler
 * without the daemon. */
#pragma once

#include "compiler/compile.h"
#include "compiler/ir/interp.h"
#include "devices/device.h"
#include "tests/model/stage_run.h"

/* Gives the target the instruction set of an older processor: "sse2" or "avx2"; false for another
 * name. */
bool local_older(Target *target, const char *name);
/* Plans, compiles up to the stage and runs once. slots: per slot of the graph its bytes; outputs
 * are written. */
Status local_run(Job *job, const TensorGraph *graph, Device *dev, const Target *target,
                 RunStage stage, InterpBuffer *slots);
