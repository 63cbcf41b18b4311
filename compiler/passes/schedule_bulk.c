/* What a matrix instruction reads in the workgroup's memory, copied as whole tiles.
 *
 * A tile lies there in rows of 128 bytes (schedule_tiles.c), as many below each other as it has
 * across them, and then the next 128 bytes of each. One TILECOPY takes one such column of rows, 256
 * of them at most. Where the tiles of an axis overlap at its end, those of a workgroup's groups of
 * threads do not follow each other, and each group's part is copied apart. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/ir/tilecopy.h"
#include "compiler/passes/linsum.h"
#include "compiler/passes/schedule_parts.h"

enum { ROW_BYTES = 128, MOST_ROWS = 256, MOST_BOXES = 64 };

/* One axis of the tile: its elements, in parts that follow each other in the source. */
typedef struct Side {
  UOp *range;      /* in the kernel */
  UOp *lane;       /* that counts the parts; NULL: there is one */
  int64_t n, part; /* elements */
  int64_t step;    /* of them are copied at a time */
} Side;

typedef struct Bulk {
  Staging *s;
  const LinSum *sum;
  UOp *param, *buffer, *base;
  int64_t row;   /* elements in 128 bytes */
  int64_t apart; /* elements of one column of rows */
  UOp *copy[MOST_BOXES];
  uint32_t n;
} Bulk;

static Side side_of(const Bulk *b, uint32_t axis) {
  const Apply *a = b->s->a;
  const AxisPlan *p = &a->plan->axes[axis];
  int64_t lanes = p->lanes ? p->lanes : 1;
  Side side = {.range = a->k->axes[axis].range, .n = p->tile * lanes};
  if (a->plan->inner.info) side.n = opts_staged_extent(a->k, a->plan, axis, a->plan->pipeline);
  bool overlaps = p->lanes && p->size % p->tile;
  side.lane = overlaps ? a->axes[axis].lane : NULL;
  side.part = overlaps ? p->tile : side.n;
  return side;
}

/* An expression where the tile begins, or a part of it. */
static UOp *at_start(const Bulk *b, UOp *u, const Side *side, int64_t part) {
  Job *job = b->s->a->job;
  UOp **from = arena_array(&job->arena, b->s->n + 1u, sizeof *from);
  UOp **to = arena_array(&job->arena, b->s->n + 1u, sizeof *to);
  for (uint32_t d = 0; d < b->s->n; d++) {
    from[d] = b->s->dims[d].range;
    to[d] = uop_index(job, side && from[d] == side->lane ? part : 0);
  }
  return uop_substitute(job, u, from, to, b->s->n);
}

static int by_step(const void *x, const void *y) {
  const LinTerm *a = x, *b = y;
  return a->coeff < b->coeff ? -1 : a->coeff > b->coeff;
}

/* The box that begins at element x of one side and y of the other, which lies in the buffer at
 * `to`. */
static void copy_box(Bulk *b, const Side *along, int64_t x, const Side *across, int64_t y,
                     int64_t to) {
  const Apply *a = b->s->a;
  Job *job = a->job;
  LinTerm *t = arena_array(&job->arena, b->sum->n, sizeof *t);
  int64_t ints[1 + 3 * TILE_AXES] = {b->sum->n};
  UOp *src[3 + TILE_AXES] = {b->buffer, index_add(job, b->base, uop_index(job, to)), b->param};
  memcpy(t, b->sum->at, b->sum->n * sizeof *t);
  qsort(t, b->sum->n, sizeof *t, by_step);
  for (uint32_t d = 0; d < b->sum->n; d++) {
    const Side *side = t[d].atom == along->range    ? along
                       : t[d].atom == across->range ? across
                                                    : NULL;
    int64_t at = side == along ? x : side == across ? y : 0;
    int64_t part = side ? at / side->part : 0;
    UOp *now = a->now[nodemap_get(&a->pos, t[d].atom)];
    if (side && a->plan->inner.info)
      now = schedule_places(b->s->a, (uint32_t)t[d].atom->arg.i, now);
    UOp *start = at_start(b, now, side, part);
    if (side) start = index_add(job, start, uop_index(job, at % side->part));
    src[3 + d] = start;
    ints[1 + d] = side ? side->step : 1;
    ints[1 + b->sum->n + d] = t[d].atom->vmax + 1;
    ints[1 + 2 * b->sum->n + d] = t[d].coeff;
  }
  assert(b->n < MOST_BOXES);
  b->copy[b->n++] =
      uop_make(job, OP_TILECOPY, DT_VOID, arg_ints(ints, 1 + 3 * b->sum->n), src, 3 + b->sum->n);
}

UOp *schedule_bulk_copy(Staging *s, const UOp *old, UOp *buffer, UOp *base) {
  int factor;
  Job *job = s->a->job;
  const MatrixPlan *m = schedule_tiled(s->a, old, &factor);
  Bulk b = {.s = s,
            .sum = linsum_index(job, old->src[1]),
            .param = old->src[0],
            .buffer = buffer,
            .base = base,
            .row = ROW_BYTES / dtype_info[old->dtype].bytes};
  Side own = side_of(&b, factor == MATRIX_A ? m->m : m->n), sum = side_of(&b, m->k);
  bool turned = linsum_coeff(b.sum, own.range) == 1;
  Side along = turned ? own : sum, across = turned ? sum : own;
  along.step = b.row;
  across.step = across.part < MOST_ROWS ? across.part : MOST_ROWS;
  b.apart = across.n * b.row;
  for (int64_t x = 0; x < along.n; x += along.step)
    for (int64_t y = 0; y < across.n; y += across.step)
      copy_box(&b, &along, x, &across, y, x / b.row * b.apart + y * b.row);
  if (b.n == 1) return b.copy[0];
  return uop_make(job, OP_SINK, DT_VOID, arg_none(), b.copy, b.n);
}
