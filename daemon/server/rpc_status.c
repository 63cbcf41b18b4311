/* GetStatus, what `kiln top` shows, and GetTrace. Both show a tenant its own: the sums over
 * everybody, and what the devices do for others, are for admins. */
#include "base/clock.h"
#include "daemon/server/metrics_sample.h"
#include "daemon/server/models.h"
#include "daemon/server/rpc.h"
#include "daemon/server/shared.h"
#include "daemon/server/tune.h"

static bool admin(const Request *r) { return r->tenant->roles & ROLE_ADMIN; }

/* -- status -------------------------------------------------------------------------------------
 */

typedef Kiln__V1__GetStatusResponse Answer;

static Status add_devices(Request *r, Answer *m) {
  Server *s = r->server;
  const Metrics *counted = &s->metrics;
  Kiln__V1__DeviceLoad *rows = arena_array(&r->arena, s->ndevices + 1, sizeof *rows);
  m->devices = arena_array(&r->arena, s->ndevices + 1, sizeof *m->devices);
  if (!rows || !m->devices) return FAIL(RESOURCE_EXHAUSTED, "status");
  for (size_t i = 0; i < s->ndevices; i++) {
    DeviceStatus d = device_lane_status(s->devices[i]);
    Kiln__V1__DeviceLoad *row = m->devices[i] = &rows[i];
    kiln__v1__device_load__init(row);
    row->name = (char *)(uintptr_t)d.name;
    row->available = d.available;
    if (!admin(r)) continue;
    row->restarts = (uint32_t)counted->device_restarts[i][0];
    row->waiting = counted->device_queue[i][0];
    row->in_flight = counted->device_in_flight[i][0];
    row->runs = counted->device_runs_total[i][0];
    row->busy_ns = (int64_t)counted->device_seconds_total[i][0];
    row->buffers = counted->buffers[i][0];
    row->buffer_bytes = counted->buffer_bytes[i][0];
  }
  m->n_devices = s->ndevices;
  return NULL;
}

static void fill_tenant(const Server *s, const Tenant *t, Kiln__V1__TenantLoad *row) {
  unsigned i = metrics_tenant(t);
  kiln__v1__tenant_load__init(row);
  row->name = (char *)(uintptr_t)t->name;
  row->weight = t->weight;
  row->requests = s->metrics.tenant_requests_total[i][0];
  row->failed = s->metrics.tenant_failures_total[i][0];
  row->runs = t->used.runs;
  row->device_ns = (int64_t)t->used.device_ns;
  row->compile_ns = (int64_t)t->used.compile_ns;
  row->tune_ns = (int64_t)t->used.tune_ns;
  row->device_bytes = t->used.device_bytes;
  row->host_bytes = t->used.host_bytes + t->used.answer_bytes;
  row->executables = t->used.executables;
}

static Status add_tenants(Request *r, Answer *m) {
  const Server *s = r->server;
  size_t max = s->tenants.len + 2;
  Kiln__V1__TenantLoad *rows = arena_array(&r->arena, max, sizeof *rows);
  m->tenants = arena_array(&r->arena, max, sizeof *m->tenants);
  if (!rows || !m->tenants) return FAIL(RESOURCE_EXHAUSTED, "status");
  for (const Tenant *t = s->tenants.first; t && m->n_tenants < max; t = t->next) {
    if (t != r->tenant && !admin(r)) continue;
    fill_tenant(s, t, m->tenants[m->n_tenants] = &rows[m->n_tenants]);
    m->n_tenants++;
  }
  if (!admin(r) || !s->config.tuning || m->n_tenants == max) return NULL;
  Kiln__V1__TenantLoad *row = m->tenants[m->n_tenants] = &rows[m->n_tenants];
  kiln__v1__tenant_load__init(row);
  row->name = (char *)(uintptr_t) "(tuning)"; /* no name of a section */
  tuner_used(s->tuner, &row->device_ns, &row->tune_ns);
  m->n_tenants++;
  return NULL;
}

static Status add_searches(Request *r, Answer *m) {
  const Server *s = r->server;
  size_t max = tuner_searches(s->tuner) + 1;
  Kiln__V1__SearchLoad *rows = arena_array(&r->arena, max, sizeof *rows);
  m->searches = arena_array(&r->arena, max, sizeof *m->searches);
  if (!rows || !m->searches) return FAIL(RESOURCE_EXHAUSTED, "status");
  const Tune *at = NULL;
  for (TuneLoad load; m->n_searches < max && tuner_next_load(s->tuner, &at, &load);) {
    if (load.tenant != r->tenant && !admin(r)) continue;
    Kiln__V1__SearchLoad *row = m->searches[m->n_searches] = &rows[m->n_searches];
    m->n_searches++;
    kiln__v1__search_load__init(row);
    row->model = (char *)(uintptr_t)load.model;
    row->kernel = (char *)(uintptr_t)load.kernel;
    row->step = (char *)(uintptr_t)load.step;
    row->background = load.background;
    row->tried = load.tried;
    row->replaced = load.replaced;
    row->left_ns = load.left_ns;
  }
  return NULL;
}

static Status add_models(Request *r, Answer *m) {
  const Server *s = r->server;
  Kiln__V1__NamedModel *rows = arena_array(&r->arena, s->nmodels + 1, sizeof *rows);
  m->models = arena_array(&r->arena, s->nmodels + 1, sizeof *m->models);
  if (!rows || !m->models) return FAIL(RESOURCE_EXHAUSTED, "status");
  for (const Model *at = s->models; at; at = at->next) {
    if (!models_visible(at, r->tenant) && !admin(r)) continue;
    Kiln__V1__NamedModel *row = m->models[m->n_models] = &rows[m->n_models];
    m->n_models++;
    kiln__v1__named_model__init(row);
    row->name = at->name;
    row->version = (char *)(uintptr_t)at->version;
    row->state = (char *)(uintptr_t)model_state(at);
    row->reason = (char *)(uintptr_t)at->reason;
    if (at->shared && !admin(r)) continue; /* who else calls it is no business of his */
    row->answered = at->answered;
    row->failed = at->failed;
  }
  return NULL;
}

static void add_shared(const Server *s, Answer *m, Kiln__V1__SharedTier *row) {
  const Metrics *c = &s->metrics;
  SharedStatus shared;
  if (!shared_status(s->shared, &shared)) return;
  kiln__v1__shared_tier__init(row);
  row->server = (char *)(uintptr_t)shared.server;
  row->state = (char *)(uintptr_t)shared.state;
  row->reason = (char *)(uintptr_t)shared.reason;
  row->node = (char *)(uintptr_t)shared.node;
  row->trusted = (uint32_t)shared.trusted;
  row->queued = shared.queued;
  row->given = c->shared_given_total[RESULT_OK][0];
  row->adopted = c->shared_adopted_total[0][0];
  for (size_t i = OV_MALFORMED; i < OV__COUNT; i++) row->refused += c->shared_offers_total[i][0];
  m->shared = row;
}

static void add_sums(const Server *s, Answer *m) {
  const Metrics *c = &s->metrics;
  CompilePoolLoad load = compile_pool_load(s->pool);
  for (size_t i = 0; i < LABELS_METHOD; i++)
    for (size_t k = 0; k < LABELS_CODE; k++) {
      m->answered += c->requests_total[i][k];
      if (k != ST_OK) m->failed += c->requests_total[i][k];
    }
  for (size_t i = 0; i < LABELS_OUTCOME; i++) m->candidates += c->tune_candidates_total[i][0];
  m->connections = s->nconnections;
  m->requests = s->nrequests;
  m->received_bytes = c->received_bytes_total[0][0];
  m->sent_bytes = c->sent_bytes_total[0][0];
  m->resident_bytes = c->resident_bytes[0][0];
  m->compile_waiting = load.waiting;
  m->compile_busy = load.busy;
  m->compile_workers = load.workers;
  m->compiles = c->compiles_total[RESULT_OK][0];
  m->kernels_compiled = c->kernels_compiled_total[0][0];
  m->kernels_replaced = c->kernels_replaced_total[0][0];
}

static void status_message(Request *r, Bytes msg) {
  Answer m = KILN__V1__GET_STATUS_RESPONSE__INIT;
  Kiln__V1__SharedTier shared;
  if (!request_decode(r, msg)) return;
  const char *why = server_not_ready(r->server);
  metrics_sample(r->server, NULL);
  m.version = (char *)(uintptr_t)KILN_VERSION;
  m.uptime_ns = clock_now_ns() - r->server->started_ns;
  m.not_ready = (char *)(uintptr_t)(why ? why : "");
  Status st = add_devices(r, &m);
  if (!st) st = add_tenants(r, &m);
  if (!st) st = add_searches(r, &m);
  if (!st) st = add_models(r, &m);
  if (admin(r)) add_shared(r->server, &m, &shared);
  if (admin(r)) add_sums(r->server, &m);
  if (st)
    request_finish(r, st);
  else
    request_reply(r, &m.base);
}

const Method rpc_status = {.path = "/kiln.v1.Kiln/GetStatus",
                           .request = &kiln__v1__get_status_request__descriptor,
                           .message = status_message};

/* -- trace --------------------------------------------------------------------------------------
 */

enum { SPANS_PER_ANSWER = 1000 };

static const char *tenant_name(const Server *s, uint32_t id) {
  for (const Tenant *t = s->tenants.first; t; t = t->next)
    if (t->id == id) return t->name;
  return "";
}

static void fill_span(const Server *s, const Span *span, Kiln__V1__TraceSpan *row) {
  static const uint8_t none[SPAN_ID];
  const char *method = rpc_name(span->method);
  bool call = span->phase < 0;
  kiln__v1__trace_span__init(row);
  row->trace_id = (ProtobufCBinaryData){TRACE_ID, (uint8_t *)(uintptr_t)span->trace};
  row->span_id = (ProtobufCBinaryData){SPAN_ID, (uint8_t *)(uintptr_t)span->id};
  if (memcmp(span->parent, none, SPAN_ID) != 0)
    row->parent_id = (ProtobufCBinaryData){SPAN_ID, (uint8_t *)(uintptr_t)span->parent};
  row->call = call;
  row->method = (char *)(uintptr_t)(method ? method : "");
  row->name = call ? row->method : (char *)(uintptr_t)phase_name((Phase)span->phase);
  if (call) row->code = (char *)(uintptr_t)status_code_name((StatusCode)span->code);
  row->tenant = (char *)(uintptr_t)tenant_name(s, span->tenant);
  row->request = span->request;
  row->start_unix_ns = span->start_ns;
  row->duration_ns = span->duration_ns;
}

static void trace_message(Request *r, Bytes msg) {
  const Kiln__V1__GetTraceRequest *asked = request_decode(r, msg);
  Kiln__V1__GetTraceResponse m = KILN__V1__GET_TRACE_RESPONSE__INIT;
  const TraceRing *ring = &r->server->trace;
  if (!asked) return;
  Kiln__V1__TraceSpan *rows = arena_array(&r->arena, SPANS_PER_ANSWER, sizeof *rows);
  m.spans = arena_array(&r->arena, SPANS_PER_ANSWER, sizeof *m.spans);
  if (!rows || !m.spans) {
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "trace"));
    return;
  }
  uint64_t oldest = ring->written > TRACE_SPANS ? ring->written - TRACE_SPANS : 0;
  uint64_t at = asked->after > oldest ? asked->after : oldest;
  if (at > ring->written) at = ring->written;
  m.lost = at - (asked->after < at ? asked->after : at);
  for (; at < ring->written && m.n_spans < SPANS_PER_ANSWER; at++) {
    const Span *span = &ring->at[at % TRACE_SPANS];
    if (span->tenant != r->tenant->id && !admin(r)) continue;
    fill_span(r->server, span, m.spans[m.n_spans] = &rows[m.n_spans]);
    m.n_spans++;
  }
  m.next = at;
  m.more = at < ring->written;
  request_reply(r, &m.base);
}

const Method rpc_trace = {.path = "/kiln.v1.Kiln/GetTrace",
                          .request = &kiln__v1__get_trace_request__descriptor,
                          .message = trace_message};
