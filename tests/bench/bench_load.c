/* A load generator for kilnd: groups of connections, each with so many calls under way, all on one
 * thread over the project's own gRPC client. A call that ends is followed by the next at once.
 *
 *   bench_load ADDRESS SECONDS GROUP...
 *
 * ADDRESS is unix:PATH or HOST:PORT. A GROUP is key=value pairs separated by commas:
 *
 *   name=A           what the results call it
 *   token=T          sent as a bearer token
 *   connections=8    streams=32
 *   method=noop      the health check (the default)
 *   method=run       a cached run of `model`, a native graph whose only input is x: f32[n]
 *   model=FILE,n=16
 *   idle=1           one call per connection, then nothing
 *   start=0.5        seconds after the others
 *
 * Prints one JSON line per group: calls/s, percentiles of the latency in microseconds, the device
 * time that its runs report, and failures by the first message. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "kiln/v1/kiln.pb-c.h"
#include "proto/grpc.h"
#include "proto/wire.h"

enum { GROUPS_MAX = 16, INPUT_BYTES = 256 << 10, BUCKETS = 64 * 64, SECOND = 1000000000 };

typedef struct Group {
  char name[32], token[80], model[512];
  bool run, idle;
  int connections, streams, n;
  double start_s;
  char authorization[96];
  uint8_t *message;
  size_t message_len;
  uint64_t calls, failed, all; /* all: also those before measuring began */
  int64_t device_ns;
  char error[200];
  uint32_t histogram[BUCKETS];
} Group;

typedef struct Call {
  struct Conn *conn;
  int64_t start_ns;
} Call;

typedef struct Conn {
  Group *group;
  int fd;
  GrpcSession *session;
  bool blocked;
  Call *calls;
  /* of a call that is waited for */
  bool ended;
  char answer[256];
} Conn;

static uint8_t input[INPUT_BYTES];
static bool measuring, stopping;

static void die(const char *what, const char *why) {
  fprintf(stderr, "bench_load: %s: %s\n", what, why);
  exit(1);
}

/* -- latencies: 64 steps per power of two ------------------------------------------------------ */

static size_t bucket(int64_t ns) {
  uint64_t v = ns > 0 ? (uint64_t)ns : 0;
  if (v < 64) return (size_t)v;
  unsigned top = 63 - (unsigned)__builtin_clzll(v);
  return (size_t)(top - 5) * 64 + (size_t)((v >> (top - 6)) & 63);
}

static double bucket_us(size_t i) {
  if (i < 64) return (double)i / 1e3;
  return (double)((64 + i % 64) << (i / 64 - 1)) / 1e3;
}

static double percentile(const Group *g, double p) {
  uint64_t sum = 0, target = (uint64_t)((double)g->calls * p);
  for (size_t i = 0; i < BUCKETS; i++)
    if ((sum += g->histogram[i]) > target) return bucket_us(i);
  return 0;
}

/* -- connections ------------------------------------------------------------------------------- */

static int dial(const char *address) {
  if (!strncmp(address, "unix:", 5)) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(un.sun_path, sizeof un.sun_path, "%s", address + 5);
    while (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof un)) {
      if (errno != EAGAIN) die(address, strerror(errno));
      usleep(1000);
    }
    return fd;
  }
  char host[256];
  const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  struct addrinfo *found;
  const char *colon = strrchr(address, ':');
  if (!colon) die(address, "expected unix:PATH or HOST:PORT");
  snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
  if (getaddrinfo(host, colon + 1, &hints, &found)) die(address, "no such address");
  int one = 1, fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen)) die(address, strerror(errno));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  freeaddrinfo(found);
  return fd;
}

static void write_out(Conn *c) {
  struct iovec iov[64];
  c->blocked = false;
  for (int n; (n = grpc_session_output(c->session, iov, 64)) > 0;) {
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
    ssize_t sent = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EAGAIN) {
      c->blocked = true;
      return;
    }
    if (sent < 0) die(c->group->name, strerror(errno));
    grpc_session_wrote(c->session, (size_t)sent);
  }
}

static bool read_in(Conn *c) {
  ssize_t n = recv(c->fd, input, sizeof input, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return true;
  if (n <= 0) return false;
  Status st = grpc_session_input(c->session, input, (size_t)n);
  if (st) die(c->group->name, st->text);
  return true;
}

/* -- calls ------------------------------------------------------------------------------------- */

static void begin(Call *call) {
  Conn *c = call->conn;
  Group *g = c->group;
  GrpcStream *s;
  const GrpcCall start = {.path = g->run ? "/kiln.v1.Kiln/Run" : "/grpc.health.v1.Health/Check",
                          .authorization = *g->token ? g->authorization : NULL,
                          .ctx = call};
  call->start_ns = clock_now_ns();
  Status st = grpc_call_start(c->session, &start, &s);
  if (st) die(g->name, st->text);
  grpc_send(s, (Bytes){g->message, g->message_len});
  grpc_half_close(s);
}

static void on_message(void *ctx, GrpcStream *s, Bytes msg) {
  Conn *c = ctx;
  WireReader r = wire_reader(msg);
  if (!grpc_stream_ctx(s)) { /* of a compile: the executable */
    for (WireField f; wire_next(&r, &f);)
      if (f.id == 1 && f.type == WIRE_LEN)
        snprintf(c->answer, sizeof c->answer, "%.*s", (int)f.bytes.len, (const char *)f.bytes.ptr);
    return;
  }
  for (WireField f; c->group->run && measuring && wire_next(&r, &f);)
    if (f.id == 2 && f.type == WIRE_VARINT) c->group->device_ns += (int64_t)f.value;
}

static void on_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  Conn *c = ctx;
  Group *g = c->group;
  Call *call = grpc_stream_ctx(s);
  if (st && !*g->error) snprintf(g->error, sizeof g->error, "%s", st->text);
  if (!call) {
    c->ended = true;
    return;
  }
  g->all++;
  if (st) g->failed++;
  if (measuring && !st) {
    size_t i = bucket(clock_now_ns() - call->start_ns);
    g->histogram[i < BUCKETS ? i : BUCKETS - 1]++;
    g->calls++;
  }
  if (stopping || g->idle) return;
  begin(call);
}

static const GrpcHandler handler = {.on_message = on_message, .on_close = on_close};

static void open_conn(Conn *c, Group *g, const char *address) {
  static Pool pool;
  GrpcConfig config = grpc_config_default;
  config.pool = &pool;
  *c = (Conn){.group = g, .fd = dial(address)};
  c->session = grpc_client_create(&config, &handler, c);
  c->calls = calloc((size_t)g->streams, sizeof *c->calls);
  if (!c->session || !c->calls) die(g->name, "memory");
  for (int i = 0; i < g->streams; i++) c->calls[i].conn = c;
}

/* -- runs: compile, and make the request once -------------------------------------------------- */

static void send_packed(GrpcStream *s, const ProtobufCMessage *m) {
  uint8_t *at = grpc_send_begin(s, protobuf_c_message_get_packed_size(m));
  if (at) protobuf_c_message_pack(m, at);
}

static void send_model(GrpcStream *s, const char *path) {
  static uint8_t model[16 << 20];
  FILE *f = fopen(path, "rb");
  size_t n = f ? fread(model, 1, sizeof model, f) : 0;
  if (!n) die(path, "cannot be read");
  fclose(f);
  Kiln__V1__CompileHeader header = KILN__V1__COMPILE_HEADER__INIT;
  Kiln__V1__CompileRequest m = KILN__V1__COMPILE_REQUEST__INIT;
  header.format = KILN__V1__MODEL_FORMAT__MODEL_FORMAT_KGRAPH;
  header.size = n;
  m.part_case = KILN__V1__COMPILE_REQUEST__PART_HEADER;
  m.header = &header;
  send_packed(s, &m.base);
  m.part_case = KILN__V1__COMPILE_REQUEST__PART_CHUNK;
  m.chunk = (ProtobufCBinaryData){n, model};
  send_packed(s, &m.base);
}

static void compile(Conn *c) {
  Group *g = c->group;
  GrpcStream *s;
  const GrpcCall call = {.path = "/kiln.v1.Kiln/Compile",
                         .authorization = *g->token ? g->authorization : NULL};
  Status st = grpc_call_start(c->session, &call, &s);
  if (st) die(g->name, st->text);
  send_model(s, g->model);
  grpc_half_close(s);
  for (write_out(c); !c->ended; write_out(c)) {
    usleep(1000);
    if (!read_in(c)) die(g->name, "the connection was closed");
  }
  if (*g->error) die(g->name, g->error);
}

static void make_request(Group *g, const char *executable) {
  Kiln__V1__RunRequest m = KILN__V1__RUN_REQUEST__INIT;
  Kiln__V1__NamedTensor x = KILN__V1__NAMED_TENSOR__INIT, *inputs[] = {&x};
  Kiln__V1__Tensor t = KILN__V1__TENSOR__INIT;
  uint64_t dim = (uint64_t)g->n;
  t.dtype = KILN__V1__DTYPE__DTYPE_F32;
  t.dims = &dim;
  t.n_dims = 1;
  t.data.len = dim * sizeof(float);
  t.data.data = calloc(dim, sizeof(float));
  x.name = (char *)"x";
  x.value_case = KILN__V1__NAMED_TENSOR__VALUE_TENSOR;
  x.tensor = &t;
  m.executable = (char *)(uintptr_t)executable;
  m.inputs = inputs;
  m.n_inputs = 1;
  g->message_len = kiln__v1__run_request__get_packed_size(&m);
  g->message = malloc(g->message_len);
  if (!g->message || !t.data.data) die(g->name, "memory");
  kiln__v1__run_request__pack(&m, g->message);
  free(t.data.data);
}

/* -- the loop ---------------------------------------------------------------------------------- */

static void watch(int epoll, Conn *c, int op) {
  struct epoll_event e = {.events = EPOLLIN | (c->blocked ? EPOLLOUT : 0), .data.ptr = c};
  if (epoll_ctl(epoll, op, c->fd, &e)) die("epoll", strerror(errno));
}

static void turn(int epoll, int wait_ms) {
  struct epoll_event events[256];
  int n = epoll_wait(epoll, events, 256, wait_ms);
  for (int i = 0; i < n; i++) {
    Conn *c = events[i].data.ptr;
    bool was = c->blocked;
    if (!read_in(c)) die(c->group->name, "the connection was closed");
    write_out(c);
    if (c->blocked != was) watch(epoll, c, EPOLL_CTL_MOD);
  }
}

static void begin_group(int epoll, Conn *conns, size_t n, const Group *g) {
  for (size_t i = 0; i < n; i++) {
    if (conns[i].group != g) continue;
    for (int k = 0; k < (g->idle ? 1 : g->streams); k++) begin(&conns[i].calls[k]);
    write_out(&conns[i]);
    if (conns[i].blocked) watch(epoll, &conns[i], EPOLL_CTL_MOD);
    if (g->idle && i % 256 == 0) turn(epoll, 0);
  }
}

static void measure(int epoll, Conn *conns, size_t nconns, Group *groups, size_t n,
                    double seconds) {
  bool begun[GROUPS_MAX] = {false};
  const double warm_s = 0.5;
  int64_t start = clock_now_ns();
  for (double t = 0; t < seconds + warm_s; t = (double)(clock_now_ns() - start) / SECOND) {
    for (size_t i = 0; i < n; i++) {
      if (begun[i] || groups[i].start_s > t) continue;
      begun[i] = true;
      begin_group(epoll, conns, nconns, &groups[i]);
    }
    measuring = t >= warm_s;
    turn(epoll, 10);
  }
  stopping = true;
}

static void report(const Group *g, double seconds) {
  printf("{\"name\": \"%s\", \"per_second\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
         "\"p999_us\": %.1f, \"device_s\": %.4f, \"all\": %llu, \"failed\": %llu, \"error\": "
         "\"%s\"}\n",
         g->name, (double)g->calls / seconds, percentile(g, 0.5), percentile(g, 0.99),
         percentile(g, 0.999), (double)g->device_ns / 1e9, (unsigned long long)g->all,
         (unsigned long long)g->failed, g->error);
  fflush(stdout);
}

static void parse_group(char *text, Group *g) {
  *g = (Group){.connections = 1, .streams = 1, .n = 16};
  snprintf(g->name, sizeof g->name, "load");
  for (char *at = strtok(text, ","); at; at = strtok(NULL, ",")) {
    char *value = strchr(at, '=');
    if (!value) die(at, "expected key=value");
    *value++ = 0;
    if (!strcmp(at, "name"))
      snprintf(g->name, sizeof g->name, "%s", value);
    else if (!strcmp(at, "token"))
      snprintf(g->token, sizeof g->token, "%s", value);
    else if (!strcmp(at, "model"))
      snprintf(g->model, sizeof g->model, "%s", value);
    else if (!strcmp(at, "method"))
      g->run = !strcmp(value, "run");
    else if (!strcmp(at, "connections"))
      g->connections = atoi(value);
    else if (!strcmp(at, "streams"))
      g->streams = atoi(value);
    else if (!strcmp(at, "n"))
      g->n = atoi(value);
    else if (!strcmp(at, "idle"))
      g->idle = atoi(value);
    else if (!strcmp(at, "start"))
      g->start_s = atof(value);
    else
      die(at, "unknown key");
  }
  snprintf(g->authorization, sizeof g->authorization, "Bearer %s", g->token);
}

int main(int argc, char **argv) {
  static Group groups[GROUPS_MAX];
  size_t n = 0, nconns = 0, at = 0;
  struct rlimit files;
  if (argc < 4 || argc - 3 > GROUPS_MAX)
    return fprintf(stderr, "usage: bench_load ADDRESS SECONDS GROUP...\n"), 64;
  if (!getrlimit(RLIMIT_NOFILE, &files)) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  double seconds = atof(argv[2]);
  for (int i = 3; i < argc; i++) {
    parse_group(argv[i], &groups[n++]);
    nconns += (size_t)groups[n - 1].connections;
  }
  Conn *conns = calloc(nconns, sizeof *conns);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (!conns || epoll < 0) die("start", "memory");
  for (size_t g = 0; g < n; g++)
    for (int i = 0; i < groups[g].connections; i++) {
      Conn *c = &conns[at++];
      open_conn(c, &groups[g], argv[1]);
      if (groups[g].run && !i) {
        compile(c);
        make_request(&groups[g], c->answer);
      }
      write_out(c);
      watch(epoll, c, EPOLL_CTL_ADD);
    }
  measure(epoll, conns, nconns, groups, n, seconds);
  for (size_t g = 0; g < n; g++) report(&groups[g], seconds);
  return 0;
}
