/* Proofs that a polynomial is not negative.
 *
 * A polynomial that is linear in an atom takes its least value at an end of the atom's interval:
 * p = A * x + B is replaced by its values at the ends, of which the sign of A, where it is proven,
 * leaves one. What is made of others goes first and is bounded by a relation where there is one
 * (c * (x / c) lies in (x - c, x], MIN and MAX by their sources); then RANGEs, whose upper end is
 * an expression over VARs; then VARs, by numbers. Products of several VARs are thereby treated
 * exactly; of a power all but one factor is bounded first, unless it is a factor of the whole. The
 * search is bounded: giving up answers false.
 *
 * What is proven is used where code runs: a RANGE of p says that its size is not 0. */
#include "compiler/ir/dim.h"
#include "compiler/ir/poly.h"

enum { MAX_DEPTH = 16, MAX_TRIES = 3000, FEW_TRIES = 30, MAX_ABOVE = 8 };

typedef struct Proof {
  Job *job;
  int tries;
  const UOp *above_0[MAX_ABOVE]; /* VARs that are not 0 where the RANGEs of p run */
  uint32_t nabove;
} Proof;

static bool proves(Proof *pr, Poly p, int depth);

/* Lies in [0, src0). */
static bool counts(const UOp *u) { return u->op == OP_RANGE || u->op == OP_SPECIAL; }

/* -- intervals --------------------------------------------------------------------------------- */

__extension__ typedef __int128 Wide;

/* Ends of a product; false when an end is unknown or too large. */
static bool widen(Wide lo, Wide hi, int64_t a, int64_t b, Wide *rlo, Wide *rhi) {
  const Wide limit = (Wide)1 << 62;
  if (a == INT64_MIN || b == INT64_MAX || lo < -limit || hi > limit) return false;
  Wide c[4] = {lo * a, lo * b, hi * a, hi * b};
  *rlo = *rhi = c[0];
  for (int k = 1; k < 4; k++) {
    if (c[k] < *rlo) *rlo = c[k];
    if (c[k] > *rhi) *rhi = c[k];
  }
  return true;
}

static int64_t least_of(const Proof *pr, const UOp *x) {
  const UOp *var = poly_is_unit(x) ? x->src[0] : x;
  for (uint32_t k = 0; k < pr->nabove && x->vmin == 0; k++) {
    if (pr->above_0[k] == var) return 1;
  }
  return x->size && x->vmin < 0 ? 0 : x->vmin;
}

static bool by_interval(const Proof *pr, Poly p) {
  const Wide limit = (Wide)1 << 120;
  Wide sum = 0;
  for (uint32_t k = 0; k < p.n; k++) {
    Wide lo = p.at[k].coef, hi = lo;
    bool rises = lo > 0; /* with every atom: their upper ends do not matter */
    for (uint32_t a = 0; a < p.at[k].n; a++) rises &= least_of(pr, p.at[k].atom[a]) >= 0;
    for (uint32_t a = 0; a < p.at[k].n; a++) {
      const UOp *x = p.at[k].atom[a];
      int64_t least = least_of(pr, x), most = rises ? least : x->vmax;
      if (!widen(lo, rises ? lo : hi, least, most, &lo, &hi)) return false;
    }
    if ((sum += lo) > limit || sum < -limit) return false;
  }
  return sum >= 0;
}

/* -- one atom ---------------------------------------------------------------------------------- */

/* p or less, with one factor x in every term: of powers the others are replaced by the end of
 * their interval that makes the term smaller. False when that is not known. */
static bool linear_in(Job *job, Poly *p, const UOp *x) {
  Poly out = {0};
  bool changed = false;
  for (uint32_t k = 0; k < p->n; k++) {
    PolyTerm t = p->at[k];
    uint32_t count = 0, n = 0;
    bool positive = true;
    UOp **kept = arena_array(&job->arena, t.n + 1, sizeof *kept);
    for (uint32_t a = 0; a < t.n; a++) {
      positive &= t.atom[a]->vmin >= 0;
      if (t.atom[a] != x || !count++) kept[n++] = t.atom[a];
    }
    for (; count > 1; count--) {
      int64_t end = t.coef > 0 ? x->vmin : x->vmax;
      bool known = positive && end != INT64_MAX;
      if (!known || __builtin_mul_overflow(t.coef, end, &t.coef)) return false;
      changed = true;
    }
    t.atom = kept, t.n = n;
    if (t.coef) out = poly_add(job, out, (Poly){&t, 1}, 1);
  }
  if (changed) *p = out;
  return true;
}

/* p = factor * x + rest; p is linear in x. */
static void isolate(Job *job, Poly p, const UOp *x, Poly *factor, Poly *rest) {
  PolyTerm *f = arena_array(&job->arena, p.n + 1, sizeof *f);
  PolyTerm *r = arena_array(&job->arena, p.n + 1, sizeof *r);
  *factor = (Poly){f, 0}, *rest = (Poly){r, 0};
  for (uint32_t k = 0; k < p.n; k++) {
    const PolyTerm *t = &p.at[k];
    uint32_t at = t->n;
    for (uint32_t a = 0; a < t->n; a++) {
      if (t->atom[a] == x) at = a;
    }
    if (at == t->n) {
      r[rest->n++] = *t;
      continue;
    }
    PolyTerm *out = &f[factor->n++];
    *out = (PolyTerm){.coef = t->coef, .n = t->n - 1};
    out->atom = arena_array(&job->arena, t->n, sizeof *out->atom);
    for (uint32_t a = 0; a < t->n; a++) {
      if (a != at) out->atom[a - (a > at)] = t->atom[a];
    }
  }
}

/* Whether factor * value + rest stays within 64 bits and a reasonable size; a proof gives up where
 * arithmetic on sizes would end the job. */
static bool small_enough(Poly factor, Poly value, Poly rest) {
  const int64_t limit = (int64_t)1 << 61;
  int64_t most = 0;
  if ((uint64_t)factor.n * value.n + rest.n > 256) return false;
  for (uint32_t k = 0; k < rest.n; k++)
    if (rest.at[k].coef > limit || rest.at[k].coef < -limit) return false;
  for (uint32_t i = 0; i < factor.n; i++) {
    for (uint32_t j = 0; j < value.n; j++) {
      int64_t c;
      if (__builtin_mul_overflow(factor.at[i].coef, value.at[j].coef, &c)) return false;
      if (c == INT64_MIN || __builtin_add_overflow(most, c < 0 ? -c : c, &most)) return false;
    }
  }
  return most <= limit;
}

/* factor * value + rest >= 0 */
static bool at_value(Proof *pr, Poly factor, Poly value, Poly rest, int depth) {
  if (!small_enough(factor, value, rest)) return false;
  return proves(pr, poly_add(pr->job, poly_mul(pr->job, factor, value), rest, 1), depth);
}

/* x lies between two polynomials, and p is linear in it. */
static bool between(Proof *pr, Poly factor, Poly rest, Poly lo, Poly hi, int depth) {
  if (proves(pr, factor, depth)) return at_value(pr, factor, lo, rest, depth);
  if (proves(pr, poly_add(pr->job, (Poly){0}, factor, -1), depth)) {
    return at_value(pr, factor, hi, rest, depth);
  }
  return at_value(pr, factor, lo, rest, depth) && at_value(pr, factor, hi, rest, depth);
}

static bool by_numbers(Proof *pr, const UOp *x, Poly factor, Poly rest, int depth) {
  Job *job = pr->job;
  int64_t least = least_of(pr, x);
  bool low = least != INT64_MIN, high = x->vmax != INT64_MAX;
  if (low && high) {
    return between(pr, factor, rest, poly_const(job, least), poly_const(job, x->vmax), depth);
  }
  if (low && proves(pr, factor, depth)) {
    return at_value(pr, factor, poly_const(job, least), rest, depth);
  }
  if (high && proves(pr, poly_add(job, (Poly){0}, factor, -1), depth)) {
    return at_value(pr, factor, poly_const(job, x->vmax), rest, depth);
  }
  return false;
}

/* A quotient is looked at where it is computed: when the loops run whose size c divides. */
static bool is_above_0(Proof *pr, Poly y, Poly c, int depth) {
  Job *job = pr->job;
  if (!c.n) return false;
  if (proves(pr, poly_add(job, c, poly_const(job, 1), -1), depth)) return true;
  if (!proves(pr, c, depth)) return false;
  for (uint32_t k = 0; k < y.n; k++) {
    for (uint32_t a = 0; a < y.at[k].n; a++) {
      Poly many, rest;
      if (!counts(y.at[k].atom[a])) continue;
      poly_split(job, poly_of(job, y.at[k].atom[a]->src[0]), c, &many, &rest);
      if (!rest.n) return true;
    }
  }
  return false;
}

/* x = y / c, c above 0. With factor = c * k: c * x is at most y, and at least y - c + 1. A constant
 * c that does not divide the factor is multiplied in. */
static bool by_quotient(Proof *pr, const UOp *x, Poly factor, Poly rest, int depth) {
  Job *job = pr->job;
  Poly y = poly_of(job, x->src[0]), c = poly_of(job, x->src[1]), k, left, none = {0};
  int64_t value;
  if (!is_above_0(pr, y, c, depth)) return false;
  poly_split(job, factor, c, &k, &left);
  if (left.n) {
    if (!poly_is_const(c, &value)) return false;
    k = factor;
    rest = poly_mul(job, rest, c);
  }
  if (proves(pr, poly_add(job, none, k, -1), depth)) return at_value(pr, k, y, rest, depth);
  Poly lower = poly_add(job, poly_add(job, y, c, -1), poly_const(job, 1), 1);
  return proves(pr, k, depth) && at_value(pr, k, lower, rest, depth);
}

static bool by_remainder(Proof *pr, const UOp *x, Poly factor, Poly rest, int depth) {
  Job *job = pr->job;
  Poly y = poly_of(job, x->src[0]), c = poly_of(job, x->src[1]);
  if (!is_above_0(pr, y, c, depth)) return false;
  return between(pr, factor, rest, (Poly){0}, poly_add(job, c, poly_const(job, 1), -1), depth);
}

/* The same with a budget of its own, so that a dead end does not use up all. */
static bool tried(Proof *pr, Poly factor, Poly value, Poly rest, int depth, int tries) {
  int left = pr->tries;
  if (left > tries) pr->tries = tries;
  int given = pr->tries;
  bool proven = at_value(pr, factor, value, rest, depth);
  pr->job->overflow = false;
  pr->tries = left - (given - pr->tries);
  return proven;
}

/* x is one of its two sources, and on one side of both: one of them is enough, whichever is easy.
 */
static bool by_choice(Proof *pr, const UOp *x, Poly factor, Poly rest, int depth) {
  Job *job = pr->job;
  Poly a = poly_of(job, x->src[0]), b = poly_of(job, x->src[1]);
  Poly down = x->op == OP_MIN ? poly_add(job, (Poly){0}, factor, -1) : factor;
  if (!proves(pr, down, depth)) {
    return at_value(pr, factor, a, rest, depth) && at_value(pr, factor, b, rest, depth);
  }
  if (b.n < a.n) { /* the simpler one first: it may do */
    Poly t = a;
    a = b, b = t;
  }
  static const int budgets[] = {FEW_TRIES, MAX_TRIES};
  for (int k = 0; k < 2; k++) {
    if (tried(pr, factor, a, rest, depth, budgets[k]) ||
        tried(pr, factor, b, rest, depth, budgets[k])) {
      return true;
    }
  }
  return false;
}

static bool eliminate(Proof *pr, Poly p, const UOp *x, int depth) {
  Job *job = pr->job;
  Poly factor, rest;
  if (!linear_in(job, &p, x) || job->overflow) return false;
  isolate(job, p, x, &factor, &rest);
  if (counts(x)) {
    Poly top = poly_add(job, poly_of(job, x->src[0]), poly_const(job, 1), -1);
    if (between(pr, factor, rest, (Poly){0}, top, depth)) return true;
  }
  if (x->op == OP_FLOORDIV && !poly_is_unit(x) && by_quotient(pr, x, factor, rest, depth))
    return true;
  if (x->op == OP_FLOORMOD && by_remainder(pr, x, factor, rest, depth)) return true;
  if ((x->op == OP_MIN || x->op == OP_MAX) && by_choice(pr, x, factor, rest, depth)) return true;
  job->overflow = false; /* the factors are as they were */
  return by_numbers(pr, x, factor, rest, depth);
}

/* -- by the lower ends ------------------------------------------------------------------------ */

/* With every atom written as its least value plus what is above it, no coefficient is negative:
 * what the search misses of (n - 1) * (n - 2), whose bounds are those of no single n. */
static bool by_lower_ends(Proof *pr, Poly p) {
  Job *job = pr->job;
  enum { MAX_TERMS = 24, MAX_DEGREE = 6 };
  Poly sum = {0};
  if (p.n > MAX_TERMS) return false;
  for (uint32_t k = 0; k < p.n; k++) {
    Poly product = poly_const(job, p.at[k].coef);
    if (p.at[k].n > MAX_DEGREE) return false;
    for (uint32_t a = 0; a < p.at[k].n; a++) {
      UOp *x = p.at[k].atom[a];
      int64_t least = least_of(pr, x);
      if (least < 0) return false;
      PolyTerm *above = arena_array(&job->arena, 1, sizeof *above);
      *above = (PolyTerm){.coef = 1, .n = 1, .atom = &p.at[k].atom[a]};
      Poly atom = poly_add(job, (Poly){above, 1}, poly_const(job, least), 1);
      product = poly_mul(job, product, atom);
    }
    sum = poly_add(job, sum, product, 1);
  }
  bool proven = !job->overflow;
  for (uint32_t k = 0; k < sum.n; k++) proven &= sum.at[k].coef >= 0;
  job->overflow = false; /* p is as it was */
  return proven;
}

/* -- the search -------------------------------------------------------------------------------- */

/* Which atom goes first: those whose bounds mention others. What contains another is younger. */
static int rank(const UOp *x) { return x->op == OP_VAR || poly_is_unit(x) ? 1 : 2; }

static const UOp *next_atom(Poly p) {
  const UOp *best = NULL;
  for (uint32_t k = 0; k < p.n; k++) {
    for (uint32_t a = 0; a < p.at[k].n; a++) {
      const UOp *x = p.at[k].atom[a];
      if (!best || rank(x) > rank(best) || (rank(x) == rank(best) && x->id > best->id)) {
        best = x;
      }
    }
  }
  return best;
}

/* A factor of all terms that is above 0 says nothing about the sign; bounding it would: of
 * 12 * n * n - 3 * n * n * n, n <= 4, nothing is left to prove but 12 - 3 * n. */
static Poly without_common(const Proof *pr, Poly p) {
  if (!p.n) return p;
  for (uint32_t a = 0; a < p.at[0].n; a++) {
    const UOp *x = p.at[0].atom[a];
    Poly factor, rest;
    if (least_of(pr, x) < 1) continue;
    isolate(pr->job, p, x, &factor, &rest);
    if (!rest.n) return without_common(pr, factor);
  }
  return p;
}

static bool proves(Proof *pr, Poly p, int depth) {
  int64_t value;
  if (pr->job->overflow) return false; /* p is not what was to be proven */
  p = without_common(pr, p);
  if (poly_is_const(p, &value)) return value >= 0;
  if (by_interval(pr, p)) return true;
  if (depth <= 0 || pr->tries-- <= 0) return false;
  const UOp *x = next_atom(p);
  if (rank(x) == 1 && by_lower_ends(pr, p)) return true;
  return eliminate(pr, p, x, depth - 1);
}

/* -- loops that run ---------------------------------------------------------------------------- */

/* u with 0 for the VAR. */
static UOp *without(Job *job, UOp *u, const UOp *var) {
  UOp *src[3];
  if (u == var) return uop_index(job, 0);
  if (!u->nsrc || u->nsrc > 3 || !u->symbolic) return u;
  for (uint32_t k = 0; k < u->nsrc; k++) src[k] = without(job, u->src[k], var);
  return uop_with_src(job, u, src);
}

static void note_vars(Proof *pr, UOp *size, UOp *at) {
  for (uint32_t s = 0; s < at->nsrc; s++) note_vars(pr, size, at->src[s]);
  if (at->op != OP_VAR || at->vmin != 0 || pr->nabove == MAX_ABOVE) return;
  for (uint32_t k = 0; k < pr->nabove; k++) {
    if (pr->above_0[k] == at) return;
  }
  Poly none = poly_of(pr->job, without(pr->job, size, at));
  if (proves(pr, poly_add(pr->job, (Poly){0}, none, -1), MAX_DEPTH / 2)) {
    pr->above_0[pr->nabove++] = at;
  }
}

/* A VAR that may be 0 is not where a RANGE, or a workgroup, runs whose size would be 0 with it. */
static void note_loops(Proof *pr, const UOp *x) {
  if (counts(x) && x->src[0]->symbolic && !dim_check(x->src[0])) {
    note_vars(pr, x->src[0], x->src[0]);
  }
  for (uint32_t s = 0; s < x->nsrc && !counts(x) && pr->tries > 0; s++) {
    const UOp *u = x->src[s];
    if (u->dtype != DT_INDEX || (!u->open && !u->symbolic)) continue;
    pr->tries--;
    note_loops(pr, x->src[s]);
  }
}

bool poly_proves(Job *job, Poly p) {
  Proof pr = {.job = job, .tries = MAX_TRIES};
  bool outer = job->proving;
  job->proving = true, job->overflow = false;
  for (uint32_t k = 0; k < p.n; k++) {
    for (uint32_t a = 0; a < p.at[k].n; a++) note_loops(&pr, p.at[k].atom[a]);
  }
  bool proven = proves(&pr, p, MAX_DEPTH);
  job->overflow = false;
  proven = proven || by_lower_ends(&pr, p);
  job->proving = outer, job->overflow = false;
  return proven;
}

bool poly_proves_less(Job *job, Poly a, Poly b) {
  bool outer = job->proving;
  job->proving = true, job->overflow = false;
  Poly gap = poly_add(job, poly_add(job, b, a, -1), poly_const(job, 1), -1);
  bool known = !job->overflow;
  job->proving = outer, job->overflow = false;
  return known && poly_proves(job, gap);
}
