/* The self-tests of float rules can fail: each of wrong.rules, which are true of real numbers, is
 * told from the op table by its own generated instances, so these draw NaN, infinities, signed
 * zeros and what overflows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/rules/gen.h"

UOp *rules_wrong(Rewrite *rw, UOp *n);
extern const RuleInfo rules_wrong_info[];
#include "tests/rules/wrong.inc"
#define RULE_SELF_TEST
#include "tests/rules/wrong.inc"

enum { N_RULES = sizeof wrong_instances / sizeof *wrong_instances, INSTANCES = 100, POINTS = 6 };

/* Whether the instances of rule k show it to be wrong, as test_symbolic.c would. */
static bool caught(Gen *g, int k) {
  Rewrite rw = {.job = g->job};
  for (int t = 0; t < INSTANCES; t++) {
    gen_sizes(g);
    UOp *from = wrong_instances[k](g), *to = rules_wrong(&rw, from);
    if (!to || rw.last != &rules_wrong_info[k]) continue;
    for (int p = 0; p < POINTS; p++) {
      gen_point(g);
      Scalar a = gen_eval(g, from), b = gen_eval(g, to);
      if (!gen_same(g, (DType)from->dtype, a, b)) return true;
    }
  }
  return false;
}

static void check(Job *job, void *arg) {
  Gen g = {.job = job, .rng = 1};
  int *missed = arg;
  for (int k = 0; k < N_RULES; k++) {
    if (caught(&g, k)) continue;
    print_error("not caught: %s\n", rules_wrong_info[k].text);
    ++*missed;
  }
}

static void test_every_wrong_rule_is_caught(void **state) {
  (void)state;
  Job job;
  int missed = 0;
  job_init(&job, (size_t)1 << 28);
  assert_null(job_run(&job, check, &missed));
  job_deinit(&job);
  assert_true(N_RULES >= 19);
  assert_int_equal(missed, 0);
}

/* The values themselves, as loads and as constants. */
static void draws(Job *job, void *arg) {
  Gen g = {.job = job, .rng = 7};
  bool *ok = arg, seen[2][6] = {{false}};
  for (int t = 0; t < 2000; t++) {
    gen_sizes(&g);
    gen_point(&g);
    for (int constant = 0; constant < 2; constant++) {
      double v = gen_eval(&g, constant ? gen_const(&g, DT_F32) : gen_value(&g, DT_F32)).f;
      bool is[6] = {isnan(v),
                    v == INFINITY,
                    v == -INFINITY,
                    v == 0 && signbit(v),
                    v == 0 && !signbit(v),
                    v != 0 && fabs(v) < 0x1p-126};
      for (int k = 0; k < 6; k++) seen[constant][k] |= is[k];
    }
  }
  *ok = true;
  for (int k = 0; k < 12; k++) *ok &= seen[k / 6][k % 6];
}

static void test_draws(void **state) {
  (void)state;
  Job job;
  bool ok = false;
  job_init(&job, (size_t)1 << 28);
  assert_null(job_run(&job, draws, &ok));
  job_deinit(&job);
  assert_true(ok);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_wrong_rule_is_caught),
      cmocka_unit_test(test_draws),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
