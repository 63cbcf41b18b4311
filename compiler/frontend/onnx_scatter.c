#include "compiler/frontend/onnx_node.h"
const OnnxOp onnx_scatter_ops[] = {{0}};
