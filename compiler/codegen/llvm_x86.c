/* Matrix instructions of x86: one row times a few steps of sixteen columns.
 *
 * The steps of the row are loaded as one number and broadcast; the columns lie in a register as
 * they were packed, steps innermost. The accumulator is the first argument of the intrinsic. */
#include <assert.h>

#include "compiler/codegen/llvm_build.h"
#include "compiler/ir/matrix.h"

enum { MAX_PARTS = 64, MAX_SHUFFLED = 256 };

/* Two vectors of equal lanes, one after the other. */
static LLVMValueRef join(Emitter *e, LLVMValueRef a, LLVMValueRef b) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef both = llvm_ramp(e, i32, 0, 1, 2 * llvm_lanes(a));
  return LLVMBuildShuffleVector(e->b, a, b, both, "");
}

LLVMValueRef llvm_x86_shuffle(Emitter *e, const UOp *u) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef part[MAX_PARTS], mask[MAX_SHUFFLED];
  unsigned n = u->nsrc, lanes = u->src[0]->lanes;
  bool even = n && !(n & (n - 1)) && n <= MAX_PARTS && u->lanes <= MAX_SHUFFLED && lanes > 1;
  for (unsigned s = 0; even && s < n; s++) even = u->src[s]->lanes == lanes;
  if (!even) return llvm_fail(e, u, "has sources of a number or kind that is not expected");
  for (unsigned s = 0; s < n; s++) part[s] = llvm_value(e, u->src[s]);
  for (; n > 2; n /= 2)
    for (unsigned s = 0; s < n / 2; s++) part[s] = join(e, part[2 * s], part[2 * s + 1]);
  for (unsigned k = 0; k < u->lanes; k++)
    mask[k] = LLVMConstInt(i32, (uint64_t)u->arg.ints.at[k], false);
  LLVMValueRef second = n > 1 ? part[1] : LLVMGetPoison(LLVMTypeOf(part[0]));
  return LLVMBuildShuffleVector(e->b, part[0], second, LLVMConstVector(mask, u->lanes), "");
}

/* One number of 32 bits in all lanes, as `type`. */
static LLVMValueRef row_steps(Emitter *e, const UOp *row, LLVMTypeRef type, unsigned lanes) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef steps = LLVMBuildBitCast(e->b, llvm_value(e, row), i32, "");
  return LLVMBuildBitCast(e->b, llvm_splat(e, steps, lanes), type, "");
}

LLVMValueRef llvm_x86_mma(Emitter *e, const UOp *u) {
  const MatrixInfo *info = matrix_info(u->arg.i);
  if (info->threads != 1) return llvm_fail(e, u, "is an instruction of another target");
  unsigned lanes = u->lanes;
  bool floats = info->dtype[MATRIX_A] == DT_BF16;
  LLVMTypeRef element = floats ? LLVMBFloatTypeInContext(e->ctx) : LLVMInt32TypeInContext(e->ctx);
  LLVMTypeRef packed = LLVMVectorType(element, floats ? 2 * lanes : lanes);
  LLVMValueRef acc = u->nsrc > 2 ? llvm_value(e, u->src[2]) : LLVMConstNull(llvm_node_type(e, u));
  LLVMValueRef args[3] = {acc, row_steps(e, u->src[0], packed, lanes),
                          LLVMBuildBitCast(e->b, llvm_value(e, u->src[1]), packed, "")};
  return llvm_intrinsic(e, info->code, NULL, 0, args, 3);
}
