/* Schedules as data: a list of opts applied to one ranged kernel.
 *
 * An opt names an axis of the unscheduled kernel by its range id. Several opts of one axis combine
 * to one tile, innermost first: VECTOR(1,16) UPCAST(1,2) makes tiles of 32 along axis 1, two
 * vectors of 16 wide. An output axis whose size is no multiple of its tile gets overlapping tiles:
 * the last one is moved back and computes some elements twice, which is sound because a kernel
 * does not read what it writes; one that does has that axis padded instead. Reduce axes cannot
 * overlap: their tile divides the size, or PADTO comes first.
 *
 * The size of an axis may be known only at run time, between two bounds. A tile then divides it
 * (because the size's divisor says so), overlaps (because the least size holds a tile), is padded
 * (PADTO to a multiple of the tile), or, where it is a tile of single output elements, is clamped:
 * what lies beyond the end computes the last element again.
 *
 * SPLIT and CARRY block a contraction: SPLIT(2,256) CARRY(3,1) sums 256 steps of axis 2 for all
 * that lies inside of the output loop at position 1, then the next 256; what STAGE copies inside of
 * the loop over axis 3 is then 256 steps deep and stays in a cache.
 *
 * On a device with workgroups every output loop runs over workgroups, and LOCAL, GROUP and GROUPTOP
 * make the threads of one. The first of them in a list is the fastest varying dimension; one that
 * has as many threads as an earlier one shares its dimension when no reduction runs inside both
 * axes: the threads that share the rows of a softmax's sum share its columns too. A tile (VECTOR,
 * UPCAST, UNROLL) lies inside of what one thread does; SPREAD lies around the threads, so that at
 * each step neighbours touch neighbouring tiles. A row whose reductions and outputs are spread
 * alike is read once: the loads of all of them are the same nodes.
 *
 * Lists travel between machines as text: "VECTOR(1,16) UPCAST(0,8) THREAD(0,2)". */
#pragma once

#include "compiler/ir/matrix.h"
#include "compiler/search/kept.h"
#include "compiler/search/repair.h"

typedef enum OptKind {
#define OPT(name_, doc_) OPT_##name_,
#include "compiler/search/opts.def"
#undef OPT
  OPT__COUNT
} OptKind;

/* The argument of TC: the instruction, the axis of its columns and that of its sum. */
static inline int64_t opt_tc_arg(int64_t id, uint32_t n, uint32_t k) {
  return id + 256 * (int64_t)n + 32768 * (int64_t)k;
}
static inline int64_t opt_tc_id(int64_t arg) { return arg % 256; }
static inline uint32_t opt_tc_n(int64_t arg) { return (uint32_t)(arg / 256 % 128); }
static inline uint32_t opt_tc_k(int64_t arg) { return (uint32_t)(arg / 32768); }

/* The argument of PIPELINE: how many places, and in which of these ways. */
enum {
  PIPE_GO_ON = 16, /* matrix instructions of one iteration go on into the next */
  PIPE_WHOLE = 32, /* whole tiles are copied, by a warp of its own */
  PIPE_WAYS = PIPE_GO_ON | PIPE_WHOLE
};
static inline int32_t opt_pipe_places(int32_t arg) { return arg % PIPE_GO_ON; }

/* The argument of COMPILER. */
enum { COMPILER_NVRTC = 1 };

void opts_push(Job *job, OptList *list, OptKind kind, int axis, int64_t arg);
void opts_append(Job *job, OptList *to, const OptList *more);
void opts_print(const OptList *list, StrBuf *out);
/* INVALID_ARGUMENT says where and what was expected. Legality is another question. */
Status opts_parse(Job *job, Str text, OptList *out);

/* -- a kernel's axes and operands
 * ---------------------------------------------------------------------------- */

enum { KERNEL_MAX_AXES = 1 << 16 };

typedef struct KernelAxis {
  UOp *range;             /* NULL: no range has this id */
  int64_t size;           /* the largest */
  int64_t least, divisor; /* the smallest; a number that divides every size */
  bool reduce;
  bool serial; /* its iterations may touch the same elements: no opt but ORDER */
} KernelAxis;

static inline bool axis_is_static(const KernelAxis *a) { return a->least == a->size; }

typedef struct KernelInfo {
  UOpList list;  /* topological */
  UOp *store;    /* NULL unless the kernel has exactly one */
  bool in_place; /* it reads what it writes, or writes an element several times */
  UOp **loops;   /* its output ranges, outermost first */
  uint32_t nloops;
  KernelAxis *axes; /* by range id */
  uint32_t naxes;
  UOp **operands; /* the INDEX nodes of PARAMs, in topological order */
  uint32_t noperands;
  UOp **stageable; /* operands, and factors computed from them, in topological order */
  uint32_t nstageable;
  Kept *kept; /* what KEEP may name */
  uint32_t nkept;
} KernelInfo;

KernelInfo *kernel_info(Job *job, UOp *sink);
/* True when u depends on the range of that id. */
bool kernel_depends(const UOp *u, uint32_t axis);

/* -- what a list means for a kernel
 * -------------------------------------------------------------------------- */

#define OPT_MAX_INNER   4
#define OPT_ROW_PADDING 16                 /* bytes behind a row of what is staged, for its banks */
#define OPT_MAX_STAGE   ((int64_t)1 << 22) /* elements of one buffer of a thread */

/* Which coordinate of a matrix instruction's product is split into the digits of threads and
 * elements, where two products share an axis; else the coordinate stays whole until the end. */
typedef enum PlaceDigits { PLACE_WHOLE, PLACE_M, PLACE_N } PlaceDigits;

typedef struct AxisPlan {
  int64_t size;   /* padded; the largest */
  int64_t tile;   /* matrix * vector * inner... */
  int64_t outer;  /* iterations left for the loop, at most */
  int32_t matrix; /* elements that a matrix instruction takes, 1 = none does */
  PlaceDigits digits;
  int32_t vector; /* lanes, 1 = not vectorised */
  int32_t inner[OPT_MAX_INNER];
  uint32_t ninner;
  int32_t threads; /* 0 = not threaded */
  int32_t pad;     /* PADTO of an axis whose size is not known; 0 = none */
  int32_t block;   /* of a REPAIR: steps, 0 = none */
  int32_t lanes;   /* threads of the workgroup that share the axis, 0 = it is not shared */
  int32_t spread;  /* elements or tiles of one thread, a workgroup's width apart; at least 1 */
  int dim;         /* of the workgroup: where they are */
  bool top;        /* each takes steps that follow each other (GROUPTOP) */
  bool padded, overlaps, clamped;
  bool lanes_clamp; /* threads beyond the end do the last iteration again */
} AxisPlan;

typedef struct StagePlan {
  uint32_t operand; /* among the stageable */
  int level;        /* axis id of the loop in which the copy is made, -1: before all loops */
} StagePlan;

typedef struct KeepPlan {
  uint32_t value; /* among the kept */
  int level;      /* as of a StagePlan */
} KeepPlan;

/* The sum that matrix instructions compute. */
typedef struct MatrixPlan {
  const MatrixInfo *info; /* NULL: none does */
  int64_t id;
  uint32_t m, n, k; /* axes */
  UOp *reduce;      /* REDUCE(ADD, MUL(...)) */
  UOp *factor[2];   /* A and B, in the instruction's dtypes */
} MatrixPlan;

typedef struct OptPlan {
  AxisPlan *axes;
  uint32_t *order; /* output axes, outermost first, then reduce axes, outermost first */
  uint32_t nout, nred;
  StagePlan *stages;
  uint32_t nstages;
  KeepPlan *keeps;
  uint32_t nkeeps;
  RepairChain repair; /* n == 0: none */
  int repair_level;   /* the loop inside of which its blocks run */
  MatrixPlan matrix;
  MatrixPlan inner; /* a product along the row that `matrix` sums over */
  int pipeline;     /* the reduce axis over whose loop copies run ahead; -1: none */
  int32_t slots;    /* places that they go to by turns */
  bool bulk;        /* they are made a tile at a time, by a warp that does nothing else */
  int32_t persist;  /* workgroups, 0: one for each tile */
  int32_t under;    /* iterations whose matrix instructions may still be under way in the next */
  bool groups;      /* the target has workgroups: output loops run over them */
  bool nolocals;
  bool cuda_c;      /* COMPILER */
  int32_t block[3]; /* threads of a workgroup; the first ndims are in use, the others are 1 */
  int ndims;
  int carry;         /* the reduce axis whose loop runs among the output loops, or -1 */
  uint32_t carry_at; /* right outside of the output loop at this position */
} OptPlan;

/* MERGE and SPLIT make another kernel; they come first. */
static inline bool opt_is_head(const Opt *o) {
  return o->kind == OPT_MERGE || o->kind == OPT_SPLIT;
}
/* The kernel with the head of the list done, and the rest of the list. */
Status opts_merge(Job *job, UOp *kernel, const OptList *list, UOp **merged, OptList *rest);
/* Does the loop over `axis` lie inside the loop over `level` (-1: around all)? */
bool opts_inside(const OptPlan *plan, uint32_t axis, int level);
/* INVALID_ARGUMENT with the reason when a list (without its head) is not legal for the kernel on
 * the target. */
Status opts_plan(Job *job, const KernelInfo *k, const Target *target, const OptList *list,
                 OptPlan *out);
/* opts_matrix.c: the sum of products that t->info is to compute over the axes of *t, and its
 * factors; false when there is none. */
bool opts_matrix_find(Job *job, const KernelInfo *k, MatrixPlan *t, bool chained);
/* Whether a matrix instruction reads it in the workgroup's memory. */
bool opts_matrix_tiled(const OptPlan *plan, const UOp *operand);
/* What a TC needs of the rest of the list; stages factors that must be. */
Status opts_matrix_check(const KernelInfo *k, OptPlan *plan);
/* opts_stage.c: what is copied fits, and may be copied where the list says. */
Status opts_stages_check(Job *job, const KernelInfo *k, const Target *target, const OptPlan *plan);
/* opts_bulk.c: PIPELINE with copies of whole tiles. */
Status opts_bulk_check(Job *job, const KernelInfo *k, const Target *target, const OptPlan *plan);
/* One of the *n REDUCEs over the axis. */
const UOp *opts_reduce_over(const KernelInfo *k, uint32_t axis, uint32_t *n);
/* opts_rows.c: whether a sum over the axis is computed anew in every step of another. */
bool opts_is_inner_sum(const KernelInfo *k, int axis);
/* KEEP and REPAIR, once everything else is planned. */
Status opts_rows_check(const KernelInfo *k, OptPlan *plan);
/* The member whose loops the computation of a kept value gets, one that walks its rows as a whole:
 * one along reduce axes, whose tiles do not overlap, and of these the one with the largest; a
 * matrix product before others. */
uint32_t opts_kept_filler(const KernelInfo *k, const OptPlan *plan, const Kept *kept);
/* opts_chain.c: may the result of one instruction be a factor of another one as it lies? */
bool opts_chain_fits(const MatrixInfo *inner, const MatrixInfo *outer);
/* ... of some instruction? */
bool opts_chain_begins(const MatrixInfo *info);
/* Bytes between the rows of `elements` that are staged for one of two products. */
int64_t opts_chain_padding(const KernelInfo *k, const OptPlan *plan, uint32_t stage,
                           int64_t elements);
/* The axes of the row of an inner product; before tiles are checked. */
Status opts_chain_rows(const KernelInfo *k, OptPlan *plan);
/* The space of the buffer of a kept value: of the thread, of the workgroup, or spread over the
 * threads' registers because all of its rows are shared alike. */
int opts_kept_space(const OptPlan *plan, const Kept *kept);
/* Elements along an axis of what is staged or kept inside the loop over `level`. */
int64_t opts_staged_extent(const KernelInfo *k, const OptPlan *plan, uint32_t axis, int level);
/* Whether the list has a COMPILER that takes CUDA C++. */
bool opts_cuda_c(const OptList *list);
Status opts_check(Job *job, UOp *kernel, const Target *target, const OptList *list);
