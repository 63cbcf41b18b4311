/* compiler/ir/dim and poly: canonical sizes, bounds, divisors, proofs, shapes of every movement op,
 * text and bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/map.h"
#include "compiler/ir/dim.h"
#include "compiler/ir/poly.h"
#include "compiler/ir/text.h"
#include "tests/unit/status_check.h"

typedef struct World {
  Job job;
  UOp *bn, *nn, *ln; /* b in [1, 64], n in [1, 512], l in [8, 4096], a multiple of 8 */
  int64_t b, n, l;
} World;

static int setup(void **state) {
  static World w;
  Job *job = &w.job;
  job_init(job, (size_t)1 << 30);
  w.bn = uop_var(job, 0, 1, 64, 1), w.nn = uop_var(job, 1, 1, 512, 1);
  w.ln = uop_var(job, 2, 8, 4096, 8);
  w.b = dim_of(job, w.bn), w.n = dim_of(job, w.nn), w.l = dim_of(job, w.ln);
  *state = &w;
  return 0;
}

static int teardown(void **state) {
  job_deinit(&((World *)*state)->job);
  return 0;
}

static int64_t mul(World *w, int64_t a, int64_t b) { return dim_mul(&w->job, a, b); }
static int64_t add(World *w, int64_t a, int64_t b) { return dim_add(&w->job, a, b); }

static void test_canonical(void **state) {
  World *w = *state;
  Job *job = &w->job;
  assert_false(dim_is_static(w->n));
  assert_ptr_equal(dim_uop(job, w->n), w->nn);
  assert_true(add(w, w->n, w->b) == add(w, w->b, w->n));
  assert_true(mul(w, add(w, w->n, 1), add(w, w->n, -1)) == add(w, mul(w, w->n, w->n), -1));
  assert_int_equal(dim_sub(job, add(w, w->n, 7), w->n), 7);
  assert_int_equal(dim_sub(job, w->n, w->n), 0);
  int64_t all = mul(w, mul(w, w->b, 768), w->n), half;
  assert_true(dim_floordiv(job, all, 768) == mul(w, w->b, w->n));
  assert_true(dim_floordiv(job, all, mul(w, w->n, 12)) == mul(w, w->b, 64));
  assert_true(dim_divides(job, mul(w, add(w, w->n, 1), w->b), add(w, w->n, 1), &half));
  assert_true(half == w->b);
  assert_false(dim_divides(job, w->n, 2, &half));
  assert_true(dim_divides(job, w->l, 4, &half));
  assert_true(mul(w, half, 4) == w->l);
  assert_true(dim_ceildiv(job, w->n, 8) == dim_floordiv(job, add(w, w->n, 7), 8));
  assert_true(dim_floordiv(job, add(w, mul(w, w->n, 8), 7), 8) == w->n);
  /* rounding up to a multiple gives a multiple, written with remainders or not */
  UOp *eight = uop_index(job, 8), *mod = uop2(job, OP_FLOORMOD, w->nn, eight);
  UOp *rest = uop2(job, OP_FLOORMOD, uop2(job, OP_SUB, eight, mod), eight);
  int64_t padded = dim_of(job, uop2(job, OP_ADD, w->nn, rest));
  assert_true(dim_divides(job, padded, 8, &half));
}

static void test_facts(void **state) {
  World *w = *state;
  Job *job = &w->job;
  assert_int_equal(dim_low(w->l), 8);
  assert_int_equal(dim_high(mul(w, w->b, w->n)), 64 * 512);
  assert_int_equal(dim_divisor(job, mul(w, w->l, w->n)), 8);
  assert_int_equal(dim_divisor(job, add(w, mul(w, w->l, 3), 12)), 12);
  assert_int_equal(dim_divisor(job, add(w, w->n, 1)), 1);
  assert_true(dim_le(job, w->n, mul(w, w->b, w->n)));
  assert_false(dim_le(job, mul(w, w->b, w->n), w->n));
  assert_true(dim_le(job, 0, dim_sub(job, mul(w, w->n, w->n), w->n)));
  assert_true(dim_le(job, dim_floordiv(job, w->n, 3), w->n));
  assert_true(dim_le(job, mul(w, dim_floordiv(job, w->n, 3), 3), w->n));
  assert_false(dim_le(job, w->n, mul(w, dim_floordiv(job, w->n, 3), 3)));
  assert_true(dim_min(job, w->n, add(w, w->n, 1)) == w->n);
  assert_true(dim_max(job, w->n, 1) == w->n);
  int64_t least = dim_min(job, w->n, 77);
  assert_true(least == dim_min(job, 77, w->n));
  assert_true(dim_le(job, least, 77) && dim_le(job, least, w->n) && !dim_le(job, w->n, least));
  assert_true(dim_le(job, 0, dim_max(job, 0, dim_sub(job, w->n, 5))));
  assert_int_equal(dim_eval(dim_node(dim_add(job, mul(w, w->b, w->n), 3)), (int64_t[]){5, 7, 8}, 3),
                   38);
  assert_string_equal(dim_text(job, add(w, mul(w, w->n, 2), 1)), "n1*2 + 1");
}

/* -- proofs ------------------------------------------------------------------------------------ */

static void test_proofs(void **state) {
  World *w = *state;
  Job *job = &w->job;
  UOp *i = uop_range(job, 0, AX_LOOP, w->bn), *j = uop_range(job, 1, AX_LOOP, w->nn);
  UOp *k = uop_range(job, 2, AX_LOOP, uop_index(job, 64));
  UOp *row = uop2(job, OP_ADD, uop2(job, OP_MUL, i, w->nn), j);
  UOp *flat = uop2(job, OP_ADD, uop2(job, OP_MUL, row, uop_index(job, 64)), k);
  Poly size = poly_of(job, dim_uop(job, mul(w, mul(w, w->b, w->n), 64)));
  Poly last = poly_add(job, size, poly_const(job, 1), -1);
  assert_true(poly_proves(job, poly_add(job, last, poly_of(job, flat), -1)));
  Poly beyond = poly_add(job, poly_of(job, flat), poly_const(job, 1), 1);
  assert_false(poly_proves(job, poly_add(job, last, beyond, -1)));
  /* (x / n) * n + x % n is x: a quotient by a VAR is bounded by what it came from */
  UOp *q = uop2(job, OP_FLOORDIV, flat, w->nn), *back = uop2(job, OP_MUL, q, w->nn);
  assert_true(poly_proves(job, poly_add(job, poly_of(job, flat), poly_of(job, back), -1)));
  UOp *m = uop2(job, OP_FLOORMOD, flat, w->nn);
  Poly top = poly_add(job, poly_of(job, w->nn), poly_const(job, 1), -1);
  assert_true(poly_proves(job, poly_add(job, top, poly_of(job, m), -1)));
  /* n * n * (1536 - 3 * n), but not with 1 less */
  int64_t square = mul(w, w->n, w->n), cube = mul(w, square, w->n);
  assert_true(dim_le(job, mul(w, cube, 3), mul(w, square, 1536)));
  assert_false(dim_le(job, add(w, mul(w, cube, 3), 1), mul(w, square, 1536)));
  /* rows of 2 in l * l * l elements: the bounds of no single l, once the loop is gone */
  int64_t pairs = mul(w, w->l, w->l);
  UOp *first =
      uop2(job, OP_MUL, uop_range(job, 3, AX_LOOP, dim_uop(job, pairs)), uop_index(job, 2));
  Poly past = poly_of(job, dim_uop(job, add(w, mul(w, pairs, w->l), -1)));
  assert_true(poly_proves(job, poly_add(job, past, poly_of(job, first), -1)));
}

/* Whatever is proven holds at all values tried; random polynomials of VARs and quotients. */
static uint64_t next_random(uint64_t *seed) { return *seed = hash_u64(*seed + 1); }

static UOp *random_size(World *w, uint64_t *seed, int depth) {
  Job *job = &w->job;
  uint64_t r = next_random(seed);
  if (!depth || r % 8 == 0)
    return r % 3 ? r % 2 ? w->bn : w->nn : uop_index(job, (int)(r >> 9) % 7);
  UOp *a = random_size(w, seed, depth - 1), *b = random_size(w, seed, depth - 1);
  UOp *c = uop_index(job, 1 + (int64_t)(r >> 20 & 7));
  switch (r % 7) {
  case 0: return uop2(job, OP_MUL, a, b);
  case 1: return uop2(job, OP_SUB, a, b);
  case 2: return uop2(job, OP_FLOORDIV, a, c);
  case 3: return uop2(job, OP_MIN, a, b);
  case 4: return uop2(job, OP_MAX, a, b);
  case 5: return uop2(job, OP_FLOORMOD, a, c);
  default: return uop2(job, OP_ADD, a, b);
  }
}

static void test_random(void **state) {
  World *w = *state;
  Job *job = &w->job;
  uint64_t seed = 7;
  int proven = 0;
  for (int round = 0; round < 3000; round++) {
    UOp *u = random_size(w, &seed, 4);
    int64_t d = dim_of(job, u);
    UOp *v = dim_uop(job, d);
    assert_true(dim_of(job, v) == d);
    bool positive = dim_le(job, 0, d);
    proven += positive && !dim_is_static(d);
    int64_t g = dim_divisor(job, d);
    for (int k = 0; k < 20; k++) {
      uint64_t r = next_random(&seed);
      int64_t values[3] = {1 + (int64_t)(r % 64), 1 + (int64_t)(r >> 8) % 512, 8};
      if (r >> 40 & 1) values[0] = r >> 41 & 1 ? 1 : 64;
      int64_t x = dim_eval(u, values, 3);
      assert_int_equal(x, dim_eval(v, values, 3));
      assert_true(!positive || x >= 0);
      assert_true(x >= v->vmin && x <= v->vmax);
      assert_int_equal(x % g, 0);
    }
  }
  assert_true(proven > 500);
}

/* -- shapes ------------------------------------------------------------------------------------ */

#define DIMS(...) ((int64_t[]){__VA_ARGS__}), sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

static void expect_shape(const UOp *u, const int64_t *dims, size_t n) {
  assert_int_equal(u->shape.n, n);
  for (size_t k = 0; k < n; k++) assert_true(u->shape.at[k] == dims[k]);
}

static UOp *move(Job *job, Op op, UOp *x, const int64_t *v, size_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(v, n), &x, 1);
}

static const char *refused(Job *job, Op op, UOp *x, const int64_t *v, size_t n) {
  const char *why = uop_check(job, op, DT_VOID, 0, arg_ints(v, n), &x, 1);
  return why ? why : "";
}

static void test_shapes(void **state) {
  World *w = *state;
  Job *job = &w->job;
  int64_t b = w->b, n = w->n;
  UOp *x = uop_param(job, 0, DT_F32, DIMS(b, n, 768));
  assert_true(x->symbolic);
  expect_shape(move(job, OP_RESHAPE, x, DIMS(mul(w, b, n), 768)), DIMS(mul(w, n, b), 768));
  expect_shape(move(job, OP_RESHAPE, x, DIMS(b, n, 12, 64)), DIMS(b, n, 12, 64));
  assert_string_equal(refused(job, OP_RESHAPE, x, DIMS(b, 768)),
                      "[n0, 768] has not as many elements as [n0, n1, 768]");
  expect_shape(move(job, OP_PERMUTE, x, DIMS(1, 0, 2)), DIMS(n, b, 768));
  UOp *one = uop_param(job, 1, DT_F32, DIMS(1, 1, 768));
  expect_shape(move(job, OP_EXPAND, one, DIMS(b, n, 768)), DIMS(b, n, 768));
  assert_string_equal(refused(job, OP_EXPAND, x, DIMS(n, n, 768)),
                      "[n0, n1, 768] does not expand to [n1, n1, 768]");
  expect_shape(move(job, OP_SHRINK, x, DIMS(0, b, dim_sub(job, n, 1), n, 0, 768)), DIMS(b, 1, 768));
  assert_string_equal(refused(job, OP_SHRINK, x, DIMS(0, b, 0, 5, 0, 768)),
                      "[0, 5) is not inside axis 1 of size n1");
  UOp *pad[] = {x, uop_float(job, DT_F32, 0)};
  UOp *padded = uop_make(job, OP_PAD, DT_VOID, arg_ints(DIMS(0, 0, 2, n, 0, 0)), pad, 2);
  expect_shape(padded, DIMS(b, add(w, mul(w, n, 2), 2), 768));
  expect_shape(move(job, OP_FLIP, x, DIMS(1)), DIMS(b, n, 768));
  UOp *image = uop_param(job, 2, DT_F32, DIMS(b, 3, w->l));
  expect_shape(move(job, OP_WINDOW, image, DIMS(2, 3, 2, 1)),
               DIMS(b, 3, dim_floordiv(job, add(w, w->l, -1), 2), 3));
  assert_string_equal(refused(job, OP_WINDOW, image, DIMS(2, 9, 1, 1)),
                      "the window is larger than its axis");
  UOp *two[] = {x, padded};
  expect_shape(uop_make(job, OP_CAT, DT_VOID, arg_i(1), two, 2),
               DIMS(b, add(w, mul(w, n, 3), 2), 768));
  UOp *table[] = {uop_param(job, 3, DT_F32, DIMS(1000, 64)), uop_param(job, 4, DT_I64, DIMS(b, n))};
  expect_shape(uop_make(job, OP_GATHER, DT_VOID, arg_i(0), table, 2), DIMS(b, n, 64));
  int64_t axis = 1;
  UOp *sum = uop_make(job, OP_REDUCE, DT_VOID, arg_both(OP_ADD, &axis, 1), &x, 1);
  expect_shape(sum, DIMS(b, 1, 768));
  UOp *iota = uop_make(job, OP_IOTA, DT_I64, arg_both(0, (int64_t[]){n, 4}, 2), NULL, 0);
  assert_int_equal(iota->vmax, 511);
  assert_string_equal(refused(job, OP_RESHAPE, x, DIMS(dim_sub(job, n, 2), 768)),
                      "a size of [n1 + -2, 768] may be negative");
}

/* -- text and bytes ---------------------------------------------------------------------------- */

static UOp *sample(World *w) {
  Job *job = &w->job;
  UOp *x = uop_param(job, 0, DT_F32, DIMS(w->b, w->n, 768));
  UOp *y = move(job, OP_RESHAPE, x, DIMS(mul(w, w->b, w->n), 768));
  UOp *size = uop_cast(job, w->nn, DT_F32);
  return uop2(job, OP_MUL, y, size);
}

static void test_round_trip(void **state) {
  World *w = *state;
  Job *job = &w->job;
  UOp *root = sample(w), *back;
  StrBuf text = {0}, bytes = {0}, again = {0};
  uop_print(job, root, &text);
  assert_non_null(strstr(text.ptr, "PARAM f32 [0; %0, %1, 768]"));
  Status st = uop_parse(job, (Str){text.ptr, text.len}, &back);
  assert_null(st);
  assert_ptr_equal(back, root);
  uop_serialize(job, root, &bytes);
  st = uop_deserialize(job, (Bytes){(const uint8_t *)bytes.ptr, bytes.len}, &back);
  assert_null(st);
  assert_ptr_equal(back, root);
  /* in another job, whose addresses are others */
  static World other;
  void *place = &other;
  Job *job2 = &other.job;
  job_init(job2, (size_t)1 << 26);
  for (int k = 0; k < 100; k++) uop_index(job2, k);
  other.nn = uop_var(job2, 1, 1, 512, 1), other.bn = uop_var(job2, 0, 1, 64, 1);
  other.n = dim_of(job2, other.nn), other.b = dim_of(job2, other.bn);
  uop_serialize(job2, sample(&other), &again);
  assert_int_equal(again.len, bytes.len);
  assert_memory_equal(again.ptr, bytes.ptr, bytes.len);
  assert_int_equal(teardown(&place), 0);
  strbuf_deinit(&text), strbuf_deinit(&bytes), strbuf_deinit(&again);
}

static void expect_parse_error(Job *job, const char *text, const char *want) {
  UOp *u;
  check_refused(uop_parse(job, str_from(text), &u), ST_INVALID_ARGUMENT, want);
}

static void test_hostile(void **state) {
  Job *job = &((World *)*state)->job;
  expect_parse_error(job, "%0 = PARAM f32 [0; -9223372036854771712]", "out of range");
  expect_parse_error(job, "%0 = PARAM f32 [0; -3]", "not allowed");
  expect_parse_error(job, "%0 = CONST f32 [1]\n%1 = PARAM f32 [0; %0]", "no expression over VARs");
  expect_parse_error(job, "%0 = CONST index [-9223372036854771712]\n%1 = PARAM f32 [0; %0]",
                     "a size is out of range");
  expect_parse_error(job, "%1 = PARAM f32 [0; %0]", "not defined above");
  expect_parse_error(job, "%0 = VAR index [0; 5, 4, 1]", "bounds of the VAR");
  expect_parse_error(job, "%0 = VAR index [0; 1, 7, 8]", "multiple of its divisor");
  expect_parse_error(job, "%0 = VAR i64 [0; 1, 4, 1]", "not index");
  expect_parse_error(job,
                     "%0 = VAR index [0; 0, 4, 1]\n%1 = CONST index [1]\n"
                     "%2 = SUB index (%0, %1)\n%3 = IOTA f32 [0; %2]",
                     "may be negative");
}

static void test_substitute(void **state) {
  World *w = *state;
  Job *job = &w->job;
  UOp *to[] = {uop_index(job, 2), uop_index(job, 5)};
  UOp *fixed = dim_substitute(job, sample(w), to, 2);
  assert_false(fixed->symbolic);
  expect_shape(fixed, DIMS(10, 768));
  UOp *swap[] = {uop_var(job, 1, 1, 64, 1), uop_var(job, 0, 1, 512, 1)};
  UOp *renamed = dim_substitute(job, sample(w), swap, 2);
  assert_true(renamed->shape.at[0] == dim_of(job, uop2(job, OP_MUL, swap[0], swap[1])));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_canonical, setup, teardown),
      cmocka_unit_test_setup_teardown(test_facts, setup, teardown),
      cmocka_unit_test_setup_teardown(test_proofs, setup, teardown),
      cmocka_unit_test_setup_teardown(test_random, setup, teardown),
      cmocka_unit_test_setup_teardown(test_shapes, setup, teardown),
      cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
      cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
      cmocka_unit_test_setup_teardown(test_substitute, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
