/* compiler/ir/eval.c: rounding, wrapping, memory formats, and the corners that ops.def promises. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/map.h"
#include "compiler/ir/uop.h"

static int64_t ival(Op op, DType d, int64_t a, int64_t b) {
  return op_eval(op, op_info[op].type == TR_BOOL ? DT_BOOL : d, d, (Scalar[]){{.i = a}, {.i = b}})
      .i;
}

static double fval(Op op, DType d, double x, double y) {
  return op_eval(op, d, d, (Scalar[]){{.f = x}, {.f = y}}).f;
}

static double cast_f(DType to, DType from, Scalar v) { return op_eval(OP_CAST, to, from, &v).f; }
static int64_t cast_i(DType to, DType from, Scalar v) { return op_eval(OP_CAST, to, from, &v).i; }

/* Every f16 and bf16 bit pattern survives load and store (NaNs become the quiet one). */
static void test_half_patterns(void **state) {
  (void)state;
  for (unsigned bits = 0; bits < 65536; bits++) {
    uint16_t in = (uint16_t)bits, out;
    for (int k = 0; k < 2; k++) {
      DType d = k ? DT_BF16 : DT_F16;
      Scalar v = scalar_load(d, &in);
      scalar_store(d, v, &out);
      if (isnan(v.f)) {
        assert_true(isnan(scalar_load(d, &out).f));
      } else {
        assert_int_equal(in, out);
        assert_true(scalar_wrap(d, v).f == v.f);
      }
    }
  }
}

/* bf16 is the upper half of an f32, which gives an independent answer. */
static void test_bf16_against_f32(void **state) {
  (void)state;
  uint64_t rng = 7;
  for (int k = 0; k < 200000; k++) {
    rng = hash_u64(rng + 1);
    uint32_t bits = (uint32_t)rng;
    float x;
    memcpy(&x, &bits, sizeof x);
    if (!isfinite(x)) continue;
    uint32_t low = bits & 0xffff, up = bits >> 16;
    if (low > 0x8000 || (low == 0x8000 && (up & 1))) up++;
    uint16_t out;
    scalar_store(DT_BF16, scalar_wrap(DT_BF16, (Scalar){.f = (double)x}), &out);
    assert_int_equal(out, up);
  }
}

static void test_f16_rounding(void **state) {
  (void)state;
  const struct {
    double in, out;
  } cases[] = {{1.0 + 0x1p-11, 1.0},            /* tie to even, down */
               {1.0 + 3 * 0x1p-11, 1 + 0x1p-9}, /* tie to even, up */
               {1.0 + 0x1.002p-11, 1 + 0x1p-10},
               {65519.99, 65504},
               {65520, (double)INFINITY},
               {-65520, -(double)INFINITY},
               {0x1p-24, 0x1p-24},
               {0x1p-25, 0}, /* half the smallest subnormal: tie to zero */
               {0x1.8p-25, 0x1p-24},
               {0x1.ffep-15, 0x1p-14}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    assert_true(scalar_wrap(DT_F16, (Scalar){.f = cases[k].in}).f == cases[k].out);
  }
  assert_true(signbit(scalar_wrap(DT_F16, (Scalar){.f = -0x1p-30}).f));
}

static void test_integer_corners(void **state) {
  (void)state;
  assert_int_equal(ival(OP_ADD, DT_I8, 127, 1), -128);
  assert_int_equal(ival(OP_ADD, DT_U8, 255, 1), 0);
  assert_int_equal(ival(OP_NEG, DT_I32, INT32_MIN, 0), INT32_MIN);
  assert_int_equal(ival(OP_ABS, DT_I32, INT32_MIN, 0), INT32_MIN);
  assert_int_equal(ival(OP_MUL, DT_I64, INT64_MAX, 2), -2);
  assert_int_equal(ival(OP_IDIV, DT_I32, -7, 2), -3);
  assert_int_equal(ival(OP_IDIV, DT_I64, INT64_MIN, -1), INT64_MIN);
  assert_int_equal(ival(OP_IDIV, DT_I32, 5, 0), 0);
  assert_int_equal(ival(OP_IDIV, DT_U64, -1, 2), INT64_MAX);
  assert_int_equal(ival(OP_IMOD, DT_I32, -7, 2), -1);
  assert_int_equal(ival(OP_FLOORDIV, DT_I32, -7, 2), -4);
  assert_int_equal(ival(OP_FLOORDIV, DT_I32, 7, -2), -4);
  assert_int_equal(ival(OP_FLOORMOD, DT_I32, -7, 2), 1);
  assert_int_equal(ival(OP_FLOORMOD, DT_I32, 7, -2), -1);
  assert_int_equal(ival(OP_FLOORMOD, DT_I32, 7, 0), 0);
  assert_int_equal(ival(OP_SHL, DT_U8, 1, 7), 128);
  assert_int_equal(ival(OP_SHL, DT_U8, 1, 8), 0);
  assert_int_equal(ival(OP_SHL, DT_I32, 1, -1), 0);
  assert_int_equal(ival(OP_SHR, DT_I32, -8, 1), -4);
  assert_int_equal(ival(OP_SHR, DT_I32, -8, 40), -1);
  assert_int_equal(ival(OP_SHR, DT_U32, 0x80000000, 31), 1);
  assert_int_equal(ival(OP_MAX, DT_U64, -1, 5), -1);
  assert_int_equal(ival(OP_MIN, DT_I64, -1, 5), -1);
  assert_int_equal(ival(OP_CMPLT, DT_U64, 5, -1), 1);
  assert_int_equal(ival(OP_CMPLT, DT_I64, 5, -1), 0);
}

static void test_float_corners(void **state) {
  (void)state;
  double nan = (double)NAN;
  assert_true(isnan(fval(OP_MAX, DT_F32, nan, 1)) && isnan(fval(OP_MAX, DT_F32, 1, nan)));
  assert_true(isnan(fval(OP_MIN, DT_F32, nan, 1)) && isnan(fval(OP_MIN, DT_F32, 1, nan)));
  assert_false(signbit(fval(OP_MAX, DT_F32, -0.0, 0.0)));
  assert_false(signbit(fval(OP_MAX, DT_F32, 0.0, -0.0)));
  assert_true(signbit(fval(OP_MIN, DT_F32, 0.0, -0.0)));
  assert_true(fval(OP_ROUND, DT_F32, 2.5, 0) == 2 && fval(OP_ROUND, DT_F32, -0.5, 0) == 0);
  assert_true(fval(OP_ADD, DT_F32, 16777216, 1) == 16777216);
  assert_true(fval(OP_ADD, DT_F16, 2048, 1) == 2048);
  assert_int_equal(op_eval(OP_CMPNE, DT_BOOL, DT_F32, (Scalar[]){{.f = nan}, {.f = nan}}).i, 1);
  assert_int_equal(op_eval(OP_CMPEQ, DT_BOOL, DT_F32, (Scalar[]){{.f = nan}, {.f = nan}}).i, 0);
  assert_true(op_eval(OP_WHERE, DT_F32, DT_F32, (Scalar[]){{.i = 1}, {.f = 2}, {.f = 3}}).f == 2);
  /* 1 + 2^-23 squared minus 1: the low bits survive a single rounding only */
  double e = 1 + 0x1p-23;
  assert_true(op_eval(OP_MULACC, DT_F32, DT_F32, (Scalar[]){{.f = e}, {.f = e}, {.f = -1}}).f ==
              (double)fmaf((float)e, (float)e, -1.0f));
}

static void test_casts(void **state) {
  (void)state;
  assert_int_equal(cast_i(DT_I8, DT_F32, (Scalar){.f = 200}), 127);
  assert_int_equal(cast_i(DT_I8, DT_F32, (Scalar){.f = -1e9}), -128);
  assert_int_equal(cast_i(DT_U8, DT_F32, (Scalar){.f = -3}), 0);
  assert_int_equal(cast_i(DT_U64, DT_F64, (Scalar){.f = 1e30}), -1);
  assert_int_equal(cast_i(DT_U64, DT_F64, (Scalar){.f = 0x1p63}), INT64_MIN);
  assert_int_equal(cast_i(DT_I64, DT_F64, (Scalar){.f = 1e30}), INT64_MAX);
  assert_int_equal(cast_i(DT_I64, DT_F64, (Scalar){.f = -1e30}), INT64_MIN);
  assert_int_equal(cast_i(DT_I32, DT_F32, (Scalar){.f = -2.9}), -2);
  assert_int_equal(cast_i(DT_I32, DT_F32, (Scalar){.f = (double)NAN}), 0);
  assert_int_equal(cast_i(DT_BOOL, DT_F32, (Scalar){.f = (double)NAN}), 1);
  assert_int_equal(cast_i(DT_BOOL, DT_I32, (Scalar){.i = 256}), 1);
  assert_int_equal(cast_i(DT_I8, DT_I32, (Scalar){.i = 384}), -128);
  assert_true(cast_f(DT_F32, DT_I64, (Scalar){.i = 16777217}) == 16777216);
  /* one rounding, where two (to double, then to float) would end elsewhere */
  assert_true(cast_f(DT_F32, DT_I64, (Scalar){.i = 0x4000004000000001}) ==
              (double)(float)INT64_C(0x4000004000000001));
  assert_true(cast_f(DT_F64, DT_U64, (Scalar){.i = -1}) == 0x1p64);
  assert_int_equal(op_eval(OP_BITCAST, DT_I32, DT_F32, &(Scalar){.f = 1}).i, 0x3f800000);
  assert_true(op_eval(OP_BITCAST, DT_F16, DT_U16, &(Scalar){.i = 0x3c00}).f == 1);
}

static void test_identities(void **state) {
  (void)state;
  static const Op ops[] = {OP_ADD, OP_MUL, OP_MAX, OP_MIN};
  for (int d = DT_I8; !dtype_is_storage((DType)d); d++) {
    for (size_t k = 0; k < 4; k++) {
      Scalar id = reduce_identity(ops[k], (DType)d);
      for (int x = -3; x <= 3; x++) {
        Scalar v = op_eval(OP_CAST, (DType)d, DT_I64, &(Scalar){.i = x});
        Scalar r = op_eval(ops[k], (DType)d, (DType)d, (Scalar[]){id, v});
        assert_memory_equal(&r, &v, sizeof r);
      }
    }
  }
}

/* The two ways to evaluate are one. */
static void test_many(void **state) {
  (void)state;
  enum { N = 37 };
  uint64_t rng = 3;
  for (int op = OP_CAST; op < OP__COUNT; op++) {
    for (int d = DT_BOOL; d < DT__COUNT; d++) {
      DType dtype = (DType)d, to = op_info[op].type == TR_BOOL ? DT_BOOL : dtype;
      if (dtype_is_storage(dtype) && op != OP_WHERE && op > OP_BITCAST) continue;
      if (dtype_is_float(dtype) ? op_info[op].flags & OPF_INT : op_info[op].flags & OPF_FLT)
        continue;
      Scalar src[3][N], out[N];
      const Scalar *at[3] = {src[0], src[1], src[2]};
      for (int k = 0; k < 3 * N; k++) {
        rng = hash_u64(rng + 1);
        bool first = op == OP_WHERE && k < N;
        Scalar v = {.i = (int64_t)(rng % 41) - 20};
        src[k / N][k % N] = op_eval(OP_CAST, first ? DT_BOOL : dtype, DT_I64, &v);
      }
      op_eval_many((Op)op, to, dtype, at, out, N);
      for (int k = 0; k < N; k++) {
        Scalar one = op_eval((Op)op, to, dtype, (Scalar[]){src[0][k], src[1][k], src[2][k]});
        Scalar again = scalar_wrap(to, one);
        if (dtype_is_float(to) && isnan(one.f)) {
          assert_true(isnan(out[k].f) && isnan(again.f));
        } else {
          assert_memory_equal(&one, &out[k], sizeof one);
          assert_memory_equal(&one, &again, sizeof one);
        }
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_half_patterns), cmocka_unit_test(test_bf16_against_f32),
      cmocka_unit_test(test_f16_rounding),  cmocka_unit_test(test_integer_corners),
      cmocka_unit_test(test_float_corners), cmocka_unit_test(test_casts),
      cmocka_unit_test(test_identities),    cmocka_unit_test(test_many),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
