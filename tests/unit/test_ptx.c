/* What is changed in PTX before NVIDIA's compiler gets it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/ptx.h"

static void expect(const char *ptx, const char *want) {
  StrBuf out = {0};
  ptx_add(&out, str_from(ptx));
  assert_string_equal(out.ptr ? out.ptr : "", want);
  strbuf_deinit(&out);
}

static void minima_are_choices(void **state) {
  (void)state;
  expect("\tmin.s32 \t%r12, %r12, %r9;\n",
         "\t{ .reg .pred q; setp.lt.s32 q, %r12, %r9; selp.b32 %r12, %r12, %r9, q; }\n");
  expect("  max.u16 %rs1, %rs2, 7;",
         "\t{ .reg .pred q; setp.gt.u16 q, %rs2, 7; selp.b16 %rs1, %rs2, 7, q; }");
  expect("\tmax.s32 \t%r1, %r2, -2147483648;\n\tret;\n",
         "\t{ .reg .pred q; setp.gt.s32 q, %r2, -2147483648; selp.b32 %r1, %r2, -2147483648, q; }\n"
         "\tret;\n");
}

static void the_rest_stays(void **state) {
  (void)state;
  static const char *const same[] = {
      "",
      "\n\n",
      "\tmin.s64 \t%rd1, %rd2, %rd3;\n",
      "\tmin.f32 \t%f1, %f2, %f3;\n",
      "\tmin.NaN.f32 \t%f1, %f2, %f3;\n",
      "\tmin.s16x2 \t%r1, %r2, %r3;\n",
      "// min.s32 of two\n",
      "\tred.global.min.s32 \t[%rd1], %r1;\n",
      "min.s32",
  };
  for (size_t i = 0; i < sizeof same / sizeof *same; i++) expect(same[i], same[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(minima_are_choices),
                                     cmocka_unit_test(the_rest_stays)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
