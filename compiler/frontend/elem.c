/* An element of an integer tensor as an integer expression of constants and VARs.
 *
 * Exported models compute shapes with tensors: Shape, Gather, Concat, arithmetic, then Reshape. The
 * element at one constant coordinate is followed down through the graph to scalars that are known
 * or are CASTs of VAR expressions; what bottoms out in anything else has no expression (NULL), and
 * the caller binds a VAR to it at run time instead.
 *
 * Floats occur on the way when a size is scaled. They are carried as exact quotients p / q, q > 0,
 * and only while every value also fits the significand of the dtype, so that no rounding of the
 * model is lost. Comparisons are decided by bounds. A budget bounds the visits of one query, so a
 * graph that shares nodes does not take exponential time. */
#include "compiler/frontend/elem.h"

#include <math.h>

enum { BUDGET = 1 << 13, DEPTH = 256, MAX_SUMMED = 64 };

typedef struct Frac {
  UOp *p;    /* INDEX; NULL: no expression */
  int64_t q; /* 1 for integers */
} Frac;

typedef struct Elem {
  Front *f;
  Job *job;
  int budget, depth;
} Elem;

static const Frac NONE = {0};

static Frac elem(Elem *e, UOp *u, const int64_t *at);

static Frac whole(UOp *p) { return (Frac){p, 1}; }
static UOp *idx(Elem *e, int64_t v) { return uop_index(e->job, v); }
/* In the one form of sizes; an expression that is too large for that ends the query. */
static UOp *two(Elem *e, Op op, UOp *a, UOp *b) {
  UOp *u = uop2(e->job, op, a, b);
  if (uop_is_const(u)) return u;
  if (!dim_check(u)) return dim_uop(e->job, dim_of(e->job, u));
  e->budget = 0;
  return idx(e, 0);
}

static bool bounded(const UOp *p, int64_t limit) { return p->vmin >= -limit && p->vmax <= limit; }

/* A result that the dtype can hold without wrapping or rounding. */
static Frac checked(DType d, Frac v) {
  if (!v.p) return NONE;
  if (v.q == 1 && !dtype_is_float(d)) {
    unsigned bits = dtype_info[d].bits;
    int64_t hi = dtype_is_uint(d) ? (bits >= 63 ? INT64_MAX : ((int64_t)1 << bits) - 1)
                                  : (int64_t)(UINT64_MAX >> (65 - bits));
    int64_t lo = dtype_is_uint(d) ? 0 : -hi - 1;
    if (d == DT_BOOL) lo = 0, hi = 1;
    return v.p->vmin >= lo && v.p->vmax <= hi ? v : NONE;
  }
  if (!dtype_is_float(d)) return NONE;
  int64_t limit = d == DT_F64 ? (int64_t)1 << 53 : d == DT_F32 ? 1 << 24 : 1 << 8;
  return bounded(v.p, limit) && v.q <= limit ? v : NONE;
}

/* A float that is a quotient of small integers with a power of two below. */
static Frac from_double(Elem *e, double v) {
  int64_t q = 1;
  if (!(v < 1e15 && v > -1e15)) return NONE; /* a NaN, too */
  while (q <= 1 << 24 && v != trunc(v) && v < 1e9 && v > -1e9) v *= 2, q *= 2;
  if (v != trunc(v)) return NONE;
  return (Frac){idx(e, (int64_t)v), q};
}

static Frac constant(Elem *e, DType d, Scalar v) {
  return dtype_is_float(d) ? from_double(e, v.f) : whole(idx(e, v.i));
}

/* Of a PARAM: a weight's bytes are known. */
static Frac param(Elem *e, const UOp *u, const int64_t *at) {
  const Val *v = front_weight(e->f, u);
  if (!v) return NONE;
  int64_t k = 0;
  for (uint32_t i = 0; i < u->shape.n; i++) k = k * u->shape.at[i] + at[i];
  Scalar s = {.i = 0};
  if (dtype_is_float(v->dtype))
    s.f = data_float(v->dtype, v->data, k);
  else
    s.i = data_int(v->dtype, v->data, k);
  return constant(e, v->dtype, s);
}

static Frac reshape(Elem *e, const UOp *u, const int64_t *at) {
  const UOp *x = u->src[0];
  int64_t to[MAX_DIMS], k = 0;
  for (uint32_t i = 0; i < u->shape.n; i++) k = k * u->shape.at[i] + at[i];
  for (uint32_t i = x->shape.n; i-- > 0;) {
    to[i] = k % x->shape.at[i];
    k /= x->shape.at[i];
  }
  return elem(e, u->src[0], to);
}

static Frac pad(Elem *e, const UOp *u, const int64_t *at) {
  int64_t to[MAX_DIMS];
  for (uint32_t i = 0; i < u->shape.n; i++) {
    to[i] = at[i] - u->arg.ints.at[2 * i];
    if (to[i] < 0 || to[i] >= u->src[0]->shape.at[i]) return elem(e, u->src[1], to);
  }
  return elem(e, u->src[0], to);
}

static Frac cat(Elem *e, const UOp *u, const int64_t *at) {
  int64_t to[MAX_DIMS], axis = u->arg.i;
  memcpy(to, at, u->shape.n * sizeof *to);
  for (uint32_t s = 0; s < u->nsrc; s++) {
    int64_t d = u->src[s]->shape.at[axis];
    if (to[axis] < d) return elem(e, u->src[s], to);
    to[axis] -= d;
  }
  return NONE;
}

static Frac gather(Elem *e, const UOp *u, const int64_t *at) {
  const UOp *x = u->src[0], *index = u->src[1];
  int64_t to[MAX_DIMS], axis = u->arg.i;
  uint32_t q = index->shape.n;
  Frac k = elem(e, u->src[1], at + axis);
  if (!k.p || !uop_is_const(k.p)) return NONE;
  int64_t v = k.p->arg.i;
  if (v < 0 || v >= x->shape.at[axis]) return whole(idx(e, 0));
  for (uint32_t i = 0; i < x->shape.n; i++)
    to[i] = i < axis ? at[i] : i == axis ? v : at[i - 1 + q];
  return elem(e, u->src[0], to);
}

static Frac window(Elem *e, const UOp *u, const int64_t *at) {
  const int64_t *arg = u->arg.ints.at;
  int64_t to[MAX_DIMS];
  for (uint32_t i = 0, o = 0; i < u->src[0]->shape.n; i++, o++) {
    to[i] = at[o];
    if (i == arg[0]) {
      to[i] = at[o] * arg[2] + at[o + 1] * arg[3];
      o++;
    }
  }
  return elem(e, u->src[0], to);
}

static Frac moved(Elem *e, const UOp *u, const int64_t *at) {
  const UOp *x = u->src[0];
  const int64_t *arg = u->arg.ints.at;
  int64_t to[MAX_DIMS] = {0};
  for (uint32_t i = 0; i < x->shape.n; i++) {
    if (u->op == OP_PERMUTE)
      to[arg[i]] = at[i];
    else
      to[i] = u->op == OP_SHRINK                          ? at[i] + arg[2 * i]
              : u->op == OP_EXPAND && x->shape.at[i] == 1 ? 0
                                                          : at[i];
  }
  for (uint32_t k = 0; u->op == OP_FLIP && k < u->arg.ints.n; k++)
    to[arg[k]] = x->shape.at[arg[k]] - 1 - to[arg[k]];
  return elem(e, u->src[0], to);
}

/* -- arithmetic ------------------------------------------------------------------------------- */

/* The same denominator for both; false when that is too large. */
static bool common(Elem *e, Frac *a, Frac *b) {
  int64_t q = a->q > b->q ? a->q : b->q; /* powers of two, or 1 */
  if (q % a->q || q % b->q) return false;
  a->p = two(e, OP_MUL, a->p, idx(e, q / a->q));
  b->p = two(e, OP_MUL, b->p, idx(e, q / b->q));
  a->q = b->q = q;
  return true;
}

/* a < b (or a <= b, a == b): 1, 0, or NONE when the bounds do not say. */
static Frac compare(Elem *e, Op op, Frac a, Frac b) {
  if (!common(e, &a, &b)) return NONE;
  const UOp *d = two(e, OP_SUB, a.p, b.p);
  int yes = -1;
  if (op == OP_CMPLT) yes = d->vmax < 0 ? 1 : d->vmin >= 0 ? 0 : -1;
  if (op == OP_CMPLE) yes = d->vmax <= 0 ? 1 : d->vmin > 0 ? 0 : -1;
  if (op == OP_CMPEQ || op == OP_CMPNE) {
    bool same = d->vmin == 0 && d->vmax == 0, apart = d->vmin > 0 || d->vmax < 0;
    if (same || apart) yes = same == (op == OP_CMPEQ);
  }
  return yes < 0 ? NONE : whole(idx(e, yes));
}

/* Truncated quotient and remainder agree with the floored ones where nothing is negative. */
static Frac divide(Elem *e, Op op, Frac a, Frac b) {
  bool trunc = op == OP_IDIV || op == OP_IMOD, rest = op == OP_IMOD || op == OP_FLOORMOD;
  if (b.p->vmin <= 0 || (trunc && a.p->vmin < 0)) return NONE;
  return whole(two(e, rest ? OP_FLOORMOD : OP_FLOORDIV, a.p, b.p));
}

static Frac float_quotient(Elem *e, Frac a, Frac b) {
  if (!uop_is_const(b.p) || b.p->arg.i <= 0) return NONE;
  int64_t by = b.p->arg.i, q;
  if (by & (by - 1)) { /* exact only when the result is whole */
    if (a.q != 1 || b.q != 1 || !uop_is_const(a.p) || a.p->arg.i % by) return NONE;
    return whole(idx(e, a.p->arg.i / by));
  }
  if (__builtin_mul_overflow(a.q, by, &q) || q > (int64_t)1 << 52) return NONE;
  return (Frac){two(e, OP_MUL, a.p, idx(e, b.q)), q};
}

static Frac binary(Elem *e, Op op, Frac a, Frac b) {
  switch (op) {
  case OP_MUL: return (Frac){two(e, OP_MUL, a.p, b.p), a.q * b.q};
  case OP_FDIV: return float_quotient(e, a, b);
  case OP_ADD:
  case OP_SUB:
  case OP_MIN:
  case OP_MAX:
    if (!common(e, &a, &b)) return NONE;
    return (Frac){two(e, op, a.p, b.p), a.q};
  case OP_IDIV:
  case OP_IMOD:
  case OP_FLOORDIV:
  case OP_FLOORMOD: return divide(e, op, a, b);
  case OP_CMPLT:
  case OP_CMPLE:
  case OP_CMPEQ:
  case OP_CMPNE: return compare(e, op, a, b);
  case OP_AND:
  case OP_OR:
  case OP_XOR:
    if (!uop_is_const(a.p) || !uop_is_const(b.p)) return NONE;
    return whole(two(e, op, a.p, b.p));
  default: return NONE;
  }
}

static Frac round_to(Elem *e, const UOp *u, Frac a) {
  if (!a.p || a.q == 1) return a;
  if (u->op == OP_CEIL) {
    a.p = two(e, OP_ADD, a.p, idx(e, a.q - 1));
  } else if (u->op != OP_FLOOR && a.p->vmin < 0) {
    return NONE; /* TRUNC, CAST */
  }
  return whole(two(e, OP_FLOORDIV, a.p, idx(e, a.q)));
}

static Frac cast(Elem *e, const UOp *u, const int64_t *at) {
  UOp *x = u->src[0];
  if (x->dtype == DT_INDEX) return whole(x);
  Frac a = elem(e, x, at);
  if (!a.p) return NONE;
  if (dtype_is_bool(uop_dtype(u))) return compare(e, OP_CMPNE, a, whole(idx(e, 0)));
  return dtype_is_float(uop_dtype(u)) ? a : round_to(e, u, a);
}

static Frac alu(Elem *e, UOp *u, const int64_t *at) {
  Frac v[3] = {{0}};
  if (u->op == OP_CAST) return cast(e, u, at);
  if (u->nsrc > 3) return NONE;
  if (u->op == OP_WHERE) {
    Frac c = elem(e, u->src[0], at);
    if (c.p && uop_is_const(c.p)) return elem(e, u->src[c.p->arg.i ? 1 : 2], at);
    if (c.p) return NONE;
    Frac a = elem(e, u->src[1], at), b = elem(e, u->src[2], at);
    return a.p && a.p == b.p && a.q == b.q ? a : NONE;
  }
  for (uint32_t s = 0; s < u->nsrc; s++) {
    v[s] = elem(e, u->src[s], at);
    if (!v[s].p) return NONE;
  }
  switch (u->op) {
  case OP_NEG: return (Frac){two(e, OP_SUB, idx(e, 0), v[0].p), v[0].q};
  case OP_ABS: return (Frac){two(e, OP_MAX, v[0].p, two(e, OP_SUB, idx(e, 0), v[0].p)), v[0].q};
  case OP_FLOOR:
  case OP_CEIL:
  case OP_TRUNC: return round_to(e, u, v[0]);
  default: return u->nsrc == 2 ? binary(e, (Op)u->op, v[0], v[1]) : NONE;
  }
}

/* Of few elements. */
static Frac scan(Elem *e, UOp *u, const int64_t *at) {
  int64_t to[MAX_DIMS], axis = u->arg.ints.at[0];
  Frac all = NONE;
  memcpy(to, at, u->shape.n * sizeof *to);
  if (at[axis] >= MAX_SUMMED) return NONE;
  for (int64_t i = 0; i <= at[axis]; i++) {
    to[axis] = i;
    Frac v = elem(e, u->src[0], to);
    if (!v.p) return NONE;
    all = i ? checked(uop_dtype(u), binary(e, (Op)u->arg.i, all, v)) : v;
    if (!all.p) return NONE;
  }
  return all;
}

/* Of few updates at known places the last that is stored here. */
static Frac scatter(Elem *e, UOp *u, const int64_t *at) {
  Ints updates = u->src[2]->shape, indices = u->src[1]->shape;
  int64_t to[MAX_DIMS], from[MAX_DIMS], axis = u->arg.ints.at[0], n = updates.at[axis];
  memcpy(to, at, updates.n * sizeof *to);
  for (uint32_t k = 0; k < updates.n; k++) from[k] = indices.at[k] == 1 ? 0 : at[k];
  if (u->arg.i != OP_STORE || n > MAX_SUMMED) return NONE;
  for (uint32_t k = 0; k < updates.n; k++)
    if (k != axis && at[k] >= updates.at[k]) n = 0;
  for (int64_t i = n; i-- > 0;) {
    to[axis] = from[axis] = i;
    Frac place = elem(e, u->src[1], from);
    if (!place.p || place.q != 1 || !uop_is_const(place.p)) return NONE;
    if (place.p->arg.i == at[axis]) return elem(e, u->src[2], to);
  }
  return elem(e, u->src[0], at);
}

/* Sums, products and extremes of few elements. */
static Frac reduce(Elem *e, const UOp *u, const int64_t *at) {
  const UOp *x = u->src[0];
  int64_t to[MAX_DIMS], count = 1;
  Frac all = NONE;
  memcpy(to, at, x->shape.n * sizeof *to);
  for (uint32_t k = 0; k < u->arg.ints.n; k++) {
    count *= x->shape.at[u->arg.ints.at[k]];
    if (count > MAX_SUMMED || count == 0) return NONE;
  }
  for (int64_t i = 0; i < count; i++) {
    int64_t rest = i;
    for (uint32_t k = 0; k < u->arg.ints.n; k++) {
      int64_t axis = u->arg.ints.at[k];
      to[axis] = rest % x->shape.at[axis];
      rest /= x->shape.at[axis];
    }
    Frac v = elem(e, u->src[0], to);
    if (!v.p) return NONE;
    all = all.p ? checked(uop_dtype(u), binary(e, (Op)u->arg.i, all, v)) : v;
    if (!all.p) return NONE;
  }
  return all;
}

static bool all_static(const UOp *u) {
  for (uint32_t i = 0; i < u->shape.n; i++)
    if (!dim_is_static(u->shape.at[i])) return false;
  return true;
}

static Frac visit(Elem *e, UOp *u, const int64_t *at) {
  static const int64_t origin[MAX_DIMS];
  if (!u->shape.n) at = origin;
  if (op_info[u->op].flags & OPF_ALU) return alu(e, u, at);
  if (u->op == OP_IOTA) return whole(idx(e, at[u->arg.i]));
  if (u->op == OP_CONST) return constant(e, uop_dtype(u), uop_const_value(u));
  if (!all_static(u)) return NONE;
  for (uint32_t s = 0; s < u->nsrc; s++)
    if (!all_static(u->src[s])) return NONE;
  switch (u->op) {
  case OP_PARAM: return param(e, u, at);
  case OP_RESHAPE: return reshape(e, u, at);
  case OP_PAD: return pad(e, u, at);
  case OP_CAT: return cat(e, u, at);
  case OP_GATHER: return gather(e, u, at);
  case OP_WINDOW: return window(e, u, at);
  case OP_SCATTER: return scatter(e, u, at);
  case OP_SCAN: return scan(e, u, at);
  case OP_REDUCE: return reduce(e, u, at);
  case OP_PERMUTE:
  case OP_SHRINK:
  case OP_FLIP:
  case OP_EXPAND: return moved(e, u, at);
  case OP_CONTIGUOUS: return elem(e, u->src[0], at);
  default: return NONE;
  }
}

static Frac elem(Elem *e, UOp *u, const int64_t *at) {
  if (e->budget <= 0 || e->depth >= DEPTH) return NONE;
  e->budget--;
  e->depth++;
  Frac v = visit(e, u, at);
  e->depth--;
  return checked(uop_dtype(u), v);
}

UOp *front_elem(Front *f, UOp *u, const int64_t *at) {
  Elem e = {.f = f, .job = f->job, .budget = BUDGET};
  if (dtype_is_float(uop_dtype(u))) return NULL;
  Frac v = elem(&e, u, at);
  return v.p && v.q == 1 && e.budget > 0 ? v.p : NULL;
}
