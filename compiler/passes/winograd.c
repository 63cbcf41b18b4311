/* F(m x m, 3 x 3) after Winograd, and Lavin and Gray: Y = A' [ (G w G') . (B' d B) ] A for every
 * tile of m x m outputs, d being its m + 2 by m + 2 inputs. Summed over channels, the products are
 * (m + 2)^2 independent matrix products, which do 9 m^2 / (m + 2)^2 times less work than the
 * convolution: 2.25 for m = 2, 4 for m = 4. G w G' depends on weights alone.
 *
 * A transform is two linear maps of a short axis. Each is a choice, by position along the new axis,
 * among the sums that the rows of its matrix are. A schedule that writes that axis out leaves the
 * sums alone; rows that differ in signs share what they can.
 *
 * The error grows with the condition of the matrices: about 1e-6 relative to the largest output for
 * m = 2, 1e-5 for m = 4 (docs/numerics.md). */
#include "compiler/passes/winograd.h"

enum { MAX_POINTS = 6, MAX_RANK = 9 };

typedef struct Matrix {
  int64_t rows, cols;
  double at[MAX_POINTS][MAX_POINTS];
} Matrix;

typedef struct Transforms {
  Matrix input, weights, output; /* B', G, A' */
} Transforms;

static const Transforms of_two = {
    .input = {4, 4, {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}}},
    .weights = {4, 3, {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}}},
    .output = {2, 4, {{1, 1, 1, 0}, {0, 1, -1, -1}}},
};
static const Transforms of_four = {
    .input = {6,
              6,
              {{4, 0, -5, 0, 1, 0},
               {0, -4, -4, 1, 1, 0},
               {0, 4, -4, -1, 1, 0},
               {0, -2, -1, 2, 1, 0},
               {0, 2, -1, -2, 1, 0},
               {0, 4, 0, -5, 0, 1}}},
    .weights = {6,
                3,
                {{1 / 4., 0, 0},
                 {-1 / 6., -1 / 6., -1 / 6.},
                 {-1 / 6., 1 / 6., -1 / 6.},
                 {1 / 24., 1 / 12., 1 / 6.},
                 {1 / 24., -1 / 12., 1 / 6.},
                 {0, 0, 1}}},
    .output =
        {4,
         6,
         {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}}},
};

/* -- the choice -------------------------------------------------------------------------------- */

/* Times of a rough machine, in multiply-adds: moving a byte beyond the cache costs STREAM of them.
 */
static double stream(const Target *t, double bytes) {
  static const double STREAM = 8, NEAR = 0.25;
  return bytes * STREAM * (bytes > (double)t->l2_bytes ? 1 : NEAR);
}

static double direct_time(const Target *t, const Conv *c) {
  double weights = 9. * (double)(c->channels * c->filters);
  return weights * (double)(c->batch * c->out[0] * c->out[1]) + stream(t, 4 * weights);
}

static double tiled_time(const Target *t, const Conv *c, int64_t m) {
  double points = (double)((m + 2) * (m + 2)), weights = (double)(c->channels * c->filters);
  int64_t ntiles = c->batch * (c->out[0] / m) * (c->out[1] / m);
  double tiles = (double)ntiles;
  double between = points * tiles * (double)(c->channels + c->filters);
  return points * tiles * weights + stream(t, 4 * points * weights) + 2 * stream(t, 4 * between) +
         2 * between;
}

double winograd_more_weights(const Conv *c, int64_t m) {
  return 4. * (double)((m + 2) * (m + 2) - 9) * (double)(c->channels * c->filters);
}

int64_t winograd_tile(const Target *target, const Conv *c, double spare) {
  enum { LEAST = 16, FEWEST_TILES = 14, MOST_BETWEEN = 32 << 20 };
  double best = 0.8 * direct_time(target, c); /* it has to be worth its rounding */
  int64_t tile = 0;
  for (int d = 0; d < 2; d++)
    if (c->kernel[d] != 3 || c->stride[d] != 1 || c->dilation[d] != 1) return 0;
  if (c->channels < LEAST || c->filters < LEAST || c->groups != 1) return 0;
  for (int64_t m = 2; m <= 4; m += 2) {
    int64_t points = (m + 2) * (m + 2), tiles = c->batch * (c->out[0] / m) * (c->out[1] / m);
    if (c->out[0] % m || c->out[1] % m || tiles < FEWEST_TILES) continue;
    double between = 4. * (double)(points * tiles) * (double)(c->channels + c->filters);
    if (between > (double)c->batch * MOST_BETWEEN || winograd_more_weights(c, m) > spare) continue;
    double time = tiled_time(target, c, m);
    if (time < best) best = time, tile = m;
  }
  return tile;
}

/* -- linear maps of one axis ------------------------------------------------------------------- */

static UOp *moved(Job *job, Op op, UOp *x, const int64_t *v, size_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(v, n), &x, 1);
}

#define DIMS(...) (int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

/* x[..., k:k+1, ...] */
static UOp *slice(Job *job, UOp *x, uint32_t axis, int64_t k) {
  int64_t bounds[2 * MAX_RANK];
  for (uint32_t a = 0; a < x->shape.n; a++) bounds[2 * a] = 0, bounds[2 * a + 1] = x->shape.at[a];
  bounds[2 * axis] = k, bounds[2 * axis + 1] = k + 1;
  return moved(job, OP_SHRINK, x, bounds, 2 * x->shape.n);
}

/* sum + c x; NULL is an empty sum. */
static UOp *plus(Job *job, UOp *sum, double c, UOp *x) {
  if (c == 0) return sum;
  if (sum && c == -1) return uop2(job, OP_SUB, sum, x);
  if (c != 1) x = uop2(job, OP_MUL, x, uop_float(job, DT_F32, c));
  return sum ? uop2(job, OP_ADD, sum, x) : x;
}

/* The terms of row r that row `other` has with the same sign, or with the other one. */
static UOp *part(Job *job, const Matrix *m, UOp *const *x, int64_t r, int64_t other, bool same) {
  UOp *sum = NULL;
  for (int64_t k = m->cols; k-- > 0;)
    if ((m->at[r][k] == m->at[other][k]) == same) sum = plus(job, sum, m->at[r][k], x[k]);
  return sum;
}

static bool differs_in_signs(const Matrix *m, int64_t r, int64_t other) {
  for (int64_t k = 0; k < m->cols; k++)
    if (m->at[r][k] != m->at[other][k] && m->at[r][k] != -m->at[other][k]) return false;
  return true;
}

static void rows(Job *job, const Matrix *m, UOp *const *x, UOp **out) {
  for (int64_t r = 0; r < m->rows; r++) {
    if (r + 1 == m->rows || !differs_in_signs(m, r, r + 1)) {
      out[r] = part(job, m, x, r, r, true);
      continue;
    }
    UOp *same = part(job, m, x, r, r + 1, true), *other = part(job, m, x, r, r + 1, false);
    out[r] = uop2(job, OP_ADD, same, other);
    out[r + 1] = uop2(job, OP_SUB, same, other);
    r++;
  }
}

/* Axis `axis` of x, mapped by m. */
static UOp *mapped(Job *job, const Matrix *m, UOp *x, uint32_t axis) {
  UOp *in[MAX_POINTS] = {NULL}, *out[MAX_POINTS] = {NULL}, *y = NULL;
  int64_t dims[MAX_RANK], ones[MAX_RANK];
  uint32_t rank = x->shape.n;
  for (int64_t k = 0; k < m->cols; k++) in[k] = slice(job, x, axis, k);
  rows(job, m, in, out);
  for (uint32_t a = 0; a < rank; a++) dims[a] = x->shape.at[a], ones[a] = 1;
  dims[axis] = ones[axis] = m->rows;
  UOp *at = uop_make(job, OP_IOTA, DT_I32, arg_both(axis, ones, rank), NULL, 0);
  for (int64_t r = m->rows; r-- > 0;) {
    UOp *sum = moved(job, OP_EXPAND, out[r], dims, rank);
    UOp *here = moved(job, OP_EXPAND, uop2(job, OP_CMPEQ, at, uop_int(job, DT_I32, r)), dims, rank);
    y = y ? uop3(job, OP_WHERE, here, sum, y) : sum;
  }
  return y;
}

static UOp *both_axes(Job *job, const Matrix *m, UOp *x) {
  return mapped(job, m, mapped(job, m, x, 0), 1);
}

/* -- the three steps --------------------------------------------------------------------------- */

/* [i, j, c / bi, n, p / m, q / m, bi] */
static UOp *input_tiles(Job *job, const Transforms *t, UOp *x, int64_t m) {
  for (uint32_t d = 0; d < 2; d++) x = moved(job, OP_WINDOW, x, DIMS(2 + 2 * d, m + 2, m, 1));
  x = moved(job, OP_PERMUTE, x, DIMS(3, 5, 1, 0, 2, 4, 6));
  return uop1(job, OP_CONTIGUOUS, both_axes(job, &t->input, x));
}

/* [i, j, k / bo, c / bi, bi, bo] */
static UOp *weights(Job *job, const Transforms *t, const Conv *c, int64_t bi, int64_t bo) {
  UOp *w = moved(job, OP_RESHAPE, c->w, DIMS(c->filters / bo, bo, c->channels / bi, bi, 3, 3));
  w = moved(job, OP_PERMUTE, w, DIMS(4, 5, 0, 2, 3, 1));
  return uop1(job, OP_CONTIGUOUS, both_axes(job, &t->weights, w));
}

UOp *winograd_conv(Job *job, const Conv *c, UOp *x, int64_t m, int64_t bi, int64_t bo) {
  const Transforms *t = m == 2 ? &of_two : &of_four;
  int64_t s = m + 2, th = c->out[0] / m, tw = c->out[1] / m;
  int64_t cb = c->channels / bi, kb = c->filters / bo, n = c->batch;
  UOp *v = moved(job, OP_PERMUTE, input_tiles(job, t, x, m), DIMS(0, 1, 3, 4, 5, 2, 6));
  v = moved(job, OP_RESHAPE, v, DIMS(s, s, 1, n, th, tw, 1, cb, bi));
  v = moved(job, OP_EXPAND, v, DIMS(s, s, kb, n, th, tw, bo, cb, bi));
  UOp *u = moved(job, OP_PERMUTE, weights(job, t, c, bi, bo), DIMS(0, 1, 2, 5, 3, 4));
  u = moved(job, OP_RESHAPE, u, DIMS(s, s, kb, 1, 1, 1, bo, cb, bi));
  u = moved(job, OP_EXPAND, u, DIMS(s, s, kb, n, th, tw, bo, cb, bi));
  UOp *y = uop2(job, OP_MUL, v, u);
  y = uop_make(job, OP_REDUCE, DT_VOID, arg_both(OP_ADD, (int64_t[]){7, 8}, 2), &y, 1);
  y = uop1(job, OP_CONTIGUOUS, moved(job, OP_RESHAPE, y, DIMS(s, s, kb, n, th, tw, bo)));
  y = moved(job, OP_PERMUTE, both_axes(job, &t->output, y), DIMS(3, 2, 4, 0, 5, 1, 6));
  return moved(job, OP_RESHAPE, y, DIMS(n, kb, c->out[0], c->out[1], bo));
}
