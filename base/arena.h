/* Bump allocation for things that die together.
 *
 * Memory comes in blocks; arena_deinit frees all of it and there is no other free. A limit caps the
 * sum of block sizes. When the limit or the heap is exhausted, on_full is called if set (it must
 * not return: compile jobs longjmp out of it), else the allocation returns NULL. */
#pragma once

#include "base/str.h"

typedef struct ArenaBlock ArenaBlock;
typedef struct Arena {
  ArenaBlock *block;  /* newest first */
  char *at, *end;     /* free part of the newest block */
  size_t used, limit; /* bytes in blocks; 0 = no limit */
  size_t first_block; /* bytes of the first; 0 = 16 KiB; may be set after arena_init */
  void (*on_full)(void *ctx);
  void *on_full_ctx;
} Arena;

void arena_init(Arena *a, size_t limit);
void arena_deinit(Arena *a);
/* Empty again; the first block is kept for what comes next, the others are freed. */
void arena_reset(Arena *a);
/* Zeroed memory aligned to 16 bytes. NULL only when full and no on_full is set. */
void *arena_alloc(Arena *a, size_t size);
/* NULL when n * size overflows or the arena is full. */
void *arena_array(Arena *a, size_t n, size_t size);
void *arena_copy(Arena *a, const void *bytes, size_t n);
/* NUL-terminated copy. */
char *arena_strdup(Arena *a, Str s);
char *arena_printf(Arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
