/* Storage dtypes: their formats in eval.c against tables made by hand, and the casts of
 * rules/small.c, evaluated op by op, against eval.c, for every code and many numbers between them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/map.h"
#include "compiler/rules/small.h"

static const DType storage[] = {DT_F8E4M3FN, DT_F8E4M3FNUZ, DT_F8E5M2, DT_F8E5M2FNUZ, DT_F8E8M0,
                                DT_F4E2M1,   DT_I4,         DT_U4,     DT_I2,         DT_U2};
enum { NSTORAGE = sizeof storage / sizeof *storage };

static double decoded(DType d, unsigned code) {
  uint8_t byte = (uint8_t)code;
  Scalar v = scalar_load(d, &byte);
  return dtype_is_float(d) ? v.f : (double)v.i;
}

static unsigned encoded(DType d, double x) {
  uint8_t byte = 0;
  scalar_store(d, op_eval(OP_CAST, d, DT_F64, &(Scalar){.f = x}), &byte);
  return byte;
}

static void test_known_codes(void **state) {
  (void)state;
  static const struct {
    DType d;
    unsigned code;
    double value;
  } rows[] = {
      {DT_F8E4M3FN, 0x00, 0},
      {DT_F8E4M3FN, 0x01, 0x1p-9},
      {DT_F8E4M3FN, 0x08, 0x1p-6},
      {DT_F8E4M3FN, 0x38, 1},
      {DT_F8E4M3FN, 0x7e, 448},
      {DT_F8E4M3FN, 0xfe, -448},
      {DT_F8E4M3FNUZ, 0x01, 0x1p-10},
      {DT_F8E4M3FNUZ, 0x40, 1},
      {DT_F8E4M3FNUZ, 0x7f, 240},
      {DT_F8E5M2, 0x01, 0x1p-16},
      {DT_F8E5M2, 0x3c, 1},
      {DT_F8E5M2, 0x7b, 57344},
      {DT_F8E5M2, 0x7c, INFINITY},
      {DT_F8E5M2, 0xfc, -INFINITY},
      {DT_F8E5M2FNUZ, 0x01, 0x1p-17},
      {DT_F8E5M2FNUZ, 0x40, 1},
      {DT_F8E5M2FNUZ, 0x7f, 57344},
      {DT_F8E8M0, 0, 0x1p-127},
      {DT_F8E8M0, 127, 1},
      {DT_F8E8M0, 254, 0x1p127},
      {DT_F4E2M1, 1, 0.5},
      {DT_F4E2M1, 5, 3},
      {DT_F4E2M1, 7, 6},
      {DT_F4E2M1, 15, -6},
      {DT_I4, 8, -8},
      {DT_U4, 15, 15},
      {DT_I2, 2, -2},
      {DT_U2, 3, 3},
  };
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    assert_true(decoded(rows[k].d, rows[k].code) == rows[k].value);
    unsigned mask = (1u << dtype_info[rows[k].d].bits) - 1;
    assert_int_equal(encoded(rows[k].d, rows[k].value) & mask, rows[k].code);
  }
  assert_true(isnan(decoded(DT_F8E4M3FN, 0x7f)) && isnan(decoded(DT_F8E4M3FN, 0xff)));
  assert_true(isnan(decoded(DT_F8E4M3FNUZ, 0x80)) && isnan(decoded(DT_F8E8M0, 255)));
  /* The bits above an element do not count, and integers are stored sign-extended. */
  assert_true(decoded(DT_I4, 0x3f) == -1 && decoded(DT_F4E2M1, 0xf1) == 0.5);
  assert_int_equal(encoded(DT_I4, -1), 0xff);
}

static void test_out_of_range(void **state) {
  (void)state;
  static const struct {
    DType d;
    double in, out;
  } rows[] = {
      {DT_F8E4M3FN, 464, 448},
      {DT_F8E4M3FN, 464.001, NAN},
      {DT_F8E4M3FN, -INFINITY, NAN},
      {DT_F8E4M3FNUZ, 247.9, 240},
      {DT_F8E4M3FNUZ, 248, NAN},
      {DT_F8E5M2, 61439.9, 57344},
      {DT_F8E5M2, 61440, INFINITY},
      {DT_F8E5M2FNUZ, 61440, NAN},
      {DT_F4E2M1, 5, 4},
      {DT_F4E2M1, -INFINITY, -6},
      {DT_F4E2M1, NAN, 0},
      {DT_F8E8M0, -1, NAN},
      {DT_F8E8M0, 0, 0x1p-127},
      {DT_F8E8M0, 3, 4},
      {DT_F8E8M0, 0x1.8p127, NAN},
      {DT_I4, 100, 7},
      {DT_I4, -9, -8},
      {DT_U4, -1, 0},
      {DT_U2, 9, 3},
      {DT_I2, NAN, 0},
  };
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    Scalar v = op_eval(OP_CAST, rows[k].d, DT_F64, &(Scalar){.f = rows[k].in});
    double got = dtype_is_float(rows[k].d) ? v.f : (double)v.i;
    assert_true(got == rows[k].out || (isnan(got) && isnan(rows[k].out)));
  }
  assert_false(signbit(op_eval(OP_CAST, DT_F8E5M2FNUZ, DT_F64, &(Scalar){.f = -0.0}).f));
  assert_true(signbit(op_eval(OP_CAST, DT_F4E2M1, DT_F64, &(Scalar){.f = -0.0}).f));
}

/* Rounding is to the nearest code, and of two to the even one: by search over all codes. */
static void test_nearest(void **state) {
  (void)state;
  uint64_t rng = 3;
  for (int s = 0; s < NSTORAGE; s++) {
    DType d = storage[s];
    const FloatFormat *f = float_format(d);
    if (!f || d == DT_F8E8M0) continue;
    for (int k = 0; k < 4000; k++) {
      rng = hash_u64(rng + 1);
      double x = (double)(int64_t)rng / 0x1p63 * f->max;
      if (k % 2) x = scalbn(x, -(int)(rng % 24));
      double got = scalar_wrap(d, (Scalar){.f = x}).f, best = INFINITY;
      for (unsigned c = 0; c < 1u << f->bits; c++) {
        double v = decoded(d, c);
        if (isfinite(v) && fabs(v - x) < fabs(best - x)) best = v;
      }
      assert_true(fabs(got - x) == fabs(best - x));
    }
  }
}

/* -- the casts as arithmetic ------------------------------------------------------------------- */

typedef struct Check {
  DType from, to;
  const Scalar *in;
  size_t n;
} Check;

static bool same(DType d, Scalar a, Scalar b) {
  if (!dtype_is_float(d)) return a.i == b.i;
  return isnan(a.f) ? isnan(b.f) : a.f == b.f && !signbit(a.f) == !signbit(b.f);
}

static void check_cast(Job *job, void *arg) {
  const Check *c = arg;
  UOp *at[2] = {uop_param(job, 0, c->from, &(int64_t){1}, 1), uop_index(job, 0)};
  UOp *x = uop_make(job, OP_LOAD, DT_VOID, arg_i(1), at, 2);
  Rewrite rw = {.job = job};
  UOp *root = rewrite_graph(&rw, uop_cast(job, x, c->to), rules_decomp);
  UOpList list = uop_toposort(job, root);
  Scalar **v = arena_array(&job->arena, list.len, sizeof *v);
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    v[i] = arena_array(&job->arena, c->n, sizeof **v);
    if (u == x) memcpy(v[i], c->in, c->n * sizeof **v);
    for (size_t k = 0; k < c->n && u->op == OP_CONST; k++) v[i][k] = uop_const_value(u);
    if (!(op_info[u->op].flags & OPF_ALU)) continue;
    bool casts = u->op == OP_CAST;
    assert_false(casts &&
                 (dtype_is_storage((DType)u->dtype) || dtype_is_storage((DType)u->src[0]->dtype)));
    const Scalar *src[3];
    for (uint32_t s = 0; s < u->nsrc; s++) src[s] = v[u->src[s]->place];
    op_eval_many((Op)u->op, (DType)u->dtype, (DType)u->src[u->nsrc - 1]->dtype, src, v[i], c->n);
  }
  for (size_t k = 0; k < c->n; k++) {
    Scalar want = op_eval(OP_CAST, c->to, c->from, &c->in[k]), got = v[root->place][k];
    if (!same(c->to, want, got))
      fail_msg("%s to %s: %a (%lld) gives %a, expected %a", dtype_info[c->from].name,
               dtype_info[c->to].name, c->in[k].f, (long long)c->in[k].i, got.f, want.f);
  }
}

static void run_check(DType from, DType to, const Scalar *in, size_t n) {
  Job job;
  job_init(&job, (size_t)1 << 30);
  Check c = {from, to, in, n};
  assert_null(job_run(&job, check_cast, &c));
  job_deinit(&job);
}

static void test_casts_from_storage(void **state) {
  (void)state;
  Scalar in[256];
  for (int s = 0; s < NSTORAGE; s++) {
    for (unsigned k = 0; k < 256; k++) in[k] = scalar_load(storage[s], &(uint8_t){(uint8_t)k});
    for (int to = DT_BOOL; to < DT__COUNT; to++)
      if (to != DT_INDEX && (DType)to != storage[s]) run_check(storage[s], (DType)to, in, 256);
  }
}

/* The codes' values, the points halfway between, the next floats beside both, and random ones. */
static size_t interesting(DType d, DType from, Scalar *in, size_t cap) {
  size_t n = 0;
  uint64_t rng = 11;
  for (unsigned c = 0; c < 256; c++)
    for (unsigned e = c; e < c + 2; e++) {
      double x = (decoded(d, c) + decoded(d, e & 255)) / 2;
      double near[] = {x, nextafter(x, INFINITY), nextafter(x, -INFINITY),
                       (double)nextafterf((float)x, INFINITY),
                       (double)nextafterf((float)x, -INFINITY)};
      for (int k = 0; k < 5; k++) in[n++].f = near[k];
    }
  double more[] = {0.0,      -0.0,     NAN,       INFINITY,  -INFINITY,       1e30,
                   -1e30,    0x1p-149, -0x1p-149, 0x1p-126,  0x1.7ffffep-127, 0x1.8p-127,
                   0x1p-127, 464,      61440,     0x1.8p127, 0x1.7ffffep127};
  for (size_t k = 0; k < sizeof more / sizeof *more; k++) in[n++].f = more[k];
  while (n < cap) {
    rng = hash_u64(rng + 1);
    uint32_t bits = (uint32_t)rng;
    float x;
    memcpy(&x, &bits, sizeof x);
    in[n].f = n % 2 ? (double)x : scalbn((double)(int32_t)bits, -31 - (int)(rng >> 59));
    n++;
  }
  for (size_t k = 0; k < n; k++) in[k] = scalar_wrap(from, in[k]);
  return n;
}

static void test_casts_to_storage(void **state) {
  (void)state;
  enum { CAP = 20000 };
  static const DType floats[] = {DT_F32, DT_F64, DT_F16, DT_BF16};
  static const DType ints[] = {DT_BOOL, DT_I8,  DT_I16, DT_I32, DT_I64,
                               DT_U8,   DT_U16, DT_U32, DT_U64};
  Scalar *in = calloc(CAP, sizeof *in);
  assert_non_null(in);
  for (int s = 0; s < NSTORAGE; s++) {
    for (int f = 0; f < 4; f++) {
      size_t n = interesting(storage[s], floats[f], in, CAP);
      run_check(floats[f], storage[s], in, n);
    }
    for (int i = 0; i < 9; i++) {
      uint64_t rng = 5;
      for (size_t k = 0; k < CAP; k++) {
        rng = hash_u64(rng + 1);
        in[k].i = k < 1024 ? (int64_t)k - 512 : (int64_t)rng >> (rng & 63);
        in[k] = scalar_wrap(ints[i], in[k]);
      }
      run_check(ints[i], storage[s], in, CAP);
    }
  }
  free(in);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_known_codes),      cmocka_unit_test(test_out_of_range),
      cmocka_unit_test(test_nearest),          cmocka_unit_test(test_casts_from_storage),
      cmocka_unit_test(test_casts_to_storage),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
