/* Rows of a known length are sorted by a network: comparisons whose places do not depend on what is
 * compared, so that they are vectors of minima and maxima.
 *
 * A key and its position are one number, so that no two are equal, the order is stable, and one
 * minimum moves both. Eight neighbours are sorted by Batcher's network of odd and even merges; then
 * two sorted runs are merged again and again. The second run read backwards makes one sequence of
 * both that rises and falls, which steps of half its length, a quarter, ... 1 put in order. Three
 * steps are one tensor: elements [runs, 8, apart] are compared along the axis of 8, all of it in
 * registers. Of a merge only the first tensor is of a size of its own, so that merges share
 * kernels.
 *
 * The work grows with the square of the length's logarithm. */
#include "compiler/frontend/build_sort.h"

enum { STEPS = 3, WAYS = 1 << STEPS };
static const int64_t LONGEST = 1 << 14;

/* Numbers [rows, n], n a power of two. */
typedef struct Network {
  Job *job;
  int64_t rows, n;
  UOp *way[WAYS]; /* of the tensor that is made: [rows, runs, 1, apart] each */
} Network;

static void compare(Network *s, int64_t i, int64_t j) {
  UOp *low = build2(s->job, OP_MIN, s->way[i], s->way[j]);
  s->way[j] = build2(s->job, OP_MAX, s->way[i], s->way[j]);
  s->way[i] = low;
}

static void take_apart(Network *s, UOp *x, int64_t ways, int64_t apart) {
  x = build_reshape_v(s->job, x, 4, s->rows, s->n / (ways * apart), ways, apart);
  for (int64_t i = 0; i < ways; i++) s->way[i] = build_slice(s->job, x, 2, i, 1, 1);
}

/* Not a CAT: its parts would be kernels of their own. */
static UOp *put_together(Network *s, int64_t ways) {
  int64_t dims[4] = {s->rows, s->way[0]->shape.at[1], ways, s->way[0]->shape.at[3]};
  Ints shape = shape_make(dims, 4);
  UOp *which = build_iota(s->job, DT_I64, 2, shape), *x = build_expand(s->job, s->way[0], shape);
  for (int64_t i = 1; i < ways; i++) {
    UOp *before = build2(s->job, OP_CMPLT, which, uop_int(s->job, DT_I64, i));
    x = build_where(s->job, before, x, s->way[i]);
  }
  return uop1(s->job, OP_CONTIGUOUS, build_reshape_v(s->job, x, 2, s->rows, s->n));
}

/* Each run of WAYS. */
static UOp *sort_runs(Network *s, UOp *x) {
  take_apart(s, x, WAYS, 1);
  for (int64_t run = 1; run < WAYS; run *= 2)
    for (int64_t apart = run; apart; apart /= 2)
      for (int64_t i = apart % run; i + apart < WAYS; i += 2 * apart)
        for (int64_t k = i; k < i + apart && k + apart < WAYS; k++)
          if (k / (2 * run) == (k + apart) / (2 * run)) compare(s, k, k + apart);
  return put_together(s, WAYS);
}

/* Steps along runs of ways * apart; `merges`: each is two sorted ones. */
static UOp *steps_along(Network *s, UOp *x, int64_t ways, int64_t apart, bool merges) {
  take_apart(s, x, ways, apart);
  for (int64_t i = ways / 2, j = ways - 1; merges && i <= j; i++, j--) {
    UOp *back = build_flip(s->job, s->way[i], 3);
    s->way[i] = build_flip(s->job, s->way[j], 3);
    s->way[j] = back;
  }
  for (int64_t step = ways / 2; step; step /= 2)
    for (int64_t i = 0; i < ways; i++)
      if (!(i & step)) compare(s, i, i + step);
  return put_together(s, ways);
}

/* Runs of half as many into runs of 2^bits. */
static UOp *merge_runs(Network *s, UOp *x, int bits) {
  int first = bits % STEPS ? bits % STEPS : STEPS;
  x = steps_along(s, x, 1 << first, (int64_t)1 << (bits - first), true);
  for (int left = bits - first; left > 0; left -= STEPS)
    x = steps_along(s, x, WAYS, (int64_t)1 << (left - STEPS), false);
  return x;
}

static int log_above(int64_t n) {
  int bits = STEPS;
  while ((int64_t)1 << bits < n) bits++;
  return bits;
}

UOp *build_sort_network(Job *job, UOp *keys, int bits) {
  int64_t rows = keys->shape.at[0], n = keys->shape.at[1];
  int length = dim_is_static(n) ? log_above(n) : 0;
  if (!length || n > LONGEST || bits + length > 64) return NULL;
  bool narrow = bits + length <= 32;
  DType d = narrow ? DT_I32 : DT_I64;
  Network s = {.job = job, .rows = rows, .n = (int64_t)1 << length};
  /* Half of the keys are below 0. */
  UOp *least = uop_int(job, DT_I64, keys->vmin + (int64_t)((uint64_t)1 << (bits - 1)));
  UOp *x = build_cast(job, build2(job, OP_SUB, keys, least), d);
  x = build2(job, OP_MUL, x, uop_int(job, d, (int64_t)1 << length));
  x = build2(job, OP_ADD, x, build_iota(job, d, 1, keys->shape));
  UOp *last = uop_int(job, d, narrow ? INT32_MAX : INT64_MAX);
  x = uop1(job, OP_CONTIGUOUS, build_pad_axis(job, x, 1, 0, s.n - n, last));
  x = sort_runs(&s, x);
  for (int merged = STEPS + 1; merged <= length; merged++) x = merge_runs(&s, x, merged);
  x = build_slice(job, x, 1, 0, n, 1);
  x = build2(job, OP_AND, x, uop_int(job, d, ((int64_t)1 << length) - 1));
  return build_cast(job, x, DT_I64);
}
