/* Weights of products of bytes in the order in which matrix instructions take them. */
#pragma once

#include "compiler/passes/simplify.h"

/* The graph with such weights stored in that order, where the target has such an instruction. */
UOp *pack_weights(Job *job, const TensorGraph *graph, const Target *target, UOp *sink);
