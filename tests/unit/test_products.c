/* Products on a GPU: factors whose rows begin at no multiple of 128 bytes, and f32 with fast math,
 * in the plan and by the interpreter. */
#include "tests/unit/zoo_targets.h"
#define PLAN_TARGET zoo_cuda
#include <math.h>

#include "compiler/ir/matrix.h"
#include "tests/unit/plan_check.h"

/* The product of [m, k] and [k, n], or of [m, k] and [n, k] where it is transposed. */
static void product(Graph *g, Job *job, DType d, int64_t m, int64_t n, int64_t k, bool transposed) {
  graph_init(g, job);
  UOp *a = graph_param(g, SLOT_INPUT, d, DIMS(m, k));
  UOp *b = transposed ? graph_param(g, SLOT_INPUT, d, DIMS(n, k))
                      : t_permute(g, graph_param(g, SLOT_INPUT, d, DIMS(k, n)), DIMS(1, 0));
  if (dtype_is_storage(d)) a = uop_cast(job, a, DT_F32), b = uop_cast(job, b, DT_F32);
  a = t_expand(g, t_reshape(g, a, DIMS(m, 1, k)), DIMS(m, n, k));
  b = t_expand(g, t_reshape(g, b, DIMS(1, n, k)), DIMS(m, n, k));
  UOp *y = t_reduce(g, OP_ADD, uop2(job, OP_MUL, a, b), DIMS(2));
  graph_output(g, t_reshape(g, y, DIMS(m, n)));
}

static size_t masks(const Graph *g) {
  size_t n = 0;
  for (size_t c = 0; c < g->plan.ncalls; c++) {
    UOpList list = uop_toposort(g->job, g->plan.kernels[g->plan.calls[c].kernel].sink);
    for (size_t i = 0; i < list.len; i++) n += matrix_uncut(list.at[i]) != NULL;
  }
  return n;
}

typedef struct Case {
  DType dtype;
  int64_t m, n, k;
  bool transposed, fast;
  size_t calls, masks; /* expected */
} Case;

/* The plan of that product, of as many calls and masks as it is to have. */
static void plan_case(Graph *g, Job *job, const Case *c) {
  product(g, job, c->dtype, c->m, c->n, c->k, c->transposed);
  g->tg.fast_math = c->fast;
  graph_plan(g);
  if (g->plan.ncalls != c->calls || masks(g) != c->masks) show_plan(g);
  assert_int_equal(g->plan.ncalls, c->calls);
  assert_int_equal(masks(g), c->masks);
}

static void plans(void **state) {
  (void)state;
  static const Case cases[] = {
      {DT_F16, 1000, 1000, 1000, true, false, 3, 0},
      {DT_F16, 333, 777, 1111, false, false, 3, 0},
      {DT_F16, 1024, 1024, 1024, true, false, 1, 0},
      {DT_F16, 64, 1000, 1000, true, false, 1, 0},
      {DT_F32, 1024, 1024, 1024, true, false, 1, 0},
      {DT_F32, 1024, 1024, 1024, true, true, 1, 2},
      {DT_F32, 2048, 2048, 2048, false, true, 2, 2},
      {DT_F32, 4096, 4096, 4096, false, false, 2, 0},
      {DT_F32, 8, 1024, 1024, true, true, 1, 0},
      {DT_F8E4M3FN, 4096, 4096, 4096, true, false, 3, 0},
      {DT_F8E5M2FNUZ, 1024, 1024, 1024, true, false, 3, 0},
      {DT_F8E4M3FN, 1024, 1024, 1024, true, false, 1, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Job job;
    Graph g;
    job_init(&job, 0);
    plan_case(&g, &job, &cases[i]);
    job_deinit(&job);
  }
}

/* What the plan's kernels compute is what the graph says. */
static void values(void **state) {
  (void)state;
  static const Case cases[] = {{DT_F16, 128, 136, 259, false, false, 3, 0},
                               {DT_F32, 48, 40, 36, false, true, 1, 2}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Job job;
    Graph g;
    job_init(&job, 0);
    plan_case(&g, &job, &cases[i]);
    assert_true(plan_equals_graph(&g, 1e-3));
    job_deinit(&job);
  }
}

/* Factors that are stored as f16 are so without loss: all but f8e8m0. */
static void halves(void **state) {
  (void)state;
  static const DType fit[] = {DT_F8E4M3FN,   DT_F8E4M3FNUZ, DT_F8E5M2,
                              DT_F8E5M2FNUZ, DT_F4E2M1,     DT_F8E8M0};
  for (size_t i = 0; i < sizeof fit / sizeof *fit; i++) {
    unsigned lost = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
      Scalar v = scalar_load(fit[i], &(uint8_t){(uint8_t)byte});
      double h = scalar_wrap(DT_F16, v).f;
      bool same = isnan(v.f) ? isnan(h) : h == v.f && !signbit(h) == !signbit(v.f);
      lost += !same;
    }
    if (fit[i] == DT_F8E8M0)
      assert_true(lost > 0);
    else
      assert_int_equal(lost, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(plans), cmocka_unit_test(values),
                                     cmocka_unit_test(halves)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
