/* Targets: what LLVM is told to generate code for.
 *
 * LLVM takes unknown processor and feature names with a warning on stderr and goes on with
 * something else, so names are checked here first. */
#pragma once

#include <llvm-c/TargetMachine.h>

#include "compiler/ir/plan.h"

/* Fills kind, triple, cpu, features, compiler, the vector fields and `threads` = 1 with the machine
 * this runs on; cache and memory sizes become typical values. The strings are static. */
void llvm_target_host(Target *out);
/* True for NVIDIA GPUs. */
bool llvm_target_is_ptx(const Target *target);
/* True when the feature string enables `name` ("fma"). */
bool llvm_target_has(const Target *target, const char *name);
/* A machine for the target, owned by a cache of this process and valid until the next call.
 * INVALID_ARGUMENT for a triple, processor or feature that this LLVM does not know. */
Status llvm_target_machine(const Target *target, LLVMTargetMachineRef *out);
