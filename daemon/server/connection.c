/* Reading is one read per wake into a buffer that all connections share. Output is not written
 * where it arises: connections with output are put on a list, and the loop's prepare step, which
 * runs once between the callbacks and the next sleep, writes each with one sendmsg. A socket that
 * takes no more is polled for writability; the session keeps the rest, bounded by HTTP/2's flow
 * control. */
#include "daemon/server/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECES = 64, READS_PER_WAKE = 4, QUEUED_MAX = 512 << 20 };

struct Connection {
  Server *server;
  int fd;
  uv_poll_t poll;
  GrpcSession *session;
  Connection *next, **link; /* of server->connections */
  Connection *next_dirty;
  bool is_dirty, blocked; /* blocked: waits for the socket to take more */
  bool ending;            /* flush, then close */
  bool closed;
  uint64_t last_active_ms;
  Peer peer;
  size_t queued; /* at least the bytes of answers that are not yet written */
};

static bool on_request(void *ctx, GrpcStream *s, const GrpcHead *head) {
  return request_open(ctx, s, head);
}
static void on_message(void *ctx, GrpcStream *s, Bytes msg) {
  (void)ctx;
  if (grpc_stream_ctx(s)) request_message(grpc_stream_ctx(s), msg);
}
static void on_half_close(void *ctx, GrpcStream *s) {
  (void)ctx;
  if (grpc_stream_ctx(s)) request_half_close(grpc_stream_ctx(s));
}
static void on_drain(void *ctx, GrpcStream *s) {
  (void)ctx;
  if (grpc_stream_ctx(s)) request_drain(grpc_stream_ctx(s));
}
static void on_close(void *ctx, GrpcStream *s, const StatusNote *st) {
  (void)ctx;
  (void)st;
  if (grpc_stream_ctx(s)) request_close(grpc_stream_ctx(s));
}

static const GrpcHandler handler = {.on_request = on_request,
                                    .on_message = on_message,
                                    .on_half_close = on_half_close,
                                    .on_drain = on_drain,
                                    .on_close = on_close};

Status connection_authorize(Connection *c, Str authorization, unsigned needs, Tenant **out) {
  return auth_request(c->server->auth, &c->server->tenants, &c->peer, authorization, needs, out);
}

Server *connection_server(const Connection *c) { return c->server; }
Connection *connection_next(const Connection *c) { return c->next; }

/* -- ending -------------------------------------------------------------------------------------
 */

static void on_closed(uv_handle_t *handle) {
  Connection *c = handle->data;
  peer_deinit(&c->peer);
  free(c);
}

void connection_close(Connection *c) {
  if (c->closed) return;
  c->closed = true;
  if ((*c->link = c->next)) c->next->link = c->link;
  c->server->nconnections--;
  for (Connection **at = &c->server->dirty; c->is_dirty && *at; at = &(*at)->next_dirty)
    if (*at == c) {
      *at = c->next_dirty;
      break;
    }
  c->is_dirty = true; /* what closing queues is not written */
  grpc_session_release(c->session);
  uv_close((uv_handle_t *)&c->poll, on_closed);
  close(c->fd);
}

void connection_drain(Connection *c) {
  grpc_session_drain(c->session);
  connection_dirty(c);
}

/* -- writing ------------------------------------------------------------------------------------
 */

static void on_poll(uv_poll_t *poll, int status, int events);

static void set_blocked(Connection *c, bool blocked) {
  if (c->blocked == blocked) return;
  c->blocked = blocked;
  uv_poll_start(&c->poll, UV_READABLE | (blocked ? UV_WRITABLE : 0), on_poll);
}

/* Writes until there is nothing left or the socket is full; false when the connection is over. */
static bool write_out(Connection *c) {
  for (;;) {
    struct iovec iov[PIECES];
    int n = grpc_session_output(c->session, iov, PIECES);
    if (!n) {
      set_blocked(c, false);
      return !c->ending && !grpc_session_done(c->session);
    }
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
    ssize_t written = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      set_blocked(c, true);
      return true;
    }
    if (written < 0) return false;
    c->queued -= (size_t)written < c->queued ? (size_t)written : c->queued;
    c->server->metrics.sent_bytes_total[0][0] += (size_t)written;
    grpc_session_wrote(c->session, (size_t)written);
  }
}

void connection_dirty(Connection *c) {
  if (c->is_dirty) return;
  c->is_dirty = true;
  c->next_dirty = c->server->dirty;
  c->server->dirty = c;
}

void connection_queued(Connection *c, size_t n) { c->queued += n; }

/* The cheap count drifts upwards when clients give calls up, so it is made exact before it refuses
 * anybody. */
bool connection_clogged(Connection *c) {
  if (c->queued <= QUEUED_MAX) return false;
  c->queued = 0;
  for (const Request *r = c->server->requests; r; r = r->next)
    if (r->conn == c) c->queued += grpc_stream_queued(r->stream);
  return c->queued > QUEUED_MAX;
}

void connections_flush(Server *s) {
  while (s->dirty) {
    Connection *c = s->dirty;
    s->dirty = c->next_dirty;
    c->is_dirty = false;
    if (!c->blocked && !write_out(c)) connection_close(c);
  }
}

/* -- reading ------------------------------------------------------------------------------------
 */

/* False when the connection is over. */
static bool read_in(Connection *c) {
  for (int i = 0; i < READS_PER_WAKE; i++) {
    ssize_t n = recv(c->fd, c->server->read_buffer, CONNECTION_READ_BYTES, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (n <= 0) return false;
    c->server->metrics.received_bytes_total[0][0] += (size_t)n;
    Status st = grpc_session_input(c->session, c->server->read_buffer, (size_t)n);
    connection_dirty(c);
    if (st) {
      char text[256];
      status_text(st, text, sizeof text);
      LOG_DEBUG("connection error", "error=\"%s\"", text);
      status_drop(st);
      c->server->metrics.connection_errors_total[0][0]++;
      c->ending = true;
      return true; /* the last output says why */
    }
    if (n < CONNECTION_READ_BYTES) return true;
  }
  return true;
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  Connection *c = poll->data;
  (void)status; /* an error shows when reading */
  c->last_active_ms = uv_now(poll->loop);
  if (events & UV_WRITABLE) {
    c->blocked = false;
    uv_poll_start(&c->poll, UV_READABLE, on_poll);
    connection_dirty(c);
  }
  bool alive = !(events & UV_READABLE) && !status ? true : c->ending || read_in(c);
  if (!alive) connection_close(c);
}

/* -- life ---------------------------------------------------------------------------------------
 */

Status connection_open(Server *s, int fd, bool local) {
  Connection *c = calloc(1, sizeof *c);
  GrpcConfig config = grpc_config_default;
  config.max_message = s->config.max_message_bytes;
  GrpcSession *session = c ? grpc_server_create(&config, &handler, c) : NULL;
  if (!session || uv_poll_init(&s->loop, &c->poll, fd)) {
    grpc_session_release(session);
    free(c);
    close(fd);
    return FAIL(RESOURCE_EXHAUSTED, "connection");
  }
  c->server = s;
  c->fd = fd;
  c->session = session;
  if (local) peer_from_socket(&c->peer, fd);
  c->last_active_ms = uv_now(&s->loop);
  c->poll.data = c;
  if ((c->next = s->connections)) c->next->link = &c->next;
  c->link = &s->connections;
  s->connections = c;
  s->nconnections++;
  s->metrics.connections_total[0][0]++;
  uv_poll_start(&c->poll, UV_READABLE, on_poll);
  connection_dirty(c);
  return NULL;
}

void connections_expire(Server *s, uint64_t idle_seconds) {
  uint64_t now = uv_now(&s->loop);
  for (Connection *c = s->connections; idle_seconds && c; c = c->next)
    if (!grpc_session_streams(c->session) && now - c->last_active_ms > idle_seconds * 1000) {
      connection_drain(c);
      c->ending = true;
    }
}
