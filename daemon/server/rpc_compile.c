/* Compile, Inspect and ReleaseExecutable. A model is received into a pooled memfd; what happens to
 * it then is in compile.c, or one job of a compile worker for Inspect. */
#include <inttypes.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/server/compile.h"
#include "daemon/server/descriptors.h"
#include "daemon/server/quota.h"
#include "daemon/server/rpc.h"
#include "daemon/server/upload.h"

/* What Compile and Inspect have in common while the model comes in. Lives in the request's arena.
 */
typedef struct ModelUpload {
  Upload upload;
  CompileSpec spec; /* views into the request's arena */
  CompileWaiter waiter;
  /* Inspect: */
  const Kiln__V1__InspectHeader *inspect;
  ModelData *model;
  int job_fd;
  CompileJob job;
  bool job_active;
  DeviceJob *device_job;
  Kiln__V1__InspectJob message;
  Kiln__V1__FrontendJob frontend;
} ModelUpload;

static ModelUpload *model_upload(Request *r) {
  if (r->work) return r->work;
  ModelUpload *u = r->work = arena_alloc(&r->arena, sizeof *u);
  if (!u) return NULL;
  u->upload.fd = u->job_fd = -1;
  u->waiter.request = r;
  return u;
}

static Status begin_model(Request *r, ModelUpload *u, Kiln__V1__ModelFormat format,
                          const char *name, const Kiln__V1__CompileOptions *options,
                          uint64_t size) {
  const Config *c = &r->server->config;
  int fd;
  if (u->upload.fd >= 0) return FAIL(INVALID_ARGUMENT, "a second header");
  if (!size) return FAIL(INVALID_ARGUMENT, "the header announces a model of 0 bytes");
  if (size > c->max_model_bytes)
    return FAIL(RESOURCE_EXHAUSTED,
                "the model has %" PRIu64 " bytes, this server takes at most %" PRIu64, size,
                c->max_model_bytes);
  if (format != KILN__V1__MODEL_FORMAT__MODEL_FORMAT_ONNX &&
      format != KILN__V1__MODEL_FORMAT__MODEL_FORMAT_KGRAPH)
    return FAIL(INVALID_ARGUMENT, "unknown model format %d; expected ONNX or KGRAPH", (int)format);
  u->spec = (CompileSpec){.tenant = r->tenant, .format = format, .name = name, .options = options};
  TRY(server_device(r->server, r->tenant, options ? options->device : "", &u->spec.device));
  TRY(quota_compile(r->tenant, clock_now_ns()));
  TRY(quota_memory(r->tenant, 0, size));
  TRY(descriptors_check(uv_backend_fd(&r->server->loop)));
  TRY(shm_pool_take(&r->server->uploads, r->tenant->id, size, &fd));
  upload_begin(&u->upload, r->tenant, fd, NULL, size);
  return NULL;
}

/* The header or an odd mixture of parts. */
static Status model_part(Request *r, ModelUpload *u, Bytes msg) {
  if (r->method->request == &kiln__v1__compile_request__descriptor) {
    const Kiln__V1__CompileRequest *m = request_decode(r, msg);
    if (!m) return NULL; /* failed already */
    if (m->part_case != KILN__V1__COMPILE_REQUEST__PART_HEADER)
      return FAIL(INVALID_ARGUMENT, "a message with neither header nor chunk");
    const Kiln__V1__CompileHeader *h = m->header;
    return begin_model(r, u, h->format, h->name, h->options, h->size);
  }
  const Kiln__V1__InspectRequest *m = request_decode(r, msg);
  if (!m) return NULL;
  if (m->part_case != KILN__V1__INSPECT_REQUEST__PART_HEADER)
    return FAIL(INVALID_ARGUMENT, "a message with neither header nor chunk");
  u->inspect = m->header;
  return begin_model(r, u, u->inspect->format, u->inspect->name, u->inspect->options,
                     u->inspect->size);
}

static void on_part(Request *r, Bytes msg) {
  ModelUpload *u = model_upload(r);
  Bytes chunk;
  Status st = NULL;
  if (!u)
    st = FAIL(RESOURCE_EXHAUSTED, "request");
  else if (upload_chunk(msg, &chunk))
    st = upload_write(&u->upload, chunk);
  else
    st = model_part(r, u, msg);
  if (st) request_finish(r, st);
}

static bool on_piece(Request *r, Bytes part, size_t left) {
  ModelUpload *u = r->work;
  Status st;
  if (!u || u->upload.fd < 0 || !upload_part(&u->upload, part, left, &st)) return false;
  if (st) request_finish(r, st);
  return true;
}

/* Turns the finished upload into model data. */
static Status take_model(Request *r, ModelUpload *u, ModelData **out) {
  *out = NULL;
  TRY(upload_complete(&u->upload));
  return model_data_create(&r->server->uploads, r->tenant->id, upload_take(&u->upload),
                           u->upload.size, out);
}

static void on_compiled(CompileWaiter *w, Executable *e, Kiln__V1__CompileReport *report,
                        Status st) {
  char id[ID_TEXT];
  Kiln__V1__CompileResponse m = KILN__V1__COMPILE_RESPONSE__INIT;
  if (st) {
    request_finish(w->request, st);
    return;
  }
  m.executable = (char *)(uintptr_t)id_text("exe", e->id, e->secret, id);
  m.n_inputs = e->face->n_inputs - e->random;
  m.inputs = e->face->inputs;
  m.n_outputs = e->face->n_outputs;
  m.outputs = e->face->outputs;
  m.n_input_values = e->face->n_input_values;
  m.input_values = e->face->input_values;
  m.n_output_values = e->face->n_output_values;
  m.output_values = e->face->output_values;
  m.report = report;
  e->handles++;
  request_reply(w->request, &m.base);
}

static void compile_end(Request *r) {
  ModelUpload *u = r->work;
  ModelData *model;
  Status st = take_model(r, u, &model);
  u->waiter.done = on_compiled;
  if (!st) st = compile_start(r->server, &u->spec, model, &u->waiter);
  if (st) request_finish(r, st);
}

static void model_release(Request *r) {
  ModelUpload *u = r->work;
  if (!u) return;
  compile_leave(&u->waiter);
  if (u->upload.fd >= 0)
    shm_pool_put(&r->server->uploads, r->tenant->id, u->upload.fd, u->upload.size);
  u->upload.fd = -1;
  if (u->device_job) device_lane_cancel(u->spec.device, u->device_job);
  if (u->job_active) compile_pool_cancel(r->server->pool, &u->job);
  if (u->job_fd >= 0) close(u->job_fd);
  model_data_release(u->model);
}

const Method rpc_compile = {.path = "/kiln.v1.Kiln/Compile",
                            .request = &kiln__v1__compile_request__descriptor,
                            .many = true,
                            .message = on_part,
                            .part = on_piece,
                            .end = compile_end,
                            .release = model_release};

/* -- Inspect ------------------------------------------------------------------------------------
 */

static void on_inspected(void *ctx, Message *m, Status st) {
  Request *r = ctx;
  ModelUpload *u = r->work;
  u->job_active = false;
  if (st) {
    request_finish(r, st);
    return;
  }
  Kiln__V1__InspectResponse response = KILN__V1__INSPECT_RESPONSE__INIT;
  response.text = m->env->inspect_done->text;
  request_reply(r, &response.base);
}

static Status inspect_start(Request *r, ModelUpload *u) {
  TRY(shm_readonly(u->model->fd, &u->job_fd));
  kiln__v1__inspect_job__init(&u->message);
  kiln__v1__frontend_job__init(&u->frontend);
  u->message.job = &u->frontend;
  u->message.stage = u->inspect->stage;
  u->message.kernel = u->inspect->kernel;
  u->frontend.format = u->spec.format;
  u->frontend.name = (char *)(uintptr_t)u->spec.name;
  u->frontend.options = (Kiln__V1__CompileOptions *)(uintptr_t)u->spec.options;
  u->frontend.target = (Kiln__V1__TargetSpec *)(uintptr_t)device_lane_target(u->spec.device);
  kiln__v1__envelope__init(&u->job.env);
  u->job.env.body_case = KILN__V1__ENVELOPE__BODY_INSPECT;
  u->job.env.inspect = &u->message;
  u->job.fd = u->job_fd;
  u->job.tenant = r->tenant->id;
  u->job.payer = r->tenant;
  u->job.done = on_inspected;
  u->job.ctx = r;
  Status st = compile_pool_submit(r->server->pool, &u->job);
  u->job_active = !st;
  return st;
}

static void on_device(void *ctx, DeviceJob *job, Message *m, Status st) {
  Request *r = ctx;
  ModelUpload *u = r->work;
  (void)job;
  (void)m;
  u->device_job = NULL;
  if (!st) st = inspect_start(r, u);
  if (st) request_finish(r, st);
}

static void inspect_end(Request *r) {
  ModelUpload *u = r->work;
  Status st = take_model(r, u, &u->model);
  if (!st) request_move(r, RS_ADMITTED);
  if (!st && device_lane_target(u->spec.device)) {
    st = inspect_start(r, u);
  } else if (!st) {
    DeviceJob *job = device_job_create();
    if (!job) st = FAIL(RESOURCE_EXHAUSTED, "inspect");
    if (job) {
      job->done = on_device;
      job->ctx = r;
      u->device_job = job;
      st = device_lane_submit(u->spec.device, job);
      if (st) u->device_job = NULL;
    }
  }
  if (st) request_finish(r, st);
}

const Method rpc_inspect = {.path = "/kiln.v1.Kiln/Inspect",
                            .request = &kiln__v1__inspect_request__descriptor,
                            .many = true,
                            .message = on_part,
                            .part = on_piece,
                            .end = inspect_end,
                            .release = model_release};

/* -- ReleaseExecutable --------------------------------------------------------------------------
 */

static void release_message(Request *r, Bytes msg) {
  const Kiln__V1__ReleaseExecutableRequest *m = request_decode(r, msg);
  if (!m) return;
  Kiln__V1__ReleaseExecutableResponse response = KILN__V1__RELEASE_EXECUTABLE_RESPONSE__INIT;
  Status st = registry_drop(&r->server->executables, r->tenant, m->executable);
  if (st)
    request_finish(r, st);
  else
    request_reply(r, &response.base);
}

const Method rpc_release = {.path = "/kiln.v1.Kiln/ReleaseExecutable",
                            .request = &kiln__v1__release_executable_request__descriptor,
                            .message = release_message};
