/* Errors as values.
 *
 * A Status is a pointer; NULL is success. A failure is a chain of notes, innermost cause last, each
 * with a gRPC code, the place that made it and a text for the caller. The code of the outermost
 * note is what the RPC trailer carries.
 *
 * Ownership: exactly one owner. TRY returns it to the caller, WRAP consumes the inner one,
 * status_drop frees it. A Status is never ignored (warn_unused_result). */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The canonical gRPC status codes (grpc/doc/statuscodes.md). */
typedef enum StatusCode {
  ST_OK = 0,
  ST_CANCELLED = 1,
  ST_UNKNOWN = 2,
  ST_INVALID_ARGUMENT = 3,
  ST_DEADLINE_EXCEEDED = 4,
  ST_NOT_FOUND = 5,
  ST_ALREADY_EXISTS = 6,
  ST_PERMISSION_DENIED = 7,
  ST_RESOURCE_EXHAUSTED = 8,
  ST_FAILED_PRECONDITION = 9,
  ST_ABORTED = 10,
  ST_OUT_OF_RANGE = 11,
  ST_UNIMPLEMENTED = 12,
  ST_INTERNAL = 13,
  ST_UNAVAILABLE = 14,
  ST_DATA_LOSS = 15,
  ST_UNAUTHENTICATED = 16,
  ST__COUNT
} StatusCode;

typedef struct StatusNote StatusNote;
struct StatusNote {
  StatusCode code;
  int line;
  const char *file;  /* static storage */
  char *text;        /* owned */
  StatusNote *inner; /* owned; NULL at the root cause */
  int64_t retry_ns;  /* when trying again makes sense, from now; 0 = not known, -1 = never */
};
typedef StatusNote *Status;

#define FAIL(code, ...) status_made(status_new(ST_##code, NULL, __FILE__, __LINE__, __VA_ARGS__))
#define WRAP(st, ...)   status_made(status_new((st)->code, (st), __FILE__, __LINE__, __VA_ARGS__))
#define TRY(expr)                                                                                  \
  do {                                                                                             \
    Status try_ = (expr);                                                                          \
    if (try_) return try_;                                                                         \
  } while (0)

/* Makes a note. Never returns NULL: when memory is out it returns a static RESOURCE_EXHAUSTED note.
 * Takes ownership of inner. */
Status status_new(StatusCode code, Status inner, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 5, 6), returns_nonnull, warn_unused_result));

/* Tells analysers, which do not follow status_new, that a failure is never NULL. */
static inline __attribute__((warn_unused_result)) Status status_made(Status st) {
  if (!st) __builtin_unreachable();
  return st;
}

/* ST_OK for NULL. */
StatusCode status_code(const StatusNote *st);

/* Writes "outer: inner: innermost" into buf (always terminated when cap > 0); returns the length
 * that the whole text has. */
size_t status_text(const StatusNote *st, char *buf, size_t cap);

/* The same failure, worth another try in so long, 1 ms to an hour; below 0: never. Returns st. */
Status status_retry(Status st, int64_t ns)
    __attribute__((nonnull, returns_nonnull, warn_unused_result));
/* What status_retry said, of the outermost note that it was said of; 0 = nothing, -1 = do not. */
int64_t status_retry_ns(const StatusNote *st);

/* Frees st; NULL is allowed. */
void status_drop(Status st);

/* "INVALID_ARGUMENT" for ST_INVALID_ARGUMENT; "UNKNOWN" outside the table. */
const char *status_code_name(StatusCode code);
