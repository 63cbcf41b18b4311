/* Checks that a graph belongs to its stage. Run after every pass, in every build. */
#pragma once

#include "compiler/ir/uop.h"

typedef enum Stage { STAGE_TENSOR, STAGE_RANGED, STAGE_SCHEDULED, STAGE_LOWERED } Stage;

/* NULL when every node under root is allowed in the stage, all ranges are closed (ranged on), every
 * memory access is proven inside its buffer by interval bounds or carries a gate. Else INTERNAL
 * with the node as text. */
Status verify_graph(Job *job, UOp *root, Stage stage, const char *after_pass);
/* Proven: lane k of an access of some lanes, at index + k * step or at lane k of index, lies inside
 * of the buffer. */
bool verify_inside(Job *job, const UOp *buf, UOp *index, unsigned lanes, int64_t step);
