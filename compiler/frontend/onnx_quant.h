/* Quantisation steps that ai.onnx and com.microsoft share. */
#pragma once

#include "compiler/frontend/onnx_node.h"

/* A ratio x / scale, f32 or wider, rounded to even, moved by zero (NULL: 0), saturated to d. */
UOp *quant_round(Node *n, UOp *ratio, UOp *zero, DType d);
/* x as u8, with a scale and zero point from its range, which always includes 0. */
UOp *quant_dynamic(Node *n, UOp *x, UOp **scale, UOp **point);
/* The result of a node with the sources and attributes of QLinearConv; x stands for its source 0.
 */
UOp *quant_conv(Node *n, UOp *x);
void quant_quantize_linear(Node *n);
void quant_dequantize_linear(Node *n);
