/* Bytes of a stranger into a server session. The first byte chooses how they are cut, whether the
 * HTTP/2 preface is put in front, and what the handler does; the rest is the wire. */
#include <assert.h>

#include "proto/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MODE_PREFACE = 1, MODE_SLICED = 2, MODE_ECHO = 4, MODE_PAUSE = 8, MODE_FINISH = 16 };

typedef struct Fuzz {
  int mode;
  GrpcStream *paused;
  int open;
} Fuzz;

static bool on_request(void *ctx, GrpcStream *s, const GrpcHead *head) {
  Fuzz *f = ctx;
  if (head->path.len % 5 == 0) return false;
  f->open++;
  grpc_stream_set_max_message(s, 1 << 16);
  if (f->mode & MODE_PAUSE) {
    grpc_stream_pause(s);
    f->paused = s;
  }
  if (head->timeout_ns == 0) grpc_finish(s, FAIL(DEADLINE_EXCEEDED, "at once"));
  return true;
}

static void on_message(void *ctx, GrpcStream *s, Bytes msg) {
  Fuzz *f = ctx;
  unsigned sum = 0;
  for (size_t i = 0; i < msg.len; i++) sum += msg.ptr[i];
  if (f->mode & MODE_ECHO) grpc_send(s, msg);
  if (f->mode & MODE_FINISH) grpc_finish(s, sum & 1 ? NULL : FAIL(ABORTED, "sum %u", sum));
}

static void on_half_close(void *ctx, GrpcStream *s) {
  (void)ctx;
  grpc_finish(s, NULL);
}

static void on_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  (void)st;
  Fuzz *f = ctx;
  f->open--;
  if (f->paused == s) f->paused = NULL;
}

static const GrpcHandler handler = {.on_request = on_request,
                                    .on_message = on_message,
                                    .on_half_close = on_half_close,
                                    .on_close = on_close};

static void drop_output(GrpcSession *g) {
  struct iovec iov[4];
  for (int n; (n = grpc_session_output(g, iov, 4)) > 0;)
    for (int i = 0; i < n; i++) grpc_session_wrote(g, iov[i].iov_len);
}

static bool feed(GrpcSession *g, const void *bytes, size_t n) {
  Status st = grpc_session_input(g, bytes, n);
  bool ok = !st;
  status_drop(st);
  drop_output(g);
  return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
  if (!size) return 0;
  Fuzz f = {.mode = data[0]};
  size_t slice = f.mode & MODE_SLICED ? (size_t)1 + (data[0] >> 5) : size;
  GrpcConfig config = grpc_config_default;
  config.max_buffered = 1 << 18;
  GrpcSession *g = grpc_server_create(&config, &handler, &f);
  bool ok = !(f.mode & MODE_PREFACE) || feed(g, preface, sizeof preface - 1);
  for (size_t at = 1; ok && at < size; at += slice) {
    ok = feed(g, data + at, slice < size - at ? slice : size - at);
    if (f.paused && at % 3 == 0) grpc_stream_resume(f.paused);
  }
  grpc_session_release(g);
  assert(f.open == 0);
  return 0;
}
