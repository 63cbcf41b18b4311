/* Protobuf messages decoded in place.
 *
 * A table says which fields of a message are wanted and where they go in a C struct; everything
 * else is skipped. Strings and bytes stay where they are (a Str into the input), so a model whose
 * weights are half a gigabyte costs only its structure. Unlike protobuf-c's unpack this needs no
 * copy of bytes fields and checks its limits before each allocation.
 *
 * The struct of every message starts with `uint64_t seen`, one bit per table row that occurred.
 * Singular messages are pointers (NULL when absent); repeated fields are a VIEW_LIST. */
#pragma once

#include <stddef.h>

#include "base/arena.h"
#include "base/status.h"

#define VIEW_LIST(T)                                                                               \
  struct {                                                                                         \
    T *at;                                                                                         \
    size_t n;                                                                                      \
  }

typedef enum ViewKind {
  VIEW_INT,    /* int32, int64, uint32, uint64, bool, enum: int64_t, two's complement */
  VIEW_SINT,   /* sint32, sint64 (zigzag): int64_t */
  VIEW_FLOAT,  /* float */
  VIEW_DOUBLE, /* double */
  VIEW_STR,    /* string, bytes: Str */
  VIEW_MSG     /* message: pointer, or array of structs when repeated */
} ViewKind;

typedef struct ViewMessage ViewMessage;
typedef struct ViewField {
  uint32_t number;
  ViewKind kind;
  bool repeated;
  size_t offset;
  const ViewMessage *msg; /* VIEW_MSG */
  const char *name;
} ViewField;

struct ViewMessage {
  const char *name;
  size_t size; /* of the struct */
  const ViewField *fields;
  size_t nfields; /* at most 32 */
};

/* A table row for member_ of struct T, and a message made of rows. */
#define VIEW_ROW(T, n_, kind_, rep_, member_, msg_)                                                \
  {                                                                                                \
    .number = (n_), .kind = (kind_), .repeated = (rep_), .offset = offsetof(T, member_),           \
    .msg = (msg_), .name = #member_                                                                \
  }
#define VIEW_TABLE(rows_, T, name_)                                                                \
  {                                                                                                \
    .name = (name_), .size = sizeof(T), .fields = rows_,                                           \
    .nfields = sizeof(rows_) / sizeof((rows_)[0])                                                  \
  }

typedef struct ViewLimits {
  uint32_t depth;    /* nesting of messages */
  uint64_t elements; /* elements of repeated fields, all messages together */
} ViewLimits;

/* Fills the zeroed struct `out`; what it points to is in the arena or in `bytes`. INVALID_ARGUMENT
 * for malformed bytes (names message, field and byte offset), RESOURCE_EXHAUSTED over a limit. */
Status view_decode(Arena *arena, Bytes bytes, const ViewMessage *type, const ViewLimits *limits,
                   void *out);
