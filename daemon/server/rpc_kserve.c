/* KServe v2 (Open Inference Protocol): everything but ModelInfer. A model's executable is loaded
 * once and serves all; there is one version of a model at a time. Shapes are those of the graph,
 * so no dimension is a batch that the protocol would add (max_batch_size is 0). */
#include "base/clock.h"
#include "daemon/server/kserve.h"
#include "daemon/server/rpc.h"

/* -- types --------------------------------------------------------------------------------------
 */

static const struct {
  const char *name;
  Kiln__V1__DType dtype;
  Inference__DataType config;
} types[] = {
    {"BOOL", KILN__V1__DTYPE__DTYPE_BOOL, INFERENCE__DATA_TYPE__TYPE_BOOL},
    {"UINT8", KILN__V1__DTYPE__DTYPE_U8, INFERENCE__DATA_TYPE__TYPE_UINT8},
    {"UINT16", KILN__V1__DTYPE__DTYPE_U16, INFERENCE__DATA_TYPE__TYPE_UINT16},
    {"UINT32", KILN__V1__DTYPE__DTYPE_U32, INFERENCE__DATA_TYPE__TYPE_UINT32},
    {"UINT64", KILN__V1__DTYPE__DTYPE_U64, INFERENCE__DATA_TYPE__TYPE_UINT64},
    {"INT8", KILN__V1__DTYPE__DTYPE_I8, INFERENCE__DATA_TYPE__TYPE_INT8},
    {"INT16", KILN__V1__DTYPE__DTYPE_I16, INFERENCE__DATA_TYPE__TYPE_INT16},
    {"INT32", KILN__V1__DTYPE__DTYPE_I32, INFERENCE__DATA_TYPE__TYPE_INT32},
    {"INT64", KILN__V1__DTYPE__DTYPE_I64, INFERENCE__DATA_TYPE__TYPE_INT64},
    {"FP16", KILN__V1__DTYPE__DTYPE_F16, INFERENCE__DATA_TYPE__TYPE_FP16},
    {"FP32", KILN__V1__DTYPE__DTYPE_F32, INFERENCE__DATA_TYPE__TYPE_FP32},
    {"FP64", KILN__V1__DTYPE__DTYPE_F64, INFERENCE__DATA_TYPE__TYPE_FP64},
    {"BF16", KILN__V1__DTYPE__DTYPE_BF16, INFERENCE__DATA_TYPE__TYPE_BF16},
};
enum { NTYPES = sizeof types / sizeof *types };

const char *kserve_datatype(Kiln__V1__DType dtype) {
  for (size_t i = 0; i < NTYPES; i++)
    if (types[i].dtype == dtype) return types[i].name;
  return NULL;
}

Kiln__V1__DType kserve_dtype(Str datatype) {
  for (size_t i = 0; i < NTYPES; i++)
    if (str_is(datatype, types[i].name)) return types[i].dtype;
  return KILN__V1__DTYPE__DTYPE_UNSPECIFIED;
}

Inference__DataType kserve_config_type(Kiln__V1__DType dtype) {
  for (size_t i = 0; i < NTYPES; i++)
    if (types[i].dtype == dtype) return types[i].config;
  return INFERENCE__DATA_TYPE__TYPE_INVALID;
}

Status kserve_model(const Request *r, const char *name, const char *version, Model **out) {
  *out = models_find(r->server, r->tenant, name, version);
  if (!*out && *version)
    return FAIL(NOT_FOUND, "there is no model '%.64s' of version '%.16s'", name, version);
  if (!*out) return FAIL(NOT_FOUND, "there is no model '%.64s'", name);
  if (!(*out)->exe)
    return FAIL(UNAVAILABLE, "model '%.64s' is not loaded%s%s", name, *(*out)->reason ? ": " : "",
                (*out)->reason);
  return NULL;
}

/* -- server -------------------------------------------------------------------------------------
 */

static void live_message(Request *r, Bytes msg) {
  Inference__ServerLiveResponse m = INFERENCE__SERVER_LIVE_RESPONSE__INIT;
  if (!request_decode(r, msg)) return;
  m.live = true;
  request_reply(r, &m.base);
}

static void ready_message(Request *r, Bytes msg) {
  Inference__ServerReadyResponse m = INFERENCE__SERVER_READY_RESPONSE__INIT;
  if (!request_decode(r, msg)) return;
  m.ready = !server_not_ready(r->server);
  request_reply(r, &m.base);
}

static void metadata_message(Request *r, Bytes msg) {
  static const char *const extensions[] = {"model_repository", "model_configuration", "statistics"};
  Inference__ServerMetadataResponse m = INFERENCE__SERVER_METADATA_RESPONSE__INIT;
  if (!request_decode(r, msg)) return;
  m.name = (char *)(uintptr_t) "kiln";
  m.version = (char *)(uintptr_t)KILN_VERSION;
  m.n_extensions = sizeof extensions / sizeof *extensions;
  m.extensions = (char **)(uintptr_t)extensions;
  request_reply(r, &m.base);
}

const Method rpc_server_live = {.path = "/inference.GRPCInferenceService/ServerLive",
                                .request = &inference__server_live_request__descriptor,
                                .message = live_message};
const Method rpc_server_ready = {.path = "/inference.GRPCInferenceService/ServerReady",
                                 .request = &inference__server_ready_request__descriptor,
                                 .message = ready_message};
const Method rpc_server_metadata = {.path = "/inference.GRPCInferenceService/ServerMetadata",
                                    .request = &inference__server_metadata_request__descriptor,
                                    .message = metadata_message};

/* -- one model ----------------------------------------------------------------------------------
 */

static void model_ready_message(Request *r, Bytes msg) {
  const Inference__ModelReadyRequest *m = request_decode(r, msg);
  Inference__ModelReadyResponse response = INFERENCE__MODEL_READY_RESPONSE__INIT;
  if (!m) return;
  const Model *model = models_find(r->server, r->tenant, m->name, m->version);
  response.ready = model && model->exe && device_lane_status(model->exe->device).available;
  request_reply(r, &response.base);
}

/* The dims of a tensor, -1 where a run decides. */
static int64_t *shape_of(Arena *arena, const Kiln__V1__TensorSpec *spec) {
  int64_t *dims = arena_array(arena, spec->n_dims + 1, sizeof *dims);
  for (size_t i = 0; dims && i < spec->n_dims; i++) {
    bool open = i < spec->n_shape && *spec->shape[i]->name;
    dims[i] = open ? -1 : (int64_t)spec->dims[i];
  }
  return dims;
}

typedef Inference__ModelMetadataResponse__TensorMetadata TensorMetadata;

/* The specs of inputs or outputs. NULL without memory. */
static TensorMetadata **describe(Arena *arena, Kiln__V1__TensorSpec *const *specs, size_t n) {
  TensorMetadata **list = arena_array(arena, n + 1, sizeof *list);
  TensorMetadata *rows = arena_array(arena, n + 1, sizeof *rows);
  for (size_t i = 0; list && rows && i < n; i++) {
    const char *type = kserve_datatype(specs[i]->dtype);
    inference__model_metadata_response__tensor_metadata__init(&rows[i]);
    rows[i].name = specs[i]->name;
    rows[i].datatype = (char *)(uintptr_t)(type ? type : "UNKNOWN");
    rows[i].n_shape = specs[i]->n_dims;
    if (!(rows[i].shape = shape_of(arena, specs[i]))) return NULL;
    list[i] = &rows[i];
  }
  return list && rows ? list : NULL;
}

static const char *platform(const Model *m) {
  return m->format == KILN__V1__MODEL_FORMAT__MODEL_FORMAT_ONNX ? "kiln_onnx" : "kiln_graph";
}

static size_t ninputs(const Executable *e) { return e->face->n_inputs - e->random; }

static void model_metadata_message(Request *r, Bytes msg) {
  const Inference__ModelMetadataRequest *m = request_decode(r, msg);
  Inference__ModelMetadataResponse out = INFERENCE__MODEL_METADATA_RESPONSE__INIT;
  Model *model;
  if (!m) return;
  Status st = kserve_model(r, m->name, m->version, &model);
  if (!st) {
    const Kiln__V1__FrontendDone *face = model->exe->face;
    char *version = model->version;
    out.name = model->name;
    out.versions = &version;
    out.n_versions = 1;
    out.platform = (char *)(uintptr_t)platform(model);
    out.n_inputs = ninputs(model->exe);
    out.inputs = describe(&r->arena, face->inputs, out.n_inputs);
    out.n_outputs = face->n_outputs;
    out.outputs = describe(&r->arena, face->outputs, out.n_outputs);
    if (out.inputs && out.outputs) {
      request_reply(r, &out.base);
      return;
    }
    st = FAIL(RESOURCE_EXHAUSTED, "metadata of a model");
  }
  request_finish(r, st);
}

static Status fill_config(Request *r, Model *model, Inference__ModelConfig *c) {
  const Kiln__V1__FrontendDone *face = model->exe->face;
  size_t nin = ninputs(model->exe), nout = face->n_outputs;
  Inference__ModelInput *in = arena_array(&r->arena, nin + 1, sizeof *in);
  Inference__ModelOutput *out = arena_array(&r->arena, nout + 1, sizeof *out);
  c->input = arena_array(&r->arena, nin + 1, sizeof *c->input);
  c->output = arena_array(&r->arena, nout + 1, sizeof *c->output);
  if (!in || !out || !c->input || !c->output) return FAIL(RESOURCE_EXHAUSTED, "configuration");
  for (size_t i = 0; i < nin; i++) {
    inference__model_input__init(c->input[i] = &in[i]);
    in[i].name = face->inputs[i]->name;
    in[i].data_type = kserve_config_type(face->inputs[i]->dtype);
    in[i].n_dims = face->inputs[i]->n_dims;
    if (!(in[i].dims = shape_of(&r->arena, face->inputs[i])))
      return FAIL(RESOURCE_EXHAUSTED, "configuration");
  }
  for (size_t i = 0; i < nout; i++) {
    inference__model_output__init(c->output[i] = &out[i]);
    out[i].name = face->outputs[i]->name;
    out[i].data_type = kserve_config_type(face->outputs[i]->dtype);
    out[i].n_dims = face->outputs[i]->n_dims;
    if (!(out[i].dims = shape_of(&r->arena, face->outputs[i])))
      return FAIL(RESOURCE_EXHAUSTED, "configuration");
  }
  c->name = model->name;
  c->platform = (char *)(uintptr_t)platform(model);
  c->backend = (char *)(uintptr_t) "kiln";
  c->n_input = nin;
  c->n_output = nout;
  return NULL;
}

static void config_message(Request *r, Bytes msg) {
  const Inference__ModelConfigRequest *m = request_decode(r, msg);
  Inference__ModelConfigResponse out = INFERENCE__MODEL_CONFIG_RESPONSE__INIT;
  Inference__ModelConfig config = INFERENCE__MODEL_CONFIG__INIT;
  Model *model;
  if (!m) return;
  Status st = kserve_model(r, m->name, m->version, &model);
  if (!st) st = fill_config(r, model, &config);
  out.config = &config;
  if (st)
    request_finish(r, st);
  else
    request_reply(r, &out.base);
}

const Method rpc_model_ready = {.path = "/inference.GRPCInferenceService/ModelReady",
                                .request = &inference__model_ready_request__descriptor,
                                .message = model_ready_message};
const Method rpc_model_metadata = {.path = "/inference.GRPCInferenceService/ModelMetadata",
                                   .request = &inference__model_metadata_request__descriptor,
                                   .message = model_metadata_message};
const Method rpc_model_config = {.path = "/inference.GRPCInferenceService/ModelConfig",
                                 .request = &inference__model_config_request__descriptor,
                                 .message = config_message};

/* -- statistics ---------------------------------------------------------------------------------
 */

typedef struct StatsRow {
  Inference__ModelStatistics row;
  Inference__InferStatistics all;
  Inference__StatisticDuration success, fail, queue, infer, input, output;
} StatsRow;

static Inference__StatisticDuration *duration(Inference__StatisticDuration *d, uint64_t n,
                                              int64_t ns) {
  inference__statistic_duration__init(d);
  d->count = n;
  d->ns = ns > 0 ? (uint64_t)ns : 0;
  return d;
}

static void fill_stats(Model *m, StatsRow *s) {
  int64_t rest = m->answered_ns - m->queue_ns - m->device_ns;
  inference__model_statistics__init(&s->row);
  inference__infer_statistics__init(&s->all);
  s->row.name = m->name;
  s->row.version = m->version;
  s->row.last_inference = (uint64_t)(m->last_wall_ns / 1000000);
  s->row.inference_count = s->row.execution_count = m->answered;
  s->row.inference_stats = &s->all;
  s->all.success = duration(&s->success, m->answered, m->answered_ns);
  s->all.fail = duration(&s->fail, m->failed, m->failed_ns);
  s->all.queue = duration(&s->queue, m->answered, m->queue_ns);
  s->all.compute_infer = duration(&s->infer, m->answered, m->device_ns);
  s->all.compute_input = duration(&s->input, m->answered, 0);
  s->all.compute_output = duration(&s->output, m->answered, rest);
}

static void stats_message(Request *r, Bytes msg) {
  const Inference__ModelStatisticsRequest *m = request_decode(r, msg);
  Inference__ModelStatisticsResponse out = INFERENCE__MODEL_STATISTICS_RESPONSE__INIT;
  if (!m) return;
  size_t max = r->server->nmodels + 1;
  StatsRow *rows = arena_array(&r->arena, max, sizeof *rows);
  out.model_stats = arena_array(&r->arena, max, sizeof *out.model_stats);
  if (!rows || !out.model_stats) {
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "statistics"));
    return;
  }
  for (Model *at = r->server->models; at; at = at->next) {
    if (!models_visible(at, r->tenant) || (*m->name && strcmp(m->name, at->name) != 0)) continue;
    fill_stats(at, &rows[out.n_model_stats]);
    out.model_stats[out.n_model_stats] = &rows[out.n_model_stats].row;
    out.n_model_stats++;
  }
  if (*m->name && !out.n_model_stats)
    request_finish(r, FAIL(NOT_FOUND, "there is no model '%.64s'", m->name));
  else
    request_reply(r, &out.base);
}

const Method rpc_model_stats = {.path = "/inference.GRPCInferenceService/ModelStatistics",
                                .request = &inference__model_statistics_request__descriptor,
                                .message = stats_message};

/* -- the repository -----------------------------------------------------------------------------
 */

static Status check_repository(const char *name) {
  return *name ? FAIL(NOT_FOUND, "there is no repository '%.64s'; leave the name empty", name)
               : NULL;
}

typedef Inference__RepositoryIndexResponse__ModelIndex ModelIndex;

static void index_message(Request *r, Bytes msg) {
  const Inference__RepositoryIndexRequest *m = request_decode(r, msg);
  Inference__RepositoryIndexResponse out = INFERENCE__REPOSITORY_INDEX_RESPONSE__INIT;
  if (!m) return;
  size_t max = r->server->nmodels + 1;
  ModelIndex *rows = arena_array(&r->arena, max, sizeof *rows);
  out.models = arena_array(&r->arena, max, sizeof *out.models);
  Status st = check_repository(m->repository_name);
  if (!st && (!rows || !out.models)) st = FAIL(RESOURCE_EXHAUSTED, "index");
  for (Model *at = r->server->models; at && !st; at = at->next) {
    if (!models_visible(at, r->tenant) || (m->ready && !at->exe)) continue;
    ModelIndex *row = out.models[out.n_models] = &rows[out.n_models];
    out.n_models++;
    inference__repository_index_response__model_index__init(row);
    row->name = at->name;
    row->version = at->version;
    row->state = (char *)(uintptr_t)model_state(at);
    row->reason = at->reason;
  }
  if (st)
    request_finish(r, st);
  else
    request_reply(r, &out.base);
}

void models_answer(Request *r, Status st) {
  Inference__RepositoryModelLoadResponse out = INFERENCE__REPOSITORY_MODEL_LOAD_RESPONSE__INIT;
  if (st)
    request_finish(r, st);
  else
    request_reply(r, &out.base);
}

static Status load(Request *r, const Inference__RepositoryModelLoadRequest *m) {
  const ProtobufCBinaryData *bytes = NULL;
  const char *file = "";
  TRY(check_repository(m->repository_name));
  for (size_t i = 0; i < m->n_parameters; i++) {
    const Inference__ModelRepositoryParameter *value = m->parameters[i]->value;
    const char *key = m->parameters[i]->key;
    if (!strcmp(key, "config")) continue;
    if (strncmp(key, "file:", 5) != 0 || !value ||
        value->parameter_choice_case !=
            INFERENCE__MODEL_REPOSITORY_PARAMETER__PARAMETER_CHOICE_BYTES_PARAM)
      return FAIL(INVALID_ARGUMENT,
                  "parameter '%.64s': expected \"config\", or \"file:...\" with bytes", key);
    if (bytes) return FAIL(INVALID_ARGUMENT, "a model is one file here, got two");
    bytes = &value->bytes_param;
    file = key + 5;
  }
  TRY(model_check_name(m->model_name));
  if (bytes) return models_load_bytes(r, m->model_name, file, (Bytes){bytes->data, bytes->len});
  if (!(r->tenant->roles & ROLE_ADMIN))
    return FAIL(PERMISSION_DENIED, "loading a model for everybody takes the role admin; send the "
                                   "model with the request to have one of your own");
  return models_load_file(r, m->model_name);
}

static void load_message(Request *r, Bytes msg) {
  const Inference__RepositoryModelLoadRequest *m = request_decode(r, msg);
  if (!m) return;
  request_subject(r, "model=%s", m->model_name);
  Status st = load(r, m);
  if (st) request_finish(r, st);
}

static void unload_message(Request *r, Bytes msg) {
  const Inference__RepositoryModelUnloadRequest *m = request_decode(r, msg);
  Inference__RepositoryModelUnloadResponse out = INFERENCE__REPOSITORY_MODEL_UNLOAD_RESPONSE__INIT;
  if (!m) return;
  request_subject(r, "model=%s", m->model_name);
  Status st = check_repository(m->repository_name);
  if (!st) st = models_unload(r, m->model_name);
  if (st)
    request_finish(r, st);
  else
    request_reply(r, &out.base);
}

const Method rpc_model_index = {.path = "/inference.GRPCInferenceService/RepositoryIndex",
                                .request = &inference__repository_index_request__descriptor,
                                .message = index_message};
const Method rpc_model_load = {.path = "/inference.GRPCInferenceService/RepositoryModelLoad",
                               .audit = "model.load",
                               .request = &inference__repository_model_load_request__descriptor,
                               .message = load_message,
                               .release = models_leave};
const Method rpc_model_unload = {.path = "/inference.GRPCInferenceService/RepositoryModelUnload",
                                 .audit = "model.unload",
                                 .request = &inference__repository_model_unload_request__descriptor,
                                 .message = unload_message};
