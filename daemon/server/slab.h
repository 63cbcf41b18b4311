/* Shared memory that carries the tensors of runs to a device worker and back.
 *
 * A slab is mapped here and in the worker for as long as it lives and is used by one run at a time,
 * so a run costs neither a map nor a page fault once its slab is warm. Contents are left as they
 * are, since a run overwrites what is read, until the slab goes from one tenant to another: then
 * what was used of it is zeroed. */
#pragma once

#include <stdint.h>

#include "base/status.h"

typedef struct Slab Slab;
struct Slab {
  uint64_t id;
  int fd;
  char *at;
  size_t size;
  uint32_t owner;       /* the tenant of the last run */
  size_t used;          /* bytes that its runs had of it */
  uint64_t incarnation; /* of the device worker that has it mapped; 0 = none */
  Slab *next;           /* in the free list */
};

typedef struct SlabPool {
  Slab *free;              /* the one that was used last first */
  size_t idle, idle_bytes; /* in the free list */
  size_t bytes;            /* in all */
  size_t max_bytes;
  uint64_t next_id;
  void (*dropped)(void *ctx, const Slab *s); /* s is about to be unmapped */
  void *ctx;
} SlabPool;

/* At least `size` bytes for this tenant, aligned to a page. RESOURCE_EXHAUSTED when the pool is at
 * its limit. */
Status slab_take(SlabPool *p, uint32_t owner, size_t size, Slab **out);
void slab_put(SlabPool *p, Slab *s);
/* Gives idle slabs back to the system, those first that were used longest ago, until at most `keep`
 * bytes of them are left. */
void slab_trim(SlabPool *p, size_t keep);
