/* Compiling and running a tensor graph in this process, on the CPU device: the whole compiler
 * without the daemon. */
#pragma once

#include "compiler/compile.h"
#include "compiler/ir/interp.h"
#include "devices/device.h"

/* What the device says of itself, as the compiler wants it. The strings live as long as dev. */
Target local_target(const Device *dev);
/* The same with the instruction set of an older processor: "sse2" or "avx2"; false for another
 * name. */
bool local_older(Target *target, const char *name);
/* Plans, compiles and runs once. slots: per slot of the graph its bytes; outputs are written. */
Status local_run(Job *job, const TensorGraph *graph, Device *dev, const Target *target,
                 InterpBuffer *slots);
