/* Memory of temporaries: offsets in one arena.
 *
 * Greedy by size: the largest buffer first, each at the best-fitting gap between the buffers that
 * are placed already and alive at the same time, or above them all. Every call keeps a list of what
 * is placed and alive there, so the cost is the lifetimes' lengths times how much is alive. */
#include "compiler/passes/memplan.h"

#include <stdlib.h>

#include "base/vec.h"

enum { ALIGNMENT = 64 };

typedef struct Life {
  uint32_t buffer, first, last;
  int64_t bytes, offset; /* offset -1: not placed */
} Life;

typedef struct Alive {
  Life **at;
  size_t len, cap;
} Alive;

static int64_t aligned_bytes(const PlanBuffer *b) {
  int64_t bytes = b->numel * dtype_info[b->dtype].bytes;
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static Life *lifetimes(Job *job, const Plan *plan) {
  Life *life = arena_array(&job->arena, plan->nbuffers + 1, sizeof *life);
  for (uint32_t b = 0; b < plan->nbuffers; b++) {
    life[b] = (Life){.buffer = b, .first = UINT32_MAX, .offset = -1};
    life[b].bytes = aligned_bytes(&plan->buffers[b]);
  }
  for (uint32_t c = 0; c < plan->ncalls; c++) {
    for (uint32_t a = 0; a < plan->calls[c].nargs; a++) {
      Life *l = &life[plan->calls[c].args[a]];
      if (l->first == UINT32_MAX) l->first = c;
      l->last = c;
    }
  }
  return life;
}

static int larger_first(const void *a, const void *b) {
  const Life *x = *(Life *const *)a, *y = *(Life *const *)b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x->buffer < y->buffer ? -1 : x->buffer > y->buffer;
}

static int lower_first(const void *a, const void *b) {
  const Life *x = *(Life *const *)a, *y = *(Life *const *)b;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  return x->buffer < y->buffer ? -1 : x->buffer > y->buffer;
}

/* The smallest gap between neighbours (sorted by offset, possibly overlapping each other) that
 * holds `bytes`. */
static int64_t best_gap(Life *const *neighbours, size_t n, int64_t bytes) {
  int64_t top = 0, best = -1, best_size = INT64_MAX;
  for (size_t k = 0; k < n; k++) {
    int64_t gap = neighbours[k]->offset - top, end = neighbours[k]->offset + neighbours[k]->bytes;
    if (gap >= bytes && gap < best_size) best = top, best_size = gap;
    if (end > top) top = end;
  }
  return best >= 0 ? best : top;
}

static void place(Job *job, Life *l, Alive *alive, Alive *neighbours, uint32_t *seen) {
  neighbours->len = 0;
  for (uint32_t c = l->first; c <= l->last; c++) {
    for (size_t k = 0; k < alive[c].len; k++) {
      Life *other = alive[c].at[k];
      if (seen[other->buffer] == l->buffer + 1) continue;
      seen[other->buffer] = l->buffer + 1;
      avec_push(&job->arena, neighbours, other);
    }
    avec_push(&job->arena, &alive[c], l);
  }
  if (neighbours->len) {
    qsort(neighbours->at, neighbours->len, sizeof *neighbours->at, lower_first);
  }
  l->offset = best_gap(neighbours->at, neighbours->len, l->bytes);
}

void memplan(Job *job, Plan *plan) {
  Life *life = lifetimes(job, plan), **order;
  Alive *alive = arena_array(&job->arena, plan->ncalls + 1, sizeof *alive), neighbours = {0};
  uint32_t *seen = arena_array(&job->arena, plan->nbuffers + 1, sizeof *seen);
  size_t n = 0;
  order = arena_array(&job->arena, plan->nbuffers + 1, sizeof(Life *));
  for (uint32_t b = 0; b < plan->nbuffers; b++) {
    if (plan->buffers[b].kind == PB_TEMP && life[b].first != UINT32_MAX) order[n++] = &life[b];
  }
  qsort(order, n, sizeof *order, larger_first);
  plan->temp_bytes = 0;
  for (size_t k = 0; k < n; k++) {
    Life *l = order[k];
    place(job, l, alive, &neighbours, seen);
    plan->buffers[l->buffer].offset = l->offset;
    if (l->offset + l->bytes > plan->temp_bytes) plan->temp_bytes = l->offset + l->bytes;
    job_poll(job);
  }
}
