/* Small blocks that come and go by the hundred thousand: free lists by size class.
 *
 * The general allocator keeps only a few blocks of a size at hand; a server that answers hundreds
 * of calls between two reads frees and takes more than that at once. A block knows its pool, so it
 * is freed without one. A pool belongs to one thread and outlives its blocks.
 *
 * Blocks of 8 to 20 KiB of which little is ever used, such as the frame buffers of idle
 * connections, have pages of their own, so that what is not touched costs nothing, and what was is
 * given back to the system with the block. Their addresses are kept for the life of the process. */
#pragma once

#include <stddef.h>

typedef struct PoolBlock PoolBlock;

enum { POOL_CLASSES = 24, POOL_REGIONS = 1024 };

/* Embedded; a zeroed Pool is empty. */
typedef struct Pool {
  PoolBlock *free[POOL_CLASSES];
  size_t idle_bytes;
  PoolBlock *spacious;  /* idle ones */
  char *region;         /* where they are cut from, */
  size_t cut, nregions; /* and how much of it is */
} Pool;

/* Gives idle blocks back to the heap. */
void pool_trim(Pool *p);
/* NULL when memory is out. p may be NULL: from the heap. Aligned to 16 bytes, not zeroed. */
void *pool_alloc(Pool *p, size_t n);
void *pool_zalloc(Pool *p, size_t n);
/* Of a block of any pool; NULL allowed. */
void pool_free(void *at);
/* at may be NULL. The block keeps its place when n fits it. */
void *pool_realloc(Pool *p, void *at, size_t n);
