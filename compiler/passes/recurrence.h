/* What a loop stored in its last iteration and reads in this one stays in a register. */
#pragma once

#include "compiler/ir/uop.h"

/* root with such loads of innermost SERIAL loops replaced. */
UOp *recurrence_in_registers(Job *job, UOp *root);
