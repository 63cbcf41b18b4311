/* The tile of a matrix instruction in terms of threads and registers.
 *
 * While a kernel is rebuilt, three ranges stand for the places m, n and k inside of a tile, so that
 * factors, staged copies and what is done with the product need not know of the instruction. Then
 * the factors get the digits of their own operand for the places, and everything else those of the
 * product: an element of A is wanted by the thread that feeds it in, which is another one than
 * computes with row m. An instruction of one row has no place for m. */
#include "compiler/passes/schedule_matrix.h"

#include "compiler/passes/linsum.h"

enum { MAX_RANGES = 12, M = 0, N = 1, K = 2 };

void matrix_tile_begin(Job *job, MatrixTile *t, int64_t *next_id) {
  t->ranges = arena_array(&job->arena, MAX_RANGES, sizeof *t->ranges);
  for (const char *c = matrix_lanes; *c; c++) {
    int at = matrix_range_at(t->info, MATRIX_C, *c);
    if (at < 0) continue;
    UOp *end = uop_index(job, matrix_lane_size(t->info, *c));
    t->ranges[at] = uop_warp_range(job, (*next_id)++, matrix_lane_step(t->info, *c), end);
  }
  for (int o = 0; o < 3; o++)
    for (const char *c = "abc"; *c; c++) {
      int at = matrix_range_at(t->info, (MatrixOperand)o, *c);
      if (at < 0) continue;
      UOp *end = uop_index(job, matrix_range_size(t->info, (unsigned)at));
      t->ranges[at] = uop_range(job, (*next_id)++, *c == 'a' ? AX_VECTOR : AX_UPCAST, end);
    }
}

/* A coordinate of an operand over its digits. */
static UOp *coordinate(Job *job, const MatrixTile *t, MatrixOperand o, bool second) {
  const MatrixLayout *l = &t->info->layout[o];
  UOp *sum = uop_index(job, 0);
  for (unsigned i = 0; i < l->n; i++) {
    const MatrixDigit *d = &l->digit[i];
    if (d->second != second) continue;
    UOp *r = t->ranges[matrix_range_at(t->info, o, d->of)];
    sum = index_add(job, sum, index_mul(job, r, d->weight));
  }
  return sum;
}

static UOp *placed(Job *job, const MatrixTile *t, UOp *u, MatrixOperand o, int first, int second) {
  UOp *from[2], *to[2];
  size_t n = 0;
  if (t->place[first]) from[n] = t->place[first], to[n++] = coordinate(job, t, o, false);
  if (t->place[second]) from[n] = t->place[second], to[n++] = coordinate(job, t, o, true);
  return uop_substitute(job, u, from, to, n);
}

UOp *matrix_tile_product(Job *job, const MatrixTile *t, UOp *a, UOp *b) {
  unsigned n = matrix_range_count(t->info);
  UOp *src[2 + MAX_RANGES] = {placed(job, t, a, MATRIX_A, M, K), placed(job, t, b, MATRIX_B, N, K)};
  memcpy(src + 2, t->ranges, n * sizeof *src);
  return uop_make(job, OP_MMA, t->info->dtype[MATRIX_C], arg_i(t->id), src, 2 + n);
}

UOp *matrix_tile_end(Job *job, const MatrixTile *t, UOp *kernel) {
  return placed(job, t, kernel, MATRIX_C, M, N);
}
