/* The `kiln` command from its command line to its output and exit code, against the fake server;
 * its option parser, its text graphs and its half-precision numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <sys/wait.h>

#include "client/cli/cli.h"
#include "client/cli/npy.h"
#include "client/cli/tensor.h"
#include "client/cli/textgraph.h"
#include "fake_server.h"
#include "kiln/v1/graph.pb-c.h"

static FakeServer server;
static char folder[64], model[90];

static int setup(void **state) {
  (void)state;
  char path[90];
  snprintf(folder, sizeof folder, "/tmp/kiln-cli-XXXXXX");
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/s", folder);
  snprintf(model, sizeof model, "%s/m.onnx", folder);
  FILE *f = fopen(model, "w");
  fputs("a model", f);
  fclose(f);
  unsetenv("KILN_SERVER");
  return fake_start(&server, path) ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  fake_stop(&server);
  unlink(model);
  return rmdir(folder);
}

typedef struct Ran {
  int code;
  char out[8192], err[2048];
} Ran;

static void slurp(const char *name, char *buf, size_t cap) {
  FILE *f = fopen(name, "r");
  buf[fread(buf, 1, cap - 1, f)] = 0;
  fclose(f);
  unlink(name);
}

/* Runs the command in a child; arguments up to a NULL. --server comes first. */
static Ran kiln(const char *first, ...) {
  char *argv[24] = {(char *)"kiln", (char *)"--server", server.address, (char *)(uintptr_t)first};
  char out[100], err[100];
  int argc = 4;
  Ran r = {0};
  va_list ap;
  va_start(ap, first);
  for (char *a; (a = va_arg(ap, char *));) argv[argc++] = a;
  va_end(ap);
  snprintf(out, sizeof out, "%s/out", folder);
  snprintf(err, sizeof err, "%s/err", folder);
  fflush(NULL);
  pid_t pid = fork();
  if (!pid) {
    if (!freopen(out, "w", stdout) || !freopen(err, "w", stderr)) _exit(99);
    int code = cli_main(argc, argv);
    fflush(NULL);
    _exit(code);
  }
  assert_int_equal(waitpid(pid, &r.code, 0), pid);
  assert_true(WIFEXITED(r.code));
  r.code = WEXITSTATUS(r.code);
  slurp(out, r.out, sizeof r.out);
  slurp(err, r.err, sizeof r.err);
  return r;
}

#define EXPECT(r, code_, text, part)                                                               \
  do {                                                                                             \
    if ((r).code != (code_) || !strstr((r).text, part))                                            \
      fail_msg("exit %d, out '%s', err '%s'", (r).code, (r).out, (r).err);                         \
  } while (0)

static void test_plain(void **state) {
  (void)state;
  Ran r = kiln("health", NULL);
  EXPECT(r, EX_OK, out, "SERVING\n");
  r = kiln("devices", NULL);
  EXPECT(r, EX_OK, out, "cpu:0    available   a fake");
  r = kiln("version", NULL);
  EXPECT(r, EX_OK, out, "kilnd 9.8.7");
  r = kiln("cache", "stats", NULL);
  EXPECT(r, EX_OK, out, "5 kernels");
  r = kiln("cache", "ls", NULL);
  EXPECT(r, EX_DATAERR, err, "kiln: UNIMPLEMENTED: the fake has no CacheList");
  r = kiln("graph", model, "--stage", "code", "--kernel=-1", NULL);
  EXPECT(r, EX_OK, out, "the text\n");
  r = kiln("doctor", NULL);
  EXPECT(r, EX_UNAVAILABLE, out, "squared came out wrong"); /* the fake answers with its inputs */
  r = kiln("compile", model, "--dim", "n=9", NULL);
  EXPECT(r, EX_OK, out, "input   x  float32 2x9");
}

static void test_json(void **state) {
  (void)state;
  Ran r = kiln("--json", "compile", model, NULL);
  cJSON *j = cJSON_Parse(r.out);
  assert_non_null(j);
  assert_string_equal(cJSON_GetObjectItem(j, "executable")->valuestring, "exe7");
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(j, "inputs")), 1);
  cJSON_Delete(j);
  r = kiln("run", "--json", model, "--random", "3", "--repeat", "4", NULL);
  EXPECT(r, EX_OK, out, "outputs");
  j = cJSON_Parse(r.out);
  assert_non_null(j);
  assert_int_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(j, "run"), "runs")->valueint, 4);
  const cJSON *y = cJSON_GetArrayItem(cJSON_GetObjectItem(j, "outputs"), 0);
  assert_string_equal(cJSON_GetObjectItem(y, "dtype")->valuestring, "float32");
  assert_true(cJSON_GetObjectItem(y, "min")->valuedouble >= -1);
  assert_true(cJSON_GetObjectItem(y, "max")->valuedouble < 1);
  cJSON_Delete(j);
  r = kiln("cache", "why", "abc", "--json", NULL);
  EXPECT(r, EX_DATAERR, out, "\"code\":\t\"UNIMPLEMENTED\"");
}

static void test_run_files(void **state) {
  (void)state;
  char in[100], dir[100], out[120], arg[120];
  const float x[] = {1, 2, 3, 4, 5, 6};
  const uint64_t dims[] = {2, 3};
  const KilnTensor t = {.dtype = KILN_F32, .rank = 2, .dims = dims, .data = x, .bytes = sizeof x};
  snprintf(in, sizeof in, "%s/x.npy", folder);
  snprintf(dir, sizeof dir, "%s/outputs", folder);
  snprintf(out, sizeof out, "%s/x.npy", dir);
  snprintf(arg, sizeof arg, "x=%s", in);
  assert_null(npy_write(in, &t));
  Ran r = kiln("run", model, "--input", arg, "--out", dir, NULL);
  EXPECT(r, EX_OK, out, "x: float32 2x3, min 1, max 6, mean 3.5\n  [1, 2, 3, 4, 5, 6]");
  Npy a;
  assert_null(npy_read(out, &a));
  assert_memory_equal(a.data, x, sizeof x);
  npy_deinit(&a);
  r = kiln("run", model, "--input", in, NULL); /* one input needs no name */
  EXPECT(r, EX_OK, out, "mean 3.5");
  r = kiln("run", model, NULL);
  EXPECT(r, EX_USAGE, err, "input 'x' (float32 2x3) is missing");
  r = kiln("run", model, "--input", arg, "--input", in, NULL);
  EXPECT(r, EX_USAGE, err, "given twice");
  r = kiln("run", model, "--input", "z=q", NULL);
  EXPECT(r, EX_USAGE, err, "the model's inputs are: x");
  r = kiln("run", model, "--input", "x=/nowhere.npy", NULL);
  EXPECT(r, EX_NOINPUT, err, "/nowhere.npy: No such file");
  r = kiln("run", model, "--input", arg, "--out", "/nowhere/dir", NULL);
  EXPECT(r, EX_CANTCREAT, err, "/nowhere/dir");
  assert_int_equal(unlink(out) | rmdir(dir) | unlink(in), 0);
}

static void test_usage(void **state) {
  (void)state;
  static const struct {
    const char *args[4], *part;
  } cases[] = {
      {{"fly"}, "no command 'fly'"},
      {{"run"}, "too few arguments"},
      {{"run", "a", "b"}, "unexpected argument 'b'"},
      {{"run", "--frob"}, "unknown option '--frob'"},
      {{"run", "a", "--repeat"}, "option needs a value: '--repeat'"},
      {{"run", "a", "--repeat", "1x"}, "not a number: '1x'"},
      {{"run", "a", "--repeat=0"}, "--repeat must be"},
      {{"run", "a", "--no-cache=1"}, "takes no value"},
      {{"graph", "a", "--stage", "x"}, "--stage 'x'"},
      {{"cache", "why"}, "needs a hash"},
      {{"cache", "eat"}, "expected stats, ls, why, verify, prune, rm, export or import"},
      {{"cache", "prune"}, "needs --older, --bytes or --target"},
      {{"cache", "prune", "--older=7y"}, "expected a time"},
      {{"cache", "prune", "--bytes=-1"}, "expected a size"},
      {{"cache", "prune", "--bytes=99999999999G"}, "expected a size"},
      {{"cache", "export"}, "needs a file"},
      {{"cache", "rm"}, "needs a hash"},
      {{"cache", "verify", "x"}, "takes no argument"},
      {{"compile", model, "--dim", "n"}, "expected NAME=N"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *const *a = cases[i].args;
    Ran r = kiln(a[0], a[1], a[2], a[3], NULL);
    EXPECT(r, EX_USAGE, err, cases[i].part);
  }
  Ran r = kiln("compile", "/nowhere/m.onnx", NULL);
  EXPECT(r, EX_NOINPUT, err, "No such file");
  r = kiln("run", "--help", NULL);
  EXPECT(r, EX_OK, out, "--random SEED");
  r = kiln("--help", NULL);
  EXPECT(r, EX_OK, out, "commands:");
  r = kiln("health", "--server", "unix:/nowhere/s", NULL); /* the last one counts */
  EXPECT(r, EX_UNAVAILABLE, err, "kiln: UNAVAILABLE: unix:/nowhere/s");
}

/* -- parts
 * ------------------------------------------------------------------------------------------- */

static const char *encode_error(const char *text) {
  static char buf[200];
  StrBuf out = {0};
  Status st = textgraph_encode(str_from(text), &kiln__v1__graph__descriptor, &out);
  status_text(st, buf, sizeof buf);
  status_drop(st);
  strbuf_deinit(&out);
  return buf;
}

static void test_text_graph(void **state) {
  (void)state;
  static const char text[] = "# a graph\n"
                             "params { name: \"a\\x62\\\"\\101\" dtype: DTYPE_F32\n"
                             "  dims { size: 0x10 } dims: { name: 'n' }, data: '\\000\\377' };\n"
                             "nodes { op: PAD src: [0, 300], ints: [-1, 2] ints: -300 f: -1.5e3 }\n"
                             "nodes { op: 70 i: -9223372036854775808 src: [] }\n";
  StrBuf out = {0};
  assert_null(textgraph_encode(str_from(text), &kiln__v1__graph__descriptor, &out));
  Kiln__V1__Graph *g = kiln__v1__graph__unpack(NULL, out.len, (const uint8_t *)out.ptr);
  strbuf_deinit(&out);
  assert_non_null(g);
  assert_string_equal(g->params[0]->name, "ab\"A");
  assert_int_equal(g->params[0]->dims[0]->size, 16);
  assert_string_equal(g->params[0]->dims[1]->name, "n");
  assert_int_equal(g->params[0]->data.len, 2);
  assert_int_equal(g->params[0]->data.data[1], 255);
  assert_int_equal(g->nodes[0]->op, KILN__V1__GRAPH_OP__PAD);
  assert_int_equal(g->nodes[0]->n_src, 2);
  assert_int_equal(g->nodes[0]->src[1], 300);
  assert_int_equal(g->nodes[0]->ints[2], -300);
  assert_true(g->nodes[0]->f == -1500);
  assert_int_equal(g->nodes[1]->op, KILN__V1__GRAPH_OP__ADD);
  assert_true(g->nodes[1]->i == INT64_MIN);
  kiln__v1__graph__free_unpacked(g, NULL);
  assert_string_equal(encode_error("nodes { op: FLY }"), "line 1: GraphOp has no value 'FLY'");
  assert_string_equal(encode_error("\n\nwings: 1"), "line 3: Graph has no field 'wings'");
  assert_string_equal(encode_error("nodes { op 1 }"), "line 1: expected ':' after 'op'");
  assert_string_equal(encode_error("nodes { src: -1 }"),
                      "line 1: '-1' is not an unsigned integer of 64 bits");
  assert_string_equal(encode_error("params { name: 'x }"), "line 1: the string does not end");
  assert_string_equal(encode_error("nodes {"), "line 1: expected a field's name or '}'");
  assert_string_equal(encode_error("nodes { op: [1] }"), "line 1: 'op' is not a list");
  assert_string_equal(encode_error("nodes { src: [1 2] }"), "line 1: expected ',' or ']' in 'src'");
}

/* Every half and every bfloat16 survives the way through double. */
static void test_halves(void **state) {
  (void)state;
  const KilnDType types[] = {KILN_F16, KILN_BF16};
  for (int t = 0; t < 2; t++)
    for (unsigned bits = 0; bits < 65536; bits++) {
      uint16_t h = (uint16_t)bits, back;
      double v = tensor_get(types[t], &h, 0);
      tensor_set(types[t], &back, 0, v);
      if (isnan(v))
        assert_true(isnan(tensor_get(types[t], &back, 0)));
      else
        assert_int_equal(back, h);
    }
  for (KilnDType d = KILN_F8E4M3FN; kiln_dtype_size(d); d++)
    for (unsigned bits = 0; bits < 256; bits++) {
      uint8_t code = (uint8_t)bits, back;
      double v = tensor_get(d, &code, 0), again;
      tensor_set(d, &back, 0, v);
      again = tensor_get(d, &back, 0);
      assert_true(isnan(v) ? isnan(again) : again == v);
    }
  uint8_t one[] = {0x38, 0x40, 0x3c, 0x40, 127, 2, 1, 1, 1, 1};
  for (size_t k = 0; k < sizeof one; k++)
    assert_true(tensor_get((KilnDType)(KILN_F8E4M3FN + k), &one[k], 0) == 1);
  uint16_t h;
  tensor_set(KILN_F16, &h, 0, 1 + 1.0 / 2048); /* a tie goes to even */
  assert_int_equal(h, 0x3c00);
  tensor_set(KILN_F16, &h, 0, 1 + 3.0 / 2048);
  assert_int_equal(h, 0x3c02);
  tensor_set(KILN_F16, &h, 0, 65519);
  assert_int_equal(h, 0x7bff);
  tensor_set(KILN_F16, &h, 0, -65520);
  assert_int_equal(h, 0xfc00);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_plain),      cmocka_unit_test(test_json),
      cmocka_unit_test(test_run_files),  cmocka_unit_test(test_usage),
      cmocka_unit_test(test_text_graph), cmocka_unit_test(test_halves),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
