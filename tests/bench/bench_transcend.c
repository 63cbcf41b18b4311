/* The elementary functions as machine code: nanoseconds per element of a kernel that applies one to
 * 16384 floats in cache, and the largest error against libm's double on the device itself.
 * `bench_transcend [f64]`; one thread, CPU time. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "tests/model/local_target.h"
#include "tests/unit/zoo.h"

enum { N = 16384 };

static void die(Status st) {
  if (!st) return;
  char text[4000];
  status_text(st, text, sizeof text);
  fprintf(stderr, "bench_transcend: %s\n", text);
  exit(1);
}

static const struct {
  Op op;
  double (*f)(double);
  double lo, hi;
} rows[] = {{OP_SQRT, sqrt, 0, 100},    {OP_EXP, exp, -80, 88},    {OP_EXP2, exp2, -120, 127},
            {OP_LOG, log, 1e-30, 50},   {OP_LOG2, log2, 1e-30, 5}, {OP_SIN, sin, -1e4, 1e4},
            {OP_COS, cos, -1e30, 1e30}, {OP_TANH, tanh, -10, 10},  {OP_ERF, erf, -4.5, 4.5},
            {OP_ATAN, atan, -8, 8}};

static ZooKernel kernel(Job *job, Op op, DType d) {
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, d, N), *x = zoo_param(&z, d, N), *i = zoo_range(&z, AX_LOOP, N);
  (void)y;
  return zoo_done(&z, op_info[op].name, i, uop1(job, op, zoo_load(&z, x, i, NULL)));
}

static double ulp(DType d, double got, double want) {
  int e;
  if (isnan(want) || got == want) return isnan(want) && !isnan(got) ? INFINITY : 0;
  (void)frexp(want, &e);
  int least = d == DT_F64 ? -1074 : -149, unit = e - (d == DT_F64 ? 53 : 24);
  return fabs(got - want) / ldexp(1, unit > least ? unit : least);
}

static void bench(Device *device, const Target *target, size_t k, DType d) {
  Job job;
  KernelObject object;
  Program *program = NULL;
  Buffer *bufs[2];
  size_t size = dtype_info[d].bytes;
  job_init(&job, 0);
  ZooKernel z = kernel(&job, rows[k].op, d);
  die(compile_kernel(&job, z.sink, "k", target, NULL, &object));
  ProgramSpec spec = {.image = {(const uint8_t *)object.object.ptr, object.object.len},
                      .entry = "k",
                      .threads = object.threads,
                      .scratch_bytes = object.scratch_bytes};
  die(device_program_load(device, &spec, &program));
  for (int b = 0; b < 2; b++) die(device_buffer_alloc(device, N * size, -1, &bufs[b]));
  char *in = bufs[1]->host, *out = bufs[0]->host;
  for (size_t i = 0; i < N; i++) {
    Scalar v = {.f = rows[k].lo + (rows[k].hi - rows[k].lo) * (double)rand() / RAND_MAX};
    scalar_store(d, v, in + i * size);
  }
  int64_t best = INT64_MAX;
  for (int t = 0; t < 50; t++) {
    Fence f;
    LaunchArg args[2] = {{bufs[0], 0}, {bufs[1], 0}};
    Launch launches[16];
    for (int l = 0; l < 16; l++)
      launches[l] = (Launch){.program = program, .args = args, .nargs = 2};
    int64_t start = clock_cpu_ns();
    die(device_submit(device, launches, 16, &f));
    die(device_wait(device, f, -1));
    int64_t ns = clock_cpu_ns() - start;
    if (ns < best) best = ns;
  }
  double worst = 0, at = 0;
  for (size_t i = 0; i < N; i++) {
    double x = scalar_load(d, in + i * size).f,
           e = ulp(d, scalar_load(d, out + i * size).f, rows[k].f(x));
    if (e > worst) worst = e, at = x;
  }
  printf("%-5s %s %7.3f ns/element  %6.3f ulp at %g  %s\n", op_info[rows[k].op].name,
         dtype_info[d].name, (double)best / 16 / N, worst, at, object.opts);
  for (int b = 0; b < 2; b++) device_buffer_free(device, bufs[b]);
  device_program_free(device, program);
  strbuf_deinit(&object.object);
  job_deinit(&job);
}

int main(int argc, char **argv) {
  Device *device = NULL;
  die(device_cpu_create(1, &device));
  Target target = local_target(device);
  bool wide = argc > 1 && !strcmp(argv[1], "f64");
  printf("%s\n", device->caps.description);
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
    bench(device, &target, k, wide ? DT_F64 : DT_F32);
  device_destroy(device);
  return 0;
}
