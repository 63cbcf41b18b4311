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
