/* The k-th chosen element is found by binary search in the prefix sums.
 *
 * Rows of a known, moderate length are sorted by a network (build_sort_network.c). Other
 * sorting is by digits of 4 bits: a stable permutation for each, from the least to the greatest,
 * with a scan for each digit's counts. Its work is linear, its memory 16 bytes per element and
 * more; where that is too much, sorting is merging: runs of 1, 2, 4, ... elements, and every
 * element of a merged run finds its source by searching along its diagonal of the two runs (merge
 * path), so that a level is one gather. The number of levels follows from the largest size.
 * Searches are unrolled; a position beyond the vector is never taken, because the ends of the runs
 * are part of the search.
 */
#include "compiler/frontend/build_sort.h"

static const int64_t FLOAT_INF_BITS = 0x7f800000;

static UOp *i64(Job *job, int64_t v) { return uop_int(job, DT_I64, v); }
static UOp *stored(Job *job, UOp *u) {
  return build_splat_value(u) ? u : uop1(job, OP_CONTIGUOUS, u);
}

/* -- keys -------------------------------------------------------------------------------------- */

UOp *build_sort_key(Job *job, UOp *x) {
  DType d = uop_dtype(x);
  if (d == DT_U64) {
    x = build2(job, OP_XOR, x, uop_int(job, DT_U64, INT64_MIN));
    return uop_make(job, OP_BITCAST, DT_I64, arg_none(), &x, 1);
  }
  if (!dtype_is_float(d)) return build_cast(job, x, DT_I64);
  if (d != DT_F64) x = build_cast(job, x, DT_F32);
  DType bits = d == DT_F64 ? DT_I64 : DT_I32;
  UOp *nan = build2(job, OP_CMPNE, x, x);
  UOp *zero = build2(job, OP_CMPEQ, x, build_num(job, x, 0));
  UOp *k = uop_make(job, OP_BITCAST, bits, arg_none(), &x, 1);
  UOp *neg = build2(job, OP_CMPLT, k, build_num(job, k, 0));
  UOp *low = uop_int(job, bits, d == DT_F64 ? INT64_MIN : INT32_MIN);
  /* the magnitude of a negative number grows with its bits */
  k = build_where(job, neg, build2(job, OP_SUB, low, k), k);
  k = build_where(job, zero, build_num(job, k, 0), k);
  if (d != DT_F64) { /* what is beyond infinity is NaN: keys of 32 bits */
    k = build2(job, OP_MIN, build2(job, OP_MAX, k, uop_int(job, bits, -FLOAT_INF_BITS)),
               uop_int(job, bits, FLOAT_INF_BITS));
    k = build_where(job, nan, uop_int(job, bits, FLOAT_INF_BITS + 1), k);
    return build_cast(job, k, DT_I64);
  }
  return build_where(job, nan, i64(job, INT64_MAX), k);
}

/* -- prefix sums ------------------------------------------------------------------------------- */

/* The identity of + or *, of x's dtype. */
static UOp *neutral(Job *job, const UOp *x, Op op) {
  return build_num(job, x, op == OP_MUL ? 1 : 0);
}

UOp *build_shift(Job *job, Op op, UOp *x, size_t axis) {
  UOp *wide = build_pad_axis(job, x, axis, 1, 0, neutral(job, x, op));
  return build_slice(job, wide, axis, 0, x->shape.at[axis], 1);
}

UOp *build_scan(Job *job, Op op, UOp *x, size_t axis) {
  DType d = uop_dtype(x), work = dtype_is_bool(d) ? DT_U8 : build_work(d);
  Arg arg = arg_both(op, &(int64_t){(int64_t)axis}, 1);
  x = build_cast(job, x, work);
  return build_cast(job, uop_make(job, OP_SCAN, DT_VOID, arg, &x, 1), d);
}

/* -- searching --------------------------------------------------------------------------------- */

UOp *build_count_below(Job *job, UOp *ascending, UOp *value, bool strict) {
  UOp *n = build_size(job, ascending->shape.at[0]), *count = i64(job, 0);
  int64_t step = 1;
  while (step <= dim_high(ascending->shape.at[0]) / 2) step *= 2;
  for (; step; step /= 2) { /* count + step elements, when the last of them is below */
    UOp *more = build2(job, OP_ADD, count, i64(job, step));
    UOp *at = build2(job, OP_SUB, more, i64(job, 1));
    if (!at->shape.n) at = build_expand(job, at, value->shape);
    UOp *last = build_gather(job, ascending, at, 0);
    UOp *below = build2(job, strict ? OP_CMPLT : OP_CMPLE, last, value);
    below = build2(job, OP_AND, below, build2(job, OP_CMPLE, more, n));
    count = build_where(job, below, more, count);
  }
  return count;
}

UOp *build_positions(Job *job, UOp *prefix, int64_t count) {
  return build_count_below(job, prefix, build_arange(job, DT_I64, count), false);
}

/* -- sorting ----------------------------------------------------------------------------------- */

UOp *build_take(Job *job, UOp *x, UOp *at) {
  int64_t n = x->shape.at[1], flat = dims_numel(job, x->shape);
  UOp *row = build_iota(job, DT_I64, 0, at->shape);
  at = build2(job, OP_ADD, build2(job, OP_MUL, row, build_size(job, n)), at);
  return build_gather(job, build_reshape(job, x, shape_make(&flat, 1)), at, 0);
}

/* Two neighbouring runs of `run` elements, seen from every element of what they merge to. */
typedef struct Merge {
  Job *job;
  UOp *keys;
  UOp *left, *right;   /* where the runs begin */
  UOp *nleft, *nright; /* their lengths; the last runs are shorter */
  UOp *place;          /* of the element in the merged run */
} Merge;

static Merge merge_begin(Job *job, UOp *keys, int64_t run) {
  Merge m = {.job = job, .keys = keys};
  UOp *n = build_size(job, keys->shape.at[1]), *k = build_iota(job, DT_I64, 1, keys->shape);
  UOp *width = i64(job, run), *both = i64(job, 2 * run);
  m.left = build2(job, OP_MUL, build2(job, OP_FLOORDIV, k, both), both);
  m.right = build2(job, OP_MIN, build2(job, OP_ADD, m.left, width), n);
  m.nleft = build2(job, OP_SUB, m.right, m.left);
  UOp *end = build2(job, OP_MIN, build2(job, OP_ADD, m.left, both), n);
  m.nright = build2(job, OP_SUB, end, m.right);
  m.place = build2(job, OP_SUB, k, m.left);
  return m;
}

/* Whether element a of the left run comes before element b of the right one. */
static UOp *left_first(const Merge *m, UOp *a, UOp *b) {
  UOp *x = build_take(m->job, m->keys, build2(m->job, OP_ADD, m->left, a));
  UOp *y = build_take(m->job, m->keys, build2(m->job, OP_ADD, m->right, b));
  return build2(m->job, OP_CMPLE, x, y);
}

/* Where each element of the merged runs comes from. */
static UOp *merge(Job *job, UOp *keys, int64_t run) {
  Merge m = merge_begin(job, keys, run);
  UOp *zero = i64(job, 0), *one = i64(job, 1);
  UOp *low = build2(job, OP_MAX, build2(job, OP_SUB, m.place, m.nright), zero);
  UOp *high = build2(job, OP_MIN, m.place, m.nleft);
  for (int64_t left = run + 1; left > 0; left /= 2) { /* low: taken from the left run before */
    UOp *mid = build2(job, OP_SHR, build2(job, OP_ADD, low, high), one);
    UOp *other = build2(job, OP_SUB, build2(job, OP_SUB, m.place, one), mid);
    UOp *open = build2(job, OP_CMPLT, low, high);
    UOp *more = build2(job, OP_AND, open, left_first(&m, mid, other));
    UOp *less = build2(job, OP_AND, open, build_not(job, more));
    low = build_where(job, more, build2(job, OP_ADD, mid, one), low);
    high = build_where(job, less, mid, high);
  }
  UOp *other = build2(job, OP_SUB, m.place, low);
  UOp *none = build2(job, OP_CMPLE, m.nright, other);
  UOp *take = build2(job, OP_OR, none, left_first(&m, low, other));
  take = build2(job, OP_AND, take, build2(job, OP_CMPLT, low, m.nleft));
  UOp *a = build2(job, OP_ADD, m.left, low), *b = build2(job, OP_ADD, m.right, other);
  return stored(job, build_where(job, take, a, b));
}

/* -- by digits --------------------------------------------------------------------------------- */

enum { DIGIT_BITS = 4, DIGITS = 16, BLOCK = 128 };
static const int64_t MOST_BY_DIGITS = 1 << 22; /* elements; each has a counter per digit */

static UOp *flat(Job *job, UOp *x) {
  int64_t n = dims_numel(job, x->shape);
  return build_reshape(job, x, shape_make(&n, 1));
}

/* What comes before each of [rows, blocks, digits] in the order of digits, then of blocks. */
static UOp *before_blocks(Job *job, UOp *count) {
  UOp *upto = build_scan(job, OP_ADD, count, 1);
  UOp *total = build_slice(job, upto, 1, dim_sub(job, count->shape.at[1], 1), 1, 1);
  Ints pair = shape_make((int64_t[]){DIGITS, DIGITS}, 2);
  UOp *smaller =
      build2(job, OP_CMPLT, build_iota(job, DT_I32, 1, pair), build_iota(job, DT_I32, 0, pair));
  UOp *less = build_where(job, smaller, total, uop_int(job, DT_I32, 0)); /* [rows, digit, less] */
  less = build_unsqueeze(job, stored(job, build_reduce(job, OP_ADD, less, axis_bit(2), false)), 1);
  return stored(job, build2(job, OP_ADD, build2(job, OP_SUB, upto, count), less));
}

/* Where each element of [rows, n] goes when it is ordered by its digit, stably: behind those with
 * smaller digits, those of blocks before, and those of its block that come before. Counts of a
 * block fit a byte. */
static UOp *digit_places(Job *job, UOp *digit) {
  int64_t rows = digit->shape.at[0], n = digit->shape.at[1];
  int64_t blocks = dim_ceildiv(job, n, BLOCK), whole = dim_mul(job, blocks, BLOCK);
  int64_t more = dim_sub(job, whole, n);
  if (!dim_is_static(more)) dim_mark_size(more);
  UOp *all = build_pad_axis(job, digit, 1, 0, more, uop_int(job, DT_U8, DIGITS));
  all = build_reshape_v(job, all, 4, rows, blocks, BLOCK, (int64_t)1);
  UOp *mine = build2(job, OP_CMPEQ, all, build_arange(job, DT_U8, DIGITS));
  UOp *local = build_scan(job, OP_ADD, build_cast(job, mine, DT_U8), 2);
  UOp *count = build_squeeze(job, build_slice(job, local, 2, BLOCK - 1, 1, 1), 2);
  UOp *before = before_blocks(job, stored(job, build_cast(job, count, DT_I32)));
  UOp *row = build_iota(job, DT_I64, 0, digit->shape),
      *at = build_iota(job, DT_I64, 1, digit->shape);
  UOp *of = build_cast(job, digit, DT_I64), *sixteen = i64(job, DIGITS);
  UOp *place = build2(job, OP_ADD, build2(job, OP_MUL, row, build_size(job, whole)), at);
  place = build2(job, OP_ADD, build2(job, OP_MUL, place, sixteen), of);
  UOp *block = build2(job, OP_ADD, build2(job, OP_MUL, row, build_size(job, blocks)),
                      build2(job, OP_FLOORDIV, at, i64(job, BLOCK)));
  block = build2(job, OP_ADD, build2(job, OP_MUL, block, sixteen), of);
  UOp *rank = build_cast(job, build_gather(job, flat(job, local), place, 0), DT_I32);
  UOp *base = build_gather(job, flat(job, before), block, 0);
  return build2(job, OP_SUB, build2(job, OP_ADD, base, rank), uop_int(job, DT_I32, 1));
}

/* x with its elements at places, which are a permutation of each row. */
static UOp *permuted(Job *job, UOp *x, UOp *places) {
  if (!x->shape.n) return x;
  UOp *src[3] = {build_splat(job, build_num(job, x, 0), x->shape), places, x};
  Arg arg = arg_both(OP_STORE, (int64_t[]){1, 1}, 2);
  return uop_make(job, OP_SCATTER, DT_VOID, arg, src, 3);
}

static UOp *digit_of(Job *job, UOp *keys, int at) {
  UOp *digit = build2(job, OP_SHR, keys, build_num(job, keys, at));
  digit = build_cast(job, build2(job, OP_AND, digit, build_num(job, keys, DIGITS - 1)), DT_U8);
  return stored(job, digit); /* so that the kernels that follow are those of every digit */
}

/* From the least digit of the keys, counted from their least value, to the greatest. Where both fit
 * a number a key takes its position along, so that one permutation moves them. */
static UOp *sort_by_digits(Job *job, UOp *keys, int bits) {
  bool both = bits <= 32;
  UOp *order = build_iota(job, both ? DT_U64 : DT_I32, 1, keys->shape);
  keys = build_cast(job, build2(job, OP_SUB, keys, i64(job, keys->vmin)), DT_U64);
  if (both) keys = build2(job, OP_SHL, keys, build_num(job, keys, 32));
  keys = stored(job, both ? build2(job, OP_OR, keys, order) : keys);
  for (int at = 0; at < bits; at += DIGIT_BITS) {
    UOp *places = stored(job, digit_places(job, digit_of(job, keys, both ? at + 32 : at)));
    if (!both) order = permuted(job, order, places);
    if (both || at + DIGIT_BITS < bits) keys = permuted(job, keys, places);
  }
  if (both) order = build2(job, OP_AND, keys, uop_int(job, DT_U64, UINT32_MAX));
  return build_cast(job, order, DT_I64);
}

static int bits_of(const UOp *keys) {
  uint64_t span = (uint64_t)keys->vmax - (uint64_t)keys->vmin;
  int bits = 1;
  while (bits < 64 && span >> bits) bits++;
  return bits;
}

/* -- by pairs ---------------------------------------------------------------------------------- */

/* An element's place is the number of those before it. */
static UOp *sort_by_pairs(Job *job, UOp *keys) {
  int64_t rows = keys->shape.at[0], n = keys->shape.at[1], cube[3] = {rows, n, n};
  Ints wide = shape_make(cube, 3);
  UOp *i = build_iota(job, DT_I64, 1, wide), *j = build_iota(job, DT_I64, 2, wide);
  UOp *mine = build_unsqueeze(job, keys, 2), *other = build_unsqueeze(job, keys, 1);
  UOp *same = build2(job, OP_AND, build2(job, OP_CMPEQ, other, mine), build2(job, OP_CMPLT, j, i));
  UOp *before = build2(job, OP_OR, build2(job, OP_CMPLT, other, mine), same);
  UOp *place = build_reduce(job, OP_ADD, build_cast(job, before, DT_I64), axis_bit(2), false);
  UOp *hit = build2(job, OP_CMPEQ, build_unsqueeze(job, place, 1), i);
  UOp *at = build_where(job, hit, j, uop_int(job, DT_I64, 0));
  return build_reduce(job, OP_ADD, at, axis_bit(2), false);
}

bool build_sort_pays(const UOp *keys) {
  enum { ALL_PAIRS = 128, BY_NETWORK = 16, NARROW = 32 };
  int64_t n = keys->shape.at[1];
  bool by_network = dim_is_static(n) && bits_of(keys) <= NARROW;
  return dim_high(n) > (by_network ? BY_NETWORK : ALL_PAIRS);
}

UOp *build_sort(Job *job, UOp *keys) {
  bool counted = dim_high(dims_numel(job, keys->shape)) <= MOST_BY_DIGITS;
  int bits = bits_of(keys);
  if (!build_sort_pays(keys)) return sort_by_pairs(job, keys);
  UOp *by_network = build_splat_value(keys) ? NULL : build_sort_network(job, keys, bits);
  if (by_network) return by_network;
  if (counted && dim_low(keys->shape.at[1]) > 0 && !build_splat_value(keys))
    return sort_by_digits(job, keys, bits);
  UOp *order = build_iota(job, DT_I64, 1, keys->shape);
  if (build_splat_value(keys)) return order;
  for (int64_t run = 1; run < dim_high(keys->shape.at[1]); run *= 2) {
    UOp *from = merge(job, keys, run);
    keys = stored(job, build_take(job, keys, from));
    order = stored(job, build_take(job, order, from));
  }
  return order;
}
