/* Values that threads of a warp give each other.
 *
 * The hardware exchanges registers of 32 bits: narrower values are widened, wider ones go in
 * halves, and vectors lane by lane. */
#include "compiler/codegen/llvm_build.h"

static LLVMValueRef exchange_word(Emitter *e, LLVMValueRef word, int64_t mask) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef args[4] = {LLVMConstInt(i32, UINT32_MAX, false), word,
                          LLVMConstInt(i32, (uint64_t)mask, false), LLVMConstInt(i32, 31, false)};
  return llvm_intrinsic(e, "llvm.nvvm.shfl.sync.bfly.i32", NULL, 0, args, 4);
}

/* An integer of any width. */
static LLVMValueRef exchange_bits(Emitter *e, LLVMValueRef v, int64_t mask) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx), type = LLVMTypeOf(v);
  if (LLVMGetIntTypeWidth(type) <= 32) {
    v = exchange_word(e, LLVMBuildZExt(e->b, v, i32, ""), mask);
    return LLVMBuildTrunc(e->b, v, type, "");
  }
  LLVMValueRef half = LLVMConstInt(type, 32, false);
  LLVMValueRef low = exchange_word(e, LLVMBuildTrunc(e->b, v, i32, ""), mask);
  LLVMValueRef high = LLVMBuildTrunc(e->b, LLVMBuildLShr(e->b, v, half, ""), i32, "");
  high = LLVMBuildZExt(e->b, exchange_word(e, high, mask), type, "");
  high = LLVMBuildShl(e->b, high, half, "");
  return LLVMBuildOr(e->b, high, LLVMBuildZExt(e->b, low, type, ""), "");
}

static LLVMValueRef exchange_scalar(Emitter *e, const void *mask, LLVMValueRef *value) {
  LLVMValueRef v = *value;
  LLVMTypeRef type = LLVMTypeOf(v), bits = type;
  LLVMTypeKind kind = LLVMGetTypeKind(type);
  if (kind == LLVMHalfTypeKind || kind == LLVMBFloatTypeKind) bits = LLVMInt16TypeInContext(e->ctx);
  if (kind == LLVMFloatTypeKind) bits = LLVMInt32TypeInContext(e->ctx);
  if (kind == LLVMDoubleTypeKind) bits = LLVMInt64TypeInContext(e->ctx);
  v = exchange_bits(e, LLVMBuildBitCast(e->b, v, bits, ""), *(const int64_t *)mask);
  return LLVMBuildBitCast(e->b, v, type, "");
}

LLVMValueRef llvm_peer_emit(Emitter *e, const UOp *u) {
  LLVMValueRef v = llvm_value(e, u->src[0]);
  return llvm_by_lanes(e, exchange_scalar, &u->arg.i, &v, 1);
}
