#include "compiler/frontend/onnx_node.h"
const OnnxOp onnx_signal_ops[] = {{0}};
