/* Contractions, windows and normalisations as compositions of primitive nodes, with the same
 * promises as build.h. A contraction is EXPAND, MUL and REDUCE over its contracted axes, last in
 * the product's order: the form that the scheduler recognises. Half floats are multiplied and
 * added in f32. */
#pragma once

#include "compiler/frontend/build.h"

enum { MAX_SPATIAL = 5 };

/* numpy.matmul. */
UOp *build_matmul(Job *job, UOp *a, UOp *b);
/* (a - za) times (b - zb) in i32 of integers; zero points broadcast against a and b, NULL is 0. The
 * product of bytes is one of u8 and i8, which matrix instructions take; what the zero points add is
 * their products with the sums of rows and columns. */
UOp *build_matmul_centred(Job *job, UOp *a, UOp *za, UOp *b, UOp *zb);

typedef struct ConvSpec {
  size_t spatial; /* 1 to MAX_SPATIAL */
  int64_t groups;
  int64_t stride[MAX_SPATIAL], dilation[MAX_SPATIAL];
  int64_t lo[MAX_SPATIAL], hi[MAX_SPATIAL]; /* padding, may be negative */
} ConvSpec;
/* x [N, C, spatial...], w [M, C/groups, kernel...], bias [M] or NULL. */
UOp *build_conv(Job *job, UOp *x, UOp *w, UOp *bias, const ConvSpec *spec);
/* The transposed convolution: w [C, M/groups, kernel...]; lo and hi are cut from the full result
 * (negative: zeros are added). */
UOp *build_conv_transpose(Job *job, UOp *x, UOp *w, UOp *bias, const ConvSpec *spec);
/* Windows of the last `spatial` axes: result [..., out..., kernel...]. */
UOp *build_windows(Job *job, UOp *x, const ConvSpec *spec, const int64_t *kernel, UOp *fill);

UOp *build_softmax(Job *job, UOp *x, uint32_t axes);
UOp *build_log_softmax(Job *job, UOp *x, uint32_t axes);
/* (x - mean) / sqrt(var + epsilon) over the axes, kept; mean and inverse deviation when not NULL.
 */
UOp *build_normalize(Job *job, UOp *x, uint32_t axes, double epsilon, UOp **mean, UOp **inv_std);
UOp *build_sigmoid(Job *job, UOp *x);
/* Position of the extreme value along an axis, kept, as i64; ties give the first or the last. */
UOp *build_argmax(Job *job, UOp *x, size_t axis, Op op, bool last);
/* [n] to [1, n, 1...]: a vector along `axis` of a tensor of that rank. */
UOp *build_along(Job *job, UOp *vector, size_t axis, size_t rank);
