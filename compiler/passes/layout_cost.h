/* What a layout of blocks is worth to a convolution, and what it costs to get there. */
#pragma once

#include "compiler/ir/plan.h"
#include "compiler/passes/conv.h"

/* Seconds that one thread spends less on c when channels and filters are in blocks; `waste`: lanes
 * of the vectors of a block over its size. */
double layout_gain(const Target *target, const Conv *c, double waste);

/* Seconds to bring so many bytes from one order into another. */
double layout_reorder(const Target *target, double bytes);
