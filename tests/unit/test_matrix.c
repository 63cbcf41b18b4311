/* Matrix instructions: the table is consistent, and a contraction scheduled with TC computes what
 * the kernel says, scheduled, and lowered for every thread of a launch, by the interpreter, for
 * chosen and for random opts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/matrix_check.h"

/* -- the table -------------------------------------------------------------------------------- */

static void elements_once(void **state) {
  (void)state;
  for (int id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    const unsigned size[3][2] = {{info->m, info->k}, {info->n, info->k}, {info->m, info->n}};
    for (int o = 0; o < 3; o++) {
      const MatrixLayout *l = &info->layout[o];
      static bool seen[256 * 128];
      bool shared = o != MATRIX_C && matrix_in_memory(info, o);
      memset(seen, 0, sizeof seen);
      for (unsigned t = 0; t < (shared ? 1 : info->threads); t++)
        for (unsigned r = 0; r < l->registers; r++) {
          unsigned at[2], thread, reg;
          matrix_element(l, info, t, r, at);
          assert_true(at[0] < size[o][0] && at[1] < size[o][1]);
          assert_false(seen[at[0] * 128 + at[1] % 128 + at[1] / 128 * 64 * 128]);
          seen[at[0] * 128 + at[1] % 128 + at[1] / 128 * 64 * 128] = true;
          matrix_find(l, info, at[0], at[1], &thread, &reg);
          assert_int_equal(thread, t);
          assert_int_equal(reg, r);
        }
      assert_int_equal((shared ? 1 : info->threads) * l->registers, size[o][0] * size[o][1]);
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

/* Bits that do not count are not there, however a graph or an instruction leaves them out. */
static void cut_values(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  const MatrixInfo *tf32 = matrix_info(MX_TF32_M16N8K8), *half = matrix_info(MX_F16_M16N8K16);
  const double from[] = {1 + 0x1p-11, 3, -1.25 - 0x1p-20, INFINITY, 0x1p-140};
  const double to[] = {1, 3, -1.25, INFINITY, 0};
  for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
    Scalar x = {.f = from[i]};
    assert_true(matrix_seen(tf32, x).f == to[i]);
    assert_true(matrix_seen(half, x).f == from[i]);
    UOp *v = matrix_cut(&job, uop_number(&job, DT_F32, from[i]));
    if (uop_is_const(v)) assert_true(uop_const_value(v).f == to[i]);
  }
  UOp *x = uop_cast(&job, uop_index(&job, 3), DT_F32), *v = matrix_cut(&job, x);
  assert_true(uop_is_const(v) || matrix_uncut(v) == x);
  assert_null(matrix_uncut(x));
  job_deinit(&job);
}

/* -- kernels ---------------------------------------------------------------------------------- */

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
    {{DT_F32, DT_F32, DT_F32, 16, 8, 8, 0, 0, CUT}, "", MX_TF32_M16N8K8, 0},
    {{DT_F32, DT_F32, DT_F32, 64, 32, 64, 0, 1, CUT},
     "UPCAST(0,2) UPCAST(1,2) UNROLL(2,2) LOCAL(1,2) STAGE(2,0) STAGE(2,2)",
     MX_TF32_M16N8K8,
     0},
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
  int64_t tc = opt_tc_arg(c->id, c->swap ? 0 : 1, 2);
  zoo_must(r, opts_parse(job, str_from(c->opts), &rest));
  if (c->id >= 0) opts_push(job, &r->opts, OPT_TC, c->swap, tc);
  opts_append(job, &r->opts, &rest);
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
    check_run(&job, &r, !r.heuristic);
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
  bool computes = !dtype_is_storage(s.a);
  s.prologue = info->cut ? CUT : random_below(4) == 0 && computes ? RELU : AS_IT_IS;
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
  zoo_try(job, r, OPT_TC, swap, opt_tc_arg(id, !swap, 2));
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
    int id = (int)random_below(MX__COUNT); /* test_tiles.c has those of large tiles */
    while (matrix_info(id)->shared || !matrix_on(matrix_info(id), &zoo_cuda))
      id = (int)random_below(MX__COUNT);
    Shape s = random_shape(matrix_info(id));
    ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &s)};
    random_list(&job, &r, id);
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    for (size_t k = 0; k < r.opts.len; k++) matrices += r.opts.at[k].kind == OPT_TC;
    check_run(&job, &r, !r.heuristic);
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
    check_run(&job, &r, !r.heuristic);
    job_deinit(&job);
  }
}

static void heuristics(void **state) {
  (void)state;
  static const Shape shapes[] = {
      {DT_F16, DT_F16, DT_F32, 32, 32, 32, 0, 0, 0},
      {DT_F16, DT_F16, DT_F32, 17, 9, 520, 0, 1, 0},
      {DT_F32, DT_F32, DT_F32, 16, 66, 260, 0, 0, 0},
      {DT_F32, DT_F32, DT_F32, 70, 40, 100, 0, 1, CUT},
      {DT_BF16, DT_BF16, DT_F32, 9, 40, 40, 0, 0, 1},
      {DT_I8, DT_I8, DT_I32, 33, 24, 64, 0, 1, 0},
  };
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &shapes[i]), .heuristic = true};
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    if (shapes[i].a != DT_F32 || shapes[i].prologue == CUT) count_products(&r);
    check_run(&job, &r, !r.heuristic);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(elements_once),    cmocka_unit_test(targets),
      cmocka_unit_test(cut_values),       cmocka_unit_test(chosen),
      cmocka_unit_test(random_schedules), cmocka_unit_test(copies_ahead),
      cmocka_unit_test(heuristics),       cmocka_unit_test(illegal)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
