/* Matrix instructions in a scheduled kernel. */
#pragma once

#include "compiler/ir/matrix.h"

/* Ranges that stand for places in the tile of one instruction while the kernel is rebuilt: those of
 * m, n and k. */
typedef struct MatrixTile {
  const MatrixInfo *info;
  int64_t id;
  UOp *place[3];
  UOp **ranges; /* of the digits, as MMA lists them */
} MatrixTile;

/* Makes the ranges of the digits, from *next_id on. */
void matrix_tile_begin(Job *job, MatrixTile *t, int64_t *next_id);
/* The MMA of two factors over the places. */
UOp *matrix_tile_product(Job *job, const MatrixTile *t, UOp *a, UOp *b);
/* The kernel with the places of m and n where the product's elements are. */
UOp *matrix_tile_end(Job *job, const MatrixTile *t, UOp *kernel);
