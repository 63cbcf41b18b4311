/* The register tile of a contraction, and the blocks along its reduce axis. */
#pragma once

#include "compiler/ir/plan.h"

enum { MAX_BODY = 1500 }; /* instances in an expanded kernel */

static inline int64_t heuristic_tiles(int64_t size, int64_t tile) {
  return (size + tile - 1) / tile;
}

typedef struct TileShape {
  int64_t columns, rows, lanes;
  int64_t epilogue; /* instructions that follow the sum */
} TileShape;

/* Vectors along the columns, and rows. */
void heuristic_tile(const TileShape *s, const Target *target, int64_t *vectors, int64_t *rows);

typedef struct BlockShape {
  int64_t rows, columns, depth; /* of the product */
  int64_t tile_rows;            /* rows of a register tile that may be large */
  int64_t bytes;                /* of an element of the operand that lies along the columns */
  int64_t sum_bytes;
  bool direct; /* that operand is contiguous along the columns */
} BlockShape;

typedef struct Block {
  int64_t steps; /* of the reduce axis in one block; 0: no blocks */
  bool unrolled; /* they are written out */
} Block;

Block heuristic_block(const BlockShape *s, const Target *target);
