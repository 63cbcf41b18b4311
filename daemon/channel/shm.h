/* Memory that processes share by descriptor: memfds, their seals, and a pool of used ones.
 *
 * A descriptor that came from another process is trusted only after shm_check: memory that its
 * maker can still shrink would turn a read into SIGBUS. */
#pragma once

#include "base/status.h"
#include "base/str.h"

/* A memfd of exactly `size` zero bytes that nobody can resize. */
Status shm_create(const char *name, size_t size, int *out);
/* A memfd holding a copy of `bytes`, sealed against resizing and writing. */
Status shm_from_bytes(const char *name, Bytes bytes, int *out);
/* Fails unless fd is a memfd of at least `bytes` bytes that cannot shrink. */
Status shm_check(int fd, uint64_t bytes);
/* Shared mapping of the first `bytes` bytes; munmap it with the same size. */
Status shm_map(int fd, size_t bytes, bool writable, void **out);
/* A second descriptor that cannot write, for processes that are trusted less than this one. */
Status shm_readonly(int fd, int *out);
/* write(2) of everything at an offset. */
Status shm_write(int fd, uint64_t offset, Bytes bytes);
Status shm_read(int fd, uint64_t offset, void *into, size_t n);

/* Memfds whose pages exist already: writing into them is several times faster than into a new one.
 * Their content is whatever it was; a caller overwrites all of the size it asked for. One is only
 * ever used again by the same owner. */
enum { SHM_POOL_SLOTS = 8 };
typedef struct ShmPool {
  int fd[SHM_POOL_SLOTS];
  size_t size[SHM_POOL_SLOTS];
  uint32_t owner[SHM_POOL_SLOTS];
  size_t len, bytes, limit;
} ShmPool;

void shm_pool_init(ShmPool *p, size_t limit_bytes);
void shm_pool_deinit(ShmPool *p);
/* A memfd of exactly `size` bytes, resizable by its holders; pass only shm_readonly of it on. */
Status shm_pool_take(ShmPool *p, uint32_t owner, size_t size, int *out);
/* Gives fd back; the one that lies longest is closed when the pool is full. No other process may
 * still be writing. */
void shm_pool_put(ShmPool *p, uint32_t owner, int fd, size_t size);
