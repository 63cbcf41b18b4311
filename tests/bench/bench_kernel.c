/* Times kernels built by hand on the CPU device: what the schedule and the code generator make of
 * them, without a model around. `bench_kernel [THREADS] [FILTER] [OPTS]`; with OPTS the matching
 * kernels are scheduled by that text instead of the heuristic, BENCH_ASM=file writes assembly,
 * BENCH_PRINT=1 prints what is scheduled.
 * A FILTER "mm:M,N,K" or "mm:M,N,K,tb,int8" (or bf16; all optional) is that matmul instead of the
 * list. Every kernel is checked against its unscheduled form first, unless BENCH_UNCHECKED is set.
 * Several OPTS are timed one after the other. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "compiler/codegen/codegen.h"
#include "compiler/codegen/llvm_emit.h"
#include "compiler/ir/text.h"
#include "compiler/ir/verify.h"
#include "compiler/passes/expand.h"
#include "compiler/passes/linearize.h"
#include "compiler/passes/lower.h"
#include "compiler/passes/schedule.h"
#include "compiler/rules/rewrite.h"
#include "tests/model/local_target.h"
#include "tests/unit/zoo.h"

typedef struct Bench {
  Device *device;
  Target target;
  const char *opts; /* NULL: heuristic; "": none */
  ZooKernel kernel;
  Linear linear;
  OptList applied;
  int64_t passes_ns;
} Bench;

/* VAR 0 is the number of tokens of the transformer's kernels, in [1, 512]; they are timed at this.
 */
static const int64_t tokens = 128;

static int64_t elements(const UOp *p) {
  int64_t n = p->arg.ints.at[0];
  return dim_is_static(n) ? n : dim_eval(dim_node(n), &tokens, 1);
}

/* One thread is measured in CPU time: the machine may be shared. */
static bool cpu_time;
static int64_t now_ns(void) { return cpu_time ? clock_cpu_ns() : clock_now_ns(); }

static void die(Status st) {
  if (!st) return;
  char text[4000];
  status_text(st, text, sizeof text);
  fprintf(stderr, "bench_kernel: %s\n", text);
  exit(1);
}

static void print_stage(Job *job, UOp *u) {
  StrBuf text = {0};
  if (!getenv("BENCH_PRINT")) return;
  uop_print_kernel(job, u, &text);
  printf("%s\n", text.ptr ? text.ptr : "");
  strbuf_deinit(&text);
}

static void compile(Job *job, void *arg) {
  Bench *b = arg;
  int64_t t0 = now_ns();
  UOp *u = NULL;
  if (b->opts) {
    die(opts_parse(job, str_from(b->opts), &b->applied));
    u = schedule_apply(job, b->kernel.sink, &b->target, &b->applied);
  } else {
    u = schedule_heuristic(job, b->kernel.sink, &b->target, &b->applied);
  }
  print_stage(job, u);
  Rewrite rw = {.job = job, .no_fma = !codegen_fuses(&b->target), .target = &b->target};
  u = lower_kernel(job, expand_kernel(job, u, &b->target), &b->target);
  u = rewrite_graph(&rw, u, rules_decomp);
  b->linear = linearize_kernel(job, u, &b->target);
  b->passes_ns = now_ns() - t0;
  die(verify_graph(job, u, STAGE_LOWERED, "lower"));
}

static Program *build(Job *job, Bench *b, int64_t *emit_ns) {
  die(job_run(job, compile, b));
  LlvmOutput out = {.want_text = getenv("BENCH_ASM") != NULL};
  int64_t t0 = now_ns();
  die(llvm_emit(&b->linear, "kernel", &b->target, &out));
  *emit_ns = now_ns() - t0;
  if (out.want_text && (!b->opts || *b->opts)) {
    FILE *f = fopen(getenv("BENCH_ASM"), "w");
    if (f) fwrite(out.assembly.ptr, 1, out.assembly.len, f), fclose(f);
  }
  Bytes image = {(const uint8_t *)out.object.ptr, out.object.len};
  ProgramSpec spec = {.image = image,
                      .entry = "kernel",
                      .threads = b->linear.threads,
                      .scratch_bytes = b->linear.scratch_bytes};
  Program *p = NULL;
  die(device_program_load(b->device, &spec, &p));
  if (getenv("BENCH_LLVM"))
    printf("build %.2f passes %.2f codegen %.2f ms\n", (double)out.build_ns / 1e6,
           (double)out.passes_ns / 1e6, (double)out.codegen_ns / 1e6);
  llvm_output_deinit(&out);
  return p;
}

static void run(Bench *b, Program *p, Buffer **bufs, int times) {
  LaunchArg args[4];
  Launch launches[64];
  for (uint32_t i = 0; i < b->kernel.nargs; i++) args[i] = (LaunchArg){bufs[i], 0};
  for (int i = 0; i < times; i++)
    launches[i] = (Launch){.program = p,
                           .args = args,
                           .nargs = b->kernel.nargs,
                           .nvars = b->linear.nvars,
                           .vars = &tokens};
  Fence f;
  die(device_submit(b->device, launches, (size_t)times, &f));
  die(device_wait(b->device, f, -1));
}

static int by_value(const void *x, const void *y) {
  double a = *(const double *)x, b = *(const double *)y;
  return a < b ? -1 : a > b;
}

static double time_it(Bench *b, Program *p, Buffer **bufs) {
  double t[15];
  int64_t t0 = now_ns();
  run(b, p, bufs, 1);
  double one = (double)(now_ns() - t0);
  int times = one > 2e6 ? 1 : one > 2e5 ? 8 : 64, rounds = one > 5e7 ? 5 : 15;
  for (int i = 0; i < rounds; i++) {
    t0 = now_ns();
    run(b, p, bufs, times);
    t[i] = (double)(now_ns() - t0) / times;
  }
  qsort(t, (size_t)rounds, sizeof *t, by_value);
  return t[0]; /* the machine may be shared: the best run says most */
}

static void fill(const UOp *p, float *data) {
  uint32_t s = 12345;
  for (int64_t i = 0, n = elements(p); i < n; i++) {
    s = s * 1664525u + 1013904223u;
    if (p->dtype == DT_F32)
      data[i] = (float)(s >> 8) / 16777216.f - .5f;
    else
      ((int32_t *)data)[i] = (int32_t)(s >> 8) % 1000;
  }
}

static double worst(const UOp *p, const float *a, const float *b) {
  double w = 0;
  for (int64_t i = 0, n = elements(p); i < n; i++) {
    double d = fabs((double)a[i] - (double)b[i]) / (1e-2 + fabs((double)b[i]));
    if (!(d <= w)) w = d;
  }
  return w;
}

static void bench(Device *device, const Target *target, ZooKernel (*make)(Job *, int), int i,
                  const char *label, const char *opts) {
  Job job;
  job_init(&job, 0);
  Bench tuned = {.device = device, .target = *target, .opts = opts, .kernel = make(&job, i)};
  Bench plain = tuned;
  plain.opts = "";
  int64_t emit_ns, plain_ns;
  Buffer *bufs[4];
  Program *p = build(&job, &tuned, &emit_ns), *q = build(&job, &plain, &plain_ns);
  for (uint32_t a = 0; a < tuned.kernel.nargs; a++) {
    size_t bytes = (size_t)elements(tuned.kernel.params[a]) * 4;
    die(device_buffer_alloc(device, bytes, -1, &bufs[a]));
    fill(tuned.kernel.params[a], bufs[a]->host);
  }
  size_t bytes = (size_t)elements(tuned.kernel.params[0]) * 4;
  float *want = malloc(bytes);
  if (!want) exit(1);
  bool unchecked = getenv("BENCH_UNCHECKED") != NULL;
  if (!unchecked) run(&plain, q, bufs, 1);
  memcpy(want, bufs[0]->host, bytes);
  memset(bufs[0]->host, 0xff, bytes);
  double ns = time_it(&tuned, p, bufs);
  double bad = worst(tuned.kernel.params[0], bufs[0]->host, want);
  StrBuf text = {0};
  opts_print(&tuned.applied, &text);
  printf(
      "%-26s %9.1f us %7.1f GF/s %6.1f GB/s  passes %5.2f ms llvm %5.1f ms %5zu nodes t%u %s %s\n",
      label, ns / 1e3, (double)tuned.kernel.flops / ns, (double)tuned.kernel.bytes / ns,
      (double)tuned.passes_ns / 1e6, (double)emit_ns / 1e6, tuned.linear.len, tuned.linear.threads,
      unchecked    ? "-"
      : bad < 1e-2 ? "ok"
                   : "WRONG",
      text.ptr ? text.ptr : "");
  fflush(stdout);
  strbuf_deinit(&text);
  free(want);
  for (uint32_t a = 0; a < tuned.kernel.nargs; a++) device_buffer_free(device, bufs[a]);
  device_program_free(device, p);
  device_program_free(device, q);
  job_deinit(&job);
}

/* -- the kernels ------------------------------------------------------------------------------- */

typedef struct Mm {
  const char *label;
  int64_t m, n, k;
  bool tb;
} Mm;
static const Mm mms[] = {
    {"mm_1024", 1024, 1024, 1024, false},       {"mm_1024_tb", 1024, 1024, 1024, true},
    {"mm_128_768_768", 128, 768, 768, false},   {"mm_128_3072_768", 128, 3072, 768, false},
    {"mm_128_768_3072", 128, 768, 3072, false}, {"mm_qk_128_128_64", 128, 128, 64, true},
    {"mm_pv_128_64_128", 128, 64, 128, false},  {"fc_1_1000_2048_tb", 1, 1000, 2048, true},
    {"fc_1_4096_9216_tb", 1, 4096, 9216, true}, {"fc_1_1000_2048", 1, 1000, 2048, false},
    {"mm_16_1000_512_tb", 16, 1000, 512, true},
};
static Mm asked = {"mm", 0, 0, 0, false};
static DType asked_of = DT_F32;
static ZooKernel make_mm(Job *job, int i) {
  const Mm *mm = i < 0 ? &asked : &mms[i];
  if (i < 0 && asked_of == DT_I8)
    return zoo_matmul_of(job, DT_U8, DT_I8, DT_I32, mm->m, mm->n, mm->k, mm->tb);
  if (i < 0 && asked_of == DT_BF16)
    return zoo_matmul_of(job, DT_BF16, DT_BF16, DT_F32, mm->m, mm->n, mm->k, mm->tb);
  return zoo_matmul(job, DT_F32, mm->m, mm->n, mm->k, mm->tb);
}

/* The matmul that a filter "mm:M,N,K" asks for. */
static bool parse_mm(const char *filter) {
  char tail[16] = "";
  int n = sscanf(filter, "mm:%" SCNd64 ",%" SCNd64 ",%" SCNd64 ",%15s", &asked.m, &asked.n,
                 &asked.k, tail);
  asked.tb = strstr(tail, "tb") != NULL;
  if (strstr(tail, "int8")) asked_of = DT_I8;
  if (strstr(tail, "bf16")) asked_of = DT_BF16;
  return n >= 3 && asked.m > 0 && asked.n > 0 && asked.k > 0;
}

typedef struct Cv {
  const char *label;
  ZooConv c;
} Cv;
#define CV(label_, c_, h_, oc_, k_, s_, p_, flat_, dw_)                                            \
  {                                                                                                \
    label_, {                                                                                      \
      .n = 1, .c = c_, .h = h_, .w = h_, .oc = oc_, .kh = k_, .kw = k_, .stride = s_, .pad = p_,   \
      .flat = flat_, .depthwise = dw_                                                              \
    }                                                                                              \
  }
static const Cv cvs[] = {
    CV("conv1_7x7s2", 3, 224, 64, 7, 2, 3, false, false),
    CV("conv_1x1_64_64", 64, 56, 64, 1, 1, 0, true, false),
    CV("conv_3x3_64_56", 64, 56, 64, 3, 1, 1, false, false),
    CV("conv_3x3_64_56_flat", 64, 56, 64, 3, 1, 1, true, false),
    CV("conv_1x1_256_64", 256, 56, 64, 1, 1, 0, true, false),
    CV("conv_3x3s2_128_56", 128, 56, 128, 3, 2, 1, false, false),
    CV("conv_3x3_128_28", 128, 28, 128, 3, 1, 1, true, false),
    CV("conv_1x1s2_256_512", 256, 56, 512, 1, 2, 0, false, false),
    CV("conv_1x1_128_512", 128, 28, 512, 1, 1, 0, true, false),
    CV("conv_3x3_256_14", 256, 14, 256, 3, 1, 1, true, false),
    CV("conv_1x1_1024_256_14", 1024, 14, 256, 1, 1, 0, true, false),
    CV("conv_3x3_512_7", 512, 7, 512, 3, 1, 1, true, false),
    CV("conv_3x3_512_7_2d", 512, 7, 512, 3, 1, 1, false, false),
    CV("conv_1x1_512_2048_7", 512, 7, 2048, 1, 1, 0, true, false),
    CV("vgg_3x3_64_224", 64, 224, 64, 3, 1, 1, false, false),
    CV("conv_1x1s2_1024_2048", 1024, 14, 2048, 1, 2, 0, false, false),
    CV("conv_3x3s2_512_14", 512, 14, 512, 3, 2, 1, false, false),
    CV("conv_3x3s2_256_28", 256, 28, 256, 3, 2, 1, false, false),
    CV("dw_144_56", 144, 56, 144, 3, 1, 1, false, true),
    CV("dw_144_56_flat", 144, 56, 144, 3, 1, 1, true, true),
    CV("dw_s2_144_56", 144, 56, 144, 3, 2, 1, false, true),
    CV("dw_576_14", 576, 14, 576, 3, 1, 1, false, true),
};
static ZooKernel make_cv(Job *job, int i) { return zoo_conv(job, cvs[i].c); }

static const char *const others[] = {
    "relu_add_1m",          "transpose_1024", "softmax_1536x128", "layernorm_128x768",
    "layernorm_sq_128x768", "sum_rows_1024",  "sum_cols_1024",    "sum_all_1m",
    "gather_128x768",       "relu_add_1000",  "softmax_128x4096"};
static ZooKernel make_other(Job *job, int i) {
  switch (i) {
  case 0: return zoo_elementwise(job, 1 << 20);
  case 1: return zoo_transpose(job, 1024, 1024);
  case 2: return zoo_softmax(job, 1536, 128, false);
  case 3: return zoo_layernorm(job, 128, 768, false);
  case 4: return zoo_layernorm(job, 128, 768, true);
  case 5: return zoo_sum(job, DT_F32, OP_ADD, 1024, 1024, 0);
  case 6: return zoo_sum(job, DT_F32, OP_ADD, 1024, 1024, 1);
  case 7: return zoo_sum(job, DT_F32, OP_ADD, 1024, 1024, 2);
  case 8: return zoo_gather(job, 128, 1000, 768);
  case 10: return zoo_softmax(job, 128, 4096, false);
  default: return zoo_elementwise(job, 1000);
  }
}

static const char *const symbolic[] = {
    "sym_mm_n_768_768", "sym_mm_n_3072_768", "sym_mm_n_768_3072", "sym_qk_n_n_64",
    "sym_pv_n_64_n",    "sym_softmax_n",     "sym_layernorm_768", "sym_relu_add"};
static ZooKernel make_symbolic(Job *job, int i) {
  int64_t n = dim_of(job, uop_var(job, 0, 1, 512, 1));
  switch (i) {
  case 0: return zoo_matmul(job, DT_F32, n, 768, 768, false);
  case 1: return zoo_matmul(job, DT_F32, n, 3072, 768, false);
  case 2: return zoo_matmul(job, DT_F32, n, 768, 3072, false);
  case 3: return zoo_matmul(job, DT_F32, n, n, 64, true);
  case 4: return zoo_matmul(job, DT_F32, n, 64, n, false);
  case 5: return zoo_softmax(job, dim_mul(job, 12, n), n, true);
  case 6: return zoo_layernorm(job, n, 768, false);
  default: return zoo_elementwise(job, dim_mul(job, n, 3072));
  }
}

int main(int argc, char **argv) {
  uint32_t threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
  const char *filter = argc > 2 ? argv[2] : "", *opts = argc > 3 ? argv[3] : NULL;
  Device *device = NULL;
  cpu_time = threads == 1;
  die(device_cpu_create(threads, &device));
  Target target = local_target(device);
  printf("%s\n", device->caps.description);
  for (int i = 3; parse_mm(filter) && (i == 3 || i < argc); i++)
    bench(device, &target, make_mm, -1, "mm", i < argc ? argv[i] : NULL);
  for (size_t i = 0; i < sizeof mms / sizeof *mms; i++)
    if (strstr(mms[i].label, filter)) bench(device, &target, make_mm, (int)i, mms[i].label, opts);
  for (size_t i = 0; i < sizeof cvs / sizeof *cvs; i++)
    if (strstr(cvs[i].label, filter)) bench(device, &target, make_cv, (int)i, cvs[i].label, opts);
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (strstr(others[i], filter)) bench(device, &target, make_other, (int)i, others[i], opts);
  for (size_t i = 0; i < sizeof symbolic / sizeof *symbolic; i++)
    if (strstr(symbolic[i], filter))
      bench(device, &target, make_symbolic, (int)i, symbolic[i], opts);
  device_destroy(device);
  return 0;
}
