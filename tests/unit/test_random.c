/* Threefry: the known answers of its authors' Random123 library, and the graph's arithmetic against
 * the host's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "compiler/frontend/random.h"
#include "compiler/ir/interp.h"
#include "proto/random.h"

static void test_known_answers(void **state) {
  (void)state;
  static const struct {
    uint32_t counter[2], key[2], out[2];
  } rows[] = {
      {{0, 0}, {0, 0}, {0x6b200159, 0x99ba4efe}},
      {{0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}, {0x1cb996fc, 0xbb002be7}},
      {{0x243f6a88, 0x85a308d3}, {0x13198a2e, 0x03707344}, {0xc4923a9c, 0x483df7a0}},
  };
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    uint32_t out[2];
    random_block(rows[k].key, rows[k].counter, out);
    assert_memory_equal(out, rows[k].out, sizeof out);
  }
  uint32_t key[2];
  random_run_key(0x0370734413198a2e, 0x85a308d3243f6a88, key);
  assert_memory_equal(key, rows[2].out, sizeof key);
}

/* -- the graph --------------------------------------------------------------------------------- */

static Job job;

/* The bytes of x, computed by the reference interpreter. */
static const void *evaluate(UOp *x) {
  size_t bytes = (size_t)shape_numel(x->shape) * dtype_info[x->dtype].bytes;
  InterpBuffer slot = {arena_alloc(&job.arena, bytes), bytes};
  UOp *out = uop_param(&job, 0, (DType)x->dtype, x->shape.at, x->shape.n);
  UOp *store = uop2(&job, OP_STORE, out, x);
  UOp *sink = uop_make(&job, OP_SINK, DT_VOID, arg_none(), &store, 1);
  assert_null(interp_tensor(&job, sink, &slot, 1));
  return slot.data;
}

static RandomKey key_of(uint32_t a, uint32_t b, uint32_t stream) {
  return (RandomKey){.w = {uop_int(&job, DT_U32, a), uop_int(&job, DT_U32, b)}, .stream = stream};
}

static void in_job(Job *j, void *arg) {
  (void)j;
  (*(void (**)(void))arg)();
}
static void run_in_job(void (*fn)(void)) {
  job_init(&job, (size_t)1 << 28);
  assert_null(job_run(&job, in_job, &fn));
  job_deinit(&job);
}

static void check_bits(void) {
  enum { N = 40 };
  const int64_t dims[] = {4, 10};
  const uint32_t key[2] = {0x13198a2e, 0x03707344}, stream = 77;
  RandomKey k = key_of(key[0], key[1], stream);
  const uint32_t *words = evaluate(random_bits(&job, k, shape_make(dims, 2), DT_U32));
  const uint64_t *wide = evaluate(random_bits(&job, k, shape_make(dims, 2), DT_U64));
  const float *u = evaluate(random_uniform(&job, k, shape_make(dims, 2), DT_F32));
  const double *d = evaluate(random_uniform(&job, k, shape_make(dims, 2), DT_F64));
  for (uint32_t i = 0; i < N; i++) {
    const uint32_t counter[2] = {i, stream};
    uint32_t out[2];
    random_block(key, counter, out);
    uint64_t both = (uint64_t)out[1] << 32 | out[0];
    assert_int_equal(words[i], out[0]);
    assert_true(wide[i] == both);
    assert_true((double)u[i] == (out[0] >> 8) * 0x1p-24);
    assert_true(d[i] == (double)(both >> 11) * 0x1p-53);
  }
  const uint32_t counter[2] = {5, stream};
  uint32_t folded[2];
  random_block(key, counter, folded);
  assert_memory_equal(evaluate(random_fold(&job, k, 5)), folded, sizeof folded);
}

static void test_bits(void **state) {
  (void)state;
  run_in_job(check_bits);
}

/* The radius and the angle by libm. */
static void check_normal(void) {
  enum { N = 1000 };
  const int64_t dims[] = {N};
  const uint32_t key[2] = {1, 2};
  const float *z = evaluate(random_normal(&job, key_of(1, 2, 0), shape_make(dims, 1), DT_F32));
  for (uint32_t i = 0; i < N; i++) {
    const uint32_t counter[2] = {i, 0};
    uint32_t out[2];
    random_block(key, counter, out);
    double r = sqrt(-2 * log((out[0] + 0.5) * 0x1p-32));
    double want = r * cos(2 * 3.14159265358979323846 * ((out[1] >> 8) * 0x1p-24));
    assert_true(fabs((double)z[i] - want) < 1e-5);
  }
}

static void test_normal(void **state) {
  (void)state;
  run_in_job(check_normal);
}

typedef struct BadKey {
  int64_t stream;
  DType dtype;
  int64_t n;
} BadKey;

static void make_key(Job *j, void *arg) {
  const BadKey *b = arg;
  (void)random_key_of(j, uop_param(j, 0, b->dtype, &b->n, 1), b->stream);
}

static void test_bad_keys(void **state) {
  (void)state;
  BadKey rows[] = {{0, DT_I32, 2}, {0, DT_U32, 3}, {-1, DT_U32, 2}, {RANDOM_STREAMS, DT_U32, 2}};
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    job_init(&job, (size_t)1 << 24);
    Status st = job_run(&job, make_key, &rows[k]);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_known_answers),
      cmocka_unit_test(test_bits),
      cmocka_unit_test(test_normal),
      cmocka_unit_test(test_bad_keys),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
