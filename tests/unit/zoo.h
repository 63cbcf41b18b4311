/* Ranged kernels built by hand, for tests of the scheduling passes and for the kernel bench. Sizes
 * are dims: those of the kernels that have no windows may be expressions over VARs. */
#pragma once

#include <math.h>
#include <stdlib.h>

#include "compiler/ir/dim.h"
#include "compiler/ir/plan.h"

typedef struct ZooKernel {
  const char *name;
  UOp *sink;
  UOp *params[5]; /* 0 is written */
  uint32_t nargs;
  int64_t flops, bytes;
} ZooKernel;

typedef struct Zoo {
  Job *job;
  ZooKernel k;
  UOp *ranges[16];
  uint32_t n;
} Zoo;

static inline int64_t zoo_times(Job *job, int64_t a, int64_t b) { return dim_mul(job, a, b); }
static inline UOp *zoo_param(Zoo *z, DType d, int64_t n) {
  z->k.bytes += dim_high(n) * dtype_info[d].bytes;
  return z->k.params[z->k.nargs] = uop_param(z->job, z->k.nargs, d, &n, 1),
         z->k.params[z->k.nargs++];
}
static inline UOp *zoo_range(Zoo *z, AxisType t, int64_t n) {
  return z->ranges[z->n] = uop_range(z->job, z->n, t, dim_uop(z->job, n)), z->ranges[z->n++];
}
static inline UOp *zoo_add(Zoo *z, UOp *a, UOp *b) {
  if (uop_is_int(a, 0) && a->dtype == DT_INDEX) return b;
  if (uop_is_int(b, 0) && a->dtype == DT_INDEX) return a;
  return uop2(z->job, OP_ADD, a, b);
}
static inline UOp *zoo_mul(Zoo *z, UOp *a, int64_t k) {
  return k == 1 ? a : uop2(z->job, OP_MUL, a, dim_uop(z->job, k));
}
static inline UOp *zoo_int(Zoo *z, int64_t v) { return uop_index(z->job, v); }
static inline UOp *zoo_load(Zoo *z, UOp *p, UOp *i, UOp *gate) {
  UOp *src[3] = {p, i, gate};
  return uop_make(z->job, OP_INDEX, DT_VOID, arg_none(), src, gate ? 3 : 2);
}
/* Stores over the LOOP ranges made so far. */
static inline ZooKernel zoo_done(Zoo *z, const char *name, UOp *index, UOp *value) {
  UOp *src[17], *st[3] = {z->k.params[0], index, value};
  uint32_t n = 1;
  src[0] = uop_make(z->job, OP_STORE, DT_VOID, arg_i(0), st, 3);
  for (uint32_t i = 0; i < z->n; i++)
    if (uop_axis(z->ranges[i]) == AX_LOOP) src[n++] = z->ranges[i];
  UOp *end = uop_make(z->job, OP_END, DT_VOID, arg_none(), src, n);
  z->k.sink = uop_make(z->job, OP_SINK, DT_VOID, arg_none(), &end, 1);
  z->k.name = name;
  return z->k;
}

/* C[m,n] = relu(sum_k A[m,k] B[k,n] + bias[n]); tb: B is [n,k]. */
static inline ZooKernel zoo_matmul(Job *job, DType d, int64_t M, int64_t N, int64_t K, bool tb) {
  Zoo z = {.job = job};
  UOp *c = zoo_param(&z, d, zoo_times(job, M, N)), *a = zoo_param(&z, d, zoo_times(job, M, K)),
      *b = zoo_param(&z, d, zoo_times(job, K, N));
  UOp *bias = zoo_param(&z, d, N);
  (void)c;
  UOp *m = zoo_range(&z, AX_LOOP, M), *n = zoo_range(&z, AX_LOOP, N),
      *k = zoo_range(&z, AX_REDUCE, K);
  UOp *ai = zoo_add(&z, zoo_mul(&z, m, K), k);
  UOp *bi = tb ? zoo_add(&z, zoo_mul(&z, n, K), k) : zoo_add(&z, zoo_mul(&z, k, N), n);
  UOp *p = uop2(job, OP_MUL, zoo_load(&z, a, ai, NULL), zoo_load(&z, b, bi, NULL));
  UOp *v = uop2(job, OP_ADD, uop_reduce(job, OP_ADD, p, &k, 1), zoo_load(&z, bias, n, NULL));
  v = uop2(job, OP_MAX, v, uop_number(job, d, 0));
  z.k.flops = 2 * dim_high(M) * dim_high(N) * dim_high(K);
  return zoo_done(&z, "matmul", zoo_add(&z, zoo_mul(&z, m, N), n), v);
}

/* C[m,n] = sum_k abs(A[m,k]) abs(A[n,k]) */
static inline ZooKernel zoo_gram(Job *job, int64_t M, int64_t K) {
  Zoo z = {.job = job};
  UOp *c = zoo_param(&z, DT_F32, zoo_times(job, M, M)),
      *a = zoo_param(&z, DT_F32, zoo_times(job, M, K));
  (void)c;
  UOp *m = zoo_range(&z, AX_LOOP, M), *n = zoo_range(&z, AX_LOOP, M),
      *k = zoo_range(&z, AX_REDUCE, K);
  UOp *x = zoo_load(&z, a, zoo_add(&z, zoo_mul(&z, m, K), k), NULL);
  UOp *y = zoo_load(&z, a, zoo_add(&z, zoo_mul(&z, n, K), k), NULL);
  UOp *p = uop2(job, OP_MUL, uop1(job, OP_ABS, x), uop1(job, OP_ABS, y));
  z.k.flops = 2 * dim_high(M) * dim_high(M) * dim_high(K);
  UOp *sum = uop_reduce(job, OP_ADD, p, &k, 1);
  return zoo_done(&z, "gram", zoo_add(&z, zoo_mul(&z, m, M), n), sum);
}

/* C[m,n] = sum_k A[m,k] B[k,n] + bias[n] of numbers of d and e, summed in sum; tb: B is [n,k]. */
static inline ZooKernel zoo_matmul_of(Job *job, DType d, DType e, DType sum, int64_t M, int64_t N,
                                      int64_t K, bool tb) {
  Zoo z = {.job = job};
  UOp *c = zoo_param(&z, sum, M * N), *a = zoo_param(&z, d, M * K), *b = zoo_param(&z, e, K * N);
  UOp *bias = zoo_param(&z, sum, N);
  (void)c;
  UOp *m = zoo_range(&z, AX_LOOP, M), *n = zoo_range(&z, AX_LOOP, N);
  UOp *k = zoo_range(&z, AX_REDUCE, K);
  UOp *bi = tb ? zoo_add(&z, zoo_mul(&z, n, K), k) : zoo_add(&z, zoo_mul(&z, k, N), n);
  UOp *x = uop_cast(job, zoo_load(&z, a, zoo_add(&z, zoo_mul(&z, m, K), k), NULL), sum);
  UOp *p = uop2(job, OP_MUL, x, uop_cast(job, zoo_load(&z, b, bi, NULL), sum));
  z.k.flops = 2 * M * N * K;
  UOp *v = uop2(job, OP_ADD, uop_reduce(job, OP_ADD, p, &k, 1), zoo_load(&z, bias, n, NULL));
  return zoo_done(&z, "matmul_of", zoo_add(&z, zoo_mul(&z, m, N), n), v);
}

/* C[m,n] = sum_k A[m,k] relu(B[k,n] * s[k]): a factor that is worth packing as computed. */
static inline ZooKernel zoo_prologue(Job *job, int64_t M, int64_t N, int64_t K) {
  Zoo z = {.job = job};
  UOp *c = zoo_param(&z, DT_F32, zoo_times(job, M, N)),
      *a = zoo_param(&z, DT_F32, zoo_times(job, M, K));
  UOp *b = zoo_param(&z, DT_F32, zoo_times(job, K, N)), *scale = zoo_param(&z, DT_F32, K);
  (void)c;
  UOp *m = zoo_range(&z, AX_LOOP, M), *n = zoo_range(&z, AX_LOOP, N);
  UOp *k = zoo_range(&z, AX_REDUCE, K);
  UOp *x = zoo_load(&z, b, zoo_add(&z, zoo_mul(&z, k, N), n), NULL);
  x = uop2(job, OP_MUL, x, zoo_load(&z, scale, k, NULL));
  x = uop2(job, OP_MAX, x, uop_number(job, DT_F32, 0));
  UOp *p = uop2(job, OP_MUL, zoo_load(&z, a, zoo_add(&z, zoo_mul(&z, m, K), k), NULL), x);
  z.k.flops = 2 * dim_high(M) * dim_high(N) * dim_high(K);
  return zoo_done(&z, "prologue", zoo_add(&z, zoo_mul(&z, m, N), n),
                  uop_reduce(job, OP_ADD, p, &k, 1));
}

typedef struct ZooConv {
  int64_t n, c, h, w, oc, kh, kw, stride, pad;
  bool flat; /* one range over output pixels */
  bool depthwise;
} ZooConv;

static inline UOp *zoo_inside(Zoo *z, UOp *i, int64_t n) {
  Job *job = z->job;
  UOp *lo = uop2(job, OP_CMPLE, uop_index(job, 0), i);
  return uop2(job, OP_AND, lo, uop2(job, OP_CMPLT, i, uop_index(job, n)));
}

static inline ZooKernel zoo_conv(Job *job, ZooConv v) {
  Zoo z = {.job = job};
  int64_t oh = (v.h + 2 * v.pad - v.kh) / v.stride + 1,
          ow = (v.w + 2 * v.pad - v.kw) / v.stride + 1;
  int64_t ic = v.depthwise ? 1 : v.c;
  UOp *y = zoo_param(&z, DT_F32, v.n * v.oc * oh * ow),
      *x = zoo_param(&z, DT_F32, v.n * v.c * v.h * v.w);
  UOp *w = zoo_param(&z, DT_F32, v.oc * ic * v.kh * v.kw), *bias = zoo_param(&z, DT_F32, v.oc);
  (void)y;
  UOp *n = v.n > 1 ? zoo_range(&z, AX_LOOP, v.n) : zoo_int(&z, 0),
      *o = zoo_range(&z, AX_LOOP, v.oc);
  UOp *p = NULL, *i, *j;
  if (v.flat) {
    p = zoo_range(&z, AX_LOOP, oh * ow);
    i = uop2(job, OP_FLOORDIV, p, uop_index(job, ow));
    j = uop2(job, OP_FLOORMOD, p, uop_index(job, ow));
  } else {
    i = zoo_range(&z, AX_LOOP, oh);
    j = zoo_range(&z, AX_LOOP, ow);
  }
  UOp *red[3];
  uint32_t nr = 0;
  UOp *c = v.depthwise ? o : (red[nr++] = zoo_range(&z, AX_REDUCE, ic));
  UOp *kh = v.kh > 1 ? (red[nr++] = zoo_range(&z, AX_REDUCE, v.kh)) : zoo_int(&z, 0);
  UOp *kw = v.kw > 1 ? (red[nr++] = zoo_range(&z, AX_REDUCE, v.kw)) : zoo_int(&z, 0);
  UOp *hi = zoo_add(&z, zoo_add(&z, zoo_mul(&z, i, v.stride), kh), zoo_int(&z, -v.pad));
  UOp *wi = zoo_add(&z, zoo_add(&z, zoo_mul(&z, j, v.stride), kw), zoo_int(&z, -v.pad));
  UOp *gate = v.pad ? uop2(job, OP_AND, zoo_inside(&z, hi, v.h), zoo_inside(&z, wi, v.w)) : NULL;
  UOp *plane = zoo_add(&z, zoo_mul(&z, n, v.c), c);
  UOp *xi = zoo_add(&z, zoo_mul(&z, plane, v.h * v.w), zoo_add(&z, zoo_mul(&z, hi, v.w), wi));
  if (v.flat && v.stride == 1) /* what rangeify's algebra would have made of it */
    xi = zoo_add(&z, zoo_mul(&z, plane, v.h * v.w),
                 zoo_add(&z, zoo_add(&z, p, zoo_mul(&z, kh, v.w)),
                         zoo_add(&z, kw, zoo_int(&z, -v.pad * v.w - v.pad))));
  UOp *row = v.depthwise ? o : zoo_add(&z, zoo_mul(&z, o, ic), c);
  UOp *wgt = zoo_add(&z, zoo_mul(&z, row, v.kh * v.kw), zoo_add(&z, zoo_mul(&z, kh, v.kw), kw));
  UOp *prod = uop2(job, OP_MUL, zoo_load(&z, x, xi, gate), zoo_load(&z, w, wgt, NULL));
  UOp *val = uop2(job, OP_ADD, uop_reduce(job, OP_ADD, prod, red, nr), zoo_load(&z, bias, o, NULL));
  val = uop2(job, OP_MAX, val, uop_number(job, DT_F32, 0));
  UOp *pix = v.flat ? p : zoo_add(&z, zoo_mul(&z, i, ow), j);
  UOp *yi = zoo_add(&z, zoo_mul(&z, zoo_add(&z, zoo_mul(&z, n, v.oc), o), oh * ow), pix);
  z.k.flops = 2 * v.n * v.oc * oh * ow * ic * v.kh * v.kw;
  return zoo_done(&z, "conv", yi, val);
}

static inline ZooKernel zoo_elementwise(Job *job, int64_t n) {
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, DT_F32, n), *a = zoo_param(&z, DT_F32, n), *b = zoo_param(&z, DT_F32, n);
  UOp *i = zoo_range(&z, AX_LOOP, n);
  (void)y;
  UOp *v = uop2(job, OP_ADD, zoo_load(&z, a, i, NULL), zoo_load(&z, b, i, NULL));
  return zoo_done(&z, "elementwise", i, uop2(job, OP_MAX, v, uop_number(job, DT_F32, 0)));
}

static inline ZooKernel zoo_transpose(Job *job, int64_t n, int64_t m) {
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, DT_F32, zoo_times(job, n, m)),
      *a = zoo_param(&z, DT_F32, zoo_times(job, n, m));
  UOp *i = zoo_range(&z, AX_LOOP, n), *j = zoo_range(&z, AX_LOOP, m);
  (void)y;
  UOp *v = zoo_load(&z, a, zoo_add(&z, zoo_mul(&z, j, n), i), NULL);
  return zoo_done(&z, "transpose", zoo_add(&z, zoo_mul(&z, i, m), j), v);
}

/* y = (x - max) / sum(exp(x - max)) along rows; plain: without the exp, which codegen cannot do
 * alone. */
static inline ZooKernel zoo_softmax(Job *job, int64_t rows, int64_t cols, bool plain) {
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, DT_F32, zoo_times(job, rows, cols)),
      *x = zoo_param(&z, DT_F32, zoo_times(job, rows, cols));
  UOp *r = zoo_range(&z, AX_LOOP, rows), *c = zoo_range(&z, AX_LOOP, cols);
  UOp *k = zoo_range(&z, AX_REDUCE, cols);
  (void)y;
  UOp *row = zoo_mul(&z, r, cols);
  UOp *xk = zoo_load(&z, x, zoo_add(&z, row, k), NULL),
      *xc = zoo_load(&z, x, zoo_add(&z, row, c), NULL);
  UOp *max = uop_reduce(job, OP_MAX, xk, &k, 1);
  UOp *ek = uop2(job, OP_SUB, xk, max), *ec = uop2(job, OP_SUB, xc, max);
  if (!plain)
    ek = uop1(job, OP_EXP, ek), ec = uop1(job, OP_EXP, ec);
  else
    ek = uop2(job, OP_SUB, ek, uop_number(job, DT_F32, 1));
  UOp *sum = uop_reduce(job, OP_ADD, ek, &k, 1);
  UOp *share =
      plain ? uop2(job, OP_FDIV, ec, sum) : uop2(job, OP_MUL, ec, uop1(job, OP_RECIP, sum));
  return zoo_done(&z, "softmax", zoo_add(&z, row, c), share);
}

/* An attention over elements of dtype d; the arithmetic in between is f32. */
typedef struct ZooAttention {
  DType d;
  int64_t rows, keys, depth, width;
  bool causal;
  int64_t late,
      window; /* causal: row i sees keys up to i - late; the last `window` of them, or all */
  bool bias;  /* added to the scores */
} ZooAttention;

/* One score: q[i] . k[j], and where `causal` -inf unless j <= i, or what else is asked for. */
static inline UOp *zoo_score(Zoo *z, const ZooAttention *t, UOp *const *p, UOp *i, UOp *j) {
  Job *job = z->job;
  UOp *k = zoo_range(z, AX_REDUCE, t->depth);
  UOp *q = zoo_load(z, p[0], zoo_add(z, zoo_mul(z, i, t->depth), k), NULL);
  UOp *at = zoo_load(z, p[1], zoo_add(z, zoo_mul(z, j, t->depth), k), NULL);
  UOp *product = uop2(job, OP_MUL, uop_cast(job, q, DT_F32), uop_cast(job, at, DT_F32));
  UOp *s = uop_reduce(job, OP_ADD, product, &k, 1);
  if (t->bias) {
    UOp *b = zoo_load(z, p[4], zoo_add(z, zoo_mul(z, i, t->keys), j), NULL);
    s = uop2(job, OP_ADD, s, uop_cast(job, b, DT_F32));
  }
  if (!t->causal) return s;
  UOp *none = uop_number(job, DT_F32, (double)-INFINITY);
  UOp *seen = uop2(job, OP_CMPLE, zoo_add(z, j, zoo_int(z, t->late)), i);
  if (t->window) {
    UOp *near = uop2(job, OP_CMPLT, i, zoo_add(z, j, zoo_int(z, t->window + t->late)));
    seen = uop2(job, OP_AND, near, seen);
  }
  return uop3(job, OP_WHERE, seen, s, none);
}

/* o = softmax(q k^T) v, every reduction over a range of its own, as fusion leaves it; 0 where a row
 * sees no key, if that may be. */
static inline ZooKernel zoo_attention_of(Job *job, const ZooAttention *t) {
  Zoo z = {.job = job};
  UOp *p[5] = {0};
  p[3] = zoo_param(&z, t->d, zoo_times(job, t->rows, t->width));
  p[0] = zoo_param(&z, t->d, zoo_times(job, t->rows, t->depth));
  p[1] = zoo_param(&z, t->d, zoo_times(job, t->keys, t->depth));
  p[2] = zoo_param(&z, t->d, zoo_times(job, t->keys, t->width));
  if (t->bias) p[4] = zoo_param(&z, t->d, zoo_times(job, t->rows, t->keys));
  UOp *i = zoo_range(&z, AX_LOOP, t->rows), *d = zoo_range(&z, AX_LOOP, t->width), *j[3], *s[3];
  for (int n = 0; n < 3; n++) {
    j[n] = zoo_range(&z, AX_REDUCE, t->keys);
    s[n] = zoo_score(&z, t, p, i, j[n]);
  }
  UOp *max = uop_reduce(job, OP_MAX, s[0], &j[0], 1);
  UOp *sum = uop_reduce(job, OP_ADD, uop1(job, OP_EXP, uop2(job, OP_SUB, s[1], max)), &j[1], 1);
  UOp *e = uop1(job, OP_EXP, uop2(job, OP_SUB, s[2], max));
  UOp *v = zoo_load(&z, p[2], zoo_add(&z, zoo_mul(&z, j[2], t->width), d), NULL);
  UOp *share = uop2(job, OP_MUL, e, uop1(job, OP_RECIP, sum));
  UOp *nothing = uop2(job, OP_CMPEQ, max, uop_number(job, DT_F32, (double)-INFINITY));
  if (t->late || t->window) share = uop3(job, OP_WHERE, nothing, uop_number(job, DT_F32, 0), share);
  share = uop_cast(job, uop_cast(job, share, t->d), DT_F32);
  UOp *o = uop2(job, OP_MUL, share, uop_cast(job, v, DT_F32));
  o = uop_cast(job, uop_reduce(job, OP_ADD, o, &j[2], 1), t->d);
  return zoo_done(&z, "attention", zoo_add(&z, zoo_mul(&z, i, t->width), d), o);
}

static inline ZooKernel zoo_attention(Job *job, int64_t rows, int64_t keys, int64_t depth,
                                      int64_t width, bool causal) {
  return zoo_attention_of(job, &(ZooAttention){DT_F32, rows, keys, depth, width, .causal = causal});
}

/* y = (x - mean) / sqrt(var + eps), with the variance as mean of squared differences or (fused) of
 * squares. */
static inline ZooKernel zoo_layernorm(Job *job, int64_t rows, int64_t cols, bool squares) {
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, DT_F32, zoo_times(job, rows, cols)),
      *x = zoo_param(&z, DT_F32, zoo_times(job, rows, cols));
  UOp *r = zoo_range(&z, AX_LOOP, rows), *c = zoo_range(&z, AX_LOOP, cols);
  UOp *k = zoo_range(&z, AX_REDUCE, cols), *k2 = zoo_range(&z, AX_REDUCE, cols);
  UOp *inv = uop_number(job, DT_F32, 1.0 / (double)cols), *row = zoo_mul(&z, r, cols);
  (void)y;
  UOp *xk = zoo_load(&z, x, zoo_add(&z, row, k), NULL),
      *xk2 = zoo_load(&z, x, zoo_add(&z, row, k2), NULL);
  UOp *mean = uop2(job, OP_MUL, uop_reduce(job, OP_ADD, xk, &k, 1), inv);
  UOp *d = squares ? xk2 : uop2(job, OP_SUB, xk2, mean);
  UOp *var = uop2(job, OP_MUL, uop_reduce(job, OP_ADD, uop2(job, OP_MUL, d, d), &k2, 1), inv);
  if (squares) var = uop2(job, OP_SUB, var, uop2(job, OP_MUL, mean, mean));
  UOp *s = uop1(job, OP_SQRT, uop2(job, OP_ADD, var, uop_number(job, DT_F32, 1e-5)));
  UOp *v = uop2(job, OP_SUB, zoo_load(&z, x, zoo_add(&z, row, c), NULL), mean);
  return zoo_done(&z, "layernorm", zoo_add(&z, row, c), uop2(job, OP_FDIV, v, s));
}

/* Sum along rows, down columns, or of everything. */
static inline ZooKernel zoo_sum(Job *job, DType d, Op op, int64_t rows, int64_t cols, int which) {
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, d,
                     which == 0   ? rows
                     : which == 1 ? cols
                                  : 1),
      *x = zoo_param(&z, d, zoo_times(job, rows, cols));
  UOp *r = zoo_range(&z, which == 0 ? AX_LOOP : AX_REDUCE, rows);
  UOp *c = zoo_range(&z, which == 1 ? AX_LOOP : AX_REDUCE, cols);
  (void)y;
  UOp *v = zoo_load(&z, x, zoo_add(&z, zoo_mul(&z, r, cols), c), NULL);
  UOp *red[2] = {which == 0 ? c : r, c};
  v = uop_reduce(job, op, v, red, which == 2 ? 2 : 1);
  return zoo_done(&z, "sum", which == 0 ? r : which == 1 ? c : zoo_int(&z, 0), v);
}

/* y[i, j] = table[ids[i], j], 0 for ids outside. */
static inline ZooKernel zoo_gather(Job *job, int64_t n, int64_t rows, int64_t cols) {
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, DT_F32, zoo_times(job, n, cols)),
      *t = zoo_param(&z, DT_F32, zoo_times(job, rows, cols)), *ids = zoo_param(&z, DT_I32, n);
  UOp *i = zoo_range(&z, AX_LOOP, n), *j = zoo_range(&z, AX_LOOP, cols);
  (void)y;
  UOp *id = uop_cast(job, zoo_load(&z, ids, i, NULL), DT_INDEX);
  UOp *v = zoo_load(&z, t, zoo_add(&z, zoo_mul(&z, id, cols), j), zoo_inside(&z, id, rows));
  return zoo_done(&z, "gather", zoo_add(&z, zoo_mul(&z, i, cols), j), v);
}

/* A reduction within a reduction: y[i] = sum_j x[i,j] * sum_k w[j,k]. */
static inline ZooKernel zoo_nested(Job *job, int64_t I, int64_t J, int64_t K) {
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, DT_F32, I), *x = zoo_param(&z, DT_F32, zoo_times(job, I, J)),
      *w = zoo_param(&z, DT_F32, zoo_times(job, J, K));
  UOp *i = zoo_range(&z, AX_LOOP, I), *j = zoo_range(&z, AX_REDUCE, J),
      *k = zoo_range(&z, AX_REDUCE, K);
  (void)y;
  UOp *inner =
      uop_reduce(job, OP_ADD, zoo_load(&z, w, zoo_add(&z, zoo_mul(&z, j, K), k), NULL), &k, 1);
  UOp *v = uop2(job, OP_MUL, zoo_load(&z, x, zoo_add(&z, zoo_mul(&z, i, J), j), NULL), inner);
  return zoo_done(&z, "nested", i, uop_reduce(job, OP_ADD, v, &j, 1));
}
