/* A thread's buffers in fewer places.
 *
 * A chain of reductions over a row keeps the row three times: its elements, what each becomes under
 * the maximum, and that divided by the sum. Each is read for the last time where the next one is
 * made, element by element, and in one place they fill a third of the cache.
 *
 * A buffer takes part when all of it that is ever stored is stored before it is loaded, again in
 * every iteration of the loop around. Its life goes from the first store to the last load, in whole
 * statements of the innermost loop that holds all of them: a loop in which it is stored or loaded
 * belongs to its life from beginning to end. Two lives may share a place when they do not meet, or
 * meet in one nest of loops that loads no element of the old one which it has stored before: there
 * the indices of both are one sum in which no two iterations name the same element. */
#include "compiler/passes/reuse.h"

#include <stdlib.h>

#include "base/vec.h"
#include "compiler/passes/linsum.h"

/* Loops are numbered by the position of their RANGE + 1, so that inner ones have larger numbers;
 * 0: none. */
typedef struct Life {
  UOp *buffer;
  uint32_t store, last_store, load, last_load; /* positions */
  uint32_t loop;                               /* the innermost around all of them */
  uint32_t begin, end;                         /* positions, both included */
  uint32_t place;                              /* the life whose buffer it is in */
  bool plain;                                  /* takes part */
} Life;

typedef struct Reuse {
  Job *job;
  const UOpList *list;
  uint32_t *home;  /* by position: the loop around it */
  uint32_t *close; /* by position of a RANGE: that of its END */
  int64_t *number; /* by position, of accesses of the nest in hand: that of the index's sum */
  NodeMap lives;
  Life *at;
  uint32_t n;
} Reuse;

static UOp *node(const Reuse *r, uint32_t at) { return r->list->at[at]; }

static bool is_access(const UOp *u) { return u->op == OP_LOAD || u->op == OP_STORE; }

static Life *life_of(Reuse *r, const UOp *access) {
  uint32_t i = nodemap_get(&r->lives, uop_storage(access->src[0]));
  return i == NODE_ABSENT ? NULL : &r->at[i];
}

/* -- lives ------------------------------------------------------------------------------------- */

static void find_loops(Reuse *r) {
  uint32_t loop = 0;
  for (uint32_t i = 0; i < r->list->len; i++) {
    if (node(r, i)->op == OP_END) r->close[loop - 1] = i, loop = r->home[loop - 1];
    r->home[i] = loop;
    if (node(r, i)->op == OP_RANGE) loop = i + 1;
  }
}

static void find_buffers(Reuse *r) {
  nodemap_init(r->job, &r->lives, 16);
  r->at = arena_array(&r->job->arena, r->list->len, sizeof *r->at);
  for (uint32_t i = 0; i < r->list->len; i++) {
    UOp *u = node(r, i);
    if (u->op != OP_BUFFER || u->arg.ints.at[1] != 0) continue;
    nodemap_put(r->job, &r->lives, u, r->n);
    r->at[r->n++] = (Life){.buffer = u, .load = UINT32_MAX, .store = UINT32_MAX, .plain = true};
  }
}

static uint32_t loop_around(const Reuse *r, uint32_t a, uint32_t b) {
  while (a != b)
    if (a > b)
      a = r->home[a - 1];
    else
      b = r->home[b - 1];
  return a;
}

/* The statement of the loop's body that holds a node. */
static uint32_t statement(const Reuse *r, uint32_t at, uint32_t loop) {
  while (r->home[at] != loop) at = r->home[at] - 1;
  return at;
}

/* Neighbouring elements at a place that one number says, whatever else is so. */
static bool is_simple(const UOp *u) {
  return u->src[1]->lanes == 1 && (u->lanes == 1 || u->arg.i == 1) &&
         uop_storage(u->src[0])->lanes == 1;
}

static void note_access(Reuse *r, uint32_t at) {
  const UOp *u = node(r, at);
  Life *life = life_of(r, u);
  if (!life) return;
  bool first = life->store == UINT32_MAX && life->load == UINT32_MAX;
  life->loop = first ? r->home[at] : loop_around(r, life->loop, r->home[at]);
  if (u->op == OP_STORE) {
    if (life->store == UINT32_MAX) life->store = at;
    life->last_store = at;
    life->plain &= u->nsrc == 3 && is_simple(u) && life->load == UINT32_MAX;
  } else {
    if (life->load == UINT32_MAX) life->load = at;
    life->last_load = at;
    life->plain &= u->src[0]->op == OP_AFTER;
  }
}

static void find_accesses(Reuse *r) {
  for (uint32_t i = 0; i < r->list->len; i++) {
    const UOp *u = node(r, i);
    if (is_access(u)) note_access(r, i);
    for (uint32_t s = is_access(u) || u->op == OP_AFTER; s < u->nsrc; s++) {
      uint32_t other = nodemap_get(&r->lives, uop_storage(u->src[s]));
      if (other != NODE_ABSENT) r->at[other].plain = false;
    }
  }
}

static bool is_counted(const UOp *range) {
  return range->op == OP_RANGE && uop_is_const(range->src[0]);
}

/* A store that fills the same elements in every iteration of the loop. */
static bool fills(Reuse *r, uint32_t at, uint32_t loop) {
  const LinSum *sum = linsum_index(r->job, node(r, at)->src[1]);
  uint32_t counted = 0;
  for (uint32_t h = r->home[at]; h != loop; h = r->home[h - 1]) {
    UOp *range = node(r, h - 1);
    if (!is_counted(range)) return false;
    counted += linsum_coeff(sum, range) != 0;
  }
  return counted == sum->n;
}

static void find_lives(Reuse *r) {
  find_loops(r);
  find_buffers(r);
  find_accesses(r);
  for (uint32_t i = 0; i < r->list->len; i++) {
    Life *life = node(r, i)->op == OP_STORE ? life_of(r, node(r, i)) : NULL;
    if (life && life->plain) life->plain = fills(r, i, life->loop);
  }
  for (uint32_t k = 0; k < r->n; k++) {
    Life *life = &r->at[k];
    life->plain &= life->store != UINT32_MAX && life->load != UINT32_MAX;
    life->place = k;
    if (!life->plain) continue;
    life->begin = statement(r, life->store, life->loop);
    uint32_t last = statement(r, life->last_load, life->loop);
    life->end = node(r, last)->op == OP_RANGE ? r->close[last] : last;
  }
}

/* -- in place ---------------------------------------------------------------------------------- */

/* The accesses of a nest: all at one sum, but for a number. */
typedef struct Nest {
  uint32_t home; /* the loop that they are in */
  const LinSum *sum;
  int64_t low, high; /* elements, as seen from the sum's terms */
} Nest;

static bool same_terms(const LinSum *a, const LinSum *b) {
  if (a->n != b->n) return false;
  for (uint32_t i = 0; i < a->n; i++)
    if (a->at[i].atom != b->at[i].atom || a->at[i].coeff != b->at[i].coeff) return false;
  return true;
}

static bool add_access(Reuse *r, Nest *n, uint32_t at) {
  const UOp *u = node(r, at);
  const LinSum *sum = linsum_index(r->job, u->src[1]);
  if (!is_simple(u)) return false;
  if (!n->sum) *n = (Nest){r->home[at], sum, sum->konst, sum->konst};
  r->number[at] = sum->konst;
  if (sum->konst < n->low) n->low = sum->konst;
  if (sum->konst + u->lanes > n->high) n->high = sum->konst + u->lanes;
  return r->home[at] == n->home && same_terms(sum, n->sum);
}

static int by_coeff(const void *a, const void *b) {
  const LinTerm *x = a, *y = b;
  return x->coeff < y->coeff ? -1 : x->coeff > y->coeff;
}

/* Whether iterations of the loops from the nest's up to `top` are apart: each loop's steps are as
 * long as what all inside of it reach. */
static bool are_apart(Reuse *r, const Nest *n, uint32_t top) {
  LinTerm *t = arena_array(&r->job->arena, n->sum->n + 1, sizeof *t);
  uint32_t loops = 0;
  for (uint32_t h = n->home;; h = r->home[h - 1]) {
    UOp *range = node(r, h - 1);
    int64_t coeff = linsum_coeff(n->sum, range);
    if (!is_counted(range) || coeff <= 0 || loops == n->sum->n) return false;
    t[loops++] = (LinTerm){range, coeff};
    if (h == top + 1) break;
  }
  if (loops != n->sum->n) return false;
  qsort(t, loops, sizeof *t, by_coeff);
  int64_t reach = n->high - n->low, more;
  for (uint32_t i = 0; i < loops; i++) {
    if (t[i].coeff < reach) return false;
    if (__builtin_mul_overflow(t[i].coeff, t[i].atom->src[0]->arg.i - 1, &more)) return false;
    if (__builtin_add_overflow(reach, more, &reach)) return false;
  }
  return true;
}

/* No load of the old buffer comes after a store of the new one to the same element. */
static bool loads_first(Reuse *r, const Life *old, const Life *now, uint32_t top) {
  for (uint32_t s = top; s < r->close[top]; s++) {
    const UOp *store = node(r, s);
    if (store->op != OP_STORE || life_of(r, store) != now) continue;
    for (uint32_t l = s + 1; l < r->close[top]; l++) {
      const UOp *load = node(r, l);
      if (load->op != OP_LOAD || life_of(r, load) != old) continue;
      if (r->number[s] < r->number[l] + load->lanes && r->number[l] < r->number[s] + store->lanes)
        return false;
    }
  }
  return true;
}

/* Both lives meet in one nest, which makes the new one of the old one. */
static bool in_place(Reuse *r, const Life *old, const Life *now) {
  uint32_t top = now->begin;
  Nest nest = {0};
  if (old->loop != now->loop || node(r, top)->op != OP_RANGE || old->end != r->close[top] ||
      old->last_store > top || now->last_store > old->end)
    return false;
  for (uint32_t i = top; i < old->end; i++) {
    const UOp *u = node(r, i);
    const Life *life = is_access(u) ? life_of(r, u) : NULL;
    bool concerns = life && (life == old || (life == now && u->op == OP_STORE));
    if (concerns && !add_access(r, &nest, i)) return false;
  }
  return are_apart(r, &nest, top) && loads_first(r, old, now, top);
}

/* -- places ------------------------------------------------------------------------------------ */

static bool apart(const Life *a, const Life *b) { return a->end < b->begin || b->end < a->begin; }

static bool has_room(const UOp *place, const UOp *buffer) {
  return place->dtype == buffer->dtype && place->lanes == buffer->lanes &&
         place->arg.ints.at[0] >= buffer->arg.ints.at[0];
}

/* Whether life k may be in the place of life p: for all that are there. */
static bool fits(Reuse *r, uint32_t p, uint32_t k, bool *stays) {
  const Life *now = &r->at[k];
  *stays = false;
  if (!has_room(r->at[p].buffer, now->buffer)) return false;
  for (uint32_t i = 0; i < r->n; i++) {
    const Life *old = &r->at[i];
    if (i == k || !old->plain || old->place != p || apart(old, now)) continue;
    if (!in_place(r, old, now)) return false;
    *stays = true;
  }
  return true;
}

static int by_begin(const void *a, const void *b) {
  const Life *const *x = a, *const *y = b;
  return (*x)->begin < (*y)->begin ? -1 : (*x)->begin > (*y)->begin;
}

static bool find_places(Reuse *r) {
  Life **order = arena_array(&r->job->arena, r->n + 1, sizeof *order);
  bool any = false, stays;
  for (uint32_t k = 0; k < r->n; k++) order[k] = &r->at[k];
  qsort(order, r->n, sizeof(Life *), by_begin);
  for (uint32_t o = 0; o < r->n; o++) {
    uint32_t k = (uint32_t)(order[o] - r->at), best = k;
    for (uint32_t b = 0; b < o && r->at[k].plain; b++) {
      uint32_t p = (uint32_t)(order[b] - r->at);
      if (!r->at[p].plain || r->at[p].place != p || !fits(r, p, k, &stays)) continue;
      if (best == k || stays) best = p;
    }
    r->at[k].place = best;
    any |= best != k;
  }
  return any;
}

/* The list with other buffers; as it is when two of its nodes would be one. */
static UOpList renamed(Reuse *r) {
  NodeMap pos, seen;
  UOpList out = {0};
  UOp **now = arena_array(&r->job->arena, r->list->len, sizeof *now);
  nodemap_number(r->job, &pos, r->list);
  nodemap_init(r->job, &seen, r->list->len);
  for (uint32_t i = 0; i < r->list->len; i++) {
    UOp *u = node(r, i), **src = arena_array(&r->job->arena, u->nsrc + 1, sizeof *src);
    bool same = true;
    uint32_t life = u->op == OP_BUFFER ? nodemap_get(&r->lives, u) : NODE_ABSENT;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      uint32_t at = nodemap_get(&pos, u->src[s]);
      src[s] = at == NODE_ABSENT ? u->src[s] : now[at];
      same &= src[s] == u->src[s];
    }
    now[i] = same ? u : uop_with_src(r->job, u, src);
    if (life != NODE_ABSENT) now[i] = r->at[r->at[life].place].buffer;
    if (life != NODE_ABSENT && r->at[life].place != life) continue;
    if (nodemap_get(&seen, now[i]) != NODE_ABSENT) return *r->list;
    nodemap_put(r->job, &seen, now[i], i);
    avec_push(&r->job->arena, &out, now[i]);
  }
  return out;
}

UOpList reuse_buffers(Job *job, const UOpList *list) {
  Reuse r = {.job = job, .list = list};
  uint32_t buffers = 0;
  for (size_t i = 0; i < list->len; i++)
    buffers += list->at[i]->op == OP_BUFFER && list->at[i]->arg.ints.at[1] == 0;
  if (buffers < 2) return *list;
  r.home = arena_array(&job->arena, list->len, sizeof *r.home);
  r.close = arena_array(&job->arena, list->len, sizeof *r.close);
  r.number = arena_array(&job->arena, list->len, sizeof *r.number);
  find_lives(&r);
  return find_places(&r) ? renamed(&r) : *list;
}
