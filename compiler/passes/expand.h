/* Scheduled kernel -> vectors and register tiles. */
#pragma once

#include "compiler/ir/plan.h"

/* UPCAST, UNROLL and VECTOR ranges disappear; INDEX becomes LOAD; THREAD ranges become the thread
 * index. What is left are loops and REDUCEs over loops. A REDUCE whose steps were unrolled reduces
 * a tree of its own op whose leaves are marked by REDUCEs without ranges: lower may accumulate
 * these in any order. */
UOp *expand_kernel(Job *job, UOp *kernel, const Target *target);
