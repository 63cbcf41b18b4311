/* Casts from and to the storage dtypes (f8, f4, 4- and 2-bit integers), and of 64-bit integers to
 * bf16, as integer arithmetic. */
#pragma once

#include "compiler/rules/rewrite.h"

/* n: a CAST; NULL when neither side is a storage dtype and the target's own cast rounds once. */
UOp *small_cast(Rewrite *rw, UOp *n);
