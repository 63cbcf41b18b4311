/* Updates at computed places, checked. */
#pragma once

#include "compiler/frontend/build.h"

/* indices as i64, those below 0 counted from the end of an axis of that size. */
UOp *build_wrap(Job *job, UOp *indices, int64_t size);
/* data with updates at indices along the axis, in row-major order of the updates; op STORE, ADD,
 * MUL, MAX or MIN. indices and updates have data's rank and equal sizes, save that indices may have
 * size 1 on other axes; there they are at most as long as the data, which the run checks where it
 * does not show. An index outside of [0, size) is left out. INVALID_ARGUMENT aborts the job. */
UOp *build_scatter(Job *job, UOp *data, UOp *indices, UOp *updates, size_t axis, Op op);
