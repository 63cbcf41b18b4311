/* A handful of kinds is kept, found by comparing: a run has few VARs and there are few kinds, so
 * this costs less than the map it would otherwise be. */
#include "daemon/server/sizes_seen.h"

#include <string.h>

int sizes_kind(int64_t size) { return size < 1 ? 0 : 64 - __builtin_clzll((uint64_t)size); }

static bool same_kind(const int64_t *a, const int64_t *b, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (sizes_kind(a[i]) != sizes_kind(b[i])) return false;
  return true;
}

void sizes_note(SizesSeen *s, Arena *arena, const int64_t *vars, size_t nvars) {
  size_t i = 0, rarest = 0;
  while (i < s->n && !same_kind(s->kinds[i].at, vars, nvars)) i++;
  if (i == s->n && s->n < SIZES_KINDS) {
    int64_t *at = arena_array(arena, nvars, sizeof *at);
    if (!at) return; /* nothing depends on it */
    s->kinds[s->n++].at = at;
  } else if (i == s->n) {
    for (size_t k = 1; k < s->n; k++)
      if (s->kinds[k].runs < s->kinds[rarest].runs) rarest = k;
    i = rarest;
    s->kinds[i].runs = 0;
  }
  memcpy(s->kinds[i].at, vars, nvars * sizeof *vars);
  s->kinds[i].runs++;
}

size_t sizes_usual(const SizesSeen *s) {
  size_t best = 0;
  for (size_t i = 1; i < s->n; i++)
    if (s->kinds[i].runs > s->kinds[best].runs) best = i;
  return best;
}
