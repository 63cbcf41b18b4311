/* Classes are multiples of 64 bytes up to 1.5 KiB, what is in front of a block included; larger
 * blocks come from the heap. Under a sanitizer all do, so that it sees every use after free. */
#include "base/pool.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { STEP = 64, IDLE_MAX = 16 << 20 };

/* In front of each block; next when it is idle. */
struct PoolBlock {
  union {
    Pool *pool; /* NULL: of the heap */
    PoolBlock *next;
  };
  size_t size; /* with this */
};

_Static_assert(sizeof(PoolBlock) == 16, "blocks are aligned");

void pool_trim(Pool *p) {
  for (int c = 0; c < POOL_CLASSES; c++)
    for (PoolBlock *b; (b = p->free[c]);) {
      p->free[c] = b->next;
      free(b);
    }
  p->idle_bytes = 0;
}

void *pool_alloc(Pool *p, size_t n) {
  if (n > SIZE_MAX - STEP - sizeof(PoolBlock)) return NULL;
  size_t size = (n + sizeof(PoolBlock) + STEP - 1) & ~(size_t)(STEP - 1), c = size / STEP - 1;
  if (SANITIZED || c >= POOL_CLASSES) p = NULL;
  PoolBlock *b = p ? p->free[c] : NULL;
  if (b) {
    p->free[c] = b->next;
    p->idle_bytes -= size;
  } else {
    if (!p) size = n + sizeof *b;
    if (!(b = malloc(size))) return NULL;
    b->size = size;
  }
  b->pool = p;
  return b + 1;
}

void *pool_zalloc(Pool *p, size_t n) {
  void *at = pool_alloc(p, n);
  return at ? memset(at, 0, n) : NULL;
}

void pool_free(void *at) {
  if (!at) return;
  PoolBlock *b = (PoolBlock *)at - 1;
  Pool *p = b->pool;
  if (!p || p->idle_bytes > IDLE_MAX) {
    free(b);
    return;
  }
  size_t c = b->size / STEP - 1;
  b->next = p->free[c];
  p->free[c] = b;
  p->idle_bytes += b->size;
}

void *pool_realloc(Pool *p, void *at, size_t n) {
  if (!at) return pool_alloc(p, n);
  size_t room = ((PoolBlock *)at - 1)->size - sizeof(PoolBlock);
  if (n <= room) return at;
  void *to = pool_alloc(p, n);
  if (!to) return NULL;
  memcpy(to, at, room);
  pool_free(at);
  return to;
}
