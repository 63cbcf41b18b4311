/* LOAD, STORE and the storage behind them.
 *
 * PARAMs are pointers loaded from the argument array, LOCAL buffers are places in the scratch
 * memory, REG buffers are not memory at all (see RegSlot). Every buffer is its own alias scope, so
 * LLVM may move accesses to one past accesses to another.
 *
 * The rule for gates: a lane whose gate is false never touches memory at its own index. Loads with
 * a scalar gate read index 0 instead and drop the value, which needs no branch; vector gates use
 * masked accesses; stores with a scalar gate branch. */
#include <assert.h>
#include <stdio.h>

#include "compiler/codegen/llvm_build.h"
#include "compiler/codegen/llvm_emit.h"
#include "compiler/ir/dim.h"
#include "compiler/ir/matrix.h"

/* One access, resolved. */
typedef struct Access {
  Emitter *e;
  const UOp *u;
  DType dtype;
  unsigned lanes, align; /* of an element, in bytes */
  unsigned unit;         /* elements: the index is a multiple of them, counted from memory that is
                            aligned to as many */
  int64_t stride, elements; /* at least so many */
  bool empty;               /* none at all */
  LLVMTypeRef element;      /* in memory */
  LLVMValueRef base, scopes, noalias;
  bool constant; /* memory that the kernel never writes */
  LLVMValueRef index, gate;
  int64_t shift; /* constant part of the index, beside `index`; 0 for gated accesses */
  bool vector_gate;
} Access;

static const UOp *buffer_of(const UOp *u) {
  while (u->op == OP_AFTER) u = u->src[0];
  return u;
}

static LocalBuffer *find_local(Emitter *e, const UOp *buffer) {
  for (size_t i = 0; i < e->nlocals; i++) {
    if (e->locals[i].node == buffer) return &e->locals[i];
  }
  return NULL;
}

/* -- storage
 * ---------------------------------------------------------------------------------------------- */

static bool is_access(const UOp *u) {
  return u->op == OP_LOAD || u->op == OP_STORE || u->op == OP_LDMATRIX || u->op == OP_COPY ||
         u->op == OP_TILECOPY || u->op == OP_TILEMMA;
}
static bool is_reg(const UOp *buffer) { return buffer->arg.ints.at[1] == 1; }

static uint64_t local_bytes(const UOp *buffer) {
  uint64_t item = dtype_info[buffer->dtype].bytes;
  return ((uint64_t)buffer->arg.ints.at[0] * item + 63) / 64 * 64;
}

uint64_t llvm_scratch_bytes(const Linear *linear) {
  uint64_t total = 0;
  for (size_t i = 0; i < linear->len; i++) {
    const UOp *u = linear->list[i];
    if (!is_access(u)) continue;
    const UOp *buffer = buffer_of(u->src[0]);
    if (buffer->op != OP_BUFFER || is_reg(buffer)) continue;
    bool seen = false;
    for (size_t j = 0; j < i && !seen; j++) {
      const UOp *v = linear->list[j];
      seen = is_access(v) && buffer_of(v->src[0]) == buffer;
    }
    if (!seen) total += local_bytes(buffer);
  }
  return total;
}

static void note_param(Emitter *e, const UOp *access, const UOp *param) {
  int64_t k = param->arg.i;
  if (k < 0 || k >= e->linear->nargs) {
    llvm_fail(e, access, "names an argument that the kernel does not have");
    return;
  }
  e->params[k].node = param;
  if (access->op == OP_STORE) e->params[k].written = true;
}

static void note_buffer(Emitter *e, const UOp *buffer, uint64_t *offset) {
  if (find_local(e, buffer)) return;
  LocalBuffer *l = &e->locals[e->nlocals++];
  l->node = buffer;
  l->reg = is_reg(buffer);
  if (l->reg) {
    l->first_slot = e->nslots;
    e->nslots += (size_t)buffer->arg.ints.at[0];
    return;
  }
  if (e->gpu) {
    l->base = llvm_gpu_buffer(e, buffer);
    return;
  }
  LLVMTypeRef i8 = LLVMInt8TypeInContext(e->ctx);
  LLVMValueRef at = llvm_i64(e, (int64_t)*offset);
  l->base = LLVMBuildInBoundsGEP2(e->b, i8, e->scratch, &at, 1, "local");
  *offset += local_bytes(buffer);
}

/* The scope of each buffer that is memory, and for each the list of all others. */
static void make_scopes(Emitter *e) {
  size_t n = e->linear->nargs + e->nlocals, count = 0;
  LLVMMetadataRef *scope = arena_array(&e->arena, n + 1, sizeof(LLVMMetadataRef));
  LLVMMetadataRef *others = arena_array(&e->arena, n + 1, sizeof(LLVMMetadataRef));
  if (!scope || !others) return;
  LLVMMetadataRef name = LLVMMDStringInContext2(e->ctx, "kiln", 4);
  LLVMMetadataRef domain = LLVMMDNodeInContext2(e->ctx, &name, 1);
  for (size_t i = 0; i < n; i++) {
    bool used = i < e->linear->nargs ? e->params[i].node != NULL
                                     : e->locals[i - e->linear->nargs].base != NULL;
    if (!used) continue;
    char text[32];
    int len = snprintf(text, sizeof text, "buffer%zu", i);
    LLVMMetadataRef pair[2] = {LLVMMDStringInContext2(e->ctx, text, (size_t)len), domain};
    scope[i] = LLVMMDNodeInContext2(e->ctx, pair, 2);
    count++;
  }
  if (count < 2) return;
  for (size_t i = 0; i < n; i++) {
    if (!scope[i]) continue;
    size_t m = 0;
    for (size_t j = 0; j < n; j++) {
      if (j != i && scope[j]) others[m++] = scope[j];
    }
    LLVMValueRef self = LLVMMetadataAsValue(e->ctx, LLVMMDNodeInContext2(e->ctx, &scope[i], 1));
    LLVMValueRef rest = LLVMMetadataAsValue(e->ctx, LLVMMDNodeInContext2(e->ctx, others, m));
    if (i < e->linear->nargs) {
      e->params[i].scopes = self;
      e->params[i].noalias = rest;
    } else {
      e->locals[i - e->linear->nargs].scopes = self;
      e->locals[i - e->linear->nargs].noalias = rest;
    }
  }
}

/* Entry k of the argument array: a buffer's address. */
static LLVMValueRef load_argument(Emitter *e, uint32_t k) {
  if (e->gpu) return llvm_gpu_argument(e, k);
  LLVMTypeRef ptr = LLVMPointerTypeInContext(e->ctx, 0);
  LLVMValueRef at = llvm_i64(e, k);
  LLVMValueRef slot = LLVMBuildInBoundsGEP2(e->b, ptr, e->args, &at, 1, "");
  LLVMValueRef v = LLVMBuildLoad2(e->b, ptr, slot, "arg");
  LLVMSetMetadata(v, e->md_invariant, e->md_empty);
  return v;
}

/* Behind the buffers stand the addresses of the VARs' values. */
static void load_vars(Emitter *e) {
  if (e->gpu) return; /* they are parameters */
  e->vars = arena_array(&e->arena, e->linear->nvars + 1u, sizeof(LLVMValueRef));
  for (size_t i = 0; e->vars && i < e->linear->len; i++) {
    const UOp *u = e->linear->list[i];
    if (u->op != OP_VAR || e->vars[u->arg.i]) continue;
    LLVMValueRef at = load_argument(e, e->linear->nargs + (uint32_t)u->arg.i);
    LLVMValueRef v = LLVMBuildLoad2(e->b, LLVMInt64TypeInContext(e->ctx), at, "var");
    LLVMSetMetadata(v, e->md_invariant, e->md_empty);
    e->vars[u->arg.i] = v;
  }
}

static void note_storage(Emitter *e, const UOp *u, const UOp *buffer, uint64_t *offset) {
  if (buffer->op == OP_PARAM) {
    note_param(e, u, buffer);
  } else if (buffer->op == OP_BUFFER) {
    note_buffer(e, buffer, offset);
  } else {
    llvm_fail(e, u, "accesses something that is no buffer");
  }
}

void llvm_memory_begin(Emitter *e) {
  uint64_t offset = 0;
  size_t accesses = 0;
  for (size_t i = 0; i < e->linear->len; i++) accesses += is_access(e->linear->list[i]);
  e->locals = arena_array(&e->arena, 2 * accesses + 1, sizeof(LocalBuffer));
  e->params = arena_array(&e->arena, (size_t)e->linear->nargs + 1, sizeof(ParamBuffer));
  if (!e->locals || !e->params) return;
  for (size_t i = 0; i < e->linear->len; i++) {
    const UOp *u = e->linear->list[i];
    if (!is_access(u)) continue;
    bool tiles = u->op == OP_TILEMMA;
    for (int f = 0; tiles && f < 2; f++)
      if (matrix_in_memory(matrix_info(u->arg.i), f))
        note_storage(e, u,
                     buffer_of(u->src[matrix_source(matrix_info(u->arg.i), (MatrixOperand)f)]),
                     &offset);
    if (!tiles) note_storage(e, u, buffer_of(u->src[0]), &offset);
    if (u->op == OP_COPY || u->op == OP_TILECOPY) note_storage(e, u, buffer_of(u->src[2]), &offset);
    e->tiles |= tiles;
  }
  if (offset > e->linear->scratch_bytes && !e->failure) {
    e->failure =
        FAIL(INTERNAL, "local buffers need %llu bytes of scratch, the program declares %llu",
             (unsigned long long)offset, (unsigned long long)e->linear->scratch_bytes);
  }
  e->slots = arena_array(&e->arena, e->nslots + 1, sizeof(RegSlot));
  for (uint32_t k = 0; k < e->linear->nargs; k++)
    if (e->params[k].node) e->params[k].base = load_argument(e, k);
  load_vars(e);
  make_scopes(e);
}

/* -- registers
 * --------------------------------------------------------------------------------------------- */

RegSlot *llvm_reg_slot(Emitter *e, const UOp *access) {
  const UOp *buffer = buffer_of(access->src[0]);
  if (buffer->op != OP_BUFFER || !is_reg(buffer)) return NULL;
  const LocalBuffer *l = find_local(e, buffer);
  const UOp *index = access->src[1];
  if (!uop_is_const(index) || index->arg.i < 0 || index->arg.i >= buffer->arg.ints.at[0]) {
    llvm_fail(e, access, "accesses registers at an index that is not a constant inside them");
    return &e->slots[l->first_slot];
  }
  return &e->slots[l->first_slot + (size_t)index->arg.i];
}

static LLVMTypeRef slot_type(Emitter *e, const UOp *access) {
  const UOp *buffer = buffer_of(access->src[0]);
  return llvm_type(e, (DType)buffer->dtype, buffer->lanes);
}

static LLVMValueRef reg_load(Emitter *e, const UOp *u, const RegSlot *slot) {
  LLVMTypeRef type = slot_type(e, u);
  if (type != llvm_type(e, (DType)u->dtype, u->lanes)) {
    return llvm_fail(e, u, "has other lanes than the registers it reads");
  }
  return slot->value ? slot->value : LLVMConstNull(type);
}

static void reg_store(Emitter *e, const UOp *u, RegSlot *slot) {
  LLVMTypeRef type = slot_type(e, u);
  LLVMValueRef v = llvm_full_value(e, u->src[2]);
  if (LLVMTypeOf(v) != type) {
    llvm_fail(e, u, "has other lanes than the registers it writes");
    return;
  }
  if (u->nsrc > 3) {
    LLVMValueRef old = slot->value ? slot->value : LLVMConstNull(type);
    v = LLVMBuildSelect(e->b, llvm_value(e, u->src[3]), v, old, "");
  }
  slot->value = v;
}

/* -- addresses
 * ---------------------------------------------------------------------------------------------- */

/* In a buffer of rows of 128 bytes for matrix instructions the pieces of 16 bytes of row r stand in
 * the order 0 ^ r, 1 ^ r, ... mod 8: a column of pieces then lies in all banks. The place of an
 * element by its index; what is a multiple of eight rows stays in the shift. */
static void order_pieces(Access *a, unsigned lanes) {
  enum { PIECES = 8, PIECE = 16 };
  Emitter *e = a->e;
  int64_t piece = PIECE / dtype_info[a->dtype].bytes, row = PIECES * piece;
  if (lanes > 1 && (a->stride != 1 || lanes > piece || lanes * a->align > a->unit * a->align))
    llvm_fail(e, a->u, "is no part of a piece of its buffer");
  if (a->shift % (PIECES * row)) {
    a->index = LLVMBuildAdd(e->b, a->index, llvm_i64(e, a->shift), "");
    a->shift = 0;
  }
  LLVMValueRef by = LLVMBuildUDiv(e->b, a->index, llvm_i64(e, row), "");
  by = LLVMBuildAnd(e->b, by, llvm_i64(e, PIECES - 1), "");
  by = LLVMBuildMul(e->b, by, llvm_i64(e, piece), "");
  a->index = LLVMBuildXor(e->b, a->index, by, "");
}

/* The access to src[at + 1] of buffer src[at]. */
static Access resolve_at(Emitter *e, const UOp *u, uint32_t at, unsigned lanes, int64_t stride,
                         const UOp *gate) {
  const UOp *buffer = buffer_of(u->src[at]);
  Access a = {.e = e,
              .u = u,
              .dtype = (DType)buffer->dtype,
              .lanes = lanes,
              .align = 1,
              .unit = 1,
              .stride = stride,
              .elements = dim_low(buffer->arg.ints.at[0]),
              .empty = dim_high(buffer->arg.ints.at[0]) < 1};
  a.element = llvm_memory_type(e, a.dtype, 1);
  bool of_vectors = buffer->op == OP_BUFFER && buffer->lanes > 1;
  if (e->gpu) { /* which takes unaligned data byte by byte */
    a.align = dtype_info[a.dtype].bytes;
    a.unit = llvm_gpu_unit(e, u->src[at + 1], buffer);
  }
  if (buffer->op == OP_PARAM) {
    const ParamBuffer *p = &e->params[buffer->arg.i];
    a.base = p->base, a.scopes = p->scopes, a.noalias = p->noalias;
    a.constant = !p->written && !e->waits;
  } else {
    const LocalBuffer *l = find_local(e, buffer);
    a.base = l->base, a.scopes = l->scopes, a.noalias = l->noalias;
    a.align = dtype_info[a.dtype].bytes;
  }
  const UOp *index = u->src[at + 1];
  /* The constant goes into the instruction's displacement, and neighbours share the rest. */
  while (!gate && index->lanes == 1 && index->op == OP_ADD && uop_is_const(index->src[1])) {
    int64_t shift;
    if (__builtin_add_overflow(a.shift, index->src[1]->arg.i, &shift)) break;
    a.shift = shift;
    index = index->src[0];
  }
  a.index = llvm_value(e, index);
  if (buffer->op == OP_BUFFER && buffer->arg.ints.n > 3) order_pieces(&a, lanes);
  if (of_vectors) { /* the index counts them */
    a.index = LLVMBuildMul(e->b, a.index, llvm_i64(e, buffer->lanes), "");
    a.shift *= buffer->lanes;
    a.elements *= buffer->lanes;
    a.unit *= buffer->lanes;
    a.stride = 1;
  }
  if (gate) {
    a.gate = llvm_value(e, gate);
    a.vector_gate = llvm_lanes(a.gate) > 1;
  }
  return a;
}

static Access resolve(Emitter *e, const UOp *u, unsigned lanes, const UOp *gate) {
  return resolve_at(e, u, 0, lanes, u->arg.i, gate);
}

static void annotate(const Access *a, LLVMValueRef access) {
  if (a->scopes) {
    LLVMSetMetadata(access, a->e->md_scope, a->scopes);
    LLVMSetMetadata(access, a->e->md_noalias, a->noalias);
  }
}

/* The element `by` after index, which is a->index or replaces it. Not inbounds: an index whose gate
 * is false points anywhere, and so may one without its constant part. */
static LLVMValueRef address(const Access *a, LLVMValueRef index, int64_t by) {
  Emitter *e = a->e;
  LLVMValueRef at = LLVMBuildGEP2(e->b, a->element, a->base, &index, 1, "");
  if (a->shift + by == 0) return at;
  LLVMValueRef more = llvm_i64(e, a->shift + by);
  return LLVMBuildGEP2(e->b, a->element, at, &more, 1, "");
}

static LLVMValueRef lane_number(Emitter *e, unsigned i) {
  return LLVMConstInt(LLVMInt32TypeInContext(e->ctx), i, false);
}

/* The index of every lane; only gated and scattered accesses ask, which have no shift. */
static LLVMValueRef lane_indices(const Access *a) {
  if (llvm_lanes(a->index) > 1) return a->index;
  LLVMTypeRef i64 = LLVMInt64TypeInContext(a->e->ctx);
  return LLVMBuildAdd(a->e->b, llvm_splat(a->e, a->index, a->lanes),
                      llvm_ramp(a->e, i64, 0, a->stride, a->lanes), "");
}

static LLVMValueRef all_lanes(const Access *a) {
  return llvm_int(a->e, LLVMVectorType(LLVMInt1TypeInContext(a->e->ctx), a->lanes), 1);
}

/* Memory representation to value, and back. */
static LLVMValueRef from_memory(const Access *a, LLVMValueRef v) {
  if (a->dtype != DT_BOOL) return llvm_canonical(a->e, a->dtype, v);
  return LLVMBuildICmp(a->e->b, LLVMIntNE, v, LLVMConstNull(LLVMTypeOf(v)), "");
}
static LLVMValueRef to_memory(const Access *a, LLVMValueRef v) {
  if (a->dtype != DT_BOOL) return v;
  return LLVMBuildZExt(a->e->b, v, llvm_memory_type(a->e, DT_BOOL, llvm_lanes(v)), "");
}

/* In bytes, of what lies `by` elements after the index. */
static unsigned alignment(const Access *a, int64_t by) {
  unsigned unit = a->unit;
  while (by % unit) unit /= 2;
  return unit * a->align;
}

/* -- LOAD
 * -------------------------------------------------------------------------------------------------
 */

static LLVMValueRef load_as_it_is(const Access *a, LLVMTypeRef type, LLVMValueRef index,
                                  int64_t by) {
  LLVMValueRef v = LLVMBuildLoad2(a->e->b, type, address(a, index, by), "");
  LLVMSetAlignment(v, alignment(a, by));
  annotate(a, v);
  if (a->constant) LLVMSetMetadata(v, a->e->md_invariant, a->e->md_empty);
  return v;
}

/* NVPTX of LLVM 19 reads 16 bytes at once, and those alone, without a look at how they are aligned:
 * where that is less, they are read as two vectors. */
static LLVMValueRef load_at(const Access *a, LLVMTypeRef type, LLVMValueRef index, int64_t by) {
  enum { WHOLE = 16, HALF = 8 };
  bool vector = LLVMGetTypeKind(type) == LLVMVectorTypeKind && LLVMGetVectorSize(type) == WHOLE;
  if (!vector || !a->e->gpu || a->align > 1 || alignment(a, by) >= WHOLE)
    return load_as_it_is(a, type, index, by);
  LLVMTypeRef half = LLVMVectorType(LLVMGetElementType(type), HALF);
  LLVMValueRef low = load_as_it_is(a, half, index, by);
  LLVMValueRef high = load_as_it_is(a, half, index, by + HALF);
  LLVMTypeRef i32 = LLVMInt32TypeInContext(a->e->ctx);
  return LLVMBuildShuffleVector(a->e->b, low, high, llvm_ramp(a->e, i32, 0, 1, WHOLE), "");
}

/* Lanes outside of the mask are not read and keep `otherwise`. */
static LLVMValueRef load_gather(const Access *a, LLVMValueRef indices, LLVMValueRef mask,
                                LLVMValueRef otherwise) {
  Emitter *e = a->e;
  LLVMTypeRef vec = LLVMVectorType(a->element, a->lanes);
  LLVMValueRef at = address(a, indices, 0);
  LLVMTypeRef types[2] = {vec, LLVMTypeOf(at)};
  LLVMValueRef args[4] = {at, LLVMConstInt(LLVMInt32TypeInContext(e->ctx), a->align, false), mask,
                          otherwise};
  LLVMValueRef v = llvm_intrinsic(e, "llvm.masked.gather", types, 2, args, 4);
  annotate(a, v);
  return v;
}

/* Every stride-th element of `stride` loads that together cover exactly [first, last]: the last
 * load is moved back so that it ends with the last element. */
static LLVMValueRef load_deinterleaved(const Access *a, LLVMValueRef index) {
  Emitter *e = a->e;
  unsigned n = a->lanes, s = (unsigned)a->stride, span = (n - 1) * s + 1;
  LLVMTypeRef vec = LLVMVectorType(a->element, n), i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef out = load_at(a, vec, index, 0), mask[64];
  assert(n <= 64);
  for (unsigned part = 1; part < s; part++) {
    unsigned begin = part == s - 1 ? span - n : part * n;
    LLVMValueRef chunk = load_at(a, vec, index, begin);
    for (unsigned i = 0; i < n; i++) {
      unsigned at = i * s;
      /* Lanes found already stay in place, after the first step, when they are where they belong.
       */
      unsigned from_out = part == 1 ? at : i;
      mask[i] = LLVMConstInt(i32, at < part * n ? from_out : n + (at - begin) % n, false);
      if (at >= (part + 1) * n && part != s - 1) mask[i] = LLVMGetPoison(i32);
    }
    out = LLVMBuildShuffleVector(e->b, out, chunk, LLVMConstVector(mask, n), "");
  }
  return out;
}

static LLVMValueRef load_reversed(const Access *a, LLVMValueRef index) {
  LLVMTypeRef vec = LLVMVectorType(a->element, a->lanes);
  LLVMValueRef v = load_at(a, vec, index, 1 - (int64_t)a->lanes);
  LLVMTypeRef i32 = LLVMInt32TypeInContext(a->e->ctx);
  return LLVMBuildShuffleVector(a->e->b, v, LLVMGetPoison(vec),
                                llvm_ramp(a->e, i32, a->lanes - 1, -1, a->lanes), "");
}

/* `lanes` elements, `stride` apart, from a scalar index that may be used. */
static LLVMValueRef load_strided(const Access *a, LLVMValueRef index) {
  Emitter *e = a->e;
  LLVMTypeRef vec = LLVMVectorType(a->element, a->lanes);
  if (a->stride == 1) return load_at(a, vec, index, 0);
  if (a->stride == 0) return llvm_splat(e, load_at(a, a->element, index, 0), a->lanes);
  if (a->stride == -1) return load_reversed(a, index);
  if (a->stride >= 2 && a->stride <= 4 && a->lanes >= a->stride && a->lanes <= 64) {
    return load_deinterleaved(a, index);
  }
  LLVMValueRef out = LLVMGetPoison(vec);
  for (unsigned i = 0; i < a->lanes; i++) {
    LLVMValueRef x = load_at(a, a->element, index, a->stride * i);
    out = LLVMBuildInsertElement(e->b, out, x, lane_number(e, i), "");
  }
  return out;
}

static LLVMValueRef load_masked(const Access *a, LLVMValueRef alternative) {
  Emitter *e = a->e;
  LLVMTypeRef vec = LLVMVectorType(a->element, a->lanes);
  LLVMTypeRef types[2] = {vec, LLVMPointerTypeInContext(e->ctx, 0)};
  LLVMValueRef args[4] = {address(a, a->index, 0),
                          LLVMConstInt(LLVMInt32TypeInContext(e->ctx), alignment(a, 0), false),
                          a->gate, to_memory(a, alternative)};
  LLVMValueRef v = llvm_intrinsic(e, "llvm.masked.load", types, 2, args, 4);
  annotate(a, v);
  return from_memory(a, v);
}

/* An index that any access of this shape may use when its gate is false, or -1: none exists. */
static int64_t harmless_index(const Access *a) {
  int64_t reach = a->lanes == 1 || llvm_lanes(a->index) > 1 ? 0 : (int64_t)(a->lanes - 1);
  int64_t step = a->stride < 0 ? -a->stride : a->stride, span;
  if (__builtin_mul_overflow(reach, step, &span) || span >= a->elements) return -1;
  return a->stride < 0 ? span : 0;
}

static LLVMValueRef load_ungated(const Access *a, LLVMValueRef index) {
  if (llvm_lanes(index) > 1) {
    LLVMValueRef none = LLVMGetPoison(LLVMVectorType(a->element, a->lanes));
    return from_memory(a, load_gather(a, index, all_lanes(a), none));
  }
  if (a->lanes == 1) return from_memory(a, load_at(a, a->element, index, 0));
  return from_memory(a, load_strided(a, index));
}

/* The same without memory that may always be read: behind a branch. */
static LLVMValueRef load_behind(const Access *a, LLVMValueRef alternative) {
  Emitter *e = a->e;
  LLVMBasicBlockRef from[2] = {LLVMGetInsertBlock(e->b),
                               LLVMAppendBasicBlockInContext(e->ctx, e->fn, "load")};
  LLVMBasicBlockRef next = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "next");
  LLVMBuildCondBr(e->b, a->gate, from[1], next);
  LLVMPositionBuilderAtEnd(e->b, from[1]);
  LLVMValueRef v[2] = {alternative, from_memory(a, load_at(a, a->element, a->index, 0))};
  from[1] = LLVMGetInsertBlock(e->b);
  LLVMBuildBr(e->b, next);
  LLVMPositionBuilderAtEnd(e->b, next);
  LLVMValueRef phi = LLVMBuildPhi(e->b, LLVMTypeOf(alternative), "");
  LLVMAddIncoming(phi, v, from, 2);
  return phi;
}

/* One element of a buffer that may have none: where the gate is false, the argument array is read.
 */
static LLVMValueRef load_perhaps(const Access *a, LLVMValueRef alternative) {
  Emitter *e = a->e;
  if (e->gpu) return load_behind(a, alternative);
  LLVMValueRef at = LLVMBuildSelect(e->b, a->gate, address(a, a->index, 0), e->args, "");
  LLVMValueRef v = LLVMBuildLoad2(e->b, a->element, at, "");
  LLVMSetAlignment(v, 1);
  annotate(a, v);
  return LLVMBuildSelect(e->b, a->gate, from_memory(a, v), alternative, "");
}

/* A number that is an index of the buffer: whatever is there may be read, and a buffer that is
 * accessed at numbers alone can live in registers. */
static bool is_inside(const Access *a) {
  if (!LLVMIsConstant(a->index) || LLVMGetTypeKind(LLVMTypeOf(a->index)) != LLVMIntegerTypeKind)
    return false;
  int64_t at = LLVMConstIntGetSExtValue(a->index), span = (int64_t)(a->lanes - 1) * a->stride;
  return at >= 0 && at < a->elements && at + span >= 0 && at + span < a->elements;
}

static LLVMValueRef load_gated(const Access *a, LLVMValueRef alternative) {
  LLVMBuilderRef b = a->e->b;
  bool scattered = llvm_lanes(a->index) > 1;
  if (a->empty) return alternative;
  if (a->vector_gate && !scattered && a->stride == 1) return load_masked(a, alternative);
  int64_t safe = harmless_index(a);
  LLVMValueRef index = a->index;
  if (a->lanes > 1 && (a->vector_gate || scattered || safe < 0)) {
    LLVMValueRef mask = llvm_splat(a->e, a->gate, a->lanes), other = to_memory(a, alternative);
    return from_memory(a, load_gather(a, lane_indices(a), mask, other));
  }
  if (safe < 0) return load_perhaps(a, alternative);
  if (!is_inside(a))
    index = LLVMBuildSelect(b, a->gate, index, llvm_int(a->e, LLVMTypeOf(index), safe), "");
  return LLVMBuildSelect(b, a->gate, load_ungated(a, index), alternative, "");
}

bool llvm_load_rows(Emitter *e, const UOp *u, unsigned m, LLVMValueRef *row) {
  Access a = resolve(e, u, u->lanes, NULL);
  if (!a.constant) return false;
  LLVMTypeRef vec = LLVMVectorType(a.element, m);
  for (unsigned i = 0; i < a.lanes; i++) row[i] = load_at(&a, vec, a.index, a.stride * i);
  return true;
}

LLVMValueRef llvm_load_emit(Emitter *e, const UOp *u) {
  RegSlot *slot = llvm_reg_slot(e, u);
  if (slot) return reg_load(e, u, slot);
  Access a = resolve(e, u, u->lanes, u->nsrc > 2 ? u->src[2] : NULL);
  unsigned wide = llvm_lanes(a.index);
  if (wide > 1 && wide != a.lanes) return llvm_fail(e, u, "has an index of other lanes");
  if (!a.gate) return load_ungated(&a, a.index);
  LLVMTypeRef type = llvm_type(e, a.dtype, a.lanes);
  LLVMValueRef alternative = LLVMConstNull(type);
  if (u->nsrc > 3) alternative = llvm_splat(e, llvm_full_value(e, u->src[3]), a.lanes);
  return load_gated(&a, alternative);
}

/* -- STORE
 * ------------------------------------------------------------------------------------------------
 */

static void store_at(const Access *a, LLVMValueRef v, int64_t by) {
  LLVMValueRef st = LLVMBuildStore(a->e->b, v, address(a, a->index, by));
  LLVMSetAlignment(st, alignment(a, by));
  annotate(a, st);
}

static void store_masked(const Access *a, LLVMValueRef v) {
  Emitter *e = a->e;
  LLVMTypeRef types[2] = {LLVMTypeOf(v), LLVMPointerTypeInContext(e->ctx, 0)};
  LLVMValueRef args[4] = {v, address(a, a->index, 0),
                          LLVMConstInt(LLVMInt32TypeInContext(e->ctx), alignment(a, 0), false),
                          a->gate};
  annotate(a, llvm_intrinsic(e, "llvm.masked.store", types, 2, args, 4));
}

static void store_scatter(const Access *a, LLVMValueRef v) {
  Emitter *e = a->e;
  LLVMValueRef at = address(a, lane_indices(a), 0);
  LLVMTypeRef types[2] = {LLVMTypeOf(v), LLVMTypeOf(at)};
  LLVMValueRef args[4] = {v, at, LLVMConstInt(LLVMInt32TypeInContext(e->ctx), a->align, false),
                          a->vector_gate ? a->gate : all_lanes(a)};
  annotate(a, llvm_intrinsic(e, "llvm.masked.scatter", types, 2, args, 4));
}

/* Everything but a scalar gate. */
static void store_open(const Access *a, LLVMValueRef v) {
  bool scattered = llvm_lanes(a->index) > 1;
  if (a->lanes == 1 || (!scattered && a->stride == 1 && !a->vector_gate)) {
    store_at(a, v, 0);
  } else if (!scattered && a->stride == 1) {
    store_masked(a, v);
  } else if (scattered || a->vector_gate) {
    store_scatter(a, v);
  } else {
    for (unsigned i = 0; i < a->lanes; i++) {
      LLVMValueRef x = LLVMBuildExtractElement(a->e->b, v, lane_number(a->e, i), "");
      store_at(a, x, a->stride * i);
    }
  }
}

void llvm_store_rows(Emitter *e, const UOp *u, const LLVMValueRef *row) {
  Access a = resolve(e, u, u->src[2]->lanes, NULL);
  for (unsigned i = 0; i < a.lanes; i++) store_at(&a, to_memory(&a, row[i]), a.stride * i);
}

LLVMValueRef llvm_store_emit(Emitter *e, const UOp *u) {
  RegSlot *slot = llvm_reg_slot(e, u);
  if (slot) {
    reg_store(e, u, slot);
    return NULL;
  }
  unsigned lanes = u->src[2]->lanes > u->src[1]->lanes ? u->src[2]->lanes : u->src[1]->lanes;
  Access a = resolve(e, u, lanes, u->nsrc > 3 ? u->src[3] : NULL);
  LLVMValueRef v = to_memory(&a, llvm_splat(e, llvm_full_value(e, u->src[2]), lanes));
  if (!a.gate || a.vector_gate) {
    store_open(&a, v);
    return NULL;
  }
  LLVMBasicBlockRef then = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "store");
  LLVMBasicBlockRef next = LLVMAppendBasicBlockInContext(e->ctx, e->fn, "next");
  LLVMBuildCondBr(e->b, a.gate, then, next);
  LLVMPositionBuilderAtEnd(e->b, then);
  store_open(&a, v);
  LLVMBuildBr(e->b, next);
  LLVMPositionBuilderAtEnd(e->b, next);
  return NULL;
}

/* -- COPY
 * -------------------------------------------------------------------------------------------------
 */

LLVMValueRef llvm_element_address(Emitter *e, const UOp *u, uint32_t at, int64_t *shift) {
  Access a = resolve_at(e, u, at, 1, 0, NULL);
  *shift = a.shift;
  a.shift = 0;
  return address(&a, a.index, 0);
}

/* What cannot be copied 16 bytes at a time, or on a GPU that copies nothing by itself, is copied at
 * once: nobody looks before the WAIT. */
LLVMValueRef llvm_copy_emit(Emitter *e, const UOp *u) {
  unsigned lanes = (unsigned)u->arg.i;
  const UOp *gate = u->nsrc > 4 ? u->src[4] : NULL;
  Access to = resolve_at(e, u, 0, lanes, 1, NULL), from = resolve_at(e, u, 2, lanes, 1, gate);
  bool whole = lanes * to.align == 16 && alignment(&to, 0) >= 16 && alignment(&from, 0) >= 16;
  if (whole && llvm_gpu_since(e, "sm_80")) {
    llvm_copy_async(e, address(&to, to.index, 0), address(&from, from.index, 0), from.gate);
    return NULL;
  }
  LLVMValueRef none = LLVMConstNull(llvm_type(e, from.dtype, lanes));
  LLVMValueRef v = gate ? load_gated(&from, none) : load_ungated(&from, from.index);
  store_open(&to, to_memory(&to, v));
  return NULL;
}

/* Not a memory access: any address will do. */
LLVMValueRef llvm_prefetch_emit(Emitter *e, const UOp *u) {
  Access a = resolve(e, u, 1, NULL);
  LLVMValueRef to = address(&a, a.index, 0);
  LLVMTypeRef type = LLVMTypeOf(to), i32 = LLVMInt32TypeInContext(e->ctx);
  enum { READ = 0, WRITE = 1, CLOSE = 3, DATA = 1 };
  LLVMValueRef args[4] = {to, LLVMConstInt(i32, u->arg.i ? READ : WRITE, false),
                          LLVMConstInt(i32, CLOSE, false), LLVMConstInt(i32, DATA, false)};
  llvm_intrinsic(e, "llvm.prefetch", &type, 1, args, 4);
  return NULL;
}

/* -- before the wait
 * ------------------------------------------------------------------------------------------- */

enum {
  WORTH_ASKING = 1 << 10, /* bytes of a buffer; a bias is as far away as a matrix */
  WORTH_LOADING = 1 << 19 /* where that takes registers */
};

static bool has_value(const Emitter *e, const UOp *u) {
  if (u->op == OP_CONST || u->op == OP_VAR || u->op == OP_THREAD) return true;
  bool known = u->id >= e->first_id && u->id - e->first_id < e->nids;
  return known && e->values[u->id - e->first_id];
}

bool llvm_has_sources(const Emitter *e, const UOp *u) {
  for (uint32_t s = 0; s < u->nsrc; s++)
    if (!has_value(e, u->src[s])) return false;
  return true;
}

/* The large buffer that the LOAD reads in one piece; NULL: something else. */
static const UOp *loads_from(const UOp *u) {
  if (u->op != OP_LOAD || u->nsrc > 2 || u->src[0]->op != OP_PARAM) return NULL;
  const UOp *buffer = u->src[0];
  int64_t n = buffer->arg.ints.n == 1 ? dim_low(buffer->arg.ints.at[0]) : 0;
  bool plain = u->src[1]->lanes == 1 && buffer->arg.i < 64;
  return plain && n >= WORTH_LOADING / dtype_info[buffer->dtype].bytes ? buffer : NULL;
}

bool llvm_loads_ahead(const Emitter *e) {
  const Linear *l = e->linear;
  const UOp *stored[64] = {NULL};
  for (size_t i = 0; i < l->len; i++) {
    const UOp *to = l->list[i]->op == OP_STORE ? buffer_of(l->list[i]->src[0]) : NULL;
    if (to && to->op == OP_PARAM && to->arg.i < 64) stored[to->arg.i] = to;
  }
  for (size_t i = 0; i < l->len && l->list[i]->op != OP_RANGE; i++) {
    const UOp *from = loads_from(l->list[i]);
    if (from && !stored[from->arg.i]) return true;
  }
  return false;
}

bool llvm_is_ahead(const Emitter *e, const UOp *u) {
  const UOp *from = e->fixed ? loads_from(u) : NULL;
  return from && !e->params[from->arg.i].written && has_value(e, u->src[1]);
}

bool llvm_ask_ahead(Emitter *e, const UOp *u) {
  bool copy = u->op == OP_COPY;
  uint32_t at = copy ? 2 : 0, last = copy ? 4 : 2;
  const UOp *buffer = u->src[at], *index = u->src[at + 1];
  const UOp *gate = u->nsrc > last ? u->src[last] : NULL;
  if (buffer->op != OP_PARAM || e->params[buffer->arg.i].written || index->lanes > 1) return false;
  int64_t n = buffer->arg.ints.n == 1 ? dim_low(buffer->arg.ints.at[0]) : 0;
  if (n < WORTH_ASKING / dtype_info[buffer->dtype].bytes) return false;
  if (!has_value(e, index) || (gate && (gate->lanes > 1 || !has_value(e, gate)))) return false;
  Access a = resolve_at(e, u, at, 1, 1, NULL);
  LLVMValueRef to = address(&a, a.index, 0);
  if (gate) to = LLVMBuildSelect(e->b, llvm_value(e, gate), to, a.base, "");
  llvm_gpu_ask(e, to);
  return true;
}
