/* Which server a client talks to, and starting the user's own.
 *
 * The user's own socket lies in a folder that only the user can write; a folder that anybody else
 * could have prepared is refused, because whoever listens there sees the user's models. The daemon
 * is started detached (double fork, own session), with its output in kilnd.log beside the socket;
 * that it listens is found out by connecting. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/c/internal.h"

#define IDLE_EXIT_SECONDS "3600"

const char *address_path(const Address *a) { return a->text + strlen("unix:"); }

size_t kiln_default_address(char *buf, size_t cap) {
  const char *server = getenv("KILN_SERVER"), *runtime = getenv("XDG_RUNTIME_DIR");
  int n;
  if (server && *server)
    n = snprintf(buf, cap, "%s", server);
  else if (runtime && *runtime == '/')
    n = snprintf(buf, cap, "unix:%s/kiln/kiln.sock", runtime);
  else
    n = snprintf(buf, cap, "unix:/tmp/kiln-%u/kiln.sock", (unsigned)getuid());
  return n < 0 ? 0 : (size_t)n;
}

static Status parse_unix(Address *a) {
  struct sockaddr_un un;
  const char *path = address_path(a);
  if (!strncmp(path, "//", 2)) path += 2; /* unix:///absolute/path */
  memmove(a->text + strlen("unix:"), path, strlen(path) + 1);
  path = address_path(a);
  if (!*path) return FAIL(INVALID_ARGUMENT, "server address 'unix:' names no path");
  if (strlen(path) >= sizeof un.sun_path)
    return FAIL(INVALID_ARGUMENT, "socket path '%s' is %zu bytes long, at most %zu are possible",
                path, strlen(path), sizeof un.sun_path - 1);
  a->is_unix = true;
  return NULL;
}

static Status parse_tcp(Address *a) {
  const char *host = a->text, *colon = strrchr(a->text, ':');
  size_t n = colon ? (size_t)(colon - host) : 0;
  if (n >= 2 && host[0] == '[' && host[n - 1] == ']') host++, n -= 2;
  if (!n || n >= sizeof a->host || !colon[1] || strlen(colon + 1) >= sizeof a->port ||
      memchr(host, '/', n))
    return FAIL(INVALID_ARGUMENT, "server address '%s': expected unix:PATH or HOST:PORT", a->text);
  memcpy(a->host, host, n);
  memcpy(a->port, colon + 1, strlen(colon + 1));
  return NULL;
}

Status address_resolve(const char *text, Address *out) {
  const char *server = getenv("KILN_SERVER");
  *out = (Address){.own = !text && !(server && *server)};
  size_t n = text ? (size_t)snprintf(out->text, sizeof out->text, "%s", text)
                  : kiln_default_address(out->text, sizeof out->text);
  if (n >= sizeof out->text) return FAIL(INVALID_ARGUMENT, "server address is %zu bytes long", n);
  return strncmp(out->text, "unix:", 5) ? parse_tcp(out) : parse_unix(out);
}

static Status folder_of(const Address *a, char buf[sizeof(a->text)]) {
  snprintf(buf, sizeof a->text, "%s", address_path(a));
  char *slash = strrchr(buf, '/');
  if (!slash) return FAIL(INVALID_ARGUMENT, "socket path '%s' has no folder", buf);
  *slash = 0;
  return NULL;
}

Status address_check_folder(const Address *a) {
  char folder[sizeof a->text];
  struct stat st;
  TRY(folder_of(a, folder));
  if (lstat(folder, &st)) return NULL;
  if (S_ISDIR(st.st_mode) && st.st_uid == getuid() && !(st.st_mode & 022)) return NULL;
  return FAIL(PERMISSION_DENIED, "%s must be a folder that only this user can write", folder);
}

/* -- starting -------------------------------------------------------------------------------------
 */

static bool executable_in(const char *folder, size_t n, char *out, size_t cap) {
  int k = snprintf(out, cap, "%.*s/kilnd", (int)n, folder);
  return k > 0 && (size_t)k < cap && !access(out, X_OK);
}

static bool beside_us(char *out, size_t cap) {
  char self[1024];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0) return false;
  self[n] = 0;
  char *slash = strrchr(self, '/');
  return slash && executable_in(self, (size_t)(slash - self), out, cap);
}

static bool find_kilnd(char *out, size_t cap) {
  const char *bin = getenv("KILN_BIN"), *path = getenv("PATH");
  if (bin && *bin) return executable_in(bin, strlen(bin), out, cap);
  if (beside_us(out, cap)) return true;
  while (path && *path) {
    size_t n = strcspn(path, ":");
    if (n && executable_in(path, n, out, cap)) return true;
    path += n + (path[n] == ':');
  }
  return false;
}

/* In the grandchild: only calls that are safe after fork. */
_Noreturn static void become_kilnd(const char *program, const char *listen, int log_fd,
                                   int report) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  dup2(null, STDIN_FILENO);
  dup2(log_fd >= 0 ? log_fd : null, STDOUT_FILENO);
  dup2(log_fd >= 0 ? log_fd : null, STDERR_FILENO);
  execl(program, "kilnd", "--listen", listen, "--idle-exit", IDLE_EXIT_SECONDS, (char *)NULL);
  int error = errno;
  ssize_t n = write(report, &error, sizeof error);
  _exit(n == sizeof error ? 127 : 126);
}

/* Runs program detached; the errno of exec, or 0. */
static int launch(const char *program, const char *listen, int log_fd) {
  int report[2], error = 0;
  if (pipe2(report, O_CLOEXEC)) return errno;
  pid_t pid = fork();
  if (pid < 0) error = errno;
  if (!pid) {
    setsid();
    pid_t inner = fork();
    if (!inner) become_kilnd(program, listen, log_fd, report[1]);
    _exit(inner < 0 ? 1 : 0);
  }
  close(report[1]);
  if (pid > 0) {
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
    ssize_t n;
    while ((n = read(report[0], &error, sizeof error)) < 0 && errno == EINTR) continue;
    if (n != sizeof error) error = 0; /* exec closed the pipe */
  }
  close(report[0]);
  return error;
}

Status address_spawn(const Address *a) {
  char program[1100], folder[sizeof a->text], log_path[sizeof folder + 16];
  if (!find_kilnd(program, sizeof program))
    return FAIL(
        UNAVAILABLE,
        "no server is listening on %s, and kilnd was not found (looked in $KILN_BIN, beside "
        "this program and in PATH) to start one",
        a->text);
  TRY(folder_of(a, folder));
  if (mkdir(folder, 0700) && errno != EEXIST)
    return FAIL(UNAVAILABLE, "making %s for the daemon's socket: %s", folder, strerror(errno));
  TRY(address_check_folder(a));
  snprintf(log_path, sizeof log_path, "%s/kilnd.log", folder);
  int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  int error = launch(program, a->text, log_fd);
  if (log_fd >= 0) close(log_fd);
  if (error) return FAIL(UNAVAILABLE, "starting %s: %s", program, strerror(error));
  return NULL;
}
