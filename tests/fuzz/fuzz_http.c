/* Requests of the port for metrics, and traceparent headers: no input is read past its end, and a
 * head that is complete is complete whatever follows it. */
#include <assert.h>

#include "daemon/server/http_parse.h"
#include "daemon/server/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  HttpHead all, part;
  TraceContext context;
  int status = http_parse((const char *)data, size, &all);
  (void)traceparent_parse((Str){(const char *)data, size}, &context);
  if (status != 200) return 0;
  assert(all.bytes <= size && all.bytes <= HTTP_HEAD_MAX && all.path.len);
  assert(http_parse((const char *)data, all.bytes, &part) == 200 && part.bytes == all.bytes);
  assert(http_parse((const char *)data, all.bytes - 1, &part) != 200);
  return 0;
}
