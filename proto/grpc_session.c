/* One nghttp2 session and what both sides of gRPC share.
 *
 * nghttp2 calls back from two places, input (mem_recv) and output (session_send). Handler callbacks
 * that could themselves send are run from input directly; those that become due inside output
 * (on_drain, delivery after a resume) go on a work list that grpc_session_output empties while
 * nghttp2 is not on the stack, because resuming a data provider from inside a data provider would
 * be lost.
 *
 * Output is a list of pieces: frame headers and small payloads are copied into one buffer, large
 * payloads stay where they are and are held by reference. Nothing is pulled from nghttp2 while a
 * write's worth is pending, so a slow socket pushes back into the streams' queues. */
#include <assert.h>
#include <stdlib.h>

#include "proto/grpc_internal.h"

enum {
  OUT_TARGET = 512 << 10,
  COPY_KEEP = 64 << 10, /* an idle session gives a larger copy buffer back */
};

static const uint8_t drain_ping[8] = {'k', 'i', 'l', 'n', 'd', 'r', 'a', 'n'};

const GrpcConfig grpc_config_default = {
    .max_streams = 100,
    .stream_window = 1 << 20,
    .session_window = 2 << 20,
    .max_frame = 256 << 10,
    .max_header_bytes = 16 << 10,
    .max_message = 4 << 20,
    .max_buffered = 256 << 20,
};

/* -- output -------------------------------------------------------------------------------------
 */

bool grpc_output_full(const GrpcSession *g) { return g->pending >= OUT_TARGET; }

bool grpc_output_copy(GrpcSession *g, const uint8_t *bytes, size_t n) {
  if (!strbuf_reserve(&g->copy, n)) return false;
  Piece *last = g->pieces.len > g->piece_at ? &g->pieces.at[g->pieces.len - 1] : NULL;
  if (last && !last->seg)
    last->len += n;
  else if (!vec_push(&g->pieces, ((Piece){.at = g->copy.len, .len = n})))
    return false;
  strbuf_add(&g->copy, bytes, n);
  g->pending += n;
  return true;
}

bool grpc_output_refer(GrpcSession *g, Segment *seg, size_t at, size_t n) {
  if (!vec_push(&g->pieces, ((Piece){.seg = seg, .at = at, .len = n}))) return false;
  seg->refs++;
  g->pending += n;
  return true;
}

/* Output that points into somebody else's memory gets a copy of it, so that the owner can be told
 * that we are done. The socket may hold half of a frame: it cannot just be dropped. */
static bool output_own(GrpcSession *g) {
  for (size_t i = g->piece_at; i < g->pieces.len; i++) {
    Piece *p = &g->pieces.at[i];
    if (!p->seg || !p->seg->done) continue;
    Segment *copy = grpc_segment_create(g, p->len);
    if (!copy) return false;
    memcpy(copy->payload, p->seg->data + p->at, p->len);
    grpc_segment_unref(p->seg);
    p->seg = copy;
    p->at = 0;
  }
  return true;
}

static void output_drop(GrpcSession *g) {
  for (size_t i = g->piece_at; i < g->pieces.len; i++)
    if (g->pieces.at[i].seg) grpc_segment_unref(g->pieces.at[i].seg);
  g->pieces.len = g->piece_at = 0;
  g->pending = 0;
}

static void output_reset(GrpcSession *g) {
  g->pieces.len = g->piece_at = 0;
  g->copy.len = 0;
  if (g->copy.cap > COPY_KEEP) strbuf_deinit(&g->copy);
}

/* Drops written pieces and the copied bytes before the first live one. */
static void output_compact(GrpcSession *g) {
  if (!g->pending) {
    output_reset(g);
    return;
  }
  size_t live = g->pieces.len - g->piece_at, base = g->copy.len;
  memmove(g->pieces.at, g->pieces.at + g->piece_at, live * sizeof *g->pieces.at);
  g->pieces.len = live;
  g->piece_at = 0;
  for (size_t i = live; i--;)
    if (!g->pieces.at[i].seg) base = g->pieces.at[i].at;
  if (base && base < g->copy.len) memmove(g->copy.ptr, g->copy.ptr + base, g->copy.len - base);
  g->copy.len -= base;
  for (size_t i = 0; i < live; i++)
    if (!g->pieces.at[i].seg) g->pieces.at[i].at -= base;
}

static ssize_t on_send(nghttp2_session *h2, const uint8_t *bytes, size_t n, int flags, void *user) {
  (void)h2, (void)flags;
  GrpcSession *g = user;
  if (grpc_output_full(g)) return NGHTTP2_ERR_WOULDBLOCK;
  return grpc_output_copy(g, bytes, n) ? (ssize_t)n : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static void run_work(GrpcSession *g) {
  while (g->work) {
    GrpcStream *s = g->work;
    g->work = s->work_next;
    s->on_work_list = false;
    if (s->drained) {
      s->drained = false;
      if (g->handler->on_drain && s->accepted && !s->closed) g->handler->on_drain(g->ctx, s);
    }
    if (s->resumed) {
      s->resumed = false;
      grpc_frame_deliver(s);
    }
    if (s->closed && !s->paused) grpc_client_stream_finish(s);
  }
}

int grpc_session_output(GrpcSession *g, struct iovec *iov, int cap) {
  if (g->broken) return 0;
  output_compact(g);
  do {
    run_work(g);
    if (nghttp2_session_send(g->h2)) {
      g->broken = true; /* part of a frame may be missing: nothing can follow */
      return 0;
    }
  } while (g->work);
  int n = 0;
  for (size_t i = g->piece_at; i < g->pieces.len && n < cap; i++) {
    const Piece *p = &g->pieces.at[i];
    const uint8_t *base = p->seg ? p->seg->data : (const uint8_t *)g->copy.ptr;
    iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)(base + p->at), .iov_len = p->len};
  }
  return n;
}

void grpc_session_rest(GrpcSession *g) {
  if (g->pending || g->nstreams) return;
  g->pieces.len = g->piece_at = 0;
  vec_deinit(&g->pieces);
  strbuf_deinit(&g->copy);
}

void grpc_session_wrote(GrpcSession *g, size_t n) {
  g->pending -= n;
  while (n) {
    Piece *p = &g->pieces.at[g->piece_at];
    size_t k = n < p->len ? n : p->len;
    p->at += k;
    p->len -= k;
    n -= k;
    if (p->len) return;
    if (p->seg) grpc_segment_unref(p->seg);
    g->piece_at++;
  }
}

/* -- streams -------------------------------------------------------------------------------------
 */

GrpcStream *grpc_stream_create(GrpcSession *g, int32_t id) {
  GrpcStream *s = pool_alloc(g->config.pool, sizeof *s);
  if (!s) return NULL;
  *s = (GrpcStream){.session = g,
                    .next = g->streams,
                    .id = id,
                    .max_message = g->config.max_message,
                    .grpc_status = -1,
                    .head.timeout_ns = -1};
  if (g->streams) g->streams->prev = s;
  g->streams = s;
  g->nstreams++;
  return s;
}

static void work_list_remove(GrpcStream *s) {
  GrpcStream **at = &s->session->work;
  while (*at && *at != s) at = &(*at)->work_next;
  if (*at) *at = s->work_next;
}

void grpc_stream_close(GrpcStream *s, const StatusNote *st) {
  GrpcSession *g = s->session;
  grpc_frame_drop_input(s);
  grpc_frame_drop_queue(s);
  if (!output_own(g)) {
    output_drop(g);
    g->broken = true;
  }
  if (s->accepted) g->handler->on_close(g->ctx, s, st);
  if (s->on_work_list) work_list_remove(s);
  if (s->prev)
    s->prev->next = s->next;
  else
    g->streams = s->next;
  if (s->next) s->next->prev = s->prev;
  g->nstreams--;
  grpc_frame_drop_queue(s); /* on_close may have sent */
  status_drop(s->outcome);
  strbuf_deinit(&s->head.text);
  free(s->grpc_message);
  if (g->incoming == s) g->incoming = NULL;
  pool_free(s);
}

void grpc_stream_wake(GrpcStream *s) {
  if (s->on_work_list) return;
  s->on_work_list = true;
  s->work_next = s->session->work;
  s->session->work = s;
}

void grpc_stream_fail(GrpcStream *s, Status st) {
  s->refused = !s->finished;
  if (s->session->server)
    grpc_finish(s, st);
  else
    grpc_cancel(s, st);
}

void grpc_stream_set_ctx(GrpcStream *s, void *ctx) { s->ctx = ctx; }
void *grpc_stream_ctx(const GrpcStream *s) { return s->ctx; }
void grpc_stream_set_max_message(GrpcStream *s, size_t n) { s->max_message = n; }
void grpc_stream_pause(GrpcStream *s) { s->paused = true; }

void grpc_stream_resume(GrpcStream *s) {
  if (!s->paused) return;
  s->paused = false;
  s->resumed = true;
  grpc_stream_wake(s);
}

/* -- nghttp2 callbacks ----------------------------------------------------------------------------
 */

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *f, void *user) {
  GrpcSession *g = user;
  bool request = f->hd.type == NGHTTP2_HEADERS && f->headers.cat == NGHTTP2_HCAT_REQUEST;
  g->incoming = nghttp2_session_get_stream_user_data(h2, f->hd.stream_id);
  if (!g->server || !request) return 0;
  GrpcStream *s = g->incoming = grpc_stream_create(g, f->hd.stream_id);
  if (!s) return NGHTTP2_ERR_CALLBACK_FAILURE;
  return nghttp2_session_set_stream_user_data(h2, s->id, s);
}

static int on_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *hd, void *user) {
  (void)h2;
  GrpcSession *g = user;
  return g->server ? grpc_calm_frame(g, hd) : 0;
}

static int on_invalid_frame(nghttp2_session *h2, const nghttp2_frame *f, int error, void *user) {
  (void)h2, (void)error;
  GrpcSession *g = user;
  if (f->hd.type == NGHTTP2_HEADERS && g->incoming) g->incoming->head_done = true;
  return g->server ? grpc_calm_charge(g, CALM_RESET) : 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *f, const uint8_t *name, size_t nname,
                     const uint8_t *value, size_t nvalue, uint8_t flags, void *user) {
  (void)h2, (void)flags;
  GrpcSession *g = user;
  GrpcStream *s = g->incoming;
  enum { ENTRY_OVERHEAD = 32 };
  int rv = g->server ? grpc_calm_field(g, nname + nvalue + ENTRY_OVERHEAD) : 0;
  if (rv || !s) return rv;
  Str n = {(const char *)name, nname}, v = {(const char *)value, nvalue};
  if (!g->server) return grpc_client_header(s, n, v);
  return f->headers.cat == NGHTTP2_HCAT_REQUEST ? grpc_server_header(s, n, v) : 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *bytes, size_t n,
                   void *user) {
  (void)flags;
  GrpcStream *s = nghttp2_session_get_stream_user_data(h2, id);
  if (s)
    grpc_frame_receive(s, bytes, n);
  else
    grpc_session_asked(user, nghttp2_session_consume(h2, id, n));
  return 0;
}

static void on_pong(GrpcSession *g, const nghttp2_ping *p) {
  if (!g->server || !g->draining || memcmp(p->opaque_data, drain_ping, sizeof drain_ping) != 0)
    return;
  /* Every stream that the client opened before it saw the first GOAWAY has arrived by now. */
  nghttp2_submit_goaway(g->h2, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(g->h2),
                        NGHTTP2_NO_ERROR, NULL, 0);
}

static int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *f, void *user) {
  GrpcSession *g = user;
  bool end = f->hd.flags & NGHTTP2_FLAG_END_STREAM;
  if (f->hd.type == NGHTTP2_PING && (f->hd.flags & NGHTTP2_FLAG_ACK)) on_pong(g, &f->ping);
  if (f->hd.type == NGHTTP2_GOAWAY && !g->server) g->draining = true;
  if (f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA) return 0;
  GrpcStream *s = nghttp2_session_get_stream_user_data(h2, f->hd.stream_id);
  if (!s) return 0;
  if (end) s->remote_done = true;
  if (f->hd.type == NGHTTP2_HEADERS) {
    if (!g->server)
      grpc_client_headers_done(s, end);
    else if (f->headers.cat == NGHTTP2_HCAT_REQUEST)
      grpc_server_headers_done(s);
  }
  if (end) grpc_frame_deliver(s);
  return 0;
}

static int on_frame_send(nghttp2_session *h2, const nghttp2_frame *f, void *user) {
  GrpcSession *g = user;
  if (g->server) grpc_calm_sent(g, f);
  if (!g->server || f->hd.type != NGHTTP2_HEADERS || !(f->hd.flags & NGHTTP2_FLAG_END_STREAM))
    return 0;
  GrpcStream *s = nghttp2_session_get_stream_user_data(h2, f->hd.stream_id);
  if (!s) return 0;
  s->answered = true;
  /* The answer is complete; a client that is still sending may stop. */
  if (!s->remote_done) nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
  return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t error, void *user) {
  GrpcSession *g = user;
  GrpcStream *s = nghttp2_session_get_stream_user_data(h2, id);
  if (!s) return 0;
  if (g->server)
    grpc_server_stream_closed(s, error);
  else
    grpc_client_stream_closed(s, error);
  return 0;
}

static ssize_t on_read_length(nghttp2_session *h2, uint8_t type, int32_t id, int32_t session_window,
                              int32_t stream_window, uint32_t max_frame, void *user) {
  (void)type, (void)user;
  /* Not more than is queued: nghttp2 grows its frame buffer to what is said here. */
  GrpcStream *s = nghttp2_session_get_stream_user_data(h2, id);
  size_t n = s && s->queued ? s->queued : 1;
  if (n > max_frame) n = max_frame;
  if (n > (size_t)session_window) n = (size_t)session_window;
  return (ssize_t)(n > (size_t)stream_window ? (size_t)stream_window : n);
}

static nghttp2_session_callbacks *make_callbacks(void) {
  nghttp2_session_callbacks *cb;
  if (nghttp2_session_callbacks_new(&cb)) return NULL;
  nghttp2_session_callbacks_set_send_callback(cb, on_send);
  nghttp2_session_callbacks_set_send_data_callback(cb, grpc_frame_send_data);
  nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
  nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
  nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
  nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
  nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
  nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
  nghttp2_session_callbacks_set_data_source_read_length_callback(cb, on_read_length);
  return cb;
}

/* -- sessions ---------------------------------------------------------------------------------- */

static void *h2_malloc(size_t n, void *pool) { return pool_alloc(pool, n); }
static void h2_free(void *at, void *pool) {
  (void)pool;
  pool_free(at);
}
static void *h2_calloc(size_t n, size_t size, void *pool) {
  size_t bytes;
  return size_mul(n, size, &bytes) ? pool_zalloc(pool, bytes) : NULL;
}
static void *h2_realloc(void *at, size_t n, void *pool) { return pool_realloc(pool, at, n); }

/* The library's own limits, above those of grpc_calm.c. */
static void set_limits(nghttp2_option *o) {
  enum { ACKS = 1000, SETTINGS = 32, RESETS = 4000, RESETS_PER_SECOND = 400, CONTINUATIONS = 16 };
  nghttp2_option_set_max_outbound_ack(o, ACKS);
  nghttp2_option_set_max_settings(o, SETTINGS);
  nghttp2_option_set_stream_reset_rate_limit(o, RESETS, RESETS_PER_SECOND);
  nghttp2_option_set_max_continuations(o, CONTINUATIONS);
}

static int h2_create(GrpcSession *g) {
  nghttp2_option *option = NULL;
  nghttp2_session_callbacks *cb = make_callbacks();
  nghttp2_mem mem = {g->config.pool, h2_malloc, h2_free, h2_calloc, h2_realloc};
  int rv = cb ? nghttp2_option_new(&option) : NGHTTP2_ERR_NOMEM;
  if (!rv) {
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    set_limits(option);
    rv = (g->server ? nghttp2_session_server_new3 : nghttp2_session_client_new3)(&g->h2, cb, g,
                                                                                 option, &mem);
  }
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(cb);
  return rv;
}

static int announce(GrpcSession *g) {
  const GrpcConfig *c = &g->config;
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, g->server ? c->max_streams : 0},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, c->stream_window},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, c->max_frame},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, c->max_header_bytes},
      {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}, /* clients only */
  };
  size_t n = sizeof settings / sizeof *settings - (g->server ? 1 : 0);
  int rv = nghttp2_submit_settings(g->h2, NGHTTP2_FLAG_NONE, settings, n);
  if (rv) return rv;
  return nghttp2_session_set_local_window_size(g->h2, NGHTTP2_FLAG_NONE, 0,
                                               (int32_t)c->session_window);
}

static GrpcSession *create(const GrpcConfig *config, const GrpcHandler *handler, void *ctx,
                           bool server) {
  GrpcSession *g = calloc(1, sizeof *g);
  if (!g) return NULL;
  *g = (GrpcSession){.handler = handler, .ctx = ctx, .config = *config, .server = server};
  grpc_calm_init(g);
  if (!h2_create(g) && !announce(g)) return g;
  grpc_session_release(g);
  return NULL;
}

GrpcSession *grpc_server_create(const GrpcConfig *config, const GrpcHandler *handler, void *ctx) {
  return create(config, handler, ctx, true);
}

GrpcSession *grpc_client_create(const GrpcConfig *config, const GrpcHandler *handler, void *ctx) {
  return create(config, handler, ctx, false);
}

void grpc_session_release(GrpcSession *g) {
  if (!g) return;
  g->releasing = true;
  Status gone = g->streams ? FAIL(UNAVAILABLE, "the connection was closed") : NULL;
  while (g->streams) {
    GrpcStream *s = g->streams;
    assert(s->session == g && !s->prev); /* so that closing it takes it off the list */
    grpc_stream_close(s, s->outcome && !g->server ? s->outcome : gone);
  }
  status_drop(gone);
  nghttp2_session_del(g->h2);
  output_drop(g);
  vec_deinit(&g->pieces);
  strbuf_deinit(&g->copy);
  free(g);
}

Status grpc_session_input(GrpcSession *g, const void *bytes, size_t n) {
  ssize_t used = g->broken ? NGHTTP2_ERR_NOMEM : nghttp2_session_mem_recv(g->h2, bytes, n);
  Status st = used < 0 || g->calm.verdict ? grpc_calm_verdict(g, (int)used) : NULL;
  if (st) return st;
  if (used == NGHTTP2_ERR_NOMEM || used == NGHTTP2_ERR_CALLBACK_FAILURE)
    return FAIL(RESOURCE_EXHAUSTED, "no memory for the connection");
  if (used < 0) return FAIL(INVALID_ARGUMENT, "not HTTP/2: %s", nghttp2_strerror((int)used));
  return NULL;
}

bool grpc_session_done(const GrpcSession *g) {
  if (g->broken) return true;
  return !g->pending && !nghttp2_session_want_read(g->h2) && !nghttp2_session_want_write(g->h2);
}

size_t grpc_session_streams(const GrpcSession *g) { return g->nstreams; }

void grpc_session_drain(GrpcSession *g) {
  if (g->draining) return;
  g->draining = true;
  nghttp2_submit_shutdown_notice(g->h2);
  nghttp2_submit_ping(g->h2, NGHTTP2_FLAG_NONE, drain_ping);
}

bool grpc_session_draining(const GrpcSession *g) { return g->draining; }
