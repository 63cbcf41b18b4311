#include "compiler/frontend/onnx_graph.h"
const OnnxOp onnx_control_ops[] = {{0}};
