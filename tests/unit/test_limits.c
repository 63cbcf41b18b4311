/* What pb_check lets through and what it names when it does not; the cap of pb_unpack. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kiln/v1/graph.pb-c.h"
#include "kiln/v1/kiln.pb-c.h"
#include "proto/limits.h"
#include "proto/wire.h"
#include "tests/unit/status_check.h"

static Bytes bytes(const char *s, size_t n) { return (Bytes){(const uint8_t *)s, n}; }
#define BYTES(literal) bytes(literal, sizeof(literal) - 1)

static void test_round_trip(void **state) {
  (void)state;
  Kiln__V1__Graph g = KILN__V1__GRAPH__INIT;
  Kiln__V1__Node n = KILN__V1__NODE__INIT, *nodes[] = {&n};
  uint32_t src[] = {1, 2, 300};
  n.n_src = 3;
  n.src = src;
  g.n_nodes = 1;
  g.nodes = nodes;
  uint8_t buf[64];
  size_t len = kiln__v1__graph__pack(&g, buf);
  Arena a;
  arena_init(&a, 0);
  ProtobufCMessage *out;
  assert_null(
      pb_unpack(&kiln__v1__graph__descriptor, (Bytes){buf, len}, &pb_limits_request, &a, &out));
  Kiln__V1__Graph *back = (Kiln__V1__Graph *)out;
  assert_int_equal(back->n_nodes, 1);
  assert_int_equal(back->nodes[0]->src[2], 300);
  for (size_t cut = 1; cut < len; cut++) {
    Status st = pb_check(&kiln__v1__graph__descriptor, (Bytes){buf, cut}, &pb_limits_request);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
  }
  assert_null(pb_unpack(&kiln__v1__graph__descriptor, (Bytes){0}, &pb_limits_request, &a, &out));
  assert_non_null(out);
  arena_deinit(&a);
}

static void test_malformed(void **state) {
  (void)state;
  const ProtobufCMessageDescriptor *run = &kiln__v1__run_request__descriptor;
  const PbLimits *lim = &pb_limits_request;
  check_refused(pb_check(run,
                         BYTES("\x0a\x05"
                               "ab"),
                         lim),
                ST_INVALID_ARGUMENT, "length beyond the end");
  check_refused(pb_check(run, BYTES("\x08\x01"), lim), ST_INVALID_ARGUMENT,
                "RunRequest.executable: wire type 0, expected 2");
  check_refused(pb_check(run, BYTES("\x0a\x02\xc3\x28"), lim), ST_INVALID_ARGUMENT, "not UTF-8");
  check_refused(pb_check(run, BYTES("\x0a\x02\x61\x00"), lim), ST_INVALID_ARGUMENT, "not UTF-8");
  check_refused(pb_check(run, BYTES("\x0a\x03\xed\xa0\x80"), lim), ST_INVALID_ARGUMENT,
                "not UTF-8");
  check_refused(pb_check(run, BYTES("\x0b"), lim), ST_INVALID_ARGUMENT, "unknown wire type");
  check_refused(pb_check(run, BYTES("\x02\x00"), lim), ST_INVALID_ARGUMENT, "field number");
  check_refused(pb_check(run, BYTES("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), lim),
                ST_INVALID_ARGUMENT, "varint longer");
  /* inputs { tensor {} tensor {} } */
  check_refused(pb_check(run, BYTES("\x12\x04\x12\x00\x12\x00"), lim), ST_INVALID_ARGUMENT,
                "RunRequest.inputs.tensor: given twice");
  check_refused(pb_check(run, BYTES("\xfa\x7f\x01x"), lim), ST_OK, ""); /* an unknown field */
}

static void test_limits(void **state) {
  (void)state;
  const ProtobufCMessageDescriptor *run = &kiln__v1__run_request__descriptor;
  PbLimits lim = {.max_bytes = 5, .max_depth = 3, .max_elements = 100, .max_memory = 1000};
  check_refused(pb_check(run,
                         BYTES("\x0a\x04"
                               "abcd"),
                         &lim),
                ST_RESOURCE_EXHAUSTED, "6 bytes, at most 5");
  lim.max_bytes = 1000;
  check_refused(pb_check(run, BYTES("\x12\x02\x12\x00"), &lim), ST_OK, "");
  lim.max_depth = 2;
  check_refused(pb_check(run, BYTES("\x12\x02\x12\x00"), &lim), ST_RESOURCE_EXHAUSTED,
                "RunRequest.inputs.tensor: nested deeper than 2");
}

/* The amplification that daemon clients could otherwise cause: 4 MiB of empty nodes. */
static void test_amplification(void **state) {
  (void)state;
  enum { N = 4 << 20 };
  uint8_t *msg = malloc(N);
  for (size_t i = 0; i < N; i += 2) msg[i] = 0x0a, msg[i + 1] = 0;
  const ProtobufCMessageDescriptor *graph = &kiln__v1__graph__descriptor;
  PbLimits lim = pb_limits_request;
  check_refused(pb_check(graph, (Bytes){msg, N}, &lim), ST_RESOURCE_EXHAUSTED,
                "more than 1048576 fields");
  lim.max_elements = UINT64_MAX;
  lim.max_memory = 64 << 20;
  Arena a;
  arena_init(&a, 0);
  ProtobufCMessage *out;
  check_refused(pb_unpack(graph, (Bytes){msg, N}, &lim, &a, &out), ST_RESOURCE_EXHAUSTED,
                "unpack to more than 67108864");
  assert_null(out);
  assert_true(a.used < (size_t)80 << 20);
  arena_deinit(&a);
  arena_init(&a, 8 << 20); /* the arena's own limit holds as well */
  check_refused(pb_unpack(graph, (Bytes){msg, N}, &lim, &a, &out), ST_RESOURCE_EXHAUSTED,
                "unpack to more");
  arena_deinit(&a);
  free(msg);
}

static void test_packed_garbage(void **state) {
  (void)state;
  Arena a;
  arena_init(&a, 0);
  ProtobufCMessage *out;
  /* nodes { src: packed, a varint that does not end } */
  check_refused(pb_unpack(&kiln__v1__graph__descriptor, BYTES("\x0a\x03\x1a\x01\x80"),
                          &pb_limits_request, &a, &out),
                ST_INVALID_ARGUMENT, "malformed packed field");
  arena_deinit(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_limits),         cmocka_unit_test(test_amplification),
      cmocka_unit_test(test_packed_garbage),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
