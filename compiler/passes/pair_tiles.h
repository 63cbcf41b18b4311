/* Loads of 8 by 8 tiles, two at a time. */
#pragma once

#include "compiler/ir/plan.h"

/* LDMATRIXes of two tiles whose places differ by a number become ones of four. */
UOp *pair_tiles(Job *job, UOp *kernel);
