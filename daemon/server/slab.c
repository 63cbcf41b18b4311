/* Sizes are powers of two from 64 KiB, so that a few slabs serve all runs of a model; the smallest
 * idle one that fits is taken, the tenant's own before another's. The loop has no time to zero
 * much: another's slab of which more than a little was used is given back to the system instead.
 * Each holds a descriptor, so idle ones are bounded in number as in bytes. */
#include "daemon/server/slab.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/channel/shm.h"

enum { SMALLEST = 64 << 10, IDLE_MAX = 256 << 20, IDLE_SLABS = 64, ZERO_MAX = 1 << 20 };

static void destroy(SlabPool *p, Slab *s) {
  if (p->dropped) p->dropped(p->ctx, s);
  p->bytes -= s->size;
  if (s->at) munmap(s->at, s->size);
  if (s->fd >= 0) close(s->fd);
  free(s);
}

static Status create(SlabPool *p, size_t size, Slab **out) {
  void *at = NULL;
  Slab *s = calloc(1, sizeof *s);
  if (!s) return FAIL(RESOURCE_EXHAUSTED, "slab");
  *s = (Slab){.id = ++p->next_id, .fd = -1, .size = size};
  p->bytes += size;
  Status st = shm_create("kiln-slab", size, &s->fd);
  if (!st) st = shm_map(s->fd, size, true, &at);
  s->at = at;
  if (st) {
    p->bytes -= size;
    if (s->fd >= 0) close(s->fd);
    free(s);
    return st;
  }
  *out = s;
  return NULL;
}

static bool better(const Slab *a, const Slab *b, uint32_t owner) {
  if ((a->owner == owner) != (b->owner == owner)) return a->owner == owner;
  return a->size < b->size;
}

/* The best idle slab of at least `size` bytes, unlinked; NULL when there is none. */
static Slab *best_fit(SlabPool *p, uint32_t owner, size_t size) {
  Slab **best = NULL;
  for (Slab **at = &p->free; *at; at = &(*at)->next)
    if ((*at)->size >= size && (!best || better(*at, *best, owner))) best = at;
  if (!best) return NULL;
  Slab *s = *best;
  *best = s->next;
  p->idle--;
  p->idle_bytes -= s->size;
  return s;
}

/* An idle slab that is clean for this tenant; NULL when there is none. */
static Slab *clean_slab(SlabPool *p, uint32_t owner, size_t size) {
  for (Slab *s; (s = best_fit(p, owner, size));) {
    if (s->owner == owner) return s;
    if (s->used <= ZERO_MAX) {
      memset(s->at, 0, s->used);
      s->owner = owner;
      s->used = 0;
      return s;
    }
    destroy(p, s);
  }
  return NULL;
}

static void use(Slab *s, uint32_t owner, size_t size) {
  s->owner = owner;
  if (s->used < size) s->used = size;
}

Status slab_take(SlabPool *p, uint32_t owner, size_t size, Slab **out) {
  size_t rounded = SMALLEST;
  *out = NULL;
  while (rounded < size && rounded <= SIZE_MAX / 4) rounded *= 2;
  if (rounded < size) return FAIL(RESOURCE_EXHAUSTED, "a run of %zu bytes", size);
  if ((*out = clean_slab(p, owner, rounded))) {
    use(*out, owner, size);
    return NULL;
  }
  if (rounded > p->max_bytes || p->bytes > p->max_bytes - rounded) slab_trim(p, 0);
  if (rounded > p->max_bytes || p->bytes > p->max_bytes - rounded)
    return FAIL(RESOURCE_EXHAUSTED,
                "%zu bytes of tensors more would pass the limit of %zu for all runs in flight",
                rounded, p->max_bytes);
  TRY(create(p, rounded, out));
  use(*out, owner, size);
  return NULL;
}

static void drop_oldest(SlabPool *p) {
  Slab **at = &p->free;
  while ((*at)->next) at = &(*at)->next;
  Slab *s = *at;
  *at = NULL;
  p->idle--;
  p->idle_bytes -= s->size;
  destroy(p, s);
}

void slab_put(SlabPool *p, Slab *s) {
  s->next = p->free;
  p->free = s;
  p->idle++;
  p->idle_bytes += s->size;
  if (p->idle > IDLE_SLABS) drop_oldest(p);
  slab_trim(p, IDLE_MAX);
}

void slab_trim(SlabPool *p, size_t keep) {
  while (p->free && p->idle_bytes > keep) drop_oldest(p);
}
