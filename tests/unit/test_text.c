/* compiler/ir/text.c, serialize.c, print_kernel.c: round trips, refusals, canonical bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/map.h"
#include "compiler/ir/text.h"

static UOp *softmax(Job *job) {
  UOp *out = uop_param(job, 0, DT_F32, (int64_t[]){6}, 1);
  UOp *in = uop_param(job, 1, DT_F32, (int64_t[]){6}, 1);
  UOp *i = uop_range(job, 0, AX_LOOP, uop_index(job, 6));
  UOp *k = uop_range(job, 1, AX_REDUCE, uop_index(job, 6));
  UOp *x = uop2(job, OP_INDEX, in, k), *max = uop_reduce(job, OP_MAX, x, &k, 1);
  UOp *sum = uop_reduce(job, OP_ADD, uop1(job, OP_EXP, uop2(job, OP_SUB, x, max)), &k, 1);
  UOp *e = uop1(job, OP_EXP, uop2(job, OP_SUB, uop2(job, OP_INDEX, in, i), max));
  UOp *store = uop3(job, OP_STORE, out, i, uop2(job, OP_FDIV, e, sum));
  return uop1(job, OP_SINK, uop2(job, OP_END, store, i));
}

static void test_kernel_text(void **state) {
  (void)state;
  Job job;
  StrBuf text = {0};
  job_init(&job, 0);
  uop_print_kernel(&job, softmax(&job), &text);
  assert_string_equal(text.ptr, "f32 acc0 = -inf\n"
                                "f32 acc2 = 0.0\n"
                                "for i0 < 6  // LOOP\n"
                                "  for i1 < 6  // REDUCE\n"
                                "    f32 t1 = p1[i1]\n"
                                "    acc0 = max(acc0, t1)\n"
                                "  for i1 < 6  // REDUCE\n"
                                "    f32 t3 = p1[i1]\n"
                                "    acc2 += exp((t3 - acc0))\n"
                                "  p0[i0] = (exp((p1[i0] - acc0)) / acc2)\n");
  strbuf_deinit(&text);
  job_deinit(&job);
}

/* Text and bytes give the same node in the same job, and the same text and bytes in another. */
static void test_round_trip(void **state) {
  (void)state;
  Job a, b;
  StrBuf text = {0}, bytes = {0}, text2 = {0}, bytes2 = {0};
  UOp *u, *v;
  job_init(&a, 0);
  job_init(&b, 0);
  u = softmax(&a);
  uop_int(&b, DT_I32, 1); /* other ids */
  uop_print(&a, u, &text);
  uop_serialize(&a, u, &bytes);
  assert_null(uop_parse(&a, (Str){text.ptr, text.len}, &v));
  assert_ptr_equal(u, v);
  assert_null(uop_deserialize(&a, (Bytes){(uint8_t *)bytes.ptr, bytes.len}, &v));
  assert_ptr_equal(u, v);
  assert_null(uop_parse(&b, (Str){text.ptr, text.len}, &v));
  uop_print(&b, v, &text2);
  uop_serialize(&b, v, &bytes2);
  assert_string_equal(text.ptr, text2.ptr);
  assert_int_equal(bytes.len, bytes2.len);
  assert_memory_equal(bytes.ptr, bytes2.ptr, bytes.len);
  StrBuf *all[] = {&text, &bytes, &text2, &bytes2};
  for (int k = 0; k < 4; k++) strbuf_deinit(all[k]);
  job_deinit(&a);
  job_deinit(&b);
}

static void test_every_constant(void **state) {
  (void)state;
  static const double values[] = {0.0, -0.0, 1, -1, 0.1, 1e30, -1e-40, 65504, 3e38, 0.0 / 1};
  Job job;
  job_init(&job, 0);
  for (int d = DT_BOOL; d < DT__COUNT; d++) {
    for (size_t k = 0; k < 12; k++) {
      double x = k < 10 ? values[k] : k == 10 ? (double)__builtin_nanf("") : -__builtin_inf();
      UOp *u = uop_number(&job, (DType)d, x), *v;
      StrBuf text = {0}, bytes = {0};
      uop_print(&job, u, &text);
      uop_serialize(&job, u, &bytes);
      assert_null(uop_parse(&job, (Str){text.ptr, text.len}, &v));
      assert_ptr_equal(u, v);
      assert_null(uop_deserialize(&job, (Bytes){(uint8_t *)bytes.ptr, bytes.len}, &v));
      assert_ptr_equal(u, v);
      strbuf_deinit(&text);
      strbuf_deinit(&bytes);
    }
  }
  job_deinit(&job);
}

static void test_refusals(void **state) {
  (void)state;
  static const struct {
    const char *text, *why;
  } cases[] = {
      {"", "the text has no node"},
      {"# nothing\n\n", "the text has no node"},
      {"0 = CONST i32 [1]", "line 1: expected a name"},
      {"%0 CONST i32 [1]", "line 1: expected ="},
      {"\n%0 = CONTS i32 [1]", "line 2: unknown op"},
      {"%0 = CONST i33 [1]", "unknown dtype"},
      {"%0 = CONST f32x0 [1]", "unknown dtype"},
      {"%0 = CONST f32x99999 [1]", "unknown dtype"},
      {"%0 = CONST i32", "expected an argument"},
      {"%0 = CONST i32 [1", "expected ; or ]"},
      {"%0 = CONST i32 [1; 2]", "no list argument"},
      {"%0 = CONST i8 [128]", "does not fit"},
      {"%0 = CONST u64 [-1]", "does not fit"},
      {"%0 = CONST i64 [9223372036854775808]", "does not fit"},
      {"%0 = CONST i64 [99999999999999999999]", "expected an integer"},
      {"%0 = CONST f32 [one]", "expected a number"},
      {"%0 = CONST void [1]", "no dtype given"},
      {"%0 = CONST i32 [1]\n%0 = CONST i32 [2]", "line 2: the name is defined twice"},
      {"%0 = CONST i32 [1] x", "more text"},
      {"%0 = PARAM f32 [0]\n%1 = NEG f32 (%0, %2)", "line 2: a source is not defined above"},
      {"%0 = PARAM f32 [0]\n%1 = NEG f16 (%0)", "another dtype"},
      {"%0 = PARAM f32 [0]\n%1 = ADD f32 (%0)", "expected 2 sources, got 1"},
      {"%0 = PARAM f32 [0; 4]\n%1 = RESHAPE f32 [; 5] (%0)", "as many elements"},
      {"%999999999 = CONST i32 [1]", "bad number"},
      {"%0 = RANGE index [0; SIDEWAYS]", "expected an integer"},
  };
  Job job;
  job_init(&job, 0);
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    UOp *u;
    char text[256];
    Status st = uop_parse(&job, str_from(cases[k].text), &u);
    status_text(st, text, sizeof text);
    if (status_code(st) != ST_INVALID_ARGUMENT || !strstr(text, cases[k].why)) {
      fail_msg("'%s' gave '%s', expected '%s'", cases[k].text, st ? text : "success", cases[k].why);
    }
    status_drop(st);
  }
  job_deinit(&job);
}

static void decode(Job *job, void *arg) {
  UOp *u;
  status_drop(uop_deserialize(job, *(Bytes *)arg, &u));
}

/* Cut short anywhere it is an error; changed anywhere it is an error or another graph. */
static void test_hostile_bytes(void **state) {
  (void)state;
  Job job;
  StrBuf bytes = {0};
  uint64_t rng = 5;
  job_init(&job, 0);
  uop_serialize(&job, softmax(&job), &bytes);
  for (size_t n = 0; n < bytes.len; n++) {
    UOp *u;
    Status st = uop_deserialize(&job, (Bytes){(uint8_t *)bytes.ptr, n}, &u);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
  }
  uint8_t *copy = arena_alloc(&job.arena, bytes.len);
  for (int k = 0; k < 20000; k++) {
    memcpy(copy, bytes.ptr, bytes.len);
    rng = hash_u64(rng + 1);
    copy[rng % bytes.len] = (uint8_t)(rng >> 32);
    if (rng & 1 << 20) copy[(rng >> 24) % bytes.len] = (uint8_t)(rng >> 40);
    Bytes in = {copy, bytes.len};
    assert_null(job_run(&job, decode, &in));
  }
  strbuf_deinit(&bytes);
  job_deinit(&job);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_kernel_text),    cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_every_constant), cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_hostile_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
