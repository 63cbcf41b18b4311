#include "compiler/frontend/onnx_node.h"
const OnnxOp onnx_attention_ops[] = {{0}};
