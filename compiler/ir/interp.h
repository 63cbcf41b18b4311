/* The reference: slow, obviously right, defined by the op table.
 *
 * Buffers are raw little-endian arrays of the dtypes of the PARAMs, indexed by slot. */
#pragma once

#include "compiler/ir/plan.h"

typedef struct InterpBuffer {
  void *data;
  size_t bytes;
} InterpBuffer;

/* Runs a tensor-stage SINK of STOREs: reads PARAM slots, writes the STOREd ones. */
Status interp_tensor(Job *job, UOp *sink, InterpBuffer *slots, size_t nslots);
/* A graph with VARs as one without: values[k] is given for every VAR_INPUT, and filled in for what
 * BINDs compute from the slots. OUT_OF_RANGE when one leaves its bounds. *out is the sink with
 * numbers in place of VARs. Call in job_run. */
Status interp_vars(Job *job, const TensorGraph *graph, int64_t *values, const InterpBuffer *slots,
                   UOp **out);
/* Runs a ranged or scheduled kernel (axis types are ignored: every RANGE is a loop). Every access
 * is bounds-checked: INTERNAL names a bad one. */
Status interp_kernel(Job *job, UOp *sink, InterpBuffer *args, size_t nargs);
/* Runs a linear program for one thread index. */
Status interp_linear(Job *job, UOp *const *list, size_t n, InterpBuffer *args, size_t nargs,
                     int64_t thread);
