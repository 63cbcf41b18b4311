/* hiredis reads and formats the protocol; the connection is ours. Its asynchronous half (and with
 * it the adapter for libuv) asserts that a server only sends what was asked for, in the shape that
 * was asked for, so a hostile one could end kilnd by a single unasked reply (0.14,
 * __redisGetSubscribe- Callback). Here an answer is made by the reader under limits (the object
 * functions refuse large arrays and strings, and what waits undecoded is counted before more is
 * fed), and is either the oldest command's or the end of the connection.
 *
 * TLS stands between the socket and the protocol: what is encrypted is written at once, so the
 * session holds no output, and nothing is said before the certificate was found right. */
#include "daemon/server/resp.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

enum {
  READ_BYTES = 16 << 10,
  UNREAD_MAX = RESP_STRING_MAX + 4096, /* one string that is not complete yet */
  ARRAY_MAX = 8,
  WRITE_MAX = 8 << 20
};

typedef struct Pending {
  RespDone done;
  void *ctx;
  int64_t deadline_ns;
} Pending;

struct Resp {
  RespSpec spec;
  RespAddress address;
  char channel[64];
  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  } at;
  uv_timer_t timer;
  uv_getaddrinfo_t lookup;
  uv_connect_t connect;
  bool looking, connecting, opened; /* opened: `at` is a handle */
  bool up, ended;
  TlsSession *tls;    /* NULL: plain */
  bool secured;       /* its handshake is over */
  unsigned handshake; /* answers that are still to come before it is up */
  int open_handles;
  redisReader *reader;
  Pending pending[RESP_PENDING]; /* a ring */
  size_t first, npending;
  char buffer[READ_BYTES];
};

/* -- addresses ----------------------------------------------------------------------------------
 */

static bool take(Str from, char *to, size_t cap) {
  if (from.len >= cap) return false;
  if (from.len) memcpy(to, from.ptr, from.len);
  to[from.len] = 0;
  return true;
}

/* Cuts s at the first (or last) c: what is before it; s becomes what is behind. */
static bool cut(Str *s, char c, bool last, Str *before) {
  for (size_t i = 0; i < s->len; i++) {
    size_t k = last ? s->len - 1 - i : i;
    if (s->ptr[k] != c) continue;
    *before = (Str){s->ptr, k};
    *s = (Str){s->ptr + k + 1, s->len - k - 1};
    return true;
  }
  return false;
}

static bool digits(const char *s) { return *s && strspn(s, "0123456789") == strlen(s); }

static bool parse_url(Str rest, RespAddress *out) {
  Str who, host, part;
  bool ok = true;
  if (cut(&rest, '@', true, &who)) {
    if (cut(&who, ':', false, &part)) ok = take(part, out->user, sizeof out->user);
    ok = ok && take(who, out->password, sizeof out->password);
  }
  if (cut(&rest, '/', true, &host)) {
    ok = ok && take(rest, out->db, sizeof out->db) && (!rest.len || digits(out->db));
    rest = host;
  }
  if (rest.len && rest.ptr[0] == '[') { /* an IPv6 address */
    rest = (Str){rest.ptr + 1, rest.len - 1};
    ok = ok && cut(&rest, ']', false, &host) && (!rest.len || rest.ptr[0] == ':');
    if (rest.len) rest = (Str){rest.ptr + 1, rest.len - 1};
  } else if (!cut(&rest, ':', true, &host)) {
    host = rest;
    rest = STR("6379");
  }
  if (!rest.len) rest = STR("6379");
  return ok && host.len && take(host, out->host, sizeof out->host) &&
         take(rest, out->port, sizeof out->port) && digits(out->port);
}

Status resp_address_parse(const char *text, RespAddress *out) {
  static const char url[] = "redis://", secure[] = "rediss://", local[] = "unix:";
  *out = (RespAddress){.host = ""};
  if (!strncmp(text, local, sizeof local - 1)) {
    Str path = str_from(text + sizeof local - 1);
    if (path.len && take(path, out->path, sizeof out->path)) return NULL;
  } else if (!strncmp(text, url, sizeof url - 1)) {
    if (parse_url(str_from(text + sizeof url - 1), out)) return NULL;
  } else if (!strncmp(text, secure, sizeof secure - 1)) {
    out->tls = true;
    if (parse_url(str_from(text + sizeof secure - 1), out)) return NULL;
  }
  return FAIL(
      INVALID_ARGUMENT,
      "expected redis://[[USER:]PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, or unix:PATH; "
      "got %zu characters",
      strlen(text));
}

const char *resp_address_text(const RespAddress *a, char *buf, size_t cap) {
  if (*a->host)
    snprintf(buf, cap, "redis%s://%s:%s%s%s", a->tls ? "s" : "", a->host, a->port,
             *a->db ? "/" : "", a->db);
  else
    snprintf(buf, cap, "unix:%s", a->path);
  return buf;
}

/* -- the end ------------------------------------------------------------------------------------
 */

static void maybe_free(Resp *r) {
  if (r->open_handles || r->looking || r->connecting) return;
  redisReaderFree(r->reader);
  tls_session_release(r->tls);
  free(r);
}

static void on_closed(uv_handle_t *handle) {
  Resp *r = handle->data;
  r->open_handles--;
  maybe_free(r);
}

/* Tells who waits and closes; nothing of the caller's is called after this. */
static void end(Resp *r) {
  r->ended = true;
  r->up = false;
  while (r->npending) {
    Pending p = r->pending[r->first];
    r->first = (r->first + 1) % RESP_PENDING;
    r->npending--;
    p.done(p.ctx, NULL);
  }
  if (r->looking) uv_cancel((uv_req_t *)&r->lookup);
  if (r->opened) uv_close(&r->at.handle, on_closed);
  uv_close((uv_handle_t *)&r->timer, on_closed);
}

void resp_close(Resp *r) {
  if (!r->ended) end(r);
}

static void fail(Resp *r, const char *why) {
  if (r->ended) return;
  void (*down)(void *, const char *) = r->spec.down;
  void *ctx = r->spec.ctx;
  end(r);
  down(ctx, why);
}

/* -- time ---------------------------------------------------------------------------------------
 */

static void on_timer(uv_timer_t *timer) {
  Resp *r = timer->data;
  fail(r, r->up ? "no answer in time" : "it does not come up");
}

/* The oldest command has the earliest deadline. */
static void arm(Resp *r) {
  if (r->ended) return;
  if (!r->npending) {
    uv_timer_stop(&r->timer);
    return;
  }
  int64_t left = (r->pending[r->first].deadline_ns - clock_now_ns()) / 1000000;
  uv_timer_start(&r->timer, on_timer, left > 0 ? (uint64_t)left : 0, 0);
}

/* -- answers ------------------------------------------------------------------------------------
 */

#if HIREDIS_MAJOR >= 1
typedef size_t Elements;
#else
typedef int Elements;
#endif

static redisReplyObjectFunctions usual, limited;

static void *limited_array(const redisReadTask *task, Elements n) {
  return n <= ARRAY_MAX ? usual.createArray(task, n) : NULL;
}

static void *limited_string(const redisReadTask *task, char *text, size_t n) {
  return n <= RESP_STRING_MAX ? usual.createString(task, text, n) : NULL;
}

static redisReader *make_reader(void) {
  redisReader *reader = redisReaderCreate();
  if (!reader) return NULL;
  if (!limited.createArray) {
    usual = limited = *reader->fn;
    limited.createArray = limited_array;
    limited.createString = limited_string;
  }
  reader->fn = &limited;
  return reader;
}

static void came_up(Resp *r) {
  r->up = true;
  r->spec.up(r->spec.ctx);
}

static void on_handshake(void *ctx, const redisReply *reply) {
  Resp *r = ctx;
  char why[160];
  if (!reply || r->ended) return;
  if (reply->type == REDIS_REPLY_ERROR) {
    snprintf(why, sizeof why, "it refuses: %.100s", reply->str);
    for (char *c = why; *c; c++)
      if ((unsigned char)*c < ' ' || *c == '"') *c = '?';
    fail(r, why);
    return;
  }
  if (!--r->handshake) came_up(r);
}

static bool is_text(const redisReply *reply, const char *text) {
  return (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS) &&
         reply->len == strlen(text) && !memcmp(reply->str, text, reply->len);
}

/* What comes without a command: messages of the channel. */
static bool take_push(Resp *r, const redisReply *reply) {
  if (!*r->channel || reply->type != REDIS_REPLY_ARRAY || reply->elements != 3) return false;
  const redisReply *payload = reply->element[2];
  if (!is_text(reply->element[0], "message") || !is_text(reply->element[1], r->channel) ||
      payload->type != REDIS_REPLY_STRING)
    return false;
  r->spec.push(r->spec.ctx, (Bytes){(const uint8_t *)payload->str, payload->len});
  return true;
}

static void take_reply(Resp *r, const redisReply *reply) {
  if (!r->npending) {
    if (!take_push(r, reply)) fail(r, "it sends what nobody asked for");
    return;
  }
  Pending p = r->pending[r->first];
  r->first = (r->first + 1) % RESP_PENDING;
  r->npending--;
  arm(r);
  p.done(p.ctx, reply);
}

static void take_bytes(Resp *r, const char *bytes, size_t n) {
  void *reply = NULL;
  if (redisReaderFeed(r->reader, bytes, n) != REDIS_OK) {
    fail(r, "no memory for its answer");
    return;
  }
  while (!r->ended) {
    if (redisReaderGetReply(r->reader, &reply) != REDIS_OK) {
      fail(r, "its answer is no RESP, or too large");
      return;
    }
    if (!reply) break;
    take_reply(r, reply);
    freeReplyObject(reply);
  }
  if (!r->ended && r->reader->len - r->reader->pos > UNREAD_MAX) fail(r, "its answer is too large");
}

/* -- commands -----------------------------------------------------------------------------------
 */

typedef struct Write {
  uv_write_t req;
  char *text;   /* hiredis's; NULL: */
  char bytes[]; /* encrypted */
} Write;

static void on_written(uv_write_t *req, int status) {
  Write *w = (Write *)(void *)req;
  (void)status; /* reading shows it too */
  if (w->text) redisFreeCommand(w->text);
  free(w);
}

/* Takes over w. */
static bool write_bytes(Resp *r, Write *w, char *bytes, size_t n) {
  uv_buf_t buf = uv_buf_init(bytes, (unsigned)n);
  if (!uv_write(&w->req, &r->at.stream, &buf, 1, on_written)) return true;
  on_written(&w->req, 0);
  return false;
}

/* Sends what TLS has to say. */
static bool write_encrypted(Resp *r) {
  Bytes out = tls_output(r->tls);
  if (!out.len) return true;
  Write *w = malloc(sizeof *w + out.len);
  if (!w) return false;
  w->text = NULL;
  memcpy(w->bytes, out.ptr, out.len);
  tls_wrote(r->tls, out.len);
  return write_bytes(r, w, w->bytes, out.len);
}

static bool encrypt(Resp *r, const char *text, size_t n) {
  for (size_t at = 0, taken; at < n; at += taken) {
    Status st = tls_write(r->tls, text + at, n - at, &taken);
    bool ok = !st && taken && write_encrypted(r);
    status_drop(st);
    if (!ok) return false;
  }
  return true;
}

static bool write_command(Resp *r, const Str *args, size_t n) {
  const char *at[RESP_ARGS];
  size_t len[RESP_ARGS];
  Write *w = calloc(1, sizeof *w);
  assert(n <= RESP_ARGS);
  for (size_t i = 0; i < n; i++) {
    at[i] = args[i].len ? args[i].ptr : "";
    len[i] = args[i].len;
  }
  int bytes = w ? redisFormatCommandArgv(&w->text, (int)n, at, len) : -1;
  if (bytes < 0) {
    free(w);
    return false;
  }
  if (!r->tls) return write_bytes(r, w, w->text, (size_t)bytes);
  bool ok = encrypt(r, w->text, (size_t)bytes);
  on_written(&w->req, 0);
  return ok;
}

static bool command(Resp *r, const Str *args, size_t n, RespDone done, void *ctx) {
  if (r->ended || r->npending == RESP_PENDING ||
      uv_stream_get_write_queue_size(&r->at.stream) > WRITE_MAX || !write_command(r, args, n))
    return false;
  int64_t deadline = clock_now_ns() + (int64_t)r->spec.timeout_ms * 1000000;
  r->pending[(r->first + r->npending++) % RESP_PENDING] = (Pending){done, ctx, deadline};
  if (r->npending == 1) arm(r);
  return true;
}

bool resp_command(Resp *r, const Str *args, size_t n, RespDone done, void *ctx) {
  return r->up && !*r->channel && command(r, args, n, done, ctx);
}

/* -- coming up ----------------------------------------------------------------------------------
 */

static bool say(Resp *r, const char *a, const char *b, const char *c) {
  Str args[] = {str_from(a), str_from(b), str_from(c)};
  r->handshake++;
  return command(r, args, 1u + (b != NULL) + (c != NULL), on_handshake, r);
}

static void handshake(Resp *r) {
  const RespAddress *a = &r->address;
  bool ok = true;
  if (*a->password)
    ok = *a->user ? say(r, "AUTH", a->user, a->password) : say(r, "AUTH", a->password, NULL);
  if (ok && *a->db) ok = say(r, "SELECT", a->db, NULL);
  if (ok) ok = *r->channel ? say(r, "SUBSCRIBE", r->channel, NULL) : say(r, "PING", NULL, NULL);
  if (!ok) fail(r, "no memory");
}

/* Decrypts what has come, beginning with the handshake. */
static void take_encrypted(Resp *r) {
  char plain[READ_BYTES], why[160];
  size_t got;
  do {
    Status st = tls_read(r->tls, plain, sizeof plain, &got);
    if (st) {
      write_encrypted(r); /* it may hear why */
      status_text(st, why, sizeof why);
      status_drop(st);
      fail(r, why);
      return;
    }
    if (!r->secured && tls_ready(r->tls)) {
      r->secured = true;
      if (write_encrypted(r)) handshake(r);
    }
    if (got && !r->ended) take_bytes(r, plain, got);
  } while (got && !r->ended);
  if (!r->ended && !write_encrypted(r)) fail(r, "no memory");
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
  Resp *r = handle->data;
  (void)suggested;
  *out = uv_buf_init(r->buffer, sizeof r->buffer);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  Resp *r = stream->data;
  (void)buf;
  if (n < 0) {
    fail(r, n == UV_EOF ? "it closed the connection" : uv_strerror((int)n));
  } else if (n && r->tls) {
    Status st = tls_input(r->tls, r->buffer, (size_t)n);
    if (st)
      fail(r, "no memory for its answer");
    else
      take_encrypted(r);
    status_drop(st);
  } else if (n) {
    take_bytes(r, r->buffer, (size_t)n);
  }
}

static void on_connected(uv_connect_t *req, int status) {
  Resp *r = req->data;
  r->connecting = false;
  if (r->ended) {
    maybe_free(r);
  } else if (status || (status = uv_read_start(&r->at.stream, on_alloc, on_read))) {
    fail(r, uv_strerror(status));
  } else if (r->tls) {
    take_encrypted(r); /* nothing has come: it begins */
  } else {
    handshake(r);
  }
}

static void on_address(uv_getaddrinfo_t *req, int status, struct addrinfo *found) {
  Resp *r = req->data;
  r->looking = false;
  if (r->ended) {
    uv_freeaddrinfo(found);
    maybe_free(r);
    return;
  }
  if (!status && !(status = uv_tcp_init(r->spec.loop, &r->at.tcp))) {
    r->opened = true;
    r->open_handles++;
    r->at.handle.data = r;
    uv_tcp_nodelay(&r->at.tcp, 1);
    uv_tcp_keepalive(&r->at.tcp, 1, 30);
    status = uv_tcp_connect(&r->connect, &r->at.tcp, found->ai_addr, on_connected);
    r->connecting = !status;
  }
  uv_freeaddrinfo(found);
  if (status) fail(r, uv_strerror(status));
}

static int begin(Resp *r) {
  const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  int e;
  if (*r->address.host) {
    e = uv_getaddrinfo(r->spec.loop, &r->lookup, on_address, r->address.host, r->address.port,
                       &hints);
    r->looking = !e;
    return e;
  }
  if ((e = uv_pipe_init(r->spec.loop, &r->at.pipe, 0))) return e;
  r->opened = true;
  r->open_handles++;
  r->at.handle.data = r;
  uv_pipe_connect(&r->connect, &r->at.pipe, r->address.path, on_connected);
  r->connecting = true;
  return 0;
}

Status resp_open(const RespSpec *spec, Resp **out) {
  Resp *r = *out = calloc(1, sizeof *r);
  Status st = r && (r->reader = make_reader()) ? NULL : FAIL(RESOURCE_EXHAUSTED, "connection");
  if (!st && spec->address->tls) st = tls_session_create(spec->tls, spec->address->host, &r->tls);
  if (st) {
    if (r && r->reader) redisReaderFree(r->reader);
    free(r);
    *out = NULL;
    return st;
  }
  r->spec = *spec;
  r->address = *spec->address;
  if (spec->channel) snprintf(r->channel, sizeof r->channel, "%s", spec->channel);
  r->timer.data = r->lookup.data = r->connect.data = r;
  uv_timer_init(spec->loop, &r->timer);
  r->open_handles++;
  int e = begin(r);
  if (e) {
    end(r);
    *out = NULL;
    return FAIL(UNAVAILABLE, "%s", uv_strerror(e));
  }
  uv_timer_start(&r->timer, on_timer, 2 * spec->timeout_ms, 0);
  return NULL;
}
