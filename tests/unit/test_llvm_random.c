/* Random straight-line programs: machine code against the interpreter.
 *
 * test_llvm_emit has every op alone; here they meet, so that LLVM's simplifications of one op's
 * idiom around another's are tested too. Programs are a function of their seed, which a failure
 * prints. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/vec.h"
#include "compiler/codegen/llvm_emit.h"
#include "compiler/codegen/llvm_target.h"
#include "compiler/ir/interp.h"
#include "devices/device.h"
#include "tests/unit/status_check.h"

enum { N = 64, NINPUTS = 5, NOUTPUTS = 4, STEPS = 40, PROGRAMS = 250 };

static Device *device;
static Target target;
static Job job;
static uint64_t rng;

static uint64_t random_bits(void) {
  rng ^= rng << 13;
  rng ^= rng >> 7;
  return rng ^= rng << 17;
}
static unsigned below(unsigned n) { return (unsigned)(random_bits() >> 20) % n; }

/* -- programs
 * -------------------------------------------------------------------------------------- */

typedef struct Random {
  UOpList list, values;
  unsigned lanes;
  UOp *at;
} Random;

static UOp *add(Random *p, Op o, DType d, Arg arg, UOp *const *src, size_t n) {
  UOp *u = uop_make_lanes(&job, o, d, o == OP_RANGE ? 1 : p->lanes, arg, src, n);
  for (size_t i = 0; i < p->list.len; i++) {
    if (p->list.at[i] == u) return u;
  }
  if (u->nsrc) avec_push(&job.arena, &p->list, u);
  return u;
}

static UOp *splat(Random *p, UOp *u) {
  return p->lanes == 1 ? u : add(p, OP_BROADCAST, DT_VOID, arg_none(), &u, 1);
}

static UOp *constant(Random *p, DType d) {
  static const double small[] = {0, 1, -1, 2, 3, 0.5, 7, 100, -0.0, 31, 1e9};
  return splat(p, uop_number(&job, d, small[below(11)]));
}

/* An existing value of that dtype, or one cast from another. */
static UOp *pick(Random *p, DType d) {
  if (below(8) == 0) return constant(p, d);
  for (int tries = 0; tries < 6; tries++) {
    UOp *u = p->values.at[below((unsigned)p->values.len)];
    if (u->dtype == d) return u;
  }
  UOp *u = p->values.at[below((unsigned)p->values.len)];
  return u->dtype == d ? u : add(p, OP_CAST, d, arg_none(), &u, 1);
}

/* Transcendentals are decomposed before; contraction is tested exactly in test_llvm_emit. */
static bool usable(Op o) {
  if (!(op_info[o].flags & OPF_ALU) || (o >= OP_EXP && o <= OP_ATAN)) return false;
  if (o >= OP_MAXNUM) return false; /* not every target has them: test_llvm_emit */
  return o != OP_CAST && o != OP_BITCAST && o != OP_POW && o != OP_MULACC && o != OP_FMOD;
}

static bool takes(Op o, DType d) {
  uint32_t f = op_info[o].flags;
  if ((f & OPF_FLT) && !dtype_is_float(d)) return false;
  if ((f & OPF_INT) && dtype_is_float(d)) return false;
  return !((f & OPF_ARITH) && d == DT_BOOL);
}

static DType any_dtype(void) {
  static const DType all[] = {DT_F32, DT_F32, DT_I32,  DT_I32, DT_I64, DT_U8,  DT_BOOL,
                              DT_F64, DT_F16, DT_BF16, DT_I8,  DT_U32, DT_U64, DT_I16};
  return all[below(sizeof all / sizeof *all)];
}

static void random_step(Random *p) {
  UOp *src[3];
  Op o;
  DType d;
  do {
    o = (Op)below(OP__COUNT);
    d = any_dtype();
  } while (!usable(o) || !takes(o, d));
  for (int k = 0; k < op_info[o].nsrc; k++) {
    src[k] = pick(p, op_info[o].type == TR_SELECT && k == 0 ? DT_BOOL : d);
  }
  UOp *u = add(p, o, DT_VOID, arg_none(), src, (size_t)op_info[o].nsrc);
  if (!uop_is_const(u)) avec_push(&job.arena, &p->values, u);
}

static UOp *buffer_param(int64_t slot, DType d) {
  return uop_param(&job, slot, d, &(int64_t){N}, 1);
}

static void generate(Random *p, DType *dtypes) {
  static const unsigned widths[] = {1, 4, 8, 16};
  p->lanes = widths[below(4)];
  UOp *r = uop_range(&job, 0, AX_LOOP, uop_index(&job, N / p->lanes));
  avec_push(&job.arena, &p->list, r);
  p->at = uop2(&job, OP_MUL, r, uop_index(&job, p->lanes));
  if (p->at != r) avec_push(&job.arena, &p->list, p->at);
  for (int64_t k = 0; k < NINPUTS; k++) {
    dtypes[k] = any_dtype();
    UOp *src[2] = {buffer_param(k, dtypes[k]), p->at};
    avec_push(&job.arena, &p->values, add(p, OP_LOAD, DT_VOID, arg_i(1), src, 2));
  }
  for (int k = 0; k < STEPS; k++) random_step(p);
  UOp *effects[NOUTPUTS];
  for (int64_t k = 0; k < NOUTPUTS; k++) {
    UOp *v = p->values.at[p->values.len - 1 - (size_t)k * 5];
    dtypes[NINPUTS + k] = (DType)v->dtype;
    UOp *src[3] = {buffer_param(NINPUTS + k, (DType)v->dtype), p->at, v};
    effects[k] = add(p, OP_STORE, DT_VOID, arg_i(1), src, 3);
  }
  UOp *close[2] = {uop_make(&job, OP_SINK, DT_VOID, arg_none(), effects, NOUTPUTS), r};
  avec_push(&job.arena, &p->list, close[0]);
  avec_push(&job.arena, &p->list, uop_make(&job, OP_END, DT_VOID, arg_none(), close, 2));
}

/* -- running
 * ------------------------------------------------------------------------------------------ */

enum { NARGS = NINPUTS + NOUTPUTS };
static uint8_t data[NARGS][N * 8], want[NARGS][N * 8];

static void fill(const DType *dtypes) {
  for (int k = 0; k < NINPUTS; k++) {
    for (size_t i = 0; i < N; i++) {
      DType d = dtypes[k];
      uint64_t bits = random_bits();
      Scalar v = {.i = (int64_t)(below(2) ? bits : bits % 40) - 10};
      if (dtype_is_float(d)) {
        v.f = below(4) ? (double)(int)(bits % 2000) / 16 - 40 : scalar_load(d, &bits).f;
      }
      scalar_store(d, scalar_wrap(d, v), data[k] + i * dtype_info[d].bytes);
    }
  }
  memset(data[NINPUTS], 0, sizeof data[0] * NOUTPUTS);
  memcpy(want, data, sizeof data);
}

static bool equal(DType d, Scalar a, Scalar b) {
  if (!dtype_is_float(d)) return a.i == b.i;
  if (isnan(a.f) || isnan(b.f)) return isnan(a.f) && isnan(b.f);
  return a.f == b.f && signbit(a.f) == signbit(b.f);
}

static void execute(const Random *p) {
  LlvmOutput out = {0};
  Program *program;
  Fence fence;
  Buffer buffers[NARGS];
  LaunchArg args[NARGS];
  Linear l = {.list = p->list.at, .len = p->list.len, .nargs = NARGS, .threads = 1};
  check(llvm_emit(&l, "random", &target, &out));
  ProgramSpec spec = {
      .image = {(uint8_t *)out.object.ptr, out.object.len}, .entry = "random", .threads = 1};
  check(device_program_load(device, &spec, &program));
  for (size_t k = 0; k < NARGS; k++) {
    buffers[k] = (Buffer){.dev = device, .size = sizeof data[k], .host = data[k], .fd = -1};
    args[k] = (LaunchArg){&buffers[k], 0};
  }
  check(device_submit(device, &(Launch){.program = program, .args = args, .nargs = NARGS}, 1,
                      &fence));
  device_program_free(device, program);
  llvm_output_deinit(&out);
}

static void run_seed(uint64_t seed) {
  InterpBuffer bufs[NARGS];
  DType dtypes[NARGS];
  Random p = {0};
  rng = seed * 0x9e3779b97f4a7c15u + 1;
  for (int k = 0; k < 8; k++) (void)random_bits();
  job_init(&job, 0);
  generate(&p, dtypes);
  fill(dtypes);
  execute(&p);
  for (size_t k = 0; k < NARGS; k++) {
    bufs[k] = (InterpBuffer){want[k], (size_t)N * dtype_info[dtypes[k]].bytes};
  }
  check(interp_linear(&job, p.list.at, p.list.len, bufs, NARGS, 0));
  for (size_t k = NINPUTS; k < NARGS; k++) {
    for (size_t i = 0; i < N; i++) {
      size_t at = i * dtype_info[dtypes[k]].bytes;
      Scalar got = scalar_load(dtypes[k], data[k] + at), ref = scalar_load(dtypes[k], want[k] + at);
      if (equal(dtypes[k], got, ref)) continue;
      fail_msg("seed %llu on %s, x%u: output %zu (%s), element %zu", (unsigned long long)seed,
               target.cpu, p.lanes, k - NINPUTS, dtype_info[dtypes[k]].name, i);
    }
  }
  job_deinit(&job);
}

static void test_host(void **state) {
  (void)state;
  llvm_target_host(&target);
  for (uint64_t seed = 1; seed <= PROGRAMS; seed++) run_seed(seed);
}

static void test_avx2(void **state) {
  (void)state;
  llvm_target_host(&target);
  target.cpu = "haswell";
  target.features = "+avx2,+fma,+f16c,+bmi,+bmi2";
  target.vector_bytes = 32;
  for (uint64_t seed = 1; seed <= PROGRAMS / 4; seed++) run_seed(seed);
}

static int setup(void **state) {
  (void)state;
  check(device_cpu_create(1, &device));
  return 0;
}
static int teardown(void **state) {
  (void)state;
  device_destroy(device);
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 1) { /* one seed, to look at */
    (void)setup(NULL);
    llvm_target_host(&target);
    run_seed(strtoull(argv[1], NULL, 10));
    return 0;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_host), cmocka_unit_test(test_avx2)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
