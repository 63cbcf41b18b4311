/* movement.rules: its guards and results in C.
 *
 * A splat is a rank-0 value in every element of a tensor, however it was moved about. Its canonical
 * form is EXPAND(RESHAPE(value)); as an operand beside one of the full shape it is the value
 * itself, since rank-0 operands broadcast. */
#include "compiler/ir/dim.h"
#include "compiler/rules/closed_form.h"

static int64_t *new_ints(Rewrite *rw, size_t n) {
  return arena_array(&rw->job->arena, n + 1, sizeof(int64_t));
}

static UOp *with_ints(Rewrite *rw, Op op, UOp *const *src, size_t n, const int64_t *v, size_t len) {
  return uop_make(rw->job, op, DT_VOID, arg_ints(v, len), src, n);
}

static UOp *reshaped(Rewrite *rw, UOp *x, Ints shape) {
  return uop_make(rw->job, OP_RESHAPE, DT_VOID, (Arg){.ints = shape}, &x, 1);
}

/* -- permutes
 * -------------------------------------------------------------------------------------- */

static bool is_identity(const UOp *permute) {
  for (uint32_t k = 0; k < permute->arg.ints.n; k++)
    if (permute->arg.ints.at[k] != k) return false;
  return true;
}

/* True when a permute keeps the order of the axes that are longer than 1. */
static bool is_ones_moved(const UOp *permute) {
  int64_t last = -1;
  for (uint32_t k = 0; k < permute->arg.ints.n; k++) {
    int64_t axis = permute->arg.ints.at[k];
    if (permute->shape.at[k] == 1) continue;
    if (axis < last) return false;
    last = axis;
  }
  return true;
}

static UOp *merge_permutes(Rewrite *rw, UOp *n, UOp *x) {
  Ints outer = n->arg.ints, inner = n->src[0]->arg.ints;
  int64_t *axes = new_ints(rw, outer.n);
  for (uint32_t k = 0; k < outer.n; k++) axes[k] = inner.at[outer.at[k]];
  return with_ints(rw, OP_PERMUTE, &x, 1, axes, outer.n);
}

/* -- pads, shrinks, flips
 * ---------------------------------------------------------------------------- */

static UOp *merge_pads(Rewrite *rw, UOp *n, UOp *x, UOp *v) {
  Ints outer = n->arg.ints, inner = n->src[0]->arg.ints;
  int64_t *pads = new_ints(rw, outer.n);
  for (uint32_t k = 0; k < outer.n; k++) pads[k] = dim_add(rw->job, outer.at[k], inner.at[k]);
  return with_ints(rw, OP_PAD, (UOp *[]){x, v}, 2, pads, outer.n);
}

static UOp *merge_shrinks(Rewrite *rw, UOp *n, UOp *x) {
  Ints outer = n->arg.ints, inner = n->src[0]->arg.ints;
  int64_t *ends = new_ints(rw, outer.n);
  for (uint32_t k = 0; k < outer.n; k++) {
    ends[k] = dim_add(rw->job, outer.at[k], inner.at[k & ~1u]);
  }
  return with_ints(rw, OP_SHRINK, &x, 1, ends, outer.n);
}

static bool flips(const UOp *flip, int64_t axis) {
  for (uint32_t k = 0; k < flip->arg.ints.n; k++)
    if (flip->arg.ints.at[k] == axis) return dim_high(flip->shape.at[axis]) > 1;
  return false;
}

static bool flips_nothing(const UOp *flip) {
  for (uint32_t k = 0; k < flip->shape.n; k++)
    if (flips(flip, k)) return false;
  return true;
}

static UOp *merge_flips(Rewrite *rw, UOp *n, UOp *x) {
  int64_t *axes = new_ints(rw, n->shape.n);
  size_t count = 0;
  for (uint32_t k = 0; k < n->shape.n; k++)
    if (flips(n, k) != flips(n->src[0], k)) axes[count++] = k;
  return count ? with_ints(rw, OP_FLIP, &x, 1, axes, count) : x;
}

/* -- splats
 * ------------------------------------------------------------------------------------------ */

/* The rank-0 value in every element of u, or NULL. */
static UOp *splat_of(UOp *u) {
  while (u->shape.n && op_info[u->op].flags & OPF_MOVE && u->nsrc == 1) u = u->src[0];
  return u->shape.n ? NULL : u;
}

static UOp *moved_splat(Rewrite *rw, UOp *n, UOp *x) {
  UOp *v = splat_of(x);
  if (!v || !n->shape.n) return n->shape.n ? NULL : v;
  UOp *to = rewrite_broadcast(rw, v, n->shape);
  return to == n ? NULL : to;
}

static UOp *padded_splat(Rewrite *rw, UOp *n, UOp *x, UOp *v) {
  return splat_of(x) == v && n->shape.n ? rewrite_broadcast(rw, v, n->shape) : NULL;
}

/* Operands that are splats become rank 0; when all are, the whole node is one. */
static UOp *splat_operands(Rewrite *rw, UOp *n) {
  UOp *src[3];
  bool changed = false;
  if (!n->shape.n) return NULL;
  for (uint32_t k = 0; k < n->nsrc; k++) {
    UOp *v = splat_of(n->src[k]);
    src[k] = v ? v : n->src[k];
    changed |= src[k] != n->src[k];
  }
  return changed ? uop_make(rw->job, (Op)n->op, (DType)n->dtype, n->arg, src, n->nsrc) : NULL;
}

/* -- reductions
 * ---------------------------------------------------------------------------------------- */

static UOp *reduce_over(Rewrite *rw, Op op, UOp *x, const int64_t *axes, size_t n) {
  return n ? uop_make(rw->job, OP_REDUCE, DT_VOID, arg_both(op, axes, n), &x, 1) : x;
}

/* Axes of size 1 need no reduction. */
static UOp *reduce_fewer_axes(Rewrite *rw, UOp *n) {
  const UOp *x = n->src[0];
  if (!x->shape.n) return NULL;
  int64_t *axes = new_ints(rw, n->arg.ints.n);
  size_t count = 0;
  for (uint32_t k = 0; k < n->arg.ints.n; k++)
    if (x->shape.at[n->arg.ints.at[k]] != 1) axes[count++] = n->arg.ints.at[k];
  return count && count == n->arg.ints.n ? NULL
                                         : reduce_over(rw, (Op)n->arg.i, n->src[0], axes, count);
}

static UOp *merge_reduces(Rewrite *rw, UOp *n, UOp *x) {
  Ints outer = n->arg.ints, inner = n->src[0]->arg.ints;
  if (n->arg.i != n->src[0]->arg.i || !x->shape.n) return NULL;
  int64_t *axes = new_ints(rw, x->shape.n);
  size_t count = 0;
  for (uint32_t axis = 0; axis < x->shape.n; axis++) {
    bool hit = false;
    for (uint32_t k = 0; k < outer.n; k++) hit |= outer.at[k] == axis;
    for (uint32_t k = 0; k < inner.n; k++) hit |= inner.at[k] == axis;
    if (hit) axes[count++] = axis;
  }
  return reduce_over(rw, (Op)n->arg.i, x, axes, count);
}

/* The same of as many elements as a size says: a sum is a product with it, rounded once. */
static UOp *reduce_symbolic_splat(Rewrite *rw, UOp *n, UOp *v, Ints shape) {
  Job *job = rw->job;
  DType d = (DType)n->dtype;
  int64_t *dims = new_ints(rw, n->arg.ints.n);
  for (uint32_t k = 0; k < n->arg.ints.n; k++) dims[k] = shape.at[n->arg.ints.at[k]];
  int64_t count = dims_numel(job, (Ints){dims, n->arg.ints.n});
  if (!dim_le(job, 1, count) || n->arg.i == OP_MUL) return NULL;
  if (n->arg.i == OP_ADD) {
    if (d == DT_F16 || d == DT_BF16) return NULL;
    v = uop2(job, OP_MUL, v, uop_cast(job, dim_uop(job, count), d));
  }
  return rewrite_broadcast(rw, v, n->shape);
}

static UOp *reduce_splat(Rewrite *rw, UOp *n, UOp *x) {
  UOp *v = splat_of(x);
  int64_t count = 1;
  if (!v || !x->shape.n) return NULL;
  if (x->symbolic) return reduce_symbolic_splat(rw, n, v, x->shape);
  for (uint32_t k = 0; k < n->arg.ints.n; k++)
    if (__builtin_mul_overflow(count, x->shape.at[n->arg.ints.at[k]], &count)) return NULL;
  UOp *to = closed_form_repeat(rw, (Op)n->arg.i, v, count);
  return to ? rewrite_broadcast(rw, to, n->shape) : NULL;
}

#include "compiler/rules/movement.inc"
