/* Elementary functions: range reduction, a polynomial, reconstruction.
 *
 * The polynomials and constants are fitted by tool/fit.py. A reduction keeps what it rounds away in
 * a second term (Cody and Waite), or reduces modulo a quarter turn with enough digits of 2/pi for
 * the argument's exponent (Payne and Hanek's idea, with the digits chosen by WHERE). Integers are
 * added to exponent fields by integer arithmetic; adding 1.5 * 2^mantissa rounds to an integer and
 * leaves it in the low bits. Signs are put back last, as bits, so that -0 survives.
 *
 * Products whose rounding error is computed are written MULACC(a, b, -0.0): a MUL could be
 * contracted into a following ADD. */
#include "compiler/rules/transcend.h"

#include <assert.h>
#include <float.h>
#include <math.h>

#include "compiler/ir/native.h"
#include "compiler/rules/transcend_tables.h"

/* Where nodes are built: one dtype, one number of lanes. */
typedef struct Build {
  const Rewrite *rw;
  Job *job;
  DType d, bits; /* a float dtype and the signed integer of its size */
  unsigned lanes;
  bool wide;
  bool no_fma; /* MULACC rounds twice */
  bool scales; /* the target has SCALE */
  bool quick;  /* the target has QEXP2 and QRECIP */
  int mant, bias;
} Build;

typedef struct Poly {
  const double *c;
  int n;
} Poly;
#define LEN(a) ((int)(sizeof(a) / sizeof *(a)))
#define POLY(b, name)                                                                              \
  ((b)->wide ? (Poly){name##_f64, LEN(name##_f64)} : (Poly){name##_f32, LEN(name##_f32)})
/* hi + lo of a constant, by precision. */
#define SPLIT(b, name) ((b)->wide ? name##_f64 : name##_f32)

static bool is_quick(const Target *target, DType d) {
  return target_is_cuda(target) && d == DT_F32;
}

static Build build_for(const Rewrite *rw, DType d, unsigned lanes) {
  bool wide = d == DT_F64;
  return (Build){.rw = rw,
                 .job = rw->job,
                 .d = d,
                 .bits = wide ? DT_I64 : DT_I32,
                 .lanes = lanes,
                 .wide = wide,
                 .no_fma = rw->no_fma,
                 .scales = native_find(rw->target, OP_SCALE, d) != NULL,
                 .quick = is_quick(rw->target, d),
                 .mant = wide ? 52 : 23,
                 .bias = wide ? 1023 : 127};
}

/* -- nodes ------------------------------------------------------------------------------------- */

static UOp *lanes_of(const Build *b, UOp *c) {
  if (b->lanes == 1) return c;
  return uop_make_lanes(b->job, OP_CONST, (DType)c->dtype, b->lanes, c->arg, NULL, 0);
}
static UOp *num(const Build *b, double v) { return lanes_of(b, uop_float(b->job, b->d, v)); }
static UOp *integer(const Build *b, int64_t v) { return lanes_of(b, uop_int(b->job, b->bits, v)); }
static UOp *add(const Build *b, UOp *x, UOp *y) { return uop2(b->job, OP_ADD, x, y); }
static UOp *sub(const Build *b, UOp *x, UOp *y) { return uop2(b->job, OP_SUB, x, y); }
static UOp *mul(const Build *b, UOp *x, UOp *y) { return uop2(b->job, OP_MUL, x, y); }
static UOp *quot(const Build *b, UOp *x, UOp *y) { return uop2(b->job, OP_FDIV, x, y); }
static UOp *neg(const Build *b, UOp *x) { return uop1(b->job, OP_NEG, x); }
static UOp *mag(const Build *b, UOp *x) { return uop1(b->job, OP_ABS, x); }
static UOp *fma3(const Build *b, UOp *x, UOp *y, UOp *z) {
  return uop3(b->job, OP_MULACC, x, y, z);
}
static UOp *prod(const Build *b, UOp *x, UOp *y) { return fma3(b, x, y, num(b, -0.0)); }
static UOp *where(const Build *b, UOp *c, UOp *x, UOp *y) {
  return uop3(b->job, OP_WHERE, c, x, y);
}
static UOp *less(const Build *b, UOp *x, UOp *y) { return uop2(b->job, OP_CMPLT, x, y); }
static UOp *equal(const Build *b, UOp *x, UOp *y) { return uop2(b->job, OP_CMPEQ, x, y); }
static UOp *both(const Build *b, UOp *x, UOp *y) { return uop2(b->job, OP_AND, x, y); }
static UOp *either(const Build *b, UOp *x, UOp *y) { return uop2(b->job, OP_OR, x, y); }
static UOp *clamp(const Build *b, UOp *x, double lo, double hi) {
  return uop2(b->job, OP_MIN, uop2(b->job, OP_MAX, x, num(b, lo)), num(b, hi));
}
static UOp *to_bits(const Build *b, UOp *x) {
  return uop_make(b->job, OP_BITCAST, b->bits, arg_none(), &x, 1);
}
static UOp *from_bits(const Build *b, UOp *i) {
  return uop_make(b->job, OP_BITCAST, b->d, arg_none(), &i, 1);
}
static UOp *shl(const Build *b, UOp *i, int by) { return uop2(b->job, OP_SHL, i, integer(b, by)); }

/* *s + *e = x + y exactly (Knuth). */
static void two_sum(const Build *b, UOp *x, UOp *y, UOp **s, UOp **e) {
  UOp *t = add(b, x, y), *v = sub(b, t, x);
  *e = add(b, sub(b, x, sub(b, t, v)), sub(b, y, v));
  *s = t;
}

/* x to the nearest double of 26 bits: what is left has 26 bits too, with its sign. */
static UOp *head(const Build *b, UOp *x) {
  UOp *near = add(b, to_bits(b, x), integer(b, 1ll << 26));
  return from_bits(b, uop2(b->job, OP_AND, near, integer(b, -(1ll << 27))));
}

/* x*y + z in f64 where the steps before or after cancel: rounded once, or, where MULACC is not, the
 * product as a sum of two doubles (Dekker) and then z. */
static UOp *fused(const Build *b, UOp *x, UOp *y, UOp *z) {
  assert(b->wide);
  if (!b->no_fma) return fma3(b, x, y, z);
  UOp *p = prod(b, x, y), *s, *lost;
  UOp *xh = head(b, x), *xl = sub(b, x, xh), *yh = head(b, y), *yl = sub(b, y, yh);
  UOp *e = fma3(b, xh, yl, fma3(b, xh, yh, neg(b, p)));
  e = fma3(b, xl, yl, fma3(b, xl, yh, e));
  two_sum(b, p, z, &s, &lost);
  return add(b, s, add(b, lost, e));
}

/* acc * x^n + c[n-1] * x^(n-1) + ... + c[0], every c times `scale`. */
static UOp *horner_from(const Build *b, UOp *acc, Poly p, double scale, UOp *x) {
  for (int k = p.n - 1; k >= 0; k--) acc = fma3(b, acc, x, num(b, p.c[k] * scale));
  return acc;
}
static UOp *horner(const Build *b, Poly p, double scale, UOp *x) {
  UOp *top = num(b, p.c[p.n - 1] * scale);
  return horner_from(b, top, (Poly){p.c, p.n - 1}, scale, x);
}

static UOp *sign_bit(const Build *b, UOp *x) {
  return uop2(b->job, OP_AND, to_bits(b, x), integer(b, b->wide ? INT64_MIN : INT32_MIN));
}
/* v with its sign flipped where `sign`, the bit alone, is set. */
static UOp *flip_sign(const Build *b, UOp *v, UOp *sign) {
  return from_bits(b, uop2(b->job, OP_XOR, to_bits(b, v), sign));
}

/* -- exponentials ------------------------------------------------------------------------------ */

/* x * scale rounded to an integer n; *bits holds n + shift in the exponent field. */
static UOp *round_out(const Build *b, UOp *x, double scale, int shift, UOp **bits) {
  UOp *magic = num(b, ldexp(1.5, b->mant) + shift);
  UOp *t = scale == 1 ? add(b, x, magic) : fma3(b, x, num(b, scale), magic);
  *bits = shl(b, to_bits(b, t), b->mant);
  return sub(b, t, magic);
}

/* p * 2^n, rounded once: p is twice a number near 1, bits holds n - 1 + bias in the exponent field,
 * below 1 where the result is subnormal. There the rest of the exponent is a second factor; far
 * below, it is 0, for a product that underflows takes a hundred times longer than one with 0. */
static UOp *scale_wide(const Build *b, UOp *p, UOp *bits) {
  UOp *one = integer(b, (int64_t)1 << b->mant);
  UOp *top = uop2(b->job, OP_MAX, bits, one);
  UOp *rest = add(b, sub(b, bits, top), integer(b, (int64_t)b->bias << b->mant));
  rest = uop2(b->job, OP_MAX, rest, integer(b, 0));
  return mul(b, mul(b, p, from_bits(b, top)), from_bits(b, rest));
}

/* x where 2^x needs more than scale_wide can tell: below, it gives 0, above, infinity. */
static UOp *clamp_exponent(const Build *b, UOp *x, double log2_of_base) {
  double lo = b->wide ? -2080 : -270, hi = b->wide ? 1025 : 129;
  return clamp(b, x, floor(lo / log2_of_base), floor(hi / log2_of_base));
}

/* x where 2^x is infinite; *least is below where it is 0. */
static UOp *bound_exponent(const Build *b, UOp *x, double log2_of_base, double *least) {
  double lo = b->wide ? -1076 : -151, hi = b->wide ? 1025 : 129;
  *least = floor(lo / log2_of_base);
  return uop2(b->job, OP_MIN, x, num(b, floor(hi / log2_of_base)));
}

/* The same by one instruction, of p near 1 and n in the dtype. Where x, below `least`, would give 0
 * the instruction must not see it: a result that underflows takes a hundred times longer. */
static UOp *scale_native(const Build *b, UOp *p, UOp *n, UOp *x, double least) {
  UOp *v = uop2(b->job, OP_SCALE, p, n);
  return where(b, less(b, x, num(b, least)), num(b, 0), v);
}

/* e^r times `scale`, |r| <= ln(2)/2, after x = n*ln(2) + r. */
static UOp *exp_reduced(const Build *b, UOp *x, UOp *n, double scale) {
  const double *ln2 = SPLIT(b, ln2);
  UOp *r = fma3(b, n, num(b, -ln2[1]), fma3(b, n, num(b, -ln2[0]), x));
  UOp *p = horner(b, POLY(b, exp_poly), scale, r);
  return fma3(b, fma3(b, p, r, num(b, scale)), r, num(b, scale));
}

static UOp *quick_exp2(const Build *b, UOp *x) { return uop1(b->job, OP_QEXP2, x); }

/* e^x = 2^n * 2^r by the instruction for 2^r, where x*log2(e) = n + r. r is in 0 to 1: all 2^32
 * arguments are then within 1.94 units of the last place on an H100, and up to 2.07 with an r in
 * -0.5 to 0.5, 2.17 in 0.5 to 1.5. What is taken off before n is rounded is a little less than a
 * half, so that no r is negative. Where n is at its bounds r is whatever is left: 2^r then makes
 * the subnormal result, rounded once by the product, the 0 or the infinity. */
static UOp *exp_quick(const Build *b, UOp *x) {
  const double *log2e = log2e_f32;
  double magic = ldexp(1.5, b->mant) + b->bias, nearly = 0.5 - ldexp(1, -16);
  UOp *t = add(b, fma3(b, x, num(b, M_LOG2E), num(b, -nearly)), num(b, magic));
  t = clamp(b, t, magic - b->bias + 1, magic + b->bias);
  UOp *n = sub(b, t, num(b, magic)), *scale = from_bits(b, shl(b, to_bits(b, t), b->mant));
  UOp *r = fma3(b, x, num(b, log2e[1]), fma3(b, x, num(b, log2e[0]), neg(b, n)));
  return mul(b, quick_exp2(b, r), scale);
}

static UOp *exp_any(const Build *b, UOp *x) {
  UOp *bits;
  if (b->quick) return exp_quick(b, x);
  if (b->scales) {
    double least;
    UOp *top = bound_exponent(b, x, M_LOG2E, &least), *n = round_out(b, top, M_LOG2E, 0, &bits);
    return scale_native(b, exp_reduced(b, top, n, 1), n, x, least);
  }
  x = clamp_exponent(b, x, M_LOG2E);
  UOp *n = round_out(b, x, M_LOG2E, b->bias - 1, &bits);
  return scale_wide(b, exp_reduced(b, x, n, 2), bits);
}

/* e^x where neither x nor e^x is extreme. */
static UOp *exp_moderate(const Build *b, UOp *x) {
  UOp *bits;
  UOp *n = round_out(b, x, M_LOG2E, b->bias, &bits);
  return mul(b, exp_reduced(b, x, n, 1), from_bits(b, bits));
}

static UOp *exp2_any(const Build *b, UOp *x) {
  UOp *bits;
  if (b->scales) {
    double least;
    UOp *top = bound_exponent(b, x, 1, &least), *n = round_out(b, top, 1, 0, &bits);
    UOp *r = sub(b, top, n), *p = fma3(b, horner(b, POLY(b, exp2_poly), 1, r), r, num(b, 1));
    return scale_native(b, p, n, x, least);
  }
  x = clamp_exponent(b, x, 1);
  UOp *n = round_out(b, x, 1, b->bias - 1, &bits), *r = sub(b, x, n);
  UOp *p = fma3(b, horner(b, POLY(b, exp2_poly), 2, r), r, num(b, 2));
  return scale_wide(b, p, bits);
}

/* -- logarithms -------------------------------------------------------------------------------- */

/* x = 2^k * (1 + f), 2/3 <= 1 + f < 4/3; for finite x > 0. */
static UOp *log_reduce(const Build *b, UOp *x, bool subnormals, UOp **f) {
  UOp *two_thirds = integer(b, b->wide ? 0x3fe5555555555555 : 0x3f2aaaab), *tiny = NULL;
  int up = b->mant + 2;
  if (subnormals) {
    tiny = less(b, x, num(b, b->wide ? DBL_MIN : FLT_MIN));
    x = where(b, tiny, mul(b, x, num(b, ldexp(1, up))), x);
  }
  UOp *i = to_bits(b, x);
  UOp *e = uop2(b->job, OP_SHR, sub(b, i, two_thirds), integer(b, b->mant));
  *f = sub(b, from_bits(b, sub(b, i, shl(b, e, b->mant))), num(b, 1));
  UOp *k = uop_cast(b->job, e, b->d);
  return tiny ? sub(b, k, where(b, tiny, num(b, up), num(b, 0))) : k;
}

/* log(1 + f) - f. */
static UOp *log_tail(const Build *b, UOp *f) {
  if (!b->wide) {
    UOp *p = horner(b, (Poly){log_poly_f32, LEN(log_poly_f32)}, 1, f);
    return mul(b, mul(b, f, f), fma3(b, f, p, num(b, -0.5)));
  }
  /* s = f/(2+f): log = 2s + s*z*p(z) = f - s*(f - z*p(z)) */
  UOp *s = quot(b, f, add(b, f, num(b, 2))), *z = mul(b, s, s);
  UOp *rest = fma3(b, neg(b, z), horner(b, POLY(b, log_odd), 1, z), f);
  return neg(b, mul(b, s, rest));
}

/* What a logarithm is outside (0, inf). */
static UOp *log_special(const Build *b, UOp *x, UOp *v) {
  UOp *zero = num(b, 0);
  v = where(b, less(b, x, num(b, INFINITY)), v, x);
  v = where(b, less(b, x, zero), num(b, NAN), v);
  return where(b, equal(b, x, zero), num(b, -INFINITY), v);
}

static UOp *log_any(const Build *b, UOp *x) {
  const double *ln2 = SPLIT(b, ln2);
  UOp *f, *k = log_reduce(b, x, true, &f);
  UOp *low = add(b, f, fma3(b, k, num(b, ln2[1]), log_tail(b, f)));
  return log_special(b, x, fma3(b, k, num(b, ln2[0]), low));
}

static UOp *log2_any(const Build *b, UOp *x) {
  const double *log2e = SPLIT(b, log2e);
  UOp *f, *k = log_reduce(b, x, true, &f);
  UOp *low = fma3(b, f, num(b, log2e[1]), prod(b, log_tail(b, f), num(b, log2e[0])));
  return log_special(b, x, add(b, k, fma3(b, f, num(b, log2e[0]), low)));
}

/* -- hyperbolic tangent, error function, arc tangent ------------------------------------------- */

/* tanh(a) = 1 - 2/(e^2a + 1) for a that is not small: what the exponential is off by hardly shows,
 * and of the quotient a step of Newton's is enough. */
static UOp *tanh_large(const Build *b, UOp *a) {
  UOp *one = num(b, 1), *most = uop2(b->job, OP_MIN, a, num(b, 20));
  if (b->quick) {
    UOp *d = add(b, quick_exp2(b, mul(b, most, num(b, 2 * M_LOG2E))), one);
    UOp *q = uop1(b->job, OP_QRECIP, d);
    return fma3(b, fma3(b, fma3(b, neg(b, d), q, one), q, q), num(b, -2), one);
  }
  UOp *e = exp_moderate(b, add(b, most, most));
  return sub(b, one, quot(b, num(b, 2), add(b, e, one)));
}

static UOp *tanh_any(const Build *b, UOp *x) {
  UOp *a = mag(b, x), *z = mul(b, a, a);
  UOp *small = fma3(b, prod(b, a, z), horner(b, POLY(b, tanh_poly), 1, z), a);
  UOp *large = tanh_large(b, a);
  UOp *v = where(b, less(b, a, num(b, 0.625)), small, large);
  return flip_sign(b, v, sign_bit(b, x));
}

/* 1 - erf(a) for a from `edge` on; what the exponential is off by is small beside erf(a). */
static UOp *erfc_large(const Build *b, UOp *a, double edge) {
  Poly p = POLY(b, erfc_poly);
  if (b->quick) return quick_exp2(b, horner(b, p, -M_LOG2E, uop2(b->job, OP_MIN, a, num(b, 4))));
  return exp_moderate(b, neg(b, horner(b, p, 1, clamp(b, a, edge, b->wide ? 6 : 4))));
}

static UOp *erf_any(const Build *b, UOp *x) {
  UOp *a = mag(b, x), *z = mul(b, a, a);
  UOp *small = fma3(b, a, horner(b, POLY(b, erf_poly), 1, z), a);
  double edge = b->wide ? 1 : 0.9;
  UOp *large = sub(b, num(b, 1), erfc_large(b, a, edge));
  UOp *v = where(b, less(b, a, num(b, edge)), small, large);
  return flip_sign(b, v, sign_bit(b, x));
}

/* atan(a) = base + atan(t): t = a, (a-1)/(a+1) or -1/a, always |t| <= 1/2. */
static UOp *atan_any(const Build *b, UOp *x) {
  const double *pi4 = SPLIT(b, quarter_pi);
  UOp *a = mag(b, x), *one = num(b, 1);
  UOp *mid = less(b, num(b, 0.5), a), *far = less(b, num(b, 2), a);
  UOp *over = where(b, far, num(b, -1), where(b, mid, sub(b, a, one), a));
  UOp *under = where(b, far, a, where(b, mid, add(b, a, one), one));
  UOp *t = quot(b, over, under), *z = mul(b, t, t);
  UOp *at = fma3(b, prod(b, t, z), horner(b, POLY(b, atan_poly), 1, z), t);
  UOp *hi = where(b, far, num(b, 2 * pi4[0]), where(b, mid, num(b, pi4[0]), num(b, 0)));
  UOp *lo = where(b, far, num(b, 2 * pi4[1]), where(b, mid, num(b, pi4[1]), num(b, 0)));
  return flip_sign(b, add(b, hi, add(b, at, lo)), sign_bit(b, x));
}

/* -- sine and cosine --------------------------------------------------------------------------- */

/* n modulo 4 for an integer n >= 0. */
static UOp *mod4(const Build *b, UOp *n) {
  UOp *fours = uop1(b->job, OP_FLOOR, mul(b, n, num(b, 0.25)));
  return fma3(b, fours, num(b, -4), n);
}

/* a in quarter turns: *q modulo 4 and the rest in radians, |rest| <= pi/4, for f32 in f64. For a
 * with 24 bits and a >= 2^(b + 24), a is a multiple of 2^b, and 2/pi may lose the multiples of
 * 4 * 2^-b. The table's entry k is for a < 2^(24k + 48): the product stays below 2^51. */
static UOp *turns_narrow(const Build *b, UOp *a, UOp **q) {
  UOp *hi = num(b, turns_f32[0][0]), *lo = num(b, turns_f32[0][1]);
  for (int k = 1; k < LEN(turns_f32); k++) {
    UOp *big = less(b, num(b, ldexp(1, 24 * k + 24) * (1 - DBL_EPSILON)), a);
    hi = where(b, big, num(b, turns_f32[k][0]), hi);
    lo = where(b, big, num(b, turns_f32[k][1]), lo);
  }
  UOp *n = uop1(b->job, OP_ROUND, mul(b, a, hi));
  UOp *rest = fma3(b, a, lo, fused(b, a, hi, neg(b, n)));
  *q = mod4(b, n);
  return mul(b, rest, num(b, M_PI_2));
}

/* x - 4*round(x/4), exactly. */
static UOp *fold4(const Build *b, UOp *x) {
  UOp *fours = uop1(b->job, OP_ROUND, mul(b, x, num(b, 0.25)));
  return fma3(b, fours, num(b, -4), x);
}

/* The same for f64: four doubles of 2/pi, entries 48 bits apart, products kept with their errors.
 * From 2^533 on both factors are scaled by 2^512 to stay in range. */
static UOp *turns_wide(const Build *b, UOp *a, UOp **q) {
  UOp *c[4], *p[3], *e[3];
  for (int j = 0; j < 4; j++) c[j] = num(b, turns_f64[0][j]);
  for (int k = 1; k < LEN(turns_f64); k++) {
    UOp *big = less(b, num(b, ldexp(1, 48 * k + 53) * (1 - DBL_EPSILON)), a);
    for (int j = 0; j < 4; j++) c[j] = where(b, big, num(b, turns_f64[k][j]), c[j]);
  }
  UOp *huge = less(b, num(b, ldexp(1, 533) * (1 - DBL_EPSILON)), a);
  a = where(b, huge, mul(b, a, num(b, 0x1p-512)), a);
  for (int j = 0; j < 3; j++) {
    p[j] = prod(b, a, c[j]);
    e[j] = fused(b, a, c[j], neg(b, p[j]));
  }
  UOp *s1, *t1, *s2, *t2, *s3, *t3, *s4, *t4;
  two_sum(b, fold4(b, p[0]), fold4(b, e[0]), &s1, &t1);
  two_sum(b, s1, fold4(b, p[1]), &s2, &t2);
  UOp *n = uop1(b->job, OP_ROUND, s2);
  two_sum(b, sub(b, s2, n), e[1], &s3, &t3);
  two_sum(b, s3, p[2], &s4, &t4);
  UOp *low = fma3(b, a, c[3], add(b, add(b, t1, t2), add(b, add(b, t3, t4), e[2])));
  UOp *rest, *tail;
  two_sum(b, s4, low, &rest, &tail);
  UOp *again = uop1(b->job, OP_ROUND, rest); /* the late terms may have moved it past 1/2 */
  rest = sub(b, rest, again);
  *q = mod4(b, add(b, add(b, n, again), num(b, 16)));
  UOp *r = prod(b, rest, num(b, quarter_turn[0]));
  UOp *fix = fused(b, rest, num(b, quarter_turn[0]), neg(b, r));
  fix = fma3(b, rest, num(b, quarter_turn[1]), fma3(b, tail, num(b, quarter_turn[0]), fix));
  return add(b, r, fix);
}

static UOp *sin_cos(const Build *b, UOp *x, bool cosine) {
  Build w = build_for(b->rw, DT_F64, b->lanes);
  UOp *q, *a = mag(b, x);
  UOp *r = b->wide ? turns_wide(b, a, &q) : turns_narrow(&w, uop_cast(b->job, a, DT_F64), &q);
  r = uop_cast(b->job, r, b->d);
  if (cosine) q = add(&w, q, num(&w, 1));
  UOp *quadrant = to_bits(b, add(b, uop_cast(b->job, q, b->d), num(b, ldexp(1.5, b->mant))));
  UOp *z = mul(b, r, r);
  UOp *s = fma3(b, prod(b, r, z), horner(b, POLY(b, sin_poly), 1, z), r);
  UOp *c = fma3(b, mul(b, z, z), horner(b, POLY(b, cos_poly), 1, z),
                fma3(b, z, num(b, -0.5), num(b, 1)));
  UOp *odd = equal(b, uop2(b->job, OP_AND, quadrant, integer(b, 1)), integer(b, 1));
  UOp *v = where(b, odd, c, s);
  UOp *half = uop2(b->job, OP_AND, quadrant, integer(b, 2));
  UOp *sign = shl(b, half, b->mant == 52 ? 62 : 30);
  if (!cosine) sign = uop2(b->job, OP_XOR, sign, sign_bit(b, x));
  return flip_sign(b, v, sign);
}

/* -- powers ------------------------------------------------------------------------------------ */

/* log2(a) for a with 24 bits, in f64: a relative error of 2^-40 is enough below |y*log2(a)| = 150.
 */
static UOp *pow_narrow(const Build *b, UOp *a, UOp *y) {
  UOp *f, *bits, *k = log_reduce(b, a, false, &f);
  UOp *s = quot(b, f, add(b, f, num(b, 2))), *z = mul(b, s, s);
  UOp *p = fma3(b, z, horner(b, (Poly){log_odd_f32, LEN(log_odd_f32)}, 1, z), num(b, 2));
  UOp *l = fma3(b, mul(b, s, p), num(b, M_LOG2E), k);
  l = where(b, less(b, a, num(b, INFINITY)), l, a);
  l = where(b, equal(b, a, num(b, 0)), num(b, -INFINITY), l);
  UOp *t = clamp(b, mul(b, y, l), -400, 400);
  UOp *n = round_out(b, t, 1, b->bias, &bits), *r = sub(b, t, n);
  UOp *e = horner(b, (Poly){exp2_wide_f32, LEN(exp2_wide_f32)}, 1, r);
  return mul(b, fma3(b, e, r, num(b, 1)), from_bits(b, bits));
}

/* log2(a) as *hi + *lo, to 65 bits: 2s and 2s*z/3 in two doubles, the rest in one. */
static void log2_pair(const Build *b, UOp *a, UOp **hi, UOp **lo) {
  UOp *f, *k = log_reduce(b, a, true, &f);
  UOp *den = add(b, f, num(b, 2)), *den_lo = sub(b, f, sub(b, den, num(b, 2)));
  UOp *s = quot(b, f, den);
  UOp *s_lo = quot(b, fma3(b, neg(b, s), den_lo, fused(b, neg(b, s), den, f)), den);
  UOp *z = prod(b, s, s), *z_lo = fma3(b, add(b, s, s), s_lo, fused(b, s, s, neg(b, z)));
  UOp *third = num(b, log_odd_f64[0]), *w = prod(b, z, third);
  Poly rest = {log_odd_f64 + 1, LEN(log_odd_f64) - 1};
  UOp *w_lo = fused(b, z, third, neg(b, w));
  w_lo = fma3(b, z_lo, third, w_lo);
  w_lo = fma3(b, mul(b, z, z), horner(b, rest, 1, z), w_lo);
  UOp *g = add(b, num(b, 2), w), *g_lo = add(b, sub(b, w, sub(b, g, num(b, 2))), w_lo);
  UOp *l = prod(b, s, g), *l_lo = fused(b, s, g, neg(b, l)); /* log(1 + f) = s * g */
  l_lo = fma3(b, s, g_lo, fma3(b, s_lo, g, l_lo));
  UOp *m = prod(b, l, num(b, log2e_f64[0])), *m_lo = fused(b, l, num(b, log2e_f64[0]), neg(b, m));
  m_lo = fma3(b, l, num(b, log2e_f64[1]), fma3(b, l_lo, num(b, log2e_f64[0]), m_lo));
  UOp *sum, *lost;
  two_sum(b, k, m, &sum, &lost);
  two_sum(b, sum, add(b, lost, m_lo), hi, lo); /* m_lo is not small beside m */
}

static UOp *pow_wide(const Build *b, UOp *a, UOp *y) {
  UOp *hi, *lo, *bits;
  log2_pair(b, a, &hi, &lo);
  UOp *finite = both(b, less(b, a, num(b, INFINITY)), less(b, num(b, 0), a));
  UOp *edge = where(b, equal(b, a, num(b, 0)), num(b, -INFINITY), a);
  hi = where(b, finite, hi, edge);
  lo = where(b, finite, lo, num(b, 0));
  UOp *t = prod(b, y, hi), *x = clamp_exponent(b, t, 1);
  UOp *t_lo = fma3(b, y, lo, fused(b, y, hi, neg(b, t)));
  t_lo = where(b, equal(b, t, x), t_lo, num(b, 0));
  UOp *n = round_out(b, x, 1, b->bias - 1, &bits), *r = add(b, sub(b, x, n), t_lo);
  UOp *p = fma3(b, horner(b, POLY(b, exp2_poly), 2, r), r, num(b, 2));
  return scale_wide(b, p, bits);
}

/* Signs, and what C's pow says about 0, 1, infinities and NaN. */
static UOp *pow_any(const Build *b, UOp *x, UOp *y) {
  Build w = build_for(b->rw, DT_F64, b->lanes);
  UOp *a = mag(b, x), *one = num(b, 1), *zero = num(b, 0), *inf = num(b, INFINITY), *v;
  if (b->wide) {
    v = pow_wide(b, a, y);
  } else {
    v = pow_narrow(&w, uop_cast(b->job, a, DT_F64), uop_cast(b->job, y, DT_F64));
    v = uop_cast(b->job, v, b->d);
  }
  UOp *half = mul(b, y, num(b, 0.5));
  UOp *whole = equal(b, uop1(b->job, OP_TRUNC, y), y);
  UOp *even = equal(b, uop1(b->job, OP_TRUNC, half), half);
  UOp *none = integer(b, 0);
  UOp *odd_sign = where(b, even, none, where(b, whole, sign_bit(b, x), none));
  v = flip_sign(b, v, odd_sign);
  UOp *negative = both(b, less(b, x, zero), less(b, num(b, -INFINITY), x));
  v = where(b, negative, where(b, whole, v, num(b, NAN)), v);
  UOp *unit = both(b, equal(b, a, one), equal(b, mag(b, y), inf));
  UOp *is_one = either(b, either(b, equal(b, y, zero), equal(b, x, one)), unit);
  return where(b, is_one, one, v);
}

/* -- remainder -----------------------------------------------------------------------------------
 */

/* In f64, where a quotient below 2^50 is off by at most 1 and r - q*y is exact: six steps take the
 * largest f32 over the smallest. */
static UOp *fmod_narrow(const Build *n, UOp *x, UOp *y) {
  Build w = build_for(n->rw, DT_F64, n->lanes);
  const Build *b = &w;
  UOp *ax = uop_cast(n->job, mag(n, x), DT_F64), *ay = uop_cast(n->job, mag(n, y), DT_F64);
  UOp *inverse = quot(b, num(b, 1), ay), *r = ax, *zero = num(b, 0);
  for (int k = 5; k >= 0; k--) {
    UOp *step = mul(b, ay, num(b, ldexp(1, 50 * k)));
    UOp *q = uop1(b->job, OP_TRUNC, mul(b, r, mul(b, inverse, num(b, ldexp(1, -50 * k)))));
    r = fused(b, neg(b, q), step, r);
    r = where(b, less(b, r, zero), add(b, r, step), r);
    r = where(b, less(b, r, step), r, sub(b, r, step));
  }
  UOp *v = flip_sign(n, uop_cast(n->job, r, n->d), sign_bit(n, x));
  UOp *plain = both(n, equal(n, mag(n, y), num(n, INFINITY)), less(n, mag(n, x), num(n, INFINITY)));
  return where(n, plain, x, v);
}

/* -- by op
 * ----------------------------------------------------------------------------------------- */

static UOp *one_of(const Build *b, Op op, UOp *x, UOp *y) {
  switch (op) {
  case OP_EXP: return exp_any(b, x);
  case OP_EXP2: return exp2_any(b, x);
  case OP_LOG: return log_any(b, x);
  case OP_LOG2: return log2_any(b, x);
  case OP_SIN: return sin_cos(b, x, false);
  case OP_COS: return sin_cos(b, x, true);
  case OP_TANH: return tanh_any(b, x);
  case OP_ERF: return erf_any(b, x);
  case OP_ATAN: return atan_any(b, x);
  case OP_POW: return pow_any(b, x, y);
  case OP_FMOD: return b->wide ? NULL : fmod_narrow(b, x, y);
  default: return NULL;
  }
}

UOp *transcend(Rewrite *rw, UOp *n) {
  DType d = (DType)n->dtype;
  if (n->shape.n) return NULL;
  bool narrow = d == DT_F16 || d == DT_BF16;
  Build b = build_for(rw, narrow ? DT_F32 : d, n->lanes);
  UOp *x = uop_cast(rw->job, n->src[0], b.d);
  UOp *y = n->nsrc > 1 ? uop_cast(rw->job, n->src[1], b.d) : NULL;
  UOp *v = one_of(&b, (Op)n->op, x, y);
  return v ? uop_cast(rw->job, v, d) : NULL;
}
