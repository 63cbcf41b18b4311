/* Server-side buffers: upload and download in chunks, free, list. */
#include <stdlib.h>

#include "client/c/internal.h"
#include "proto/wire.h"

enum { DATA_ALIGN = 64 };

/* -- Upload ------------------------------------------------------------------------------------ */

static Status decode_upload(KilnCall *call, Bytes msg) {
  ProtobufCMessage *base;
  TRY(answer_unpack(call, &kiln__v1__upload_response__descriptor, msg, sizeof(KilnBuffer), &base));
  *(KilnBuffer *)call->answer = (KilnBuffer){.id = ((Kiln__V1__UploadResponse *)base)->buffer};
  return NULL;
}

Status upload_start(KilnClient *c, const char *near, CallWait *w, KilnCall **out) {
  const CallSpec spec = {.path = "/kiln.v1.Kiln/Upload",
                         .decode = decode_upload,
                         .done = call_wait_done,
                         .ctx = w,
                         .handle = near};
  return call_start(c, &spec, out);
}

void upload_send_header(KilnCall *call, const KilnTensor *t, const char *device, uint64_t memory) {
  Kiln__V1__UploadHeader header = KILN__V1__UPLOAD_HEADER__INIT;
  header.dtype = (Kiln__V1__DType)t->dtype;
  header.n_dims = t->rank;
  header.dims = (uint64_t *)(uintptr_t)t->dims;
  header.memory = memory;
  if (device) header.device = message_text(device);
  Kiln__V1__UploadRequest first = KILN__V1__UPLOAD_REQUEST__INIT;
  first.part_case = KILN__V1__UPLOAD_REQUEST__PART_HEADER;
  first.header = &header;
  call_send(call, &first.base);
}

static KilnCode upload_attempt(KilnClient *c, const KilnTensor *t, const char *device,
                               const char *near, KilnBuffer **out, KilnError *err) {
  CallWait w = {.err = err};
  KilnCall *call;
  void *answer;
  Status st = upload_start(c, near, &w, &call);
  if (!st) {
    upload_send_header(call, t, device, 0);
    call_stream(call, (ChunkSource){.data = t->data, .fd = -1, .left = t->bytes});
  }
  KilnCode code = call_wait(c, &w, st, &answer);
  *out = answer;
  return code;
}

/* What a server took without its answer having come is freed with the server: it is nobody's. */
KilnCode kiln_upload_near(KilnClient *c, const KilnTensor *t, const char *device, const char *near,
                          KilnBuffer **out, KilnError *err) {
  KilnError own;
  Repeat r;
  KilnCode code;
  if (!err) err = &own;
  repeat_begin(&r, c, false);
  do code = upload_attempt(c, t, device, near, out, err);
  while (repeat_again(&r, code, err));
  return code;
}

KilnCode kiln_upload(KilnClient *c, const KilnTensor *t, const char *device, KilnBuffer **out,
                     KilnError *err) {
  return kiln_upload_near(c, t, device, NULL, out, err);
}

/* -- Download ---------------------------------------------------------------------------------- */

/* The first message: everything about the tensor but its data. */
static Status begin_download(KilnCall *call, const Kiln__V1__BufferInfo *info) {
  if (call->answer) return FAIL(INTERNAL, "the server sent two headers");
  KilnResult *result = call->answer = owned_create(sizeof *result);
  if (!result) return answer_no_memory();
  Arena *a = owned_arena(result);
  KilnTensor *t = arena_alloc(a, sizeof *t);
  uint8_t *data =
      info->bytes < SIZE_MAX - DATA_ALIGN ? arena_alloc(a, (size_t)info->bytes + DATA_ALIGN) : NULL;
  if (!t || !data)
    return FAIL(RESOURCE_EXHAUSTED, "no memory for a buffer of %llu bytes",
                (unsigned long long)info->bytes);
  *t = (KilnTensor){.name = "",
                    .dtype = (KilnDType)info->dtype,
                    .rank = info->n_dims,
                    .dims = answer_dims(a, info->n_dims, info->dims),
                    .data = data + (-(uintptr_t)data & (DATA_ALIGN - 1)),
                    .bytes = (size_t)info->bytes};
  if (!t->dims) return answer_no_memory();
  *result = (KilnResult){.count = 1, .tensors = t};
  return NULL;
}

static Status add_chunk(KilnCall *call, Bytes chunk) {
  const KilnResult *result = call->answer;
  if (!result) return FAIL(INTERNAL, "the server sent data before the header");
  const KilnTensor *t = result->tensors;
  if (chunk.len > t->bytes - call->filled)
    return FAIL(INTERNAL, "the server sent more than the %zu bytes it announced", t->bytes);
  if (chunk.len) memcpy((uint8_t *)(uintptr_t)t->data + call->filled, chunk.ptr, chunk.len);
  call->filled += chunk.len;
  return NULL;
}

static Status decode_header(KilnCall *call, Bytes header) {
  Kiln__V1__BufferInfo *info = kiln__v1__buffer_info__unpack(NULL, header.len, header.ptr);
  if (!info) return FAIL(INTERNAL, "the server's answer cannot be read");
  Status st = begin_download(call, info);
  kiln__v1__buffer_info__free_unpacked(info, NULL);
  return st;
}

/* Read field by field: protobuf-c would copy every chunk once more. */
static Status decode_download(KilnCall *call, Bytes msg) {
  enum { HEADER = 1, CHUNK = 2 };
  WireReader r = wire_reader(msg);
  for (WireField f; wire_next(&r, &f);) {
    if (f.type != WIRE_LEN) continue;
    if (f.id == HEADER) TRY(decode_header(call, f.bytes));
    if (f.id == CHUNK) TRY(add_chunk(call, f.bytes));
  }
  return r.error ? FAIL(INTERNAL, "the server's answer: %s", r.error) : NULL;
}

static void download_done(KilnCall *call, const KilnError *err, void *answer) {
  KilnError cut = {.code = KILN_DATA_LOSS, .message = "the server sent less than it announced"};
  KilnResult *result = answer;
  if (!err && call->filled < result->tensors->bytes) {
    kiln_free(answer);
    answer = NULL;
    err = &cut;
  }
  call_wait_done(call, err, answer);
}

static KilnCode download_attempt(KilnClient *c, const char *buffer, KilnResult **out,
                                 KilnError *err) {
  CallWait w = {.err = err};
  Kiln__V1__DownloadRequest q = KILN__V1__DOWNLOAD_REQUEST__INIT;
  q.buffer = message_text(buffer);
  const CallSpec spec = {.path = "/kiln.v1.Kiln/Download",
                         .decode = decode_download,
                         .done = download_done,
                         .ctx = &w,
                         .handle = buffer};
  KilnCall *call;
  void *answer;
  Status st = call_start(c, &spec, &call);
  if (!st) {
    call_send(call, &q.base);
    call_end(call);
  }
  KilnCode code = call_wait(c, &w, st, &answer);
  *out = answer;
  return code;
}

KilnCode kiln_download(KilnClient *c, const char *buffer, KilnResult **out, KilnError *err) {
  KilnError own;
  Repeat r;
  KilnCode code;
  if (!err) err = &own;
  repeat_begin(&r, c, false);
  do code = download_attempt(c, buffer, out, err);
  while (repeat_again(&r, code, err));
  return code;
}

/* -- Free, List -------------------------------------------------------------------------------- */

static KilnCode free_at(KilnClient *c, const char *const *buffers, size_t n, KilnError *err) {
  Kiln__V1__FreeBuffersRequest q = KILN__V1__FREE_BUFFERS_REQUEST__INIT;
  q.n_buffers = n;
  q.buffers = (char **)(uintptr_t)buffers;
  static const Method method = {.path = "/kiln.v1.Kiln/FreeBuffers",
                                .message = &kiln__v1__free_buffers_response__descriptor,
                                .size = 1,
                                .once = true};
  KilnCode code;
  kiln_free(call_method_at(c, &method, n ? buffers[0] : NULL, &q.base, &code, err));
  return code;
}

static bool same_node(const char *a, const char *b) {
  return !strcmp(handle_node(a), handle_node(b));
}

/* One call for each server that has some of them. */
KilnCode kiln_free_buffers(KilnClient *c, const char *const *buffers, size_t n, KilnError *err) {
  const char **some = calloc(n + 1, sizeof *some);
  KilnCode first = some && !n ? free_at(c, buffers, 0, err) : KILN_OK;
  for (size_t i = 0; some && i < n; i++) {
    size_t len = 0;
    for (size_t k = 0; k < n; k++) {
      if (!same_node(buffers[i], buffers[k])) continue;
      if (k < i) break; /* done with those */
      some[len++] = buffers[k];
    }
    KilnCode code = len ? free_at(c, some, len, first ? NULL : err) : KILN_OK;
    if (!first) first = code;
  }
  if (!some) return error_take(answer_no_memory(), err);
  free(some);
  return first;
}

static Status lay_out_list(const void *message, Arena *a, void *out) {
  const Kiln__V1__ListBuffersResponse *m = message;
  KilnBuffer *list = arena_array(a, m->n_buffers + 1, sizeof *list);
  if (!list) return answer_no_memory();
  for (size_t i = 0; i < m->n_buffers; i++) {
    const Kiln__V1__BufferInfo *b = m->buffers[i];
    list[i] = (KilnBuffer){.id = b->buffer,
                           .dtype = (KilnDType)b->dtype,
                           .rank = b->n_dims,
                           .dims = b->dims,
                           .device = b->device,
                           .bytes = b->bytes};
  }
  *(KilnBuffers *)out = (KilnBuffers){.count = m->n_buffers, .buffers = list};
  return NULL;
}

KilnCode kiln_list_buffers(KilnClient *c, KilnBuffers **out, KilnError *err) {
  Kiln__V1__ListBuffersRequest q = KILN__V1__LIST_BUFFERS_REQUEST__INIT;
  static const Method method = {.path = "/kiln.v1.Kiln/ListBuffers",
                                .message = &kiln__v1__list_buffers_response__descriptor,
                                .size = sizeof(KilnBuffers),
                                .lay_out = lay_out_list};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}
