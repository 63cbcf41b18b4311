/* KEEP: a value that several reductions need, computed once.
 *
 * The value is computed in loops like those of one of its members, into a buffer that is laid out
 * along the row by the number of the element, so that another member may walk the row in other
 * steps. What all members share - lanes and register tiles of axes outside of the row - is laid out
 * part by part.
 *
 * On workgroups the threads that share member m's row compute it together. Where all members are
 * shared alike each thread reads what it has computed, and the row lies in the registers of all of
 * them; else it lies in the workgroup's memory, with a part for every thread that has rows of its
 * own. */
#include <math.h>

#include "compiler/passes/linsum.h"
#include "compiler/passes/schedule_parts.h"

/* Is it a part of one of member m's rows? */
static bool is_part_of_row(const Apply *a, const Kept *kept, uint32_t m, const UOp *range) {
  for (uint32_t r = 0; r < kept->nrow; r++) {
    const NewAxis *x = &a->axes[kept->row[m * kept->nrow + r]->arg.i];
    if (range == x->loop || range == x->lane) return true;
    for (int k = 0; k < MAX_DIGITS; k++)
      if (range == x->warp[k]) return true;
    for (uint32_t k = 0; k < x->ninner; k++)
      if (range == x->inner[k]) return true;
  }
  return false;
}

static int64_t row_size(const Apply *a, const Kept *kept, uint32_t r) {
  int64_t last = 0;
  for (uint32_t m = 0; m < kept->n; m++) {
    const UOp *at = a->axes[kept->row[m * kept->nrow + r]->arg.i].along;
    if (at->vmax > last) last = at->vmax;
  }
  return last + 1;
}

/* Strides: lanes that members share are innermost, else the rows are. Parts of rows get none: where
 * a member is along its row is a number, however its axis is split. */
static void lay_out(Staging *s, KeptBuffer *b, const Kept *kept, uint32_t m) {
  int64_t shared = 1, rows = 1;
  bool lanes = false;
  b->dims = s->dims, b->n = s->n;
  b->stride = arena_array(&s->a->job->arena, kept->nrow + 1u, sizeof *b->stride);
  for (uint32_t d = s->n; d-- > 0;) {
    StageDim *x = &s->dims[d];
    x->stride = 0;
    if (is_part_of_row(s->a, kept, m, x->range)) continue;
    lanes |= uop_axis(x->range) == AX_VECTOR;
    x->stride = shared, shared *= range_size(x->range);
  }
  for (uint32_t r = kept->nrow; r-- > 0;) b->stride[r] = rows, rows *= row_size(s->a, kept, r);
  for (uint32_t r = 0; lanes && r < kept->nrow; r++) b->stride[r] *= shared;
  for (uint32_t d = 0; !lanes && d < s->n; d++) s->dims[d].stride *= rows;
  s->elements = shared * rows;
}

static UOp *kept_position(const Apply *a, const KeptBuffer *b, const Kept *kept, uint32_t m) {
  UOp *at = uop_index(a->job, 0);
  for (uint32_t d = 0; d < b->n; d++)
    if (b->dims[d].stride)
      at = index_add(a->job, at, index_mul(a->job, b->dims[d].range, b->dims[d].stride));
  for (uint32_t r = 0; r < kept->nrow; r++) {
    UOp *along = a->axes[kept->row[m * kept->nrow + r]->arg.i].along;
    at = index_add(a->job, at, index_mul(a->job, along, b->stride[r]));
  }
  return at;
}

/* 0 beyond the limits of padded reduce axes. */
static UOp *limited(Apply *a, const UOp *member, UOp *value) {
  UOp *zero = uop_scalar(a->job, (DType)value->dtype, (Scalar){0}), *all = NULL;
  for (uint32_t i = 0; i < a->k->naxes; i++) {
    UOp *limit = a->axes[i].limit;
    if (!limit || !a->k->axes[i].reduce || !kernel_depends(member, i)) continue;
    all = all ? uop2(a->job, OP_AND, all, limit) : limit;
  }
  return all ? uop3(a->job, OP_WHERE, all, value, zero) : value;
}

static void add_thread(Staging *s, UOp *value, UOp *r, bool own) {
  if (!r || !uop_is_open(value, r)) return;
  Arg arg = arg_both(own ? s->a->next_id++ : r->arg.i, r->arg.ints.at, r->arg.ints.n);
  UOp *copy = uop_make(s->a->job, OP_RANGE, DT_INDEX, arg, r->src, 1);
  s->dims[s->n++] = (StageDim){.range = r, .copy = copy};
}

/* Threads that share the row, and those whose rows lie side by side. */
static void add_threads(Staging *s, UOp *value, const Kept *kept, uint32_t m, int space) {
  const OptPlan *plan = s->a->plan;
  for (uint32_t r = 0; r < kept->nrow; r++) {
    const NewAxis *x = &s->a->axes[kept->row[m * kept->nrow + r]->arg.i];
    add_thread(s, value, x->lane, true);
    for (int k = 0; k < MAX_DIGITS; k++) add_thread(s, value, x->warp[k], true);
  }
  for (uint32_t i = 0; space == 2 && i < plan->nout; i++) {
    add_thread(s, value, s->a->axes[plan->order[i]].lane, false);
    for (int k = 0; k < MAX_DIGITS; k++)
      add_thread(s, value, s->a->axes[plan->order[i]].warp[k], false);
  }
}

/* The value without a positive number that all of it is multiplied with: maxima can do without it,
 * and exponentials have a factor of their own. */
static UOp *unscaled(const Apply *a, UOp *value, UOp **scale) {
  Job *job = a->job;
  UOp *x = value->op == OP_WHERE ? value->src[1] : value;
  bool masked = x != value;
  if (masked && !uop_is_number(value->src[2], -(double)INFINITY)) return value;
  if (!a->plan->inner.info || x->op != OP_MUL || x->dtype != DT_F32) return value;
  for (int s = 0; s < 2; s++) {
    const UOp *c = x->src[s];
    if (!uop_is_const(c) || !(uop_const_value(c).f > 0) || isinf(uop_const_value(c).f)) continue;
    *scale = x->src[s];
    return masked ? uop3(job, OP_WHERE, value->src[0], x->src[!s], value->src[2]) : x->src[!s];
  }
  return value;
}

/* Computes the value, in loops like member m's, into a buffer. */
static void fill_kept(Apply *a, uint32_t keep, uint32_t m, UOp *value) {
  Job *job = a->job;
  const KeepPlan *plan = &a->plan->keeps[keep];
  const Kept *kept = &a->k->kept[plan->value];
  KeptBuffer *b = &a->kept[keep];
  int space = opts_kept_space(a->plan, kept);
  value = unscaled(a, value, &b->scale);
  Staging s = {.a = a, .unrolled = true};
  s.dims = arena_array(&job->arena, (size_t)a->k->naxes * AXIS_RANGES + 8, sizeof *s.dims);
  schedule_collect(&s, value, plan->level);
  add_threads(&s, value, kept, m, space);
  lay_out(&s, b, kept, m);
  int64_t ints[2] = {s.elements, space};
  UOp *buffer =
      uop_make(job, OP_BUFFER, (DType)value->dtype, arg_both(a->next_id++, ints, 2), NULL, 0);
  value = limited(a, kept->at[m], value);
  UOp *parts[3] = {buffer, schedule_renamed(&s, kept_position(a, b, kept, m)),
                   schedule_renamed(&s, value)};
  UOp **src = arena_array(&job->arena, s.n + 1u, sizeof *src);
  uint32_t n = 0;
  src[n++] = uop_make(job, OP_STORE, DT_VOID, arg_i(0), parts, 3);
  for (int expanded = 0; expanded < 2; expanded++)
    for (uint32_t d = 0; d < s.n; d++)
      if ((uop_axis(s.dims[d].copy) != AX_LOOP) == expanded && s.dims[d].copy != s.dims[d].range)
        src[n++] = s.dims[d].copy;
  UOp *fill = n == 1 ? src[0] : uop_make(job, OP_END, DT_VOID, arg_none(), src, n);
  b->filled = uop2(job, OP_AFTER, buffer, fill);
}

UOp *schedule_keep_value(Apply *a, uint32_t keep, UOp *u, UOp *value) {
  const Kept *kept = &a->k->kept[a->plan->keeps[keep].value];
  uint32_t m = kept_member(kept, u), model = opts_kept_filler(a->k, a->plan, kept);
  if (m == model) fill_kept(a, keep, m, value);
  if (!a->kept[keep].filled) {
    UOpList below = uop_toposort(a->job, kept->at[model]);
    for (size_t i = 0; i < below.len; i++) {
      uint32_t at = nodemap_get(&a->pos, below.at[i]);
      if (!a->now[at]) schedule_step(a, at);
    }
  }
  UOp *at = kept_position(a, &a->kept[keep], kept, m);
  at = uop2(a->job, OP_INDEX, a->kept[keep].filled, at);
  return a->kept[keep].scale ? uop2(a->job, OP_MUL, at, a->kept[keep].scale) : at;
}

UOp *schedule_scale_of(const Apply *a, const UOp *reduce, const UOp *value) {
  if (reduce->arg.i != OP_MAX || value->op != OP_MUL) return NULL;
  for (uint32_t n = 0; n < a->plan->nkeeps; n++) {
    const Kept *kept = &a->k->kept[a->plan->keeps[n].value];
    if (a->kept[n].scale == value->src[1] && kept_member(kept, reduce->src[0]) != NODE_ABSENT)
      return a->kept[n].scale;
  }
  return NULL;
}
