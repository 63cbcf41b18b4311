/* What the algebra must find, and what a rewrite may cost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "compiler/ir/text.h"
#include "compiler/rules/rewrite.h"

static Job job;

static int setup(void **state) {
  (void)state;
  job_init(&job, (size_t)1 << 31);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  job_deinit(&job);
  return 0;
}

static UOp *simplify(UOp *u) {
  Rewrite rw = {.job = &job};
  return rewrite_graph(&rw, u, rules_symbolic);
}

static UOp *ix(int64_t v) { return uop_index(&job, v); }
static UOp *range(int64_t id, int64_t size) { return uop_range(&job, id, AX_LOOP, ix(size)); }
static UOp *add(UOp *a, UOp *b) { return uop2(&job, OP_ADD, a, b); }
static UOp *mul(UOp *a, int64_t k) { return uop2(&job, OP_MUL, a, ix(k)); }
static UOp *quo(UOp *a, int64_t k) { return uop2(&job, OP_FLOORDIV, a, ix(k)); }
static UOp *rem(UOp *a, int64_t k) { return uop2(&job, OP_FLOORMOD, a, ix(k)); }
static UOp *lt(UOp *a, UOp *b) { return uop2(&job, OP_CMPLT, a, b); }
static UOp *load(UOp *p, UOp *i) {
  return uop_make(&job, OP_INDEX, DT_VOID, arg_none(), (UOp *[]){p, i}, 2);
}

#define assert_becomes(from, to)                                                                   \
  do {                                                                                             \
    UOp *got_ = simplify(from), *want_ = simplify(to);                                             \
    if (got_ != want_) explain(got_, want_);                                                       \
    assert_ptr_equal(got_, want_);                                                                 \
  } while (0)

static void explain(UOp *got, UOp *want) {
  StrBuf b = {0};
  strbuf_adds(&b, "got\n");
  uop_print(&job, got, &b);
  strbuf_adds(&b, "expected\n");
  uop_print(&job, want, &b);
  print_error("%s", b.ptr);
  strbuf_deinit(&b);
}

static void test_div_mod(void **state) {
  (void)state;
  UOp *a = range(0, 8), *b = range(1, 4), *c = range(2, 6), *flat = add(mul(a, 4), b);
  assert_becomes(quo(flat, 4), a);
  assert_becomes(rem(flat, 4), b);
  assert_becomes(quo(flat, 8), quo(a, 2));
  assert_becomes(rem(flat, 8), add(mul(rem(a, 2), 4), b));
  assert_becomes(add(mul(quo(flat, 6), 6), rem(flat, 6)), flat);
  assert_becomes(quo(quo(c, 2), 3), ix(0));
  assert_becomes(quo(rem(flat, 12), 4), rem(a, 3));
  assert_becomes(add(mul(rem(quo(flat, 3), 5), 3), rem(flat, 3)), rem(flat, 15));
  /* reshape [8,4,6] -> [32,6] -> [192] -> [8,24] and back */
  UOp *all = add(mul(flat, 6), c);
  assert_becomes(add(mul(quo(all, 24), 24), rem(all, 24)), all);
  assert_becomes(quo(rem(all, 24), 6), b);
  assert_becomes(rem(rem(all, 24), 6), c);
  assert_becomes(rem(add(all, ix(24)), 24), rem(all, 24));
  assert_becomes(quo(add(mul(a, 6), ix(5)), 3), add(mul(a, 2), ix(1)));
}

static void test_comparisons(void **state) {
  (void)state;
  UOp *a = range(0, 8), *b = range(1, 4), *flat = add(mul(a, 4), b),
      *yes = uop_int(&job, DT_BOOL, 1);
  assert_becomes(lt(flat, ix(32)), yes);
  assert_becomes(lt(flat, ix(16)), lt(a, ix(4)));
  assert_becomes(lt(quo(a, 2), ix(2)), lt(a, ix(4)));
  assert_becomes(lt(add(a, ix(-1)), ix(3)), lt(a, ix(4)));
  assert_becomes(lt(mul(a, 3), ix(10)), lt(a, ix(4)));
  assert_becomes(uop2(&job, OP_CMPEQ, mul(a, 2), ix(3)), uop_int(&job, DT_BOOL, 0));
  assert_becomes(uop2(&job, OP_CMPEQ, mul(a, 2), ix(6)), uop2(&job, OP_CMPEQ, a, ix(3)));
  UOp *window = uop2(&job, OP_AND, lt(ix(2), a), lt(a, ix(3)));
  assert_becomes(window, uop_int(&job, DT_BOOL, 0));
  assert_becomes(uop2(&job, OP_AND, lt(a, ix(5)), lt(a, ix(3))), lt(a, ix(3)));
}

static UOp *sum(UOp *x, UOp *r) { return uop_reduce(&job, OP_ADD, x, &r, 1); }

static void test_closed_forms(void **state) {
  (void)state;
  UOp *r = range(0, 10000), *i = range(1, 7),
      *p = uop_param(&job, 1, DT_F32, (int64_t[]){99999}, 1);
  UOp *zero = uop_float(&job, DT_F32, 0), *one = uop_float(&job, DT_F32, 1);
  assert_becomes(sum(uop_cast(&job, r, DT_F32), r), uop_float(&job, DT_F32, 49995000));
  assert_becomes(sum(add(mul(r, 3), i), r), add(mul(i, 10000), ix(3 * 49995000)));
  /* arange as a cumulative sum of ones */
  UOp *upto = uop2(&job, OP_CMPLE, r, i);
  assert_becomes(sum(uop3(&job, OP_WHERE, upto, one, zero), r),
                 uop_cast(&job, add(i, ix(1)), DT_F32));
  /* one-hot: x[i] as a sum over all r */
  UOp *x = load(p, add(mul(r, 7), i)), *hit = uop2(&job, OP_CMPEQ, r, i);
  assert_becomes(sum(uop3(&job, OP_WHERE, hit, x, zero), r), load(p, mul(i, 8)));
  /* with an index from data the load is gated */
  UOp *q = uop_param(&job, 2, DT_I64, (int64_t[]){7}, 1), *e = load(q, i);
  hit = uop2(&job, OP_CMPEQ, uop_cast(&job, r, DT_I64), e);
  UOp *got = simplify(sum(uop3(&job, OP_WHERE, hit, load(p, r), zero), r));
  assert_int_equal(got->op, OP_INDEX);
  assert_int_equal(got->nsrc, 3);
  UOp *v = load(p, i);
  assert_becomes(sum(v, r), uop2(&job, OP_MUL, v, uop_float(&job, DT_F32, 10000)));
  assert_becomes(uop_reduce(&job, OP_MAX, v, &r, 1), v);
}

/* Graphs made to hurt: sharing that doubles per step, conjunctions deeper than a stack. */
static void test_hostile_graphs(void **state) {
  (void)state;
  UOp *r = range(0, 100), *x = uop_cast(&job, r, DT_F32);
  for (int k = 0; k < 60; k++) x = add(x, x);
  assert_int_equal(simplify(sum(x, r))->dtype, DT_F32);
  UOp *i = uop_cast(&job, load(uop_param(&job, 1, DT_I32, (int64_t[]){9}, 1), ix(0)), DT_INDEX);
  for (int k = 0; k < 60; k++) i = add(uop2(&job, OP_MUL, i, i), i);
  simplify(i);
  UOp *all = lt(i, ix(0));
  for (int k = 0; k < 200000; k++) {
    UOp *p = uop_param(&job, 2, DT_BOOL, (int64_t[]){200000}, 1);
    all = uop2(&job, OP_AND, all, load(p, ix(k)));
  }
  simplify(all); /* ends at all: sharing is seen once, and no conjunction is taken apart twice */
}

static void test_floats_are_exact(void **state) {
  (void)state;
  UOp *x = load(uop_param(&job, 0, DT_F32, (int64_t[]){9}, 1), range(0, 9));
  UOp *zero = uop_float(&job, DT_F32, 0);
  assert_ptr_equal(simplify(add(x, zero)), add(x, zero));
  assert_ptr_equal(simplify(uop2(&job, OP_MUL, x, zero)), uop2(&job, OP_MUL, x, zero));
  assert_ptr_equal(simplify(uop2(&job, OP_FDIV, x, x)), uop2(&job, OP_FDIV, x, x));
  assert_ptr_equal(simplify(uop2(&job, OP_SUB, x, x)), uop2(&job, OP_SUB, x, x));
  assert_ptr_equal(simplify(uop2(&job, OP_CMPEQ, x, x)), uop2(&job, OP_CMPEQ, x, x));
  assert_ptr_equal(simplify(add(x, uop_float(&job, DT_F32, -0.0))), x);
}

/* Rules that lead in a circle are reported, not run forever. */
static UOp *circle(Rewrite *rw, UOp *n) {
  if (n->op != OP_ADD && n->op != OP_SUB) return NULL;
  return uop2(rw->job, n->op == OP_ADD ? OP_SUB : OP_ADD, n->src[0], n->src[1]);
}
static void run_circle(Job *j, void *arg) {
  Rewrite rw = {.job = j};
  rewrite_graph(&rw, arg, circle);
}
static void test_endless_rules(void **state) {
  (void)state;
  Status st = job_run(&job, run_circle, add(range(0, 3), range(1, 3)));
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
}

static void test_trace(void **state) {
  (void)state;
  RewriteTrace trace = {0};
  Rewrite rw = {.job = &job, .trace = &trace};
  UOp *a = range(0, 8);
  rewrite_graph(&rw, rem(add(mul(a, 4), range(1, 4)), 4), rules_symbolic);
  assert_int_equal(trace.len, 1);
  assert_string_equal(op_info[trace.at[0].from->op].name, "FLOORMOD");
  assert_non_null(trace.at[0].rule->text);
}

static size_t asked;
static UOp *counted(Rewrite *rw, UOp *n) {
  asked++;
  return rules_symbolic(rw, n);
}

/* How often rules are asked about a chain of n ops, half of them with something to simplify. */
static size_t chain_cost(size_t n) {
  Job j;
  job_init(&j, (size_t)1 << 32);
  UOp *p = uop_param(&j, 0, DT_F32, (int64_t[]){4}, 1);
  UOp *x = uop_make(&j, OP_INDEX, DT_VOID, arg_none(), (UOp *[]){p, uop_index(&j, 0)}, 2);
  for (size_t k = 0; k < n; k++) {
    UOp *c = uop_float(&j, DT_F32, (double)(k % 97) + 2);
    x = k % 2 ? uop2(&j, OP_MUL, uop1(&j, OP_NEG, uop1(&j, OP_NEG, x)), c) : uop2(&j, OP_ADD, x, c);
  }
  Rewrite rw = {.job = &j};
  asked = 0;
  rewrite_graph(&rw, x, counted);
  job_deinit(&j);
  return asked;
}

static void test_linear_cost(void **state) {
  (void)state;
  size_t small = chain_cost(2000), large = chain_cost(200000);
  assert_in_range(small, 2000, 5 * 2000);
  assert_in_range(large, 100 * small - 10000, 100 * small + 10000);
}

/* Every node is seen once, however much is shared. */
static void test_silent_cost(void **state) {
  (void)state;
  Job j;
  job_init(&j, (size_t)1 << 32);
  UOp *p = uop_param(&j, 0, DT_F32, (int64_t[]){4}, 1);
  UOp *x = uop_make(&j, OP_INDEX, DT_VOID, arg_none(), (UOp *[]){p, uop_index(&j, 0)}, 2), *y = x;
  enum { N = 100000 };
  for (int k = 0; k < N; k++) {
    UOp *t = uop2(&j, k % 2 ? OP_MUL : OP_ADD, x, y);
    y = x, x = t;
  }
  Rewrite rw = {.job = &j};
  asked = 0;
  assert_ptr_equal(rewrite_graph(&rw, x, counted), x);
  assert_int_equal(asked, uop_toposort(&j, x).len);
  job_deinit(&j);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_div_mod),
      cmocka_unit_test(test_comparisons),
      cmocka_unit_test(test_closed_forms),
      cmocka_unit_test(test_hostile_graphs),
      cmocka_unit_test(test_floats_are_exact),
      cmocka_unit_test(test_endless_rules),
      cmocka_unit_test(test_trace),
      cmocka_unit_test(test_linear_cost),
      cmocka_unit_test(test_silent_cost),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
