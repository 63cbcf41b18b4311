/* A socket file whose server is dead refuses connections, so connecting to it tells a stale one
 * from a live one. Two servers that start at once are kept apart by a lock on a file beside the
 * socket, held for the server's life. */
#include "daemon/server/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/server/connection.h"
#include "daemon/server/descriptors.h"
#include "daemon/server/http.h"

enum { BACKLOG = 512, ACCEPTS_PER_WAKE = 64 };

struct Listener {
  Server *server;
  Listener *next;
  uv_poll_t poll;
  int fd, lock;
  bool tcp, http;
  bool paused;    /* accepts nobody until listeners_resume: out of descriptors, or not ready */
  char path[108]; /* of a Unix socket; "" otherwise */
};

static Status os_error(const char *what, const char *where) {
  return FAIL(UNAVAILABLE, "%s %s: %s", what, where, strerror(errno));
}

/* -- Unix sockets -------------------------------------------------------------------------------
 */

/* Makes the missing directories of path, each 0700. */
static Status make_parent(const char *path) {
  char dir[108];
  struct stat st;
  snprintf(dir, sizeof dir, "%s", path);
  char *slash = strrchr(dir, '/');
  if (!slash || slash == dir) return NULL;
  *slash = 0;
  if (!stat(dir, &st)) return NULL;
  TRY(make_parent(dir));
  return mkdir(dir, 0700) && errno != EEXIST ? os_error("making the directory", dir) : NULL;
}

static Status take_lock(Listener *l) {
  char name[sizeof l->path + 8];
  snprintf(name, sizeof name, "%s.lock", l->path);
  l->lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (l->lock < 0) return os_error("opening", name);
  if (!flock(l->lock, LOCK_EX | LOCK_NB)) return NULL;
  return FAIL(UNAVAILABLE, "another server listens on %s already", l->path);
}

/* Removes a socket that nobody answers on. */
static Status remove_stale(const struct sockaddr_un *addr) {
  struct stat st;
  if (lstat(addr->sun_path, &st)) return NULL;
  if (!S_ISSOCK(st.st_mode))
    return FAIL(UNAVAILABLE, "%s exists and is not a socket", addr->sun_path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool alive = fd >= 0 && !connect(fd, (const struct sockaddr *)addr, sizeof *addr);
  if (fd >= 0) close(fd);
  if (alive) return FAIL(UNAVAILABLE, "another server listens on %s already", addr->sun_path);
  return unlink(addr->sun_path) ? os_error("removing the stale socket", addr->sun_path) : NULL;
}

static Status open_unix(Listener *l) {
  struct sockaddr_un addr = {.sun_family = AF_UNIX};
  memcpy(addr.sun_path, l->path, sizeof l->path);
  TRY(make_parent(l->path));
  TRY(take_lock(l));
  TRY(remove_stale(&addr));
  l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (l->fd < 0) return os_error("socket", l->path);
  mode_t mask = umask(0777 & ~(mode_t)l->server->config.socket_mode);
  int failed = bind(l->fd, (struct sockaddr *)&addr, sizeof addr);
  umask(mask);
  if (failed) return os_error("binding", l->path);
  return NULL;
}

/* -- TCP ----------------------------------------------------------------------------------------
 */

static Status open_tcp(Listener *l, const char *address) {
  char host[256];
  const char *colon = strrchr(address, ':');
  struct addrinfo hints = {
      .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
  struct addrinfo *found;
  size_t n = colon ? (size_t)(colon - address) : 0;
  if (!colon || n >= sizeof host) return FAIL(INVALID_ARGUMENT, "address '%s'", address);
  snprintf(host, sizeof host, "%.*s", (int)n, address);
  if (host[0] == '[' && host[n - 1] == ']') {
    host[n - 1] = 0;
    memmove(host, host + 1, n - 1);
  }
  int error = getaddrinfo(host, colon + 1, &hints, &found);
  if (error) return FAIL(INVALID_ARGUMENT, "address '%s': %s", address, gai_strerror(error));
  int one = 1, failed = 0;
  l->fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (l->fd >= 0) {
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    failed = bind(l->fd, found->ai_addr, found->ai_addrlen);
  }
  freeaddrinfo(found);
  l->tcp = true;
  return l->fd < 0 || failed ? os_error("binding", address) : NULL;
}

/* -- accepting ----------------------------------------------------------------------------------
 */

/* Whoever wants to connect waits in the kernel's queue. */
static void pause_accepting(Listener *l, const char *why) {
  LOG_ERROR("accepting stops for a second", "error=\"%s\"", why);
  uv_poll_stop(&l->poll);
  l->paused = true;
}

/* What connections of one machine have in common, never 0: an IPv4 address, or the network of an
 * IPv6 address, of which everybody has as many as he wants. 0 for anything else. */
static uint64_t address_of(const struct sockaddr_storage *a) {
  const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)a;
  const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)a;
  uint32_t word;
  uint64_t network;
  if (a->ss_family == AF_INET) return 1ull << 32 | v4->sin_addr.s_addr;
  if (a->ss_family != AF_INET6) return 0;
  memcpy(&word, v6->sin6_addr.s6_addr + 12, sizeof word);
  if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) return 1ull << 32 | word;
  memcpy(&network, v6->sin6_addr.s6_addr, sizeof network);
  return network ? network : 1;
}

/* A flood of connections is no flood of lines. */
static void refused(Server *s, Status st) {
  enum { TELL_MS = 1000 };
  uint64_t now = uv_now(&s->loop);
  char text[128];
  if (!st) return;
  status_text(st, text, sizeof text);
  s->metrics.connections_refused_total[0][0]++;
  if (now - s->refusal_told_ms >= TELL_MS) {
    s->refusal_told_ms = now;
    LOG_WARN("connection refused", "reason=\"%s\" so_far=%llu", text,
             (unsigned long long)s->metrics.connections_refused_total[0][0]);
  }
  status_drop(st);
}

static void on_incoming(uv_poll_t *poll, int status, int events) {
  Listener *l = poll->data;
  Server *s = l->server;
  int one = 1;
  (void)status;
  (void)events;
  for (int i = 0; i < ACCEPTS_PER_WAKE; i++) {
    struct sockaddr_storage from = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof from;
    Status full = descriptors_check(l->fd);
    int fd =
        full ? -1 : accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (!full && fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)) return;
    if (fd < 0) {
      pause_accepting(l, full ? full->text : strerror(errno));
      status_drop(full);
      return;
    }
    if (l->http) {
      http_open(s, fd);
      continue;
    }
    if (l->tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    refused(s, connection_open(s, fd, l->tcp ? address_of(&from) : 0));
  }
}

static void on_closed(uv_handle_t *handle) { free(handle->data); }

static void discard(Listener *l) {
  if (l->fd >= 0) close(l->fd);
  if (l->lock >= 0) close(l->lock);
  free(l);
}

static Status start(Listener *l) {
  if (listen(l->fd, BACKLOG)) return os_error("listening on", l->path);
  int error = uv_poll_init(&l->server->loop, &l->poll, l->fd);
  if (error) return FAIL(UNAVAILABLE, "uv_poll_init: %s", uv_strerror(error));
  l->poll.data = l;
  if (!l->paused) uv_poll_start(&l->poll, UV_READABLE, on_incoming);
  return NULL;
}

/* What is passed is as trusted as the configuration, but a mistake in a unit file must not open a
 * port to the world that the configuration would refuse to. */
static Status check_adopted(const Server *s, int fd, bool http, bool *tcp) {
  int listening = 0, type = 0;
  socklen_t n = sizeof listening, m = sizeof type;
  struct sockaddr_storage addr = {.ss_family = AF_UNSPEC};
  socklen_t len = sizeof addr;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) ||
      getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &m) || type != SOCK_STREAM || !listening ||
      getsockname(fd, (struct sockaddr *)&addr, &len))
    return FAIL(INVALID_ARGUMENT, "descriptor %d was passed, which is no listening stream socket",
                fd);
  const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)&addr;
  const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)&addr;
  bool loopback = (addr.ss_family == AF_INET && ntohl(v4->sin_addr.s_addr) >> 24 == 127) ||
                  (addr.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr));
  *tcp = addr.ss_family != AF_UNIX;
  if (*tcp && !http && !loopback && !s->config.insecure_tcp && !s->tls)
    return FAIL(INVALID_ARGUMENT,
                "descriptor %d was passed, which is reachable from outside in plain text; set "
                "certificate and key in [tls], or insecure_tcp = true if that is meant",
                fd);
  return NULL;
}

Status listener_adopt(Server *s, int fd, bool http) {
  bool tcp = false;
  Listener *l = calloc(1, sizeof *l);
  Status st = l ? check_adopted(s, fd, http, &tcp) : FAIL(RESOURCE_EXHAUSTED, "listener");
  if (st) {
    free(l);
    return st;
  }
  *l = (Listener){.server = s, .fd = fd, .lock = -1, .http = http, .tcp = tcp, .paused = !http};
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  st = start(l);
  if (st) {
    discard(l);
    return st;
  }
  l->next = s->listeners;
  s->listeners = l;
  LOG_INFO("listening", "fd=%d for=%s", fd, http ? "metrics" : "calls");
  return NULL;
}

Status listener_open(Server *s, const char *address, bool http) {
  Listener *l = calloc(1, sizeof *l);
  if (!l) return FAIL(RESOURCE_EXHAUSTED, "listener");
  *l = (Listener){.server = s, .fd = -1, .lock = -1, .http = http};
  bool unix_socket = !strncmp(address, "unix:", 5);
  if (unix_socket) snprintf(l->path, sizeof l->path, "%s", address + 5);
  Status st = unix_socket ? open_unix(l) : open_tcp(l, address);
  if (!st) st = start(l);
  if (st) {
    discard(l);
    return st;
  }
  l->next = s->listeners;
  s->listeners = l;
  LOG_INFO("listening", "addr=%s for=%s", address, http ? "metrics" : "calls");
  return NULL;
}

void listeners_resume(Server *s) {
  for (Listener *l = s->listeners; l; l = l->next)
    if (l->paused) {
      l->paused = false;
      uv_poll_start(&l->poll, UV_READABLE, on_incoming);
    }
}

void listeners_close(Server *s, bool all) {
  for (Listener **at = &s->listeners, *l; (l = *at);) {
    if (l->http && !all) {
      at = &l->next;
      continue;
    }
    *at = l->next;
    if (l->path[0]) unlink(l->path);
    uv_close((uv_handle_t *)&l->poll, on_closed);
    close(l->fd);
    if (l->lock >= 0) close(l->lock);
  }
}
