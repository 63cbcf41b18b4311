/* The backend against the reference: every op on every dtype, as scalars and as vectors, compiled
 * to machine code, run, and compared with op_eval bit by bit on special and random values. Run for
 * the host's own features and for two older feature sets that the host can execute. */
#include "compiler/ir/native.h"
#include "tests/unit/linear_code.h"

/* -- every op
 * ------------------------------------------------------------------------------------------ */

enum { MAX_VARIANTS = 14 };
static uint8_t result[MAX_VARIANTS][MAX_BYTES];

/* One way to compute an op; all ways of one op share a program. */
typedef struct Variant {
  unsigned lanes;
  bool fixed; /* the last source is `constant` instead of a load */
  Scalar constant;
} Variant;

/* Contracted products of 16-bit floats are rounded twice (f32, then the dtype); targets without FMA
 * round f32 and f64 twice too, which can lose everything to cancellation. */
static int tolerance(Op o, DType d) {
  if (o != OP_MULACC) return 0;
  return d == DT_F16 || d == DT_BF16 ? 1 : 0;
}

static UOp *emit_variant(Code *c, Op o, DType out, const DType *from, size_t which,
                         const Variant *way) {
  unsigned n = (unsigned)op_info[o].nsrc;
  UOp *r = range(c, (int64_t)which, N / way->lanes), *src[3];
  UOp *at = alu2(c, OP_MUL, r, uop_index(&job, way->lanes));
  for (unsigned k = 0; k < n; k++) {
    if (way->fixed && k == n - 1) {
      src[k] = splat(c, push(c, uop_scalar(&job, from[k], way->constant)), way->lanes);
    } else {
      src[k] = load(c, param(MAX_VARIANTS + k, from[k], N), at, way->lanes, 1);
    }
  }
  UOp *v = op(c, o, out, way->lanes, arg_none(), src, n);
  end(c, store(c, param((int64_t)which, (DType)v->dtype, N), at, v, 1), r);
  return v;
}

static Scalar reference(Op o, DType out, DType from, const Scalar *x) {
  bool fused = !dtype_is_float(out) || llvm_target_has(&target, "fma");
  if (o != OP_MULACC || fused) return op_eval(o, out, from, x);
  if (out == DT_F64) return (Scalar){.f = x[0].f * x[1].f + x[2].f};
  /* 16-bit floats keep the product in f32 too. */
  float product = (float)x[0].f * (float)x[1].f;
  return scalar_wrap(out, (Scalar){.f = (double)(product + (float)x[2].f)});
}

static void compare(Op o, DType out, const DType *from, size_t which, const Variant *way) {
  unsigned n = (unsigned)op_info[o].nsrc;
  char what[96];
  snprintf(what, sizeof what, "%s %s from %s x%u on %s", op_info[o].name, dtype_info[out].name,
           dtype_info[from[n - 1]].name, way->lanes, target.cpu);
  for (size_t i = 0; i < N; i++) {
    Scalar x[3];
    for (unsigned k = 0; k < n; k++) {
      x[k] = scalar_load(from[k], in[k] + i * dtype_info[from[k]].bytes);
    }
    if (way->fixed) x[n - 1] = way->constant;
    expect(out, result[which], i, reference(o, out, from[n - 1], x), tolerance(o, out), what);
  }
}

static void run_op(Op o, DType out, const DType *from, const Variant *ways, size_t nways) {
  unsigned n = (unsigned)op_info[o].nsrc;
  void *args[MAX_VARIANTS + 3];
  DType dtype = out;
  begin();
  Code c = {.nargs = MAX_VARIANTS + n};
  for (unsigned k = 0; k < n; k++) fill(from[k], k, args[MAX_VARIANTS + k] = in[k]);
  for (size_t w = 0; w < MAX_VARIANTS; w++) args[w] = result[w];
  memset(result, 0xcd, sizeof result);
  for (size_t w = 0; w < nways; w++) {
    dtype = (DType)emit_variant(&c, o, out, from, w, &ways[w])->dtype;
  }
  run(&c, args);
  for (size_t w = 0; w < nways; w++) compare(o, dtype, from, w, &ways[w]);
  finish();
}

static bool op_takes(Op o, DType d) {
  uint32_t f = op_info[o].flags;
  if (d == DT_VOID || (dtype_is_storage(d) && o != OP_WHERE)) return false;
  if ((f & OPF_FLT) && !dtype_is_float(d)) return false;
  if ((f & OPF_INT) && dtype_is_float(d)) return false;
  return !((f & OPF_ARITH) && d == DT_BOOL);
}

static bool is_decomposed(Op o) { return o >= OP_EXP && o <= OP_ATAN; }

static const Variant widths[] = {{.lanes = 1}, {.lanes = 8}, {.lanes = 4}, {.lanes = 16}};

static void test_every_op(void **state) {
  (void)state;
  for (Op o = OP_NEG; o < OP__COUNT; o++) {
    if (is_decomposed(o) || o == OP_POW || !(op_info[o].flags & OPF_ALU)) continue;
    for (DType d = DT_BOOL; d < DT__COUNT; d++) {
      if (!op_takes(o, d) || (o >= OP_MAXNUM && !native_find(&target, o, d))) continue;
      DType from[3] = {op_info[o].type == TR_SELECT ? DT_BOOL : d, d, d};
      run_op(o, d, from, widths, thorough ? 4 : 2);
    }
  }
}

static void test_constant_operand(void **state) {
  (void)state;
  static const Op ops[] = {OP_MAX,      OP_MIN,      OP_IDIV, OP_IMOD,
                           OP_FLOORDIV, OP_FLOORMOD, OP_SHL,  OP_SHR};
  for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
    for (DType d = DT_I8; d < DT__COUNT; d++) {
      if (!op_takes(ops[i], d) || d == DT_U16 || d == DT_I16) continue;
      DType from[2] = {d, d};
      Variant ways[MAX_VARIANTS];
      for (size_t k = 0; k < MAX_VARIANTS; k++) {
        ways[k] = (Variant){k % 2 ? 8 : 1, true, special(d, k)};
      }
      run_op(ops[i], d, from, ways, MAX_VARIANTS);
    }
  }
}

static void test_every_cast(void **state) {
  (void)state;
  for (DType from = DT_BOOL; from < DT__COUNT; from++) {
    for (DType to = DT_BOOL; to < DT__COUNT; to++) {
      if (!dtype_is_storage(from) && !dtype_is_storage(to)) /* those: test_small.c */
        run_op(OP_CAST, to, &from, widths, thorough ? 4 : 2);
      bool bits = from != DT_BOOL && to != DT_BOOL;
      if (bits && dtype_info[from].bytes == dtype_info[to].bytes) {
        run_op(OP_BITCAST, to, &from, widths, thorough ? 4 : 2);
      }
    }
  }
}

/* -- what must be refused
 * ---------------------------------------------------------------------------------------- */

static void expect_failure(const Code *c, StatusCode code, const char *part) {
  LlvmOutput out = {0};
  check_refused(compile(c, &out), code, part);
  llvm_output_deinit(&out);
}

static void test_refusals(void **state) {
  (void)state;
  begin();
  UOp *p = param(0, DT_F32, 4), *q = param(1, DT_F32, 4), *zero = uop_index(&job, 0);
  Code tan = {.nargs = 2};
  UOp *x = load(&tan, q, zero, 1, 1);
  store(&tan, p, zero, op(&tan, OP_TANH, DT_VOID, 1, arg_none(), &x, 1), 1);
  expect_failure(&tan, ST_INTERNAL, "TANH");
  Code args = {.nargs = 1};
  store(&args, p, zero, load(&args, q, zero, 1, 1), 1);
  expect_failure(&args, ST_INTERNAL, "argument");
  Code open = {.nargs = 1};
  store(&open, p, range(&open, 0, 4), uop_float(&job, DT_F32, 0), 1);
  expect_failure(&open, ST_INTERNAL, "never closed");
  Code unordered = {.nargs = 2};
  UOp *y = uop_make_lanes(&job, OP_LOAD, DT_VOID, 1, arg_i(1), (UOp *[]){q, zero}, 2);
  store(&unordered, p, zero, y, 1);
  expect_failure(&unordered, ST_INTERNAL, "before it is defined");
  Code fine = {.nargs = 1};
  store(&fine, p, zero, uop_float(&job, DT_F32, 0), 1);
  Target good = target;
  target.triple = "pdp11-dec-unix";
  expect_failure(&fine, ST_INVALID_ARGUMENT, "pdp11");
  target = good;
  target.cpu = "pentium-17";
  expect_failure(&fine, ST_INVALID_ARGUMENT, "pentium-17");
  target = good;
  target.features = "+avx2,+time-travel";
  expect_failure(&fine, ST_INVALID_ARGUMENT, "time-travel");
  target = good;
  LlvmOutput out = {.want_text = true};
  check(compile(&fine, &out));
  assert_non_null(strstr(out.ir.ptr, "define void @kernel(ptr %args, i64 %thread, ptr %scratch)"));
  assert_non_null(strstr(out.assembly.ptr, "kernel:"));
  llvm_output_deinit(&out);
  finish();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      ON(host, test_refusals),   ON(host, test_every_op), ON(host, test_constant_operand),
      ON(host, test_every_cast), ON(avx2, test_every_op), ON(avx2, test_constant_operand),
      ON(avx2, test_every_cast), ON(sse2, test_every_op), ON(sse2, test_constant_operand),
      ON(sse2, test_every_cast),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
