/* Greedy by size: the largest first, each at the smallest gap that holds it between the items that
 * are placed already and alive with it. Quadratic in the number of items, and done only when sizes
 * have changed; the compiler, which has time, tries more orders (memplan.c). */
#include "daemon/worker/arena_layout.h"

#include <stdlib.h>

#include "base/arena.h"

enum { ALIGN = 64 };

static uint64_t align_up(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

static int larger_first(const void *a, const void *b) {
  const ArenaItem *x = *(ArenaItem *const *)a, *y = *(ArenaItem *const *)b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x < y ? -1 : x > y;
}

static bool meet(const ArenaItem *a, const ArenaItem *b) {
  return a->first <= b->last && b->first <= a->last;
}

/* placed: sorted by offset. */
static uint64_t best_gap(ArenaItem *const *placed, size_t n, const ArenaItem *item) {
  uint64_t top = 0, best = UINT64_MAX, best_size = UINT64_MAX;
  for (size_t i = 0; i < n; i++) {
    if (!meet(placed[i], item)) continue;
    uint64_t at = placed[i]->offset, end = at + align_up(placed[i]->bytes);
    if (at > top && at - top >= item->bytes && at - top < best_size)
      best = top, best_size = at - top;
    if (end > top) top = end;
  }
  return best != UINT64_MAX ? best : top;
}

static void insert(ArenaItem **placed, size_t n, ArenaItem *item) {
  for (; n > 0 && placed[n - 1]->offset > item->offset; n--) placed[n] = placed[n - 1];
  placed[n] = item;
}

Status arena_layout(ArenaItem *const *items, size_t n, uint64_t *bytes) {
  ArenaItem **order = calloc(2 * n + 1, sizeof *order), **placed = order ? order + n : NULL;
  size_t total = 0;
  bool fits = true;
  *bytes = 0;
  if (!order) return FAIL(RESOURCE_EXHAUSTED, "the layout of %zu temporaries", n);
  for (size_t i = 0; i < n; i++) {
    order[i] = items[i];
    fits = fits && items[i]->bytes < INT64_MAX - ALIGN &&
           size_add(total, align_up(items[i]->bytes), &total) && total < INT64_MAX;
  }
  if (fits) qsort(order, n, sizeof(ArenaItem *), larger_first);
  for (size_t i = 0; fits && i < n; i++) {
    ArenaItem *item = order[i];
    item->offset = best_gap(placed, i, item);
    insert(placed, i, item);
    uint64_t end = item->offset + align_up(item->bytes);
    if (end > *bytes) *bytes = end;
  }
  free(order);
  return fits ? NULL : FAIL(RESOURCE_EXHAUSTED, "the temporaries need more memory than there is");
}
