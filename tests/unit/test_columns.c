/* Sums of columns on a GPU: into how many pieces they are cut, what the threads have on their way,
 * and that a workgroup's partial results do not wait for each other's banks. */
#include "tests/unit/zoo_targets.h"
#define PLAN_TARGET zoo_cuda
#include "compiler/compile.h"
#include "compiler/passes/expand.h"
#include "compiler/passes/linsum.h"
#include "compiler/passes/schedule.h"
#include "compiler/search/opts.h"
#include "tests/unit/plan_check.h"
#include "tests/unit/zoo.h"

enum { SHARED = 2, LANES_X = 3 /* SPECIAL: the thread along x */ };

/* Both kernels' results: the pieces of all columns, and the columns. What the threads of the first
 * ask for at a time is what a processor's share of the memory takes, not a multiple. */
static void test_pieces(void **state) {
  (void)state;
  static const struct {
    DType dtype;
    int64_t rows, cols;
  } cases[] = {{DT_F32, 16384, 4096}, {DT_F32, 4096, 16384}, {DT_F32, 65536, 1024},
               {DT_F32, 262144, 256}, {DT_F16, 16384, 8192}, {DT_F32, 65536, 1000}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Job job;
    Graph g;
    KernelObject object;
    job_init(&job, 0);
    graph_init(&g, &job);
    UOp *x = graph_param(&g, SLOT_INPUT, cases[i].dtype, DIMS(cases[i].rows, cases[i].cols));
    graph_output(&g, t_reshape(&g, t_reduce(&g, OP_ADD, x, DIMS(0)), DIMS(cases[i].cols)));
    graph_plan(&g);
    assert_int_equal(g.plan.ncalls, 2);
    const Kernel *first = &g.plan.kernels[g.plan.calls[0].kernel];
    assert_null(compile_kernel(&job, first->sink, "k", &zoo_cuda, NULL, &object));
    assert_null(strstr(object.opts, "GROUP")); /* nobody shares a piece */
    assert_non_null(strstr(object.opts, "UNROLL(2,8)"));
    int64_t threads = object.grid[0] * object.grid[1] * object.block[0] * object.block[1];
    assert_in_range(threads * 8 * 16 / zoo_cuda.threads, 20 << 10, 40 << 10);
    strbuf_deinit(&object.object);
    job_deinit(&job);
  }
}

typedef struct Shared {
  const char *opts;
  size_t seen; /* accesses to the workgroup's memory */
} Shared;

/* Threads that are neighbours touch neighbouring elements, or the same one. */
static void look(Job *job, void *arg) {
  Shared *s = arg;
  OptList opts;
  ZooKernel k = zoo_sum(job, DT_F32, OP_ADD, 1024, 1024, 1);
  check(opts_parse(job, str_from(s->opts), &opts));
  UOp *u = expand_kernel(job, schedule_apply(job, k.sink, &zoo_cuda, &opts), &zoo_cuda);
  UOpList list = uop_toposort(job, u);
  for (size_t i = 0; i < list.len; i++) {
    const UOp *x = list.at[i], *buffer = x->nsrc > 1 ? x->src[0] : NULL;
    while (buffer && buffer->op == OP_AFTER) buffer = buffer->src[0];
    bool access = x->op == OP_LOAD || x->op == OP_STORE;
    if (!access || !buffer || buffer->op != OP_BUFFER || buffer->arg.ints.at[1] != SHARED) continue;
    const LinSum *sum = linsum_index(job, x->src[1]);
    int64_t along_x = 0;
    for (uint32_t t = 0; t < sum->n; t++)
      if (sum->at[t].atom->op == OP_SPECIAL && sum->at[t].atom->arg.i == LANES_X)
        along_x = sum->at[t].coeff;
    assert_in_range(along_x, 0, 1);
    s->seen++;
  }
}

static void test_banks(void **state) {
  (void)state;
  Shared cases[] = {{"VECTOR(1,4) UNROLL(0,8) LOCAL(1,32) GROUP(0,8)", 0},
                    {"VECTOR(1,4) UNROLL(0,8) LOCAL(1,8) GROUP(0,16)", 0},
                    {"LOCAL(1,32) GROUP(0,32)", 0},
                    {"GROUP(0,64) LOCAL(1,4)", 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Job job;
    job_init(&job, 0);
    check(job_run(&job, look, &cases[i]));
    assert_true(cases[i].seen >= 2);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pieces),
      cmocka_unit_test(test_banks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
