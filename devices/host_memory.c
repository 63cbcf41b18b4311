/* A buffer is a shared mapping of a memfd, so that handing its bytes to another process costs a
 * descriptor and no copy. What stays here is anonymous memory instead: most kernels give huge pages
 * to no other, and rows of 4 KiB pages cost a walk through tables each. A buffer of size 0 has a
 * page of its own all the same: its address is valid and unique. */
#include "devices/host_memory.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_PAGE = 2 << 20 };

static size_t mapped_size(size_t size) { return size ? size : 1; }

/* By seeking: a sandboxed process may not be allowed to stat. */
static Status check_import(int fd, size_t size) {
  off_t end = lseek(fd, 0, SEEK_END);
  if (end < 0) return FAIL(INVALID_ARGUMENT, "imported memory: %s", strerror(errno));
  if ((uint64_t)end < size)
    return FAIL(INVALID_ARGUMENT, "imported memory holds %lld bytes, the buffer needs %zu",
                (long long)end, size);
  return NULL;
}

/* Memory sealed against writing can be mapped for reading only. */
static void *map_import(int fd, size_t size) {
  void *at = mmap(NULL, mapped_size(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED && (errno == EPERM || errno == EACCES)) {
    at = mmap(NULL, mapped_size(size), PROT_READ, MAP_SHARED, fd, 0);
  }
  return at;
}

static Status make_memory(size_t size, int *fd, void **at) {
  *fd = memfd_create("kiln-buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (*fd < 0) return FAIL(RESOURCE_EXHAUSTED, "memory for a buffer: %s", strerror(errno));
  if (ftruncate(*fd, (off_t)mapped_size(size)) != 0) {
    return FAIL(RESOURCE_EXHAUSTED, "a buffer of %zu bytes: %s", size, strerror(errno));
  }
  *at = mmap(NULL, mapped_size(size), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
  if (*at == MAP_FAILED) {
    return FAIL(RESOURCE_EXHAUSTED, "a buffer of %zu bytes: %s", size, strerror(errno));
  }
  return NULL;
}

/* Aligned so that all of it but the tail can be huge pages. */
static Status make_private(size_t size, void **out) {
  size_t room = mapped_size(size), spare = size >= HUGE_PAGE ? HUGE_PAGE : 0, page = 4096;
  *out = MAP_FAILED;
  if (room > SIZE_MAX - 2 * HUGE_PAGE)
    return FAIL(RESOURCE_EXHAUSTED, "a buffer of %zu bytes", size);
  room = (room + page - 1) / page * page;
  char *at = mmap(NULL, room + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    return FAIL(RESOURCE_EXHAUSTED, "a buffer of %zu bytes: %s", size, strerror(errno));
  size_t skip = spare ? (HUGE_PAGE - (uintptr_t)at % HUGE_PAGE) % HUGE_PAGE : 0;
  if (skip) munmap(at, skip);
  if (spare - skip) munmap(at + skip + room, spare - skip);
  *out = at + skip;
  return NULL;
}

Status host_memory_alloc(Device *d, size_t size, int fd, Buffer **out) {
  void *at = MAP_FAILED;
  int made = -1;
  Status st = NULL;
  *out = NULL;
  if (size > d->caps.max_buffer_bytes) {
    return FAIL(RESOURCE_EXHAUSTED, "a buffer of %zu bytes exceeds the device's limit of %llu",
                size, (unsigned long long)d->caps.max_buffer_bytes);
  }
  Buffer *b = calloc(1, sizeof *b);
  if (!b) return FAIL(RESOURCE_EXHAUSTED, "memory for a buffer");
  if (fd >= 0) {
    if ((st = check_import(fd, size))) goto fail;
    at = map_import(fd, size);
    if (at == MAP_FAILED) {
      st = FAIL(RESOURCE_EXHAUSTED, "mapping %zu bytes: %s", size, strerror(errno));
      goto fail;
    }
  } else if ((st =
                  fd == BUFFER_PRIVATE ? make_private(size, &at) : make_memory(size, &made, &at))) {
    goto fail;
  }
  /* Of shared memory most kernels take no notice. */
  if (size >= HUGE_PAGE) (void)madvise(at, size, MADV_HUGEPAGE);
  *b = (Buffer){.dev = d, .size = size, .host = at, .fd = fd >= 0 ? fd : made};
  *out = b;
  return NULL;
fail:
  if (made >= 0) close(made);
  free(b);
  return st;
}

void host_memory_free(Buffer *b) {
  munmap(b->host, mapped_size(b->size));
  if (b->fd >= 0) close(b->fd);
  free(b);
}

Status host_memory_write(Device *d, Buffer *b, uint64_t offset, const void *from, uint64_t bytes) {
  (void)d;
  memcpy((char *)b->host + offset, from, bytes);
  return NULL;
}

Status host_memory_read(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t bytes) {
  (void)d;
  memcpy(to, (const char *)b->host + offset, bytes);
  return NULL;
}

Status host_memory_copy(Device *d, Buffer *to, uint64_t to_offset, const Buffer *from,
                        uint64_t from_offset, uint64_t bytes) {
  (void)d;
  memcpy((char *)to->host + to_offset, (const char *)from->host + from_offset, bytes);
  return NULL;
}
