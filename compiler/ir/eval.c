/* What ops mean: scalar semantics, expanded from the value columns of ops.def.
 *
 * Integers of every dtype are held in an int64, wrapped: sign- or zero-extended from their width
 * (u64 as its bit pattern). Floats are held in a double that is exactly representable in their
 * dtype. f32, f16 and bf16 are computed in double and rounded once more: for + - * / sqrt that
 * equals one rounding, since 53 >= 2 * 24 + 2 (Figueroa). All functions are total. */
#include <math.h>

#include "compiler/ir/uop.h"

/* -- rounding ---------------------------------------------------------------------------------- */

/* Nearest value with `mant` fraction bits and minimum exponent emin, ties to even. */
static double round_float(double x, int mant, int emin, double max) {
  if (x == 0 || !isfinite(x)) return x;
  int e = ilogb(x);
  int shift = mant - (e < emin ? emin : e);
  double r = scalbn(nearbyint(scalbn(x, shift)), -shift);
  return fabs(r) > max ? copysign(INFINITY, x) : r;
}

enum { F16_MANT = 10, F16_EMIN = -14, BF16_MANT = 7, BF16_EMIN = -126 };

static double float_round(DType dtype, double x) {
  if (isnan(x)) return (double)NAN;
  switch (dtype) {
  case DT_F32: return (double)(float)x;
  case DT_F16: return round_float(x, F16_MANT, F16_EMIN, 65504.0);
  case DT_BF16: return round_float(x, BF16_MANT, BF16_EMIN, 0x1.fep127);
  default: return x;
  }
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
static uint16_t float_pack(double x, int mant, int emin) {
  int ebits = 15 - mant;
  unsigned sign = signbit(x) ? 0x8000u : 0, emask = ((1u << ebits) - 1) << mant;
  if (isnan(x)) return (uint16_t)(emask | (1u << (mant - 1)));
  if (isinf(x)) return (uint16_t)(sign | emask);
  if (x == 0) return (uint16_t)sign;
  int e = ilogb(x);
  unsigned frac = (unsigned)scalbn(fabs(x), mant - (e < emin ? emin : e));
  unsigned biased = e < emin ? 0 : (unsigned)(e - emin + 1);
  return (uint16_t)(sign | (biased << mant) | (frac & ((1u << mant) - 1)));
}

static double float_unpack(uint16_t bits, int mant, int emin) {
  unsigned emax = (1u << (15 - mant)) - 1;
  unsigned e = ((unsigned)bits >> mant) & emax, frac = bits & ((1u << mant) - 1);
  double v;
  if (e == emax) {
    v = frac ? (double)NAN : (double)INFINITY;
  } else if (e == 0) {
    v = scalbn(frac, emin - mant);
  } else {
    v = scalbn(frac + (1u << mant), (int)e - 1 + emin - mant);
  }
  return bits & 0x8000 ? -v : v;
}

#define LOAD_AS(type_, field_)                                                                     \
  {                                                                                                \
    type_ x;                                                                                       \
    memcpy(&x, at, sizeof x);                                                                      \
    return (Scalar){.field_ = x};                                                                  \
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
  case DT_F16:
  case DT_BF16: {
    uint16_t x;
    memcpy(&x, at, sizeof x);
    bool half = dtype == DT_F16;
    return (Scalar){.f = float_unpack(x, half ? F16_MANT : BF16_MANT, half ? F16_EMIN : BF16_EMIN)};
  }
  case DT_VOID: return (Scalar){0};
  default: LOAD_AS(int64_t, i)
  }
}

void scalar_store(DType dtype, Scalar v, void *at) {
  switch (dtype) {
  case DT_F32: {
    float x = (float)v.f;
    memcpy(at, &x, sizeof x);
    return;
  }
  case DT_F16:
  case DT_BF16: {
    bool half = dtype == DT_F16;
    uint16_t x = float_pack(float_round(dtype, v.f), half ? F16_MANT : BF16_MANT,
                            half ? F16_EMIN : BF16_EMIN);
    memcpy(at, &x, sizeof x);
    return;
  }
  default: memcpy(at, &v, dtype_info[dtype].bytes);
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

static double int_to_float(DType dtype, DType from, int64_t v) {
  bool u = dtype_is_uint(from);
  if (dtype == DT_F32) return (double)(u ? (float)(uint64_t)v : (float)v);
  return float_round(dtype, u ? (double)(uint64_t)v : (double)v);
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
