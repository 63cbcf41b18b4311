/* Bytes of a hostile server into a client session with three calls under way, and as its status
 * details. */
#include <assert.h>

#include "proto/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_message(void *ctx, GrpcStream *s, Bytes msg) {
  (void)ctx;
  if (msg.len % 7 == 3) grpc_cancel(s, NULL);
}

static void on_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  (void)s;
  char text[64];
  status_text(st, text, sizeof text);
  --*(int *)ctx;
}

static const GrpcHandler handler = {.on_message = on_message, .on_close = on_close};

static void drop_output(GrpcSession *g) {
  struct iovec iov[4];
  for (int n; (n = grpc_session_output(g, iov, 4)) > 0;)
    for (int i = 0; i < n; i++) grpc_session_wrote(g, iov[i].iov_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const uint8_t settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
  if (!size) return 0;
  if (grpc_retry_decode((Str){(const char *)data, size}) < 0) __builtin_trap();
  int open = 0;
  size_t slice = data[0] & 1 ? (size_t)1 + (data[0] >> 4) : size;
  GrpcSession *g = grpc_client_create(&grpc_config_default, &handler, &open);
  for (int i = 0; i < 3; i++) {
    GrpcStream *s;
    const GrpcCall call = {.path = "/t.T/Call", .timeout_ns = i};
    if (grpc_call_start(g, &call, &s)) __builtin_trap();
    open++;
    grpc_send(s, (Bytes){(const uint8_t *)"hello", 5});
    if (i) grpc_half_close(s);
    if (data[0] & 2 && i == 1) grpc_stream_pause(s);
  }
  drop_output(g);
  Status st = data[0] & 4 ? NULL : grpc_session_input(g, settings, sizeof settings);
  for (size_t at = 1; !st && at < size; at += slice) {
    st = grpc_session_input(g, data + at, slice < size - at ? slice : size - at);
    drop_output(g);
  }
  status_drop(st);
  grpc_session_release(g);
  assert(open == 0);
  return 0;
}
