/* Random scalar expressions and their values, for the rule self-test.
 *
 * An expression is over RANGEs with fixed sizes and loads INDEX(PARAM, i); a load's value is a hash
 * of buffer and index, so that any address has one. Values come from pools that favour what breaks
 * rules: 0, -0.0, 1, NaN, infinities, extremes. */
#pragma once

#include "compiler/rules/rewrite.h"

enum { GEN_RANGES = 8 };

typedef struct Gen {
  Job *job;
  uint64_t rng;
  bool lenient;             /* a float reduction was built: order of summation is free */
  int64_t size[GEN_RANGES]; /* of the RANGE with that id */
  int64_t at[GEN_RANGES];   /* its value now */
  uint64_t seed;            /* of the loads */
} Gen;

uint64_t gen_random(Gen *g, uint64_t below);
DType gen_dtype(Gen *g, unsigned mask);
UOp *gen_value(Gen *g, DType d);
UOp *gen_const(Gen *g, DType d);
UOp *gen_number(Gen *g, DType d, double v);
UOp *gen_op(Gen *g, Op op, DType d, UOp *const *src, size_t n, bool tail);
/* New sizes, values, loads. */
void gen_sizes(Gen *g);
void gen_point(Gen *g);
/* The value of a scalar expression at the current point. */
Scalar gen_eval(Gen *g, const UOp *u);
bool gen_same(const Gen *g, DType d, Scalar a, Scalar b);
