/* Elements of integer tensors as integer expressions: the bridge from tensors that describe shapes
 * to shapes. */
#pragma once

#include "compiler/frontend/front.h"

/* The element of u at a constant coordinate as an INDEX expression of constants and VARs; NULL when
 * it depends on values that only a run has. */
UOp *front_elem(Front *f, UOp *u, const int64_t *at);
