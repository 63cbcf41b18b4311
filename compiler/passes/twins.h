/* Small products with the same factor are done together. */
#pragma once

#include "compiler/passes/simplify.h"

/* The graph with such products over one stored tensor of their weights, on devices whose processors
 * one of them does not fill. */
UOp *join_twins(Job *job, const TensorGraph *graph, const Target *target, UOp *sink);
