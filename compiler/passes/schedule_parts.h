/* What the parts of schedule.c share: a kernel while its axes become typed ranges. */
#pragma once

#include "compiler/passes/nodemap.h"
#include "compiler/passes/schedule.h"
#include "compiler/passes/schedule_matrix.h"

/* Digits of a kind that a coordinate has; ranges that an axis becomes, at most. */
enum { MAX_DIGITS = 2, AXIS_RANGES = OPT_MAX_INNER + 4 + MAX_DIGITS + 4 };

typedef struct NewAxis {
  UOp *value;                    /* the old range as an expression */
  UOp *along;                    /* the same inside of its block; value without REPAIR */
  UOp *thread, *loop;            /* NULL when there is none; thread: or the workgroup */
  UOp *lane;                     /* thread of the workgroup, or NULL */
  UOp *inner[OPT_MAX_INNER + 3]; /* outermost first: the SPREAD, tiles, the vector or digits */
  uint32_t ninner;
  UOp *warp[MAX_DIGITS], *digit[MAX_DIGITS]; /* of a matrix instruction's product: of the thread's
                                                number, of the element's; NULL behind the last */
  UOp *unit;                                 /* the one of them that counts single steps */
  UOp *place;                                /* in the tile of a matrix instruction, or NULL */
  UOp *limit; /* bool: inside the unpadded size; NULL when not padded */
} NewAxis;

/* One dimension of a staged tile. */
typedef struct StageDim {
  UOp *range;           /* in the kernel */
  UOp *copy;            /* in the copy loop */
  UOp *loops[2];        /* whose sum `copy` is; NULL: it is one itself */
  int64_t stride;       /* in the buffer */
  int64_t step;         /* in the source; INT64_MAX when not linear */
  int64_t whole, outer; /* groups of `whole` are `outer` elements apart; 0: there is one group */
  bool bound;           /* while renaming: what is looked at has closed it */
} StageDim;

/* Where a kept value is. */
typedef struct KeptBuffer {
  UOp *filled;    /* the buffer, after it was computed; NULL until then */
  StageDim *dims; /* those with a stride are what all members share */
  uint32_t n;
  int64_t *stride; /* of each row */
  UOp *scale;      /* a positive number that members are multiples of; NULL: they are kept whole */
} KeptBuffer;

typedef struct Apply Apply;

typedef struct Staging {
  Apply *a;
  StageDim *dims;
  uint32_t n;
  int64_t elements;
  bool unrolled; /* unrolled steps are computed together in the copy too */
  bool tiled;    /* for a matrix instruction that reads it there */
} Staging;

/* A link of a repaired chain while its block is computed. */
typedef struct Repaired {
  UOp *buffer, *at; /* the result so far is buffer[at] */
  UOp *old, *now;   /* before the block, and with it */
  Staging staging;  /* what the buffer spans */
} Repaired;

/* What a product that is one block late needs of the block before. */
typedef struct Carry {
  UOp *buffer, *at, *value; /* the first factor: buffer[at], and of this block */
  UOp *other, *part;        /* the second one of this block; the sum of products */
  Staging staging;
} Carry;

struct Apply {
  Job *job;
  const KernelInfo *k;
  const OptPlan *plan;
  NewAxis *axes;
  MatrixTile tile;
  int64_t next_id;
  NodeMap pos;
  UOp **now;          /* by position in k->list */
  KeptBuffer *kept;   /* by KEEP */
  UOp *block;         /* the RANGE over the blocks of a REPAIR, or NULL */
  UOp *first;         /* the number of the first of them; NULL: 0 */
  UOp *blocks;        /* how many a whole row has */
  UOp *whole;         /* so many of them are not masked anywhere; NULL: not known */
  Repaired *repaired; /* by link of the chain */
  bool skewed;        /* the outer product of two is one block late */
  Carry carry;
};

/* The largest: buffers are laid out for it. */
static inline int64_t range_size(const UOp *r) { return r->src[0]->vmax; }

static inline UOp *new_range(Apply *a, AxisType type, int64_t n) {
  return uop_range(a->job, a->next_id++, type, uop_index(a->job, n));
}

/* schedule_stage.c: the dimensions of what is copied inside the loop over `level`, laid out in
 * their order. */
void schedule_collect(Staging *s, UOp *value, int level);
/* The element of the buffer, for the ranges of the kernel or of the copy. */
UOp *schedule_position(Staging *s, bool copy);
/* u over the ranges of the copy. A reduction below may close a range of that name, which is another
 * one. */
UOp *schedule_renamed(Staging *s, UOp *u);
/* The staged form of an operand (already rebuilt over the new ranges), `old` in the kernel. */
UOp *schedule_stage(Apply *a, const UOp *old, UOp *operand, int level);

/* schedule_tiles.c: the product that has `old` as a factor and reads it in the workgroup's memory,
 * and which factor it is; NULL: none. */
const MatrixPlan *schedule_tiled(const Apply *a, const UOp *old, int *factor);
/* The dimensions, sorted along the source, laid out as the instruction takes them. */
void schedule_lay_out_tiles(Staging *s, const UOp *old);

/* schedule_bulk.c: the effects that copy such a factor's tile to the buffer, from element `base`
 * on.
 */
UOp *schedule_bulk_copy(Staging *s, const UOp *old, UOp *buffer, UOp *base);

/* schedule_persist.c: the kernel with as many workgroups as a PERSIST says. */
UOp *schedule_persist(Apply *a, UOp *sink);

/* schedule_chain.c: v and the digits of the axis in the tile of a matrix instruction. */
UOp *schedule_digits(Apply *a, uint32_t axis, UOp *v);
/* An element of a factor that two products' instructions read in memory: over its place in the tile
 * of the axis instead of the digits. */
UOp *schedule_places(Apply *a, uint32_t axis, UOp *u);
/* The MMA of one of two products, whose factors are rebuilt over the new ranges. */
UOp *schedule_quick_exp(Job *job, Op op, UOp *x);
UOp *schedule_chain_product(Apply *a, const MatrixPlan *plan, UOp *first, UOp *second);

/* schedule_skew.c: the factors of the block before in the place of those of this one. */
void schedule_skew(Apply *a, UOp *factor[2]);
/* The result so far and the products of the block before. */
UOp *schedule_skewed_sum(Apply *a, UOp *old, UOp *part);
/* Keeps this block's factor, after the effect. */
UOp *schedule_carry(Apply *a, UOp *before);
/* The products of the last block, once all of them are done. */
UOp *schedule_skewed_rest(Apply *a, UOp *done);

/* schedule.c: rebuilds node i of the list and puts what is staged or kept of it in its place. */
void schedule_step(Apply *a, size_t i);

/* schedule_keep.c: node u, rebuilt as `value`, is a member of a kept value: the element of the
 * buffer. */
UOp *schedule_keep_value(Apply *a, uint32_t keep, UOp *u, UOp *value);
/* The scale of the maximum's body, which is a kept value; NULL: it has none. */
UOp *schedule_scale_of(const Apply *a, const UOp *reduce, const UOp *value);
/* schedule_repair.c: all links of the chain, before anything else that needs them. */
void schedule_repair(Apply *a);
/* A link that has `part` as result of the block alone: its result with the blocks before. */
UOp *schedule_repair_block(Apply *a, uint32_t link, UOp *part);
/* schedule_bound.c: how many of the blocks have to be computed, once all axes but those of the
 * chain are placed. */
UOp *schedule_block_end(Apply *a, UOp *blocks);
/* The number of the first one that has to be; NULL: 0. */
UOp *schedule_block_first(Apply *a, UOp *end);
/* The condition of a WHERE that masks scores, which asks nothing where a block is there as a whole;
 * NULL: u is something else. */
UOp *schedule_mask(Apply *a, UOp *u);
/* Whether more of them are the further on along the output axis: then workgroups begin with the
 * last ones, so that those that take longest are not the last to begin. */
bool schedule_blocks_grow(const Apply *a, uint32_t axis);
/* schedule_spread.c: a kernel of several stores for workgroups: one thread per element of the
 * largest store; opts do not apply. */
UOp *schedule_spread_stores(Job *job, UOp *sink, const KernelInfo *k, const Target *target);
