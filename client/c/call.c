/* One call: queued, answered, called back, gone.
 *
 * A call ends in on_close, always from inside kiln_client_process (or kiln_close): there its
 * outcome is settled (what our side failed with, then the server's status, then whether an answer
 * came) and its callback runs. Borrowed upload memory is free by then: grpc.h promises it. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/c/internal.h"
#include "proto/limits.h"

enum { CHUNK_BYTES = 1 << 20, QUEUE_BYTES = 2 << 20, CHUNK_HEAD = 11, CHUNK_TAG = 2 << 3 | 2 };

/* -- sending
 * --------------------------------------------------------------------------------------- */

/* By what a proxy before several servers finds the one for the call; how many headers that is. */
static size_t route_of(const CallSpec *spec, GrpcMetadata *out) {
  const char *node = spec->handle ? handle_node(spec->handle) : "";
  if (*node)
    *out = (GrpcMetadata){"kiln-node", node};
  else if (spec->graph)
    *out = (GrpcMetadata){"kiln-graph-hash", spec->graph};
  else
    return 0;
  return 1;
}

Status call_start(KilnClient *c, const CallSpec *spec, KilnCall **out) {
  *out = NULL;
  TRY(client_ensure(c));
  KilnCall *call = calloc(1, sizeof *call);
  if (!call) return FAIL(RESOURCE_EXHAUSTED, "no memory for a call");
  *call = (KilnCall){.client = c,
                     .decode = spec->decode,
                     .method = spec->method,
                     .done = spec->done,
                     .ctx = spec->ctx,
                     .source.fd = -1};
  GrpcMetadata route;
  int64_t timeout = c->timeout_ns;
  if (c->call_deadline) timeout = c->call_deadline - clock_now_ns();
  if (c->call_deadline && timeout < 1) timeout = 1;
  const GrpcCall start = {.path = spec->path,
                          .authorization = c->authorization,
                          .timeout_ns = timeout,
                          .metadata = &route,
                          .nmetadata = route_of(spec, &route),
                          .ctx = call};
  Status st = grpc_call_start(c->session, &start, &call->stream);
  if (st) {
    free(call);
    return st;
  }
  if (timeout) call->deadline = clock_now_ns() + timeout;
  call->next = c->calls;
  if (c->calls) c->calls->prev = call;
  c->calls = call;
  *out = call;
  return NULL;
}

void call_send(KilnCall *call, const ProtobufCMessage *msg) {
  uint8_t *at = grpc_send_begin(call->stream, protobuf_c_message_get_packed_size(msg));
  if (at) protobuf_c_message_pack(msg, at);
}

void call_end(KilnCall *call) {
  grpc_half_close(call->stream);
  if (!call->client->processing) client_flush(call->client);
}

/* The tag and length of a chunk of n bytes. */
static size_t chunk_head(uint8_t *out, size_t n) {
  size_t k = 0;
  out[k++] = CHUNK_TAG;
  for (; n >= 0x80; n >>= 7) out[k++] = (uint8_t)(n | 0x80);
  out[k++] = (uint8_t)n;
  return k;
}

static Status read_exactly(int fd, uint8_t *at, size_t n) {
  while (n) {
    ssize_t k = read(fd, at, n);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return FAIL(UNAVAILABLE, "reading the model: %s", strerror(errno));
    if (!k) return FAIL(ABORTED, "the model's file became shorter while it was read");
    at += k;
    n -= (size_t)k;
  }
  return NULL;
}

static void nothing(void *ctx) { (void)ctx; }

static Status send_chunk(KilnCall *call, size_t n) {
  ChunkSource *src = &call->source;
  uint8_t head[CHUNK_HEAD];
  size_t k = chunk_head(head, n);
  src->left -= n;
  if (src->fd < 0) {
    grpc_send_body(call->stream, (Bytes){head, k}, (Bytes){src->data, n}, nothing, NULL);
    src->data += n;
    return NULL;
  }
  uint8_t *at = grpc_send_begin(call->stream, k + n);
  if (!at) return NULL; /* the stream has failed by itself */
  memcpy(at, head, k);
  return read_exactly(src->fd, at + k, n);
}

static void pump(KilnCall *call) {
  ChunkSource *src = &call->source;
  while (src->left && grpc_stream_queued(call->stream) < QUEUE_BYTES) {
    Status st = send_chunk(call, src->left < CHUNK_BYTES ? (size_t)src->left : CHUNK_BYTES);
    if (!st) continue;
    call->streaming = false;
    grpc_cancel(call->stream, st);
    return;
  }
  if (src->left) return;
  call->streaming = false;
  call_end(call);
}

void call_stream(KilnCall *call, ChunkSource source) {
  call->source = source;
  call->streaming = true;
  pump(call);
  if (!call->client->processing) client_flush(call->client);
}

/* -- receiving
 * ------------------------------------------------------------------------------------- */

static void release(KilnCall *call) {
  KilnClient *c = call->client;
  if (call->prev)
    call->prev->next = call->next;
  else
    c->calls = call->next;
  if (call->next) call->next->prev = call->prev;
  if (call->source.fd >= 0) close(call->source.fd);
  status_drop(call->failed);
  kiln_free(call->answer);
  free(call);
}

static void on_message(void *ctx, GrpcStream *s, Bytes msg) {
  (void)ctx;
  KilnCall *call = grpc_stream_ctx(s);
  Status st = call->decode(call, msg);
  if (!st) return;
  call->failed = st;
  grpc_cancel(s, NULL);
}

static void on_drain(void *ctx, GrpcStream *s) {
  (void)ctx;
  KilnCall *call = grpc_stream_ctx(s);
  if (call->streaming) pump(call);
}

static const StatusNote *outcome(const KilnCall *call, const StatusNote *st) {
  if (call->failed) return call->failed;
  /* Not "the connection was closed", but why. */
  bool gone = !call->client->session && status_code(st) == ST_UNAVAILABLE;
  return gone && call->client->lost ? call->client->lost : st;
}

static void on_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  (void)ctx;
  KilnCall *call = grpc_stream_ctx(s);
  KilnError err = {.code = KILN_OK};
  st = outcome(call, st);
  if (st) {
    err.code = (KilnCode)st->code;
    status_text(st, err.message, sizeof err.message);
    err.retry_after_ns = status_retry_ns(st);
  } else if (!call->answer) {
    err = (KilnError){.code = KILN_INTERNAL, .message = "the server sent no answer"};
  }
  call->client->answered |= err.code != KILN_UNAVAILABLE;
  void *answer = err.code ? NULL : call->answer;
  if (answer) call->answer = NULL;
  call->done(call, err.code ? &err : NULL, answer);
  release(call);
}

const GrpcHandler client_handler = {
    .on_message = on_message, .on_drain = on_drain, .on_close = on_close};

void kiln_call_cancel(KilnCall *call) {
  grpc_cancel(call->stream, FAIL(CANCELLED, "cancelled by the caller"));
  if (!call->client->processing) client_flush(call->client);
}

/* -- answers
 * --------------------------------------------------------------------------------------- */

Status answer_unpack(KilnCall *call, const ProtobufCMessageDescriptor *desc, Bytes msg, size_t size,
                     ProtobufCMessage **out) {
  static const PbLimits limits = {
      .max_bytes = SIZE_MAX, .max_depth = 16, .max_elements = UINT64_MAX, .max_memory = SIZE_MAX};
  *out = NULL;
  if (call->answer) return FAIL(INTERNAL, "the server sent more than one answer");
  call->answer = owned_create(size);
  if (!call->answer) return answer_no_memory();
  Status st = pb_unpack(desc, msg, &limits, owned_arena(call->answer), out);
  return st ? status_new(ST_INTERNAL, st, __FILE__, __LINE__, "the server's answer") : NULL;
}

const uint64_t *answer_dims(Arena *a, size_t n, const uint64_t *dims) {
  return n ? arena_copy(a, dims, n * sizeof *dims) : arena_alloc(a, sizeof *dims);
}

/* -- the blocking end
 * ------------------------------------------------------------------------------- */

void call_wait_done(KilnCall *call, const KilnError *err, void *answer) {
  CallWait *w = call->ctx;
  w->done = true;
  w->answer = answer;
  w->code = err ? err->code : KILN_OK;
  if (err && w->err) *w->err = *err;
}

KilnCode call_wait(KilnClient *c, CallWait *w, Status started, void **out) {
  *out = NULL;
  if (started) return error_take(started, w->err);
  client_wait(c, &w->done);
  *out = w->answer;
  return w->code;
}

static Status decode_method(KilnCall *call, Bytes msg) {
  const Method *m = call->method;
  ProtobufCMessage *message;
  TRY(answer_unpack(call, m->message, msg, m->size, &message));
  return m->lay_out ? m->lay_out(message, owned_arena(call->answer), call->answer) : NULL;
}

static KilnCode unary_attempt(KilnClient *c, CallSpec spec, const ProtobufCMessage *request,
                              void **out, KilnError *err) {
  CallWait w = {.err = err};
  KilnCall *call;
  spec.done = call_wait_done;
  spec.ctx = &w;
  Status st = call_start(c, &spec, &call);
  if (!st) {
    call_send(call, request);
    call_end(call);
  }
  return call_wait(c, &w, st, out);
}

static KilnCode run_unary(KilnClient *c, CallSpec spec, const ProtobufCMessage *request, void **out,
                          KilnError *err) {
  KilnError own;
  Repeat r;
  KilnCode code;
  if (!err) err = &own;
  repeat_begin(&r, c, spec.once);
  do code = unary_attempt(c, spec, request, out, err);
  while (repeat_again(&r, code, err));
  return code;
}

void *call_method_at(KilnClient *c, const Method *method, const char *handle,
                     const ProtobufCMessage *request, KilnCode *code, KilnError *err) {
  CallSpec spec = {.path = method->path,
                   .decode = decode_method,
                   .method = method,
                   .handle = handle,
                   .once = method->once};
  void *answer;
  *code = run_unary(c, spec, request, &answer, err);
  return answer;
}

void *call_method(KilnClient *c, const Method *method, const ProtobufCMessage *request,
                  KilnCode *code, KilnError *err) {
  return call_method_at(c, method, NULL, request, code, err);
}

KilnCode call_unary(KilnClient *c, const char *path, const ProtobufCMessage *request,
                    CallDecode decode, void **out, KilnError *err) {
  return run_unary(c, (CallSpec){.path = path, .decode = decode}, request, out, err);
}
