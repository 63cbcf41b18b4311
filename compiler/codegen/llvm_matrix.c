/* Matrix instructions of NVIDIA's GPUs and what feeds them, as inline assembly.
 *
 * Only some of them are intrinsics in every LLVM from 16 on, and what an intrinsic takes changed
 * between versions; the text of the instruction is the same everywhere. An instruction wants
 * registers of 32 bits, so the vector of a thread's elements is cut into those. Its name, and so
 * everything about its types, comes from the table (matrix.def). */
#include <assert.h>
#include <stdio.h>

#include "compiler/codegen/llvm_build.h"
#include "compiler/ir/matrix.h"

enum { SHARED_SPACE = 3 };

/* -- shuffles -----------------------------------------------------------------------------------
 */

LLVMValueRef llvm_shuffle_emit(Emitter *e, const UOp *u) {
  if (!e->gpu) return llvm_x86_shuffle(e, u);
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx), type = llvm_node_type(e, u);
  LLVMValueRef out = u->lanes > 1 ? LLVMGetPoison(type) : NULL;
  for (unsigned k = 0; k < u->lanes; k++) {
    uint32_t at = (uint32_t)u->arg.ints.at[k], s = 0;
    for (; at >= u->src[s]->lanes; s++) at -= u->src[s]->lanes;
    LLVMValueRef v = llvm_value(e, u->src[s]);
    if (u->src[s]->lanes > 1)
      v = LLVMBuildExtractElement(e->b, v, LLVMConstInt(i32, at, false), "");
    if (u->lanes == 1) return v;
    out = LLVMBuildInsertElement(e->b, out, v, LLVMConstInt(i32, k, false), "");
  }
  return out;
}

/* One round: the threads whose numbers differ in the bit `bit` alone swap a against b: the one that
 * has the bit 0 gives b and takes the other's a in its place. */
static void swap_round(Emitter *e, LLVMValueRef odd, unsigned bit, LLVMValueRef *a,
                       LLVMValueRef *b) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef give = LLVMBuildSelect(e->b, odd, *a, *b, "");
  LLVMValueRef args[4] = {llvm_int(e, i32, -1), give, llvm_int(e, i32, bit), llvm_int(e, i32, 31)};
  LLVMValueRef take = llvm_intrinsic(e, "llvm.nvvm.shfl.sync.bfly.i32", NULL, 0, args, 4);
  LLVMValueRef keep = LLVMBuildSelect(e->b, odd, *b, *a, "");
  *a = LLVMBuildSelect(e->b, odd, take, keep, "");
  *b = LLVMBuildSelect(e->b, odd, keep, take, "");
}

/* A matrix of n by n registers is transposed: row q is thread q's. */
LLVMValueRef llvm_exchange_emit(Emitter *e, const UOp *u) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx), type = llvm_node_type(e, u);
  LLVMValueRef reg[4][4], all = NULL;
  unsigned n = u->nsrc, each = 0;
  for (unsigned j = 0; j < n; j++) each = llvm_registers(e, llvm_value(e, u->src[j]), i32, reg[j]);
  LLVMValueRef thread = llvm_intrinsic(e, "llvm.nvvm.read.ptx.sreg.tid.x", NULL, 0, NULL, 0);
  for (unsigned bit = 1; bit < n; bit *= 2) {
    LLVMValueRef one = LLVMBuildAnd(e->b, thread, llvm_int(e, i32, bit), "");
    LLVMValueRef odd = LLVMBuildICmp(e->b, LLVMIntNE, one, llvm_int(e, i32, 0), "");
    for (unsigned j = 0; j < n; j++)
      for (unsigned r = 0; !(j & bit) && r < each; r++)
        swap_round(e, odd, bit, &reg[j][r], &reg[j | bit][r]);
  }
  all = LLVMGetPoison(LLVMVectorType(i32, n * each));
  for (unsigned k = 0; k < n * each; k++)
    all = LLVMBuildInsertElement(e->b, all, reg[k / each][k % each], llvm_int(e, i32, k), "");
  return LLVMBuildBitCast(e->b, all, type, "");
}

/* -- assembly -----------------------------------------------------------------------------------
 */

LLVMValueRef llvm_assemble(Emitter *e, LLVMTypeRef result, const char *text, const char *operands,
                           bool effects, LLVMValueRef *args, unsigned n) {
  LLVMTypeRef types[LLVM_MAX_REGISTERS + 32];
  for (unsigned k = 0; k < n; k++) types[k] = LLVMTypeOf(args[k]);
  LLVMTypeRef fn = LLVMFunctionType(result, types, n, false);
  LLVMValueRef code = LLVMGetInlineAsm(fn, text, strlen(text), operands, strlen(operands), effects,
                                       false, LLVMInlineAsmDialectATT, false);
  LLVMValueRef call = LLVMBuildCall2(e->b, fn, code, args, n, "");
  unsigned convergent = LLVMGetEnumAttributeKindForName("convergent", 10);
  LLVMAddCallSiteAttribute(call, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                           LLVMCreateEnumAttribute(e->ctx, convergent, 0));
  return call;
}

/* A vector as registers of 32 bits. */
unsigned llvm_registers(Emitter *e, LLVMValueRef v, LLVMTypeRef type, LLVMValueRef *out) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  unsigned bits = LLVMGetTypeKind(LLVMGetElementType(LLVMTypeOf(v))) == LLVMIntegerTypeKind
                      ? LLVMGetIntTypeWidth(LLVMGetElementType(LLVMTypeOf(v)))
                      : 32;
  unsigned n = llvm_lanes(v) * bits / 32;
  if (n == 1) {
    out[0] = LLVMBuildBitCast(e->b, v, type, "");
    return 1;
  }
  v = LLVMBuildBitCast(e->b, v, LLVMVectorType(type, n), "");
  for (unsigned k = 0; k < n; k++)
    out[k] = LLVMBuildExtractElement(e->b, v, LLVMConstInt(i32, k, false), "");
  return n;
}

/* The fields of a struct of n registers as a vector of that type. */
LLVMValueRef llvm_vector_of(Emitter *e, LLVMValueRef result, unsigned n, LLVMTypeRef reg,
                            LLVMTypeRef type) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  if (n == 1) return LLVMBuildBitCast(e->b, result, type, "");
  LLVMValueRef v = LLVMGetPoison(LLVMVectorType(reg, n));
  for (unsigned k = 0; k < n; k++)
    v = LLVMBuildInsertElement(e->b, v, LLVMBuildExtractValue(e->b, result, k, ""),
                               LLVMConstInt(i32, k, false), "");
  return LLVMBuildBitCast(e->b, v, type, "");
}

LLVMTypeRef llvm_results(Emitter *e, unsigned n, LLVMTypeRef reg) {
  LLVMTypeRef all[LLVM_MAX_REGISTERS];
  for (unsigned k = 0; k < n; k++) all[k] = reg;
  return n == 1 ? reg : LLVMStructTypeInContext(e->ctx, all, n, false);
}

/* "{$4, $5}, " and so on; `at` counts on. */
static void name_registers(StrBuf *b, unsigned n, unsigned *at) {
  strbuf_adds(b, "{");
  for (unsigned k = 0; k < n; k++) strbuf_addf(b, "%s$%u", k ? ", " : "", (*at)++);
  strbuf_adds(b, "}");
}

static void repeat(StrBuf *b, const char *operand, unsigned n) {
  for (unsigned k = 0; k < n; k++) strbuf_addf(b, "%s%s", b->len ? "," : "", operand);
}

/* -- MMA ----------------------------------------------------------------------------------------
 */

LLVMValueRef llvm_mma_emit(Emitter *e, const UOp *u) {
  const MatrixInfo *info = matrix_info(u->arg.i);
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx), type = llvm_node_type(e, u);
  bool floats = dtype_is_float(info->dtype[MATRIX_C]);
  LLVMTypeRef reg = floats ? LLVMFloatTypeInContext(e->ctx) : i32;
  LLVMValueRef args[3 * 16], c = LLVMConstNull(type);
  StrBuf text = {0}, operands = {0};
  unsigned counts[3], n = 0, at = 0;
  if (!e->gpu) return llvm_x86_mma(e, u);
  for (unsigned s = 0; s < 2; s++)
    n += counts[s] = llvm_registers(e, llvm_value(e, u->src[s]), i32, args + n);
  if (u->nsrc > 2) c = llvm_value(e, u->src[2]);
  n += counts[2] = llvm_registers(e, c, reg, args + n);
  strbuf_addf(&text, "%s ", info->code);
  name_registers(&text, counts[2], &at);
  for (unsigned s = 0; s < 3; s++) {
    strbuf_adds(&text, ", ");
    name_registers(&text, counts[s], &at);
  }
  strbuf_adds(&text, ";");
  repeat(&operands, floats ? "=f" : "=r", counts[2]);
  repeat(&operands, "r", counts[0] + counts[1]);
  repeat(&operands, floats ? "f" : "r", counts[2]);
  LLVMValueRef r = NULL;
  if (!text.failed && text.ptr && operands.ptr && !operands.failed)
    r = llvm_assemble(e, llvm_results(e, counts[2], reg), text.ptr, operands.ptr, false, args, n);
  strbuf_deinit(&text);
  strbuf_deinit(&operands);
  return r ? llvm_vector_of(e, r, counts[2], reg, type) : llvm_fail(e, u, "found no memory");
}

/* -- LDMATRIX -----------------------------------------------------------------------------------
 */

/* A generic pointer into the workgroup's memory as the 32 bits that instructions take. */
LLVMValueRef llvm_shared_address(Emitter *e, LLVMValueRef p) {
  p = LLVMBuildAddrSpaceCast(e->b, p, LLVMPointerTypeInContext(e->ctx, SHARED_SPACE), "");
  return LLVMBuildPtrToInt(e->b, p, LLVMInt32TypeInContext(e->ctx), "");
}

LLVMValueRef llvm_ldmatrix_emit(Emitter *e, const UOp *u) {
  unsigned n = u->lanes / 2;
  assert(n == 1 || n == 2 || n == 4); /* check.c */
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  int64_t shift;
  LLVMValueRef at = llvm_element_address(e, u, 0, &shift);
  char text[160];
  static const char *const lists[] = {"{$0}", "{$0, $1}", "", "{$0, $1, $2, $3}"};
  static const char *const operands[] = {"=r,r,~{memory}", "=r,=r,r,~{memory}", "",
                                         "=r,=r,=r,=r,r,~{memory}"};
  snprintf(text, sizeof text, "ldmatrix.sync.aligned.m8n8.x%u%s.shared.b16 %s, [$%u + %lld];", n,
           u->arg.i ? ".trans" : "", lists[n - 1], n, (long long)(shift * 2));
  at = llvm_shared_address(e, at);
  LLVMValueRef r = llvm_assemble(e, llvm_results(e, n, i32), text, operands[n - 1], true, &at, 1);
  return llvm_vector_of(e, r, n, i32, llvm_node_type(e, u));
}

/* -- copies that run ahead ----------------------------------------------------------------------
 */

/* 16 bytes, or none of them where the gate is false: the rest is filled with zeros. */
void llvm_copy_async(Emitter *e, LLVMValueRef to, LLVMValueRef from, LLVMValueRef gate) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx), nothing = LLVMVoidTypeInContext(e->ctx);
  LLVMValueRef all = LLVMConstInt(i32, 16, false);
  from = LLVMBuildAddrSpaceCast(e->b, from, LLVMPointerTypeInContext(e->ctx, 1), "");
  LLVMValueRef args[3] = {llvm_shared_address(e, to), from, all};
  if (gate) args[2] = LLVMBuildSelect(e->b, gate, all, LLVMConstNull(i32), "");
  if (gate)
    llvm_assemble(e, nothing, "cp.async.cg.shared.global [$0], [$1], 16, $2;", "r,l,r,~{memory}",
                  true, args, 3);
  else
    llvm_assemble(e, nothing, "cp.async.cg.shared.global [$0], [$1], 16;", "r,l,~{memory}", true,
                  args, 2);
}

LLVMValueRef llvm_commit_emit(Emitter *e, const UOp *u) {
  (void)u;
  if (!llvm_gpu_since(e, "sm_80")) return NULL; /* llvm_copy_emit */
  llvm_assemble(e, LLVMVoidTypeInContext(e->ctx), "cp.async.commit_group;", "~{memory}", true, NULL,
                0);
  return NULL;
}

LLVMValueRef llvm_wait_emit(Emitter *e, const UOp *u) {
  char text[48];
  if (!llvm_gpu_since(e, "sm_80")) return NULL;
  snprintf(text, sizeof text, "cp.async.wait_group %d;", (int)u->arg.i);
  llvm_assemble(e, LLVMVoidTypeInContext(e->ctx), text, "~{memory}", true, NULL, 0);
  return NULL;
}
