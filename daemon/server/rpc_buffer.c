/* Upload, Download, FreeBuffers, ListBuffers. An upload only fills shared memory; the device worker
 * maps it when a run first uses the buffer. A download streams from that memory, or from the memory
 * that the device worker has for a buffer that a run made. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/server/answers.h"
#include "daemon/server/connection.h"
#include "daemon/server/descriptors.h"
#include "daemon/server/quota.h"
#include "daemon/server/rpc.h"
#include "daemon/server/upload.h"

/* -- Upload -------------------------------------------------------------------------------------
 */

typedef struct BufferUpload {
  Upload upload;
  DeviceLane *device;
  const Kiln__V1__UploadHeader *header;
} BufferUpload;

static Status begin_upload(Request *r, BufferUpload *u, const Kiln__V1__UploadHeader *h) {
  Server *s = r->server;
  char text[200];
  uint64_t bytes;
  int fd;
  void *at = NULL;
  if (u->header) return FAIL(INVALID_ARGUMENT, "a second header");
  wire_tensor_text(h->dtype, h->dims, h->n_dims, text, sizeof text);
  if (h->n_dims > BUFFER_DIMS_MAX)
    return FAIL(INVALID_ARGUMENT, "%zu dimensions; at most %d", h->n_dims, BUFFER_DIMS_MAX);
  if (!wire_dtype_bytes(h->dtype)) return FAIL(INVALID_ARGUMENT, "unknown dtype %d", (int)h->dtype);
  if (!wire_tensor_bytes(h->dtype, h->dims, h->n_dims, &bytes))
    return FAIL(INVALID_ARGUMENT, "the size of %s overflows", text);
  if (bytes > s->config.max_tensor_bytes)
    return FAIL(RESOURCE_EXHAUSTED,
                "%s has %" PRIu64 " bytes, this server takes tensors of at most %" PRIu64, text,
                bytes, s->config.max_tensor_bytes);
  TRY(server_device(s, r->tenant, h->device, &u->device));
  TRY(buffer_table_check(&s->buffers, bytes));
  TRY(quota_memory(r->tenant, bytes, bytes));
  TRY(descriptors_check(uv_backend_fd(&s->loop)));
  if (h->memory)
    TRY(connection_take_passed(r->conn, h->memory, bytes, &fd));
  else
    TRY(buffer_table_memory(&r->server->buffers, r->tenant, bytes, &fd, &at));
  upload_begin(&u->upload, r->tenant, fd, at, bytes);
  if (h->memory) u->upload.got = bytes; /* chunks would be too many */
  u->header = h;
  return NULL;
}

static Status upload_header(Request *r, BufferUpload *u, Bytes msg) {
  const Kiln__V1__UploadRequest *m = request_decode(r, msg);
  if (!m) return NULL; /* failed already */
  if (m->part_case != KILN__V1__UPLOAD_REQUEST__PART_HEADER)
    return FAIL(INVALID_ARGUMENT, "a message with neither header nor chunk");
  return begin_upload(r, u, m->header);
}

static void upload_message(Request *r, Bytes msg) {
  BufferUpload *u = r->work;
  Status st = NULL;
  Bytes chunk;
  if (!u && (u = r->work = arena_alloc(&r->arena, sizeof *u))) u->upload.fd = -1;
  if (!u)
    st = FAIL(RESOURCE_EXHAUSTED, "upload");
  else if (upload_chunk(msg, &chunk))
    st = upload_write(&u->upload, chunk);
  else
    st = upload_header(r, u, msg);
  if (st) request_finish(r, st);
}

static bool upload_message_part(Request *r, Bytes part, size_t left) {
  BufferUpload *u = r->work;
  Status st;
  if (!u || !u->header || !upload_part(&u->upload, part, left, &st)) return false;
  if (st) request_finish(r, st);
  return true;
}

static Status upload_keep(Request *r, BufferUpload *u, DeviceBuffer **out) {
  const Kiln__V1__UploadHeader *h = u->header;
  TRY(upload_complete(&u->upload));
  TRY(buffer_table_check(&r->server->buffers, u->upload.size)); /* others uploaded meanwhile */
  TRY(device_buffer_create(r->tenant, u->device, h->dtype, h->dims, h->n_dims, u->upload.size,
                           out));
  int fd = upload_take(&u->upload);
  device_buffer_keep(*out, fd, u->upload.at);
  u->upload.at = NULL;
  (*out)->sealed = h->memory != 0;
  Status st = buffer_table_add(&r->server->buffers, *out);
  if (st) device_buffer_release(*out);
  return st;
}

static void upload_end(Request *r) {
  DeviceBuffer *b;
  char id[ID_TEXT];
  Status st = upload_keep(r, r->work, &b);
  if (st) {
    request_finish(r, st);
    return;
  }
  Kiln__V1__UploadResponse response = KILN__V1__UPLOAD_RESPONSE__INIT;
  response.buffer = (char *)(uintptr_t)id_text("buf", b->id, b->secret, id);
  request_reply(r, &response.base);
}

static void upload_release(Request *r) {
  BufferUpload *u = r->work;
  if (u) upload_abort(&u->upload);
}

const Method rpc_upload = {.path = "/kiln.v1.Kiln/Upload",
                           .request = &kiln__v1__upload_request__descriptor,
                           .many = true,
                           .message = upload_message,
                           .part = upload_message_part,
                           .end = upload_end,
                           .release = upload_release};

/* -- Download -----------------------------------------------------------------------------------
 */

typedef struct Download {
  DeviceBuffer *buffer;
  DeviceJob *job; /* the memory is being asked for */
  int fd;         /* where it is read from; -1 until known */
  uint64_t at;
} Download;

static void fill_info(const DeviceBuffer *b, char id[ID_TEXT], Kiln__V1__BufferInfo *out) {
  kiln__v1__buffer_info__init(out);
  out->buffer = (char *)(uintptr_t)id_text("buf", b->id, b->secret, id);
  out->dtype = b->dtype;
  out->dims = (uint64_t *)(uintptr_t)b->dims;
  out->n_dims = b->ndims;
  out->device = (char *)(uintptr_t)device_lane_name(b->device);
  out->bytes = b->bytes;
}

/* A chunk message, written straight into the output queue. */
static Status send_chunk(Request *r, int fd, uint64_t at, size_t n) {
  uint8_t head[16] = {2 << 3 | 2};
  size_t len = 1;
  for (size_t v = n;; v >>= 7) {
    head[len++] = (uint8_t)(v > 127 ? v | 128 : v);
    if (v <= 127) break;
  }
  uint8_t *out = grpc_send_begin(r->stream, len + n);
  if (!out) return FAIL(RESOURCE_EXHAUSTED, "download");
  memcpy(out, head, len);
  connection_dirty(r->conn);
  return shm_read(fd, at, out + len, n);
}

static void download_pump(Request *r) {
  Download *d = r->work;
  if (d->fd < 0) return;
  while (d->at < d->buffer->bytes) {
    if (grpc_stream_queued(r->stream) > ANSWERS_QUEUED) return; /* on_drain goes on */
    uint64_t left = d->buffer->bytes - d->at;
    size_t n = left < ANSWERS_PART ? (size_t)left : ANSWERS_PART;
    Status st = send_chunk(r, d->fd, d->at, n);
    if (st) {
      request_finish(r, st);
      return;
    }
    d->at += n;
  }
  request_finish(r, NULL);
}

/* The memory is known: takes over fd. */
static void download_begin(Request *r, int fd) {
  Download *d = r->work;
  char id[ID_TEXT];
  Kiln__V1__BufferInfo info;
  Kiln__V1__DownloadResponse response = KILN__V1__DOWNLOAD_RESPONSE__INIT;
  d->fd = fd;
  fill_info(d->buffer, id, &info);
  response.part_case = KILN__V1__DOWNLOAD_RESPONSE__PART_HEADER;
  response.header = &info;
  request_move(r, RS_STREAMING);
  request_send(r, &response.base);
  download_pump(r);
}

static void on_memory(void *ctx, DeviceJob *job, Message *m, Status st) {
  Request *r = ctx;
  Download *d = r->work;
  (void)job;
  d->job = NULL;
  int fd = st ? -1 : message_take_fd(m, 0);
  if (!st && fd < 0) st = FAIL(RESOURCE_EXHAUSTED, "no descriptor was left for the memory");
  if (st)
    request_finish(r, st);
  else
    download_begin(r, fd); /* it is read, never mapped: a wrong size shows as an error */
}

static Status ask_device(Request *r, Download *d) {
  Kiln__V1__BufferRead *m = arena_alloc(&r->arena, sizeof *m);
  DeviceBuffer **buffers = malloc(sizeof *buffers);
  DeviceJob *job = m && buffers ? device_job_create() : NULL;
  if (!job) {
    free(buffers);
    return FAIL(RESOURCE_EXHAUSTED, "download");
  }
  kiln__v1__buffer_read__init(m);
  m->buffer = d->buffer->id;
  buffers[0] = device_buffer_retain(d->buffer);
  job->buffers = buffers;
  job->nbuffers = 1;
  job->env.body_case = KILN__V1__ENVELOPE__BODY_BUFFER_READ;
  job->env.buffer_read = m;
  job->done = on_memory;
  job->ctx = r;
  job->tenant = r->tenant;
  job->from = request_source(r);
  job->deadline_ns = r->deadline_ns;
  d->job = job;
  request_move(r, RS_RUNNING);
  Status st = device_lane_submit(d->buffer->device, job);
  if (st) d->job = NULL;
  return st;
}

static void download_message(Request *r, Bytes msg) {
  const Kiln__V1__DownloadRequest *m = request_decode(r, msg);
  Download *d = m ? arena_alloc(&r->arena, sizeof *d) : NULL;
  DeviceBuffer *b;
  if (!m) return;
  Status st = d ? buffer_table_find(&r->server->buffers, r->tenant, m->buffer, &b)
                : FAIL(RESOURCE_EXHAUSTED, "download");
  if (!st) st = answers_claim(r, b->bytes < ANSWERS_STREAM ? b->bytes : ANSWERS_STREAM);
  if (st) {
    request_finish(r, st);
    return;
  }
  r->work = d;
  *d = (Download){.buffer = device_buffer_retain(b), .fd = -1};
  int fd = b->fd >= 0 && !b->updated ? fcntl(b->fd, F_DUPFD_CLOEXEC, 0) : -1;
  if (fd >= 0)
    download_begin(r, fd);
  else if ((st = ask_device(r, d)))
    request_finish(r, st);
}

static void download_release(Request *r) {
  Download *d = r->work;
  if (!d) return;
  if (d->job) device_lane_cancel(d->buffer->device, d->job);
  if (d->fd >= 0) close(d->fd);
  device_buffer_release(d->buffer);
}

const Method rpc_download = {.path = "/kiln.v1.Kiln/Download",
                             .request = &kiln__v1__download_request__descriptor,
                             .message = download_message,
                             .drain = download_pump,
                             .release = download_release};

/* -- FreeBuffers, ListBuffers -------------------------------------------------------------------
 */

static void free_message(Request *r, Bytes msg) {
  const Kiln__V1__FreeBuffersRequest *m = request_decode(r, msg);
  DeviceBuffer *b;
  if (!m) return;
  /* all or nothing: a wrong id frees none */
  for (size_t i = 0; i < m->n_buffers; i++) {
    Status st = buffer_table_find(&r->server->buffers, r->tenant, m->buffers[i], &b);
    if (!st) continue;
    request_finish(r, st);
    return;
  }
  for (size_t i = 0; i < m->n_buffers; i++) {
    Status st = buffer_table_find(&r->server->buffers, r->tenant, m->buffers[i], &b);
    if (!st) buffer_table_remove(&r->server->buffers, b);
    status_drop(st); /* named twice */
  }
  Kiln__V1__FreeBuffersResponse response = KILN__V1__FREE_BUFFERS_RESPONSE__INIT;
  request_reply(r, &response.base);
}

const Method rpc_free_buffers = {.path = "/kiln.v1.Kiln/FreeBuffers",
                                 .request = &kiln__v1__free_buffers_request__descriptor,
                                 .message = free_message};

static void list_message(Request *r, Bytes msg) {
  if (!request_decode(r, msg)) return;
  const Map *by_id = &r->server->buffers.by_id;
  Kiln__V1__BufferInfo *infos = arena_array(&r->arena, by_id->len + 1, sizeof *infos);
  Kiln__V1__BufferInfo **list = arena_array(&r->arena, by_id->len + 1, sizeof *list);
  char(*ids)[ID_TEXT] = arena_array(&r->arena, by_id->len + 1, sizeof *ids);
  if (!infos || !list || !ids) {
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "list of buffers"));
    return;
  }
  Kiln__V1__ListBuffersResponse response = KILN__V1__LIST_BUFFERS_RESPONSE__INIT;
  MapSlot *slot;
  for (size_t i = 0; map_next(by_id, &i, &slot);) {
    const DeviceBuffer *b = slot->value;
    if (b->tenant != r->tenant) continue;
    size_t n = response.n_buffers++;
    fill_info(b, ids[n], &infos[n]);
    list[n] = &infos[n];
  }
  response.buffers = list;
  request_reply(r, &response.base);
}

const Method rpc_list_buffers = {.path = "/kiln.v1.Kiln/ListBuffers",
                                 .request = &kiln__v1__list_buffers_request__descriptor,
                                 .message = list_message};
