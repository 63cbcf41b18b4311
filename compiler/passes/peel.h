/* The first iteration of a loop, before it. */
#pragma once

#include "compiler/ir/uop.h"

/* The lowered kernel in which loops that add products of matrix instructions from their second
 * iteration on have their first one apart. */
UOp *peel_first(Job *job, UOp *kernel);
