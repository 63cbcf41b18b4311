/* Chunks go into a fresh memfd with pwrite: its pages are then made by the kernel without a fault
 * each. Memory that was used before is mapped already, and copying into that is faster. */
#include "daemon/server/upload.h"

#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/channel/shm.h"
#include "proto/wire.h"

bool upload_chunk(Bytes msg, Bytes *out) {
  WireReader r = wire_reader(msg);
  WireField f;
  if (!wire_next(&r, &f) || f.id != 2 || f.type != WIRE_LEN) return false;
  *out = f.bytes;
  return r.at == r.end && !r.error;
}

Status upload_write(Upload *u, Bytes chunk) {
  if (u->fd < 0) return FAIL(INVALID_ARGUMENT, "a chunk came before the header");
  if (chunk.len > u->size - u->got)
    return FAIL(INVALID_ARGUMENT, "the header announced %" PRIu64 " bytes, got at least %" PRIu64,
                u->size, u->got + chunk.len);
  if (!u->at)
    TRY(shm_write(u->fd, u->got, chunk));
  else if (chunk.len)
    memcpy((char *)u->at + u->got, chunk.ptr, chunk.len);
  u->got += chunk.len;
  return NULL;
}

bool upload_part(Upload *u, Bytes part, size_t left, Status *st) {
  *st = NULL;
  if (!u->part) {
    uint64_t bytes = 0;
    size_t n = 1;
    if (part.len < 11 || part.ptr[0] != (2 << 3 | WIRE_LEN)) return false;
    do bytes |= (uint64_t)(part.ptr[n] & 127) << 7 * (n - 1);
    while (part.ptr[n++] & 128 && n < 6);
    if (bytes != part.len - n + left) return false; /* more than the chunk, or nonsense */
    part = (Bytes){part.ptr + n, part.len - n};
  }
  u->part = left;
  *st = upload_write(u, part);
  return true;
}

Status upload_complete(const Upload *u) {
  if (u->fd < 0) return FAIL(INVALID_ARGUMENT, "the call ended without a header");
  if (u->got == u->size) return NULL;
  return FAIL(INVALID_ARGUMENT, "the header announced %" PRIu64 " bytes, got %" PRIu64, u->size,
              u->got);
}

void upload_begin(Upload *u, Tenant *tenant, int fd, void *at, uint64_t size) {
  *u = (Upload){.fd = fd, .at = at, .size = size, .tenant = tenant};
  tenant->used.host_bytes += size;
}

int upload_take(Upload *u) {
  int fd = u->fd;
  if (u->tenant) u->tenant->used.host_bytes -= u->size;
  u->tenant = NULL;
  u->fd = -1;
  return fd;
}

void upload_abort(Upload *u) {
  int fd = upload_take(u);
  if (u->at) munmap(u->at, u->size);
  u->at = NULL;
  if (fd >= 0) close(fd);
}
