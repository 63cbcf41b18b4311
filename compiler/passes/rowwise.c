/* Follows the rows through the graph. A value either does not know of the VAR (NONE), or has the
 * rows as the outer part of one axis: that axis has n * c elements, row r of which are those from
 * r * c on, and they depend on row r of the inputs only. Every op is asked where the rows are in
 * its result; what is not in the table below mixes rows, or may, and the answer is no.
 *
 * A value that depends on n itself (a mean over the batch, a position in it) has no place: VAR
 * nodes, IOTA along the rows and reductions over them are refused. */
#include "compiler/passes/rowwise.h"

#include "base/map.h"

enum { MIXED = -2, NONE = -1 };

typedef struct Rows {
  Job *job;
  int64_t n; /* the dim */
  Map axis;  /* by node: 2 + axis, as a pointer */
} Rows;

static int axis_of(const Rows *r, const UOp *u) {
  return (int)(intptr_t)map_find(&r->axis, (uint64_t)(uintptr_t)u) - 2;
}

/* d is n times something that does not know of n. */
static bool holds_rows(const Rows *r, int64_t d) {
  int64_t q;
  if (d == r->n) return true;
  return !dim_is_static(d) && dim_divides(r->job, d, r->n, &q) && dim_is_static(q);
}

/* The only axis that is not a number, when it holds the rows. */
static int rows_in(const Rows *r, Ints shape) {
  int found = NONE;
  for (uint32_t k = 0; k < shape.n; k++) {
    if (dim_is_static(shape.at[k])) continue;
    if (found != NONE || !holds_rows(r, shape.at[k])) return MIXED;
    found = (int)k;
  }
  return found;
}

static int64_t before(Ints shape, int axis) {
  int64_t product = 1;
  for (int k = 0; k < axis; k++)
    if (__builtin_mul_overflow(product, shape.at[k], &product)) return -1;
  return product;
}

static int reshaped(const Rows *r, const UOp *u, int axis) {
  int to = rows_in(r, u->shape);
  if (to < 0 || before(u->shape, to) != before(u->src[0]->shape, axis)) return MIXED;
  return to;
}

static int permuted(const UOp *u, int axis) {
  for (uint32_t k = 0; k < u->shape.n; k++)
    if (u->arg.ints.at[k] == axis) return (int)k;
  return MIXED;
}

/* Sources behind the first do not know of rows. */
static bool others_plain(const Rows *r, const UOp *u) {
  for (uint32_t k = 1; k < u->nsrc; k++)
    if (axis_of(r, u->src[k]) != NONE) return false;
  return true;
}

static bool lists(Ints axes, int axis) {
  for (uint32_t k = 0; k < axes.n; k++)
    if (axes.at[k] == axis) return true;
  return false;
}

static int gathered(const Rows *r, const UOp *u) {
  int data = axis_of(r, u->src[0]), index = axis_of(r, u->src[1]), along = (int)u->arg.i;
  if (data == NONE) return index == NONE ? MIXED : along + index;
  if (index != NONE || data == along) return MIXED;
  return data < along ? data : data + (int)u->src[1]->shape.n - 1;
}

/* All sources that know of rows have them at the same axis; rank-0 ones do not. */
static int together(const Rows *r, const UOp *u) {
  int axis = NONE;
  for (uint32_t k = 0; k < u->nsrc; k++) {
    int a = axis_of(r, u->src[k]);
    if (a == NONE && u->src[k]->shape.n && u->src[k]->symbolic) return MIXED;
    if (a == NONE) continue;
    if (axis != NONE && axis != a) return MIXED;
    axis = a;
  }
  return axis;
}

static int moved(const Rows *r, const UOp *u) {
  int axis = axis_of(r, u->src[0]);
  Ints in = u->src[0]->shape, ints = u->arg.ints;
  if (u->op == OP_CAT) return together(r, u) == (int)u->arg.i ? MIXED : together(r, u);
  if (u->op == OP_GATHER) return gathered(r, u);
  if (!others_plain(r, u)) return MIXED;
  if (axis == NONE) return u->op == OP_EXPAND ? rows_in(r, u->shape) : MIXED;
  switch (u->op) {
  case OP_RESHAPE: return reshaped(r, u, axis);
  case OP_PERMUTE: return permuted(u, axis);
  case OP_EXPAND: return u->shape.at[axis] == in.at[axis] ? axis : MIXED;
  case OP_PAD: return ints.at[2 * axis] == 0 && ints.at[2 * axis + 1] == 0 ? axis : MIXED;
  case OP_SHRINK:
    return ints.at[2 * axis] == 0 && ints.at[2 * axis + 1] == in.at[axis] ? axis : MIXED;
  case OP_FLIP: return lists(ints, axis) ? MIXED : axis;
  case OP_WINDOW: return ints.at[0] == axis ? MIXED : ints.at[0] < axis ? axis + 1 : axis;
  default: return MIXED;
  }
}

/* Inputs and outputs have the rows as their first axis, and each row is one. */
static int param(const Rows *r, const UOp *u) {
  return u->shape.n && u->shape.at[0] == r->n ? rows_in(r, u->shape) : MIXED;
}

static int place(const Rows *r, const UOp *u) {
  if (!u->symbolic) return NONE;
  if (op_info[u->op].flags & OPF_MOVE) return moved(r, u);
  if (op_info[u->op].flags & OPF_ALU) return together(r, u);
  switch (u->op) {
  case OP_PARAM: return param(r, u);
  case OP_IOTA: {
    int axis = rows_in(r, u->shape);
    return axis == (int)u->arg.i ? MIXED : axis;
  }
  case OP_CONTIGUOUS: return axis_of(r, u->src[0]);
  case OP_REDUCE: {
    int axis = together(r, u);
    return lists(u->arg.ints, axis) ? MIXED : axis;
  }
  case OP_STORE: return axis_of(r, u->src[1]) == 0 && u->nsrc == 2 ? NONE : MIXED;
  case OP_SINK: return NONE;
  default: return MIXED;
  }
}

/* What the interface says. */
static bool interface_fits(const TensorGraph *g, int64_t *n) {
  if (g->nvars != 1 || g->vars[0].source != VAR_INPUT || g->vars[0].axis || g->nlocals)
    return false;
  *n = g->slots[g->vars[0].slot].shape.at[0];
  for (size_t i = 0; i < g->ninputs + g->noutputs; i++) {
    const GraphSlot *s = &g->slots[i];
    if (s->state || !s->shape.n || s->shape.at[0] != *n) return false;
  }
  return !dim_is_static(*n) && dim_node(*n)->op == OP_VAR;
}

bool rowwise(Job *job, const TensorGraph *graph) {
  Rows r = {.job = job};
  bool fits = interface_fits(graph, &r.n);
  UOpList all = fits ? uop_toposort(job, graph->sink) : (UOpList){.len = 0};
  for (size_t i = 0; fits && i < all.len; i++) {
    int axis = place(&r, all.at[i]);
    fits = axis != MIXED &&
           map_put(&r.axis, (uint64_t)(uintptr_t)all.at[i], (void *)(intptr_t)(axis + 2));
  }
  map_deinit(&r.axis);
  return fits;
}
