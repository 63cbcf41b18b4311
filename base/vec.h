/* Growable arrays, typed by a macro.
 *
 *   VEC(int) v = {0};
 *   if (!vec_push(&v, 3)) ...out of memory...
 *   vec_deinit(&v);
 *
 * Heap vectors are used where errors are Status values; avec_* grow inside an Arena (the old array
 * is left behind) and belong to compile jobs, whose arena does not return NULL. */
#pragma once

#include "base/arena.h"

#define VEC(T)                                                                                     \
  struct {                                                                                         \
    T *at;                                                                                         \
    size_t len, cap;                                                                               \
  }

/* True when there is room for n elements in all. */
#define vec_reserve(v, n) vec_grow_((void **)&(v)->at, &(v)->cap, (n), sizeof *(v)->at)
/* True on success; false (and unchanged) when memory is out. */
#define vec_push(v, x) (vec_reserve((v), (v)->len + 1) ? ((v)->at[(v)->len++] = (x), true) : false)
#define vec_deinit(v)  (vec_free_((v)->at), (v)->at = NULL, (v)->len = (v)->cap = 0)

#define avec_reserve(arena, v, n)                                                                  \
  avec_grow_((arena), (void **)&(v)->at, &(v)->cap, (v)->len, (n), sizeof *(v)->at)
#define avec_push(arena, v, x)                                                                     \
  (avec_reserve((arena), (v), (v)->len + 1), (void)((v)->at[(v)->len++] = (x)))

bool vec_grow_(void **at, size_t *cap, size_t need, size_t size);
void vec_free_(void *at);
void avec_grow_(Arena *a, void **at, size_t *cap, size_t len, size_t need, size_t size);
