/* A client session and a server session back to back in memory: every kind of call, flow control in
 * both directions, and what happens to bytes that are not gRPC. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proto/grpc.h"

/* What one call saw, on either side. */
typedef struct Seen {
  GrpcStream *stream;
  StrBuf bytes; /* all messages, joined by '|' */
  size_t messages, message_bytes;
  bool half_closed, closed;
  StatusCode code;
  char text[256];
} Seen;

typedef struct Pair {
  GrpcSession *client, *server;
  size_t slice; /* bytes per input call; 0 = as they come */
  Seen up;      /* the server's view of the (last) call */
  char path[128];
  int64_t timeout_ns;
  char authorization[64];
  bool pause_all, drop_to_server;
  size_t downloads_left;
  size_t to_client, to_server;
} Pair;

static void seen_reset(Seen *s) {
  strbuf_deinit(&s->bytes);
  *s = (Seen){0};
}

static void see_message(Seen *s, Bytes msg) {
  if (s->messages++) strbuf_adds(&s->bytes, "|");
  if (msg.len < 100) strbuf_add(&s->bytes, msg.ptr, msg.len);
  s->message_bytes += msg.len;
}

static void see_close(Seen *s, const StatusNote *st) {
  assert_false(s->closed);
  s->closed = true;
  s->stream = NULL;
  s->code = status_code(st);
  status_text(st, s->text, sizeof s->text);
}

/* -- the server under test: echoes, joins, counts, refuses ----------------------------------------
 */

static bool srv_request(void *ctx, GrpcStream *s, const GrpcHead *head) {
  Pair *p = ctx;
  seen_reset(&p->up);
  snprintf(p->path, sizeof p->path, STR_FMT, STR_ARG(head->path));
  snprintf(p->authorization, sizeof p->authorization, STR_FMT, STR_ARG(head->authorization));
  p->timeout_ns = head->timeout_ns;
  if (!str_is(head->path, "/t.T/Echo") && !str_is(head->path, "/t.T/Fail") &&
      !str_is(head->path, "/t.T/Down") && !str_is(head->path, "/t.T/Early"))
    return false;
  p->up.stream = s;
  grpc_stream_set_ctx(s, p);
  grpc_stream_set_max_message(s, 16 << 20);
  if (p->pause_all) grpc_stream_pause(s);
  if (str_is(head->path, "/t.T/Early")) grpc_finish(s, FAIL(PERMISSION_DENIED, "not you"));
  return true;
}

static void srv_message(void *ctx, GrpcStream *s, Bytes msg) {
  Pair *p = ctx;
  see_message(&p->up, msg);
  if (str_is(str_from(p->path), "/t.T/Echo")) grpc_send(s, msg);
}

static void send_download(Pair *p, GrpcStream *s) {
  enum { CHUNK = 100 << 10 };
  while (p->downloads_left && grpc_stream_queued(s) < (1 << 20)) {
    uint8_t *at = grpc_send_begin(s, CHUNK);
    assert_non_null(at);
    memset(at, (int)p->downloads_left, CHUNK);
    p->downloads_left--;
  }
  if (!p->downloads_left) grpc_finish(s, NULL);
}

static void srv_half_close(void *ctx, GrpcStream *s) {
  Pair *p = ctx;
  p->up.half_closed = true;
  if (str_is(str_from(p->path), "/t.T/Echo")) grpc_finish(s, NULL);
  if (str_is(str_from(p->path), "/t.T/Fail")) grpc_finish(s, FAIL(NOT_FOUND, "no 'ü' 100%%\nhere"));
  if (str_is(str_from(p->path), "/t.T/Down")) send_download(p, s);
}

static void srv_drain(void *ctx, GrpcStream *s) {
  Pair *p = ctx;
  if (str_is(str_from(p->path), "/t.T/Down")) send_download(p, s);
}

static void srv_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  Seen *up = &((Pair *)ctx)->up;
  if (up->stream == s) see_close(up, st);
}

static const GrpcHandler server_handler = {.on_request = srv_request,
                                           .on_message = srv_message,
                                           .on_half_close = srv_half_close,
                                           .on_drain = srv_drain,
                                           .on_close = srv_close};

static void cli_message(void *ctx, GrpcStream *s, Bytes msg) {
  (void)ctx;
  see_message(grpc_stream_ctx(s), msg);
}
static void cli_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  (void)ctx;
  see_close(grpc_stream_ctx(s), st);
}
static const GrpcHandler client_handler = {.on_message = cli_message, .on_close = cli_close};

/* -- moving bytes --------------------------------------------------------------------------------
 */

/* Moves what `from` offers into `to` (NULL: nowhere); returns the bytes moved. */
static size_t move(GrpcSession *from, GrpcSession *to, size_t slice) {
  struct iovec iov[4];
  size_t total = 0;
  for (int n; (n = grpc_session_output(from, iov, 4)) > 0;) {
    size_t sent = 0;
    StrBuf wire = {0};
    for (int i = 0; i < n; i++) strbuf_add(&wire, iov[i].iov_base, iov[i].iov_len);
    /* a socket takes what it likes: leave the last byte for the next round now and then */
    sent = wire.len > 1 && wire.len % 3 == 0 ? wire.len - 1 : wire.len;
    grpc_session_wrote(from, sent);
    for (size_t at = 0; to && at < sent;) {
      size_t k = slice && slice < sent - at ? slice : sent - at;
      assert_null(grpc_session_input(to, wire.ptr + at, k));
      at += k;
    }
    strbuf_deinit(&wire);
    total += sent;
  }
  return total;
}

static void pump(Pair *p) {
  size_t up, down;
  do {
    up = move(p->client, p->server, p->slice);
    down = move(p->server, p->client, p->slice);
    p->to_server += up;
    p->to_client += down;
  } while (up || down);
}

static void pair_init(Pair *p, const GrpcConfig *config) {
  *p = (Pair){0};
  p->client = grpc_client_create(&grpc_config_default, &client_handler, p);
  p->server = grpc_server_create(config ? config : &grpc_config_default, &server_handler, p);
  assert_non_null(p->client);
  assert_non_null(p->server);
}

static void pair_deinit(Pair *p) {
  grpc_session_release(p->client);
  grpc_session_release(p->server);
  seen_reset(&p->up);
}

static GrpcStream *start(Pair *p, const char *path, Seen *seen) {
  *seen = (Seen){0};
  const GrpcCall call = {.path = path, .ctx = seen};
  Status st = grpc_call_start(p->client, &call, &seen->stream);
  assert_null(st);
  return seen->stream;
}

static Bytes text(const char *s) { return (Bytes){(const uint8_t *)s, strlen(s)}; }

/* -- tests
 * ------------------------------------------------------------------------------------------ */

static void check_unary(size_t slice) {
  Pair p;
  Seen s;
  pair_init(&p, NULL);
  p.slice = slice;
  for (int round = 0; round < 3; round++) {
    const GrpcCall call = {
        .path = "/t.T/Echo", .timeout_ns = 1500000000, .authorization = "Bearer x", .ctx = &s};
    s = (Seen){0};
    assert_null(grpc_call_start(p.client, &call, &s.stream));
    grpc_send(s.stream, text("hello"));
    grpc_half_close(s.stream);
    pump(&p);
    assert_true(s.closed);
    assert_int_equal(s.code, ST_OK);
    assert_string_equal(s.bytes.ptr, "hello");
    assert_string_equal(p.path, "/t.T/Echo");
    assert_string_equal(p.authorization, "Bearer x");
    assert_int_equal(p.timeout_ns, 1500000000);
    assert_true(p.up.half_closed && p.up.closed);
    assert_int_equal(p.up.code, ST_OK);
    seen_reset(&s);
  }
  assert_int_equal(grpc_session_streams(p.client), 0);
  assert_int_equal(grpc_session_streams(p.server), 0);
  pair_deinit(&p);
}

static void test_unary(void **state) {
  (void)state;
  check_unary(0);
  check_unary(1);
  check_unary(7);
}

static void test_status(void **state) {
  (void)state;
  Pair p;
  Seen s;
  pair_init(&p, NULL);
  grpc_half_close(start(&p, "/t.T/Fail", &s));
  pump(&p);
  assert_int_equal(s.code, ST_NOT_FOUND);
  assert_string_equal(s.text, "no 'ü' 100%\nhere");
  assert_int_equal(p.up.code, ST_OK); /* the answer arrived */
  grpc_half_close(start(&p, "/t.T/None", &s));
  pump(&p);
  assert_int_equal(s.code, ST_UNIMPLEMENTED);
  assert_string_equal(s.text, "no method '/t.T/None'");
  assert_false(p.up.closed);
  pair_deinit(&p);
}

/* Bidirectional: answers flow before the client is done. */
static void test_streaming(void **state) {
  (void)state;
  Pair p;
  Seen s, other;
  pair_init(&p, NULL);
  start(&p, "/t.T/Echo", &s);
  for (const char *m = "abc"; *m; m++) {
    grpc_send(s.stream, (Bytes){(const uint8_t *)m, 1});
    pump(&p);
    assert_int_equal(s.messages, (size_t)(m - "abc") + 1 > 3 ? 3 : s.messages);
  }
  assert_string_equal(s.bytes.ptr, "a|b|c");
  assert_false(s.closed);
  grpc_send(s.stream, (Bytes){0});
  grpc_half_close(s.stream);
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.messages, 4); /* an empty message is a message */
  seen_reset(&s);
  start(&p, "/t.T/Echo", &s); /* a second call beside one that stays open */
  start(&p, "/t.T/Echo", &other);
  grpc_send(other.stream, text("x"));
  grpc_half_close(other.stream);
  pump(&p);
  assert_true(other.closed && !s.closed);
  seen_reset(&other);
  pair_deinit(&p);
  assert_true(s.closed); /* the connection went */
  assert_int_equal(s.code, ST_UNAVAILABLE);
}

static void count_done(void *ctx) { ++*(int *)ctx; }

/* Far beyond the windows in both directions, by reference and by copy. */
static void test_big_messages(void **state) {
  (void)state;
  enum { BIG = 10 << 20 };
  Pair p;
  Seen s;
  int done = 0;
  uint8_t *data = malloc(BIG);
  for (size_t i = 0; i < BIG; i++) data[i] = (uint8_t)(i >> 8);
  pair_init(&p, NULL);
  start(&p, "/t.T/Echo", &s);
  grpc_stream_set_max_message(s.stream, BIG + 10);
  grpc_send_body(s.stream, text("head"), (Bytes){data, BIG}, count_done, &done);
  grpc_half_close(s.stream);
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.code, ST_OK);
  assert_int_equal(s.message_bytes, BIG + 4);
  assert_int_equal(done, 1);
  start(&p, "/t.T/Echo", &s); /* the limit of the answer is the client's default: 4 MiB */
  grpc_send(s.stream, (Bytes){data, 5 << 20});
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.code, ST_RESOURCE_EXHAUSTED);
  assert_true(p.up.closed);
  assert_int_equal(p.up.code, ST_CANCELLED);
  start(&p, "/t.T/Echo", &s);
  grpc_send_body(s.stream, (Bytes){0}, (Bytes){data, BIG}, count_done, &done);
  struct iovec iov[8];
  int n = grpc_session_output(p.client, iov, 8);
  assert_true(n > 1);
  grpc_session_wrote(p.client, iov[0].iov_len + 1); /* the socket is full in mid-frame */
  grpc_cancel(s.stream, NULL);
  assert_int_equal(done, 1);
  while (!s.closed) {
    n = grpc_session_output(p.client, iov, 8);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) grpc_session_wrote(p.client, iov[i].iov_len);
  }
  assert_int_equal(done, 2); /* before on_close */
  start(&p, "/t.T/Echo", &s);
  grpc_send_body(s.stream, (Bytes){0}, (Bytes){data, BIG}, count_done, &done);
  pair_deinit(&p); /* done is called although nothing was sent */
  assert_int_equal(done, 3);
  seen_reset(&s);
  free(data);
}

static void test_download_with_drain(void **state) {
  (void)state;
  Pair p;
  Seen s;
  pair_init(&p, NULL);
  p.downloads_left = 50;
  grpc_half_close(start(&p, "/t.T/Down", &s));
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.messages, 50);
  assert_int_equal(s.message_bytes, 50 * (100 << 10));
  seen_reset(&s);
  pair_deinit(&p);
}

/* A client that does not read: the server's queue stops at its own bound. */
static void test_slow_reader(void **state) {
  (void)state;
  Pair p;
  Seen s;
  pair_init(&p, NULL);
  p.downloads_left = 1000;
  grpc_stream_pause(start(&p, "/t.T/Down", &s));
  grpc_half_close(s.stream);
  pump(&p);
  assert_int_equal(s.messages, 0);
  assert_true(p.to_client < (1 << 20) + (64 << 10)); /* one stream window and some headers */
  assert_true(p.downloads_left > 950);
  grpc_stream_resume(s.stream);
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.messages, 1000);
  seen_reset(&s);
  /* the answer is complete while we are paused: it is kept */
  p.downloads_left = 3;
  grpc_stream_pause(start(&p, "/t.T/Down", &s));
  grpc_half_close(s.stream);
  pump(&p);
  assert_false(s.closed);
  grpc_stream_resume(s.stream);
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.messages, 3);
  seen_reset(&s);
  /* or thrown away */
  p.downloads_left = 3;
  grpc_stream_pause(start(&p, "/t.T/Down", &s));
  grpc_half_close(s.stream);
  pump(&p);
  grpc_cancel(s.stream, NULL);
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.messages, 0);
  assert_int_equal(s.code, ST_CANCELLED);
  pair_deinit(&p);
}

/* A handler that does not keep up: the client's bytes stop at one window. */
static void test_slow_handler(void **state) {
  (void)state;
  Pair p;
  Seen s;
  uint8_t data[1000] = {0};
  pair_init(&p, NULL);
  p.pause_all = true;
  start(&p, "/t.T/Echo", &s);
  for (int i = 0; i < 5000; i++) grpc_send(s.stream, (Bytes){data, sizeof data});
  grpc_half_close(s.stream);
  pump(&p);
  assert_int_equal(p.up.messages, 0);
  assert_true(p.to_server < (1 << 20) + 4096);
  assert_true(grpc_stream_queued(s.stream) > 3900000);
  grpc_stream_resume(p.up.stream);
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(p.up.messages, 5000);
  assert_int_equal(s.messages, 5000);
  seen_reset(&s);
  pair_deinit(&p);
}

/* What came of one message: in parts when it begins with 'P' and is large, else whole. */
static struct {
  uint8_t at[400000];
  size_t len, left, parts, whole;
} came;

static bool take_part(void *ctx, GrpcStream *s, Bytes part, size_t left) {
  (void)ctx, (void)s;
  if (!came.left && part.ptr[0] != 'P') return false;
  if (came.left) assert_int_equal(part.len + left, came.left);
  memcpy(came.at + came.len, part.ptr, part.len);
  came.len += part.len;
  came.left = left;
  came.parts++;
  return true;
}

static void take_whole(void *ctx, GrpcStream *s, Bytes msg) {
  (void)ctx, (void)s;
  assert_int_equal(came.left, 0);
  memcpy(came.at, msg.ptr, msg.len);
  came.len = msg.len;
  came.whole++;
}

/* Large messages in parts, others whole, the bytes the same however they are cut on the way. */
static void test_parts(void **state) {
  (void)state;
  static const GrpcHandler in_parts = {.on_request = srv_request,
                                       .on_message = take_whole,
                                       .on_part = take_part,
                                       .on_half_close = srv_half_close,
                                       .on_close = srv_close};
  static const size_t sizes[] = {10, 65535, 65536, 70000, 300000};
  static const size_t slices[] = {0, 1, 7, 1000, 70000};
  static uint8_t data[300000];
  for (size_t i = 0; i < 5 * 5 * 2; i++) {
    size_t n = sizes[i % 5];
    bool large = n >= 65536, wanted = i % 2;
    Pair p = {.slice = slices[i / 5 % 5]};
    Seen s;
    p.client = grpc_client_create(&grpc_config_default, &client_handler, &p);
    p.server = grpc_server_create(&grpc_config_default, &in_parts, &p);
    start(&p, "/t.T/Echo", &s);
    memset(&came, 0, sizeof came);
    for (size_t k = 0; k < n; k++) data[k] = (uint8_t)(k * 31 + k / 255);
    data[0] = wanted ? 'P' : 'x';
    grpc_send(s.stream, (Bytes){data, n});
    if (i % 3 == 0) { /* paused on the way */
      move(p.client, p.server, p.slice);
      grpc_stream_pause(p.up.stream);
      pump(&p);
      grpc_stream_resume(p.up.stream);
    }
    grpc_half_close(s.stream);
    pump(&p);
    assert_int_equal(came.len, n);
    assert_memory_equal(came.at, data, n);
    assert_int_equal(came.whole, !(large && wanted));
    assert_int_equal(came.parts > 0, large && wanted);
    assert_true(s.closed);
    assert_int_equal(s.code, ST_OK);
    seen_reset(&s);
    pair_deinit(&p);
  }
}

static void test_cancel(void **state) {
  (void)state;
  Pair p;
  Seen s;
  pair_init(&p, NULL);
  start(&p, "/t.T/Echo", &s);
  grpc_send(s.stream, text("x"));
  pump(&p);
  grpc_cancel(s.stream, FAIL(DEADLINE_EXCEEDED, "too late"));
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.code, ST_DEADLINE_EXCEEDED);
  assert_true(p.up.closed);
  assert_int_equal(p.up.code, ST_CANCELLED);
  seen_reset(&s);
  grpc_cancel(start(&p, "/t.T/Echo", &s), NULL); /* before anything was sent */
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.code, ST_CANCELLED);
  /* an early answer stops a client that is still sending */
  start(&p, "/t.T/Early", &s);
  for (int i = 0; i < 4; i++) grpc_send(s.stream, (Bytes){(uint8_t[1 << 20]){0}, 1 << 20});
  pump(&p);
  assert_true(s.closed);
  assert_int_equal(s.code, ST_PERMISSION_DENIED);
  assert_int_equal(p.up.messages, 0);
  grpc_half_close(start(&p, "/t.T/Echo", &s)); /* and the connection is as good as before */
  pump(&p);
  assert_int_equal(s.code, ST_OK);
  assert_true(s.closed);
  pair_deinit(&p);
}

static void test_drain(void **state) {
  (void)state;
  Pair p;
  Seen s, late;
  pair_init(&p, NULL);
  start(&p, "/t.T/Echo", &s);
  pump(&p);
  grpc_session_drain(p.server);
  pump(&p);
  assert_true(grpc_session_draining(p.client));
  assert_false(grpc_session_done(p.server));
  const GrpcCall call = {.path = "/t.T/Echo", .ctx = &late};
  Status st = grpc_call_start(p.client, &call, &late.stream);
  assert_int_equal(status_code(st), ST_UNAVAILABLE);
  status_drop(st);
  grpc_send(s.stream, text("still served"));
  grpc_half_close(s.stream);
  pump(&p);
  assert_true(s.closed);
  assert_string_equal(s.bytes.ptr, "still served");
  assert_true(grpc_session_done(p.server));
  seen_reset(&s);
  pair_deinit(&p);
}

static void test_stream_limit(void **state) {
  (void)state;
  Pair p;
  Seen s[3];
  GrpcConfig config = grpc_config_default;
  config.max_streams = 2;
  pair_init(&p, &config);
  pump(&p); /* so that the client knows the limit */
  for (int i = 0; i < 3; i++) start(&p, "/t.T/Echo", &s[i]);
  pump(&p);
  assert_int_equal(grpc_session_streams(p.server), 2); /* the third waits in the client */
  for (int i = 0; i < 3; i++) grpc_half_close(s[i].stream);
  pump(&p);
  for (int i = 0; i < 3; i++) assert_true(s[i].closed && s[i].code == ST_OK);
  pair_deinit(&p);
}

/* -- hand-made bytes -----------------------------------------------------------------------------
 */

/* The gRPC prefix is ours to spoil: it lies in the five bytes before what grpc_send_begin returns.
 */
static void spoil(Pair *p, Seen *s, const char *raw, size_t n, bool end) {
  start(p, "/t.T/Echo", s);
  uint8_t *at = grpc_send_begin(s->stream, n - 5);
  memcpy(at - 5, raw, n);
  if (end) grpc_half_close(s->stream);
  pump(p);
}

static void test_bad_frames(void **state) {
  (void)state;
  Pair p;
  Seen s;
  pair_init(&p, NULL);
  spoil(&p, &s, "\1\0\0\0\1x", 6, false);
  assert_int_equal(s.code, ST_UNIMPLEMENTED);
  assert_int_equal(p.up.code, ST_UNIMPLEMENTED);
  spoil(&p, &s, "\7\0\0\0\1x", 6, false);
  assert_int_equal(s.code, ST_INVALID_ARGUMENT);
  spoil(&p, &s, "\0\1\0\0\1x", 6, false); /* 16 MiB + 1 */
  assert_int_equal(s.code, ST_RESOURCE_EXHAUSTED);
  assert_string_equal(s.text, "message of 16777217 bytes, at most 16777216 are allowed");
  spoil(&p, &s, "\0\0\0\0\2x", 6, true);
  assert_int_equal(s.code, ST_INVALID_ARGUMENT);
  assert_string_equal(s.text, "the stream ended inside a message");
  assert_false(p.up.half_closed);
  pair_deinit(&p);
}

static void test_buffer_limit(void **state) {
  (void)state;
  Pair p;
  Seen s[3];
  GrpcConfig config = grpc_config_default;
  config.max_buffered = 1 << 20;
  pair_init(&p, &config);
  uint8_t *data = calloc(1, 400 << 10);
  for (int i = 0; i < 3; i++) {
    start(&p, "/t.T/Echo", &s[i]);
    uint8_t *at = grpc_send_begin(s[i].stream, 400 << 10);
    at[-4] = 0, at[-3] = 0x10; /* claims 1 MiB, sends 400 KiB */
    memset(at, 0, 400 << 10);
    pump(&p);
  }
  assert_false(s[0].closed || s[1].closed);
  assert_true(s[2].closed);
  assert_int_equal(s[2].code, ST_RESOURCE_EXHAUSTED);
  free(data);
  pair_deinit(&p);
}

/* Feeds raw bytes to a fresh server; returns what it answered and whether it wants to go on. */
static bool feed(const char *raw, size_t n, StrBuf *answer) {
  Pair p = {.server = NULL};
  struct iovec iov[8];
  p.server = grpc_server_create(&grpc_config_default, &server_handler, &p);
  Status st = grpc_session_input(p.server, raw, n);
  for (int k; (k = grpc_session_output(p.server, iov, 8)) > 0;)
    for (int i = 0; i < k; i++) {
      strbuf_add(answer, iov[i].iov_base, iov[i].iov_len);
      grpc_session_wrote(p.server, iov[i].iov_len);
    }
  bool alive = !st && !grpc_session_done(p.server);
  status_drop(st);
  grpc_session_release(p.server);
  seen_reset(&p.up);
  return alive;
}

#define PREFACE  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define SETTINGS "\0\0\0\4\0\0\0\0\0"

/* One HEADERS frame of literal fields without indexing. */
static void request(StrBuf *b, const char *const *fields, bool end) {
  StrBuf block = {0};
  strbuf_add(&block, "\0\12:authority\1x", 14);
  for (; *fields; fields += 2) {
    size_t nn = strlen(fields[0]), nv = strlen(fields[1]);
    strbuf_add(&block, (char[]){0, (char)nn}, 2);
    strbuf_adds(&block, fields[0]);
    assert_true(nv < 127);
    strbuf_add(&block, (char[]){(char)nv}, 1);
    strbuf_adds(&block, fields[1]);
  }
  strbuf_add(b, (char[]){0, 0, (char)block.len, 1, end ? 5 : 4, 0, 0, 0, 1}, 9);
  assert_true(block.len < 256);
  strbuf_add(b, block.ptr, block.len);
  strbuf_deinit(&block);
}

static bool contains(const StrBuf *b, const char *part) {
  return b->len && memmem(b->ptr, b->len, part, strlen(part));
}

static void test_http_level(void **state) {
  (void)state;
  const char *plain[] = {":method",   "POST",         ":scheme",   "http", ":path",
                         "/t.T/Echo", "content-type", "text/html", NULL};
  const char *get[] = {":method", "GET", ":scheme", "http", ":path", "/", NULL};
  const char *timeout[] = {":method",
                           "POST",
                           ":scheme",
                           "http",
                           ":path",
                           "/t.T/Echo",
                           "content-type",
                           "application/grpc+proto",
                           "grpc-timeout",
                           "5x",
                           NULL};
  const char *zip[] = {":method",
                       "POST",
                       ":scheme",
                       "http",
                       ":path",
                       "/t.T/Echo",
                       "content-type",
                       "application/grpc;x=y",
                       "grpc-encoding",
                       "gzip",
                       NULL};
  const struct {
    const char *const *fields;
    const char *answer; /* HPACK: ":status" and a literal, or ":status: 200" */
  } cases[] = {{plain, "\x48\x03\x34\x31\x35"},
               {get, "\x48\x03\x34\x30\x35"},
               {timeout, "\x88"},
               {zip, "\x88"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    StrBuf in = {0}, out = {0};
    strbuf_add(&in, PREFACE SETTINGS, sizeof(PREFACE SETTINGS) - 1);
    request(&in, cases[i].fields, i % 2);
    assert_true(feed(in.ptr, in.len, &out));
    assert_true(contains(&out, cases[i].answer));
    strbuf_deinit(&in);
    strbuf_deinit(&out);
  }
}

static void test_garbage(void **state) {
  (void)state;
  StrBuf out = {0};
  assert_false(feed("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27, &out));
  strbuf_deinit(&out);
  /* DATA on stream 0, a frame beyond MAX_FRAME_SIZE, HEADERS with rubbish HPACK */
  const char data0[] = PREFACE SETTINGS "\0\0\1\0\0\0\0\0\0x";
  const char large[] = PREFACE SETTINGS "\x10\0\0\0\0\0\0\0\1";
  const char hpack[] = PREFACE SETTINGS "\0\0\4\1\5\0\0\0\1\xff\xff\xff\xff";
  assert_false(feed(data0, sizeof data0 - 1, &out));
  assert_false(feed(large, sizeof large - 1, &out));
  assert_false(feed(hpack, sizeof hpack - 1, &out));
  strbuf_deinit(&out);
  uint64_t rng = 7;
  for (int round = 0; round < 300; round++) {
    char junk[600];
    memcpy(junk, PREFACE SETTINGS, sizeof(PREFACE SETTINGS));
    for (size_t i = sizeof(PREFACE SETTINGS) - 1; i < sizeof junk; i++) {
      rng = rng * 6364136223846793005u + 1442695040888963407u;
      junk[i] = rng >> 61 ? (char)((rng >> 33) & 7) : (char)(rng >> 40);
    }
    (void)feed(junk, sizeof junk, &out);
    strbuf_deinit(&out);
  }
}

static void test_timeouts(void **state) {
  (void)state;
  int64_t ns;
  char buf[GRPC_TIMEOUT_CAP];
  assert_true(grpc_timeout_parse(STR("100m"), &ns) && ns == 100000000);
  assert_true(grpc_timeout_parse(STR("5S"), &ns) && ns == 5000000000);
  assert_true(grpc_timeout_parse(STR("1n"), &ns) && ns == 1);
  assert_true(grpc_timeout_parse(STR("99999999H"), &ns) && ns == INT64_MAX);
  const char *bad[] = {"", "5", "S", "5s", "123456789S", "-1S", "1 S", "1SS"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_false(grpc_timeout_parse(str_from(bad[i]), &ns));
  const int64_t values[] = {1, 99999999, 100000000, 1500000000, 3600000000000, INT64_MAX};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    assert_true(grpc_timeout_parse(str_from(grpc_timeout_format(values[i], buf)), &ns));
    assert_true(ns >= values[i] && (double)ns <= (double)values[i] * 1.001);
  }
}

static void test_message_text(void **state) {
  (void)state;
  char enc[64], dec[64];
  const char *s = "a % b\n\xc3\xbc";
  size_t n = grpc_message_encode(s, enc, sizeof enc);
  assert_string_equal(enc, "a %25 b%0A%C3%BC");
  grpc_message_decode((Str){enc, n}, dec, sizeof dec);
  assert_string_equal(dec, s);
  assert_int_equal(grpc_message_encode(s, enc, 15), 10); /* the last character does not fit whole */
  grpc_message_decode(STR("%4"), dec, sizeof dec);
  assert_string_equal(dec, "%4");
  grpc_message_decode(STR("%zz%00"), dec, sizeof dec);
  assert_string_equal(dec, "%zz?");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_unary),
      cmocka_unit_test(test_status),
      cmocka_unit_test(test_streaming),
      cmocka_unit_test(test_big_messages),
      cmocka_unit_test(test_download_with_drain),
      cmocka_unit_test(test_slow_reader),
      cmocka_unit_test(test_slow_handler),
      cmocka_unit_test(test_parts),
      cmocka_unit_test(test_cancel),
      cmocka_unit_test(test_drain),
      cmocka_unit_test(test_stream_limit),
      cmocka_unit_test(test_bad_frames),
      cmocka_unit_test(test_buffer_limit),
      cmocka_unit_test(test_http_level),
      cmocka_unit_test(test_garbage),
      cmocka_unit_test(test_timeouts),
      cmocka_unit_test(test_message_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
