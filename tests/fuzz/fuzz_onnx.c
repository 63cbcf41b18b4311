/* Any bytes as an ONNX model. */
#include "tests/fuzz/fuzz_frontend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_frontend(frontend_onnx, MODEL_ONNX, data, size);
  return 0;
}
