/* The attributes that convolution and pooling share. */
#pragma once

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

/* strides, dilations, pads, auto_pad, ceil_mode for an input of shape [N, C, spatial...] and that
 * kernel. With ceil_mode, hi grows so that the last partial window is complete; pad_hi keeps what
 * the model asked for. lo, hi, pad_hi and out, the output sizes, are dims. */
typedef struct Spatial {
  ConvSpec conv;
  int64_t kernel[MAX_SPATIAL], out[MAX_SPATIAL], pad_hi[MAX_SPATIAL];
} Spatial;
Spatial spatial_attrs(Node *n, const UOp *x, Ints kernel);
/* The convolution that the node's attributes describe; bias may be NULL. */
UOp *spatial_conv(Node *n, UOp *x, UOp *w, UOp *bias);
/* The averages that the node's attributes describe. */
UOp *spatial_average_pool(Node *n, UOp *x);
/* Attribute list of `count` integers in [lo, 2^31), or count times `absent`. */
void spatial_ints(Node *n, const char *name, size_t count, int64_t lo, int64_t absent,
                  int64_t *out);
