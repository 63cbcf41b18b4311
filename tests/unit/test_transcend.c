/* The functions of transcend.c, evaluated by the op table, against libm in a wider format. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/map.h"
#include "compiler/rules/rewrite.h"
#include "tests/unit/zoo_targets.h"

enum { BATCH = 1024 };

typedef long double Real;
typedef Real (*Reference)(Real x, Real y);

/* A decomposed op: a list of nodes over one or two inputs. */
typedef struct Graph {
  Job job;
  DType d;
  UOp *in[2], *root;
  UOpList list;
  Scalar *value; /* [node][BATCH] */
} Graph;

static bool no_fma;          /* MULACC rounds twice, as on a target without the instruction */
static const Target *target; /* NULL: none of the ops of native.def */

static UOp *input(Job *job, DType d, int64_t slot) {
  UOp *p = uop_param(job, slot, d, (int64_t[]){1}, 1);
  return uop_make(job, OP_INDEX, DT_VOID, arg_none(), (UOp *[]){p, uop_index(job, 0)}, 2);
}

static void graph_init(Graph *g, Op op, DType d) {
  *g = (Graph){.d = d};
  job_init(&g->job, (size_t)1 << 30);
  for (int k = 0; k < 2; k++) g->in[k] = input(&g->job, d, k);
  UOp *n = uop_make(&g->job, op, DT_VOID, arg_none(), g->in, (size_t)op_info[op].nsrc);
  Rewrite rw = {.job = &g->job, .no_fma = no_fma, .target = target};
  g->root = rewrite_graph(&rw, n, rules_decomp);
  g->list = uop_toposort(&g->job, g->root);
  g->value = calloc(g->list.len * BATCH, sizeof *g->value);
  for (size_t k = 0; k < g->list.len; k++) {
    UOp *u = g->list.at[k];
    assert_false(u->op >= OP_EXP && u->op <= OP_ATAN && u->op != OP_QEXP2);
    assert_false(u->op == OP_POW || u->op == OP_FMOD);
    if (u->op == OP_CONST)
      for (int i = 0; i < BATCH; i++) g->value[k * BATCH + (size_t)i] = uop_const_value(u);
  }
  assert_true(g->root != n);
}

static void graph_deinit(Graph *g) {
  free(g->value);
  job_deinit(&g->job);
}

static Scalar *values(Graph *g, const UOp *u) {
  for (size_t k = 0; k < g->list.len; k++)
    if (g->list.at[k] == u) return g->value + k * BATCH;
  return NULL;
}

static const Scalar *run(Graph *g) {
  for (size_t k = 0; k < g->list.len; k++) {
    UOp *u = g->list.at[k];
    if (!(op_info[u->op].flags & OPF_ALU)) continue;
    const Scalar *src[3] = {0};
    for (uint32_t s = 0; s < u->nsrc; s++) src[s] = values(g, u->src[s]);
    DType from = (DType)u->src[u->nsrc - 1]->dtype;
    Scalar *out = g->value + k * BATCH, product[BATCH];
    Op op = (Op)u->op;
    if (op == OP_MULACC && no_fma) {
      op_eval_many(OP_MUL, (DType)u->dtype, from, src, product, BATCH);
      src[0] = product, src[1] = src[2], op = OP_ADD;
    }
    op_eval_many(op, (DType)u->dtype, from, src, out, BATCH);
  }
  return values(g, g->root);
}

/* The distance in units of the last place that the dtype has at `want`. */
static double ulps(DType d, double got, Real want) {
  int mant = d == DT_F64 ? 53 : d == DT_F32 ? 24 : d == DT_F16 ? 11 : 8;
  int least = d == DT_F64 ? -1074 : d == DT_F32 ? -149 : d == DT_F16 ? -24 : -133;
  int top = d == DT_F64 ? 1024 : d == DT_F16 ? 16 : 128, e;
  if (isnan(want) || isnan(got)) return isnan(want) && isnan(got) ? 0 : INFINITY;
  if (want == 0 && got == 0) return !signbit(want) == !signbit(got) ? 0 : INFINITY;
  if (isinf(want)) return got == (double)want ? 0 : INFINITY;
  (void)frexpl(want, &e);
  int unit = e - mant > least ? e - mant : least;
  if (unit > top - mant) unit = top - mant;
  Real g = isinf(got) ? copysignl(ldexpl(1, top), got) : got;
  if (isinf(got) && fabsl(want) >= ldexpl(1, top)) return 0;
  return (double)(fabsl(g - want) / ldexpl(1, unit));
}

typedef struct Worst {
  double ulp, x, y;
} Worst;

static void measure(Graph *g, Reference f, Worst *w) {
  const Scalar *x = values(g, g->in[0]), *y = values(g, g->in[1]), *r = run(g);
  for (int i = 0; i < BATCH; i++) {
    Real second = y ? y[i].f : 0;
    double e = ulps(g->d, r[i].f, f(x[i].f, second));
    if (e > w->ulp) *w = (Worst){e, x[i].f, (double)second};
  }
}

static uint64_t seed = 1;
static uint64_t random_bits(void) { return hash_u64(seed++); }
static double uniform(double lo, double hi) {
  return lo + (hi - lo) * (double)(random_bits() >> 11) * 0x1p-53;
}

static double from_bits(DType d, uint64_t bits) {
  char bytes[8];
  memcpy(bytes, &bits, sizeof bytes);
  return scalar_load(d, bytes).f;
}

static double round_as(DType d, double v) { return scalar_wrap(d, (Scalar){.f = v}).f; }

/* Numbers over the whole range by bit pattern, and over [-near, near]. */
static Worst sweep(Op op, DType d, Reference f, size_t batches, double near) {
  Graph g;
  Worst w = {0};
  graph_init(&g, op, d);
  for (size_t b = 0; b < batches; b++) {
    Scalar *x = values(&g, g.in[0]);
    for (int i = 0; i < BATCH; i++) {
      double v = (b & 1) ? uniform(-near, near) : from_bits(d, random_bits());
      x[i].f = round_as(d, v);
    }
    measure(&g, f, &w);
  }
  graph_deinit(&g);
  return w;
}

static void specials(Op op, DType d, Reference f) {
  const double list[] = {0.0,
                         -0.0,
                         1,
                         -1,
                         0.5,
                         -0.5,
                         2,
                         10,
                         -10,
                         INFINITY,
                         -INFINITY,
                         NAN,
                         from_bits(d, 1),
                         -from_bits(d, 1),
                         FLT_MIN,
                         -FLT_MIN,
                         FLT_MAX,
                         -FLT_MAX,
                         88.72283,
                         88.72284,
                         88.73,
                         -103.97,
                         -103.98,
                         -87.34,
                         709.78271289338397,
                         709.782712893385,
                         -745.13321910194110,
                         -745.1333,
                         127.99999,
                         128,
                         -149,
                         -150,
                         -151,
                         1023.9999,
                         1024,
                         -1074,
                         -1075.5,
                         DBL_MAX,
                         DBL_MIN,
                         9.01,
                         -9.02,
                         4,
                         -4,
                         3.9,
                         0.625,
                         1e10,
                         33.0,
                         1e5,
                         0x1.921fb6p+1,
                         0x1.921fb54442d18p+1};
  Graph g;
  Worst w = {0};
  graph_init(&g, op, d);
  Scalar *x = values(&g, g.in[0]);
  for (size_t i = 0; i < BATCH; i++) x[i].f = round_as(d, list[i % (sizeof list / sizeof *list)]);
  measure(&g, f, &w);
  if (w.ulp > 2) print_error("%s at %a: %g ulp\n", op_info[op].name, w.x, w.ulp);
  assert_true(w.ulp <= 2);
  graph_deinit(&g);
}

#define REFERENCE(name_, call_)                                                                    \
  static Real name_(Real x, Real y) {                                                              \
    (void)y;                                                                                       \
    return call_;                                                                                  \
  }
REFERENCE(ref_exp, expl(x))
REFERENCE(ref_exp2, exp2l(x))
REFERENCE(ref_log, logl(x))
REFERENCE(ref_log2, log2l(x))
REFERENCE(ref_sin, sinl(x))
REFERENCE(ref_cos, cosl(x))
REFERENCE(ref_tanh, tanhl(x))
REFERENCE(ref_erf, erfl(x))
REFERENCE(ref_atan, atanl(x))
REFERENCE(ref_pow, powl(x, y))
REFERENCE(ref_fmod, fmodl(x, y))

static const struct {
  Op op;
  Reference f;
  double near;
} unary[] = {{OP_EXP, ref_exp, 105},  {OP_EXP2, ref_exp2, 152}, {OP_LOG, ref_log, 3},
             {OP_LOG2, ref_log2, 3},  {OP_SIN, ref_sin, 200},   {OP_COS, ref_cos, 200},
             {OP_TANH, ref_tanh, 10}, {OP_ERF, ref_erf, 4.5},   {OP_ATAN, ref_atan, 4}};

static void check(Op op, DType d, Worst w, double bound) {
  print_message("%-5s %-4s %.3f ulp at %a %a\n", op_info[op].name, dtype_info[d].name, w.ulp, w.x,
                w.y);
  assert_true(w.ulp <= bound);
}

static void test_f32(void **state) {
  (void)state;
  for (size_t k = 0; k < sizeof unary / sizeof *unary; k++) {
    check(unary[k].op, DT_F32, sweep(unary[k].op, DT_F32, unary[k].f, 1000, unary[k].near), 2);
    specials(unary[k].op, DT_F32, unary[k].f);
  }
}

static void test_f64(void **state) {
  (void)state;
  for (size_t k = 0; k < sizeof unary / sizeof *unary; k++) {
    double near = unary[k].near * (unary[k].near > 100 ? 7 : 1);
    check(unary[k].op, DT_F64, sweep(unary[k].op, DT_F64, unary[k].f, 300, near), 4);
    specials(unary[k].op, DT_F64, unary[k].f);
  }
}

static void test_half(void **state) {
  (void)state;
  for (size_t k = 0; k < sizeof unary / sizeof *unary; k++) {
    check(unary[k].op, DT_F16, sweep(unary[k].op, DT_F16, unary[k].f, 100, unary[k].near), 0.51);
    check(unary[k].op, DT_BF16, sweep(unary[k].op, DT_BF16, unary[k].f, 100, unary[k].near), 0.51);
  }
}

/* Pairs: every special with every special, then random ones with a result in range. */
static Worst sweep_pairs(Op op, DType d, Reference f, size_t batches) {
  static const double list[] = {0.0,       -0.0,
                                1,         -1,
                                2,         -2,
                                0.5,       -0.5,
                                3,         -3,
                                1.5,       -1.5,
                                INFINITY,  -INFINITY,
                                NAN,       1e-40,
                                -1e-40,    FLT_MAX,
                                -FLT_MAX,  16777215,
                                -16777215, 16777216,
                                0.1,       -7.25,
                                1e-30,     4503599627370497.0,
                                127,       -149,
                                1.0000001, 0.9999999,
                                1e10,      6};
  Graph g;
  Worst w = {0};
  graph_init(&g, op, d);
  Scalar *x = values(&g, g.in[0]), *y = values(&g, g.in[1]);
  for (int i = 0; i < BATCH; i++) {
    x[i].f = round_as(d, list[i / 32]);
    y[i].f = round_as(d, list[i % 32]);
  }
  measure(&g, f, &w);
  double top = d == DT_F64 ? 1070 : 148;
  for (size_t b = 0; b < batches; b++) {
    for (int i = 0; i < BATCH; i++) {
      double v = b & 1 ? uniform(0.5, 2) : fabs(from_bits(d, random_bits()));
      x[i].f = round_as(d, v);
      if (op == OP_POW)
        y[i].f = round_as(d, uniform(-top, top) / log2(x[i].f));
      else
        y[i].f = b & 1 ? round_as(d, uniform(-1, 1)) : from_bits(d, random_bits());
    }
    measure(&g, f, &w);
  }
  graph_deinit(&g);
  return w;
}

static void test_pow(void **state) {
  (void)state;
  check(OP_POW, DT_F32, sweep_pairs(OP_POW, DT_F32, ref_pow, 600), 1);
  check(OP_POW, DT_F64, sweep_pairs(OP_POW, DT_F64, ref_pow, 200), 4);
  check(OP_POW, DT_F16, sweep_pairs(OP_POW, DT_F16, ref_pow, 20), 0.51);
}

static void test_fmod(void **state) {
  (void)state;
  check(OP_FMOD, DT_F32, sweep_pairs(OP_FMOD, DT_F32, ref_fmod, 600), 0);
  check(OP_FMOD, DT_BF16, sweep_pairs(OP_FMOD, DT_BF16, ref_fmod, 20), 0);
}

static int without_fma(void **state) {
  (void)state;
  no_fma = true;
  return 0;
}
static int with_fma(void **state) {
  (void)state;
  no_fma = false;
  return 0;
}

static int on_gpu(void **state) {
  (void)state;
  target = &zoo_cuda;
  return 0;
}

/* Vectors: the same graph in lanes, and its size. */
static void test_lanes(void **state) {
  (void)state;
  Job job;
  job_init(&job, (size_t)1 << 30);
  UOp *p = uop_param(&job, 0, DT_F32, (int64_t[]){64}, 1);
  UOp *x = uop_make_lanes(&job, OP_LOAD, DT_VOID, 8, arg_i(1), (UOp *[]){p, uop_index(&job, 0)}, 2);
  for (size_t k = 0; k < sizeof unary / sizeof *unary; k++) {
    Rewrite rw = {.job = &job};
    UOp *v = rewrite_graph(&rw, uop1(&job, unary[k].op, x), rules_decomp);
    assert_int_equal(v->lanes, 8);
    UOpList list = uop_toposort(&job, v);
    int ops = 0;
    for (size_t i = 0; i < list.len; i++) {
      UOp *u = list.at[i];
      if (!(op_info[u->op].flags & OPF_ALU)) continue;
      ops += u->op != OP_BITCAST;
      for (uint32_t s = 0; s < u->nsrc; s++) assert_int_equal(u->src[s]->lanes, 8);
    }
    print_message("%s: %d vector ops\n", op_info[unary[k].op].name, ops);
  }
  job_deinit(&job);
}

/* Powers by a constant, against pow. */
static void check_power(double exponent, double bound) {
  Graph g = {.d = DT_F32};
  Worst w = {0};
  job_init(&g.job, (size_t)1 << 28);
  g.in[0] = input(&g.job, DT_F32, 0);
  g.in[1] = uop_float(&g.job, DT_F32, exponent);
  Rewrite rw = {.job = &g.job};
  g.root = rewrite_graph(&rw, uop2(&g.job, OP_POW, g.in[0], g.in[1]), rules_decomp);
  UOp *with_exponent = uop2(&g.job, OP_ADD, g.root, g.in[1]); /* so that the list holds both */
  g.list = uop_toposort(&g.job, with_exponent);
  g.value = calloc(g.list.len * BATCH, sizeof *g.value);
  for (size_t k = 0; k < g.list.len; k++)
    for (int i = 0; i < BATCH && g.list.at[k]->op == OP_CONST; i++)
      g.value[k * BATCH + (size_t)i] = uop_const_value(g.list.at[k]);
  const double edge[] = {0.0, -0.0, 1, -1, INFINITY, -INFINITY, NAN, 1e-45, -1e-45, FLT_MAX};
  for (size_t b = 0; b < 50; b++) {
    Scalar *x = values(&g, g.in[0]);
    for (int i = 0; i < BATCH; i++) {
      double v = b ? from_bits(DT_F32, random_bits()) : edge[i % 10];
      x[i].f = round_as(DT_F32, v);
    }
    measure(&g, ref_pow, &w);
  }
  assert_int_not_equal(g.root->op, OP_POW);
  print_message("pow(x, %g): %.3f ulp at %a\n", exponent, w.ulp, w.x);
  assert_true(w.ulp <= bound);
  graph_deinit(&g);
}

static void test_constant_powers(void **state) {
  (void)state;
  check_power(2, 0.5);
  check_power(3, 1.5);
  check_power(-1, 0.5);
  check_power(0.5, 0.5);
}

static void test_contraction(void **state) {
  (void)state;
  Job job;
  job_init(&job, (size_t)1 << 28);
  Rewrite rw = {.job = &job};
  for (int half = 0; half < 2; half++) {
    DType d = half ? DT_F16 : DT_F32;
    UOp *a = input(&job, d, 0), *b = input(&job, d, 1), *c = input(&job, d, 2);
    UOp *m = uop2(&job, OP_MUL, a, b);
    UOp *sum[] = {uop2(&job, OP_ADD, c, m), uop2(&job, OP_SUB, m, c), uop2(&job, OP_SUB, c, m)};
    for (int k = 0; k < 3; k++) {
      UOp *to = rewrite_graph(&rw, sum[k], rules_decomp);
      if (half)
        assert_ptr_equal(to, sum[k]);
      else
        assert_int_equal(to->op, OP_MULACC);
    }
  }
  UOp *one = uop_float(&job, DT_F32, 1);
  UOp *wide = uop_make_lanes(&job, OP_BROADCAST, DT_VOID, 8, arg_none(), &one, 1);
  wide = rewrite_graph(&rw, wide, rules_decomp);
  assert_true(wide->op == OP_CONST && wide->lanes == 8);
  job_deinit(&job);
}

/* Machine code has no conversions of the storage dtypes: test_small.c has their values. */
static void test_storage_casts(void **state) {
  (void)state;
  Job job;
  job_init(&job, (size_t)1 << 28);
  Rewrite rw = {.job = &job};
  UOp *from = uop_cast(&job, input(&job, DT_F8E4M3FN, 0), DT_F32);
  UOp *to = rewrite_graph(&rw, uop_cast(&job, input(&job, DT_F32, 1), DT_F8E4M3FN), rules_decomp);
  assert_int_equal(to->dtype, DT_F8E4M3FN);
  assert_true(to->op != OP_CAST);
  assert_true(rewrite_graph(&rw, from, rules_decomp)->op != OP_CAST);
  job_deinit(&job);
}

static int with_scale(void **state) {
  static const Target scales = {.features = "+fma,+avx512f"};
  (void)state;
  target = &scales;
  return 0;
}
static int without_scale(void **state) {
  (void)state;
  target = NULL;
  return 0;
}

static void test_every_rule_fires(void **state) {
  (void)state;
  for (const RuleInfo *r = rules_decomp_info; r->file; r++) {
    if (!*r->hits) fail_msg("never fired: %s:%d %s", r->file, r->line, r->text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_f32),
      cmocka_unit_test(test_f64),
      cmocka_unit_test(test_half),
      cmocka_unit_test(test_pow),
      cmocka_unit_test(test_fmod),
      cmocka_unit_test_setup_teardown(test_f32, without_fma, with_fma),
      cmocka_unit_test_setup_teardown(test_f64, without_fma, with_fma),
      cmocka_unit_test_setup_teardown(test_pow, without_fma, with_fma),
      cmocka_unit_test_setup_teardown(test_fmod, without_fma, with_fma),
      cmocka_unit_test_setup_teardown(test_f32, with_scale, without_scale),
      cmocka_unit_test_setup_teardown(test_f64, with_scale, without_scale),
      cmocka_unit_test_setup_teardown(test_half, with_scale, without_scale),
      cmocka_unit_test_setup_teardown(test_f32, on_gpu, without_scale),
      cmocka_unit_test_setup_teardown(test_half, on_gpu, without_scale),
      cmocka_unit_test(test_lanes),
      cmocka_unit_test(test_constant_powers),
      cmocka_unit_test(test_contraction),
      cmocka_unit_test(test_storage_casts),
      cmocka_unit_test(test_every_rule_fires),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
