/* Contractions with matrix instructions: what the kernel says, scheduled, and lowered for every
 * thread of a launch, by the interpreter. Include cmocka.h before this. */
#pragma once

#include <math.h>

#include "compiler/ir/matrix.h"
#include "tests/unit/zoo_three_ways.h"

static uint64_t random_state = 7;
static inline uint32_t random_below(uint32_t n) { return zoo_below(&random_state, n); }

typedef struct Shape {
  DType a, b, c; /* c: of the sum; stored as a, or as c where that is an integer */
  int64_t m, n, k;
  bool ta, tb;                           /* A is [k, m], B [n, k] */
  enum { AS_IT_IS, RELU, CUT } prologue; /* maximum of A and 0; both as tf32 sees them */
} Shape;

static inline ZooKernel contraction(Job *job, const Shape *s) {
  Zoo z = {.job = job};
  DType out = dtype_is_float(s->c) ? s->a : s->c;
  (void)zoo_param(&z, out, s->m * s->n);
  UOp *a = zoo_param(&z, s->a, s->m * s->k), *b = zoo_param(&z, s->b, s->k * s->n);
  UOp *m = zoo_range(&z, AX_LOOP, s->m), *n = zoo_range(&z, AX_LOOP, s->n);
  UOp *k = zoo_range(&z, AX_REDUCE, s->k);
  UOp *ai = s->ta ? zoo_add(&z, zoo_mul(&z, k, s->m), m) : zoo_add(&z, zoo_mul(&z, m, s->k), k);
  UOp *bi = s->tb ? zoo_add(&z, zoo_mul(&z, n, s->k), k) : zoo_add(&z, zoo_mul(&z, k, s->n), n);
  UOp *av = zoo_load(&z, a, ai, NULL), *bv = zoo_load(&z, b, bi, NULL);
  if (s->prologue == RELU) av = uop2(job, OP_MAX, av, uop_number(job, s->a, 0));
  if (s->prologue == CUT) av = matrix_cut(job, av), bv = matrix_cut(job, bv);
  UOp *p = uop2(job, OP_MUL, uop_cast(job, av, s->c), uop_cast(job, bv, s->c));
  UOp *v = uop_reduce(job, OP_ADD, p, &k, 1);
  v = uop2(job, OP_ADD, v, uop_number(job, s->c, 1));
  return zoo_done(&z, "contraction", zoo_add(&z, zoo_mul(&z, m, s->n), n), uop_cast(job, v, out));
}

static inline Scalar random_value(DType d) {
  if (dtype_is_float(d)) return scalar_wrap(d, (Scalar){.f = ((int)random_below(65) - 32) / 16.});
  return scalar_wrap(d, (Scalar){.i = (int64_t)random_below(200) - 100});
}

static inline void compare(const ZooRun *r, const char *stage, const uint8_t *want,
                           const uint8_t *got) {
  DType d = (DType)r->k.params[0]->dtype;
  size_t bytes = dtype_info[d].bytes;
  for (int64_t i = 0; i < r->k.params[0]->arg.ints.at[0]; i++) {
    Scalar x = scalar_load(d, want + (size_t)i * bytes),
           y = scalar_load(d, got + (size_t)i * bytes);
    bool same = dtype_is_float(d) ? fabs(x.f - y.f) <= 0.01 * fabs(x.f) + 1e-3 : x.i == y.i;
    if (same) continue;
    char text[200];
    snprintf(text, sizeof text, "%s: element %lld is %g, not %g", stage, (long long)i,
             dtype_is_float(d) ? y.f : (double)y.i, dtype_is_float(d) ? x.f : (double)x.i);
    zoo_explain(r, text);
    fail();
  }
}

/* scheduled: the scheduled kernel, too; it copies what is staged anew for each element. */
static inline void check_run(Job *job, ZooRun *r, bool scheduled) {
  uint8_t *out[3];
  zoo_three_ways(job, r, scheduled, random_value, out);
  if (scheduled) compare(r, "scheduled", out[0], out[1]);
  compare(r, "lowered", out[0], out[2]);
}

static inline void count_products(const ZooRun *r) {
  size_t n = 0;
  for (size_t i = 0; i < r->linear.len; i++)
    n += r->linear.list[i]->op == OP_MMA || r->linear.list[i]->op == OP_TILEMMA;
  assert_true(n > 0);
}
