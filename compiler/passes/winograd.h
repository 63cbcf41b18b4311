/* 3x3 convolutions by Winograd's minimal filtering. */
#pragma once

#include "compiler/ir/plan.h"
#include "compiler/passes/conv.h"

/* The edge of the output tiles that a convolution is best computed in, 2 or 4; 0: directly. */
int64_t winograd_tile(const Target *target, const Conv *c);
/* The convolution [n, k / bo, p, q, bo] in tiles of m by m; x: [n, c / bi, h, w, bi] with the zeros
 * around it, w: [k, c, 3, 3]. */
UOp *winograd_conv(Job *job, const Conv *c, UOp *x, int64_t m, int64_t bi, int64_t bo);
