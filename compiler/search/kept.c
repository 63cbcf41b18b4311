/* The same value under different names.
 *
 * Every reduction has a range of its own, so that exp(x[i, a] - m) in a softmax's sum and
 * exp(x[i, b] - m) in its output are two nodes. Nodes that are equal but for their ranges hash
 * alike; each is compared with the first of its hash by walking both at once, which gives the
 * renaming: a bijection of ranges of equal extents. Ranges that are renamed somewhere are the rows
 * of the class.
 *
 * A class is left out when all members are used by members of one other class alone: whoever keeps
 * the outer value needs the inner one once. */
#include "compiler/search/kept.h"

#include <stdlib.h>

#include "base/vec.h"
#include "compiler/passes/nodemap.h"

enum { MAX_PAIRS = 64, MAX_WALK = 4096, NO_CLASS = 0 };
static const uint32_t MANY_CLASSES = UINT32_MAX;

typedef struct Pair {
  UOp *from, *to;
} Pair;

/* A renaming of ranges while it is found. */
typedef struct Renaming {
  Pair at[MAX_PAIRS];
  uint32_t n;
} Renaming;

typedef struct Finder {
  Job *job;
  const UOpList *list;
  NodeMap pos;
  uint64_t *hash;  /* by position: blind to the ids of ranges */
  uint32_t *class; /* by position: 1 + number, 0: none */
  uint32_t *twin;  /* by position, of one walk: 1 + position of the node that it equals */
  uint32_t *stack;
  bool *places; /* by position: places in buffers depend on the value */
  VEC(Kept) found;
  VEC(Renaming) names; /* of each class: of its members in turn, from the first */
} Finder;

static uint32_t position(const Finder *f, const UOp *u) { return nodemap_get(&f->pos, u); }

static uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * 0x9e3779b97f4a7c15u;
  return h ^ h >> 29;
}

static void hash_nodes(Finder *f) {
  for (size_t i = 0; i < f->list->len; i++) {
    const UOp *u = f->list->at[i];
    uint64_t h = mix(mix(1, u->op), u->dtype);
    if (u->op != OP_RANGE) {
      h = mix(mix(h, (uint64_t)u->arg.i), u->nsrc);
      for (uint32_t k = 0; k < u->arg.ints.n; k++) h = mix(h, (uint64_t)u->arg.ints.at[k]);
    }
    for (uint32_t s = 0; s < u->nsrc; s++) h = mix(h, f->hash[position(f, u->src[s])]);
    f->hash[i] = h;
  }
}

/* -- comparing --------------------------------------------------------------------------------- */

static bool rename_range(Renaming *r, UOp *a, UOp *b) {
  if (a->src[0] != b->src[0]) return false;
  for (uint32_t k = 0; k < r->n; k++)
    if (r->at[k].from == a || r->at[k].to == b) return r->at[k].from == a && r->at[k].to == b;
  if (r->n == MAX_PAIRS) return false;
  r->at[r->n++] = (Pair){a, b};
  return true;
}

/* A node that both have keeps its ranges. */
static bool keep_ranges(Renaming *r, const UOp *u) {
  for (uint32_t k = 0; u->open && k < u->open->n; k++)
    if (!rename_range(r, u->open->at[k], u->open->at[k])) return false;
  return true;
}

static bool same_node(const UOp *a, const UOp *b) {
  if (a->op != b->op || a->dtype != b->dtype || a->nsrc != b->nsrc) return false;
  if (a->op == OP_RANGE) return true;
  if (a->arg.i != b->arg.i || a->arg.ints.n != b->arg.ints.n) return false;
  return !a->arg.ints.n ||
         !memcmp(a->arg.ints.at, b->arg.ints.at, a->arg.ints.n * sizeof *a->arg.ints.at);
}

/* a and b are one value but for the names of ranges. */
static bool walk_both(Finder *f, UOp *a, UOp *b, Renaming *r) {
  VEC(uint32_t) touched = {0};
  uint32_t n = 0, steps = 0;
  bool same = true;
  *r = (Renaming){0};
  f->stack[n++] = position(f, a), f->stack[n++] = position(f, b);
  while (n && same) {
    uint32_t j = f->stack[--n], i = f->stack[--n];
    UOp *x = f->list->at[i], *y = f->list->at[j];
    if (f->twin[i]) {
      same = f->twin[i] == j + 1;
      continue;
    }
    f->twin[i] = j + 1;
    avec_push(&f->job->arena, &touched, i);
    if (x == y) {
      same = keep_ranges(r, x);
      continue;
    }
    same = same_node(x, y) && ++steps < MAX_WALK;
    if (same && x->op == OP_RANGE) {
      same = rename_range(r, x, y);
      continue;
    }
    for (uint32_t s = 0; same && s < x->nsrc; s++) {
      if (n + 2 > 2 * MAX_WALK) same = false;
      if (same) f->stack[n++] = position(f, x->src[s]), f->stack[n++] = position(f, y->src[s]);
    }
  }
  for (size_t k = 0; k < touched.len; k++) f->twin[touched.at[k]] = 0;
  return same;
}

/* -- classes ----------------------------------------------------------------------------------- */

/* Sources of what is cast to an index, but for what is loaded, whose bounds are those of its type.
 */
static void find_places(Finder *f) {
  f->places = arena_array(&f->job->arena, f->list->len + 1, sizeof *f->places);
  for (size_t i = f->list->len; i-- > 0;) {
    const UOp *u = f->list->at[i];
    bool cast = u->op == OP_CAST && u->dtype == DT_INDEX;
    for (uint32_t s = 0; (cast || f->places[i]) && u->op != OP_INDEX && s < u->nsrc; s++)
      f->places[position(f, u->src[s])] = true;
  }
}

/* A number that depends on a loop. An integer from which a place is computed is none: memory would
 * forget the bounds by which the place lies inside of its buffer. */
static bool is_candidate(const Finder *f, UOp *u) {
  if (!u->open || u->dtype == DT_INDEX || u->dtype == DT_VOID || u->dtype == DT_BOOL) return false;
  if (u->op == OP_INDEX) return u->src[0]->op == OP_PARAM;
  if (f->places[position(f, u)] && dtype_is_int((DType)u->dtype)) return false;
  return u->op == OP_REDUCE || (op_info[u->op].flags & OPF_ALU && u->nsrc);
}

static void add_member(Finder *f, Kept *k, uint32_t i) {
  UOp **at = arena_array(&f->job->arena, k->n + 1u, sizeof *at);
  if (k->n) memcpy(at, k->at, k->n * sizeof *at);
  at[k->n++] = f->list->at[i];
  k->at = at;
  f->class[i] = (uint32_t)f->found.len + 1;
}

typedef struct Hashed {
  uint64_t hash;
  uint32_t at;
} Hashed;

static int by_hash(const void *x, const void *y) {
  const Hashed *a = x, *b = y;
  if (a->hash != b->hash) return a->hash < b->hash ? -1 : 1;
  return a->at < b->at ? -1 : a->at > b->at;
}

static UOp *renamed(const Renaming *r, UOp *range) {
  for (uint32_t k = 0; k < r->n; k++)
    if (r->at[k].from == range) return r->at[k].to;
  return range;
}

/* The open ranges of the first member that some other member has another one for. */
static void find_rows(Finder *f, Kept *k, const Renaming *names) {
  const RangeSet *open = k->at[0]->open;
  k->row = arena_array(&f->job->arena, (size_t)k->n * open->n + 1, sizeof *k->row);
  for (int pass = 0; pass < 2; pass++) {
    uint32_t n = 0;
    for (uint32_t o = 0; o < open->n; o++) {
      bool differs = false;
      for (uint32_t m = 1; m < k->n; m++)
        differs |= renamed(&names[m - 1], open->at[o]) != open->at[o];
      if (!differs) continue;
      for (uint32_t m = 0; pass && m < k->n; m++)
        k->row[m * k->nrow + n] = m ? renamed(&names[m - 1], open->at[o]) : open->at[o];
      n++;
    }
    k->nrow = n;
  }
}

/* Of nodes with one hash, those that equal the first; false when nobody does. */
static bool collect_members(Finder *f, const Hashed *h, size_t n, Kept *k) {
  f->names.len = 0;
  for (size_t b = 1; b < n; b++) {
    Renaming r;
    if (f->class[h[b].at] || !walk_both(f, f->list->at[h->at], f->list->at[h[b].at], &r)) continue;
    if (!k->n) add_member(f, k, h->at);
    add_member(f, k, h[b].at);
    avec_push(&f->job->arena, &f->names, r);
  }
  if (k->n) find_rows(f, k, f->names.at);
  return k->n > 0;
}

static void find_class(Finder *f, const Hashed *h, size_t n) {
  for (size_t a = 0; a + 1 < n; a++) {
    Kept k = {0};
    if (f->class[h[a].at] || !collect_members(f, h + a, n - a, &k)) continue;
    if (k.nrow) {
      avec_push(&f->job->arena, &f->found, k);
      continue;
    }
    for (uint32_t m = 0; m < k.n; m++) /* closed ranges alone differ: nothing to lay out */
      f->class[position(f, k.at[m])] = NO_CLASS;
  }
}

static void find_classes(Finder *f) {
  Hashed *h = arena_array(&f->job->arena, f->list->len + 1, sizeof *h);
  size_t n = 0;
  for (size_t i = 0; i < f->list->len; i++)
    if (is_candidate(f, f->list->at[i])) h[n++] = (Hashed){f->hash[i], (uint32_t)i};
  qsort(h, n, sizeof *h, by_hash);
  for (size_t from = 0, to; from < n; from = to) {
    for (to = from + 1; to < n && h[to].hash == h[from].hash;) to++;
    if (to - from > 1) find_class(f, h + from, to - from);
    job_poll(f->job);
  }
}

/* By class: the only class whose members use its members. */
static uint32_t *find_users(const Finder *f) {
  uint32_t *user = arena_array(&f->job->arena, f->found.len + 1, sizeof *user);
  for (size_t i = 0; i < f->list->len; i++) {
    const UOp *u = f->list->at[i];
    for (uint32_t s = 0; s < u->nsrc; s++) {
      uint32_t of = f->class[position(f, u->src[s])], by = f->class[i];
      if (!of) continue;
      uint32_t *known = &user[of - 1];
      *known = !by || (*known && *known != by) ? MANY_CLASSES : by;
    }
  }
  return user;
}

/* Factors of sums of products with a reduction below them: computed once per reduction, not once
 * per product. */
static void find_factors(Finder *f) {
  bool *reduces = arena_array(&f->job->arena, f->list->len + 1, 1);
  for (size_t i = 0; i < f->list->len; i++) {
    const UOp *u = f->list->at[i];
    reduces[i] = u->op == OP_REDUCE;
    for (uint32_t s = 0; s < u->nsrc; s++) reduces[i] |= reduces[position(f, u->src[s])];
  }
  for (size_t i = 0; i < f->list->len; i++) {
    const UOp *u = f->list->at[i];
    const UOp *product = u->op == OP_REDUCE && u->arg.i == OP_ADD ? u->src[0] : NULL;
    while (product && product->op == OP_CAST) product = product->src[0];
    for (uint32_t s = 0; product && product->op == OP_MUL && s < 2; s++) {
      uint32_t at = position(f, product->src[s]);
      if (!reduces[at] || f->class[at] || !is_candidate(f, product->src[s])) continue;
      Kept k = {.n = 1};
      k.at = arena_copy(&f->job->arena, &product->src[s], sizeof *k.at);
      avec_push(&f->job->arena, &f->found, k);
      f->class[at] = (uint32_t)f->found.len;
    }
  }
}

typedef struct Placed {
  uint32_t at, class;
} Placed;

static int by_place(const void *x, const void *y) {
  const Placed *a = x, *b = y;
  return a->at < b->at ? -1 : a->at > b->at;
}

Kept *kept_find(Job *job, const UOpList *list, uint32_t *n) {
  Finder f = {.job = job, .list = list};
  nodemap_number(job, &f.pos, list);
  f.hash = arena_array(&job->arena, list->len + 1, sizeof *f.hash);
  f.class = arena_array(&job->arena, list->len + 1, sizeof *f.class);
  f.twin = arena_array(&job->arena, list->len + 1, sizeof *f.twin);
  f.stack = arena_array(&job->arena, 2 * MAX_WALK + 2, sizeof *f.stack);
  hash_nodes(&f);
  find_places(&f);
  find_classes(&f);
  const uint32_t *user = find_users(&f);
  size_t classes = f.found.len;
  find_factors(&f);
  Placed *order = arena_array(&job->arena, f.found.len + 1, sizeof *order);
  *n = 0;
  for (uint32_t k = 0; k < f.found.len; k++)
    if (k >= classes || user[k] == MANY_CLASSES)
      order[(*n)++] = (Placed){position(&f, f.found.at[k].at[0]), k};
  qsort(order, *n, sizeof *order, by_place);
  Kept *out = arena_array(&job->arena, *n + 1u, sizeof *out);
  for (uint32_t k = 0; k < *n; k++) out[k] = f.found.at[order[k].class];
  return out;
}

uint32_t kept_member(const Kept *k, const UOp *u) {
  for (uint32_t m = 0; m < k->n; m++)
    if (k->at[m] == u) return m;
  return NODE_ABSENT;
}
