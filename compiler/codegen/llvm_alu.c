/* Elementwise ops.
 *
 * A table gives each op a function. Functions see LLVM values of equal lanes in a computation dtype
 * that is never a 16-bit float: llvm_alu_emit widens f16 and bf16 to f32 around them. The value of
 * every op is the one of ops.def for all inputs, so nothing here may trap or be poison: divisors
 * and shift counts are guarded unless bounds prove them harmless. */
#include <assert.h>
#include <math.h>

#include "compiler/codegen/llvm_build.h"
#include "compiler/ir/native.h"

/* One op being emitted. */
typedef struct Alu {
  Emitter *e;
  const UOp *u;
  DType dtype; /* computation dtype of the (last) source */
  bool flt, uns;
  LLVMTypeRef type; /* of the last source */
  LLVMValueRef v[3];
} Alu;

typedef LLVMValueRef (*AluFn)(const Alu *a);

/* -- helpers
 * --------------------------------------------------------------------------------------------- */

static LLVMValueRef binop(const Alu *a, LLVMOpcode op, LLVMValueRef x, LLVMValueRef y) {
  return LLVMBuildBinOp(a->e->b, op, x, y, "");
}
static LLVMValueRef select3(const Alu *a, LLVMValueRef c, LLVMValueRef x, LLVMValueRef y) {
  return LLVMBuildSelect(a->e->b, c, x, y, "");
}
static LLVMValueRef icmp(const Alu *a, LLVMIntPredicate p, LLVMValueRef x, LLVMValueRef y) {
  return LLVMBuildICmp(a->e->b, p, x, y, "");
}
static LLVMValueRef fcmp(const Alu *a, LLVMRealPredicate p, LLVMValueRef x, LLVMValueRef y) {
  return LLVMBuildFCmp(a->e->b, p, x, y, "");
}
static LLVMValueRef number(const Alu *a, int64_t v) { return llvm_int(a->e, a->type, v); }

/* The CONST under a BROADCAST, or NULL. */
static const UOp *constant_of(const UOp *u) {
  while (u->op == OP_BROADCAST) u = u->src[0];
  return uop_is_const(u) ? u : NULL;
}
static bool const_int(const UOp *u, int64_t *out) {
  const UOp *c = constant_of(u);
  if (!c || dtype_is_float((DType)c->dtype)) return false;
  *out = c->arg.i;
  return true;
}
/* Known to be >= lo. */
static bool at_least(const UOp *u, int64_t lo) {
  int64_t c;
  if (const_int(u, &c)) return c >= lo;
  return u->vmin >= lo;
}

/* -- unary
 * -----------------------------------------------------------------------------------------------
 */

static LLVMValueRef alu_neg(const Alu *a) {
  return a->flt ? LLVMBuildFNeg(a->e->b, a->v[0], "") : LLVMBuildNeg(a->e->b, a->v[0], "");
}

static LLVMValueRef alu_abs(const Alu *a) {
  if (a->uns) return a->v[0];
  LLVMValueRef args[2] = {a->v[0], LLVMConstNull(LLVMInt1TypeInContext(a->e->ctx))};
  return llvm_intrinsic1(a->e, a->flt ? "llvm.fabs" : "llvm.abs", args, a->flt ? 1 : 2);
}

static LLVMValueRef alu_recip(const Alu *a) {
  return LLVMBuildFDiv(a->e->b, llvm_real(a->e, a->type, 1), a->v[0], "");
}

static LLVMValueRef unary_intrinsic(const Alu *a, const char *name) {
  LLVMValueRef v = a->v[0];
  return llvm_intrinsic1(a->e, name, &v, 1);
}
static LLVMValueRef alu_sqrt(const Alu *a) { return unary_intrinsic(a, "llvm.sqrt"); }
static LLVMValueRef alu_trunc(const Alu *a) { return unary_intrinsic(a, "llvm.trunc"); }
static LLVMValueRef alu_floor(const Alu *a) { return unary_intrinsic(a, "llvm.floor"); }
static LLVMValueRef alu_ceil(const Alu *a) { return unary_intrinsic(a, "llvm.ceil"); }
static LLVMValueRef alu_round(const Alu *a) { return unary_intrinsic(a, "llvm.roundeven"); }

/* Of GPUs. */
static LLVMValueRef scalar_quick(Emitter *e, const void *code, LLVMValueRef *v) {
  return llvm_intrinsic(e, code, NULL, 0, v, 1);
}
static LLVMValueRef quick(const Alu *a, const char *code) {
  LLVMValueRef v = a->v[0];
  return llvm_by_lanes(a->e, scalar_quick, code, &v, 1);
}
static LLVMValueRef alu_qexp2(const Alu *a) { return quick(a, "llvm.nvvm.ex2.approx.ftz.f"); }
static LLVMValueRef alu_qrecip(const Alu *a) { return quick(a, "llvm.nvvm.rcp.approx.ftz.f"); }

/* -- arithmetic
 * ------------------------------------------------------------------------------------------ */

static LLVMValueRef alu_add(const Alu *a) {
  return binop(a, a->flt ? LLVMFAdd : LLVMAdd, a->v[0], a->v[1]);
}
static LLVMValueRef alu_sub(const Alu *a) {
  return binop(a, a->flt ? LLVMFSub : LLVMSub, a->v[0], a->v[1]);
}
static LLVMValueRef alu_mul(const Alu *a) {
  return binop(a, a->flt ? LLVMFMul : LLVMMul, a->v[0], a->v[1]);
}
static LLVMValueRef alu_fdiv(const Alu *a) { return binop(a, LLVMFDiv, a->v[0], a->v[1]); }
static LLVMValueRef alu_fmod(const Alu *a) {
  return a->e->gpu ? llvm_gpu_fmod(a->e, a->v[0], a->v[1]) : binop(a, LLVMFRem, a->v[0], a->v[1]);
}

/* One rounding where the target can; else two, since the library's fma costs a hundred times more
 * and contraction is a licence, not a duty. */
static LLVMValueRef alu_mulacc(const Alu *a) {
  if (a->flt && a->e->has_fma) {
    LLVMValueRef args[3] = {a->v[0], a->v[1], a->v[2]};
    return llvm_intrinsic1(a->e, "llvm.fma", args, 3);
  }
  LLVMValueRef product = alu_mul(a);
  return binop(a, a->flt ? LLVMFAdd : LLVMAdd, product, a->v[2]);
}

/* Both at once; x / 0 = x % 0 = 0 and the -1 that may overflow is taken out. */
typedef struct DivMod {
  LLVMValueRef quot, rem;
} DivMod;

static LLVMValueRef scalar_binop(Emitter *e, const void *op, LLVMValueRef *v) {
  return LLVMBuildBinOp(e->b, *(const LLVMOpcode *)op, v[0], v[1], "");
}

/* A division by a vector that was made safe, lane by lane as the processor will do it: LLVM moves
 * the operation into the select that made it safe, and there one lane that is zero makes all
 * undefined. */
static LLVMValueRef guarded(const Alu *a, LLVMOpcode op, LLVMValueRef x, LLVMValueRef y) {
  LLVMValueRef both[2] = {x, y};
  if (LLVMIsConstant(y)) return binop(a, op, x, y);
  return llvm_by_lanes(a->e, scalar_binop, &op, both, 2);
}

/* GPUs multiply 32 bits at a time, and most indices have no more. */
static DivMod narrow_div_mod(const Alu *a) {
  LLVMTypeRef narrow = llvm_type(a->e, DT_I32, llvm_lanes(a->v[0]));
  LLVMBuilderRef b = a->e->b;
  LLVMValueRef x = LLVMBuildTrunc(b, a->v[0], narrow, "");
  LLVMValueRef y = LLVMBuildTrunc(b, a->v[1], narrow, "");
  return (DivMod){LLVMBuildZExt(b, LLVMBuildUDiv(b, x, y, ""), a->type, ""),
                  LLVMBuildZExt(b, LLVMBuildURem(b, x, y, ""), a->type, "")};
}

static DivMod div_mod(const Alu *a) {
  const UOp *num = a->u->src[0], *den = a->u->src[1];
  LLVMValueRef x = a->v[0], y = a->v[1];
  bool natural = at_least(num, 0) && at_least(den, 1);
  if (natural && a->e->gpu && a->dtype == DT_INDEX && num->vmax <= INT32_MAX &&
      den->vmax <= INT32_MAX)
    return narrow_div_mod(a);
  if (a->uns || natural) {
    LLVMValueRef zero = NULL;
    if (!at_least(den, 1)) {
      zero = icmp(a, LLVMIntEQ, y, number(a, 0));
      y = select3(a, zero, number(a, 1), y);
    }
    if (!zero) return (DivMod){binop(a, LLVMUDiv, x, y), binop(a, LLVMURem, x, y)};
    DivMod r = {guarded(a, LLVMUDiv, x, y), guarded(a, LLVMURem, x, y)};
    return (DivMod){select3(a, zero, number(a, 0), r.quot), select3(a, zero, number(a, 0), r.rem)};
  }
  int64_t c;
  if (at_least(den, 1) || (const_int(den, &c) && c != 0 && c != -1)) {
    return (DivMod){binop(a, LLVMSDiv, x, y), binop(a, LLVMSRem, x, y)};
  }
  LLVMValueRef zero = icmp(a, LLVMIntEQ, y, number(a, 0));
  LLVMValueRef minus = icmp(a, LLVMIntEQ, y, number(a, -1));
  LLVMValueRef safe = select3(a, binop(a, LLVMOr, zero, minus), number(a, 1), y);
  /* x / 1 and x % 1 are what the two special divisors are derived from. */
  LLVMValueRef quot = guarded(a, LLVMSDiv, x, safe), rem = guarded(a, LLVMSRem, x, safe);
  quot = select3(a, minus, LLVMBuildNeg(a->e->b, x, ""), quot);
  return (DivMod){select3(a, zero, number(a, 0), quot), rem};
}

static LLVMValueRef alu_idiv(const Alu *a) { return div_mod(a).quot; }
static LLVMValueRef alu_imod(const Alu *a) { return div_mod(a).rem; }

/* The divisor as a shift count when it is a positive power of two. */
static bool power_of_two(const UOp *u, int64_t *shift) {
  int64_t c;
  if (!const_int(u, &c) || c <= 0 || (c & (c - 1)) != 0) return false;
  *shift = __builtin_ctzll((unsigned long long)c);
  return true;
}

/* All ones in lanes where truncation and flooring differ: a remainder with the other sign. */
static LLVMValueRef rounded_up(const Alu *a, LLVMValueRef rem) {
  LLVMValueRef some = icmp(a, LLVMIntNE, rem, number(a, 0));
  LLVMValueRef signs = icmp(a, LLVMIntSLT, binop(a, LLVMXor, rem, a->v[1]), number(a, 0));
  return binop(a, LLVMAnd, some, signs);
}

static LLVMValueRef alu_floordiv(const Alu *a) {
  int64_t shift;
  if (!a->uns && power_of_two(a->u->src[1], &shift)) {
    return binop(a, LLVMAShr, a->v[0], number(a, shift));
  }
  DivMod d = div_mod(a);
  if (a->uns || (at_least(a->u->src[0], 0) && at_least(a->u->src[1], 0))) return d.quot;
  LLVMValueRef less = LLVMBuildSExt(a->e->b, rounded_up(a, d.rem), a->type, "");
  return binop(a, LLVMAdd, d.quot, less);
}

static LLVMValueRef alu_floormod(const Alu *a) {
  int64_t shift;
  if (!a->uns && power_of_two(a->u->src[1], &shift)) {
    return binop(a, LLVMAnd, a->v[0], number(a, ((int64_t)1 << shift) - 1));
  }
  DivMod d = div_mod(a);
  if (a->uns || (at_least(a->u->src[0], 0) && at_least(a->u->src[1], 0))) return d.rem;
  return select3(a, rounded_up(a, d.rem), binop(a, LLVMAdd, d.rem, a->v[1]), d.rem);
}

/* -- MAX and MIN
 * ------------------------------------------------------------------------------------------------
 * NaN if either is NaN, and -0 < +0. x86's max(a, b) is a > b ? a : b, which LLVM makes of a
 * select; the rest repairs NaN and zeros. */

static LLVMValueRef float_bits(const Alu *a, LLVMOpcode op, LLVMValueRef x, LLVMValueRef y) {
  LLVMBuilderRef b = a->e->b;
  LLVMTypeRef ints = llvm_type(a->e, a->dtype == DT_F64 ? DT_I64 : DT_I32, llvm_lanes(x));
  LLVMValueRef r = binop(a, op, LLVMBuildBitCast(b, x, ints, ""), LLVMBuildBitCast(b, y, ints, ""));
  return LLVMBuildBitCast(b, r, LLVMTypeOf(x), "");
}

/* c is not NaN: a NaN in x survives because every comparison with it is false. The comparison
 * counts equality only where c is the zero that must win over the other one. */
static LLVMValueRef float_bound(const Alu *a, bool max, LLVMValueRef x, LLVMValueRef c, double cv) {
  bool wins_ties = cv == 0 && (__builtin_signbit(cv) != 0) == !max;
  LLVMRealPredicate p =
      max ? (wins_ties ? LLVMRealOLE : LLVMRealOLT) : (wins_ties ? LLVMRealOGE : LLVMRealOGT);
  return select3(a, fcmp(a, p, x, c), c, x);
}

static LLVMValueRef float_max_min(const Alu *a, bool max) {
  LLVMValueRef x = a->v[0], y = a->v[1];
  for (int k = 0; k < 2; k++) {
    const UOp *c = k < (int)a->u->nsrc ? constant_of(a->u->src[k]) : NULL;
    double cv = c ? uop_float_value(c) : 0;
    if (c && cv == cv) return float_bound(a, max, k ? x : y, k ? y : x, cv);
  }
  LLVMValueRef both[2] = {x, y};
  if (a->dtype != DT_F64 && llvm_gpu_since(a->e, "sm_80")) /* one instruction */
    return llvm_intrinsic1(a->e, max ? "llvm.maximum" : "llvm.minimum", both, 2);
  LLVMValueRef r = select3(a, fcmp(a, max ? LLVMRealOGT : LLVMRealOLT, x, y), x, y);
  if (!max) {
    /* Equal or unordered: OR keeps the sign of a -0 and the exponent and fraction of a NaN. */
    return select3(a, fcmp(a, LLVMRealUEQ, x, y), float_bits(a, LLVMOr, x, y), r);
  }
  r = select3(a, fcmp(a, LLVMRealOEQ, x, y), float_bits(a, LLVMAnd, x, y), r);
  return select3(a, fcmp(a, LLVMRealUNO, x, x), x, r);
}

static LLVMValueRef max_min(const Alu *a, bool max) {
  if (a->flt) return float_max_min(a, max);
  if (a->dtype == DT_BOOL) return binop(a, max ? LLVMOr : LLVMAnd, a->v[0], a->v[1]);
  if (a->e->gpu && dtype_info[a->dtype].bits <= 16)
    return llvm_gpu_max_min(a->e, a->v[0], a->v[1], max, a->uns);
  const char *name = a->uns ? (max ? "llvm.umax" : "llvm.umin") : (max ? "llvm.smax" : "llvm.smin");
  LLVMValueRef args[2] = {a->v[0], a->v[1]};
  return llvm_intrinsic1(a->e, name, args, 2);
}
static LLVMValueRef alu_max(const Alu *a) { return max_min(a, true); }
static LLVMValueRef alu_min(const Alu *a) { return max_min(a, false); }

/* -- bits
 * ------------------------------------------------------------------------------------------------
 */

static LLVMValueRef alu_and(const Alu *a) { return binop(a, LLVMAnd, a->v[0], a->v[1]); }
static LLVMValueRef alu_or(const Alu *a) { return binop(a, LLVMOr, a->v[0], a->v[1]); }
static LLVMValueRef alu_xor(const Alu *a) { return binop(a, LLVMXor, a->v[0], a->v[1]); }

/* Counts outside [0, width) shift everything out. */
static LLVMValueRef alu_shift(const Alu *a) {
  LLVMOpcode op = a->u->op == OP_SHL ? LLVMShl : a->uns ? LLVMLShr : LLVMAShr;
  const UOp *by = a->u->src[1];
  unsigned bits = dtype_info[a->dtype].bits;
  int64_t c;
  bool fixed = const_int(by, &c);
  bool inside = fixed ? c >= 0 && c < bits : at_least(by, 0) && by->vmax < bits;
  if (inside) return binop(a, op, a->v[0], a->v[1]);
  LLVMValueRef fits = icmp(a, LLVMIntULT, a->v[1], number(a, bits));
  if (op == LLVMAShr) return binop(a, op, a->v[0], select3(a, fits, a->v[1], number(a, bits - 1)));
  LLVMValueRef r = binop(a, op, a->v[0], select3(a, fits, a->v[1], number(a, 0)));
  return select3(a, fits, r, number(a, 0));
}

/* -- comparison, choice
 * ---------------------------------------------------------------------------------- */

static LLVMValueRef compare(const Alu *a, LLVMRealPredicate f, LLVMIntPredicate s,
                            LLVMIntPredicate u) {
  if (a->flt) return fcmp(a, f, a->v[0], a->v[1]);
  return icmp(a, a->uns ? u : s, a->v[0], a->v[1]);
}
static LLVMValueRef alu_cmplt(const Alu *a) {
  return compare(a, LLVMRealOLT, LLVMIntSLT, LLVMIntULT);
}
static LLVMValueRef alu_cmple(const Alu *a) {
  return compare(a, LLVMRealOLE, LLVMIntSLE, LLVMIntULE);
}
static LLVMValueRef alu_cmpeq(const Alu *a) {
  return compare(a, LLVMRealOEQ, LLVMIntEQ, LLVMIntEQ);
}
static LLVMValueRef alu_cmpne(const Alu *a) {
  return compare(a, LLVMRealUNE, LLVMIntNE, LLVMIntNE);
}
static LLVMValueRef alu_where(const Alu *a) { return select3(a, a->v[0], a->v[1], a->v[2]); }

/* -- ops of native.def
 * ------------------------------------------------------------------------------------ */

enum { NATIVE_MOST = 256 };

/* `n` lanes of v from `from` on; lanes that v does not have are 0. */
static LLVMValueRef native_piece(const Alu *a, LLVMValueRef v, unsigned from, unsigned n) {
  LLVMBuilderRef b = a->e->b;
  LLVMTypeRef i32 = LLVMInt32TypeInContext(a->e->ctx), type = LLVMTypeOf(v);
  unsigned lanes = llvm_lanes(v);
  if (lanes == n) return v;
  if (lanes == 1)
    return LLVMBuildInsertElement(b, LLVMConstNull(LLVMVectorType(type, n)), v,
                                  LLVMConstInt(i32, 0, false), "");
  LLVMValueRef mask[NATIVE_MOST];
  assert(n <= NATIVE_MOST);
  for (unsigned k = 0; k < n; k++)
    mask[k] = LLVMConstInt(i32, from + k < lanes ? from + k : lanes, false);
  return LLVMBuildShuffleVector(b, v, LLVMConstNull(type), LLVMConstVector(mask, n), "");
}

static LLVMValueRef native_call(const Alu *a, const NativeOp *op, unsigned from) {
  enum { CURRENT_ROUNDING = 4 };
  LLVMTypeRef i32 = LLVMInt32TypeInContext(a->e->ctx);
  LLVMValueRef args[6] = {native_piece(a, a->v[0], from, op->lanes)};
  unsigned n = 1;
  for (int s = 1; s < op_info[a->u->op].nsrc; s++)
    args[n++] = native_piece(a, a->v[s], from, op->lanes);
  LLVMTypeRef type = LLVMTypeOf(args[0]);
  if (op->control >= 0) args[n++] = LLVMConstInt(i32, (unsigned)op->control, false);
  args[n++] = LLVMConstNull(type);
  args[n++] = LLVMConstAllOnes(LLVMIntTypeInContext(a->e->ctx, op->lanes));
  args[n++] = LLVMConstInt(i32, CURRENT_ROUNDING, false);
  return llvm_intrinsic(a->e, op->code, NULL, 0, args, n);
}

/* r with the lanes from `from` on taken from part. */
static LLVMValueRef native_place(const Alu *a, LLVMValueRef r, LLVMValueRef part, unsigned from) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(a->e->ctx);
  unsigned lanes = llvm_lanes(r), n = llvm_lanes(part);
  LLVMValueRef wide[NATIVE_MOST], mask[NATIVE_MOST];
  for (unsigned k = 0; k < lanes; k++) {
    bool inside = k >= from && k - from < n;
    wide[k] = LLVMConstInt(i32, inside ? k - from : 0, false);
    mask[k] = LLVMConstInt(i32, inside ? lanes + k : k, false);
  }
  LLVMValueRef none = LLVMGetPoison(LLVMTypeOf(part));
  part = LLVMBuildShuffleVector(a->e->b, part, none, LLVMConstVector(wide, lanes), "");
  return LLVMBuildShuffleVector(a->e->b, r, part, LLVMConstVector(mask, lanes), "");
}

/* The instruction on as many lanes at a time as it has. */
static LLVMValueRef alu_native(const Alu *a) {
  const NativeOp *op = native_find(a->e->target, (Op)a->u->op, a->dtype);
  unsigned lanes = llvm_lanes(a->v[0]);
  if (!op || lanes > NATIVE_MOST)
    return llvm_fail(a->e, a->u, "is an instruction that the target does not have");
  LLVMValueRef r = native_call(a, op, 0);
  if (lanes == op->lanes) return r;
  if (lanes == 1) {
    LLVMTypeRef i32 = LLVMInt32TypeInContext(a->e->ctx);
    return LLVMBuildExtractElement(a->e->b, r, LLVMConstInt(i32, 0, false), "");
  }
  r = native_place(a, LLVMGetPoison(a->type), r, 0);
  for (unsigned from = op->lanes; from < lanes; from += op->lanes)
    r = native_place(a, r, native_call(a, op, from), from);
  return r;
}

/* -- the table
 * ------------------------------------------------------------------------------------------- */

typedef struct AluRow {
  AluFn fn;
  bool exact; /* on 16-bit floats the result needs no rounding */
  bool raw;   /* works on any representation: no widening */
} AluRow;

static const AluRow rows[OP__COUNT] = {
    [OP_NEG] = {alu_neg, true, false},
    [OP_ABS] = {alu_abs, true, false},
    [OP_RECIP] = {alu_recip, false, false},
    [OP_SQRT] = {alu_sqrt, false, false},
    [OP_QEXP2] = {alu_qexp2, false, false},
    [OP_TRUNC] = {alu_trunc, true, false},
    [OP_FLOOR] = {alu_floor, true, false},
    [OP_CEIL] = {alu_ceil, true, false},
    [OP_ROUND] = {alu_round, true, false},
    [OP_ADD] = {alu_add, false, false},
    [OP_SUB] = {alu_sub, false, false},
    [OP_MUL] = {alu_mul, false, false},
    [OP_FDIV] = {alu_fdiv, false, false},
    [OP_IDIV] = {alu_idiv, false, false},
    [OP_IMOD] = {alu_imod, false, false},
    [OP_FLOORDIV] = {alu_floordiv, false, false},
    [OP_FLOORMOD] = {alu_floormod, false, false},
    [OP_FMOD] = {alu_fmod, true, false},
    [OP_MAX] = {alu_max, true, false},
    [OP_MIN] = {alu_min, true, false},
    [OP_AND] = {alu_and, false, false},
    [OP_OR] = {alu_or, false, false},
    [OP_XOR] = {alu_xor, false, false},
    [OP_SHL] = {alu_shift, false, false},
    [OP_SHR] = {alu_shift, false, false},
    [OP_CMPLT] = {alu_cmplt, false, false},
    [OP_CMPLE] = {alu_cmple, false, false},
    [OP_CMPEQ] = {alu_cmpeq, false, false},
    [OP_CMPNE] = {alu_cmpne, false, false},
    [OP_WHERE] = {alu_where, false, true},
    [OP_MULACC] = {alu_mulacc, false, false},
    [OP_MAXNUM] = {alu_native, true, false},
    [OP_MINNUM] = {alu_native, true, false},
    [OP_SCALE] = {alu_native, false, false},
    [OP_QRECIP] = {alu_qrecip, false, false},
};

static bool is_small_float(DType d) { return d == DT_F16 || d == DT_BF16; }

static LLVMValueRef alu_run(Emitter *e, const UOp *u, DType dtype, const LLVMValueRef *v,
                            unsigned n) {
  const AluRow *row = &rows[u->op];
  bool small = is_small_float(dtype) && !row->raw;
  Alu a = {.e = e, .u = u, .dtype = small ? DT_F32 : dtype};
  a.flt = dtype_is_float(dtype);
  a.uns = dtype_is_uint(dtype) || dtype == DT_BOOL;
  for (unsigned k = 0; k < n; k++) a.v[k] = small ? llvm_to_f32(e, dtype, v[k]) : v[k];
  a.type = LLVMTypeOf(a.v[n - 1]);
  LLVMValueRef r = row->fn(&a);
  bool back = small && is_small_float((DType)u->dtype);
  return back ? llvm_from_f32(e, (DType)u->dtype, r, row->exact) : r;
}

/* Whether an op may be computed in i32: its INDEX sources and its result are all known to fit. Not
 * shifts, whose counts are checked against the width of the dtype. */
static bool all_narrow(const UOp *u) {
  if (u->op == OP_SHL || u->op == OP_SHR) return false;
  bool narrow = u->dtype != DT_INDEX || llvm_is_narrow(u);
  for (uint32_t k = 0; k < u->nsrc; k++) {
    narrow = narrow && (u->src[k]->dtype != DT_INDEX || llvm_is_narrow(u->src[k]));
  }
  return narrow;
}

LLVMValueRef llvm_alu_emit(Emitter *e, const UOp *u) {
  if (!rows[u->op].fn) return llvm_fail(e, u, "should have been decomposed before code generation");
  LLVMValueRef v[3];
  bool narrow = all_narrow(u);
  for (uint32_t k = 0; k < u->nsrc; k++) {
    v[k] = narrow ? llvm_value(e, u->src[k]) : llvm_full_value(e, u->src[k]);
    /* A scalar condition of a vector WHERE is legal in LLVM as it is. */
    if (!(u->op == OP_WHERE && k == 0)) v[k] = llvm_splat(e, v[k], u->lanes);
  }
  return alu_run(e, u, (DType)u->src[u->nsrc - 1]->dtype, v, u->nsrc);
}

/* v, or NaN when a lane of `all` is one. */
static LLVMValueRef unless_nan(Emitter *e, LLVMValueRef all, LLVMValueRef v) {
  LLVMValueRef some = LLVMBuildFCmp(e->b, LLVMRealUNO, all, all, "");
  if (llvm_lanes(all) > 1) {
    LLVMTypeRef bits = LLVMIntTypeInContext(e->ctx, llvm_lanes(all));
    some = LLVMBuildBitCast(e->b, some, bits, "");
    some = LLVMBuildICmp(e->b, LLVMIntNE, some, LLVMConstNull(bits), "");
  }
  return LLVMBuildSelect(e->b, some, llvm_real(e, LLVMTypeOf(v), (double)NAN), v, "");
}

/* Halves the vector until one lane is left. */
LLVMValueRef llvm_hreduce_emit(Emitter *e, const UOp *u) {
  LLVMBuilderRef b = e->b;
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef v = llvm_full_value(e, u->src[0]);
  Op op = (Op)u->arg.i;
  if (op != OP_ADD && op != OP_MUL && op != OP_MAX && op != OP_MIN) {
    return llvm_fail(e, u, "has an op that does not reduce");
  }
  Op quick = op == OP_MAX ? OP_MAXNUM : op == OP_MIN ? OP_MINNUM : op;
  bool numbers = quick != op && native_find(e->target, quick, (DType)u->dtype);
  LLVMValueRef all = v;
  /* A node to carry the op: the bounds and sources of this one are never looked at. */
  UOp step = {.op = (uint8_t)(numbers ? quick : op),
              .dtype = u->dtype,
              .lanes = 1,
              .vmin = INT64_MIN,
              .vmax = INT64_MAX};
  for (unsigned n = llvm_lanes(v); n > 1;) {
    if (n % 2) { /* fold the last lane into the first */
      LLVMValueRef last = LLVMBuildExtractElement(b, v, LLVMConstInt(i32, n - 1, false), "");
      LLVMValueRef first = LLVMBuildExtractElement(b, v, LLVMConstInt(i32, 0, false), "");
      LLVMValueRef pair[2] = {first, last};
      LLVMValueRef r = alu_run(e, &step, (DType)u->dtype, pair, 2);
      v = LLVMBuildInsertElement(b, v, r, LLVMConstInt(i32, 0, false), "");
      n--;
    }
    n /= 2;
    LLVMValueRef poison = LLVMGetPoison(LLVMTypeOf(v)), half[2];
    for (unsigned k = 0; k < 2; k++) {
      half[k] = n == 1 ? LLVMBuildExtractElement(b, v, LLVMConstInt(i32, k, false), "")
                       : LLVMBuildShuffleVector(b, v, poison, llvm_ramp(e, i32, k * n, 1, n), "");
    }
    v = alu_run(e, &step, (DType)u->dtype, half, 2);
  }
  return numbers ? unless_nan(e, all, v) : v;
}
