/* Whether runs of a graph may be put behind each other: dynamic batching asks. */
#pragma once

#include "compiler/ir/plan.h"

/* Whether the graph has one VAR, the size of the first axis of every input and output, and each row
 * of every output depends on the same row of the inputs alone: then runs may share one run, their
 * rows behind each other. */
bool rowwise(Job *job, const TensorGraph *graph);
