/* CUDA C++ of a linear program, run on this processor: what cuda_print gives is C++, which the
 * host's compiler takes once it is told what a GPU's words are. */
#pragma once

#include "compiler/ir/interp.h"

/* UNIMPLEMENTED for what is not printed as CUDA C++. Needs g++. The program has no VARs. */
Status cuda_host_launch(const Linear *linear, const InterpBuffer *args, size_t nargs);
