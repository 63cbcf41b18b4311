/* What the files of the emitter share; private to compiler/codegen.
 *
 * Values: bool is i1 (i8 in memory), INDEX is i64, f16 and bf16 are i16 holding their bits: what
 * LLVM does with `half` and `bfloat` depends on the processor, down to calls of a run-time library
 * and flushed subnormals. A node of several lanes is a vector, of one lane a scalar. Vectors of
 * INDEX are i32 where the bounds of the node allow it: half the registers, and division and gathers
 * that the hardware has. */
#pragma once

#include <llvm-c/Core.h>

#include "compiler/codegen/llvm_target.h"
#include "compiler/codegen/unit.h"
#include "compiler/ir/plan.h"

/* A storage element of a REG buffer. It never exists in memory: `value` is what it holds at the
 * point where code is being emitted, and loops get a phi for each slot that they change. */
typedef struct RegSlot {
  LLVMValueRef value;
} RegSlot;

/* A BUFFER node. */
typedef struct LocalBuffer {
  const UOp *node;
  bool reg;
  size_t first_slot;   /* reg */
  LLVMValueRef base;   /* else: pointer into scratch */
  LLVMValueRef scopes; /* alias scope lists: that of this buffer, and those of all the others */
  LLVMValueRef noalias;
} LocalBuffer;

/* A PARAM by argument position. */
typedef struct ParamBuffer {
  const UOp *node; /* NULL: never accessed */
  bool written;
  LLVMValueRef base, scopes, noalias;
} ParamBuffer;

typedef struct Loop {
  const UOp *range;
  size_t list_end; /* position of its END in the list */
  LLVMBasicBlockRef header, exit;
  LLVMBasicBlockRef skipped_from; /* the block that may jump past the loop; NULL: it runs at least
                                     once */
  LLVMValueRef index;
  int64_t divisor;             /* of the index; 0: it is not divided */
  LLVMValueRef quotient, rest; /* by it, counted with it */
  LLVMValueRef *phis;          /* per slot; NULL where the loop does not change it */
  LLVMValueRef *initial;       /* per slot: the value on entry */
} Loop;

/* Whose part of a kernel with a ring is being emitted. */
typedef enum LlvmRole { LLVM_ALL, LLVM_COPIES, LLVM_REST } LlvmRole;

typedef struct Emitter {
  const Linear *linear;
  const Target *target;
  LLVMContextRef ctx;
  LLVMModuleRef module;
  LLVMBuilderRef b;
  LLVMValueRef fn, args, thread, scratch;
  LLVMValueRef *values; /* by id - first_id */
  uint32_t first_id, nids;
  UnitMemo units;      /* GPU */
  ParamBuffer *params; /* linear->nargs */
  LLVMValueRef *vars;  /* linear->nvars */
  LocalBuffer *locals;
  size_t nlocals;
  RegSlot *slots;
  size_t nslots;
  Loop *loops; /* the open ones, outermost first */
  size_t nloops;
  unsigned md_scope, md_noalias, md_invariant;
  LLVMValueRef md_empty;
  bool has_fma, has_f16c, named, gpu;
  bool tiles; /* matrix instructions read the workgroup's memory */
  LlvmRole role;
  const UOp **maps;                  /* TILECOPYs of different tensors or boxes */
  uint32_t nmaps, places, first_map; /* of the ring; the parameter that is the first map */
  LLVMValueRef ring;                 /* address of its barriers */
  bool *for_copies;                  /* by id - first_id: who copies has to know it */
  bool waits;         /* the kernel starts before the one before it ends, and waits for it */
  LLVMValueRef fixed; /* a bit for each argument that no kernel before it writes; NULL: not asked */
  Arena arena;
  uint64_t given;       /* bytes of the launch's memory that buffers have taken */
  unsigned diagnostics; /* errors that LLVM reported */
  char diagnostic[512]; /* the first of them */
  Status failure;       /* the first failure; emission goes on with poison until the node ends */
} Emitter;

/* Records the failure and returns poison of u's type. */
LLVMValueRef llvm_fail(Emitter *e, const UOp *u, const char *what);
/* The value of a source, of llvm_node_type; materialises leaves. */
LLVMValueRef llvm_value(Emitter *e, const UOp *u);
/* The same in the type of the dtype: never a narrow INDEX. */
LLVMValueRef llvm_full_value(Emitter *e, const UOp *u);

/* -- llvm_types.c -- */
LLVMTypeRef llvm_type(Emitter *e, DType dtype, unsigned lanes);
/* The type of a node's value: that of its dtype, but for narrow INDEX vectors. */
LLVMTypeRef llvm_node_type(Emitter *e, const UOp *u);
bool llvm_is_narrow(const UOp *u);
/* An integer or INDEX value as another integer type, sign-extended or truncated. */
LLVMValueRef llvm_resize(Emitter *e, LLVMValueRef v, LLVMTypeRef type);
/* The type of an element in memory. */
LLVMTypeRef llvm_memory_type(Emitter *e, DType dtype, unsigned lanes);
LLVMTypeRef llvm_widen(Emitter *e, LLVMTypeRef scalar, unsigned lanes);
LLVMValueRef llvm_int(Emitter *e, LLVMTypeRef type, int64_t v); /* splat for vector types */
LLVMValueRef llvm_real(Emitter *e, LLVMTypeRef type, double v);
LLVMValueRef llvm_i64(Emitter *e, int64_t v);
LLVMValueRef llvm_constant(Emitter *e, const UOp *u);
LLVMValueRef llvm_splat(Emitter *e, LLVMValueRef scalar, unsigned lanes);
/* The mask <from, from + step, ...>; the same as a vector of `element`. */
LLVMValueRef llvm_ramp(Emitter *e, LLVMTypeRef element, int64_t from, int64_t step, unsigned lanes);
unsigned llvm_lanes(LLVMValueRef v); /* 1 for scalars */
/* fn of one lane of each of v[0], v[1]... after the other, where no vector has the operation; the
 * result has the type of v[0]. */
enum { LLVM_LANE_VALUES = 2 };
typedef LLVMValueRef (*LlvmLaneFn)(Emitter *e, const void *ctx, LLVMValueRef *v);
LLVMValueRef llvm_by_lanes(Emitter *e, LlvmLaneFn fn, const void *ctx, LLVMValueRef *v, unsigned n);
/* Calls an intrinsic overloaded on the given types. */
LLVMValueRef llvm_intrinsic(Emitter *e, const char *name, LLVMTypeRef *types, size_t ntypes,
                            LLVMValueRef *args, unsigned nargs);
/* An intrinsic overloaded on the type of its first argument only. */
LLVMValueRef llvm_intrinsic1(Emitter *e, const char *name, LLVMValueRef *args, unsigned nargs);

/* -- llvm_cast.c -- */
/* A byte as element of d: of a 4- or 2-bit dtype only its low bits count. */
LLVMValueRef llvm_canonical(Emitter *e, DType d, LLVMValueRef v);
LLVMValueRef llvm_cast_emit(Emitter *e, const UOp *u);
LLVMValueRef llvm_bitcast_emit(Emitter *e, const UOp *u);
/* f16 and bf16 to f32, exactly; other dtypes unchanged. */
LLVMValueRef llvm_to_f32(Emitter *e, DType dtype, LLVMValueRef v);
/* f32 to f16 or bf16, to nearest even. exact: v is known to be representable. */
LLVMValueRef llvm_from_f32(Emitter *e, DType dtype, LLVMValueRef v, bool exact);

/* -- llvm_alu.c -- */
LLVMValueRef llvm_alu_emit(Emitter *e, const UOp *u);
LLVMValueRef llvm_hreduce_emit(Emitter *e, const UOp *u);

/* -- llvm_fmod.c -- */
/* The remainder of f64 by long division, exactly, with the sign of x. */
LLVMValueRef llvm_gpu_fmod(Emitter *e, LLVMValueRef x, LLVMValueRef y);

/* -- llvm_warp.c -- */
LLVMValueRef llvm_peer_emit(Emitter *e, const UOp *u);

/* -- llvm_memory.c -- */
LLVMValueRef llvm_prefetch_emit(Emitter *e, const UOp *u);
/* Whether the values of all sources are known. */
bool llvm_has_sources(const Emitter *e, const UOp *u);
/* Has a LOAD or COPY of a large buffer that the kernel does not write bring what it will read
 * nearer; false when it does not, because that would not help or the place is not known yet. */
bool llvm_ask_ahead(Emitter *e, const UOp *u);
/* Whether there are loads that do not have to wait for the kernel before, where the launch says so.
 */
bool llvm_loads_ahead(const Emitter *e);
/* Whether u, which stands before all loops, is one of them, and its place is known. */
bool llvm_is_ahead(const Emitter *e, const UOp *u);
/* Prepares PARAMs and BUFFERs, at the start of the entry block. */
void llvm_memory_begin(Emitter *e);
LLVMValueRef llvm_load_emit(Emitter *e, const UOp *u);
LLVMValueRef llvm_store_emit(Emitter *e, const UOp *u);
/* For an ungated load of scalar index: the m contiguous elements from each lane's place on.
 * False, and nothing emitted, when the kernel writes that memory. */
bool llvm_load_rows(Emitter *e, const UOp *u, unsigned m, LLVMValueRef *row);
/* The same for an ungated store: row[i] to lane i's place. */
void llvm_store_rows(Emitter *e, const UOp *u, const LLVMValueRef *row);
/* The slot that an access to a REG buffer names, or NULL when it is not one. */
RegSlot *llvm_reg_slot(Emitter *e, const UOp *access);

/* Where the element at src[at + 1] of buffer src[at] is, but for `shift` elements. */
LLVMValueRef llvm_element_address(Emitter *e, const UOp *u, uint32_t at, int64_t *shift);
LLVMValueRef llvm_copy_emit(Emitter *e, const UOp *u);

/* -- llvm_matrix.c -- */
enum { LLVM_MAX_REGISTERS = 128 };
LLVMValueRef llvm_assemble(Emitter *e, LLVMTypeRef result, const char *text, const char *operands,
                           bool effects, LLVMValueRef *args, unsigned n);
/* A vector as registers of that type, of 32 bits; how many. */
unsigned llvm_registers(Emitter *e, LLVMValueRef v, LLVMTypeRef type, LLVMValueRef *out);
/* The type of what an instruction gives that has n registers, and that as a vector. */
LLVMTypeRef llvm_results(Emitter *e, unsigned n, LLVMTypeRef reg);
LLVMValueRef llvm_vector_of(Emitter *e, LLVMValueRef result, unsigned n, LLVMTypeRef reg,
                            LLVMTypeRef type);
/* A generic pointer into the workgroup's memory as the 32 bits that instructions take. */
LLVMValueRef llvm_shared_address(Emitter *e, LLVMValueRef p);
LLVMValueRef llvm_shuffle_emit(Emitter *e, const UOp *u);
LLVMValueRef llvm_exchange_emit(Emitter *e, const UOp *u);
LLVMValueRef llvm_mma_emit(Emitter *e, const UOp *u);
LLVMValueRef llvm_ldmatrix_emit(Emitter *e, const UOp *u);
void llvm_copy_async(Emitter *e, LLVMValueRef to, LLVMValueRef from, LLVMValueRef gate);
LLVMValueRef llvm_commit_emit(Emitter *e, const UOp *u);
LLVMValueRef llvm_wait_emit(Emitter *e, const UOp *u);

/* -- llvm_tile_mma.c -- */
LLVMValueRef llvm_tile_mma_emit(Emitter *e, const UOp *u);
LLVMValueRef llvm_settle_emit(Emitter *e, const UOp *u);
/* Before a barrier: what the thread stored is there for matrix instructions, too. */
void llvm_tile_fence(Emitter *e);

/* -- llvm_ring.c -- */
/* The maps and places of the kernel; before its function is made. */
void llvm_ring_find(Emitter *e);
void llvm_ring_parameters(Emitter *e, unsigned first);
void llvm_ring_begin(Emitter *e);
/* Calls emit for those who copy and for the others. */
void llvm_ring_emit(Emitter *e, void (*emit)(Emitter *e));
bool llvm_ring_skips(const Emitter *e, const UOp *u);
LLVMValueRef llvm_ring_thread(Emitter *e);
LLVMValueRef llvm_ring_special(Emitter *e, unsigned dim);
void llvm_ring_barrier(Emitter *e);
LLVMValueRef llvm_ring_event(Emitter *e, const UOp *u);
LLVMValueRef llvm_tilecopy_emit(Emitter *e, const UOp *u);

/* -- llvm_x86.c -- */
LLVMValueRef llvm_x86_shuffle(Emitter *e, const UOp *u);
LLVMValueRef llvm_x86_mma(Emitter *e, const UOp *u);

/* -- llvm_gpu.c -- */
/* Whether it is an NVIDIA GPU as new as that one; names of two digits, all that LLVM takes. */
bool llvm_gpu_since(const Emitter *e, const char *cpu);
/* The function, its kernel annotations and VARs. */
void llvm_gpu_function(Emitter *e, const char *entry);
/* What comes before everything else. */
void llvm_gpu_begin(Emitter *e);
/* A hint: the element at a generic address will be read. */
void llvm_gpu_ask(Emitter *e, LLVMValueRef to);
/* For the kernel before this one, if it has to. */
void llvm_gpu_wait(Emitter *e);
/* Only where a kernel before this one may write the argument. */
void llvm_gpu_wait_unless_fixed(Emitter *e, uint32_t argument);
/* The larger or smaller of integers of at most 16 bits, which nothing packs. */
LLVMValueRef llvm_gpu_max_min(Emitter *e, LLVMValueRef x, LLVMValueRef y, bool max, bool uns);
/* Pointers to buffer argument k and to a BUFFER that is memory. */
LLVMValueRef llvm_gpu_argument(Emitter *e, uint32_t k);
LLVMValueRef llvm_gpu_buffer(Emitter *e, const UOp *buffer);
/* So many bytes of the workgroup's memory. */
LLVMValueRef llvm_gpu_given(Emitter *e, uint64_t bytes);
/* A power of two, in elements: the address of the buffer's element `index` is a multiple of it. */
unsigned llvm_gpu_unit(Emitter *e, const UOp *index, const UOp *buffer);
LLVMValueRef llvm_gpu_special(Emitter *e, const UOp *u);
LLVMValueRef llvm_gpu_barrier(Emitter *e, const UOp *u);

/* -- llvm_tile.c -- */
/* If list[at] == u begins a tile of strided loads, emits and records them all. */
bool llvm_tile_load(Emitter *e, const UOp *u, size_t at);
/* If the store list[at] == u is a column of a tile, the last of its columns emits it. */
bool llvm_tile_store(Emitter *e, const UOp *u, size_t at);
