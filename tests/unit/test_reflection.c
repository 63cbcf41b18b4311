/* The questions that grpcurl asks, and those nobody should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/reflection.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

static Arena arena;

static int setup(void **state) {
  (void)state;
  arena_init(&arena, 1 << 20);
  return 0;
}
static int teardown(void **state) {
  (void)state;
  arena_deinit(&arena);
  return 0;
}

/* The answer to a request whose only field (`id`, a string) is `text`. */
static Response *ask(int id, const char *text) {
  uint8_t q[256];
  size_t n = strlen(text);
  q[0] = (uint8_t)(id << 3 | 2);
  q[1] = (uint8_t)n;
  memcpy(q + 2, text, n);
  Bytes out;
  Status st = reflection_answer((Bytes){q, n + 2}, &arena, &out);
  assert_null(st);
  Response *r = grpc__reflection__v1__server_reflection_response__unpack(NULL, out.len, out.ptr);
  assert_non_null(r);
  assert_non_null(r->original_request);
  return r;
}
static void done(Response *r) {
  grpc__reflection__v1__server_reflection_response__free_unpacked(r, NULL);
}

enum { BY_FILE = 3, BY_SYMBOL = 4, EXTENSIONS = 6, LIST = 7 };

static void test_list(void **state) {
  (void)state;
  static const char *const want[] = {
      "kiln.v1.Kiln", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
      "grpc.reflection.v1alpha.ServerReflection", "inference.GRPCInferenceService"};
  size_t n = sizeof want / sizeof *want;
  Response *r = ask(LIST, "*");
  assert_non_null(r->list_services_response);
  assert_int_equal(r->list_services_response->n_service, n);
  for (size_t i = 0; i < n; i++) {
    int found = 0;
    for (size_t k = 0; k < n; k++)
      found += !strcmp(r->list_services_response->service[k]->name, want[i]);
    assert_int_equal(found, 1);
  }
  done(r);
}

static void expect_files(int id, const char *text, size_t nfiles, const char *first) {
  Response *r = ask(id, text);
  if (!nfiles) {
    assert_int_equal(
        r->message_response_case,
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE);
    assert_int_equal(r->error_response->error_code, ST_NOT_FOUND);
  } else {
    assert_non_null(r->file_descriptor_response);
    assert_int_equal(r->file_descriptor_response->n_file_descriptor_proto, nfiles);
    const ProtobufCBinaryData *f = &r->file_descriptor_response->file_descriptor_proto[0];
    assert_memory_equal(f->data + 2, first, strlen(first)); /* field 1, its length, the name */
  }
  done(r);
}

static void test_files(void **state) {
  (void)state;
  expect_files(BY_FILE, "kiln/v1/kiln.proto", 2, "kiln/v1/kiln.proto"); /* and graph.proto */
  expect_files(BY_FILE, "kiln/v1/graph.proto", 1, "kiln/v1/graph.proto");
  expect_files(BY_FILE, "kiln/v1/worker.proto", 0, NULL); /* not a public surface */
  expect_files(BY_FILE, "", 0, NULL);
}

static void test_symbols(void **state) {
  (void)state;
  static const char *const known[] = {"kiln.v1.Kiln", "kiln.v1.Kiln.Run", "kiln.v1.RunRequest",
                                      "kiln.v1.RunRequest.inputs", "kiln.v1.ModelFormat"};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    expect_files(BY_SYMBOL, known[i], 2, "kiln/v1/kiln.proto");
  expect_files(BY_SYMBOL, "grpc.health.v1.HealthCheckResponse.ServingStatus", 1,
               "grpc/health/v1/health.proto");
  static const char *const unknown[] = {
      "kiln.v1.Kil", "kiln.v1.Kiln.Run.x", "kiln.v1", "kiln.v1.", "Kiln", "", "."};
  for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
    expect_files(BY_SYMBOL, unknown[i], 0, NULL);
}

static void test_extensions(void **state) {
  (void)state;
  expect_files(EXTENSIONS, "no.such.Type", 0, NULL);
  Response *r = ask(EXTENSIONS, "kiln.v1.Tensor");
  assert_non_null(r->all_extension_numbers_response);
  assert_int_equal(r->all_extension_numbers_response->n_extension_number, 0);
  done(r);
}

static void test_malformed(void **state) {
  (void)state;
  Bytes out;
  Status st = reflection_answer((Bytes){(const uint8_t *)"\x1a\x05x", 3}, &arena, &out);
  assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
  assert_null(out.ptr);
  status_drop(st);
  assert_null(reflection_answer((Bytes){0}, &arena, &out)); /* asks nothing: error_response */
  assert_true(out.len > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_list),      cmocka_unit_test(test_files),
      cmocka_unit_test(test_symbols),   cmocka_unit_test(test_extensions),
      cmocka_unit_test(test_malformed),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
