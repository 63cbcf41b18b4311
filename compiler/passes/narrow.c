/* Kernels that use a part of a buffer: a slice of a CAT that they write, one of the steps of a
 * recurrence, one third of a fused projection.
 *
 * The constant part of the addresses moves from the kernel to its arguments: the plan gets a buffer
 * that starts where the kernel's accesses do. Layers that differ only in the slice they work on are
 * then one kernel. A gated access may compute an address outside its buffer, so a PARAM with one is
 * left alone; so is a buffer of symbolic size.
 *
 * On devices with workgroups every argument of a kernel starts at a multiple of BUFFER_ALIGN bytes,
 * so that code may load vectors: what is less than that stays in the kernel. */
#include "compiler/passes/narrow.h"

#include "base/vec.h"
#include "compiler/passes/ix.h"

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

/* Where the argument starts. */
static int64_t begin_of(const Fusion *f, const Access *a) {
  int64_t item = dtype_info[f->buffers.at[a->buffer].dtype].bytes;
  return f->target->max_group ? a->first - a->first % (BUFFER_ALIGN / item) : a->first;
}

static bool whole(const Fusion *f, const Access *a) {
  int64_t numel = f->buffers.at[a->buffer].numel, last = numel - 1;
  if (!dim_is_static(numel)) return true;
  return a->gated || a->first < 0 || a->last > last || (a->first == 0 && a->last == last);
}

static UOp *narrowed(const Fusion *f, const UOp *u, UOp **src, const Access *e) {
  Job *job = f->job;
  int64_t begin = begin_of(f, e), numel = e->last - begin + 1;
  src[0] = uop_param(job, src[0]->arg.i, (DType)src[0]->dtype, &numel, 1);
  src[1] = ix_scale(job, src[1], 1, -begin);
  return uop_make(job, (Op)u->op, (DType)u->dtype, u->arg, src, u->nsrc);
}

/* uop_toposort leaves every node's place in the list in the node. */
static UOp *rebuild(Fusion *f, UOp *sink, const Access *touched) {
  Job *job = f->job;
  UOpList sorted = uop_toposort(job, sink), *list = &sorted;
  UOp **result = arena_array(&job->arena, list->len, sizeof *result);
  for (size_t i = 0; i < list->len; i++) {
    UOp *u = list->at[i], **src = arena_array(&job->arena, u->nsrc + 1, sizeof *src);
    bool same = true;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      src[s] = result[u->src[s]->place];
      same &= src[s] == u->src[s];
    }
    const Access *a = NULL;
    if (u->op == OP_INDEX || u->op == OP_STORE) a = &touched[u->src[0]->arg.i];
    if (a && !whole(f, a)) {
      result[i] = narrowed(f, u, src, a);
    } else {
      result[i] = same ? u : uop_with_src(job, u, src);
    }
  }
  return result[list->len - 1];
}

UOp *narrow_params(Fusion *f, UOp *sink, const Access *touched, size_t n, uint32_t *buffers) {
  bool any = false;
  for (size_t k = 0; k < n; k++) {
    const Access *a = &touched[k];
    bool all = whole(f, a);
    any |= !all;
    buffers[k] = all || !begin_of(f, a) ? a->buffer : end_of(f, a->buffer, begin_of(f, a));
  }
  return any ? rebuild(f, sink, touched) : sink;
}
