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
 * STAGE replaces INDEX(PARAM, index, gate) by INDEX(AFTER(BUFFER, copy), position): the ranges
 * inside the chosen loop are renamed for the copy, whose loops run along the source's memory, and
 * the buffer is laid out in the order of use. On workgroups the buffer is the workgroup's: it holds
 * what all threads use, and they copy it together, neighbours the neighbouring elements. The result
 * is still an ordinary ranged kernel that the interpreter can run. */
#include "compiler/passes/schedule_parts.h"

#include <assert.h>
#include <stdlib.h>

#include "compiler/ir/dim.h"
#include "compiler/passes/collapse.h"
#include "compiler/passes/linsum.h"

static UOp *new_range(Apply *a, AxisType type, int64_t n) {
  return uop_range(a->job, a->next_id++, type, uop_index(a->job, n));
}

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

/* The same for an axis whose number of iterations is the expression n. */
static UOp *split_symbolic(Apply *a, NewAxis *x, const AxisPlan *p, UOp *n, bool reduce) {
  Job *job = a->job;
  if (reduce && p->lanes) return split_symbolic_group(a, x, p, n);
  if (!reduce && a->plan->groups) return split_symbolic_groups(a, x, p, n);
  if (!p->threads) {
    x->loop = uop_range(job, a->next_id++, reduce ? AX_REDUCE : AX_LOOP, n);
    return x->loop;
  }
  UOp *chunk = dim_uop(job, dim_ceildiv(job, dim_of(job, n), p->threads));
  x->thread = new_range(a, AX_THREAD, p->threads);
  UOp *first = uop2(job, OP_MUL, x->thread, chunk);
  UOp *left = uop2(job, OP_MIN, chunk, uop2(job, OP_SUB, n, first)); /* may be none */
  x->loop = uop_range(job, a->next_id++, AX_LOOP, left);
  return index_add(job, first, x->loop);
}

static UOp *symbolic_base(Apply *a, NewAxis *x, const AxisPlan *p, const KernelAxis *old) {
  Job *job = a->job;
  UOp *end = old->range->src[0];
  UOp *n = dim_uop(job, dim_ceildiv(job, dim_of(job, end), p->tile));
  UOp *base = index_mul(job, split_symbolic(a, x, p, n, old->reduce), p->tile);
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
    first = tile_base(job, x->thread, lanes, n);
  }
  if (!p->lanes) return first;
  x->lane = new_lane(a, p, false);
  UOp *round = spread(a, x, p, false, NULL);
  if (round) first = index_add(job, first, index_mul(job, round, p->lanes));
  return index_add(job, first, x->lane);
}

static UOp *split_group(Apply *a, NewAxis *x, const AxisPlan *p) {
  Job *job = a->job;
  int64_t steps = p->outer / p->lanes, loops = steps / p->spread;
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
  if (reduce && p->lanes) return split_group(a, x, p);
  if (!reduce && a->plan->groups) return split_groups(a, x, p);
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
  bool carried = (int)axis == a->plan->carry;
  x->loop = new_range(a, reduce && !carried ? AX_REDUCE : AX_LOOP, n);
  return x->loop;
}

static void place_axis(Apply *a, uint32_t i) {
  Job *job = a->job;
  const AxisPlan *p = &a->plan->axes[i];
  const KernelAxis *old = &a->k->axes[i];
  NewAxis *x = &a->axes[i];
  UOp *v = p->block              ? index_mul(job, split_outer(a, i), p->tile)
           : axis_is_static(old) ? tile_base(job, split_outer(a, i), p->tile, p->size)
                                 : symbolic_base(a, x, p, old);
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
  if (p->matrix > 1) {
    x->place = new_range(a, AX_UPCAST, p->matrix);
    v = index_add(job, v, x->place);
  }
  UOp *end = old->range->src[0];
  x->along = v;
  if (p->block) v = index_add(job, index_mul(job, a->block, p->block), v);
  if (p->clamped) v = x->along = uop2(job, OP_MIN, v, uop2(job, OP_SUB, end, uop_index(job, 1)));
  x->value = v;
  if (p->padded) x->limit = uop2(job, OP_CMPLT, whole ? whole : v, end);
}

/* -- staging ----------------------------------------------------------------------------------- */

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

static int64_t step_along(Job *job, UOp *index, const UOp *range) {
  LinSumMap m;
  linsum_init(job, &m);
  UOpList topo = uop_toposort(job, index);
  const LinSum *sum = NULL;
  for (size_t i = 0; i < topo.len; i++)
    if (topo.at[i]->dtype == DT_INDEX) sum = linsum_of(&m, topo.at[i]);
  return sum ? linsum_coeff(sum, range) : 0;
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
    bool along = !lanes && step_along(s->a->job, main_index(s->a->job, u), r) == 1;
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
  bool inside = level < 0;
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
  LinTerm *t = arena_array(&s->a->job->arena, s->n + 1u, sizeof *t);
  for (uint32_t d = 0; d < s->n; d++)
    t[d] = (LinTerm){copy ? s->dims[d].copy : s->dims[d].range, s->dims[d].stride};
  return linsum_build(s->a->job, t, s->n, 0);
}

/* Sorts the dimensions along the source: widest stride first. */
static void sort_dims(Staging *s, UOp *index) {
  Job *job = s->a->job;
  LinSumMap m;
  linsum_init(job, &m);
  UOpList topo = uop_toposort(job, index);
  const LinSum *sum = NULL;
  for (size_t i = 0; i < topo.len; i++)
    if (topo.at[i]->dtype == DT_INDEX) sum = linsum_of(&m, topo.at[i]);
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
  UOp **src = arena_array(&job->arena, s->n + 1u, sizeof *src);
  uint32_t n = 0;
  src[n++] = store;
  for (int expanded = 0; expanded < 2; expanded++)
    for (uint32_t d = 0; d < s->n; d++)
      if ((uop_axis(s->dims[d].copy) != AX_LOOP) == expanded) src[n++] = s->dims[d].copy;
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
static bool bind(Staging *s, const UOp *u, bool bound) {
  bool any = false;
  for (uint32_t d = 0; u->op == OP_REDUCE && d < s->n; d++)
    for (uint32_t r = 1; r < u->nsrc; r++)
      if (u->src[r] == s->dims[d].range && s->dims[d].bound != bound)
        s->dims[d].bound = bound, any = true;
  return any;
}

UOp *schedule_renamed(Staging *s, UOp *u) {
  Job *job = s->a->job;
  UOpList list = uop_toposort(job, u);
  NodeMap pos;
  UOp **now = arena_array(&job->arena, list.len, sizeof *now);
  nodemap_number(job, &pos, &list);
  for (size_t i = 0; i < list.len; i++) {
    UOp *x = now[i] = list.at[i], **src;
    if (x->op == OP_RANGE && copy_of(s, x)) now[i] = copy_of(s, x);
    if (!x->nsrc || x->op == OP_RANGE || !is_copied(s, x)) continue;
    if (bind(s, x, true)) {
      now[i] = schedule_renamed(s, x);
      bind(s, x, false);
      continue;
    }
    src = arena_array(&job->arena, x->nsrc, sizeof *src);
    for (uint32_t k = 0; k < x->nsrc; k++) src[k] = now[nodemap_get(&pos, x->src[k])];
    now[i] = uop_with_src(job, x, src);
  }
  return now[list.len - 1];
}

/* Copies for matrix instructions, and those that run ahead, keep the order of the source, so that
 * they need no registers and go 16 bytes at a time. */
static bool by_chunks(const Apply *a) { return a->tile.info || a->plan->slots; }

/* Elements next to each other in the source, from the first of the innermost dimensions on. */
static int64_t contiguous_run(const Staging *s, uint32_t *first) {
  int64_t run = 1;
  uint32_t d = s->n;
  for (; d > 0 && s->dims[d - 1].step == run; d--) run *= range_size(s->dims[d - 1].range);
  *first = d;
  return run;
}

/* Rows as they lie in the source (the dimensions are sorted), each 16 bytes longer than it need be:
 * eight rows then begin in different banks, which is what loads of tiles want. */
static void lay_out_as_source(Staging *s, int64_t unit) {
  uint32_t first;
  int64_t run = contiguous_run(s, &first), rows = 1;
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
  bool few = (by_chunks(a) || !a->plan->nred) && rounds <= MAX_ROUNDS; /* on their way together */
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
  Job *job = s->a->job;
  LinSumMap m;
  bool own = false;
  for (uint32_t d = first; d < s->n; d++) own |= uop_is_open(gate, s->dims[d].range);
  if (!own) return true;
  if (gate->op == OP_AND)
    return gate_by_chunks(s, gate->src[0], first, unit) &&
           gate_by_chunks(s, gate->src[1], first, unit);
  if (gate->op != OP_CMPLT || !uop_is_const(gate->src[1]) || gate->src[1]->arg.i % unit)
    return false;
  UOpList list = uop_toposort(job, gate->src[0]);
  const LinSum *sum = NULL;
  linsum_init(job, &m);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->dtype == DT_INDEX) sum = linsum_of(&m, list.at[i]);
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
  if (!by_chunks(s->a) || operand->op != OP_INDEX) return 1;
  if (contiguous_run(s, &first) % unit || all % unit) return 1;
  if (operand->nsrc > 2 && !gate_by_chunks(s, operand->src[2], first, unit)) return 1;
  return unit;
}

/* The place for this iteration of a loop whose copies run ahead; there are fewer places than
 * iterations. */
static UOp *slot_base(Staging *s, int level, int64_t *slots) {
  const OptPlan *plan = s->a->plan;
  UOp *loop = level >= 0 ? s->a->axes[level].loop : NULL;
  *slots = 1;
  if (!plan->slots || level != plan->pipeline || !loop) return uop_index(s->a->job, 0);
  int64_t most = range_size(loop) - 1;
  if (most < 2) return uop_index(s->a->job, 0);
  *slots = plan->slots < most ? plan->slots : most;
  UOp *slot = uop2(s->a->job, OP_FLOORMOD, loop, uop_index(s->a->job, *slots));
  return index_mul(s->a->job, slot, s->elements);
}

/* Every dimension as a digit of the number of the element. */
static void split_element(Staging *s, UOp *at) {
  Job *job = s->a->job;
  int64_t below = 1;
  for (uint32_t d = s->n; d-- > 0;) {
    UOp *digit = below > 1 ? uop2(job, OP_FLOORDIV, at, uop_index(job, below)) : at;
    s->dims[d].copy = uop2(job, OP_FLOORMOD, digit, uop_index(job, range_size(s->dims[d].range)));
    below *= range_size(s->dims[d].range);
  }
}

/* Loops over the dimensions; sorted along the source and laid out. Returns their elements. */
static int64_t shared_layout(Staging *s, UOp *operand, int level) {
  int64_t all = 1;
  collect_shared(s, operand, level);
  if (!by_chunks(s->a)) lay_out_turned(s);
  sort_dims(s, main_index(s->a->job, operand));
  if (by_chunks(s->a)) lay_out_as_source(s, 16 / dtype_info[operand->dtype].bytes);
  for (uint32_t d = 0; d < s->n; d++) all *= range_size(s->dims[d].range);
  return all;
}

/* The same in the workgroup's memory. */
static UOp *stage_shared(Apply *a, UOp *operand, int level) {
  Job *job = a->job;
  Staging s = {.a = a};
  UOp *src[5], *ranges[6];
  uint32_t nranges;
  s.dims = arena_array(&job->arena, (size_t)a->k->naxes * (OPT_MAX_INNER + 5), sizeof *s.dims);
  int64_t all = shared_layout(&s, operand, level), slots, unit = chunk_elements(&s, operand, all);
  UOp *base = slot_base(&s, level, &slots),
      *read = index_add(job, base, schedule_position(&s, false));
  UOp *chunk = shared_chunk(&s, all / unit, ranges, &nranges), *at = index_mul(job, chunk, unit);
  if (unit > 1) {
    ranges[nranges] = new_range(a, AX_VECTOR, unit);
    at = index_add(job, at, ranges[nranges++]);
  }
  int64_t ints[3] = {s.elements * slots, 2, slots};
  src[0] = uop_make(job, OP_BUFFER, (DType)operand->dtype,
                    arg_both(a->next_id++, ints, slots > 1 ? 3 : 2), NULL, 0);
  split_element(&s, at);
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

/* The staged form of an operand (already rebuilt over the new ranges). */
static UOp *stage_operand(Apply *a, UOp *operand, int level) {
  Job *job = a->job;
  Staging s = {.a = a};
  if (a->plan->groups) return stage_shared(a, operand, level);
  s.dims = arena_array(&job->arena, (size_t)a->k->naxes * (OPT_MAX_INNER + 5) + 8, sizeof *s.dims);
  schedule_collect(&s, operand, level);
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
  s.dims = arena_array(&job->arena, (size_t)a->k->naxes * (OPT_MAX_INNER + 5) + 8, sizeof *s.dims);
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
    all = all ? uop2(a->job, OP_AND, all, l) : l;
  }
  return all;
}

static UOp *both(Job *job, UOp *a, UOp *b) {
  if (!a) return b;
  return b ? uop2(job, OP_AND, a, b) : a;
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
      rest = both(a->job, rest, l);
      continue;
    }
    UOp *last = uop2(a->job, OP_SUB, range->src[0], uop_index(a->job, 1));
    UOp *end = uop2(a->job, OP_MIN, v, last);
    index = uop_substitute(a->job, index, &v, &end, 1);
  }
  *gate = both(a->job, old ? now(a, old) : NULL, rest);
  return index;
}

static UOp *rebuild_index(Apply *a, UOp *u) {
  UOp *gate;
  UOp *src[3] = {now(a, u->src[0]), clamped_index(a, u, &gate), NULL};
  src[2] = gate;
  return uop_make(a->job, OP_INDEX, DT_VOID, arg_none(), src, gate ? 3 : 2);
}

static UOp *rebuild_store(Apply *a, UOp *u) {
  UOp *old = u->nsrc > 3 ? u->src[3] : NULL;
  UOp *gate = both(a->job, old ? now(a, old) : NULL, limits(a, u->src[1], old));
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
    if (l && !gated) limit = both(a->job, limit, l);
  }
  if (!limit) return x;
  return uop3(a->job, OP_WHERE, limit, x, uop_scalar(a->job, (DType)x->dtype, (Scalar){0}));
}

static UOp *rebuild_product(Apply *a, UOp *u) {
  const MatrixPlan *m = &a->plan->matrix;
  UOp **src =
      arena_array(&a->job->arena, 2 + (size_t)a->k->naxes * (OPT_MAX_INNER + 5), sizeof *src);
  UOp *f[2];
  for (int s = 0; s < 2; s++) f[s] = limited_factor(a, u, m->factor[s]);
  UOp *mma = matrix_tile_product(a->job, &a->tile, f[0], f[1]);
  uint32_t n = list_ranges(a, u, true, src);
  UOp *r = n ? uop_reduce(a->job, OP_ADD, mma, src, n) : mma;
  return is_carried(a, u) ? carry_sums(a, r, OP_ADD) : r;
}

static UOp *rebuild_reduce(Apply *a, UOp *u) {
  Job *job = a->job;
  if (u == a->plan->matrix.reduce) return rebuild_product(a, u);
  UOp *value = now(a, u->src[0]), *limit = NULL;
  UOp **src = arena_array(&job->arena, 2 + (size_t)a->k->naxes * (OPT_MAX_INNER + 5), sizeof *src);
  for (uint32_t s = 1; s < u->nsrc; s++) {
    UOp *l = a->axes[u->src[s]->arg.i].limit;
    if (l && !gated_product(a, u->src[0], u->arg.i, u->src[s])) limit = both(job, limit, l);
  }
  if (limit) {
    DType d = (DType)value->dtype;
    UOp *identity = uop_scalar(job, d, reduce_identity((Op)u->arg.i, d));
    value = uop3(job, OP_WHERE, limit, value, identity);
  }
  uint32_t n = list_ranges(a, u, true, src);
  UOp *r = n ? uop_reduce(job, (Op)u->arg.i, value, src, n) : value;
  uint32_t link = repair_link(&a->plan->repair, u);
  if (link != NODE_ABSENT) return schedule_repair_block(a, link, r);
  return is_carried(a, u) ? carry_sums(a, r, (Op)u->arg.i) : r;
}

static UOp *rebuild_end(Apply *a, UOp *u) {
  uint32_t matrix = a->tile.info ? matrix_shared_ranges(a->tile.info) : 0;
  size_t room = 2 + matrix + (size_t)a->k->naxes * (OPT_MAX_INNER + 5);
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
  for (uint32_t s = 0; s < u->nsrc; s++) src[s] = now(a, u->src[s]);
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
      v = stage_operand(a, v, a->plan->stages[s].level);
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
  UOp *blocks = dim_uop(job, dim_ceildiv(job, dim_of(job, end), a->plan->axes[axis].block));
  return uop_range(job, a->next_id++, AX_LOOP, schedule_block_end(a, blocks));
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
    for (uint32_t i = 0; i < k->naxes; i++)
      if (k->axes[i].range && (plan->axes[i].block > 0) == blocked) place_axis(&a, i);
  }
  if (plan->matrix.info) begin_tile(&a, &plan->matrix);
  if (plan->repair.n) schedule_repair(&a);
  for (size_t i = 0; i < k->list.len; i++) {
    if (!a.now[i]) schedule_step(&a, i);
    job_poll(job);
  }
  UOp *sink = a.now[k->list.len - 1];
  if (plan->matrix.info) sink = matrix_tile_end(job, &a.tile, sink);
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
  return apply(job, k, &plan);
}
