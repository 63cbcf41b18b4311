/* The connection.
 *
 *   CLOSED -> CONNECTING -> READY -> CLOSED        a call on a CLOSED client connects again
 *                \-> WAITING -> CONNECTING         a daemon was started, or its backlog is full
 *                \-> HANDSHAKE -> READY            with TLS
 *
 * Everything non-blocking happens in kiln_client_process; the blocking form is a poll(2) around it.
 * Calls may be queued in the session while the connection is being made. */
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/c/internal.h"

enum {
  INPUT_BYTES = 256 << 10,
  IOV_MAX_PIECES = 64,
  DEFAULT_CONNECT_MS = 10000,
  DEFAULT_RETRY_MS = 10000
};
static const int64_t ns_per_ms = 1000000;
#define IDLE_NS 1000000000ll

/* -- ends -----------------------------------------------------------------------------------------
 */

static void close_socket(KilnClient *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
}

/* The connection is over: every open call ends with why. Takes why. */
static void lose(KilnClient *c, Status why) {
  GrpcSession *session = c->session;
  close_socket(c);
  client_pass_reset(c);
  if (c->names) freeaddrinfo(c->names);
  c->names = c->next_name = NULL;
  c->session = NULL;
  c->state = CS_CLOSED;
  status_drop(c->lost);
  c->lost = why;
  grpc_session_release(session);
}

/* -- connecting -----------------------------------------------------------------------------------
 */

static Status connected(KilnClient *c) {
  int one = 1;
  if (!c->address.is_unix) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (c->names) freeaddrinfo(c->names);
  c->names = c->next_name = NULL;
  c->want_write = false;
  TRY(secure_begin(c));
  c->state = secure_ready(c) ? CS_READY : CS_HANDSHAKE;
  client_flush(c);
  return NULL;
}

static void try_later(KilnClient *c) {
  close_socket(c);
  c->state = CS_WAITING;
  c->retry_at = clock_now_ns() + 5 * ns_per_ms;
}

/* Whoever listens on the user's own socket must be the user (or root). */
static Status check_peer(KilnClient *c) {
  struct ucred peer;
  socklen_t n = sizeof peer;
  if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) || peer.uid == getuid() || !peer.uid)
    return NULL;
  return FAIL(PERMISSION_DENIED, "%s is served by user %u, not by this one", c->address.text,
              (unsigned)peer.uid);
}

static Status connect_unix(KilnClient *c) {
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  const char *path = address_path(&c->address);
  memcpy(un.sun_path, path, strlen(path));
  c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) return FAIL(UNAVAILABLE, "%s: %s", c->address.text, strerror(errno));
  if (!connect(c->fd, (struct sockaddr *)&un, sizeof un)) {
    if (c->address.own) TRY(check_peer(c));
    return connected(c);
  }
  int error = errno;
  bool absent = error == ENOENT || error == ECONNREFUSED;
  if (absent && c->address.own && !c->no_spawn && !c->spawned) {
    c->spawned = true;
    TRY(address_spawn(&c->address));
  }
  if (error == EAGAIN || (absent && c->spawned)) {
    try_later(c);
    return NULL;
  }
  return FAIL(UNAVAILABLE, "%s: %s%s", c->address.text, strerror(error),
              absent && c->address.own ? "; starting a daemon was forbidden" : "");
}

static Status connect_tcp(KilnClient *c) {
  int error = EADDRNOTAVAIL;
  while (c->next_name) {
    const struct addrinfo *ai = c->next_name;
    c->next_name = ai->ai_next;
    close_socket(c);
    c->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd >= 0 && !connect(c->fd, ai->ai_addr, ai->ai_addrlen)) return connected(c);
    error = errno;
    if (error != EINPROGRESS) continue;
    c->state = CS_CONNECTING;
    return NULL;
  }
  return FAIL(UNAVAILABLE, "%s: %s", c->address.text, strerror(error));
}

static Status lookup(KilnClient *c) {
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  int rv = getaddrinfo(c->address.host, c->address.port, &hints, &c->names);
  if (rv) return FAIL(UNAVAILABLE, "%s: %s", c->address.text, gai_strerror(rv));
  c->next_name = c->names;
  return NULL;
}

static Status connect_begin(KilnClient *c) {
  GrpcConfig config = grpc_config_default;
  config.max_message = config.max_buffered = SIZE_MAX / 4;
  if (c->address.own) TRY(address_check_folder(&c->address));
  if (!c->address.is_unix) TRY(lookup(c));
  c->session = grpc_client_create(&config, &client_handler, c);
  if (!c->session) return FAIL(RESOURCE_EXHAUSTED, "no memory for a connection");
  c->spawned = false;
  c->connect_deadline = clock_now_ns() + c->connect_timeout_ns;
  return c->address.is_unix ? connect_unix(c) : connect_tcp(c);
}

/* A server ends connections that nobody uses; that shows when they are read, which should be before
 * a call is sent into one. */
static void notice_end(KilnClient *c) {
  int64_t now = clock_now_ns();
  bool fresh = now - c->used_ns < IDLE_NS;
  struct pollfd p = {.fd = c->fd, .events = POLLIN};
  c->used_ns = now;
  if (fresh || c->state != CS_READY || c->processing || grpc_session_streams(c->session)) return;
  if (poll(&p, 1, 0) > 0) kiln_client_process(c, NULL);
}

Status client_ensure(KilnClient *c) {
  notice_end(c);
  if (c->state == CS_READY && grpc_session_draining(c->session) &&
      !grpc_session_streams(c->session))
    lose(c, FAIL(UNAVAILABLE, "%s: the server closed the connection", c->address.text));
  if (c->state != CS_CLOSED) return NULL;
  if (c->closing) return FAIL(CANCELLED, "the client is being closed");
  Status st = connect_begin(c);
  if (!st) return NULL;
  char text[512];
  StatusCode code = st->code;
  status_text(st, text, sizeof text);
  lose(c, st);
  return status_new(code, NULL, __FILE__, __LINE__, "%s", text);
}

/* CONNECTING: has connect(2) finished? */
static Status connect_continue(KilnClient *c) {
  struct pollfd p = {.fd = c->fd, .events = POLLOUT};
  int error = 0;
  socklen_t n = sizeof error;
  if (poll(&p, 1, 0) <= 0) return NULL;
  if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n)) error = errno;
  if (!error) return connected(c);
  if (c->next_name) return connect_tcp(c);
  return FAIL(UNAVAILABLE, "%s: %s", c->address.text, strerror(error));
}

static Status connect_step(KilnClient *c) {
  int64_t now = clock_now_ns();
  if (c->state == CS_WAITING && now >= c->retry_at)
    TRY(connect_unix(c));
  else if (c->state == CS_CONNECTING)
    TRY(connect_continue(c));
  if (c->state == CS_READY || now < c->connect_deadline) return NULL;
  return FAIL(UNAVAILABLE, "%s: not connected after %lld ms%s", c->address.text,
              (long long)(c->connect_timeout_ns / ns_per_ms),
              c->spawned ? "; see kilnd.log beside the socket" : "");
}

/* -- reading and writing
 * ---------------------------------------------------------------------------- */

void client_flush(KilnClient *c) {
  struct iovec iov[IOV_MAX_PIECES];
  if (c->state < CS_HANDSHAKE) return;
  c->want_write = false;
  for (int n; (n = secure_output(c, iov, IOV_MAX_PIECES)) > 0;) {
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
    ssize_t sent = client_sendmsg(c, &m);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) {
      c->want_write = true; /* full; or broken, which reading will tell */
      return;
    }
    secure_wrote(c, (size_t)sent);
  }
}

static Status read_input(KilnClient *c) {
  for (;;) {
    ssize_t n = recv(c->fd, c->inbuf, INPUT_BYTES, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return NULL;
    if (n < 0) return FAIL(UNAVAILABLE, "%s: %s", c->address.text, strerror(errno));
    if (!n) return FAIL(UNAVAILABLE, "%s: the server closed the connection", c->address.text);
    Status st = secure_input(c, c->inbuf, (size_t)n);
    if (st) return status_new(ST_UNAVAILABLE, st, __FILE__, __LINE__, "%s", c->address.text);
    if (n < INPUT_BYTES) return NULL;
  }
}

static void expire(KilnClient *c) {
  struct iovec unused[1];
  int64_t now = 0;
  bool any = false;
  for (KilnCall *call = c->calls; call; call = call->next) {
    if (!call->deadline) continue;
    if (!now) now = clock_now_ns();
    if (now < call->deadline) continue;
    call->deadline = 0;
    any = true;
    grpc_cancel(call->stream, FAIL(DEADLINE_EXCEEDED, "no answer before the deadline"));
  }
  /* Without a connection nobody writes, but cancelled calls end all the same. */
  if (any && c->state != CS_READY) grpc_session_output(c->session, unused, 1);
}

static Status process(KilnClient *c) {
  if (c->state != CS_READY) TRY(connect_step(c));
  expire(c);
  if (c->state < CS_HANDSHAKE) return NULL;
  TRY(read_input(c));
  if (secure_ready(c)) c->state = CS_READY;
  client_flush(c);
  if (grpc_session_done(c->session) && !grpc_session_streams(c->session))
    return FAIL(UNAVAILABLE, "%s: the server closed the connection", c->address.text);
  return NULL;
}

KilnCode kiln_client_process(KilnClient *c, KilnError *err) {
  if (c->state == CS_CLOSED) return KILN_OK;
  c->processing = true;
  Status st = process(c);
  KilnCode code = (KilnCode)status_code(st);
  if (st) {
    if (err) {
      err->code = code;
      status_text(st, err->message, sizeof err->message);
      err->retry_after_ns = 0;
    }
    lose(c, st);
  }
  c->processing = false;
  return code;
}

/* -- in an event loop
 * ------------------------------------------------------------------------------- */

int kiln_client_fd(const KilnClient *c) { return c->fd; }

short kiln_client_events(const KilnClient *c) {
  if (c->state == CS_CONNECTING) return POLLOUT;
  if (c->state < CS_HANDSHAKE) return 0;
  return (short)(POLLIN | (c->want_write ? POLLOUT : 0));
}

int kiln_client_wait_ms(const KilnClient *c) {
  int64_t first = INT64_MAX;
  if (c->state != CS_READY && c->state != CS_CLOSED) first = c->connect_deadline;
  if (c->state == CS_WAITING && c->retry_at < first) first = c->retry_at;
  for (const KilnCall *call = c->calls; call; call = call->next)
    if (call->deadline && call->deadline < first) first = call->deadline;
  if (first == INT64_MAX) return -1;
  int64_t ms = (first - clock_now_ns() + ns_per_ms - 1) / ns_per_ms;
  return ms < 0 ? 0 : ms > INT32_MAX ? INT32_MAX : (int)ms;
}

void client_wait(KilnClient *c, const bool *done) {
  while (!*done) {
    struct pollfd p = {.fd = c->fd, .events = kiln_client_events(c)};
    poll(&p, 1, kiln_client_wait_ms(c));
    kiln_client_process(c, NULL);
  }
}

/* -- life -----------------------------------------------------------------------------------------
 */

static Status client_create(const char *address, const KilnConnectOptions *options,
                            KilnClient **out) {
  static const KilnConnectOptions none;
  Address a;
  if (!options) options = &none;
  TRY(address_resolve(address, &a));
  KilnClient *c = calloc(1, sizeof *c);
  uint8_t *inbuf = malloc(INPUT_BYTES);
  if (!c || !inbuf) {
    free(c);
    free(inbuf);
    return FAIL(RESOURCE_EXHAUSTED, "no memory for a client");
  }
  int64_t ms = options->timeout_ms > 0 ? options->timeout_ms : DEFAULT_CONNECT_MS;
  if (ms > INT64_MAX / 4 / ns_per_ms) ms = INT64_MAX / 4 / ns_per_ms;
  int64_t retry = options->retry_ms ? options->retry_ms : DEFAULT_RETRY_MS;
  if (retry < 0) retry = 0;
  if (retry > INT64_MAX / 4 / ns_per_ms) retry = INT64_MAX / 4 / ns_per_ms;
  *c = (KilnClient){.address = a,
                    .no_spawn = options->no_spawn,
                    .connect_timeout_ns = ms * ns_per_ms,
                    .retry_ns = retry * ns_per_ms,
                    .fd = -1,
                    .inbuf = inbuf};
  Status st = secure_setup(c, options);
  if (st) {
    kiln_close(c);
    return st;
  }
  *out = c;
  return NULL;
}

/* connect_later: a server that is not there is reported by the calls. */
static Status client_open(const char *address, const KilnConnectOptions *options,
                          bool connect_later, KilnClient **out) {
  *out = NULL;
  KilnClient *c = NULL;
  TRY(client_create(address, options, &c));
  Status st = client_ensure(c);
  if (st && connect_later && st->code == ST_UNAVAILABLE) {
    status_drop(st);
    st = NULL;
  }
  if (st)
    kiln_close(c);
  else
    *out = c;
  return st;
}

KilnCode kiln_connect_start(const char *address, const KilnConnectOptions *options,
                            KilnClient **out, KilnError *err) {
  return error_take(client_open(address, options, true, out), err);
}

KilnCode kiln_connect(const char *address, const KilnConnectOptions *options, KilnClient **out,
                      KilnError *err) {
  KilnCode code = error_take(client_open(address, options, false, out), err);
  if (code) return code;
  KilnClient *c = *out;
  assert(c);
  while (!code && c->state != CS_READY) {
    struct pollfd p = {.fd = c->fd, .events = kiln_client_events(c)};
    poll(&p, 1, kiln_client_wait_ms(c));
    code = kiln_client_process(c, err);
  }
  if (!code) return KILN_OK;
  kiln_close(c);
  *out = NULL;
  return code;
}

void kiln_close(KilnClient *c) {
  if (!c) return;
  c->closing = true;
  lose(c, FAIL(CANCELLED, "the client was closed"));
  status_drop(c->lost);
  secure_deinit(c);
  free(c->inbuf);
  free(c);
}

const char *kiln_client_address(const KilnClient *c) { return c->address.text; }

void kiln_client_set_timeout(KilnClient *c, int64_t timeout_ms) {
  if (timeout_ms > INT64_MAX / 4 / ns_per_ms) timeout_ms = INT64_MAX / 4 / ns_per_ms;
  c->timeout_ns = timeout_ms > 0 ? timeout_ms * ns_per_ms : 0;
}
