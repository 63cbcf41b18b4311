/* Input data for kernels that are compared or timed.
 *
 * Specials are few, so that a long sum does not always meet one: most results stay numbers, and
 * where a NaN went shows. Large values are so small that products of two are still far from the
 * largest number: sums of what is near it overflow in one order and not in another. And a product
 * beyond it adds nothing to an infinity of the other sign where it is rounded with the sum, but is
 * an infinity, and makes a NaN, where it stands in another part of the sum. The flat value is a
 * power of two: its sums are exact in every order, as long as the result is below 2 to the number
 * of bits. */
#include "daemon/worker/timing.h"

#include <math.h>

#include "base/map.h"

static uint64_t next(uint64_t *state) {
  uint64_t x = *state; /* xorshift64* (Marsaglia; Vigna) */
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  *state = x;
  return x * 0x2545f4914f6cdd1dull;
}

static double special_float(DType dtype, uint64_t r) {
  double large = dtype == DT_F64 ? 1e150 : dtype == DT_F16 ? 100 : 1e18;
  double small = dtype == DT_F64 ? 1e-310 : dtype == DT_F16 ? 1e-7 : 1e-40;
  switch (r % 9) {
  case 0: return (double)NAN;
  case 1: return (double)INFINITY;
  case 2: return -(double)INFINITY;
  case 3: return large;
  case 4: return -large;
  case 5: return small;
  case 6: return -0.0;
  case 7: return 0;
  default: return -small;
  }
}

/* scalar_store keeps the low bits, which is the wrap that is meant. */
static int64_t special_int(DType dtype, uint64_t r) {
  int bits = dtype_info[dtype].bits;
  uint64_t top = (uint64_t)1 << (bits - 1);
  switch (r % 6) {
  case 0: return (int64_t)top;       /* the least, or a large unsigned one */
  case 1: return (int64_t)(top - 1); /* the greatest, or a large unsigned one */
  case 2: return -1;                 /* or the greatest unsigned one */
  case 3: return 1;
  case 4: return (int64_t)(top / 2);
  default: return 0;
  }
}

static Scalar random_value(DType dtype, uint64_t r) {
  int bits = dtype_info[dtype].bits;
  if (dtype_is_bool(dtype)) return (Scalar){.i = (int64_t)(r >> 63)};
  if (dtype_is_float(dtype)) return (Scalar){.f = (double)(int64_t)(r >> 11) / 0x1p52 - 1};
  return (Scalar){.i = (int64_t)((r >> 40) % (bits >= 8 ? 64 : 2))};
}

static Scalar flat_value(DType dtype, bool zero) {
  if (dtype_is_float(dtype)) return (Scalar){.f = zero ? 0 : 0.5};
  return (Scalar){.i = !zero};
}

static Scalar value(DType dtype, TimingPattern pattern, uint64_t *state) {
  uint64_t r = next(state);
  bool special = pattern == TP_SPECIALS && r % (dtype_is_float(dtype) ? 1021 : 61) == 0;
  if (!special || dtype_is_bool(dtype)) return random_value(dtype, r);
  if (dtype_is_float(dtype)) return (Scalar){.f = special_float(dtype, r >> 32)};
  return (Scalar){.i = special_int(dtype, r >> 32)};
}

/* Each storage dtype has one element per byte, in the low bits. */
static void store(DType dtype, Scalar v, uint8_t *at) {
  scalar_store(dtype, v, at);
  if (dtype_info[dtype].bits < 8 && !dtype_is_bool(dtype))
    *at &= (uint8_t)((1u << dtype_info[dtype].bits) - 1);
}

enum { PERIOD = 64 * 1021 + 7 }; /* elements; no multiple of a size that is usual */

/* The first `own` elements again and again: making numbers takes longer than the kernels that read
 * them. */
static void repeat(uint8_t *to, uint64_t own, uint64_t n, uint64_t size) {
  for (uint64_t i = own; i < n;) {
    uint64_t part = n - i < i ? n - i : i;
    memcpy(to + i * size, to, part * size);
    i += part;
  }
}

void timing_fill(DType dtype, TimingPattern pattern, uint64_t seed, void *to, uint64_t n) {
  uint64_t state = hash_u64(seed * 2 + 1) | 1, size = dtype_info[dtype].bytes, half = n - n / 2;
  if (pattern == TP_FLAT) {
    if (!n) return;
    store(dtype, flat_value(dtype, false), to);
    repeat(to, 1, half, size);
    if (half == n) return;
    store(dtype, flat_value(dtype, true), (uint8_t *)to + half * size);
    repeat((uint8_t *)to + half * size, 1, n - half, size);
    return;
  }
  uint64_t own = n < PERIOD ? n : PERIOD;
  for (uint64_t i = 0; i < own; i++)
    store(dtype, value(dtype, pattern, &state), (uint8_t *)to + i * size);
  repeat(to, own, n, size);
}
