/* Rangeify: from demands to values.
 *
 * The index tuples were worked out during fusion, consumers first. Here the values are built on the
 * way back, sources first: a demand's value is its tensor's op on the values of the demands it
 * points to. Movement ops disappear; PAD and CAT become WHERE, a REDUCE gets its ranges, a stored
 * tensor becomes a load at the flat row-major index.
 *
 * Invariant: a load outside its buffer is gated. A gate is the conjunction of everything that the
 * path from the kernel's root to the load says about where the tensor exists. */
#include "compiler/passes/rangeify.h"

#include <assert.h>

#include "base/vec.h"
#include "compiler/ir/view.h"
#include "compiler/passes/indexing.h"
#include "compiler/passes/ix.h"
#include "compiler/passes/narrow.h"

/* Where element `index` of a stored tensor is: the buffer and the flat index in it. */
static UOp *locate(const Fusion *f, const UOp *u, Place place, UOp *const *index,
                   uint32_t *buffer) {
  while (place.cat != NO_TENSOR) {
    const Tensor *cat = &f->tensors[place.cat];
    index = index_of_part(f->job, cat->u, place.part, index);
    u = cat->u;
    place = cat->place;
  }
  *buffer = place.buffer;
  if (!place.dead) return ix_flat(f->job, u->shape, index);
  UOp **kept = arena_copy(&f->job->arena, index, u->shape.n * sizeof *index);
  for (uint32_t k = 0; k < u->shape.n; k++) {
    if (place.dead >> k & 1) kept[k] = uop_index(f->job, 0);
  }
  return ix_flat(f->job, fusion_stored_shape(f, u, place.dead), kept);
}

static UOp *buffer_param(const Fusion *f, uint32_t buffer, int64_t position) {
  const PlanBuffer *b = &f->buffers.at[buffer];
  return uop_param(f->job, position, b->dtype, &b->numel, 1);
}

/* The number of a buffer among those that a kernel reads. Numbering them per kernel makes repeated
 * layers the same nodes from the start. */
static size_t read_number(const Fusion *f, FusedKernel *k, uint32_t buffer) {
  size_t n = 0;
  while (n < k->reads.len && k->reads.at[n].buffer != buffer) n++;
  if (n == k->reads.len) {
    Access a = {.buffer = buffer, .first = INT64_MAX, .last = INT64_MIN};
    avec_push(&f->job->arena, &k->reads, a);
  }
  return n;
}

static void extend(Access *a, const UOp *at, bool gated) {
  a->gated |= gated;
  if (at->vmin < a->first) a->first = at->vmin;
  if (at->vmax > a->last) a->last = at->vmax;
}

/* Where a kernel writes. */
static UOp *locate_result(const Fusion *f, FusedKernel *k, uint32_t *buffer) {
  UOp **index = k->index, *to = f->tensors[k->tensor].u;
  if (k->update) {
    for (to = k->update->src[0]; view_op(to); to = to->src[0])
      index = index_pull(f->job, to, 0, index).index;
  }
  k->at = locate(f, to, k->place, index, buffer);
  return k->at;
}

static UOp *load(const Fusion *f, const Tensor *t, const Demand *d) {
  uint32_t buffer;
  FusedKernel *k = &f->kernels.at[d->kernel];
  UOp *at = locate(f, t->u, t->place, d->index, &buffer);
  if (k->update && k->place.buffer == buffer && k->at == at) {
    UOp *own[] = {buffer_param(f, buffer, 0), at, d->gate};
    return uop_make(f->job, OP_INDEX, DT_VOID, arg_none(), own, d->gate ? 3 : 2);
  }
  size_t n = read_number(f, k, buffer);
  extend(&k->reads.at[n], at, d->gate);
  UOp *src[] = {buffer_param(f, buffer, 1 + (int64_t)n), at, d->gate};
  return uop_make(f->job, OP_INDEX, DT_VOID, arg_none(), src, d->gate ? 3 : 2);
}

/* value where inside, else other. A load that is gated at least as strictly and gives the 0 that
 * `other` is needs no WHERE. */
static UOp *choose(Job *job, UOp *inside, UOp *value, UOp *other) {
  if (!inside) return value;
  bool zero = uop_is_number(other, 0);
  if (value->op == OP_INDEX && value->nsrc == 3 && zero) return value;
  return uop3(job, OP_WHERE, inside, value, other);
}

static UOp *zero(Job *job, DType dtype) { return uop_number(job, dtype, 0); }

static UOp *joined(Fusion *f, const Tensor *t, const Demand *d) {
  UOp *value = NULL;
  for (uint32_t s = t->u->nsrc; s-- > 0;) {
    if (!d->src[s]) continue;
    UOp *v = d->src[s]->value;
    value = value && d->inside[s] ? uop3(f->job, OP_WHERE, d->inside[s], v, value) : v;
  }
  return value;
}

static UOp *reduced(Fusion *f, const Tensor *t, const Demand *d) {
  Op op = (Op)t->u->arg.i;
  if (!d->src[0]) {
    return uop_scalar(f->job, (DType)t->u->dtype, reduce_identity(op, (DType)t->u->dtype));
  }
  return uop_reduce(f->job, op, d->src[0]->value, d->ranges, d->nranges);
}

static UOp *elementwise(Fusion *f, const Tensor *t, const Demand *d) {
  UOp *src[3] = {0};
  for (uint32_t s = 0; s < t->u->nsrc; s++) {
    assert(d->src[s]); /* only movement reads outside a source */
    src[s] = d->src[s]->value;
  }
  return uop_make(f->job, (Op)t->u->op, (DType)t->u->dtype, t->u->arg, src, t->u->nsrc);
}

/* What a SCATTER stores for one update: the gate that comes with it is that of its own store. */
static UOp *scattered(Fusion *f, const Tensor *t, const Demand *d) {
  const FusedKernel *k = &f->kernels.at[d->kernel];
  UOp *update = d->src[2]->value;
  uint32_t buffer;
  if (t->u->arg.i == OP_STORE) return update;
  UOp *at = locate(f, t->u, k->place, k->index, &buffer);
  UOp *src[] = {buffer_param(f, buffer, 0), at, k->gate, k->serial};
  UOp *before = uop_make(f->job, OP_INDEX, DT_VOID, arg_none(), src, 4);
  return uop2(f->job, (Op)t->u->arg.i, before, update);
}

/* What a SCAN stores: the element before, combined. For the first, itself is read and not used. */
static UOp *scanned(Fusion *f, const Tensor *t, const Demand *d) {
  Job *job = f->job;
  const FusedKernel *k = &f->kernels.at[d->kernel];
  uint32_t axis = (uint32_t)t->u->arg.ints.at[0], buffer;
  assert(d->src[0]); /* as above */
  UOp *x = d->src[0]->value, *zero = uop_index(job, 0);
  UOp **index = arena_copy(&job->arena, k->index, t->u->shape.n * sizeof *index);
  index[axis] = uop2(job, OP_MAX, ix_scale(job, k->serial, 1, -1), zero);
  UOp *at = locate(f, t->u, k->place, index, &buffer), *always = uop_int(job, DT_BOOL, true);
  UOp *src[] = {buffer_param(f, buffer, 0), at, always, k->serial};
  UOp *before = uop_make(job, OP_INDEX, DT_VOID, arg_none(), src, 4);
  UOp *first = uop2(job, OP_CMPLT, zero, k->serial);
  return uop3(job, OP_WHERE, first, uop2(job, (Op)t->u->arg.i, before, x), x);
}

static UOp *value_of(Fusion *f, const Tensor *t, const Demand *d) {
  Job *job = f->job;
  UOp *u = t->u;
  if (u->op == OP_CONST || u->op == OP_VAR) return u;
  if (!d->src) return load(f, t, d);
  UOp *first = u->nsrc && d->src[0] ? d->src[0]->value : NULL;
  switch (u->op) {
  case OP_IOTA: return uop_cast(job, d->index[u->arg.i], (DType)u->dtype);
  case OP_REDUCE: return reduced(f, t, d);
  case OP_SCATTER: return scattered(f, t, d);
  case OP_SCAN: return scanned(f, t, d);
  case OP_CAT: return joined(f, t, d);
  case OP_PAD: {
    UOp *fill = d->src[1]->value;
    return first ? choose(job, d->inside[0], first, fill) : fill;
  }
  case OP_GATHER: {
    UOp *none = zero(job, (DType)u->dtype);
    return first ? choose(job, d->inside[0], first, none) : none;
  }
  default: return op_info[u->op].flags & OPF_ALU ? elementwise(f, t, d) : first;
  }
}

void rangeify_values(Fusion *f) {
  uint32_t buffer;
  for (size_t k = 0; k < f->kernels.len; k++)
    if (f->kernels.at[k].update) locate_result(f, &f->kernels.at[k], &buffer);
  for (uint32_t i = 0; i < f->ntensors; i++) {
    Tensor *t = &f->tensors[i];
    for (Demand *d = t->demands; d; d = d->next) d->value = value_of(f, t, d);
    if (i % 64 == 0) job_poll(f->job);
  }
  for (size_t k = 0; k < f->kernels.len; k++) {
    Demand *d = f->kernels.at[k].value;
    if (!d->value) d->value = value_of(f, &f->tensors[d->tensor], d);
  }
}

/* Puts the loaded indices where their holes are. An index may itself have come through holes, so
 * until nothing changes; and its bounds are then those of the holes, not its own, so that only the
 * algebra on the filled kernel may find a gate to be always open. */
static UOp *fill_holes(const Fusion *f, UOp *sink, const FusedKernel *k) {
  Job *job = f->job;
  uint32_t n = 0;
  for (uint32_t h = k->holes; h; h = f->holes.at[h - 1].next) n += 2;
  if (!n) return sink;
  UOp **from = arena_array(&job->arena, n, sizeof *from);
  UOp **to = arena_array(&job->arena, n, sizeof *to);
  n = 0;
  for (uint32_t h = k->holes; h; h = f->holes.at[h - 1].next) {
    const Hole *hole = &f->holes.at[h - 1];
    UOp *at = uop_cast(job, hole->owner->src[1]->value, DT_INDEX);
    UOp *size = hole->index->src[0], *low = uop2(job, OP_CMPLE, uop_index(job, 0), at);
    UOp *high = size->symbolic ? uop2(job, OP_CMPLT, at, size)
                               : uop2(job, OP_CMPLE, at, uop_index(job, hole->index->vmax));
    from[n] = hole->index, to[n++] = at;
    from[n] = hole->gate, to[n++] = uop2(job, OP_AND, low, high);
  }
  for (UOp *before = NULL; before != sink;) {
    before = sink;
    sink = uop_substitute(job, sink, from, to, n);
  }
  return sink;
}

UOp *rangeify_kernel(Fusion *f, FusedKernel *k) {
  size_t nargs = k->reads.len + 1;
  UOp **src = arena_array(&f->job->arena, k->nloops + 4u, sizeof *src);
  Access *touched = arena_array(&f->job->arena, nargs, sizeof *touched);
  uint32_t n = 1;
  if (k->reads.len) memcpy(touched + 1, k->reads.at, k->reads.len * sizeof *touched);
  src[1] = locate_result(f, k, &touched[0].buffer);
  touched[0].first = src[1]->vmin, touched[0].last = src[1]->vmax;
  src[0] = buffer_param(f, touched[0].buffer, 0);
  src[2] = k->value->value;
  src[3] = k->gate;
  touched[0].gated = k->serial || k->gate; /* reads of it count too */
  src[0] = uop_make(f->job, OP_STORE, DT_VOID, arg_none(), src, src[3] ? 4 : 3);
  for (uint32_t a = 0; a < k->nloops; a++)
    if (k->loops[a]->op == OP_RANGE) src[n++] = k->loops[a];
  UOp *end = uop_make(f->job, OP_END, DT_VOID, arg_none(), src, n);
  UOp *sink = uop_make(f->job, OP_SINK, DT_VOID, arg_none(), &end, 1);
  k->buffers = arena_array(&f->job->arena, nargs, sizeof *k->buffers);
  return narrow_params(f, fill_holes(f, sink, k), touched, nargs, k->buffers);
}
