/* Lines are built in a stack buffer and written with one write(2), so lines of several processes
 * that share a stderr do not interleave; a line over 2 KiB is cut. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048 };

static const char *process_name = "kiln";
static LogLevel threshold = LOG_LEVEL_INFO;
static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

void log_init(const char *proc, LogLevel level) {
  process_name = proc;
  threshold = level;
}

void log_set_level(LogLevel level) { threshold = level; }

bool log_level_parse(const char *name, LogLevel *out) {
  for (int i = 0; i <= LOG_LEVEL_OFF; i++)
    if (!strcmp(name, level_names[i])) return *out = (LogLevel)i, true;
  return false;
}

bool log_enabled(LogLevel level) { return level >= threshold; }

const char *log_quote(char *buf, size_t cap, const char *s) {
  size_t n = 0;
  if (cap < 3) return "\"\"";
  buf[n++] = '"';
  for (; *s && n + 3 < cap; s++) {
    if (*s == '"' || *s == '\\') buf[n++] = '\\';
    buf[n++] = (unsigned char)*s < ' ' ? ' ' : *s;
  }
  buf[n++] = '"';
  buf[n] = 0;
  return buf;
}

/* "ts=... level=... proc=... KEY=TITLE fields\n" */
__attribute__((format(printf, 4, 0))) static void
write_line(const char *level, const char *key, const char *title, const char *fmt, va_list ap) {
  char line[LINE_MAX_BYTES], quoted[512];
  struct timespec now;
  struct tm tm;
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &tm);
  size_t n = strftime(line, sizeof line, "ts=%Y-%m-%dT%H:%M:%S", &tm);
  n += (size_t)snprintf(line + n, sizeof line - n, ".%03dZ level=%s proc=%s %s=%s ",
                        (int)(now.tv_nsec / 1000000), level, process_name, key,
                        log_quote(quoted, sizeof quoted, title));
  int k = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
  if (k > 0) n += (size_t)k < sizeof line - n - 1 ? (size_t)k : sizeof line - n - 2;
  line[n++] = '\n';
  ssize_t written = write(STDERR_FILENO, line, n);
  (void)written; /* a log line that cannot be written has nowhere to be reported */
}

void log_write(LogLevel level, const char *msg, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  write_line(level_names[level], "msg", msg, fmt, ap);
  va_end(ap);
}

void log_audit(const char *action, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  write_line("audit", "action", action, fmt, ap);
  va_end(ap);
}
