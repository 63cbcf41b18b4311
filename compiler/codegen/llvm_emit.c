/* Linear program -> LLVM module -> object.
 *
 * One walk over the list builds the function; every node is emitted by the function that its op's
 * row names. Loops are bottom-tested, with a test in front only where the trip count may be zero.
 * REG buffers become SSA values on the way (llvm_build.h, RegSlot), so the module needs no mem2reg;
 * PASSES says what else runs before code generation and why so little.
 *
 * No UOp is made here and nothing longjmps through here: the Status in the emitter is the way out,
 * and llvm_emit frees every LLVM object on all of them. */
#include "compiler/codegen/llvm_emit.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include <llvm-c/Analysis.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <llvm/Config/llvm-config.h>

#include "base/clock.h"
#include "base/ptx.h"
#include "compiler/codegen/llvm_build.h"

/* The range IR has done the loop work already; this folds what the emitter's idioms leave behind
 * (selects of constants, widened 16-bit floats). default<O2> costs several times more and makes
 * explicit vector code no smaller. */
#if LLVM_VERSION_MAJOR >= 18
static const char PASSES[] = "function(early-cse,instcombine<no-verify-fixpoint>,simplifycfg)";
#else
static const char PASSES[] = "function(early-cse,instcombine,simplifycfg)";
#endif

LLVMValueRef llvm_fail(Emitter *e, const UOp *u, const char *what) {
  if (!e->failure) {
    e->failure = FAIL(INTERNAL, "code generation: node %u (%s %s x%u) %s", u->id,
                      op_info[u->op].name, dtype_info[u->dtype].name, u->lanes, what);
  }
  if (u->dtype == DT_VOID || u->dtype >= DT__COUNT) return NULL;
  return LLVMGetPoison(llvm_node_type(e, u));
}

static LLVMValueRef make_ramp(Emitter *e, const UOp *u) {
  DType element = llvm_is_narrow(u) ? DT_I32 : (DType)u->dtype;
  return llvm_ramp(e, llvm_type(e, element, 1), 0, 1, u->lanes);
}

LLVMValueRef llvm_value(Emitter *e, const UOp *u) {
  while (u->op == OP_AFTER) u = u->src[0];
  switch (u->op) {
  case OP_CONST: return llvm_constant(e, u);
  case OP_THREAD: return e->thread;
  case OP_VAR: return e->vars[u->arg.i];
  case OP_RAMP: return make_ramp(e, u);
  default: break;
  }
  bool known = u->id >= e->first_id && u->id - e->first_id < e->nids;
  LLVMValueRef v = known ? e->values[u->id - e->first_id] : NULL;
  return v ? v : llvm_fail(e, u, "is used before it is defined");
}

LLVMValueRef llvm_full_value(Emitter *e, const UOp *u) {
  LLVMValueRef v = llvm_value(e, u);
  return llvm_is_narrow(u) ? llvm_resize(e, v, llvm_type(e, DT_INDEX, u->lanes)) : v;
}

/* -- loops
 * ------------------------------------------------------------------------------------------------
 */

/* The position of the END that closes list[at]; list length when there is none. */
static size_t find_end(const Linear *l, size_t at) {
  for (size_t i = at + 1; i < l->len; i++) {
    const UOp *u = l->list[i];
    if (u->op == OP_END && u->nsrc == 2 && u->src[1] == l->list[at]) return i;
  }
  return l->len;
}

/* A phi for every register slot that is stored to in the loop's body. */
static void loop_phis(Emitter *e, Loop *loop, size_t at, LLVMBasicBlockRef before) {
  for (size_t i = at + 1; i < loop->list_end; i++) {
    const UOp *u = e->linear->list[i];
    RegSlot *slot = u->op == OP_STORE ? llvm_reg_slot(e, u) : NULL;
    if (!slot) continue;
    size_t k = (size_t)(slot - e->slots);
    if (loop->phis[k]) continue;
    if (!slot->value) {
      slot->value = LLVMConstNull(llvm_type(e, (DType)u->src[2]->dtype, u->src[2]->lanes));
    }
    loop->initial[k] = slot->value;
    loop->phis[k] = LLVMBuildPhi(e->b, LLVMTypeOf(slot->value), "acc");
    LLVMAddIncoming(loop->phis[k], &slot->value, &before, 1);
    slot->value = loop->phis[k];
  }
}

/* A GPU divides by a number in ten instructions that wait for each other, and products of a ring
 * wait for them: quotient and rest of a loop's index are counted beside it instead. Other kernels
 * have better use for the registers. */
static void count_division(Emitter *e, Loop *loop, size_t at, LLVMBasicBlockRef before) {
  LLVMTypeRef i64 = LLVMInt64TypeInContext(e->ctx);
  LLVMValueRef zero = llvm_i64(e, 0);
  for (size_t i = at + 1; e->places && i < loop->list_end && !loop->divisor; i++) {
    const UOp *u = e->linear->list[i];
    bool divides = u->op == OP_FLOORDIV || u->op == OP_FLOORMOD;
    if (!divides || u->src[0] != loop->range || !uop_is_const(u->src[1])) continue;
    int64_t d = u->src[1]->arg.i;
    if (d > 2 && d & (d - 1)) loop->divisor = d;
  }
  if (!loop->divisor) return;
  loop->quotient = LLVMBuildPhi(e->b, i64, "quotient");
  loop->rest = LLVMBuildPhi(e->b, i64, "rest");
  LLVMAddIncoming(loop->quotient, &zero, &before, 1);
  LLVMAddIncoming(loop->rest, &zero, &before, 1);
}

static void count_on(Emitter *e, const Loop *loop, LLVMBasicBlockRef latch) {
  if (!loop->divisor) return;
  LLVMValueRef next = LLVMBuildNSWAdd(e->b, loop->rest, llvm_i64(e, 1), "");
  LLVMValueRef full = LLVMBuildICmp(e->b, LLVMIntEQ, next, llvm_i64(e, loop->divisor), "");
  LLVMValueRef one = LLVMBuildZExt(e->b, full, LLVMInt64TypeInContext(e->ctx), "");
  LLVMValueRef quotient = LLVMBuildNSWAdd(e->b, loop->quotient, one, "");
  next = LLVMBuildSelect(e->b, full, llvm_i64(e, 0), next, "");
  LLVMAddIncoming(loop->quotient, &quotient, &latch, 1);
  LLVMAddIncoming(loop->rest, &next, &latch, 1);
}

/* The value of FLOORDIV or FLOORMOD u that is counted; NULL: it is none. */
static LLVMValueRef counted_value(const Emitter *e, const UOp *u) {
  for (size_t k = 0; k < e->nloops; k++) {
    const Loop *l = &e->loops[k];
    if (l->range == u->src[0] && l->divisor && uop_is_int(u->src[1], l->divisor))
      return u->op == OP_FLOORDIV ? l->quotient : l->rest;
  }
  return NULL;
}

static void emit_range(Emitter *e, const UOp *u, size_t at) {
  Loop *loop = &e->loops[e->nloops++];
  *loop = (Loop){.range = u, .list_end = find_end(e->linear, at)};
  loop->phis = arena_array(&e->arena, e->nslots + 1, sizeof(LLVMValueRef));
  loop->initial = arena_array(&e->arena, e->nslots + 1, sizeof(LLVMValueRef));
  if (loop->list_end == e->linear->len || !loop->phis || !loop->initial) {
    llvm_fail(e, u, loop->phis && loop->initial ? "is never closed" : "is one loop too many");
    return;
  }
  LLVMValueRef count = llvm_value(e, u->src[0]);
  LLVMBasicBlockRef before = LLVMGetInsertBlock(e->b);
  loop->header = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "loop");
  loop->exit = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "done");
  if (u->src[0]->vmin >= 1) {
    LLVMBuildBr(e->b, loop->header);
  } else {
    loop->skipped_from = before;
    LLVMValueRef some = LLVMBuildICmp(e->b, LLVMIntSGT, count, llvm_i64(e, 0), "");
    LLVMBuildCondBr(e->b, some, loop->header, loop->exit);
  }
  LLVMPositionBuilderAtEnd(e->b, loop->header);
  LLVMValueRef zero = llvm_i64(e, 0);
  loop->index = LLVMBuildPhi(e->b, LLVMInt64TypeInContext(e->ctx), "i");
  LLVMAddIncoming(loop->index, &zero, &before, 1);
  count_division(e, loop, at, before);
  if (e->role != LLVM_COPIES) loop_phis(e, loop, at, before); /* who copies changes no register */
  e->values[u->id - e->first_id] = loop->index;
}

/* What the slots hold after a loop that may not have run. */
static void merge_skipped(Emitter *e, const Loop *loop, LLVMBasicBlockRef latch) {
  for (size_t k = 0; k < e->nslots; k++) {
    if (!loop->phis[k]) continue;
    LLVMValueRef merged = LLVMBuildPhi(e->b, LLVMTypeOf(loop->initial[k]), "acc");
    LLVMValueRef in[2] = {loop->initial[k], e->slots[k].value};
    LLVMBasicBlockRef from[2] = {loop->skipped_from, latch};
    LLVMAddIncoming(merged, in, from, 2);
    e->slots[k].value = merged;
  }
}

static void emit_end(Emitter *e, const UOp *u) {
  if (e->nloops == 0 || u->nsrc != 2 || e->loops[e->nloops - 1].range != u->src[1]) {
    llvm_fail(e, u, "does not close the innermost open loop");
    return;
  }
  Loop *loop = &e->loops[--e->nloops];
  LLVMValueRef next = LLVMBuildNSWAdd(e->b, loop->index, llvm_i64(e, 1), "");
  LLVMValueRef more = LLVMBuildICmp(e->b, LLVMIntSLT, next, llvm_value(e, loop->range->src[0]), "");
  LLVMBasicBlockRef latch = LLVMGetInsertBlock(e->b);
  count_on(e, loop, latch);
  LLVMBuildCondBr(e->b, more, loop->header, loop->exit);
  LLVMAddIncoming(loop->index, &next, &latch, 1);
  for (size_t k = 0; k < e->nslots; k++) {
    if (loop->phis[k]) LLVMAddIncoming(loop->phis[k], &e->slots[k].value, &latch, 1);
  }
  LLVMMoveBasicBlockAfter(loop->exit, latch);
  LLVMPositionBuilderAtEnd(e->b, loop->exit);
  if (loop->skipped_from) merge_skipped(e, loop, latch);
}

/* -- nodes
 * ------------------------------------------------------------------------------------------------
 */

static LLVMValueRef emit_broadcast(Emitter *e, const UOp *u) {
  LLVMValueRef v = llvm_value(e, u->src[0]);
  if (llvm_is_narrow(u)) v = llvm_resize(e, v, llvm_type(e, DT_I32, 1));
  return llvm_splat(e, v, u->lanes);
}
/* Leaves are made where they are used, buffers where they are accessed. */
static LLVMValueRef emit_nothing(Emitter *e, const UOp *u) {
  (void)e;
  (void)u;
  return NULL;
}

typedef LLVMValueRef (*EmitFn)(Emitter *e, const UOp *u);

static const EmitFn emit_table[OP__COUNT] = {
    [OP_CONST] = emit_nothing,
    [OP_PARAM] = emit_nothing,
    [OP_BUFFER] = emit_nothing,
    [OP_THREAD] = emit_nothing,
    [OP_RAMP] = emit_nothing,
    [OP_AFTER] = emit_nothing,
    [OP_VAR] = emit_nothing,
    [OP_SINK] = emit_nothing,
    [OP_BROADCAST] = emit_broadcast,
    [OP_LOAD] = llvm_load_emit,
    [OP_STORE] = llvm_store_emit,
    [OP_HREDUCE] = llvm_hreduce_emit,
    [OP_CAST] = llvm_cast_emit,
    [OP_BITCAST] = llvm_bitcast_emit,
    [OP_SPECIAL] = llvm_gpu_special,
    [OP_BARRIER] = llvm_gpu_barrier,
    [OP_SHUFFLE] = llvm_shuffle_emit,
    [OP_MMA] = llvm_mma_emit,
    [OP_LDMATRIX] = llvm_ldmatrix_emit,
    [OP_PEER] = llvm_peer_emit,
    [OP_TILEMMA] = llvm_tile_mma_emit,
    [OP_EXCHANGE] = llvm_exchange_emit,
    [OP_SETTLE] = llvm_settle_emit,
    [OP_COPY] = llvm_copy_emit,
    [OP_COMMIT] = llvm_commit_emit,
    [OP_TILECOPY] = llvm_tilecopy_emit,
    [OP_RING] = llvm_ring_event,
    [OP_WAIT] = llvm_wait_emit,
    [OP_PREFETCH] = llvm_prefetch_emit,
};

static void name_value(const UOp *u, LLVMValueRef v) {
  size_t len;
  if (!LLVMIsAInstruction(v) || (LLVMGetValueName2(v, &len), len > 0)) return;
  char name[32];
  size_t n = 0;
  for (const char *c = op_info[u->op].name; *c && n < sizeof name; c++) {
    name[n++] = (char)tolower((unsigned char)*c);
  }
  LLVMSetValueName2(v, name, n);
}

static void emit_node(Emitter *e, const UOp *u, size_t at) {
  if (u->op == OP_RANGE) {
    emit_range(e, u, at);
    return;
  }
  if (u->op == OP_END) {
    emit_end(e, u);
    return;
  }
  if ((u->op == OP_LOAD || e->waits) && e->values[u->id - e->first_id]) return;
  if (u->op == OP_LOAD && !e->gpu && llvm_tile_load(e, u, at)) return;
  if (u->op == OP_STORE && !e->gpu && llvm_tile_store(e, u, at)) return;
  bool divides = u->op == OP_FLOORDIV || u->op == OP_FLOORMOD;
  LLVMValueRef counted = divides ? counted_value(e, u) : NULL;
  if (counted) {
    e->values[u->id - e->first_id] = counted;
    return;
  }
  EmitFn fn = emit_table[u->op];
  if (!fn && (op_info[u->op].flags & OPF_ALU)) fn = llvm_alu_emit;
  if (!fn) {
    llvm_fail(e, u, "has no place in a linear program");
    return;
  }
  LLVMValueRef v = fn(e, u);
  if (!v) return;
  /* Emitters of INDEX values may compute in either width. */
  if (u->dtype == DT_INDEX) v = llvm_resize(e, v, llvm_node_type(e, u));
  e->values[u->id - e->first_id] = v;
  if (e->named) name_value(u, v);
}

/* -- the function
 * ----------------------------------------------------------------------------------------- */

static void add_attribute(Emitter *e, const char *key, const char *value) {
  LLVMAttributeRef a =
      LLVMCreateStringAttribute(e->ctx, key, (unsigned)strlen(key), value, (unsigned)strlen(value));
  LLVMAddAttributeAtIndex(e->fn, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, a);
}

static void make_cpu_function(Emitter *e, const char *entry) {
  LLVMTypeRef ptr = LLVMPointerTypeInContext(e->ctx, 0);
  LLVMTypeRef params[3] = {ptr, LLVMInt64TypeInContext(e->ctx), ptr};
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(e->ctx), params, 3, false);
  e->fn = LLVMAddFunction(e->module, entry, type);
  static const char *const names[3] = {"args", "thread", "scratch"};
  LLVMValueRef *at[3] = {&e->args, &e->thread, &e->scratch};
  for (unsigned k = 0; k < 3; k++) {
    *at[k] = LLVMGetParam(e->fn, k);
    LLVMSetValueName2(*at[k], names[k], strlen(names[k]));
  }
  if (e->target->vector_bytes >= 64) {
    /* Several processors' tuning splits 512-bit vectors unless told otherwise. */
    add_attribute(e, "prefer-vector-width", "512");
    add_attribute(e, "min-legal-vector-width", "512");
  }
}

static void make_function(Emitter *e, const char *entry) {
  if (e->gpu)
    llvm_gpu_function(e, entry);
  else
    make_cpu_function(e, entry);
  if (e->failure) return;
  unsigned nounwind = LLVMGetEnumAttributeKindForName("nounwind", 8);
  LLVMAddAttributeAtIndex(e->fn, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(e->ctx, nounwind, 0));
  add_attribute(e, "target-cpu", e->target->cpu);
  add_attribute(e, "target-features", e->target->features);
  LLVMPositionBuilderAtEnd(e->b, LLVMAppendBasicBlockInContext(e->ctx, e->fn, "entry"));
  if (e->gpu) llvm_gpu_begin(e);
}

static bool emitter_begin(Emitter *e) {
  e->first_id = UINT32_MAX;
  uint32_t last = 0;
  size_t ranges = 0;
  for (size_t i = 0; i < e->linear->len; i++) {
    const UOp *u = e->linear->list[i];
    if (u->id < e->first_id) e->first_id = u->id;
    if (u->id > last) last = u->id;
    ranges += u->op == OP_RANGE;
  }
  e->nids = e->linear->len ? last - e->first_id + 1 : 0;
  e->values = calloc((size_t)e->nids + 1, sizeof *e->values);
  e->loops = arena_array(&e->arena, ranges + 1, sizeof(Loop));
  return e->values && e->loops;
}

/* Whether all workgroups of the launch start with it, two on a processor: those of later waves have
 * no kernel before them to wait for. */
static bool starts_at_once(const Emitter *e) {
  int64_t groups = 1, most = 2 * (int64_t)e->target->threads;
  for (int d = 0; d < 3; d++) {
    const UOp *n = e->linear->grid[d];
    if (n && (!uop_is_const(n) || n->arg.i > most)) return false;
    if (n) groups *= n->arg.i;
  }
  return !most || groups <= most;
}

/* What does not have to wait for the kernel before: loads of what none of those writes, which only
 * the launch knows, argument by argument. As much of it as registers hold without regret. */
static void load_ahead(Emitter *e) {
  enum { MOST_BYTES = 128 };
  const Linear *l = e->linear;
  uint32_t bytes = 0;
  for (uint32_t k = 0; k < l->nargs; k++) {
    bool asked = false;
    for (size_t i = 0; i < l->len && l->list[i]->op != OP_RANGE && bytes < MOST_BYTES; i++) {
      const UOp *u = l->list[i];
      if (!llvm_is_ahead(e, u) || u->src[0]->arg.i != k) continue;
      if (!asked) llvm_gpu_wait_unless_fixed(e, k);
      asked = true;
      emit_node(e, u, i);
      bytes += dtype_info[u->src[0]->dtype].bytes * u->lanes;
    }
  }
}

/* Addresses are computed before the wait for the kernel before this one, as far as they depend on
 * nothing in memory and on no loop, and what will be read there is asked for. */
static void emit_ahead(Emitter *e) {
  enum { MOST_ASKED = 24 };
  const Linear *l = e->linear;
  uint32_t asked = starts_at_once(e) ? 0 : MOST_ASKED;
  for (size_t i = 0; e->waits && i < l->len && l->list[i]->op != OP_RANGE; i++) {
    const UOp *u = l->list[i];
    bool place = u->op == OP_SPECIAL || u->op == OP_PARAM ||
                 (op_info[u->op].flags & OPF_ALU && u->lanes == 1 &&
                  (u->dtype == DT_INDEX || u->dtype == DT_BOOL));
    if (place && llvm_has_sources(e, u)) emit_node(e, u, i);
    if ((u->op == OP_LOAD || u->op == OP_COPY) && asked < MOST_ASKED && !llvm_is_ahead(e, u))
      asked += llvm_ask_ahead(e, u);
  }
  if (!e->places) load_ahead(e); /* before those that copy are told apart there are few registers */
  llvm_gpu_wait(e);
}

static void emit_list(Emitter *e) {
  const Linear *l = e->linear;
  for (size_t i = 0; i < l->len && !e->failure; i++)
    if (!llvm_ring_skips(e, l->list[i])) emit_node(e, l->list[i], i);
}

static Status emit_function(Emitter *e, const char *entry) {
  if (!emitter_begin(e)) return FAIL(RESOURCE_EXHAUSTED, "code generation ran out of memory");
  make_function(e, entry);
  if (!e->failure) llvm_memory_begin(e);
  if (!e->failure && !e->slots)
    return FAIL(RESOURCE_EXHAUSTED, "code generation ran out of memory");
  if (!e->failure && e->gpu) llvm_ring_begin(e);
  if (!e->failure && e->gpu) emit_ahead(e);
  if (!e->failure && e->places)
    llvm_ring_emit(e, emit_list);
  else if (!e->failure)
    emit_list(e);
  if (!e->failure && e->nloops) llvm_fail(e, e->loops[e->nloops - 1].range, "is never closed");
  if (e->failure) {
    Status st = e->failure;
    e->failure = NULL;
    return st;
  }
  LLVMBuildRetVoid(e->b);
  return NULL;
}

/* -- the module
 * ------------------------------------------------------------------------------------------- */

static void on_diagnostic(LLVMDiagnosticInfoRef info, void *ctx) {
  Emitter *e = ctx;
  if (LLVMGetDiagInfoSeverity(info) != LLVMDSError) return;
  if (e->diagnostics++ == 0) {
    char *text = LLVMGetDiagInfoDescription(info);
    snprintf(e->diagnostic, sizeof e->diagnostic, "%s", text);
    LLVMDisposeMessage(text);
  }
}

static void emitter_open(Emitter *e, LLVMTargetMachineRef machine) {
  e->ctx = LLVMContextCreate();
  LLVMContextSetDiagnosticHandler(e->ctx, on_diagnostic, e);
  LLVMContextSetDiscardValueNames(e->ctx, !e->named);
  e->module = LLVMModuleCreateWithNameInContext("kiln", e->ctx);
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(machine);
  LLVMSetModuleDataLayout(e->module, layout);
  LLVMDisposeTargetData(layout);
  LLVMSetTarget(e->module, e->target->triple);
  e->b = LLVMCreateBuilderInContext(e->ctx);
  e->md_scope = LLVMGetMDKindIDInContext(e->ctx, "alias.scope", 11);
  e->md_noalias = LLVMGetMDKindIDInContext(e->ctx, "noalias", 7);
  e->md_invariant = LLVMGetMDKindIDInContext(e->ctx, "invariant.load", 14);
  e->md_empty = LLVMMetadataAsValue(e->ctx, LLVMMDNodeInContext2(e->ctx, NULL, 0));
  e->gpu = llvm_target_is_ptx(e->target);
  e->has_fma = llvm_fuses(e->target);
  e->has_f16c =
      e->gpu || llvm_target_has(e->target, "f16c") || !strncmp(e->target->triple, "aarch64", 7);
}

static void emitter_close(Emitter *e) {
  if (e->b) LLVMDisposeBuilder(e->b);
  if (e->module) LLVMDisposeModule(e->module);
  if (e->ctx) LLVMContextDispose(e->ctx);
  free(e->values);
  arena_deinit(&e->arena);
}

static Status verify_module(Emitter *e) {
  char *text = NULL;
  Status st = NULL;
  if (LLVMVerifyModule(e->module, LLVMReturnStatusAction, &text)) {
    st = FAIL(INTERNAL, "code generation made an invalid module: %s", text);
  }
  LLVMDisposeMessage(text);
  return st;
}

static Status run_passes(Emitter *e, LLVMTargetMachineRef machine) {
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMErrorRef err = LLVMRunPasses(e->module, PASSES, machine, options);
  LLVMDisposePassBuilderOptions(options);
  if (!err) return NULL;
  char *text = LLVMGetErrorMessage(err);
  Status st = FAIL(INTERNAL, "LLVM passes: %s", text);
  LLVMDisposeErrorMessage(text);
  return st;
}

static Status emit_file(Emitter *e, LLVMModuleRef module, LLVMTargetMachineRef machine,
                        LLVMCodeGenFileType type, StrBuf *out) {
  LLVMMemoryBufferRef buffer = NULL;
  char *text = NULL;
  if (LLVMTargetMachineEmitToMemoryBuffer(machine, module, type, &text, &buffer)) {
    Status st = FAIL(INTERNAL, "LLVM code generation: %s", text);
    LLVMDisposeMessage(text);
    return st;
  }
  Str file = {LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer)};
  if (e->gpu)
    ptx_add(out, file);
  else
    strbuf_add(out, file.ptr, file.len);
  LLVMDisposeMemoryBuffer(buffer);
  /* LLVM reports some errors here only and calls the result a success. */
  if (e->diagnostics) return FAIL(INTERNAL, "LLVM code generation: %s", e->diagnostic);
  if (out->failed) return FAIL(RESOURCE_EXHAUSTED, "no memory for an object");
  return NULL;
}

/* Code generation changes the module, so the texts are made first, the assembly from a clone. */
static Status emit_texts(Emitter *e, LLVMTargetMachineRef machine, const char *entry,
                         LlvmOutput *out) {
  const Target *t = e->target;
  char *ir = LLVMPrintModuleToString(e->module);
  strbuf_addf(&out->ir, "; kernel %s for %s, %s; passes %s\n%s", entry, t->cpu, t->triple, PASSES,
              ir);
  LLVMDisposeMessage(ir);
  strbuf_addf(&out->assembly, "# kernel %s for %s, %s\n", entry, t->cpu, t->triple);
  LLVMModuleRef clone = LLVMCloneModule(e->module);
  Status st = emit_file(e, clone, machine, LLVMAssemblyFile, &out->assembly);
  LLVMDisposeModule(clone);
  return st;
}

static Status emit_module(Emitter *e, LLVMTargetMachineRef machine, const char *entry,
                          LlvmOutput *out) {
  int64_t t0 = clock_now_ns();
  TRY(emit_function(e, entry));
  TRY(verify_module(e));
  int64_t t1 = clock_now_ns();
  TRY(run_passes(e, machine));
  int64_t t2 = clock_now_ns();
  out->build_ns = t1 - t0;
  out->passes_ns = t2 - t1;
  if (out->want_text) TRY(emit_texts(e, machine, entry, out));
  int64_t t3 = clock_now_ns();
  LLVMCodeGenFileType kind = e->gpu ? LLVMAssemblyFile : LLVMObjectFile; /* PTX is text */
  TRY(emit_file(e, e->module, machine, kind, &out->object));
  out->codegen_ns = clock_now_ns() - t3;
  return NULL;
}

bool llvm_fuses(const Target *target) {
  return llvm_target_has(target, "fma") || llvm_target_is_ptx(target) ||
         (target->triple && !strncmp(target->triple, "aarch64", 7));
}

Status llvm_emit(const Linear *linear, const char *entry, const Target *target, LlvmOutput *out) {
  LLVMTargetMachineRef machine;
  out->object = out->ir = out->assembly = (StrBuf){0};
  TRY(llvm_target_machine(target, &machine));
  Emitter e = {.linear = linear, .target = target, .named = out->want_text};
  arena_init(&e.arena, 0);
  emitter_open(&e, machine);
  Status st = emit_module(&e, machine, entry, out);
  emitter_close(&e);
  return st;
}

void llvm_output_deinit(LlvmOutput *out) {
  strbuf_deinit(&out->object);
  strbuf_deinit(&out->ir);
  strbuf_deinit(&out->assembly);
}
