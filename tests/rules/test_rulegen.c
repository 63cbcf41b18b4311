/* The rule compiler on bad rules: each is refused, with the file, the line and the reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char good[] = "ruleset bad # two good rules first\n"
                           "ADD(x:int, 0) => x\n"
                           "for OP in AND OR: OP(OP(x, #a), #b) => OP(x, OP(a, b))\n";

static char dir[64];

/* Writes the rules, runs rulegen, gives its exit status and the first line it said. */
static int compile(const char *rules, char *said, size_t size) {
  char path[128], command[512];
  snprintf(path, sizeof path, "%s/bad.rules", dir);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(rules, f);
  fclose(f);
  snprintf(command, sizeof command, "%s %s %s/bad.inc 2>&1", RULEGEN, path, dir);
  FILE *p = popen(command, "r");
  assert_non_null(p);
  if (!fgets(said, (int)size, p)) said[0] = 0;
  int status = pclose(p);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void refused(const char *rule, const char *reason) {
  char text[1024], said[512], where[160];
  snprintf(text, sizeof text, "%s%s\n", good, rule);
  int status = compile(text, said, sizeof said);
  snprintf(where, sizeof where, "%s/bad.rules:4: ", dir);
  if (status == 0) fail_msg("accepted: %s", rule);
  if (strncmp(said, where, strlen(where)) != 0) fail_msg("no file and line in: %s", said);
  if (!strstr(said, reason)) fail_msg("expected '%s' for %s, got: %s", reason, rule, said);
}

static void test_good(void **state) {
  (void)state;
  char said[512];
  assert_int_equal(compile(good, said, sizeof said), 0);
  assert_string_equal(said, "");
}

static void test_names(void **state) {
  (void)state;
  refused("SUB(x, MUL(x, 1)) => MUL(x, y)", "'y' is not bound");
  refused("ADDD(x, 0) => x", "'ADDD' is not an op");
  refused("MUL(x:foo, y) => x", "'foo' is not a dtype class");
  refused("MUL(rw, y) => y", "reserved");
  refused("REDUCE(x, ...) => REDUCE[=q](x, ...)", "'q' is not bound");
}

static void test_shapes(void **state) {
  (void)state;
  refused("ADD(x, y, z) => x", "ADD has 2 sources, got 3");
  refused("NEG(x, ...) => x", "fixed number of sources");
  refused("NEG(x) => CAST(x)", "CAST needs [dtype]");
  refused("x => x", "must start with an op");
  refused("NEG(x) => x y", "trailing text");
  refused("NEG(x) => { foo(", "expected");
  refused("NEG(x)", "expected '=>'");
}

static void test_dtypes(void **state) {
  (void)state;
  refused("CMPLT(x, y) => ADD(x, y)", "the two sides may differ in dtype");
  refused("WHERE(g, a, b) => MUL(g, a)", "no dtype fits");
  refused("SHL(x:float, y) => x", "no dtype fits 'x'");
  refused("ADD(x, x) => AND(x, x)", "the result does not exist for every dtype");
  refused("MUL(x, 3) => FDIV(x, 2.0)", "the result does not exist for every dtype");
  refused("CMPEQ(CMPLT(x, x), CMPLT(y, y)) => CMPLT(x, y)", "to one dtype");
}

static void test_shadowed(void **state) {
  (void)state;
  refused("ADD(y:index, 0) => y", "never reached");
  refused("ADD(0, MUL(y:int, z)) => z", "never reached");
  refused("OR(OR(3, #c), #d) => c", "never reached");
}

static int make_dir(void **state) {
  (void)state;
  snprintf(dir, sizeof dir, "/tmp/rulegen-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  char path[128];
  snprintf(path, sizeof path, "%s/bad.rules", dir);
  unlink(path);
  snprintf(path, sizeof path, "%s/bad.inc", dir);
  unlink(path);
  return rmdir(dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good),   cmocka_unit_test(test_names),    cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_dtypes), cmocka_unit_test(test_shadowed),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
