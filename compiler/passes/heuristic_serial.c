/* Loops whose iterations come one after the other.
 *
 * A scan waits in each step for the one before: about four cycles, in a register (recurrence.c).
 * Several rows side by side share that time, so that without a vector across rows a few of them are
 * taken at once; not more, because rows a page apart share the places of a cache. A scatter's
 * updates rarely meet and wait for nothing. */
#include "compiler/passes/heuristic_parts.h"

enum { ROWS_AT_ONCE = 4, VECTOR = 16 };

int heuristic_chained(const Sched *s) {
  for (size_t i = 0; i < s->k->list.len; i++) {
    const UOp *u = s->k->list.at[i];
    if (u->op != OP_INDEX || u->nsrc < 4) continue;
    for (uint32_t k = 0; k < s->k->nloops; k++) {
      int a = (int)s->k->loops[k]->arg.i;
      bool next = s->k->axes[a].serial && u->src[1]->open && uop_is_open(u->src[1], s->k->loops[k]);
      if (next && uop_is_const(u->src[2])) return a;
    }
  }
  return -1;
}

void heuristic_serial(Sched *s) {
  int along = heuristic_chained(s), last = (int)s->k->nloops - 1, v = s->vector;
  int64_t vectors = v < 0 ? 1 : size_of(s, v) / VECTOR;
  if (along < 0 || vectors >= ROWS_AT_ONCE) return; /* one row's vectors wait side by side */
  for (int i = last; i >= 0; i--) {
    int a = (int)s->k->loops[i]->arg.i;
    int64_t n = divisor_below(s, a, ROWS_AT_ONCE / (vectors ? vectors : 1));
    if (a == along || a == v || n < 2) continue;
    give(s, OPT_UPCAST, a, n);
    if ((int)s->k->loops[last]->arg.i != along) give(s, OPT_ORDER, along, last);
    return;
  }
}
