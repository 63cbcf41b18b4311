/* Messages in and out of DATA frames: a flag byte, a 32-bit big-endian length, the message.
 *
 * In: a message that lies whole in the bytes at hand is delivered from there; only the rest is
 * copied into the stream's buffer. A large message is offered to the handler in parts, as it comes.
 * The window is given back as bytes are delivered or start an incomplete message that its size
 * limit bounds; while paused it is not given back at all.
 *
 * Out: a queue of segments. The data provider only says how many bytes are ready (NO_COPY); the
 * bytes are moved when nghttp2 is ready to put them behind a frame header: small ones are copied
 * into the output buffer, large ones are referred to and go to the socket from where they are. */
#include <assert.h>
#include <stdlib.h>

#include "proto/grpc_internal.h"

enum { REFER_MIN = 4 << 10, DRAIN_LOW = 64 << 10 };
/* A message of so many bytes is worth offering in parts, once so many of it are there. */
enum { PARTS_MIN = 64 << 10, PART_HEAD = 16 };

/* -- receiving --------------------------------------------------------------------------------- */

static void give_back(GrpcStream *s, size_t n) {
  if (n) grpc_session_asked(s->session, nghttp2_session_consume(s->session->h2, s->id, n));
}

static size_t undelivered(const GrpcStream *s) { return s->in.len - s->in_at; }

size_t grpc_stream_incomplete(const GrpcStream *s) { return undelivered(s); }

/* Offers the beginning of a message: true when the rest comes in parts. */
static bool offer(GrpcStream *s, const uint8_t *p, size_t n, uint32_t len) {
  const GrpcSession *g = s->session;
  if (!g->handler->on_part || len < PARTS_MIN || n < PART_HEAD) return false;
  if (!g->handler->on_part(g->ctx, s, (Bytes){p, n}, len - n)) return false;
  s->part_left = len - n;
  return true;
}

/* The next bytes of a message that goes in parts; how many that were. */
static size_t deliver_part(GrpcStream *s, const uint8_t *p, size_t n) {
  size_t k = n < s->part_left ? n : s->part_left;
  s->part_left -= k;
  if (k) s->session->handler->on_part(s->session->ctx, s, (Bytes){p, k}, s->part_left);
  return k;
}

void grpc_frame_drop_input(GrpcStream *s) {
  s->discard = true;
  give_back(s, s->unconsumed);
  s->unconsumed = 0;
  if (s->delivering) return; /* a handler is looking at the bytes: deliver_buffered drops them */
  s->session->buffered -= undelivered(s);
  strbuf_deinit(&s->in);
  s->in_at = 0;
}

static uint32_t message_length(const uint8_t *p) {
  return (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
}

static Status check_prefix(const GrpcStream *s, const uint8_t *p) {
  if (p[0] == 1) return FAIL(UNIMPLEMENTED, "compressed message; only identity is supported");
  if (p[0]) return FAIL(INVALID_ARGUMENT, "message flag is %d, expected 0", p[0]);
  uint32_t n = message_length(p);
  if (n > s->max_message)
    return FAIL(RESOURCE_EXHAUSTED, "message of %u bytes, at most %zu are allowed", n,
                s->max_message);
  return NULL;
}

/* Delivers the whole messages at p; returns the bytes they took. */
static size_t deliver(GrpcStream *s, const uint8_t *p, size_t n) {
  size_t used = s->part_left && !s->paused && !s->discard ? deliver_part(s, p, n) : 0;
  while (n - used >= PREFIX_BYTES && !s->paused && !s->discard && !s->part_left) {
    const uint8_t *at = p + used;
    Status st = check_prefix(s, at);
    if (st) {
      grpc_stream_fail(s, st);
      return used;
    }
    uint32_t len = message_length(at);
    size_t here = n - used - PREFIX_BYTES;
    if (here < len) return offer(s, at + PREFIX_BYTES, here, len) ? n : used;
    s->session->handler->on_message(s->session->ctx, s, (Bytes){at + PREFIX_BYTES, len});
    used += PREFIX_BYTES + len;
  }
  return used;
}

static void deliver_buffered(GrpcStream *s) {
  s->delivering = true;
  size_t used = deliver(s, (const uint8_t *)s->in.ptr + s->in_at, undelivered(s));
  s->delivering = false;
  if (s->discard) {
    grpc_frame_drop_input(s);
    return;
  }
  s->session->buffered -= used;
  s->in_at += used;
  if (!s->in_at) return;
  if (undelivered(s)) memmove(s->in.ptr, s->in.ptr + s->in_at, undelivered(s));
  s->in.len = undelivered(s);
  s->in_at = 0;
}

/* Keeps bytes for later; false when the stream had to be failed. */
static bool keep(GrpcStream *s, const uint8_t *p, size_t n) {
  GrpcSession *g = s->session;
  if (g->buffered + n > g->config.max_buffered) {
    grpc_stream_fail(s, FAIL(RESOURCE_EXHAUSTED, "more than %zu bytes of incomplete messages",
                             g->config.max_buffered));
    return false;
  }
  if (!strbuf_reserve(&s->in, n)) {
    grpc_stream_fail(s, FAIL(RESOURCE_EXHAUSTED, "no memory for a message"));
    return false;
  }
  strbuf_add(&s->in, p, n);
  g->buffered += n;
  return true;
}

void grpc_frame_receive(GrpcStream *s, const uint8_t *p, size_t n) {
  size_t used = 0;
  if (!s->discard && !undelivered(s)) used = deliver(s, p, n);
  if (!s->discard && used < n && keep(s, p + used, n - used)) {
    if (s->paused) {
      s->unconsumed += n - used;
      give_back(s, used);
      return;
    }
    if (!used) deliver_buffered(s);
  }
  give_back(s, n);
}

static void end_of_input(GrpcStream *s) {
  GrpcSession *g = s->session;
  if (!g->server) return; /* the status in the trailers comes first */
  if (undelivered(s) || s->part_left) {
    grpc_stream_fail(s, FAIL(INVALID_ARGUMENT, "the stream ended inside a message"));
    return;
  }
  s->told_half_close = true;
  g->handler->on_half_close(g->ctx, s);
}

void grpc_frame_deliver(GrpcStream *s) {
  if (s->paused || s->discard || !s->accepted) return;
  if (undelivered(s)) deliver_buffered(s);
  if (s->paused || s->discard) return;
  give_back(s, s->unconsumed);
  s->unconsumed = 0;
  if (s->remote_done && !s->told_half_close) end_of_input(s);
}

/* -- sending ------------------------------------------------------------------------------------
 */

void grpc_segment_unref(Segment *seg) {
  if (--seg->refs) return;
  if (seg->done) seg->done(seg->done_ctx);
  pool_free(seg);
}

static void enqueue(GrpcStream *s, Segment *seg) {
  if (s->last)
    s->last->next = seg;
  else
    s->first = seg;
  s->last = seg;
  s->queued += seg->len;
}

static void flush(GrpcStream *s) {
  if (s->session->server) grpc_server_flush(s);
  if (!s->deferred) return;
  s->deferred = false;
  grpc_session_asked(s->session, nghttp2_session_resume_data(s->session->h2, s->id));
}

void grpc_frame_drop_queue(GrpcStream *s) {
  while (s->first) {
    Segment *seg = s->first;
    s->first = seg->next;
    grpc_segment_unref(seg);
  }
  s->last = NULL;
  s->queued = 0;
}

Segment *grpc_segment_create(GrpcSession *g, size_t n) {
  size_t size;
  Segment *seg = size_add(sizeof *seg, n, &size) ? pool_alloc(g->config.pool, size) : NULL;
  if (seg) *seg = (Segment){.len = n, .refs = 1, .data = seg->payload};
  return seg;
}

static void put_prefix(uint8_t *p, size_t n) {
  p[0] = 0;
  p[1] = (uint8_t)(n >> 24);
  p[2] = (uint8_t)(n >> 16);
  p[3] = (uint8_t)(n >> 8);
  p[4] = (uint8_t)n;
}

static Segment *message_segment(GrpcStream *s, size_t own, size_t total) {
  Segment *seg = total <= UINT32_MAX ? grpc_segment_create(s->session, PREFIX_BYTES + own) : NULL;
  if (!seg) {
    grpc_stream_fail(s, FAIL(RESOURCE_EXHAUSTED, "no memory for a message of %zu bytes", total));
    return NULL;
  }
  put_prefix(seg->payload, total);
  return seg;
}

uint8_t *grpc_send_begin(GrpcStream *s, size_t n) {
  if (s->finished) return NULL;
  Segment *seg = message_segment(s, n, n);
  if (!seg) return NULL;
  enqueue(s, seg);
  flush(s);
  return seg->payload + PREFIX_BYTES;
}

void grpc_send(GrpcStream *s, Bytes msg) {
  uint8_t *p = grpc_send_begin(s, msg.len);
  if (p && msg.len) memcpy(p, msg.ptr, msg.len);
}

void grpc_send_body(GrpcStream *s, Bytes head, Bytes body, void (*done)(void *ctx),
                    void *done_ctx) {
  size_t total;
  if (s->finished || !size_add(head.len, body.len, &total)) {
    done(done_ctx);
    return;
  }
  Segment *first = message_segment(s, head.len, total);
  Segment *second = first ? grpc_segment_create(s->session, 0) : NULL;
  if (!second) {
    pool_free(first);
    if (first) grpc_stream_fail(s, FAIL(RESOURCE_EXHAUSTED, "no memory for a message"));
    done(done_ctx);
    return;
  }
  if (head.len) memcpy(first->payload + PREFIX_BYTES, head.ptr, head.len);
  second->data = body.ptr;
  second->len = body.len;
  second->done = done;
  second->done_ctx = done_ctx;
  enqueue(s, first);
  enqueue(s, second);
  flush(s);
}

size_t grpc_stream_queued(const GrpcStream *s) { return s->queued; }

static ssize_t read_queue(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t cap,
                          uint32_t *flags, nghttp2_data_source *source, void *user) {
  (void)h2, (void)id, (void)buf, (void)user;
  GrpcStream *s = source->ptr;
  size_t n = s->queued < cap ? s->queued : cap;
  if (!n && !s->finished) {
    s->deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  if (n) *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (n == s->queued && s->finished) {
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (s->session->server) {
      *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
      if (!grpc_server_submit_trailers(s)) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
  }
  return (ssize_t)n;
}

nghttp2_data_provider grpc_frame_provider(GrpcStream *s) {
  return (nghttp2_data_provider){.source = {.ptr = s}, .read_callback = read_queue};
}

static bool take(GrpcStream *s, size_t n) {
  while (n) {
    Segment *seg = s->first;
    assert(seg); /* n is at most what is queued */
    size_t k = seg->len - seg->at < n ? seg->len - seg->at : n;
    bool ok = !k || (k < REFER_MIN ? grpc_output_copy(s->session, seg->data + seg->at, k)
                                   : grpc_output_refer(s->session, seg, seg->at, k));
    if (!ok) return false;
    seg->at += k;
    s->queued -= k;
    n -= k;
    if (seg->at < seg->len) continue;
    s->first = seg->next;
    if (!s->first) s->last = NULL;
    grpc_segment_unref(seg);
  }
  return true;
}

int grpc_frame_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t n,
                         nghttp2_data_source *source, void *user) {
  enum { FRAME_HEAD_BYTES = 9 };
  (void)h2, (void)frame;
  GrpcSession *g = user;
  GrpcStream *s = source->ptr;
  if (grpc_output_full(g)) return NGHTTP2_ERR_WOULDBLOCK;
  bool above = s->queued >= DRAIN_LOW;
  if (!grpc_output_copy(g, head, FRAME_HEAD_BYTES) || !take(s, n))
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  if (s->queued < DRAIN_LOW && (above || !s->queued)) {
    s->drained = true;
    grpc_stream_wake(s);
  }
  return 0;
}
