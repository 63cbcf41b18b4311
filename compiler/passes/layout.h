/* Blocked channels for chains of tensors around convolutions. */
#pragma once

#include "compiler/passes/simplify.h"

/* The graph with convolutions, and what lies between them, over tensors [n, c / b, h, w, b] instead
 * of [n, c, h, w], where the target has vectors for b channels. */
UOp *layout_channels(Job *job, const TensorGraph *graph, const Target *target, UOp *sink);
