/* What ops mean: scalar semantics, expanded from the value columns of ops.def.
 *
 * Integers of every dtype are held in an int64, wrapped: sign- or zero-extended from their width
 * (u64 as its bit pattern). Floats are held in a double that is exactly representable in their
 * dtype. f32 and the smaller floats are computed in double and rounded once more: for + - * / sqrt
 * that equals one rounding, since 53 >= 2 * 24 + 2 (Figueroa). All functions are total. */
#include <assert.h>
#include <float.h>
#include <math.h>

#include "compiler/ir/uop.h"

/* -- rounding ---------------------------------------------------------------------------------- */

static const FloatFormat formats[DT__COUNT] = {
    [DT_F16] = {16, 10, -14, 65504, FS_IEEE},     [DT_BF16] = {16, 7, -126, 0x1.fep127, FS_IEEE},
    [DT_F8E4M3FN] = {8, 3, -6, 448, FS_FN},       [DT_F8E4M3FNUZ] = {8, 3, -7, 240, FS_FNUZ},
    [DT_F8E5M2] = {8, 2, -14, 57344, FS_IEEE},    [DT_F8E5M2FNUZ] = {8, 2, -15, 57344, FS_FNUZ},
    [DT_F8E8M0] = {8, 0, -127, 0x1p127, FS_E8M0}, [DT_F4E2M1] = {4, 1, 0, 6, FS_NONE},
};

const FloatFormat *float_format(DType d) { return formats[d].bits ? &formats[d] : NULL; }

/* What a value beyond the largest becomes. */
static double overflow(const FloatFormat *f, double x) {
  if (f->specials == FS_NONE) return copysign(f->max, x);
  return f->specials == FS_IEEE ? copysign(INFINITY, x) : (double)NAN;
}

/* Nearest value of the format, ties to even. */
static double round_small(const FloatFormat *f, double x) {
  if (isnan(x)) return f->specials == FS_NONE ? 0 : (double)NAN;
  if (f->specials == FS_E8M0) {
    if (x < 0) return (double)NAN;
    if (x < 0x1p-127) return 0x1p-127; /* zero too: there is none */
  }
  if (isinf(x)) return overflow(f, x);
  if (x == 0) return f->specials == FS_FNUZ ? 0 : x;
  int e = ilogb(x);
  int shift = f->mant - (e < f->emin ? f->emin : e);
  double r = scalbn(nearbyint(scalbn(x, shift)), -shift);
  if (fabs(r) > f->max) return overflow(f, x);
  return r == 0 && f->specials == FS_FNUZ ? 0 : r;
}

static double float_round(DType dtype, double x) {
  const FloatFormat *f = float_format(dtype);
  if (f) return round_small(f, x);
  if (isnan(x)) return (double)NAN;
  return dtype == DT_F32 ? (double)(float)x : x;
}

static int64_t int_wrap(DType dtype, int64_t v) {
  unsigned bits = dtype_info[dtype].bits;
  if (dtype == DT_BOOL) return v != 0;
  if (bits == 0 || bits == 64) return v;
  uint64_t low = (uint64_t)v << (64 - bits);
  return dtype_is_uint(dtype) ? (int64_t)(low >> (64 - bits)) : (int64_t)low >> (64 - bits);
}

Scalar scalar_wrap(DType dtype, Scalar v) {
  if (dtype_is_float(dtype)) return (Scalar){.f = float_round(dtype, v.f)};
  return (Scalar){.i = int_wrap(dtype, v.i)};
}

/* -- memory ------------------------------------------------------------------------------------ */

/* x is already rounded to the format. */
static unsigned float_pack(const FloatFormat *f, double x) {
  unsigned top = 1u << (f->bits - 1), ones = top - 1;
  if (f->specials == FS_E8M0) return isnan(x) ? 255 : (unsigned)(ilogb(x) + 127);
  unsigned sign = signbit(x) ? top : 0, inf = ones >> f->mant << f->mant;
  if (isnan(x)) {
    if (f->specials == FS_FNUZ) return top;
    return f->specials == FS_FN ? ones : inf | 1u << (f->mant - 1);
  }
  if (isinf(x)) return sign | inf;
  if (x == 0) return sign;
  int e = ilogb(x);
  unsigned frac = (unsigned)scalbn(fabs(x), f->mant - (e < f->emin ? f->emin : e));
  unsigned biased = e < f->emin ? 0 : (unsigned)(e - f->emin + 1);
  return sign | (biased << f->mant) | (frac & ((1u << f->mant) - 1));
}

static double float_unpack(const FloatFormat *f, unsigned bits) {
  unsigned top = 1u << (f->bits - 1), mag = bits & (top - 1);
  if (f->specials == FS_E8M0) return bits == 255 ? (double)NAN : scalbn(1, (int)bits - 127);
  unsigned e = mag >> f->mant, frac = mag & ((1u << f->mant) - 1), emax = (top - 1) >> f->mant;
  if (f->specials == FS_FNUZ && bits == top) return (double)NAN;
  if (f->specials == FS_FN && mag == top - 1) return (double)NAN;
  double v = e ? scalbn(frac + (1u << f->mant), (int)e - 1 + f->emin - f->mant)
               : scalbn(frac, f->emin - f->mant);
  if (f->specials == FS_IEEE && e == emax) v = frac ? (double)NAN : (double)INFINITY;
  return bits & top ? -v : v;
}

#define LOAD_AS(type_, field_)                                                                     \
  {                                                                                                \
    type_ x;                                                                                       \
    memcpy(&x, at, sizeof x);                                                                      \
    return (Scalar){.field_ = x};                                                                  \
  }

/* The dtypes that C has not; of a storage dtype only its bits count. */
static Scalar load_small(DType dtype, const void *at) {
  const FloatFormat *f = float_format(dtype);
  uint16_t x = 0;
  memcpy(&x, at, dtype_info[dtype].bytes);
  if (!f) return (Scalar){.i = int_wrap(dtype, x)};
  return (Scalar){.f = float_unpack(f, x & ((1u << f->bits) - 1))};
}

Scalar scalar_load(DType dtype, const void *at) {
  switch (dtype) {
  case DT_BOOL: return (Scalar){.i = *(const uint8_t *)at != 0};
  case DT_I8: LOAD_AS(int8_t, i)
  case DT_I16: LOAD_AS(int16_t, i)
  case DT_I32: LOAD_AS(int32_t, i)
  case DT_U8: LOAD_AS(uint8_t, i)
  case DT_U16: LOAD_AS(uint16_t, i)
  case DT_U32: LOAD_AS(uint32_t, i)
  case DT_F32: LOAD_AS(float, f)
  case DT_F64: LOAD_AS(double, f)
  case DT_VOID: return (Scalar){0};
  case DT_I64:
  case DT_U64:
  case DT_INDEX: LOAD_AS(int64_t, i)
  default: return load_small(dtype, at);
  }
}

void scalar_store(DType dtype, Scalar v, void *at) {
  const FloatFormat *f = float_format(dtype);
  if (dtype == DT_F32) {
    float x = (float)v.f;
    memcpy(at, &x, sizeof x);
  } else if (f) {
    uint16_t x = (uint16_t)float_pack(f, round_small(f, v.f));
    memcpy(at, &x, dtype_info[dtype].bytes);
  } else {
    memcpy(at, &v, dtype_info[dtype].bytes);
  }
}

/* -- the vocabulary of the value columns ------------------------------------------------------- */

static int64_t I_ADD(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
static int64_t I_SUB(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }
static int64_t I_MUL(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }
static int64_t I_NEG(int64_t a) { return I_SUB(0, a); }
static int64_t I_ABS(int64_t a) { return a < 0 ? I_NEG(a) : a; }
static bool I_LT(int64_t a, int64_t b, bool u) { return u ? (uint64_t)a < (uint64_t)b : a < b; }

static int64_t I_DIV(int64_t a, int64_t b, bool u) {
  if (b == 0) return 0;
  if (u) return (int64_t)((uint64_t)a / (uint64_t)b);
  return b == -1 ? I_NEG(a) : a / b;
}

static int64_t I_REM(int64_t a, int64_t b, bool u) {
  if (b == 0) return 0;
  if (u) return (int64_t)((uint64_t)a % (uint64_t)b);
  return b == -1 ? 0 : a % b;
}

static int64_t I_FLOORDIV(int64_t a, int64_t b, bool u) {
  int64_t r = I_REM(a, b, u);
  return I_DIV(a, b, u) - (!u && r != 0 && (r < 0) != (b < 0));
}

static int64_t I_FLOORMOD(int64_t a, int64_t b, bool u) {
  int64_t r = I_REM(a, b, u);
  return !u && r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static int64_t I_SHL(int64_t a, int64_t b, unsigned bits) {
  return b < 0 || b >= (int64_t)bits ? 0 : (int64_t)((uint64_t)a << b);
}

static int64_t I_SHR(int64_t a, int64_t b, bool u, unsigned bits) {
  if (b < 0 || b >= (int64_t)bits) return !u && a < 0 ? -1 : 0;
  return u ? (int64_t)((uint64_t)a >> b) : a >> b;
}

/* Zeros are ordered: -0 < +0. */
static double F_MAX(double x, double y) {
  if (isnan(x) || isnan(y)) return (double)NAN;
  return x < y || (x == y && signbit(x)) ? y : x;
}

static double F_MIN(double x, double y) {
  if (isnan(x) || isnan(y)) return (double)NAN;
  return y < x || (x == y && signbit(y)) ? y : x;
}

static double F_MAXNUM(double x, double y) { return isnan(x) ? y : isnan(y) ? x : F_MAX(x, y); }
static double F_MINNUM(double x, double y) { return isnan(x) ? y : isnan(y) ? x : F_MIN(x, y); }

static double F_SCALE(double x, double y) {
  enum { FAR = 5000 }; /* takes any double beyond its range */
  if (isnan(y)) return y;
  if (isinf(y)) return y > 0 ? x * y : isinf(x) ? (double)NAN : x * 0;
  return ldexp(x, (int)fmax(-FAR, fmin(FAR, floor(y))));
}

/* What an instruction of f32 gives that knows no subnormal numbers. */
static double flushed(double x) { return fabs(x) < (double)FLT_MIN ? copysign(0, x) : x; }
static double F_QEXP2(double x) { return flushed(exp2(flushed(x))); }
static double F_QRECIP(double x) { return flushed(1 / flushed(x)); }

/* -- evaluation -------------------------------------------------------------------------------- */

/* One loop per op. Sources that an op does not have repeat the first. */
static void eval_int(Op op, bool u, unsigned bits, const Scalar *const v[3], Scalar *out,
                     size_t n) {
  /* long: table */
  switch (op) {
#define OP(name_, n_, type_, arg_, stages_, flags_, iv_, fv_, doc_)                                \
  case OP_##name_:                                                                                 \
    for (size_t k = 0; k < n; k++) {                                                               \
      int64_t a = v[0][k].i, b = v[1][k].i, c = v[2][k].i;                                         \
      (void)a, (void)b, (void)c, (void)u, (void)bits;                                              \
      out[k].i = iv_;                                                                              \
    }                                                                                              \
    return;
#include "compiler/ir/ops.def"
#undef OP
  default: return;
  }
}

static void eval_float(Op op, const Scalar *const v[3], Scalar *out, size_t n) {
  /* long: table */
  switch (op) {
#define OP(name_, n_, type_, arg_, stages_, flags_, iv_, fv_, doc_)                                \
  case OP_##name_:                                                                                 \
    for (size_t k = 0; k < n; k++) {                                                               \
      double x = v[0][k].f, y = v[1][k].f, z = v[2][k].f;                                          \
      if (op == OP_WHERE) x = (double)v[0][k].i;                                                   \
      (void)x, (void)y, (void)z;                                                                   \
      out[k].f = fv_;                                                                              \
    }                                                                                              \
    return;
#include "compiler/ir/ops.def"
#undef OP
  default: return;
  }
}

static int64_t float_to_int(DType dtype, double x) {
  unsigned bits = dtype_info[dtype].bits;
  bool u = dtype_is_uint(dtype);
  if (isnan(x)) return 0;
  double above = ldexp(1.0, (int)(u ? bits : bits - 1)); /* the first value that is too large */
  if (u) {
    if (x <= 0) return 0;
    return x >= above ? int_wrap(dtype, -1) : (int64_t)(uint64_t)x;
  }
  if (x >= above) return (int64_t)(((uint64_t)1 << (bits - 1)) - 1);
  return x < -above ? int_wrap(dtype, (int64_t)((uint64_t)1 << (bits - 1))) : (int64_t)x;
}

/* To a float below f32 by way of a double that is rounded to odd: what lies below its 53 bits is
 * one sticky bit, so the second rounding gives what one would have given. */
static double int_to_float(DType dtype, DType from, int64_t v) {
  bool u = dtype_is_uint(from);
  if (dtype == DT_F32) return (double)(u ? (float)(uint64_t)v : (float)v);
  uint64_t mag = u || v >= 0 ? (uint64_t)v : -(uint64_t)v;
  if (dtype != DT_F64 && mag >> 53) mag = (mag & ~(uint64_t)0xfff) | (mag & 0xfff ? 0x800 : 0);
  return float_round(dtype, u || v >= 0 ? (double)mag : -(double)mag);
}

static Scalar eval_cast(DType dtype, DType from, Scalar v) {
  if (dtype_is_float(from)) {
    if (dtype_is_float(dtype)) return scalar_wrap(dtype, v);
    if (dtype == DT_BOOL) return (Scalar){.i = v.f != 0};
    return (Scalar){.i = float_to_int(dtype, v.f)};
  }
  if (dtype_is_float(dtype)) return (Scalar){.f = int_to_float(dtype, from, v.i)};
  return (Scalar){.i = int_wrap(dtype, v.i)};
}

static Scalar eval_bitcast(DType dtype, DType from, Scalar v) {
  char bytes[8];
  scalar_store(from, v, bytes);
  return scalar_load(dtype, bytes);
}

static void wrap_all(DType dtype, bool from_float, Scalar *out, size_t n) {
  if (dtype == DT_F64 || (dtype_info[dtype].bits == 64 && !from_float)) return;
  if (from_float && !dtype_is_float(dtype)) { /* a comparison */
    for (size_t k = 0; k < n; k++) out[k].i = out[k].f != 0;
  } else if (dtype == DT_F32) {
    for (size_t k = 0; k < n; k++) out[k].f = (double)(float)out[k].f;
  } else {
    for (size_t k = 0; k < n; k++) out[k] = scalar_wrap(dtype, out[k]);
  }
}

void op_eval_many(Op op, DType dtype, DType src_dtype, const Scalar *const *src, Scalar *out,
                  size_t n) {
  int nsrc = op_info[op].nsrc;
  const Scalar *v[3] = {src[0], nsrc > 1 ? src[1] : src[0], nsrc > 2 ? src[2] : src[0]};
  bool is_float = dtype_is_float(src_dtype);
  if (op == OP_CAST) {
    for (size_t k = 0; k < n; k++) out[k] = eval_cast(dtype, src_dtype, v[0][k]);
  } else if (op == OP_BITCAST) {
    for (size_t k = 0; k < n; k++) out[k] = eval_bitcast(dtype, src_dtype, v[0][k]);
  } else if (op == OP_MULACC && dtype == DT_F32) { /* fma in double would round twice */
    for (size_t k = 0; k < n; k++) {
      out[k].f = (double)fmaf((float)v[0][k].f, (float)v[1][k].f, (float)v[2][k].f);
    }
  } else if (is_float) {
    eval_float(op, v, out, n);
    wrap_all(dtype, true, out, n);
  } else {
    eval_int(op, dtype_is_uint(src_dtype), dtype_info[src_dtype].bits, v, out, n);
    wrap_all(dtype, false, out, n);
  }
}

Scalar op_eval(Op op, DType dtype, DType src_dtype, const Scalar *v) {
  int n = op_info[op].nsrc;
  Scalar out;
  op_eval_many(op, dtype, src_dtype, (const Scalar *[]){v, n > 1 ? v + 1 : v, n > 2 ? v + 2 : v},
               &out, 1);
  return out;
}

Scalar reduce_identity(Op op, DType dtype) {
  assert(!dtype_is_storage(dtype));
  bool flt = dtype_is_float(dtype), u = dtype_is_uint(dtype) || dtype == DT_BOOL;
  uint64_t top = dtype_info[dtype].bits ? (uint64_t)1 << (dtype_info[dtype].bits - 1) : 0;
  switch (op) {
  case OP_MUL: return flt ? (Scalar){.f = 1} : (Scalar){.i = 1};
  case OP_MAX:
    if (flt) return (Scalar){.f = -(double)INFINITY};
    return (Scalar){.i = u ? 0 : int_wrap(dtype, (int64_t)top)};
  case OP_MIN:
    if (flt) return (Scalar){.f = (double)INFINITY};
    return (Scalar){.i = u ? int_wrap(dtype, -1) : (int64_t)(top - 1)};
  default: return flt ? (Scalar){.f = 0} : (Scalar){.i = 0};
  }
}
