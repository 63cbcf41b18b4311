/* Run: the hot path, so requests are written and answers read field by field instead of through
 * protobuf-c's structs. The request is written once, straight into the send queue; output data is
 * copied once, from the receive buffer to its aligned place in the answer. Field numbers are those
 * of kiln.proto: RunRequest, NamedTensor, Tensor, RunResponse. */

#include "client/c/internal.h"
#include "proto/wire.h"

enum { DATA_ALIGN = 64 };
enum {
  RUN_EXECUTABLE = 1,
  RUN_INPUTS = 2,
  RUN_OUTPUTS = 3,
  RUN_AS_BUFFERS = 4,
  RUN_RANDOM = 5,
  RUN_PROFILE = 6,
  RUN_PRIORITY = 7
};
enum { RANDOM_SEED = 1, RANDOM_RUN = 2 };
enum { NAMED_NAME = 1, NAMED_TENSOR = 2, NAMED_BUFFER = 3, NAMED_DIMS = 4 };
enum { TENSOR_DTYPE = 1, TENSOR_DIMS = 2, TENSOR_DATA = 3 };
enum { DONE_OUTPUTS = 1, DONE_DEVICE_NS = 2, DONE_QUEUE_NS = 3, DONE_PROFILE = 4 };
enum { PROFILE_NS = 1, PROFILE_RUNS = 2 };

/* -- writing
 * --------------------------------------------------------------------------------------- */

static size_t varint_size(uint64_t v) {
  size_t n = 1;
  while (v >>= 7) n++;
  return n;
}

/* Of a field with a one-byte tag and n bytes. */
static size_t field_size(size_t n) { return 1 + varint_size(n) + n; }

static uint8_t *put_varint(uint8_t *at, uint64_t v) {
  for (; v >= 0x80; v >>= 7) *at++ = (uint8_t)(v | 0x80);
  *at++ = (uint8_t)v;
  return at;
}

static uint8_t *put_head(uint8_t *at, int id, size_t n) {
  *at++ = (uint8_t)(id << 3 | WIRE_LEN);
  return put_varint(at, n);
}

static uint8_t *put_bytes(uint8_t *at, int id, const void *bytes, size_t n) {
  at = put_head(at, id, n);
  if (n) memcpy(at, bytes, n);
  return at + n;
}

static uint8_t *put_text(uint8_t *at, int id, const char *s) {
  return put_bytes(at, id, s, strlen(s));
}

static size_t dims_size(const KilnTensor *t) {
  size_t n = 0;
  for (size_t i = 0; i < t->rank; i++) n += varint_size(t->dims[i]);
  return n;
}

static size_t tensor_size(const KilnTensor *t) {
  return 2 + field_size(dims_size(t)) + field_size(t->bytes);
}

static size_t named_size(const KilnTensor *t) {
  size_t value = t->buffer ? strlen(t->buffer) : tensor_size(t);
  return field_size(strlen(t->name)) + field_size(value);
}

static uint8_t *put_named(uint8_t *at, const KilnTensor *t) {
  at = put_head(at, RUN_INPUTS, named_size(t));
  at = put_text(at, NAMED_NAME, t->name);
  if (t->buffer) return put_text(at, NAMED_BUFFER, t->buffer);
  at = put_head(at, NAMED_TENSOR, tensor_size(t));
  *at++ = TENSOR_DTYPE << 3 | WIRE_VARINT;
  *at++ = (uint8_t)t->dtype;
  at = put_head(at, TENSOR_DIMS, dims_size(t));
  for (size_t i = 0; i < t->rank; i++) at = put_varint(at, t->dims[i]);
  return put_bytes(at, TENSOR_DATA, t->data, t->bytes);
}

static size_t random_size(const KilnRunOptions *o) {
  return 2 + varint_size(o->seed) + varint_size(o->run);
}

static uint8_t *put_random(uint8_t *at, const KilnRunOptions *o) {
  at = put_head(at, RUN_RANDOM, random_size(o));
  *at++ = RANDOM_SEED << 3 | WIRE_VARINT;
  at = put_varint(at, o->seed);
  *at++ = RANDOM_RUN << 3 | WIRE_VARINT;
  return put_varint(at, o->run);
}

static Status check_inputs(const KilnTensor *t, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (!t[i].name) return FAIL(INVALID_ARGUMENT, "input %zu has no name", i);
    if (t[i].buffer) continue;
    if (!kiln_dtype_size(t[i].dtype))
      return FAIL(INVALID_ARGUMENT, "input '%s': %d is not a dtype", t[i].name, (int)t[i].dtype);
    if (t[i].bytes > UINT32_MAX)
      return FAIL(INVALID_ARGUMENT, "input '%s': %zu bytes do not fit one message; upload it",
                  t[i].name, t[i].bytes);
  }
  return NULL;
}

static void send_run(KilnCall *call, const char *executable, const KilnTensor *inputs,
                     size_t ninputs, const KilnRunOptions *o) {
  size_t size = field_size(strlen(executable)) + (o->outputs_as_buffers ? 2 : 0);
  if (o->profile) size += 2;
  if (o->priority) size += 1 + varint_size((uint64_t)o->priority);
  if (o->seeded) size += field_size(random_size(o));
  for (size_t i = 0; i < ninputs; i++) size += field_size(named_size(&inputs[i]));
  for (size_t i = 0; i < o->noutputs; i++) size += field_size(strlen(o->outputs[i]));
  uint8_t *at = grpc_send_begin(call->stream, size);
  if (!at) return;
  at = put_text(at, RUN_EXECUTABLE, executable);
  for (size_t i = 0; i < ninputs; i++) at = put_named(at, &inputs[i]);
  for (size_t i = 0; i < o->noutputs; i++) at = put_text(at, RUN_OUTPUTS, o->outputs[i]);
  if (o->seeded) at = put_random(at, o);
  if (o->outputs_as_buffers) *at++ = RUN_AS_BUFFERS << 3 | WIRE_VARINT, *at++ = 1;
  if (o->profile) *at++ = RUN_PROFILE << 3 | WIRE_VARINT, *at++ = 1;
  if (o->priority) *at++ = RUN_PRIORITY << 3 | WIRE_VARINT, put_varint(at, (uint64_t)o->priority);
}

/* -- reading
 * --------------------------------------------------------------------------------------- */

static const char *copy_text(Arena *a, Bytes b) {
  return arena_strdup(a, (Str){(const char *)b.ptr, b.len});
}

static bool copy_dims(Arena *a, Bytes packed, KilnTensor *out) {
  uint64_t *dims = arena_array(a, packed.len + 1, sizeof *dims);
  WireReader r = wire_reader(packed);
  if (!dims) return false;
  for (out->rank = 0; r.at < r.end; out->rank++)
    if (!wire_varint(&r, &dims[out->rank])) return false;
  out->dims = dims;
  return true;
}

static bool copy_data(Arena *a, Bytes data, KilnTensor *out) {
  uint8_t *at = arena_alloc(a, data.len + DATA_ALIGN);
  if (!at) return false;
  at += -(uintptr_t)at & (DATA_ALIGN - 1);
  if (data.len) memcpy(at, data.ptr, data.len);
  out->data = at;
  out->bytes = data.len;
  return true;
}

static bool read_tensor(Arena *a, Bytes msg, KilnTensor *out) {
  static const uint64_t scalar[1];
  WireReader r = wire_reader(msg);
  bool ok = true;
  out->dims = scalar;
  for (WireField f; ok && wire_next(&r, &f);) {
    if (f.id == TENSOR_DTYPE && f.type == WIRE_VARINT) out->dtype = (KilnDType)f.value;
    if (f.id == TENSOR_DIMS && f.type == WIRE_LEN) ok = copy_dims(a, f.bytes, out);
    if (f.id == TENSOR_DATA && f.type == WIRE_LEN) ok = copy_data(a, f.bytes, out);
  }
  return ok && !r.error && (out->data || copy_data(a, (Bytes){0}, out));
}

static bool read_named(Arena *a, Bytes msg, KilnTensor *out) {
  WireReader r = wire_reader(msg);
  bool ok = true;
  out->name = "";
  for (WireField f; ok && wire_next(&r, &f);) {
    if (f.type != WIRE_LEN) continue;
    if (f.id == NAMED_NAME) ok = (out->name = copy_text(a, f.bytes)) != NULL;
    if (f.id == NAMED_TENSOR) ok = read_tensor(a, f.bytes, out);
    if (f.id == NAMED_DIMS) ok = copy_dims(a, f.bytes, out);
    if (f.id == NAMED_BUFFER) ok = (out->buffer = copy_text(a, f.bytes)) != NULL;
  }
  return ok && !r.error;
}

/* A packed list of numbers; as many as there are bytes at most. */
static bool read_numbers(Arena *a, Bytes packed, uint64_t **out, size_t *n) {
  uint64_t *list = *out = arena_array(a, packed.len + 1, sizeof *list);
  WireReader r = wire_reader(packed);
  if (!list) return false;
  for (*n = 0; r.at < r.end; ++*n)
    if (!wire_varint(&r, &list[*n])) return false;
  return true;
}

static bool read_profile(Arena *a, Bytes msg, KilnResult *out) {
  WireReader r = wire_reader(msg);
  uint64_t *ns = NULL, *runs = NULL;
  size_t n = 0, m = 0;
  bool ok = true;
  for (WireField f; ok && wire_next(&r, &f);) {
    if (f.type != WIRE_LEN) continue;
    if (f.id == PROFILE_NS) ok = read_numbers(a, f.bytes, &ns, &n);
    if (f.id == PROFILE_RUNS) ok = read_numbers(a, f.bytes, &runs, &m);
  }
  uint32_t *counts = arena_array(a, m + 1, sizeof *counts);
  if (!ok || r.error || n != m || !counts) return false;
  for (size_t i = 0; i < m; i++) counts[i] = (uint32_t)runs[i];
  out->ncalls = n;
  out->call_ns = (const int64_t *)ns;
  out->call_runs = counts;
  return true;
}

static Status decode_run(KilnCall *call, Bytes msg) {
  if (call->answer) return FAIL(INTERNAL, "the server sent more than one answer");
  KilnResult *result = call->answer = owned_create(sizeof *result);
  if (!result) return answer_no_memory();
  Arena *a = owned_arena(result);
  WireReader r = wire_reader(msg);
  WireField f;
  size_t n = 0;
  while (wire_next(&r, &f)) n += f.id == DONE_OUTPUTS && f.type == WIRE_LEN;
  if (r.error) return FAIL(INTERNAL, "the server's answer: %s", r.error);
  KilnTensor *tensors = arena_array(a, n + 1, sizeof *tensors);
  if (!tensors) return answer_no_memory();
  result->tensors = tensors;
  r = wire_reader(msg);
  while (wire_next(&r, &f)) {
    if (f.id == DONE_DEVICE_NS) result->device_ns = (int64_t)f.value;
    if (f.id == DONE_QUEUE_NS) result->queue_ns = (int64_t)f.value;
    if (f.id == DONE_PROFILE && f.type == WIRE_LEN && !read_profile(a, f.bytes, result))
      return FAIL(INTERNAL, "the times in the server's answer cannot be read");
    if (f.id == DONE_OUTPUTS && f.type == WIRE_LEN &&
        !read_named(a, f.bytes, &tensors[result->count++]))
      return FAIL(INTERNAL, "output %zu of the server's answer cannot be read", result->count - 1);
  }
  return NULL;
}

/* -- calls
 * ----------------------------------------------------------------------------------------- */

static Status run_begin(KilnClient *c, const char *executable, const KilnTensor *inputs,
                        size_t ninputs, const KilnRunOptions *o, CallDone done, void *ctx,
                        KilnCall **out) {
  static const KilnRunOptions none;
  const CallSpec spec = {.path = "/kiln.v1.Kiln/Run",
                         .decode = decode_run,
                         .done = done,
                         .ctx = ctx,
                         .handle = executable};
  *out = NULL;
  TRY(check_inputs(inputs, ninputs));
  TRY(call_start(c, &spec, out));
  send_run(*out, executable, inputs, ninputs, o ? o : &none);
  call_end(*out);
  return NULL;
}

KilnCode run_attempt(KilnClient *c, const char *executable, const KilnTensor *inputs,
                     size_t ninputs, const KilnRunOptions *options, KilnResult **out,
                     KilnError *err) {
  CallWait w = {.err = err};
  KilnCall *call;
  void *answer;
  Status st = run_begin(c, executable, inputs, ninputs, options, call_wait_done, &w, &call);
  KilnCode code = call_wait(c, &w, st, &answer);
  *out = answer;
  return code;
}

/* A buffer may be a state that the run updates. */
static bool changes_something(const KilnTensor *inputs, size_t n, const KilnRunOptions *o) {
  for (size_t i = 0; i < n; i++)
    if (inputs[i].buffer) return true;
  return o && o->outputs_as_buffers;
}

KilnCode kiln_run(KilnClient *c, const char *executable, const KilnTensor *inputs, size_t ninputs,
                  const KilnRunOptions *options, KilnResult **out, KilnError *err) {
  KilnError own;
  Repeat r;
  KilnCode code;
  if (!err) err = &own;
  repeat_begin(&r, c, changes_something(inputs, ninputs, options));
  do code = run_attempt(c, executable, inputs, ninputs, options, out, err);
  while (repeat_again(&r, code, err));
  return code;
}

static void run_called_back(KilnCall *call, const KilnError *err, void *answer) {
  call->run_done(call->ctx, err, answer);
}

KilnCode kiln_run_start(KilnClient *c, const char *executable, const KilnTensor *inputs,
                        size_t ninputs, const KilnRunOptions *options, KilnRunDone done, void *ctx,
                        KilnCall **call, KilnError *err) {
  KilnCall *started;
  Status st = run_begin(c, executable, inputs, ninputs, options, run_called_back, ctx, &started);
  if (started) started->run_done = done;
  if (call) *call = started;
  return error_take(st, err);
}
