/* The outer product of a repaired chain, one block late.
 *
 *   for block r:
 *     s = q k(r);  o = o + p v(r - 1)      the instructions of both are begun
 *     m', p', l' from s, meanwhile
 *     o = o * exp(m - m');  p = p'
 *   o = o + p v(last)
 *
 * The weights of a block stay with the threads that have them, in a buffer that is spread over
 * their registers, and the other factor in the place it was copied to: there is one place more. In
 * the first block there is nothing to add. */
#include "compiler/passes/linsum.h"
#include "compiler/passes/schedule_parts.h"

static UOp *again(const Apply *a) { return uop2(a->job, OP_CMPLT, uop_index(a->job, 0), a->block); }

static bool is_row(const NewAxis *x, const UOp *range) {
  for (uint32_t k = 0; k < x->ninner; k++)
    if (x->inner[k] == range) return true;
  return false;
}

/* The first factor of the block before: an element of the buffer. */
static UOp *carried(Apply *a, UOp *value) {
  Job *job = a->job;
  const NewAxis *x = &a->axes[a->plan->matrix.k];
  Carry *c = &a->carry;
  Staging *s = &c->staging;
  int64_t all = a->plan->axes[a->plan->matrix.k].block;
  *s = (Staging){.a = a, .unrolled = true};
  s->dims = arena_array(&job->arena, (size_t)a->k->naxes * AXIS_RANGES + 8, sizeof *s->dims);
  schedule_collect(s, value, a->plan->repair_level);
  c->at = x->along;
  for (uint32_t d = s->n; d-- > 0;) {
    UOp *r = s->dims[d].range;
    if (is_row(x, r)) continue;
    c->at = index_add(job, c->at, index_mul(job, r, all));
    all *= range_size(r);
  }
  c->value = value;
  c->buffer = uop_make(job, OP_BUFFER, (DType)value->dtype,
                       arg_both(a->next_id++, (int64_t[]){all, 3}, 2), NULL, 0);
  UOp *src[3] = {c->buffer, c->at, again(a)};
  return uop_make(job, OP_INDEX, DT_VOID, arg_none(), src, 3);
}

void schedule_skew(Apply *a, UOp *factor[2]) {
  UOp *before = uop2(a->job, OP_ADD, a->block, uop_index(a->job, -1));
  UOp *other = a->carry.other = factor[1];
  UOp *src[2] = {other->src[0], uop_substitute(a->job, other->src[1], &a->block, &before, 1)};
  factor[0] = carried(a, factor[0]);
  factor[1] = uop_make(a->job, OP_INDEX, DT_VOID, arg_none(), src, 2);
}

UOp *schedule_skewed_sum(Apply *a, UOp *old, UOp *part) {
  UOp *zero = uop_number(a->job, (DType)old->dtype, 0);
  a->carry.part = part;
  return uop3(a->job, OP_WHERE, again(a), uop2(a->job, OP_ADD, old, part), zero);
}

/* A place of the row over digits of the threads and elements that have it as a factor. */
static UOp *own_place(Apply *a, UOp **ranges, uint32_t *n) {
  const MatrixInfo *info = a->plan->matrix.info;
  const MatrixLayout *l = &info->layout[MATRIX_A];
  UOp *place = uop_index(a->job, 0);
  *n = 0;
  for (unsigned i = 0; i < l->n; i++) {
    const MatrixDigit *d = &l->digit[i];
    UOp *size = uop_index(a->job, d->size), *r;
    if (!d->second) continue;
    if (d->of > 'c')
      r = uop_warp_range(a->job, a->next_id++, matrix_lane_step(info, d->of), size);
    else
      r = uop_range(a->job, a->next_id++, d->of == 'a' ? AX_VECTOR : AX_UPCAST, size);
    place = index_add(a->job, place, index_mul(a->job, r, d->weight));
    ranges[(*n)++] = r;
  }
  return place;
}

UOp *schedule_carry(Apply *a, UOp *before) {
  Job *job = a->job;
  Carry *c = &a->carry;
  Staging *s = &c->staging;
  UOp *from = a->axes[a->plan->matrix.k].place, *own[MATRIX_DIGITS];
  uint32_t nown, n = 0;
  UOp *to = own_place(a, own, &nown);
  UOp *parts[3] = {uop2(job, OP_AFTER, c->buffer, before),
                   schedule_renamed(s, uop_substitute(job, c->at, &from, &to, 1)),
                   schedule_renamed(s, uop_substitute(job, c->value, &from, &to, 1))};
  UOp **src = arena_array(&job->arena, s->n + nown + 1u, sizeof *src);
  src[n++] = uop_make(job, OP_STORE, DT_VOID, arg_i(0), parts, 3);
  for (uint32_t d = 0; d < s->n; d++) src[n++] = s->dims[d].copy;
  for (uint32_t d = 0; d < nown; d++) src[n++] = own[d];
  return uop_make(job, OP_END, DT_VOID, arg_none(), src, n);
}

UOp *schedule_skewed_rest(Apply *a, UOp *done) {
  Job *job = a->job;
  Carry *c = &a->carry;
  UOp *last = uop2(job, OP_ADD, a->block->src[0], uop_index(job, -1));
  UOp *weight[2] = {uop2(job, OP_AFTER, c->buffer, done), c->at};
  UOp *other[2] = {uop2(job, OP_AFTER, (UOp *)(uintptr_t)uop_storage(c->other->src[0]), done),
                   uop_substitute(job, c->other->src[1], &a->block, &last, 1)};
  UOp *mma = schedule_chain_product(a, &a->plan->matrix,
                                    uop_make(job, OP_INDEX, DT_VOID, arg_none(), weight, 2),
                                    uop_make(job, OP_INDEX, DT_VOID, arg_none(), other, 2));
  if (c->part->op != OP_REDUCE) return mma;
  return uop_reduce(job, OP_ADD, mma, c->part->src + 1, c->part->nsrc - 1u);
}
