/* CAST and BITCAST, and the 16-bit float formats.
 *
 * f16 and bf16 values are computed in f32. f16 is converted by the hardware (F16C) or, without it,
 * by integer arithmetic, for LLVM would call a run-time library that is not there. bf16 is
 * converted by integer arithmetic, for CPUs' conversion flushes subnormals; GPUs' does not.
 *
 * A conversion to a 16-bit float from anything wider than f32 goes through f32 rounded to odd
 * (Boldo and Melquiond): the second rounding then gives what one rounding would have given. */
#include "compiler/codegen/llvm_build.h"

static LLVMTypeRef i32_like(Emitter *e, LLVMValueRef v) {
  return llvm_type(e, DT_I32, llvm_lanes(v));
}
static LLVMTypeRef f32_like(Emitter *e, LLVMValueRef v) {
  return llvm_type(e, DT_F32, llvm_lanes(v));
}

/* -- f16 without F16C
 * ------------------------------------------------------------------------------------ */

/* The exponent field is moved by a multiplication, which also normalises subnormals; infinities and
 * NaNs get their exponent set to all ones. */
static LLVMValueRef half_to_f32_soft(Emitter *e, LLVMValueRef half) {
  LLVMBuilderRef b = e->b;
  LLVMTypeRef i32 = i32_like(e, half), f32 = f32_like(e, half);
  LLVMValueRef w = LLVMBuildZExt(b, half, i32, "");
  LLVMValueRef sign = LLVMBuildAnd(b, w, llvm_int(e, i32, 0x8000), "");
  LLVMValueRef rest = LLVMBuildAnd(b, w, llvm_int(e, i32, 0x7fff), "");
  LLVMValueRef shifted = LLVMBuildShl(b, rest, llvm_int(e, i32, 13), "");
  LLVMValueRef scaled =
      LLVMBuildFMul(b, LLVMBuildBitCast(b, shifted, f32, ""), llvm_real(e, f32, 0x1p112), "");
  LLVMValueRef special = LLVMBuildICmp(b, LLVMIntUGE, rest, llvm_int(e, i32, 0x7c00), "");
  LLVMValueRef inf = LLVMBuildOr(b, shifted, llvm_int(e, i32, 0x7f800000), "");
  LLVMValueRef out = LLVMBuildSelect(b, special, inf, LLVMBuildBitCast(b, scaled, i32, ""), "");
  out = LLVMBuildOr(b, out, LLVMBuildShl(b, sign, llvm_int(e, i32, 16), ""), "");
  return LLVMBuildBitCast(b, out, f32, "");
}

/* Normal results: add half of the last kept place, less one if it is even, and shift. Subnormal
 * results: adding 0.5 makes the FPU shift the bits into place and round them. */
static LLVMValueRef f32_to_half_soft(Emitter *e, LLVMValueRef v) {
  LLVMBuilderRef b = e->b;
  LLVMTypeRef i32 = i32_like(e, v), f32 = f32_like(e, v);
  LLVMValueRef w = LLVMBuildBitCast(b, v, i32, "");
  LLVMValueRef sign = LLVMBuildLShr(b, LLVMBuildAnd(b, w, llvm_int(e, i32, 0x80000000), ""),
                                    llvm_int(e, i32, 16), "");
  LLVMValueRef mag = LLVMBuildAnd(b, w, llvm_int(e, i32, 0x7fffffff), "");
  LLVMValueRef odd =
      LLVMBuildAnd(b, LLVMBuildLShr(b, mag, llvm_int(e, i32, 13), ""), llvm_int(e, i32, 1), "");
  /* (15 - 127) << 23 moves the exponent's bias. */
  LLVMValueRef rounded = LLVMBuildAdd(b, mag, llvm_int(e, i32, 0xfff - (112 << 23)), "");
  rounded = LLVMBuildLShr(b, LLVMBuildAdd(b, rounded, odd, ""), llvm_int(e, i32, 13), "");
  LLVMValueRef tiny =
      LLVMBuildFAdd(b, LLVMBuildBitCast(b, mag, f32, ""), llvm_real(e, f32, 0.5), "");
  tiny = LLVMBuildSub(b, LLVMBuildBitCast(b, tiny, i32, ""), llvm_int(e, i32, 0x3f000000), "");
  LLVMValueRef is_tiny = LLVMBuildICmp(b, LLVMIntULT, mag, llvm_int(e, i32, 113 << 23), "");
  LLVMValueRef is_big = LLVMBuildICmp(b, LLVMIntUGE, mag, llvm_int(e, i32, 143 << 23), "");
  LLVMValueRef is_nan = LLVMBuildICmp(b, LLVMIntUGT, mag, llvm_int(e, i32, 0x7f800000), "");
  LLVMValueRef out = LLVMBuildSelect(b, is_tiny, tiny, rounded, "");
  LLVMValueRef inf =
      LLVMBuildSelect(b, is_nan, llvm_int(e, i32, 0x7e00), llvm_int(e, i32, 0x7c00), "");
  out = LLVMBuildOr(b, LLVMBuildSelect(b, is_big, inf, out, ""), sign, "");
  return LLVMBuildTrunc(b, out, llvm_type(e, DT_F16, llvm_lanes(v)), "");
}

/* -- 16-bit floats
 * ---------------------------------------------------------------------------------------- */

static LLVMTypeRef hardware_half(Emitter *e, LLVMValueRef v) {
  return llvm_widen(e, LLVMHalfTypeInContext(e->ctx), llvm_lanes(v));
}

LLVMValueRef llvm_to_f32(Emitter *e, DType dtype, LLVMValueRef v) {
  if (dtype == DT_F16 && e->has_f16c) {
    LLVMValueRef half = LLVMBuildBitCast(e->b, v, hardware_half(e, v), "");
    return LLVMBuildFPExt(e->b, half, f32_like(e, v), "");
  }
  if (dtype == DT_F16) return half_to_f32_soft(e, v);
  if (dtype != DT_BF16) return v;
  LLVMTypeRef i32 = i32_like(e, v);
  LLVMValueRef w = LLVMBuildShl(e->b, LLVMBuildZExt(e->b, v, i32, ""), llvm_int(e, i32, 16), "");
  return LLVMBuildBitCast(e->b, w, f32_like(e, v), "");
}

static LLVMValueRef f32_to_bf16(Emitter *e, LLVMValueRef v, bool exact) {
  LLVMBuilderRef b = e->b;
  LLVMTypeRef i32 = i32_like(e, v), i16 = llvm_type(e, DT_I16, llvm_lanes(v));
  LLVMValueRef w = LLVMBuildBitCast(b, v, i32, "");
  LLVMValueRef top = LLVMBuildLShr(b, w, llvm_int(e, i32, 16), "");
  if (exact) return LLVMBuildTrunc(b, top, i16, "");
  LLVMValueRef odd = LLVMBuildAnd(b, top, llvm_int(e, i32, 1), "");
  LLVMValueRef r = LLVMBuildAdd(b, LLVMBuildAdd(b, w, llvm_int(e, i32, 0x7fff), ""), odd, "");
  r = LLVMBuildLShr(b, r, llvm_int(e, i32, 16), "");
  LLVMValueRef nan = LLVMBuildOr(b, top, llvm_int(e, i32, 0x40), "");
  r = LLVMBuildSelect(b, LLVMBuildFCmp(b, LLVMRealUNO, v, v, ""), nan, r, "");
  return LLVMBuildTrunc(b, r, i16, "");
}

/* The GPU's own conversion, two elements at a time: to nearest even, subnormals as they are. */
static LLVMValueRef f32_to_bf16_gpu(Emitter *e, LLVMValueRef v) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx), i16 = LLVMInt16TypeInContext(e->ctx);
  LLVMTypeRef pair = LLVMVectorType(i16, 2);
  unsigned n = llvm_lanes(v);
  LLVMValueRef out = LLVMGetPoison(LLVMVectorType(i16, n + n % 2));
  for (unsigned k = 0; k < n; k += 2) {
    LLVMValueRef args[2];
    for (unsigned j = 0; j < 2; j++) {
      unsigned at = k + j < n ? k + j : k;
      LLVMValueRef lane = LLVMConstInt(i32, at, false);
      args[1 - j] = n == 1 ? v : LLVMBuildExtractElement(e->b, v, lane, "");
    }
    LLVMValueRef r = llvm_intrinsic(e, "llvm.nvvm.ff2bf16x2.rn", NULL, 0, args, 2);
    r = LLVMBuildBitCast(e->b, r, pair, "");
    if (n == 2) return r;
    for (unsigned j = 0; j < 2; j++) {
      LLVMValueRef from = LLVMConstInt(i32, j, false), to = LLVMConstInt(i32, k + j, false);
      LLVMValueRef x = LLVMBuildExtractElement(e->b, r, from, "");
      if (n == 1) return x;
      out = LLVMBuildInsertElement(e->b, out, x, to, "");
    }
  }
  if (n % 2 == 0) return out;
  return LLVMBuildShuffleVector(e->b, out, LLVMGetPoison(LLVMTypeOf(out)),
                                llvm_ramp(e, i32, 0, 1, n), "");
}

LLVMValueRef llvm_from_f32(Emitter *e, DType dtype, LLVMValueRef v, bool exact) {
  if (dtype == DT_BF16 && !exact && llvm_gpu_since(e, "sm_80")) return f32_to_bf16_gpu(e, v);
  if (dtype == DT_BF16) return f32_to_bf16(e, v, exact);
  if (dtype != DT_F16) return v;
  if (!e->has_f16c) return f32_to_half_soft(e, v);
  LLVMValueRef half = LLVMBuildFPTrunc(e->b, v, hardware_half(e, v), "");
  return LLVMBuildBitCast(e->b, half, llvm_type(e, DT_F16, llvm_lanes(v)), "");
}

/* f64 to f32, rounded to odd: truncated, and the last bit set when that lost anything. */
static LLVMValueRef f64_to_f32_odd(Emitter *e, LLVMValueRef v) {
  LLVMBuilderRef b = e->b;
  LLVMTypeRef i32 = i32_like(e, v), f32 = f32_like(e, v), f64 = LLVMTypeOf(v);
  LLVMValueRef near = LLVMBuildFPTrunc(b, v, f32, "");
  LLVMValueRef back = LLVMBuildFPExt(b, near, f64, "");
  LLVMValueRef bits = LLVMBuildBitCast(b, near, i32, "");
  LLVMValueRef lossy = LLVMBuildFCmp(b, LLVMRealONE, back, v, "");
  LLVMValueRef mag_back = llvm_intrinsic1(e, "llvm.fabs", &back, 1);
  LLVMValueRef mag = llvm_intrinsic1(e, "llvm.fabs", &v, 1);
  LLVMValueRef over = LLVMBuildFCmp(b, LLVMRealOGT, mag_back, mag, "");
  LLVMValueRef down = LLVMBuildAdd(b, bits, LLVMBuildSExt(b, over, i32, ""), "");
  LLVMValueRef odd = LLVMBuildOr(b, down, LLVMBuildZExt(b, lossy, i32, ""), "");
  return LLVMBuildBitCast(b, odd, f32, "");
}

/* -- CAST
 * ------------------------------------------------------------------------------------------------
 */

static LLVMValueRef float_to_float(Emitter *e, LLVMValueRef v, DType from, DType to) {
  bool small_from = from == DT_F16 || from == DT_BF16, small_to = to == DT_F16 || to == DT_BF16;
  if (small_from) v = llvm_to_f32(e, from, v);
  if (from == DT_F64 && small_to) v = f64_to_f32_odd(e, v);
  if (small_to) return llvm_from_f32(e, to, v, false);
  if (to == DT_F64 && from != DT_F64) {
    return LLVMBuildFPExt(e->b, v, llvm_type(e, DT_F64, llvm_lanes(v)), "");
  }
  if (to == DT_F32 && from == DT_F64) return LLVMBuildFPTrunc(e->b, v, f32_like(e, v), "");
  return v;
}

static LLVMValueRef int_to_float(Emitter *e, LLVMValueRef v, DType from, DType to) {
  LLVMOpcode op = dtype_is_uint(from) || from == DT_BOOL ? LLVMUIToFP : LLVMSIToFP;
  /* Up to 16 bits an integer fits f32; beyond that it takes f64 to be rounded once. Of 64 bits it
   * has been made to fit f64 before (rules/small.c). */
  bool small = to == DT_F16 || to == DT_BF16;
  DType via = !small ? to : dtype_info[from].bits <= 16 ? DT_F32 : DT_F64;
  LLVMValueRef f = LLVMBuildCast(e->b, op, v, llvm_type(e, via, llvm_lanes(v)), "");
  return small ? float_to_float(e, f, via, to) : f;
}

/* Saturating, NaN gives 0. Narrow integers are clamped as floats, which vectorises; the limits are
 * exact in f32. */
static LLVMValueRef float_to_int(Emitter *e, LLVMValueRef v, DType to) {
  LLVMBuilderRef b = e->b;
  LLVMTypeRef types[2] = {llvm_type(e, to, llvm_lanes(v)), LLVMTypeOf(v)};
  unsigned bits = dtype_info[to].bits;
  bool u = dtype_is_uint(to);
  if (bits > 16) {
    return llvm_intrinsic(e, u ? "llvm.fptoui.sat" : "llvm.fptosi.sat", types, 2, &v, 1);
  }
  LLVMValueRef lo = llvm_real(e, types[1], u ? 0 : -(double)(1 << (bits - 1)));
  LLVMValueRef hi = llvm_real(e, types[1], u ? (1 << bits) - 1 : (1 << (bits - 1)) - 1);
  LLVMValueRef zero = llvm_real(e, types[1], 0);
  v = LLVMBuildSelect(b, LLVMBuildFCmp(b, LLVMRealUNO, v, v, ""), zero, v, "");
  v = LLVMBuildSelect(b, LLVMBuildFCmp(b, LLVMRealOLT, v, lo, ""), lo, v, "");
  v = LLVMBuildSelect(b, LLVMBuildFCmp(b, LLVMRealOGT, v, hi, ""), hi, v, "");
  return LLVMBuildTrunc(b, LLVMBuildFPToSI(b, v, i32_like(e, v), ""), types[0], "");
}

static LLVMValueRef to_bool(Emitter *e, LLVMValueRef v, DType from) {
  if (from == DT_BOOL) return v;
  LLVMValueRef zero = LLVMConstNull(LLVMTypeOf(v));
  if (from == DT_F16 || from == DT_BF16) { /* all but the sign */
    v = LLVMBuildAnd(e->b, v, llvm_int(e, LLVMTypeOf(v), 0x7fff), "");
  } else if (dtype_is_float(from)) {
    return LLVMBuildFCmp(e->b, LLVMRealUNE, v, zero, "");
  }
  return LLVMBuildICmp(e->b, LLVMIntNE, v, zero, "");
}

LLVMValueRef llvm_canonical(Emitter *e, DType d, LLVMValueRef v) {
  unsigned bits = dtype_info[d].bits;
  if (!dtype_is_storage(d) || bits == 8) return v;
  LLVMTypeRef type = LLVMTypeOf(v);
  if (dtype_info[d].cls != DC_SINT)
    return LLVMBuildAnd(e->b, v, llvm_int(e, type, (1 << bits) - 1), "");
  LLVMValueRef by = llvm_int(e, type, 8 - bits);
  return LLVMBuildAShr(e->b, LLVMBuildShl(e->b, v, by, ""), by, "");
}

LLVMValueRef llvm_cast_emit(Emitter *e, const UOp *u) {
  DType to = (DType)u->dtype, from = (DType)u->src[0]->dtype;
  LLVMValueRef v = llvm_value(e, u->src[0]);
  bool float_from = dtype_is_float(from), float_to = dtype_is_float(to);
  if (dtype_is_storage(from) || dtype_is_storage(to))
    return llvm_fail(e, u, "should have been decomposed before code generation");
  if (to == DT_BOOL) return to_bool(e, v, from);
  if (float_from && float_to) return float_to_float(e, v, from, to);
  if (float_to) return int_to_float(e, v, from, to);
  if (float_from) return float_to_int(e, llvm_to_f32(e, from, v), to);
  bool sign = !dtype_is_uint(from) && from != DT_BOOL;
  return LLVMBuildIntCast2(e->b, v, llvm_node_type(e, u), sign, "");
}

LLVMValueRef llvm_bitcast_emit(Emitter *e, const UOp *u) {
  DType to = (DType)u->dtype, from = (DType)u->src[0]->dtype;
  LLVMValueRef v = llvm_full_value(e, u->src[0]);
  if (dtype_info[to].bytes != dtype_info[from].bytes) {
    return llvm_fail(e, u, "sizes of its dtypes differ");
  }
  return llvm_canonical(e, to, LLVMBuildBitCast(e->b, v, llvm_type(e, to, llvm_lanes(v)), ""));
}
