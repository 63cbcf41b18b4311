/* The cap counts bytes asked for, not blocks: it is a promise about one message, while the arena's
 * own limit is about everything that shares the arena. */
#include "proto/pbarena.h"

static void *take(void *data, size_t size) {
  PbArena *p = data;
  void *at = size <= p->left ? arena_alloc(p->arena, size) : NULL;
  if (at)
    p->left -= size;
  else
    p->full = true;
  return at;
}

static void ignore(void *data, void *pointer) {
  (void)data;
  (void)pointer;
}

void pbarena_init(PbArena *p, Arena *arena, size_t cap) {
  *p = (PbArena){
      .allocator = {.alloc = take, .free = ignore, .allocator_data = p},
      .arena = arena,
      .left = cap,
  };
}
