/* Stores of a few bytes per thread made wider by threads that exchange elements. */
#pragma once

#include "compiler/ir/plan.h"

UOp *exchange_stores(Job *job, UOp *kernel, const Target *target);
