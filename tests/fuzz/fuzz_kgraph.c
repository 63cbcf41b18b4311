/* Any bytes as a kiln.v1.Graph. */
#include "tests/fuzz/fuzz_frontend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_frontend(frontend_kgraph, MODEL_KGRAPH, data, size);
  return 0;
}
