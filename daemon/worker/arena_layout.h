/* Places for temporaries in one arena, when their sizes are known only as an executable runs. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct ArenaItem {
  uint32_t first, last; /* steps in which it is alive, both inclusive */
  uint64_t bytes;
  uint64_t offset; /* out: a multiple of 64 */
} ArenaItem;

/* Items alive at a common step do not overlap. *bytes: of the arena. RESOURCE_EXHAUSTED when that
 * has no number. */
Status arena_layout(ArenaItem *const *items, size_t n, uint64_t *bytes);
