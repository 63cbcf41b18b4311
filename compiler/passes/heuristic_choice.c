/* Output axes by which one of a few values is chosen: parts of what was joined, or of a tuple.
 *
 * They are written out, so that nothing but the value chosen is computed, and values share what
 * they can. In the lanes of a vector each lane would compute all of them. */
#include "compiler/passes/heuristic_parts.h"

enum { SHORT = 8, MOST = 64 };

/* The axis that alone decides a choice; -1: it is none, or another thing decides. */
static int decides(const UOp *u) {
  if (u->op != OP_WHERE || !u->src[0]->open || u->src[0]->open->n != 1) return -1;
  return (int)u->src[0]->open->at[0]->arg.i;
}

static bool is_short(const Sched *s, int axis) {
  return is_static(s, axis) && size_of(s, axis) <= SHORT && place_of(s, axis) >= 0;
}

int64_t heuristic_shared(const Sched *s, int axis) {
  int64_t all = 1;
  for (uint32_t i = 0; i < s->k->nloops; i++) {
    int a = (int)s->k->loops[i]->arg.i;
    bool found = false;
    if (a == axis || !is_short(s, a) || size_of(s, a) * all > MOST) continue;
    for (size_t u = 0; u < s->k->list.len && !found; u++) found = decides(s->k->list.at[u]) == a;
    if (found) all *= size_of(s, a);
  }
  return all;
}

bool heuristic_write_out(Sched *s) {
  int64_t all = 1;
  for (size_t i = 0; i < s->k->list.len; i++) {
    int a = decides(s->k->list.at[i]);
    if (a < 0 || a == s->vector || !is_short(s, a) || s->tile[a] > 1) continue;
    if (size_of(s, a) * all > MOST) continue;
    give(s, OPT_UPCAST, a, size_of(s, a));
    all *= size_of(s, a);
  }
  return all > 1;
}
