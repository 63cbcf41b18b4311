/* Sums are computed bottom-up and memoised. The one non-obvious step is division: for x / c with
 * x = g*y + r, g a divisor of c that divides some coefficients, and r proven to lie in [0, g), the
 * quotient is y / (c/g) and the remainder g * (y mod (c/g)) + r. After an axis is split into tiles
 * this is what turns row and column of a flattened pixel back into something linear in the lane. */
#include "compiler/passes/linsum.h"
#include "base/vec.h"
#include "compiler/passes/replace.h"

#include <assert.h>

void linsum_init(Job *job, LinSumMap *m) {
  *m = (LinSumMap){.job = job};
  nodemap_init(job, &m->index, 64);
}

int64_t linsum_coeff(const LinSum *a, const UOp *atom) {
  for (uint32_t i = 0; i < a->n; i++)
    if (a->at[i].atom == atom) return a->at[i].coeff;
  return 0;
}

UOp *index_add(Job *job, UOp *a, UOp *b) {
  if (uop_is_int(a, 0)) return b;
  if (uop_is_int(b, 0)) return a;
  return uop2(job, OP_ADD, a, b);
}

UOp *index_mul(Job *job, UOp *a, int64_t k) {
  if (k == 1) return a;
  if (k == 0) return uop_index(job, 0);
  return uop2(job, OP_MUL, a, uop_index(job, k));
}

UOp *linsum_build(Job *job, const LinTerm *terms, uint32_t n, int64_t konst) {
  UOp *sum = uop_index(job, 0);
  for (uint32_t i = 0; i < n; i++)
    sum = index_add(job, sum, index_mul(job, terms[i].atom, terms[i].coeff));
  return index_add(job, sum, uop_index(job, konst));
}

static const LinSum *of_atom(LinSumMap *m, UOp *u) {
  LinSum *a = arena_alloc(&m->job->arena, sizeof *a);
  LinTerm *t = arena_alloc(&m->job->arena, sizeof *t);
  *t = (LinTerm){u, 1};
  *a = (LinSum){.n = 1, .at = t};
  return a;
}

/* a + k*b; NULL on overflow. */
static const LinSum *combine(LinSumMap *m, const LinSum *a, const LinSum *b, int64_t k) {
  LinTerm *t = arena_array(&m->job->arena, a->n + b->n + 1, sizeof *t);
  LinSum *r = arena_alloc(&m->job->arena, sizeof *r);
  uint32_t i = 0, j = 0, n = 0;
  int64_t c;
  while (i < a->n || j < b->n) {
    bool left = j == b->n || (i < a->n && a->at[i].atom->id <= b->at[j].atom->id);
    bool right = i == a->n || (j < b->n && b->at[j].atom->id <= a->at[i].atom->id);
    UOp *atom = left ? a->at[i].atom : b->at[j].atom;
    c = 0;
    if (right && __builtin_mul_overflow(b->at[j++].coeff, k, &c)) return NULL;
    if (left && __builtin_add_overflow(c, a->at[i++].coeff, &c)) return NULL;
    if (c) t[n++] = (LinTerm){atom, c};
  }
  if (__builtin_mul_overflow(b->konst, k, &c) || __builtin_add_overflow(c, a->konst, &c))
    return NULL;
  *r = (LinSum){.konst = c, .n = n, .at = t};
  return r;
}

static const LinSum *sum_of(LinSumMap *m, UOp *u) {
  const LinSum *zero = arena_alloc(&m->job->arena, sizeof *zero), *a, *b;
  switch (u->op) {
  case OP_CONST: {
    LinSum *k = arena_alloc(&m->job->arena, sizeof *k);
    *k = (LinSum){.konst = u->arg.i};
    return k;
  }
  case OP_NEG: return combine(m, zero, linsum_of(m, u->src[0]), -1);
  case OP_ADD:
  case OP_SUB:
    a = linsum_of(m, u->src[0]), b = linsum_of(m, u->src[1]);
    return combine(m, a, b, u->op == OP_ADD ? 1 : -1);
  case OP_MUL:
    a = linsum_of(m, u->src[0]), b = linsum_of(m, u->src[1]);
    if (!b->n) return combine(m, zero, a, b->konst);
    if (!a->n) return combine(m, zero, b, a->konst);
    return NULL;
  default: return NULL;
  }
}

const LinSum *linsum_of(LinSumMap *m, UOp *u) {
  uint32_t i = nodemap_get(&m->index, u);
  if (i != NODE_ABSENT) return m->at[i];
  assert(u->dtype == DT_INDEX);
  const LinSum *a = sum_of(m, u);
  if (!a) a = of_atom(m, u);
  nodemap_put(m->job, &m->index, u, m->len);
  struct {
    const LinSum **at;
    size_t len, cap;
  } v = {m->at, m->len, m->cap};
  avec_push(&m->job->arena, &v, a);
  m->at = v.at, m->len = (uint32_t)v.len, m->cap = (uint32_t)v.cap;
  return a;
}

const LinSum *linsum_index(Job *job, UOp *index) {
  LinSumMap m;
  const LinSum *sum = NULL;
  UOpList list = uop_toposort(job, index);
  linsum_init(job, &m);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->dtype == DT_INDEX) sum = linsum_of(&m, list.at[i]);
  assert(sum); /* the index itself comes last */
  return sum;
}

/* -- simplification ---------------------------------------------------------------------------- */

static bool bounds_of(const LinTerm *t, uint32_t n, int64_t konst, int64_t *lo, int64_t *hi) {
  *lo = *hi = konst;
  for (uint32_t i = 0; i < n; i++) {
    int64_t a = t[i].atom->vmin, b = t[i].atom->vmax, c = t[i].coeff;
    if (a == INT64_MIN || b == INT64_MAX) return false;
    if (__builtin_mul_overflow(a, c, &a) || __builtin_mul_overflow(b, c, &b)) return false;
    if (__builtin_add_overflow(*lo, c > 0 ? a : b, lo)) return false;
    if (__builtin_add_overflow(*hi, c > 0 ? b : a, hi)) return false;
  }
  return true;
}

static int64_t gcd(int64_t a, int64_t b) {
  a = a < 0 ? -a : a, b = b < 0 ? -b : b;
  while (b) {
    int64_t t = a % b;
    a = b, b = t;
  }
  return a;
}

static int64_t floor_mod(int64_t a, int64_t b) { return ((a % b) + b) % b; }

/* Splits x into g*hi + lo with 0 <= lo < g, for a divisor g > 1 of c; false when no g is found. */
typedef struct Split {
  int64_t g, hi_konst, lo_konst;
  LinTerm *hi, *lo;
  uint32_t nhi, nlo;
} Split;

static bool try_split(Job *job, const LinSum *x, int64_t g, Split *s) {
  *s = (Split){.g = g};
  s->hi = arena_array(&job->arena, x->n + 1, sizeof *s->hi);
  s->lo = arena_array(&job->arena, x->n + 1, sizeof *s->lo);
  for (uint32_t i = 0; i < x->n; i++) {
    LinTerm t = x->at[i];
    if (t.coeff % g == 0)
      s->hi[s->nhi++] = (LinTerm){t.atom, t.coeff / g};
    else
      s->lo[s->nlo++] = t;
  }
  s->lo_konst = floor_mod(x->konst, g);
  s->hi_konst = (x->konst - s->lo_konst) / g;
  int64_t lo, hi;
  return bounds_of(s->lo, s->nlo, s->lo_konst, &lo, &hi) && lo >= 0 && hi < g;
}

static UOp *split_division(Job *job, LinSumMap *m, UOp *u) {
  int64_t c = uop_is_const(u->src[1]) ? u->src[1]->arg.i : 0;
  if (c <= 1) return u;
  const LinSum *x = linsum_of(m, u->src[0]);
  int64_t best = 0, lo, hi;
  Split s;
  if (bounds_of(x->at, x->n, x->konst, &lo, &hi) && lo >= 0 && hi < c)
    return u->op == OP_FLOORDIV ? uop_index(job, 0) : u->src[0];
  for (uint32_t i = 0; i < x->n; i++) {
    int64_t g = gcd(c, x->at[i].coeff);
    if (g > best && g > 1 && try_split(job, x, g, &s)) best = g;
  }
  if (!best || !try_split(job, x, best, &s)) return u;
  UOp *y = linsum_build(job, s.hi, s.nhi, s.hi_konst), *q = uop_index(job, c / best);
  if (u->op == OP_FLOORDIV) return c == best ? y : uop2(job, OP_FLOORDIV, y, q);
  UOp *low = linsum_build(job, s.lo, s.nlo, s.lo_konst);
  if (c == best) return low;
  return index_add(job, index_mul(job, uop2(job, OP_FLOORMOD, y, q), best), low);
}

/* g*hi + lo < g*c, with lo in [0, g), says hi < c: one answer for all lanes of a vector. */
static UOp *split_limit(Job *job, LinSumMap *m, UOp *u) {
  int64_t c = uop_is_const(u->src[1]) ? u->src[1]->arg.i : 0, best = 0;
  if (c <= 1 || u->src[0]->dtype != DT_INDEX) return u;
  const LinSum *x = linsum_of(m, u->src[0]);
  Split s;
  for (uint32_t i = 0; i < x->n; i++) {
    int64_t g = gcd(c, x->at[i].coeff);
    if (g > best && g > 1 && try_split(job, x, g, &s)) best = g;
  }
  if (!best || !try_split(job, x, best, &s) || !s.nlo) return u;
  UOp *hi = linsum_build(job, s.hi, s.nhi, s.hi_konst);
  return uop2(job, OP_CMPLT, hi, uop_index(job, c / best));
}

/* c*k*(x / c) + k*(x mod c) = k*x: what merging the axes of an image leaves behind. */
static const LinSum *recombine(LinSumMap *m, const LinSum *a) {
  for (uint32_t i = 0; i < a->n; i++)
    for (uint32_t j = 0; j < a->n; j++) {
      UOp *q = a->at[i].atom, *r = a->at[j].atom;
      int64_t k = a->at[j].coeff, ck;
      if (q->op != OP_FLOORDIV || r->op != OP_FLOORMOD || q->src[0] != r->src[0] ||
          q->src[1] != r->src[1] || !uop_is_const(q->src[1]) || q->src[1]->arg.i <= 0 ||
          __builtin_mul_overflow(k, q->src[1]->arg.i, &ck) || ck != a->at[i].coeff)
        continue;
      const LinSum *rest = combine(m, a, of_atom(m, q), -ck);
      rest = rest ? combine(m, rest, of_atom(m, r), -k) : NULL;
      rest = rest ? combine(m, rest, linsum_of(m, q->src[0]), k) : NULL;
      if (rest) return recombine(m, rest);
    }
  return a;
}

/* Sizes stay as they are: in the form that proofs about loops and buffers of that size find. */
static UOp *canonical(Job *job, LinSumMap *m, UOp *u) {
  if (u->symbolic && !u->open) return u;
  if (u->op == OP_FLOORDIV || u->op == OP_FLOORMOD) {
    UOp *s = split_division(job, m, u);
    /* The result of a split is a sum over smaller quotients; splitting goes on in those. */
    if (s != u) u = s;
  }
  const LinSum *a = linsum_of(m, u);
  if (a->n == 1 && a->at[0].atom == u) return u;
  a = recombine(m, a);
  return linsum_build(job, a->at, a->n, a->konst);
}

UOp *linsum_simplify(Job *job, UOp *root) {
  Replace r = replace_begin(job, root);
  LinSumMap m;
  linsum_init(job, &m);
  for (size_t i = 0; i < r.list.len; i++) {
    UOp *u = r.list.at[i], **src = replace_renewed(&r, u);
    if (u->nsrc && memcmp(src, u->src, u->nsrc * sizeof *src)) u = uop_with_src(job, u, src);
    if (u->op == OP_CMPLT && u->src[0]->dtype == DT_INDEX) u = split_limit(job, &m, u);
    r.now[i] = u->dtype == DT_INDEX && u->op != OP_INDEX ? canonical(job, &m, u) : u;
    job_poll(job);
  }
  return replace_end(&r);
}
