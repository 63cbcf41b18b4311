/* Matrix instructions whose factors lie in the workgroup's memory: what they compute is what the
 * kernel says, for factors that lie either way in memory, tiles of several instructions, copies
 * that run ahead and ragged sizes; the code waits where it must. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/matrix_check.h"

typedef struct Case {
  Shape shape;
  const char *opts; /* behind TC; PADTO before it */
  int id;
  bool pad;
} Case;

static const Case cases[] = {
    {{DT_F16, DT_F16, DT_F32, 64, 32, 64, 0, 1, 0}, "", MX_F16_M64N32, 0},
    {{DT_F16, DT_F16, DT_F32, 64, 64, 64, 1, 0, 1}, "", MX_F16_M64N64, 0},
    {{DT_I8, DT_I8, DT_I32, 64, 32, 128, 0, 0, 0}, "", MX_I8_M64N32, 0},
    {{DT_F32, DT_F32, DT_F32, 64, 32, 64, 0, 1, CUT}, "", MX_TF32_M64N32, 0},
    {{DT_F32, DT_F32, DT_F32, 70, 72, 200, 0, 1, CUT}, "PIPELINE(2,20)", MX_TF32_M64N64, 1},
    {{DT_F16, DT_F16, DT_F32, 64, 64, 128, 1, 0, 0}, "", MX_F16_M64N64, 0},
    {{DT_BF16, DT_BF16, DT_F32, 64, 128, 128, 1, 0, 0}, "", MX_BF16_M64N128, 0},
    {{DT_BF16, DT_BF16, DT_F32, 128, 128, 192, 0, 0, 0},
     "LOCAL(0,2) PIPELINE(2,2)",
     MX_BF16_M64N128,
     0},
    {{DT_F16, DT_F16, DT_F32, 128, 64, 320, 0, 1, 0},
     "UPCAST(0,2) PIPELINE(2,3)",
     MX_F16_M64N64,
     0},
    {{DT_F16, DT_F16, DT_F32, 70, 40, 200, 0, 1, 0}, "PIPELINE(2,3)", MX_F16_M64N32, 1},
    {{DT_F16, DT_F16, DT_F32, 64, 32, 448, 0, 1, 0}, "PIPELINE(2,20)", MX_F16_M64N32, 0},
    {{DT_F16, DT_F16, DT_F32, 64, 64, 256, 0, 0, 0},
     "UPCAST(1,2) UNROLL(2,2) PIPELINE(2,2)",
     MX_F16_M64N32,
     0},
    /* columns that are no multiple of a row's 64 elements */
    {{DT_F16, DT_F16, DT_F32, 64, 96, 128, 0, 1, 0}, "PIPELINE(2,2)", MX_F16_M64N96, 0},
    {{DT_F16, DT_F16, DT_F32, 64, 192, 64, 0, 0, 0}, "UPCAST(1,2)", MX_F16_M64N96, 0},
    {{DT_BF16, DT_BF16, DT_F32, 64, 160, 64, 0, 1, 0}, "", MX_BF16_M64N160, 0},
    {{DT_BF16, DT_BF16, DT_F32, 64, 224, 64, 0, 1, 0}, "", MX_BF16_M64N224, 0},
    /* whole tiles, by a warp of their own */
    {{DT_F16, DT_F16, DT_F32, 64, 32, 256, 0, 1, 0}, "PIPELINE(2,34)", MX_F16_M64N32, 0},
    {{DT_F16, DT_F16, DT_F32, 64, 64, 384, 1, 0, 0}, "PIPELINE(2,52)", MX_F16_M64N64, 0},
    {{DT_BF16, DT_BF16, DT_F32, 128, 128, 320, 0, 0, 0},
     "LOCAL(0,2) PIPELINE(2,51)",
     MX_BF16_M64N128,
     0},
    {{DT_BF16, DT_BF16, DT_F32, 128, 64, 320, 1, 0, 0},
     "UPCAST(0,2) PIPELINE(2,35)",
     MX_BF16_M64N64,
     0},
    {{DT_F16, DT_F16, DT_F32, 200, 64, 256, 0, 1, 0},
     "LOCAL(0,2) PIPELINE(2,34)",
     MX_F16_M64N64,
     0},
    {{DT_F16, DT_F16, DT_F32, 200, 72, 256, 1, 0, 0},
     "LOCAL(0,2) PIPELINE(2,34)",
     MX_F16_M64N64,
     0},
    {{DT_F16, DT_F16, DT_F32, 72, 40, 200, 0, 1, 0}, "PIPELINE(2,51)", MX_F16_M64N32, 1},
    {{DT_F32, DT_F32, DT_F32, 64, 64, 200, 0, 1, CUT}, "PIPELINE(2,52)", MX_TF32_M64N64, 1},
    {{DT_I8, DT_I8, DT_I32, 64, 32, 400, 0, 1, 0}, "PIPELINE(2,34)", MX_I8_M64N32, 1},
    {{DT_F16, DT_F16, DT_F32, 64, 64, 512, 0, 1, 0},
     "UPCAST(1,2) UNROLL(2,2) PIPELINE(2,35)",
     MX_F16_M64N32,
     0},
    {{DT_F16, DT_F16, DT_F32, 64, 96, 256, 0, 1, 0}, "PIPELINE(2,35)", MX_F16_M64N96, 0},
    {{DT_BF16, DT_BF16, DT_F32, 128, 224, 256, 0, 1, 0},
     "LOCAL(0,2) PIPELINE(2,34)",
     MX_BF16_M64N224,
     0},
    /* which goes on while a workgroup ends a tile */
    {{DT_F16, DT_F16, DT_F32, 192, 96, 320, 0, 1, 0},
     "PIPELINE(2,35) PERSIST(0,4)",
     MX_F16_M64N32,
     0},
    {{DT_F16, DT_F16, DT_F32, 256, 64, 256, 1, 0, 0},
     "LOCAL(0,2) PIPELINE(2,51) PERSIST(0,1)",
     MX_F16_M64N64,
     0},
    {{DT_BF16, DT_BF16, DT_F32, 192, 64, 448, 0, 0, 0},
     "PIPELINE(2,52) PERSIST(0,2)",
     MX_BF16_M64N64,
     0},
};

static void parse_into(Job *job, ZooRun *r, const Case *c) {
  const MatrixInfo *info = matrix_info(c->id);
  OptList rest;
  zoo_must(r, opts_parse(job, str_from(c->opts), &rest));
  const int64_t unit[3] = {info->m, info->n, info->k};
  for (int axis = 0; c->pad && axis < 3; axis++)
    opts_push(job, &r->opts, OPT_PADTO, axis, unit[axis]);
  opts_push(job, &r->opts, OPT_TC, 0, opt_tc_arg(c->id, 1, 2));
  opts_append(job, &r->opts, &rest);
}

/* Sums are waited for by whatever is no instruction that adds to them. */
static void check_waits(const ZooRun *r) {
  size_t settled = 0;
  for (size_t i = 0; i < r->linear.len; i++) {
    const UOp *u = r->linear.list[i];
    settled += u->op == OP_SETTLE;
    for (uint32_t s = 0; u->op != OP_TILEMMA && u->op != OP_SETTLE && s < u->nsrc; s++)
      assert_true(u->src[s]->op != OP_TILEMMA);
  }
  assert_true(settled > 0);
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
    check_waits(&r);
    check_run(&job, &r, cases[i].shape.m * cases[i].shape.n * cases[i].shape.k <= 64 * 64 * 64);
    job_deinit(&job);
  }
}

static void illegal(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  Shape s = {.a = DT_F16, .b = DT_F16, .c = DT_F32, .m = 64, .n = 64, .k = 96, .prologue = RELU};
  Target other = zoo_cuda;
  ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &s)};
  assert_false(zoo_try(&job, &r, OPT_TC, 0, opt_tc_arg(MX_F16_M64N64, 1, 2)));
  assert_true(zoo_try(&job, &r, OPT_PADTO, 2, 64));
  assert_false(
      zoo_try(&job, &r, OPT_TC, 0, opt_tc_arg(MX_F16_M64N64, 1, 2))); /* a computed factor */
  assert_false(zoo_try(&job, &r, OPT_TC, 0, opt_tc_arg(MX_I8_M64N64, 1, 2)));
  other.cpu = "sm_90";
  assert_false(matrix_on(matrix_info(MX_F16_M64N64), &other));
  other.cpu = "sm_120";
  assert_false(matrix_on(matrix_info(MX_F16_M64N64), &other));
  assert_true(matrix_on(matrix_info(MX_F16_M64N64), &zoo_cuda));
  job_deinit(&job);
}

/* Whole tiles are copied where the hardware that does it can see the factor. */
static void bulk_or_not(void **state) {
  (void)state;
  const struct {
    Shape shape;
    int id, group; /* threads that share the sum */
    bool may;
  } of[] = {
      {{DT_F16, DT_F16, DT_F32, 64, 64, 256, 0, 1, 0}, MX_F16_M64N64, 0, true},
      {{DT_F16, DT_F16, DT_F32, 72, 72, 264, 0, 1, 0}, MX_F16_M64N64, 0, true},
      {{DT_F16, DT_F16, DT_F32, 64, 64, 260, 0, 1, 0}, MX_F16_M64N64, 0, false}, /* 520 bytes */
      {{DT_F16, DT_F16, DT_F32, 64, 60, 256, 1, 0, 0}, MX_F16_M64N32, 0, false},
      {{DT_F16, DT_F16, DT_F32, 64, 64, 256, 0, 0, 0}, MX_F16_M64N32, 0, false}, /* half rows */
      {{DT_F16, DT_F16, DT_F32, 64, 64, 256, 0, 1, RELU}, MX_F16_M64N64, 0, false},
      {{DT_F16, DT_F16, DT_F32, 64, 64, 256, 0, 1, 0}, MX_F16_M64N64, 2, false},
      {{DT_F16, DT_F16, DT_F32, 64, 64, 256, 0, 1, 0}, MX_F16_M16N8K16, 0, false},
  };
  for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &zoo_cuda, .k = contraction(&job, &of[i].shape)};
    if (of[i].shape.k % 64) assert_true(zoo_try(&job, &r, OPT_PADTO, 2, 64));
    assert_true(zoo_try(&job, &r, OPT_TC, 0, opt_tc_arg(of[i].id, 1, 2)));
    if (of[i].group) assert_true(zoo_try(&job, &r, OPT_GROUP, 2, of[i].group));
    assert_false(zoo_try(&job, &r, OPT_PERSIST, 0, 1)); /* nobody copies */
    assert_int_equal(zoo_try(&job, &r, OPT_PIPELINE, 2, PIPE_WHOLE + 3), of[i].may);
    assert_int_equal(zoo_try(&job, &r, OPT_PERSIST, 0, 1), of[i].may);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(chosen), cmocka_unit_test(illegal),
                                     cmocka_unit_test(bulk_or_not)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
