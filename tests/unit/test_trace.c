/* traceparent: what the W3C recommendation calls valid, and nothing else; spans keep their ids, and
 * the ring keeps the newest. And the buckets of a histogram, whose bounds are inclusive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/server/trace.h"

static bool parse(const char *text, TraceContext *c) {
  return traceparent_parse(str_from(text), c);
}

#define IDS "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"

static void test_valid(void **state) {
  (void)state;
  TraceContext c;
  assert_true(parse("00-" IDS "-01", &c));
  assert_true(c.sampled && c.trace[0] == 0x0a && c.trace[15] == 0x9c && c.parent[0] == 0xb7);
  assert_true(parse("00-" IDS "-00", &c));
  assert_false(c.sampled);
  assert_true(parse("00-" IDS "-03", &c) && c.sampled);
  assert_true(parse("cc-" IDS "-01-what-comes-later", &c) && c.sampled);
}

static void test_invalid(void **state) {
  (void)state;
  static const char *const bad[] = {
      "",
      "00",
      "00-" IDS,
      "00-" IDS "-0",
      "00-" IDS "-01-",
      "00-" IDS "-011",
      "cc-" IDS "-01x",
      "ff-" IDS "-01",
      "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
      "00-00000000000000000000000000000000-b7ad6b7169203331-01",
      "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
      "00_" IDS "-01",
      "0g-" IDS "-01",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    TraceContext c = {.sampled = true};
    if (parse(bad[i], &c)) fail_msg("taken for valid: %s", bad[i]);
    assert_true(c.sampled); /* untouched */
  }
}

static void test_ring(void **state) {
  (void)state;
  TraceRing ring = {.at = NULL};
  TraceContext c;
  static const uint8_t none[SPAN_ID];
  assert_true(parse("00-" IDS "-01", &c));
  trace_begin(&ring, &c, false);
  assert_int_equal(c.trace[0], 0x0a);
  for (uint32_t i = 0; i < TRACE_SPANS + 5; i++)
    trace_record(&ring, &c, (Span){.request = i, .phase = i % 2 ? -1 : PHASE_RUN}, 10, 10 + i);
  assert_int_equal(ring.written, TRACE_SPANS + 5);
  const Span *call = &ring.at[1], *phase = &ring.at[2];
  assert_int_equal(call->request, TRACE_SPANS + 1);
  assert_memory_equal(call->id, c.span, SPAN_ID);
  assert_memory_equal(call->parent, c.parent, SPAN_ID);
  assert_memory_equal(phase->parent, c.span, SPAN_ID);
  assert_memory_not_equal(phase->id, c.span, SPAN_ID);
  assert_int_equal(phase->duration_ns, TRACE_SPANS + 2);
  trace_begin(&ring, &c, true);
  assert_true(c.sampled && c.trace[0] + c.trace[1] + c.trace[2] + c.trace[3] > 0);
  assert_memory_equal(c.parent, none, SPAN_ID);
  trace_ring_deinit(&ring);
}

static void test_buckets(void **state) {
  (void)state;
  Histogram h = {.sum_ns = 0};
  const int64_t first = 1 << HISTOGRAM_SHIFT;
  histogram_add(&h, -5);
  histogram_add(&h, 0);
  histogram_add(&h, first);
  assert_int_equal(h.bucket[0], 3);
  histogram_add(&h, first + 1);
  histogram_add(&h, 2 * first);
  assert_int_equal(h.bucket[1], 2);
  histogram_add(&h, INT64_MAX);
  assert_int_equal(h.bucket[HISTOGRAM_BUCKETS - 1], 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_valid),
      cmocka_unit_test(test_invalid),
      cmocka_unit_test(test_ring),
      cmocka_unit_test(test_buckets),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
