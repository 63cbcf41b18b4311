/* Tiles read across their rows.
 *
 * A kernel that transposes, or packs a transposed operand, holds `n` loads of `n` lanes each, lanes
 * `stride` apart, at n consecutive indices: the columns of an n x n tile. Lane by lane that is n *
 * n scalar loads. Reading the n rows instead touches exactly the same elements with n vector loads,
 * and log2(n) rounds of two-source shuffles turn rows into columns (Eklundh's transposition).
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

/* Fills `column` with the loads at base + from, base + from + 1, ...; false when one is missing. */
static bool find_columns(const Emitter *e, size_t at, const UOp *first, int64_t from,
                         const UOp **column) {
  int64_t c;
  const UOp *base = split(first->src[1], &c);
  unsigned n = first->lanes, found = 0;
  for (unsigned k = 0; k < n; k++) column[k] = NULL;
  for (size_t i = at; i < e->linear->len && found < n; i++) {
    const UOp *u = e->linear->list[i];
    if (u->op == OP_RANGE || u->op == OP_END) return false;
    if (!tile_shaped(u) || u->src[0] != first->src[0] || u->lanes != n) continue;
    if (u->arg.i != first->arg.i || split(u->src[1], &c) != base) continue;
    int64_t k = c - from;
    if (k < 0 || k >= n || column[k]) continue;
    column[k] = u;
    found++;
  }
  return found == n;
}

/* One round: lanes whose number has the bit `half` change places between rows i and i | half. */
static void exchange(Emitter *e, LLVMValueRef *a, LLVMValueRef *b, unsigned n, unsigned half) {
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  LLVMValueRef low[MAX_TILE], high[MAX_TILE];
  for (unsigned j = 0; j < n; j++) {
    bool odd = j & half;
    low[j] = LLVMConstInt(i32, odd ? n + j - half : j, false);
    high[j] = LLVMConstInt(i32, odd ? n + j : j + half, false);
  }
  LLVMValueRef lo = LLVMBuildShuffleVector(e->b, *a, *b, LLVMConstVector(low, n), "");
  *b = LLVMBuildShuffleVector(e->b, *a, *b, LLVMConstVector(high, n), "");
  *a = lo;
}

bool llvm_tile_load(Emitter *e, const UOp *u, size_t at) {
  const UOp *column[MAX_TILE];
  LLVMValueRef row[MAX_TILE];
  int64_t c;
  if (!tile_shaped(u)) return false;
  (void)split(u->src[1], &c);
  unsigned n = u->lanes;
  if (!find_columns(e, at, u, c, column)) return false;
  if (!llvm_load_rows(e, u, row)) return false;
  for (unsigned half = 1; half < n; half *= 2) {
    for (unsigned i = 0; i < n; i++) {
      if (!(i & half)) exchange(e, &row[i], &row[i | half], n, half);
    }
  }
  for (unsigned k = 0; k < n; k++) e->values[column[k]->id - e->first_id] = row[k];
  return true;
}
