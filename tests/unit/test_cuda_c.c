/* Kernels as CUDA C++: when a list may ask for it, what the text says, and that it computes what
 * the linear program does, threads, barriers and values of a warp included, on this processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "base/ptx.h"
#include "compiler/codegen/cuda_emit.h"
#include "compiler/compile.h"
#include "compiler/ir/interp.h"
#include "compiler/rules/rewrite.h"
#include "tests/model/cuda_host.h"
#include "tests/unit/zoo_check.h"

static Target with_nvrtc(const char *cpu) {
  Target t = zoo_cuda;
  t.cpu = cpu;
  if (!strcmp(cpu, "sm_80")) t.features = "+ptx78";
  t.compiler = "CUDA driver 13000, NVRTC 13000";
  return t;
}

/* -- legality ---------------------------------------------------------------------------------- */

static void only_where_it_is(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  Target has = with_nvrtc("sm_90a"), lacks = zoo_cuda, cpu = zoo_cpu;
  cpu.compiler = "NVRTC"; /* another kind */
  const Target *const refused[] = {&lacks, &cpu, &zoo_opencl};
  ZooRun r = {.k = zoo_matmul(&job, DT_F32, 12, 40, 24, false)};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    r.target = refused[i];
    assert_false(zoo_try(&job, &r, OPT_COMPILER, 0, COMPILER_NVRTC));
  }
  r.target = &has;
  assert_false(zoo_try(&job, &r, OPT_COMPILER, 1, COMPILER_NVRTC));
  assert_false(zoo_try(&job, &r, OPT_COMPILER, 0, COMPILER_NVRTC + 1));
  assert_true(zoo_try(&job, &r, OPT_COMPILER, 0, COMPILER_NVRTC));
  assert_false(zoo_try(&job, &r, OPT_COMPILER, 0, COMPILER_NVRTC));
  assert_true(opts_cuda_c(&r.opts));
  job_deinit(&job);
}

static void not_with_matrices(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  Target t = with_nvrtc("sm_80");
  for (int first = 0; first < 2; first++) {
    ZooRun r = {.k = zoo_matmul_of(&job, DT_F16, DT_F16, DT_F32, 64, 64, 64, false), .target = &t};
    bool compiler = first && zoo_try(&job, &r, OPT_COMPILER, 0, COMPILER_NVRTC);
    bool matrix = zoo_try(&job, &r, OPT_TC, 0, opt_tc_arg(MX_F16_M16N8K16, 1, 2));
    assert_int_equal(compiler, first);
    assert_int_equal(matrix, !first);
    assert_int_equal(zoo_try(&job, &r, OPT_COMPILER, 0, COMPILER_NVRTC), 0);
  }
  job_deinit(&job);
}

/* -- the text ---------------------------------------------------------------------------------- */

typedef struct Look {
  const char *opts, *cpu, *with, *without;
} Look;

static void compile(const Look *l, StrBuf *text) {
  Job job;
  KernelObject object;
  Target t = with_nvrtc(l->cpu);
  job_init(&job, 0);
  ZooKernel k = zoo_matmul(&job, DT_F32, 12, 40, 24, false);
  Status st = compile_kernel(&job, k.sink, "k", &t, l->opts, &object);
  char why[1000];
  status_text(st, why, sizeof why);
  if (st) fail_msg("%s: %s", l->opts, why);
  assert_string_equal(object.opts, l->opts);
  strbuf_add(text, object.object.ptr, object.object.len);
  strbuf_deinit(&object.object);
  job_deinit(&job);
}

static void texts(void **state) {
  (void)state;
  static const Look looks[] = {
      {"COMPILER(0,1)", "sm_90a", CUDA_C_MARK, ".entry"},
      {"COMPILER(0,1)", "sm_90a", "griddepcontrol.wait", "__restrict__"},
      {"COMPILER(0,1)", "sm_80", "const float *__restrict__ p1", "griddepcontrol"},
      {"COMPILER(0,1)", "sm_80", "*(p0 + ", "Lanes<float, 4>"},
      {"VECTOR(1,4) COMPILER(0,1)", "sm_80", "*(const Lanes<float, 4> *)(p2 + ", "<float, 2>"},
      {"VECTOR(1,4) UPCAST(0,2) COMPILER(0,1)", "sm_80", "*(Lanes<float, 4> *)(p0 + ", "if ("},
      {"GROUP(2,8) COMPILER(0,1)", "sm_80", "alignas(16) __shared__ float s0[8]", "float4"},
      {"LOCAL(0,4) LOCAL(1,8) COMPILER(0,1)", "sm_80", "__launch_bounds__(32)",
       "barrier(CLK_LOCAL_MEM_FENCE);"},
  };
  for (size_t i = 0; i < sizeof looks / sizeof *looks; i++) {
    StrBuf text = {0}, again = {0};
    compile(&looks[i], &text);
    compile(&looks[i], &again);
    assert_string_equal(text.ptr, again.ptr);
    bool right = strstr(text.ptr, looks[i].with) && !strstr(text.ptr, looks[i].without);
    if (!right) print_message("%s: %s\n", looks[i].opts, strstr(text.ptr, "extern \"C\""));
    assert_true(right);
    strbuf_deinit(&text);
    strbuf_deinit(&again);
  }
}

/* -- the same values --------------------------------------------------------------------------- */

static uint64_t random_state;
static uint32_t below(uint32_t n) { return zoo_below(&random_state, n); }

static void build(Job *job, void *arg) {
  ZooRun *r = arg;
  Rewrite rw = {.job = job, .target = r->target};
  r->scheduled = r->heuristic ? schedule_heuristic(job, r->k.sink, r->target, &r->opts)
                              : schedule_apply(job, r->k.sink, r->target, &r->opts);
  UOp *u = lower_kernel(job, expand_kernel(job, r->scheduled, r->target), r->target);
  u = rewrite_graph(&rw, u, rules_decomp);
  r->linear = linearize_kernel(job, u, r->target);
  r->linear.nargs = r->k.nargs;
}

static ZooKernel pick(Job *job, uint32_t which) {
  ZooConv conv = {
      .n = 2, .c = 3, .h = 9, .w = 10, .oc = 8, .kh = 3, .kw = 3, .stride = 1, .pad = 1};
  switch (which) {
  case 0: return zoo_matmul(job, DT_F32, 12, 40, 24, false);
  case 1: return zoo_conv(job, conv);
  case 2: return zoo_softmax(job, 3, 64, true);
  case 3: return zoo_nested(job, 6, 9, 12);
  case 4: return zoo_matmul(job, DT_I32, 8, 16, 16, false);
  case 5: return zoo_matmul(job, DT_F16, 8, 16, 16, false);
  default: return zoo_gather(job, 6, 11, 24);
  }
}

static void random_opts(Job *job, ZooRun *r) {
  static const OptKind kinds[] = {OPT_VECTOR, OPT_UPCAST,   OPT_UNROLL, OPT_LOCAL, OPT_LOCAL,
                                  OPT_GROUP,  OPT_GROUPTOP, OPT_STAGE,  OPT_PADTO, OPT_SPREAD};
  static const uint32_t sizes[] = {2, 3, 4, 4, 8, 8, 16, 32};
  uint32_t naxes = kernel_info(job, r->k.sink)->naxes;
  for (int n = 0; n < 14; n++) {
    OptKind kind = kinds[below(sizeof kinds / sizeof *kinds)];
    zoo_try(job, r, kind, (int)below(naxes), kind == OPT_STAGE ? below(3) : sizes[below(8)]);
  }
}

static void fill(const UOp *p, char *to) {
  for (int64_t i = 0; i < p->arg.ints.at[0]; i++) {
    DType d = (DType)p->dtype;
    Scalar v = dtype_is_float(d) ? (Scalar){.f = (double)((int)below(65) - 32) / 8}
                                 : (Scalar){.i = (int64_t)below(6)};
    scalar_store(d, v, to + (size_t)i * dtype_info[d].bytes);
  }
}

static bool close_to(DType d, Scalar a, Scalar b) {
  if (!dtype_is_float(d)) return a.i == b.i;
  double most = d == DT_F16 ? 2e-3 : 1e-5;
  return fabs(a.f - b.f) <= most * (1 + fabs(b.f));
}

static void run_both(Job *job, const ZooRun *r) {
  InterpBuffer args[5];
  for (uint32_t k = 0; k < r->k.nargs; k++) {
    const UOp *p = r->k.params[k];
    args[k].bytes = (size_t)p->arg.ints.at[0] * dtype_info[p->dtype].bytes;
    void *at = NULL;
    assert_int_equal(posix_memalign(&at, BUFFER_ALIGN, args[k].bytes + 1), 0);
    args[k].data = at;
    fill(p, at);
  }
  char *want = arena_alloc(&job->arena, args[0].bytes);
  zoo_must(r, interp_launch(job, &r->linear, args, r->k.nargs));
  memcpy(want, args[0].data, args[0].bytes);
  memset(args[0].data, 0x5A, args[0].bytes);
  zoo_must(r, cuda_host_launch(&r->linear, args, r->k.nargs));
  DType d = (DType)r->k.params[0]->dtype;
  size_t item = dtype_info[d].bytes;
  for (size_t i = 0; i < args[0].bytes; i += item) {
    Scalar a = scalar_load(d, (char *)args[0].data + i), b = scalar_load(d, want + i);
    if (close_to(d, a, b)) continue;
    zoo_explain(r, "differs");
    fail_msg("element %zu: %g %lld, not %g %lld", i / item, a.f, (long long)a.i, b.f,
             (long long)b.i);
  }
  for (uint32_t k = 0; k < r->k.nargs; k++) free(args[k].data);
}

static void computes_the_same(void **state) {
  (void)state;
  enum { ROUNDS = 21 };
  Target t = with_nvrtc("sm_80");
  uint32_t waits = 0;
  if (system("g++ --version >/dev/null 2>&1")) {
    print_message("skipped: no g++ on this machine\n");
    skip();
  }
  for (uint32_t round = 0; round < ROUNDS; round++) {
    Job job;
    job_init(&job, 0);
    random_state = round;
    ZooRun r = {.target = &t, .k = pick(&job, round % 7)};
    random_opts(&job, &r);
    zoo_must(&r, job_run(&job, build, &r));
    for (size_t i = 0; i < r.linear.len; i++)
      waits += r.linear.list[i]->op == OP_BARRIER || r.linear.list[i]->op == OP_PEER;
    run_both(&job, &r);
    job_deinit(&job);
  }
  assert_true(waits > 10); /* the lists are worth something */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(only_where_it_is),
                                     cmocka_unit_test(not_with_matrices), cmocka_unit_test(texts),
                                     cmocka_unit_test(computes_the_same)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
