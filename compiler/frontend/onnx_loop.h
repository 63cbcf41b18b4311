/* Loop and Scan as loops of the run. */
#pragma once

#include "compiler/frontend/onnx_graph.h"

/* A body with what goes in: formal inputs are the iteration number and the condition (Loop only),
 * the carried values, one element along an axis of what is scanned. */
typedef struct Repeat {
  Node *n;
  const OnnxGraph *body;
  bool is_scan;
  Val **carried; /* before the first iteration */
  size_t ncarried;
  UOp **scanned;
  size_t *axes; /* of scanned */
  bool *back;   /* from the last element on */
  size_t nscanned;
  Val *start;     /* Loop: the condition before; NULL: true */
  UOp *count;     /* how often at most, a rank-0 i64; NULL: as long as the condition says */
  int64_t trips;  /* the same, when it is known; else -1 */
  int64_t length; /* the same as a dim, when trips is -1 and results are collected */
  size_t ncollected;
  int64_t *out_axes; /* of what is collected, in the result */
  bool *out_back;
  Val **out; /* carried, then collected */
} Repeat;

/* Fills r->out. UNIMPLEMENTED or FAILED_PRECONDITION, with nothing left behind, when the body does
 * not repeat: what it carries changes its shape, or is no tensor. */
Status onnx_repeat(Repeat *r);

/* The results of a branch that is taken when the bool `taken` is true, converted since `made` and
 * node number `mark` (job->next_id): where it costs something, results that are computed only then,
 * and hold nothing otherwise. */
void onnx_branch_skip(Node *n, FrontMark made, uint32_t mark, UOp *taken, Val **results);

/* The element of an axis of n elements that iteration `var` is about, as a position; the last one
 * where the iteration is not proven to be inside. */
int64_t loop_place(Job *job, UOp *var, int64_t n, bool back);
/* One element of an axis, as a view that keeps the axis. */
UOp *loop_element(Job *job, UOp *x, size_t axis, int64_t at);
