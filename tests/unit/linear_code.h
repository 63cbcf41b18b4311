/* What the tests of the backend share: building linear programs by hand, running them as machine
 * code, values to feed them, and the feature sets to compile for. One user per program. */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/vec.h"
#include "compiler/codegen/llvm_emit.h"
#include "compiler/codegen/llvm_target.h"
#include "compiler/ir/interp.h"
#include "devices/device.h"
#include "tests/unit/status_check.h"

static Device *device;
static Target target;
static Job job;
/* False on the older targets: tests try half of the widths there, since most time is LLVM's. */
static bool thorough;

/* -- programs
 * -------------------------------------------------------------------------------------- */

typedef struct Code {
  UOpList list;
  uint32_t nargs, threads;
} Code;

/* Equal nodes are one node, listed once. */
static inline UOp *push(Code *c, UOp *u) {
  for (size_t i = 0; i < c->list.len; i++) {
    if (c->list.at[i] == u) return u;
  }
  avec_push(&job.arena, &c->list, u);
  return u;
}
static inline UOp *op(Code *c, Op o, DType d, unsigned lanes, Arg arg, UOp *const *src, size_t n) {
  return push(c, uop_make_lanes(&job, o, d, lanes, arg, src, n));
}
static inline UOp *param(int64_t slot, DType d, int64_t elements) {
  return uop_param(&job, slot, d, &elements, 1);
}
static inline UOp *range(Code *c, int64_t id, int64_t n) {
  return push(c, uop_range(&job, id, AX_LOOP, uop_index(&job, n)));
}
static inline void end(Code *c, UOp *effect, UOp *r) {
  op(c, OP_END, DT_VOID, 1, arg_none(), (UOp *[]){effect, r}, 2);
}
static inline UOp *load(Code *c, UOp *buf, UOp *index, unsigned lanes, int64_t stride) {
  return op(c, OP_LOAD, DT_VOID, lanes, arg_i(stride), (UOp *[]){buf, index}, 2);
}
static inline UOp *load_if(Code *c, UOp *buf, UOp *index, unsigned lanes, int64_t stride, UOp *gate,
                           UOp *alt) {
  return op(c, OP_LOAD, DT_VOID, lanes, arg_i(stride), (UOp *[]){buf, index, gate, alt},
            alt ? 4 : 3);
}
static inline UOp *store(Code *c, UOp *buf, UOp *index, UOp *value, int64_t stride) {
  return op(c, OP_STORE, DT_VOID, value->lanes, arg_i(stride), (UOp *[]){buf, index, value}, 3);
}
static inline UOp *store_if(Code *c, UOp *buf, UOp *index, UOp *value, int64_t stride, UOp *gate) {
  return op(c, OP_STORE, DT_VOID, value->lanes, arg_i(stride), (UOp *[]){buf, index, value, gate},
            4);
}
static inline UOp *alu2(Code *c, Op o, UOp *a, UOp *b) {
  return op(c, o, DT_VOID, 0, arg_none(), (UOp *[]){a, b}, 2);
}
static inline UOp *splat(Code *c, UOp *a, unsigned lanes) {
  if (lanes == 1) return a;
  return op(c, OP_BROADCAST, DT_VOID, lanes, arg_none(), &a, 1);
}

static inline Status compile(const Code *c, LlvmOutput *out) {
  Linear l = {.list = c->list.at,
              .len = c->list.len,
              .nargs = c->nargs,
              .threads = c->threads ? c->threads : 1};
  l.scratch_bytes = llvm_scratch_bytes(&l);
  return llvm_emit(&l, "kernel", &target, out);
}

/* Memory of the test as a kernel's argument. */
static inline LaunchArg *host_args(Buffer *buffers, LaunchArg *args, void **at, size_t n) {
  for (size_t i = 0; i < n; i++) {
    buffers[i] = (Buffer){.dev = device, .size = SIZE_MAX, .host = at[i], .fd = -1};
    args[i] = (LaunchArg){&buffers[i], 0};
  }
  return args;
}

static inline void run(const Code *c, void **args) {
  LlvmOutput out = {0};
  Program *p;
  Fence f;
  Buffer buffers[64];
  LaunchArg list[64];
  assert_true(c->nargs <= 64);
  check(compile(c, &out));
  Linear l = {.list = c->list.at, .len = c->list.len};
  ProgramSpec spec = {.image = {(uint8_t *)out.object.ptr, out.object.len},
                      .entry = "kernel",
                      .threads = c->threads ? c->threads : 1,
                      .scratch_bytes = llvm_scratch_bytes(&l)};
  check(device_program_load(device, &spec, &p));
  check(device_submit(
      device,
      &(Launch){.program = p, .args = host_args(buffers, list, args, c->nargs), .nargs = c->nargs},
      1, &f));
  check(device_wait(device, f, -1));
  device_program_free(device, p);
  llvm_output_deinit(&out);
}

static inline void begin(void) { job_init(&job, 0); }
static inline void finish(void) { job_deinit(&job); }

/* -- values
 * ------------------------------------------------------------------------------------------ */

enum { N = 480, MAX_BYTES = N * 8 };

static uint64_t rng = 88172645463325252u;
static inline uint64_t random_bits(void) {
  rng ^= rng << 13;
  rng ^= rng >> 7;
  return rng ^= rng << 17;
}

static inline Scalar special(DType d, size_t k) {
  static const double f[] = {0,       -0.0,     1,         -1,    0.5,    -2.5,
                             3.5,     INFINITY, -INFINITY, NAN,   1e-45,  1e30,
                             -1e30,   65504,    65520,     255.5, -128.7, 2147483648.0,
                             -9.3e18, 1.8e19,   1e-310,    0.1,   7,      33};
  static const int64_t i[] = {0,    1,   -1,  2,      3,         7,         8,         31,
                              32,   33,  63,  64,     INT64_MIN, INT64_MAX, INT32_MIN, INT32_MAX,
                              -128, 127, 255, -32768, 32767,     -7,        100,       16};
  _Static_assert(sizeof f / 8 == 24 && sizeof i / 8 == 24, "special values");
  return scalar_wrap(d, dtype_is_float(d) ? (Scalar){.f = f[k % 24]} : (Scalar){.i = i[k % 24]});
}

static inline Scalar any_value(DType d) {
  uint64_t bits = random_bits();
  unsigned mode = random_bits() % 4;
  if (!dtype_is_float(d)) {
    return scalar_wrap(
        d, (Scalar){.i = mode ? (int64_t)(bits >> (random_bits() % 64)) : (int64_t)bits});
  }
  if (mode == 0) return scalar_load(d, &bits);
  double scale = mode == 1 ? 4 : mode == 2 ? 1000 : 1e6;
  return scalar_wrap(d, (Scalar){.f = scale * ((double)(bits >> 11) * 0x1p-52 - 1)});
}

/* Pairs of special values first (source k walks them at its own pace), random ones after. */
static inline void fill(DType d, unsigned source, uint8_t *at) {
  for (size_t i = 0; i < N; i++) {
    size_t k = source == 0 ? i : source == 1 ? i / 24 + i : i * 7 + 3;
    Scalar v = i < 300 ? special(d, k) : any_value(d);
    scalar_store(d, v, at + i * dtype_info[d].bytes);
  }
}

static inline bool same(DType d, Scalar a, Scalar b, int ulps) {
  if (!dtype_is_float(d)) return a.i == b.i;
  if (isnan(a.f) || isnan(b.f)) return isnan(a.f) && isnan(b.f);
  if (a.f == b.f) return signbit(a.f) == signbit(b.f);
  double unit = d == DT_BF16 ? 0x1p-7 : d == DT_F16 ? 0x1p-10 : d == DT_F32 ? 0x1p-23 : 0x1p-52;
  double tiny = d == DT_F16 ? 0x1p-24 : d == DT_F64 ? 0x1p-1074 : 0x1p-149;
  return fabs(a.f - b.f) <= ulps * (fabs(b.f) * unit + tiny);
}

static inline void expect(DType d, const uint8_t *got, size_t i, Scalar want, int ulps,
                          const char *what) {
  Scalar g = scalar_load(d, got + i * dtype_info[d].bytes);
  if (same(d, g, want, ulps)) return;
  if (dtype_is_float(d)) fail_msg("%s, element %zu: got %a, want %a", what, i, g.f, want.f);
  fail_msg("%s, element %zu: got %lld, want %lld", what, i, (long long)g.i, (long long)want.i);
}

static uint8_t in[3][MAX_BYTES];

/* -- older processors
 * ------------------------------------------------------------------------------------ */

static inline int use_host(void **state) {
  (void)state;
  llvm_target_host(&target);
  thorough = true;
  return 0;
}
static inline int use_avx2(void **state) {
  (void)state;
  llvm_target_host(&target);
  target.cpu = "haswell";
  target.features = "+avx2,+fma,+f16c,+bmi,+bmi2";
  target.vector_bytes = 32;
  thorough = false;
  return 0;
}
static inline int use_sse2(void **state) {
  (void)state;
  llvm_target_host(&target);
  target.cpu = "x86-64";
  target.features = "";
  target.vector_bytes = 16;
  thorough = false;
  return 0;
}

static inline int setup(void **state) {
  (void)state;
  check(device_open("cpu:0", &device));
  return 0;
}
static inline int teardown(void **state) {
  (void)state;
  device_destroy(device);
  return 0;
}

#define ON(cpu, name)                                                                              \
  { #name " on " #cpu, name, use_##cpu, NULL, NULL }
