/* Blocks double from 16 KiB, unless the owner expects less, to 8 MiB; a request larger than a
 * quarter of the next block gets a block of its own, placed behind the current one so that the
 * current free part is not lost. Blocks of 2 MiB and more are mapped, aligned to that size and
 * asked to be huge pages: a compile job touches its memory once and front to back, so page faults
 * would be a quarter of its time. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

struct ArenaBlock {
  ArenaBlock *next;
  size_t size;
};

enum { ALIGN = 16, FIRST_BLOCK = 16 << 10, LAST_BLOCK = 8 << 20, HUGE_PAGE = 2 << 20 };

_Static_assert(sizeof(ArenaBlock) % ALIGN == 0, "payload stays aligned");

/* Zeroed; *size grows to what was really taken. */
static ArenaBlock *block_alloc(size_t *size) {
  if (*size < HUGE_PAGE) return calloc(1, *size);
  size_t pages, room;
  if (!size_add(*size, HUGE_PAGE - 1, &pages)) return NULL;
  pages &= ~(size_t)(HUGE_PAGE - 1);
  if (!size_add(pages, HUGE_PAGE, &room)) return NULL;
  char *at =
      mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return NULL;
  size_t skip = (HUGE_PAGE - (uintptr_t)at % HUGE_PAGE) % HUGE_PAGE;
  if (skip) munmap(at, skip);
  if (skip < HUGE_PAGE) munmap(at + skip + pages, HUGE_PAGE - skip);
  (void)madvise(at + skip, pages, MADV_HUGEPAGE); /* where the kernel has none, small pages do */
  *size = pages;
  return (ArenaBlock *)(void *)(at + skip);
}

static void block_free(ArenaBlock *b) {
  if (b->size < HUGE_PAGE)
    free(b);
  else
    munmap(b, b->size);
}

void arena_init(Arena *a, size_t limit) { *a = (Arena){.limit = limit}; }

void arena_deinit(Arena *a) {
  for (ArenaBlock *b = a->block, *next; b; b = next) {
    next = b->next;
    block_free(b);
  }
  *a = (Arena){.limit = a->limit, .first_block = a->first_block};
}

static size_t first_block(const Arena *a) { return a->first_block ? a->first_block : FIRST_BLOCK; }

void arena_reset(Arena *a) {
  ArenaBlock *kept = NULL;
  size_t used = a->block ? (size_t)(a->at - (char *)a->block) : 0; /* of the newest block */
  for (ArenaBlock *b = a->block, *next; b; b = next) {
    next = b->next;
    if (b != a->block) used = b->size;
    if (!kept && b->size == first_block(a)) {
      kept = b;
      memset(b + 1, 0, used - sizeof *b);
      b->next = NULL;
    } else {
      block_free(b);
    }
  }
  a->block = kept;
  a->used = kept ? kept->size : 0;
  a->at = kept ? (char *)(kept + 1) : NULL;
  a->end = kept ? (char *)kept + kept->size : NULL;
}

static void *full(Arena *a) {
  if (a->on_full) a->on_full(a->on_full_ctx);
  return NULL;
}

static ArenaBlock *new_block(Arena *a, size_t payload) {
  size_t size;
  if (!size_add(payload, sizeof(ArenaBlock), &size)) return NULL;
  if (a->limit && (size > a->limit || a->used > a->limit - size)) return NULL;
  ArenaBlock *b = block_alloc(&size);
  if (!b) return NULL;
  b->size = size;
  a->used += size;
  return b;
}

void *arena_alloc(Arena *a, size_t size) {
  if (size > SIZE_MAX - ALIGN) return full(a);
  if (!size) size = 1; /* distinct from failure, also in an empty arena */
  size = (size + ALIGN - 1) & ~(size_t)(ALIGN - 1);
  if ((size_t)(a->end - a->at) >= size) {
    void *p = a->at;
    a->at += size;
    return p;
  }
  size_t next = a->block ? a->block->size * 2 : first_block(a);
  if (next > LAST_BLOCK) next = LAST_BLOCK;
  bool own = a->block && size > next / 4;
  ArenaBlock *b = new_block(a, own ? size : (size > next ? size : next));
  if (!b && !own && size < next)
    b = new_block(a, size); /* near the limit: what is left, not a doubled block */
  if (!b) return full(a);
  char *payload = (char *)(b + 1);
  if (own) {
    b->next = a->block->next;
    a->block->next = b;
  } else {
    b->next = a->block;
    a->block = b;
    a->at = payload + size;
    a->end = (char *)b + b->size;
  }
  return payload;
}

void *arena_array(Arena *a, size_t n, size_t size) {
  size_t bytes;
  return size_mul(n, size, &bytes) ? arena_alloc(a, bytes) : full(a);
}

void *arena_copy(Arena *a, const void *bytes, size_t n) {
  void *p = arena_alloc(a, n);
  if (p && n) memcpy(p, bytes, n);
  return p;
}

char *arena_strdup(Arena *a, Str s) {
  char *p = s.len == SIZE_MAX ? full(a) : arena_alloc(a, s.len + 1);
  if (p && s.len) memcpy(p, s.ptr, s.len);
  return p;
}

char *arena_printf(Arena *a, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
  if (!p) return NULL;
  va_start(ap, fmt);
  vsnprintf(p, (size_t)n + 1, fmt, ap);
  va_end(ap);
  return p;
}
