/* Factors of matrix products as a device with matrix instructions likes to read them. */
#pragma once

#include "compiler/passes/simplify.h"

/* The graph with rows of factors stored where they are read well, and, with fast math, factors of
 * f32 cut to the bits that such instructions look at. */
UOp *simplify_products(Job *job, const TensorGraph *graph, const Target *target, UOp *sink);
