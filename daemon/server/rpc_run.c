/* Run. The hot path of the server: one message in, one to the device worker, one back, one out, all
 * on the loop. Tensors that fit a packet travel inside it; larger ones are copied into a slab.
 *
 * The request is decoded in place: its tensors are copied once, from the bytes that came to where
 * the device worker reads them. Nothing keeps a view of those bytes after `start`. */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/channel/shm.h"
#include "daemon/server/answers.h"
#include "daemon/server/batch.h"
#include "daemon/server/dims.h"
#include "daemon/server/metrics_sample.h"
#include "daemon/server/quota.h"
#include "daemon/server/rpc.h"
#include "daemon/server/run.h"
#include "proto/random.h"

enum { INLINE_MAX = 32 << 10, SLAB_ALIGN = 64 };

static const ViewField tensor_rows[] = {VIEW_ROW(TensorView, 1, VIEW_INT, false, dtype, NULL),
                                        VIEW_ROW(TensorView, 2, VIEW_INT, true, dims, NULL),
                                        VIEW_ROW(TensorView, 3, VIEW_STR, false, data, NULL)};
static const ViewMessage tensor_view = VIEW_TABLE(tensor_rows, TensorView, "Tensor");
static const ViewField named_rows[] = {
    VIEW_ROW(NamedView, 1, VIEW_STR, false, name, NULL),
    VIEW_ROW(NamedView, 2, VIEW_MSG, false, tensor, &tensor_view),
    VIEW_ROW(NamedView, 3, VIEW_STR, false, buffer, NULL)};
static const ViewMessage named_view = VIEW_TABLE(named_rows, NamedView, "NamedTensor");
static const ViewField random_rows[] = {VIEW_ROW(RandomView, 1, VIEW_INT, false, seed, NULL),
                                        VIEW_ROW(RandomView, 2, VIEW_INT, false, run, NULL)};
static const ViewMessage random_view = VIEW_TABLE(random_rows, RandomView, "RandomState");
static const ViewField run_rows[] = {VIEW_ROW(RunView, 1, VIEW_STR, false, executable, NULL),
                                     VIEW_ROW(RunView, 2, VIEW_MSG, true, inputs, &named_view),
                                     VIEW_ROW(RunView, 3, VIEW_STR, true, outputs, NULL),
                                     VIEW_ROW(RunView, 4, VIEW_INT, false, as_buffers, NULL),
                                     VIEW_ROW(RunView, 5, VIEW_MSG, false, random, &random_view),
                                     VIEW_ROW(RunView, 6, VIEW_INT, false, profile, NULL),
                                     VIEW_ROW(RunView, 7, VIEW_INT, false, priority, NULL)};
static const ViewMessage run_view = VIEW_TABLE(run_rows, RunView, "RunRequest");
static const ViewLimits run_limits = {.depth = 4, .elements = 100000};
enum { NAMED_BUFFER_SEEN = 1 << 2, NAME_SHOWN = 200 };

/* In the request's arena. */
typedef struct Run {
  Executable *exe;
  DeviceJob *job; /* NULL when none is outstanding */
  Kiln__V1__RunJob message;
  uint32_t *outputs;   /* positions */
  uint64_t *offsets;   /* in the slab */
  DeviceBuffer **made; /* outputs kept as buffers */
  uint64_t *secrets;   /* of their handles */
  size_t noutputs, nmade;
  RunDims dims;   /* of executables whose sizes a run decides */
  uint64_t *room; /* by position: bytes of the wanted outputs, 0 for open ones until it has run */
  bool *open;     /* by position: the run decides the size */
  size_t nopen;
  uint8_t *memory; /* of open outputs, mapped while the answer is made */
  int64_t handed_ns;
  BatchMember batch; /* of runs that may share one */
  bool counted;      /* as a run of the tenant */
  RunReply reply;
  void *reply_ctx;
} Run;

static bool symbolic(const Run *run) { return run->exe->face->n_shapes > 0; }

/* -- inputs -------------------------------------------------------------------------------------
 */

static char *name_list(Arena *arena, Kiln__V1__TensorSpec **specs, size_t n) {
  StrBuf b = {0};
  for (size_t i = 0; i < n && b.len < 400; i++)
    strbuf_addf(&b, i ? ", '%s'" : "'%s'", specs[i]->name);
  char *text = arena_strdup(arena, b.ptr ? (Str){b.ptr, b.len} : STR("none"));
  strbuf_deinit(&b);
  return text;
}

static Status wrong_type(const Kiln__V1__TensorSpec *spec, Kiln__V1__DType dtype,
                         const uint64_t *dims, size_t ndims) {
  char expected[200], got[200];
  return FAIL(INVALID_ARGUMENT, "input '%s': expected %s, got %s", spec->name,
              wire_spec_text(spec, expected, sizeof expected),
              wire_tensor_text(dtype, dims, ndims, got, sizeof got));
}

static Status missing(const Kiln__V1__TensorSpec *spec) {
  char expected[200];
  return FAIL(INVALID_ARGUMENT, "input '%s' is missing; expected %s", spec->name,
              wire_spec_text(spec, expected, sizeof expected));
}

/* A name from outside, for a message. */
static int shown(Str s) { return (int)(s.len < NAME_SHOWN ? s.len : NAME_SHOWN); }

/* Compares the type of input i with what came, and says how many bytes it has. */
static Status check_type(Run *run, size_t i, Kiln__V1__DType dtype, const uint64_t *dims,
                         size_t ndims, uint64_t *bytes) {
  const Kiln__V1__TensorSpec *spec = run->exe->face->inputs[i];
  *bytes = run->exe->slot_bytes[i];
  if (spec->dtype != dtype || spec->n_dims != ndims) return wrong_type(spec, dtype, dims, ndims);
  if (symbolic(run)) return dims_bind(run->exe->face, &run->dims, i, dims, bytes);
  if (!ndims || !memcmp(spec->dims, dims, ndims * sizeof *dims)) return NULL;
  return wrong_type(spec, dtype, dims, ndims);
}

static Status bind_tensor(Run *run, size_t i, const TensorView *t, Kiln__V1__RunInput *out) {
  const Kiln__V1__TensorSpec *spec = run->exe->face->inputs[i];
  const uint64_t *dims = (const uint64_t *)t->dims.at;
  Kiln__V1__DType dtype = t->dtype > 0 && t->dtype < 1000 ? (Kiln__V1__DType)t->dtype : 0;
  if (spec->state)
    return FAIL(INVALID_ARGUMENT,
                "input '%s' is a state, which runs update: expected a buffer, got a tensor",
                spec->name);
  TRY(check_type(run, i, dtype, dims, t->dims.n, &out->bytes));
  if (t->data.len != out->bytes)
    return FAIL(INVALID_ARGUMENT, "input '%s': expected %" PRIu64 " bytes of data, got %zu",
                spec->name, out->bytes, t->data.len);
  out->value_case = KILN__V1__RUN_INPUT__VALUE_INLINE;
  out->inline_ = (ProtobufCBinaryData){t->data.len, (uint8_t *)(uintptr_t)t->data.ptr};
  return NULL;
}

static Status bind_buffer(Request *r, Run *run, size_t i, Str name, Kiln__V1__RunInput *out) {
  const Kiln__V1__TensorSpec *spec = run->exe->face->inputs[i];
  DeviceBuffer *b;
  DeviceJob *job = run->job;
  const char *id = arena_strdup(&r->arena, name);
  if (!id) return FAIL(RESOURCE_EXHAUSTED, "run");
  TRY(buffer_table_find(&r->server->buffers, r->tenant, id, &b));
  TRY(check_type(run, i, b->dtype, b->dims, b->ndims, &out->bytes));
  if (b->device != run->exe->device)
    return FAIL(INVALID_ARGUMENT, "input '%s': buffer '%s' is on %s, the executable on %s",
                spec->name, id, device_lane_name(b->device), device_lane_name(run->exe->device));
  if (spec->state && b->sealed)
    return FAIL(FAILED_PRECONDITION,
                "input '%s': buffer '%s' is sealed memory, which a run cannot update", spec->name,
                id);
  size_t n = run->exe->face->n_inputs;
  if (!job->buffers) job->buffers = calloc(n, sizeof *job->buffers);
  if (!job->updated) job->updated = calloc(n, sizeof *job->updated);
  if (!job->buffers || !job->updated) return FAIL(RESOURCE_EXHAUSTED, "run");
  for (size_t k = 0; k < job->nbuffers; k++)
    if (job->buffers[k] == b && (spec->state || job->updated[k]))
      return FAIL(INVALID_ARGUMENT,
                  "input '%s': buffer '%s' is given twice, and the run updates it", spec->name, id);
  job->updated[job->nbuffers] = spec->state;
  job->updates |= spec->state;
  b->updated |= spec->state;
  job->buffers[job->nbuffers++] = device_buffer_retain(b);
  out->value_case = KILN__V1__RUN_INPUT__VALUE_BUFFER;
  out->buffer = b->id;
  return NULL;
}

static Status bind_input(Request *r, Run *run, const NamedView *in) {
  const Executable *e = run->exe;
  size_t n = e->face->n_inputs - e->random, i = 0;
  while (i < n && !str_is(in->name, e->face->inputs[i]->name)) i++;
  if (i == n)
    return FAIL(INVALID_ARGUMENT, "there is no input '%.*s'; the inputs are %s", shown(in->name),
                in->name.ptr, name_list(&r->arena, e->face->inputs, n));
  const Kiln__V1__TensorSpec *spec = e->face->inputs[i];
  Kiln__V1__RunInput *out = run->message.inputs[i];
  bool buffer = in->seen & NAMED_BUFFER_SEEN;
  if (out->value_case != KILN__V1__RUN_INPUT__VALUE__NOT_SET)
    return FAIL(INVALID_ARGUMENT, "input '%s' is given twice", spec->name);
  if (!in->tensor && !buffer) return FAIL(INVALID_ARGUMENT, "input '%s' has no value", spec->name);
  if (in->tensor && buffer)
    return FAIL(INVALID_ARGUMENT, "input '%s' has a tensor and a buffer", spec->name);
  return buffer ? bind_buffer(r, run, i, in->buffer, out) : bind_tensor(run, i, in->tensor, out);
}

/* The last input of an executable that draws random numbers: the key of its own seed and the number
 * of the run, or of those in the request. */
static Status bind_random(Request *r, Run *run, const RandomView *view, Kiln__V1__RunInput *out) {
  Executable *e = run->exe;
  uint32_t *key = arena_array(&r->arena, 2, sizeof *key);
  if (!key) return FAIL(RESOURCE_EXHAUSTED, "run");
  if (view)
    random_run_key((uint64_t)view->seed, (uint64_t)view->run, key);
  else
    random_run_key(e->random_seed, e->runs++, key);
  out->bytes = 2 * sizeof *key;
  out->value_case = KILN__V1__RUN_INPUT__VALUE_INLINE;
  out->inline_ = (ProtobufCBinaryData){out->bytes, (uint8_t *)key};
  return NULL;
}

static Status bind_inputs(Request *r, Run *run, const RunView *view) {
  const Executable *e = run->exe;
  size_t n = e->face->n_inputs;
  Kiln__V1__RunInput *inputs = arena_array(&r->arena, n + 1, sizeof *inputs);
  run->message.inputs = arena_array(&r->arena, n + 1, sizeof *run->message.inputs);
  if (!inputs || !run->message.inputs) return FAIL(RESOURCE_EXHAUSTED, "run");
  run->message.n_inputs = n;
  if (symbolic(run)) TRY(dims_begin(&r->arena, e->face, &run->dims));
  for (size_t i = 0; i < n; i++) {
    kiln__v1__run_input__init(&inputs[i]);
    run->message.inputs[i] = &inputs[i];
  }
  for (size_t i = 0; i < view->inputs.n; i++) TRY(bind_input(r, run, &view->inputs.at[i]));
  if (run->exe->random) TRY(bind_random(r, run, view->random, &inputs[n - 1]));
  for (size_t i = 0; i < n; i++)
    if (inputs[i].value_case == KILN__V1__RUN_INPUT__VALUE__NOT_SET)
      return missing(e->face->inputs[i]);
  return NULL;
}

/* -- outputs ------------------------------------------------------------------------------------
 */

static Status find_output(Request *r, const Run *run, Str name, uint32_t *out) {
  const Kiln__V1__FrontendDone *face = run->exe->face;
  for (size_t i = 0; i < face->n_outputs; i++)
    if (str_is(name, face->outputs[i]->name)) return *out = (uint32_t)i, NULL;
  return FAIL(INVALID_ARGUMENT, "there is no output '%.*s'; the outputs are %s", shown(name),
              name.ptr, name_list(&r->arena, face->outputs, face->n_outputs));
}

/* What the inputs say about the sizes of the outputs. */
static Status size_outputs(Request *r, Run *run) {
  const Kiln__V1__FrontendDone *face = run->exe->face;
  run->room = arena_array(&r->arena, run->noutputs + 1, sizeof *run->room);
  run->open = arena_array(&r->arena, run->noutputs + 1, sizeof *run->open);
  if (!run->room || !run->open) return FAIL(RESOURCE_EXHAUSTED, "run");
  for (size_t i = 0; i < run->noutputs; i++) {
    run->open[i] = dims_open(face, run->outputs[i]);
    run->nopen += run->open[i];
    if (!run->open[i])
      TRY(dims_room(face, &run->dims, run->outputs[i], r->server->config.max_tensor_bytes,
                    &run->room[i]));
  }
  run->message.n_vars = face->n_vars;
  run->message.vars = run->dims.vars;
  return NULL;
}

static Status bind_outputs(Request *r, Run *run, const RunView *view) {
  size_t all = run->exe->face->n_outputs, wanted = view->outputs.n;
  run->noutputs = wanted ? wanted : all;
  run->outputs = arena_array(&r->arena, run->noutputs + 1, sizeof *run->outputs);
  uint8_t *seen = arena_alloc(&r->arena, all + 1);
  if (!run->outputs || !seen) return FAIL(RESOURCE_EXHAUSTED, "run");
  for (size_t i = 0; i < run->noutputs; i++) {
    run->outputs[i] = (uint32_t)i;
    if (wanted) TRY(find_output(r, run, view->outputs.at[i], &run->outputs[i]));
    if (seen[run->outputs[i]]++)
      return FAIL(INVALID_ARGUMENT, "output '%s' is asked for twice",
                  run->exe->face->outputs[run->outputs[i]]->name);
  }
  run->message.outputs = run->outputs;
  run->message.n_outputs = run->noutputs;
  return symbolic(run) ? size_outputs(r, run) : NULL;
}

/* At most, before a run that decides it. */
static uint64_t output_bytes(const Run *run, size_t i) {
  return run->room ? run->room[i]
                   : run->exe->slot_bytes[run->exe->face->n_inputs + run->outputs[i]];
}

/* Buffers for the outputs; they join the table when the run has succeeded. */
static Status make_buffers(Request *r, Run *run) {
  uint64_t total = 0;
  for (size_t i = 0; i < run->noutputs; i++) total += output_bytes(run, i);
  TRY(buffer_table_check(&r->server->buffers, total));
  TRY(quota_memory(r->tenant, total, 0));
  run->made = arena_array(&r->arena, run->noutputs + 1, sizeof *run->made);
  run->message.output_buffers = arena_array(&r->arena, run->noutputs + 1, sizeof(uint64_t));
  run->secrets = arena_array(&r->arena, run->noutputs + 1, sizeof *run->secrets);
  if (!run->made || !run->secrets || !run->message.output_buffers)
    return FAIL(RESOURCE_EXHAUSTED, "run");
  for (size_t i = 0; i < run->noutputs; i++) {
    const Kiln__V1__TensorSpec *spec = run->exe->face->outputs[run->outputs[i]];
    if (spec->n_dims > BUFFER_DIMS_MAX)
      return FAIL(UNIMPLEMENTED, "output '%s' has %zu dimensions, a buffer at most %d", spec->name,
                  spec->n_dims, BUFFER_DIMS_MAX);
    TRY(device_buffer_create(r->tenant, run->exe->device, spec->dtype, spec->dims, spec->n_dims,
                             output_bytes(run, i), &run->made[i]));
    run->nmade++;
    run->message.output_buffers[i] = run->made[i]->id;
    run->secrets[i] = run->made[i]->secret;
  }
  run->message.n_output_buffers = run->noutputs;
  return NULL;
}

/* -- slab ---------------------------------------------------------------------------------------
 */

static uint64_t padded(uint64_t n) { return (n + SLAB_ALIGN - 1) & ~(uint64_t)(SLAB_ALIGN - 1); }

/* Copies inline inputs out of the request: into the slab, or into the request's arena when they are
 * small enough for the packet. */
static Status copy_inputs(Request *r, Run *run, bool to_slab, uint64_t *at) {
  Kiln__V1__RunJob *m = &run->message;
  for (size_t i = 0; i < m->n_inputs; i++) {
    Kiln__V1__RunInput *input = m->inputs[i];
    if (input->value_case != KILN__V1__RUN_INPUT__VALUE_INLINE) continue;
    if (!to_slab) {
      input->inline_.data = arena_copy(&r->arena, input->inline_.data, input->inline_.len);
      if (!input->inline_.data) return FAIL(RESOURCE_EXHAUSTED, "run");
      continue;
    }
    memcpy(run->job->slab->at + *at, input->inline_.data, input->bytes);
    input->value_case = KILN__V1__RUN_INPUT__VALUE_OFFSET;
    input->offset = *at;
    *at += padded(input->bytes);
  }
  return NULL;
}

static Status place_outputs(Request *r, Run *run, uint64_t at) {
  run->offsets = arena_array(&r->arena, run->noutputs + 1, sizeof *run->offsets);
  if (!run->offsets) return FAIL(RESOURCE_EXHAUSTED, "run");
  for (size_t i = 0; i < run->noutputs; i++) {
    run->offsets[i] = at;
    at += padded(output_bytes(run, i));
  }
  run->message.output_offsets = run->offsets;
  run->message.n_output_offsets = run->noutputs;
  return NULL;
}

/* Gives inputs, outputs or both a slab when they do not fit the packet. */
static Status place(Request *r, Run *run) {
  const Kiln__V1__RunJob *m = &run->message;
  uint64_t in = 0, out = 0, at = 0;
  for (size_t i = 0; i < m->n_inputs; i++)
    if (m->inputs[i]->value_case == KILN__V1__RUN_INPUT__VALUE_INLINE)
      in += padded(m->inputs[i]->bytes);
  for (size_t i = 0; i < run->noutputs && !run->made; i++) out += padded(output_bytes(run, i));
  if (in <= INLINE_MAX) in = 0;
  if (out <= INLINE_MAX) out = 0;
  if (in || out) TRY(device_job_slab(run->exe->device, run->job, in + out));
  TRY(copy_inputs(r, run, in > 0, &at));
  return out ? place_outputs(r, run, at) : NULL;
}

/* -- answer -------------------------------------------------------------------------------------
 */

/* An open output lies in the memory that came with the answer, or inline. */
static Status check_open(const Run *run, const Kiln__V1__RunDone *done, size_t i) {
  uint64_t bytes = run->room[i], at = done->n_places ? done->places[i] : 0;
  if (!done->n_places && done->outputs[i].len == bytes) return NULL;
  if (done->n_places && at <= done->memory_bytes && bytes <= done->memory_bytes - at) return NULL;
  return FAIL(INTERNAL, "output %zu has a wrong place", i);
}

static Status check_answer(const Run *run, const Kiln__V1__RunDone *done) {
  bool inline_ = !run->made && (!run->offsets || run->nopen);
  if (done->n_outputs != (inline_ ? run->noutputs : 0) ||
      (done->n_places && done->n_places != run->noutputs))
    return FAIL(INTERNAL, "outputs are missing");
  for (size_t i = 0; i < done->n_outputs; i++) {
    if (run->nopen && run->open[i]) {
      TRY(check_open(run, done, i));
      continue;
    }
    if (done->outputs[i].len != (run->offsets ? 0 : output_bytes(run, i)))
      return FAIL(INTERNAL, "output %zu has a wrong size", i);
  }
  return NULL;
}

/* The memory that came with the answer, when some did. */
static Status map_memory(Run *run, Message *m) {
  const Kiln__V1__RunDone *done = m->env->run_done;
  void *at = NULL;
  if (!done->n_places) return NULL;
  int fd = message_take_fd(m, 0);
  if (fd < 0) return FAIL(RESOURCE_EXHAUSTED, "no descriptor was left for the outputs");
  Status st = shm_check(fd, done->memory_bytes);
  if (!st) st = shm_map(fd, done->memory_bytes, false, &at);
  run->memory = at;
  close(fd);
  return st;
}

/* The true sizes. */
static Status take_dims(Request *r, Run *run, const Kiln__V1__RunDone *done) {
  uint64_t total = 0, max = r->server->config.max_tensor_bytes;
  if (!symbolic(run)) return NULL;
  if (done->n_dims != run->noutputs) return FAIL(INTERNAL, "the outputs' sizes are missing");
  for (size_t i = 0; i < run->noutputs; i++) {
    const Kiln__V1__TensorSpec *spec = run->exe->face->outputs[run->outputs[i]];
    uint64_t bytes;
    if (done->dims[i]->n_dims != spec->n_dims ||
        !wire_tensor_bytes(spec->dtype, done->dims[i]->dims, spec->n_dims, &bytes) ||
        (!run->open[i] && bytes != run->room[i]))
      return FAIL(INTERNAL, "output %zu has a wrong size", i);
    if (bytes > max)
      return FAIL(RESOURCE_EXHAUSTED,
                  "output '%s' came to %" PRIu64 " bytes, this server allows %" PRIu64, spec->name,
                  bytes, max);
    run->room[i] = bytes;
    total += bytes;
    if (!run->made || !spec->n_dims) continue;
    memcpy(run->made[i]->dims, done->dims[i]->dims, spec->n_dims * sizeof *spec->dims);
    device_buffer_resize(run->made[i], bytes);
  }
  return run->made ? buffer_table_check(&r->server->buffers, total) : NULL;
}

static Status keep_buffers(Request *r, Run *run) {
  for (size_t i = 0; i < run->nmade; i++) {
    run->made[i]->incarnation = device_lane_incarnation(run->exe->device);
    TRY(buffer_table_add(&r->server->buffers, run->made[i]));
    run->made[i] = NULL; /* the table's now */
  }
  return NULL;
}

typedef struct Output {
  Kiln__V1__NamedTensor named;
  Kiln__V1__Tensor tensor;
  char id[ID_TEXT];
} Output;

static void fill_output(const Run *run, size_t i, const Slab *slab, const Kiln__V1__RunDone *done,
                        Output *o) {
  const Kiln__V1__TensorSpec *spec = run->exe->face->outputs[run->outputs[i]];
  kiln__v1__named_tensor__init(&o->named);
  o->named.name = spec->name;
  if (run->made) {
    o->named.value_case = KILN__V1__NAMED_TENSOR__VALUE_BUFFER;
    o->named.buffer =
        (char *)(uintptr_t)id_text("buf", run->message.output_buffers[i], run->secrets[i], o->id);
    o->named.dims = symbolic(run) ? done->dims[i]->dims : spec->dims;
    o->named.n_dims = spec->n_dims;
    return;
  }
  kiln__v1__tensor__init(&o->tensor);
  o->tensor.dtype = spec->dtype;
  o->tensor.dims = symbolic(run) ? done->dims[i]->dims : spec->dims;
  o->tensor.n_dims = spec->n_dims;
  bool open = run->nopen && run->open[i];
  if (open && done->n_places)
    o->tensor.data = (ProtobufCBinaryData){output_bytes(run, i), run->memory + done->places[i]};
  else if (run->offsets && !open)
    o->tensor.data =
        (ProtobufCBinaryData){output_bytes(run, i), (uint8_t *)slab->at + run->offsets[i]};
  else
    o->tensor.data = done->outputs[i];
  o->named.value_case = KILN__V1__NAMED_TENSOR__VALUE_TENSOR;
  o->named.tensor = &o->tensor;
}

static void count_run(Server *s, const Run *run, int64_t device_ns) {
  unsigned device = metrics_device(s, run->exe->device);
  s->metrics.device_runs_total[device][0]++;
  s->metrics.device_seconds_total[device][0] += device_ns > 0 ? (uint64_t)device_ns : 0;
}

static void on_run(void *ctx, DeviceJob *job, Message *m, Status st) {
  Request *r = ctx;
  Run *run = r->work;
  run->job = NULL;
  if (job->sent_ns) request_phase(r, PHASE_RUN, job->sent_ns);
  request_phase(r, PHASE_DOWNLOAD, clock_now_ns());
  Output *outputs = arena_array(&r->arena, run->noutputs + 1, sizeof *outputs);
  Kiln__V1__NamedTensor **list = arena_array(&r->arena, run->noutputs + 1, sizeof *list);
  if (!st && (!outputs || !list)) st = FAIL(RESOURCE_EXHAUSTED, "run");
  if (!st) st = take_dims(r, run, m->env->run_done);
  if (!st) st = check_answer(run, m->env->run_done);
  if (!st) st = map_memory(run, m);
  if (!st && run->made) st = keep_buffers(r, run);
  if (st) {
    request_finish(r, st);
    return;
  }
  Kiln__V1__RunResponse response = KILN__V1__RUN_RESPONSE__INIT;
  Kiln__V1__RunProfile profile = KILN__V1__RUN_PROFILE__INIT;
  for (size_t i = 0; i < run->noutputs; i++) {
    fill_output(run, i, job->slab, m->env->run_done, &outputs[i]);
    list[i] = &outputs[i].named;
  }
  response.outputs = list;
  response.n_outputs = run->noutputs;
  response.device_ns = m->env->run_done->device_ns;
  count_run(r->server, run, response.device_ns);
  if (run->message.profile) {
    profile.call_ns = m->env->run_done->call_ns;
    profile.n_call_ns = m->env->run_done->n_call_ns;
    profile.call_runs = m->env->run_done->call_runs;
    profile.n_call_runs = m->env->run_done->n_call_runs;
    response.profile = &profile;
  }
  response.queue_ns = run->handed_ns - r->received_ns;
  if (run->memory) {
    uint8_t *memory = run->memory;
    size_t bytes = m->env->run_done->memory_bytes;
    run->reply(r, run->reply_ctx, &response);
    munmap(memory, bytes);
    return;
  }
  run->reply(r, run->reply_ctx, &response);
}

/* -- request ------------------------------------------------------------------------------------
 */

static Status level_of(int64_t priority, uint8_t *out) {
  static const uint8_t levels[] = {
      [KILN__V1__PRIORITY__PRIORITY_UNSPECIFIED] = FAIR_NORMAL,
      [KILN__V1__PRIORITY__PRIORITY_HIGH] = FAIR_URGENT,
      [KILN__V1__PRIORITY__PRIORITY_NORMAL] = FAIR_NORMAL,
      [KILN__V1__PRIORITY__PRIORITY_LOW] = FAIR_PATIENT,
  };
  if (priority < 0 || priority >= (int64_t)(sizeof levels / sizeof *levels))
    return FAIL(INVALID_ARGUMENT, "unknown priority %" PRId64, priority);
  *out = levels[priority];
  return NULL;
}

/* What the tuner wants to know of a run. */
static void note_use(Executable *e, const Kiln__V1__RunJob *m) {
  if (!e->used++) e->first_used_ns = clock_now_ns();
  if (m->n_vars) sizes_note(&e->seen, &e->arena, m->vars, m->n_vars);
}

/* The answer has room before there is one: outputs whose size is open are seen to when they are
 * there. */
static Status claim_answer(Request *r, const Run *run) {
  uint64_t total = 0;
  for (size_t i = 0; i < run->noutputs; i++)
    if (__builtin_add_overflow(total, output_bytes(run, i), &total))
      return FAIL(RESOURCE_EXHAUSTED, "outputs of so many bytes");
  return answers_claim(r, total);
}

/* -- runs that may share one --------------------------------------------------------------------
 */

static bool batches(const Run *run, const RunView *view) {
  const Kiln__V1__FrontendDone *face = run->exe->face;
  if (!run->exe->batch_delay_ms || !face->rowwise || face->n_vars != 1) return false;
  if (view->as_buffers || view->profile || run->nopen || !run->noutputs) return false;
  for (size_t i = 0; i < run->message.n_inputs; i++)
    if (run->message.inputs[i]->value_case != KILN__V1__RUN_INPUT__VALUE_INLINE) return false;
  return run->message.n_inputs > 0;
}

static Status join_batch(Request *r, Run *run, const RunView *view) {
  uint64_t at = 0;
  uint8_t level;
  TRY(level_of(view->priority, &level));
  TRY(copy_inputs(r, run, false, &at));
  run->offsets = arena_array(&r->arena, run->noutputs, sizeof *run->offsets);
  if (!run->offsets) return FAIL(RESOURCE_EXHAUSTED, "run");
  device_lane_cancel(run->exe->device, run->job); /* the batch has its own */
  run->job = NULL;
  run->handed_ns = clock_now_ns();
  run->batch = (BatchMember){.request = r,
                             .exe = run->exe,
                             .message = &run->message,
                             .room = run->room,
                             .offsets = run->offsets,
                             .level = level,
                             .done = on_run};
  note_use(run->exe, &run->message);
  request_move(r, RS_RUNNING);
  return batch_join(&run->batch);
}

/* -- any run ------------------------------------------------------------------------------------
 */

Status run_begin(Request *r, Executable *exe, const RunView *view, RunReply reply, void *ctx) {
  Run *run = r->work = arena_alloc(&r->arena, sizeof *run);
  if (!run) return FAIL(RESOURCE_EXHAUSTED, "run");
  run->exe = executable_retain(exe);
  run->reply = reply;
  run->reply_ctx = ctx;
  if (!(run->job = device_job_create())) return FAIL(RESOURCE_EXHAUSTED, "run");
  TRY(quota_run(r->tenant));
  run->counted = true;
  run->job->tenant = r->tenant;
  kiln__v1__run_job__init(&run->message);
  TRY(bind_inputs(r, run, view));
  TRY(bind_outputs(r, run, view));
  TRY(view->as_buffers ? make_buffers(r, run) : claim_answer(r, run));
  request_phase(r, PHASE_UPLOAD, clock_now_ns());
  if (batches(run, view)) return join_batch(r, run, view);
  TRY(place(r, run));
  run->message.executable = run->exe->id;
  run->message.deadline_ns = r->deadline_ns;
  run->message.profile = view->profile != 0;
  run->job->exe = executable_retain(run->exe);
  run->job->env.body_case = KILN__V1__ENVELOPE__BODY_RUN;
  run->job->env.run = &run->message;
  run->job->done = on_run;
  run->job->ctx = r;
  run->job->from = request_source(r);
  TRY(level_of(view->priority, &run->job->level));
  run->job->deadline_ns = r->deadline_ns;
  run->handed_ns = clock_now_ns();
  note_use(run->exe, &run->message);
  request_move(r, RS_RUNNING);
  request_phase(r, PHASE_QUEUE, r->phase_ns);
  Status st = device_lane_submit(run->exe->device, run->job);
  if (st) run->job = NULL; /* freed by the lane */
  return st;
}

static void reply_run(Request *r, void *ctx, const Kiln__V1__RunResponse *m) {
  (void)ctx;
  request_reply(r, &m->base);
}

static void run_message(Request *r, Bytes msg) {
  RunView view = {.seen = 0};
  Executable *exe = NULL;
  Status st = view_decode(&r->arena, msg, &run_view, &run_limits, &view);
  const char *id = st ? NULL : arena_strdup(&r->arena, view.executable);
  if (!st && !id) st = FAIL(RESOURCE_EXHAUSTED, "run");
  if (!st) st = registry_find(&r->server->executables, r->tenant, id, &exe);
  if (!st) st = run_begin(r, exe, &view, reply_run, NULL);
  if (st) request_finish(r, st);
}

void run_release(Request *r) {
  Run *run = r->work;
  if (!run) return;
  batch_leave(&run->batch);
  if (run->job) device_lane_cancel(run->exe->device, run->job);
  for (size_t i = 0; i < run->nmade; i++) device_buffer_release(run->made[i]);
  executable_release(run->exe);
  if (run->counted) quota_run_end(r->tenant);
}

const Method rpc_run = {.path = "/kiln.v1.Kiln/Run",
                        .request = &kiln__v1__run_request__descriptor,
                        .message = run_message,
                        .release = run_release};
