/* Kernels of every kind, compiled for each device of this machine and run on it: with the
 * heuristic's schedule and with random ones, out of the space that the tuner searches and by
 * chance. Each result is compared with the interpreter's, and what lies behind the output must be
 * as it was. "emulated" is a GPU that need not be there: what its code is made of, for every thread
 * of a launch, by the interpreter.
 *
 *   test_kernels [DEVICE [SCHEDULES [K/N]]]      test_kernels cuda:0 10 0/8
 *
 * K/N: one of N equal parts. The arguments are there for tools that slow a device down a
 * thousandfold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/vec.h"
#include "compiler/ir/interp.h"
#include "compiler/search/internal.h"
#include "tests/model/local_target.h"
#include "tests/unit/matrix_check.h"

enum { GUARD = 4096, PATTERN = 0x5A, POOL = 4096, WALK = 5, LAUNCHES = 2, ROUNDS = 3 };

/* -- kernels ---------------------------------------------------------------------------------- */

static ZooKernel product(Job *job, DType d, DType sum, int64_t m, int64_t n, int64_t k, int how) {
  return contraction(job, &(Shape){d, d, sum, m, n, k, how & 1, how >> 1 & 1,
                                   how & 4   ? RELU
                                   : how & 8 ? CUT
                                             : AS_IT_IS});
}

static ZooKernel conv(Job *job, bool flat, bool depthwise) {
  return zoo_conv(job, (ZooConv){.n = 2,
                                 .c = 8,
                                 .h = 9,
                                 .w = 10,
                                 .oc = depthwise ? 8 : 20,
                                 .kh = 3,
                                 .kw = 3,
                                 .stride = 1,
                                 .pad = 1,
                                 .flat = flat,
                                 .depthwise = depthwise});
}

static ZooKernel attention(Job *job, DType d, bool causal) {
  return zoo_attention_of(
      job,
      &(ZooAttention){.d = d, .rows = 64, .keys = 64, .depth = 16, .width = 16, .causal = causal});
}

/* long: table */
static ZooKernel kernel(Job *job, int i) {
  switch (i) {
  case 0: return zoo_matmul(job, DT_F32, 37, 40, 50, false);
  case 1: return zoo_matmul(job, DT_F32, 64, 64, 64, true);
  case 2: return product(job, DT_F16, DT_F32, 64, 64, 128, 0);
  case 3: return product(job, DT_F16, DT_F32, 50, 40, 72, 5);
  case 4: return product(job, DT_BF16, DT_F32, 96, 64, 128, 2);
  case 5: return product(job, DT_I8, DT_I32, 64, 64, 128, 2);
  case 6: return product(job, DT_U8, DT_I32, 64, 33, 64, 2);
  case 7: return product(job, DT_F32, DT_F32, 64, 64, 64, 8);
  case 8: return product(job, DT_F32, DT_F32, 70, 72, 96, 10);
  case 9: return zoo_gram(job, 33, 40);
  case 10: return zoo_prologue(job, 24, 40, 36);
  case 11: return conv(job, false, false);
  case 12: return conv(job, true, false);
  case 13: return conv(job, false, true);
  case 14: return zoo_elementwise(job, 1003);
  case 15: return zoo_transpose(job, 61, 40);
  case 16: return zoo_softmax(job, 5, 300, false);
  case 17: return zoo_softmax(job, 3, 1024, true);
  case 18: return attention(job, DT_F16, false);
  case 19: return attention(job, DT_BF16, true);
  case 20: return zoo_attention(job, 33, 40, 8, 12, true);
  case 21: return zoo_layernorm(job, 9, 130, false);
  case 22: return zoo_layernorm(job, 4, 512, true);
  case 23: return zoo_sum(job, DT_F32, OP_ADD, 6, 700, 0);
  case 24: return zoo_sum(job, DT_F32, OP_MAX, 300, 33, 1);
  case 25: return zoo_sum(job, DT_F32, OP_ADD, 30, 100, 2);
  case 26: return zoo_gather(job, 6, 11, 24);
  case 27: return product(job, DT_F8E4M3FN, DT_F32, 64, 64, 128, 2);
  case 28: return product(job, DT_F8E5M2, DT_F32, 40, 33, 64, 1);
  case 29: return product(job, DT_U8, DT_I32, 40, 33, 64, 1);
  default: return zoo_nested(job, 6, 9, 12);
  }
}
enum { KERNELS = 31, EMULATED = 4 };

/* Random lists of convolutions and attention recompute so much that the interpreter takes minutes:
 * test_chain.c has chosen ones. */
static size_t lists_for(int i, bool emulated, size_t wanted) {
  bool conv = i >= 11 && i <= 13, attention = i == 18 || i == 19;
  return !emulated ? wanted : attention ? 0 : conv && wanted > 1 ? 1 : wanted;
}

/* -- schedules -------------------------------------------------------------------------------- */

typedef struct Walk {
  ZooRun *r;
  const Target *target;
  size_t want;
  Point *pool;
  size_t n;
  OptList *lists;
} Walk;

static void add_point(void *ctx, const Point *p) {
  Walk *w = ctx;
  if (w->n < POOL)
    w->pool[w->n++] = *p;
  else if (random_below(2)) /* what comes late has its chance */
    w->pool[random_below(POOL)] = *p;
}

/* A matrix instruction over the axes of a product, with what it needs. */
static bool with_matrix(Job *job, ZooRun *r) {
  for (int tries = 0; tries < 60; tries++) {
    int id = (int)random_below(MX__COUNT), swap = (int)random_below(2);
    const MatrixInfo *info = matrix_info(id);
    const int64_t unit[3] = {swap ? info->n : info->m, swap ? info->m : info->n, info->k};
    r->opts = (OptList){0};
    if (!matrix_on(info, r->target)) continue;
    for (int axis = 0; axis < 3; axis++)
      if (random_below(4)) zoo_try(job, r, OPT_PADTO, axis, unit[axis]);
    if (zoo_try(job, r, OPT_TC, swap, opt_tc_arg(id, !swap, 2))) return true;
  }
  r->opts = (OptList){0};
  return false;
}

/* Opts as they come, those that are legal. */
static void by_chance(Job *job, ZooRun *r, OptList *out) {
  static const OptKind kinds[] = {OPT_UPCAST,   OPT_UNROLL, OPT_LOCAL, OPT_GROUP,  OPT_GROUPTOP,
                                  OPT_STAGE,    OPT_STAGE,  OPT_STAGE, OPT_SPREAD, OPT_VECTOR,
                                  OPT_PIPELINE, OPT_KEEP,   OPT_PADTO, OPT_REPAIR, OPT_THREAD};
  static const int64_t sizes[] = {2, 3, 4, 8, 16, 32};
  int naxes = (int)kernel_info(job, r->k.sink)->naxes;
  with_matrix(job, r);
  for (uint32_t n = 2 + random_below(14); n-- > 0;) {
    OptKind kind = kinds[random_below(sizeof kinds / sizeof *kinds)];
    bool names = kind == OPT_STAGE || kind == OPT_KEEP;
    int axis = (int)random_below((uint32_t)naxes + names) - names;
    int64_t arg = names                  ? random_below(4)
                  : kind == OPT_PIPELINE ? 2 + random_below(3) + PIPE_GO_ON * random_below(2)
                                         : sizes[random_below(6)];
    zoo_try(job, r, kind, axis, arg);
  }
  *out = r->opts;
}

/* Steps from where the search begins and from what the heuristic says, and any of all that was met;
 * every other list by chance. */
static void walk(Job *job, void *arg) {
  Walk *w = arg;
  Space s;
  OptList said = {0};
  Point heuristic;
  search_space_init(&s, job, w->r->k.sink, w->target);
  w->pool = arena_array(&job->arena, POOL, sizeof *w->pool);
  w->lists = arena_array(&job->arena, w->want + 1, sizeof *w->lists);
  if (!w->pool || !w->lists) job_abort(job, FAIL(RESOURCE_EXHAUSTED, "memory for schedules"));
  search_seeds(&s, add_point, w);
  schedule_heuristic(job, w->r->k.sink, w->target, &said);
  if (search_space_point(&s, said.at, said.len, &heuristic))
    search_space_near(&s, &heuristic, add_point, w);
  for (int k = 0; k < WALK && w->n; k++) {
    Point from = w->pool[random_below((uint32_t)w->n)];
    search_space_near(&s, &from, add_point, w);
  }
  for (size_t i = 0; i < w->want; i++) {
    if (i % 2 || !w->n) {
      by_chance(job, w->r, &w->lists[i]);
      continue;
    }
    const Point *p = &w->pool[random_below((uint32_t)w->n)];
    for (uint32_t k = 0; k < p->len; k++)
      opts_push(job, &w->lists[i], (OptKind)p->at[k].kind, p->at[k].axis, p->at[k].arg);
  }
  w->r->opts = (OptList){0};
}

/* -- running ---------------------------------------------------------------------------------- */

static Device *device; /* NULL: emulated */
static size_t compiled, with_matrices, refused, recompiled;

static void fill(ZooRun *r, Job *job, InterpBuffer *bufs) {
  for (uint32_t a = 0; a < r->k.nargs; a++) {
    const UOp *p = r->k.params[a];
    size_t item = dtype_info[p->dtype].bytes;
    bufs[a].bytes = (size_t)p->arg.ints.at[0] * item;
    bufs[a].data = arena_alloc(&job->arena, bufs[a].bytes + 1);
    assert_non_null(bufs[a].data);
    for (int64_t i = 0; i < p->arg.ints.at[0]; i++)
      scalar_store((DType)p->dtype, random_value((DType)p->dtype),
                   (char *)bufs[a].data + (size_t)i * item);
  }
}

static void compare_with(ZooRun *r, InterpBuffer want, const uint8_t *got) {
  DType d = (DType)r->k.params[0]->dtype;
  size_t item = dtype_info[d].bytes, n = want.bytes / item;
  double scale = 0, step = d == DT_F32 ? 1e-5 : 1e-2; /* sums of another order */
  for (size_t i = 0; i < n && dtype_is_float(d); i++)
    scale = fmax(scale, fabs(scalar_load(d, (uint8_t *)want.data + i * item).f));
  for (size_t i = 0; i < n; i++) {
    Scalar x = scalar_load(d, (uint8_t *)want.data + i * item), y = scalar_load(d, got + i * item);
    bool same = dtype_is_float(d) ? fabs(x.f - y.f) <= step * (fabs(x.f) + scale) : x.i == y.i;
    if (same) continue;
    char text[200];
    snprintf(text, sizeof text, "element %zu is %g, not %g", i,
             dtype_is_float(d) ? y.f : (double)y.i, dtype_is_float(d) ? x.f : (double)x.i);
    zoo_explain(r, text);
    fail();
  }
  for (size_t i = 0; i < GUARD; i++) {
    if (got[want.bytes + i] == PATTERN) continue;
    zoo_explain(r, "wrote behind its output");
    fail();
  }
}

/* Twice in one submission, and that often enough to become a graph of the driver's. */
static Status launch(Program *p, const LaunchArg *args, uint32_t nargs) {
  Launch list[LAUNCHES];
  Fence fence;
  for (int i = 0; i < LAUNCHES; i++) list[i] = (Launch){.program = p, .args = args, .nargs = nargs};
  for (int i = 0; i < ROUNDS; i++) {
    TRY(device_submit(device, list, LAUNCHES, &fence));
    TRY(device_wait(device, fence, 20000000000));
  }
  return NULL;
}

static Status run_program(ZooRun *r, Program *p, const InterpBuffer *bufs, uint8_t *got) {
  LaunchArg args[4] = {{0}};
  Status st = NULL;
  for (uint32_t a = 0; a < r->k.nargs && !st; a++) {
    st = device_buffer_alloc(device, bufs[a].bytes + (a ? 0 : GUARD), -1, &args[a].buffer);
    if (!st && a) st = device_write(device, args[a].buffer, 0, bufs[a].data, bufs[a].bytes);
  }
  size_t bytes = bufs[0].bytes + GUARD;
  memset(got, PATTERN, bytes);
  if (!st) st = device_write(device, args[0].buffer, 0, got, bytes);
  if (!st) st = launch(p, args, r->k.nargs);
  if (!st) st = device_read(device, args[0].buffer, 0, got, bytes);
  for (uint32_t a = 0; a < r->k.nargs; a++) device_buffer_free(device, args[a].buffer);
  return st;
}

static Target tested_target(void) { return device ? local_target(device) : zoo_cuda; }

static void count_refused(ZooRun *r, Status st) {
  char text[300];
  status_text(st, text, sizeof text);
  status_drop(st);
  zoo_explain(r, text);
  refused++;
}

/* The list is the run's. */
static void emulate(Job *job, ZooRun *r, const InterpBuffer *bufs) {
  InterpBuffer mine[4];
  memcpy(mine, bufs, r->k.nargs * sizeof *bufs);
  mine[0].data = arena_alloc(&job->arena, bufs[0].bytes + GUARD);
  assert_non_null(mine[0].data);
  memset(mine[0].data, PATTERN, bufs[0].bytes + GUARD);
  Status st = job_run(job, zoo_compile, r);
  if (st && !r->heuristic) {
    count_refused(r, st);
    return;
  }
  zoo_must(r, st);
  zoo_must(r, interp_launch(job, &r->linear, mine, r->k.nargs));
  compare_with(r, bufs[0], mine[0].data);
  compiled++;
  for (size_t i = 0; i < r->opts.len; i++) with_matrices += r->opts.at[i].kind == OPT_TC;
}

static void run_object(ZooRun *r, const KernelObject *made, const InterpBuffer *bufs) {
  KernelObject object = *made;
  Program *p = NULL;
  ProgramSpec spec = {.image = {(const uint8_t *)object.object.ptr, object.object.len},
                      .entry = object.entry,
                      .threads = object.threads,
                      .scratch_bytes = object.scratch_bytes};
  for (int d = 0; d < 3; d++)
    spec.grid[d] = (uint32_t)object.grid[d], spec.block[d] = object.block[d];
  zoo_must(r, device_program_load(device, &spec, &p));
  uint8_t *got = malloc(bufs[0].bytes + GUARD);
  assert_non_null(got);
  zoo_must(r, run_program(r, p, bufs, got));
  compare_with(r, bufs[0], got);
  free(got);
  device_program_free(device, p);
}

/* The same schedule by the device's other compiler, which takes no matrix instructions. */
static void run_recompiled(Job *job, ZooRun *r, const Target *t, const char *opts,
                           const InterpBuffer *bufs) {
  KernelObject object;
  StrBuf list = {0};
  strbuf_addf(&list, "%s COMPILER(0,1)", opts);
  Status st = compile_kernel(job, r->k.sink, "tested", t, list.ptr, &object);
  bool other = status_code(st) == ST_INVALID_ARGUMENT || status_code(st) == ST_UNIMPLEMENTED;
  if (!other) zoo_must(r, st);
  status_drop(other ? st : NULL);
  if (!other) run_object(r, &object, bufs), recompiled++;
  strbuf_deinit(&object.object);
  strbuf_deinit(&list);
}

static void run_with(Job *job, ZooRun *r, const char *opts, const InterpBuffer *bufs) {
  KernelObject object;
  if (!device) {
    r->heuristic = !opts;
    emulate(job, r, bufs);
    return;
  }
  Target t = local_target(device);
  Status st = compile_kernel(job, r->k.sink, "tested", &t, opts, &object);
  if (st && opts) { /* to the tuner it is a candidate less */
    count_refused(r, st);
    return;
  }
  zoo_must(r, st);
  run_object(r, &object, bufs);
  compiled++;
  with_matrices += strstr(object.opts, "TC(") != NULL;
  strbuf_deinit(&object.object);
  if (target_has_nvrtc(&t)) run_recompiled(job, r, &t, object.opts, bufs);
}

static void run_kernel(int i, size_t schedules) {
  Job job;
  InterpBuffer bufs[4];
  job_init(&job, 0);
  Target t = tested_target();
  ZooRun r = {.k = kernel(&job, i), .target = &t};
  random_state = (uint64_t)i + 1;
  fill(&r, &job, bufs);
  zoo_must(&r, interp_kernel(&job, r.k.sink, bufs, r.k.nargs));
  Walk w = {.r = &r, .target = &t, .want = schedules};
  if (schedules) zoo_must(&r, job_run(&job, walk, &w));
  run_with(&job, &r, NULL, bufs);
  for (size_t k = 0; k < schedules; k++) {
    StrBuf text = {0};
    r.opts = w.lists[k];
    opts_print(&r.opts, &text);
    run_with(&job, &r, text.ptr ? text.ptr : "", bufs);
    strbuf_deinit(&text);
  }
  print_message("%d %s: %zu programs so far\n", i, r.k.name, compiled);
  job_deinit(&job);
}

/* -- devices ---------------------------------------------------------------------------------- */

static const char *only;
static long wanted = -1; /* schedules */
static int part, parts = 1;

static void run_on(const char *name) {
  if (only && strcmp(only, name) != 0) return;
  device = NULL;
  Status st = strcmp(name, "emulated") ? device_open(name, &device) : NULL;
  if (st) {
    char text[300];
    status_text(st, text, sizeof text);
    print_message("skipped: %s\n", text);
    status_drop(st);
    assert_null(only); /* a device that was asked for */
    return;
  }
  bool opencl = device && !strcmp(device->caps.kind, "opencl");
  size_t schedules = wanted >= 0 ? (size_t)wanted : opencl ? 0 : device ? 10 : EMULATED;
  compiled = with_matrices = refused = recompiled = 0;
  for (int i = part; i < KERNELS; i += parts) run_kernel(i, lists_for(i, !device, schedules));
  print_message("%s: %zu programs, %zu with matrix instructions, %zu refused, %zu by NVRTC\n", name,
                compiled, with_matrices, refused, recompiled);
  assert_true(refused <= 1 + compiled / 100); /* legal lists that no code was made of */
  bool all = parts == 1 && schedules >= 10;
  assert_true(!all || !device || compiled + refused == KERNELS * (1 + schedules));
  bool matrices = all && device && !strcmp(device->caps.kind, "cuda");
  assert_true(!matrices || with_matrices > KERNELS);
  bool nvrtc = matrices && strstr(device->caps.compiler, "NVRTC");
  assert_true(!nvrtc || recompiled > KERNELS);
  assert_true(device || parts > 1 || wanted >= 0 || compiled > 3 * KERNELS);
  if (device) device_destroy(device);
}

static void on_cpu(void **state) { (void)state, run_on("cpu:0"); }
static void on_opencl(void **state) { (void)state, run_on("opencl:0"); }
static void on_cuda(void **state) { (void)state, run_on("cuda:0"); }
static void emulated(void **state) { (void)state, run_on("emulated"); }

int main(int argc, char **argv) {
  if (argc > 1) only = argv[1];
  if (argc > 2) wanted = atol(argv[2]);
  if (argc > 3 && (sscanf(argv[3], "%d/%d", &part, &parts) != 2 || part < 0 || parts <= part)) {
    fprintf(stderr, "expected K/N\n");
    return 64;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(on_cpu), cmocka_unit_test(on_opencl),
                                     cmocka_unit_test(on_cuda), cmocka_unit_test(emulated)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
