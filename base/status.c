/* Status notes live on the heap, one malloc per note and one per text. When the heap is exhausted
 * the answer is one static note, recognised by address and never freed, so that a failure can
 * always be reported. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static StatusNote out_of_memory = {
    .code = ST_RESOURCE_EXHAUSTED, .line = 0, .file = "base/status.c", .text = "out of memory"};

static const char *const code_names[ST__COUNT] = {
    [ST_OK] = "OK",
    [ST_CANCELLED] = "CANCELLED",
    [ST_UNKNOWN] = "UNKNOWN",
    [ST_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [ST_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [ST_NOT_FOUND] = "NOT_FOUND",
    [ST_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [ST_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [ST_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [ST_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [ST_ABORTED] = "ABORTED",
    [ST_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [ST_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [ST_INTERNAL] = "INTERNAL",
    [ST_UNAVAILABLE] = "UNAVAILABLE",
    [ST_DATA_LOSS] = "DATA_LOSS",
    [ST_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

Status status_new(StatusCode code, Status inner, const char *file, int line, const char *fmt, ...) {
  StatusNote *note = calloc(1, sizeof *note);
  va_list ap;
  va_start(ap, fmt);
  int len = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  char *text = note && len >= 0 ? malloc((size_t)len + 1) : NULL;
  if (!text) {
    free(note);
    status_drop(inner);
    return &out_of_memory;
  }
  va_start(ap, fmt);
  vsnprintf(text, (size_t)len + 1, fmt, ap);
  va_end(ap);
  *note = (StatusNote){.code = code, .line = line, .file = file, .text = text, .inner = inner};
  return note;
}

StatusCode status_code(const StatusNote *st) { return st ? st->code : ST_OK; }

size_t status_text(const StatusNote *st, char *buf, size_t cap) {
  size_t len = 0;
  if (cap) buf[0] = 0;
  for (const StatusNote *n = st; n; n = n->inner) {
    int k = snprintf(len < cap ? buf + len : NULL, len < cap ? cap - len : 0, "%s%s",
                     n == st ? "" : ": ", n->text);
    if (k > 0) len += (size_t)k;
  }
  return len;
}

Status status_retry(Status st, int64_t ns) {
  const int64_t least = 1000000, most = 3600 * (int64_t)1000000000;
  if (st == &out_of_memory) return st;
  st->retry_ns = ns < 0 ? -1 : ns < least ? least : ns > most ? most : ns;
  return st;
}

int64_t status_retry_ns(const StatusNote *st) {
  while (st && !st->retry_ns) st = st->inner;
  return st ? st->retry_ns : 0;
}

void status_drop(Status st) {
  while (st && st != &out_of_memory) {
    Status inner = st->inner;
    free(st->text);
    free(st);
    st = inner;
  }
}

const char *status_code_name(StatusCode code) {
  return (unsigned)code < ST__COUNT ? code_names[code] : "UNKNOWN";
}
