/* Scheduled kernel -> the same with fewer loops. */
#pragma once

#include "compiler/ir/uop.h"

/* Merges neighbouring loops (a outside of b, of n steps) into one wherever every index walks them
 * as n*a + b: channel, row and column of a packed convolution become one loop. */
UOp *collapse_loops(Job *job, UOp *kernel);
