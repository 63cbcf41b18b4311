/* Copies that run ahead of the loop that uses them. */
#pragma once

#include "compiler/ir/uop.h"

/* The places of the buffer under AFTERs, which copies take by turns. */
int64_t pipeline_places(const UOp *u);
/* Is that loop one whose copies run ahead? For barriers.c, before pipeline_copies. */
bool pipeline_is_loop(const UOpList *list, const UOp *range);
/* Does such a loop lie in the loop over that range? */
bool pipeline_inside(const UOpList *list, const UOp *range);
/* The lowered kernel with the copies into buffers of several places moved ahead. */
UOp *pipeline_copies(Job *job, UOp *kernel);
