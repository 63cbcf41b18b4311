/* The register tile of a contraction, and the blocks along its reduce axis. */
#pragma once

#include "compiler/search/opts.h"

enum {
  MAX_BODY = 1500, /* instances in an expanded kernel */
  TILE_ROWS = 8    /* of a register tile, about */
};

static inline int64_t power_below(int64_t n) {
  int64_t p = 1;
  while (2 * p <= n) p *= 2;
  return p;
}
static inline int64_t power_above(int64_t n) {
  int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

static inline int64_t heuristic_tiles(int64_t size, int64_t tile) {
  return (size + tile - 1) / tile;
}

/* Instructions behind one node: transcendentals are polynomials. */
int64_t heuristic_weight(const UOp *u);

typedef struct TileShape {
  int64_t columns, rows, lanes;
  int64_t epilogue; /* instructions that follow the sum */
  bool whole;       /* tiles must not overlap: what they read is in an order that has no between */
} TileShape;

/* Vectors along the columns, and rows. */
void heuristic_tile(const TileShape *s, const Target *target, int64_t *vectors, int64_t *rows);

typedef struct BlockShape {
  int64_t rows, columns, depth; /* of the product */
  int64_t tile_rows;            /* rows of a register tile that may be large */
  int64_t bytes;                /* of an element of the operand that lies along the columns */
  int64_t sum_bytes;
  bool direct; /* that operand is contiguous along the columns */
  bool packs;  /* it is packed before it is used, whatever the number of rows */
} BlockShape;

typedef struct Block {
  int64_t steps; /* of the reduce axis in one block; 0: no blocks */
  bool unrolled; /* they are written out */
} Block;

Block heuristic_block(const BlockShape *s, const Target *target);

/* TC's argument for the first instruction of a single thread that has so many lanes, fits, and
 * computes exactly; -1: none. The reduce axis may have to be padded for it. */
int64_t heuristic_matrix(Job *job, const KernelInfo *info, const Target *target, int v,
                         const UOp *reduce, int64_t lanes);
