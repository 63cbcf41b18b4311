/* Convolutions in a tensor graph, found by what they compute. */
#pragma once

#include "compiler/ir/uop.h"

/* y[n, g*m + j, p, q] = sum over c, i, k of
 *   x[n, g*c + c', p*stride + i*dilation - lo, q*stride + k*dilation - lo] * w[g*m + j, c', i, k]
 * with 0 outside of x. Two spatial axes; index 0 is the height. */
typedef struct Conv {
  UOp *x, *w;
  int64_t batch, channels, filters, groups;
  int64_t in[2], out[2], kernel[2], stride[2], dilation[2], lo[2], hi[2];
} Conv;

/* Whether u, a REDUCE, is one: its elements in row-major order are those of y. hi is what x has to
 * be extended by so that every window is whole, and not negative. */
bool conv_match(Job *job, UOp *u, Conv *out);
