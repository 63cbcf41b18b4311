/* Workgroups: what becomes of the ranges that are not loops. */
#pragma once

#include "compiler/ir/plan.h"

/* Where the GLOBAL, LOCAL and GROUP ranges of a kernel are in its launch. */
typedef struct Groups {
  Job *job;
  UOp **global; /* the GLOBAL ranges, innermost first */
  uint32_t nglobal;
  bool flat;        /* all of them along x */
  int64_t block[3]; /* threads of a workgroup */
  bool covered[3];  /* some LOCAL range runs there */
  bool peers;       /* threads of a warp can read each other's registers */
  int64_t next_range, next_buffer;
} Groups;

void groups_init(Job *job, const UOpList *kernel, const Target *target, Groups *out);
/* The value of a GLOBAL, LOCAL, WARP or GROUP range in the thread that executes. */
UOp *groups_index(const Groups *g, const UOp *range);
/* The number of the thread in its workgroup along a dimension. */
UOp *groups_thread(const Groups *g, int dim);
/* True in one of the threads that compute the same outputs; NULL when there is only one. */
UOp *groups_one_writer(const Groups *g);
/* `part` of all threads along dimension dim combined by op, in each of them. */
UOp *groups_combine(Groups *g, Op op, UOp *part, int dim);
/* The same of the threads that differ in a WARP range's digit, a power of two, through registers.
 */
UOp *groups_exchange(Groups *g, Op op, UOp *part, const UOp *range);
