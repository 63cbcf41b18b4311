/* Graph.sizes of a native graph: integer expressions over named dimensions and over integers that
 * the run computes, as dims. An entry is converted when a node first uses it, since it may read
 * the value of a node that stands before that one. */
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
extern const ViewMessage kgraph_size_message;

typedef struct GraphSizes {
  Front *front;
  const GSize *at;
  size_t n;
  int64_t *dims; /* by entry */
  bool *known;
  /* The value of a node; aborts the job when there is none yet. */
  UOp *(*node_value)(void *ctx, int64_t node);
  void *ctx;
} GraphSizes;

/* Entry k; INVALID_ARGUMENT names an entry that is wrong. */
int64_t kgraph_size(GraphSizes *s, int64_t k);
