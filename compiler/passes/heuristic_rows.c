/* Rows that several reductions run along: a softmax, or attention.
 *
 * What a kernel computes for all of a row and needs more than once is kept (KEEP) where computing
 * it again costs more than reading it. A chain of contractions - the inner one computes the
 * elements of a row, others run along it - has rows as lanes; a row that would fill much of the
 * cache, or is masked in part, is taken in blocks whose results are put right as the blocks after
 * them come (REPAIR). */
#include "compiler/passes/heuristic_parts.h"

#include <math.h>

enum { LONG_ROW = 1024 }; /* elements of a row whose last factor is packed */

/* -- chains of contractions -------------------------------------------------------------------- */

static bool is_row_of(const Kept *k, const UOp *range) {
  for (uint32_t r = 0; r < k->n * k->nrow; r++)
    if (k->row[r] == range) return true;
  return false;
}

/* A reduction along rows that are kept. */
static bool runs_along_rows(const Sched *s, const Body *b) {
  for (uint32_t n = 0; n < s->k->nkept; n++)
    for (uint32_t r = 1; r < b->reduce->nsrc; r++)
      if (is_row_of(&s->k->kept[n], b->reduce->src[r])) return true;
  return false;
}

/* The kept row that an inner contraction computes an element of; NULL when there is none. */
static const UOp *inner_row(const Sched *s, const Body *b) {
  for (uint32_t n = 0; n < s->k->nkept; n++)
    for (uint32_t r = 0; r < s->k->kept[n].n * s->k->kept[n].nrow; r++)
      if (uop_is_open(b->reduce, s->k->kept[n].row[r])) return s->k->kept[n].row[r];
  return NULL;
}

static bool is_inner(Sched *s, const Body *b) {
  return sums_products(b) && b->n > 1 && !runs_along_rows(s, b) && inner_row(s, b);
}

const Body *heuristic_inner(Sched *s, const Body *bodies, uint32_t n) {
  for (uint32_t i = 0; i < n; i++)
    if (is_inner(s, &bodies[i])) return &bodies[i];
  return NULL;
}

/* What depends on the lanes is packed once for all of a row, wherever the contraction stands. */
static void stage_lanes(Sched *s, const Body *bodies, uint32_t n, int axis) {
  for (uint32_t b = 0; b < n; b++)
    for (uint32_t k = 0; k < 2 && is_inner(s, &bodies[b]); k++) {
      UOp *factor = through_casts(bodies[b].reduce->src[0])->src[k];
      int number = stage_number(s, factor);
      if (kernel_depends(factor, (uint32_t)axis) && number >= 0) give(s, OPT_STAGE, axis, number);
    }
}

/* A maximum of what is -inf in places: blocks of that need not be computed. */
static bool masks_rows(const Sched *s, const Body *bodies, uint32_t n) {
  for (uint32_t b = 0; b < n; b++) {
    const UOp *body = through_casts(bodies[b].reduce->src[0]);
    if (runs_along_rows(s, &bodies[b]) && body->op == OP_WHERE &&
        uop_is_number(body->src[2], -(double)INFINITY))
      return true;
  }
  return false;
}

/* The innermost loop outside of `axis` that u depends on; -1: none. */
static int level_outside(const Sched *s, const UOp *u, int axis) {
  int level = -1;
  for (uint32_t l = 0; l < s->k->nloops && s->k->loops[l]->arg.i != axis; l++)
    if (uop_is_open(u, s->k->loops[l])) level = (int)s->k->loops[l]->arg.i;
  return level;
}

/* Bytes of u's values along all that lies in the loop over `axis`. */
static int64_t bytes_inside(const Sched *s, const UOp *u, int axis) {
  int64_t bytes = dtype_info[u->dtype].bytes;
  for (uint32_t o = 0; u->open && o < u->open->n; o++) {
    const UOp *r = u->open->at[o];
    bool outside = false;
    for (uint32_t l = 0; l < s->k->nloops && s->k->loops[l]->arg.i != axis; l++)
      outside |= s->k->loops[l] == r;
    if (!outside) bytes = times(bytes, most_of(r));
  }
  return bytes;
}

/* What all lanes share and has to be computed - a conversion, a scaling - is computed once for all
 * rows instead of once for every few. What the last contraction of long rows reads is packed by its
 * tiles, which go over a block again and again; where blocks are left out that does not pay. */
static void stage_shared(Sched *s, const Body *bodies, uint32_t n, int axis) {
  bool masked = masks_rows(s, bodies, n);
  for (uint32_t b = 0; b < n; b++)
    for (uint32_t k = 0; k < 2 && sums_products(&bodies[b]); k++) {
      UOp *factor = through_casts(bodies[b].reduce->src[0])->src[k];
      const UOp *last = bodies[b].reduce->src[bodies[b].reduce->nsrc - 1];
      bool packs = !masked && runs_along_rows(s, &bodies[b]) && most_of(last) >= LONG_ROW;
      int number = stage_number(s, factor);
      if (number < 0 || kernel_depends(factor, (uint32_t)axis)) continue;
      if (factor->op == OP_INDEX && !packs) continue;
      int level = level_outside(s, factor, axis);
      if ((uint64_t)bytes_inside(s, factor, axis) > s->target->l2_bytes / 2) continue;
      OptPlan plan;
      give(s, OPT_STAGE, level, number);
      if (!heuristic_given(s, &plan)) s->opts->len--;
    }
}

/* Whether each tile of rows reads more than stays in the nearer caches: the other operands of all
 * contractions, for all of the row. */
static bool reads_far(const Sched *s, const Body *bodies, uint32_t n, int axis) {
  int64_t bytes = 0;
  for (uint32_t b = 0; b < n; b++)
    for (uint32_t k = 0; k < 2 && sums_products(&bodies[b]); k++) {
      UOp *factor = through_casts(bodies[b].reduce->src[0])->src[k];
      if (!runs_along_rows(s, &bodies[b]) || kernel_depends(factor, (uint32_t)axis)) continue;
      bytes = 2 * bytes_inside(s, factor, axis); /* and about as much for the rows themselves */
    }
  return (uint64_t)bytes > s->target->l2_bytes / 2;
}

/* Steps of a block of which all rows of the tile fill most of the nearest cache, where it adds
 * little to rows of that size; 0: there is none. */
static int64_t block_of(const Sched *s, int64_t size, int64_t bytes, bool masked) {
  enum { MOST = 256, MASKED = 128, LEAST = 64 };
  int64_t block = masked ? MASKED : MOST, room = (int64_t)s->target->l1_bytes * 2 / 3;
  while (block > LEAST && block * bytes > room) block /= 2;
  for (; block >= LEAST; block /= 2)
    if (size >= 2 * block && (size + block - 1) / block * block - size <= size / 16) return block;
  return 0;
}

/* The reduce axes that run along kept rows, in unrolled steps; rows that these do not divide are
 * padded. Rows that would fill much of the cache, `bytes` for each step of the tile, or are masked
 * in part, are taken in blocks. */
static void tile_rows(Sched *s, const Body *bodies, uint32_t n, int64_t steps, int64_t bytes) {
  enum { LONG = 512, LONG_MASKED = 256 };
  bool masked = masks_rows(s, bodies, n);
  int64_t block = 0;
  int row = -1;
  for (uint32_t b = 0; b < n; b++) {
    if (!runs_along_rows(s, &bodies[b])) continue;
    int j = (int)bodies[b].reduce->src[bodies[b].reduce->nsrc - 1]->arg.i;
    int64_t size = size_of(s, j);
    bool many = is_static(s, j) && size >= (masked ? LONG_MASKED : LONG);
    if (s->tile[j] > 1) continue;
    if (many) block = block_of(s, size, bytes, masked), row = block ? j : row;
    int64_t unit = many && block ? block : steps;
    if (is_static(s, j) && size > steps && size % unit) give(s, OPT_PADTO, j, unit);
    give(s, OPT_UNROLL, j, size < steps ? size : sums_products(&bodies[b]) ? 2 : steps);
  }
  if (row >= 0) give(s, OPT_REPAIR, row, block);
}

/* Vectors of rows in a tile, and columns. All sums stay in registers, with the rows of one step. Of
 * two tiles with as many sums the one with more rows reads the other operands less often. */
static int64_t tile_vectors(const Sched *s, const Body *bodies, uint32_t n, int axis,
                            int64_t *columns) {
  enum { MANY_REGISTERS = 32, TALL = 4, ENOUGH = 12 };
  int64_t vectors = size_of(s, axis) / s->tile[axis];
  if (s->target->vector_registers < MANY_REGISTERS) {
    *columns = 4;
    return vectors >= ENOUGH ? 3 : 2;
  }
  bool tall = vectors >= TALL && reads_far(s, bodies, n, axis);
  *columns = tall ? 4 : 8;
  return tall ? TALL : 2;
}

/* Lanes are rows: each has its own maximum and sum, so that no reduction crosses lanes, and both
 * contractions read their other operand one element at a time, for all lanes. */
bool heuristic_chain(Sched *s, const Body *bodies, uint32_t n, int64_t lanes) {
  const Body *inner = heuristic_inner(s, bodies, n);
  int i = inner ? heuristic_row_axis(s, inner, (int)inner_row(s, inner)->arg.i) : -1;
  if (i < 0 || size_of(s, i) < lanes) return false;
  s->vector = i;
  heuristic_vector(s, i, lanes);
  int64_t columns, rows = tile_vectors(s, bodies, n, i, &columns);
  if (size_of(s, i) >= 2 * lanes) give(s, OPT_UPCAST, i, rows);
  for (uint32_t l = s->k->nloops; l-- > 0;) {
    int d = (int)s->k->loops[l]->arg.i;
    if (d == i || uop_is_open(inner->reduce, s->k->loops[l])) continue;
    give(s, OPT_UPCAST, d, divisor_below(s, d, columns));
    break;
  }
  tile_rows(s, bodies, n, columns, rows * lanes * (int64_t)sizeof(float));
  stage_lanes(s, bodies, n, i);
  stage_shared(s, bodies, n, i);
  return true;
}
/* -- rows side by side --------------------------------------------------------------------------
 */

/* Bytes of a row that a body reduces. */
static int64_t row_bytes(const Body *b) {
  int64_t bytes = dtype_info[b->reduce->dtype].bytes;
  for (uint32_t r = 1; r < b->reduce->nsrc; r++) bytes = times(bytes, most_of(b->reduce->src[r]));
  return bytes;
}

/* Whether a row's instructions wait for each other, so that those of another row may go between
 * them: an exponential is one chain of them, and that no number so far was a NaN is one along a row
 * of maxima. What is read again for the next reduction should stay in the nearest cache for both.
 */
static bool waits(const Sched *s, const Body *bodies, uint32_t n, int64_t rows) {
  enum { HEAVY = 16 /* instructions: an exponential */ };
  bool heavy = false, near = true;
  for (uint32_t b = 0; b < n; b++) {
    heavy |= bodies[b].weight >= HEAVY;
    near &= (uint64_t)times(2 * rows, row_bytes(&bodies[b])) <= s->target->l1_bytes;
  }
  bool most = n == 1 && (bodies->reduce->arg.i == OP_MAX || bodies->reduce->arg.i == OP_MIN);
  return heavy ? near : most && s->vector < 0 && dtype_is_float((DType)bodies->reduce->dtype);
}

int64_t heuristic_pair_rows(Sched *s, const Body *bodies, uint32_t n) {
  enum { ROWS = 2 };
  int a = -1;
  for (uint32_t l = 0; l < s->k->nloops; l++)
    if ((int)s->k->loops[l]->arg.i != s->vector) a = (int)s->k->loops[l]->arg.i;
  if (a < 0 || !waits(s, bodies, n, ROWS)) return 1;
  if (s->k->axes[a].serial || divisor_below(s, a, ROWS) < ROWS) return 1;
  if (size_of(s, a) < ROWS * (int64_t)s->target->threads) return 1;
  for (uint32_t b = 0; b < n; b++)
    if (!body_depends(&bodies[b], a) || body_depends(&bodies[b], s->vector)) return 1;
  give(s, OPT_UPCAST, a, ROWS);
  return ROWS;
}

/* -- keeping ----------------------------------------------------------------------------------- */

static bool depends_on_row(const Kept *k, const UOp *u) {
  for (uint32_t r = 0; r < k->nrow; r++)
    if (uop_is_open(u, k->row[r])) return true;
  return !k->nrow && u->open == k->at[0]->open;
}

/* Instructions behind one element, without what is the same along the row. */
static int64_t kept_weight(Sched *s, const Kept *k) {
  UOp *value = k->at[0];
  UOpList list = uop_toposort(s->job, value);
  int64_t n = 0;
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    int64_t work = heuristic_weight(u);
    if (!depends_on_row(k, u) && u != value) continue;
    for (uint32_t o = 0; u->open && o < u->open->n; o++)
      if (!uop_is_open(value, u->open->at[o])) work = times(work, most_of(u->open->at[o]));
    n = __builtin_add_overflow(n, work, &n) ? INT64_MAX : n;
  }
  return n;
}

/* The innermost loop that a value depends on, rows aside. */
static int keep_level(const Sched *s, const Kept *k) {
  int level = -1;
  const RangeSet *open = k->at[0]->open;
  for (uint32_t i = 0; i < s->k->nloops; i++) {
    const UOp *loop = s->k->loops[i];
    bool row = false;
    for (uint32_t m = 0; m < k->n * k->nrow; m++) row |= k->row[m] == loop;
    for (uint32_t o = 0; o < open->n && !row; o++)
      if (open->at[o] == loop) level = (int)loop->arg.i;
  }
  return level;
}

/* What costs more than reading it back from the nearest cache is computed once. */
void heuristic_keep(Sched *s) {
  enum { WORTH = 8 };
  for (uint32_t n = 0; n < s->k->nkept; n++) {
    const Kept *k = &s->k->kept[n];
    int64_t bytes = dtype_info[k->at[0]->dtype].bytes;
    if (kept_weight(s, k) < WORTH) continue;
    for (uint32_t r = 0; r < k->nrow; r++) bytes = times(bytes, size_of(s, (int)k->row[r]->arg.i));
    if ((uint64_t)bytes > s->target->l2_bytes / 2) continue;
    give(s, OPT_KEEP, keep_level(s, k), n);
    OptPlan plan;
    if (!heuristic_given(s, &plan)) s->opts->len--;
  }
}
