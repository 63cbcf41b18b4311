/* What travels in headers of a call: the details of a status with their retry delay, messages in
 * percent encoding, timeouts, trace contexts. Nothing is read past its end, what is written is read
 * back, and what is decoded is a string. */
#include <assert.h>
#include <stdlib.h>

#include "daemon/server/trace.h"
#include "proto/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void messages(Str in, const char *text) {
  char encoded[700], decoded[700];
  size_t n = grpc_message_encode(text, encoded, sizeof encoded);
  assert(n == strlen(encoded) && n < sizeof encoded);
  size_t m = grpc_message_decode((Str){encoded, n}, decoded, sizeof decoded);
  assert(m == strlen(decoded) && !memcmp(decoded, text, m));
  m = grpc_message_decode(in, decoded, 1 + in.len % sizeof decoded);
  assert(m == strlen(decoded) && m <= in.len);
}

static void retries(Str in, const char *text, int64_t ns) {
  char buf[GRPC_DETAILS_CAP];
  assert(grpc_retry_decode(in) >= 0);
  if (ns < 0) ns = ~ns;
  if (ns > 3600000000000) ns %= 3600000000000;
  grpc_retry_encode(ST_RESOURCE_EXHAUSTED, text, ns, buf);
  assert(strlen(buf) < sizeof buf && grpc_retry_decode(str_from(buf)) == ns);
}

static void timeouts(Str in, int64_t ns) {
  char buf[GRPC_TIMEOUT_CAP];
  int64_t out;
  if (grpc_timeout_parse(in, &out)) assert(out >= 0);
  if (ns <= 0) return;
  assert(grpc_timeout_parse(str_from(grpc_timeout_format(ns, buf)), &out) && out > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  TraceContext context;
  int64_t ns = 0;
  char *text = malloc(size + 1), *exact = malloc(size ? size : 1);
  if (!text || !exact) abort();
  memcpy(text, data, size);
  memcpy(exact, data, size);
  memcpy(&ns, data, size < sizeof ns ? size : sizeof ns);
  text[size] = 0;
  Str in = {exact, size};
  messages(in, text);
  retries(in, text, ns);
  timeouts(in, ns);
  (void)traceparent_parse(in, &context);
  free(exact);
  free(text);
  return 0;
}
