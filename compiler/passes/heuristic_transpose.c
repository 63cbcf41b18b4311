/* Elementwise work that reads across the rows it writes.
 *
 * A tile is as high as it is wide, so that both of its sides are whole cache lines where a vector
 * is one: its rows are loaded, turned in registers (codegen/llvm_tile.c) and stored as rows. The
 * loop over tiles goes along the rows that are written, for as many streams are filled line by
 * line. The other way each tile would begin as many new lines as it has rows, all in one set of the
 * cache when rows are a power of two apart.
 *
 * Along that loop what is read has a page for each step when its rows are long. Blocks of so many
 * steps as the processor remembers pages for are done for all columns before the next. Where a
 * vector is less than a line they also keep the rest of each line for the tile of the next columns,
 * and pay from fewer steps on. */
#include "compiler/passes/heuristic_parts.h"

enum {
  LINE = 64,
  PAGE = 4096,
  MANY_LINES = 1024,
  MANY_PAGES = 2048,
  BLOCK = 512,
  LEAST_ROWS = 8,
  MOST_ROWS = 32
};

/* Another output axis along which something is contiguous that is strided along v; -1: none. Bytes
 * that a step along v moves in it. */
static int across(Sched *s, int v, int64_t *apart) {
  for (uint32_t i = 0; i < s->k->nloops && v >= 0; i++) {
    int a = (int)s->k->loops[i]->arg.i;
    if (a == v || s->k->axes[a].serial) continue;
    for (uint32_t l = 0; l < s->k->noperands; l++) {
      UOp *index = s->k->operands[l]->src[1];
      int64_t along = heuristic_step(s, index, v);
      *apart = times(along, dtype_info[s->k->operands[l]->dtype].bytes);
      if (along != 0 && along != 1 && heuristic_step(s, index, a) == 1) return a;
    }
  }
  return -1;
}

/* Lanes of a tile: where small elements are moved and nothing is computed, as many as a vector
 * holds and a tile may have rows. */
static int64_t tile_lanes(const Sched *s, int v, int t, int64_t lanes) {
  uint32_t bytes = (uint32_t)dtype_info[s->k->store->src[0]->dtype].bytes;
  int64_t most = bytes ? s->target->vector_bytes / bytes : lanes;
  if (most > MOST_ROWS) most = MOST_ROWS;
  bool moves = s->k->noperands == 1 && s->k->store->src[2] == s->k->operands[0];
  bool fits = size_of(s, v) >= most && size_of(s, t) >= most;
  return moves && fits && most > lanes ? most : lanes;
}

bool heuristic_transpose_blocks(Sched *s, int v, int64_t lanes) {
  int64_t apart, bytes = dtype_info[s->k->store->src[0]->dtype].bytes;
  int t = across(s, v, &apart);
  bool lines = t >= 0 && tile_lanes(s, v, t, lanes) * bytes >= LINE;
  if (t < 0 || apart < (lines ? PAGE : LINE) || apart == INT64_MAX) return false;
  if (!is_static(s, v) || size_of(s, v) < (lines ? MANY_PAGES : MANY_LINES)) return false;
  if (s->k->in_place) return false;
  give(s, OPT_SPLIT, v, BLOCK);
  give(s, OPT_ORDER, (int)s->k->naxes, 0);
  return true;
}

int64_t heuristic_transpose(Sched *s, int64_t lanes, int64_t room) {
  int64_t apart;
  int v = s->vector, last = (int)s->k->nloops - 1, t = across(s, v, &apart);
  if (t < 0) return 0;
  int64_t rows = heuristic_vector(s, v, tile_lanes(s, v, t, lanes));
  if (rows < LEAST_ROWS) rows = LEAST_ROWS;
  if (rows > size_of(s, t)) rows = size_of(s, t);
  while (rows > room && rows > 1) rows /= 2;
  give(s, OPT_UPCAST, t, rows);
  if ((int)s->k->loops[last]->arg.i != v) give(s, OPT_ORDER, v, last);
  return rows;
}
