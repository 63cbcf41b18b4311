/* A client of a whole kilnd in this process, with real workers behind it: the input is what the
 * client does. It opens connections (over a socket pair, so the server treats them as local), calls
 * every method with whole and broken messages, interleaves uploads, compiles, runs and inferences,
 * cancels, half-closes, stops reading, floods, passes descriptors, uses handles again that it has
 * freed, sends bytes that are no HTTP/2, and goes away in the middle.
 *
 * After each input everything must be as before: when its connections are closed no request, no
 * batch, no subscriber and no run is left, and what its tenant uses is what its objects say. The
 * executable, model and buffer that every input finds stay while nobody has released them; when
 * one is gone, and every now and then, all are made again by calls that must succeed. */
#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/server/connection.h"
#include "daemon/server/models.h"
#include "daemon/server/server.h"
#include "proto/grpc.h"
#include "tests/fuzz/requests.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CONNS = 4, CALLS = 16, SECOND = 1000000000 };

typedef struct Conn {
  int fd;
  GrpcSession *session; /* NULL: it sends raw bytes */
  bool deaf;            /* does not read */
} Conn;

typedef struct Call {
  GrpcStream *stream; /* NULL: ended */
  Conn *conn;
  const char *path;
  unsigned sent;
} Call;

static Server *server;
static Conn conns[CONNS];
static Call calls[CALLS];
static Handles handles;
static unsigned next_call, ended;
static StatusCode last_code;

/* -- the server -------------------------------------------------------------------------------- */

static void must(Status st) {
  if (!st) return;
  char text[512];
  status_text(st, text, sizeof text);
  fprintf(stderr, "fuzz_requests: %s\n", text);
  abort();
}

static void start_server(void) {
  static const char text[] = "[server]\nlisten = unix:%s/kiln.sock\nlog_level = off\n"
                             "[cache]\npath = %s/cache.db\nmax_bytes = 16M\n"
                             "[tuning]\nbackground = false\n[batching]\ndelay_ms = 2\n"
                             "[limits]\nmodel = 1M\ntensor = 1M\nmessage = 1M\nbuffers = 8M\n"
                             "executables = 8\nqueue = 16\n"
                             "[workers]\ncompile = 2\ndevice = cpu:0\nprogram = %s\n";
  char folder[] = "/tmp/kiln-fuzz-XXXXXX", config_text[2048];
  const char *worker = getenv("KILN_WORKER");
  Config config;
  if (!mkdtemp(folder)) abort();
  snprintf(config_text, sizeof config_text, text, folder, folder,
           worker ? worker : KILN_BINARY_DIR "/bin/kiln-worker");
  must(config_init(&config));
  must(config_read_text(&config, config_text, "fuzz"));
  must(config_check(&config));
  log_init("fuzz", LOG_LEVEL_OFF);
  must(server_create(&config, &server));
}

/* Lets the server do what there is to do, and waits for something to do for at most so long. */
static void turn(int wait_ms) {
  struct pollfd p = {.fd = uv_backend_fd(&server->loop), .events = POLLIN};
  int due = uv_backend_timeout(&server->loop);
  if (wait_ms && (due < 0 || due > wait_ms)) due = wait_ms;
  if (wait_ms) poll(&p, 1, due);
  uv_run(&server->loop, UV_RUN_NOWAIT);
}

/* -- the client -------------------------------------------------------------------------------- */

static void keep_handles(Bytes msg) {
  for (size_t i = 0; i + 36 <= msg.len; i++) {
    bool exe = !memcmp(msg.ptr + i, "exe-", 4);
    if (!exe && memcmp(msg.ptr + i, "buf-", 4)) continue;
    char *to = exe ? handles.exe[handles.nexe++ % HANDLES] : handles.buf[handles.nbuf++ % HANDLES];
    memcpy(to, msg.ptr + i, 36);
    to[36] = 0;
    i += 35;
  }
}

static void on_message(void *ctx, GrpcStream *s, Bytes msg) {
  (void)ctx;
  (void)s;
  keep_handles(msg);
}

static void on_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  (void)ctx;
  Call *call = grpc_stream_ctx(s);
  call->stream = NULL;
  last_code = status_code(st);
  assert(last_code != ST_INTERNAL && last_code != ST_UNKNOWN);
  ended++;
}

static const GrpcHandler handler = {.on_message = on_message, .on_close = on_close};

static void close_conn(Conn *c) {
  if (c->fd < 0) return;
  grpc_session_release(c->session);
  close(c->fd);
  *c = (Conn){.fd = -1};
}

/* Everything between the client's sessions and their sockets; broken connections are closed. */
static void client_io(Conn *c) {
  uint8_t bytes[16 << 10];
  struct iovec iov[16];
  if (c->fd < 0) return;
  for (int n; c->session && (n = grpc_session_output(c->session, iov, 16)) > 0;) {
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
    ssize_t sent = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) break;
    grpc_session_wrote(c->session, (size_t)sent);
  }
  for (ssize_t n; !c->deaf && (n = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT)) >= 0;) {
    Status st = n && c->session ? grpc_session_input(c->session, bytes, (size_t)n) : NULL;
    bool over = !n || st || (c->session && grpc_session_done(c->session));
    status_drop(st);
    if (over) {
      close_conn(c);
      return;
    }
  }
}

static void step(int wait_ms) {
  for (int i = 0; i < CONNS; i++) client_io(&conns[i]);
  turn(wait_ms);
  for (int i = 0; i < CONNS; i++) client_io(&conns[i]);
}

static void open_conn(Conn *c, bool raw) {
  int pair[2];
  if (c->fd >= 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
    return;
  *c = (Conn){.fd = pair[0]};
  if (!raw) c->session = grpc_client_create(&grpc_config_default, &handler, c);
  must(connection_open(server, pair[1], 0));
}

static Call *start_call(Conn *c, const char *path, unsigned timeout_ms) {
  Call *call = NULL;
  open_conn(c, false);
  if (c->fd < 0 || !c->session || grpc_session_draining(c->session)) return NULL;
  for (int i = 0; i < CALLS && !call; i++)
    if (!calls[next_call++ % CALLS].stream) call = &calls[(next_call - 1) % CALLS];
  if (!call) return NULL;
  *call = (Call){.conn = c, .path = path};
  const GrpcCall start = {.path = path, .ctx = call, .timeout_ns = timeout_ms * 1000000ll};
  status_drop(grpc_call_start(c->session, &start, &call->stream));
  return call->stream ? call : NULL;
}

static void send_message(Call *call, Choices *c) {
  Out m = {0};
  if (!call || !call->stream) return;
  make_message(&m, call->path, call->sent++, c, &handles);
  grpc_send(call->stream, (Bytes){m.bytes, m.n});
}

static void cancel(Call *call) {
  if (call->stream) grpc_cancel(call->stream, FAIL(CANCELLED, "the input says so"));
}

/* -- whole calls that must succeed ------------------------------------------------------------- */

static void wait_for(Call *call) {
  for (int64_t end = clock_now_ns() + 20ll * SECOND; call->stream;) {
    step(10);
    assert(clock_now_ns() < end);
  }
  assert(last_code == ST_OK);
}

static void call_with(const char *path, const uint8_t *choices, size_t n, unsigned messages) {
  Choices c = {choices, choices + n};
  Call *call = start_call(&conns[0], path, 0);
  assert(call);
  while (messages--) send_message(call, &c);
  grpc_half_close(call->stream);
  wait_for(call);
}

/* A compile, a model with a name, an upload and a run: what the input finds, and what must still be
 * possible after it. A byte of 1 where a choice has a common and a rare branch takes the common. */
static void check_service(void) {
  static const uint8_t compile[] = {0, 0, 2, 1, 0, 0, 1, 0, 0, 1};
  static const uint8_t load[] = {0, 1, 1, 1}, upload[] = {0, 1, 1, 1, 0, 0, 1, 1};
  static const uint8_t run[] = {0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  memset(&handles, 0, sizeof handles);
  call_with("/kiln.v1.Kiln/Compile", compile, sizeof compile, 3);
  call_with("/inference.GRPCInferenceService/RepositoryModelLoad", load, sizeof load, 1);
  call_with("/kiln.v1.Kiln/Upload", upload, sizeof upload, 2);
  call_with("/kiln.v1.Kiln/Run", run, sizeof run, 1);
  assert(handles.nexe && handles.nbuf);
}

/* -- what an input may say --------------------------------------------------------------------- */

static void pass_descriptor(Conn *c, unsigned kind) {
  char room[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
  struct iovec iov = {&byte, 1};
  struct msghdr m = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  int fd = kind == 3 ? open("/dev/null", O_RDWR | O_CLOEXEC)
                     : memfd_create("fuzz", MFD_ALLOW_SEALING | MFD_CLOEXEC);
  if (fd < 0) return;
  if (kind != 3 && ftruncate(fd, kind == 2 ? 1 << 20 : 64)) abort();
  if (kind != 1) fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  h->cmsg_level = SOL_SOCKET;
  h->cmsg_type = SCM_RIGHTS;
  h->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(h), &fd, sizeof fd);
  /* beside the first byte of what the session has to send, or beside one that breaks it */
  struct iovec out;
  if (c->session && grpc_session_output(c->session, &out, 1)) {
    byte = *(const char *)out.iov_base;
    if (sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == 1) grpc_session_wrote(c->session, 1);
  } else if (!c->session) {
    (void)!sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  close(fd);
}

static void send_raw(Conn *c, Choices *in) {
  uint8_t bytes[256];
  size_t n = pick(in, 256);
  open_conn(c, true);
  for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)pick(in, 256);
  if (c->fd >= 0) (void)!send(c->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static const char *choose_method(Choices *c) {
  static const char *const often[] = {"/kiln.v1.Kiln/Run",
                                      "/kiln.v1.Kiln/Upload",
                                      "/kiln.v1.Kiln/Compile",
                                      "/kiln.v1.Kiln/Download",
                                      "/kiln.v1.Kiln/FreeBuffers",
                                      "/kiln.v1.Kiln/ReleaseExecutable",
                                      "/inference.GRPCInferenceService/ModelInfer"};
  unsigned n = 0, k = pick(c, 64);
  if (k < 28) return often[k % 7];
  while (rpc_at(n)) n++;
  return rpc_at(k % n)->method->path;
}

static void whole_calls(Conn *c, Choices *in, unsigned n) {
  const char *path = choose_method(in);
  for (; n; n--) {
    Call *call = start_call(c, path, 0);
    if (!call) return;
    unsigned messages = !strcmp(strrchr(path, '/'), "/Compile")  ? 3
                        : !strcmp(strrchr(path, '/'), "/Upload") ? 2
                                                                 : 1;
    while (messages--) send_message(call, in);
    if (call->stream) grpc_half_close(call->stream);
  }
}

static void wait_for_an_end(void) {
  unsigned before = ended;
  for (int i = 0; i < 8 && ended == before; i++) step(4);
}

static void act(Choices *in) {
  enum { CALL, SEND, HALF, CANCEL, PUMP, WAIT, DEAF, CLOSE, RAW, SHUT, PASS, WHOLE, FLOOD, KINDS };
  unsigned what = pick(in, 24);
  Conn *c = &conns[pick(in, CONNS)];
  Call *call = &calls[pick(in, CALLS)];
  switch (what < KINDS ? what : what % 3 ? WHOLE : WAIT) {
  case CALL: start_call(c, choose_method(in), pick(in, 4) ? 0 : pick(in, 50)); break;
  case SEND: send_message(call, in); break;
  case HALF:
    if (call->stream) grpc_half_close(call->stream);
    break;
  case CANCEL: cancel(call); break;
  case PUMP:
    for (unsigned n = pick(in, 8); n; n--) step(0);
    break;
  case WAIT: wait_for_an_end(); break;
  case DEAF: c->deaf = !c->deaf; break;
  case CLOSE: close_conn(c); break;
  case RAW: send_raw(c, in); break;
  case SHUT:
    if (c->fd >= 0) shutdown(c->fd, SHUT_WR);
    break;
  case PASS:
    if (c->fd >= 0) pass_descriptor(c, pick(in, 4));
    break;
  case WHOLE: whole_calls(c, in, 1); break;
  default: whole_calls(c, in, pick(in, 16)); break;
  }
}

/* -- after it ---------------------------------------------------------------------------------- */

static bool quiet(void) {
  const Server *s = server;
  return !s->connections && !s->requests && !s->batches && !s->subscribers && !s->watchers &&
         !s->compiles && !s->builds && !s->tenants.local->used.runs &&
         device_lane_idle(s->devices[0]); /* cancelled runs hold their buffers until then */
}

static void drop_all(void) {
  Tenant *t = server->tenants.local;
  registry_drop_tenant(&server->executables, t);
  buffer_table_drop_tenant(&server->buffers, t);
  for (int i = 0; i < 4; i++) turn(0);
  assert(!server->buffers.bytes && !t->used.device_bytes);
}

static bool succeeds(Status st) {
  bool yes = !st;
  status_drop(st);
  return yes;
}

/* Whether all that check_service made is still there; what others made is dropped. */
static bool keep_base(void) {
  Tenant *t = server->tenants.local;
  Registry *r = &server->executables;
  Executable *base;
  DeviceBuffer *buffer;
  MapSlot *slot;
  bool there = succeeds(registry_find(r, t, handles.exe[0], &base)) &&
               succeeds(buffer_table_find(&server->buffers, t, handles.buf[0], &buffer));
  if (!there || !server->models) return false;
  for (Executable *e = r->newest, *next; e; e = next) {
    char id[ID_TEXT];
    next = e->older;
    if (e == base || e == server->models->exe) continue;
    e->handles = 1;
    must(registry_drop(r, t, id_text("exe", e->id, e->secret, id)));
  }
  base->handles = 1;
  for (size_t i = 0; map_next(&server->buffers.by_id, &i, &slot);) {
    if (slot->value == buffer) continue;
    buffer_table_remove(&server->buffers, slot->value);
    i = 0;
  }
  memset(handles.exe[1], 0, sizeof handles.exe - sizeof *handles.exe);
  memset(handles.buf[1], 0, sizeof handles.buf - sizeof *handles.buf);
  handles.nexe = handles.nbuf = 1;
  assert(t->used.device_bytes == buffer->bytes && server->buffers.bytes == buffer->bytes);
  return true;
}

static void end_input(void) {
  for (int i = 0; i < CONNS; i++) close_conn(&conns[i]);
  for (int64_t end = clock_now_ns() + 15ll * SECOND; !quiet();) {
    turn(10);
    assert(clock_now_ns() < end);
  }
  assert(!server->nconnections && !server->nrequests);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Choices in = {data, data + size};
  if (!server) {
    start_server();
    for (int i = 0; i < CONNS; i++) conns[i].fd = -1;
  }
  static unsigned inputs;
  if (inputs++ % 256 == 0 || !keep_base()) {
    drop_all();
    check_service();
  }
  while (in.at < in.end) {
    act(&in);
    step(0);
  }
  end_input();
  return 0;
}
