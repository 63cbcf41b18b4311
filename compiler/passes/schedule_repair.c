/* REPAIR: a chain of reductions over one row in one loop over blocks of it.
 *
 *   for block:
 *     m' = max(m, max of the block)
 *     l' = l * exp(m - m') + sum of exp(x - m') over the block
 *     o' = o * exp(m - m') * l / l' + sum of exp(x - m') / l' * v over the block
 *     o = o', then l = l', then m = m'
 *
 * Results so far are in buffers of the thread; reading one gives the identity in the first block.
 * All are stored after everything of the block is computed, the last link of the chain first: each
 * store waits for the next link's, so that nothing reads a result that belongs to the block after.
 *
 * Where nothing has been summed yet - the maximum is still -inf, the divisor 0 - the old value is
 * dropped instead of scaled: exp(-inf - -inf) of a block that is masked throughout may have made it
 * a NaN. If all blocks are, it stays one, as it is when the row is computed at once. The sum is
 * kept divided, so that it overflows no earlier than a weighted mean does. */
#include <float.h>

#include "compiler/passes/schedule_parts.h"

static UOp *identity_of(Apply *a, const UOp *reduce) {
  DType d = (DType)reduce->dtype;
  return uop_scalar(a->job, d, reduce_identity((Op)reduce->arg.i, d));
}

/* What a link's buffer holds before the first block. A maximum begins with half of the least
 * number: where all is masked so far, exp(-inf - m) is 0 then, and nothing has to be dropped. */
static UOp *first_value(Apply *a, const UOp *reduce) {
  DType d = (DType)reduce->dtype;
  double least = (d == DT_F64 ? -DBL_MAX : -(double)FLT_MAX) / 2;
  bool wide = d == DT_F32 || d == DT_F64;
  if (wide && reduce->arg.i == OP_MAX) return uop_number(a->job, d, least);
  return identity_of(a, reduce);
}

/* The result of the blocks before. */
static UOp *old_value(Apply *a, Repaired *r, const UOp *reduce, UOp *part) {
  Job *job = a->job;
  Staging *s = &r->staging;
  *s = (Staging){.a = a};
  s->dims = arena_array(&job->arena, (size_t)a->k->naxes * AXIS_RANGES + 8, sizeof *s->dims);
  schedule_collect(s, part, a->plan->repair_level);
  int64_t ints[2] = {s->elements, 0};
  r->buffer =
      uop_make(job, OP_BUFFER, (DType)reduce->dtype, arg_both(a->next_id++, ints, 2), NULL, 0);
  r->at = schedule_position(s, false);
  UOp *again = uop2(job, OP_CMPLT, uop_index(job, 0), a->block);
  UOp *src[3] = {r->buffer, r->at, again};
  UOp *before = uop_make(job, OP_INDEX, DT_VOID, arg_none(), src, 3);
  if (reduce->arg.i == OP_ADD) return before;
  UOp *first = a->plan->inner.info ? first_value(a, reduce) : identity_of(a, reduce);
  return uop3(job, OP_WHERE, again, before, first);
}

/* The result of all blocks: a maximum that is still what it began with is one of nothing. */
static UOp *last_value(Apply *a, const UOp *reduce, UOp *last) {
  UOp *first = first_value(a, reduce), *none = identity_of(a, reduce);
  if (!a->plan->inner.info || reduce->arg.i != OP_MAX || first == none) return last;
  return uop3(a->job, OP_WHERE, uop2(a->job, OP_CMPEQ, last, first), none, last);
}

static UOp *either(Job *job, UOp *a, UOp *b) { return a ? uop2(job, OP_OR, a, b) : b; }

/* The old result of a sum, repaired for what the block has changed. */
static UOp *repaired(Apply *a, const RepairLink *link, UOp *old) {
  Job *job = a->job;
  UOp *dead = NULL;
  for (uint32_t p = 0; p < link->nparts; p++) {
    const RepairPart *part = &link->parts[p];
    const Repaired *of = &a->repaired[repair_link(&a->plan->repair, part->of)];
    UOp *ratio = uop2(job, OP_MUL, of->old, uop1(job, OP_RECIP, of->now));
    UOp *none = uop_number(job, (DType)of->old->dtype, 0);
    if (part->kind != REPAIR_OVER) {
      UOp *moved = uop2(job, OP_SUB, of->old, of->now);
      Op op = part->kind == REPAIR_EXP ? OP_EXP : OP_EXP2;
      bool quick = a->plan->inner.info && moved->dtype == DT_F32;
      ratio = quick ? schedule_quick_exp(job, op, moved) : uop1(job, op, moved);
      none = identity_of(a, part->of);
    }
    bool begun = a->plan->inner.info && part->kind != REPAIR_OVER && part->of->arg.i == OP_MAX;
    if (!begun) dead = either(job, dead, uop2(job, OP_CMPEQ, of->old, none));
    old = uop2(job, OP_MUL, old, uop_cast(job, ratio, (DType)old->dtype));
  }
  UOp *zero = uop_number(job, (DType)old->dtype, 0);
  return dead ? uop3(job, OP_WHERE, dead, zero, old) : old;
}

UOp *schedule_repair_block(Apply *a, uint32_t link, UOp *part) {
  const RepairLink *l = &a->plan->repair.at[link];
  Repaired *r = &a->repaired[link];
  r->old = old_value(a, r, l->reduce, part);
  if (a->skewed && l->reduce == a->plan->matrix.reduce)
    return r->now = repaired(a, l, schedule_skewed_sum(a, r->old, part));
  r->now = uop2(a->job, (Op)l->reduce->arg.i, repaired(a, l, r->old), part);
  return r->now;
}

/* The store of a link, after those of the links behind it. */
static UOp *store_link(Apply *a, Repaired *r, UOp *before) {
  Job *job = a->job;
  Staging *s = &r->staging;
  UOp *to = before ? uop2(job, OP_AFTER, r->buffer, before) : r->buffer;
  UOp *parts[3] = {to, schedule_position(s, true), schedule_renamed(s, r->now)};
  UOp **src = arena_array(&job->arena, s->n + 1u, sizeof *src);
  uint32_t n = 0;
  src[n++] = uop_make(job, OP_STORE, DT_VOID, arg_i(0), parts, 3);
  for (int expanded = 0; expanded < 2; expanded++)
    for (uint32_t d = 0; d < s->n; d++)
      if ((uop_axis(s->dims[d].copy) != AX_LOOP) == expanded) src[n++] = s->dims[d].copy;
  return n == 1 ? src[0] : uop_make(job, OP_END, DT_VOID, arg_none(), src, n);
}

/* Everything that depends on a result of the chain is built again from the last ones. */
static void forget(Apply *a) {
  const RepairChain *c = &a->plan->repair;
  bool *uses = arena_array(&a->job->arena, a->k->list.len, sizeof *uses);
  for (size_t i = 0; i < a->k->list.len; i++) {
    const UOp *u = a->k->list.at[i];
    uint32_t link = repair_link(c, u);
    for (uint32_t s = 0; s < u->nsrc; s++) uses[i] |= uses[nodemap_get(&a->pos, u->src[s])];
    if (link != NODE_ABSENT) {
      uses[i] = true;
    } else if (uses[i]) {
      a->now[i] = NULL;
    }
  }
}

void schedule_repair(Apply *a) {
  Job *job = a->job;
  const RepairChain *c = &a->plan->repair;
  UOp *stores = NULL;
  for (uint32_t l = 0; l < c->n; l++) {
    UOpList below = uop_toposort(job, c->at[l].reduce);
    for (size_t i = 0; i < below.len; i++) {
      uint32_t at = nodemap_get(&a->pos, below.at[i]);
      if (!a->now[at]) schedule_step(a, at);
    }
  }
  for (uint32_t l = c->n; l-- > 0;) {
    stores = store_link(a, &a->repaired[l], stores);
    if (a->skewed && c->at[l].reduce == a->plan->matrix.reduce) stores = schedule_carry(a, stores);
  }
  UOp *done = uop2(job, OP_END, stores, a->block);
  forget(a);
  for (uint32_t l = 0; l < c->n; l++) {
    Repaired *r = &a->repaired[l];
    UOp *last = uop2(job, OP_INDEX, uop2(job, OP_AFTER, r->buffer, done), r->at);
    if (a->skewed && c->at[l].reduce == a->plan->matrix.reduce)
      last = uop2(job, OP_ADD, last, schedule_skewed_rest(a, done));
    a->now[nodemap_get(&a->pos, c->at[l].reduce)] = last_value(a, c->at[l].reduce, last);
  }
}
