/* A batch is one connection: request, status line, end. Which spans were taken is a number, the
 * next one of the ring, that moves on when the collector has said 2xx, or that it will never take
 * them (other 4xx). Everything else, silence included, means the same batch again after a pause
 * that grows.
 *
 * An exchange is a thing of its own that outlives whoever began it until its handles are closed;
 * given up, it tells nobody. Of the answer only the status is believed, and looked at. */
#include "daemon/server/trace_push.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/request.h"
#include "daemon/server/rpc.h"
#include "daemon/server/server.h"

enum { BATCH = 256, TICK_MS = 1000, ANSWER_MS = 10000, PAUSE_MS = 1000, PAUSE_MAX_MS = 30000 };
enum { KIND_INTERNAL = 1, KIND_SERVER = 2, CODE_OK = 1, CODE_ERROR = 2 }; /* OTLP's numbers */

/* One request and the status of its answer. */
typedef struct Exchange {
  TracePush *push; /* NULL: given up */
  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  } at;
  uv_timer_t timer;
  uv_getaddrinfo_t lookup;
  uv_connect_t connect;
  uv_write_t write;
  bool looking, opened, ended; /* opened: `at` is a handle */
  int open;                    /* handles and requests that libuv still knows */
  StrBuf request;
  char answer[64]; /* its beginning */
  size_t got;
} Exchange;

struct TracePush {
  Server *server;
  PushAddress address;
  uv_timer_t tick;
  Exchange *exchange; /* NULL: none under way */
  uint64_t next, end; /* spans: the first not yet taken; behind those on their way */
  int64_t retry_ns, pause_ms;
  bool failing; /* and the log has said so */
};

/* -- address ------------------------------------------------------------------------------------
 */

static bool copy(char *to, size_t cap, const char *from, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (from[i] <= ' ' || from[i] == 127) return false;
  if (n >= cap) return false;
  memcpy(to, from, n);
  to[n] = 0;
  return true;
}

static bool parse_http(const char *text, PushAddress *out) {
  size_t n = strcspn(text, "/");
  const char *path = text[n] ? text + n : "/v1/traces";
  const char *host = text, *colon = memchr(text, ':', n);
  size_t host_len = colon ? (size_t)(colon - text) : n;
  if (*text == '[') { /* an IPv6 address */
    const char *close = memchr(text, ']', n);
    if (!close) return false;
    host = text + 1;
    host_len = (size_t)(close - host);
    colon = close + 1 == text + n ? NULL : close + 1;
    if (colon && *colon != ':') return false;
  }
  const char *port = colon ? colon + 1 : "4318";
  size_t port_len = colon ? (size_t)(text + n - port) : strlen(port);
  return host_len && port_len && strspn(port, "0123456789") >= port_len &&
         copy(out->host, sizeof out->host, host, host_len) &&
         copy(out->port, sizeof out->port, port, port_len) &&
         copy(out->path, sizeof out->path, path, strlen(path));
}

Status push_address_parse(const char *text, PushAddress *out) {
  static const char http[] = "http://", local[] = "unix:";
  *out = (PushAddress){.path = "/v1/traces"};
  if (!strncmp(text, http, sizeof http - 1) && parse_http(text + sizeof http - 1, out)) return NULL;
  const char *path = text + sizeof local - 1;
  if (!strncmp(text, local, sizeof local - 1) && *path &&
      copy(out->socket, sizeof out->socket, path, strlen(path)))
    return NULL;
  return FAIL(INVALID_ARGUMENT,
              "trace_push: expected http://HOST[:PORT][/PATH] or unix:PATH, got '%.100s'", text);
}

/* -- what is sent -------------------------------------------------------------------------------
 */

static void add_hex(StrBuf *out, const char *key, const uint8_t *bytes, size_t n) {
  strbuf_addf(out, "\"%s\":\"", key);
  for (size_t i = 0; i < n; i++) strbuf_addf(out, "%02x", bytes[i]);
  strbuf_adds(out, "\",");
}

static void add_attribute(StrBuf *out, const char *key, const char *value) {
  strbuf_addf(out, "{\"key\":\"%s\",\"value\":{\"stringValue\":\"%s\"}}", key, value);
}

static const char *tenant_name(const Server *s, uint32_t id) {
  for (const Tenant *t = s->tenants.first; t; t = t->next)
    if (t->id == id) return t->name;
  return "";
}

/* Names of tenants are letters, digits, '-' and '_'; those of methods are paths: neither needs to
 * be quoted. */
static void add_span(const Server *s, const Span *span, StrBuf *out) {
  static const uint8_t none[SPAN_ID];
  bool call = span->phase < 0;
  const char *method = rpc_name(span->method), *code = status_code_name((StatusCode)span->code);
  strbuf_adds(out, "{");
  add_hex(out, "traceId", span->trace, TRACE_ID);
  add_hex(out, "spanId", span->id, SPAN_ID);
  if (memcmp(span->parent, none, SPAN_ID) != 0) add_hex(out, "parentSpanId", span->parent, SPAN_ID);
  if (!method) method = "";
  strbuf_addf(out,
              "\"name\":\"%s\",\"kind\":%d,\"startTimeUnixNano\":\"%" PRId64
              "\",\"endTimeUnixNano\":\"%" PRId64 "\",\"attributes\":[",
              call ? method : phase_name((Phase)span->phase), call ? KIND_SERVER : KIND_INTERNAL,
              span->start_ns, span->start_ns + span->duration_ns);
  add_attribute(out, "rpc.method", method);
  strbuf_adds(out, ",");
  add_attribute(out, "kiln.tenant", tenant_name(s, span->tenant));
  if (call) {
    strbuf_adds(out, ",");
    add_attribute(out, "rpc.grpc.status", code);
  }
  strbuf_adds(out, "]");
  if (call)
    strbuf_addf(out, ",\"status\":{\"code\":%d}", span->code == ST_OK ? CODE_OK : CODE_ERROR);
  strbuf_adds(out, "}");
}

static void add_body(const Server *s, uint64_t from, uint64_t to, StrBuf *out) {
  char host[256] = "";
  if (gethostname(host, sizeof host - 1)) host[0] = 0;
  strbuf_adds(out, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
  add_attribute(out, "service.name", "kilnd");
  strbuf_adds(out, ",");
  add_attribute(out, "service.version", KILN_VERSION);
  strbuf_adds(out, ",");
  add_attribute(out, "service.instance.id", *s->config.node ? s->config.node : host);
  strbuf_adds(out, "]},\"scopeSpans\":[{\"scope\":{\"name\":\"kiln\"},\"spans\":[");
  for (uint64_t i = from; i < to; i++) {
    if (i > from) strbuf_adds(out, ",");
    add_span(s, &s->trace.at[i % TRACE_SPANS], out);
  }
  strbuf_adds(out, "]}]}]}");
}

static bool make_request(const TracePush *p, StrBuf *out) {
  const PushAddress *a = &p->address;
  StrBuf body = {0};
  bool six = strchr(a->host, ':') != NULL;
  add_body(p->server, p->next, p->end, &body);
  strbuf_addf(out, "POST %s HTTP/1.1\r\nhost: ", a->path);
  if (*a->host)
    strbuf_addf(out, six ? "[%s]:%s" : "%s:%s", a->host, a->port);
  else
    strbuf_adds(out, "localhost");
  strbuf_addf(out,
              "\r\ncontent-type: application/json\r\ncontent-length: %zu\r\nconnection: close\r\n"
              "user-agent: kilnd/" KILN_VERSION "\r\n\r\n",
              body.len);
  strbuf_add(out, body.ptr, body.len);
  bool ok = !body.failed && !out->failed;
  strbuf_deinit(&body);
  return ok;
}

/* -- an exchange --------------------------------------------------------------------------------
 */

static void batch_done(TracePush *p, int status, const char *why);

static void let_go(Exchange *x) {
  if (--x->open) return;
  strbuf_deinit(&x->request);
  free(x);
}

static void on_closed(uv_handle_t *handle) { let_go(handle->data); }

/* status 0: there was none, and why not. */
static void exchange_end(Exchange *x, int status, const char *why) {
  if (x->ended) return;
  TracePush *p = x->push;
  x->ended = true;
  if (x->looking) uv_cancel((uv_req_t *)&x->lookup);
  if (x->opened) uv_close(&x->at.handle, on_closed);
  uv_close((uv_handle_t *)&x->timer, on_closed);
  if (!p) return;
  p->exchange = NULL;
  batch_done(p, status, why);
}

static void on_timer(uv_timer_t *timer) { exchange_end(timer->data, 0, "no answer in time"); }

static void on_written(uv_write_t *req, int rc) {
  Exchange *x = req->data;
  if (rc) exchange_end(x, 0, uv_strerror(rc));
  let_go(x);
}

/* "HTTP/1.1 200 ..." */
static int status_line(const Exchange *x) {
  const char *a = x->answer;
  if (x->got < 12 || memcmp(a, "HTTP/1.", 7) != 0 || a[8] != ' ') return 0;
  for (int i = 9; i < 12; i++)
    if (a[i] < '0' || a[i] > '9') return 0;
  return (a[9] - '0') * 100 + (a[10] - '0') * 10 + (a[11] - '0');
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
  Exchange *x = handle->data;
  (void)suggested;
  *out = uv_buf_init(x->answer + x->got, (unsigned)(sizeof x->answer - x->got));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  Exchange *x = stream->data;
  (void)buf;
  if (n > 0) x->got += (size_t)n;
  if (n >= 0 && x->got < 12) return;
  int status = status_line(x);
  exchange_end(x, status, status ? "" : n < 0 ? "it closes the connection" : "it speaks no HTTP");
}

static void on_connected(uv_connect_t *req, int rc) {
  Exchange *x = req->data;
  uv_buf_t buf = uv_buf_init(x->request.ptr, (unsigned)x->request.len);
  x->write.data = x;
  if (!x->ended && !rc) rc = uv_read_start(&x->at.stream, on_alloc, on_read);
  if (!x->ended && !rc && !(rc = uv_write(&x->write, &x->at.stream, &buf, 1, on_written)))
    x->open++;
  if (rc) exchange_end(x, 0, uv_strerror(rc));
  let_go(x);
}

static void opened(Exchange *x) {
  x->opened = true;
  x->open++;
  x->at.handle.data = x;
  x->connect.data = x;
}

static void on_found(uv_getaddrinfo_t *req, int rc, struct addrinfo *found) {
  Exchange *x = req->data;
  x->looking = false;
  if (!x->ended && !rc && !(rc = uv_tcp_init(req->loop, &x->at.tcp))) {
    opened(x);
    rc = uv_tcp_connect(&x->connect, &x->at.tcp, found->ai_addr, on_connected);
    if (!rc) x->open++;
  }
  uv_freeaddrinfo(found);
  if (rc) exchange_end(x, 0, uv_strerror(rc));
  let_go(x);
}

static int begin(Exchange *x, uv_loop_t *loop, const PushAddress *a) {
  const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  x->lookup.data = x;
  if (*a->host) {
    int rc = uv_getaddrinfo(loop, &x->lookup, on_found, a->host, a->port, &hints);
    x->looking = !rc;
    x->open += !rc;
    return rc;
  }
  int rc = uv_pipe_init(loop, &x->at.pipe, 0);
  if (rc) return rc;
  opened(x);
  x->open++;
  uv_pipe_connect(&x->connect, &x->at.pipe, a->socket, on_connected);
  return 0;
}

/* Sends the spans next to end - 1. */
static void exchange_begin(TracePush *p) {
  uv_loop_t *loop = &p->server->loop;
  Exchange *x = calloc(1, sizeof *x);
  if (!x || !make_request(p, &x->request)) {
    if (x) strbuf_deinit(&x->request);
    free(x);
    batch_done(p, 0, "no memory");
    return;
  }
  x->push = p;
  p->exchange = x;
  uv_timer_init(loop, &x->timer);
  x->timer.data = x;
  x->open = 1;
  uv_timer_start(&x->timer, on_timer, ANSWER_MS, 0);
  int rc = begin(x, loop, &p->address);
  if (rc) exchange_end(x, 0, uv_strerror(rc));
}

/* -- batches ------------------------------------------------------------------------------------
 */

static void push_more(TracePush *p) {
  const TraceRing *ring = &p->server->trace;
  uint64_t oldest = ring->written > TRACE_SPANS ? ring->written - TRACE_SPANS : 0;
  if (p->exchange || clock_now_ns() < p->retry_ns) return;
  if (p->next < oldest) {
    p->server->metrics.spans_pushed_total[RESULT_FAILED][0] += oldest - p->next;
    p->next = oldest;
  }
  if (p->next == ring->written) return;
  p->end = ring->written - p->next > BATCH ? p->next + BATCH : ring->written;
  exchange_begin(p);
}

/* Worth sending again: nobody said that they will never be taken. */
static bool again(int status) {
  return status < 200 || status == 408 || status == 429 || status >= 500;
}

static void on_tick(uv_timer_t *timer) { push_more(timer->data); }

static void batch_done(TracePush *p, int status, const char *why) {
  uint64_t n = p->end - p->next;
  bool taken = status >= 200 && status < 300;
  if (!again(status)) {
    p->server->metrics.spans_pushed_total[taken ? RESULT_OK : RESULT_FAILED][0] += n;
    p->next = p->end;
    p->pause_ms = 0;
  } else {
    p->pause_ms = p->pause_ms ? 2 * p->pause_ms : PAUSE_MS;
    if (p->pause_ms > PAUSE_MAX_MS) p->pause_ms = PAUSE_MAX_MS;
  }
  p->retry_ns = clock_now_ns() + p->pause_ms * 1000000;
  if (!taken && !p->failing)
    LOG_WARN("the collector does not take spans", "status=%d why=\"%s\"", status, why);
  if (taken && p->failing) LOG_INFO("the collector takes spans", "status=%d", status);
  p->failing = !taken;
  bool full = p->server->trace.written - p->next >= BATCH;
  if (full && !p->pause_ms) uv_timer_start(&p->tick, on_tick, 0, TICK_MS);
}

static void on_tick_closed(uv_handle_t *handle) { free(handle->data); }

Status trace_push_create(Server *s, TracePush **out) {
  PushAddress address;
  *out = NULL;
  if (!*s->config.trace_push) return NULL;
  TRY(push_address_parse(s->config.trace_push, &address));
  TracePush *p = *out = calloc(1, sizeof *p);
  if (!p) return FAIL(RESOURCE_EXHAUSTED, "trace_push");
  *p = (TracePush){.server = s, .address = address, .next = s->trace.written};
  uv_timer_init(&s->loop, &p->tick);
  p->tick.data = p;
  uv_timer_start(&p->tick, on_tick, TICK_MS, TICK_MS);
  return NULL;
}

void trace_push_close(TracePush *p) {
  if (!p) return;
  if (p->exchange) {
    Exchange *x = p->exchange;
    x->push = NULL;
    exchange_end(x, 0, "");
  }
  uv_close((uv_handle_t *)&p->tick, on_tick_closed);
}
