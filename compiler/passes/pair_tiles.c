/* An LDMATRIX of two tiles takes the places that half of a warp names; the other half can name
 * those of two more. Loads of one buffer whose indices differ by a number are paired in the order
 * of these numbers, so that neighbours are a row or a few steps apart and most pairs have the same
 * distance: then their indices are one expression and a number each. */
#include "compiler/passes/pair_tiles.h"

#include <stdlib.h>

#include "compiler/passes/nodemap.h"

enum { PAIR = 4, HALF_WARP = 16 }; /* elements of a thread of two tiles */

typedef struct Load {
  UOp *u, *base;
  int64_t at;
} Load;

static bool is_pair(const UOp *u) {
  const UOp *i = u->op == OP_LDMATRIX && u->lanes == PAIR ? u->src[1] : NULL;
  return i && i->op == OP_ADD && uop_is_const(i->src[1]);
}

static int by_place(const void *x, const void *y) {
  const Load *a = x, *b = y;
  if (a->u->src[0] != b->u->src[0]) return a->u->src[0]->id < b->u->src[0]->id ? -1 : 1;
  if (a->u->arg.i != b->u->arg.i) return a->u->arg.i < b->u->arg.i ? -1 : 1;
  if (a->base != b->base) return a->base->id < b->base->id ? -1 : 1;
  return a->at < b->at ? -1 : a->at > b->at;
}

/* An index without a number is its own base. */
static size_t find_loads(const UOpList *list, Load *out) {
  size_t n = 0;
  for (size_t i = 0; i < list->len; i++) {
    UOp *u = list->at[i];
    if (is_pair(u))
      out[n++] = (Load){u, u->src[1]->src[0], u->src[1]->src[1]->arg.i};
    else if (u->op == OP_LDMATRIX && u->lanes == PAIR && !uop_is_const(u->src[1]))
      out[n++] = (Load){u, u->src[1], 0};
  }
  qsort(out, n, sizeof *out, by_place);
  return n;
}

static UOp *half_of(Job *job, UOp *all, int64_t first) {
  int64_t lanes[PAIR];
  for (int k = 0; k < PAIR; k++) lanes[k] = first + k;
  return uop_make_lanes(job, OP_SHUFFLE, DT_VOID, PAIR, arg_ints(lanes, PAIR), &all, 1);
}

UOp *pair_tiles(Job *job, UOp *kernel) {
  UOpList list = uop_toposort(job, kernel);
  Load *loads = arena_array(&job->arena, list.len + 1, sizeof *loads);
  UOp **from = arena_array(&job->arena, list.len + 1, sizeof *from), *thread = NULL;
  UOp **to = arena_array(&job->arena, list.len + 1, sizeof *to);
  size_t n = find_loads(&list, loads), m = 0;
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_SPECIAL && list.at[i]->arg.i == 3) thread = list.at[i];
  if (!thread || thread->vmax >= 2 * HALF_WARP) return kernel;
  for (size_t i = 0; i + 1 < n; i++) {
    const Load *a = &loads[i], *b = &loads[i + 1];
    if (a->u->src[0] != b->u->src[0] || a->u->arg.i != b->u->arg.i || a->base != b->base) continue;
    UOp *half = uop2(job, OP_FLOORDIV, thread, uop_index(job, HALF_WARP));
    UOp *at = uop2(job, OP_ADD, a->base, uop2(job, OP_MUL, half, uop_index(job, b->at - a->at)));
    if (a->at) at = uop2(job, OP_ADD, at, uop_index(job, a->at));
    UOp *src[2] = {a->u->src[0], at};
    UOp *all = uop_make_lanes(job, OP_LDMATRIX, DT_VOID, 2 * PAIR, a->u->arg, src, 2);
    from[m] = a->u, to[m++] = half_of(job, all, 0);
    from[m] = b->u, to[m++] = half_of(job, all, PAIR);
    i++;
  }
  return m ? uop_substitute(job, kernel, from, to, m) : kernel;
}
