/* A batch is one connection: request, status line, end. Which spans were taken is a number, the
 * next one of the ring, that moves on when the collector has said 2xx, or that it will never take
 * them (other 4xx). Everything else, silence included, means the same batch again after a pause
 * that grows.
 *
 * An exchange is a thing of its own that outlives whoever began it until its connection is gone;
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
  TracePush *push; /* NULL: it has ended, or was given up */
  Dial *dial;
  StrBuf request;
  char answer[12]; /* its beginning */
  size_t got;
} Exchange;

struct TracePush {
  Server *server;
  PushAddress address;
  TlsContext *tls; /* NULL: plain */
  uv_timer_t tick;
  Exchange *exchange; /* NULL: none under way */
  uint64_t next, end; /* spans: the first not yet taken; behind those on their way */
  int64_t retry_ns, pause_ms;
  bool failing; /* and the log has said so */
};

/* -- address ------------------------------------------------------------------------------------
 */

static bool parse_url(const char *text, PushAddress *out) {
  size_t n = strcspn(text, "/");
  const char *path = text[n] ? text + n : "/v1/traces";
  for (const char *c = path; *c; c++)
    if ((unsigned char)*c <= ' ' || *c == 127) return false;
  return dial_parse((Str){text, n}, "4318", &out->at) &&
         (size_t)snprintf(out->path, sizeof out->path, "%s", path) < sizeof out->path;
}

Status push_address_parse(const char *text, PushAddress *out) {
  static const char http[] = "http://", https[] = "https://", local[] = "unix:";
  *out = (PushAddress){.path = "/v1/traces", .tls = !strncmp(text, https, sizeof https - 1)};
  if (out->tls && parse_url(text + sizeof https - 1, out)) return NULL;
  if (!strncmp(text, http, sizeof http - 1) && parse_url(text + sizeof http - 1, out)) return NULL;
  if (!strncmp(text, local, sizeof local - 1) &&
      dial_parse_socket(str_from(text + sizeof local - 1), &out->at))
    return NULL;
  return FAIL(INVALID_ARGUMENT,
              "trace_push: expected http://HOST[:PORT][/PATH], https:// for TLS, or unix:PATH, got "
              "'%.100s'",
              text);
}

Status push_check(const Config *c) {
  PushAddress a = {.path = ""};
  if (*c->trace_push) TRY(push_address_parse(c->trace_push, &a));
  if (!a.tls && *c->push_ca && strcmp(c->push_ca, "system") != 0)
    return FAIL(INVALID_ARGUMENT, "trace_push_ca needs an https:// address in trace_push");
  return NULL;
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
  char host[300];
  add_body(p->server, p->next, p->end, &body);
  strbuf_addf(out, "POST %s HTTP/1.1\r\nhost: %s", a->path,
              *a->at.host ? dial_text(&a->at, host, sizeof host) : "localhost");
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

static void on_gone(void *ctx) {
  Exchange *x = ctx;
  strbuf_deinit(&x->request);
  free(x);
}

/* status 0: there was none, and why not. */
static void exchange_end(Exchange *x, int status, const char *why) {
  TracePush *p = x->push;
  x->push = NULL;
  dial_close(x->dial);
  if (!p) return;
  p->exchange = NULL;
  batch_done(p, status, why);
}

static void on_down(void *ctx, const char *why) { exchange_end(ctx, 0, why); }

/* "HTTP/1.1 200 ..." */
static int status_line(const Exchange *x) {
  const char *a = x->answer;
  if (x->got < sizeof x->answer || memcmp(a, "HTTP/1.", 7) != 0 || a[8] != ' ') return 0;
  for (int i = 9; i < 12; i++)
    if (a[i] < '0' || a[i] > '9') return 0;
  return (a[9] - '0') * 100 + (a[10] - '0') * 10 + (a[11] - '0');
}

static void on_input(void *ctx, const char *bytes, size_t n) {
  Exchange *x = ctx;
  size_t room = sizeof x->answer - x->got, taken = n < room ? n : room;
  memcpy(x->answer + x->got, bytes, taken);
  x->got += taken;
  if (taken < room) return;
  int status = status_line(x);
  exchange_end(x, status, status ? "" : "it speaks no HTTP");
}

static void on_up(void *ctx) {
  Exchange *x = ctx;
  dial_expect(x->dial, ANSWER_MS);
  if (!dial_write(x->dial, x->request.ptr, x->request.len)) exchange_end(x, 0, "no memory");
}

static Status exchange_open(TracePush *p, Exchange *x) {
  const DialSpec dial = {.loop = &p->server->loop,
                         .to = &p->address.at,
                         .tls = p->tls,
                         .timeout_ms = ANSWER_MS,
                         .up = on_up,
                         .input = on_input,
                         .down = on_down,
                         .gone = on_gone,
                         .ctx = x};
  if (!x || !make_request(p, &x->request)) return FAIL(RESOURCE_EXHAUSTED, "no memory");
  x->push = p;
  return dial_open(&dial, &x->dial);
}

/* Sends the spans next to end - 1. */
static void exchange_begin(TracePush *p) {
  char why[160];
  Exchange *x = calloc(1, sizeof *x);
  Status st = exchange_open(p, x);
  if (!st) {
    p->exchange = x;
    return;
  }
  if (x) on_gone(x);
  status_text(st, why, sizeof why);
  status_drop(st);
  batch_done(p, 0, why);
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
  char quoted[300];
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
    LOG_WARN("the collector does not take spans", "status=%d why=%s", status,
             log_quote(quoted, sizeof quoted, why));
  if (taken && p->failing) LOG_INFO("the collector takes spans", "status=%d", status);
  p->failing = !taken;
  bool full = p->server->trace.written - p->next >= BATCH;
  if (full && !p->pause_ms) uv_timer_start(&p->tick, on_tick, 0, TICK_MS);
}

/* -- life ---------------------------------------------------------------------------------------
 */

static Status load_tls(const Config *c, const PushAddress *a, TlsContext **out) {
  const TlsFiles files = {.ca = *c->push_ca ? c->push_ca : "system", .no_alpn = true};
  *out = NULL;
  Status st = a->tls ? tls_client_context(&files, out) : NULL;
  return st ? WRAP(st, "trace_push") : NULL;
}

Status trace_push_reload_check(Server *s, const Config *next) {
  PushAddress address = {.path = ""};
  TlsContext *tls;
  (void)s;
  if (*next->trace_push) TRY(push_address_parse(next->trace_push, &address));
  TRY(load_tls(next, &address, &tls));
  tls_context_release(tls);
  return NULL;
}

Status trace_push_create(Server *s, TracePush **out) {
  PushAddress address;
  TlsContext *tls;
  *out = NULL;
  if (!*s->config.trace_push) return NULL;
  TRY(push_address_parse(s->config.trace_push, &address));
  TRY(load_tls(&s->config, &address, &tls));
  TracePush *p = *out = calloc(1, sizeof *p);
  if (!p) {
    tls_context_release(tls);
    return FAIL(RESOURCE_EXHAUSTED, "trace_push");
  }
  *p = (TracePush){.server = s, .address = address, .tls = tls, .next = s->trace.written};
  uv_timer_init(&s->loop, &p->tick);
  p->tick.data = p;
  uv_timer_start(&p->tick, on_tick, TICK_MS, TICK_MS);
  return NULL;
}

Status trace_push_reload(Server *s, bool elsewhere) {
  TracePush *p = s->trace_push;
  TlsContext *tls;
  if (elsewhere || !p) {
    trace_push_close(p);
    return trace_push_create(s, &s->trace_push);
  }
  TRY(load_tls(&s->config, &p->address, &tls));
  tls_context_release(p->tls); /* a connection keeps what it has */
  p->tls = tls;
  return NULL;
}

static void on_tick_closed(uv_handle_t *handle) {
  TracePush *p = handle->data;
  tls_context_release(p->tls);
  free(p);
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
