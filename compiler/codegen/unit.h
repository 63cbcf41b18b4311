/* How much of a GPU's memory may be read or written at once: vectors lie at multiples of their
 * size.
 */
#pragma once

#include "compiler/ir/plan.h"

/* What is known of the indices of a program, whose nodes have ids from first_id on. */
typedef struct UnitMemo {
  uint8_t *twos; /* by id - first_id, 1 + how many times 2 divides it; 0: not known yet */
  uint32_t first_id, nids;
} UnitMemo;

/* Out of memory leaves twos NULL, and every unit 1. */
void unit_init(UnitMemo *m, Arena *arena, uint32_t first_id, uint32_t nids);
/* Elements, or vectors of a buffer of vectors: a power of two that divides the index, as many as
 * the buffer's alignment holds. */
unsigned unit_of(const UnitMemo *m, const UOp *index, const UOp *buffer);
