/* Tiles that a warp of its own copies (TILECOPY), and what it and the others wait for (RING).
 *
 * The kernel is emitted twice over: for the threads behind the others what leads to TILECOPYs, and
 * for the others everything else. Each goes through the same loops. In between are two barriers in
 * memory for each place of the ring: one that counts the bytes that have arrived there, and one
 * that counts the warps that have left it. A place's n-th use is told by the parity of n, because
 * nobody can be two uses ahead.
 *
 * The hardware that copies takes the source as a map: a parameter of the kernel that the launch
 * makes (devices/cuda_maps.c) of the buffer's address and what the global `maps` of the module
 * says. One thread asks for a copy; rows of 128 bytes are turned on the way as the matrix
 * instructions want them (order_pieces in llvm_memory.c). */
#include <assert.h>
#include <stdio.h>

#include "compiler/codegen/llvm_build.h"
#include "compiler/ir/matrix.h"
#include "compiler/ir/tilecopy.h"

enum { WARP = 32, BARRIER_BYTES = 8, MAP_BYTES = 128, MAP_ALIGN = 64, SHARED = 3, GLOBAL = 1 };

static LLVMTypeRef i32_type(const Emitter *e) { return LLVMInt32TypeInContext(e->ctx); }
static LLVMTypeRef i64_type(const Emitter *e) { return LLVMInt64TypeInContext(e->ctx); }
static LLVMTypeRef void_type(const Emitter *e) { return LLVMVoidTypeInContext(e->ctx); }

/* -- maps ---------------------------------------------------------------------------------------
 */

static bool same_map(const UOp *a, const UOp *b) {
  return a->src[2] == b->src[2] && a->arg.ints.n == b->arg.ints.n &&
         !memcmp(a->arg.ints.at, b->arg.ints.at, a->arg.ints.n * sizeof *a->arg.ints.at);
}

static uint32_t map_of(const Emitter *e, const UOp *u) {
  uint32_t k = 0;
  while (k < e->nmaps && !same_map(e->maps[k], u)) k++;
  return k;
}

/* For each: the argument, bytes of an element, axes, then by axis the box, the sizes and the steps
 * in elements. */
static void describe_maps(Emitter *e) {
  enum { NUMBERS = 3 + 3 * TILE_AXES };
  LLVMTypeRef i64 = i64_type(e), type = LLVMArrayType2(i64, (uint64_t)e->nmaps * NUMBERS);
  LLVMValueRef *all = arena_array(&e->arena, (size_t)e->nmaps * NUMBERS, sizeof *all);
  for (uint32_t k = 0; all && k < e->nmaps; k++) {
    const UOp *u = e->maps[k];
    TileCopy t = tilecopy_of(u);
    LLVMValueRef *to = all + (size_t)k * NUMBERS;
    *to++ = llvm_i64(e, u->src[2]->arg.i);
    *to++ = llvm_i64(e, dtype_info[u->src[2]->dtype].bytes);
    *to++ = llvm_i64(e, t.axes);
    const int64_t *of[3] = {t.box, t.size, t.step};
    for (int i = 0; i < 3; i++)
      for (uint32_t d = 0; d < TILE_AXES; d++) *to++ = llvm_i64(e, d < t.axes ? of[i][d] : 0);
  }
  if (!all) return;
  LLVMValueRef maps = LLVMAddGlobalInAddressSpace(e->module, type, "maps", GLOBAL);
  LLVMSetInitializer(maps, LLVMConstArray2(i64, all, (uint64_t)e->nmaps * NUMBERS));
  LLVMSetGlobalConstant(maps, true);
  LLVMSetAlignment(maps, 8);
}

void llvm_ring_find(Emitter *e) {
  const Linear *l = e->linear;
  e->maps = arena_array(&e->arena, l->len + 1, sizeof *e->maps);
  if (!e->maps) return;
  for (size_t i = 0; i < l->len; i++) {
    const UOp *u = l->list[i];
    if (u->op == OP_RING) e->places = (uint32_t)u->arg.ints.at[0];
    if (u->op == OP_TILECOPY && map_of(e, u) == e->nmaps) e->maps[e->nmaps++] = u;
  }
  if (e->nmaps) describe_maps(e);
}

/* Parameters first to first + nmaps - 1 are maps, by value; they stay where the launch put them. */
void llvm_ring_parameters(Emitter *e, unsigned first) {
  LLVMTypeRef i32 = i32_type(e), bytes = LLVMArrayType2(LLVMInt8TypeInContext(e->ctx), MAP_BYTES);
  LLVMMetadataRef *at = arena_array(&e->arena, e->nmaps + 1u, sizeof *at);
  if (!e->nmaps || !at) return;
  unsigned byval = LLVMGetEnumAttributeKindForName("byval", 5);
  unsigned align = LLVMGetEnumAttributeKindForName("align", 5);
  static const char constant[] = "nvvm.grid_constant"; /* from LLVM 21 on */
  for (unsigned k = 0; k < e->nmaps; k++) {
    LLVMAttributeIndex param = first + k + 1;
    LLVMAddAttributeAtIndex(e->fn, param, LLVMCreateTypeAttribute(e->ctx, byval, bytes));
    LLVMAddAttributeAtIndex(e->fn, param, LLVMCreateEnumAttribute(e->ctx, align, MAP_ALIGN));
    LLVMAddAttributeAtIndex(
        e->fn, param, LLVMCreateStringAttribute(e->ctx, constant, sizeof constant - 1, "", 0));
    at[k] = LLVMValueAsMetadata(LLVMConstInt(i32, param, false));
  }
  LLVMMetadataRef part[3] = {LLVMValueAsMetadata(e->fn),
                             LLVMMDStringInContext2(e->ctx, "grid_constant", 13),
                             LLVMMDNodeInContext2(e->ctx, at, e->nmaps)};
  LLVMMetadataRef node = LLVMMDNodeInContext2(e->ctx, part, 3);
  LLVMAddNamedMetadataOperand(e->module, "nvvm.annotations", LLVMMetadataAsValue(e->ctx, node));
  e->first_map = first;
}

/* -- who does what ------------------------------------------------------------------------------
 */

static uint32_t workers(const Emitter *e) {
  const uint32_t *b = e->linear->block;
  return b[0] * b[1] * b[2];
}

/* The number of a thread in a launch of one dimension. */
LLVMValueRef llvm_ring_thread(Emitter *e) {
  return llvm_intrinsic(e, "llvm.nvvm.read.ptx.sreg.tid.x", NULL, 0, NULL, 0);
}

/* tid.x, y or z of the workgroup as the program knows it. */
LLVMValueRef llvm_ring_special(Emitter *e, unsigned dim) {
  LLVMTypeRef i32 = i32_type(e);
  const uint32_t *b = e->linear->block;
  LLVMValueRef at = llvm_ring_thread(e);
  uint32_t below = dim > 1 ? b[0] * b[1] : dim ? b[0] : 1;
  if (below > 1) at = LLVMBuildUDiv(e->b, at, llvm_int(e, i32, below), "");
  return dim < 2 ? LLVMBuildURem(e->b, at, llvm_int(e, i32, b[dim]), "") : at;
}

static void need(Emitter *e, const UOp *u);

static void need_loop(Emitter *e, const UOp *range) {
  const Linear *l = e->linear;
  need(e, range);
  for (size_t i = 0; i < l->len; i++)
    if (l->list[i]->op == OP_END && l->list[i]->src[1] == range)
      e->for_copies[l->list[i]->id - e->first_id] = true;
}

/* Who copies has to know u, and what it is computed from. */
static void need(Emitter *e, const UOp *u) {
  if (u->id < e->first_id || u->id - e->first_id >= e->nids) return;
  bool *known = &e->for_copies[u->id - e->first_id];
  if (*known || u->op == OP_PARAM || u->op == OP_BUFFER || u->op == OP_AFTER) return;
  *known = true;
  uint32_t n = u->op == OP_RING ? 2 : u->nsrc;
  for (uint32_t s = 0; s < n; s++) need(e, u->src[s]);
  for (uint32_t k = 0; u->op != OP_RANGE && u->open && k < u->open->n; k++)
    if (!e->for_copies[u->open->at[k]->id - e->first_id]) need_loop(e, u->open->at[k]);
}

static bool is_of_copies(const UOp *u) {
  return u->op == OP_TILECOPY || (u->op == OP_RING && u->arg.i == RING_FREE);
}

bool llvm_ring_skips(const Emitter *e, const UOp *u) {
  if (e->role == LLVM_COPIES) return !e->for_copies[u->id - e->first_id];
  return e->role == LLVM_REST && is_of_copies(u);
}

/* -- barriers in memory -------------------------------------------------------------------------
 */

static void say(Emitter *e, const char *text, const char *operands, LLVMValueRef *args,
                unsigned n) {
  llvm_assemble(e, void_type(e), text, operands, true, args, n);
}

/* That of a place: of bytes that arrive there, or of warps that leave it. */
static LLVMValueRef barrier_at(Emitter *e, LLVMValueRef place, bool left) {
  LLVMTypeRef i32 = i32_type(e);
  place = LLVMBuildTrunc(e->b, place, i32, "");
  LLVMValueRef at = LLVMBuildMul(e->b, place, llvm_int(e, i32, BARRIER_BYTES), "");
  at = LLVMBuildAdd(e->b, at, e->ring, "");
  if (!left) return at;
  return LLVMBuildAdd(e->b, at, llvm_int(e, i32, (int64_t)e->places * BARRIER_BYTES), "");
}

/* Until the phase of that parity is over. */
static void wait_for(Emitter *e, LLVMValueRef barrier, LLVMValueRef parity) {
  LLVMValueRef args[2] = {barrier, parity};
  say(e,
      "{\n.reg .pred p;\nagain_${:uid}:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [$0], $1;\n"
      "@p bra done_${:uid};\nbra again_${:uid};\ndone_${:uid}:\n}",
      "r,r,~{memory}", args, 2);
}

static LLVMValueRef parity_of(Emitter *e, const UOp *turn, bool before) {
  LLVMTypeRef i32 = i32_type(e);
  LLVMValueRef v = LLVMBuildTrunc(e->b, llvm_value(e, turn), i32, "");
  v = LLVMBuildAnd(e->b, v, llvm_int(e, i32, 1), "");
  return before ? LLVMBuildXor(e->b, v, llvm_int(e, i32, 1), "") : v;
}

/* What one thread does before all others: barriers are made, and maps fetched. */
static void begin_ring(Emitter *e) {
  StrBuf text = {0};
  for (uint32_t k = 0; k < 2 * e->places; k++)
    strbuf_addf(&text, "mbarrier.init.shared::cta.b64 [$0 + %u], %u;\n", k * BARRIER_BYTES,
                k < e->places ? 1 : workers(e) / WARP);
  strbuf_adds(&text, "fence.mbarrier_init.release.cluster;");
  if (!text.failed && text.ptr) say(e, text.ptr, "r,~{memory}", &e->ring, 1);
  strbuf_deinit(&text);
  for (uint32_t k = 0; k < e->nmaps; k++) {
    LLVMValueRef map = LLVMGetParam(e->fn, e->first_map + k);
    map = LLVMBuildPtrToInt(e->b, map, i64_type(e), "");
    say(e, "prefetch.tensormap [$0];", "l,~{memory}", &map, 1);
  }
}

void llvm_ring_begin(Emitter *e) {
  LLVMTypeRef i32 = i32_type(e);
  if (!e->places) return;
  LLVMValueRef all = llvm_gpu_given(e, 2 * (uint64_t)e->places * BARRIER_BYTES);
  e->ring = llvm_shared_address(e, all);
  LLVMBasicBlockRef first = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "first");
  LLVMBasicBlockRef begun = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "begun");
  LLVMValueRef zero = llvm_int(e, i32, 0);
  LLVMValueRef is_first = LLVMBuildICmp(e->b, LLVMIntEQ, llvm_ring_thread(e), zero, "");
  LLVMBuildCondBr(e->b, is_first, first, begun);
  LLVMPositionBuilderAtEnd(e->b, first);
  begin_ring(e);
  LLVMBuildBr(e->b, begun);
  LLVMPositionBuilderAtEnd(e->b, begun);
  say(e, "bar.sync $0;", "n,~{memory}", &zero, 1);
}

/* -- the two programs ---------------------------------------------------------------------------
 */

static bool find_needs(Emitter *e) {
  const Linear *l = e->linear;
  e->for_copies = arena_array(&e->arena, (size_t)e->nids + 1, sizeof *e->for_copies);
  if (!e->for_copies) return false;
  for (size_t i = 0; i < l->len; i++) {
    const UOp *u = l->list[i];
    if (!is_of_copies(u)) continue;
    e->for_copies[u->id - e->first_id] = true;
    for (uint32_t s = 0; s < (u->op == OP_RING ? 2 : u->nsrc); s++)
      if (u->op == OP_RING || (s != 0 && s != 2)) need(e, u->src[s]);
    for (uint32_t k = 0; u->open && k < u->open->n; k++) need_loop(e, u->open->at[k]);
  }
  return true;
}

/* Threads have as many registers each as there are at the launch; those that copy need few, and
 * where they are a group of warps they leave the others theirs. */
static void share_registers(Emitter *e, bool copies) {
  enum { GROUP = 128 };
  char text[64];
  if (e->linear->copiers != GROUP) return;
  unsigned n = copies ? COPIER_REGISTERS : matrix_registers_given(workers(e) / GROUP);
  snprintf(text, sizeof text, "setmaxnreg.%s.sync.aligned.u32 %u;", copies ? "dec" : "inc", n);
  say(e, text, "~{memory}", NULL, 0);
}

/* One thread behind the others copies. */
void llvm_ring_emit(Emitter *e, void (*emit)(Emitter *e)) {
  LLVMTypeRef i32 = i32_type(e);
  size_t bytes = ((size_t)e->nids + 1) * sizeof *e->values;
  LLVMValueRef *values = arena_alloc(&e->arena, bytes);
  if (!values || !find_needs(e)) {
    e->failure = FAIL(RESOURCE_EXHAUSTED, "code generation ran out of memory");
    return;
  }
  LLVMBasicBlockRef copies = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "copies");
  LLVMBasicBlockRef out = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "out");
  LLVMBasicBlockRef other = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "other");
  LLVMBasicBlockRef rest = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "rest");
  LLVMValueRef thread = llvm_ring_thread(e), first = llvm_int(e, i32, workers(e));
  LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntULT, thread, first, ""), rest, other);
  LLVMPositionBuilderAtEnd(e->b, other);
  share_registers(e, true);
  LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntEQ, thread, first, ""), copies, out);
  LLVMPositionBuilderAtEnd(e->b, out);
  LLVMBuildRetVoid(e->b);
  memcpy(values, e->values, bytes);
  LLVMPositionBuilderAtEnd(e->b, copies);
  e->role = LLVM_COPIES;
  emit(e);
  LLVMBuildBr(e->b, out);
  memcpy(e->values, values, bytes);
  LLVMPositionBuilderAtEnd(e->b, rest);
  e->role = LLVM_REST;
  share_registers(e, false);
  emit(e);
}

/* -- nodes --------------------------------------------------------------------------------------
 */

/* All but those that copy; the barriers with low numbers are for taking turns (llvm_tile_mma.c). */
void llvm_ring_barrier(Emitter *e) {
  enum { LAST = 15 };
  LLVMTypeRef i32 = i32_type(e);
  LLVMValueRef args[2] = {llvm_int(e, i32, LAST), llvm_int(e, i32, workers(e))};
  say(e, "bar.sync $0, $1;", "n,n,~{memory}", args, 2);
}

/* Bytes that come to a place at a time. */
static int64_t bytes_of_place(const Emitter *e) {
  for (size_t i = 0; i < e->linear->len; i++) {
    const UOp *u = e->linear->list[i];
    if (u->op == OP_RING && u->arg.i == RING_FILLED) return u->arg.ints.at[1];
  }
  return 0;
}

static void leave_place(Emitter *e, const UOp *u) {
  LLVMTypeRef i32 = i32_type(e);
  LLVMValueRef lane = LLVMBuildAnd(e->b, llvm_ring_thread(e), llvm_int(e, i32, WARP - 1), "");
  LLVMValueRef first = LLVMBuildICmp(e->b, LLVMIntEQ, lane, llvm_int(e, i32, 0), "");
  first = LLVMBuildAnd(e->b, first, llvm_value(e, u->src[1]), "");
  LLVMValueRef args[2] = {barrier_at(e, llvm_value(e, u->src[0]), true),
                          LLVMBuildZExt(e->b, first, i32, "")};
  say(e, "{\n.reg .pred p;\nsetp.ne.u32 p, $1, 0;\n@p mbarrier.arrive.shared::cta.b64 _, [$0];\n}",
      "r,r,~{memory}", args, 2);
}

LLVMValueRef llvm_ring_event(Emitter *e, const UOp *u) {
  if (u->arg.i == RING_LEFT) return leave_place(e, u), NULL;
  LLVMValueRef place = llvm_value(e, u->src[0]), filled = barrier_at(e, place, false);
  if (u->arg.i == RING_FILLED) {
    if (e->role == LLVM_REST) wait_for(e, filled, parity_of(e, u->src[1], false));
    return NULL;
  }
  wait_for(e, barrier_at(e, place, true), parity_of(e, u->src[1], true));
  LLVMValueRef args[2] = {filled, llvm_int(e, i32_type(e), bytes_of_place(e))};
  say(e, "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r,~{memory}", args, 2);
  return NULL;
}

LLVMValueRef llvm_tilecopy_emit(Emitter *e, const UOp *u) {
  TileCopy t = tilecopy_of(u);
  const UOp *free = u->src[0]->op == OP_AFTER ? u->src[0]->src[1] : NULL;
  if (!free || free->op != OP_RING) return llvm_fail(e, u, "is of no ring");
  LLVMTypeRef i32 = i32_type(e);
  LLVMValueRef args[3 + TILE_AXES];
  int64_t shift;
  LLVMValueRef to = llvm_element_address(e, u, 0, &shift);
  to = llvm_shared_address(e, to);
  int64_t item = dtype_info[u->src[2]->dtype].bytes;
  args[0] = LLVMBuildAdd(e->b, to, llvm_int(e, i32, shift * item), "");
  LLVMValueRef map = LLVMGetParam(e->fn, e->first_map + map_of(e, u));
  args[1] = LLVMBuildPtrToInt(e->b, map, i64_type(e), "");
  args[2] = barrier_at(e, llvm_value(e, free->src[0]), false);
  char text[256], operands[64] = "r,l,r", list[64] = "";
  for (uint32_t d = 0; d < t.axes; d++) {
    args[3 + d] = LLVMBuildTrunc(e->b, llvm_value(e, u->src[3 + d]), i32, "");
    size_t at = strlen(list);
    snprintf(list + at, sizeof list - at, "%s$%u", d ? ", " : "", 3 + d);
    strcat(operands, ",r");
  }
  strcat(operands, ",~{memory}");
  snprintf(text, sizeof text,
           "cp.async.bulk.tensor.%ud.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
           "[$0], [$1, {%s}], [$2];",
           t.axes, list);
  say(e, text, operands, args, 3 + t.axes);
  return NULL;
}
