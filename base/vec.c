/* Growth by doubling for VEC; see vec.h. */
#include "base/vec.h"

#include <stdlib.h>

static size_t next_cap(size_t cap, size_t need) {
  size_t next = cap ? cap : 8;
  while (next < need) next = next > SIZE_MAX / 2 ? need : next * 2;
  return next;
}

bool vec_grow_(void **at, size_t *cap, size_t need, size_t size) {
  size_t bytes;
  if (need <= *cap) return true;
  size_t next = next_cap(*cap, need);
  if (!size_mul(next, size, &bytes)) return false;
  void *p = realloc(*at, bytes);
  if (!p) return false;
  *at = p;
  *cap = next;
  return true;
}

void vec_free_(void *at) { free(at); }

void avec_grow_(Arena *a, void **at, size_t *cap, size_t len, size_t need, size_t size) {
  if (need <= *cap) return;
  size_t next = next_cap(*cap, need);
  void *p = arena_array(a, next, size);
  if (len) memcpy(p, *at, len * size);
  *at = p;
  *cap = next;
}
