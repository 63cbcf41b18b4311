/* Deadlines: all requests are on one list, one timer is armed for the earliest deadline seen since
 * it last fired, and when it fires the list is walked. Requests are few and deadlines far, so this
 * costs nothing per request. */
#include "daemon/server/request.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "daemon/server/answers.h"
#include "daemon/server/connection.h"
#include "daemon/server/metrics_sample.h"
#include "daemon/server/quota.h"
#include "daemon/server/rpc.h"
#include "daemon/server/tune.h"

enum { IDLE_REQUESTS = 1024, ARENA_BLOCK = 2 << 10 };

#define B(state) (1u << RS_##state)
static const struct {
  const char *name;
  uint32_t next;
  Phase phase; /* what its time is spent with, unless the method knows better */
} states[RS__COUNT] = {
    [RS_READING] = {"reading",
                    B(ADMITTED) | B(CACHE) | B(RUNNING) | B(STREAMING) | B(REPLYING) | B(DONE),
                    PHASE_PARSE},
    [RS_ADMITTED] = {"admitted", B(COMPILING) | B(CACHE) | B(RUNNING) | B(REPLYING) | B(DONE),
                     PHASE_QUEUE},
    [RS_CACHE] = {"cache", B(COMPILING) | B(RUNNING) | B(STREAMING) | B(REPLYING) | B(DONE),
                  PHASE_CACHE},
    [RS_COMPILING] = {"compiling", B(CACHE) | B(RUNNING) | B(REPLYING) | B(DONE), PHASE_COMPILE},
    [RS_RUNNING] = {"running", B(STREAMING) | B(REPLYING) | B(DONE), PHASE_RUN},
    [RS_STREAMING] = {"streaming", B(REPLYING) | B(DONE), PHASE_DOWNLOAD},
    [RS_REPLYING] = {"replying", B(DONE), PHASE_DOWNLOAD},
    [RS_DONE] = {"done", 0, PHASE_DOWNLOAD},
};
#undef B

bool request_may_move(RequestState from, RequestState to) { return states[from].next & (1u << to); }
const char *request_state_name(RequestState s) { return states[s].name; }

/* What holds in every state. */
static bool invariant(const Request *r) {
  if (r->state == RS_READING || r->state == RS_DONE) return r->stream != NULL;
  return r->stream && r->got_message;
}

FairSource request_source(const Request *r) {
  return (FairSource){
      .tenant = r->tenant->id, .session = connection_number(r->conn), .weight = r->tenant->weight};
}

/* A stream that lasts as long as its client wants (events, health) is no phase of anything. */
static void end_phase(Request *r, RequestState from, Phase next) {
  int64_t now = clock_now_ns();
  if (from == RS_STREAMING && !r->method->drain) r->phase_ns = now;
  request_phase(r, next, now);
}

void request_move(Request *r, RequestState to) {
  if (r->state == to) return;
  assert(request_may_move(r->state, to));
  LOG_DEBUG("request", "id=%u method=%s from=%s to=%s", r->id, r->method->path,
            states[r->state].name, states[to].name);
  RequestState from = r->state;
  r->state = to;
  if (to < RS_DONE) end_phase(r, from, states[to].phase);
  assert(to == RS_REPLYING || invariant(r));
}

/* -- what a call costs --------------------------------------------------------------------------
 */

static void record(Request *r, int phase, StatusCode code, int64_t begin_ns, int64_t end_ns) {
  Server *s = r->server;
  Span span = {.request = r->id,
               .tenant = r->tenant->id,
               .phase = (int8_t)phase,
               .method = r->method_index,
               .code = (uint8_t)code};
  s->metrics.spans_total[0][0]++;
  trace_record(&s->trace, &r->trace, span, begin_ns, end_ns);
}

void request_phase(Request *r, Phase next, int64_t at_ns) {
  int64_t ns = at_ns - r->phase_ns;
  if (ns > 0 && r->state < RS_DONE && r->phase_ns) {
    histogram_add(&r->server->metrics.phase_seconds[r->phase], ns);
    if (r->trace.sampled) record(r, (int)r->phase, ST_OK, r->phase_ns, at_ns);
  }
  r->phase = next;
  r->phase_ns = at_ns;
}

void request_subject(Request *r, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(r->subject, sizeof r->subject, fmt, ap);
  va_end(ap);
}

/* One line for everything that an operator does, whatever the level of the log. */
static void audit(Request *r, StatusCode code, int64_t ns) {
  char quoted[2 * sizeof r->subject];
  r->server->metrics.audited_total[0][0]++;
  log_audit(r->method->audit, "tenant=%s id=%u subject=%s code=%s ms=%.1f", r->tenant->name, r->id,
            log_quote(quoted, sizeof quoted, r->subject), status_code_name(code), (double)ns / 1e6);
}

/* The call has its outcome, and its last phase has just been closed. */
static void count(Request *r, StatusCode code) {
  Metrics *m = &r->server->metrics;
  int64_t now = r->phase_ns, ns = now - r->received_ns;
  unsigned tenant = metrics_tenant(r->tenant);
  m->requests_total[r->method_index][code]++;
  m->tenant_requests_total[tenant][0]++;
  m->tenant_failures_total[tenant][0] += code != ST_OK;
  histogram_add(&m->request_seconds[r->method_index], ns);
  if (r->trace.sampled) record(r, -1, code, r->received_ns, now);
  if (r->method->audit) audit(r, code, ns);
}

/* -- deadlines ----------------------------------------------------------------------------------
 */

static void on_deadline(uv_timer_t *timer);

static void arm(Server *s, int64_t deadline_ns) {
  if (s->deadline_armed_ns && s->deadline_armed_ns <= deadline_ns) return;
  int64_t left = deadline_ns - clock_now_ns();
  s->deadline_armed_ns = deadline_ns;
  uv_update_time(&s->loop);
  uv_timer_start(&s->deadlines, on_deadline, left > 0 ? (uint64_t)left / 1000000 + 1 : 0, 0);
}

static void on_deadline(uv_timer_t *timer) {
  Server *s = timer->data;
  int64_t now = clock_now_ns(), earliest = 0;
  s->deadline_armed_ns = 0;
  for (Request *r = s->requests, *next; r; r = next) {
    next = r->next;
    if (!r->deadline_ns || r->state >= RS_REPLYING) continue;
    if (r->deadline_ns <= now)
      request_finish(r, FAIL(DEADLINE_EXCEEDED, "the deadline passed while the request was %s",
                             states[r->state].name));
    else if (!earliest || r->deadline_ns < earliest)
      earliest = r->deadline_ns;
  }
  if (earliest) arm(s, earliest);
}

/* -- life ---------------------------------------------------------------------------------------
 */

static Request *request_alloc(Server *s) {
  Request *r = s->idle_requests;
  if (!r) {
    if ((r = calloc(1, sizeof *r))) r->arena.first_block = ARENA_BLOCK;
    return r;
  }
  s->idle_requests = r->next;
  s->nidle_requests--;
  return r;
}

static void request_free(Request *r) {
  Server *s = r->server;
  arena_reset(&r->arena);
  r->next = s->idle_requests;
  s->idle_requests = r;
  if (++s->nidle_requests > IDLE_REQUESTS) requests_trim(s, IDLE_REQUESTS / 2);
}

void requests_trim(Server *s, size_t keep) {
  for (Request *r; s->nidle_requests > keep; s->nidle_requests--) {
    r = s->idle_requests;
    s->idle_requests = r->next;
    arena_deinit(&r->arena);
    free(r);
  }
}

bool request_open(Connection *c, GrpcStream *stream, const GrpcHead *head) {
  Server *s = connection_server(c);
  const Rpc *rpc = rpc_find(head->path);
  Tenant *tenant;
  if (!rpc) return false;
  const Method *method = rpc->method;
  Status st = connection_authorize(c, head->authorization, rpc->needs, &tenant);
  if (st) {
    grpc_finish(stream, st);
    return true;
  }
  int64_t now = clock_now_ns();
  if ((st = quota_request(tenant, now))) {
    grpc_finish(stream, st);
    return true;
  }
  if (answers_clogged(c)) {
    grpc_finish(stream, FAIL(RESOURCE_EXHAUSTED, "too many answers on this connection are unread"));
    return true;
  }
  Request *r = request_alloc(s);
  if (!r) {
    grpc_finish(stream, FAIL(RESOURCE_EXHAUSTED, "request"));
    return true;
  }
  *r = (Request){.id = ++s->next_request,
                 .server = s,
                 .conn = c,
                 .tenant = tenant,
                 .stream = stream,
                 .method = method,
                 .arena = r->arena,
                 .received_ns = now};
  r->method_index = (uint8_t)rpc_index(rpc);
  r->phase = method->many ? PHASE_UPLOAD : PHASE_PARSE;
  r->phase_ns = r->received_ns;
  if (head->traceparent.len || s->config.trace_all) {
    bool given = traceparent_parse(head->traceparent, &r->trace);
    if (r->trace.sampled || s->config.trace_all) trace_begin(&s->trace, &r->trace, !given);
    r->trace.sampled |= s->config.trace_all;
  }
  grpc_stream_set_ctx(stream, r);
  grpc_stream_set_max_message(stream, s->config.max_message_bytes);
  if ((r->next = s->requests)) r->next->link = &r->next;
  r->link = &s->requests;
  s->requests = r;
  s->nrequests++;
  vigil_called(&s->vigil, now);
  tuner_give_way(s->tuner);
  if (head->timeout_ns >= 0) {
    if (__builtin_add_overflow(r->received_ns, head->timeout_ns, &r->deadline_ns))
      r->deadline_ns = 0;
    else
      arm(s, r->deadline_ns);
  }
  return true;
}

static void release_work(Request *r) {
  if (r->method->release) r->method->release(r);
  r->work = NULL;
}

void request_close(Request *r) {
  Server *s = r->server;
  if (r->state != RS_REPLYING) {
    end_phase(r, r->state, r->phase);
    count(r, ST_CANCELLED);
    release_work(r);
  }
  request_move(r, RS_DONE);
  answers_keep(r, 0);
  if ((*r->link = r->next)) r->next->link = r->link;
  s->nrequests--;
  vigil_answered(&s->vigil);
  tuner_give_way(s->tuner);
  s->idle_since_ms = uv_now(&s->loop);
  request_free(r);
}

/* The same status with a text that is UTF-8: clients refuse others, and names that they sent, or
 * that were cut to be shown, may not be. */
static Status clean_text(Status st) {
  char text[4096];
  size_t n = status_text(st, text, sizeof text);
  bool dirty = n >= sizeof text;
  if (dirty) n = sizeof text - 1;
  for (size_t i = 0, len; i < n; i += len) {
    len = utf8_sequence((const uint8_t *)text + i, (const uint8_t *)text + n);
    if (len) continue;
    text[i] = '?';
    len = 1;
    dirty = true;
  }
  if (!dirty) return st;
  Status clean = status_new(status_code(st), NULL, __FILE__, __LINE__, "%s", text);
  if (status_retry_ns(st)) clean = status_retry(clean, status_retry_ns(st));
  status_drop(st);
  return clean;
}

void request_finish(Request *r, Status st) {
  if (r->state >= RS_REPLYING) {
    status_drop(st);
    return;
  }
  if (st && log_enabled(LOG_LEVEL_DEBUG)) {
    char text[512], quoted[600];
    status_text(st, text, sizeof text);
    LOG_DEBUG("request failed", "id=%u method=%s code=%s error=%s", r->id, r->method->path,
              status_code_name(status_code(st)), log_quote(quoted, sizeof quoted, text));
  }
  request_move(r, RS_REPLYING);
  count(r, status_code(st));
  release_work(r);
  if (st) answers_keep(r, grpc_stream_queued(r->stream));
  grpc_finish(r->stream, st ? clean_text(st) : NULL);
  connection_dirty(r->conn);
}

static void send_packed(Request *r, const ProtobufCMessage *m, size_t n) {
  uint8_t *at = grpc_send_begin(r->stream, n);
  if (at) protobuf_c_message_pack(m, at);
  answers_hold(r, grpc_stream_queued(r->stream));
  connection_dirty(r->conn);
}

void request_send(Request *r, const ProtobufCMessage *m) {
  send_packed(r, m, protobuf_c_message_get_packed_size(m));
}

void request_reply(Request *r, const ProtobufCMessage *m) {
  if (r->state >= RS_REPLYING) return;
  size_t n = protobuf_c_message_get_packed_size(m);
  Status st = answers_claim(r, n);
  if (!st) send_packed(r, m, n);
  request_finish(r, st);
}

/* -- messages -----------------------------------------------------------------------------------
 */

const void *request_decode(Request *r, Bytes msg) {
  ProtobufCMessage *out;
  PbLimits limits = pb_limits_request;
  limits.max_bytes = r->server->config.max_message_bytes;
  limits.max_memory = 2 * limits.max_bytes + pb_limits_request.max_memory;
  Status st = pb_unpack(r->method->request, msg, &limits, &r->arena, &out);
  if (!st) return out;
  request_finish(r, WRAP(st, "%s", r->method->request->short_name));
  return NULL;
}

void request_message(Request *r, Bytes msg) {
  if (r->state >= RS_REPLYING) return; /* answered early; the rest is ignored */
  if (!r->method->many && r->got_message) {
    request_finish(r, FAIL(INVALID_ARGUMENT, "more than one message in a call that takes one"));
    return;
  }
  if (r->method->many) r->message_ns = clock_now_ns();
  r->message_bytes += msg.len;
  r->got_message = true;
  r->method->message(r, msg);
}

bool request_part(Request *r, Bytes part, size_t left) {
  if (r->state >= RS_REPLYING) return true; /* answered early; the rest is ignored */
  if (!r->method->part || !r->method->part(r, part, left)) return false;
  r->message_bytes += part.len;
  r->got_message = true;
  r->message_ns = clock_now_ns();
  return true;
}

void request_half_close(Request *r) {
  if (r->state >= RS_REPLYING) return;
  if (!r->got_message)
    request_finish(r, FAIL(INVALID_ARGUMENT, "the call ended without a message"));
  else if (r->method->many)
    r->method->end(r);
}

void request_drain(Request *r) {
  if (r->method->drain && r->state < RS_REPLYING) r->method->drain(r);
}
