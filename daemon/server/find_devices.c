/* Drivers are foreign code: kilnd never loads one, it asks a process that ends again, before
 * anything serves. What that process prints is believed as far as it has the form of a name; one
 * that hangs is killed, and what it has said until then counts. */
#include "daemon/server/find_devices.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { ANSWER_MAX = 8 << 10 };
static const int64_t limit_ns = 10000000000;
extern char **environ;

/* "cuda:0": letters, a colon, up to three digits. */
static bool is_name(const char *s) {
  size_t letters = strspn(s, "abcdefghijklmnopqrstuvwxyz");
  if (!letters || letters > 16 || s[letters] != ':') return false;
  const char *digits = s + letters + 1;
  size_t n = strspn(digits, "0123456789");
  return n && n <= 3 && !digits[n];
}

static Status add(ConfigList *to, const char *name) {
  for (size_t i = 0; i < to->len; i++)
    if (!strcmp(to->at[i], name)) return NULL;
  if (to->len == CONFIG_LIST_MAX) {
    LOG_WARN("a device is left out", "device=%s most=%d", name, CONFIG_LIST_MAX);
    return NULL;
  }
  to->at[to->len] = strdup(name);
  if (!to->at[to->len]) return FAIL(RESOURCE_EXHAUSTED, "settings");
  to->len++;
  return NULL;
}

static Status start(const char *program, int out, pid_t *pid) {
  char *const argv[] = {(char *)(uintptr_t)program, (char *)(uintptr_t) "devices", NULL};
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions)) return FAIL(RESOURCE_EXHAUSTED, "spawn actions");
  int e = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  if (!e) e = posix_spawn(pid, program, &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  return e ? FAIL(UNAVAILABLE, "%s: %s", program, strerror(e)) : NULL;
}

/* Reads until the end, the limit, or too much; *out ends with a zero byte. */
static bool read_answer(int fd, char out[ANSWER_MAX], size_t *n) {
  int64_t end = clock_now_ns() + limit_ns, left;
  *n = 0;
  while ((left = end - clock_now_ns()) > 0 && *n < ANSWER_MAX - 1) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int ready = poll(&p, 1, (int)(left / 1000000) + 1);
    if (ready < 0 && errno != EINTR) break;
    if (ready <= 0) continue;
    ssize_t got = read(fd, out + *n, ANSWER_MAX - 1 - *n);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return out[*n] = 0, got == 0;
    *n += (size_t)got;
  }
  return out[*n] = 0, false;
}

static Status take(char *text, ConfigList *to) {
  for (char *line = text, *end; *line && (end = strchr(line, '\n')); line = end + 1) {
    *end = 0;
    if (is_name(line))
      TRY(add(to, line));
    else
      LOG_INFO("no device", "what=\"%s\"", *line == '#' ? line + 1 : line);
  }
  return NULL;
}

static Status ask(const char *program, char answer[ANSWER_MAX]) {
  int fds[2];
  pid_t pid;
  size_t n;
  if (pipe2(fds, O_CLOEXEC)) return FAIL(RESOURCE_EXHAUSTED, "a pipe: %s", strerror(errno));
  Status st = start(program, fds[1], &pid);
  close(fds[1]);
  if (!st) {
    bool ended = read_answer(fds[0], answer, &n);
    if (!ended) {
      LOG_WARN("looking for devices takes too long", "seconds=%lld",
               (long long)(limit_ns / 1000000000));
      kill(pid, SIGKILL);
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
  }
  close(fds[0]);
  return st;
}

Status find_devices(const char *program, ConfigList *devices) {
  ConfigList found = {.len = 0};
  char answer[ANSWER_MAX];
  Status st = NULL;
  for (size_t i = 0; i < devices->len && !st; i++) {
    if (strcmp(devices->at[i], "auto")) {
      st = add(&found, devices->at[i]);
      continue;
    }
    *answer = 0;
    Status asked = ask(program, answer);
    char text[400];
    status_text(asked, text, sizeof text);
    if (asked) LOG_WARN("devices cannot be looked for", "error=\"%s\"", text);
    status_drop(asked);
    st = add(&found, "cpu:0");
    if (!st) st = take(answer, &found);
  }
  for (size_t i = 0; i < devices->len; i++) free(devices->at[i]);
  *devices = found;
  return st;
}
