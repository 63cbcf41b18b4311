/* Two kinds of memfd. Those that another process may write (slabs, device buffers, bulk messages)
 * are sealed against resizing at birth. Those that only kilnd writes (model uploads) stay
 * resizable so that their pages can be used again, and leave the process as read-only
 * descriptors. */
#include "daemon/channel/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FIXED_SIZE = F_SEAL_GROW | F_SEAL_SHRINK };

static Status open_sized(const char *name, size_t size, int *out) {
  *out = -1;
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return FAIL(RESOURCE_EXHAUSTED, "memfd_create: %s", strerror(errno));
  if (ftruncate(fd, (off_t)size)) {
    int e = errno;
    close(fd);
    return FAIL(RESOURCE_EXHAUSTED, "shared memory of %zu bytes: %s", size, strerror(e));
  }
  *out = fd;
  return NULL;
}

Status shm_create(const char *name, size_t size, int *out) {
  TRY(open_sized(name, size, out));
  if (!fcntl(*out, F_ADD_SEALS, FIXED_SIZE | F_SEAL_SEAL)) return NULL;
  int e = errno;
  close(*out);
  *out = -1;
  return FAIL(INTERNAL, "sealing shared memory: %s", strerror(e));
}

Status shm_from_bytes(const char *name, Bytes bytes, int *out) {
  TRY(open_sized(name, bytes.len, out));
  Status st = shm_write(*out, 0, bytes);
  if (!st && fcntl(*out, F_ADD_SEALS, FIXED_SIZE | F_SEAL_WRITE | F_SEAL_SEAL))
    st = FAIL(INTERNAL, "sealing shared memory: %s", strerror(errno));
  if (!st) return NULL;
  close(*out);
  *out = -1;
  return st;
}

Status shm_check(int fd, uint64_t bytes) {
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK))
    return FAIL(INTERNAL, "descriptor is not sealed memory");
  off_t end = lseek(fd, 0, SEEK_END); /* not fstat: the sandbox has no stat calls */
  if (end < 0 || (uint64_t)end < bytes)
    return FAIL(INTERNAL, "shared memory holds %lld bytes, expected %llu", (long long)end,
                (unsigned long long)bytes);
  return NULL;
}

Status shm_map(int fd, size_t bytes, bool writable, void **out) {
  *out = NULL;
  void *p = mmap(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
  if (p == MAP_FAILED)
    return FAIL(RESOURCE_EXHAUSTED, "mapping %zu bytes: %s", bytes, strerror(errno));
  *out = p;
  return NULL;
}

Status shm_readonly(int fd, int *out) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  *out = open(path, O_RDONLY | O_CLOEXEC);
  return *out < 0 ? FAIL(INTERNAL, "reopening shared memory: %s", strerror(errno)) : NULL;
}

Status shm_write(int fd, uint64_t offset, Bytes bytes) {
  for (size_t done = 0; done < bytes.len;) {
    ssize_t n = pwrite(fd, bytes.ptr + done, bytes.len - done, (off_t)(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return FAIL(RESOURCE_EXHAUSTED, "writing shared memory: %s", strerror(errno));
    done += (size_t)n;
  }
  return NULL;
}

Status shm_read(int fd, uint64_t offset, void *into, size_t n) {
  for (size_t done = 0; done < n;) {
    ssize_t k = pread(fd, (char *)into + done, n - done, (off_t)(offset + done));
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0)
      return FAIL(INTERNAL, "reading shared memory: %s", k ? strerror(errno) : "it ended early");
    done += (size_t)k;
  }
  return NULL;
}

/* -- pool ------------------------------------------------------------------------------------- */

void shm_pool_init(ShmPool *p, size_t limit_bytes) { *p = (ShmPool){.limit = limit_bytes}; }

void shm_pool_deinit(ShmPool *p) {
  for (size_t i = 0; i < p->len; i++) close(p->fd[i]);
  *p = (ShmPool){.limit = p->limit};
}

static void remove_at(ShmPool *p, size_t i) {
  p->bytes -= p->size[i];
  p->len--;
  for (; i < p->len; i++) {
    p->fd[i] = p->fd[i + 1];
    p->size[i] = p->size[i + 1];
    p->owner[i] = p->owner[i + 1];
  }
}

Status shm_pool_take(ShmPool *p, uint32_t owner, size_t size, int *out) {
  size_t best = SIZE_MAX;
  for (size_t i = 0; i < p->len; i++) {
    if (p->owner[i] != owner) continue;
    bool fits = p->size[i] >= size, best_fits = best != SIZE_MAX && p->size[best] >= size;
    /* the smallest that fits, else the largest */
    if (best == SIZE_MAX || (fits && (!best_fits || p->size[i] < p->size[best])) ||
        (!fits && !best_fits && p->size[i] > p->size[best]))
      best = i;
  }
  if (best == SIZE_MAX) return open_sized("kiln-upload", size, out);
  int fd = p->fd[best];
  remove_at(p, best);
  if (!ftruncate(fd, (off_t)size)) return *out = fd, NULL;
  close(fd);
  return open_sized("kiln-upload", size, out);
}

void shm_pool_put(ShmPool *p, uint32_t owner, int fd, size_t size) {
  if (size > p->limit) {
    close(fd);
    return;
  }
  while (p->len == SHM_POOL_SLOTS || p->bytes > p->limit - size) {
    close(p->fd[0]); /* the oldest: that of a tenant who is gone is not kept for ever */
    remove_at(p, 0);
  }
  p->fd[p->len] = fd;
  p->owner[p->len] = owner;
  p->size[p->len++] = size;
  p->bytes += size;
}
