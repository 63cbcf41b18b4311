/* The client-streaming calls: a header that says how many bytes follow, then chunks, which go
 * straight into shared memory. */
#pragma once

#include "daemon/server/request.h"

typedef struct Upload {
  int fd; /* -1 until the header came */
  uint64_t size, got;
  size_t part;    /* bytes to come of a chunk that comes in parts */
  void *at;       /* the memory, or NULL: it is written through fd */
  Tenant *tenant; /* whose host bytes they are; NULL until the header came */
} Upload;

/* True when msg is nothing but a chunk (field 2 of all the requests that stream). */
bool upload_chunk(Bytes msg, Bytes *out);
/* Its memory is there. */
void upload_begin(Upload *u, Tenant *tenant, int fd, void *at, uint64_t size);
/* A part of a message, of which so many bytes follow: false when it is no chunk. *st: as of
 * upload_write. */
bool upload_part(Upload *u, Bytes part, size_t left, Status *st);
/* INVALID_ARGUMENT when it is more than announced, or comes before the header. */
Status upload_write(Upload *u, Bytes chunk);
/* INVALID_ARGUMENT unless everything announced has come. */
Status upload_complete(const Upload *u);
/* The memory is somebody else's now: the descriptor, and u->at. */
int upload_take(Upload *u);
void upload_abort(Upload *u);
