/* Random graphs: the nodes made so far, and the steps that make another of one or two of them
 * whatever their sizes are. */
#pragma once

#include "compiler/ir/dim.h"
#include "plan_check.h"

enum { MAX_AXES = 5, ROOM = 80 };

typedef struct Random {
  Job job;
  Graph *g;
  uint32_t seed;
  UOp *node[ROOM];
  size_t n;
} Random;

/* Each test has its own. */
static UOp *random_unary(Random *r, UOp *x);

static uint32_t below(Random *r, uint32_t n) { return next_random(&r->seed) % n; }

static UOp *pick(Random *r) { return r->node[below(r, (uint32_t)r->n)]; }

static UOp *random_permute(Random *r, UOp *x) {
  int64_t order[MAX_AXES];
  for (uint32_t k = 0; k < x->shape.n; k++) {
    uint32_t at = below(r, k + 1);
    order[k] = order[at];
    order[at] = k;
  }
  return t_permute(r->g, x, order, x->shape.n);
}

static UOp *random_window(Random *r, UOp *x) {
  if (!x->shape.n || x->shape.n == MAX_AXES) return x;
  int64_t axis = below(r, x->shape.n), size = 1 + below(r, 3), dilation = 1 + below(r, 2);
  if (!dim_le(&r->job, (size - 1) * dilation + 1, x->shape.at[axis])) return x;
  return t_int(r->g, OP_WINDOW, x, DIMS(axis, size, 1 + below(r, 2), dilation));
}

static UOp *random_flip(Random *r, UOp *x) {
  if (!x->shape.n) return x;
  return t_int(r->g, OP_FLIP, x, DIMS(below(r, x->shape.n)));
}

/* Back to the shape before the reduction, as in softmax. */
static UOp *random_normalise(Random *r, UOp *x) {
  if (!x->shape.n || !dtype_is_float((DType)x->dtype)) return x;
  UOp *m = t_reduce(r->g, below(r, 2) ? OP_ADD : OP_MAX, x, DIMS(below(r, x->shape.n)));
  m = t_expand(r->g, m, x->shape.at, x->shape.n);
  return uop2(&r->job, below(r, 2) ? OP_SUB : OP_MUL, x, m);
}

/* x with the shape of `like` if it broadcasts to it, else NULL. */
static UOp *fit(Random *r, UOp *x, const UOp *like) {
  if (!x->shape.n) return x;
  if (x->shape.n != like->shape.n) return NULL;
  for (uint32_t k = 0; k < x->shape.n; k++) {
    if (x->shape.at[k] != like->shape.at[k] && x->shape.at[k] != 1) return NULL;
  }
  return t_expand(r->g, x, like->shape.at, like->shape.n);
}

static UOp *random_cat(Random *r, UOp *x) {
  if (!x->shape.n) return x;
  UOp *parts[4] = {x};
  size_t n = 1, want = 2 + below(r, 3);
  int64_t axis = below(r, x->shape.n);
  for (int tries = 0; tries < 12 && n < want; tries++) {
    UOp *y = tries ? pick(r) : random_unary(r, x);
    bool ok = y->dtype == x->dtype && y->shape.n == x->shape.n;
    for (uint32_t k = 0; ok && k < x->shape.n; k++) {
      ok = k == axis || y->shape.at[k] == x->shape.at[k];
    }
    if (ok) parts[n++] = y;
  }
  return uop_make(&r->job, OP_CAT, DT_VOID, arg_i(axis), parts, n);
}

static UOp *random_gather(Random *r, UOp *x) {
  UOp *at = pick(r);
  if (!x->shape.n || !dtype_is_int((DType)at->dtype)) return x;
  if (x->shape.n + at->shape.n > MAX_AXES) return x;
  return uop_make(&r->job, OP_GATHER, DT_VOID, arg_i(below(r, x->shape.n)), (UOp *[]){x, at}, 2);
}

static UOp *random_iota(Random *r, UOp *x) {
  if (!x->shape.n) return x;
  Arg arg = arg_both(below(r, x->shape.n), x->shape.at, x->shape.n);
  return uop_make(&r->job, OP_IOTA, below(r, 2) ? DT_I64 : DT_F32, arg, NULL, 0);
}

static UOp *random_stored(Random *r, UOp *x) { return uop1(&r->job, OP_CONTIGUOUS, x); }
