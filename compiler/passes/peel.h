/* Loops in parts that ask less than the whole. */
#pragma once

#include "compiler/ir/uop.h"

/* The lowered kernel in which loops that add products of matrix instructions from their second
 * iteration on have their first one apart. */
UOp *peel_first(Job *job, UOp *kernel);
/* ... in which loops over blocks of which most are there as a whole ask about elements in the last
 * ones alone. */
UOp *peel_whole(Job *job, UOp *kernel);
