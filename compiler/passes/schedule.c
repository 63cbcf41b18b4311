/* Applies an opt list: every range becomes an expression over new, typed ranges.
 *
 * An axis of size S with tile n = vector * inner factors becomes outer*n + inner parts, where the
 * base is MIN(outer*n, S-n) when n does not divide S: overlapping tiles. A threaded loop of m
 * iterations over T threads becomes MIN(thread*c, m-c) + step with c = ceil(m/T), the same idea.
 * Where S is known only at run time, sizes are expressions: tiles overlap when S is never less than
 * n, else output tiles of single elements are clamped to S-1, and a thread's loop ends early.
 * Padded axes gate every access that depends on them, and give reductions their identity.
 *
 * CARRY takes one loop out of a REDUCE and puts it around output loops: a nest of its own runs over
 * it and over renamed output ranges and adds what is left of the REDUCE to a buffer; the kernel
 * reads the buffer where the REDUCE stood.
 *
 * The result is still an ordinary ranged kernel that the interpreter can run. */
#include "compiler/passes/schedule_parts.h"

#include "compiler/ir/dim.h"
#include "compiler/passes/collapse.h"
#include "compiler/passes/gates.h"
#include "compiler/passes/linsum.h"

/* Iteration `outer` of n tiles of size `tile` of a whole of `size`; the last is moved back. */
static UOp *tile_base(Job *job, UOp *outer, int64_t tile, int64_t size) {
  UOp *base = index_mul(job, outer, tile);
  return size % tile ? uop2(job, OP_MIN, base, uop_index(job, size - tile)) : base;
}

static UOp *new_lane(Apply *a, const AxisPlan *p, bool reduce) {
  AxisType type = reduce ? AX_GROUP : AX_LOCAL;
  return uop_thread_range(a->job, a->next_id++, type, p->dim, uop_index(a->job, p->lanes));
}

/* n iterations dealt out to the threads of workgroups; the last ones may be beyond the end, and do
 * the last iteration again unless a gate is on them. */
static UOp *split_symbolic_groups(Apply *a, NewAxis *x, const AxisPlan *p, UOp *n) {
  Job *job = a->job;
  int64_t lanes = p->lanes ? p->lanes : 1;
  UOp *groups = dim_uop(job, dim_ceildiv(job, dim_of(job, n), lanes));
  x->thread = uop_range(job, a->next_id++, AX_GLOBAL, groups);
  if (!p->lanes) return x->thread;
  x->lane = new_lane(a, p, false);
  UOp *at = index_add(job, index_mul(job, x->thread, lanes), x->lane);
  return p->lanes_clamp ? uop2(job, OP_MIN, at, uop2(job, OP_SUB, n, uop_index(job, 1))) : at;
}

static UOp *split_symbolic_group(Apply *a, NewAxis *x, const AxisPlan *p, UOp *n) {
  Job *job = a->job;
  UOp *steps = dim_uop(job, dim_ceildiv(job, dim_of(job, n), p->lanes));
  x->lane = new_lane(a, p, true);
  x->loop = uop_range(job, a->next_id++, AX_REDUCE, steps);
  if (p->top) return index_add(job, uop2(job, OP_MUL, x->lane, steps), x->loop);
  return index_add(job, index_mul(job, x->loop, p->lanes), x->lane);
}

static AxisType loop_type(const Apply *a, uint32_t axis) {
  const KernelAxis *k = &a->k->axes[axis];
  return k->serial ? AX_SERIAL : k->reduce && (int)axis != a->plan->carry ? AX_REDUCE : AX_LOOP;
}

/* The same for an axis whose number of iterations is the expression n. */
static UOp *split_symbolic(Apply *a, uint32_t axis, UOp *n) {
  Job *job = a->job;
  NewAxis *x = &a->axes[axis];
  const AxisPlan *p = &a->plan->axes[axis];
  bool reduce = a->k->axes[axis].reduce;
  if (reduce && p->lanes) return split_symbolic_group(a, x, p, n);
  bool serial = a->k->axes[axis].serial;
  if (!reduce && !serial && a->plan->groups) return split_symbolic_groups(a, x, p, n);
  if (!p->threads) {
    x->loop = uop_range(job, a->next_id++, loop_type(a, axis), n);
    return x->loop;
  }
  UOp *chunk = dim_uop(job, dim_ceildiv(job, dim_of(job, n), p->threads));
  x->thread = new_range(a, AX_THREAD, p->threads);
  UOp *first = uop2(job, OP_MUL, x->thread, chunk);
  UOp *left = uop2(job, OP_MIN, chunk, uop2(job, OP_SUB, n, first)); /* may be none */
  x->loop = uop_range(job, a->next_id++, AX_LOOP, left);
  return index_add(job, first, x->loop);
}

static UOp *symbolic_base(Apply *a, uint32_t axis) {
  Job *job = a->job;
  const AxisPlan *p = &a->plan->axes[axis];
  const KernelAxis *old = &a->k->axes[axis];
  UOp *end = old->range->src[0];
  UOp *n = dim_uop(job, dim_ceildiv(job, dim_of(job, end), p->tile));
  UOp *base = index_mul(job, split_symbolic(a, axis, n), p->tile);
  if (!p->overlaps) return base;
  return uop2(job, OP_MIN, base, uop2(job, OP_SUB, end, uop_index(job, p->tile)));
}

/* What comes before it, a number of rounds, then the round of a SPREAD. */
static UOp *spread(Apply *a, NewAxis *x, const AxisPlan *p, bool reduce, UOp *rounds) {
  if (p->spread == 1) return rounds;
  UOp *r = new_range(a, reduce ? AX_UNROLL : AX_UPCAST, p->spread);
  x->inner[x->ninner++] = r;
  return rounds ? index_add(a->job, index_mul(a->job, rounds, p->spread), r) : r;
}

/* An output axis on a device with workgroups: the threads of one take steps that follow each other,
 * so that they touch memory together. */
static UOp *split_groups(Apply *a, NewAxis *x, const AxisPlan *p) {
  Job *job = a->job;
  int64_t n = p->outer, lanes = (int64_t)p->spread * (p->lanes ? p->lanes : 1);
  int64_t groups = (n + lanes - 1) / lanes;
  UOp *first = uop_index(job, 0);
  if (groups != 1) { /* 0: nothing runs */
    x->thread = new_range(a, AX_GLOBAL, groups);
    UOp *at = x->thread;
    if (schedule_blocks_grow(a, (uint32_t)(x - a->axes)))
      at = uop2(job, OP_SUB, uop_index(job, groups - 1), at);
    first = tile_base(job, at, lanes, n);
  }
  if (!p->lanes) return first;
  x->lane = new_lane(a, p, false);
  UOp *round = spread(a, x, p, false, NULL);
  if (round) first = index_add(job, first, index_mul(job, round, p->lanes));
  return index_add(job, first, x->lane);
}

static UOp *split_group(Apply *a, NewAxis *x, const AxisPlan *p, int64_t all) {
  Job *job = a->job;
  int64_t steps = all / p->lanes, loops = steps / p->spread;
  x->lane = new_lane(a, p, true);
  if (loops != 1) x->loop = new_range(a, AX_REDUCE, loops);
  UOp *round = spread(a, x, p, true, x->loop);
  if (!round) return x->lane;
  if (p->top) return index_add(job, index_mul(job, x->lane, steps), round);
  return index_add(job, index_mul(job, round, p->lanes), x->lane);
}

static UOp *split_outer(Apply *a, uint32_t axis) {
  Job *job = a->job;
  NewAxis *x = &a->axes[axis];
  const AxisPlan *p = &a->plan->axes[axis];
  bool reduce = a->k->axes[axis].reduce;
  int64_t n = p->outer;
  if (reduce && p->lanes) return split_group(a, x, p, p->block ? p->block / p->tile : n);
  bool serial = a->k->axes[axis].serial;
  if (!reduce && !serial && a->plan->groups) return split_groups(a, x, p);
  if (p->threads) {
    int64_t chunk = (n + p->threads - 1) / p->threads;
    x->thread = new_range(a, AX_THREAD, p->threads);
    UOp *first = index_mul(job, x->thread, chunk);
    if (chunk * p->threads > n) first = uop2(job, OP_MIN, first, uop_index(job, n - chunk));
    if (chunk == 1) return first;
    x->loop = new_range(a, AX_LOOP, chunk);
    return index_add(job, first, x->loop);
  }
  if (p->block) {
    if (p->block == p->tile) return uop_index(job, 0);
    return x->loop = new_range(a, AX_REDUCE, p->block / p->tile);
  }
  if (n == 1) return uop_index(job, 0);
  x->loop = new_range(a, loop_type(a, axis), n);
  return x->loop;
}

/* The block of a repaired row that is computed. Beyond the last one there is none: nothing else
 * says so where the first one is not number 0. */
static UOp *block_number(Apply *a) {
  if (!a->first) return a->block;
  UOp *last = uop2(a->job, OP_ADD, a->blocks, uop_index(a->job, -1));
  return uop2(a->job, OP_MIN, index_add(a->job, a->first, a->block), last);
}

static void place_axis(Apply *a, uint32_t i) {
  Job *job = a->job;
  const AxisPlan *p = &a->plan->axes[i];
  const KernelAxis *old = &a->k->axes[i];
  NewAxis *x = &a->axes[i];
  UOp *v = p->block              ? index_mul(job, split_outer(a, i), p->tile)
           : axis_is_static(old) ? tile_base(job, split_outer(a, i), p->tile, p->size)
                                 : symbolic_base(a, i);
  int64_t step = p->tile;
  for (uint32_t k = p->ninner; k-- > 0;) {
    step /= p->inner[k];
    UOp *r = new_range(a, old->reduce ? AX_UNROLL : AX_UPCAST, p->inner[k]);
    x->inner[x->ninner++] = r;
    v = index_add(job, v, index_mul(job, r, step));
  }
  UOp *whole = NULL; /* a vector that is inside or outside as a whole */
  if (p->vector > 1 && old->divisor % p->vector == 0 && !p->block) whole = v;
  if (p->vector > 1) {
    x->inner[x->ninner] = new_range(a, AX_VECTOR, p->vector);
    v = index_add(job, v, x->inner[x->ninner++]);
  }
  if (p->digits) {
    v = schedule_digits(a, i, v);
  } else if (p->matrix > 1) {
    x->place = new_range(a, AX_UPCAST, p->matrix);
    v = index_add(job, v, x->place);
  }
  UOp *end = old->range->src[0];
  x->along = v;
  if (p->block) v = index_add(job, index_mul(job, block_number(a), p->block), v);
  if (p->clamped) v = x->along = uop2(job, OP_MIN, v, uop2(job, OP_SUB, end, uop_index(job, 1)));
  x->value = v;
  if (p->padded) x->limit = uop2(job, OP_CMPLT, whole ? whole : v, end);
}

/* -- carrying sums between the steps of an outer loop ------------------------------------------ */

static bool is_carried(const Apply *a, const UOp *reduce) {
  for (uint32_t s = 1; s < reduce->nsrc; s++)
    if ((int)reduce->src[s]->arg.i == a->plan->carry) return true;
  return false;
}

/* The REDUCE `rest` lacks the loop that is carried. */
static UOp *carry_sums(Apply *a, UOp *rest, Op op) {
  Job *job = a->job;
  const OptPlan *plan = a->plan;
  Staging s = {.a = a};
  s.dims = arena_array(&job->arena, (size_t)a->k->naxes * AXIS_RANGES + 8, sizeof *s.dims);
  schedule_collect(&s, rest, plan->carry);
  UOp *write = schedule_position(&s, true), *read = schedule_position(&s, false);
  UOp *step = a->axes[plan->carry].loop, *again = uop2(job, OP_CMPLT, uop_index(job, 0), step);
  int64_t ints[2] = {s.elements, 0};
  DType d = (DType)rest->dtype;
  UOp *buffer = uop_make(job, OP_BUFFER, d, arg_both(a->next_id++, ints, 2), NULL, 0);
  UOp *before = uop_make(job, OP_INDEX, DT_VOID, arg_none(), (UOp *[]){buffer, write, again}, 3);
  if (op != OP_ADD)
    before = uop3(job, OP_WHERE, again, before, uop_scalar(job, d, reduce_identity(op, d)));
  UOp *sum = uop2(job, op, before, schedule_renamed(&s, rest));
  UOp *store = uop_make(job, OP_STORE, DT_VOID, arg_i(0), (UOp *[]){buffer, write, sum}, 3);
  UOp **src = arena_array(&job->arena, s.n + 2u, sizeof *src);
  uint32_t n = 0;
  src[n++] = store;
  src[n++] = step;
  for (int expanded = 0; expanded < 2; expanded++)
    for (uint32_t k = 0; k < s.n; k++)
      if ((uop_axis(s.dims[k].copy) != AX_LOOP) == expanded) src[n++] = s.dims[k].copy;
  UOp *end = uop_make(job, OP_END, DT_VOID, arg_none(), src, n);
  return uop2(job, OP_INDEX, uop2(job, OP_AFTER, buffer, end), read);
}

/* -- rebuilding the kernel --------------------------------------------------------------------- */

static UOp *now(Apply *a, UOp *u) { return a->now[nodemap_get(&a->pos, u)]; }

/* The limits of the padded axes that an access depends on by its index or by its gate, which was
 * simplified for values below the limit; NULL when there are none. */
static UOp *limits(Apply *a, const UOp *index, const UOp *gate) {
  UOp *all = NULL;
  for (uint32_t i = 0; i < a->k->naxes; i++) {
    UOp *l = a->axes[i].limit;
    const UOp *range = a->k->axes[i].range;
    if (!l || !(uop_is_open(index, range) || (gate && uop_is_open(gate, range)))) continue;
    all = gates_both(a->job, all, l);
  }
  return all;
}

static bool closes(const UOp *reduce, uint32_t axis) {
  for (uint32_t s = 1; s < reduce->nsrc; s++)
    if (reduce->src[s]->arg.i == axis) return true;
  return false;
}

/* A factor of sums over other axes alone: it does not matter what it is beyond the limit of this
 * one, for whose sum has yet to come and leaves out what lies there. */
static bool only_inner_factor(const Apply *a, const UOp *load, uint32_t axis) {
  for (size_t i = 0; i < a->k->list.len; i++) {
    const UOp *u = a->k->list.at[i], *product = u->op == OP_REDUCE ? u->src[0] : NULL;
    bool uses = false, factor = false;
    for (uint32_t s = 0; s < u->nsrc; s++) uses |= u->src[s] == load;
    if (uses && u->op != OP_MUL) return false;
    for (uint32_t s = 0; product && s < product->nsrc; s++) factor |= product->src[s] == load;
    if (factor && (product->op != OP_MUL || u->arg.i != OP_ADD || closes(u, axis))) return false;
  }
  return true;
}

/* Loads of single elements beyond the limit of a padded reduce axis load the last one again where
 * that does no harm: an index costs less than a gate. */
static UOp *clamped_index(Apply *a, const UOp *u, UOp **gate) {
  UOp *index = now(a, u->src[1]), *rest = NULL, *old = u->nsrc > 2 ? u->src[2] : NULL;
  for (uint32_t i = 0; i < a->k->naxes; i++) {
    const UOp *range = a->k->axes[i].range;
    UOp *l = a->axes[i].limit, *v = a->axes[i].value;
    bool gates = old && uop_is_open(old, range);
    if (!l || !(uop_is_open(u->src[1], range) || gates)) continue;
    bool scalar = a->k->axes[i].reduce && a->plan->axes[i].vector == 1 && !a->plan->groups;
    if (gates || !scalar || !only_inner_factor(a, u, i)) {
      rest = gates_both(a->job, rest, l);
      continue;
    }
    UOp *last = uop2(a->job, OP_SUB, range->src[0], uop_index(a->job, 1));
    UOp *end = uop2(a->job, OP_MIN, v, last);
    index = uop_substitute(a->job, index, &v, &end, 1);
  }
  *gate = gates_both(a->job, old ? now(a, old) : NULL, rest);
  return index;
}

static UOp *rebuild_index(Apply *a, UOp *u) {
  UOp *gate;
  UOp *src[4] = {now(a, u->src[0]), clamped_index(a, u, &gate), NULL, NULL};
  if (u->nsrc > 3) src[3] = now(a, u->src[3]);
  if (u->nsrc > 3 && !gate) gate = uop_int(a->job, DT_BOOL, true);
  src[2] = gate;
  return uop_make(a->job, OP_INDEX, DT_VOID, arg_none(), src, src[3] ? 4 : gate ? 3 : 2);
}

static UOp *rebuild_store(Apply *a, UOp *u) {
  UOp *old = u->nsrc > 3 ? u->src[3] : NULL;
  UOp *gate = gates_both(a->job, old ? now(a, old) : NULL, limits(a, u->src[1], old));
  UOp *src[4] = {now(a, u->src[0]), now(a, u->src[1]), now(a, u->src[2]), gate};
  return uop_make(a->job, OP_STORE, DT_VOID, u->arg, src, gate ? 4 : 3);
}

/* Ranges of REDUCE or END in plan order: loops first, then what will be expanded. */
static uint32_t list_ranges(Apply *a, UOp *u, bool reduce, UOp **out) {
  uint32_t n = 0, first = reduce ? a->plan->nout : 0;
  uint32_t count = reduce ? a->plan->nred : a->plan->nout;
  for (int expanded = 0; expanded < 2; expanded++)
    for (uint32_t i = 0; i < count; i++) {
      uint32_t axis = a->plan->order[first + i];
      const NewAxis *x = &a->axes[axis];
      bool closes = false;
      for (uint32_t s = 1; s < u->nsrc; s++) closes |= u->src[s] == a->k->axes[axis].range;
      if (!closes) continue;
      if (!expanded && x->thread) out[n++] = x->thread;
      if (!expanded && x->lane) out[n++] = x->lane;
      for (int k = 0; !expanded && k < MAX_DIGITS && x->warp[k]; k++) out[n++] = x->warp[k];
      if (!expanded && x->loop && (int)axis != a->plan->carry) out[n++] = x->loop;
      for (uint32_t k = 0; expanded && k < x->ninner; k++) out[n++] = x->inner[k];
    }
  return n;
}

/* A kept value whose rows all end at the same place: beyond, 0 was kept. */
static bool is_kept_evenly(const Apply *a, const UOp *u) {
  for (uint32_t n = 0; n < a->plan->nkeeps; n++) {
    const Kept *k = &a->k->kept[a->plan->keeps[n].value];
    bool even = kept_member(k, u) != NODE_ABSENT;
    for (uint32_t r = 0; even && r < k->n * k->nrow; r++)
      even = a->plan->axes[k->row[r]->arg.i].size == a->plan->axes[k->row[r % k->nrow]->arg.i].size;
    if (even) return true;
  }
  return false;
}

/* A product of two gated loads, or of what was kept, is already 0 beyond the limit. */
static bool gated_product(const Apply *a, const UOp *value, int64_t op, const UOp *limit_range) {
  if (op != OP_ADD || value->op != OP_MUL) return false;
  for (uint32_t s = 0; s < 2; s++) {
    const UOp *factor = value->src[s];
    bool load = factor->op == OP_INDEX && uop_is_open(factor->src[1], limit_range);
    if (!load && !(is_kept_evenly(a, factor) && uop_is_open(factor, limit_range))) return false;
  }
  return true;
}

/* 0 beyond the limits of padded reduce axes, which gates of loads may see to already. */
static UOp *limited_factor(Apply *a, UOp *reduce, UOp *factor) {
  UOp *x = now(a, factor), *limit = NULL;
  for (uint32_t s = 1; s < reduce->nsrc; s++) {
    UOp *l = a->axes[reduce->src[s]->arg.i].limit;
    bool gated = factor->op == OP_INDEX && uop_is_open(factor->src[1], reduce->src[s]);
    if (l && !gated) limit = gates_both(a->job, limit, l);
  }
  if (!limit) return x;
  return uop3(a->job, OP_WHERE, limit, x, uop_scalar(a->job, (DType)x->dtype, (Scalar){0}));
}

static UOp *rebuild_product(Apply *a, UOp *u, const MatrixPlan *m) {
  UOp **src = arena_array(&a->job->arena, 2 + (size_t)a->k->naxes * AXIS_RANGES, sizeof *src);
  UOp *f[2];
  for (int s = 0; s < 2; s++) f[s] = limited_factor(a, u, m->factor[s]);
  if (a->skewed && m == &a->plan->matrix) schedule_skew(a, f);
  UOp *mma = a->plan->inner.info ? schedule_chain_product(a, m, f[0], f[1])
                                 : matrix_tile_product(a->job, &a->tile, f[0], f[1]);
  uint32_t n = list_ranges(a, u, true, src);
  return n ? uop_reduce(a->job, OP_ADD, mma, src, n) : mma;
}

/* A reduction over the new ranges: of one block, where it is repaired. */
static UOp *finish_reduce(Apply *a, UOp *u, UOp *r) {
  uint32_t link = repair_link(&a->plan->repair, u);
  if (link != NODE_ABSENT) return schedule_repair_block(a, link, r);
  return is_carried(a, u) ? carry_sums(a, r, (Op)u->arg.i) : r;
}

/* What iterations that are not there contribute. Where there is at least one, the bound of all
 * integers that are compared does as well as the identity, and the result stays a known index. */
static UOp *nothing_more(Job *job, const UOp *u) {
  Op op = (Op)u->arg.i;
  DType d = (DType)u->dtype;
  const UOp *value = u->src[0];
  bool some = dtype_is_int(d) && d != DT_U64;
  for (uint32_t s = 1; s < u->nsrc; s++) some &= u->src[s]->src[0]->vmin >= 1;
  if (some && op == OP_MIN && value->vmax < INT64_MAX) return uop_int(job, d, value->vmax);
  if (some && op == OP_MAX && value->vmin > INT64_MIN) return uop_int(job, d, value->vmin);
  return uop_scalar(job, d, reduce_identity(op, d));
}

static UOp *rebuild_reduce(Apply *a, UOp *u) {
  Job *job = a->job;
  if (u == a->plan->matrix.reduce)
    return finish_reduce(a, u, rebuild_product(a, u, &a->plan->matrix));
  if (u == a->plan->inner.reduce) return rebuild_product(a, u, &a->plan->inner);
  UOp *value = now(a, u->src[0]), *limit = NULL;
  UOp **src = arena_array(&job->arena, 2 + (size_t)a->k->naxes * AXIS_RANGES, sizeof *src);
  for (uint32_t s = 1; s < u->nsrc; s++) {
    UOp *l = a->axes[u->src[s]->arg.i].limit;
    if (l && !gated_product(a, u->src[0], u->arg.i, u->src[s])) limit = gates_both(job, limit, l);
  }
  if (limit) value = uop3(job, OP_WHERE, limit, value, nothing_more(job, u));
  uint32_t n = list_ranges(a, u, true, src);
  UOp *scale = schedule_scale_of(a, u, value);
  if (scale) value = value->src[0];
  if (n) value = uop_reduce(job, (Op)u->arg.i, value, src, n);
  return finish_reduce(a, u, scale ? uop2(job, OP_MUL, value, scale) : value);
}

static UOp *rebuild_end(Apply *a, UOp *u) {
  uint32_t matrix = a->tile.info ? matrix_shared_ranges(a->tile.info) : 0;
  size_t room = 2 + matrix + (size_t)a->k->naxes * AXIS_RANGES;
  UOp **src = arena_array(&a->job->arena, room, sizeof *src);
  src[0] = now(a, u->src[0]);
  uint32_t n = list_ranges(a, u, false, src + 1);
  for (uint32_t i = 0; i < matrix; i++) src[++n] = a->tile.ranges[i];
  return uop_make(a->job, OP_END, DT_VOID, arg_none(), src, n + 1);
}

static UOp *rebuild(Apply *a, UOp *u) {
  switch (u->op) {
  case OP_RANGE: return a->axes[u->arg.i].value;
  case OP_INDEX: return rebuild_index(a, u);
  case OP_STORE: return rebuild_store(a, u);
  case OP_REDUCE: return rebuild_reduce(a, u);
  case OP_END: return rebuild_end(a, u);
  default: break;
  }
  UOp **src = arena_array(&a->job->arena, u->nsrc + 1u, sizeof *src);
  UOp *mask = u->op == OP_WHERE ? schedule_mask(a, u) : NULL;
  for (uint32_t s = 0; s < u->nsrc; s++) src[s] = mask && !s ? mask : now(a, u->src[s]);
  if (a->plan->inner.info && (u->op == OP_EXP || u->op == OP_EXP2) && u->dtype == DT_F32)
    return schedule_quick_exp(a->job, (Op)u->op, src[0]);
  return u->nsrc ? uop_with_src(a->job, u, src) : u;
}

/* -- the pass ---------------------------------------------------------------------------------- */

static void begin_tile(Apply *a, const MatrixPlan *m) {
  a->tile = (MatrixTile){.info = m->info, .id = m->id};
  const uint32_t axis[3] = {m->m, m->n, m->k};
  for (int i = m->info->m == 1; i < 3; i++) a->tile.place[i] = a->axes[axis[i]].place;
  matrix_tile_begin(a->job, &a->tile, &a->next_id);
}

void schedule_step(Apply *a, size_t i) {
  UOp *u = a->k->list.at[i];
  UOp *v = rebuild(a, u);
  for (uint32_t s = 0; s < a->plan->nstages; s++)
    if (a->k->stageable[a->plan->stages[s].operand] == u)
      v = schedule_stage(a, u, v, a->plan->stages[s].level);
  for (uint32_t n = 0; n < a->plan->nkeeps; n++)
    if (kept_member(&a->k->kept[a->plan->keeps[n].value], u) != NODE_ABSENT)
      v = schedule_keep_value(a, n, u, v);
  a->now[i] = v;
}

/* The loop over the blocks of a REPAIR. */
static UOp *new_blocks(Apply *a) {
  Job *job = a->job;
  uint32_t axis = a->plan->repair.at[0].axis;
  UOp *end = a->k->axes[axis].range->src[0];
  a->blocks = dim_uop(job, dim_ceildiv(job, dim_of(job, end), a->plan->axes[axis].block));
  UOp *last = schedule_block_end(a, a->blocks);
  a->first = schedule_block_first(a, last);
  if (a->first) last = uop2(job, OP_SUB, last, a->first);
  return uop_range(job, a->next_id++, AX_LOOP, last);
}

static UOp *apply(Job *job, const KernelInfo *k, const OptPlan *plan) {
  Apply a = {.job = job, .k = k, .plan = plan, .next_id = k->naxes};
  a.axes = arena_array(&job->arena, k->naxes + 1u, sizeof *a.axes);
  a.now = arena_array(&job->arena, k->list.len, sizeof *a.now);
  a.kept = arena_array(&job->arena, plan->nkeeps + 1u, sizeof *a.kept);
  a.repaired = arena_array(&job->arena, plan->repair.n + 1u, sizeof *a.repaired);
  nodemap_number(job, &a.pos, &k->list);
  for (int blocked = 0; blocked < 2; blocked++) {
    if (blocked && plan->repair.n) a.block = new_blocks(&a);
    a.skewed = blocked && plan->inner.info && plan->under && range_size(a.block) > plan->slots;
    for (uint32_t i = 0; i < k->naxes; i++)
      if (k->axes[i].range && (plan->axes[i].block > 0) == blocked) place_axis(&a, i);
  }
  bool tile = plan->matrix.info && !plan->inner.info;
  if (tile) begin_tile(&a, &plan->matrix);
  if (plan->repair.n) schedule_repair(&a);
  for (size_t i = 0; i < k->list.len; i++) {
    if (!a.now[i]) schedule_step(&a, i);
    job_poll(job);
  }
  UOp *sink = a.now[k->list.len - 1];
  if (tile) sink = matrix_tile_end(job, &a.tile, sink);
  sink = schedule_persist(&a, sink);
  return collapse_loops(job, linsum_simplify(job, sink));
}

UOp *schedule_apply(Job *job, UOp *kernel, const Target *target, const OptList *opts) {
  OptPlan plan;
  OptList rest;
  Status st = opts_merge(job, kernel, opts, &kernel, &rest);
  if (st) job_abort(job, st);
  const KernelInfo *k = kernel_info(job, kernel);
  st = opts_plan(job, k, target, &rest, &plan);
  if (st) job_abort(job, st);
  if (!k->store) return plan.groups ? schedule_spread_stores(job, kernel, k, target) : kernel;
  UOp *scheduled = apply(job, k, &plan);
  return opts->len ? scheduled : gates_unproven(job, scheduled); /* plain loops are always legal */
}
