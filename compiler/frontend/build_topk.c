/* The few first in order, without sorting.
 *
 * An element's place in the order is one number: its key above 31 bits that count positions
 * backwards, so that no two are equal and of equal keys the lower position is larger. The largest
 * number is found, then the largest below it, and so on: k passes. Long rows are looked through
 * once, for the largest number of each block; the first k lie in the k blocks where these are
 * largest, so that passes go over the blocks' numbers and then over k blocks.
 *
 * NaN counts as larger than all numbers. */
#include "compiler/frontend/build_sort.h"

enum { MOST = 16, DIRECT = 2048, POSITION_BITS = 31 };

static UOp *num(Job *job, int64_t v) { return uop_int(job, DT_I64, v); }

/* The numbers of values [rows, n] at positions of the same shape; positions from `end` on have
 * none. */
static UOp *numbers(Job *job, UOp *values, UOp *positions, int64_t end, bool largest) {
  UOp *key = build2(job, OP_MIN, build_sort_key(job, values), num(job, (int64_t)UINT32_MAX));
  if (!largest) key = build2(job, OP_XOR, key, num(job, -1));
  if (uop_dtype(values) == DT_U32)
    key = build2(job, largest ? OP_SUB : OP_ADD, key, num(job, (int64_t)1 << 31));
  else
    key = build2(job, OP_MAX, build2(job, OP_MIN, key, num(job, (int64_t)1 << 31)),
                 num(job, -((int64_t)1 << 31) - 1));
  key = build2(job, OP_MUL, key, num(job, (int64_t)1 << POSITION_BITS));
  UOp *back = build2(job, OP_SUB, num(job, ((int64_t)1 << POSITION_BITS) - 1), positions);
  UOp *in = build2(job, OP_CMPLT, positions, num(job, end));
  return build_where(job, in, build2(job, OP_ADD, key, back), num(job, INT64_MIN));
}

static UOp *position(Job *job, UOp *number) {
  int64_t mask = ((int64_t)1 << POSITION_BITS) - 1;
  return build2(job, OP_SUB, num(job, mask), build2(job, OP_AND, number, num(job, mask)));
}

/* The k largest of each row of [rows, n], in order: [rows, k]. */
static UOp *passes(Job *job, UOp *all, int64_t k) {
  UOp *found[MOST];
  for (int64_t j = 0; j < k; j++) {
    UOp *left = all;
    if (j)
      left = build_where(job, build2(job, OP_CMPLT, all, found[j - 1]), all, num(job, INT64_MIN));
    found[j] = build_reduce(job, OP_MAX, left, axis_bit(1), true);
  }
  return build_cat(job, found, (size_t)k, 1);
}

/* The blocks of each row in which its k largest are, as positions [rows, k * block]. */
static UOp *in_blocks(Job *job, UOp *table, int64_t k, int64_t block, bool largest) {
  int64_t rows = table->shape.at[0], n = table->shape.at[1], blocks = (n + block - 1) / block;
  UOp *x = build_pad_axis(job, table, 1, 0, blocks * block - n, build_num(job, table, 0));
  UOp *all = numbers(job, x, build_iota(job, DT_I64, 1, x->shape), n, largest);
  all = build_reshape_v(job, all, 3, rows, blocks, block);
  all = uop1(job, OP_CONTIGUOUS, build_reduce(job, OP_MAX, all, axis_bit(2), false));
  UOp *first = position(job, uop1(job, OP_CONTIGUOUS, passes(job, all, k)));
  first = build2(job, OP_MUL, build2(job, OP_FLOORDIV, first, num(job, block)), num(job, block));
  UOp *at = build2(job, OP_ADD, build_unsqueeze(job, first, 2), build_arange(job, DT_I64, block));
  return uop1(job, OP_CONTIGUOUS, build_reshape_v(job, at, 2, rows, k * block));
}

UOp *build_top_few(Job *job, UOp *table, int64_t k, bool largest) {
  int64_t n = table->shape.at[1];
  DType d = uop_dtype(table);
  if (!dim_is_static(k) || !dim_is_static(n) || k < 1 || k > MOST || n < 2 * k) return NULL;
  if (dtype_info[d].bytes > 4 || n >= (int64_t)1 << POSITION_BITS) return NULL;
  UOp *at = build_iota(job, DT_I64, 1, table->shape), *values = table;
  if (n > DIRECT) {
    int64_t block = 32;
    while (block < DIRECT / k && block * block * k < n) block *= 2;
    at = in_blocks(job, table, k, block, largest);
    values = build_take(job, table, at);
  }
  UOp *all = uop1(job, OP_CONTIGUOUS, numbers(job, values, at, n, largest));
  return position(job, uop1(job, OP_CONTIGUOUS, passes(job, all, k)));
}
