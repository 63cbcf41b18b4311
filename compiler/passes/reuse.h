/* Buffers of a thread that take each other's place. */
#pragma once

#include "compiler/ir/uop.h"

/* A linear program in which a buffer whose contents are not needed any more is the memory of the
 * next one of its kind; `list` itself where there is none. */
UOpList reuse_buffers(Job *job, const UOpList *list);
