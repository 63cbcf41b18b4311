/* Reductions that need no loop, or a smaller one. C right-hand sides over ranged REDUCEs; NULL when
 * nothing is simpler. */
#pragma once

#include "compiler/rules/rewrite.h"

/* Merges nested reduces, takes ranges that the value does not use out, moves what does not depend
 * on the ranges in front, and sums affine, counting and one-hot values over a range in closed form.
 */
UOp *closed_form_reduce(Rewrite *rw, UOp *n);
/* x combined `count` times with itself under op; NULL when that is no cheaper. */
UOp *closed_form_repeat(Rewrite *rw, Op op, UOp *x, int64_t count);
