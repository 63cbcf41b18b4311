/* Explain: a compile worker says what the kernels have to do, the cache lane what was tried for
 * each of them, one after the other; the artifact knows the schedules in use, and the queue of the
 * device what a run would have to wait for. */
#include "daemon/server/compile.h"
#include "daemon/server/peaks.h"
#include "daemon/server/quota.h"
#include "daemon/server/rpc.h"
#include "daemon/server/tune.h"

enum { HINTS = 64 };

/* In the request's arena. */
typedef struct Explain {
  Executable *exe;
  Artifact *artifact; /* held: the executable may get another one meanwhile */
  CompileJob job;
  bool job_active;
  StoreJob *lookup;
  Kiln__V1__ExplainJob message;
  size_t at; /* the kernel whose evidence is asked for */
  const Kiln__V1__KernelCost **costs;
  Kiln__V1__ExplainedKernel *kernels;
  Kiln__V1__ExplainResponse response;
  size_t tried_max;
} Explain;

/* -- the answer ---------------------------------------------------------------------------------
 */

static Status no_memory(void) { return FAIL(RESOURCE_EXHAUSTED, "explaining"); }

static Status list_calls(Request *r, const Kiln__V1__Plan *plan, size_t kernel,
                         Kiln__V1__ExplainedKernel *out) {
  size_t n = 0;
  for (size_t i = 0; i < plan->n_calls; i++) n += plan->calls[i]->kernel == kernel;
  out->calls = arena_array(&r->arena, n + 1, sizeof *out->calls);
  if (!out->calls) return no_memory();
  for (size_t i = 0; i < plan->n_calls; i++) {
    if (plan->calls[i]->kernel != kernel) continue;
    out->calls[out->n_calls++] = (uint32_t)i;
    out->once += plan->calls[i]->once != 0;
  }
  return NULL;
}

static Status fill_kernel(Request *r, Explain *e, size_t i, const Kiln__V1__KernelCost *c) {
  const Kiln__V1__PlanKernel *k = e->artifact->plan->kernels[i];
  Kiln__V1__ExplainedKernel *out = &e->kernels[i];
  char *hex = arena_alloc(&r->arena, DIGEST_HEX + 1);
  kiln__v1__explained_kernel__init(out);
  out->name = k->name;
  out->shape = arena_strdup(&r->arena, str_from(c->shape));
  if (!hex || !out->shape) return no_memory();
  out->hash = digest_to_hex(k->hash.data, DIGEST_BYTES, hex);
  out->flops = c->flops;
  out->bytes_read = c->bytes_read;
  out->bytes_written = c->bytes_written;
  out->roofline_ns = c->roofline_ns;
  out->predicted_ns = c->predicted_ns;
  out->opts = e->artifact->binaries[i]->opts;
  out->source = (char *)(uintptr_t) "heuristic";
  return list_calls(r, e->artifact->plan, i, out);
}

static Status add_tried(Request *r, Kiln__V1__ExplainedKernel *k, const Schedule *s) {
  Kiln__V1__TriedSchedule *t = arena_alloc(&r->arena, sizeof *t);
  if (!t) return no_memory();
  kiln__v1__tried_schedule__init(t);
  t->opts = arena_strdup(&r->arena, str_from(s->opts));
  t->host = arena_strdup(&r->arena, str_from(s->host));
  t->origin = arena_strdup(&r->arena, str_from(s->origin));
  if (!t->opts || !t->host || !t->origin) return no_memory();
  t->cause = (char *)(uintptr_t)schedule_cause_name[s->cause];
  t->median_ns = s->median_ns;
  t->mad_ns = s->mad_ns;
  t->reps = s->reps;
  t->peer_ns = s->peer_ns;
  t->measured_unix_ns = s->measured_at;
  t->verified = s->verified;
  t->imported = s->imported;
  k->tried[k->n_tried++] = t;
  return NULL;
}

/* -- evidence -----------------------------------------------------------------------------------
 */

static bool same_opts(const char *a, const char *b) {
  while (*a == ' ') a++;
  while (*b == ' ') b++;
  return !strcmp(a, b);
}

/* Where the schedule in use came from; *origin: the node that found it, "" = this one. */
static const char *source_of(const Kiln__V1__ExplainedKernel *k, const StoreEvidence *e,
                             const char **origin) {
  const Schedule *serves = NULL;
  for (size_t i = 0; i < e->ntried && !serves; i++)
    if (schedule_serves(&e->tried[i]) && same_opts(e->tried[i].opts, k->opts))
      serves = &e->tried[i];
  *origin = serves ? serves->origin : "";
  if (!serves) return "heuristic";
  if (*serves->origin) return "shared";
  for (size_t i = 0; i < e->nhints; i++)
    if (e->hints[i].verified && same_opts(e->hints[i].opts, k->opts)) return "class";
  return "tuned";
}

static void next_kernel(Request *r, Explain *e);

static void on_evidence(void *ctx, const StoreEvidence *found) {
  Request *r = ctx;
  Explain *e = r->work;
  Kiln__V1__ExplainedKernel *k = &e->kernels[e->at];
  size_t n = found->ntried < e->tried_max ? found->ntried : e->tried_max;
  e->lookup = NULL;
  const char *origin;
  k->source = (char *)(uintptr_t)source_of(k, found, &origin);
  k->origin = arena_strdup(&r->arena, str_from(origin));
  k->tried = arena_array(&r->arena, n + 1, sizeof *k->tried);
  Status st = k->tried && k->origin ? NULL : no_memory();
  for (size_t i = 0; i < n && !st; i++) st = add_tried(r, k, &found->tried[i]);
  for (size_t i = 0; i < found->ntried; i++)
    ++*(found->tried[i].cause == SC_MEASURED ? &k->measured : &k->failed);
  e->at++;
  if (st)
    request_finish(r, st);
  else
    next_kernel(r, e);
}

/* What a run would cost now. */
static Status estimate_run(Request *r, const Explain *e, Kiln__V1__RunEstimate *out) {
  const Executable *exe = e->exe;
  FairSource from = request_source(r);
  size_t waiting;
  bool known = true;
  out->device_ns = exe->typical_ns;
  out->measured = exe->typical_ns > 0;
  for (size_t i = 0; i < e->response.n_kernels && !out->measured; i++) {
    const Kiln__V1__ExplainedKernel *k = &e->kernels[i];
    known = known && k->predicted_ns > 0;
    out->device_ns += k->predicted_ns * (int64_t)(k->n_calls - k->once);
  }
  if (!known) out->device_ns = 0;
  out->wait_ns = device_lane_wait_ns(exe->device, &from, &waiting);
  out->waiting = waiting;
  for (size_t i = 0; i < exe->face->n_inputs + exe->face->n_outputs; i++)
    out->host_bytes += exe->slot_bytes[i];
  Status st = quota_run_allowed(r->tenant);
  if (!st) st = quota_memory(r->tenant, 0, out->host_bytes);
  if (!st) st = device_lane_admits(exe->device, &from);
  if (!st) return NULL;
  char text[300];
  status_text(st, text, sizeof text);
  status_drop(st);
  out->refused = arena_strdup(&r->arena, str_from(text));
  return out->refused ? NULL : no_memory();
}

static void finish(Request *r, Explain *e) {
  Kiln__V1__RunEstimate run = KILN__V1__RUN_ESTIMATE__INIT;
  Status st = estimate_run(r, e, &run);
  e->response.run = &run;
  if (st)
    request_finish(r, st);
  else
    request_reply(r, &e->response.base);
}

static void next_kernel(Request *r, Explain *e) {
  if (e->at == e->response.n_kernels) {
    finish(r, e);
    return;
  }
  const Kiln__V1__KernelCost *c = e->costs[e->at];
  uint8_t key[DIGEST_BYTES];
  tune_evidence_key(e->exe, (uint32_t)e->at, key);
  ScheduleNear near = {.kernel = key,
                       .target = device_lane_fingerprint(e->exe->device),
                       .class_hash = c->class_hash.len ? c->class_hash.data : NULL,
                       .sizes = c->sizes,
                       .nsizes = c->n_sizes,
                       .limit = HINTS};
  e->lookup = store_get_evidence(r->tenant->store, &near, on_evidence, r);
  if (!e->lookup) request_finish(r, no_memory());
}

/* -- the worker's part --------------------------------------------------------------------------
 */

/* A copy of the answer, which is gone when the lane has answered. */
static Status take_costs(Request *r, Explain *e, const Kiln__V1__ExplainDone *done) {
  static const PbLimits limits = {
      .max_bytes = 64u << 20, .max_depth = 4, .max_elements = 4u << 20, .max_memory = 256u << 20};
  size_t n = kiln__v1__explain_done__get_packed_size(done);
  uint8_t *packed = arena_alloc(&r->arena, n + 1);
  ProtobufCMessage *m;
  if (!packed) return no_memory();
  kiln__v1__explain_done__pack(done, packed);
  TRY(pb_unpack(&kiln__v1__explain_done__descriptor, (Bytes){packed, n}, &limits, &r->arena, &m));
  const Kiln__V1__ExplainDone *copy = (const Kiln__V1__ExplainDone *)m;
  if (copy->n_kernels != e->artifact->plan->n_kernels)
    return FAIL(INTERNAL, "%zu kernels are explained, there are %zu", copy->n_kernels,
                e->artifact->plan->n_kernels);
  for (size_t i = 0; i < copy->n_kernels; i++) {
    const Kiln__V1__KernelCost *c = copy->kernels[i];
    if (c->class_hash.len && c->class_hash.len != DIGEST_BYTES)
      return FAIL(INTERNAL, "the class of a kernel");
    e->costs[i] = c;
    TRY(fill_kernel(r, e, i, c));
    e->response.kernels[i] = &e->kernels[i];
  }
  e->response.n_kernels = copy->n_kernels;
  e->response.calls = (uint32_t)e->artifact->plan->n_calls;
  e->response.device = (char *)(uintptr_t)device_lane_name(e->exe->device);
  return NULL;
}

static void on_costs(void *ctx, Message *m, Status st) {
  Request *r = ctx;
  Explain *e = r->work;
  e->job_active = false;
  if (!st) st = take_costs(r, e, m->env->explain_done);
  if (st) {
    request_finish(r, st);
    return;
  }
  request_move(r, RS_CACHE);
  next_kernel(r, e);
}

static Status ask_worker(Request *r, Explain *e) {
  const Artifact *a = e->artifact;
  size_t n = a->plan->n_kernels;
  Kiln__V1__ExplainKernel *kernels = arena_array(&r->arena, n + 1, sizeof *kernels);
  e->message.kernels = arena_array(&r->arena, n + 1, sizeof *e->message.kernels);
  e->kernels = arena_array(&r->arena, n + 1, sizeof *e->kernels);
  e->costs = arena_array(&r->arena, n + 1, sizeof *e->costs);
  e->response.kernels = arena_array(&r->arena, n + 1, sizeof *e->response.kernels);
  if (!kernels || !e->message.kernels || !e->kernels || !e->costs || !e->response.kernels)
    return no_memory();
  for (size_t i = 0; i < n; i++) {
    kiln__v1__explain_kernel__init(&kernels[i]);
    kernels[i].graph = (ProtobufCBinaryData){a->kernel_graphs[i].len,
                                             (uint8_t *)(uintptr_t)a->kernel_graphs[i].ptr};
    kernels[i].opts = a->binaries[i]->opts;
    e->message.kernels[i] = &kernels[i];
  }
  e->message.n_kernels = n;
  e->message.target = (Kiln__V1__TargetSpec *)(uintptr_t)device_lane_target(e->exe->device);
  const DevicePeaks *peaks = tuner_peaks(r->server->tuner, e->exe->device);
  if (peaks && peaks->known) e->message.peaks = (Kiln__V1__MachinePeaks *)(uintptr_t)&peaks->at;
  kiln__v1__envelope__init(&e->job.env);
  e->job.env.body_case = KILN__V1__ENVELOPE__BODY_EXPLAIN;
  e->job.env.explain = &e->message;
  e->job.fd = -1;
  e->job.tenant = r->tenant->id;
  e->job.payer = r->tenant;
  e->job.done = on_costs;
  e->job.ctx = r;
  request_move(r, RS_ADMITTED);
  Status st = compile_pool_submit(r->server->pool, &e->job);
  e->job_active = !st;
  return st;
}

static Status start(Request *r, Explain *e, const Kiln__V1__ExplainRequest *m) {
  enum { TRIED_MAX = SCHEDULE_KEEP_BEST + SCHEDULE_KEEP_FAILED };
  TRY(registry_find(&r->server->executables, r->tenant, m->executable, &e->exe));
  executable_retain(e->exe);
  e->artifact = artifact_retain(e->exe->artifact);
  e->tried_max = m->tried < TRIED_MAX ? m->tried : TRIED_MAX;
  if (!device_lane_target(e->exe->device))
    return FAIL(UNAVAILABLE, "device %s is not in service", device_lane_name(e->exe->device));
  kiln__v1__explain_job__init(&e->message);
  kiln__v1__explain_response__init(&e->response);
  return ask_worker(r, e);
}

static void explain_message(Request *r, Bytes msg) {
  const Kiln__V1__ExplainRequest *m = request_decode(r, msg);
  if (!m) return;
  Explain *e = r->work = arena_alloc(&r->arena, sizeof *e);
  Status st = e ? start(r, e, m) : no_memory();
  if (st) request_finish(r, st);
}

static void explain_release(Request *r) {
  Explain *e = r->work;
  if (!e) return;
  if (e->job_active) compile_pool_cancel(r->server->pool, &e->job);
  if (e->lookup) store_forget(e->lookup);
  artifact_release(e->artifact);
  executable_release(e->exe);
}

const Method rpc_explain = {.path = "/kiln.v1.Kiln/Explain",
                            .request = &kiln__v1__explain_request__descriptor,
                            .message = explain_message,
                            .release = explain_release};
