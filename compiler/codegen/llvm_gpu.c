/* What is different in the code of a GPU kernel: how it is entered and told who runs it, and where
 * its buffers live.
 *
 * The function's parameters are the buffers, as pointers to global memory, then the values of the
 * VARs. Inside, all pointers are generic: LLVM finds the address spaces back from the casts at
 * their roots, and no other file of the emitter needs to know of them. Nothing comes from scratch
 * memory: a thread's own buffers are stack slots, those of the workgroup are globals. */
#include <assert.h>
#include <stdio.h>

#include "compiler/codegen/llvm_build.h"

enum { GENERIC = 0, GLOBAL = 1, SHARED = 3, PTX_KERNEL = 71, SPACE_SHARED = 2 };

static LLVMTypeRef pointer(const Emitter *e, unsigned space) {
  return LLVMPointerTypeInContext(e->ctx, space);
}

/* {fn, "name", value} of !nvvm.annotations. */
static void annotate_kernel(Emitter *e, const char *name, uint32_t value) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMMetadataRef part[3] = {LLVMValueAsMetadata(e->fn),
                             LLVMMDStringInContext2(e->ctx, name, strlen(name)),
                             LLVMValueAsMetadata(LLVMConstInt(i32, value, false))};
  LLVMMetadataRef node = LLVMMDNodeInContext2(e->ctx, part, 3);
  LLVMAddNamedMetadataOperand(e->module, "nvvm.annotations", LLVMMetadataAsValue(e->ctx, node));
}

bool llvm_gpu_since(const Emitter *e, const char *cpu) {
  return e->gpu && strcmp(e->target->cpu, cpu) >= 0;
}

void llvm_gpu_function(Emitter *e, const char *entry) {
  enum { WARP = 32 };
  static const char *const most[3] = {"maxntidx", "maxntidy", "maxntidz"};
  llvm_ring_find(e);
  uint32_t nargs = e->linear->nargs, n = nargs + e->linear->nvars;
  LLVMTypeRef *types = arena_array(&e->arena, n + e->nmaps + 2u, sizeof *types);
  e->vars = arena_array(&e->arena, e->linear->nvars + 1u, sizeof(LLVMValueRef));
  if (!types || !e->vars) {
    e->failure = FAIL(RESOURCE_EXHAUSTED, "code generation ran out of memory");
    return;
  }
  e->waits = llvm_gpu_since(e, "sm_90");
  bool ahead = e->waits && llvm_loads_ahead(e);
  bool asked = ahead || e->nmaps; /* maps come behind it */
  for (uint32_t k = 0; k < n + asked; k++)
    types[k] = k < nargs ? pointer(e, GLOBAL) : LLVMInt64TypeInContext(e->ctx);
  uint32_t first = n + asked, all = first + e->nmaps;
  for (uint32_t k = first; k < all; k++) types[k] = pointer(e, GENERIC);
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(e->ctx), types, all, false);
  e->fn = LLVMAddFunction(e->module, entry, type);
  LLVMSetFunctionCallConv(e->fn, PTX_KERNEL);
  annotate_kernel(e, "kernel", 1);
  const uint32_t *b = e->linear->block, more = e->linear->copiers;
  uint32_t line[3] = {b[0] * b[1] * b[2] + more, 1, 1};
  for (int d = 0; d < 3; d++) annotate_kernel(e, most[d], more ? line[d] : b[d]);
  if (more > WARP)
    annotate_kernel(e, "minctasm", 1); /* says how many registers there are to share */
  llvm_ring_parameters(e, first);
  for (uint32_t k = nargs; k < n; k++) e->vars[k - nargs] = LLVMGetParam(e->fn, k);
  if (ahead) e->fixed = LLVMGetParam(e->fn, n);
}

static void emit_asm(Emitter *e, const char *text) {
  static const char clobbers[] = "~{memory}";
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(e->ctx), NULL, 0, false);
  LLVMValueRef code = LLVMGetInlineAsm(type, text, strlen(text), clobbers, sizeof clobbers - 1,
                                       true, false, LLVMInlineAsmDialectATT, false);
  LLVMBuildCall2(e->b, type, code, NULL, 0, "");
}

/* A thread index of a program without workgroups is one of those of one thread.
 *
 * From compute capability 9.0 on a kernel may start while the one before it ends: it lets the next
 * one do so too, and reads and writes no memory before the one before it is done. What that wrote
 * is no constant then, so no load may be moved before the wait. But it may ask for what it will
 * read: what the one before it still writes goes through the same cache, and weights come from
 * memory while that one ends. And what the launch says that none of the kernels before it writes
 * may be read at once. */
void llvm_gpu_begin(Emitter *e) {
  LLVMValueRef group = llvm_intrinsic(e, "llvm.nvvm.read.ptx.sreg.ctaid.x", NULL, 0, NULL, 0);
  e->thread = LLVMBuildZExt(e->b, group, LLVMInt64TypeInContext(e->ctx), "thread");
  if (e->waits) emit_asm(e, "griddepcontrol.launch_dependents;");
}

void llvm_gpu_ask(Emitter *e, LLVMValueRef to) {
  static const char text[] = "prefetch.L2 [$0];", constraints[] = "l";
  LLVMTypeRef i64 = LLVMInt64TypeInContext(e->ctx);
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(e->ctx), &i64, 1, false);
  LLVMValueRef at = LLVMBuildPtrToInt(e->b, to, i64, "");
  LLVMValueRef code =
      LLVMGetInlineAsm(type, text, sizeof text - 1, constraints, sizeof constraints - 1, true,
                       false, LLVMInlineAsmDialectATT, false);
  LLVMBuildCall2(e->b, type, code, &at, 1, "");
}

void llvm_gpu_wait(Emitter *e) {
  if (e->waits) emit_asm(e, "griddepcontrol.wait;");
}

void llvm_gpu_wait_unless_fixed(Emitter *e, uint32_t argument) {
  static const char text[] = "{\n\t.reg .pred p;\n\tsetp.eq.u64 p, $0, 0;\n\t"
                             "@p griddepcontrol.wait;\n\t}";
  static const char constraints[] = "l,~{memory}";
  LLVMTypeRef i64 = LLVMInt64TypeInContext(e->ctx);
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(e->ctx), &i64, 1, false);
  LLVMValueRef bit = LLVMConstInt(i64, (uint64_t)1 << argument, false);
  LLVMValueRef fixed = LLVMBuildAnd(e->b, e->fixed, bit, "");
  LLVMValueRef code =
      LLVMGetInlineAsm(type, text, sizeof text - 1, constraints, sizeof constraints - 1, true,
                       false, LLVMInlineAsmDialectATT, false);
  LLVMBuildCall2(e->b, type, code, &fixed, 1, "");
}

typedef struct WideOp {
  const char *text;
  LLVMOpcode widen;
} WideOp;

/* In words of 32 bits that no optimizer narrows or packs again. */
static LLVMValueRef wide_max_min(Emitter *e, const void *op, LLVMValueRef *v) {
  const WideOp *o = op;
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx), types[2] = {i32, i32};
  LLVMTypeRef type = LLVMFunctionType(i32, types, 2, false), narrow = LLVMTypeOf(v[0]);
  LLVMValueRef code = LLVMGetInlineAsm(type, o->text, strlen(o->text), "=r,r,r", 6, false, false,
                                       LLVMInlineAsmDialectATT, false);
  LLVMValueRef args[2] = {LLVMBuildCast(e->b, o->widen, v[0], i32, ""),
                          LLVMBuildCast(e->b, o->widen, v[1], i32, "")};
  return LLVMBuildTrunc(e->b, LLVMBuildCall2(e->b, type, code, args, 2, ""), narrow, "");
}

/* LLVM would pack two of 16 bits into one instruction (min.s16x2), which ptx_add does not look
 * for: what it looks for are the scalar ones that this makes. */
LLVMValueRef llvm_gpu_max_min(Emitter *e, LLVMValueRef x, LLVMValueRef y, bool max, bool uns) {
  static const WideOp ops[2][2] = {
      {{"min.s32 $0, $1, $2;", LLVMSExt}, {"min.u32 $0, $1, $2;", LLVMZExt}},
      {{"max.s32 $0, $1, $2;", LLVMSExt}, {"max.u32 $0, $1, $2;", LLVMZExt}}};
  LLVMValueRef both[2] = {x, y};
  return llvm_by_lanes(e, wide_max_min, &ops[max][uns], both, 2);
}

LLVMValueRef llvm_gpu_argument(Emitter *e, uint32_t k) {
  return LLVMBuildAddrSpaceCast(e->b, LLVMGetParam(e->fn, k), pointer(e, GENERIC), "arg");
}

/* Buffers of the workgroup follow each other in the memory that the launch brings. */
LLVMValueRef llvm_gpu_given(Emitter *e, uint64_t bytes) {
  unsigned align = e->linear->shared_align;
  LLVMTypeRef i8 = LLVMInt8TypeInContext(e->ctx), any = LLVMArrayType2(i8, 0);
  LLVMValueRef all = LLVMGetNamedGlobal(e->module, "given");
  if (!all) {
    all = LLVMAddGlobalInAddressSpace(e->module, any, "given", SHARED);
    LLVMSetLinkage(all, LLVMExternalLinkage);
    LLVMSetAlignment(all, TILE_ALIGN);
  }
  LLVMValueRef at = LLVMConstInt(LLVMInt64TypeInContext(e->ctx), e->given, false);
  e->given += (bytes + align - 1) / align * align;
  return LLVMConstAddrSpaceCast(LLVMConstGEP2(i8, all, &at, 1), pointer(e, GENERIC));
}

LLVMValueRef llvm_gpu_buffer(Emitter *e, const UOp *buffer) {
  uint64_t n = (uint64_t)buffer->arg.ints.at[0];
  LLVMTypeRef element = llvm_memory_type(e, (DType)buffer->dtype, 1);
  LLVMTypeRef type = LLVMArrayType2(element, n * buffer->lanes);
  if (buffer->arg.ints.at[1] != SPACE_SHARED) {
    LLVMValueRef at = LLVMBuildAlloca(e->b, type, "local");
    LLVMSetAlignment(at, 16);
    return at;
  }
  if (e->linear->shared_given)
    return llvm_gpu_given(e, n * buffer->lanes * dtype_info[buffer->dtype].bytes);
  char name[32];
  snprintf(name, sizeof name, "shared%lld", (long long)buffer->arg.i);
  LLVMValueRef at = LLVMAddGlobalInAddressSpace(e->module, type, name, SHARED);
  LLVMSetLinkage(at, LLVMInternalLinkage);
  LLVMSetInitializer(at, LLVMGetUndef(type));
  LLVMSetAlignment(at, buffer->arg.ints.n > 3 ? TILE_ALIGN : 16);
  return LLVMConstAddrSpaceCast(at, pointer(e, GENERIC));
}

unsigned llvm_gpu_unit(Emitter *e, const UOp *index, const UOp *buffer) {
  if (!e->units.twos) unit_init(&e->units, &e->arena, e->first_id, e->nids);
  return unit_of(&e->units, index, buffer);
}

/* -- what runs
 * ------------------------------------------------------------------------------------------- */

static LLVMValueRef call0(Emitter *e, const char *name) {
  return llvm_intrinsic(e, name, NULL, 0, NULL, 0);
}

/* The hardware's registers are 32 bits wide. */
LLVMValueRef llvm_gpu_special(Emitter *e, const UOp *u) {
  static const char *const names[6] = {
      "llvm.nvvm.read.ptx.sreg.ctaid.x", "llvm.nvvm.read.ptx.sreg.ctaid.y",
      "llvm.nvvm.read.ptx.sreg.ctaid.z", "llvm.nvvm.read.ptx.sreg.tid.x",
      "llvm.nvvm.read.ptx.sreg.tid.y",   "llvm.nvvm.read.ptx.sreg.tid.z"};
  LLVMValueRef v = e->places && u->arg.i >= 3 ? llvm_ring_special(e, (unsigned)u->arg.i - 3)
                                              : call0(e, names[u->arg.i]);
  return LLVMBuildZExt(e->b, v, LLVMInt64TypeInContext(e->ctx), "");
}

LLVMValueRef llvm_gpu_barrier(Emitter *e, const UOp *u) {
  static const char old[] = "llvm.nvvm.barrier0"; /* until LLVM 20 */
  (void)u;
  llvm_tile_fence(e);
  if (e->places) return llvm_ring_barrier(e), NULL;
  if (LLVMLookupIntrinsicID(old, sizeof old - 1)) return call0(e, old), NULL;
  LLVMValueRef id = LLVMConstInt(LLVMInt32TypeInContext(e->ctx), 0, false);
  llvm_intrinsic(e, "llvm.nvvm.barrier.cta.sync.aligned.all", NULL, 0, &id, 1);
  return NULL;
}
