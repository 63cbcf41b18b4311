/* Which element of a source an element of a movement op is.
 *
 * RESHAPE is the only op that is not axis by axis. Both shapes are cut into the shortest groups of
 * axes with equal products; inside a group the index is flattened and taken apart again, and a
 * group of one axis on both sides passes unchanged. Most reshapes of real models therefore produce
 * no division at all. Symbolic sizes are cut the same way: what divides is the smaller. */
#include "compiler/passes/indexing.h"

#include <assert.h>

#include "compiler/ir/poly.h"
#include "compiler/passes/gates.h"
#include "compiler/passes/ix.h"

static Poly poly_of_dim(Job *job, int64_t d) { return poly_of(job, dim_uop(job, d)); }

/* Whether a is to be multiplied by its next axis, or else b; both when they cannot be compared. */
static void smaller(Job *job, int64_t a, int64_t b, bool *grow_a, bool *grow_b) {
  Poly quotient, rest;
  *grow_a = a < b, *grow_b = !*grow_a;
  if (dim_is_static(a) && dim_is_static(b)) return;
  poly_split(job, poly_of_dim(job, b), poly_of_dim(job, a), &quotient, &rest);
  *grow_a = !rest.n, *grow_b = false;
  if (*grow_a) return;
  poly_split(job, poly_of_dim(job, a), poly_of_dim(job, b), &quotient, &rest);
  *grow_b = true, *grow_a = rest.n;
}

bool index_next_group(Job *job, Ints to, Ints from, IndexGroup *g) {
  g->to = g->to_end, g->from = g->from_end;
  if (g->to == to.n && g->from == from.n) return false;
  int64_t a = g->to_end < to.n ? to.at[g->to_end++] : 1;
  int64_t b = g->from_end < from.n ? from.at[g->from_end++] : 1;
  while (a != b) {
    bool grow_a, grow_b;
    smaller(job, a, b, &grow_a, &grow_b);
    grow_a &= g->to_end < to.n, grow_b &= g->from_end < from.n;
    if (!grow_a && !grow_b) grow_a = g->to_end < to.n, grow_b = !grow_a;
    assert(g->to_end < to.n || g->from_end < from.n);
    if (grow_a) a = dims_numel(job, (Ints){(int64_t[]){a, to.at[g->to_end++]}, 2});
    if (grow_b) b = dims_numel(job, (Ints){(int64_t[]){b, from.at[g->from_end++]}, 2});
  }
  return true;
}

static void through_reshape(Job *job, Ints to, Ints from, UOp *const *index, UOp **out) {
  for (IndexGroup g = {0}; index_next_group(job, to, from, &g);) {
    Ints part = {to.at + g.to, g.to_end - g.to};
    UOp *flat = ix_flat(job, part, index + g.to);
    for (uint32_t k = g.from_end; k-- > g.from;) {
      out[k] = k == g.from ? flat : ix_mod(job, flat, from.at[k]);
      if (from.at[k] == 1) out[k] = uop_index(job, 0);
      flat = ix_div(job, flat, from.at[k]);
    }
  }
}

static void through_pad(Job *job, const UOp *u, UOp *const *index, Pull *out) {
  Ints in = u->src[0]->shape;
  for (uint32_t k = 0; k < in.n; k++) {
    out->index[k] = ix_scale(job, index[k], 1, dim_sub(job, 0, u->arg.ints.at[2 * k]));
    out->inside = gates_both(job, out->inside, ix_inside(job, out->index[k], 0, in.at[k]));
  }
}

static void through_window(Job *job, const UOp *u, UOp *const *index, UOp **out) {
  const int64_t *w = u->arg.ints.at; /* axis, size, stride, dilation */
  for (uint32_t k = 0, from = 0; k < u->shape.n; k++) {
    if (k != w[0]) {
      out[from++] = index[k];
      continue;
    }
    out[from++] =
        ix_add(job, ix_scale(job, index[k], w[2], 0), ix_scale(job, index[k + 1], w[3], 0));
    k++;
  }
}

static int64_t part_begin(Job *job, const UOp *cat, uint32_t s) {
  int64_t begin = 0;
  for (uint32_t k = 0; k < s; k++) begin = dim_add(job, begin, cat->src[k]->shape.at[cat->arg.i]);
  return begin;
}

static void through_cat(Job *job, const UOp *u, uint32_t s, UOp *const *index, Pull *out) {
  int64_t axis = u->arg.i, size = u->src[s]->shape.at[axis];
  memcpy(out->index, index, u->shape.n * sizeof *index);
  out->index[axis] = ix_scale(job, index[axis], 1, dim_sub(job, 0, part_begin(job, u, s)));
  out->inside = ix_inside(job, out->index[axis], 0, size);
}

UOp **index_of_part(Job *job, const UOp *cat, uint32_t s, UOp *const *index) {
  UOp **out = arena_copy(&job->arena, index, cat->shape.n * sizeof *index);
  out[cat->arg.i] = ix_scale(job, out[cat->arg.i], 1, part_begin(job, cat, s));
  return out;
}

Pull index_pull(Job *job, const UOp *u, uint32_t s, UOp *const *index) {
  Ints from = u->src[s]->shape, arg = u->arg.ints;
  Pull out = {.index = arena_array(&job->arena, from.n + 1, sizeof *out.index)};
  switch (u->op) {
  case OP_RESHAPE: through_reshape(job, u->shape, from, index, out.index); break;
  case OP_PERMUTE:
    for (uint32_t k = 0; k < from.n; k++) out.index[arg.at[k]] = index[k];
    break;
  case OP_EXPAND:
    for (uint32_t k = 0; k < from.n; k++) {
      out.index[k] = from.at[k] == 1 ? uop_index(job, 0) : index[k];
    }
    break;
  case OP_PAD: through_pad(job, u, index, &out); break;
  case OP_SHRINK:
    for (uint32_t k = 0; k < from.n; k++) {
      out.index[k] = ix_scale(job, index[k], 1, arg.at[2 * k]);
    }
    break;
  case OP_FLIP:
    for (uint32_t k = 0; k < from.n; k++) out.index[k] = index[k];
    for (uint32_t k = 0; k < arg.n; k++) {
      int64_t axis = arg.at[k];
      out.index[axis] = ix_scale(job, index[axis], -1, dim_sub(job, from.at[axis], 1));
    }
    break;
  case OP_WINDOW: through_window(job, u, index, out.index); break;
  case OP_CAT: through_cat(job, u, s, index, &out); break;
  default: assert(false && "not a movement op");
  }
  return out;
}
