/* Files that the `kiln` command reads: .npy arrays and text graphs. The first byte chooses. What an
 * array's parser accepts must be as large as it says; what a graph's accepts must be a message. */
#include <stdlib.h>

#include "client/cli/npy.h"
#include "client/cli/textgraph.h"
#include "kiln/v1/graph.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void array(Bytes in) {
  Npy a;
  Status st = npy_parse(in, &a);
  if (!st) {
    size_t n = kiln_dtype_size(a.dtype);
    for (size_t i = 0; i < a.rank; i++) n *= (size_t)a.dims[i];
    if (n != a.bytes || n > in.len) abort();
  }
  status_drop(st);
  npy_deinit(&a);
}

static void graph(Str text) {
  StrBuf out = {0};
  Status st = textgraph_encode(text, &kiln__v1__graph__descriptor, &out);
  if (!st) {
    Kiln__V1__Graph *g = kiln__v1__graph__unpack(NULL, out.len, (const uint8_t *)out.ptr);
    if (!g) abort();
    kiln__v1__graph__free_unpacked(g, NULL);
  }
  status_drop(st);
  strbuf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!size) return 0;
  if (data[0] & 1)
    graph((Str){(const char *)data + 1, size - 1});
  else
    array((Bytes){data + 1, size - 1});
  return 0;
}
