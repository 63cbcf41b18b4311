/* Graph.sizes: integer expressions over named dimensions and over values that a run computes. */
#pragma once

#include "compiler/frontend/front.h"
#include "proto/view.h"

typedef struct GSize {
  uint64_t seen;
  int64_t op;
  VIEW_LIST(int64_t) src;
  int64_t value;
  Str name;
  int64_t node, min, max;
} GSize;
extern const ViewMessage size_message;

typedef UOp *(*SizeNodeFn)(void *arg, int64_t node);
typedef struct Sizes {
  Front *front;
  const GSize *at;
  size_t n;
  uint8_t *state; /* per size: 0 new, 1 wanted, 2 done */
  int64_t *dim;
  SizeNodeFn node;
  void *arg;
} Sizes;

/* node(arg, k): the value of node k. */
void sizes_init(Sizes *s, Front *front, const GSize *at, size_t n, SizeNodeFn node, void *arg);
/* The k-th size (from 1, as Node.sizes counts) for the node number `user`. A dim, or a number that
 * may be negative. */
int64_t sizes_get(Sizes *s, int64_t k, size_t user);
