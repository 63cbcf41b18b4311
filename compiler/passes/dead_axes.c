/* Axes along which a tensor does not vary.
 *
 * An EXPAND makes one, and elementwise ops, permutations and the like keep what all their sources
 * have. A buffer that such a tensor is stored in does not have the axis: a broadcast that ends up
 * under a stored value costs neither the memory nor the work. */
#include "compiler/ir/dim.h"
#include "compiler/passes/fusion.h"
#include "compiler/passes/indexing.h"

static uint32_t bit(uint32_t axis) { return (uint32_t)1 << axis; }
static bool has(uint32_t mask, uint32_t axis) { return mask >> axis & 1; }

static uint32_t all_axes(Ints shape) { return shape.n < 32 ? bit(shape.n) - 1 : UINT32_MAX; }

static uint32_t expanded(const UOp *u, uint32_t below) {
  for (uint32_t k = 0; k < u->shape.n; k++) {
    if (u->src[0]->shape.at[k] == 1) below |= bit(k);
  }
  return below;
}

/* A group of axes is dead when every axis it is made of is, or has one element. */
static uint32_t reshaped(Job *job, const UOp *u, uint32_t below) {
  Ints from = u->src[0]->shape;
  uint32_t dead = 0;
  if (!dims_typical(from)) return 0;
  for (IndexGroup g = {0}; index_next_group(job, u->shape, from, &g);) {
    bool all = true;
    for (uint32_t k = g.from; k < g.from_end; k++) all &= from.at[k] == 1 || has(below, k);
    for (uint32_t k = g.to; all && k < g.to_end; k++) dead |= bit(k);
  }
  return dead;
}

static uint32_t permuted(const UOp *u, uint32_t below) {
  uint32_t dead = 0;
  for (uint32_t k = 0; k < u->shape.n; k++) {
    if (has(below, (uint32_t)u->arg.ints.at[k])) dead |= bit(k);
  }
  return dead;
}

static uint32_t padded(const UOp *u, uint32_t below) {
  for (uint32_t k = 0; k < u->shape.n; k++) {
    if (u->arg.ints.at[2 * k] != 0 || u->arg.ints.at[2 * k + 1] != 0) below &= ~bit(k);
  }
  return below;
}

/* The new axis stands behind the windowed one; both vary unless that was dead. */
static uint32_t windowed(const UOp *u, uint32_t below) {
  uint32_t axis = (uint32_t)u->arg.ints.at[0], low = below & (bit(axis + 1) - 1);
  uint32_t high = axis + 1 < 32 ? below >> (axis + 1) << (axis + 1) << 1 : 0;
  return low | high | (has(below, axis) ? bit(axis + 1) : 0);
}

static uint32_t common(const UOp *u, const uint32_t *below) {
  uint32_t dead = all_axes(u->shape);
  for (uint32_t s = 0; s < u->nsrc; s++) {
    if (u->src[s]->shape.n) dead &= below[s];
  }
  return u->shape.n ? dead : 0;
}

static uint32_t gathered(const UOp *u, const uint32_t *below) {
  uint32_t axis = (uint32_t)u->arg.i, rank = u->src[1]->shape.n, dead = 0;
  for (uint32_t k = 0; k < u->shape.n; k++) {
    bool index = k >= axis && k < axis + rank;
    bool dies = index ? has(below[1], k - axis) : has(below[0], k < axis ? k : k - rank + 1);
    if (dies) dead |= bit(k);
  }
  return dead;
}

uint32_t dead_axes(Job *job, const UOp *u, const uint32_t *below) {
  if (op_info[u->op].flags & OPF_ALU) return common(u, below);
  switch (u->op) {
  case OP_IOTA: return all_axes(u->shape) & ~bit((uint32_t)u->arg.i);
  case OP_RESHAPE: return reshaped(job, u, below[0]);
  case OP_PERMUTE: return permuted(u, below[0]);
  case OP_EXPAND: return expanded(u, below[0]);
  case OP_PAD: return padded(u, below[0]);
  case OP_WINDOW: return windowed(u, below[0]);
  case OP_CAT: return common(u, below) & ~bit((uint32_t)u->arg.i);
  case OP_GATHER: return gathered(u, below);
  case OP_SCAN: return below[0] & ~bit((uint32_t)u->arg.ints.at[0]);
  case OP_SHRINK:
  case OP_FLIP:
  case OP_REDUCE:
  case OP_CONTIGUOUS: return below[0];
  default: return 0;
  }
}
