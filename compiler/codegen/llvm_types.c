/* The bridge from dtypes and constants to LLVM's types and values, and a few builder idioms (splat,
 * ramp, lanes one by one, intrinsic calls) that every emitter file uses. */
#include <assert.h>

#include "compiler/codegen/llvm_build.h"

LLVMTypeRef llvm_widen(Emitter *e, LLVMTypeRef scalar, unsigned lanes) {
  (void)e;
  return lanes == 1 ? scalar : LLVMVectorType(scalar, lanes);
}

LLVMTypeRef llvm_type(Emitter *e, DType dtype, unsigned lanes) {
  LLVMTypeRef t;
  switch (dtype) {
  case DT_F32: t = LLVMFloatTypeInContext(e->ctx); break;
  case DT_F64: t = LLVMDoubleTypeInContext(e->ctx); break;
  case DT_F16:
  case DT_BF16: t = LLVMInt16TypeInContext(e->ctx); break;
  case DT_BOOL: t = LLVMInt1TypeInContext(e->ctx); break;
  default: t = LLVMIntTypeInContext(e->ctx, 8u * dtype_info[dtype].bytes); break;
  }
  return llvm_widen(e, t, lanes);
}

bool llvm_is_narrow(const UOp *u) {
  return u->dtype == DT_INDEX && u->lanes > 1 && u->vmin >= INT32_MIN && u->vmax <= INT32_MAX;
}

LLVMTypeRef llvm_node_type(Emitter *e, const UOp *u) {
  return llvm_type(e, llvm_is_narrow(u) ? DT_I32 : (DType)u->dtype, u->lanes);
}

LLVMValueRef llvm_resize(Emitter *e, LLVMValueRef v, LLVMTypeRef type) {
  return LLVMBuildIntCast2(e->b, v, type, true, "");
}

LLVMTypeRef llvm_memory_type(Emitter *e, DType dtype, unsigned lanes) {
  if (dtype == DT_BOOL) return llvm_widen(e, LLVMInt8TypeInContext(e->ctx), lanes);
  return llvm_type(e, dtype, lanes);
}

unsigned llvm_lanes(LLVMValueRef v) {
  LLVMTypeRef t = LLVMTypeOf(v);
  return LLVMGetTypeKind(t) == LLVMVectorTypeKind ? LLVMGetVectorSize(t) : 1;
}

LLVMValueRef llvm_by_lanes(Emitter *e, LlvmLaneFn fn, const void *ctx, LLVMValueRef *v,
                           unsigned n) {
  unsigned lanes = llvm_lanes(v[0]);
  LLVMValueRef out = LLVMGetPoison(LLVMTypeOf(v[0])), one[LLVM_LANE_VALUES];
  assert(n <= LLVM_LANE_VALUES);
  if (lanes == 1) return fn(e, ctx, v);
  for (unsigned k = 0; k < lanes; k++) {
    LLVMValueRef at = LLVMConstInt(LLVMInt32TypeInContext(e->ctx), k, false);
    for (unsigned i = 0; i < n; i++) one[i] = LLVMBuildExtractElement(e->b, v[i], at, "");
    out = LLVMBuildInsertElement(e->b, out, fn(e, ctx, one), at, "");
  }
  return out;
}

enum { MAX_LANES = 1024 }; /* as uop_make has it */

/* A constant in every lane of `type`. */
static LLVMValueRef constant_splat(LLVMTypeRef type, LLVMValueRef scalar) {
  if (LLVMGetTypeKind(type) != LLVMVectorTypeKind) return scalar;
  LLVMValueRef lane[MAX_LANES];
  unsigned n = LLVMGetVectorSize(type);
  assert(n <= MAX_LANES);
  for (unsigned i = 0; i < n; i++) lane[i] = scalar;
  return LLVMConstVector(lane, n);
}

static LLVMTypeRef element_of(LLVMTypeRef type) {
  return LLVMGetTypeKind(type) == LLVMVectorTypeKind ? LLVMGetElementType(type) : type;
}

LLVMValueRef llvm_int(Emitter *e, LLVMTypeRef type, int64_t v) {
  (void)e;
  return constant_splat(type, LLVMConstInt(element_of(type), (unsigned long long)v, true));
}

LLVMValueRef llvm_real(Emitter *e, LLVMTypeRef type, double v) {
  (void)e;
  return constant_splat(type, LLVMConstReal(element_of(type), v));
}

LLVMValueRef llvm_i64(Emitter *e, int64_t v) {
  return LLVMConstInt(LLVMInt64TypeInContext(e->ctx), (unsigned long long)v, true);
}

LLVMValueRef llvm_constant(Emitter *e, const UOp *u) {
  DType dtype = (DType)u->dtype;
  LLVMTypeRef type = llvm_node_type(e, u);
  if (float_format(dtype)) {
    uint16_t bits = 0;
    scalar_store(dtype, uop_const_value(u), &bits);
    return llvm_int(e, type, bits);
  }
  if (dtype_is_float(dtype)) return llvm_real(e, type, uop_float_value(u));
  return llvm_int(e, type, dtype == DT_BOOL ? u->arg.i != 0 : u->arg.i);
}

LLVMValueRef llvm_ramp(Emitter *e, LLVMTypeRef element, int64_t from, int64_t step,
                       unsigned lanes) {
  (void)e;
  LLVMValueRef lane[MAX_LANES];
  assert(lanes <= MAX_LANES);
  for (unsigned i = 0; i < lanes; i++) {
    int64_t v = from + step * i;
    lane[i] = LLVMConstInt(element, (unsigned long long)v, true);
  }
  return LLVMConstVector(lane, lanes);
}

LLVMValueRef llvm_splat(Emitter *e, LLVMValueRef scalar, unsigned lanes) {
  LLVMTypeRef type = LLVMTypeOf(scalar);
  if (lanes == 1 || LLVMGetTypeKind(type) == LLVMVectorTypeKind) return scalar;
  LLVMTypeRef vec = LLVMVectorType(type, lanes);
  if (LLVMIsConstant(scalar) && !LLVMIsPoison(scalar)) return constant_splat(vec, scalar);
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef one =
      LLVMBuildInsertElement(e->b, LLVMGetPoison(vec), scalar, LLVMConstInt(i32, 0, false), "");
  return LLVMBuildShuffleVector(e->b, one, LLVMGetPoison(vec),
                                LLVMConstNull(LLVMVectorType(i32, lanes)), "");
}

LLVMValueRef llvm_intrinsic(Emitter *e, const char *name, LLVMTypeRef *types, size_t ntypes,
                            LLVMValueRef *args, unsigned nargs) {
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  assert(id != 0);
  LLVMValueRef fn = LLVMGetIntrinsicDeclaration(e->module, id, types, ntypes);
  return LLVMBuildCall2(e->b, LLVMGlobalGetValueType(fn), fn, args, nargs, "");
}

LLVMValueRef llvm_intrinsic1(Emitter *e, const char *name, LLVMValueRef *args, unsigned nargs) {
  LLVMTypeRef type = LLVMTypeOf(args[0]);
  return llvm_intrinsic(e, name, &type, 1, args, nargs);
}
