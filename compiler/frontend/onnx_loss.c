#include "compiler/frontend/onnx_node.h"
const OnnxOp onnx_loss_ops[] = {{0}};
