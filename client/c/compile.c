/* Compile and Inspect: a header message, then the model's bytes in chunks. The header says how many
 * bytes follow, so the server can refuse before they are sent. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/c/internal.h"
#include "proto/digest.h"

/* What both headers share, in protobuf-c's terms. */
typedef struct Header {
  Kiln__V1__CompileOptions options;
  Kiln__V1__CompileOptions__DimsEntry *entries, **list;
  Kiln__V1__Dim *ranges, **range_list;
  Kiln__V1__Batching batching;
  Kiln__V1__ModelFormat format;
  const char *name;
  ChunkSource source;
} Header;

static const char *last_part(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static Kiln__V1__ModelFormat format_of(const KilnModel *m) {
  if (m->format == KILN_FORMAT_ONNX) return KILN__V1__MODEL_FORMAT__MODEL_FORMAT_ONNX;
  const char *dot = m->path ? strrchr(last_part(m->path), '.') : NULL;
  bool kgraph = m->format == KILN_FORMAT_KGRAPH || (dot && !strcmp(dot, ".kgraph"));
  return kgraph ? KILN__V1__MODEL_FORMAT__MODEL_FORMAT_KGRAPH
                : KILN__V1__MODEL_FORMAT__MODEL_FORMAT_ONNX;
}

static Status open_source(const KilnModel *m, ChunkSource *out) {
  struct stat st;
  *out = (ChunkSource){.data = m->bytes, .fd = -1, .left = m->size};
  if (!m->path && !m->bytes) return FAIL(INVALID_ARGUMENT, "the model has neither path nor bytes");
  if (!m->path) return NULL;
  int fd = open(m->path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FAIL(NOT_FOUND, "%s: %s", m->path, strerror(errno));
  if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
    close(fd);
    return FAIL(INVALID_ARGUMENT, "%s: not a regular file", m->path);
  }
  *out = (ChunkSource){.fd = fd, .left = (uint64_t)st.st_size};
  return NULL;
}

static void header_deinit(Header *h) {
  free(h->entries);
  free(h->list);
  free(h->ranges);
  free(h->range_list);
  if (h->source.fd >= 0) close(h->source.fd);
  *h = (Header){.source.fd = -1};
}

/* protobuf-c's structs hold char *, and packing only reads them. */

static Status header_init(Header *h, const KilnModel *m, const KilnCompileOptions *o) {
  static const KilnCompileOptions none;
  if (!o) o = &none;
  *h = (Header){.options = KILN__V1__COMPILE_OPTIONS__INIT,
                .format = format_of(m),
                .name = m->name   ? m->name
                        : m->path ? last_part(m->path)
                                  : "model",
                .source.fd = -1};
  h->entries = calloc(o->ndims + 1, sizeof *h->entries);
  h->list = calloc(o->ndims + 1, sizeof *h->list);
  h->ranges = calloc(o->ndims + 1, sizeof *h->ranges);
  h->range_list = calloc(o->ndims + 1, sizeof *h->range_list);
  Status st = NULL;
  if (!h->entries || !h->list || !h->ranges || !h->range_list) {
    st = FAIL(RESOURCE_EXHAUSTED, "no memory for %zu dimensions", o->ndims);
    goto fail;
  }
  for (size_t i = 0; i < o->ndims; i++) {
    const KilnDim *d = &o->dims[i];
    kiln__v1__compile_options__dims_entry__init(&h->entries[i]);
    kiln__v1__dim__init(&h->ranges[i]);
    h->entries[i].key = h->ranges[i].name = message_text(d->name);
    h->entries[i].value = d->size;
    h->ranges[i].min = d->min;
    h->ranges[i].max = d->max;
    h->ranges[i].multiple = d->multiple;
    if (d->max)
      h->range_list[h->options.n_ranges++] = &h->ranges[i];
    else
      h->list[h->options.n_dims++] = &h->entries[i];
  }
  h->options.dims = h->list;
  h->options.ranges = h->range_list;
  if (o->device) h->options.device = message_text(o->device);
  h->options.no_cache = o->no_cache;
  h->options.fast_math = o->fast_math;
  kiln__v1__batching__init(&h->batching);
  h->batching.delay_ms = o->batch_delay_ms > 0 ? (uint32_t)o->batch_delay_ms : 0;
  h->batching.rows = o->batch_rows;
  if (o->batch_delay_ms) h->options.batching = &h->batching;
  if ((st = open_source(m, &h->source))) goto fail;
  return NULL;
fail:
  header_deinit(h);
  return st;
}

/* Sends the header message, then the source; the call takes the source's descriptor. */
static Status start(KilnClient *c, Header *h, const CallSpec *spec, const ProtobufCMessage *first,
                    KilnCall **out) {
  TRY(call_start(c, spec, out));
  call_send(*out, first);
  call_stream(*out, h->source);
  h->source.fd = -1;
  return NULL;
}

/* -- Compile --------------------------------------------------------------------------------------
 */

/* False when memory is out. */
static bool spec_shape(Arena *a, const Kiln__V1__TensorSpec *s, const KilnDim **out) {
  *out = NULL;
  if (s->n_shape != s->n_dims || !s->n_dims) return true;
  KilnDim *d = arena_array(a, s->n_shape, sizeof *d);
  for (size_t k = 0; d && k < s->n_shape; k++) {
    const Kiln__V1__Dim *m = s->shape[k];
    d[k] = (KilnDim){.name = m->name, .size = m->size, .min = m->min, .max = m->max};
    d[k].multiple = m->multiple ? m->multiple : 1;
  }
  *out = d;
  return d != NULL;
}

static const KilnTensorSpec *specs(Arena *a, size_t n, Kiln__V1__TensorSpec *const *from) {
  KilnTensorSpec *out = arena_array(a, n + 1, sizeof *out);
  for (size_t i = 0; out && i < n; i++) {
    const Kiln__V1__TensorSpec *s = from[i];
    out[i] = (KilnTensorSpec){.name = s->name,
                              .dtype = (KilnDType)s->dtype,
                              .rank = s->n_dims,
                              .state = s->state,
                              .dims = answer_dims(a, s->n_dims, s->dims),
                              .bytes = kiln_dtype_size((KilnDType)s->dtype)};
    if (!out[i].dims || !spec_shape(a, s, &out[i].shape)) return NULL;
    for (size_t k = 0; k < s->n_dims; k++)
      if (!size_mul(out[i].bytes, s->dims[k], &out[i].bytes)) out[i].bytes = SIZE_MAX;
  }
  return out;
}

static Status decode_compile(KilnCall *call, Bytes msg) {
  static const Kiln__V1__CompileReport no_report = KILN__V1__COMPILE_REPORT__INIT;
  ProtobufCMessage *base;
  TRY(answer_unpack(call, &kiln__v1__compile_response__descriptor, msg, sizeof(KilnExecutable),
                    &base));
  const Kiln__V1__CompileResponse *m = (const Kiln__V1__CompileResponse *)base;
  const Kiln__V1__CompileReport *r = m->report ? m->report : &no_report;
  Arena *a = owned_arena(call->answer);
  KilnExecutable *e = call->answer;
  *e = (KilnExecutable){.id = m->executable,
                        .ninputs = m->n_inputs,
                        .noutputs = m->n_outputs,
                        .inputs = specs(a, m->n_inputs, m->inputs),
                        .outputs = specs(a, m->n_outputs, m->outputs),
                        .graph_hash = r->graph_hash,
                        .device = r->device,
                        .plan_cached = r->plan_cached,
                        .kernels = r->kernels,
                        .unique_kernels = r->unique_kernels,
                        .kernels_compiled = r->kernels_compiled,
                        .weight_bytes = r->weight_bytes,
                        .temp_bytes = r->temp_bytes,
                        .kept_bytes = r->kept_bytes,
                        .frontend_ns = r->frontend_ns,
                        .kernels_ns = r->kernels_ns,
                        .codegen_ns = r->codegen_ns,
                        .cache_ns = r->cache_ns,
                        .load_ns = r->load_ns,
                        .total_ns = r->total_ns,
                        .frontend_cpu_ns = r->frontend_cpu_ns};
  if (!e->inputs || !e->outputs) return answer_no_memory();
  return NULL;
}

static Status hash_file(Digest *d, int fd, uint64_t bytes) {
  enum { PIECE = 1 << 20 };
  uint8_t *piece = malloc(PIECE);
  Status st = piece ? NULL : FAIL(RESOURCE_EXHAUSTED, "no memory for the model");
  for (uint64_t at = 0; !st && at < bytes;) {
    ssize_t n = pread(fd, piece, PIECE, (off_t)at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) st = FAIL(UNAVAILABLE, "reading the model: %s", strerror(errno));
    if (!n) break; /* sending it will say what is wrong */
    if (n > 0) digest_add(d, piece, (size_t)n);
    at += n > 0 ? (uint64_t)n : 0;
  }
  free(piece);
  return st;
}

/* What stands for the graph as long as nobody has made it of the model: the model's bytes, its
 * format and the options. */
static Status hash_model(const Header *h, char hex[DIGEST_HEX + 1]) {
  uint8_t hash[DIGEST_BYTES], format = (uint8_t)h->format;
  size_t n = protobuf_c_message_get_packed_size(&h->options.base);
  uint8_t *options = malloc(n + 1);
  Digest *d = options ? digest_create() : NULL;
  if (!options) return FAIL(RESOURCE_EXHAUSTED, "no memory for the options");
  digest_add(d, options, protobuf_c_message_pack(&h->options.base, options));
  digest_add(d, &format, 1);
  free(options);
  Status st = NULL;
  if (h->source.fd < 0)
    digest_add(d, h->source.data, (size_t)h->source.left);
  else
    st = hash_file(d, h->source.fd, h->source.left);
  digest_finish(d, hash);
  digest_to_hex(hash, sizeof hash, hex);
  return st;
}

static Status compile_begin(KilnClient *c, const KilnModel *model, const KilnCompileOptions *o,
                            const char *near, CallDone done, void *ctx, KilnCall **out) {
  Header h;
  char hash[DIGEST_HEX + 1];
  *out = NULL;
  TRY(header_init(&h, model, o));
  bool routed = !near && !c->address.is_unix;
  Status st = routed ? hash_model(&h, hash) : NULL;
  if (st) {
    header_deinit(&h);
    return st;
  }
  Kiln__V1__CompileHeader header = KILN__V1__COMPILE_HEADER__INIT;
  header.format = h.format;
  header.name = message_text(h.name);
  header.options = &h.options;
  header.size = h.source.left;
  Kiln__V1__CompileRequest first = KILN__V1__COMPILE_REQUEST__INIT;
  first.part_case = KILN__V1__COMPILE_REQUEST__PART_HEADER;
  first.header = &header;
  const CallSpec spec = {.path = "/kiln.v1.Kiln/Compile",
                         .decode = decode_compile,
                         .done = done,
                         .ctx = ctx,
                         .handle = near,
                         .graph = routed ? hash : NULL};
  st = start(c, &h, &spec, &first.base, out);
  header_deinit(&h);
  return st;
}

static KilnCode compile_attempt(KilnClient *c, const KilnModel *model,
                                const KilnCompileOptions *options, const char *near,
                                KilnExecutable **out, KilnError *err) {
  CallWait w = {.err = err};
  KilnCall *call;
  void *answer;
  Status st = compile_begin(c, model, options, near, call_wait_done, &w, &call);
  KilnCode code = call_wait(c, &w, st, &answer);
  *out = answer;
  return code;
}

KilnCode compile_near(KilnClient *c, const KilnModel *model, const KilnCompileOptions *options,
                      const char *near, KilnExecutable **out, KilnError *err) {
  KilnError own;
  Repeat r;
  KilnCode code;
  if (!err) err = &own;
  repeat_begin(&r, c, false);
  do code = compile_attempt(c, model, options, near, out, err);
  while (repeat_again(&r, code, err));
  return code;
}

KilnCode kiln_compile(KilnClient *c, const KilnModel *model, const KilnCompileOptions *options,
                      KilnExecutable **out, KilnError *err) {
  return compile_near(c, model, options, NULL, out, err);
}

static void compile_called_back(KilnCall *call, const KilnError *err, void *answer) {
  call->compile_done(call->ctx, err, answer);
}

KilnCode kiln_compile_start(KilnClient *c, const KilnModel *model,
                            const KilnCompileOptions *options, KilnCompileDone done, void *ctx,
                            KilnCall **call, KilnError *err) {
  KilnCall *started;
  Status st = compile_begin(c, model, options, NULL, compile_called_back, ctx, &started);
  if (started) started->compile_done = done;
  if (call) *call = started;
  return error_take(st, err);
}

/* -- Inspect --------------------------------------------------------------------------------------
 */

static Status decode_inspect(KilnCall *call, Bytes msg) {
  ProtobufCMessage *base;
  TRY(answer_unpack(call, &kiln__v1__inspect_response__descriptor, msg, sizeof(KilnText), &base));
  *(KilnText *)call->answer = (KilnText){.text = ((Kiln__V1__InspectResponse *)base)->text};
  return NULL;
}

KilnCode kiln_inspect(KilnClient *c, const KilnModel *model, const KilnCompileOptions *options,
                      const char *stage, int32_t kernel, KilnText **out, KilnError *err) {
  CallWait w = {.err = err};
  Header h;
  *out = NULL;
  Status st = header_init(&h, model, options);
  if (st) return error_take(st, err);
  Kiln__V1__InspectHeader header = KILN__V1__INSPECT_HEADER__INIT;
  header.format = h.format;
  header.name = message_text(h.name);
  header.options = &h.options;
  header.size = h.source.left;
  header.stage = message_text(stage);
  header.kernel = kernel;
  Kiln__V1__InspectRequest first = KILN__V1__INSPECT_REQUEST__INIT;
  first.part_case = KILN__V1__INSPECT_REQUEST__PART_HEADER;
  first.header = &header;
  const CallSpec spec = {
      .path = "/kiln.v1.Kiln/Inspect", .decode = decode_inspect, .done = call_wait_done, .ctx = &w};
  KilnCall *call;
  void *answer;
  st = start(c, &h, &spec, &first.base, &call);
  header_deinit(&h);
  KilnCode code = call_wait(c, &w, st, &answer);
  *out = answer;
  return code;
}
