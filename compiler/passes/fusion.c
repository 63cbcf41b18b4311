/* Fusion: one walk over the tensor graph, consumers first.
 *
 * When a tensor is reached, everything that could ask for it has been visited, so its demands are
 * complete. They show how often it would be evaluated if inlined, and fusion_cost.c chooses. A
 * stored tensor opens a kernel with fresh ranges over its own axes; an inlined one passes each
 * demand on, its index tuple moved through the op. Both are one step per (tensor, demand), and a
 * tensor with many demands is stored, so the walk is linear.
 *
 * A stored CAT has no kernel. Each part is written by the kernel that computes it, straight into
 * its slice, and is read there by everybody else. */
#include "compiler/passes/fusion.h"

#include <assert.h>

#include "base/vec.h"
#include "compiler/ir/loops.h"
#include "compiler/ir/view.h"
#include "compiler/passes/gates.h"
#include "compiler/passes/indexing.h"
#include "compiler/passes/ix.h"

/* The contents of a PARAM at some time, in its buffer. */
static bool is_version(const UOp *u) { return u->op == OP_AFTER && u->src[0]->op == OP_PARAM; }

/* -- demands ----------------------------------------------------------------------------------- */

static bool same_demand(const Demand *d, uint32_t kernel, UOp *const *index, size_t n, UOp *gate) {
  return d->kernel == kernel && d->gate == gate &&
         (!n || !memcmp(d->index, index, n * sizeof *index));
}

/* Index is kept, not copied. */
static Demand *ask(Fusion *f, uint32_t tensor, uint32_t kernel, UOp **index, UOp *gate,
                   uint64_t loops) {
  enum { LOOKED_AT = 16 }; /* beyond that the tensor is stored or a leaf, and sharing is no use */
  Tensor *t = &f->tensors[tensor];
  uint32_t seen = 0;
  for (Demand *d = t->demands; d && seen++ < LOOKED_AT; d = d->next) {
    if (!same_demand(d, kernel, index, t->u->shape.n, gate)) continue;
    d->loops |= loops;
    return d;
  }
  fusion_count(f, t, kernel);
  Demand *d = arena_alloc(&f->job->arena, sizeof *d);
  *d = (Demand){.tensor = tensor,
                .kernel = kernel,
                .index = index,
                .gate = gate,
                .loops = loops,
                .next = t->demands};
  t->demands = d;
  t->ndemands++;
  return d;
}

static UOp *new_range(Fusion *f, FusedKernel *k, AxisType type, int64_t size) {
  size_t n = k->size.len;
  if (n == FUSED_RANGES) {
    job_abort(f->job, FAIL(UNIMPLEMENTED, "a kernel would need more than %d loops", FUSED_RANGES));
  }
  avec_push(&f->job->arena, &k->size, dims_typical((Ints){&size, 1}));
  *(type == AX_REDUCE ? &k->reduce : &k->out) |= (uint64_t)1 << n;
  return uop_range(f->job, (int64_t)n, type, dim_uop(f->job, size));
}

/* -- passing a demand on to the sources of an inlined or computed tensor -------------------------
 */

static void ask_same(Fusion *f, Demand *d, uint32_t s) {
  uint32_t from = f->tensors[d->tensor].src[s];
  bool scalar = !f->tensors[from].u->shape.n;
  d->src[s] = ask(f, from, d->kernel, d->index, d->gate, d->loops);
  if (scalar) d->src[s]->loops = 0;
}

static void ask_pulled(Fusion *f, Demand *d, uint32_t s) {
  const Tensor *t = &f->tensors[d->tensor];
  if (!f->tensors[t->src[s]].numel) return;
  Pull p = index_pull(f->job, t->u, s, d->index);
  if (d->inside) d->inside[s] = p.inside;
  d->src[s] =
      ask(f, t->src[s], d->kernel, p.index, gates_both(f->job, d->gate, p.inside), d->loops);
}

static void ask_reduced(Fusion *f, Demand *d) {
  const Tensor *t = &f->tensors[d->tensor];
  const UOp *x = t->u->src[0];
  if (!f->tensors[t->src[0]].numel) return;
  FusedKernel *k = &f->kernels.at[d->kernel];
  uint64_t outer = fusion_ranges(f, d->index, t->u->shape.n), inner = k->reduce;
  UOp **index = arena_copy(&f->job->arena, d->index, (x->shape.n + 1) * sizeof *index);
  d->ranges = arena_array(&f->job->arena, t->u->arg.ints.n + 1, sizeof *d->ranges);
  for (uint32_t a = 0; a < t->u->arg.ints.n; a++) {
    int64_t axis = t->u->arg.ints.at[a], size = x->shape.at[axis];
    if (size == 1) continue;
    index[axis] = d->ranges[d->nranges++] = new_range(f, k, AX_REDUCE, size);
  }
  if (k->nreduces < FUSED_REDUCES) k->hoist[k->nreduces++] = outer;
  k->contraction |= t->cost.contraction;
  k->multiplies |= t->cost.multiplies;
  d->src[0] = ask(f, t->src[0], d->kernel, index, d->gate, outer | (k->reduce & ~inner));
}

static void ask_gathered(Fusion *f, Demand *d) {
  const Tensor *t = &f->tensors[d->tensor];
  Tensor *data = &f->tensors[t->src[0]], *at = &f->tensors[t->src[1]];
  uint32_t axis = (uint32_t)t->u->arg.i, rank = at->u->shape.n, after = data->u->shape.n - axis - 1;
  int64_t size = data->u->shape.at[axis];
  Job *job = f->job;
  if (!data->numel) return;
  UOp **where = arena_copy(&job->arena, d->index + axis, (rank + 1) * sizeof *where);
  d->src[1] = ask(f, t->src[1], d->kernel, where, d->gate, d->loops);
  FusedKernel *k = &f->kernels.at[d->kernel];
  int64_t id = FIRST_HOLE + (int64_t)f->holes.len;
  Hole hole = {.owner = d, .ranges = fusion_ranges(f, where, rank), .next = k->holes};
  hole.index = uop_range(job, id, AX_LOOP, dim_uop(job, size));
  hole.gate = uop_param(job, id, DT_BOOL, NULL, 0);
  avec_push(&job->arena, &f->holes, hole);
  k->holes = (uint32_t)f->holes.len;
  UOp **index = arena_array(&job->arena, data->u->shape.n, sizeof *index);
  memcpy(index, d->index, axis * sizeof *index);
  index[axis] = size == 1 ? uop_index(job, 0) : hole.index;
  memcpy(index + axis + 1, d->index + axis + rank, after * sizeof *index);
  d->inside[0] = hole.gate;
  d->src[0] = ask(f, t->src[0], d->kernel, index, gates_both(job, d->gate, hole.gate), d->loops);
}

/* A choice by position along a short axis. */
static void note_selection(Fusion *f, const Demand *d) {
  enum { SHORT = 8 };
  const Tensor *t = &f->tensors[d->tensor], *by = &f->tensors[t->src[0]];
  for (uint32_t k = 0; by->fixed && !by->weighs && k < t->u->shape.n; k++)
    if (!(by->dead >> k & 1) && t->u->shape.at[k] <= SHORT)
      f->kernels.at[d->kernel].selects |= fusion_ranges(f, d->index + k, 1);
}

static void pass_on(Fusion *f, Demand *d) {
  const Tensor *t = &f->tensors[d->tensor];
  const UOp *u = t->u;
  if (t->row) d->loops = fusion_ranges(f, d->index, u->shape.n); /* once per row */
  d->src = arena_array(&f->job->arena, u->nsrc + 1, sizeof *d->src);
  if (u->op == OP_PAD || u->op == OP_CAT || u->op == OP_GATHER) {
    d->inside = arena_array(&f->job->arena, u->nsrc, sizeof *d->inside);
  }
  if (u->op == OP_WHERE) note_selection(f, d);
  switch (u->op) {
  case OP_REDUCE: ask_reduced(f, d); break;
  case OP_GATHER: ask_gathered(f, d); break;
  case OP_AFTER: ask_same(f, d, 0); break;
  case OP_PAD:
    ask_pulled(f, d, 0);
    d->src[1] = ask(f, t->src[1], d->kernel, d->index, d->gate, 0);
    break;
  default:
    for (uint32_t s = 0; s < u->nsrc; s++) {
      if (op_info[u->op].flags & OPF_MOVE) {
        ask_pulled(f, d, s);
      } else {
        ask_same(f, d, s);
      }
    }
  }
  uint32_t work = op_info[u->op].flags & OPF_ALU || u->op == OP_REDUCE || u->op == OP_PAD ? 1 : 0;
  f->kernels.at[d->kernel].work += fusion_work(f, d);
  f->kernels.at[d->kernel].nops += u->op == OP_CAT ? u->nsrc : work;
}

/* -- kernels and places --------------------------------------------------------------------------
 */

Ints fusion_stored_shape(const Fusion *f, const UOp *u, uint32_t dead) {
  if (!dead) return u->shape;
  int64_t *dims = arena_array(&f->job->arena, u->shape.n, sizeof *dims);
  for (uint32_t k = 0; k < u->shape.n; k++) dims[k] = dead >> k & 1 ? 1 : u->shape.at[k];
  return (Ints){dims, u->shape.n};
}

static uint32_t new_buffer(Fusion *f, PlanBufferKind kind, int64_t slot, const UOp *u) {
  PlanBuffer b = {.kind = kind,
                  .slot = slot,
                  .dtype = (DType)u->dtype,
                  .numel = dims_numel(f->job, u->shape),
                  .base = (uint32_t)f->buffers.len};
  avec_push(&f->job->arena, &f->buffers, b);
  return (uint32_t)f->buffers.len - 1;
}

static Place in_buffer(uint32_t buffer) { return (Place){.buffer = buffer, .cat = NO_TENSOR}; }

/* What is fixed is computed when the executable is loaded, and kept if a run reads it. In a plan
 * with VARs the arena of temporaries is not laid out before a run, so all of it is. */
static bool is_kept(const Fusion *f, const Tensor *t) {
  bool kept = f->symbolic;
  for (const Demand *d = t->demands; d; d = d->next) kept |= !f->kernels.at[d->kernel].once;
  return t->fixed && kept;
}

/* A stored tensor's own buffer, without the axes along which it does not vary. */
static Place own_place(Fusion *f, const Tensor *t, const char *why) {
  Place place = in_buffer(new_buffer(f, is_kept(f, t) ? PB_KEPT : PB_TEMP, 0, t->u));
  Ints shape = fusion_stored_shape(f, t->u, t->dead);
  f->buffers.at[place.buffer].numel = dims_numel(f->job, shape);
  f->buffers.at[place.buffer].why = why;
  f->buffers.at[place.buffer].once = t->fixed;
  place.dead = t->dead;
  return place;
}

static Place root_place(const Fusion *f, Place place) {
  while (place.cat != NO_TENSOR) place = f->tensors[place.cat].place;
  return place;
}

/* Where in a CAT of symbolic size a part is may be known later than the part. */
static uint32_t ready_to_write(const Fusion *f, const Tensor *t, Place place) {
  uint32_t ready = t->ready;
  for (; place.cat != NO_TENSOR; place = f->tensors[place.cat].place) {
    const Tensor *cat = &f->tensors[place.cat];
    if (cat->u->symbolic && cat->ready > ready) ready = cat->ready;
  }
  return ready;
}

/* What t computes by a choice along a short axis of its own, seen through what changes no place. */
static const UOp *choice_under(const Fusion *f, const Tensor *t) {
  enum { DEPTH = 8 };
  for (int depth = 0; depth < DEPTH && !t->leaf; depth++) {
    const UOp *u = t->u;
    const Tensor *by = &f->tensors[t->src[0]];
    if (u->op == OP_WHERE) return by->fixed && !by->weighs ? u : NULL;
    if (u->op != OP_CAST && u->op != OP_RESHAPE) return NULL;
    t = by;
  }
  return NULL;
}

/* An axis of n elements, those behind it holding `below` each, as loops: one, or several where it
 * is cut by the axes of a choice, so that the choice is a loop. */
static UOp *axis_loops(Fusion *f, FusedKernel *k, int64_t n, int64_t below, const UOp *choice) {
  int64_t inner = 1, all = 1;
  for (uint32_t a = 0; choice && a < choice->shape.n; a++) all *= choice->shape.at[a];
  for (uint32_t a = 0; choice && a < choice->shape.n && inner == 1; a++) {
    all /= choice->shape.at[a];
    if (all < n * below && all > below && all % below == 0 && n * below % all == 0)
      inner = all / below;
  }
  UOp *outer = new_range(f, k, AX_LOOP, n / inner);
  k->loops[k->nloops++] = outer;
  if (inner == 1) return outer;
  UOp *rest = axis_loops(f, k, inner, below, choice);
  return uop2(f->job, OP_ADD, uop2(f->job, OP_MUL, outer, uop_index(f->job, inner)), rest);
}

static void open_loops(Fusion *f, FusedKernel *k, const Tensor *t, Ints shape) {
  const UOp *choice = f->target->max_group && shape_is_static(shape) ? choice_under(f, t) : NULL;
  uint32_t most = shape.n + (choice ? choice->shape.n : 0);
  int64_t below = choice ? shape_numel(shape) : 0;
  if (choice && (!shape_is_static(choice->shape) || shape_numel(choice->shape) != below))
    choice = NULL;
  k->index = arena_array(&f->job->arena, shape.n + 1, sizeof *k->index);
  k->loops = arena_array(&f->job->arena, most + 1, sizeof *k->loops);
  for (uint32_t a = 0; a < shape.n; a++) {
    bool one = shape.at[a] == 1;
    if (choice) below /= shape.at[a];
    k->index[a] = one ? uop_index(f->job, 0) : axis_loops(f, k, shape.at[a], below, choice);
  }
}

static uint32_t open_kernel(Fusion *f, uint32_t tensor, uint32_t after, Place place) {
  const Tensor *t = &f->tensors[tensor];
  FusedKernel k = {.tensor = tensor, .after = after, .place = place};
  k.once = t->fixed && f->buffers.at[root_place(f, place).buffer].once;
  k.ready = ready_to_write(f, t, place);
  Ints shape = fusion_stored_shape(f, t->u, root_place(f, place).dead);
  open_loops(f, &k, t, shape);
  avec_push(&f->job->arena, &f->kernels, k);
  return (uint32_t)f->kernels.len - 1;
}

/* A kernel that reads a tensor and writes it to another place. */
static void copy_kernel(Fusion *f, uint32_t tensor, uint32_t after, Place place) {
  if (!f->tensors[tensor].numel) return;
  uint32_t n = open_kernel(f, tensor, after, place);
  FusedKernel *k = &f->kernels.at[n];
  UOp **index = k->index;
  k->value = ask(f, tensor, n, index, NULL, k->out);
}

/* The kernel that computes a stored tensor. */
static void own_kernel(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor];
  uint32_t n = open_kernel(f, tensor, tensor, t->place);
  FusedKernel *k = &f->kernels.at[n];
  Demand *d = arena_alloc(&f->job->arena, sizeof *d);
  *d = (Demand){.tensor = tensor, .kernel = n, .index = k->index, .loops = k->out};
  k->value = d;
  pass_on(f, d);
}

static void store_cat(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor];
  for (uint32_t s = 0; s < t->u->nsrc; s++) {
    Tensor *from = &f->tensors[t->src[s]];
    if (!from->numel) continue;
    Slice *slice = arena_alloc(&f->job->arena, sizeof *slice);
    *slice = (Slice){.cat = tensor, .part = s, .next = from->slices};
    from->slices = slice;
  }
}

/* A tensor that is part of stored CATs: the first slice becomes its place if it has none yet, the
 * others get copies. So does a slice whose place may be known only after an event that is still to
 * come, and that of a fixed tensor where every run writes the whole.
 */
static void fill_slices(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor];
  for (Slice *s = t->slices; s; s = s->next) {
    Place place = {.cat = s->cat, .part = s->part};
    const Tensor *cat = &f->tensors[s->cat];
    bool early = cat->u->symbolic && t->ready < cat->ready;
    bool apart = t->fixed != cat->fixed;
    if (t->leaf || t->is_output || t->stored || early || apart) {
      copy_kernel(f, tensor, s->cat, place);
    } else {
      t->place = place;
      t->stored = true;
    }
  }
}

/* -- scatters ----------------------------------------------------------------------------------
 */

/* Ranges over the updates: those along the axis may meet at an element, so that one runs after the
 * other; along all other axes each has elements of its own. */
static UOp **over_updates(Fusion *f, FusedKernel *k, const UOp *u) {
  const UOp *update = u->src[2];
  UOp **over = arena_array(&f->job->arena, update->shape.n + 1, sizeof *over);
  for (uint32_t a = 0; a < update->shape.n; a++) {
    bool meet = a == u->arg.ints.at[0] && u->arg.ints.n == 1;
    AxisType type = meet ? AX_SERIAL : AX_LOOP;
    bool one = update->shape.at[a] == 1;
    over[a] = one ? uop_index(f->job, 0) : new_range(f, k, type, update->shape.at[a]);
    if (type == AX_SERIAL) k->serial = over[a];
  }
  return over;
}

/* The kernel that brings the updates to where the data is already. */
static void scatter_kernel(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor], *index = &f->tensors[t->src[1]];
  UOp *u = t->u;
  Job *job = f->job;
  uint32_t n = (uint32_t)f->kernels.len, axis = (uint32_t)u->arg.ints.at[0];
  FusedKernel fresh = {.tensor = tensor, .after = tensor, .place = t->place};
  fresh.once = t->fixed && f->buffers.at[root_place(f, t->place).buffer].once;
  fresh.ready = ready_to_write(f, t, t->place);
  fresh.loops = over_updates(f, &fresh, u);
  fresh.nloops = u->shape.n;
  avec_push(&job->arena, &f->kernels, fresh);
  FusedKernel *k = &f->kernels.at[n];
  UOp **where = arena_copy(&job->arena, k->loops, (u->shape.n + 1) * sizeof *where);
  for (uint32_t a = 0; a < u->shape.n; a++)
    if (index->u->shape.at[a] == 1) where[a] = uop_index(job, 0);
  int64_t id = FIRST_HOLE + (int64_t)f->holes.len;
  Demand *d = arena_alloc(&job->arena, sizeof *d);
  Hole hole = {.owner = d, .ranges = fusion_ranges(f, where, u->shape.n)};
  hole.index = uop_range(job, id, AX_LOOP, dim_uop(job, u->shape.at[axis]));
  hole.gate = uop_param(job, id, DT_BOOL, NULL, 0);
  avec_push(&job->arena, &f->holes, hole);
  k->holes = (uint32_t)f->holes.len;
  k->index = arena_copy(&job->arena, k->loops, (u->shape.n + 1) * sizeof *k->index);
  k->index[axis] = u->shape.at[axis] == 1 ? uop_index(job, 0) : hole.index;
  k->nops = 1;
  *d = (Demand){.tensor = tensor, .kernel = n, .index = k->index, .loops = k->out};
  d->src = arena_array(&job->arena, u->nsrc, sizeof *d->src);
  k->gate = hole.gate;
  k->value = d;
  d->src[1] = ask(f, t->src[1], n, where, NULL, d->loops);
  d->src[2] = ask(f, t->src[2], n, f->kernels.at[n].loops, NULL, d->loops);
}

/* A copy that belongs to tensor `whole`, and happens when that can. */
static void copy_into(Fusion *f, uint32_t from, uint32_t after, Place place, uint32_t whole) {
  const Tensor *t = &f->tensors[whole];
  copy_kernel(f, from, after, place);
  FusedKernel *k = &f->kernels.at[f->kernels.len - 1];
  k->once = t->fixed && f->buffers.at[root_place(f, place).buffer].once;
  k->ready = ready_to_write(f, t, place);
}

/* One element after the other along the axis; side by side along the others. */
static void scan_kernel(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor];
  uint32_t n = open_kernel(f, tensor, tensor, t->place), axis = (uint32_t)t->u->arg.ints.at[0];
  FusedKernel *k = &f->kernels.at[n];
  UOp *along = k->index[axis];
  if (along->op == OP_RANGE) along = uop_range(f->job, along->arg.i, AX_SERIAL, along->src[0]);
  for (uint32_t a = 0; a < k->nloops; a++)
    if (k->loops[a] == k->index[axis]) k->loops[a] = along;
  k->index[axis] = k->serial = along;
  k->nops = 1;
  Demand *d = arena_alloc(&f->job->arena, sizeof *d);
  *d = (Demand){.tensor = tensor, .kernel = n, .index = k->index, .loops = k->out};
  d->src = arena_array(&f->job->arena, 1, sizeof *d->src);
  k->value = d;
  d->src[0] = ask(f, t->src[0], n, k->index, NULL, d->loops);
}

static void copy_for_scatter(Fusion *f, uint32_t data, uint32_t scatter) {
  if (f->tensors[data].numel) copy_into(f, data, scatter, f->tensors[scatter].place, scatter);
}

/* The data is computed where the updates go, if nobody else wants it and it is as young. */
static void store_scatter(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor], *data = &f->tensors[t->src[0]];
  if (f->tensors[t->src[2]].numel) scatter_kernel(f, tensor);
  while (data->u->op == OP_RESHAPE && data->nconsumers == 1 && t->place.cat == NO_TENSOR)
    data = &f->tensors[data->src[0]]; /* which changes no byte */
  bool own = !data->leaf && data->ready == t->ready && data->fixed == t->fixed && !data->scatter;
  if (own)
    data->scatter = 1 + tensor;
  else
    copy_for_scatter(f, t->src[0], tensor);
}

static void fill_scatter(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor];
  if (!t->scatter) return;
  if (t->is_output || t->stored || t->demands) {
    copy_for_scatter(f, tensor, t->scatter - 1);
    t->scatter = 0;
  } else {
    t->place = f->tensors[t->scatter - 1].place;
    t->stored = true;
  }
}

/* A CAT under updates: others may read its parts, so that none has its place there. */
static void copy_parts(Fusion *f, uint32_t tensor) {
  const Tensor *t = &f->tensors[tensor];
  for (uint32_t s = 0; s < t->u->nsrc; s++) {
    Place place = {.cat = tensor, .part = s};
    if (f->tensors[t->src[s]].numel) copy_into(f, t->src[s], tensor, place, tensor);
  }
}

/* -- the walk ------------------------------------------------------------------------------------
 */

/* The kernel that computes an update where it is stored. */
static void update_kernel(Fusion *f, uint32_t tensor) {
  const Tensor *t = &f->tensors[tensor];
  if (!f->tensors[t->src[1]].numel) return;
  copy_kernel(f, t->src[1], tensor, t->place);
  FusedKernel *k = &f->kernels.at[f->kernels.len - 1];
  k->update = t->u;
  k->ready = t->ready;
}

static void visit(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor];
  if (t->is_update) update_kernel(f, tensor);
  if (!t->numel || t->u->dtype == DT_VOID) return;
  fill_slices(f, tensor);
  fill_scatter(f, tensor);
  if (t->leaf) return;
  if (!t->stored && !t->is_output) {
    if (!t->demands) return;
    const char *why = fusion_stores(f, t);
    if (!why && !fusion_fits(f, t)) why = "its reader has as many buffers as a kernel may";
    t->stored = why != NULL;
    if (!t->stored) {
      fusion_uncount(f, t);
      for (Demand *d = t->demands; d; d = d->next) pass_on(f, d);
      return;
    }
    t->place = own_place(f, t, why);
  }
  t->stored = true;
  if (t->u->op == OP_CAT && t->scatter) {
    copy_parts(f, tensor);
  } else if (t->u->op == OP_CAT) {
    store_cat(f, tensor);
  } else if (t->u->op == OP_SCATTER) {
    store_scatter(f, tensor);
  } else if (t->u->op == OP_SCAN) {
    scan_kernel(f, tensor);
  } else {
    own_kernel(f, tensor);
  }
}

typedef struct Mentions {
  const Events *events;
  uint32_t ready;
} Mentions;

static void mention(void *ctx, const UOp *var) {
  Mentions *m = ctx;
  uint32_t ready = m->events->var_ready[var->arg.i];
  if (ready > m->ready) m->ready = ready;
}

/* By node id: when an event has happened. */
static uint32_t *event_times(const Fusion *f) {
  uint32_t *time = arena_array(&f->job->arena, f->job->next_id, sizeof *time);
  for (uint32_t k = 0; k < f->events.n; k++) time[f->events.at[k].node->id] = k + 1;
  return time;
}

/* What a tensor is by itself; those of its sources come on top. */
static void fix_by_itself(const TensorGraph *graph, Tensor *t) {
  const UOp *u = t->u;
  t->fixed = u->dtype != DT_VOID && u->op != OP_VAR && !u->symbolic;
  if (u->op != OP_PARAM) return;
  size_t slot = (size_t)u->arg.i;
  t->fixed &= slot >= graph->nslots || graph->slots[slot].kind == SLOT_WEIGHT;
  t->weighs = t->fixed;
}

static void number_tensors(Fusion *f, const TensorGraph *graph, UOp *sink) {
  UOpList list = loops_order(f->job, sink, graph->nvars);
  uint32_t *number = arena_array(&f->job->arena, f->job->next_id, sizeof *number);
  const uint32_t *time = event_times(f);
  f->ntensors = (uint32_t)list.len;
  f->tensors = arena_array(&f->job->arena, list.len, sizeof *f->tensors);
  for (uint32_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    Tensor *t = &f->tensors[i];
    Mentions m = {.events = &f->events};
    number[u->id] = i;
    *t = (Tensor){.u = u, .numel = dims_typical(u->shape), .place = {.cat = NO_TENSOR}};
    t->leaf = u->op == OP_PARAM || u->op == OP_CONST || u->op == OP_VAR || is_version(u);
    t->src = arena_array(&f->job->arena, u->nsrc + 1, sizeof *t->src);
    fix_by_itself(graph, t);
    for (uint32_t s = 0; s < u->nsrc; s++) {
      t->src[s] = number[u->src[s]->id];
      const Tensor *from = &f->tensors[t->src[s]];
      if (from->ready > m.ready) m.ready = from->ready;
      t->fixed &= from->fixed;
      t->weighs |= from->weighs;
    }
    t->weighs &= t->fixed;
    uint32_t *below = arena_array(&f->job->arena, u->nsrc + 1, sizeof *below);
    for (uint32_t s = 0; s < u->nsrc; s++) below[s] = f->tensors[t->src[s]].dead;
    t->dead = dead_axes(f->job, u, below);
    if (u->op == OP_VAR) mention(&m, u);
    loops_vars(u, mention, &m);
    t->ready = time[u->id] ? time[u->id] : m.ready;
    t->is_update = u->op == OP_STORE && time[u->id];
    if (!strchr(op_info[u->op].stages, 'T')) {
      job_abort(f->job, FAIL(INTERNAL, "%s in a tensor graph", op_info[u->op].name));
    }
  }
}

/* The buffer that a view is of. */
static Place place_of_root(const Fusion *f, uint32_t view) {
  while (view_op(f->tensors[view].u)) view = f->tensors[view].src[0];
  return f->tensors[view].place;
}

/* Inputs and outputs get the first buffers, in slot order; a weight gets one when the graph reads
 * it. Versions and updates of a state are where the state is. */
static void place_params(Fusion *f, const TensorGraph *graph) {
  for (uint32_t i = 0; i < f->ntensors; i++) {
    Tensor *t = &f->tensors[i];
    if (t->u->op == OP_AFTER) t->place = f->tensors[t->src[0]].place;
    if (t->is_update) t->place = place_of_root(f, t->src[0]);
    if (t->u->op != OP_PARAM) continue;
    size_t slot = (size_t)t->u->arg.i;
    if (slot >= graph->nslots) {
      t->place = in_buffer(new_buffer(f, PB_CONST, 0, t->u));
      f->buffers.at[t->place.buffer].constant = f->constants.at[slot - graph->nslots];
    } else if (slot < graph->ninputs + graph->noutputs) {
      t->place = in_buffer((uint32_t)slot);
    } else if (graph->slots[slot].kind == SLOT_LOCAL) {
      t->place = in_buffer(new_buffer(f, PB_TEMP, 0, t->u));
      f->buffers.at[t->place.buffer].carried = true;
    } else {
      t->place = in_buffer(new_buffer(f, PB_WEIGHT, t->u->arg.i, t->u));
    }
  }
}

/* A scalar that a step looks at is computed into a buffer of its own, or is one already. */
static uint32_t place_scalar(Fusion *f, uint32_t tensor) {
  Tensor *t = &f->tensors[tensor];
  if (t->u->op == OP_PARAM || t->is_output) return t->place.buffer;
  Place place = in_buffer(new_buffer(f, PB_TEMP, 0, t->u));
  bool copied = t->leaf || t->fixed;
  if (copied) copy_kernel(f, tensor, tensor, place);
  if (!copied) t->is_output = true, t->place = place;
  return place.buffer;
}

static void place_events(Fusion *f) {
  size_t n = f->events.n;
  const uint32_t *time = event_times(f);
  f->looked_at = arena_array(&f->job->arena, n + 1, sizeof *f->looked_at);
  f->condition = arena_array(&f->job->arena, n + 1, sizeof *f->condition);
  for (size_t k = 0; k < n; k++) f->looked_at[k] = f->condition[k] = NO_BUFFER;
  for (uint32_t i = 0; i < f->ntensors; i++) {
    const Tensor *t = &f->tensors[i];
    if (t->u->op != OP_BIND && t->u->op != OP_LOOP) continue;
    uint32_t k = time[t->u->id] - 1; /* of a LOOP, its end */
    if (t->u->op == OP_BIND || t->u->src[1]->op != OP_CONST)
      f->looked_at[k] = place_scalar(f, t->src[1]);
    if (t->u->op == OP_LOOP && t->u->src[2]->op != OP_CONST)
      f->condition[k] = f->tensors[t->src[2]].place.buffer;
  }
}

/* An output is computed into its buffer; one that is a parameter or fixed, or that another output
 * has taken already, is copied. A RESHAPE changes no byte and is looked through. */
static void place_outputs(Fusion *f, UOp *sink) {
  const Tensor *root = &f->tensors[f->ntensors - 1];
  assert(root->u == sink);
  for (uint32_t k = 0; k < sink->nsrc; k++) {
    const Tensor *store = &f->tensors[root->src[k]];
    if (store->is_update || store->u->op != OP_STORE) continue;
    Place place = f->tensors[store->src[0]].place;
    uint32_t value = store->src[1];
    if (f->buffers.at[place.buffer].constant.len) continue;
    while (f->tensors[value].u->op == OP_RESHAPE) value = f->tensors[value].src[0];
    Tensor *t = &f->tensors[value];
    if (t->leaf || t->is_output || t->fixed) {
      copy_kernel(f, value, f->ntensors, place);
    } else if (t->numel) {
      t->is_output = true;
      t->place = place;
    }
  }
}

void fuse(Fusion *f, const TensorGraph *graph, UOp *sink) {
  f->symbolic = graph->nvars > 0;
  number_tensors(f, graph, sink);
  place_params(f, graph);
  fusion_costs(f);
  fusion_rows(f);
  place_outputs(f, sink);
  place_events(f);
  for (uint32_t i = f->ntensors; i-- > 0;) {
    visit(f, i);
    job_poll(f->job);
  }
}

int fusion_order(const void *a, const void *b) {
  const FusedKernel *x = *(FusedKernel *const *)a, *y = *(FusedKernel *const *)b;
  if (x->once != y->once) return x->once ? -1 : 1;
  if (x->ready != y->ready) return x->ready < y->ready ? -1 : 1;
  if (!x->update != !y->update) return x->update ? -1 : 1;
  if (x->after != y->after) return x->after < y->after ? -1 : 1;
  return x < y ? 1 : -1;
}
