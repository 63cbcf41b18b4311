/* Threefry 2x32-20 (Salmon, Moraes, Dror and Shaw, 2011) over the op table's integer ops, so that
 * every backend, the interpreter and a folded constant give the same bits.
 *
 * An element is the block of the run's key and of the counter (position, stream), a stream being a
 * use of the key. The run's key is an input that whoever runs the executable makes (RANDOM_INPUT),
 * so a run draws fresh numbers unless it is told not to.
 *
 * Normal numbers are Box and Muller's, one per block: all 32 bits of the first word go into the
 * radius, so the tail reaches 6.7 sigma. */
#include "compiler/frontend/random.h"

#include <math.h>

#include "compiler/ir/dim.h"
#include "proto/random.h"

/* The second word of a counter: the stream, from bit 20 on the upper part of the position, and what
 * it is for: the elements' numbers, another set of them, or keys of iterations. */
static const int64_t MOST = (int64_t)1 << 42;
static const uint32_t SECOND = 1u << 31, LOOPS = 1u << 30;

static UOp *word(Job *job, uint32_t v) { return uop_int(job, DT_U32, v); }

static UOp *rotate(Job *job, UOp *x, uint32_t by) {
  return build2(job, OP_OR, build2(job, OP_SHL, x, word(job, by)),
                build2(job, OP_SHR, x, word(job, 32 - by)));
}

/* One block: x is the counter on entry and the block on return. */
static void threefry(Job *job, RandomKey key, UOp *x[2]) {
  static const uint8_t rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  UOp *parity = build2(job, OP_XOR, build2(job, OP_XOR, key.w[0], key.w[1]), word(job, 0x1BD11BDA));
  UOp *k[3] = {key.w[0], key.w[1], parity};
  for (int i = 0; i < 2; i++) x[i] = build2(job, OP_ADD, x[i], k[i]);
  for (uint32_t round = 0; round < 20; round++) {
    x[0] = build2(job, OP_ADD, x[0], x[1]);
    x[1] = build2(job, OP_XOR, rotate(job, x[1], rotations[round % 8]), x[0]);
    if (round % 4 != 3) continue;
    uint32_t s = round / 4 + 1;
    x[0] = build2(job, OP_ADD, x[0], k[s % 3]);
    x[1] = build2(job, OP_ADD, build2(job, OP_ADD, x[1], k[(s + 1) % 3]), word(job, s));
  }
}

/* -- keys -------------------------------------------------------------------------------------- */

static UOp *element(Job *job, UOp *x, int64_t k) {
  return build_reshape(job, build_slice(job, x, 0, k, 1, 1), (Ints){0});
}

RandomKey random_fixed_key(Job *job, uint64_t seed) {
  return (RandomKey){.w = {word(job, (uint32_t)seed), word(job, (uint32_t)(seed >> 32))}};
}

UOp *random_run_tensor(Front *f) {
  const int64_t dims[] = {2};
  if (!f->random) f->random = front_implicit(f, STR(RANDOM_INPUT), DT_U32, shape_make(dims, 1));
  return val_uop(f, f->random);
}

/* In a loop every iteration has a key of its own. */
RandomKey random_next(Front *f) {
  RandomKey key = random_key_of(f->job, random_run_tensor(f), f->nrandom++);
  for (size_t i = 0; i < f->iterations.len; i++) {
    UOp *number = uop_cast(f->job, f->iterations.at[i], DT_I64);
    UOp *x[2] = {build_cast(f->job, number, DT_U32), word(f->job, LOOPS | (uint32_t)i)};
    threefry(f->job, key, x);
    key.w[0] = x[0];
    key.w[1] = x[1];
  }
  return key;
}

RandomKey random_key_of(Job *job, UOp *t, int64_t stream) {
  if (uop_dtype(t) != DT_U32 || t->shape.n != 1 || t->shape.at[0] != 2)
    job_abort(job, FAIL(INVALID_ARGUMENT, "key of dtype %s and shape %s, expected u32 [2]",
                        dtype_info[t->dtype].name, shape_text(job, t->shape)));
  if (stream < 0 || stream >= RANDOM_STREAMS)
    job_abort(job, FAIL(INVALID_ARGUMENT, "stream %lld, expected one below %d", (long long)stream,
                        (int)RANDOM_STREAMS));
  return (RandomKey){.w = {element(job, t, 0), element(job, t, 1)}, .stream = (uint32_t)stream};
}

UOp *random_fold(Job *job, RandomKey key, uint32_t n) {
  const int64_t one[] = {1};
  UOp *x[2] = {word(job, n), word(job, key.stream)};
  threefry(job, key, x);
  for (int i = 0; i < 2; i++) x[i] = build_reshape(job, x[i], shape_make(one, 1));
  return build_cat(job, x, 2, 0);
}

/* -- numbers ----------------------------------------------------------------------------------- */

/* Both words of the blocks, as tensors of that shape. */
static void words(Job *job, RandomKey key, Ints shape, uint32_t set, UOp *x[2]) {
  int64_t n = shape_check(job, shape, MOST, "random numbers");
  bool wide = dim_high(n) > UINT32_MAX;
  UOp *at = build_reshape(job, build_arange(job, wide ? DT_U64 : DT_U32, n), shape);
  x[0] = build_cast(job, at, DT_U32);
  x[1] = word(job, key.stream | set);
  if (wide) { /* position >> 32, times RANDOM_STREAMS */
    UOp *up = build2(job, OP_SHR, at, uop_int(job, DT_U64, 32));
    up = build2(job, OP_SHL, build_cast(job, up, DT_U32), word(job, 20));
    x[1] = build2(job, OP_OR, up, x[1]);
  }
  threefry(job, key, x);
}

static UOp *bits_of(Job *job, UOp *x[2], DType dtype) {
  if (dtype == DT_U32) return x[0];
  UOp *high = build2(job, OP_SHL, build_cast(job, x[1], DT_U64), uop_int(job, DT_U64, 32));
  return build2(job, OP_OR, high, build_cast(job, x[0], DT_U64));
}

UOp *random_bits(Job *job, RandomKey key, Ints shape, DType dtype) {
  UOp *x[2];
  if (dtype != DT_U32 && dtype != DT_U64)
    job_abort(job, FAIL(INVALID_ARGUMENT, "random bits of dtype %s, expected u32 or u64",
                        dtype_info[dtype].name));
  words(job, key, shape, 0, x);
  return bits_of(job, x, dtype);
}

static int digits_of(Job *job, DType d) {
  switch (d) {
  case DT_BF16: return 8;
  case DT_F16: return 11;
  case DT_F32: return 24;
  case DT_F64: return 53;
  default:
    job_abort(job,
              FAIL(INVALID_ARGUMENT, "random numbers of dtype %s, expected f16, bf16, f32 or f64",
                   dtype_info[d].name));
  }
}

/* The upper bits as a fraction: exact in d. */
static UOp *fraction(Job *job, UOp *bits, DType d) {
  int digits = digits_of(job, d), width = dtype_info[bits->dtype].bits;
  bits = build2(job, OP_SHR, bits, build_num(job, bits, width - digits));
  UOp *x = build_cast(job, bits, d == DT_F64 ? DT_F64 : DT_F32);
  return build_cast(job, build2(job, OP_MUL, x, build_num(job, x, ldexp(1, -digits))), d);
}

UOp *random_uniform(Job *job, RandomKey key, Ints shape, DType d) {
  digits_of(job, d);
  return fraction(job, random_bits(job, key, shape, d == DT_F64 ? DT_U64 : DT_U32), d);
}

UOp *random_normal(Job *job, RandomKey key, Ints shape, DType d) {
  const double turn = 6.283185307179586;
  digits_of(job, d);
  DType work = d == DT_F64 ? DT_F64 : DT_F32;
  UOp *x[2], *y[2];
  words(job, key, shape, 0, x);
  if (work == DT_F64) { /* 64 bits for either number */
    words(job, key, shape, SECOND, y);
    x[0] = bits_of(job, x, DT_U64);
    x[1] = bits_of(job, y, DT_U64);
  }
  int width = dtype_info[x[0]->dtype].bits;
  UOp *u = build_cast(job, x[0], work); /* (bits + 1/2) / 2^width, in (0, 1] */
  u = build2(job, OP_ADD, u, build_num(job, u, 0.5));
  u = build2(job, OP_MUL, u, build_num(job, u, ldexp(1, -width)));
  UOp *log = build1(job, OP_LOG, u);
  /* 0 - : a radius of -0 when u is 1 would make negative zeros of half the cosines */
  UOp *square =
      build2(job, OP_SUB, build_num(job, log, 0), build2(job, OP_MUL, log, build_num(job, log, 2)));
  UOp *angle = fraction(job, x[1], work);
  angle = build2(job, OP_MUL, angle, build_num(job, angle, turn));
  UOp *z = build2(job, OP_MUL, build1(job, OP_SQRT, square), build1(job, OP_COS, angle));
  return build_cast(job, z, d);
}
