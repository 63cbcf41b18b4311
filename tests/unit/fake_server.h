/* A stand-in for kilnd in tests of its clients: a thread that serves the real protocol over a real
 * Unix socket, with answers that follow from the questions. */
#pragma once

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "grpc/health/v1/health.pb-c.h"
#include "kiln/v1/kiln.pb-c.h"
#include "proto/digest.h"
#include "proto/grpc.h"

enum { FAKE_CONNECTIONS = 8, FAKE_RETRY_NS = 300000000 };

typedef struct FakeServer {
  char path[100], address[110];
  int listener, wake[2];
  pthread_t thread;
  bool die; /* close the connection after the next input */
  /* So many of the next runs are answered like that; and how many there were, and compiles. */
  _Atomic int absent, full, forgotten, runs, compiles;
  _Atomic bool hopeless; /* absent, and it would not help to try again */
  struct {
    int fd;
    GrpcSession *session;
  } at[FAKE_CONNECTIONS];
} FakeServer;

typedef struct FakeCall {
  char path[64];
  Digest *digest;
  uint64_t announced, got, dim;
  char dim_name[32];
  Kiln__V1__Dim range; /* max 0: none */
  uint64_t buffer_bytes;
} FakeCall;

static void fake_reply(GrpcStream *s, const ProtobufCMessage *m) {
  uint8_t *at = grpc_send_begin(s, protobuf_c_message_get_packed_size(m));
  if (at) protobuf_c_message_pack(m, at);
}

static bool fake_request(void *ctx, GrpcStream *s, const GrpcHead *head) {
  (void)ctx;
  FakeCall *c = calloc(1, sizeof *c);
  snprintf(c->path, sizeof c->path, STR_FMT, STR_ARG(head->path));
  grpc_stream_set_ctx(s, c);
  grpc_stream_set_max_message(s, 64 << 20);
  return true;
}

static void fake_run(FakeServer *f, GrpcStream *s, Bytes msg) {
  Kiln__V1__RunRequest *q = kiln__v1__run_request__unpack(NULL, msg.len, msg.ptr);
  Kiln__V1__RunResponse r = KILN__V1__RUN_RESPONSE__INIT;
  if (!q) {
    grpc_finish(s, FAIL(INVALID_ARGUMENT, "bad RunRequest"));
    return;
  }
  r.n_outputs = q->n_inputs; /* the outputs are the inputs */
  r.outputs = q->inputs;
  r.device_ns = 7;
  r.queue_ns = q->outputs_as_buffers ? 1 : (int64_t)q->n_outputs;
  if (q->random) r.device_ns = (int64_t)(q->random->seed + q->random->run);
  f->runs++;
  if (!strcmp(q->executable, "die"))
    f->die = true;
  else if (f->absent && f->absent--)
    grpc_finish(s, status_retry(FAIL(UNAVAILABLE, "back soon"), f->hopeless ? -1 : 1));
  else if (f->full && f->full--)
    grpc_finish(s, status_retry(FAIL(RESOURCE_EXHAUSTED, "full"), FAKE_RETRY_NS));
  else if (f->forgotten && f->forgotten--)
    grpc_finish(s, FAIL(NOT_FOUND, "unknown executable '%s'", q->executable));
  else if (!strcmp(q->executable, "missing"))
    grpc_finish(s, FAIL(NOT_FOUND, "no executable '%s'", q->executable));
  else if (strcmp(q->executable, "slow")) {
    fake_reply(s, &r.base);
    grpc_finish(s, NULL);
  }
  kiln__v1__run_request__free_unpacked(q, NULL);
}

/* Compile, Inspect and Upload: a header, then chunks; all three have the same shape here. */
static void fake_part(FakeCall *c, Bytes msg) {
  if (!c->digest) c->digest = digest_create();
  Kiln__V1__CompileRequest *q = kiln__v1__compile_request__unpack(NULL, msg.len, msg.ptr);
  if (q && q->part_case == KILN__V1__COMPILE_REQUEST__PART_HEADER) {
    c->announced = q->header->size;
    const Kiln__V1__CompileOptions *o = q->header->options;
    if (o && o->n_dims) {
      c->dim = o->dims[0]->value;
      snprintf(c->dim_name, sizeof c->dim_name, "%s", o->dims[0]->key);
    }
    if (o && o->n_ranges) {
      c->range = (Kiln__V1__Dim){.min = o->ranges[0]->min, .max = o->ranges[0]->max};
      c->range.multiple = o->ranges[0]->multiple;
      c->dim = c->range.max;
      snprintf(c->dim_name, sizeof c->dim_name, "%s", o->ranges[0]->name);
    }
  } else if (q && q->part_case == KILN__V1__COMPILE_REQUEST__PART_CHUNK) {
    digest_add(c->digest, q->chunk.data, q->chunk.len);
    c->got += q->chunk.len;
  }
  if (q) kiln__v1__compile_request__free_unpacked(q, NULL);
}

static void fake_download(GrpcStream *s, Bytes msg) {
  Kiln__V1__DownloadRequest *q = kiln__v1__download_request__unpack(NULL, msg.len, msg.ptr);
  uint64_t bytes = q ? strtoull(q->buffer, NULL, 10) : 0, dims[] = {bytes};
  Kiln__V1__BufferInfo info = KILN__V1__BUFFER_INFO__INIT;
  Kiln__V1__DownloadResponse r = KILN__V1__DOWNLOAD_RESPONSE__INIT;
  info.dtype = KILN__V1__DTYPE__DTYPE_U8;
  info.n_dims = 1;
  info.dims = dims;
  info.bytes = bytes;
  r.part_case = KILN__V1__DOWNLOAD_RESPONSE__PART_HEADER;
  r.header = &info;
  fake_reply(s, &r.base);
  uint8_t chunk[1000];
  memset(chunk, 'd', sizeof chunk);
  r.part_case = KILN__V1__DOWNLOAD_RESPONSE__PART_CHUNK;
  if (q && strstr(q->buffer, "short")) bytes--;
  for (; bytes; bytes -= r.chunk.len) {
    r.chunk = (ProtobufCBinaryData){bytes < sizeof chunk ? bytes : sizeof chunk, chunk};
    fake_reply(s, &r.base);
  }
  grpc_finish(s, NULL);
  if (q) kiln__v1__download_request__free_unpacked(q, NULL);
}

static void fake_message(void *ctx, GrpcStream *s, Bytes msg) {
  FakeCall *c = grpc_stream_ctx(s);
  if (strstr(c->path, "/Run"))
    fake_run(ctx, s, msg);
  else if (strstr(c->path, "/Download"))
    fake_download(s, msg);
  else if (strstr(c->path, "/Compile") || strstr(c->path, "/Inspect") || strstr(c->path, "/Upload"))
    fake_part(c, msg);
}

static void fake_compiled(FakeCall *c, GrpcStream *s) {
  uint8_t hash[DIGEST_BYTES];
  char hex[DIGEST_HEX + 1], size[32];
  if (!c->digest) c->digest = digest_create();
  digest_finish(c->digest, hash);
  c->digest = NULL;
  Kiln__V1__CompileResponse r = KILN__V1__COMPILE_RESPONSE__INIT;
  Kiln__V1__CompileReport report = KILN__V1__COMPILE_REPORT__INIT;
  Kiln__V1__TensorSpec in = KILN__V1__TENSOR_SPEC__INIT, *list[] = {&in};
  uint64_t dims[] = {2, c->dim ? c->dim : 3};
  in.name = "x";
  in.dtype = KILN__V1__DTYPE__DTYPE_F32;
  in.n_dims = 2;
  in.dims = dims;
  Kiln__V1__Dim named[2] = {KILN__V1__DIM__INIT, KILN__V1__DIM__INIT},
                *shape[2] = {named, named + 1};
  if (c->range.max) {
    named[0].size = 2;
    named[1].name = c->dim_name;
    named[1].min = c->range.min;
    named[1].max = c->range.max;
    named[1].multiple = c->range.multiple;
    in.n_shape = 2;
    in.shape = shape;
  }
  r.n_inputs = r.n_outputs = 1;
  r.inputs = r.outputs = list;
  snprintf(size, sizeof size, "exe%llu", (unsigned long long)c->announced);
  r.executable = size;
  report.graph_hash = digest_to_hex(hash, sizeof hash, hex);
  report.device = "cpu:0";
  report.kernels = 3;
  r.report = &report;
  fake_reply(s, &r.base);
  grpc_finish(s, c->got == c->announced ? NULL : FAIL(INVALID_ARGUMENT, "size is wrong"));
}

static void fake_half_close(void *ctx, GrpcStream *s) {
  FakeServer *f = ctx;
  FakeCall *c = grpc_stream_ctx(s);
  const char *method = strrchr(c->path, '/') + 1;
  if (!strcmp(method, "Compile")) {
    f->compiles++;
    fake_compiled(c, s);
    return;
  }
  Kiln__V1__GetServerInfoResponse info = KILN__V1__GET_SERVER_INFO_RESPONSE__INIT;
  Kiln__V1__InspectResponse text = KILN__V1__INSPECT_RESPONSE__INIT;
  Kiln__V1__UploadResponse up = KILN__V1__UPLOAD_RESPONSE__INIT;
  Kiln__V1__ListDevicesResponse devices = KILN__V1__LIST_DEVICES_RESPONSE__INIT;
  Kiln__V1__DeviceInfo cpu = KILN__V1__DEVICE_INFO__INIT, *cpus[] = {&cpu};
  Kiln__V1__CacheStatsResponse stats = KILN__V1__CACHE_STATS_RESPONSE__INIT;
  Kiln__V1__FreeBuffersResponse freed = KILN__V1__FREE_BUFFERS_RESPONSE__INIT;
  Grpc__Health__V1__HealthCheckResponse health = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
  char id[32];
  info.version = "9.8.7";
  info.pid = 42;
  info.cache_path = "/var/cache/kiln.db";
  text.text = "the text";
  snprintf(id, sizeof id, "%llu", (unsigned long long)c->got);
  up.buffer = id;
  cpu.name = "cpu:0";
  cpu.kind = "cpu";
  cpu.description = "a fake";
  cpu.available = 1;
  devices.n_devices = 1;
  devices.devices = cpus;
  stats.kernels = 5;
  health.status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
  const struct {
    const char *method;
    const ProtobufCMessage *answer;
  } answers[] = {{"GetServerInfo", &info.base}, {"Inspect", &text.base},
                 {"Upload", &up.base},          {"ListDevices", &devices.base},
                 {"CacheStats", &stats.base},   {"FreeBuffers", &freed.base},
                 {"Check", &health.base}};
  for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
    if (strcmp(method, answers[i].method)) continue;
    fake_reply(s, answers[i].answer);
    grpc_finish(s, NULL);
    return;
  }
  if (strcmp(method, "Run")) grpc_finish(s, FAIL(UNIMPLEMENTED, "the fake has no %s", method));
}

static void fake_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  (void)ctx, (void)st;
  FakeCall *c = grpc_stream_ctx(s);
  digest_release(c->digest);
  free(c);
}

static const GrpcHandler fake_handler = {.on_request = fake_request,
                                         .on_message = fake_message,
                                         .on_half_close = fake_half_close,
                                         .on_close = fake_close};

static void fake_drop(FakeServer *f, int i) {
  close(f->at[i].fd);
  grpc_session_release(f->at[i].session);
  f->at[i].session = NULL;
  f->die = false;
}

static void fake_serve(FakeServer *f, int i) {
  uint8_t buf[64 << 10];
  struct iovec iov[16];
  ssize_t n = recv(f->at[i].fd, buf, sizeof buf, MSG_DONTWAIT);
  if (!n || (n < 0 && errno != EAGAIN)) {
    fake_drop(f, i);
    return;
  }
  if (n > 0) status_drop(grpc_session_input(f->at[i].session, buf, (size_t)n));
  for (int k; !f->die && (k = grpc_session_output(f->at[i].session, iov, 16)) > 0;) {
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)k};
    ssize_t sent = sendmsg(f->at[i].fd, &m, MSG_NOSIGNAL); /* blocking: clients read */
    if (sent < 0)
      f->die = true;
    else
      grpc_session_wrote(f->at[i].session, (size_t)sent);
  }
  if (f->die || grpc_session_done(f->at[i].session)) fake_drop(f, i);
}

static void fake_accept(FakeServer *f) {
  int fd = accept(f->listener, NULL, NULL);
  for (int i = 0; fd >= 0 && i < FAKE_CONNECTIONS; i++) {
    if (f->at[i].session) continue;
    f->at[i].fd = fd;
    f->at[i].session = grpc_server_create(&grpc_config_default, &fake_handler, f);
    return;
  }
  close(fd);
}

static void *fake_thread(void *arg) {
  FakeServer *f = arg;
  for (;;) {
    struct pollfd p[2 + FAKE_CONNECTIONS] = {{f->wake[0], POLLIN, 0}, {f->listener, POLLIN, 0}};
    for (int i = 0; i < FAKE_CONNECTIONS; i++)
      p[2 + i] = (struct pollfd){f->at[i].session ? f->at[i].fd : -1, POLLIN, 0};
    poll(p, 2 + FAKE_CONNECTIONS, -1);
    if (p[0].revents) break;
    for (int i = 0; i < FAKE_CONNECTIONS; i++)
      if (p[2 + i].revents) fake_serve(f, i);
    if (p[1].revents) fake_accept(f);
  }
  for (int i = 0; i < FAKE_CONNECTIONS; i++)
    if (f->at[i].session) fake_drop(f, i);
  return NULL;
}

/* Serves on path; false when that is impossible. */
static bool fake_start(FakeServer *f, const char *path) {
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  *f = (FakeServer){.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  snprintf(f->path, sizeof f->path, "%s", path);
  snprintf(f->address, sizeof f->address, "unix:%s", path);
  memcpy(un.sun_path, f->path, strlen(f->path));
  unlink(path);
  return !pipe(f->wake) && !bind(f->listener, (struct sockaddr *)&un, sizeof un) &&
         !listen(f->listener, 8) && !pthread_create(&f->thread, NULL, fake_thread, f);
}

static void fake_stop(FakeServer *f) {
  close(f->wake[1]);
  pthread_join(f->thread, NULL);
  close(f->wake[0]);
  close(f->listener);
  unlink(f->path);
}
