/* What is known of a machine, as text that may be anything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/server/peaks.h"

static bool parse(const char *text, Kiln__V1__MachinePeaks *out) {
  return peaks_parse(str_from(text), out);
}

static void prints_and_reads(void **state) {
  DevicePeaks p = {.known = true};
  Kiln__V1__MachinePeaks m;
  StrBuf text = {0};
  (void)state;
  kiln__v1__machine_peaks__init(&p.at);
  for (size_t i = 0; i < PEAKS; i++) *peaks_field(&p.at, i) = 1.5 * (double)(i + 1);
  strbuf_adds(&text, "kind=cpu\nthreads=2\n");
  peaks_print(&p, &text);
  assert_true(peaks_parse((Str){text.ptr, text.len}, &m));
  for (size_t i = 0; i < PEAKS; i++) assert_true(*peaks_field(&m, i) == 1.5 * (double)(i + 1));
  strbuf_deinit(&text);
  p.known = false;
  peaks_print(&p, &text);
  assert_int_equal(text.len, 0);
}

static void nonsense_is_nothing(void **state) {
  static const char *const texts[] = {"",
                                      "kind=cpu\n",
                                      "peak_flops_f32",
                                      "peak_flops_f32=",
                                      "\n\n\n",
                                      "peak_flops_f32=nan",
                                      "peak_flops_f32=inf",
                                      "peak_flops_f32=-3",
                                      "peak_l2=4",
                                      "peak_l2_bytes=1e300",
                                      "xpeak_l2_bytes=3",
                                      "peak_l2_bytes=hello",
                                      "peak_l2_bytes=0",
                                      "peak_l2_bytes=111111111111111111111111111111111111111111"};
  Kiln__V1__MachinePeaks m;
  (void)state;
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    assert_false(parse(texts[i], &m));
    for (size_t k = 0; k < PEAKS; k++) assert_true(*peaks_field(&m, k) == 0);
  }
  assert_true(parse("peak_l2_bytes=hello\npeak_l3_bytes=2\n", &m));
  assert_true(m.l3_bytes == 2 && m.l2_bytes == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(prints_and_reads),
                                     cmocka_unit_test(nonsense_is_nothing)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
