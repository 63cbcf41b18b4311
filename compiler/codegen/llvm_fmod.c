/* The remainder of f64 on a GPU, where LLVM has nothing better than x - trunc(x / y) * y: that is
 * off for large quotients, and infinite for two infinities.
 *
 * Long division of the significands, one bit of the quotient after the other: the rest stays below
 * the divisor's significand, so every step is exact. The function is made once in a module that
 * asks for it. */
#include "compiler/codegen/llvm_build.h"

#define NAME "remainder_f64"

enum { FRACTION = 52, SPARE = 11 }; /* bits behind the point; and in front of it, in 64 */

typedef struct Division {
  Emitter *e;
  LLVMBuilderRef b;
  LLVMTypeRef i64, f64;
} Division;

static LLVMValueRef whole(const Division *d, uint64_t v) { return LLVMConstInt(d->i64, v, false); }

static LLVMValueRef leading_zeros(const Division *d, LLVMValueRef v) {
  LLVMValueRef args[2] = {v, LLVMConstNull(LLVMInt1TypeInContext(d->e->ctx))};
  return llvm_intrinsic1(d->e, "llvm.ctlz", args, 2);
}

/* v = significand * 2^(exponent - 1075), the significand with its highest bit at FRACTION. */
static LLVMValueRef significand(const Division *d, LLVMValueRef v, LLVMValueRef *exponent) {
  LLVMValueRef e = LLVMBuildLShr(d->b, v, whole(d, FRACTION), "");
  LLVMValueRef small = LLVMBuildICmp(d->b, LLVMIntEQ, e, whole(d, 0), "");
  LLVMValueRef by = LLVMBuildSub(d->b, leading_zeros(d, v), whole(d, SPARE), "");
  LLVMValueRef one = whole(d, (uint64_t)1 << FRACTION);
  LLVMValueRef low = LLVMBuildAnd(d->b, v, whole(d, ((uint64_t)1 << FRACTION) - 1), "");
  *exponent = LLVMBuildSelect(d->b, small, LLVMBuildSub(d->b, whole(d, 1), by, ""), e, "");
  return LLVMBuildSelect(d->b, small, LLVMBuildShl(d->b, v, by, ""),
                         LLVMBuildOr(d->b, low, one, ""), "");
}

/* The bits of rest * 2^(exponent - 1075), which is a number of f64. */
static LLVMValueRef assembled(const Division *d, LLVMValueRef rest, LLVMValueRef exponent) {
  LLVMValueRef by = LLVMBuildSub(d->b, leading_zeros(d, rest), whole(d, SPARE), "");
  LLVMValueRef m = LLVMBuildShl(d->b, rest, by, ""), one = whole(d, (uint64_t)1 << FRACTION);
  LLVMValueRef e = LLVMBuildSub(d->b, exponent, by, "");
  LLVMValueRef high = LLVMBuildShl(d->b, e, whole(d, FRACTION), "");
  LLVMValueRef normal = LLVMBuildOr(d->b, LLVMBuildXor(d->b, m, one, ""), high, "");
  LLVMValueRef less = LLVMBuildLShr(d->b, m, LLVMBuildSub(d->b, whole(d, 1), e, ""), "");
  LLVMValueRef is_normal = LLVMBuildICmp(d->b, LLVMIntSGT, e, whole(d, 0), "");
  LLVMValueRef none = LLVMBuildICmp(d->b, LLVMIntEQ, rest, whole(d, 0), "");
  return LLVMBuildSelect(d->b, none, rest, LLVMBuildSelect(d->b, is_normal, normal, less, ""), "");
}

/* In a block of its own: what is left of x after all bits of the quotient. */
static LLVMValueRef divided(const Division *d, LLVMBasicBlockRef from, LLVMBasicBlockRef loop,
                            LLVMBasicBlockRef after, LLVMValueRef x, LLVMValueRef y,
                            LLVMValueRef bits) {
  LLVMPositionBuilderAtEnd(d->b, loop);
  LLVMValueRef left = LLVMBuildPhi(d->b, d->i64, ""), rest = LLVMBuildPhi(d->b, d->i64, "");
  LLVMValueRef less = LLVMBuildSub(d->b, rest, y, "");
  LLVMValueRef below = LLVMBuildICmp(d->b, LLVMIntSLT, less, whole(d, 0), "");
  LLVMValueRef now = LLVMBuildSelect(d->b, below, rest, less, "");
  LLVMValueRef twice = LLVMBuildShl(d->b, now, whole(d, 1), "");
  LLVMValueRef fewer = LLVMBuildSub(d->b, left, whole(d, 1), "");
  LLVMValueRef more = LLVMBuildICmp(d->b, LLVMIntSGT, left, whole(d, 0), "");
  LLVMAddIncoming(left, (LLVMValueRef[]){bits, fewer}, (LLVMBasicBlockRef[]){from, loop}, 2);
  LLVMAddIncoming(rest, (LLVMValueRef[]){x, twice}, (LLVMBasicBlockRef[]){from, loop}, 2);
  LLVMBuildCondBr(d->b, more, loop, after);
  return now;
}

static void emit_body(const Division *d, LLVMValueRef fn) {
  const uint64_t sign = (uint64_t)1 << 63, inf = (uint64_t)0x7ff << FRACTION;
  LLVMBasicBlockRef entry = LLVMAppendBasicBlockInContext(d->e->ctx, fn, "entry");
  LLVMBasicBlockRef plain = LLVMAppendBasicBlockInContext(d->e->ctx, fn, "plain");
  LLVMBasicBlockRef loop = LLVMAppendBasicBlockInContext(d->e->ctx, fn, "loop");
  LLVMBasicBlockRef after = LLVMAppendBasicBlockInContext(d->e->ctx, fn, "after");
  LLVMValueRef x = LLVMGetParam(fn, 0), v[2], m[2], exponent[2];
  LLVMPositionBuilderAtEnd(d->b, entry);
  for (unsigned k = 0; k < 2; k++) {
    LLVMValueRef bits = LLVMBuildBitCast(d->b, LLVMGetParam(fn, k), d->i64, "");
    v[k] = LLVMBuildAnd(d->b, bits, whole(d, ~sign), "");
    m[k] = significand(d, v[k], &exponent[k]);
  }
  LLVMValueRef none = LLVMBuildICmp(d->b, LLVMIntEQ, v[1], whole(d, 0), "");
  LLVMValueRef odd = LLVMBuildICmp(d->b, LLVMIntUGT, v[1], whole(d, inf), "");
  LLVMValueRef large = LLVMBuildICmp(d->b, LLVMIntUGE, v[0], whole(d, inf), "");
  LLVMValueRef bad = LLVMBuildOr(d->b, LLVMBuildOr(d->b, none, odd, ""), large, "");
  LLVMValueRef less = LLVMBuildICmp(d->b, LLVMIntULT, v[0], v[1], "");
  LLVMValueRef bits = LLVMBuildSub(d->b, exponent[0], exponent[1], "");
  LLVMBuildCondBr(d->b, LLVMBuildOr(d->b, bad, less, ""), plain, loop);

  LLVMPositionBuilderAtEnd(d->b, plain);
  LLVMValueRef nan =
      LLVMBuildBitCast(d->b, whole(d, inf | (uint64_t)1 << (FRACTION - 1)), d->f64, "");
  LLVMBuildRet(d->b, LLVMBuildSelect(d->b, bad, nan, x, ""));

  LLVMValueRef rest = divided(d, entry, loop, after, m[0], m[1], bits);
  LLVMPositionBuilderAtEnd(d->b, after);
  LLVMValueRef value = assembled(d, rest, exponent[1]);
  LLVMValueRef whose =
      LLVMBuildAnd(d->b, LLVMBuildBitCast(d->b, x, d->i64, ""), whole(d, sign), "");
  value = LLVMBuildOr(d->b, value, whose, "");
  LLVMBuildRet(d->b, LLVMBuildBitCast(d->b, value, d->f64, ""));
}

static LLVMTypeRef type_of(const Division *d) {
  return LLVMFunctionType(d->f64, (LLVMTypeRef[]){d->f64, d->f64}, 2, false);
}

static LLVMValueRef the_function(const Division *d) {
  LLVMValueRef fn = LLVMGetNamedFunction(d->e->module, NAME);
  if (fn) return fn;
  LLVMBasicBlockRef at = LLVMGetInsertBlock(d->b);
  fn = LLVMAddFunction(d->e->module, NAME, type_of(d));
  LLVMSetLinkage(fn, LLVMInternalLinkage);
  emit_body(d, fn);
  LLVMPositionBuilderAtEnd(d->b, at);
  return fn;
}

static LLVMValueRef call(Emitter *e, const void *division, LLVMValueRef *v) {
  const Division *d = division;
  return LLVMBuildCall2(e->b, type_of(d), the_function(d), v, 2, "");
}

LLVMValueRef llvm_gpu_fmod(Emitter *e, LLVMValueRef x, LLVMValueRef y) {
  Division d = {.e = e,
                .b = e->b,
                .i64 = LLVMInt64TypeInContext(e->ctx),
                .f64 = LLVMDoubleTypeInContext(e->ctx)};
  LLVMValueRef both[2] = {x, y};
  return llvm_by_lanes(e, call, &d, both, 2);
}
