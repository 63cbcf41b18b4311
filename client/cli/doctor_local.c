/* The parts of the way that do not need a server: programs that lack a library say so when they are
 * started, drivers when they are asked, and the rest is in /proc and the file system. A program
 * that is tried has TRY_MS to end, because a driver may hang. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/machine.h"
#include "client/cli/doctor.h"

enum { TRY_MS = 10000, OUTPUT_MAX = 4096, DESCRIPTORS_MIN = 4096 };

/* -- programs -----------------------------------------------------------------------------------
 */

/* NAME in $KILN_BIN, beside this program, or in PATH (which execvp searches). */
static void find_program(const char *name, char *out, size_t cap) {
  const char *bin = getenv("KILN_BIN");
  char self[1024];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  self[n > 0 ? n : 0] = 0;
  char *slash = strrchr(self, '/');
  if (slash) *slash = 0;
  snprintf(out, cap, "%s/%s", bin && *bin ? bin : self, name);
  if (!(bin && *bin) && access(out, X_OK)) snprintf(out, cap, "%s", name);
}

static size_t read_until(int fd, char *out, size_t cap) {
  size_t n = 0;
  int64_t end = clock_now_ns() + TRY_MS * 1000000ll;
  for (;;) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int64_t left = (end - clock_now_ns()) / 1000000;
    if (left <= 0 || poll(&p, 1, (int)left) <= 0) break;
    ssize_t k = read(fd, out + n, cap - 1 - n);
    if (k <= 0) break;
    n += (size_t)k;
  }
  out[n] = 0;
  return n;
}

/* Runs "program argument"; out gets what it prints on both streams. The exit status, 128 and more
 * for a signal, 127 when it cannot be started. */
static int try_program(const char *program, const char *argument, char *out, size_t cap) {
  int fds[2], status = 0;
  out[0] = 0;
  if (pipe2(fds, O_CLOEXEC)) return 127;
  pid_t pid = fork();
  if (!pid) {
    dup2(fds[1], STDOUT_FILENO);
    dup2(fds[1], STDERR_FILENO);
    execlp(program, program, argument, (char *)NULL);
    _exit(127);
  }
  close(fds[1]);
  if (pid > 0) {
    read_until(fds[0], out, cap);
    kill(pid, SIGKILL); /* it has ended, or it hangs */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  }
  close(fds[0]);
  if (pid < 0) return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool check_program(Doctor *d, const char *name, const char *advice) {
  char path[1100], out[OUTPUT_MAX], text[OUTPUT_MAX + 1200];
  find_program(name, path, sizeof path);
  int rc = try_program(path, "--version", out, sizeof out);
  out[strcspn(out, "\n")] = 0;
  const char *version = strchr(out, ' ');
  /* a program that ended by itself may have been killed a moment later: what it said counts */
  bool starts = !strncmp(out, name, strlen(name)) && version && out[strlen(name)] == ' ';
  if (!starts) {
    snprintf(text, sizeof text, "%s does not start (%d): %s", path, rc,
             *out ? out : "it is not there");
    doctor_say(d, V_WARN, "programs", text, advice);
    return false;
  }
  if (strcmp(version + 1, kiln_version()) == 0) return true;
  snprintf(text, sizeof text, "%s is of version %s, kiln of %s", path, version + 1, kiln_version());
  doctor_say(d, V_WARN, "programs", text, "install both from one package");
  return false;
}

void doctor_programs(Doctor *d) {
  bool server =
      check_program(d, "kilnd", "install kilnd beside kiln, or set KILN_BIN to its folder");
  bool worker = check_program(
      d, "kiln-worker",
      "kiln-worker is linked with LLVM: install the runtime of the version that it was built with "
      "(libllvm19, libllvm18 or libllvm17), or unpack deploy/package.sh's archive, which has it");
  if (server && worker)
    doctor_say(d, V_OK, "programs", "kilnd and kiln-worker start, LLVM with them", NULL);
}

/* -- devices ------------------------------------------------------------------------------------
 */

static bool any_nvidia(void) {
  return !access("/dev/nvidiactl", F_OK) || !access("/proc/driver/nvidia/version", F_OK);
}

/* A line of `kiln-worker devices`: "NAME", or "# NAME: why not". */
static void device_line(Doctor *d, const char *line) {
  char text[600];
  if (*line != '#') {
    snprintf(text, sizeof text, "%.200s can be used", line);
    doctor_say(d, V_OK, "hardware", text, NULL);
    return;
  }
  bool cuda = strstr(line, "cuda") != NULL;
  snprintf(text, sizeof text, "not used: %.500s", line + 1 + (line[1] == ' '));
  if (cuda && any_nvidia())
    doctor_say(d, V_WARN, "hardware", text,
               "there is an NVIDIA device here: install its driver (libcuda.so.1), and see that "
               "this user may open /dev/nvidia*");
  else
    doctor_say(d, V_OK, "hardware", text, NULL);
}

void doctor_devices(Doctor *d) {
  char path[1100], out[OUTPUT_MAX], *rest = out;
  find_program("kiln-worker", path, sizeof path);
  try_program(path, "devices", out, sizeof out);
  if (!strstr(out, "cpu:0")) return; /* the programs were complained about already */
  for (char *line; (line = strsep(&rest, "\n"));)
    if (*line) device_line(d, line);
}

/* -- limits -------------------------------------------------------------------------------------
 */

void doctor_limits(Doctor *d) {
  const unsigned long long enough = 2ull << 30;
  struct rlimit files = {0, 0};
  char text[200], size[CLI_NUMBER];
  int before = d->warnings;
  getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_max < DESCRIPTORS_MIN) {
    snprintf(text, sizeof text, "at most %llu open files", (unsigned long long)files.rlim_max);
    doctor_say(d, V_WARN, "limits", text,
               "each connection, executable and buffer takes one: raise the hard limit "
               "(LimitNOFILE=, ulimit -Hn)");
  }
  unsigned long long memory = machine_memory();
  if (memory && memory < enough) {
    snprintf(text, sizeof text, "this machine or control group has %s of memory",
             cli_bytes(memory, size));
    doctor_say(d, V_WARN, "limits", text,
               "large models will not compile, and the limits of kilnd are small by default");
  }
  if (access("/proc/sys/kernel/seccomp/actions_avail", F_OK))
    doctor_say(d, V_FAIL, "limits", "this kernel has no seccomp",
               "workers refuse to start without their sandbox");
  if (before == d->warnings)
    doctor_say(d, V_OK, "limits", "descriptors, memory and sandbox suffice", NULL);
}

/* -- files --------------------------------------------------------------------------------------
 */

void doctor_socket(Doctor *d, const char *path) {
  struct stat st;
  char text[400];
  if (stat(path, &st)) {
    snprintf(text, sizeof text, "%.200s: %s", path, strerror(errno));
    doctor_say(d, V_FAIL, "socket", text,
               errno == EACCES ? "a folder on the way may not be entered by this user"
                               : "no server has made it: is kilnd (or kilnd.socket) running?");
    return;
  }
  if (!S_ISSOCK(st.st_mode)) {
    snprintf(text, sizeof text, "%.200s is no socket", path);
    doctor_say(d, V_FAIL, "socket", text, "something else has this name");
    return;
  }
  bool may = !access(path, W_OK);
  snprintf(text, sizeof text,
           "%.200s belongs to user %u, group %u, with mode %04o; you are user %u", path,
           (unsigned)st.st_uid, (unsigned)st.st_gid, (unsigned)st.st_mode & 0777,
           (unsigned)getuid());
  doctor_say(d, V_FAIL, "socket", text,
             may ? "nobody accepts there: the server that made it is gone, or has too much to do"
                 : "you may not connect: socket_mode, or SocketMode= and SocketGroup= of "
                   "kilnd.socket");
}

void doctor_disk(Doctor *d, const char *cache) {
  enum { NFS = 0x6969, SMB2 = (int)0xfe534d42 };
  const uint64_t little = 256ull << 20;
  struct statfs fs;
  char folder[1100], text[1300], size[CLI_NUMBER];
  snprintf(folder, sizeof folder, "%s", cache);
  char *slash = strrchr(folder, '/');
  if (slash) *slash = 0;
  if (!slash || statfs(folder, &fs)) return; /* another machine's, or not for us to see */
  uint64_t left = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
  snprintf(text, sizeof text, "%s left in %s", cli_bytes(left, size), folder);
  if ((int)fs.f_type == NFS || (int)fs.f_type == SMB2)
    doctor_say(
        d, V_WARN, "disk", text,
        "this is a network file system, whose locks a database cannot rely on: put the cache "
        "on a local disk");
  else if (left < little)
    doctor_say(d, V_WARN, "disk", text, "the cache cannot grow; free some space");
  else
    doctor_say(d, V_OK, "disk", text, NULL);
}
