/* Loops in tensor graphs: the plan's steps give what the interpreter gives, and a body's kernels
 * stand once in the plan, however often they run. */
#include "symbolic_check.h"

#include "compiler/ir/view.h"

typedef struct Machine {
  Sized s;
} Machine;

static UOp *m_local(Machine *m, DType dtype, const int64_t *dims, size_t n) {
  UOp *p = graph_param(&m->s.g, SLOT_LOCAL, dtype, dims, n);
  m->s.g.slots[p->arg.i].state = true;
  m->s.g.tg.nlocals++;
  return p;
}

static UOp *node(Machine *m, Op op, UOp *a, UOp *b) { return uop2(m->s.g.job, op, a, b); }

static UOp *loop_var(Machine *m, int64_t most) {
  size_t k = m->s.g.tg.nvars;
  sized_var(&m->s, VAR_LOOP, 0, most - 1, 1);
  return m->s.var[k];
}

static UOp *i64(Machine *m, int64_t v) { return uop_int(m->s.g.job, DT_I64, v); }

static UOp *make_loop(Machine *m, UOp *var, UOp *count, UOp *cond, UOp *const *effects, size_t n) {
  UOp *src[32] = {var, count, cond ? cond : uop_int(m->s.g.job, DT_BOOL, 1)};
  memcpy(src + 3, effects, n * sizeof *src);
  return uop_make(m->s.g.job, OP_LOOP, DT_VOID, arg_none(), src, n + 3);
}

/* Slots: inputs, outputs, locals; outputs are made before locals with the value set later. */
typedef struct Reserved {
  UOp *param;
  size_t at;
} Reserved;

static Reserved reserve(Machine *m, DType dtype, const int64_t *dims, size_t n) {
  Graph *g = &m->s.g;
  size_t at = g->tg.noutputs;
  return (Reserved){graph_param(g, SLOT_OUTPUT, dtype, dims, n), at};
}

static void set(Machine *m, Reserved r, UOp *value) {
  m->s.g.stores[r.at] = node(m, OP_STORE, r.param, value);
}

static void expect(Machine *m, size_t kernels, const int64_t *given) {
  static const int64_t none[MAX_VARS] = {0};
  sized_finish(&m->s);
  graph_plan(&m->s.g);
  if (m->s.g.plan.ncalls != kernels) {
    show_plan(&m->s.g);
    fail_msg("%zu kernels, expected %zu", m->s.g.plan.ncalls, kernels);
  }
  expect_equal_at(&m->s, given ? given : none);
}

typedef void (*Program)(Machine *m);

static void with_machine(Program fn) {
  Job job;
  static Machine m;
  memset(&m, 0, sizeof m);
  job_init(&job, 0);
  sized_init(&m.s, &job);
  fn(&m);
  job_deinit(&job);
}

/* x = x * 2 + 1, a hundred times */
static void repeated(Machine *m) {
  UOp *x = graph_input(&m->s.g, DIMS(16));
  Reserved y = reserve(m, DT_F32, DIMS(16));
  UOp *c = m_local(m, DT_F32, DIMS(16)), *var = loop_var(m, 100);
  UOp *now = node(m, OP_AFTER, c, var);
  UOp *half = node(m, OP_MUL, now, t_f32(&m->s.g, 0.5));
  UOp *next = node(m, OP_ADD, half, t_f32(&m->s.g, 1));
  UOp *effects[] = {node(m, OP_STORE, c, x), node(m, OP_STORE, now, next)};
  UOp *loop = make_loop(m, var, i64(m, 100), NULL, effects, 2);
  set(m, y, node(m, OP_AFTER, c, loop));
  expect(m, 3, NULL);
}

/* a, b = b, a + b needs one temporary in the body; the results of all iterations are kept. */
static void fibonacci(Machine *m) {
  enum { N = 20 };
  UOp *x = graph_param(&m->s.g, SLOT_INPUT, DT_I64, DIMS(1));
  Reserved y = reserve(m, DT_I64, DIMS(N, 1)), last = reserve(m, DT_I64, DIMS(1));
  UOp *a = m_local(m, DT_I64, DIMS(1)), *b = m_local(m, DT_I64, DIMS(1));
  UOp *all = m_local(m, DT_I64, DIMS(N, 1)), *var = loop_var(m, N);
  UOp *a0 = node(m, OP_AFTER, a, var), *b0 = node(m, OP_AFTER, b, var);
  int64_t k = dim_of(m->s.g.job, var), k1 = dim_add(m->s.g.job, k, 1);
  UOp *row = t_int(&m->s.g, OP_SHRINK, node(m, OP_AFTER, all, var), DIMS(k, k1, 0, 1));
  UOp *effects[] = {node(m, OP_STORE, a, x), node(m, OP_STORE, b, x), node(m, OP_STORE, a0, b0),
                    node(m, OP_STORE, b0, node(m, OP_ADD, a0, b0)),
                    node(m, OP_STORE, row, t_reshape(&m->s.g, a0, DIMS(1, 1)))};
  UOp *loop = make_loop(m, var, i64(m, N), NULL, effects, 5);
  set(m, y, node(m, OP_AFTER, all, loop));
  set(m, last, node(m, OP_AFTER, b, loop));
  expect(m, 8, NULL); /* two before, four in the body, two outputs */
}

/* Doubles until the sum is large: the number of iterations depends on the data. */
static void until(Machine *m) {
  UOp *x = graph_param(&m->s.g, SLOT_INPUT, DT_I64, DIMS(4));
  Reserved y = reserve(m, DT_I64, DIMS(4));
  UOp *c = m_local(m, DT_I64, DIMS(4)), *go = m_local(m, DT_BOOL, NULL, 0);
  UOp *var = loop_var(m, 1 << 16), *now = node(m, OP_AFTER, c, var);
  UOp *next = node(m, OP_ADD, node(m, OP_MUL, now, now), i64(m, 1));
  UOp *sum = t_reshape(&m->s.g, t_reduce(&m->s.g, OP_ADD, next, DIMS(0)), NULL, 0);
  UOp *effects[] = {
      node(m, OP_STORE, c, x), node(m, OP_STORE, go, uop_int(m->s.g.job, DT_BOOL, 1)),
      node(m, OP_STORE, now, next),
      node(m, OP_STORE, node(m, OP_AFTER, go, var), node(m, OP_CMPLT, sum, i64(m, 5000)))};
  UOp *loop = make_loop(m, var, i64(m, 1 << 16), node(m, OP_AFTER, go, var), effects, 4);
  set(m, y, node(m, OP_AFTER, c, loop));
  for (m->s.g.seed = 1; m->s.g.seed < 2; m->s.g.seed++) expect(m, 5, NULL);
}

/* The trip count is an input, none included. */
static void counted(Machine *m, int64_t value) {
  UOp *x = graph_input(&m->s.g, DIMS(4));
  Reserved y = reserve(m, DT_F32, DIMS(4));
  UOp *c = m_local(m, DT_F32, DIMS(4)), *var = loop_var(m, 1 << 16);
  UOp *now = node(m, OP_AFTER, c, var), *next = node(m, OP_ADD, now, x);
  UOp *effects[] = {node(m, OP_STORE, c, x), node(m, OP_STORE, now, next)};
  /* how many: the first element of x, which is never over 2, made larger */
  UOp *first = t_reshape(&m->s.g, t_int(&m->s.g, OP_SHRINK, x, DIMS(0, 1)), NULL, 0);
  UOp *zero = uop_cast(m->s.g.job, node(m, OP_MUL, first, t_f32(&m->s.g, 0)), DT_I64);
  UOp *loop = make_loop(m, var, node(m, OP_ADD, zero, i64(m, value)), NULL, effects, 2);
  set(m, y, node(m, OP_AFTER, c, loop));
  expect(m, 4, NULL);
}
static void counted_none(Machine *m) { counted(m, 0); }
static void counted_some(Machine *m) { counted(m, 37); }

/* A matrix power sum: what does not depend on the iteration is computed once, before. */
static void invariant(Machine *m) {
  UOp *x = graph_input(&m->s.g, DIMS(8, 8)), *w = graph_input(&m->s.g, DIMS(8, 8));
  Reserved y = reserve(m, DT_F32, DIMS(8, 8));
  UOp *c = m_local(m, DT_F32, DIMS(8, 8)), *var = loop_var(m, 5);
  UOp *now = node(m, OP_AFTER, c, var);
  UOp *scaled = uop1(m->s.g.job, OP_EXP, node(m, OP_MUL, w, t_f32(&m->s.g, 0.125)));
  UOp *sum = t_expand(&m->s.g, t_reduce(&m->s.g, OP_ADD, scaled, DIMS(0)), DIMS(8, 8));
  UOp *next = node(m, OP_ADD, node(m, OP_MUL, now, t_f32(&m->s.g, 0.25)), sum);
  UOp *effects[] = {node(m, OP_STORE, c, x), node(m, OP_STORE, now, next)};
  UOp *loop = make_loop(m, var, i64(m, 5), NULL, effects, 2);
  set(m, y, node(m, OP_AFTER, c, loop));
  expect(m, 4, NULL);
  const Plan *p = &m->s.g.plan;
  size_t inside = 0;
  bool in = false;
  for (size_t k = 0; k < p->nsteps; k++) {
    in = p->steps[k].kind == STEP_LOOP || (in && p->steps[k].kind != STEP_END);
    inside += in && p->steps[k].kind == STEP_CALL;
  }
  assert_int_equal(inside, 1);
}

/* for i < 6: s = 0; for j < i: s += x * j; t += s */
static void nested(Machine *m) {
  UOp *x = graph_input(&m->s.g, DIMS(4));
  Reserved y = reserve(m, DT_F32, DIMS(4));
  UOp *t = m_local(m, DT_F32, DIMS(4)), *s = m_local(m, DT_F32, DIMS(4));
  UOp *i = loop_var(m, 6), *j = loop_var(m, 1 << 16);
  UOp *s0 = node(m, OP_AFTER, s, j), *t0 = node(m, OP_AFTER, t, i);
  UOp *zero = t_expand(&m->s.g, t_reshape(&m->s.g, t_f32(&m->s.g, 0), DIMS(1)), DIMS(4));
  UOp *step = node(m, OP_MUL, x, uop_cast(m->s.g.job, j, DT_F32));
  UOp *inner_effects[] = {node(m, OP_STORE, s, zero),
                          node(m, OP_STORE, s0, node(m, OP_ADD, s0, step))};
  UOp *inner = make_loop(m, j, uop_cast(m->s.g.job, i, DT_I64), NULL, inner_effects, 2);
  UOp *sum = node(m, OP_AFTER, s, inner);
  UOp *effects[] = {node(m, OP_STORE, t, x), node(m, OP_STORE, t0, node(m, OP_ADD, t0, sum))};
  UOp *outer = make_loop(m, i, i64(m, 6), NULL, effects, 2);
  set(m, y, node(m, OP_AFTER, t, outer));
  expect(m, 6, NULL);
}

/* Two loops of 0 or 1 iterations into one result: a branch. */
static void branch(Machine *m) {
  UOp *x = graph_input(&m->s.g, DIMS(4));
  UOp *c = graph_param(&m->s.g, SLOT_INPUT, DT_BOOL, NULL, 0);
  Reserved y = reserve(m, DT_F32, DIMS(4));
  UOp *r = m_local(m, DT_F32, DIMS(4)), *v = loop_var(m, 1), *w = loop_var(m, 1);
  UOp *yes = uop_cast(m->s.g.job, c, DT_I64), *no = node(m, OP_SUB, i64(m, 1), yes);
  UOp *a = uop1(m->s.g.job, OP_EXP, node(m, OP_AFTER, x, v));
  UOp *b = uop1(m->s.g.job, OP_NEG, node(m, OP_AFTER, x, w));
  UOp *then[] = {node(m, OP_STORE, node(m, OP_AFTER, r, v), a)};
  UOp *first = make_loop(m, v, yes, NULL, then, 1);
  UOp *otherwise[] = {node(m, OP_AFTER, r, first), node(m, OP_STORE, node(m, OP_AFTER, r, w), b)};
  UOp *second = make_loop(m, w, no, NULL, otherwise, 2);
  set(m, y, node(m, OP_AFTER, r, second));
  expect(m, 5, NULL); /* two counts, two branches, the output */
}

static void programs(void **state) {
  (void)state;
  static const Program all[] = {repeated,     fibonacci, until,  counted_none,
                                counted_some, invariant, nested, branch};
  for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
    printf("program %zu\n", k);
    with_machine(all[k]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(programs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
