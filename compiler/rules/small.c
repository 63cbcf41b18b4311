/* Casts from and to the storage dtypes, as arithmetic on u32 and u8 that every backend has.
 *
 * From a float format: the fraction and exponent bits are shifted to their place in an f32 and the
 * exponent's bias is moved; a subnormal is its fraction times the smallest step. To one: normal
 * results are rounded by adding half of the last kept place, less one if it is even, and shifting;
 * subnormal results by adding a number whose last place is the smallest step, so that the addition
 * rounds. No subnormal f32 is computed with, so a target that flushes them gives the same.
 *
 * What is wider than f32 is first rounded to odd (Boldo and Melquiond), so that rounding it again
 * gives what one rounding would have given; so are 64-bit integers on their way to bf16 (f16 ends
 * long before f64's digits do). Integers saturate through 8 bits. */
#include "compiler/rules/small.h"

#include <math.h>

typedef struct Build {
  Job *job;
  unsigned lanes;
} Build;

static UOp *lanes_of(const Build *b, UOp *c) {
  if (b->lanes == 1) return c;
  return uop_make_lanes(b->job, OP_CONST, (DType)c->dtype, b->lanes, c->arg, NULL, 0);
}
static UOp *word(const Build *b, uint32_t v) { return lanes_of(b, uop_int(b->job, DT_U32, v)); }
static UOp *real(const Build *b, double v) { return lanes_of(b, uop_float(b->job, DT_F32, v)); }
static UOp *op2(const Build *b, Op op, UOp *x, UOp *y) { return uop2(b->job, op, x, y); }
static UOp *cast(const Build *b, UOp *x, DType d) { return uop_cast(b->job, x, d); }
static UOp *bits_as(const Build *b, UOp *x, DType d) {
  return uop_make(b->job, OP_BITCAST, d, arg_none(), &x, 1);
}
static UOp *where(const Build *b, UOp *c, UOp *x, UOp *y) {
  return uop3(b->job, OP_WHERE, c, x, y);
}
static UOp *below(const Build *b, UOp *x, uint32_t v) { return op2(b, OP_CMPLT, x, word(b, v)); }
static UOp *above(const Build *b, UOp *x, uint32_t v) { return op2(b, OP_CMPLT, word(b, v), x); }
static UOp *is(const Build *b, UOp *x, uint32_t v) { return op2(b, OP_CMPEQ, x, word(b, v)); }
static UOp *shl(const Build *b, UOp *x, uint32_t v) { return op2(b, OP_SHL, x, word(b, v)); }
static UOp *shr(const Build *b, UOp *x, uint32_t v) { return op2(b, OP_SHR, x, word(b, v)); }
static UOp *mask(const Build *b, UOp *x, uint32_t v) { return op2(b, OP_AND, x, word(b, v)); }

#define F32_INF 0x7f800000u
#define F32_NAN 0x7fc00000u
#define F32_MAG 0x7fffffffu

/* -- to f32 ------------------------------------------------------------------------------------ */

static UOp *e8m0_to_f32(const Build *b, UOp *w) {
  UOp *r = where(b, is(b, w, 0), word(b, 1u << 22), shl(b, w, 23)); /* 2^-127 is subnormal */
  return bits_as(b, where(b, is(b, w, 255), word(b, F32_NAN), r), DT_F32);
}

static UOp *to_f32(const Build *b, UOp *x, const FloatFormat *f) {
  UOp *w = cast(b, bits_as(b, x, DT_U8), DT_U32);
  if (f->specials == FS_E8M0) return e8m0_to_f32(b, w);
  uint32_t top = 1u << (f->bits - 1), up = 23u - f->mant;
  UOp *mag = mask(b, w, top - 1), *sign = shl(b, mask(b, w, top), 32u - f->bits);
  UOp *tiny =
      op2(b, OP_MUL, cast(b, cast(b, mag, DT_I32), DT_F32), real(b, ldexp(1, f->emin - f->mant)));
  /* Biased exponent 1 is emin, in f32 emin + 127. */
  UOp *normal = op2(b, OP_ADD, shl(b, mag, up), word(b, (uint32_t)(f->emin + 126) << 23));
  UOp *r = where(b, below(b, mag, 1u << f->mant), bits_as(b, tiny, DT_U32), normal);
  uint32_t inf = (top - 1) >> f->mant << f->mant;
  if (f->specials == FS_IEEE) {
    UOp *special = op2(b, OP_OR, shl(b, mag, up), word(b, F32_INF));
    r = where(b, below(b, mag, inf), r, special);
  }
  r = op2(b, OP_OR, r, sign);
  if (f->specials == FS_FN) r = where(b, is(b, mag, top - 1), word(b, F32_NAN), r);
  if (f->specials == FS_FNUZ) r = where(b, is(b, w, top), word(b, F32_NAN), r);
  return bits_as(b, r, DT_F32);
}

/* -- from f32 ---------------------------------------------------------------------------------- */

/* Positive values round to a power of two, ties up; zero and what is below 2^-127 become that. */
static UOp *e8m0_from_f32(const Build *b, UOp *u) {
  UOp *normal = shr(b, op2(b, OP_ADD, u, word(b, 1u << 22)), 23);
  UOp *small = cast(b, above(b, u, 0x5fffff), DT_U32); /* 1.5 * 2^-127 and up: 2^-126 */
  UOp *r = where(b, below(b, u, 1u << 23), small, normal);
  UOp *minus_zero = is(b, u, 0x80000000u);
  r = where(b, above(b, r, 254), word(b, 255), r); /* with the sign bit set it is at least 256 */
  return where(b, minus_zero, word(b, 0), r);
}

/* The magnitude's code, rounded, as if exponents went on forever. */
static UOp *rounded_code(const Build *b, UOp *mag, const FloatFormat *f) {
  uint32_t s = 23u - f->mant, bias = (uint32_t)(f->emin + 126) << f->mant;
  UOp *odd = mask(b, shr(b, mag, s), 1);
  UOp *half = op2(b, OP_ADD, op2(b, OP_ADD, mag, word(b, (1u << (s - 1)) - 1)), odd);
  UOp *normal = op2(b, OP_SUB, shr(b, half, s), word(b, bias));
  double step = ldexp(1, 23 + f->emin - f->mant);
  UOp *sum = op2(b, OP_ADD, bits_as(b, mag, DT_F32), real(b, step));
  UOp *tiny = op2(b, OP_SUB, bits_as(b, sum, DT_U32), bits_as(b, real(b, step), DT_U32));
  return where(b, below(b, mag, (uint32_t)(f->emin + 127) << 23), tiny, normal);
}

static UOp *from_f32(const Build *b, UOp *x, DType d) {
  const FloatFormat *f = float_format(d);
  UOp *u = bits_as(b, x, DT_U32), *code;
  if (f->specials == FS_E8M0) {
    code = e8m0_from_f32(b, u);
    return bits_as(b, cast(b, code, DT_U8), d);
  }
  uint32_t top = 1u << (f->bits - 1), ones = top - 1, inf = ones >> f->mant << f->mant;
  uint32_t largest = f->specials == FS_IEEE ? inf - 1 : f->specials == FS_FN ? ones - 1 : ones;
  uint32_t nan = f->specials == FS_IEEE   ? inf | 1u << (f->mant - 1)
                 : f->specials == FS_FN   ? ones
                 : f->specials == FS_FNUZ ? top
                                          : 0;
  UOp *mag = mask(b, u, F32_MAG), *sign = shl(b, shr(b, u, 31), f->bits - 1u);
  UOp *is_nan = above(b, mag, F32_INF);
  code = rounded_code(b, mag, f);
  UOp *big = above(b, code, largest);
  if (f->specials == FS_IEEE) code = where(b, big, word(b, inf), code);
  if (f->specials == FS_NONE) code = where(b, big, word(b, largest), code);
  if (f->specials == FS_FNUZ) sign = where(b, is(b, code, 0), word(b, 0), sign);
  code = op2(b, OP_OR, code, sign);
  if (f->specials == FS_FN || f->specials == FS_FNUZ) is_nan = op2(b, OP_OR, is_nan, big);
  code = where(b, is_nan, word(b, nan), code);
  return bits_as(b, cast(b, code, DT_U8), d);
}

/* f64 to f32, rounded to odd: truncated, and the last bit set when that lost anything. */
static UOp *round_to_odd(const Build *b, UOp *x) {
  UOp *near = cast(b, x, DT_F32), *back = cast(b, near, DT_F64), *u = bits_as(b, near, DT_U32);
  UOp *lossy = op2(b, OP_CMPNE, back, x);
  UOp *over = op2(b, OP_CMPLT, uop1(b->job, OP_ABS, x), uop1(b->job, OP_ABS, back));
  u = op2(b, OP_SUB, u, cast(b, over, DT_U32));
  return bits_as(b, op2(b, OP_OR, u, cast(b, lossy, DT_U32)), DT_F32);
}

/* A 64-bit integer as one that f64 holds: where it takes more than 53 bits the lower ones become a
 * sticky bit. */
static UOp *sticky(const Build *b, UOp *x) {
  DType d = (DType)x->dtype;
  if (dtype_is_float(d) || dtype_info[d].bits != 64) return x;
  x = cast(b, x, d == DT_U64 ? DT_U64 : DT_I64);
  d = (DType)x->dtype;
  UOp *low = lanes_of(b, uop_int(b->job, d, 0xfff)), *zero = lanes_of(b, uop_int(b->job, d, 0));
  UOp *some = op2(b, OP_CMPNE, op2(b, OP_AND, x, low), zero);
  UOp *bit = where(b, some, lanes_of(b, uop_int(b->job, d, 0x800)), zero);
  UOp *odd = op2(b, OP_OR, op2(b, OP_AND, x, lanes_of(b, uop_int(b->job, d, ~0xfff))), bit);
  int64_t top = (int64_t)1 << 53;
  UOp *held = op2(b, OP_CMPLT, x, lanes_of(b, uop_int(b->job, d, top)));
  if (d == DT_I64) {
    UOp *above_low = op2(b, OP_CMPLT, lanes_of(b, uop_int(b->job, d, -top)), x);
    held = op2(b, OP_AND, held, above_low);
  }
  return where(b, held, x, odd);
}

/* -- integers ---------------------------------------------------------------------------------- */

static UOp *small_int(const Build *b, UOp *x, DType d) {
  const DTypeInfo *info = &dtype_info[d];
  bool sign = info->cls == DC_SINT;
  DType byte = sign ? DT_I8 : DT_U8;
  int64_t range = 1 << (info->bits - sign);
  UOp *v = cast(b, x, byte);
  if (dtype_is_float((DType)x->dtype)) {
    UOp *lo = lanes_of(b, uop_int(b->job, byte, sign ? -range : 0));
    v = op2(b, OP_MIN, op2(b, OP_MAX, v, lo), lanes_of(b, uop_int(b->job, byte, range - 1)));
  } else if (sign) {
    UOp *by = lanes_of(b, uop_int(b->job, byte, 8 - info->bits));
    v = op2(b, OP_SHR, op2(b, OP_SHL, v, by), by);
  } else {
    v = op2(b, OP_AND, v, lanes_of(b, uop_int(b->job, byte, range - 1)));
  }
  return bits_as(b, v, d);
}

UOp *small_cast(Rewrite *rw, UOp *n) {
  UOp *x = n->src[0];
  DType to = (DType)n->dtype, from = (DType)x->dtype;
  Build b = {.job = rw->job, .lanes = n->lanes};
  if (n->shape.n) return NULL;
  if (to == DT_BF16 && !dtype_is_float(from) && dtype_info[from].bits == 64)
    return cast(&b, cast(&b, sticky(&b, x), DT_F64), to);
  if (!dtype_is_storage(from) && !dtype_is_storage(to)) return NULL;
  if (dtype_is_storage(from)) {
    const FloatFormat *f = float_format(from);
    if (f) return cast(&b, to_f32(&b, x, f), to);
    return cast(&b, bits_as(&b, x, dtype_is_uint(from) ? DT_U8 : DT_I8), to);
  }
  if (!dtype_is_float(to)) return small_int(&b, x, to);
  bool wide = from == DT_F64 || (!dtype_is_float(from) && dtype_info[from].bits > 16);
  UOp *f32 = wide ? round_to_odd(&b, cast(&b, sticky(&b, x), DT_F64)) : cast(&b, x, DT_F32);
  return from_f32(&b, f32, to);
}
