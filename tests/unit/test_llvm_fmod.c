/* The remainder that GPUs get, as machine code of this processor beside the library's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <llvm-c/ExecutionEngine.h>
#include <llvm-c/Target.h>

#include "base/map.h"
#include "compiler/codegen/llvm_build.h"

typedef double (*Remainder)(double, double);

static Remainder remainder_of(LLVMExecutionEngineRef *engine) {
  Emitter e = {.ctx = LLVMContextCreate(), .gpu = true};
  e.module = LLVMModuleCreateWithNameInContext("test", e.ctx);
  e.b = LLVMCreateBuilderInContext(e.ctx);
  LLVMTypeRef f64 = LLVMDoubleTypeInContext(e.ctx);
  LLVMTypeRef type = LLVMFunctionType(f64, (LLVMTypeRef[]){f64, f64}, 2, false);
  LLVMValueRef fn = LLVMAddFunction(e.module, "asked", type);
  LLVMPositionBuilderAtEnd(e.b, LLVMAppendBasicBlockInContext(e.ctx, fn, ""));
  LLVMBuildRet(e.b, llvm_gpu_fmod(&e, LLVMGetParam(fn, 0), LLVMGetParam(fn, 1)));
  LLVMDisposeBuilder(e.b);
  char *error = NULL;
  LLVMLinkInMCJIT();
  LLVMInitializeNativeTarget();
  LLVMInitializeNativeAsmPrinter();
  if (LLVMCreateExecutionEngineForModule(engine, e.module, &error)) fail_msg("%s", error);
  uint64_t at = LLVMGetFunctionAddress(*engine, "asked");
  assert_true(at);
  return (Remainder)(uintptr_t)at;
}

static uint64_t bits_of(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static double number_of(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

static void expect_same(Remainder r, double x, double y) {
  double want = fmod(x, y), got = r(x, y);
  if (isnan(want) ? isnan(got) : bits_of(want) == bits_of(got)) return;
  fail_msg("fmod(%a, %a) is %a, not %a", x, y, want, got);
}

static void equals_the_library(void **state) {
  (void)state;
  static const double odd[] = {0,
                               1,
                               3,
                               0.5,
                               1e300,
                               0x1p-1022,
                               0x1p-1074,
                               0x1p1023,
                               INFINITY,
                               NAN,
                               0x1.8p-1073,
                               0x1.fffffffffffffp1023,
                               0x1.fffffffffffffp-1023,
                               7,
                               0x1p52,
                               0x1.0000000000001p0};
  enum { ODD = sizeof odd / sizeof *odd, RANDOM = 20000 };
  LLVMExecutionEngineRef engine;
  Remainder r = remainder_of(&engine);
  for (unsigned i = 0; i < 4 * ODD * ODD; i++)
    expect_same(r, i & 1 ? -odd[i / 4 % ODD] : odd[i / 4 % ODD],
                i & 2 ? -odd[i / 4 / ODD] : odd[i / 4 / ODD]);
  for (uint64_t i = 0; i < RANDOM; i++) {
    uint64_t x = hash_u64(2 * i), y = hash_u64(2 * i + 1);
    expect_same(r, number_of(x), number_of(y));
    expect_same(r, number_of(x), number_of((x & ~((uint64_t)15 << 52)) ^ (y >> 12)));
    expect_same(r, (double)(int64_t)(x >> 40), (double)(int64_t)(y >> 52));
  }
  LLVMDisposeExecutionEngine(engine);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(equals_the_library)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
