/* Two loops are one when no index can tell: in every sum in which either occurs, a's coefficient is
 * n times b's. Sums that matter are those that something other than a sum uses. Then a is replaced
 * by 0 and b by a range over both.
 *
 * merge_axes and split_axis do what an opt asks for: two loops become one, or one becomes two. */
#include "compiler/passes/collapse.h"

#include "base/vec.h"
#include "compiler/passes/linsum.h"
#include "compiler/passes/replace.h"

typedef struct Collapse {
  Job *job;
  UOpList list;
  UOpList roots; /* INDEX nodes used by something that is not a sum */
  LinSumMap sums;
} Collapse;

/* A node that linsum looks through. */
static bool is_sum(Collapse *c, UOp *u) {
  if (u->dtype != DT_INDEX) return false;
  const LinSum *sum = linsum_of(&c->sums, u);
  return sum->n != 1 || sum->at[0].atom != u;
}

static bool has_ranges(const UOp *u) { return u->op == OP_REDUCE || u->op == OP_END; }

static void find_roots(Collapse *c) {
  for (size_t i = 0; i < c->list.len; i++) {
    UOp *u = c->list.at[i];
    if (is_sum(c, u)) continue;
    for (uint32_t s = 0; s < u->nsrc && !(has_ranges(u) && s); s++)
      if (u->src[s]->dtype == DT_INDEX) avec_push(&c->job->arena, &c->roots, u->src[s]);
  }
}

/* Every REDUCE and END has both ranges, b right after a, or neither. */
static bool always_adjacent(const Collapse *c, const UOp *a, const UOp *b) {
  for (size_t i = 0; i < c->list.len; i++) {
    const UOp *u = c->list.at[i];
    if (!has_ranges(u)) continue;
    for (uint32_t s = 1; s < u->nsrc; s++) {
      if (u->src[s] == a && (s + 1 == u->nsrc || u->src[s + 1] != b)) return false;
      if (u->src[s] == b && (s == 1 || u->src[s - 1] != a)) return false;
    }
  }
  return true;
}

static bool one_walk(Collapse *c, UOp *a, UOp *b) {
  AxisType t = uop_axis(a);
  if (t != uop_axis(b) || (t != AX_LOOP && t != AX_REDUCE && t != AX_GLOBAL)) return false;
  if (!uop_is_const(a->src[0]) || !uop_is_const(b->src[0]) || !always_adjacent(c, a, b))
    return false;
  for (size_t i = 0; i < c->roots.len; i++) {
    const LinSum *sum = linsum_of(&c->sums, c->roots.at[i]);
    int64_t ca = linsum_coeff(sum, a), cb = linsum_coeff(sum, b), want;
    if (__builtin_mul_overflow(cb, b->src[0]->arg.i, &want) || ca != want) return false;
  }
  return true;
}

static bool find_pair(Collapse *c, UOp **a, UOp **b) {
  for (size_t i = 0; i < c->list.len; i++) {
    UOp *u = c->list.at[i];
    for (uint32_t s = 1; has_ranges(u) && s + 1 < u->nsrc; s++)
      if (one_walk(c, u->src[s], u->src[s + 1])) return *a = u->src[s], *b = u->src[s + 1], true;
  }
  return false;
}

/* u over other sources, of which there may be fewer or more. */
static UOp *over(Job *job, UOp *u, UOp **src, uint32_t n) {
  return n ? uop_make_lanes(job, (Op)u->op, (DType)u->dtype, u->lanes, u->arg, src, n) : u;
}

/* a becomes `outer` and b `inner`, expressions over the range `both` that takes their place. */
static UOp *merge(Job *job, UOp *kernel, const UOp *a, const UOp *b, UOp *both, UOp *outer,
                  UOp *inner) {
  Replace r = replace_begin(job, kernel);
  for (size_t i = 0; i < r.list.len; i++) {
    UOp *u = r.list.at[i], **src = replace_renewed(&r, u);
    uint32_t k = 0;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      bool range = has_ranges(u) && s;
      if (range && u->src[s] == a) continue;
      src[k++] = range && u->src[s] == b ? both : src[s];
    }
    if (u == a)
      r.now[i] = outer;
    else if (u == b)
      r.now[i] = inner;
    else
      r.now[i] = over(job, u, src, k);
  }
  return linsum_simplify(job, replace_end(&r));
}

static UOp *range_over_both(Job *job, int64_t id, const UOp *a, const UOp *b) {
  int64_t n;
  if (!uop_is_const(a->src[0]) || !uop_is_const(b->src[0])) return NULL;
  if (__builtin_mul_overflow(a->src[0]->arg.i, b->src[0]->arg.i, &n)) return NULL;
  return uop_range(job, id, uop_axis(b), uop_index(job, n));
}

UOp *merge_axes(Job *job, UOp *kernel, int64_t ia, int64_t ib) {
  Collapse c = {.job = job, .list = uop_toposort(job, kernel)};
  UOp *a = NULL, *b = NULL;
  for (size_t i = 0; i < c.list.len; i++) {
    UOp *u = c.list.at[i];
    if (u->op == OP_RANGE && u->arg.i == ia) a = u;
    if (u->op == OP_RANGE && u->arg.i == ib) b = u;
  }
  if (!a || !b || a == b || uop_axis(a) != uop_axis(b) || !always_adjacent(&c, a, b)) return NULL;
  UOp *both = range_over_both(job, ia, a, b);
  if (!both) return NULL;
  UOp *n = b->src[0], *outer = uop2(job, OP_FLOORDIV, both, n);
  return merge(job, kernel, a, b, both, outer, uop2(job, OP_FLOORMOD, both, n));
}

UOp *split_axis(Job *job, UOp *kernel, int64_t a, int64_t n, int64_t id) {
  Replace r = replace_begin(job, kernel);
  UOp *outer = NULL, *inner = NULL;
  for (size_t i = 0; i < r.list.len; i++) {
    UOp *u = r.list.at[i], **src = replace_renewed(&r, u);
    if (u->op == OP_RANGE && u->arg.i == a) {
      int64_t size = u->src[0]->arg.i, blocks = (size + n - 1) / n;
      outer = uop_range(job, id, uop_axis(u), uop_index(job, blocks));
      inner = uop_range(job, a, uop_axis(u), uop_index(job, n));
      UOp *first = index_mul(job, outer, n);
      if (size % n) first = uop2(job, OP_MIN, first, uop_index(job, size - n));
      r.now[i] = index_add(job, first, inner);
      continue;
    }
    uint32_t s = 1, count = u->nsrc;
    while (s < count && !(has_ranges(u) && u->src[s]->arg.i == a)) s++;
    if (s < count) {
      memmove(src + s + 2, src + s + 1, (count++ - s - 1) * sizeof *src);
      src[s] = outer, src[s + 1] = inner;
    }
    r.now[i] = over(job, u, src, count);
  }
  return linsum_simplify(job, replace_end(&r));
}

UOp *collapse_loops(Job *job, UOp *kernel) {
  for (;;) {
    Collapse c = {.job = job, .list = uop_toposort(job, kernel)};
    UOp *a, *b;
    linsum_init(job, &c.sums);
    find_roots(&c);
    if (!find_pair(&c, &a, &b)) return kernel;
    UOp *both = range_over_both(job, b->arg.i, a, b);
    if (!both) return kernel;
    kernel = merge(job, kernel, a, b, both, uop_index(job, 0), both);
    job_poll(job);
  }
}
