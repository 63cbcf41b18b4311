/* Reading is one read per wake into a buffer that all connections share. Output is not written
 * where it arises: connections with output are put on a list, and the loop's prepare step, which
 * runs once between the callbacks and the next sleep, writes each with one sendmsg. A socket that
 * takes no more is polled for writability; the session keeps the rest, bounded by HTTP/2's flow
 * control.
 *
 * TLS stands between the socket and the session; see proto/tls.h for what it may hold. */
#include "daemon/server/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/server/passed.h"
#include "daemon/server/quota.h"

enum { PIECES = 64, READS_PER_WAKE = 4, PLAIN_BYTES = 16 << 10 };

/* Whoever takes less than READER_BYTES in Patience.reader, or sends a call at less than
 * SENDER_RATE, is too slow. LINGER: what is thrown away of a connection that was ended, at most. */
enum {
  READER_BYTES = 64 << 10,
  SENDER_RATE = 1 << 10,
  LINGER_BYTES = 4 << 20,
  LINGER_MS = 2000,
  REST_MS = 2000
};

struct Connection {
  Server *server;
  uint64_t number;
  int fd;
  uv_poll_t poll;
  GrpcSession *session;
  Connection *next, **link; /* of server->connections */
  Connection *next_dirty;
  bool is_dirty, blocked; /* blocked: waits for the socket to take more */
  bool ending;            /* flush, then linger */
  bool lingering;         /* all is said: throw away what the peer still sends until he ends, too */
  bool closed;
  uint64_t ending_ms;                 /* since when */
  uint64_t last_active_ms, rested_ms; /* rested: for which of these, last */
  Peer peer;
  TlsSession *tls; /* NULL: plain */
  bool local;
  Passed passed;  /* of local ones */
  Tenant *tenant; /* who called last; NULL: nobody that we know, it is one of the strangers */
  Connection *next_stranger, **stranger_link;
  uint64_t address;               /* of strangers and others on TCP; 0: none that is counted */
  uint64_t opened_ms, retired_ms; /* retired: told to go for its age; 0 = not yet */
  uint32_t head;                  /* the call whose metadata is being read, and since when */
  uint64_t head_ms;
  uint64_t answers; /* bytes that wait to be read: answers.h */
  size_t thrown_away;
  uint64_t written, taken, taken_ms; /* all bytes; what that was when the reader was quick, last */
};

static bool on_request(void *ctx, GrpcStream *s, const GrpcHead *head) {
  return request_open(ctx, s, head);
}
static void on_message(void *ctx, GrpcStream *s, Bytes msg) {
  (void)ctx;
  if (grpc_stream_ctx(s)) request_message(grpc_stream_ctx(s), msg);
}
static bool on_part(void *ctx, GrpcStream *s, Bytes part, size_t left) {
  (void)ctx;
  return grpc_stream_ctx(s) && request_part(grpc_stream_ctx(s), part, left);
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
                                    .on_part = on_part,
                                    .on_half_close = on_half_close,
                                    .on_drain = on_drain,
                                    .on_close = on_close};

static void stranger_add(Connection *c) {
  Server *s = c->server;
  if (!s->strangers) s->last_stranger = &s->strangers;
  c->stranger_link = s->last_stranger;
  *s->last_stranger = c;
  s->last_stranger = &c->next_stranger;
}

static void stranger_remove(Connection *c) {
  if (!c->stranger_link) return;
  if ((*c->stranger_link = c->next_stranger))
    c->next_stranger->stranger_link = c->stranger_link;
  else
    c->server->last_stranger = c->stranger_link;
  c->next_stranger = NULL;
  c->stranger_link = NULL;
}

/* The connection counts as his who called last. */
static Status belong(Connection *c, Tenant *t) {
  if (c->tenant == t || !t->id) return NULL;
  TRY(quota_connection(t));
  if (c->tenant) quota_connection_end(c->tenant);
  c->tenant = t;
  stranger_remove(c);
  return NULL;
}

Status connection_authorize(Connection *c, Str authorization, unsigned needs, Tenant **out) {
  TRY(auth_request(c->server->auth, &c->server->tenants, &c->peer, authorization, needs, out));
  c->last_active_ms = uv_now(&c->server->loop);
  return belong(c, *out);
}

Status connection_take_passed(Connection *c, uint64_t number, uint64_t bytes, int *out) {
  return passed_take(&c->passed, number, bytes, out);
}
uint64_t *connection_answers(Connection *c) { return &c->answers; }
uint64_t connection_number(const Connection *c) { return c->number; }
Server *connection_server(const Connection *c) { return c->server; }
Connection *connection_next(const Connection *c) { return c->next; }

/* -- ending -------------------------------------------------------------------------------------
 */

static void poll_for(Connection *c);

/* How many connections an address has; by: 1, -1, or 0 to ask. */
static size_t address_count(Server *s, uint64_t address, int by) {
  if (!address) return 0;
  size_t n = (size_t)(uintptr_t)map_find(&s->addresses, address) + (size_t)by;
  if (by && n)
    (void)!map_put(&s->addresses, address, (void *)(uintptr_t)n);
  else if (by)
    map_remove(&s->addresses, address);
  return n;
}

static void on_closed(uv_handle_t *handle) {
  Connection *c = handle->data;
  peer_deinit(&c->peer);
  passed_deinit(&c->passed);
  free(c);
}

void connection_close(Connection *c) {
  if (c->closed) return;
  c->closed = true;
  if ((*c->link = c->next)) c->next->link = c->link;
  c->server->nconnections--;
  stranger_remove(c);
  if (c->tenant) quota_connection_end(c->tenant);
  address_count(c->server, c->address, -1);
  for (Connection **at = &c->server->dirty; c->is_dirty && *at; at = &(*at)->next_dirty)
    if (*at == c) {
      *at = c->next_dirty;
      break;
    }
  c->is_dirty = true; /* what closing queues is not written */
  grpc_session_release(c->session);
  tls_session_release(c->tls);
  uv_close((uv_handle_t *)&c->poll, on_closed);
  close(c->fd);
}

/* What is left to say is said, then it is over. */
static void begin_end(Connection *c) {
  if (c->ending) return;
  c->ending = true;
  c->ending_ms = uv_now(&c->server->loop);
  poll_for(c);
  connection_dirty(c);
}

static void hang_up(Connection *c, const char *why) {
  c->server->metrics.connections_slow_total[0][0]++;
  LOG_DEBUG("connection ended", "number=%llu reason=\"%s\"", (unsigned long long)c->number, why);
  grpc_session_calm(c->session, why);
  begin_end(c);
}

/* All that was to be written is. The peer may read it although he is still sending: a socket that
 * is closed over unread bytes takes back what it has sent, and one that is closed at all fails who
 * writes before he reads. */
static void over(Connection *c) {
  begin_end(c);
  c->lingering = true;
  shutdown(c->fd, SHUT_WR);
  poll_for(c);
}

void connection_drain(Connection *c) {
  grpc_session_drain(c->session);
  connection_dirty(c);
}

/* -- writing ------------------------------------------------------------------------------------
 */

static void set_blocked(Connection *c, bool blocked) {
  if (c->blocked == blocked) return;
  c->blocked = blocked;
  poll_for(c);
}

/* What became of bytes for the socket. */
typedef enum Sent { SENT_SOME, SENT_LATER, SENT_NEVER } Sent;

static Sent send_pieces(Connection *c, struct iovec *iov, int n, size_t *written) {
  struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
  for (;;) {
    ssize_t k = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    *written = k > 0 ? (size_t)k : 0;
    if (k >= 0) return SENT_SOME;
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return SENT_NEVER;
    set_blocked(c, true);
    return SENT_LATER;
  }
}

static void session_wrote(Connection *c, size_t n) {
  c->server->metrics.sent_bytes_total[0][0] += n;
  c->written += n;
  grpc_session_wrote(c->session, n);
}

/* Encrypts what the session offers, until enough of it waits; *more: it had something. */
static Status encrypt(Connection *c, bool *more) {
  struct iovec iov[PIECES];
  int n = grpc_session_output(c->session, iov, PIECES);
  size_t all = 0, taken = 0;
  *more = n > 0;
  for (int i = 0; i < n; i++) {
    Status st = tls_write(c->tls, iov[i].iov_base, iov[i].iov_len, &taken);
    all += taken;
    if (st) return st;
    if (taken < iov[i].iov_len) break;
  }
  if (all) session_wrote(c, all);
  *more = all > 0;
  return NULL;
}

/* So that the peer can tell an end from a cut; it is no loss when the socket takes no more. */
static void say_goodbye(Connection *c) {
  tls_close(c->tls);
  Bytes out = tls_output(c->tls);
  if (out.len) (void)!send(c->fd, out.ptr, out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* write_out through TLS. */
static bool write_tls(Connection *c) {
  for (;;) {
    bool more = false;
    Status st = encrypt(c, &more);
    Bytes out = tls_output(c->tls);
    size_t written;
    if (st || (!out.len && !more)) {
      bool over = st || c->ending || (tls_ready(c->tls) && grpc_session_done(c->session));
      status_drop(st);
      set_blocked(c, false);
      if (over) say_goodbye(c);
      return !over;
    }
    struct iovec iov = {.iov_base = (void *)(uintptr_t)out.ptr, .iov_len = out.len};
    Sent sent = send_pieces(c, &iov, 1, &written);
    tls_wrote(c->tls, written);
    if (sent != SENT_SOME) return sent == SENT_LATER;
  }
}

/* Writes until there is nothing left or the socket is full; false when the connection is over. */
static bool write_out(Connection *c) {
  if (c->tls) return write_tls(c);
  for (;;) {
    struct iovec iov[PIECES];
    int n = grpc_session_output(c->session, iov, PIECES);
    if (!n) {
      set_blocked(c, false);
      return !c->ending && !grpc_session_done(c->session);
    }
    size_t written;
    Sent sent = send_pieces(c, iov, n, &written);
    if (sent != SENT_SOME) return sent == SENT_LATER;
    session_wrote(c, written);
  }
}

void connection_dirty(Connection *c) {
  if (c->is_dirty) return;
  c->is_dirty = true;
  c->next_dirty = c->server->dirty;
  c->server->dirty = c;
}

void connections_flush(Server *s) {
  while (s->dirty) {
    Connection *c = s->dirty;
    s->dirty = c->next_dirty;
    c->is_dirty = false;
    if (!c->blocked && !c->lingering && !write_out(c)) over(c);
  }
}

/* -- reading ------------------------------------------------------------------------------------
 */

static void add_name(void *ctx, const char *name) {
  Peer *p = ctx;
  if (p->nnames < AUTH_NAMES_MAX && (p->names[p->nnames] = strdup(name))) p->nnames++;
}

/* Decrypts all that has come and gives it to the session. */
static Status take_tls(Connection *c, const void *bytes, size_t n) {
  uint8_t plain[PLAIN_BYTES];
  bool before = tls_ready(c->tls);
  TRY(tls_input(c->tls, bytes, n));
  for (size_t got = 1; got;) {
    TRY(tls_read(c->tls, plain, sizeof plain, &got));
    if (!before && tls_ready(c->tls)) {
      tls_peer_names(c->tls, add_name, &c->peer);
      before = true;
    }
    if (got) TRY(grpc_session_input(c->session, plain, got));
  }
  return NULL;
}

static ssize_t receive(Connection *c) {
  uint8_t *into = c->server->read_buffer;
  return c->local ? passed_recv(&c->passed, c->fd, into, CONNECTION_READ_BYTES)
                  : recv(c->fd, into, CONNECTION_READ_BYTES, MSG_DONTWAIT);
}

/* False when the connection is over. */
static bool read_in(Connection *c) {
  for (int i = 0; i < READS_PER_WAKE; i++) {
    ssize_t n = receive(c);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (n <= 0) return false;
    c->server->metrics.received_bytes_total[0][0] += (size_t)n;
    const void *bytes = c->server->read_buffer;
    Status st =
        c->tls ? take_tls(c, bytes, (size_t)n) : grpc_session_input(c->session, bytes, (size_t)n);
    connection_dirty(c);
    if (st) {
      char text[256];
      status_text(st, text, sizeof text);
      LOG_DEBUG("connection error", "error=\"%s\"", text);
      c->server->metrics.connections_flooded_total[0][0] += grpc_session_flooded(c->session);
      status_drop(st);
      c->server->metrics.connection_errors_total[0][0]++;
      begin_end(c);
      return true; /* the last output says why */
    }
    if (n < CONNECTION_READ_BYTES) return true;
  }
  return true;
}

/* False when the peer has gone too, or will not stop. */
static bool throw_away(Connection *c) {
  for (int i = 0; i < READS_PER_WAKE; i++) {
    ssize_t n = recv(c->fd, c->server->read_buffer, CONNECTION_READ_BYTES, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return true;
    if (n <= 0) return false;
    c->thrown_away += (size_t)n;
  }
  return c->thrown_away <= LINGER_BYTES;
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  Connection *c = poll->data;
  bool alive = true;
  if (events & UV_WRITABLE) {
    set_blocked(c, false);
    connection_dirty(c);
  }
  if (c->lingering)
    alive = throw_away(c);
  else if (c->ending)
    alive = !status;
  else if (events & UV_READABLE || status) /* an error shows when reading */
    alive = read_in(c);
  if (!alive) connection_close(c);
}

/* Who is being ended is not read any more. */
static void poll_for(Connection *c) {
  int events = (c->ending && !c->lingering ? 0 : UV_READABLE) | (c->blocked ? UV_WRITABLE : 0);
  uv_poll_start(&c->poll, events, on_poll);
}

/* -- life ---------------------------------------------------------------------------------------
 */

static Status admit(Server *s, uint64_t address) {
  uint64_t most = s->config.connections_per_address;
  if (address && most && address_count(s, address, 0) >= most)
    return FAIL(RESOURCE_EXHAUSTED, "%llu are open from its address", (unsigned long long)most);
  if (s->nconnections < s->config.max_connections) return NULL;
  if (!s->strangers) return FAIL(RESOURCE_EXHAUSTED, "%zu are open", s->nconnections);
  s->metrics.connections_refused_total[0][0]++;
  connection_close(s->strangers);
  return NULL;
}

static void start(Connection *c, Server *s, int fd, GrpcSession *session) {
  c->server = s;
  c->number = ++s->next_connection;
  c->fd = fd;
  c->session = session;
  c->last_active_ms = c->opened_ms = c->taken_ms = uv_now(&s->loop);
  c->poll.data = c;
  if ((c->next = s->connections)) c->next->link = &c->next;
  c->link = &s->connections;
  s->connections = c;
  s->nconnections++;
  s->metrics.connections_total[0][0]++;
  stranger_add(c);
  address_count(s, c->address, 1);
  poll_for(c);
  connection_dirty(c);
}

Status connection_open(Server *s, int fd, uint64_t address) {
  Status st = admit(s, address);
  if (st) {
    close(fd);
    return st;
  }
  Connection *c = calloc(1, sizeof *c);
  GrpcConfig config = grpc_config_default;
  config.max_message = s->config.max_message_bytes;
  config.pool = &s->blocks;
  GrpcSession *session = c ? grpc_server_create(&config, &handler, c) : NULL;
  if (session && s->tls && address) st = tls_session_create(s->tls, NULL, &c->tls);
  if (!session || st || uv_poll_init(&s->loop, &c->poll, fd)) {
    grpc_session_release(session);
    if (c) tls_session_release(c->tls);
    free(c);
    close(fd);
    status_drop(st);
    return FAIL(RESOURCE_EXHAUSTED, "no memory");
  }
  c->address = address;
  c->local = !address;
  if (c->local) peer_from_socket(&c->peer, fd);
  start(c, s, fd, session);
  return NULL;
}

/* -- patience -----------------------------------------------------------------------------------
 */

/* Somebody who only holds a connection open is given no longer than this. */
static bool too_slow(const Connection *c, const Patience *p, uint64_t now) {
  if (c->tls && !tls_ready(c->tls)) return p->handshake && now - c->opened_ms > p->handshake * 1000;
  if (c->local || c->tenant || grpc_session_streams(c->session)) return false;
  return p->first_call && now - c->last_active_ms > p->first_call * 1000;
}

static bool slow_head(Connection *c, const Patience *p, uint64_t now) {
  uint32_t head = grpc_session_reading_head(c->session);
  if (head != c->head) {
    c->head = head;
    c->head_ms = now;
  }
  return head && p->headers && now - c->head_ms > p->headers * 1000;
}

/* Windows of no bytes, a socket that is not read, or drops: what waits is held for nobody. */
static bool slow_reader(Connection *c, const Patience *p, uint64_t now) {
  if (c->written - c->taken >= READER_BYTES || !grpc_session_owes(c->session)) {
    c->taken = c->written;
    c->taken_ms = now;
  }
  return p->reader && now - c->taken_ms > p->reader * 1000;
}

static void expire_senders(Server *s) {
  int64_t now = clock_now_ns(), second = 1000000000;
  int64_t patience = (int64_t)s->config.patience.message * second;
  for (Request *r = s->requests, *next; patience && r; r = next) {
    next = r->next;
    if (r->state != RS_READING) continue;
    int64_t last = r->message_ns ? r->message_ns : r->received_ns;
    int64_t part = (int64_t)(grpc_stream_incomplete(r->stream) / SENDER_RATE) * second;
    int64_t all = (int64_t)(r->message_bytes / SENDER_RATE) * second + part;
    if (now - last > patience + part || now - r->received_ns > patience + all)
      request_finish(r,
                     FAIL(DEADLINE_EXCEEDED,
                          "the call was sent too slowly: %lld seconds without a message, or less "
                          "than %d bytes per second",
                          (long long)(patience / second), (int)SENDER_RATE));
  }
}

/* Clients that came together shall not come back together: between 90 and 110 % of the setting, by
 * the connection's number. */
static uint64_t age_limit_ms(const Connection *c) {
  uint64_t age = c->server->config.connection_age * 1000;
  uint64_t part = c->number * 0x9e3779b97f4a7c15u >> 44; /* 20 bits, spread evenly */
  return age ? age / 10 * 9 + age / 5 * part / (1u << 20) : UINT64_MAX;
}

/* The client goes on with another connection when it hears of it. What has begun is finished,
 * however long it takes; only what would never end is ended, a while later. */
static void retire(Connection *c, uint64_t now) {
  if (!c->retired_ms) {
    c->retired_ms = now;
    LOG_DEBUG("connection retired", "number=%llu age_ms=%llu limit_ms=%llu",
              (unsigned long long)c->number, (unsigned long long)(now - c->opened_ms),
              (unsigned long long)age_limit_ms(c));
    connection_drain(c);
  }
  if (now - c->retired_ms < c->server->config.grace * 1000) return;
  for (Request *r = c->server->requests, *next; r; r = next) {
    next = r->next;
    if (r->conn == c && r->state == RS_STREAMING && r->method->endless)
      request_finish(r, FAIL(UNAVAILABLE, "the connection is too old; call again on another"));
  }
}

/* Who makes no calls for a while holds nothing of what the last ones needed. */
static void rest(Connection *c, uint64_t now) {
  if (c->rested_ms == c->last_active_ms || now - c->last_active_ms < REST_MS) return;
  if (c->blocked || grpc_session_streams(c->session)) return;
  c->rested_ms = c->last_active_ms;
  grpc_session_rest(c->session);
  if (c->tls) tls_rest(c->tls);
}

static void expire(Connection *c, uint64_t now) {
  Server *s = c->server;
  const Patience *p = &s->config.patience;
  uint64_t idle = s->config.idle_connection;
  rest(c, now);
  if (c->ending) {
    if (now - c->ending_ms > LINGER_MS) connection_close(c);
  } else if (too_slow(c, p, now)) {
    s->metrics.connections_slow_total[0][0]++;
    connection_close(c);
  } else if (slow_head(c, p, now)) {
    hang_up(c, "its metadata came too slowly");
  } else if (slow_reader(c, p, now)) {
    hang_up(c, "it took answers too slowly");
  } else if (idle && !grpc_session_streams(c->session) && now - c->last_active_ms > idle * 1000) {
    connection_drain(c);
    begin_end(c);
  } else if (c->retired_ms || now - c->opened_ms > age_limit_ms(c)) {
    retire(c, now);
  }
}

void connections_expire(Server *s) {
  uint64_t now = uv_now(&s->loop);
  connections_flush(s); /* what waits after this waits for its reader */
  expire_senders(s);
  for (Connection *c = s->connections, *next; c; c = next) {
    next = c->next;
    expire(c, now);
  }
}

Status connections_load_tls(Server *s, const Config *c) {
  const TlsFiles files = {
      .certificate = c->tls_certificate, .key = c->tls_key, .ca = c->tls_client_ca};
  TlsContext *made = NULL;
  if (!*c->tls_certificate) return NULL;
  TRY(tls_server_context(&files, &made));
  tls_context_release(s->tls);
  s->tls = made;
  return NULL;
}
