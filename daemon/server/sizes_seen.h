/* Which sizes the runs of an executable have had, where its plan has VARs.
 *
 * Sizes are of one kind when each has the same power of two below it: what is fast at 8 says little
 * about 512, and much about 9. What a search finds out is evidence for one kind. */
#pragma once

#include "base/arena.h"

enum { SIZES_KINDS = 4 };

typedef struct SizesSeen {
  struct {
    int64_t *at; /* by VAR: of the last run of this kind */
    uint64_t runs;
  } kinds[SIZES_KINDS];
  size_t n;
} SizesSeen;

/* The power of two at or below; 0 for what is no size. */
int sizes_kind(int64_t size);
/* A run: one more of its kind; when there are too many kinds the rarest makes room. */
void sizes_note(SizesSeen *s, Arena *arena, const int64_t *vars, size_t nvars);
/* The kind of most runs; s->n when there was none. */
size_t sizes_usual(const SizesSeen *s);
