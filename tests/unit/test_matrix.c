/* Matrix instructions: the table is consistent, and a contraction scheduled with TC computes what
 * the kernel says, scheduled, and lowered for every thread of a launch, by the interpreter, for
 * chosen and for random opts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "compiler/ir/interp.h"
#include "compiler/ir/matrix.h"
#include "tests/unit/zoo_check.h"

static uint64_t random_state = 7;
static uint32_t random_below(uint32_t n) { return zoo_below(&random_state, n); }

/* -- the table -------------------------------------------------------------------------------- */

static void elements_once(void **state) {
  (void)state;
  for (int id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    const unsigned size[3][2] = {{info->m, info->k}, {info->n, info->k}, {info->m, info->n}};
    for (int o = 0; o < 3; o++) {
      const MatrixLayout *l = &info->layout[o];
      bool seen[64 * 64] = {0};
      for (unsigned t = 0; t < info->threads; t++)
        for (unsigned r = 0; r < l->registers; r++) {
          unsigned at[2], thread, reg;
          matrix_element(l, info, t, r, at);
          assert_true(at[0] < size[o][0] && at[1] < size[o][1]);
          assert_false(seen[at[0] * 64 + at[1]]);
          seen[at[0] * 64 + at[1]] = true;
          matrix_find(l, info, at[0], at[1], &thread, &reg);
          assert_int_equal(thread, t);
          assert_int_equal(reg, r);
        }
      assert_int_equal(info->threads * l->registers, size[o][0] * size[o][1]);
    }
  }
}

static void targets(void **state) {
  (void)state;
  Target old = zoo_cuda, cpu = zoo_cuda;
  old.cpu = "sm_75";
  cpu.max_group = cpu.warp = 0, cpu.cpu = "x86-64";
  assert_true(matrix_on(matrix_info(MX_BF16_M16N8K16), &zoo_cuda));
  assert_false(matrix_on(matrix_info(MX_BF16_M16N8K16), &old));
  assert_true(matrix_on(matrix_info(MX_F16_M16N8K8), &old));
  assert_false(matrix_on(matrix_info(MX_F16_M16N8K16), &cpu));
  assert_null(matrix_info(MX__COUNT));
  assert_null(matrix_info(-1));
}

/* -- kernels ---------------------------------------------------------------------------------- */

typedef struct Shape {
  DType a, b, c; /* c: of the sum; stored as a, or as c where that is an integer */
  int64_t m, n, k;
  bool ta, tb;   /* A is [k, m], B [n, k] */
  bool prologue; /* the maximum of A and 0 */
} Shape;

static ZooKernel contraction(Job *job, const Shape *s) {
  Zoo z = {.job = job};
  DType out = dtype_is_float(s->c) ? s->a : s->c;
  (void)zoo_param(&z, out, s->m * s->n);
  UOp *a = zoo_param(&z, s->a, s->m * s->k), *b = zoo_param(&z, s->b, s->k * s->n);
  UOp *m = zoo_range(&z, AX_LOOP, s->m), *n = zoo_range(&z, AX_LOOP, s->n);
  UOp *k = zoo_range(&z, AX_REDUCE, s->k);
  UOp *ai = s->ta ? zoo_add(&z, zoo_mul(&z, k, s->m), m) : zoo_add(&z, zoo_mul(&z, m, s->k), k);
  UOp *bi = s->tb ? zoo_add(&z, zoo_mul(&z, n, s->k), k) : zoo_add(&z, zoo_mul(&z, k, s->n), n);
  UOp *av = zoo_load(&z, a, ai, NULL), *bv = zoo_load(&z, b, bi, NULL);
  if (s->prologue) av = uop2(job, OP_MAX, av, uop_number(job, s->a, 0));
  UOp *p = uop2(job, OP_MUL, uop_cast(job, av, s->c), uop_cast(job, bv, s->c));
  UOp *v = uop_reduce(job, OP_ADD, p, &k, 1);
  v = uop2(job, OP_ADD, v, uop_number(job, s->c, 1));
  return zoo_done(&z, "contraction", zoo_add(&z, zoo_mul(&z, m, s->n), n), uop_cast(job, v, out));
}

static Scalar random_value(DType d) {
  if (dtype_is_float(d)) return scalar_wrap(d, (Scalar){.f = ((int)random_below(65) - 32) / 16.});
  return scalar_wrap(d, (Scalar){.i = (int64_t)random_below(200) - 100});
}

static void compare(const ZooRun *r, const char *stage, const uint8_t *want, const uint8_t *got) {
  DType d = (DType)r->k.params[0]->dtype;
  size_t bytes = dtype_info[d].bytes;
  for (int64_t i = 0; i < r->k.params[0]->arg.ints.at[0]; i++) {
    Scalar x = scalar_load(d, want + (size_t)i * bytes),
           y = scalar_load(d, got + (size_t)i * bytes);
    bool same = dtype_is_float(d) ? fabs(x.f - y.f) <= 0.01 * fabs(x.f) + 1e-3 : x.i == y.i;
    if (same) continue;
    char text[200];
    snprintf(text, sizeof text, "%s: element %lld is %g, not %g", stage, (long long)i,
             dtype_is_float(d) ? y.f : (double)y.i, dtype_is_float(d) ? x.f : (double)x.i);
    zoo_explain(r, text);
    fail();
  }
}

static void check_run(Job *job, ZooRun *r) {
  InterpBuffer bufs[4];
  uint8_t *out[3];
  for (uint32_t a = 0; a < r->k.nargs; a++) {
    const UOp *p = r->k.params[a];
    size_t item = dtype_info[p->dtype].bytes;
    bufs[a].bytes = (size_t)p->arg.ints.at[0] * item;
    bufs[a].data = arena_alloc(&job->arena, bufs[a].bytes);
    for (int64_t i = 0; a && i < p->arg.ints.at[0]; i++)
      scalar_store((DType)p->dtype, random_value((DType)p->dtype),
                   (char *)bufs[a].data + (size_t)i * item);
  }
  for (int k = 0; k < 3; k++) {
    bufs[0].data = out[k] = arena_alloc(&job->arena, bufs[0].bytes);
    memset(out[k], 0x5A, bufs[0].bytes);
    if (k == 0) zoo_must(r, interp_kernel(job, r->k.sink, bufs, r->k.nargs));
    if (k == 1 && r->heuristic) continue;
    if (k == 1) zoo_must(r, interp_kernel(job, r->scheduled, bufs, r->k.nargs));
    if (k == 2) zoo_must(r, interp_launch(job, &r->linear, bufs, r->k.nargs));
  }
  if (!r->heuristic) compare(r, "scheduled", out[0], out[1]);
  compare(r, "lowered", out[0], out[2]);
}

static void count_products(const ZooRun *r) {
  size_t n = 0;
  for (size_t i = 0; i < r->linear.len; i++) n += r->linear.list[i]->op == OP_MMA;
  assert_true(n > 0);
}

#define TC(id_, n_, k_) ((id_) + 256 * (n_) + 32768 * (k_))

typedef struct Case {
  Shape shape;
  const char *opts;
  int id;
  bool swap; /* rows of the instruction along n */
} Case;

static const Case cases[] = {
    {{DT_F16, DT_F16, DT_F32, 16, 8, 16, 0, 0, 0}, "", MX_F16_M16N8K16, 0},
    {{DT_F16, DT_F16, DT_F32, 16, 8, 16, 1, 1, 0}, "", MX_F16_M16N8K16, 0},
    {{DT_BF16, DT_BF16, DT_F32, 40, 20, 32, 0, 1, 0}, "", MX_BF16_M16N8K16, 0},
    {{DT_F16, DT_F16, DT_F32, 40, 20, 24, 0, 1, 1}, "", MX_F16_M16N8K8, 0},
    {{DT_I8, DT_I8, DT_I32, 16, 16, 64, 0, 0, 0}, "", MX_I8_M16N8K32, 0},
    {{DT_U8, DT_I8, DT_I32, 32, 16, 64, 0, 1, 0}, "UNROLL(2,2)", MX_U8I8_M16N8K32, 0},
    {{DT_F16, DT_F16, DT_F32, 24, 40, 32, 0, 0, 0}, "", MX_F16_M16N8K16, 1},
    {{DT_F16, DT_F16, DT_F32, 64, 40, 64, 0, 0, 0},
     "UPCAST(0,2) UPCAST(1,2) UNROLL(2,2) LOCAL(0,2) LOCAL(1,2)",
     MX_F16_M16N8K16,
     0},
    {{DT_F16, DT_F16, DT_F32, 64, 32, 64, 0, 0, 0},
     "UPCAST(0,2) UPCAST(1,2) UNROLL(2,2) LOCAL(1,2) STAGE(2,0) STAGE(2,2)",
     MX_F16_M16N8K16,
     0},
    {{DT_BF16, DT_BF16, DT_F32, 64, 32, 64, 1, 1, 0},
     "UPCAST(0,2) UPCAST(1,2) UNROLL(2,2) LOCAL(1,2) STAGE(2,0) STAGE(2,2)",
     MX_BF16_M16N8K16,
     0},
    {{DT_F16, DT_F16, DT_F32, 48, 40, 128, 0, 1, 0},
     "UPCAST(0,2) UPCAST(1,2) LOCAL(1,2) STAGE(2,0) STAGE(2,2) PIPELINE(2,3)",
     MX_F16_M16N8K16,
     0},
    {{DT_F16, DT_F16, DT_F32, 48, 40, 128, 0, 1, 0},
     "UPCAST(0,2) LOCAL(1,2) GROUP(2,2) UNROLL(2,2)",
     MX_F16_M16N8K16,
     0},
};

/* Copies ahead without matrix instructions. */
static const Case plain_cases[] = {
    {{DT_F32, DT_F32, DT_F32, 32, 32, 64, 0, 0, 0},
     "UPCAST(0,4) VECTOR(1,4) UPCAST(1,2) UNROLL(2,4) LOCAL(1,4) LOCAL(0,4) STAGE(2,0) STAGE(2,1) "
     "PIPELINE(2,3)",
     -1,
     0},
    {{DT_F32, DT_F32, DT_F32, 33, 20, 60, 1, 1, 0},
     "UPCAST(0,2) UPCAST(1,2) UNROLL(2,4) LOCAL(1,4) LOCAL(0,4) STAGE(2,0) STAGE(2,1) "
     "PIPELINE(2,4)",
     -1,
     0},
    {{DT_F32, DT_F32, DT_F32, 16, 20, 72, 0, 1, 1},
     "UPCAST(0,2) UNROLL(2,2) LOCAL(1,4) GROUP(2,4) STAGE(2,0) STAGE(2,2) PIPELINE(2,2)",
     -1,
     0},
};

static void parse_into(Job *job, ZooRun *r, const Case *c) {
  OptList rest;
  int64_t tc = TC(c->id, c->swap ? 0 : 1, 2);
  zoo_must(r, opts_parse(job, str_from(c->opts), &rest));
  if (c->id >= 0) opts_push(job, &r->opts, OPT_TC, c->swap, tc);
  for (size_t i = 0; i < rest.len; i++)
    opts_push(job, &r->opts, (OptKind)rest.at[i].kind, rest.at[i].axis, rest.at[i].arg);
}

static void chosen(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &cases[i].shape)};
    parse_into(&job, &r, &cases[i]);
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    count_products(&r);
    check_run(&job, &r);
    job_deinit(&job);
  }
}

/* -- random opts ------------------------------------------------------------------------------ */

static Shape random_shape(const MatrixInfo *info) {
  Shape s = {.a = info->dtype[MATRIX_A], .b = info->dtype[MATRIX_B], .c = info->dtype[MATRIX_C]};
  s.m = 16 + random_below(40);
  s.n = 16 + random_below(24);
  s.k = info->k * (1 + random_below(3));
  if (random_below(3) == 0) s.k += random_below(info->k);
  s.ta = random_below(2), s.tb = random_below(2);
  s.prologue = random_below(4) == 0;
  return s;
}

static void random_list(Job *job, ZooRun *r, int id) {
  static const OptKind kinds[] = {OPT_UPCAST, OPT_UNROLL, OPT_LOCAL,    OPT_GROUP,
                                  OPT_STAGE,  OPT_STAGE,  OPT_PIPELINE, OPT_ORDER};
  const MatrixInfo *info = matrix_info(id);
  int swap = (int)random_below(2);
  const unsigned tile[2] = {info->m, info->n};
  for (int i = 0; i < 2; i++)
    if (random_below(4) == 0) zoo_try(job, r, OPT_PADTO, i, tile[i != swap]);
  if (r->k.params[1]->arg.ints.at[0]) zoo_try(job, r, OPT_PADTO, 2, info->k);
  zoo_try(job, r, OPT_TC, swap, TC(id, !swap, 2));
  for (unsigned n = random_below(9); n-- > 0;) {
    OptKind kind = kinds[random_below(8)];
    int axis = kind == OPT_STAGE || kind == OPT_PIPELINE ? 2 : (int)random_below(3);
    zoo_try(job, r, kind, axis, kind == OPT_STAGE ? random_below(4) : 2 + random_below(3));
  }
}

static void random_schedules(void **state) {
  (void)state;
  int matrices = 0;
  for (int i = 0; i < 60; i++) {
    Job job;
    job_init(&job, 0);
    int id = (int)random_below(MX__COUNT);
    while (!matrix_on(matrix_info(id), &zoo_cuda)) id = (int)random_below(MX__COUNT);
    Shape s = random_shape(matrix_info(id));
    ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &s)};
    random_list(&job, &r, id);
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    for (size_t k = 0; k < r.opts.len; k++) matrices += r.opts.at[k].kind == OPT_TC;
    check_run(&job, &r);
    job_deinit(&job);
  }
  assert_true(matrices > 20);
}

typedef struct Illegal {
  const char *opts, *why;
} Illegal;

static void illegal(void **state) {
  (void)state;
  static const Illegal bad[] = {
      {"TC(0,33280)", "two output and a reduce axis"},
      {"UPCAST(0,2) TC(0,65792)", "before other tiles"},
      {"LOCAL(0,2) TC(0,65792)", "before LOCAL"},
      {"TC(0,65792) TC(0,65792)", "already"},
      {"TC(0,65793)", "dtypes"},
      {"TC(0,65992)", "lacks the instruction"},
      {"TC(0,65792) VECTOR(1,2)", "VECTOR beside a TC"},
      {"PIPELINE(0,2)", "reduce axis"},
      {"PIPELINE(2,9)", "2 to 8 places"},
  };
  Job job;
  job_init(&job, 0);
  Shape s = {.a = DT_F16, .b = DT_F16, .c = DT_F32, .m = 64, .n = 64, .k = 64};
  ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &s)};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char text[500];
    zoo_must(&r, opts_parse(&job, str_from(bad[i].opts), &r.opts));
    Status st = opts_check(&job, r.k.sink, &zoo_cuda, &r.opts);
    status_text(st, text, sizeof text);
    if (!st || !strstr(text, bad[i].why)) zoo_explain(&r, text), fail();
    status_drop(st);
  }
  job_deinit(&job);
}

static void copies_ahead(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof plain_cases / sizeof *plain_cases; i++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &plain_cases[i].shape)};
    parse_into(&job, &r, &plain_cases[i]);
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    check_run(&job, &r);
    job_deinit(&job);
  }
}

static void heuristics(void **state) {
  (void)state;
  static const Shape shapes[] = {
      {DT_F16, DT_F16, DT_F32, 32, 32, 32, 0, 0, 0},
      {DT_F16, DT_F16, DT_F32, 17, 9, 520, 0, 1, 0},
      {DT_F32, DT_F32, DT_F32, 16, 66, 260, 0, 0, 0},
      {DT_BF16, DT_BF16, DT_F32, 9, 40, 40, 0, 0, 1},
      {DT_I8, DT_I8, DT_I32, 33, 24, 64, 0, 1, 0},
  };
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &shapes[i]), .heuristic = true};
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    if (shapes[i].a != DT_F32) count_products(&r);
    check_run(&job, &r);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(elements_once), cmocka_unit_test(targets),
      cmocka_unit_test(chosen),        cmocka_unit_test(random_schedules),
      cmocka_unit_test(copies_ahead),  cmocka_unit_test(heuristics),
      cmocka_unit_test(illegal)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
