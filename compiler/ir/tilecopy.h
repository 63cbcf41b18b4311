/* What a TILECOPY says of its tile. */
#pragma once

#include "compiler/ir/uop.h"

enum { TILE_AXES = 5, RING_FREE = 0, RING_FILLED = 1, RING_LEFT = 2 };

typedef struct TileCopy {
  uint32_t axes;
  const int64_t *box, *size, *step; /* by axis, the innermost first */
  int64_t elements;                 /* of the tile */
} TileCopy;

TileCopy tilecopy_of(const UOp *u);
/* Where element k of the tile that begins at at[] comes from; false: it is 0. */
bool tilecopy_source(const TileCopy *t, const int64_t *at, int64_t k, int64_t *from);
/* Why that is no argument of a TILECOPY; NULL: it is one. */
const char *tilecopy_check(const int64_t *ints, size_t n);
