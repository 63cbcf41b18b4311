/* The open ranges of a node say in which loops it must be; the innermost of these is its home, and
 * so everything that does not depend on a loop is outside of it. Loops form a tree: the parent of a
 * loop is the home of its END.
 *
 * In each loop body the items - its own nodes, and inner loops as wholes - are sorted by
 * dependence, depth first from the effects, so that values stand close before their use. A
 * dependence between two nodes is one between the items that hold them in the innermost loop that
 * holds both.
 *
 * Depth first would finish one accumulator of a register tile after the other, and keep what all of
 * them load: such sums come first, one multiplication of each at a time, and on GPUs so do sums of
 * matrix products. */
#include "compiler/passes/linearize.h"

#include <assert.h>
#include <stdlib.h>

#include "base/vec.h"

#include "compiler/ir/matrix.h"
#include "compiler/passes/nodemap.h"
#include "compiler/passes/reuse.h"

#define ROOT UINT32_MAX /* the home of what lies in no loop */

/* Sources of an item, as a linked list in first-to-last order. */
typedef struct Edge {
  uint32_t to, next;
} Edge;

typedef struct Item {
  uint32_t home;        /* position of the RANGE of the loop around it, or ROOT */
  uint32_t depth;       /* RANGE: of the loop, 1 = outermost */
  uint32_t end;         /* RANGE: position of its END */
  uint32_t first, last; /* edges, 1-based; 0 = none */
  uint32_t body, next;  /* RANGE: first node of the body; next node of the same body; 1-based */
  uint32_t tail;
  uint8_t state; /* 0 new, 1 open, 2 done */
  bool wanted;   /* something in the same body depends on it */
} Item;

typedef struct Linearize {
  Job *job;
  UOpList list;
  NodeMap pos;
  Item *items;
  Item root;
  struct {
    Edge *at;
    size_t len, cap;
  } edges;
  UOpList out;
  uint32_t *levels; /* by position: of products that need each other; NULL: none are reordered */
} Linearize;

static uint32_t position(const Linearize *l, const UOp *u) { return nodemap_get(&l->pos, u); }
static Item *loop_of(Linearize *l, uint32_t home) {
  return home == ROOT ? &l->root : &l->items[home];
}

/* -- the loop tree ----------------------------------------------------------------------------- */

static _Noreturn void broken(Linearize *l, const UOp *u, const char *why) {
  job_abort(l->job, FAIL(INTERNAL, "linearize: node %u (%s): %s", u->id, op_info[u->op].name, why));
}

/* Innermost of the loops, by depth known so far. */
static uint32_t innermost(Linearize *l, const RangeSet *open) {
  uint32_t home = ROOT, depth = 0;
  for (uint32_t k = 0; open && k < open->n; k++) {
    uint32_t p = position(l, open->at[k]);
    if (l->items[p].depth > depth) home = p, depth = l->items[p].depth;
  }
  return home;
}

/* Depths by repeated relaxation over ENDs: an END lies in the loops open around it. Loops are few
 * and mostly come in order. */
static void find_loops(Linearize *l, const UOpList *ends) {
  for (size_t k = 0; k < ends->len; k++) {
    uint32_t r = position(l, ends->at[k]->src[1]);
    if (l->items[r].end) broken(l, ends->at[k], "a second END of one RANGE");
    l->items[r].end = position(l, ends->at[k]);
    l->items[r].depth = 1;
  }
  bool changed = true;
  for (size_t round = 0; changed; round++) {
    if (round > ends->len) broken(l, ends->at[0], "loops contain each other");
    changed = false;
    for (size_t k = ends->len; k-- > 0;) {
      Item *loop = &l->items[position(l, ends->at[k]->src[1])];
      const RangeSet *open = ends->at[k]->open;
      for (uint32_t i = 0; open && i < open->n; i++) {
        uint32_t d = l->items[position(l, open->at[i])].depth + 1;
        if (d > loop->depth) loop->depth = d, changed = true;
      }
    }
  }
}

/* All open ranges must be the home or loops around it. */
static void check_nest(Linearize *l, const UOp *u, uint32_t home) {
  uint32_t left = u->open ? u->open->n : 0;
  for (uint32_t h = home; h != ROOT && left; h = l->items[h].home)
    if (uop_is_open(u, l->list.at[h])) left--;
  if (left) broken(l, u, "it depends on two loops side by side");
}

static void find_homes(Linearize *l, const UOpList *ends) {
  /* Homes of RANGEs first: check_nest climbs them. */
  for (size_t k = 0; k < ends->len; k++)
    l->items[position(l, ends->at[k]->src[1])].home = innermost(l, ends->at[k]->open);
  for (size_t i = 0; i < l->list.len; i++) {
    UOp *u = l->list.at[i];
    Item *it = &l->items[i];
    if (u->op == OP_RANGE) {
      if (!it->end) broken(l, u, "no END closes it");
      continue;
    }
    it->home = innermost(l, u->open);
    check_nest(l, u, it->home);
  }
}

/* -- dependences ------------------------------------------------------------------------------- */

static void add_edge(Linearize *l, uint32_t from, uint32_t to) {
  Item *it = &l->items[from];
  Edge e = {.to = to};
  avec_push(&l->job->arena, &l->edges, e);
  uint32_t id = (uint32_t)l->edges.len;
  if (it->last)
    l->edges.at[it->last - 1].next = id;
  else
    it->first = id;
  it->last = id;
  l->items[to].wanted = true;
}

static uint32_t depth_of(Linearize *l, uint32_t home) {
  return home == ROOT ? 0 : l->items[home].depth;
}

/* The item that stands for node p: a loop for its RANGE's END. */
static uint32_t item_of(Linearize *l, uint32_t p) {
  UOp *u = l->list.at[p];
  return u->op == OP_END ? position(l, u->src[1]) : p;
}

static void depend(Linearize *l, uint32_t user, uint32_t source) {
  UOp *s = l->list.at[source];
  uint32_t a = item_of(l, user), b = item_of(l, source);
  /* Inside its own loop a RANGE needs no edge; an END's body belongs to its loop. */
  uint32_t ha = l->items[a].home, hb = l->items[b].home;
  if (s->op == OP_RANGE) return;
  while (depth_of(l, ha) > depth_of(l, hb)) a = ha, ha = l->items[a].home;
  while (depth_of(l, hb) > depth_of(l, ha)) b = hb, hb = l->items[b].home;
  while (ha != hb) a = ha, ha = l->items[a].home, b = hb, hb = l->items[b].home;
  if (a != b) add_edge(l, a, b);
}

static void find_edges(Linearize *l) {
  for (size_t i = 0; i < l->list.len; i++) {
    UOp *u = l->list.at[i];
    uint32_t inside = u->op == OP_END ? 1 : u->nsrc;
    for (uint32_t s = 0; s < inside; s++) {
      uint32_t p = position(l, u->src[s]);
      /* The effect of an END is in the loop, which is the END's own item: only what is outside
       * orders the loop, and those nodes have edges of their own. */
      if (u->op == OP_END && l->items[item_of(l, p)].home == position(l, u->src[1])) {
        l->items[item_of(l, p)].wanted = false;
        continue;
      }
      depend(l, (uint32_t)i, p);
    }
  }
}

/* -- emission ---------------------------------------------------------------------------------- */

static void fill_bodies(Linearize *l) {
  for (size_t i = 0; i < l->list.len; i++) {
    UOp *u = l->list.at[i];
    if (u->op == OP_END) continue;
    Item *loop = loop_of(l, l->items[i].home);
    uint32_t id = (uint32_t)i + 1;
    if (loop->tail)
      l->items[loop->tail - 1].next = id;
    else
      loop->body = id;
    loop->tail = id;
  }
}

static void emit_body(Linearize *l, uint32_t home);

static void emit_item(Linearize *l, uint32_t i) {
  UOp *u = l->list.at[i];
  avec_push(&l->job->arena, &l->out, u);
  if (u->op != OP_RANGE) return;
  emit_body(l, i);
  avec_push(&l->job->arena, &l->out, l->list.at[l->items[i].end]);
}

/* Depth first from one item, with an explicit stack: user models make long chains. */
static void emit_tree(Linearize *l, uint32_t top) {
  struct {
    uint32_t *at;
    size_t len, cap;
  } stack = {0};
  avec_push(&l->job->arena, &stack, top);
  while (stack.len) {
    uint32_t i = stack.at[stack.len - 1];
    Item *it = &l->items[i];
    if (it->state == 0) it->state = 1;
    uint32_t e = it->first;
    assert(!e || l->edges.at);
    while (e && l->items[l->edges.at[e - 1].to].state == 2) e = l->edges.at[e - 1].next;
    it->first = e;
    if (e) {
      uint32_t to = l->edges.at[e - 1].to;
      if (l->items[to].state == 1) broken(l, l->list.at[to], "it depends on itself");
      avec_push(&l->job->arena, &stack, to);
      continue;
    }
    stack.len--;
    if (it->state == 2) continue;
    it->state = 2;
    emit_item(l, i);
  }
}

/* -- sums side by side ------------------------------------------------------------------------- */

/* One multiplication of a sum: the operand that most of the others share is held, the other one is
 * loaded for a few of them and not needed again. */
typedef struct Term {
  uint32_t at;
  UOp *held, *passing;
  uint32_t group, place; /* by first appearance of `passing`, and in the list */
} Term;

static bool in_body(const Linearize *l, const UOp *u, uint32_t home) {
  const Item *it = &l->items[position(l, u)];
  return u->op == OP_MULACC && it->home == home && it->state == 0;
}

/* The multiplications of a STORE's value, the first one first; 0: it is no such sum. */
static uint32_t find_terms(Linearize *l, const UOp *store, uint32_t home, Term **out) {
  uint32_t n = 0;
  for (const UOp *u = store->src[2]; in_body(l, u, home); u = u->src[2]) n++;
  *out = arena_array(&l->job->arena, n + 1, sizeof **out);
  uint32_t k = n;
  for (const UOp *u = store->src[2]; k; u = u->src[2])
    (*out)[--k] = (Term){.at = position(l, u), .held = u->src[0], .passing = u->src[1]};
  return n;
}

static uint32_t users(const Term *t, uint32_t n, const UOp *operand) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < n; i++) found += t[i].held == operand || t[i].passing == operand;
  return found;
}

static int in_groups(const void *a, const void *b) {
  const Term *x = a, *y = b;
  if (x->group != y->group) return x->group < y->group ? -1 : 1;
  return x->place < y->place ? -1 : x->place > y->place;
}

static void group_terms(Term *t, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    UOp *a = t[i].held, *b = t[i].passing;
    if (users(t, n, a) < users(t, n, b)) t[i].held = b, t[i].passing = a;
  }
  for (uint32_t i = 0; i < n; i++) {
    uint32_t first = 0;
    while (t[first].passing != t[i].passing) first++;
    t[i].group = first, t[i].place = i;
  }
  qsort(t, n, sizeof *t, in_groups);
}

/* The sums of a register tile go ahead together, one multiplication of each at a time: then no more
 * than their accumulators and the operands of one step are alive, as the tile was chosen for. */
static void emit_sums(Linearize *l, uint32_t home) {
  enum { MOST = 256 };
  Term *of[MOST], *step = arena_array(&l->job->arena, MOST, sizeof *step);
  uint32_t sums = 0, length = 0;
  for (uint32_t id = loop_of(l, home)->body; id && sums < MOST; id = l->items[id - 1].next) {
    const UOp *u = l->list.at[id - 1];
    if (u->op != OP_STORE || u->src[2]->op != OP_MULACC) continue;
    uint32_t n = find_terms(l, u, home, &of[sums]);
    if (!n || (sums && n != length)) continue;
    length = n, sums++;
  }
  for (uint32_t s = 0; sums > 1 && s < length; s++) {
    for (uint32_t k = 0; k < sums; k++) step[k] = of[k][s];
    group_terms(step, sums);
    for (uint32_t k = 0; k < sums; k++) emit_tree(l, step[k].at);
  }
}

/* -- products side by side --------------------------------------------------------------------- */

/* A sum of matrix products: MMAs each of which goes on from the one before. */
typedef struct Products {
  Term *terms;
  uint32_t n, level; /* of sums that need each other's results */
} Products;

static bool goes_on(const UOp *u) { return u->nsrc > 2 && u->src[2]->op == OP_MMA; }

/* How many sums of products u needs one after the other. */
static uint32_t *find_product_levels(Linearize *l) {
  uint32_t *level = arena_array(&l->job->arena, l->list.len, sizeof *level);
  for (size_t i = 0; i < l->list.len; i++) {
    const UOp *u = l->list.at[i];
    for (uint32_t s = 0; s < u->nsrc; s++) {
      uint32_t below = level[position(l, u->src[s])];
      if (u->op == OP_MMA && !(s == 2 && goes_on(u))) below++;
      if (below > level[i]) level[i] = below;
    }
  }
  return level;
}

static bool is_product_in(const Linearize *l, const UOp *u, uint32_t home) {
  const Item *it = &l->items[position(l, u)];
  return u->op == OP_MMA && it->home == home && it->state == 0;
}

static Products products_of(Linearize *l, const UOp *last, uint32_t home) {
  Products p = {.n = 1};
  for (const UOp *u = last; goes_on(u) && is_product_in(l, u->src[2], home); u = u->src[2]) p.n++;
  p.terms = arena_array(&l->job->arena, p.n, sizeof *p.terms);
  uint32_t k = p.n;
  for (const UOp *u = last; k; u = u->src[2])
    p.terms[--k] = (Term){.at = position(l, u), .held = u->src[0], .passing = u->src[1]};
  return p;
}

/* Sums of a body, the last MMA of each; those that others need first. */
static void emit_products(Linearize *l, uint32_t home) {
  enum { MOST = 256 };
  Products *all = arena_array(&l->job->arena, MOST, sizeof *all);
  Term *step = arena_array(&l->job->arena, MOST, sizeof *step);
  bool *inner = arena_array(&l->job->arena, l->list.len, sizeof *inner);
  uint32_t n = 0, levels = 0;
  for (size_t i = 0; i < l->list.len; i++)
    if (l->list.at[i]->op == OP_MMA && goes_on(l->list.at[i]))
      inner[position(l, l->list.at[i]->src[2])] = true;
  for (uint32_t id = loop_of(l, home)->body; id && n < MOST; id = l->items[id - 1].next) {
    const UOp *u = l->list.at[id - 1];
    if (inner[id - 1] || !is_product_in(l, u, home)) continue;
    all[n] = products_of(l, u, home);
    all[n].level = l->levels[id - 1];
    if (all[n].level > levels) levels = all[n].level;
    n++;
  }
  for (uint32_t level = 1; level <= levels; level++)
    for (uint32_t s = 0, some = 1; some; s++) {
      some = 0;
      for (uint32_t k = 0; k < n; k++)
        if (all[k].level == level && s < all[k].n) step[some++] = all[k].terms[s];
      group_terms(step, some);
      for (uint32_t k = 0; k < some; k++) emit_tree(l, step[k].at);
    }
}

static void emit_body(Linearize *l, uint32_t home) {
  emit_sums(l, home);
  if (l->levels) emit_products(l, home);
  for (int pass = 0; pass < 2; pass++) /* effects and what they need, then what only ENDs need */
    for (uint32_t id = loop_of(l, home)->body; id; id = l->items[id - 1].next) {
      const Item *it = &l->items[id - 1];
      if (it->state == 0 && (pass || !it->wanted)) emit_tree(l, id - 1);
    }
}

/* Bytes of the buffers in a space of memory, each at a multiple of `align`. */
static uint64_t buffer_bytes(const UOpList *out, int64_t space, uint64_t align) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < out->len; i++) {
    const UOp *u = out->at[i];
    if (u->op != OP_BUFFER || u->arg.ints.at[1] != space) continue;
    uint64_t elements = (uint64_t)u->arg.ints.at[0] * u->lanes;
    bytes += (elements * dtype_info[u->dtype].bytes + align - 1) / align * align;
  }
  return bytes;
}

/* Registers of each thread when a warp is behind the others: those of a quarter of a processor are
 * for the threads that its warps have in one place. */
static uint64_t beside_warp(uint32_t threads) {
  enum { WARP = 32, QUARTERS = 4, MOST = 255 };
  uint64_t warps = (threads / WARP + 1 + QUARTERS - 1) / QUARTERS;
  uint64_t n = QUARTER_REGISTERS / warps / REGISTERS_UNIT * REGISTERS_UNIT;
  return n < MOST ? n : MOST;
}

/* Threads behind the others: a warp, or as many as may give registers to others (llvm_ring.c),
 * where what the others sum leaves them too few. Results of more than 16 bits need more of them on
 * the way out. */
static uint32_t copiers(const Linear *l) {
  enum { WARP = 32, GROUP = 128, REG = 1, OWN = 32, OWN_WIDE = 44 };
  const UOpList list = {.at = l->list, .len = l->len};
  uint32_t threads = l->block[0] * l->block[1] * l->block[2];
  bool held = false, wide = false;
  for (size_t i = 0; i < l->len; i++) {
    const UOp *u = l->list[i];
    held |= u->op == OP_TILEMMA && matrix_info(u->arg.i)->held;
    wide |=
        u->op == OP_STORE && u->src[0]->op == OP_PARAM && dtype_info[u->src[0]->dtype].bytes > 2;
  }
  uint64_t needed = buffer_bytes(&list, REG, 1) / 4 + (wide ? OWN_WIDE : OWN);
  return threads > GROUP && (held || needed > beside_warp(threads)) ? GROUP : WARP;
}

static void count(Linear *out) {
  bool ring = false;
  out->threads = 1;
  for (int d = 0; d < 3; d++) out->block[d] = 1;
  for (size_t i = 0; i < out->len; i++) {
    const UOp *u = out->list[i];
    if (u->op == OP_THREAD) out->threads = (uint32_t)u->arg.i;
    if (u->op == OP_SPECIAL && u->arg.i < 3) out->grid[u->arg.i] = u->src[0];
    if (u->op == OP_SPECIAL && u->arg.i >= 3) out->block[u->arg.i - 3] = (uint32_t)u->src[0]->arg.i;
    if (u->op == OP_PARAM && u->arg.i >= out->nargs) out->nargs = (uint32_t)u->arg.i + 1;
    ring |= u->op == OP_RING;
    if (u->op == OP_VAR && u->arg.i >= out->nvars) out->nvars = (uint32_t)u->arg.i + 1;
  }
  if (ring) out->copiers = copiers(out);
}

Linear linearize_kernel(Job *job, UOp *kernel, const Target *target) {
  Linearize l = {.job = job, .list = uop_toposort(job, kernel)};
  nodemap_number(job, &l.pos, &l.list);
  l.items = arena_array(&job->arena, l.list.len, sizeof *l.items);
  UOpList ends = {0};
  for (size_t i = 0; i < l.list.len; i++)
    if (l.list.at[i]->op == OP_END) avec_push(&job->arena, &ends, l.list.at[i]);
  find_loops(&l, &ends);
  find_homes(&l, &ends);
  find_edges(&l);
  fill_bodies(&l);
  if (target->max_group) l.levels = find_product_levels(&l);
  emit_body(&l, ROOT);
  if (!target->max_group) l.out = reuse_buffers(job, &l.out);
  Linear out = {.list = l.out.at,
                .len = l.out.len,
                .scratch_bytes = buffer_bytes(&l.out, 0, SHARED_ALIGN),
                .shared_align = SHARED_ALIGN};
  count(&out);
  for (size_t i = 0; i < l.out.len; i++)
    if (l.out.at[i]->op == OP_BUFFER && l.out.at[i]->arg.ints.n > 3) out.shared_align = TILE_ALIGN;
  out.shared_bytes = buffer_bytes(&l.out, 2, out.shared_align);
  if (out.copiers) out.shared_bytes += out.shared_align; /* what threads of a ring wait at */
  out.shared_given = target_is_cuda(target) && out.shared_bytes > DECLARED_SHARED_MAX;
  return out;
}
