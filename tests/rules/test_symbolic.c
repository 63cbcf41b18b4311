/* Every symbolic rule against the op table: random instances of its left side, evaluated before and
 * after one application and after the whole fixpoint; then which rules never fired. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/ir/dim.h"
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

/* -- symbolic sizes ---------------------------------------------------------------------------- */

enum { NSIZES = 3, NRANGES = 4 };

typedef struct Sizes {
  UOp *var[NSIZES], *range[NRANGES];
  int64_t vars[NSIZES], at[NRANGES];
} Sizes;

static int64_t value_at(const Sizes *s, const UOp *u) {
  if (u->op == OP_CONST) return u->arg.i;
  if (u->op == OP_VAR) return s->vars[u->arg.i];
  if (u->op == OP_RANGE) return s->at[u->arg.i];
  Scalar v[3] = {{0}};
  for (uint32_t k = 0; k < u->nsrc; k++) v[k].i = value_at(s, u->src[k]);
  return op_eval((Op)u->op, (DType)u->dtype, DT_INDEX, v).i;
}

static void make_sizes(Job *job, Sizes *s) {
  s->var[0] = uop_var(job, 0, 1, 9, 1), s->var[1] = uop_var(job, 1, 2, 70, 1);
  s->var[2] = uop_var(job, 2, 4, 64, 4);
  UOp *both = uop2(job, OP_MUL, s->var[0], s->var[1]);
  UOp *ends[NRANGES] = {s->var[0], s->var[1], both, uop_index(job, 5)};
  for (int k = 0; k < NRANGES; k++) s->range[k] = uop_range(job, k, AX_LOOP, ends[k]);
}

static void move_point(Gen *g, Sizes *s) {
  s->vars[0] = 1 + (int64_t)gen_random(g, 9), s->vars[1] = 2 + (int64_t)gen_random(g, 69);
  s->vars[2] = 4 + 4 * (int64_t)gen_random(g, 16);
  for (int k = 0; k < NRANGES; k++) {
    s->at[k] = (int64_t)gen_random(g, (uint64_t)value_at(s, s->range[k]->src[0]));
  }
}

static UOp *random_size(Gen *g, const Sizes *s) {
  UOp *n = s->var[gen_random(g, NSIZES)];
  if (gen_random(g, 2)) n = uop2(g->job, OP_MUL, n, uop_index(g->job, 1 + (int)gen_random(g, 8)));
  return gen_random(g, 4) ? n : uop2(g->job, OP_MUL, n, s->var[gen_random(g, NSIZES)]);
}

static UOp *symbolic_index(Gen *g, const Sizes *s, int depth) {
  Job *job = g->job;
  if (!depth) {
    UOp *c = uop_index(job, (int64_t)gen_random(g, 9) - 3);
    return gen_random(g, 6) ? s->range[gen_random(g, NRANGES)] : c;
  }
  UOp *a = symbolic_index(g, s, depth - 1);
  switch (gen_random(g, 8)) {
  case 0: return uop2(job, OP_FLOORDIV, a, random_size(g, s));
  case 1: return uop2(job, OP_FLOORMOD, a, random_size(g, s));
  case 2: return uop2(job, OP_FLOORDIV, a, uop_index(job, 1 + (int)gen_random(g, 8)));
  case 3: return uop2(job, OP_FLOORMOD, a, uop_index(job, 1 + (int)gen_random(g, 8)));
  case 4: return uop2(job, OP_MUL, a, random_size(g, s));
  case 5: return uop2(job, OP_SUB, a, symbolic_index(g, s, depth - 1));
  default: return uop2(job, OP_ADD, a, symbolic_index(g, s, depth - 1));
  }
}

static bool agree_at(Gen *g, Sizes *s, UOp *from, UOp *to) {
  for (int k = 0; k < 3 * POINTS; k++) {
    move_point(g, s);
    if (value_at(s, from) == value_at(s, to)) continue;
    print_error("n = %lld %lld %lld: %lld became %lld\n", (long long)s->vars[0],
                (long long)s->vars[1], (long long)s->vars[2], (long long)value_at(s, from),
                (long long)value_at(s, to));
    return false;
  }
  return true;
}

static void symbolic_steps(Job *job, void *arg) {
  Sweep *sweep = arg;
  Gen g = {.job = job, .rng = sweep->seed};
  Rewrite rw = {.job = job};
  Sizes s;
  make_sizes(job, &s);
  for (int k = 0; k < DEEP && !sweep->failed; k++) {
    UOp *from = symbolic_index(&g, &s, 1 + (int)gen_random(&g, 4));
    static const Op compare[] = {OP_CMPLT, OP_CMPLE, OP_CMPEQ, OP_CMPNE};
    if (gen_random(&g, 3) == 0) {
      from = uop2(job, compare[gen_random(&g, 4)], from, symbolic_index(&g, &s, 2));
    }
    UOp *to = rewrite_graph(&rw, from, rules_symbolic);
    UOp *again = rewrite_graph(&rw, to, rules_symbolic);
    bool same = agree_at(&g, &s, from, to);
    if (same && again == to) continue;
    sweep->failed++;
    show(job, from, "from");
    show(job, to, "once");
    if (again != to) show(job, again, "twice");
  }
}

static void test_symbolic_sizes(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    Sweep s = {.seed = seed};
    run_job(symbolic_steps, &s);
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
      cmocka_unit_test(test_symbolic_sizes),
      cmocka_unit_test(test_every_rule_fires),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
