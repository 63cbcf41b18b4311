/* What depends on the VARs of one loaded plan: sizes of tensors, places of temporaries.
 *
 * A temporary belongs to a phase: 0 when its size follows from the inputs, else the number of the
 * BIND, counted from 1, after which it is known. Each phase has an arena of its own, so that what a
 * BIND lets grow moves nothing that is alive. */
#pragma once

#include "daemon/worker/arena_layout.h"
#include "kiln/v1/worker.pb-c.h"

typedef struct BufferSize {
  ArenaItem item;  /* of whole temporaries */
  uint32_t phase;  /* temporaries */
  uint64_t bytes;  /* now */
  uint64_t offset; /* now; of temporaries from the start of the phase's arena */
} BufferSize;

typedef struct PlanSizes {
  Kiln__V1__LoadExecutable *m; /* a copy of the plan and the shapes */
  size_t nvars;
  int64_t *vars; /* values now */
  bool *known;   /* by VAR: it has a value in this run */
  uint32_t nphases;
  uint64_t *arena_bytes;                   /* by phase */
  BufferSize *buffers;                     /* by plan buffer */
  uint64_t *slot_bytes;                    /* inputs, then outputs; 0 while that is not known */
  uint32_t *slot_phase;                    /* from which on it is known; above 0 for open outputs */
  bool laid_out;                           /* phase 0, for vars */
  Kiln__V1__TensorDims *dims, **dims_list; /* by output, of the run that ended last */
} PlanSizes;

/* *out is NULL for a plan without VARs. Checks all programs, so that later only values can be
 * wrong. */
Status plan_sizes_create(const Kiln__V1__LoadExecutable *m, PlanSizes **out);
void plan_sizes_release(PlanSizes *s); /* NULL allowed */
/* Takes the inputs' VARs of a run; *changed: slot_bytes and phase 0 are other than in the last. */
Status plan_sizes_begin(PlanSizes *s, const int64_t *vars, size_t n, bool *changed);
/* OUT_OF_RANGE when the value is outside of the VAR's bounds. */
Status plan_sizes_bind(PlanSizes *s, uint32_t var, int64_t value);
/* The size of an open output, whose phase has come, and of the buffers in it. */
Status plan_sizes_open(PlanSizes *s, size_t slot);
/* The phase that the BIND of var opens; 0 when the plan has none. */
uint32_t plan_sizes_phase(const PlanSizes *s, uint32_t var);
/* The outputs' sizes, in slot_bytes and dims. */
Status plan_sizes_end(PlanSizes *s);
