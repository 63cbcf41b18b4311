/* A condition as the clauses that must all hold. */
#pragma once

#include "compiler/ir/uop.h"

enum { CLAUSES_MAX = 32 };
typedef struct Clauses {
  UOp *at[CLAUSES_MAX]; /* none twice */
  uint32_t n;
} Clauses;

/* Adds those of cond, in their order; false when there are too many. */
bool clauses_add(UOp *cond, Clauses *out);
