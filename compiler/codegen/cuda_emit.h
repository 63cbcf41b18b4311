/* Linear programs to CUDA C++, for NVRTC: a second way to PTX beside LLVM's, which a schedule may
 * choose (COMPILER in search/opts.def).
 *
 * The kernel's arguments are those of LLVM's (llvm_gpu.c): the buffers' addresses, then one `long`
 * per variable. The text begins with CUDA_C_MARK (base/ptx.h); it includes
 * nothing. Contraction has to be off (--fmad=false): MULACC says where a product and a sum are one.
 */
#pragma once

#include "compiler/ir/plan.h"

/* Source text, appended to *out. UNIMPLEMENTED for what is not printed: matrix instructions, copies
 * in the background and whole tiles. */
Status cuda_emit(const Linear *linear, const char *entry, const Target *target, StrBuf *out);
/* The same for compute capability sm (90: 9.0); 0: without any assembly, for a host's compiler,
 * which has to be told what threadIdx, __shared__ and so on are. */
Status cuda_print(const Linear *linear, const char *entry, int sm, StrBuf *out);
