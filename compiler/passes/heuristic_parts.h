/* What the parts of heuristic.c share: a kernel while its opts are chosen. */
#pragma once

#include "compiler/passes/heuristic_block.h"
#include "compiler/passes/linsum.h"

typedef struct Sched {
  Job *job;
  const Target *target;
  KernelInfo *k;
  OptList *opts;
  LinSumMap sums;
  int vector;          /* output axis in lanes, -1: none */
  int64_t *tile;       /* by axis: product of factors given so far */
  bool *reduce_vector; /* by axis */
  int carried;         /* reduce axis whose loop is around all others, -1: none */
} Sched;

/* A REDUCE and the loads of its body. */
typedef struct Body {
  UOp *reduce;
  UOp **loads;
  uint32_t n;
  int64_t work;   /* iterations of the body in the whole kernel */
  int64_t weight; /* instructions of one of them */
} Body;

static inline int64_t size_of(const Sched *s, int axis) { return s->k->axes[axis].size; }
static inline bool is_static(const Sched *s, int axis) { return axis_is_static(&s->k->axes[axis]); }
/* Iterations of a range, at most. */
static inline int64_t most_of(const UOp *range) { return range->src[0]->vmax; }

static inline int64_t times(int64_t a, int64_t b) {
  int64_t r;
  return __builtin_mul_overflow(a, b, &r) ? INT64_MAX : r;
}

static inline void give(Sched *s, OptKind kind, int axis, int64_t n) {
  if (kind == OPT_VECTOR || kind == OPT_UPCAST || kind == OPT_UNROLL) {
    if (n < 2) return;
    s->tile[axis] *= n;
  }
  opts_push(s->job, s->opts, kind, axis, n);
}

static inline bool body_depends(const Body *b, int axis) {
  return axis >= 0 && kernel_depends(b->reduce->src[0], (uint32_t)axis);
}

static inline const UOp *through_casts(const UOp *u) {
  while (u->op == OP_CAST) u = u->src[0];
  return u;
}

static inline bool sums_products(const Body *b) {
  return b->reduce->arg.i == OP_ADD && through_casts(b->reduce->src[0])->op == OP_MUL;
}

static inline int stage_number(const Sched *s, const UOp *u) {
  for (uint32_t i = 0; i < s->k->nstageable; i++)
    if (s->k->stageable[i] == u) return (int)i;
  return -1;
}

/* Where the loop over an output axis stands; -1: it is none. */
static inline int place_of(const Sched *s, int axis) {
  for (uint32_t i = 0; i < s->k->nloops; i++)
    if (s->k->loops[i]->arg.i == axis) return (int)i;
  return -1;
}

/* A factor of the axis' size, at most `most`. */
static inline int64_t divisor_below(const Sched *s, int axis, int64_t most) {
  int64_t n = is_static(s, axis) ? size_of(s, axis) : s->k->axes[axis].divisor;
  for (int64_t d = most; d > 1; d--)
    if (n % d == 0) return d;
  return 1;
}

/* The output axis in the rows of a contraction's tile whose lanes are along v; -1: none. */
int heuristic_row_axis(const Sched *s, const Body *b, int v);
/* Splits a vector axis that is shorter than a vector, or does not divide. Returns the lanes. */
int64_t heuristic_vector(Sched *s, int axis, int64_t lanes);
/* Elements that an index moves when the axis moves by one; INT64_MAX: now these, now others. */
int64_t heuristic_step(Sched *s, UOp *index, int axis);
/* What was given so far; false when it is not legal. The kernel is the merged one. */
bool heuristic_given(const Sched *s, OptPlan *plan);

/* -- heuristic_serial.c -- */
/* The loop along which each step reads what the last one wrote; -1: there is none. */
int heuristic_chained(const Sched *s);
/* Rows side by side where a vector across them was not chosen. */
void heuristic_serial(Sched *s);

/* -- heuristic_choice.c -- */
/* Results that share what is computed for them, when lanes are along `axis`. */
int64_t heuristic_shared(const Sched *s, int axis);
/* Writes out the axes that decide what is chosen; true when there are any. */
bool heuristic_write_out(Sched *s);

/* -- heuristic_transpose.c -- */
/* Blocks along v, the axis in lanes, where what is read across it is in too many pages or lines:
 * the kernel has to be split as the first opt says. */
bool heuristic_transpose_blocks(Sched *s, int v, int64_t lanes);
/* Tiles of lanes and rows, at most `room` of these; how many there are, 0 where all is read along
 * the lanes, and then nothing is given. */
int64_t heuristic_transpose(Sched *s, int64_t lanes, int64_t room);

/* -- heuristic_rows.c -- */
/* The contraction whose results are the elements of kept rows, at one of the places where it
 * stands; NULL when there is none. */
const Body *heuristic_inner(Sched *s, const Body *bodies, uint32_t n);
/* Schedules a chain of contractions over kept rows; false, and nothing given, when it is none. */
bool heuristic_chain(Sched *s, const Body *bodies, uint32_t n, int64_t lanes);
/* Takes several rows at once where each waits for its own instructions; how many. */
int64_t heuristic_pair_rows(Sched *s, const Body *bodies, uint32_t n);
/* Keeps the values that cost more than reading them back. */
void heuristic_keep(Sched *s);
