/* 3x3 convolutions by Winograd's minimal filtering. */
#pragma once

#include "compiler/ir/plan.h"
#include "compiler/passes/conv.h"

/* The edge of the output tiles that a convolution is best computed in, 2 or 4; 0: directly. spare:
 * bytes that its weights may take more than they do. */
int64_t winograd_tile(const Target *target, const Conv *c, double spare);
/* How many those are for tiles of m by m. */
double winograd_more_weights(const Conv *c, int64_t m);
/* The convolution [n, k / bo, p, q, bo] in tiles of m by m; x: [n, c / bi, h, w, bi] with the zeros
 * around it, w: [k, c, 3, 3]. */
UOp *winograd_conv(Job *job, const Conv *c, UOp *x, int64_t m, int64_t bi, int64_t bo);
