/* Every symbolic rule against the op table: random instances of its left side, evaluated before and
 * after one application and after the whole fixpoint; then which rules never fired. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/ir/text.h"
#include "tests/rules/gen.h"

#define RULE_SELF_TEST
#include "compiler/rules/symbolic.inc"

enum {
  N_RULES = sizeof symbolic_instances / sizeof *symbolic_instances,
  INSTANCES = 100,
  SEEDS = 8,
  POINTS = 6,
  DEEP = 3000
};

static void show(Job *job, UOp *u, const char *what) {
  StrBuf b = {0};
  uop_print(job, u, &b);
  print_error("%s:\n%s\n", what, b.ptr ? b.ptr : "");
  strbuf_deinit(&b);
}

static bool agree(Gen *g, UOp *from, UOp *to, const RuleInfo *rule) {
  DType d = from->dtype == DT_VOID ? DT_I64 : (DType)from->dtype;
  for (int k = 0; k < POINTS; k++) {
    gen_point(g);
    Scalar a = gen_eval(g, from), b = gen_eval(g, to);
    if (gen_same(g, d, a, b)) continue;
    if (dtype_is_float(d))
      print_error("%s:%d: %g became %g\n", rule->file, rule->line, a.f, b.f);
    else
      print_error("%s:%d: %lld became %lld\n", rule->file, rule->line, (long long)a.i,
                  (long long)b.i);
    print_error("  %s\n", rule->text);
    show(g->job, from, "from");
    show(g->job, to, "to");
    return false;
  }
  return true;
}

/* One random instance of rule k; counts what went wrong. */
static int try_instance(Gen *g, int k) {
  gen_sizes(g);
  Rewrite rw = {.job = g->job};
  UOp *from = symbolic_instances[k](g);
  UOp *to = rules_symbolic(&rw, from);
  if (!to) return 0;
  if (!agree(g, from, to, rw.last)) return 1;
  UOp *full = rewrite_graph(&rw, from, rules_symbolic);
  if (!agree(g, from, full, &rules_symbolic_info[k])) return 1;
  UOp *again = rewrite_graph(&rw, full, rules_symbolic);
  if (again == full) return 0;
  print_error("%s:%d: not idempotent\n", rules_symbolic_info[k].file, rules_symbolic_info[k].line);
  show(g->job, full, "once");
  show(g->job, again, "twice");
  return 1;
}

typedef struct Sweep {
  int failed;
  uint64_t seed;
} Sweep;

static void sweep(Job *job, void *arg) {
  Sweep *s = arg;
  Gen g = {.job = job, .rng = s->seed};
  for (int k = 0; k < N_RULES; k++) {
    int failed = 0;
    for (int t = 0; t < INSTANCES && !failed; t++) failed = try_instance(&g, k);
    s->failed += failed;
  }
}

static void run_job(JobFn fn, Sweep *s) {
  Job job;
  job_init(&job, (size_t)1 << 31);
  Status st = job_run(&job, fn, s);
  char text[256] = "";
  if (st) status_text(st, text, sizeof text);
  assert_string_equal(text, "");
  job_deinit(&job);
}

static void test_values(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    Sweep s = {.seed = seed};
    run_job(sweep, &s);
    assert_int_equal(s.failed, 0);
  }
}

/* Index arithmetic as reshapes, pads and windows make it: deeper than the instances. */
static UOp *deep_index(Gen *g, int depth) {
  static const Op ops[] = {OP_ADD,      OP_ADD,      OP_ADD,      OP_SUB, OP_MUL, OP_FLOORDIV,
                           OP_FLOORDIV, OP_FLOORMOD, OP_FLOORMOD, OP_MAX, OP_MIN};
  if (!depth) return gen_random(g, 5) ? gen_value(g, DT_INDEX) : gen_const(g, DT_INDEX);
  UOp *a = deep_index(g, depth - 1);
  if (!gen_random(g, 12)) {
    UOp *c = uop2(g->job, OP_CMPLT, deep_index(g, depth - 1), gen_const(g, DT_INDEX));
    return uop3(g->job, OP_WHERE, c, a, deep_index(g, depth - 1));
  }
  Op op = ops[gen_random(g, sizeof ops / sizeof *ops)];
  bool factor = op == OP_MUL || op == OP_FLOORDIV || op == OP_FLOORMOD;
  UOp *b = factor ? uop_index(g->job, (int64_t[]){1, 2, 3, 4, 6, 8, 12, 24}[gen_random(g, 8)])
                  : deep_index(g, depth - 1);
  return uop2(g->job, op, a, b);
}

static void deep(Job *job, void *arg) {
  Sweep *s = arg;
  Gen g = {.job = job, .rng = s->seed};
  Rewrite rw = {.job = job};
  for (int k = 0; k < DEEP && !s->failed; k++) {
    gen_sizes(&g);
    UOp *from = deep_index(&g, 1 + (int)gen_random(&g, 4));
    if (gen_random(&g, 3) == 0)
      from = uop2(job, gen_random(&g, 2) ? OP_CMPLT : OP_CMPEQ, from, deep_index(&g, 2));
    UOp *to = rewrite_graph(&rw, from, rules_symbolic);
    if (!agree(&g, from, to, &rules_symbolic_info[0])) s->failed++;
    UOp *again = rewrite_graph(&rw, to, rules_symbolic);
    if (again == to) continue;
    s->failed++;
    show(job, to, "once");
    show(job, again, "twice");
  }
}

static void test_deep_index(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    Sweep s = {.seed = seed};
    run_job(deep, &s);
    assert_int_equal(s.failed, 0);
  }
}

static void test_every_rule_fires(void **state) {
  (void)state;
  int silent = 0;
  for (int k = 0; k < N_RULES; k++) {
    if (*rules_symbolic_info[k].hits) continue;
    silent++;
    print_error("never fired: %s:%d %s\n", rules_symbolic_info[k].file, rules_symbolic_info[k].line,
                rules_symbolic_info[k].text);
  }
  assert_int_equal(silent, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_values),
      cmocka_unit_test(test_deep_index),
      cmocka_unit_test(test_every_rule_fires),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
