/* STAGE: what a loop uses of an operand, copied to a buffer first.
 *
 * INDEX(PARAM, index, gate) becomes INDEX(AFTER(BUFFER, copy), position): the ranges inside the
 * chosen loop are renamed for the copy, whose loops run along the source's memory, and the buffer
 * is laid out in the order of use. On workgroups the buffer is the workgroup's: it holds what all
 * threads use, and they copy it together, neighbours the neighbouring elements. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/passes/linsum.h"
#include "compiler/passes/replace.h"
#include "compiler/passes/schedule_parts.h"

/* Called outermost dimension first. */
static void add_dim(Staging *s, UOp *index, UOp *r) {
  if (!r || !uop_is_open(index, r)) return;
  AxisType t = uop_axis(r), copy = t == AX_VECTOR ? AX_VECTOR : AX_LOOP;
  if (t == AX_UPCAST || (t == AX_UNROLL && s->unrolled)) copy = AX_UPCAST;
  UOp *fresh = uop_range(s->a->job, s->a->next_id++, copy, r->src[0]);
  s->dims[s->n++] = (StageDim){.range = r, .copy = fresh};
}

static void lay_out_in_order(Staging *s) {
  s->elements = 1;
  for (uint32_t d = s->n; d-- > 0;) {
    s->dims[d].stride = s->elements;
    s->elements *= range_size(s->dims[d].range);
  }
}

/* Without reductions a tile is staged to be turned around: rows one element longer than they need
 * be, so that a column of them lies in different banks. */
static void lay_out_turned(Staging *s) {
  lay_out_in_order(s);
  if (s->a->plan->nred || s->n < 2) return;
  int64_t row = range_size(s->dims[s->n - 1].range);
  for (uint32_t d = 0; d + 1 < s->n; d++) s->dims[d].stride += s->dims[d].stride / row;
  s->elements += s->elements / row;
}

/* The index of the load that depends on most ranges: the copy runs along its memory. */
static UOp *main_index(Job *job, UOp *operand) {
  UOpList list = uop_toposort(job, operand);
  UOp *best = NULL;
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    if (u->op != OP_INDEX) continue;
    if (!best || (u->open && (!best->open || u->open->n > best->open->n))) best = u;
  }
  assert(best); /* what can be staged loads something */
  return best->src[1];
}

/* What a matrix instruction of one thread takes, as it takes it: its columns, and innermost its
 * steps. The copy has lanes along one of them that lies contiguous in the source. What is carried
 * depends on the digits of the product instead. */
static void collect_places(Staging *s, UOp *u) {
  const MatrixTile *t = &s->a->tile;
  if (!t->info) return;
  bool lanes = false;
  for (int i = 1; i < 3; i++) {
    UOp *r = t->place[i];
    if (!r || !uop_is_open(u, r)) continue;
    bool along = !lanes && linsum_coeff(linsum_index(s->a->job, main_index(s->a->job, u)), r) == 1;
    lanes |= along;
    AxisType type = along ? AX_VECTOR : AX_UPCAST;
    UOp *fresh = uop_range(s->a->job, s->a->next_id++, type, r->src[0]);
    s->dims[s->n++] = (StageDim){.range = r, .copy = fresh};
  }
  for (uint32_t k = 0; k < matrix_shared_ranges(t->info); k++) add_dim(s, u, t->ranges[k]);
}

void schedule_collect(Staging *s, UOp *value, int level) {
  const OptPlan *plan = s->a->plan;
  for (uint32_t i = 0; i < plan->nout; i++) {
    NewAxis *x = &s->a->axes[plan->order[i]];
    if (opts_inside(plan, plan->order[i], level)) add_dim(s, value, x->loop);
  }
  for (uint32_t i = 0; i < plan->nred; i++) {
    uint32_t axis = plan->order[plan->nout + i];
    NewAxis *x = &s->a->axes[axis];
    if (opts_inside(plan, axis, level)) add_dim(s, value, x->loop);
    for (uint32_t k = 0; k < x->ninner; k++)
      if (uop_axis(x->inner[k]) != AX_VECTOR) add_dim(s, value, x->inner[k]);
  }
  for (int vector = 0; vector < 2; vector++)
    for (uint32_t i = 0; i < plan->nout + plan->nred; i++) {
      NewAxis *x = &s->a->axes[plan->order[i]];
      for (uint32_t k = 0; k < x->ninner; k++) {
        bool v = uop_axis(x->inner[k]) == AX_VECTOR;
        if (v == vector && (v || i < plan->nout)) add_dim(s, value, x->inner[k]);
      }
    }
  collect_places(s, value);
  lay_out_in_order(s);
}

static void add_shared_dim(Staging *s, UOp *index, UOp *r) {
  if (r && uop_is_open(index, r)) s->dims[s->n++] = (StageDim){.range = r};
}

/* What a workgroup uses inside of the reduce loop `level`, or of all: the reduce axes outermost. */
static void collect_shared(Staging *s, UOp *index, int level) {
  const OptPlan *plan = s->a->plan;
  bool inside = level < 0 || plan->axes[level].block;
  for (uint32_t i = 0; i < plan->nred; i++) {
    uint32_t axis = plan->order[plan->nout + i];
    if (inside) add_shared_dim(s, index, s->a->axes[axis].loop);
    inside |= axis == (uint32_t)level;
  }
  for (uint32_t i = 0; i < plan->nout + plan->nred; i++) {
    uint32_t at = (i + plan->nout) % (plan->nout + plan->nred); /* reduce axes first */
    NewAxis *x = &s->a->axes[plan->order[at]];
    add_shared_dim(s, index, x->lane);
    for (uint32_t k = 0; k < x->ninner; k++) add_shared_dim(s, index, x->inner[k]);
    for (int k = 0; k < MAX_DIGITS; k++) add_shared_dim(s, index, x->warp[k]);
    add_shared_dim(s, index, x->place);
  }
}

static int64_t magnitude(int64_t v) { return v < 0 ? -v : v; }

static int by_step(const void *x, const void *y) {
  const StageDim *a = x, *b = y;
  if (a->step != b->step) return a->step > b->step ? -1 : 1;
  return a->range->arg.i < b->range->arg.i ? -1 : 1;
}

UOp *schedule_position(Staging *s, bool copy) {
  Job *job = s->a->job;
  LinTerm *t = arena_array(&job->arena, 2 * s->n + 1u, sizeof *t);
  uint32_t n = 0;
  for (uint32_t d = 0; d < s->n; d++) {
    const StageDim *dim = &s->dims[d];
    UOp *at = copy ? dim->copy : dim->range, *whole = uop_index(job, dim->whole);
    if (dim->whole) t[n++] = (LinTerm){uop2(job, OP_FLOORDIV, at, whole), dim->outer};
    t[n++] = (LinTerm){dim->whole ? uop2(job, OP_FLOORMOD, at, whole) : at, dim->stride};
  }
  return linsum_build(job, t, n, 0);
}

/* Sorts the dimensions along the source: widest stride first. */
static void sort_dims(Staging *s, UOp *index) {
  const LinSum *sum = linsum_index(s->a->job, index);
  for (uint32_t d = 0; d < s->n; d++) {
    int64_t c = linsum_coeff(sum, s->dims[d].range);
    s->dims[d].step = c ? magnitude(c) : INT64_MAX;
  }
  qsort(s->dims, s->n, sizeof *s->dims, by_step);
}

/* The loops of the copy, along the source, then what is expanded. */
static UOp *close_copy(Staging *s, UOp *store, UOp *index) {
  Job *job = s->a->job;
  sort_dims(s, index);
  UOp **src = arena_array(&job->arena, 2 * s->n + 1u, sizeof *src);
  uint32_t n = 0;
  src[n++] = store;
  for (int expanded = 0; expanded < 2; expanded++)
    for (uint32_t d = 0; d < s->n; d++)
      for (uint32_t k = 0; k < 2; k++) {
        UOp *loop = s->dims[d].loops[k];
        if (!k && !loop) loop = s->dims[d].copy;
        if (loop && (uop_axis(loop) != AX_LOOP) == expanded) src[n++] = loop;
      }
  return n == 1 ? store : uop_make(job, OP_END, DT_VOID, arg_none(), src, n);
}

static UOp *copy_of(const Staging *s, const UOp *range) {
  for (uint32_t d = 0; d < s->n; d++)
    if (s->dims[d].range == range && !s->dims[d].bound) return s->dims[d].copy;
  return NULL;
}

static bool is_copied(const Staging *s, const UOp *u) {
  for (uint32_t d = 0; d < s->n; d++)
    if (!s->dims[d].bound && uop_is_open(u, s->dims[d].range)) return true;
  return false;
}

/* Marks ranges of the copy that the reduction u closes; false when there are none. */
static bool bind_ranges(Staging *s, const UOp *u, bool bound) {
  bool any = false;
  for (uint32_t d = 0; u->op == OP_REDUCE && d < s->n; d++)
    for (uint32_t r = 1; r < u->nsrc; r++)
      if (u->src[r] == s->dims[d].range && s->dims[d].bound != bound)
        s->dims[d].bound = bound, any = true;
  return any;
}

UOp *schedule_renamed(Staging *s, UOp *u) {
  Job *job = s->a->job;
  Replace r = replace_begin(job, u);
  for (size_t i = 0; i < r.list.len; i++) {
    UOp *x = r.now[i] = r.list.at[i];
    if (x->op == OP_RANGE && copy_of(s, x)) r.now[i] = copy_of(s, x);
    if (!x->nsrc || x->op == OP_RANGE || !is_copied(s, x)) continue;
    if (bind_ranges(s, x, true)) {
      r.now[i] = schedule_renamed(s, x);
      bind_ranges(s, x, false);
      continue;
    }
    r.now[i] = uop_with_src(job, x, replace_renewed(&r, x));
  }
  return replace_end(&r);
}

/* Copies for matrix instructions, and those that run ahead, keep the order of the source, so that
 * they need no registers and go 16 bytes at a time. */
static bool by_chunks(const Staging *s) { return s->a->tile.info || s->a->plan->slots || s->tiled; }

/* Elements next to each other in the source, from the first of the innermost dimensions on. */
static int64_t contiguous_run(const Staging *s, uint32_t *first) {
  int64_t run = 1;
  uint32_t d = s->n;
  for (; d > 0 && s->dims[d - 1].step == run; d--) run *= range_size(s->dims[d - 1].range);
  *first = d;
  return run;
}

static bool is_part_of(const NewAxis *x, const UOp *r) {
  bool part = r == x->loop || r == x->lane || r == x->place;
  for (int k = 0; k < MAX_DIGITS; k++) part |= r == x->warp[k];
  for (uint32_t k = 0; k < x->ninner; k++) part |= r == x->inner[k];
  return part;
}

/* The first of the innermost dimensions that are parts of one axis: a row, where rows follow each
 * other without a gap. */
static uint32_t row_start(const Staging *s) {
  const Apply *a = s->a;
  uint32_t d = s->n;
  for (uint32_t i = 0; d == s->n && i < a->k->naxes; i++)
    while (d > 0 && is_part_of(&a->axes[i], s->dims[d - 1].range)) d--;
  return d;
}

/* Rows as they lie in the source (the dimensions are sorted), each 16 bytes longer than it need be:
 * eight rows then begin in different banks, which is what loads of tiles want. */
static void lay_out_as_source(Staging *s, int64_t unit) {
  uint32_t first;
  int64_t run = contiguous_run(s, &first), rows = 1;
  if (!first && row_start(s) < s->n) {
    first = row_start(s), run = 1;
    for (uint32_t d = first; d < s->n; d++) run *= range_size(s->dims[d].range);
  }
  int64_t pitch = run % unit || !first ? run : run + unit;
  for (uint32_t d = s->n; d-- > 0;) {
    int64_t n = range_size(s->dims[d].range);
    if (d >= first) {
      s->dims[d].stride = s->dims[d].step;
    } else {
      s->dims[d].stride = rows * pitch;
      rows *= n;
    }
  }
  s->elements = rows * pitch;
}

enum { MAX_ROUNDS = 16 };

/* A loop over shares of a workgroup's threads: the chunk of elements that one of them copies, and
 * its ranges. */
static UOp *shared_chunk(Staging *s, int64_t chunks, UOp **ranges, uint32_t *n) {
  Apply *a = s->a;
  Job *job = a->job;
  const int32_t *block = a->plan->block;
  int64_t threads = (int64_t)block[0] * block[1] * block[2];
  int64_t rounds = (chunks + threads - 1) / threads;
  UOp *at = uop_index(job, 0);
  *n = 0;
  bool few = (by_chunks(s) || !a->plan->nred) && rounds <= MAX_ROUNDS; /* on their way together */
  if (rounds > 1) at = ranges[(*n)++] = new_range(a, few ? AX_UPCAST : AX_LOOP, rounds);
  for (int d = 3; d-- > 0;) {
    if (block[d] == 1) continue;
    UOp *lane = uop_thread_range(job, a->next_id++, AX_LOCAL, d, uop_index(job, block[d]));
    at = index_add(job, index_mul(job, at, block[d]), lane);
    ranges[(*n)++] = lane;
  }
  return at;
}

/* Whether the gate has one answer for every `unit` elements of the innermost dimensions: it
 * compares sums of which all other parts are multiples of the unit with such multiples. */
static bool gate_by_chunks(const Staging *s, UOp *gate, uint32_t first, int64_t unit) {
  bool own = false;
  for (uint32_t d = first; d < s->n; d++) own |= uop_is_open(gate, s->dims[d].range);
  if (!own) return true;
  if (gate->op == OP_AND)
    return gate_by_chunks(s, gate->src[0], first, unit) &&
           gate_by_chunks(s, gate->src[1], first, unit);
  if (gate->op != OP_CMPLT || gate->src[0]->dtype != DT_INDEX || !uop_is_const(gate->src[1]) ||
      gate->src[1]->arg.i % unit)
    return false;
  const LinSum *sum = linsum_index(s->a->job, gate->src[0]);
  for (uint32_t i = 0; i < sum->n; i++) {
    bool found = false;
    for (uint32_t d = first; d < s->n; d++)
      found |= sum->at[i].atom == s->dims[d].range && sum->at[i].coeff == s->dims[d].step;
    if (!found && sum->at[i].coeff % unit) return false;
  }
  return sum->konst % unit == 0;
}

/* Elements that one thread copies at a time: 16 bytes where the source has them side by side and
 * all of them or none are inside. */
static int64_t chunk_elements(const Staging *s, const UOp *operand, int64_t all) {
  uint32_t first;
  int64_t unit = 16 / dtype_info[operand->dtype].bytes;
  const StageDim *last = s->n ? &s->dims[s->n - 1] : NULL;
  bool side = last && last->stride == 1 && range_size(last->range) % unit == 0;
  if (s->tiled && !side) return 1;
  if (!by_chunks(s) || operand->op != OP_INDEX) return 1;
  if (contiguous_run(s, &first) % unit || all % unit) return 1;
  uint32_t inside = s->n; /* the dimensions of one chunk: those around them may be gated apart */
  for (int64_t run = 1; inside > first && run % unit;) run *= range_size(s->dims[--inside].range);
  if (operand->nsrc > 2 && !gate_by_chunks(s, operand->src[2], inside, unit)) return 1;
  return unit;
}

/* The place for this iteration of a loop whose copies run ahead; there are fewer places than
 * iterations. */
static UOp *slot_base(Staging *s, int level, bool late, int64_t *slots) {
  const OptPlan *plan = s->a->plan;
  UOp *loop = level >= 0 ? s->a->axes[level].loop : NULL;
  if (level >= 0 && plan->axes[level].block) loop = s->a->block;
  *slots = 1;
  if (!plan->slots || level != plan->pipeline || !loop) return uop_index(s->a->job, 0);
  int64_t most = range_size(loop) - 1, places = plan->slots;
  if (s->a->skewed && !late && !plan->bulk) places--; /* those of a ring are left together */
  if (most < 2) return uop_index(s->a->job, 0);
  *slots = places < most ? places : most;
  UOp *slot = uop2(s->a->job, OP_FLOORMOD, loop, uop_index(s->a->job, *slots));
  return index_mul(s->a->job, slot, s->elements);
}

/* Parts of one axis that count on from each other, in the source and in the buffer: the axis is
 * their sum, so that one may take the place of both. */
static bool counts_on(const Staging *s, const StageDim *high, const StageDim *low) {
  const Apply *a = s->a;
  int64_t n = range_size(low->range);
  bool both = false;
  for (uint32_t i = 0; i < a->k->naxes; i++)
    both |= is_part_of(&a->axes[i], high->range) && is_part_of(&a->axes[i], low->range);
  return both && low->step != INT64_MAX && high->step == n * low->step &&
         high->stride == n * low->stride;
}

static bool is_linear(const UOp *u) {
  if (u->op == OP_ADD || u->op == OP_SUB) return u->dtype == DT_INDEX;
  return u->op == OP_MUL && u->dtype == DT_INDEX &&
         (uop_is_const(u->src[0]) || uop_is_const(u->src[1]));
}

/* Whether all of the operand knows nothing of the two but their sum: a gate that was simplified may
 * know the high one alone. */
static bool seen_together(const Staging *s, UOp *operand, const StageDim *high,
                          const StageDim *low) {
  UOpList list = uop_toposort(s->a->job, operand);
  for (size_t i = 0; i < list.len; i++)
    for (uint32_t k = 0; k < list.at[i]->nsrc; k++) {
      UOp *x = list.at[i]->src[k];
      bool sum = x->dtype == DT_INDEX && list.at[i]->op != OP_REDUCE && !is_linear(list.at[i]);
      if (!sum || (!uop_is_open(x, high->range) && !uop_is_open(x, low->range))) continue;
      const LinSum *terms = linsum_index(s->a->job, x);
      if (linsum_coeff(terms, high->range) !=
          range_size(low->range) * linsum_coeff(terms, low->range))
        return false;
    }
  return true;
}

/* Every dimension, or several that count on from each other, as a digit of the element's number. */
static void split_element(Staging *s, UOp *operand, UOp *at) {
  Job *job = s->a->job;
  int64_t below = 1;
  for (uint32_t d = s->n; d-- > 0;) {
    StageDim *low = &s->dims[d];
    int64_t n = range_size(low->range);
    for (; d > 0 && counts_on(s, &s->dims[d - 1], &s->dims[d]) &&
           seen_together(s, operand, &s->dims[d - 1], &s->dims[d]);
         d--) {
      s->dims[d - 1].copy = uop_index(job, 0);
      n *= range_size(s->dims[d - 1].range);
    }
    UOp *digit = below > 1 ? uop2(job, OP_FLOORDIV, at, uop_index(job, below)) : at;
    low->copy = uop2(job, OP_FLOORMOD, digit, uop_index(job, n));
    below *= n;
  }
}

/* Loops over the dimensions; sorted along the source and laid out. Returns their elements. */
static int64_t shared_layout(Staging *s, const UOp *old, UOp *operand, int level) {
  int64_t all = 1;
  collect_shared(s, operand, level);
  if (!by_chunks(s)) lay_out_turned(s);
  sort_dims(s, main_index(s->a->job, operand));
  if (s->tiled)
    schedule_lay_out_tiles(s, old);
  else if (by_chunks(s))
    lay_out_as_source(s, OPT_ROW_PADDING / dtype_info[operand->dtype].bytes);
  for (uint32_t d = 0; d < s->n; d++) all *= range_size(s->dims[d].range);
  return all;
}

/* The same in the workgroup's memory. */
static UOp *stage_shared(Apply *a, const UOp *old, UOp *operand, int level) {
  Job *job = a->job;
  int factor;
  const MatrixPlan *of = schedule_tiled(a, old, &factor);
  Staging s = {.a = a, .tiled = of != NULL};
  UOp *src[5], *ranges[6];
  uint32_t nranges;
  s.dims = arena_array(&job->arena, (size_t)a->k->naxes * AXIS_RANGES, sizeof *s.dims);
  if (of) operand = schedule_places(a, factor == MATRIX_A ? of->m : of->n, operand);
  /* Of an axis that was several, the parts inside of a step of the innermost one show. What is
   * copied stays as it is: one part may take the place of others. */
  UOp *seen = operand->op == OP_INDEX ? linsum_simplify(job, operand) : operand;
  int64_t all = shared_layout(&s, old, seen, level), slots, unit = chunk_elements(&s, seen, all);
  bool late = a->skewed && of == &a->plan->matrix; /* read in the block after, too */
  UOp *base = slot_base(&s, level, late, &slots),
      *read = index_add(job, base, schedule_position(&s, false));
  int64_t under = a->plan->inner.info ? late : slots > 2 ? a->plan->under : 0;
  int64_t ints[5] = {s.elements * slots, 2, slots, 1, under};
  uint32_t nints = s.tiled && ints[4] ? 5 : s.tiled ? 4 : slots > 1 ? 3 : 2;
  src[0] =
      uop_make(job, OP_BUFFER, (DType)operand->dtype, arg_both(a->next_id++, ints, nints), NULL, 0);
  if (a->plan->bulk && of && slots > 1) {
    UOp *tiles = schedule_bulk_copy(&s, old, src[0], base);
    return uop2(job, OP_INDEX, uop2(job, OP_AFTER, src[0], tiles), read);
  }
  UOp *chunk = shared_chunk(&s, all / unit, ranges, &nranges), *at = index_mul(job, chunk, unit);
  if (unit > 1) {
    ranges[nranges] = new_range(a, AX_VECTOR, unit);
    at = index_add(job, at, ranges[nranges++]);
  }
  split_element(&s, operand, at);
  src[1] = index_add(job, base, schedule_position(&s, true));
  src[2] = schedule_renamed(&s, operand);
  src[3] = uop2(job, OP_CMPLT, chunk, uop_index(job, all / unit));
  bool whole = chunk->vmax < all / unit;
  UOp *copy = uop_make(job, OP_STORE, DT_VOID, arg_i(0), src, whole ? 3 : 4);
  UOp *end[7] = {copy};
  memcpy(end + 1, ranges, nranges * sizeof *end);
  if (nranges) copy = uop_make(job, OP_END, DT_VOID, arg_none(), end, nranges + 1);
  return uop2(job, OP_INDEX, uop2(job, OP_AFTER, src[0], copy), read);
}

/* What needs no result of a repaired row and is copied outside of the loop over its blocks is
 * copied for all of them, however many of them are computed: the operand by the number of such a
 * block, which becomes a dimension. */
static UOp *over_blocks(Staging *s, UOp *operand, int level) {
  const OptPlan *plan = s->a->plan;
  UOp *blocks = s->a->block;
  if (!blocks || !uop_is_open(operand, blocks) || plan->repair_level < 0) return operand;
  if (!opts_inside(plan, (uint32_t)plan->repair_level, level)) return operand;
  UOp *all = new_range(s->a, AX_LOOP, range_size(blocks));
  UOp *of_all = uop_substitute(s->a->job, operand, &blocks, &all, 1);
  UOpList list = uop_toposort(s->a->job, of_all);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_REDUCE || list.at[i]->op == OP_BUFFER) return operand;
  s->dims[s->n++] = (StageDim){.range = blocks, .copy = all};
  return of_all;
}

/* Is it walked by two reductions, one inside of the other? */
static bool is_walked_twice(const Apply *a, const UOp *operand) {
  uint32_t walks = 0;
  for (uint32_t i = 0; i < a->plan->nred; i++) {
    const NewAxis *x = &a->axes[a->plan->order[a->plan->nout + i]];
    bool open = x->loop && uop_is_open(operand, x->loop);
    for (uint32_t k = 0; k < x->ninner; k++) open |= uop_is_open(operand, x->inner[k]);
    walks += open;
  }
  return walks > 1;
}

/* What is computed for all lanes at once is read one element at a time: where the order of the
 * reductions says nothing about the order of use it may lie as the source does. It is copied as
 * vectors of what lies side by side in both. */
static void copy_shared(Staging *s, UOp *operand) {
  enum { MOST_LANES = 16 };
  UOp *index = main_index(s->a->job, operand);
  bool lanes = s->a->tile.info || operand->op == OP_INDEX || !s->n;
  for (uint32_t d = 0; d < s->n; d++) lanes |= uop_axis(s->dims[d].range) == AX_VECTOR;
  if (lanes) return;
  if (is_walked_twice(s->a, operand)) {
    sort_dims(s, index);
    lay_out_in_order(s);
  }
  StageDim *last = &s->dims[s->n - 1];
  bool side = linsum_coeff(linsum_index(s->a->job, index), last->range) == 1;
  if (side && range_size(last->range) <= MOST_LANES)
    last->copy = new_range(s->a, AX_VECTOR, range_size(last->range));
}

/* Lanes that lie apart in the source are turned around by rows of what lies side by side there
 * (codegen/llvm_tile.c): as many steps along these are written out as there are lanes, and nothing
 * else is. */
static void turn_around(Staging *s, const UOp *operand, UOp *index) {
  const LinSum *sum = linsum_index(s->a->job, index);
  UOpList list = uop_toposort(s->a->job, (UOp *)(uintptr_t)operand);
  StageDim *side = NULL;
  int64_t lanes = 0;
  for (uint32_t d = 0; d < s->n; d++) {
    StageDim *dim = &s->dims[d];
    int64_t step = linsum_coeff(sum, dim->range);
    if (uop_axis(dim->copy) == AX_VECTOR && magnitude(step) > 4) lanes = range_size(dim->range);
    if (step == 1 && uop_is_const(dim->range->src[0])) side = dim;
  }
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_INDEX && list.at[i]->nsrc > 2) return;
  if (!side || lanes < 4 || uop_axis(side->copy) != AX_LOOP || s->a->tile.info) return;
  if (range_size(side->range) % lanes) return;
  for (uint32_t d = 0; d < s->n; d++)
    if (uop_axis(s->dims[d].copy) == AX_UPCAST)
      s->dims[d].copy = new_range(s->a, AX_LOOP, range_size(s->dims[d].range));
  side->loops[0] = new_range(s->a, AX_LOOP, range_size(side->range) / lanes);
  side->loops[1] = new_range(s->a, AX_UPCAST, lanes);
  side->copy = index_add(s->a->job, index_mul(s->a->job, side->loops[0], lanes), side->loops[1]);
}

UOp *schedule_stage(Apply *a, const UOp *old, UOp *operand, int level) {
  Job *job = a->job;
  Staging s = {.a = a};
  if (a->plan->groups) return stage_shared(a, old, operand, level);
  s.dims = arena_array(&job->arena, (size_t)a->k->naxes * AXIS_RANGES + 8, sizeof *s.dims);
  operand = over_blocks(&s, operand, level);
  schedule_collect(&s, operand, level);
  copy_shared(&s, operand);
  turn_around(&s, operand, main_index(job, operand));
  UOp *write = schedule_position(&s, true), *read = schedule_position(&s, false);
  int64_t ints[2] = {s.elements, 0};
  UOp *buffer =
      uop_make(job, OP_BUFFER, (DType)operand->dtype, arg_both(a->next_id++, ints, 2), NULL, 0);
  UOp *store = uop_make(job, OP_STORE, DT_VOID, arg_i(0),
                        (UOp *[]){buffer, write, schedule_renamed(&s, operand)}, 3);
  UOp *copy = close_copy(&s, store, main_index(job, operand));
  UOp *after = uop2(job, OP_AFTER, buffer, copy);
  return uop2(job, OP_INDEX, after, read);
}
