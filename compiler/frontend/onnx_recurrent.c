#include "compiler/frontend/onnx_node.h"
const OnnxOp onnx_recurrent_ops[] = {{0}};
