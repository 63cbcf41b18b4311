/* Two results of one kernel, under different schedules.
 *
 * A schedule may reorder sums of floats and nothing else. So without such a sum the bits agree (a
 * NaN is a NaN, and the sign of a zero may depend on which zero a maximum met first). With one, a
 * result may be off by rounding: with n terms of random signs by about sqrt(n) units, relative to
 * what the terms were, for which the size of typical results stands. NaN and infinities are where
 * they were, except that what is next to the largest number may round to infinity. What is computed
 * from a sum and has no fractions (a rounded or compared value) may tip over, in a few places. */
#include <math.h>
#include <stdio.h>

#include "daemon/worker/timing.h"

enum { TIPPING = 256 }; /* one in so many */

static double epsilon(DType dtype) {
  switch (dtype) {
  case DT_F64: return 0x1p-52;
  case DT_F32: return 0x1p-23;
  case DT_F16: return 0x1p-10;
  case DT_BF16: return 0x1p-7;
  default: return dtype_is_float(dtype) ? 0.25 : 0;
  }
}

static double largest(DType dtype) {
  const FloatFormat *f = float_format(dtype);
  return f ? f->max : dtype == DT_F32 ? 0x1.fffffep127 : 0x1.fffffffffffffp1023;
}

/* What differences are relative to: the mean of what is finite, or the largest when a few values
 * are much larger than the rest and have been added to it. */
static double scale_of(const TimingCompare *c, const uint8_t *want, uint64_t n) {
  double sum = 0, most = 0;
  uint64_t finite = 0, size = dtype_info[c->dtype].bytes;
  for (uint64_t i = 0; i < n; i++) {
    double x = fabs(scalar_load(c->dtype, want + i * size).f);
    if (!isfinite(x)) continue;
    finite++;
    sum += x / (double)n;
    if (x > most) most = x;
  }
  return c->pattern == TP_RANDOM ? sum : most;
}

static bool floats_same(const TimingCompare *c, double tolerance, double scale, double a,
                        double b) {
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
  if (a == b) return true;
  if (isinf(a) || isinf(b)) {
    double finite = isinf(a) ? b : a, infinite = isinf(a) ? a : b;
    return !isinf(finite) && signbit(finite) == signbit(infinite) &&
           fabs(finite) >= largest(c->dtype) * (1 - tolerance);
  }
  double size = fabs(a) > scale ? fabs(a) : scale;
  return fabs(a - b) <= tolerance * size;
}

static bool same_float(const TimingCompare *c, const uint8_t *want, const uint8_t *got, uint64_t n,
                       uint64_t *where) {
  uint64_t size = dtype_info[c->dtype].bytes;
  bool exact = c->reduces == DT_VOID;
  double tolerance =
      exact ? 0 : 64 * epsilon(c->reduces) * sqrt((double)c->terms) + 4 * epsilon(c->dtype);
  double scale = exact ? 0 : scale_of(c, want, n);
  if (tolerance > 0.25) tolerance = 0.25;
  for (uint64_t i = 0; i < n; i++) {
    if (!memcmp(want + i * size, got + i * size, size)) continue;
    double a = scalar_load(c->dtype, want + i * size).f,
           b = scalar_load(c->dtype, got + i * size).f;
    if (!floats_same(c, tolerance, scale, a, b)) return *where = i, false;
  }
  return true;
}

static bool same_int(const TimingCompare *c, const uint8_t *want, const uint8_t *got, uint64_t n,
                     uint64_t *where) {
  uint64_t size = dtype_info[c->dtype].bytes;
  uint64_t tips = c->reduces == DT_VOID ? 0 : 1 + n / TIPPING;
  for (uint64_t i = 0; i < n; i++) {
    if (!memcmp(want + i * size, got + i * size, size)) continue;
    int64_t a = scalar_load(c->dtype, want + i * size).i,
            b = scalar_load(c->dtype, got + i * size).i;
    if (a == b) continue;
    uint64_t apart = a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
    if (apart > 1 || !tips--) return *where = i, false;
  }
  return true;
}

bool timing_same(const TimingCompare *c, const void *want, const void *got, uint64_t n, char *why,
                 size_t cap) {
  static const char *const patterns[] = {"random", "special", "flat"};
  bool floats = dtype_is_float(c->dtype);
  uint64_t at = 0;
  if (floats ? same_float(c, want, got, n, &at) : same_int(c, want, got, n, &at)) return true;
  size_t size = dtype_info[c->dtype].bytes;
  Scalar a = scalar_load(c->dtype, (const uint8_t *)want + at * size);
  Scalar b = scalar_load(c->dtype, (const uint8_t *)got + at * size);
  if (floats)
    snprintf(why, cap, "element %llu on %s data: expected %.9g, got %.9g", (unsigned long long)at,
             patterns[c->pattern], a.f, b.f);
  else
    snprintf(why, cap, "element %llu on %s data: expected %lld, got %lld", (unsigned long long)at,
             patterns[c->pattern], (long long)a.i, (long long)b.i);
  return false;
}
