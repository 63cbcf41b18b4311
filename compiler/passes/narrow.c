/* Kernels that use a part of a buffer: a slice of a CAT that they write, one of the steps of a
 * recurrence, one third of a fused projection.
 *
 * The constant part of the addresses moves from the kernel to its arguments: the plan gets a buffer
 * that starts where the kernel's accesses do. Layers that differ only in the slice they work on are
 * then one kernel. A gated access may compute an address outside its buffer, so a PARAM with one is
 * left alone. */
#include "compiler/passes/narrow.h"

#include "base/vec.h"
#include "compiler/passes/ix.h"

typedef struct Extent {
  int64_t first, last;
  bool fixed; /* to be left alone */
} Extent;

static bool is_access(const UOp *u) { return u->op == OP_INDEX || u->op == OP_STORE; }

static Extent *extents(Job *job, const UOpList *list, size_t n) {
  Extent *e = arena_array(&job->arena, n, sizeof *e);
  for (size_t k = 0; k < n; k++) e[k] = (Extent){INT64_MAX, INT64_MIN, false};
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    if (!is_access(u)) continue;
    Extent *x = &e[u->src[0]->arg.i];
    x->fixed |= u->nsrc > (u->op == OP_STORE ? 3 : 2);
    if (u->src[1]->vmin < x->first) x->first = u->src[1]->vmin;
    if (u->src[1]->vmax > x->last) x->last = u->src[1]->vmax;
  }
  return e;
}

/* The end of a whole buffer, from element `begin` on. */
static uint32_t end_of(Fusion *f, uint32_t buffer, int64_t begin) {
  PlanBuffer b = f->buffers.at[buffer];
  UOp *key = uop_param(f->job, buffer, DT_INDEX, &begin, 1);
  uint32_t known = nodemap_get(&f->parts, key);
  if (known != NODE_ABSENT) return known;
  size_t bytes = (size_t)begin * dtype_info[b.dtype].bytes;
  b.numel -= begin;
  b.offset = (int64_t)bytes;
  if (b.kind == PB_CONST) b.constant = (Bytes){b.constant.ptr + bytes, b.constant.len - bytes};
  avec_push(&f->job->arena, &f->buffers, b);
  known = (uint32_t)f->buffers.len - 1;
  nodemap_put(f->job, &f->parts, key, known);
  return known;
}

static UOp *narrowed(Job *job, const UOp *u, UOp **src, const Extent *e) {
  int64_t numel = e->last - e->first + 1;
  src[0] = uop_param(job, src[0]->arg.i, (DType)src[0]->dtype, &numel, 1);
  src[1] = ix_scale(job, src[1], 1, -e->first);
  return uop_make(job, (Op)u->op, (DType)u->dtype, u->arg, src, u->nsrc);
}

/* uop_toposort leaves every node's place in the list in the node. */
static UOp *rebuild(Job *job, const UOpList *list, const Extent *e) {
  UOp **result = arena_array(&job->arena, list->len, sizeof *result);
  for (size_t i = 0; i < list->len; i++) {
    UOp *u = list->at[i], **src = arena_array(&job->arena, u->nsrc + 1, sizeof *src);
    bool same = true;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      src[s] = result[u->src[s]->place];
      same &= src[s] == u->src[s];
    }
    const Extent *x = is_access(u) ? &e[u->src[0]->arg.i] : NULL;
    if (x && !x->fixed) {
      result[i] = narrowed(job, u, src, x);
    } else {
      result[i] = same ? u : uop_with_src(job, u, src);
    }
  }
  return result[list->len - 1];
}

UOp *narrow_params(Fusion *f, UOp *sink, uint32_t *buffers, size_t n) {
  UOpList list = uop_toposort(f->job, sink);
  Extent *e = extents(f->job, &list, n);
  bool any = false;
  for (size_t k = 0; k < n; k++) {
    int64_t last = f->buffers.at[buffers[k]].numel - 1;
    e[k].fixed |= e[k].first < 0 || e[k].last > last || e[k].first > e[k].last;
    e[k].fixed |= e[k].first == 0 && e[k].last == last;
    if (e[k].fixed) continue;
    any = true;
    if (e[k].first) buffers[k] = end_of(f, buffers[k], e[k].first);
  }
  return any ? rebuild(f->job, &list, e) : sink;
}
