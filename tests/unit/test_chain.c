/* Attention on workgroups: two products and a softmax as one kernel, whose row is repaired block by
 * block. Scheduled, and lowered for every thread of a launch, it computes what the kernel says. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "compiler/ir/matrix.h"
#include "compiler/passes/hoist.h"
#include "tests/unit/zoo_three_ways.h"

static uint64_t random_state = 11;

static Scalar random_value(DType d) {
  double v = ((int)zoo_below(&random_state, 65) - 32) / 16.;
  return scalar_wrap(d, (Scalar){.f = v});
}

static void compare(const ZooRun *r, const char *stage, const uint8_t *want, const uint8_t *got) {
  DType d = (DType)r->k.params[0]->dtype;
  size_t bytes = dtype_info[d].bytes;
  for (int64_t i = 0; i < r->k.params[0]->arg.ints.at[0]; i++) {
    double x = scalar_load(d, want + (size_t)i * bytes).f;
    double y = scalar_load(d, got + (size_t)i * bytes).f;
    if (fabs(x - y) <= (d == DT_F32 ? 1e-4 : 0.02)) continue;
    char text[200];
    snprintf(text, sizeof text, "%s: element %lld is %g, not %g", stage, (long long)i, y, x);
    zoo_explain(r, text);
    fail();
  }
}

static void check_run(Job *job, ZooRun *r, bool scheduled) {
  uint8_t *out[3];
  zoo_three_ways(job, r, scheduled, random_value, out);
  if (scheduled) compare(r, "scheduled", out[0], out[1]);
  compare(r, "lowered", out[0], out[2]);
}

/* What the weights of a row have in common leaves the sum: without that there is no chain. */
static void hoist(Job *job, ZooRun *r, const ZooAttention *shape) {
  UOp *hoisted = hoist_factors(job, r->k.sink);
  assert_true(hoisted != r->k.sink);
  if (shape->late || shape->window) r->k.sink = hoisted;
}

static size_t count_op(const ZooRun *r, Op op) {
  size_t n = 0;
  for (size_t i = 0; i < r->linear.len; i++) n += r->linear.list[i]->op == op;
  return n;
}

typedef struct Case {
  ZooAttention shape;
  int inner, outer; /* matrix instructions */
  const char *opts;
} Case;

/* Axes: 0 rows, 1 width; 2, 4, 6 keys of the maximum, the sum and the output, 3, 5, 7 depth. */
static const Case cases[] = {
    {{DT_BF16, 16, 32, 16, 8, .causal = false},
     MX_BF16_M16N8K16,
     MX_BF16_M16N8K16,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,16)"},
    {{DT_F16, 32, 64, 32, 16, .causal = false},
     MX_F16_M16N8K16,
     MX_F16_M16N8K16,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,32) UNROLL(2,4) UNROLL(4,4) UNROLL(6,2) UNROLL(3,2) "
     "UPCAST(1,2)"},
    {{DT_F16, 64, 64, 16, 16, .causal = true},
     MX_F16_M16N8K16,
     MX_F16_M16N8K16,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,16) UNROLL(2,2) UNROLL(4,2) UPCAST(1,2) UPCAST(0,2) LOCAL(0,2)"},
    {{DT_BF16, 64, 128, 32, 16, .causal = true},
     MX_BF16_M16N8K16,
     MX_BF16_M16N8K16,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,32) UNROLL(2,4) UNROLL(4,4) UNROLL(6,2) UNROLL(3,2) UPCAST(1,2) "
     "UPCAST(0,2) LOCAL(0,2) STAGE(-1,4) STAGE(2,6) STAGE(6,12) PIPELINE(2,2)"},
    {{DT_BF16, 64, 192, 64, 32, .causal = false},
     MX_BF16_HELD_M64N64,
     MX_BF16_HELD_M64N32,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,64)"},
    {{DT_F16, 128, 192, 128, 32, .causal = true},
     MX_F16_M64N64,
     MX_F16_HELD_M64N32,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,64) UNROLL(3,2) LOCAL(0,2) PIPELINE(2,2)"},
    {{DT_F16, 64, 256, 64, 32, .causal = true},
     MX_F16_M64N64,
     MX_F16_HELD_M64N32,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,64) PIPELINE(2,19)"},
    {{DT_BF16, 64, 192, 64, 32, .causal = true, .late = 40, .window = 30},
     MX_BF16_HELD_M64N64,
     MX_BF16_HELD_M64N32,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,64)"},
    {{DT_F16, 96, 96, 16, 16, .causal = true, .window = 20, .bias = true},
     MX_F16_M16N8K16,
     MX_F16_M16N8K16,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,16) UNROLL(2,2) UNROLL(4,2) UPCAST(1,2) LOCAL(0,2) STAGE(2,6) "
     "STAGE(6,12) PIPELINE(2,2)"},
    /* whole tiles, by a warp of their own */
    {{DT_BF16, 64, 256, 64, 64, .causal = true},
     MX_BF16_HELD_M64N64,
     MX_BF16_HELD_M64N64,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,64) PIPELINE(2,34)"},
    {{DT_F16, 64, 256, 64, 64, .causal = false},
     MX_F16_HELD_M64N64,
     MX_F16_HELD_M64N64,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,64) PIPELINE(2,51)"},
    {{DT_F16, 64, 192, 64, 64, .causal = false},
     MX_F16_M64N64,
     MX_F16_HELD_M64N64,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,64) PIPELINE(2,34)"},
    {{DT_F16, 128, 192, 64, 64, .causal = false},
     MX_F16_HELD_M64N64,
     MX_F16_HELD_M64N64,
     "KEEP(0,0) KEEP(0,1) REPAIR(2,64) PIPELINE(2,34) PERSIST(0,1)"},
};

static void chosen(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Job job;
    OptList rest;
    job_init(&job, 0);
    ZooRun r = {.target = &zoo_cuda, .k = zoo_attention_of(&job, &cases[i].shape)};
    hoist(&job, &r, &cases[i].shape);
    zoo_must(&r, opts_parse(&job, str_from(cases[i].opts), &rest));
    opts_push(&job, &r.opts, OPT_TC, 0, opt_tc_arg(cases[i].inner, 2, 3));
    opts_push(&job, &r.opts, OPT_TC, 0, opt_tc_arg(cases[i].outer, 1, 6));
    opts_append(&job, &r.opts, &rest);
    zoo_must(&r, opts_check(&job, r.k.sink, r.target, &r.opts));
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    assert_true(count_op(&r, matrix_info(cases[i].inner)->shared ? OP_TILEMMA : OP_MMA) > 0);
    assert_true(count_op(&r, OP_PEER) > 0);
    check_run(&job, &r, cases[i].shape.rows * cases[i].shape.keys < 64 * 192);
    job_deinit(&job);
  }
}

/* What the heuristic makes of it, for sizes that no tile divides, too. */
static void by_heuristic(void **state) {
  static const ZooAttention shapes[] = {
      {DT_BF16, 64, 96, 32, 32, .causal = false},
      {DT_F16, 40, 70, 16, 16, .causal = true},
      {DT_F16, 16, 50, 40, 32, .causal = false},
      {DT_F16, 64, 64, 32, 32, .causal = true, .late = 3, .window = 20},
      {DT_BF16, 64, 96, 32, 32, .bias = true},
  };
  (void)state;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &zoo_cuda, .k = zoo_attention_of(&job, &shapes[i]), .heuristic = true};
    hoist(&job, &r, &shapes[i]);
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    assert_true(count_op(&r, OP_MMA) + count_op(&r, OP_TILEMMA) > 0 && count_op(&r, OP_PEER) > 0);
    check_run(&job, &r, false);
    job_deinit(&job);
  }
}

/* A chain whose parts do not fit together is refused with the reason. */
static void refused(void **state) {
  static const char *const lists[] = {
      "",                                /* nothing is repaired */
      "REPAIR(2,16)",                    /* nothing is kept */
      "KEEP(0,0) KEEP(0,1) REPAIR(2,8)", /* a block is less than a tile */
      "KEEP(0,0) KEEP(0,1) GROUP(4,2) REPAIR(2,16)",
  };
  (void)state;
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
    Job job;
    OptList rest;
    ZooAttention t = {DT_F16, 16, 32, 16, 8, .causal = false};
    job_init(&job, 0);
    ZooRun r = {.target = &zoo_cuda, .k = zoo_attention_of(&job, &t)};
    opts_push(&job, &r.opts, OPT_TC, 0, opt_tc_arg(MX_F16_M16N8K16, 2, 3));
    opts_push(&job, &r.opts, OPT_TC, 0, opt_tc_arg(MX_F16_M16N8K16, 1, 6));
    zoo_must(&r, opts_parse(&job, str_from(lists[i]), &rest));
    opts_append(&job, &r.opts, &rest);
    Status st = opts_check(&job, r.k.sink, r.target, &r.opts);
    assert_non_null(st);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(chosen), cmocka_unit_test(by_heuristic),
                                     cmocka_unit_test(refused)};
  return cmocka_run_group_tests_name("chain", tests, NULL, NULL);
}
