/* Matrix instructions of a warpgroup (wgmma), which read their factors from the workgroup's memory
 * and go on while the threads do something else.
 *
 * A factor is named by a descriptor: where its tile begins, and how its parts of eight rows of 128
 * bytes follow each other. Along the sum an instruction takes 32 bytes, so a TILEMMA is four of
 * them. The registers of the sum belong to the instruction until it is waited for: the assembly
 * takes them in and gives them back, and so does the wait, which keeps LLVM from touching them in
 * between. A sum's TILEMMAs up to a SETTLE are one group: a commit after the last; a fence comes
 * before the first, where registers have been written. */
#include <assert.h>
#include <stdio.h>

#include "compiler/codegen/llvm_build.h"
#include "compiler/ir/matrix.h"

enum { STEPS = 4, ROW_BYTES = 128, STEP_BYTES = 32, PART = 8 * ROW_BYTES };

/* -- groups
 * ---------------------------------------------------------------------------------------------- */

static bool ends_group(const UOp *u) {
  return u->op == OP_RANGE || u->op == OP_END || u->op == OP_SETTLE;
}

/* Whether no TILEMMA of the group goes on from the sum of list[at]. */
static bool ends_sum(const Linear *l, size_t at) {
  for (size_t i = at; ++i < l->len && !ends_group(l->list[i]);) {
    const UOp *u = l->list[i];
    if (u->op == OP_TILEMMA && u->src[u->nsrc - 1] == l->list[at]) return false;
  }
  return true;
}

/* Sums that were begun behind that of list[from], which is not the last one, before list[to]. */
static int64_t sums_between(const Linear *l, size_t from, size_t to) {
  int64_t n = 0;
  for (size_t i = from + 1; i < to; i++)
    if (l->list[i]->op == OP_TILEMMA) n += ends_sum(l, i);
  return n;
}

/* Whether threads may have written registers that list[at] takes since the TILEMMA before it: then
 * a fence comes first. */
static bool begins_group(const Linear *l, size_t at) {
  for (size_t i = at; i-- > 0;) {
    const UOp *x = l->list[i];
    bool computes = op_info[x->op].flags & OPF_ALU || x->op == OP_SHUFFLE;
    if (x->op == OP_TILEMMA) return false;
    if (ends_group(x) || (computes && x->dtype != DT_INDEX)) return true;
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

/* -- turns
 * ---------------------------------------------------------------------------------------------- */

/* Whether list[at] begins a sum that no other instruction's product is added to, in a kernel that
 * computes factors of others from such sums. */
static bool begins_sum(const Linear *l, size_t at) {
  const MatrixInfo *info = matrix_info(l->list[at]->arg.i);
  bool held = false;
  for (size_t i = 0; i < l->len; i++)
    held |= l->list[i]->op == OP_TILEMMA && matrix_info(l->list[i]->arg.i)->held;
  return held && l->list[at]->nsrc == matrix_source(info, MATRIX_C);
}

/* Where the TILEMMAs before list[at], of the same group, begin; at: there are none. */
static size_t first_of_group(const Linear *l, size_t at) {
  size_t first = at;
  for (size_t i = at; i-- > 0 && !ends_group(l->list[i]);)
    if (l->list[i]->op == OP_TILEMMA) first = i;
  return first;
}

/* Groups of warps whose products alternate with long computations take turns: the next one begins
 * its products when those of the one before are done, so that one computes while another
 * multiplies. A barrier of the workgroup in the loop keeps them from overtaking each other; with a
 * ring there is none, and they find their turns themselves. */
static void take_turn(Emitter *e, bool done) {
  unsigned groups = e->linear->block[1], threads = e->linear->block[0];
  if (groups < 2 || groups > 8 || e->linear->block[2] > 1 || e->places) return;
  LLVMValueRef me = llvm_intrinsic(e, "llvm.nvvm.read.ptx.sreg.tid.y", NULL, 0, NULL, 0);
  StrBuf all = {0};
  for (unsigned k = 1; k < groups; k++) /* barrier k is between groups k - 1 and k */
    strbuf_addf(&all, "{\n.reg .pred p;\nsetp.eq.u32 p, $0, %u;\n@p bar.%s %u, %u;\n}\n",
                done ? k - 1 : k, done ? "arrive" : "sync", k, 2 * threads);
  if (all.ptr && !all.failed)
    llvm_assemble(e, LLVMVoidTypeInContext(e->ctx), all.ptr, "r,~{memory}", true, &me, 1);
  else
    llvm_fail(e, e->linear->list[0], "found no memory");
  strbuf_deinit(&all);
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
  const int64_t *step = u->arg.ints.at + (info->held ? 0 : 3 * f);
  int64_t bytes = dtype_info[info->dtype[f]].bytes, row = ROW_BYTES / bytes;
  int64_t apart = (f ? info->n : info->m) > 64 ? step[2] * bytes : PART; /* else there is one */
  *out = (Factor){.turned = step[1] == 1, .apart = apart};
  if (out->turned) return step[0] == row && bytes == 2 && apart % PART == 0;
  return step[0] == 1 && step[1] == row && step[2] == 64 * row;
}

/* The descriptor of the tile where the factor's sources say. */
static LLVMValueRef descriptor(Emitter *e, const UOp *u, unsigned f, const Factor *factor) {
  enum { UNIT = 16, ADDRESS = 0x3fff, LEADING = 16, STRIDE = 32, ORDER = 62 };
  LLVMTypeRef i64 = LLVMInt64TypeInContext(e->ctx);
  const MatrixInfo *info = matrix_info(u->arg.i);
  int64_t shift, bytes = dtype_info[info->dtype[f]].bytes;
  LLVMValueRef at = llvm_element_address(e, u, matrix_source(info, (MatrixOperand)f), &shift);
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

/* Operands of the assembly: the registers of the sum, what the instruction reads, then the sum's
 * registers as they come in, when there is one. */
typedef struct Tiles {
  const MatrixInfo *info;
  Factor factor[2];
  LLVMValueRef in[LLVM_MAX_REGISTERS];
  unsigned nin, held; /* of them those of a factor in registers */
  StrBuf text, reads;
} Tiles;

static void name_registers(StrBuf *b, unsigned first, unsigned n) {
  strbuf_adds(b, "{");
  for (unsigned k = 0; k < n; k++) strbuf_addf(b, "%s$%u", k ? ", " : "", first + k);
  strbuf_adds(b, "}");
}

static bool read_factors(Emitter *e, const UOp *u, Tiles *t) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  for (int f = 0; f < 2; f++) {
    if (!matrix_in_memory(t->info, f)) {
      t->nin = t->held = llvm_registers(e, llvm_value(e, u->src[f]), i32, t->in);
      for (unsigned k = 0; k < t->held; k++) strbuf_adds(&t->reads, ",r");
      continue;
    }
    if (!read_factor(u, (unsigned)f, &t->factor[f])) return false;
    t->in[t->nin++] = descriptor(e, u, (unsigned)f, &t->factor[f]);
    strbuf_adds(&t->reads, ",l");
  }
  return true;
}

/* The four instructions. */
static void write_steps(Tiles *t, unsigned n, bool adds) {
  StrBuf *text = &t->text;
  bool floats = dtype_is_float(t->info->dtype[MATRIX_C]), held = t->info->held;
  strbuf_adds(text, "{\n.reg .b64 a, b;\n");
  for (unsigned k = 0; k < STEPS; k++) {
    for (unsigned f = held, at = n + t->held; f < 2; f++, at++) {
      int64_t by = t->factor[f].turned ? STEP_BYTES / 2 * ROW_BYTES : STEP_BYTES;
      strbuf_addf(text, "add.s64 %c, $%u, %lld;\n", 'a' + (int)f, at, (long long)(k * by / 16));
    }
    strbuf_addf(text, "%s ", t->info->code);
    name_registers(text, 0, n);
    strbuf_adds(text, ", ");
    if (held)
      name_registers(text, n + k * t->held / STEPS, t->held / STEPS);
    else
      strbuf_adds(text, "a");
    strbuf_addf(text, ", b, %d", adds || k);
    if (floats) strbuf_adds(text, ", 1, 1");
    if (dtype_info[t->info->dtype[0]].bytes == 2 && !held)
      strbuf_addf(text, ", %d", t->factor[0].turned);
    if (dtype_info[t->info->dtype[0]].bytes == 2) strbuf_addf(text, ", %d", t->factor[1].turned);
    strbuf_adds(text, ";\n");
  }
  strbuf_adds(text, "}");
}

/* n registers that go out, and come in, too, if there is a value; what is read stands between. */
static LLVMValueRef through(Emitter *e, const UOp *u, LLVMValueRef value, const char *text,
                            const char *reads, const LLVMValueRef *in, unsigned nin) {
  bool floats = dtype_is_float((DType)u->dtype);
  LLVMTypeRef reg = floats ? LLVMFloatTypeInContext(e->ctx) : LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef args[2 * LLVM_MAX_REGISTERS], r = NULL;
  StrBuf operands = {0};
  unsigned n = u->lanes, all = nin;
  assert(n <= LLVM_MAX_REGISTERS && nin <= LLVM_MAX_REGISTERS);
  for (unsigned k = 0; k < n; k++)
    strbuf_addf(&operands, "%s=%c", k ? "," : "", floats ? 'f' : 'r');
  strbuf_adds(&operands, reads);
  for (unsigned k = 0; k < nin; k++) args[k] = in[k];
  if (value) all += llvm_registers(e, value, reg, args + nin);
  for (unsigned k = 0; value && k < n; k++) strbuf_addf(&operands, ",%u", k);
  strbuf_adds(&operands, ",~{memory}");
  if (!operands.failed)
    r = llvm_assemble(e, llvm_results(e, n, reg), text, operands.ptr, true, args, all);
  strbuf_deinit(&operands);
  return r ? llvm_vector_of(e, r, n, reg, llvm_node_type(e, u))
           : llvm_fail(e, u, "found no memory");
}

LLVMValueRef llvm_tile_mma_emit(Emitter *e, const UOp *u) {
  size_t at = position(e->linear, u);
  Tiles t = {.info = matrix_info(u->arg.i)};
  uint32_t last = matrix_source(t.info, MATRIX_C);
  LLVMValueRef sum = u->nsrc > last ? llvm_value(e, u->src[last]) : NULL, r = NULL;
  if (read_factors(e, u, &t)) {
    bool first = first_of_group(e->linear, at) == at;
    if (first && begins_sum(e->linear, at)) take_turn(e, false);
    if (begins_group(e->linear, at)) emit_plain(e, "wgmma.fence.sync.aligned;");
    write_steps(&t, u->lanes, sum != NULL);
    if (!t.text.failed && t.text.ptr && !t.reads.failed && t.reads.ptr)
      r = through(e, u, sum, t.text.ptr, t.reads.ptr, t.in, t.nin);
    if (ends_sum(e->linear, at)) emit_plain(e, "wgmma.commit_group.sync.aligned;");
  }
  strbuf_deinit(&t.text);
  strbuf_deinit(&t.reads);
  return r ? r : llvm_fail(e, u, "has a factor in another order");
}

LLVMValueRef llvm_settle_emit(Emitter *e, const UOp *u) {
  char text[64];
  const Linear *l = e->linear;
  LLVMValueRef v = llvm_value(e, u->src[0]);
  size_t at = position(l, u), first = first_of_group(l, at);
  bool begun = u->src[0]->op == OP_TILEMMA;
  int64_t behind = begun ? sums_between(l, position(l, u->src[0]), at) : 0;
  snprintf(text, sizeof text, "wgmma.wait_group.sync.aligned %d;", (int)u->arg.i);
  if (behind >= u->arg.i)
    v = through(e, u, v, text, "", NULL, 0);
  else
    emit_plain(e, text); /* the instructions go on with the registers */
  if (first < at && begins_sum(l, first)) take_turn(e, true);
  return v;
}
