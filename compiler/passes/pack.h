/* Weights of products in the order in which vectors and matrix instructions take them. */
#pragma once

#include "compiler/passes/simplify.h"

/* The graph with such weights stored in that order, where the target has something that takes it.
 */
UOp *pack_weights(Job *job, const TensorGraph *graph, const Target *target, UOp *sink);
