/* The reference: slow, obviously right, defined by the op table.
 *
 * Buffers are raw little-endian arrays of the dtypes of the PARAMs, indexed by slot. */
#pragma once

#include "compiler/ir/plan.h"

typedef struct InterpBuffer {
  void *data;
  size_t bytes;
} InterpBuffer;

/* The value of a kernel's VAR: behind the buffers, args[nargs + k] points to that of VAR k, an
 * int64_t. Whoever interprets a kernel with VARs gives all of them. */
Status interp_var(const InterpBuffer *args, size_t nargs, const UOp *var, int64_t *out);
/* Runs a tensor-stage SINK of STOREs: reads PARAM slots, writes the STOREd ones. */
Status interp_tensor(Job *job, UOp *sink, InterpBuffer *slots, size_t nslots);
/* The same for a graph with symbolic sizes. vars: the value of each VAR, INTERP_UNBOUND for those
 * that the graph binds, which are filled in. OUT_OF_RANGE when one is outside of its bounds. Slots
 * that are written have room for what the values make of their shapes. */
#define INTERP_UNBOUND INT64_MIN
Status interp_symbolic(Job *job, UOp *sink, InterpBuffer *slots, size_t nslots, int64_t *vars,
                       size_t nvars);
/* The first half of it, for a graph without LOOPs: *out is the sink with numbers in place of VARs.
 * Only what BINDs need is computed, and no slot is written. Call in job_run. */
Status interp_settle(Job *job, UOp *sink, const InterpBuffer *slots, size_t nslots, int64_t *vars,
                     size_t nvars, UOp **out);
/* Runs a ranged or scheduled kernel (axis types are ignored: every RANGE is a loop). Every access
 * is bounds-checked: INTERNAL names a bad one. */
Status interp_kernel(Job *job, UOp *sink, InterpBuffer *args, size_t nargs);
/* Runs a linear program for one thread index. */
Status interp_linear(Job *job, UOp *const *list, size_t n, InterpBuffer *args, size_t nargs,
                     int64_t thread);
/* Runs a whole launch: every thread index, or every workgroup. The threads of a workgroup run one
 * after the other from BARRIER to BARRIER, or to what a warp does together; INTERNAL when they do
 * not meet at the same one, or when two touch one element of the workgroup's memory between
 * BARRIERs and one of them writes it. */
Status interp_launch(Job *job, const Linear *linear, InterpBuffer *args, size_t nargs);
