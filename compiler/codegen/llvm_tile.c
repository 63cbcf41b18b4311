/* Tiles read across their rows.
 *
 * A kernel that transposes, or packs a transposed operand, holds m loads of n lanes each, lanes
 * `stride` apart, at m consecutive indices: the columns of an n x m tile. Lane by lane that is
 * n * m scalar loads. Reading the n rows instead touches exactly the same elements with n vector
 * loads, and rounds of two-source shuffles turn rows into columns: Eklundh's transposition of m x m
 * blocks, whose columns are then joined end to end.
 *
 * The first load of such a group emits all of them. That moves the others up to it, so they must be
 * in the same loop body, and the memory must be one that the kernel never writes.
 *
 * Stores of such columns are the same backwards: the last of them writes rows, in a body that loads
 * nothing of that memory. */
#include <stdlib.h>

#include "compiler/codegen/llvm_build.h"

enum { MAX_TILE = 32, MAX_STORES = 256 };

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

static bool stored_in_lanes(const UOp *u) {
  if (u->op != OP_STORE || u->nsrc != 3 || u->src[0]->op != OP_PARAM) return false;
  unsigned n = u->src[2]->lanes;
  return n >= 4 && n <= MAX_TILE && (n & (n - 1)) == 0 && u->src[1]->lanes == 1 &&
         u->src[0]->dtype != DT_BOOL && (u->arg.i > 4 || u->arg.i < -4);
}

typedef struct Column {
  const UOp *store;
  int64_t at; /* the constant of its index */
  size_t place;
} Column;

static int by_index(const void *x, const void *y) {
  const Column *a = x, *b = y;
  return a->at < b->at ? -1 : a->at > b->at;
}

/* The stores like u in its loop body, by index; 0 when they cannot be moved. */
static unsigned find_stores(const Emitter *e, const UOp *u, size_t at, Column *out) {
  int64_t c;
  const UOp *base = split(u->src[1], &c);
  size_t i = at;
  unsigned n = 0;
  for (; i > 0; i--) {
    Op op = (Op)e->linear->list[i - 1]->op;
    if (op == OP_RANGE || op == OP_END) break;
  }
  for (; i < e->linear->len; i++) {
    const UOp *x = e->linear->list[i], *buffer = x->nsrc ? uop_storage(x->src[0]) : NULL;
    if (x->op == OP_RANGE || x->op == OP_END) break;
    if (x->op == OP_LOAD && buffer == u->src[0]) return 0;
    if (!stored_in_lanes(x) || buffer != u->src[0] || x->arg.i != u->arg.i) continue;
    if (x->src[2]->lanes != u->src[2]->lanes || split(x->src[1], &c) != base) continue;
    if (n == MAX_STORES) return 0;
    out[n++] = (Column){x, c, i};
  }
  qsort(out, n, sizeof *out, by_index);
  return n;
}

/* The tile that u is a column of: where it begins among n columns, and how many it has; 0: none. */
static unsigned tile_of(const Column *c, unsigned n, const UOp *u, unsigned *first) {
  int64_t apart = u->arg.i < 0 ? -u->arg.i : u->arg.i, most = u->src[2]->lanes;
  if (most > apart) most = apart; /* rows do not overlap */
  for (unsigned i = 0; i < n;) {
    unsigned m = 1;
    bool mine = false;
    while (m < most && i + m < n && c[i + m].at == c[i].at + m) m++;
    while (m & (m - 1)) m &= m - 1;
    for (unsigned k = 0; k < m; k++) mine |= c[i + k].store == u;
    if (i && c[i].at == c[i - 1].at) return 0;
    *first = i;
    if (mine) return m >= 4 ? m : 0;
    i += m;
  }
  return 0;
}

bool llvm_tile_store(Emitter *e, const UOp *u, size_t at) {
  Column column[MAX_STORES];
  LLVMValueRef row[MAX_TILE] = {0}, value[MAX_TILE];
  LLVMTypeRef i32 = LLVMInt32TypeInContext(e->ctx);
  unsigned first, lanes = u->src[2]->lanes;
  if (!stored_in_lanes(u)) return false;
  unsigned m = tile_of(column, find_stores(e, u, at, column), u, &first);
  for (unsigned k = 0; k < m; k++)
    if (column[first + k].place > at) return true; /* a later one writes it */
  if (!m) return false;
  for (unsigned k = 0; k < m; k++) value[k] = llvm_full_value(e, column[first + k].store->src[2]);
  for (unsigned i = 0; i < lanes; i += m) {
    for (unsigned k = 0; k < m; k++)
      row[i + k] = LLVMBuildShuffleVector(e->b, value[k], LLVMGetPoison(LLVMTypeOf(value[k])),
                                          llvm_ramp(e, i32, i, 1, m), "");
    transpose_block(e, row + i, m);
  }
  llvm_store_rows(e, column[first].store, row);
  return true;
}
