/* Structured log lines in logfmt on stderr:
 *
 *   ts=2026-11-22T10:00:00.123Z level=info proc=kilnd msg="listening" addr=unix:/run/kiln/kiln.sock
 *
 * LOG_INFO("listening", "addr=%s", addr): the first argument is the message, the second a printf
 * format of key=value pairs (values that may hold spaces go through log_quote). One write(2) per
 * line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef enum LogLevel {
  LOG_LEVEL_DEBUG,
  LOG_LEVEL_INFO,
  LOG_LEVEL_WARN,
  LOG_LEVEL_ERROR,
  LOG_LEVEL_OFF
} LogLevel;

/* proc: static string naming this process ("kilnd", "worker:compile"). */
void log_init(const char *proc, LogLevel level);
void log_set_level(LogLevel level);
/* "debug", "info", "warn", "error", "off"; false for anything else. */
bool log_level_parse(const char *name, LogLevel *out);
bool log_enabled(LogLevel level);
void log_write(LogLevel level, const char *msg, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* An audit line, level=audit, whatever the threshold: action is what was done. */
void log_audit(const char *action, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Writes s as a quoted logfmt value into buf and returns buf. */
const char *log_quote(char *buf, size_t cap, const char *s);

#define LOG_AT(level, msg, ...)                                                                    \
  do {                                                                                             \
    if (log_enabled(level)) log_write(level, msg, __VA_ARGS__);                                    \
  } while (0)
#define LOG_DEBUG(msg, ...) LOG_AT(LOG_LEVEL_DEBUG, msg, __VA_ARGS__)
#define LOG_INFO(msg, ...)  LOG_AT(LOG_LEVEL_INFO, msg, __VA_ARGS__)
#define LOG_WARN(msg, ...)  LOG_AT(LOG_LEVEL_WARN, msg, __VA_ARGS__)
#define LOG_ERROR(msg, ...) LOG_AT(LOG_LEVEL_ERROR, msg, __VA_ARGS__)
