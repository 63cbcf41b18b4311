/* Half precision is converted with frexp and ldexp: it happens for summaries, never in a hot loop.
 */
#include "client/cli/tensor.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static double half_to_double(uint16_t h) {
  int exponent = h >> 10 & 31;
  double m = h & 1023, v;
  if (exponent == 31)
    v = m != 0 ? NAN : INFINITY;
  else
    v = exponent ? ldexp(m + 1024, exponent - 25) : ldexp(m, -24);
  return h >> 15 ? -v : v;
}

static uint16_t half_from_double(double v) {
  uint16_t sign = signbit(v) ? 0x8000 : 0;
  if (isnan(v)) return (uint16_t)(sign | 0x7e00);
  if (v == 0) return sign;
  int exponent;
  (void)frexp(fabs(v), &exponent);
  if (exponent < -13) exponent = -13; /* subnormals share the smallest normal's step */
  double steps = rint(ldexp(fabs(v), 11 - exponent));
  if (!(fabs(v) < 65520)) return (uint16_t)(sign | 0x7c00);
  /* steps is in 1024..2048, and a carry into 2048 moves the exponent by itself */
  return (uint16_t)(sign + (uint16_t)steps + (uint16_t)((exponent + 13) << 10));
}

static double bfloat_to_double(uint16_t b) {
  uint32_t bits = (uint32_t)b << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return (double)f;
}

static uint16_t bfloat_from_double(double v) {
  float f = (float)v;
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  if (isnan(v)) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* -- dtypes below 8 bits and 8-bit floats: an element in the low bits of a byte ------------------
 */

typedef struct SmallFormat {
  uint8_t bits, mant;
  int8_t bias;
  bool fnuz;        /* the pattern of -0 is NaN */
  uint8_t nan, inf; /* magnitudes from here on; 0: none */
} SmallFormat;

static const SmallFormat small_floats[] = {
    [KILN_F8E4M3FN] = {8, 3, 7, false, 0x7f, 0},   [KILN_F8E4M3FNUZ] = {8, 3, 8, true, 0, 0},
    [KILN_F8E5M2] = {8, 2, 15, false, 0x7d, 0x7c}, [KILN_F8E5M2FNUZ] = {8, 2, 16, true, 0, 0},
    [KILN_F4E2M1] = {4, 1, 1, false, 0, 0},
};

static double small_to_double(KilnDType dtype, uint8_t byte) {
  if (dtype == KILN_U4) return byte & 15;
  if (dtype == KILN_U2) return byte & 3;
  if (dtype == KILN_I4) return ((byte & 15) ^ 8) - 8;
  if (dtype == KILN_I2) return ((byte & 3) ^ 2) - 2;
  if (dtype == KILN_F8E8M0) return byte == 255 ? NAN : ldexp(1, byte - 127);
  const SmallFormat *f = &small_floats[dtype];
  int top = 1 << (f->bits - 1), mag = byte & (top - 1), e = mag >> f->mant;
  int frac = mag & ((1 << f->mant) - 1);
  if ((f->fnuz && byte == top) || (f->nan && mag >= f->nan)) return NAN;
  double v =
      e ? ldexp(frac + (1 << f->mant), e - f->bias - f->mant) : ldexp(frac, 1 - f->bias - f->mant);
  if (f->inf && mag == f->inf) v = INFINITY;
  return byte & top ? -v : v;
}

/* The nearest element, the smaller code of two. */
static uint8_t small_from_double(KilnDType dtype, double v) {
  int best = 0, nan = 0;
  for (int code = 0; code < 256; code++) {
    double x = small_to_double(dtype, (uint8_t)code);
    if (x == v) return (uint8_t)code;
    if (isnan(x)) nan = code;
    if (fabs(x - v) < fabs(small_to_double(dtype, (uint8_t)best) - v)) best = code;
  }
  return (uint8_t)(isnan(v) ? nan : best);
}

static bool is_small(KilnDType d) { return d >= KILN_F8E4M3FN && d <= KILN_U2; }

#define ELEMENTS(X)                                                                                \
  X(KILN_BOOL, uint8_t)                                                                            \
  X(KILN_I8, int8_t)                                                                               \
  X(KILN_I16, int16_t)                                                                             \
  X(KILN_I32, int32_t)                                                                             \
  X(KILN_I64, int64_t)                                                                             \
  X(KILN_U8, uint8_t)                                                                              \
  X(KILN_U16, uint16_t)                                                                            \
  X(KILN_U32, uint32_t)                                                                            \
  X(KILN_U64, uint64_t)                                                                            \
  X(KILN_F32, float)                                                                               \
  X(KILN_F64, double)

double tensor_get(KilnDType dtype, const void *data, size_t i) {
  switch (dtype) {
#define GET(dtype_, type_)                                                                         \
  case dtype_: return (double)((const type_ *)data)[i];
    ELEMENTS(GET)
#undef GET
  case KILN_F16: return half_to_double(((const uint16_t *)data)[i]);
  case KILN_BF16: return bfloat_to_double(((const uint16_t *)data)[i]);
  default: return is_small(dtype) ? small_to_double(dtype, ((const uint8_t *)data)[i]) : 0;
  }
}

void tensor_set(KilnDType dtype, void *data, size_t i, double v) {
  switch (dtype) {
#define SET(dtype_, type_)                                                                         \
  case dtype_: ((type_ *)data)[i] = (type_)v; break;
    ELEMENTS(SET)
#undef SET
  case KILN_F16: ((uint16_t *)data)[i] = half_from_double(v); break;
  case KILN_BF16: ((uint16_t *)data)[i] = bfloat_from_double(v); break;
  default:
    if (is_small(dtype)) ((uint8_t *)data)[i] = small_from_double(dtype, v);
  }
}

TensorStats tensor_stats(const KilnTensor *t) {
  size_t size = kiln_dtype_size(t->dtype);
  TensorStats s = {.count = size ? t->bytes / size : 0};
  double sum = 0;
  size_t finite = 0;
  for (size_t i = 0; i < s.count; i++) {
    double v = tensor_get(t->dtype, t->data, i);
    s.nans += isnan(v) != 0;
    s.infs += isinf(v) != 0;
    if (!isfinite(v)) continue;
    if (!finite || v < s.min) s.min = v;
    if (!finite || v > s.max) s.max = v;
    sum += v;
    finite++;
  }
  s.mean = finite ? sum / (double)finite : 0;
  return s;
}

/* SplitMix64 (Steele, Lea and Flood). */
static uint64_t next(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void tensor_fill_random(KilnDType dtype, void *data, size_t count, uint64_t seed) {
  for (size_t i = 0; i < count; i++) {
    uint64_t r = next(&seed) >> 11;
    if (is_small(dtype)) {
      uint8_t code = (uint8_t)r; /* any number up to 1; integers of every value */
      bool wide = dtype < KILN_I4 && !(fabs(small_to_double(dtype, code)) <= 1);
      ((uint8_t *)data)[i] = wide ? 0
                                  : (uint8_t)(code & (dtype >= KILN_I2       ? 3
                                                      : dtype >= KILN_F4E2M1 ? 15
                                                                             : 255));
      continue;
    }
    double v = (double)(r % 10);
    if (dtype == KILN_BOOL) v = (double)(r & 1);
    if (dtype == KILN_F16 || dtype == KILN_BF16 || dtype == KILN_F32 || dtype == KILN_F64)
      v = ldexp((double)r, -52) - 1;
    tensor_set(dtype, data, i, v);
  }
}
