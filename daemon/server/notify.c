/* A datagram that cannot be sent is lost: the manager notices by its own timeouts, and a daemon
 * that stopped for want of being watched would be worse. */
#include "daemon/server/notify.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MESSAGE_MAX = 512, FIRST_FD = 3 };

/* A whole decimal number of a variable; 0 when there is none. */
static unsigned long long number(const char *variable) {
  const char *text = getenv(variable);
  char *end;
  unsigned long long n = text ? strtoull(text, &end, 10) : 0;
  return text && *text && !*end ? n : 0;
}

/* A path or, after '@', an abstract name. */
static int connect_to(const char *path) {
  struct sockaddr_un addr = {.sun_family = AF_UNIX};
  size_t n = strlen(path);
  if ((*path != '/' && *path != '@') || n < 2 || n >= sizeof addr.sun_path) return -1;
  memcpy(addr.sun_path, path, n);
  if (*path == '@') addr.sun_path[0] = 0;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
  if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, len)) {
    close(fd);
    fd = -1;
  }
  return fd;
}

void notify_open(Notify *n) {
  const char *path = getenv("NOTIFY_SOCKET");
  unsigned long long watchdog = number("WATCHDOG_USEC"), pid = number("WATCHDOG_PID");
  *n = (Notify){.fd = path ? connect_to(path) : -1};
  /* twice as often as is asked for, so that one late turn of the loop does no harm */
  if (n->fd >= 0 && (!pid || pid == (unsigned long long)getpid())) n->watchdog_ms = watchdog / 2000;
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
  unsetenv("WATCHDOG_PID");
}

void notify_close(Notify *n) {
  if (n->fd >= 0) close(n->fd);
  n->fd = -1;
}

void notify_send(const Notify *n, const char *fmt, ...) {
  char text[MESSAGE_MAX];
  va_list ap;
  if (n->fd < 0) return;
  va_start(ap, fmt);
  int len = vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (len <= 0 || (size_t)len >= sizeof text) return;
  ssize_t sent = send(n->fd, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
  (void)sent;
}

/* -- sockets ------------------------------------------------------------------------------------
 */

size_t activation_take(ActivationSocket out[ACTIVATION_MAX]) {
  unsigned long long n = number("LISTEN_FDS");
  const char *names = getenv("LISTEN_FDNAMES");
  if (number("LISTEN_PID") != (unsigned long long)getpid()) n = 0;
  if (n > ACTIVATION_MAX) n = ACTIVATION_MAX;
  for (size_t i = 0; i < n; i++) {
    size_t len = names ? strcspn(names, ":") : 0;
    out[i].fd = FIRST_FD + (int)i;
    fcntl(out[i].fd, F_SETFD, FD_CLOEXEC);
    snprintf(out[i].name, sizeof out[i].name, "%.*s", (int)len, names ? names : "");
    if (names) names += len + (names[len] == ':');
  }
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
  unsetenv("LISTEN_FDNAMES");
  return (size_t)n;
}
