/* A kernel on equal inputs: as it is, scheduled, and lowered for every thread of a launch, by the
 * interpreter. Include cmocka.h before this. */
#pragma once

#include "compiler/ir/interp.h"
#include "tests/unit/zoo_check.h"

/* out: the first argument after each; out[1] is untouched unless scheduled. */
static inline void zoo_three_ways(Job *job, ZooRun *r, bool scheduled, Scalar (*value)(DType),
                                  uint8_t *out[3]) {
  InterpBuffer bufs[5];
  for (uint32_t a = 0; a < r->k.nargs; a++) {
    const UOp *p = r->k.params[a];
    size_t item = dtype_info[p->dtype].bytes;
    bufs[a].bytes = (size_t)p->arg.ints.at[0] * item;
    bufs[a].data = arena_alloc(&job->arena, bufs[a].bytes);
    for (int64_t i = 0; a && i < p->arg.ints.at[0]; i++)
      scalar_store((DType)p->dtype, value((DType)p->dtype),
                   (char *)bufs[a].data + (size_t)i * item);
  }
  for (int k = 0; k < 3; k++) {
    bufs[0].data = out[k] = arena_alloc(&job->arena, bufs[0].bytes);
    memset(out[k], 0x5A, bufs[0].bytes);
    if (k == 0) zoo_must(r, interp_kernel(job, r->k.sink, bufs, r->k.nargs));
    if (k == 1 && scheduled) zoo_must(r, interp_kernel(job, r->scheduled, bufs, r->k.nargs));
    if (k == 2) zoo_must(r, interp_launch(job, &r->linear, bufs, r->k.nargs));
  }
}
