/* Linear programs to machine code, through LLVM-C.
 *
 * The emitted function is `void entry(void *const *args, int64_t thread, void *scratch)`. args[k]
 * points to the k-th buffer, at any alignment; two arguments of one kernel overlap only if the
 * kernel reads both. scratch holds the LOCAL buffers and is 64-byte aligned.
 *
 * Code generation runs in one thread of a process that may die: LLVM answers some of its own bugs
 * with abort(). */
#pragma once

#include "compiler/ir/plan.h"

typedef struct LlvmOutput {
  bool want_text; /* set by the caller: fill ir and assembly too */
  StrBuf object;  /* a relocatable ELF object */
  StrBuf ir, assembly;
  int64_t build_ns, passes_ns, codegen_ns; /* where the time went */
} LlvmOutput;

/* Compiles one kernel. INTERNAL when the program breaks the contract of the linear stage or LLVM
 * rejects it, INVALID_ARGUMENT for a target that LLVM does not know. The strings of *out are
 * heap-owned; free them with llvm_output_deinit, also after a failure. */
Status llvm_emit(const Linear *linear, const char *entry, const Target *target, LlvmOutput *out);
void llvm_output_deinit(LlvmOutput *out);

/* True when MULACC of floats rounds once on the target. */
bool llvm_fuses(const Target *target);

/* Bytes of scratch that the LOCAL buffers of a program need; llvm_emit lays them out in the order
 * of their first use, each at a multiple of 64. */
uint64_t llvm_scratch_bytes(const Linear *linear);
