/* A SCAN is a loop along its axis and as many rows side by side as the other axes have. Where that
 * is fewer than the device wants, the axis is cut into pieces: their totals are summed, the totals
 * are scanned, and each piece begins with what comes before it. That reads the source twice and
 * writes once; scanning first and adding what comes before afterwards would move a third more.
 *
 * What fills up the last piece is the identity. -0 + 0 is 0, so the first piece gets nothing. */
#include "compiler/passes/scan.h"

#include <assert.h>

#include "compiler/ir/dim.h"
#include "compiler/passes/replace.h"

enum {
  ROWS_AT_ONCE = 4, /* heuristic_serial.c */
  SHORT_SCAN = 128, /* not worth cutting */
  LANES = 128,      /* of a processor with workgroups */
  SHORT_PIECE = 32,
  MAX_SPLIT_RANK = 16,
};

static UOp *shaped(Job *job, Op op, UOp *x, const int64_t *dims, uint32_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(dims, n), &x, 1);
}

/* lo elements of the identity before the axis, hi behind it. */
static UOp *filled(Job *job, Op op, UOp *x, uint32_t axis, int64_t lo, int64_t hi) {
  int64_t pads[2 * MAX_SPLIT_RANK + 2] = {0};
  DType d = (DType)x->dtype;
  UOp *src[2] = {x, uop_scalar(job, d, reduce_identity(op, d))};
  pads[2 * axis] = lo, pads[2 * axis + 1] = hi;
  return lo || hi ? uop_make(job, OP_PAD, DT_VOID, arg_ints(pads, 2 * x->shape.n), src, 2) : x;
}

/* The first n elements along the axis. */
static UOp *first(Job *job, UOp *x, uint32_t axis, int64_t n) {
  int64_t bounds[2 * MAX_SPLIT_RANK + 2];
  if (x->shape.at[axis] == n) return x;
  for (uint32_t k = 0; k < x->shape.n; k++)
    bounds[2 * k] = 0, bounds[2 * k + 1] = k == axis ? n : x->shape.at[k];
  return shaped(job, OP_SHRINK, x, bounds, 2 * x->shape.n);
}

static UOp *beyond(Job *job, UOp *like, uint32_t axis, bool zero) {
  Arg arg = arg_both(axis, like->shape.at, like->shape.n);
  UOp *at = uop_make(job, OP_IOTA, DT_I64, arg, NULL, 0), *none = uop_int(job, DT_I64, 0);
  return zero ? uop2(job, OP_CMPEQ, at, none) : uop2(job, OP_CMPLT, none, at);
}

static int64_t pieces_for(const UOp *u, const Target *target) {
  int64_t n = u->shape.at[u->arg.ints.at[0]], rows = shape_numel(u->shape) / (n ? n : 1);
  int64_t threads = target->threads ? target->threads : 1;
  int64_t want = threads * (target->max_group ? LANES : ROWS_AT_ONCE) / (rows ? rows : 1);
  return want < n / SHORT_PIECE ? want : n / SHORT_PIECE;
}

static bool is_cut(const UOp *u, const Target *target) {
  if (u->op != OP_SCAN || u->symbolic || u->shape.n > MAX_SPLIT_RANK) return false;
  int64_t n = u->shape.at[u->arg.ints.at[0]];
  return shape_numel(u->shape) && n > SHORT_SCAN && pieces_for(u, target) > 1;
}

static UOp *cut(Job *job, UOp *u, const Target *target) {
  Op op = (Op)u->arg.i;
  uint32_t axis = (uint32_t)u->arg.ints.at[0], rank = u->shape.n + 1;
  int64_t n = u->shape.at[axis], pieces = pieces_for(u, target), dims[MAX_SPLIT_RANK + 1];
  assert(pieces > 1); /* is_cut */
  int64_t length = (n + pieces - 1) / pieces, over = axis + 1;
  UOp *x = filled(job, op, u->src[0], axis, 0, pieces * length - n);
  for (uint32_t k = 0; k < rank; k++)
    dims[k] = k == axis ? pieces : k == axis + 1 ? length : u->shape.at[k - (k > axis)];
  x = shaped(job, OP_RESHAPE, x, dims, rank);
  UOp *total = uop_make(job, OP_REDUCE, DT_VOID, arg_both(op, &over, 1), &x, 1);
  total = uop1(job, OP_CONTIGUOUS, total);
  UOp *before = uop_make(job, OP_SCAN, DT_VOID, arg_both(op, u->arg.ints.at, 1), &total, 1);
  before = first(job, filled(job, op, before, axis, 1, 0), axis, pieces);
  before = shaped(job, OP_EXPAND, before, dims, rank);
  UOp *begins = uop2(job, OP_AND, beyond(job, x, axis + 1, true), beyond(job, x, axis, false));
  x = uop3(job, OP_WHERE, begins, uop2(job, op, before, x), x);
  x = uop_make(job, OP_SCAN, DT_VOID, arg_both(op, &over, 1), &x, 1);
  for (uint32_t k = 0; k < u->shape.n; k++) dims[k] = k == axis ? pieces * length : u->shape.at[k];
  return first(job, shaped(job, OP_RESHAPE, x, dims, u->shape.n), axis, n);
}

UOp *scan_split(Job *job, const Target *target, UOp *sink) {
  return replace_each(job, target, sink, is_cut, cut);
}
