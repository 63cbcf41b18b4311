/* A SCATTER is one loop over the updates along its axis, and as many of these side by side as there
 * are elements on the other axes. A device with workgroups wants thousands side by side, and each
 * step of the loop waits for memory; there every element of the result asks all updates along the
 * axis which of them name it, as long as the questions take less time than the steps:
 *
 *   questions  elements of the result times updates along the axis, spread over all lanes
 *   steps      updates along the axis, one after the other, times how often the device is filled
 *
 * The same elements are combined, in an order that reductions choose (docs/numerics.md). Both sides
 * are estimates by the constants below; neither was measured on a GPU. */
#include "compiler/passes/scatter.h"

#include "compiler/ir/dim.h"
#include "compiler/passes/replace.h"

static const double STEP_NS = 500;      /* load, combine, store, before the next may begin */
static const double LANE_OPS_NS = 0.4;  /* questions that a lane asks in a nanosecond */
static const double LANES = 128;        /* of a processor */
static const double THREADS_EACH = 512; /* of a processor, that hide each other's waiting */

enum { MAX_WIDE_RANK = 16 };

typedef struct Expansion {
  Job *job;
  UOp *u;
  uint32_t axis, rank;
  int64_t wide[MAX_WIDE_RANK]; /* the result's shape, with the updates behind the axis */
} Expansion;

static UOp *shaped(Job *job, Op op, UOp *x, const int64_t *dims, uint32_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(dims, n), &x, 1);
}

/* Indices or updates spread over the result's shape; what is beyond them is `fill`. */
static UOp *spread(const Expansion *e, UOp *x, UOp *fill) {
  Job *job = e->job;
  int64_t dims[MAX_WIDE_RANK], pads[2 * MAX_WIDE_RANK];
  Ints updates = e->u->src[2]->shape;
  bool short_of = false;
  for (uint32_t k = 0; k < e->rank; k++) {
    dims[k] = updates.at[k], pads[2 * k] = 0;
    pads[2 * k + 1] = k == e->axis ? 0 : e->u->shape.at[k] - updates.at[k];
    short_of |= pads[2 * k + 1] != 0;
  }
  if (!shape_eq(x->shape, updates)) x = shaped(job, OP_EXPAND, x, dims, e->rank);
  UOp *padded[2] = {x, fill};
  if (short_of) x = uop_make(job, OP_PAD, DT_VOID, arg_ints(pads, 2 * e->rank), padded, 2);
  for (uint32_t k = 0; k <= e->rank; k++)
    dims[k] = k == e->axis ? 1 : x->shape.at[k - (k > e->axis)];
  return shaped(job, OP_EXPAND, shaped(job, OP_RESHAPE, x, dims, e->rank + 1), e->wide,
                e->rank + 1);
}

static UOp *coordinate(const Expansion *e, uint32_t axis) {
  Arg arg = arg_both(axis, e->wide, e->rank + 1);
  return uop_make(e->job, OP_IOTA, DT_I64, arg, NULL, 0);
}

/* Over the updates, and without their axis. */
static UOp *combined(const Expansion *e, Op op, UOp *x) {
  int64_t over = e->axis + 1;
  x = uop_make(e->job, OP_REDUCE, DT_VOID, arg_both(op, &over, 1), &x, 1);
  return shaped(e->job, OP_RESHAPE, x, e->u->shape.at, e->rank);
}

/* The last update that names the element stays: its number, then it alone of all. */
static UOp *stored(const Expansion *e, UOp *hit, UOp *update) {
  Job *job = e->job;
  DType d = (DType)update->dtype;
  UOp *number = coordinate(e, e->axis + 1), *none = uop_int(job, DT_I64, -1);
  UOp *last = combined(e, OP_MAX, uop3(job, OP_WHERE, hit, number, none));
  int64_t dims[MAX_WIDE_RANK];
  for (uint32_t k = 0; k <= e->rank; k++) dims[k] = k == e->axis + 1 ? 1 : e->wide[k];
  UOp *all = shaped(job, OP_EXPAND, shaped(job, OP_RESHAPE, last, dims, e->rank + 1), e->wide,
                    e->rank + 1);
  UOp *least = uop_scalar(job, d, reduce_identity(OP_MAX, d));
  UOp *mine = uop2(job, OP_CMPEQ, number, all);
  UOp *value = combined(e, OP_MAX, uop3(job, OP_WHERE, mine, update, least));
  UOp *written = uop2(job, OP_CMPLE, uop_int(job, DT_I64, 0), last);
  return uop3(job, OP_WHERE, written, value, e->u->src[0]);
}

static UOp *expanded(Job *job, UOp *u, const Target *target) {
  (void)target;
  Expansion e = {.job = job, .u = u, .axis = (uint32_t)u->arg.ints.at[0], .rank = u->shape.n};
  DType d = (DType)u->dtype;
  Op op = (Op)u->arg.i;
  for (uint32_t k = 0; k <= e.rank; k++)
    e.wide[k] = k == e.axis + 1 ? u->src[2]->shape.at[e.axis] : u->shape.at[k - (k > e.axis + 1)];
  UOp *index = uop_cast(job, u->src[1], DT_I64);
  UOp *hit =
      uop2(job, OP_CMPEQ, spread(&e, index, uop_int(job, DT_I64, -1)), coordinate(&e, e.axis));
  UOp *update = spread(&e, u->src[2], uop_scalar(job, d, (Scalar){0}));
  if (op == OP_STORE) return stored(&e, hit, update);
  UOp *none = uop_scalar(job, d, reduce_identity(op, d));
  UOp *y = uop2(job, op, u->src[0], combined(&e, op, uop3(job, OP_WHERE, hit, update, none)));
  if (op != OP_ADD || !dtype_is_float(d)) return y;
  return uop3(job, OP_WHERE, combined(&e, OP_MAX, hit), y, u->src[0]); /* -0 + 0 is not -0 */
}

static bool asks_faster(const UOp *u, const Target *target) {
  DType d = (DType)u->dtype;
  if (u->op != OP_SCATTER || u->arg.ints.n > 1 || u->symbolic || u->shape.n + 1 > MAX_WIDE_RANK)
    return false;
  bool one_by_one = d == DT_BOOL || dtype_is_storage(d) || u->src[1]->dtype == DT_U64;
  double steps = (double)u->src[2]->shape.at[u->arg.ints.at[0]];
  double all = (double)shape_numel(u->shape), updates = (double)shape_numel(u->src[2]->shape);
  if (one_by_one || all <= 0 || updates <= 0) return false;
  double processors = target->threads ? (double)target->threads : 1;
  double rounds = updates / steps / (processors * THREADS_EACH);
  double one = steps * STEP_NS * (rounds < 1 ? 1 : rounds);
  double passes = u->arg.i == OP_STORE ? 2 : 1;
  return passes * all * steps / (processors * LANES * LANE_OPS_NS) < one;
}

UOp *scatter_expand(Job *job, const Target *target, UOp *sink) {
  return target->max_group ? replace_each(job, target, sink, asks_faster, expanded) : sink;
}
