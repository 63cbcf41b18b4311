#include "compiler/frontend/onnx_node.h"
const OnnxOp onnx_resize_ops[] = {{0}};
