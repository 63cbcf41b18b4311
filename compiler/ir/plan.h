/* What the middle of the compiler hands to its ends: kernels over numbered buffers, in an order,
 * with a memory plan. */
#pragma once

#include <string.h>

#include "compiler/ir/dim.h"

/* LOCAL: what a loop carries from one iteration to the next, a state of the run. */
typedef enum SlotKind { SLOT_INPUT, SLOT_OUTPUT, SLOT_WEIGHT, SLOT_LOCAL } SlotKind;

/* The interface of a tensor graph: what its PARAM slots are. Slots are numbered inputs, then
 * outputs, then weights, then locals. */
typedef struct GraphSlot {
  SlotKind kind;
  Str name; /* weights: for messages only */
  DType dtype;
  Ints shape; /* dims over the graph's VARs */
  bool state; /* an input whose contents a run updates in place, or a local */
  /* weights: */
  bool in_constants;      /* data is in Frontend.constants, else in the model's bytes */
  uint64_t offset, bytes; /* bytes == numel * item size */
} GraphSlot;

/* An input or output of the model that is not one tensor: a sequence, whose elements are the slots
 * NAME[0] to NAME[length - 1], or an optional without a value. */
typedef struct GraphValue {
  Str name;
  bool output, none;
  size_t length; /* 0 for none */
} GraphValue;

typedef enum VarSource {
  VAR_INPUT, /* the size of axis `axis` of input slot `slot` */
  VAR_BOUND, /* given a value by a BIND of the graph */
  VAR_LOOP,  /* the number of the iteration */
} VarSource;

/* What VAR number k of a graph is; the node holds the same bounds. A run whose value is outside of
 * them, or no multiple of the divisor, fails. */
typedef struct GraphVar {
  Str name;
  int64_t min, max, divisor;
  VarSource source;
  uint32_t slot, axis; /* VAR_INPUT */
} GraphVar;

typedef struct TensorGraph {
  /* SINK(STORE(PARAM(output slot), value)..., STORE(view of a state, value)..., BIND...), of a
   * state its last STORE */
  UOp *sink;
  GraphSlot *slots;
  size_t nslots, ninputs, noutputs, nlocals;
  GraphValue *values;
  size_t nvalues;
  GraphVar *vars;
  size_t nvars;
  bool fast_math; /* also algorithms that round otherwise than the graph does (docs/numerics.md) */
  StrBuf constants; /* heap-owned bytes made by the frontend (decoded or folded weights) */
} TensorGraph;

typedef enum PlanBufferKind {
  PB_INPUT,
  PB_OUTPUT,
  PB_WEIGHT,
  PB_TEMP,
  PB_CONST,
  PB_STATE,
  PB_KEPT /* written by once calls, read by every run */
} PlanBufferKind;

typedef struct PlanBuffer {
  PlanBufferKind kind;
  int64_t slot; /* INPUT, STATE, OUTPUT, WEIGHT: slot of the tensor graph */
  DType dtype;
  int64_t numel; /* a dim over the plan's VARs */
  /* Bytes from the start of the arena (TEMP), of what is kept (KEPT) or of the slot's data (INPUT,
   * STATE, OUTPUT, WEIGHT). Whole temporaries start at multiples of 64. In a plan with a temporary
   * of symbolic size whole ones have offset 0 and parts theirs in the whole: the arena is laid out
   * when the sizes are known. */
  int64_t offset;
  uint32_t first, last; /* TEMP, whole: the steps that use it first and last */
  const char *why;      /* TEMP, KEPT: what it is there for */
  bool once;            /* KEPT, TEMP: written by once calls */
  bool carried;         /* TEMP: keeps its contents from one iteration of a loop to the next */
  uint32_t base; /* the whole buffer that this is the end of; its own number when it is whole */
  /* CONST: its contents. OUTPUT: not empty when the compiler knows the value; then no kernel writes
   * it. The bytes are repeated until the buffer is full. */
  Bytes constant;
} PlanBuffer;

/* A kernel in ranged form: SINK(END(STORE(PARAM 0, index, value[, gate]), ranges...), ...). PARAM
 * arg.i is the position in the argument list; 0 is the only one written. Output ranges are AX_LOOP,
 * in order outermost first by id; reduce ranges are AX_REDUCE. Range ids are 0..n-1. */
typedef struct Kernel {
  UOp *sink;
  const char
      *name; /* "r_64_56_56_64_3_3": E elementwise or r reduce, then the range sizes (n0: VAR 0) */
  size_t nargs;
  size_t nvars; /* VARs 0..n-1 */
  int64_t flops, traffic_bytes;
} Kernel;

typedef struct PlanCall {
  uint32_t kernel;
  uint32_t *args; /* plan buffer indices */
  uint32_t nargs;
  uint32_t *vars; /* the plan's VAR for each of the kernel's */
  uint32_t nvars;
  /* Depends on weights and constants alone: done when the executable is loaded and never again.
   * Such calls come first; they write KEPTs, and TEMPs that none but they read. */
  bool once;
} PlanCall;

typedef enum PlanStepKind {
  STEP_CALL, /* runs calls[call] */
  STEP_BIND, /* VAR `var` gets the value of `buffer`, one i64 */
  STEP_LOOP, /* repeats the steps up to the matching END, VAR `var` counting from 0 */
  STEP_END,
} PlanStepKind;

#define NO_BUFFER UINT32_MAX
/* Every argument of a kernel for a device with workgroups starts at a multiple of so many bytes.
 * Buffers, temporaries, weights and staged tensors do; see passes/narrow.c for parts of them. */
enum { BUFFER_ALIGN = 64 };

/* What a run does, in order. A LOOP runs `count` times, or as often as the i64 in `buffer` says
 * when there is one, and stops before an iteration when the bool in `condition` is false. */
typedef struct PlanStep {
  PlanStepKind kind;
  uint32_t call, var, buffer, condition;
  int64_t count; /* a dim */
} PlanStep;

typedef struct Plan {
  PlanBuffer *buffers;
  size_t nbuffers;
  Kernel *kernels; /* unique */
  size_t nkernels;
  PlanCall *calls; /* in execution order */
  size_t ncalls;
  PlanStep *steps; /* all calls, and what stands between them */
  size_t nsteps;
  size_t nonce;   /* the first `nonce` calls, and steps, are done when loading */
  GraphVar *vars; /* those of the graph */
  size_t nvars;
  int64_t kept_bytes; /* of all that is KEPT */
  int64_t peak_bytes; /* of all buffers, temporaries in their arena */
  int64_t temp_bytes; /* with symbolic temporaries: what the sizes expected would take */
} Plan;

/* What code is generated for; mirrors TargetSpec of worker.proto. Strings are NUL-terminated and
 * outlive the job. */
/* What the machine did when it was measured, per nanosecond; 0: not known. Code does not depend on
 * it, only what is expected of code. */
typedef struct Peaks {
  double flops_f32, flops_f64;             /* of one thread */
  double l2_bytes, l3_bytes, memory_bytes; /* that one thread reads */
  double all_memory_bytes;                 /* that all threads read */
} Peaks;

typedef struct Target {
  const char *kind, *triple, *cpu, *features, *compiler;
  uint32_t vector_bytes, vector_registers, threads;
  uint64_t l1_bytes, l2_bytes, l3_bytes, memory_bytes;
  uint32_t max_group;   /* threads of one workgroup; 0: the device has none and runs THREADs */
  uint32_t warp;        /* threads of a workgroup that run in step */
  uint64_t local_bytes; /* memory that a workgroup shares */
  uint32_t max_buffers; /* that one kernel may have; 0 = no limit */
  Peaks peaks;
} Target;
static inline bool target_is_cuda(const Target *t) {
  return t && t->kind && !strcmp(t->kind, "cuda");
}
/* Whether the device compiles CUDA C++: the libraries that it has are listed in `compiler`. */
static inline bool target_has_nvrtc(const Target *t) {
  return target_is_cuda(t) && t->compiler && strstr(t->compiler, "NVRTC");
}

/* One scheduling decision; see search/opts.h for the kinds and their legality. */
typedef struct Opt {
  uint8_t kind;
  int8_t axis;
  int32_t arg;
} Opt;
typedef struct OptList {
  Opt *at;
  size_t len, cap;
} OptList;

/* Bytes of the workgroup's memory that the code of a CUDA kernel may declare. */
#define DECLARED_SHARED_MAX (48 << 10)
/* Where buffers of a workgroup begin: all of them, where there is one whose elements the device
 * orders. */
enum { TILE_ALIGN = 1024, SHARED_ALIGN = 64 };

/* An ordered program: RANGE opens a loop, END closes it, everything is defined before it is used.
 */
typedef struct Linear {
  UOp **list;
  size_t len;
  uint32_t nargs, nvars;
  uint32_t threads;       /* thread indices the kernel expects to be called with */
  uint64_t scratch_bytes; /* thread-private buffers, per thread */
  uint64_t shared_bytes;  /* buffers of the workgroup */
  unsigned shared_align;  /* of those buffers */
  bool cuda_c;            /* the schedule wants it as CUDA C++, for NVRTC (COMPILER) */
  bool shared_given;      /* by the launch: they are too many for the code to declare (CUDA) */
  UOp *grid[3];           /* workgroups along x, y, z: INDEX expressions; NULL = 1 */
  uint32_t block[3];      /* threads of a workgroup along x, y, z */
  uint32_t copiers; /* more threads, behind those, that make TILECOPYs and nothing else; then the
                       launch has one dimension */
} Linear;
