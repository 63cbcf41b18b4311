/* Classes are multiples of 64 bytes up to 1.5 KiB, what is in front of a block included; larger
 * blocks come from the heap, spacious ones from regions that are mapped and cut. Under a sanitizer
 * all do, so that it sees every use after free. */
#include "base/pool.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { STEP = 64, IDLE_MAX = 16 << 20 };
enum { PAGE = 4096, SPACIOUS_MIN = 8 << 10, SPACIOUS = 20 << 10, REGION = 64 * SPACIOUS };

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

/* Zero but for its first page. */
static PoolBlock *spacious_take(Pool *p) {
  PoolBlock *b = p->spacious;
  if (b) {
    p->spacious = b->next;
    return b;
  }
  if (!p->region || p->cut == REGION) {
    if (p->nregions == POOL_REGIONS) return NULL;
    void *at = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return NULL;
    (void)madvise(at, REGION, MADV_NOHUGEPAGE);
    p->region = at;
    p->cut = 0;
    p->nregions++;
  }
  b = (PoolBlock *)(void *)(p->region + p->cut);
  p->cut += SPACIOUS;
  return b;
}

static void spacious_give(Pool *p, PoolBlock *b) {
  (void)madvise((char *)b + PAGE, SPACIOUS - PAGE, MADV_DONTNEED);
  b->next = p->spacious;
  p->spacious = b;
}

static void *take(Pool *p, size_t n, bool zero) {
  if (n > SIZE_MAX - STEP - sizeof(PoolBlock)) return NULL;
  if (p && !SANITIZED && n >= SPACIOUS_MIN && n <= SPACIOUS - sizeof(PoolBlock)) {
    PoolBlock *wide = spacious_take(p);
    if (wide) {
      *wide = (PoolBlock){.pool = p, .size = SPACIOUS};
      if (zero) memset(wide + 1, 0, PAGE - sizeof *wide);
      return wide + 1;
    }
  }
  size_t size = (n + sizeof(PoolBlock) + STEP - 1) & ~(size_t)(STEP - 1), c = size / STEP - 1;
  if (SANITIZED || c >= POOL_CLASSES) p = NULL;
  PoolBlock *b = p ? p->free[c] : NULL;
  if (b) {
    p->free[c] = b->next;
    p->idle_bytes -= size;
    if (zero) memset(b + 1, 0, n);
  } else {
    if (!p) size = n + sizeof *b;
    /* what is large and new is zero without being touched */
    if (!(b = zero ? calloc(1, size) : malloc(size))) return NULL;
    b->size = size;
  }
  b->pool = p;
  return b + 1;
}

void *pool_alloc(Pool *p, size_t n) { return take(p, n, false); }
void *pool_zalloc(Pool *p, size_t n) { return take(p, n, true); }

void pool_free(void *at) {
  if (!at) return;
  PoolBlock *b = (PoolBlock *)at - 1;
  Pool *p = b->pool;
  if (p && b->size == SPACIOUS) {
    spacious_give(p, b);
    return;
  }
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
