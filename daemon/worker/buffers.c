/* The buffers of clients, by the id that kilnd gave them: states, and outputs that stay with the
 * device. One that is no shared memory is read by copying it to a file that is; the last such file
 * stays open until the next. */
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/channel/shm.h"
#include "daemon/worker/loaded.h"

Status buffers_add(Executor *x, uint64_t id, uint64_t bytes, int fd, Buffer **out) {
  if (map_find(&x->buffers, id)) {
    if (fd >= 0) close(fd);
    return BROKEN("buffer %llu exists", (unsigned long long)id);
  }
  TRY(device_memory_adopt(x->dev, bytes ? bytes : 1, fd, out));
  if (map_put(&x->buffers, id, *out)) return NULL;
  device_buffer_free(x->dev, *out);
  *out = NULL;
  return FAIL(RESOURCE_EXHAUSTED, "buffers");
}

Status executor_buffer_create(Executor *x, uint64_t id, uint64_t bytes, int fd) {
  Buffer *b;
  return buffers_add(x, id, bytes, fd, &b);
}

/* A copy of a buffer that is no shared memory, for the one who asked. */
static Status copy_out(Executor *x, const Buffer *b, int *fd) {
  void *host;
  if (x->read_fd >= 0) close(x->read_fd);
  x->read_fd = -1;
  TRY(shm_create("kiln-buffer", b->size ? b->size : 1, &x->read_fd));
  TRY(shm_map(x->read_fd, b->size ? b->size : 1, true, &host));
  Status st = device_read(x->dev, b, 0, host, b->size);
  munmap(host, b->size ? b->size : 1);
  *fd = x->read_fd;
  return st;
}

Status executor_buffer_read(Executor *x, uint64_t id, uint64_t *bytes, int *fd) {
  const Buffer *b = map_find(&x->buffers, id);
  if (!b) return FAIL(NOT_FOUND, "buffer %llu", (unsigned long long)id);
  *bytes = b->size;
  *fd = b->fd;
  return b->fd < 0 ? copy_out(x, b, fd) : NULL;
}

void executor_buffer_free(Executor *x, uint64_t id) {
  device_buffer_free(x->dev, map_remove(&x->buffers, id));
}
