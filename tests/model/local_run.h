/* Compiling and running a tensor graph in this process, on the CPU device: the whole compiler
 * without the daemon. */
#pragma once

#include "compiler/compile.h"
#include "compiler/ir/interp.h"
#include "devices/device.h"

/* Plans, compiles and runs once. slots: per slot of the graph its bytes; outputs are written. */
Status local_run(Job *job, const TensorGraph *graph, Device *dev, InterpBuffer *slots);
