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
#include <stdlib.h>

#include "daemon/worker/timing.h"

enum {
  TIPPING = 256, /* one in so many */
  BLOCK = 256,   /* bytes that are compared at once */
  SAMPLE = 65536
};

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

/* Numbers of 16 bits and less are decoded by a table: results have millions of them, and every
 * candidate's are compared. */
typedef struct Reader {
  DType dtype;
  uint64_t size;
  const float *table; /* NULL: none */
} Reader;

static const float *table_of(DType dtype) {
  static float *tables[DT__COUNT];
  uint32_t n = 1u << 8 * dtype_info[dtype].bytes;
  if (tables[dtype]) return tables[dtype];
  float *t = tables[dtype] = malloc(n * sizeof *t);
  for (uint32_t i = 0; t && i < n; i++) {
    uint8_t bytes[2] = {(uint8_t)i, (uint8_t)(i >> 8)};
    t[i] = (float)scalar_load(dtype, bytes).f;
  }
  return t;
}

static Reader reader_of(DType dtype) {
  Reader r = {.dtype = dtype, .size = dtype_info[dtype].bytes};
  if (r.size <= 2) r.table = table_of(dtype);
  return r;
}

static inline double read_at(const Reader *r, const uint8_t *from, uint64_t i) {
  from += i * r->size;
  if (r->table) return r->table[r->size == 1 ? *from : (uint32_t)from[0] | (uint32_t)from[1] << 8];
  float x;
  if (r->dtype != DT_F32) return scalar_load(r->dtype, from).f;
  memcpy(&x, from, sizeof x);
  return x;
}

/* What differences are relative to: the mean of what is finite, of some 65536 of many, or the
 * largest when a few values are much larger than the rest and have been added to it. */
static double scale_of(const TimingCompare *c, const Reader *r, const uint8_t *want, uint64_t n) {
  double sum = 0, most = 0;
  uint64_t step = c->pattern == TP_RANDOM ? n / SAMPLE | 1 : 1;
  double share = (double)step / (double)n;
  for (uint64_t i = 0; i < n; i += step) {
    double x = fabs(read_at(r, want, i));
    if (!isfinite(x)) continue;
    sum += x * share;
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

/* The first element from `i` on that differs; n: none does. */
static uint64_t skip_equal(const uint8_t *want, const uint8_t *got, uint64_t size, uint64_t i,
                           uint64_t n) {
  uint64_t step = BLOCK / size;
  while (i + step <= n && !memcmp(want + i * size, got + i * size, BLOCK)) i += step;
  if (size == 2)
    for (uint16_t a, b; i < n; i++) {
      memcpy(&a, want + i * 2, 2);
      memcpy(&b, got + i * 2, 2);
      if (a != b) break;
    }
  else
    while (i < n && !memcmp(want + i * size, got + i * size, size)) i++;
  return i;
}

static bool same_float(const TimingCompare *c, const uint8_t *want, const uint8_t *got, uint64_t n,
                       uint64_t *where) {
  Reader r = reader_of(c->dtype);
  bool exact = c->reduces == DT_VOID;
  double tolerance =
      exact ? 0 : 64 * epsilon(c->reduces) * sqrt((double)c->terms) + 4 * epsilon(c->dtype);
  double scale = exact ? 0 : scale_of(c, &r, want, n);
  if (tolerance > 0.25) tolerance = 0.25;
  for (uint64_t i = 0; (i = skip_equal(want, got, r.size, i, n)) < n; i++)
    if (!floats_same(c, tolerance, scale, read_at(&r, want, i), read_at(&r, got, i)))
      return *where = i, false;
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
