/* A device without shared memory gets copies through a mapping of the descriptor that lives only as
 * long as the copy. Weights are packed at multiples of 256 bytes, so that kernels may load vectors
 * from them whatever their place in the model's file was, and the rest of the file stays out of the
 * device's memory. */
#include "daemon/worker/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include "daemon/channel/shm.h"

enum { WEIGHT_ALIGN = 256 };

/* A model's memory is not sealed: kilnd uses it again, but not while a worker loads it. */
static Status check_size(int fd, uint64_t bytes) {
  off_t end = lseek(fd, 0, SEEK_END); /* not fstat: the sandbox has no stat calls */
  if (end >= 0 && (uint64_t)end >= bytes) return NULL;
  return FAIL(INTERNAL, "shared memory holds %lld bytes, expected %llu", (long long)end,
              (unsigned long long)bytes);
}

static Status fill_from(Device *d, Buffer *b, int fd) {
  void *host;
  if (!b->size) return NULL;
  TRY(check_size(fd, b->size));
  TRY(shm_map(fd, b->size, false, &host));
  Status st = device_write(d, b, 0, host, b->size);
  munmap(host, b->size);
  return st;
}

Status device_memory_adopt(Device *d, uint64_t bytes, int fd, Buffer **out) {
  bool share = d->caps.shares_memory;
  Status st = device_buffer_alloc(d, bytes, share ? fd : -1, out);
  if (!st && !share && fd >= 0) st = fill_from(d, *out, fd);
  if (fd >= 0 && (st || !share)) close(fd);
  if (!st) return NULL;
  device_buffer_free(d, *out);
  *out = NULL;
  return st;
}

Status device_memory_share(Device *d, uint64_t bytes, int fd, SharedMemory *out) {
  *out = (SharedMemory){.size = bytes};
  if (d->caps.shares_memory) {
    TRY(device_memory_adopt(d, bytes, fd, &out->buffer));
    out->host = out->buffer->host;
    return NULL;
  }
  Status st = shm_check(fd, bytes);
  if (!st) st = shm_map(fd, bytes, true, &out->host);
  close(fd);
  return st;
}

void device_memory_unshare(Device *d, SharedMemory *m) {
  if (m->buffer)
    device_buffer_free(d, m->buffer);
  else if (m->host)
    munmap(m->host, m->size);
  *m = (SharedMemory){0};
}

/* The parts of `host` one after the other; their places are set already. */
static Status copy_parts(Device *d, Buffer *b, const char *host, WeightPart *parts, size_t n) {
  for (size_t i = 0; i < n; i++) {
    parts[i].at.buffer = b;
    TRY(device_write(d, b, parts[i].at.offset, host + parts[i].offset, parts[i].bytes));
  }
  return NULL;
}

static Status copy_weights(Device *d, uint64_t bytes, int fd, WeightPart *parts, size_t n,
                           Buffer **out) {
  uint64_t total = 0;
  void *host = NULL;
  for (size_t i = 0; i < n; i++) {
    parts[i].at.offset = total;
    if (parts[i].bytes > UINT64_MAX / 4 || total > UINT64_MAX / 2)
      return FAIL(RESOURCE_EXHAUSTED, "weights of more than %llu bytes", (unsigned long long)total);
    total += (parts[i].bytes + WEIGHT_ALIGN - 1) / WEIGHT_ALIGN * WEIGHT_ALIGN;
  }
  Status st = device_buffer_alloc(d, total, -1, out);
  if (!st && bytes) st = check_size(fd, bytes);
  if (!st && bytes) st = shm_map(fd, bytes, false, &host);
  if (!st) st = copy_parts(d, *out, host, parts, n);
  if (host) munmap(host, bytes);
  return st;
}

void device_memory_forget(const Buffer *b) {
  if (b && b->host && b->fd >= 0 && b->size) (void)madvise(b->host, b->size, MADV_DONTNEED);
}

Status device_memory_weights(Device *d, uint64_t bytes, int fd, WeightPart *parts, size_t n,
                             Buffer **out) {
  Status st = NULL;
  *out = NULL;
  if (d->caps.shares_memory) {
    TRY(device_memory_adopt(d, bytes, fd, out));
    for (size_t i = 0; i < n; i++) parts[i].at = (LaunchArg){*out, parts[i].offset};
    return NULL;
  }
  st = copy_weights(d, bytes, fd, parts, n, out);
  if (fd >= 0) close(fd);
  return st;
}
