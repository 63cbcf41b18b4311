/* Values that a loop keeps in registers of a thread: BUFFERs of one element, which code generators
 * turn into variables. */
#pragma once

#include "compiler/ir/uop.h"

/* A register; no other BUFFER of the kernel has this number. */
UOp *register_new(Job *job, int64_t number, DType d, unsigned lanes);
/* The buffer once effects have happened; a RANGE among them says in which loop. */
UOp *register_after(Job *job, UOp *buffer, UOp *const *effects, size_t n);
UOp *register_load(Job *job, UOp *buffer, unsigned lanes);
UOp *register_store(Job *job, UOp *buffer, UOp *value);
