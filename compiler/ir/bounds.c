/* Interval bounds of integer nodes.
 *
 * Ends are computed in 128 bits, where nothing of this size overflows. For a machine dtype an
 * interval that leaves the dtype means that values may wrap, so the answer is the whole dtype.
 * INDEX does not wrap: its ends saturate, and an end equal to INT64_MIN or INT64_MAX is infinite.
 * u64 is held as a bit pattern, so its bounds are known only when they lie in [0, INT64_MAX];
 * INT64_MIN as lower end says that they are not. */
#include "compiler/ir/dim.h"
#include "compiler/ir/infer.h"

__extension__ typedef __int128 Wide;
typedef struct Interval {
  Wide lo, hi;
} Interval;

/* Infinite ends of INDEX; far enough outside that adding finite ends keeps them infinite. */
#define INF ((Wide)1 << 100)

static bool infinite(Wide v) { return v >= INF / 2 || v <= -INF / 2; }
static Wide least(Wide a, Wide b) { return a < b ? a : b; }
static Wide most(Wide a, Wide b) { return a > b ? a : b; }
static Interval hull(Interval a, Interval b) {
  return (Interval){least(a.lo, b.lo), most(a.hi, b.hi)};
}

static Interval whole(DType d) {
  unsigned bits = dtype_info[d].bits;
  if (d == DT_BOOL) return (Interval){0, 1};
  if (d == DT_INDEX) return (Interval){-INF, INF};
  if (dtype_is_uint(d)) return (Interval){0, ((Wide)1 << bits) - 1};
  return (Interval){-((Wide)1 << (bits - 1)), ((Wide)1 << (bits - 1)) - 1};
}

static Interval of(const UOp *u) {
  DType d = (DType)u->dtype;
  if (dtype_is_float(d) || d == DT_VOID) return (Interval){-INF, INF};
  if (d == DT_U64 && u->vmin == INT64_MIN) return whole(d);
  Interval r = {u->vmin, u->vmax};
  if (d == DT_INDEX && u->vmin == INT64_MIN) r.lo = -INF;
  if (d == DT_INDEX && u->vmax == INT64_MAX) r.hi = INF;
  return r;
}

static Wide mul(Wide a, Wide b) {
  Wide r;
  if (a == 0 || b == 0) return 0;
  bool over = infinite(a) || infinite(b) || __builtin_mul_overflow(a, b, &r);
  return over ? ((a < 0) == (b < 0) ? INF : -INF) : r;
}

static Wide quotient(Wide a, Wide b, bool floored) {
  if (infinite(a)) return (a < 0) == (b < 0) ? INF : -INF;
  if (infinite(b)) return floored && a != 0 && (a < 0) != (b < 0) ? -1 : 0;
  Wide q = a / b;
  return floored && a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static Interval corners(Interval a, Interval b, Wide (*f)(Wide, Wide, bool), bool floored) {
  Wide p = f(a.lo, b.lo, floored), q = f(a.lo, b.hi, floored);
  Wide r = f(a.hi, b.lo, floored), s = f(a.hi, b.hi, floored);
  return (Interval){least(least(p, q), least(r, s)), most(most(p, q), most(r, s))};
}

static Wide product(Wide a, Wide b, bool unused) {
  (void)unused;
  return mul(a, b);
}

static Interval divided(Interval a, Interval b, bool floored) {
  Interval r = {0, 0};
  bool any = false;
  if (b.hi > 0) { /* divisors above zero, then below; division by zero gives 0 */
    r = corners(a, (Interval){most(b.lo, 1), b.hi}, quotient, floored);
    any = true;
  }
  if (b.lo < 0) {
    Interval n = corners(a, (Interval){b.lo, least(b.hi, -1)}, quotient, floored);
    r = any ? hull(r, n) : n;
  }
  return b.lo <= 0 && b.hi >= 0 ? hull(r, (Interval){0, 0}) : r;
}

static Interval remainder_floor(Interval a, Interval b) {
  if (b.lo == b.hi && b.lo > 0 && !infinite(a.lo) && !infinite(a.hi)) {
    Wide c = b.lo, q = quotient(a.lo, c, true);
    if (q == quotient(a.hi, c, true)) return (Interval){a.lo - q * c, a.hi - q * c};
  }
  if (b.lo > 0 && a.lo >= 0 && a.hi < b.lo) return a;
  Interval r = {b.lo < 0 ? (infinite(b.lo) ? -INF : b.lo + 1) : 0,
                b.hi > 0 ? (infinite(b.hi) ? INF : b.hi - 1) : 0};
  if (b.lo > 0 && a.lo >= 0) r.hi = least(r.hi, a.hi);
  return r;
}

static Interval remainder_trunc(Interval a, Interval b) {
  Wide m = most(b.hi, -b.lo) - 1; /* the largest magnitude, of the divisor less one */
  if (infinite(b.lo) || infinite(b.hi)) m = INF;
  if (m < 0) m = 0;
  if (b.lo > 0 && a.lo >= 0 && a.hi < b.lo) return a;
  if (b.lo == b.hi && b.lo > 0 && a.lo >= 0) return remainder_floor(a, b);
  return (Interval){a.lo < 0 ? -least(m, -a.lo) : 0, a.hi > 0 ? least(m, a.hi) : 0};
}

static Interval compared(Op op, Interval a, Interval b) {
  bool eq = a.lo == a.hi && b.lo == b.hi && a.lo == b.lo, apart = a.hi < b.lo || b.hi < a.lo;
  bool yes = false, no = false;
  switch (op) {
  case OP_CMPLT: yes = a.hi < b.lo, no = a.lo >= b.hi; break;
  case OP_CMPLE: yes = a.hi <= b.lo, no = a.lo > b.hi; break;
  case OP_CMPEQ: yes = eq, no = apart; break;
  default: yes = apart, no = eq; break;
  }
  return (Interval){yes, !no};
}

/* The smallest 2^k - 1 that is >= v. */
static Wide ones(Wide v) {
  Wide m = 1;
  while (m <= v && m < INF) m <<= 1;
  return m - 1;
}

static Interval bitwise(Op op, Interval a, Interval b, Interval all) {
  bool na = a.lo >= 0, nb = b.lo >= 0;
  if (op == OP_AND) {
    if (na && nb) return (Interval){0, least(a.hi, b.hi)};
    if (na || nb) return (Interval){0, na ? a.hi : b.hi};
    return all;
  }
  if (!na || !nb || infinite(a.hi) || infinite(b.hi)) return all;
  return (Interval){op == OP_OR ? most(a.lo, b.lo) : 0, ones(most(a.hi, b.hi))};
}

static Interval shifted(const UOp *u, Interval a, Interval b, Interval all) {
  if (b.lo != b.hi || b.lo < 0 || b.lo >= dtype_info[u->dtype].bits) return all;
  Interval c = {(Wide)1 << b.lo, (Wide)1 << b.lo};
  return u->op == OP_SHL ? corners(a, c, product, false) : corners(a, c, quotient, true);
}

static Interval absolute(Interval a) {
  if (a.lo >= 0) return a;
  return (Interval){a.hi < 0 ? -a.hi : 0, most(-a.lo, a.hi)};
}

static Interval converted(const UOp *u, Interval a, Interval all) {
  DType from = (DType)u->src[0]->dtype;
  if (dtype_is_float(from)) return all;
  if (u->dtype == DT_BOOL) return (Interval){a.lo > 0 || a.hi < 0, a.lo != 0 || a.hi != 0};
  if (u->dtype == DT_INDEX && a.hi > INT64_MAX && !infinite(a.hi))
    return all; /* u64's bit pattern */
  return a;
}

/* A 4- or 2-bit integer is kept in a byte, as the same number where the signs agree. */
static bool is_stored_int(const UOp *u) {
  DType d = (DType)u->dtype, from = (DType)u->src[0]->dtype;
  return dtype_is_int(from) && dtype_is_int(d) && dtype_is_uint(from) == dtype_is_uint(d) &&
         dtype_info[from].bits < 8 * dtype_info[from].bytes;
}

static Interval alu(const UOp *u, Interval all) {
  size_t n = u->nsrc;
  if (u->op == OP_BITCAST && is_stored_int(u)) return of(u->src[0]);
  if (u->op == OP_CAST) return converted(u, of(u->src[0]), all);
  if (u->op == OP_BITCAST || dtype_is_float((DType)u->src[n - 1]->dtype)) return all;
  Interval a = of(u->src[0]), b = n > 1 ? of(u->src[1]) : a, c = n > 2 ? of(u->src[2]) : a;
  switch (u->op) {
  case OP_NEG: return (Interval){-a.hi, -a.lo};
  case OP_ABS: return absolute(a);
  case OP_ADD: return (Interval){a.lo + b.lo, a.hi + b.hi};
  case OP_SUB: return (Interval){a.lo - b.hi, a.hi - b.lo};
  case OP_MUL: return corners(a, b, product, false);
  case OP_MULACC: {
    Interval p = corners(a, b, product, false);
    return (Interval){p.lo + c.lo, p.hi + c.hi};
  }
  case OP_IDIV: return divided(a, b, false);
  case OP_FLOORDIV: return divided(a, b, true);
  case OP_IMOD: return remainder_trunc(a, b);
  case OP_FLOORMOD: return remainder_floor(a, b);
  case OP_MAX: return (Interval){most(a.lo, b.lo), most(a.hi, b.hi)};
  case OP_MIN: return (Interval){least(a.lo, b.lo), least(a.hi, b.hi)};
  case OP_AND:
  case OP_OR:
  case OP_XOR: return bitwise((Op)u->op, a, b, all);
  case OP_SHL:
  case OP_SHR: return shifted(u, a, b, all);
  case OP_CMPLT:
  case OP_CMPLE:
  case OP_CMPEQ:
  case OP_CMPNE: return compared((Op)u->op, a, b);
  case OP_WHERE: return hull(b, c);
  default: return all;
  }
}

static Wide of_high(int64_t dim) { return dim_high(dim) == INT64_MAX ? INF : dim_high(dim); }

static Interval lanes_combined(const UOp *u, Interval all) {
  Interval x = of(u->src[0]);
  Wide n = u->src[0]->lanes;
  if (u->arg.i == OP_ADD) return (Interval){mul(x.lo, n), mul(x.hi, n)};
  return u->arg.i == OP_MUL ? all : x;
}

static Interval reduced(const UOp *u, Interval all) {
  Interval x = of(u->src[0]), count = {1, 1};
  for (uint32_t k = 0; k < u->arg.ints.n; k++) {
    int64_t d = u->src[0]->shape.at[u->arg.ints.at[k]];
    count.lo = mul(count.lo, most(dim_low(d), 0));
    count.hi = mul(count.hi, of_high(d));
  }
  for (uint32_t s = 1; s < u->nsrc; s++) {
    Interval end = of(u->src[s]->src[0]);
    count.lo = mul(count.lo, most(end.lo, 0)), count.hi = mul(count.hi, most(end.hi, 0));
    if (infinite(count.hi) || count.hi > (Wide)1 << 60) count.hi = INF, count.lo = 0;
  }
  switch (u->arg.i) {
  case OP_ADD: return corners(x, count, product, false);
  case OP_MAX:
  case OP_MIN: return count.lo > 0 ? x : all;
  default: return all;
  }
}

/* {min, max, divisor}: the least and the greatest multiple. */
static Interval multiples(const int64_t *v) {
  return (Interval){(v[0] + v[2] - 1) / v[2] * v[2], v[1] / v[2] * v[2]};
}

/* A loop that runs once or not at all is no constant: whether it runs would be forgotten. */
static Interval loop(Interval end) {
  bool open = end.lo < 1 && end.lo != end.hi;
  return (Interval){0, most(end.hi - 1, open)};
}

static Interval interval(const UOp *u, Interval all) {
  switch (u->op) {
  case OP_CONST:
    return dtype_is_uint((DType)u->dtype) && u->arg.i < 0 ? all : (Interval){u->arg.i, u->arg.i};
  case OP_IOTA: return (Interval){0, most(of_high(u->shape.at[u->arg.i]) - 1, 0)};
  case OP_VAR: return multiples(u->arg.ints.at);
  case OP_RANGE: return loop(of(u->src[0]));
  case OP_SPECIAL: return (Interval){0, most(of(u->src[0]).hi - 1, 0)};
  case OP_THREAD: return (Interval){0, u->arg.i - 1};
  case OP_RAMP: return (Interval){0, u->lanes - 1};
  case OP_RESHAPE:
  case OP_PERMUTE:
  case OP_EXPAND:
  case OP_SHRINK:
  case OP_FLIP:
  case OP_WINDOW:
  case OP_CONTIGUOUS:
  case OP_BROADCAST: return of(u->src[0]);
  case OP_PAD: return hull(of(u->src[0]), of(u->src[1]));
  case OP_GATHER: return hull(of(u->src[0]), (Interval){0, 0});
  case OP_SCAN: return u->arg.i == OP_MAX || u->arg.i == OP_MIN ? of(u->src[0]) : all;
  case OP_SCATTER: {
    Interval data = of(u->src[0]), update = of(u->src[2]);
    bool among = u->arg.i == OP_STORE || u->arg.i == OP_MAX || u->arg.i == OP_MIN;
    return among ? hull(data, update) : all;
  }
  case OP_CAT: {
    Interval r = of(u->src[0]);
    for (uint32_t s = 1; s < u->nsrc; s++) r = hull(r, of(u->src[s]));
    return r;
  }
  case OP_AFTER: return of(u->src[0]);
  case OP_HREDUCE: return lanes_combined(u, all);
  case OP_REDUCE: return reduced(u, all);
  default: return op_info[u->op].flags & OPF_ALU ? alu(u, all) : all;
  }
}

void bounds_infer(const UOp *u, int64_t *vmin, int64_t *vmax) {
  DType d = (DType)u->dtype;
  *vmin = INT64_MIN, *vmax = INT64_MAX;
  if (dtype_is_float(d) || d == DT_VOID) return;
  Interval all = whole(d), r = interval(u, all);
  if (d == DT_INDEX) {
    if (r.lo > INT64_MIN) *vmin = r.lo > INT64_MAX ? INT64_MAX : (int64_t)r.lo;
    if (r.hi < INT64_MAX) *vmax = r.hi < INT64_MIN ? INT64_MIN : (int64_t)r.hi;
    return;
  }
  if (r.lo < all.lo || r.hi > all.hi) r = all;
  if (r.hi > INT64_MAX) return;
  *vmin = (int64_t)r.lo, *vmax = (int64_t)r.hi;
}
