/* The sizes of one run of an executable whose interface has named dimensions.
 *
 * A VAR of the plan that is the size of an input's axis gets its value here, from the shapes that
 * the request brings; everything else about sizes is computed from the VARs. Executables without
 * VARs never come here. */
#pragma once

#include "base/arena.h"
#include "base/status.h"
#include "kiln/v1/worker.pb-c.h"

typedef struct RunDims {
  int64_t *vars;       /* by VAR; 0 while it is not known */
  const char **source; /* by VAR: the input that decided it, or NULL */
} RunDims;

/* INTERNAL unless VARs and shapes of an interface belong together. Once per interface. */
Status dims_check(const Kiln__V1__FrontendDone *face);
/* What options say about dimensions, in canonical form: sorted by name, a range of one value as a
 * number. INVALID_ARGUMENT names the dimension. In arena. */
Status dims_options(Arena *arena, const Kiln__V1__CompileOptions *from,
                    Kiln__V1__CompileOptions *to);

Status dims_begin(Arena *arena, const Kiln__V1__FrontendDone *face, RunDims *out);
/* Takes the sizes of input i and says how many bytes it has; the caller has compared dtype and
 * rank. INVALID_ARGUMENT names input and dimension. */
Status dims_bind(const Kiln__V1__FrontendDone *face, RunDims *d, size_t i, const uint64_t *dims,
                 uint64_t *bytes);
/* Whether VARs that the run computes decide the size of output i. */
bool dims_open(const Kiln__V1__FrontendDone *face, size_t i);
/* Bytes of output i, which is not open; RESOURCE_EXHAUSTED when they pass the limit. All inputs are
 * bound. */
Status dims_room(const Kiln__V1__FrontendDone *face, const RunDims *d, size_t i, uint64_t max,
                 uint64_t *bytes);
