/* Matrix instructions of a warpgroup (wgmma), which read their factors from the workgroup's memory
 * and go on while the threads do something else.
 *
 * A factor is named by a descriptor: where its tile begins, and how its parts of eight rows of 128
 * bytes follow each other. Along the sum an instruction takes 32 bytes, so a TILEMMA is four of
 * them. The registers of the sum belong to the instruction until it is waited for: the assembly
 * takes them in and gives them back, and so does the wait, which keeps LLVM from touching them in
 * between. The TILEMMAs of a loop's body, up to a SETTLE, are one group: a fence before the first
 * of them, a commit after the last. */
#include <assert.h>

#include "compiler/codegen/llvm_build.h"
#include "compiler/ir/matrix.h"

enum { STEPS = 4, ROW_BYTES = 128, STEP_BYTES = 32, PART = 8 * ROW_BYTES };

/* -- groups
 * ---------------------------------------------------------------------------------------------- */

static bool ends_group(const UOp *u) {
  return u->op == OP_RANGE || u->op == OP_END || u->op == OP_SETTLE;
}

/* Whether no TILEMMA of the group of list[at] lies in that direction. */
static bool is_last(const Linear *l, size_t at, bool forward) {
  for (size_t i = at; forward ? ++i < l->len : i-- > 0;) {
    if (ends_group(l->list[i])) return true;
    if (l->list[i]->op == OP_TILEMMA) return false;
  }
  return true;
}

static size_t position(const Linear *l, const UOp *u) {
  size_t i = 0;
  while (l->list[i] != u) i++;
  return i;
}

static void emit_plain(Emitter *e, const char *text) {
  llvm_assemble(e, LLVMVoidTypeInContext(e->ctx), text, "~{memory}", true, NULL, 0);
}

void llvm_tile_fence(Emitter *e) {
  if (e->tiles) emit_plain(e, "fence.proxy.async.shared::cta;");
}

/* -- factors
 * --------------------------------------------------------------------------------------------- */

/* One factor: whether 128 bytes lie along the rows instead of the sum; bytes between groups of
 * them. */
typedef struct Factor {
  bool turned;
  int64_t apart;
} Factor;

static bool read_factor(const UOp *u, unsigned f, Factor *out) {
  const MatrixInfo *info = matrix_info(u->arg.i);
  const int64_t *step = u->arg.ints.at + 3 * f;
  int64_t bytes = dtype_info[info->dtype[f]].bytes, row = ROW_BYTES / bytes;
  int64_t apart = (f ? info->n : info->m) > 64 ? step[2] * bytes : PART; /* else there is one */
  *out = (Factor){.turned = step[1] == 1, .apart = apart};
  if (out->turned) return step[0] == row && bytes == 2 && apart % PART == 0;
  return step[0] == 1 && step[1] == row && step[2] == 64 * row;
}

/* The descriptor of the tile that begins at src[2 f + 1]. */
static LLVMValueRef descriptor(Emitter *e, const UOp *u, unsigned f, const Factor *factor) {
  enum { UNIT = 16, ADDRESS = 0x3fff, LEADING = 16, STRIDE = 32, ORDER = 62 };
  LLVMTypeRef i64 = LLVMInt64TypeInContext(e->ctx);
  int64_t shift, bytes = dtype_info[matrix_info(u->arg.i)->dtype[f]].bytes;
  LLVMValueRef at = llvm_element_address(e, u, 2 * f, &shift);
  at = LLVMBuildZExt(e->b, llvm_shared_address(e, at), i64, "");
  at = LLVMBuildAdd(e->b, at, llvm_i64(e, shift * bytes), "");
  at = LLVMBuildLShr(e->b, at, llvm_i64(e, 4), "");
  at = LLVMBuildAnd(e->b, at, llvm_i64(e, ADDRESS), "");
  int64_t leading = factor->turned ? factor->apart / UNIT : 1;
  int64_t fixed = leading << LEADING | (int64_t)(PART / UNIT) << STRIDE | (int64_t)1 << ORDER;
  return LLVMBuildOr(e->b, at, llvm_i64(e, fixed), "");
}

/* -- TILEMMA
 * --------------------------------------------------------------------------------------------- */

static void name_registers(StrBuf *b, unsigned n) {
  strbuf_adds(b, "{");
  for (unsigned k = 0; k < n; k++) strbuf_addf(b, "%s$%u", k ? ", " : "", k);
  strbuf_adds(b, "}");
}

/* The four instructions; the descriptors are the operands behind the registers and their inputs. */
static void write_steps(StrBuf *text, const MatrixInfo *info, const Factor *factor, unsigned n) {
  bool floats = dtype_is_float(info->dtype[MATRIX_C]);
  strbuf_adds(text, "{\n.reg .b64 a, b;\n");
  for (int k = 0; k < STEPS; k++) {
    for (unsigned f = 0; f < 2; f++) {
      int64_t by = factor[f].turned ? STEP_BYTES / 2 * ROW_BYTES : STEP_BYTES;
      strbuf_addf(text, "add.s64 %c, $%u, %lld;\n", 'a' + (int)f, n + f, (long long)(k * by / 16));
    }
    strbuf_addf(text, "%s ", info->code);
    name_registers(text, n);
    strbuf_adds(text, ", a, b, 1");
    if (floats) strbuf_adds(text, ", 1, 1");
    if (dtype_info[info->dtype[0]].bytes == 2)
      strbuf_addf(text, ", %d, %d", factor[0].turned, factor[1].turned);
    strbuf_adds(text, ";\n");
  }
  strbuf_adds(text, "}");
}

/* n registers that come in and go out, then `more`. */
static void tie_registers(StrBuf *b, unsigned n, bool floats, const char *more) {
  for (unsigned k = 0; k < n; k++) strbuf_addf(b, "%s=%c", k ? "," : "", floats ? 'f' : 'r');
  strbuf_adds(b, more);
  for (unsigned k = 0; k < n; k++) strbuf_addf(b, ",%u", k);
  strbuf_adds(b, ",~{memory}");
}

/* The value through an instruction that takes its registers in and gives them back; first: operands
 * before them. */
static LLVMValueRef through(Emitter *e, const UOp *u, LLVMValueRef value, StrBuf *text,
                            const char *more, const LLVMValueRef *first, unsigned nfirst) {
  bool floats = dtype_is_float((DType)u->dtype);
  LLVMTypeRef reg = floats ? LLVMFloatTypeInContext(e->ctx) : LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef args[LLVM_MAX_REGISTERS + 2], r = NULL;
  StrBuf operands = {0};
  for (unsigned k = 0; k < nfirst; k++) args[k] = first[k];
  unsigned n = llvm_registers(e, value, reg, args + nfirst);
  assert(n == u->lanes && n <= LLVM_MAX_REGISTERS);
  tie_registers(&operands, n, floats, more);
  if (!text->failed && text->ptr && !operands.failed)
    r = llvm_assemble(e, llvm_results(e, n, reg), text->ptr, operands.ptr, true, args, nfirst + n);
  strbuf_deinit(&operands);
  return r ? llvm_vector_of(e, r, n, reg, llvm_node_type(e, u))
           : llvm_fail(e, u, "found no memory");
}

LLVMValueRef llvm_tile_mma_emit(Emitter *e, const UOp *u) {
  size_t at = position(e->linear, u);
  LLVMValueRef sum = u->nsrc > 4 ? llvm_value(e, u->src[4]) : LLVMConstNull(llvm_node_type(e, u));
  LLVMValueRef tile[2];
  Factor factor[2];
  StrBuf text = {0};
  for (unsigned f = 0; f < 2; f++) {
    if (!read_factor(u, f, &factor[f])) return llvm_fail(e, u, "has a factor in another order");
    tile[f] = descriptor(e, u, f, &factor[f]);
  }
  if (is_last(e->linear, at, false)) emit_plain(e, "wgmma.fence.sync.aligned;");
  write_steps(&text, matrix_info(u->arg.i), factor, u->lanes);
  LLVMValueRef r = through(e, u, sum, &text, ",l,l", tile, 2);
  if (is_last(e->linear, at, true)) emit_plain(e, "wgmma.commit_group.sync.aligned;");
  strbuf_deinit(&text);
  return r;
}

LLVMValueRef llvm_settle_emit(Emitter *e, const UOp *u) {
  StrBuf text = {0};
  LLVMValueRef v = llvm_value(e, u->src[0]);
  strbuf_addf(&text, "wgmma.wait_group.sync.aligned %d;", (int)u->arg.i);
  if (u->arg.i && text.ptr)
    emit_plain(e, text.ptr); /* the instructions go on with the registers */
  else
    v = through(e, u, v, &text, "", NULL, 0);
  strbuf_deinit(&text);
  return v;
}
