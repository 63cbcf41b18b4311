/* What the analytic model expects of schedules, on an H100 that need not be there.
 *
 *   bench_ranking MODEL.kgraph [--fast-math] < SCHEDULES
 *
 * A line of input is a schedule of the kernel that computes most; a line of output the nanoseconds
 * that it is expected to take, 0 where it is not legal. gpu.py puts them beside what was measured.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/compile.h"
#include "compiler/search/search.h"
#include "tests/read_file.h"
#include "tests/unit/zoo_targets.h"

/* The kernel of most operations. */
static Status largest_kernel(Job *job, const Plan *plan, UOp **out) {
  int64_t most = -1;
  for (size_t k = 0; k < plan->nkernels; k++) {
    SearchCost cost;
    TRY(search_cost(job, plan->kernels[k].sink, &zoo_cuda, NULL, &cost));
    if (cost.flops > most) {
      most = cost.flops;
      *out = plan->kernels[k].sink;
    }
  }
  return most < 0 ? FAIL(INVALID_ARGUMENT, "a plan without kernels") : NULL;
}

static void predict_lines(Job *job, UOp *kernel) {
  char line[4096];
  while (fgets(line, sizeof line, stdin)) {
    SearchCost cost;
    line[strcspn(line, "\n")] = 0;
    Status st = search_cost(job, kernel, &zoo_cuda, line, &cost);
    printf("%" PRId64 "\n", st ? 0 : cost.predicted_ns);
    status_drop(st);
  }
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s MODEL.kgraph [--fast-math] < SCHEDULES\n", argv[0]);
    return 64;
  }
  FrontendOptions o = {.kind = MODEL_KGRAPH,
                       .fast_math = argc > 2 && !strcmp(argv[2], "--fast-math")};
  StrBuf model = {0};
  TensorGraph graph = {0};
  Plan plan;
  Job job;
  UOp *kernel = NULL;
  job_init(&job, (size_t)4 << 30);
  Status st = read_file(argv[1], &model) ? NULL : FAIL(NOT_FOUND, "%s cannot be read", argv[1]);
  if (!st) st = compile_frontend(&job, (Bytes){(uint8_t *)model.ptr, model.len}, &o, &graph);
  if (!st) st = compile_plan(&job, &graph, &zoo_cuda, &plan);
  if (!st) st = largest_kernel(&job, &plan, &kernel);
  if (!st) predict_lines(&job, kernel);
  if (st) {
    char text[2048];
    status_text(st, text, sizeof text);
    fprintf(stderr, "%s\n", text);
  }
  bool failed = st != NULL;
  status_drop(st);
  strbuf_deinit(&graph.constants);
  strbuf_deinit(&model);
  job_deinit(&job);
  return failed;
}
