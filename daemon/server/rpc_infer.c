/* ModelInfer of KServe v2: the request is decoded in place into the views of a run, which checks
 * it against the executable like any other, and the run's answer is put into the protocol's words.
 * Tensors come as raw bytes, which stay where they are, or as typed contents, which are packed into
 * bytes first; answers are always raw. */
#include "base/clock.h"
#include "daemon/server/kserve.h"
#include "daemon/server/rpc.h"
#include "daemon/server/run.h"

enum { ELEMENTS_MAX = 16 << 20 };

typedef struct ContentsView {
  uint64_t seen;
  VIEW_LIST(int64_t) bools, ints, int64s, uints, uint64s;
  VIEW_LIST(float) fp32s;
  VIEW_LIST(double) fp64s;
  VIEW_LIST(Str) strings;
} ContentsView;

typedef struct InputView {
  uint64_t seen;
  Str name, datatype;
  VIEW_LIST(int64_t) shape;
  const ContentsView *contents;
} InputView;

typedef struct OutputView {
  uint64_t seen;
  Str name;
} OutputView;

typedef struct InferView {
  uint64_t seen;
  Str model, version, id;
  VIEW_LIST(InputView) inputs;
  VIEW_LIST(OutputView) outputs;
  VIEW_LIST(Str) raw;
} InferView;

static const ViewField contents_rows[] = {VIEW_ROW(ContentsView, 1, VIEW_INT, true, bools, NULL),
                                          VIEW_ROW(ContentsView, 2, VIEW_INT, true, ints, NULL),
                                          VIEW_ROW(ContentsView, 3, VIEW_INT, true, int64s, NULL),
                                          VIEW_ROW(ContentsView, 4, VIEW_INT, true, uints, NULL),
                                          VIEW_ROW(ContentsView, 5, VIEW_INT, true, uint64s, NULL),
                                          VIEW_ROW(ContentsView, 6, VIEW_FLOAT, true, fp32s, NULL),
                                          VIEW_ROW(ContentsView, 7, VIEW_DOUBLE, true, fp64s, NULL),
                                          VIEW_ROW(ContentsView, 8, VIEW_STR, true, strings, NULL)};
static const ViewMessage contents_view =
    VIEW_TABLE(contents_rows, ContentsView, "InferTensorContents");
static const ViewField input_rows[] = {
    VIEW_ROW(InputView, 1, VIEW_STR, false, name, NULL),
    VIEW_ROW(InputView, 2, VIEW_STR, false, datatype, NULL),
    VIEW_ROW(InputView, 3, VIEW_INT, true, shape, NULL),
    VIEW_ROW(InputView, 5, VIEW_MSG, false, contents, &contents_view)};
static const ViewMessage input_view = VIEW_TABLE(input_rows, InputView, "InferInputTensor");
static const ViewField output_rows[] = {VIEW_ROW(OutputView, 1, VIEW_STR, false, name, NULL)};
static const ViewMessage output_view =
    VIEW_TABLE(output_rows, OutputView, "InferRequestedOutputTensor");
static const ViewField infer_rows[] = {
    VIEW_ROW(InferView, 1, VIEW_STR, false, model, NULL),
    VIEW_ROW(InferView, 2, VIEW_STR, false, version, NULL),
    VIEW_ROW(InferView, 3, VIEW_STR, false, id, NULL),
    VIEW_ROW(InferView, 5, VIEW_MSG, true, inputs, &input_view),
    VIEW_ROW(InferView, 6, VIEW_MSG, true, outputs, &output_view),
    VIEW_ROW(InferView, 7, VIEW_STR, true, raw, NULL)};
static const ViewMessage infer_view = VIEW_TABLE(infer_rows, InferView, "ModelInferRequest");
static const ViewLimits infer_limits = {.depth = 4, .elements = ELEMENTS_MAX};

/* What the answer needs; in the request's arena. */
typedef struct Infer {
  Model *model; /* retained */
  char *id;
  bool answered;
} Infer;

/* -- typed contents -----------------------------------------------------------------------------
 */

/* The low bytes of each number, which is little-endian as the machine is. */
static Status pack_ints(Arena *arena, const int64_t *at, size_t n, size_t bytes, Str *out) {
  uint8_t *to = arena_alloc(arena, n * bytes + 1);
  if (!to) return FAIL(RESOURCE_EXHAUSTED, "contents");
  for (size_t i = 0; i < n; i++) memcpy(to + i * bytes, &at[i], bytes);
  *out = (Str){(const char *)to, n * bytes};
  return NULL;
}

static Status typed_contents(Arena *arena, const InputView *in, Kiln__V1__DType dtype, Str *out) {
  const ContentsView *c = in->contents;
  size_t bytes = wire_dtype_bytes(dtype);
  switch (dtype) {
  case KILN__V1__DTYPE__DTYPE_BOOL: return pack_ints(arena, c->bools.at, c->bools.n, 1, out);
  case KILN__V1__DTYPE__DTYPE_I8:
  case KILN__V1__DTYPE__DTYPE_I16:
  case KILN__V1__DTYPE__DTYPE_I32: return pack_ints(arena, c->ints.at, c->ints.n, bytes, out);
  case KILN__V1__DTYPE__DTYPE_I64: return pack_ints(arena, c->int64s.at, c->int64s.n, bytes, out);
  case KILN__V1__DTYPE__DTYPE_U8:
  case KILN__V1__DTYPE__DTYPE_U16:
  case KILN__V1__DTYPE__DTYPE_U32: return pack_ints(arena, c->uints.at, c->uints.n, bytes, out);
  case KILN__V1__DTYPE__DTYPE_U64: return pack_ints(arena, c->uint64s.at, c->uint64s.n, bytes, out);
  case KILN__V1__DTYPE__DTYPE_F32:
    *out = (Str){(const char *)c->fp32s.at, c->fp32s.n * sizeof(float)};
    return NULL;
  case KILN__V1__DTYPE__DTYPE_F64:
    *out = (Str){(const char *)c->fp64s.at, c->fp64s.n * sizeof(double)};
    return NULL;
  default:
    return FAIL(INVALID_ARGUMENT,
                "input '" STR_FMT "': " STR_FMT " has no typed contents; send raw "
                "contents",
                STR_ARG(in->name), STR_ARG(in->datatype));
  }
}

/* -- request ------------------------------------------------------------------------------------
 */

static Status take_input(Request *r, const InferView *view, size_t i, TensorView *tensor,
                         NamedView *named) {
  enum { NAMED_TENSOR_SEEN = 1 << 0 | 1 << 1 };
  const InputView *in = &view->inputs.at[i];
  Kiln__V1__DType dtype = kserve_dtype(in->datatype);
  if (dtype == KILN__V1__DTYPE__DTYPE_UNSPECIFIED)
    return FAIL(INVALID_ARGUMENT,
                "input '" STR_FMT "': the datatype '" STR_FMT "' is not supported",
                STR_ARG(in->name), STR_ARG(in->datatype));
  *tensor = (TensorView){.dtype = dtype, .dims = {in->shape.at, in->shape.n}};
  *named = (NamedView){.seen = NAMED_TENSOR_SEEN, .name = in->name, .tensor = tensor};
  if (view->raw.n) {
    if (in->contents)
      return FAIL(INVALID_ARGUMENT, "input '" STR_FMT "' has contents beside raw contents",
                  STR_ARG(in->name));
    tensor->data = view->raw.at[i];
    return NULL;
  }
  if (!in->contents)
    return FAIL(INVALID_ARGUMENT, "input '" STR_FMT "' has no contents", STR_ARG(in->name));
  return typed_contents(&r->arena, in, dtype, &tensor->data);
}

static Status make_view(Request *r, const InferView *view, RunView *out) {
  size_t n = view->inputs.n, m = view->outputs.n;
  TensorView *tensors = arena_array(&r->arena, n + 1, sizeof *tensors);
  NamedView *inputs = arena_array(&r->arena, n + 1, sizeof *inputs);
  Str *outputs = arena_array(&r->arena, m + 1, sizeof *outputs);
  if (!tensors || !inputs || !outputs) return FAIL(RESOURCE_EXHAUSTED, "inference");
  if (view->raw.n && view->raw.n != n)
    return FAIL(INVALID_ARGUMENT, "expected raw contents for each of %zu inputs, got %zu", n,
                view->raw.n);
  for (size_t i = 0; i < n; i++) TRY(take_input(r, view, i, &tensors[i], &inputs[i]));
  for (size_t i = 0; i < m; i++) outputs[i] = view->outputs.at[i].name;
  *out = (RunView){.inputs = {inputs, n}, .outputs = {outputs, m}};
  return NULL;
}

/* -- answer -------------------------------------------------------------------------------------
 */

typedef Inference__ModelInferResponse__InferOutputTensor OutputTensor;

static void note_answer(const Request *r, Infer *infer, const Kiln__V1__RunResponse *m) {
  Model *model = infer->model;
  infer->answered = true;
  model->answered++;
  model->answered_ns += clock_now_ns() - r->received_ns;
  model->queue_ns += m->queue_ns;
  model->device_ns += m->device_ns;
  model->last_wall_ns = clock_wall_ns();
}

static void reply(Request *r, void *ctx, const Kiln__V1__RunResponse *m) {
  Infer *infer = ctx;
  Inference__ModelInferResponse out = INFERENCE__MODEL_INFER_RESPONSE__INIT;
  size_t n = m->n_outputs;
  OutputTensor *rows = arena_array(&r->arena, n + 1, sizeof *rows);
  out.outputs = arena_array(&r->arena, n + 1, sizeof *out.outputs);
  out.raw_output_contents = arena_array(&r->arena, n + 1, sizeof *out.raw_output_contents);
  Status st =
      rows && out.outputs && out.raw_output_contents ? NULL : FAIL(RESOURCE_EXHAUSTED, "inference");
  for (size_t i = 0; i < n && !st; i++) {
    const Kiln__V1__Tensor *t = m->outputs[i]->tensor;
    const char *type = kserve_datatype(t->dtype);
    if (!type)
      st = FAIL(UNIMPLEMENTED, "output '%s' has a type that this protocol has no name for",
                m->outputs[i]->name);
    inference__model_infer_response__infer_output_tensor__init(out.outputs[i] = &rows[i]);
    rows[i].name = m->outputs[i]->name;
    rows[i].datatype = (char *)(uintptr_t)type;
    rows[i].n_shape = t->n_dims;
    rows[i].shape = (int64_t *)t->dims;
    out.raw_output_contents[i] = t->data;
  }
  if (st) {
    request_finish(r, st);
    return;
  }
  out.model_name = infer->model->name;
  out.model_version = infer->model->version;
  out.id = infer->id;
  out.n_outputs = out.n_raw_output_contents = n;
  note_answer(r, infer, m);
  request_reply(r, &out.base);
}

static Status start(Request *r, Infer *infer, const InferView *view) {
  RunView run;
  Model *model;
  const char *name = arena_strdup(&r->arena, view->model);
  const char *version = arena_strdup(&r->arena, view->version);
  infer->id = arena_strdup(&r->arena, view->id);
  if (!name || !version || !infer->id) return FAIL(RESOURCE_EXHAUSTED, "inference");
  TRY(kserve_model(r, name, version, &model));
  infer->model = model;
  model->refs++;
  r->call_ctx = infer;
  TRY(make_view(r, view, &run));
  return run_begin(r, model->exe, &run, reply, infer);
}

static void infer_message(Request *r, Bytes msg) {
  InferView view = {.seen = 0};
  Infer *infer = arena_alloc(&r->arena, sizeof *infer);
  Status st = infer ? NULL : FAIL(RESOURCE_EXHAUSTED, "inference");
  if (!st) st = view_decode(&r->arena, msg, &infer_view, &infer_limits, &view);
  if (!st) st = start(r, infer, &view);
  if (st) request_finish(r, st);
}

static void infer_release(Request *r) {
  Infer *infer = r->call_ctx;
  run_release(r);
  if (!infer) return;
  r->call_ctx = NULL;
  if (!infer->answered) {
    infer->model->failed++;
    infer->model->failed_ns += clock_now_ns() - r->received_ns;
  }
  model_release(infer->model);
}

const Method rpc_model_infer = {.path = "/inference.GRPCInferenceService/ModelInfer",
                                .request = &inference__model_infer_request__descriptor,
                                .message = infer_message,
                                .release = infer_release};
