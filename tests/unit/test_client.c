/* libkiln against a server that speaks the real protocol: every call, both forms, lost connections,
 * deadlines, and the rules about which server is used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "base/clock.h"
#include "client/c/kiln.h"
#include "fake_server.h"

static FakeServer server;
static char folder[64];

static int setup(void **state) {
  (void)state;
  char path[90];
  snprintf(folder, sizeof folder, "/tmp/kiln-test-XXXXXX");
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/s", folder);
  unsetenv("KILN_SERVER");
  return fake_start(&server, path) ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  fake_stop(&server);
  return rmdir(folder);
}

static KilnClient *client(void) {
  KilnError err;
  KilnClient *c;
  if (kiln_connect(server.address, NULL, &c, &err)) fail_msg("%s", err.message);
  return c;
}

#define OK(call) assert_int_equal((call), KILN_OK)

static void test_questions(void **state) {
  (void)state;
  KilnClient *c = client();
  KilnError err;
  KilnServerInfo *info;
  KilnDevices *devices;
  KilnCacheStats *stats;
  KilnCacheEntries *entries;
  KilnServing serving;
  OK(kiln_server_info(c, &info, &err));
  assert_string_equal(info->version, "9.8.7");
  assert_int_equal(info->pid, 42);
  assert_string_equal(info->cache_path, "/var/cache/kiln.db");
  assert_string_equal(info->cache_error, "");
  kiln_free(info);
  OK(kiln_list_devices(c, &devices, &err));
  assert_int_equal(devices->count, 1);
  assert_string_equal(devices->devices[0].description, "a fake");
  kiln_free(devices);
  OK(kiln_cache_stats(c, &stats, &err));
  assert_int_equal(stats->kernels, 5);
  kiln_free(stats);
  OK(kiln_health(c, NULL, &serving, &err));
  assert_int_equal(serving, KILN_SERVING);
  assert_int_equal(kiln_cache_list(c, 5, &entries, &err), KILN_UNIMPLEMENTED);
  assert_int_equal(err.code, KILN_UNIMPLEMENTED);
  assert_string_equal(err.message, "the fake has no CacheList");
  assert_null(entries);
  assert_int_equal(kiln_cache_list(c, 5, &entries, NULL), KILN_UNIMPLEMENTED);
  kiln_close(c);
}

static void expect_hash(const KilnExecutable *e, const void *bytes, size_t n) {
  uint8_t hash[DIGEST_BYTES];
  char hex[DIGEST_HEX + 1];
  digest_sha256(bytes, n, hash);
  assert_string_equal(e->graph_hash, digest_to_hex(hash, sizeof hash, hex));
}

/* Bounds of a dimension go out, names and bounds come back. */
static void test_bounds(void **state) {
  (void)state;
  KilnClient *c = client();
  KilnError err;
  KilnExecutable *e;
  const KilnDim dim = {.name = "n", .min = 8, .max = 512, .multiple = 8};
  const KilnCompileOptions options = {.dims = &dim, .ndims = 1};
  const KilnModel model = {.bytes = "m", .size = 1};
  OK(kiln_compile(c, &model, &options, &e, &err));
  const KilnTensorSpec *x = &e->inputs[0];
  assert_int_equal(x->dims[1], 512);
  assert_int_equal(x->bytes, 2 * 512 * 4);
  assert_non_null(x->shape);
  assert_string_equal(x->shape[0].name, "");
  assert_int_equal(x->shape[0].size, 2);
  assert_string_equal(x->shape[1].name, "n");
  assert_int_equal(x->shape[1].min, 8);
  assert_int_equal(x->shape[1].max, 512);
  assert_int_equal(x->shape[1].multiple, 8);
  kiln_free(e);
  OK(kiln_compile(c, &model, NULL, &e, &err));
  assert_null(e->inputs[0].shape);
  kiln_free(e);
  kiln_close(c);
}

/* A model of several chunks, from memory and from a file. */
static void test_compile(void **state) {
  (void)state;
  enum { SIZE = 5 * 1000 * 1000 };
  KilnClient *c = client();
  KilnError err;
  KilnExecutable *e;
  KilnText *text;
  char path[100];
  uint8_t *bytes = malloc(SIZE);
  for (size_t i = 0; i < SIZE; i++) bytes[i] = (uint8_t)(i * 31 >> 7);
  const KilnDim dim = {.name = "batch", .size = 17};
  const KilnCompileOptions options = {.dims = &dim, .ndims = 1};
  KilnModel model = {.bytes = bytes, .size = SIZE};
  OK(kiln_compile(c, &model, &options, &e, &err));
  assert_string_equal(e->id, "exe5000000");
  assert_int_equal(e->inputs[0].dims[1], 17);
  assert_int_equal(e->inputs[0].bytes, 2 * 17 * 4);
  assert_int_equal(e->kernels, 3);
  expect_hash(e, bytes, SIZE);
  kiln_free(e);
  snprintf(path, sizeof path, "%s/m.onnx", folder);
  FILE *f = fopen(path, "wb");
  assert_int_equal(fwrite(bytes, 1, SIZE, f), SIZE);
  fclose(f);
  model = (KilnModel){.path = path};
  OK(kiln_compile(c, &model, NULL, &e, &err));
  expect_hash(e, bytes, SIZE);
  kiln_free(e);
  OK(kiln_inspect(c, &model, NULL, "code", -1, &text, &err));
  assert_string_equal(text->text, "the text");
  kiln_free(text);
  unlink(path);
  assert_int_equal(kiln_compile(c, &model, NULL, &e, &err), KILN_NOT_FOUND);
  assert_non_null(strstr(err.message, "m.onnx: No such file"));
  model.path = folder;
  assert_int_equal(kiln_compile(c, &model, NULL, &e, &err), KILN_INVALID_ARGUMENT);
  model = (KilnModel){.bytes = "", .size = 0};
  OK(kiln_compile(c, &model, NULL, &e, &err));
  expect_hash(e, "", 0);
  kiln_free(e);
  free(bytes);
  kiln_close(c);
}

static void test_run(void **state) {
  (void)state;
  KilnClient *c = client();
  KilnError err;
  KilnResult *r;
  const float x[6] = {1, 2, 3, 4, 5, 6};
  const uint64_t dims[] = {2, 3}, empty[] = {0, 300};
  const int64_t scalar = -5;
  const KilnTensor in[] = {
      {.name = "x", .dtype = KILN_F32, .rank = 2, .dims = dims, .data = x, .bytes = sizeof x},
      {.name = "n", .dtype = KILN_I64, .data = &scalar, .bytes = sizeof scalar},
      {.name = "b", .buffer = "buf7"},
      {.name = "e", .dtype = KILN_U8, .rank = 2, .dims = empty},
  };
  const char *outputs[] = {"p", "q"};
  const KilnRunOptions options = {.outputs = outputs, .noutputs = 2};
  OK(kiln_run(c, "exe", in, 4, &options, &r, &err));
  assert_int_equal(r->count, 4);
  assert_int_equal(r->device_ns, 7);
  assert_int_equal(r->queue_ns, 2);
  assert_string_equal(r->tensors[0].name, "x");
  assert_int_equal(r->tensors[0].dtype, KILN_F32);
  assert_int_equal(r->tensors[0].rank, 2);
  assert_int_equal(r->tensors[0].dims[1], 3);
  assert_memory_equal(r->tensors[0].data, x, sizeof x);
  assert_int_equal((uintptr_t)r->tensors[0].data % 64, 0);
  assert_int_equal(r->tensors[1].rank, 0);
  assert_int_equal(*(const int64_t *)r->tensors[1].data, -5);
  assert_string_equal(r->tensors[2].buffer, "buf7");
  assert_int_equal(r->tensors[3].dims[1], 300);
  assert_int_equal(r->tensors[3].bytes, 0);
  kiln_free(r);
  const KilnRunOptions seeded = {
      .outputs_as_buffers = 1, .seeded = 1, .seed = UINT64_C(1) << 62, .run = 300};
  OK(kiln_run(c, "exe", in, 1, &seeded, &r, &err));
  assert_true(r->device_ns == (INT64_C(1) << 62) + 300);
  assert_int_equal(r->queue_ns, 1);
  kiln_free(r);
  assert_int_equal(kiln_run(c, "missing", in, 1, NULL, &r, &err), KILN_NOT_FOUND);
  assert_string_equal(err.message, "no executable 'missing'");
  const KilnTensor bad = {.name = "x", .dtype = (KilnDType)99};
  assert_int_equal(kiln_run(c, "exe", &bad, 1, NULL, &r, &err), KILN_INVALID_ARGUMENT);
  kiln_close(c);
}

static void test_buffers(void **state) {
  (void)state;
  enum { SIZE = 3 << 20 };
  KilnClient *c = client();
  KilnError err;
  KilnBuffer *b;
  KilnResult *r;
  uint8_t *data = calloc(1, SIZE);
  const uint64_t dims[] = {SIZE};
  const KilnTensor t = {.dtype = KILN_U8, .rank = 1, .dims = dims, .data = data, .bytes = SIZE};
  OK(kiln_upload(c, &t, NULL, &b, &err));
  assert_string_equal(b->id, "3145728");
  const char *ids[] = {b->id};
  OK(kiln_download(c, b->id, &r, &err));
  assert_int_equal(r->tensors[0].bytes, SIZE);
  for (size_t i = 0; i < SIZE; i += 777)
    assert_int_equal(((const char *)r->tensors[0].data)[i], 'd');
  kiln_free(r);
  OK(kiln_free_buffers(c, ids, 1, &err));
  kiln_free(b);
  assert_int_equal(kiln_download(c, "50short", &r, &err), KILN_DATA_LOSS);
  assert_null(r);
  free(data);
  kiln_close(c);
}

static void test_deadline_and_loss(void **state) {
  (void)state;
  KilnClient *c = client();
  KilnError err;
  KilnResult *r;
  kiln_client_set_timeout(c, 30);
  assert_int_equal(kiln_run(c, "slow", NULL, 0, NULL, &r, &err), KILN_DEADLINE_EXCEEDED);
  assert_string_equal(err.message, "no answer before the deadline");
  kiln_client_set_timeout(c, 0);
  kiln_close(c);
  const KilnConnectOptions once = {.retry_ms = -1};
  OK(kiln_connect(server.address, &once, &c, &err));
  assert_int_equal(kiln_run(c, "die", NULL, 0, NULL, &r, &err), KILN_UNAVAILABLE);
  assert_non_null(strstr(err.message, "the server closed the connection"));
  OK(kiln_run(c, "exe", NULL, 0, NULL, &r, &err)); /* connects again */
  assert_int_equal(r->count, 0);
  kiln_free(r);
  kiln_close(c);
}

/* -- calls that are made again
 * ----------------------------------------------------------------------- */

static KilnCode run_again(KilnClient *c, const KilnTensor *in, size_t n, const KilnRunOptions *o) {
  KilnResult *r;
  KilnError err;
  server.runs = 0;
  KilnCode code = kiln_run(c, "exe", in, n, o, &r, &err);
  server.absent = server.full = 0;
  kiln_free(r);
  return code;
}

static void test_absent(void **state) {
  (void)state;
  const KilnRunOptions left = {.outputs_as_buffers = 1};
  const KilnTensor buffer = {.name = "b", .buffer = "buf7"};
  KilnClient *c = client();
  KilnError err;
  server.absent = 100;
  assert_int_equal(run_again(c, NULL, 0, NULL), KILN_UNAVAILABLE);
  assert_int_equal(server.runs, 1); /* it has never answered */
  assert_int_equal(run_again(c, NULL, 0, NULL), KILN_OK);
  server.absent = 3;
  assert_int_equal(run_again(c, NULL, 0, NULL), KILN_OK);
  assert_int_equal(server.runs, 4);
  server.absent = 3;
  server.hopeless = true;
  assert_int_equal(run_again(c, NULL, 0, NULL), KILN_UNAVAILABLE);
  assert_int_equal(server.runs, 1);
  server.hopeless = false;
  server.absent = 3;
  assert_int_equal(run_again(c, NULL, 0, &left), KILN_UNAVAILABLE);
  assert_int_equal(server.runs, 1);
  server.absent = 3;
  assert_int_equal(run_again(c, &buffer, 1, NULL), KILN_UNAVAILABLE);
  assert_int_equal(server.runs, 1);
  kiln_client_set_timeout(c, 200);
  server.absent = 1000;
  assert_int_equal(run_again(c, NULL, 0, NULL), KILN_UNAVAILABLE); /* before the deadline */
  assert_in_range(server.runs, 2, 20);
  kiln_close(c);
  const KilnConnectOptions once = {.retry_ms = -1};
  OK(kiln_connect(server.address, &once, &c, &err));
  assert_int_equal(run_again(c, NULL, 0, NULL), KILN_OK);
  server.absent = 1;
  assert_int_equal(run_again(c, NULL, 0, NULL), KILN_UNAVAILABLE);
  kiln_close(c);
}

static void test_full(void **state) {
  (void)state;
  const KilnRunOptions left = {.outputs_as_buffers = 1};
  KilnClient *c = client();
  int64_t begin = clock_now_ns();
  server.full = 1;
  assert_int_equal(run_again(c, NULL, 0, &left), KILN_OK); /* nothing had been done */
  assert_int_equal(server.runs, 2);
  assert_true(clock_now_ns() - begin >= FAKE_RETRY_NS);
  kiln_client_set_timeout(c, FAKE_RETRY_NS / 2000000);
  server.full = 1;
  assert_int_equal(run_again(c, NULL, 0, NULL), KILN_RESOURCE_EXHAUSTED); /* no time for that */
  assert_int_equal(server.runs, 1);
  kiln_close(c);
}

static void test_program(void **state) {
  (void)state;
  KilnClient *c = client();
  KilnError err;
  KilnProgram *p;
  KilnResult *r;
  char bytes[] = "model", path[90];
  KilnModel model = {.bytes = bytes, .size = sizeof bytes, .name = "m"};
  server.compiles = 0;
  OK(kiln_program_create(c, &model, NULL, &p, &err));
  memset(bytes, 0, sizeof bytes); /* it has its own */
  assert_string_equal(kiln_program_executable(p)->id, "exe6");
  server.forgotten = 2;
  server.absent = 1;
  OK(kiln_program_run(p, NULL, 0, NULL, &r, &err));
  kiln_free(r);
  assert_int_equal(server.compiles, 3);
  assert_string_equal(kiln_program_id(p), "exe6");
  server.forgotten = 100;
  assert_int_equal(kiln_program_run(p, NULL, 0, NULL, &r, &err), KILN_NOT_FOUND);
  server.forgotten = 0;
  const KilnTensor apart[] = {{.name = "a", .buffer = "buf1@n1"},
                              {.name = "b", .buffer = "buf2@n2"}};
  assert_int_equal(kiln_program_run(p, apart, 2, NULL, &r, &err), KILN_FAILED_PRECONDITION);
  assert_non_null(strstr(err.message, "different servers"));
  /* the fake's executables are never there */
  assert_int_equal(kiln_program_run(p, apart, 1, NULL, &r, &err), KILN_DATA_LOSS);
  kiln_program_free(p);

  snprintf(path, sizeof path, "%s/model.onnx", folder);
  FILE *f = fopen(path, "w");
  fputs("one", f);
  fclose(f);
  model = (KilnModel){.path = path};
  OK(kiln_program_create(c, &model, NULL, &p, &err));
  f = fopen(path, "w");
  fputs("other", f);
  fclose(f);
  server.forgotten = 1;
  assert_int_equal(kiln_program_run(p, NULL, 0, NULL, &r, &err), KILN_FAILED_PRECONDITION);
  assert_non_null(strstr(err.message, "is not what it was"));
  kiln_program_free(p);
  unlink(path);
  assert_int_equal(kiln_program_create(c, &model, NULL, &p, &err), KILN_NOT_FOUND);
  assert_null(p);
  kiln_close(c);
}

/* -- callbacks
 * --------------------------------------------------------------------------------------- */

typedef struct Seen {
  int calls, failures;
  KilnCode code;
  KilnClient *client;
} Seen;

static void on_run(void *ctx, const KilnError *err, KilnResult *r) {
  Seen *s = ctx;
  s->calls++;
  s->failures += err != NULL;
  if (err) s->code = err->code;
  assert_int_equal(err == NULL, r != NULL);
  kiln_free(r);
}

static void on_compiled(void *ctx, const KilnError *err, KilnExecutable *e) {
  Seen *s = ctx;
  s->calls++;
  assert_null(err);
  /* from a callback, the next call */
  OK(kiln_run_start(s->client, e->id, NULL, 0, NULL, on_run, s, NULL, NULL));
  kiln_free(e);
}

static void drive(KilnClient *c, const int *count, int until) {
  while (*count < until) {
    struct pollfd p = {kiln_client_fd(c), kiln_client_events(c), 0};
    assert_true(poll(&p, 1, kiln_client_wait_ms(c)) >= 0);
    kiln_client_process(c, NULL);
  }
}

static void test_callbacks(void **state) {
  (void)state;
  KilnError err;
  Seen s = {0};
  OK(kiln_connect_start(server.address, NULL, &s.client, &err));
  for (int i = 0; i < 250; i++) /* more than the server lets run at once */
    OK(kiln_run_start(s.client, "exe", NULL, 0, NULL, on_run, &s, NULL, &err));
  assert_int_equal(s.calls, 0);
  drive(s.client, &s.calls, 250);
  assert_int_equal(s.failures, 0);
  const KilnModel model = {.bytes = "abc", .size = 3};
  s.calls = 0;
  OK(kiln_compile_start(s.client, &model, NULL, on_compiled, &s, NULL, &err));
  drive(s.client, &s.calls, 2);
  KilnCall *call;
  s.calls = 0;
  OK(kiln_run_start(s.client, "slow", NULL, 0, NULL, on_run, &s, &call, &err));
  kiln_call_cancel(call);
  drive(s.client, &s.calls, 1);
  assert_int_equal(s.code, KILN_CANCELLED);
  OK(kiln_run_start(s.client, "slow", NULL, 0, NULL, on_run, &s, NULL, &err));
  kiln_close(s.client);
  assert_int_equal(s.calls, 2);
}

/* -- which server
 * -------------------------------------------------------------------------------------- */

static void expect_refused(const char *address, KilnCode code, const char *part) {
  const KilnConnectOptions options = {.no_spawn = 1, .timeout_ms = 2000};
  KilnError err;
  KilnClient *c;
  KilnCode got = kiln_connect(address, &options, &c, &err);
  if (got != code || !strstr(err.message, part))
    fail_msg("got %s '%s', expected %s '%s'", kiln_code_name(got), err.message,
             kiln_code_name(code), part);
  assert_null(c);
}

static void test_addresses(void **state) {
  (void)state;
  char address[200], runtime[100], own[120];
  expect_refused("unix:/nowhere/s", KILN_UNAVAILABLE, "No such file");
  expect_refused("unix:", KILN_INVALID_ARGUMENT, "names no path");
  expect_refused("localhost", KILN_INVALID_ARGUMENT, "expected unix:PATH or HOST:PORT");
  expect_refused("/a/b:5", KILN_INVALID_ARGUMENT, "expected unix:PATH or HOST:PORT");
  expect_refused("127.0.0.1:1", KILN_UNAVAILABLE, "refused");
  snprintf(address, sizeof address, "unix:/%0120d", 0);
  expect_refused(address, KILN_INVALID_ARGUMENT, "bytes long");
  /* the user's own: a folder that others can write is refused, an absent daemon is not started */
  snprintf(runtime, sizeof runtime, "%s/run", folder);
  snprintf(own, sizeof own, "%s/kiln", runtime);
  setenv("XDG_RUNTIME_DIR", runtime, 1);
  assert_true(kiln_default_address(address, sizeof address) < sizeof address);
  assert_non_null(strstr(address, "/run/kiln/kiln.sock"));
  expect_refused(NULL, KILN_UNAVAILABLE, "starting a daemon was forbidden");
  assert_int_equal(mkdir(runtime, 0700) | mkdir(own, 0700) | chmod(own, 0777), 0);
  expect_refused(NULL, KILN_PERMISSION_DENIED, "only this user can write");
  assert_int_equal(rmdir(own) | rmdir(runtime), 0);
  setenv("KILN_SERVER", server.address, 1);
  KilnClient *c;
  OK(kiln_connect(NULL, NULL, &c, NULL));
  assert_string_equal(kiln_client_address(c), server.address);
  kiln_close(c);
  unsetenv("KILN_SERVER");
}

/* Starting the user's own daemon, with a script that plays kilnd badly. */
static void test_spawn(void **state) {
  (void)state;
  char program[100], log[120], own[100];
  snprintf(own, sizeof own, "%s/kiln", folder);
  snprintf(program, sizeof program, "%s/kilnd", folder);
  snprintf(log, sizeof log, "%s/kilnd.log", own);
  setenv("XDG_RUNTIME_DIR", folder, 1);
  setenv("KILN_BIN", folder, 1);
  const KilnConnectOptions options = {.timeout_ms = 1000};
  KilnError err;
  KilnClient *c;
  assert_int_equal(kiln_connect(NULL, &options, &c, &err), KILN_UNAVAILABLE);
  assert_non_null(strstr(err.message, "kilnd was not found"));
  FILE *f = fopen(program, "w");
  fputs("#!/bin/sh\necho \"$@\"\n", f);
  fclose(f);
  chmod(program, 0700);
  assert_int_equal(kiln_connect(NULL, &options, &c, &err), KILN_UNAVAILABLE);
  assert_non_null(strstr(err.message, "not connected after 1000 ms; see kilnd.log"));
  char line[300] = "";
  f = fopen(log, "r");
  assert_non_null(fgets(line, sizeof line, f));
  fclose(f);
  assert_non_null(strstr(line, "--listen unix:"));
  assert_non_null(strstr(line, "--idle-exit 3600"));
  /* a deadline holds while there is no connection yet */
  Seen s = {0};
  OK(kiln_connect_start(NULL, &options, &s.client, &err));
  kiln_client_set_timeout(s.client, 50);
  OK(kiln_run_start(s.client, "exe", NULL, 0, NULL, on_run, &s, NULL, &err));
  drive(s.client, &s.calls, 1);
  assert_int_equal(s.code, KILN_DEADLINE_EXCEEDED);
  kiln_close(s.client);
  assert_int_equal(unlink(program) | unlink(log) | rmdir(own), 0);
  unsetenv("KILN_BIN");
  unsetenv("XDG_RUNTIME_DIR");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_questions),
      cmocka_unit_test(test_compile),
      cmocka_unit_test(test_bounds),
      cmocka_unit_test(test_run),
      cmocka_unit_test(test_buffers),
      cmocka_unit_test(test_callbacks),
      cmocka_unit_test(test_deadline_and_loss),
      cmocka_unit_test(test_absent),
      cmocka_unit_test(test_full),
      cmocka_unit_test(test_program),
      cmocka_unit_test(test_addresses),
      cmocka_unit_test(test_spawn),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
