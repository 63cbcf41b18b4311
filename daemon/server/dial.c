/* `held` counts what libuv still knows of a Dial: handles, the lookup, the connect request. Whoever
 * ends it only closes; memory is freed by the last callback, so every callback may look at it.
 *
 * The handle of an attempt that failed is closed before the next address is tried with it. TLS
 * stands between the socket and `input`: what is encrypted is written at once, so the session holds
 * no output, and nothing is said before the certificate was found right. */
#include "daemon/server/dial.h"

#include <stdio.h>
#include <stdlib.h>

enum { READ_BYTES = 16 << 10, KEEPALIVE_S = 30 };

struct Dial {
  DialSpec spec;
  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  } at;
  uv_timer_t timer;
  uv_getaddrinfo_t lookup;
  uv_connect_t connect;
  struct addrinfo *found, *next; /* all addresses; the first not yet tried */
  TlsSession *tls;               /* NULL: plain */
  int held;
  bool looking, opened; /* opened: `at` is a handle that nobody closes yet */
  bool up, ended;
  char buffer[READ_BYTES];
};

/* -- addresses ----------------------------------------------------------------------------------
 */

/* Without what would break a line of a log or of a request. */
static bool take(Str from, char *to, size_t cap) {
  for (size_t i = 0; i < from.len; i++)
    if ((unsigned char)from.ptr[i] <= ' ' || from.ptr[i] == 127) return false;
  if (!from.len || from.len >= cap) return false;
  memcpy(to, from.ptr, from.len);
  to[from.len] = 0;
  return true;
}

bool dial_parse(Str text, const char *default_port, DialAddress *out) {
  *out = (DialAddress){.host = ""};
  bool six = text.len && text.ptr[0] == '[';
  const char *end = text.ptr + text.len, *close = six ? memchr(text.ptr, ']', text.len) : NULL;
  if (six && !close) return false;
  const char *from = six ? text.ptr + 1 : text.ptr, *rest = six ? close + 1 : NULL;
  if (!six) rest = text.len ? memchr(text.ptr, ':', text.len) : NULL;
  if (!rest) rest = end;
  Str host = {from, (size_t)((six ? close : rest) - from)}, port = str_from(default_port);
  if (rest < end && *rest != ':') return false;
  if (rest < end) port = (Str){rest + 1, (size_t)(end - rest) - 1};
  for (size_t i = 0; i < port.len; i++)
    if (port.ptr[i] < '0' || port.ptr[i] > '9') return false;
  return take(host, out->host, sizeof out->host) && take(port, out->port, sizeof out->port);
}

bool dial_parse_socket(Str path, DialAddress *out) {
  *out = (DialAddress){.host = ""};
  return take(path, out->path, sizeof out->path);
}

const char *dial_text(const DialAddress *a, char *buf, size_t cap) {
  if (!*a->host)
    snprintf(buf, cap, "unix:%s", a->path);
  else
    snprintf(buf, cap, strchr(a->host, ':') ? "[%s]:%s" : "%s:%s", a->host, a->port);
  return buf;
}

bool dial_same(const DialAddress *a, const DialAddress *b) {
  return !strcmp(a->host, b->host) && !strcmp(a->port, b->port) && !strcmp(a->path, b->path);
}

/* -- the end ------------------------------------------------------------------------------------
 */

static void let_go(Dial *d) {
  if (--d->held) return;
  uv_freeaddrinfo(d->found);
  tls_session_release(d->tls);
  if (d->spec.gone) d->spec.gone(d->spec.ctx);
  free(d);
}

static void on_closed(uv_handle_t *handle) { let_go(handle->data); }

void dial_close(Dial *d) {
  if (d->ended) return;
  d->ended = true;
  if (d->looking) uv_cancel((uv_req_t *)&d->lookup);
  if (d->opened) uv_close(&d->at.handle, on_closed);
  uv_close((uv_handle_t *)&d->timer, on_closed);
}

static void fail(Dial *d, const char *why) {
  if (d->ended) return;
  dial_close(d);
  d->spec.down(d->spec.ctx, why);
}

static void on_timer(uv_timer_t *timer) {
  Dial *d = timer->data;
  fail(d, d->up ? "no answer in time" : "it does not come up");
}

void dial_expect(Dial *d, uint64_t ms) {
  if (d->ended) return;
  if (ms)
    uv_timer_start(&d->timer, on_timer, ms, 0);
  else
    uv_timer_stop(&d->timer);
}

/* -- writing ------------------------------------------------------------------------------------
 */

typedef struct Write {
  uv_write_t req;
  char bytes[];
} Write;

static void on_written(uv_write_t *req, int status) {
  (void)status; /* reading shows it too */
  free(req);
}

static bool write_bytes(Dial *d, const void *bytes, size_t n) {
  Write *w = malloc(sizeof *w + n);
  if (!w) return false;
  memcpy(w->bytes, bytes, n);
  uv_buf_t buf = uv_buf_init(w->bytes, (unsigned)n);
  if (!uv_write(&w->req, &d->at.stream, &buf, 1, on_written)) return true;
  free(w);
  return false;
}

/* Sends what TLS has to say. */
static bool write_encrypted(Dial *d) {
  Bytes out = tls_output(d->tls);
  if (!out.len) return true;
  bool ok = write_bytes(d, out.ptr, out.len);
  tls_wrote(d->tls, out.len);
  return ok;
}

bool dial_write(Dial *d, const void *bytes, size_t n) {
  if (!d->up || d->ended || uv_stream_get_write_queue_size(&d->at.stream) > DIAL_WRITE_MAX)
    return false;
  if (!d->tls) return write_bytes(d, bytes, n);
  for (size_t at = 0, taken; at < n; at += taken) {
    Status st = tls_write(d->tls, (const char *)bytes + at, n - at, &taken);
    bool ok = !st && taken && write_encrypted(d);
    status_drop(st);
    if (!ok) return false;
  }
  return true;
}

/* -- reading ------------------------------------------------------------------------------------
 */

static void came_up(Dial *d) {
  d->up = true;
  uv_timer_stop(&d->timer);
  d->spec.up(d->spec.ctx);
}

/* Decrypts what has come, beginning with the handshake. */
static void take_encrypted(Dial *d) {
  char plain[READ_BYTES], why[160];
  size_t got;
  do {
    Status st = tls_read(d->tls, plain, sizeof plain, &got);
    if (st) {
      write_encrypted(d); /* it may hear why */
      status_text(st, why, sizeof why);
      status_drop(st);
      fail(d, why);
      return;
    }
    if (!d->up && tls_ready(d->tls) && write_encrypted(d)) came_up(d);
    if (got && !d->ended) d->spec.input(d->spec.ctx, plain, got);
  } while (got && !d->ended);
  if (!d->ended && !write_encrypted(d)) fail(d, "no memory");
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
  Dial *d = handle->data;
  (void)suggested;
  *out = uv_buf_init(d->buffer, sizeof d->buffer);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  Dial *d = stream->data;
  (void)buf;
  if (n < 0) {
    fail(d, n == UV_EOF ? "it closed the connection" : uv_strerror((int)n));
  } else if (n && d->tls) {
    Status st = tls_input(d->tls, d->buffer, (size_t)n);
    if (st)
      fail(d, "no memory for its answer");
    else
      take_encrypted(d);
    status_drop(st);
  } else if (n) {
    d->spec.input(d->spec.ctx, d->buffer, (size_t)n);
  }
}

/* -- connecting ---------------------------------------------------------------------------------
 */

static void opened(Dial *d) {
  d->opened = true;
  d->held++;
  d->at.handle.data = d;
}

static void try_next(Dial *d);

static void on_attempt_closed(uv_handle_t *handle) {
  Dial *d = handle->data;
  if (!d->ended) try_next(d);
  let_go(d);
}

static void attempt_failed(Dial *d, int rc) {
  if (!d->next) {
    fail(d, uv_strerror(rc));
    return;
  }
  d->opened = false;
  uv_close(&d->at.handle, on_attempt_closed);
}

static void on_connected(uv_connect_t *req, int rc) {
  Dial *d = req->data;
  if (!d->ended) {
    if (!rc) rc = uv_read_start(&d->at.stream, on_alloc, on_read);
    if (rc)
      attempt_failed(d, rc);
    else if (d->tls)
      take_encrypted(d); /* nothing has come: it begins */
    else
      came_up(d);
  }
  let_go(d);
}

static void try_next(Dial *d) {
  const struct addrinfo *to = d->next;
  d->next = to->ai_next;
  int rc = uv_tcp_init(d->spec.loop, &d->at.tcp);
  if (rc) {
    fail(d, uv_strerror(rc));
    return;
  }
  opened(d);
  uv_tcp_nodelay(&d->at.tcp, 1);
  uv_tcp_keepalive(&d->at.tcp, 1, KEEPALIVE_S);
  rc = uv_tcp_connect(&d->connect, &d->at.tcp, to->ai_addr, on_connected);
  if (rc)
    attempt_failed(d, rc);
  else
    d->held++;
}

static void on_found(uv_getaddrinfo_t *req, int rc, struct addrinfo *found) {
  Dial *d = req->data;
  d->looking = false;
  d->found = d->next = found;
  if (rc || !found)
    fail(d, uv_strerror(rc ? rc : UV_EAI_NONAME));
  else if (!d->ended)
    try_next(d);
  let_go(d);
}

static int begin(Dial *d, const DialAddress *to) {
  const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  if (*to->host) {
    int rc = uv_getaddrinfo(d->spec.loop, &d->lookup, on_found, to->host, to->port, &hints);
    d->looking = !rc;
    d->held += !rc;
    return rc;
  }
  int rc = uv_pipe_init(d->spec.loop, &d->at.pipe, 0);
  if (rc) return rc;
  opened(d);
  d->held++;
  uv_pipe_connect(&d->connect, &d->at.pipe, to->path, on_connected);
  return 0;
}

Status dial_open(const DialSpec *spec, Dial **out) {
  *out = NULL;
  Dial *d = calloc(1, sizeof *d);
  if (!d) return FAIL(RESOURCE_EXHAUSTED, "connection");
  d->spec = *spec;
  Status st = spec->tls ? tls_session_create(spec->tls, spec->to->host, &d->tls) : NULL;
  if (st) {
    free(d);
    return st;
  }
  d->timer.data = d->lookup.data = d->connect.data = d;
  uv_timer_init(spec->loop, &d->timer);
  d->held = 1;
  uv_timer_start(&d->timer, on_timer, spec->timeout_ms, 0);
  int rc = begin(d, spec->to);
  if (!rc) {
    *out = d;
    return NULL;
  }
  d->spec.gone = NULL;
  dial_close(d);
  return FAIL(UNAVAILABLE, "%s", uv_strerror(rc));
}
