/* Tiles read across their rows.
 *
 * A kernel that transposes, or packs a transposed operand, holds m loads of n lanes each, lanes
 * `stride` apart, at m consecutive indices: the columns of an n x m tile. Lane by lane that is
 * n * m scalar loads. Reading the n rows instead touches exactly the same elements with n vector
 * loads, and rounds of two-source shuffles turn rows into columns: Eklundh's transposition of m x m
 * blocks, whose columns are then joined end to end.
 *
 * The first load of such a group emits all of them. That moves the others up to it, so they must be
 * in the same loop body, and the memory must be one that the kernel never writes. */
#include "compiler/codegen/llvm_build.h"

enum { MAX_TILE = 32 };

/* The part of an index without its constant. */
static const UOp *split(const UOp *index, int64_t *constant) {
  *constant = 0;
  if (index->op != OP_ADD || !uop_is_const(index->src[1])) return index;
  *constant = index->src[1]->arg.i;
  return index->src[0];
}

static bool tile_shaped(const UOp *u) {
  unsigned n = u->lanes;
  return u->op == OP_LOAD && u->nsrc == 2 && n >= 4 && n <= MAX_TILE && (n & (n - 1)) == 0 &&
         u->src[1]->lanes == 1 && u->dtype != DT_BOOL && (u->arg.i > 4 || u->arg.i < -4);
}

/* Fills `column` with the m loads at base + from, base + from + 1, ...; false when one is missing.
 */
static bool find_columns(const Emitter *e, size_t at, const UOp *first, unsigned m,
                         const UOp **column) {
  int64_t from, c;
  const UOp *base = split(first->src[1], &from);
  unsigned found = 0;
  for (unsigned k = 0; k < m; k++) column[k] = NULL;
  for (size_t i = at; i < e->linear->len && found < m; i++) {
    const UOp *u = e->linear->list[i];
    if (u->op == OP_RANGE || u->op == OP_END) return false;
    if (!tile_shaped(u) || u->src[0] != first->src[0] || u->lanes != first->lanes) continue;
    if (u->arg.i != first->arg.i || split(u->src[1], &c) != base) continue;
    int64_t k = c - from;
    if (k < 0 || k >= m || column[k]) continue;
    column[k] = u;
    found++;
  }
  return found == m;
}

/* One round: lanes whose number has the bit `half` change places between rows i and i | half. */
static void exchange(Emitter *e, LLVMValueRef *a, LLVMValueRef *b, unsigned m, unsigned half) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef low[MAX_TILE], high[MAX_TILE];
  for (unsigned j = 0; j < m; j++) {
    bool odd = j & half;
    low[j] = LLVMConstInt(i32, odd ? m + j - half : j, false);
    high[j] = LLVMConstInt(i32, odd ? m + j : j + half, false);
  }
  LLVMValueRef lo = LLVMBuildShuffleVector(e->b, *a, *b, LLVMConstVector(low, m), "");
  *b = LLVMBuildShuffleVector(e->b, *a, *b, LLVMConstVector(high, m), "");
  *a = lo;
}

static void transpose_block(Emitter *e, LLVMValueRef *row, unsigned m) {
  for (unsigned half = 1; half < m; half *= 2) {
    for (unsigned i = 0; i < m; i++) {
      if (!(i & half)) exchange(e, &row[i], &row[i | half], m, half);
    }
  }
}

/* part[0], part[stride], ..., `count` of them, one after the other in one vector. */
static LLVMValueRef join(Emitter *e, const LLVMValueRef *part, unsigned stride, unsigned count) {
  if (count == 1) return part[0];
  LLVMValueRef a = join(e, part, stride, count / 2);
  LLVMValueRef b = join(e, part + stride * (count / 2), stride, count / 2);
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  return LLVMBuildShuffleVector(e->b, a, b, llvm_ramp(e, i32, 0, 1, 2 * llvm_lanes(a)), "");
}

bool llvm_tile_load(Emitter *e, const UOp *u, size_t at) {
  const UOp *column[MAX_TILE];
  LLVMValueRef row[MAX_TILE];
  if (!tile_shaped(u)) return false;
  unsigned n = u->lanes, m = n;
  while (m >= 4 && !find_columns(e, at, u, m, column)) m /= 2;
  if (m < 4 || !llvm_load_rows(e, u, m, row)) return false;
  for (unsigned i = 0; i < n; i += m) transpose_block(e, row + i, m);
  for (unsigned k = 0; k < m; k++) {
    e->values[column[k]->id - e->first_id] = join(e, row + k, m, n / m);
  }
  return true;
}
