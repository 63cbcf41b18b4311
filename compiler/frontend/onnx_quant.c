#include "compiler/frontend/onnx_node.h"
const OnnxOp onnx_quant_ops[] = {{0}};
