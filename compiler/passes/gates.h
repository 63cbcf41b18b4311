/* Gates: bool conditions under which an access happens. NULL stands for true. */
#pragma once

#include "compiler/ir/uop.h"

/* Both conditions; a scalar b holds for all lanes of a. */
UOp *gates_both(Job *job, UOp *a, UOp *b);
/* The value with every INDEX or every LOAD (`access`) below it behind one more gate. */
UOp *gates_around(Job *job, UOp *value, Op access, UOp *gate);
/* Gates where nothing proves that an access stays inside of its buffer, which takes symbolic sizes:
 * of loops over ranges, scalar. */
UOp *gates_unproven(Job *job, UOp *sink);
