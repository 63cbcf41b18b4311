/* What the search expects of schedules with matrix instructions on an H100, beside what was
 * measured there (graph replays, 2026-11-23); and that it has nothing timed that is far behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "compiler/search/search.h"
#include "tests/unit/zoo.h"
#include "tests/unit/zoo_targets.h"

static void must(Status st) {
  char text[1000];
  if (!st) return;
  status_text(st, text, sizeof text);
  fail_msg("%s", text);
}

typedef struct Product {
  Job *job;
  int64_t m, n, k;
  bool turned; /* the second factor's rows lie along the sum */
  UOp *kernel;
} Product;

static void build(Job *job, void *arg) {
  Product *p = arg;
  Zoo z = {.job = job};
  UOp *c = zoo_param(&z, DT_F16, p->m * p->n), *a = zoo_param(&z, DT_F16, p->m * p->k),
      *b = zoo_param(&z, DT_F16, p->k * p->n);
  UOp *m = zoo_range(&z, AX_LOOP, p->m), *n = zoo_range(&z, AX_LOOP, p->n),
      *k = zoo_range(&z, AX_REDUCE, p->k);
  UOp *at = p->turned ? zoo_add(&z, zoo_mul(&z, n, p->k), k) : zoo_add(&z, zoo_mul(&z, k, p->n), n);
  UOp *x = uop_cast(job, zoo_load(&z, a, zoo_add(&z, zoo_mul(&z, m, p->k), k), NULL), DT_F32);
  UOp *y = uop_cast(job, zoo_load(&z, b, at, NULL), DT_F32);
  UOp *sum = uop_reduce(job, OP_ADD, uop2(job, OP_MUL, x, y), &k, 1);
  (void)c;
  UOp *to = zoo_add(&z, zoo_mul(&z, m, p->n), n);
  p->kernel = zoo_done(&z, "product", to, uop_cast(job, sum, DT_F16)).sink;
}

typedef struct Timed {
  int64_t m, n, k;
  bool turned;
  const char *opts;
  double us;
} Timed;

static const Timed timed[] = {
    {3000, 3008, 3008, true,
     "SPLIT(0,1536) TC(0,65802) UPCAST(0,2) PIPELINE(2,53) PERSIST(0,128) ORDER(0,2)", 84.5},
    {3000, 3008, 3008, true, "SPLIT(0,1536) ORDER(0,2) TC(0,65802) LOCAL(0,2) PIPELINE(2,21)",
     96.3},
    {3000, 3008, 3008, true,
     "TC(0,65792) UPCAST(0,4) UPCAST(1,4) UNROLL(2,4) PIPELINE(2,3) LOCAL(0,2) LOCAL(1,4) "
     "STAGE(2,0) STAGE(2,2)",
     260.6},
    {3000, 3008, 3008, true, "SPLIT(0,1536) TC(1,65549) PIPELINE(2,53) PERSIST(0,128) ORDER(0,2)",
     326.6},
    {3000, 3008, 3008, true, "PADTO(0,64) TC(0,65792)", 2692},
    {2048, 5120, 5120, true, "TC(0,65801) PIPELINE(2,53) PERSIST(0,128) ORDER(0,1)", 151.2},
    {2048, 5120, 5120, true, "ORDER(0,1) TC(0,65836) UPCAST(0,2) LOCAL(0,2) PIPELINE(2,20)", 151.4},
    {2048, 5120, 5120, true, "ORDER(0,1) TC(0,65836) LOCAL(0,4) PIPELINE(2,20)", 163.6},
    {256, 8192, 8192, true, "TC(0,65803) PIPELINE(2,39) LOCAL(0,2) ORDER(0,1)", 58.0},
    {256, 8192, 8192, true, "TC(0,65802) PIPELINE(2,21) LOCAL(0,2) ORDER(0,1)", 79.8},
    {512, 768, 3072, false, "TC(0,65804) PIPELINE(2,56)", 10.9},
    {8192, 8192, 512, true,
     "SPLIT(0,2048) ORDER(0,2) TC(0,65801) LOCAL(0,2) PIPELINE(2,52) PERSIST(0,132)", 115.3},
};

static void test_predicted(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof timed / sizeof *timed; i++) {
    const Timed *t = &timed[i];
    Job job;
    Product p = {.m = t->m, .n = t->n, .k = t->k, .turned = t->turned};
    SearchCost cost;
    job_init(&job, 0);
    must(job_run(&job, build, &p));
    must(search_cost(&job, p.kernel, &zoo_cuda, t->opts, &cost));
    double share = (double)cost.predicted_ns / 1e3 / t->us;
    if (share < 0.6 || share > 1.7)
      fail_msg("%s: %.1f us expected, %.1f measured", t->opts, (double)cost.predicted_ns / 1e3,
               t->us);
    job_deinit(&job);
  }
}

/* Once something is measured, nothing is proposed that is expected to take several times as long:
 * a driver takes longer to assemble it than it is worth. */
static void test_nothing_hopeless(void **state) {
  (void)state;
  Product p = {.m = 3000, .n = 3008, .k = 3008, .turned = true};
  Evidence tried[5];
  Candidate found[12];
  Job job;
  size_t n;
  job_init(&job, 0);
  must(job_run(&job, build, &p));
  for (size_t i = 0; i < 5; i++)
    tried[i] = (Evidence){
        .opts = timed[i].opts, .median_ns = (int64_t)(timed[i].us * 1e3), .mad_ns = 500, .reps = 9};
  SearchInput in = {.kernel = p.kernel, .target = &zoo_cuda, .tried = tried, .ntried = 5};
  in.want = 12;
  must(search_propose(&job, &in, found, &n));
  assert_true(n > 3);
  for (size_t i = 0; i < n; i++) {
    SearchCost cost;
    must(search_cost(&job, p.kernel, &zoo_cuda, found[i].opts, &cost));
    if (cost.predicted_ns > 270000)
      fail_msg("%s: %.1f us", found[i].opts, (double)cost.predicted_ns / 1e3);
  }
  job_deinit(&job);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_predicted),
      cmocka_unit_test(test_nothing_hopeless),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
