/* The loops of one kernel: split, merged, ordered, numbered.
 *
 * Every change is a list of swaps: a range, the expression that takes its place in values, and the
 * ranges (0 to 2) that take its place in the END or REDUCE that closes it. One rebuild applies a
 * list; index arithmetic above a changed range is redone by ix.h, so a split makes quotients
 * vanish and a merge makes sums collapse on the way. */
#include "compiler/passes/ranges.h"

#include <assert.h>

#include "compiler/ir/poly.h"
#include "compiler/passes/ix.h"

typedef struct Swap {
  UOp *from, *value;
  UOp *ranges[2];
  uint32_t n;
} Swap;

enum { MAX_RANGES = 64 };

static const Swap *find(const Swap *swaps, size_t n, const UOp *range) {
  for (size_t k = 0; k < n; k++) {
    if (swaps[k].from == range) return &swaps[k];
  }
  return NULL;
}

static UOp *close_ranges(Job *job, const UOp *u, UOp *body, const Swap *swaps, size_t n) {
  UOp **src = arena_array(&job->arena, 2 * (size_t)u->nsrc, sizeof *src);
  size_t len = 0;
  src[len++] = body;
  for (uint32_t s = 1; s < u->nsrc; s++) {
    const Swap *w = find(swaps, n, u->src[s]);
    if (!w) src[len++] = u->src[s];
    for (uint32_t r = 0; w && r < w->n; r++) src[len++] = w->ranges[r];
  }
  if (u->op == OP_REDUCE && len == 1) return body;
  return uop_make(job, (Op)u->op, (DType)u->dtype, u->arg, src, len);
}

/* u with new sources, by index arithmetic where that applies. */
static UOp *rebuilt(Job *job, UOp *u, UOp **src) {
  bool constant = u->nsrc == 2 && src[1]->op == OP_CONST;
  if (u->dtype == DT_INDEX && u->nsrc == 2) {
    if (u->op == OP_ADD) return ix_add(job, src[0], src[1]);
    if (u->op == OP_SUB) return ix_add(job, src[0], ix_scale(job, src[1], -1, 0));
    if (u->op == OP_MUL && constant) return ix_scale(job, src[0], src[1]->arg.i, 0);
    if (u->op == OP_FLOORDIV && constant && src[1]->arg.i > 0) {
      return ix_div(job, src[0], src[1]->arg.i);
    }
    if (u->op == OP_FLOORMOD && constant && src[1]->arg.i > 0) {
      return ix_mod(job, src[0], src[1]->arg.i);
    }
    bool symbolic = src[0]->symbolic || src[1]->symbolic;
    if (symbolic && u->op == OP_MUL) return poly_node_sum(job, uop2(job, OP_MUL, src[0], src[1]));
    if (symbolic && u->op == OP_FLOORDIV) return poly_node_div(job, src[0], src[1]);
    if (symbolic && u->op == OP_FLOORMOD) return poly_node_mod(job, src[0], src[1]);
  }
  return uop_with_src(job, u, src);
}

/* uop_toposort leaves every node's place in the list in the node. */
static UOp *apply(Job *job, UOp *sink, const Swap *swaps, size_t n) {
  UOpList list = uop_toposort(job, sink);
  UOp **result = arena_array(&job->arena, list.len, sizeof *result);
  uint32_t widest = 1;
  for (size_t i = 0; i < list.len; i++)
    widest = list.at[i]->nsrc > widest ? list.at[i]->nsrc : widest;
  UOp **src = arena_array(&job->arena, widest, sizeof *src);
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    const Swap *w = u->op == OP_RANGE ? find(swaps, n, u) : NULL;
    bool same = !w;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      src[s] = result[u->src[s]->place];
      same &= src[s] == u->src[s];
    }
    if (same) {
      result[i] = u;
    } else if (w) {
      result[i] = w->value;
    } else if (u->op == OP_END || u->op == OP_REDUCE) {
      result[i] = close_ranges(job, u, src[0], swaps, n);
    } else {
      result[i] = rebuilt(job, u, src);
    }
  }
  return result[list.len - 1];
}

/* -- what there is ----------------------------------------------------------------------------- */

typedef struct Loops {
  UOp *at[MAX_RANGES];
  uint32_t group[MAX_RANGES]; /* which END or REDUCE closes it */
  uint32_t n, nout;
  int64_t next_id;
} Loops;

static bool listed(const Loops *l, const UOp *range) {
  for (uint32_t k = 0; k < l->n; k++) {
    if (l->at[k] == range) return true;
  }
  return false;
}

/* Output ranges first, then those of the reductions in topological order. */
static Loops loops_of(const UOpList *list) {
  Loops l = {0};
  for (int pass = 0; pass < 2; pass++) {
    for (size_t i = 0; i < list->len; i++) {
      const UOp *u = list->at[i];
      if (u->op != (pass ? OP_REDUCE : OP_END)) continue;
      for (uint32_t s = 1; s < u->nsrc; s++) {
        if (l.n == MAX_RANGES || listed(&l, u->src[s])) continue;
        l.group[l.n] = u->id;
        l.at[l.n++] = u->src[s];
        if (u->src[s]->arg.i >= l.next_id) l.next_id = u->src[s]->arg.i + 1;
      }
    }
    if (!pass) l.nout = l.n;
  }
  return l;
}

/* A dim. */
static int64_t size_of(Job *job, const UOp *range) {
  return range->src[0]->op == OP_CONST ? range->src[0]->arg.i : dim_of(job, range->src[0]);
}

static bool fixed_size(const UOp *range) { return range->src[0]->op == OP_CONST; }

static UOp *like(Job *job, const UOp *range, int64_t id, int64_t size) {
  return uop_range(job, id, uop_axis(range), dim_uop(job, size));
}

/* -- split ------------------------------------------------------------------------------------- */

/* c is not 1, not the range's size, and divides it. */
static bool cuts(Job *job, const UOp *r, UOp *c, int64_t *times) {
  if (c->op == OP_CONST && fixed_size(r)) {
    int64_t n = c->arg.i, size = size_of(job, r);
    if (n <= 1 || n >= size || size % n) return false;
    *times = size / n;
    return true;
  }
  if (dim_check(c) || (c->op == OP_CONST && c->arg.i <= 1)) return false;
  return dim_divides(job, size_of(job, r), dim_of(job, c), times) && *times != 1;
}

/* A node range / c or range % c, with c a proper divisor of the range's size. */
static UOp *splittable(Job *job, const UOpList *list, int64_t *times) {
  for (size_t i = 0; i < list->len; i++) {
    UOp *u = list->at[i];
    if (u->op != OP_FLOORDIV && u->op != OP_FLOORMOD) continue;
    if (u->src[0]->op == OP_RANGE && uop_axis(u->src[0]) != AX_SERIAL &&
        cuts(job, u->src[0], u->src[1], times))
      return u;
  }
  return NULL;
}

UOp *ranges_split(Job *job, UOp *sink) {
  for (;;) {
    UOpList list = uop_toposort(job, sink);
    int64_t times = 0;
    const UOp *u = splittable(job, &list, &times);
    Loops l = loops_of(&list);
    if (!u || l.n + 2 > MAX_RANGES) return sink;
    UOp *r = u->src[0];
    int64_t c = u->src[1]->op == OP_CONST ? u->src[1]->arg.i : dim_of(job, u->src[1]);
    UOp *hi = like(job, r, l.next_id, times), *lo = like(job, r, l.next_id + 1, c);
    Swap w = {.from = r, .value = ix_add(job, ix_scale(job, hi, c, 0), lo), .n = 2};
    w.ranges[0] = hi, w.ranges[1] = lo;
    sink = apply(job, sink, &w, 1);
  }
}

/* -- merge ------------------------------------------------------------------------------------- */

typedef enum Use { USE_NONE, USE_ONE, USE_APART } Use; /* neither; a * size + b; otherwise */

static Use symbolic_use(Job *job, UOp *e, const UOp *a, const UOp *b, int depth);

static Use use_of(Job *job, UOp *e, const UOp *a, const UOp *b, int depth) {
  if (!uop_is_open(e, a) && !uop_is_open(e, b)) return USE_NONE;
  if (e->symbolic || !fixed_size(b)) return symbolic_use(job, e, a, b, depth);
  IxSum x = ix_sum_of(e);
  if (ix_coef(&x, a) != size_of(job, b) * ix_coef(&x, b)) return USE_APART;
  for (uint32_t k = 0; k < x.n; k++) {
    UOp *t = x.term[k];
    if (t == a || t == b || (!uop_is_open(t, a) && !uop_is_open(t, b))) continue;
    bool divided = (t->op == OP_FLOORDIV || t->op == OP_FLOORMOD) && t->src[1]->op == OP_CONST;
    bool loaded = t->op == OP_CAST; /* the loads below are looked at for themselves */
    if (!depth || !(divided || loaded)) return USE_APART;
    if (divided && use_of(job, t->src[0], a, b, depth - 1) == USE_APART) return USE_APART;
  }
  return USE_ONE;
}

/* The same with polynomials for coefficients. */
static Use symbolic_use(Job *job, UOp *e, const UOp *a, const UOp *b, int depth) {
  Poly p = poly_of(job, e), size = poly_of(job, b->src[0]);
  Poly ca = poly_factor(job, p, a), cb = poly_factor(job, p, b);
  if (!poly_eq(ca, poly_mul(job, cb, size))) return USE_APART;
  for (uint32_t k = 0; k < p.n; k++) {
    bool self = false;
    for (uint32_t n = 0; n < p.at[k].n; n++) self |= p.at[k].atom[n] == a || p.at[k].atom[n] == b;
    for (uint32_t n = 0; n < p.at[k].n; n++) {
      UOp *t = p.at[k].atom[n];
      if (t == a || t == b || (!uop_is_open(t, a) && !uop_is_open(t, b))) continue;
      bool divided = t->op == OP_FLOORDIV || t->op == OP_FLOORMOD;
      if (self || !depth || !(divided || t->op == OP_CAST)) return USE_APART;
      if (divided && (uop_is_open(t->src[1], a) || uop_is_open(t->src[1], b) ||
                      use_of(job, t->src[0], a, b, depth - 1) == USE_APART)) {
        return USE_APART;
      }
    }
  }
  return USE_ONE;
}

/* Merging must keep every address a sum. A gate may come to need a quotient and a remainder, which
 * pays for innermost loops that are too short or too uneven for vectors. An innermost loop of a
 * known, even size stays apart from one of unknown size. */
static bool should_merge(Job *job, const UOpList *list, const UOp *a, const UOp *b,
                         bool innermost) {
  enum { DEPTH = 8, SHORT = 32, EVEN = 16, LONG = 512 };
  bool fixed = fixed_size(a) && fixed_size(b);
  int64_t size = fixed_size(b) ? size_of(job, b) : 0;
  if (!fixed && size && (size % EVEN == 0 || size >= SHORT)) return false;
  bool gates = fixed && innermost && (size < SHORT || (size % EVEN && size < LONG));
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    if (u->dtype == DT_INDEX && u->op != OP_INDEX) continue;
    if (u->op == OP_END || u->op == OP_REDUCE) continue;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      UOp *e = u->src[s];
      if (e->dtype != DT_INDEX || e->op == OP_PARAM || use_of(job, e, a, b, DEPTH) != USE_APART)
        continue;
      bool compared = u->op == OP_CMPLT || u->op == OP_CMPLE || u->op == OP_CMPEQ;
      if (!compared || !gates) return false;
    }
  }
  return true;
}

/* The pair is always open together: no reduction depends on one of them alone. */
static bool same_scope(const UOpList *list, const UOp *a, const UOp *b) {
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    if (u->op == OP_REDUCE && uop_is_open(u, a) != uop_is_open(u, b)) return false;
  }
  return true;
}

UOp *ranges_merge(Job *job, UOp *sink) {
  for (;;) {
    UOpList list = uop_toposort(job, sink);
    Loops l = loops_of(&list);
    uint32_t k = l.n;
    while (k > 1) {
      k--;
      if (l.group[k - 1] == l.group[k] && uop_axis(l.at[k - 1]) == uop_axis(l.at[k]) &&
          same_scope(&list, l.at[k - 1], l.at[k]) &&
          should_merge(job, &list, l.at[k - 1], l.at[k], k + 1 == l.nout)) {
        break;
      }
      if (k == 1) return sink;
    }
    if (l.n < 2) return sink;
    UOp *a = l.at[k - 1], *b = l.at[k];
    int64_t size = size_of(job, b);
    UOp *m = like(job, a, l.next_id, dim_mul(job, size_of(job, a), size));
    Swap w[2] = {{.from = a, .value = ix_div(job, m, size), .ranges = {m}, .n = 1},
                 {.from = b, .value = ix_mod(job, m, size)}};
    sink = apply(job, sink, w, 2);
  }
}

/* -- order and numbers ---------------------------------------------------------------------------
 */

/* Marks the output loops that every load of a lone reduction depends on, save the one that walks
 * through the written buffer. */
static void batch_loops(Job *job, const UOpList *list, const Loops *l, uint32_t *key) {
  UOp *reduce = NULL;
  uint32_t nreduces = 0, loads = 0, uses[MAX_RANGES] = {0};
  IxSum store = {0};
  for (size_t i = 0; i < list->len; i++) {
    if (list->at[i]->op == OP_REDUCE) reduce = list->at[i], nreduces++;
    if (list->at[i]->op == OP_STORE) store = ix_sum_of(list->at[i]->src[1]);
  }
  if (nreduces != 1) return;
  UOpList body = uop_toposort(job, reduce->src[0]);
  for (size_t i = 0; i < body.len; i++) {
    if (body.at[i]->op != OP_INDEX) continue;
    loads++;
    for (uint32_t k = 0; k < l->nout; k++) uses[k] += uop_is_open(body.at[i], l->at[k]);
  }
  for (uint32_t k = 0; loads > 1 && k < l->nout; k++) {
    key[k] += uses[k] == loads && ix_coef(&store, l->at[k]) != 1;
  }
}

UOp *ranges_order(Job *job, UOp *sink) {
  UOpList list = uop_toposort(job, sink);
  Loops l = loops_of(&list);
  uint32_t key[MAX_RANGES] = {0}, order[MAX_RANGES];
  for (size_t i = 0; i < list.len; i++) {
    for (uint32_t k = 0; list.at[i]->op == OP_REDUCE && k < l.nout; k++) {
      key[k] += 2 * uop_is_open(list.at[i], l.at[k]);
    }
  }
  batch_loops(job, &list, &l, key);
  if (!l.nout && sink->src[0]->op != OP_END) { /* its loops all turned out to run once */
    UOp *body = uop1(job, OP_END, sink->src[0]);
    return uop_with_src(job, sink, &body);
  }
  UOp *end = sink->src[0], **src = arena_array(&job->arena, end->nsrc, sizeof *src);
  assert(end->op == OP_END && end->nsrc == l.nout + 1);
  src[0] = end->src[0];
  for (uint32_t k = 0; k < l.nout; k++) {
    uint32_t at = k;
    for (; at > 0 && key[order[at - 1]] < key[k]; at--) order[at] = order[at - 1];
    order[at] = k;
  }
  for (uint32_t k = 0; k < l.nout; k++) src[k + 1] = l.at[order[k]];
  end = uop_with_src(job, end, src);
  return uop_with_src(job, sink, &end);
}

UOp *ranges_number(Job *job, UOp *sink) {
  UOpList list = uop_toposort(job, sink);
  Loops l = loops_of(&list);
  Swap swaps[MAX_RANGES];
  size_t n = 0;
  int64_t id = 0;
  for (uint32_t k = 0; k < l.n; k++) {
    UOp *r = l.at[k];
    if (fixed_size(r) && size_of(job, r) == 1) {
      swaps[n++] = (Swap){.from = r, .value = uop_index(job, 0)};
    } else {
      UOp *to = uop_range(job, id++, uop_axis(r), r->src[0]);
      if (to != r) swaps[n++] = (Swap){.from = r, .value = to, .ranges = {to}, .n = 1};
    }
  }
  return n ? apply(job, sink, swaps, n) : sink;
}
