/* Sizes that are known when an executable runs: the postfix programs of worker.proto.
 *
 * A program that size_program_check has accepted can be evaluated without further checks of its
 * form. Values are checked while they are computed: a size never overflows and is never negative.
 */
#pragma once

#include <stdbool.h>

#include "base/status.h"
#include "kiln/v1/worker.pb-c.h"

typedef struct SizeRange {
  int64_t low, high;
} SizeRange;

/* INTERNAL: the program is malformed, or names a VAR that does not exist. NULL is no program. */
Status size_program_check(const Kiln__V1__SizeProgram *p, size_t nvars);
/* Whether it names the VAR. */
bool size_program_uses(const Kiln__V1__SizeProgram *p, size_t var);
/* The number of the VAR that is all there is to the program, or -1. */
int64_t size_program_var(const Kiln__V1__SizeProgram *p);
/* False when the value overflows or is negative. */
bool size_program_eval(const Kiln__V1__SizeProgram *p, const int64_t *vars, int64_t *out);
/* Bounds of the value from those of the VARs; false when they overflow. A negative lower end is 0.
 */
bool size_program_range(const Kiln__V1__SizeProgram *p, const SizeRange *vars, SizeRange *out);
