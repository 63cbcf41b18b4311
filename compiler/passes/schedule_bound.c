/* Blocks of a repaired row that are masked throughout are not computed.
 *
 * Where a maximum is taken of WHERE(j < e, x, -inf), elements from e on are -inf, and every sum of
 * the chain adds exp(-inf - m) = 0 for them, times other factors. So the loop over blocks may end
 * at the largest e of the lanes and rows that are computed together, and begin at the least one
 * where elements before it are masked (a window) - if 0 times the other factors
 * is 0. That is looked at: the sum of the other factors times 0 is 0 if they are all finite, and
 * NaN if not; then nothing is left out. It depends on no row, and is computed once for many. One
 * block is computed in any case, so that a row that is masked as a whole is NaN, as it should be.
 */
#include <math.h>

#include "compiler/passes/linsum.h"
#include "compiler/passes/schedule_parts.h"

/* -- what is masked ---------------------------------------------------------------------------- */

static bool same_value(const KernelInfo *k, const UOp *a, const UOp *b) {
  for (uint32_t n = 0; n < k->nkept; n++)
    if (kept_member(&k->kept[n], a) != NODE_ABSENT && kept_member(&k->kept[n], b) != NODE_ABSENT)
      return true;
  return a == b;
}

/* Every sum has the exponential of what the maximum is taken of, less that maximum. */
static bool sums_vanish(const Apply *a) {
  const RepairChain *c = &a->plan->repair;
  const UOp *top = c->at[0].reduce;
  for (uint32_t l = 1; l < c->n; l++) {
    bool vanishes = false;
    for (uint32_t p = 0; p < c->at[l].nparts; p++) {
      const RepairPart *part = &c->at[l].parts[p];
      vanishes |= part->of == top && part->from && same_value(a->k, part->from, top->src[0]);
    }
    if (!vanishes) return false;
  }
  return true;
}

typedef enum Side { FIRST, END } Side;

/* What is not masked by a condition that is part of cond lies in [FIRST, END) of the range; NULL:
 * cond says nothing about that side. */
static UOp *limit_of(Job *job, UOp *cond, const UOp *range, Side side) {
  if (cond->op == OP_AND) {
    UOp *e = limit_of(job, cond->src[0], range, side);
    return e ? e : limit_of(job, cond->src[1], range, side);
  }
  bool less = cond->op == OP_CMPLT;
  if ((!less && cond->op != OP_CMPLE) || cond->src[0]->dtype != DT_INDEX) return NULL;
  UOp *room = uop2(job, OP_SUB, cond->src[1], cond->src[0]); /* above 0, or at least 0 */
  const LinSum *sum = linsum_index(job, room);
  LinTerm *rest = arena_array(&job->arena, sum->n + 1u, sizeof *rest);
  uint32_t n = 0;
  if (linsum_coeff(sum, range) != (side == FIRST ? 1 : -1)) return NULL;
  for (uint32_t i = 0; i < sum->n; i++) {
    if (sum->at[i].atom == range) continue;
    rest[n++] = (LinTerm){sum->at[i].atom, side == FIRST ? -sum->at[i].coeff : sum->at[i].coeff};
  }
  if (side == FIRST) return linsum_build(job, rest, n, less - sum->konst);
  return linsum_build(job, rest, n, sum->konst + !less);
}

static UOp *unmasked(const Apply *a, Side side) {
  const RepairLink *top = &a->plan->repair.at[0];
  const UOp *body = top->reduce->src[0], *range = a->k->axes[top->axis].range;
  while (body->op == OP_CAST && dtype_is_float((DType)body->src[0]->dtype)) body = body->src[0];
  bool masked = top->reduce->arg.i == OP_MAX && body->op == OP_WHERE &&
                uop_is_number(body->src[2], -(double)INFINITY);
  UOp *e = masked && sums_vanish(a) ? limit_of(a->job, body->src[0], range, side) : NULL;
  return e && !uop_is_open(e, range) ? e : NULL;
}

bool schedule_blocks_grow(const Apply *a, uint32_t axis) {
  UOp *e = a->plan->repair.n ? unmasked(a, END) : NULL;
  return e && linsum_coeff(linsum_index(a->job, e), a->k->axes[axis].range) > 0;
}

/* -- its outermost value in a tile ---------------------------------------------------------------
 */

/* u over the new ranges, but from[k] by to[k]. */
static UOp *over_axes(const Apply *a, UOp *u, UOp *const *from, UOp *const *to, uint32_t n) {
  UOp **old = arena_array(&a->job->arena, a->k->naxes + n + 1u, sizeof *old);
  UOp **now = arena_array(&a->job->arena, a->k->naxes + n + 1u, sizeof *now);
  uint32_t all = n;
  for (uint32_t i = 0; i < n; i++) old[i] = from[i], now[i] = to[i];
  for (uint32_t i = 0; i < a->k->naxes; i++) {
    bool named = !a->axes[i].value;
    for (uint32_t k = 0; k < n; k++) named |= from[k] == a->k->axes[i].range;
    if (!named) old[all] = a->k->axes[i].range, now[all++] = a->axes[i].value;
  }
  return uop_substitute(a->job, u, old, now, all);
}

/* With every range that is expanded at the end where the sum is largest, or least; NULL when some
 * value is not linear in one, or depends on a loop that runs inside of the blocks. */
static UOp *outermost(const Apply *a, UOp *e, Side side) {
  Job *job = a->job;
  const LinSum *sum = linsum_index(job, e);
  UOp **from = arena_array(&job->arena, (e->open ? e->open->n : 0) + 1u, sizeof *from);
  UOp **to = arena_array(&job->arena, (e->open ? e->open->n : 0) + 1u, sizeof *to);
  uint32_t n = 0;
  for (uint32_t o = 0; e->open && o < e->open->n; o++) {
    UOp *r = e->open->at[o];
    AxisType t = uop_axis(r);
    int64_t c = linsum_coeff(sum, r);
    bool threads = t == AX_LOCAL || t == AX_WARP;
    if (t != AX_UPCAST && t != AX_VECTOR && !threads) continue;
    for (uint32_t k = 0; k < sum->n; k++)
      if (sum->at[k].atom != r && uop_is_open(sum->at[k].atom, r)) return NULL;
    from[n] = r;
    to[n++] = uop_index(job, (c > 0) == (side == END) ? range_size(r) - 1 : 0);
  }
  for (uint32_t i = 0; i < a->k->nloops; i++) {
    const UOp *loop = a->axes[a->k->loops[i]->arg.i].loop;
    bool inside = opts_inside(a->plan, (uint32_t)a->k->loops[i]->arg.i, a->plan->repair_level);
    if (loop && inside && uop_is_open(e, loop)) return NULL;
  }
  return uop_substitute(job, e, from, to, n);
}

/* -- whether the other factors are finite ------------------------------------------------------ */

static bool needs_results(const Apply *a, UOp *u) {
  UOpList list = uop_toposort(a->job, u);
  for (size_t i = 0; i < list.len; i++)
    if (repair_link(&a->plan->repair, list.at[i]) != NODE_ABSENT) return true;
  return false;
}

/* Factors of a body that vary along the row and need no earlier result. */
static UOp *other_factors(const Apply *a, UOp *u, const UOp *range, UOp *product) {
  if (needs_results(a, u)) {
    if (u->op == OP_CAST) return other_factors(a, u->src[0], range, product);
    if (u->op != OP_MUL) return product;
    return other_factors(a, u->src[1], range, other_factors(a, u->src[0], range, product));
  }
  if (!uop_is_open(u, range)) return product;
  return product ? uop2(a->job, OP_ADD, product, uop_cast(a->job, u, (DType)product->dtype)) : u;
}

/* True where 0 times the other factors of a link is 0, in the whole row; NULL when there are none.
 */
static UOp *all_finite(Apply *a, const RepairLink *link) {
  Job *job = a->job;
  UOp *x = other_factors(a, link->reduce->src[0], a->k->axes[link->axis].range, NULL);
  if (!x) return NULL;
  UOp **from = arena_array(&job->arena, x->open->n + 1u, sizeof *from);
  UOp **to = arena_array(&job->arena, x->open->n + 1u, sizeof *to);
  uint32_t n = 0;
  for (uint32_t o = 0; o < x->open->n; o++) {
    UOp *r = x->open->at[o];
    bool shared = uop_is_open(a->plan->repair.at[0].reduce, r);
    if (shared) continue;
    from[n] = r;
    to[n++] = uop_range(job, a->next_id++, AX_REDUCE, r->src[0]);
  }
  UOp *none = uop2(job, OP_MUL, x, uop_number(job, (DType)x->dtype, 0));
  UOp *sum = uop_reduce(job, OP_ADD, over_axes(a, none, from, to, n), to, n);
  return uop2(job, OP_CMPEQ, sum, uop_number(job, (DType)sum->dtype, 0));
}

/* The same for everything that is computed together. */
static bool runs_in_loops(const UOp *u) {
  for (uint32_t o = 0; u->open && o < u->open->n; o++) {
    AxisType t = uop_axis(u->open->at[o]);
    if (t != AX_LOOP && t != AX_THREAD && t != AX_GLOBAL) return false;
  }
  return true;
}

/* The unmasked part's limit on one side for all that is computed together, or NULL. */
static UOp *common_limit(const Apply *a, Side side) {
  UOp *e = unmasked(a, side);
  e = e ? outermost(a, over_axes(a, e, NULL, NULL, 0), side) : NULL;
  return e && runs_in_loops(e) ? e : NULL;
}

UOp *schedule_block_end(Apply *a, UOp *blocks) {
  Job *job = a->job;
  const RepairChain *c = &a->plan->repair;
  int64_t size = a->plan->axes[c->at[0].axis].block;
  UOp *e = common_limit(a, END), *one = uop_index(job, 1);
  if (!e) return blocks;
  UOp *end = uop2(job, OP_ADD, e, uop_index(job, size - 1));
  end = uop2(job, OP_FLOORDIV, end, uop_index(job, size));
  end = uop2(job, OP_MIN, uop2(job, OP_MAX, end, one), blocks);
  for (uint32_t l = 1; l < c->n && !a->plan->groups; l++) {
    UOp *finite = all_finite(a, &c->at[l]);
    if (finite) end = uop3(job, OP_WHERE, finite, end, blocks);
  }
  return runs_in_loops(end) ? end : blocks;
}

/* Only on devices with workgroups: elsewhere blocks are copied by their number, for many rows. */
UOp *schedule_block_first(Apply *a, UOp *end) {
  Job *job = a->job;
  int64_t size = a->plan->axes[a->plan->repair.at[0].axis].block;
  UOp *e = a->plan->groups ? common_limit(a, FIRST) : NULL;
  if (!e) return NULL;
  UOp *first = uop2(job, OP_FLOORDIV, e, uop_index(job, size));
  UOp *last = uop2(job, OP_ADD, end, uop_index(job, -1));
  return uop2(job, OP_MAX, uop2(job, OP_MIN, first, last), uop_index(job, 0));
}

/* -- masks where they are needed --------------------------------------------------------------- */

/* How many blocks lie as a whole before the END that the condition names: all of their elements do,
 * for all that is computed together. NULL: it names none. */
static UOp *whole_blocks(Apply *a, UOp *cond, const UOp *range) {
  Job *job = a->job;
  int64_t size = a->plan->axes[a->plan->repair.at[0].axis].block;
  UOp *e = cond->op == OP_AND ? NULL : limit_of(job, cond, range, END);
  if (e && uop_is_open(e, range)) return NULL;
  e = e ? outermost(a, over_axes(a, e, NULL, NULL, 0), FIRST) : NULL;
  return e && runs_in_loops(e) ? uop2(job, OP_FLOORDIV, e, uop_index(job, size)) : NULL;
}

static void least_whole(Apply *a, UOp *cond, const UOp *range) {
  UOp *n = whole_blocks(a, cond, range);
  for (uint32_t s = 0; cond->op == OP_AND && s < 2; s++) least_whole(a, cond->src[s], range);
  if (n) a->whole = a->whole ? uop2(a->job, OP_MIN, a->whole, n) : n;
}

/* The blocks up to that number need not be asked: "the block is one of them, or" the question. */
static UOp *asked(Apply *a, UOp *cond, const UOp *range) {
  if (cond->op == OP_AND)
    return uop2(a->job, OP_AND, asked(a, cond->src[0], range), asked(a, cond->src[1], range));
  UOp *now = a->now[nodemap_get(&a->pos, cond)];
  if (!whole_blocks(a, cond, range)) return now;
  UOp *before = a->first ? uop2(a->job, OP_SUB, a->whole, a->first) : a->whole;
  return uop2(a->job, OP_OR, uop2(a->job, OP_CMPLT, a->block, before), now);
}

UOp *schedule_mask(Apply *a, UOp *u) {
  const RepairChain *c = &a->plan->repair;
  if (!c->n || !a->plan->inner.info || !uop_is_number(u->src[2], -(double)INFINITY)) return NULL;
  for (uint32_t l = 0; l < c->n; l++) {
    const UOp *range = a->k->axes[c->at[l].axis].range;
    if (!uop_is_open(u->src[0], range) || !same_value(a->k, u, c->at[0].reduce->src[0])) continue;
    if (!a->whole) least_whole(a, u->src[0], range);
    return a->whole ? asked(a, u->src[0], range) : NULL;
  }
  return NULL;
}
