/* Targets. X86 and AArch64 are what the CPU device can be, NVPTX what CUDA devices take; LLVM
 * itself may know more.
 *
 * One TargetMachine is kept: making one costs milliseconds, and a worker compiles for one target
 * almost always. Processes that compile are single-threaded (see llvm_emit.h). */
#include "compiler/codegen/llvm_target.h"

#include <llvm-c/Core.h>
#include <llvm-c/ErrorHandling.h>
#include <llvm-c/Target.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "compiler/ir/native.h"

static void on_fatal(const char *reason) {
  char quoted[512];
  LOG_ERROR("llvm fatal error", "reason=%s", log_quote(quoted, sizeof quoted, reason));
  abort();
}

static void init_once(void) {
  static bool done;
  if (done) return;
  done = true;
  LLVMInstallFatalErrorHandler(on_fatal);
  LLVMInitializeNativeTarget();
  LLVMInitializeNativeAsmPrinter();
  LLVMInitializeNativeAsmParser();
  LLVMInitializeNVPTXTargetInfo();
  LLVMInitializeNVPTXTarget();
  LLVMInitializeNVPTXTargetMC();
  LLVMInitializeNVPTXAsmPrinter();
}

/* "LLVM 19.1.7". */
static const char *compiler_text(void) {
  static char text[32];
  unsigned major, minor, patch;
  LLVMGetVersion(&major, &minor, &patch);
  snprintf(text, sizeof text, "LLVM %u.%u.%u", major, minor, patch);
  return text;
}

bool llvm_target_is_ptx(const Target *target) {
  return target->triple && !strncmp(target->triple, "nvptx64", 7);
}

bool llvm_target_has(const Target *target, const char *name) {
  return native_feature(target, name);
}

/* Characters that can end up in diagnostics and in the function's attributes. */
static Status check_words(const char *what, const char *text) {
  for (const char *c = text; *c; c++) {
    bool ok = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
              strchr("+-_.,", *c);
    if (!ok) return FAIL(INVALID_ARGUMENT, "target %s holds the character '%c'", what, *c);
  }
  return NULL;
}

/* LLVM's C interface lists neither processors nor features. The features that the host's own string
 * mentions, enabled or not, are all of its architecture's that matter here; processors are those
 * that tests and cross-checks use, and the host's. */
static const char *const known_cpus[] = {
    "generic",        "x86-64",         "x86-64-v2",   "x86-64-v3",      "x86-64-v4",
    "haswell",        "broadwell",      "skylake",     "skylake-avx512", "cascadelake",
    "icelake-server", "sapphirerapids", "znver1",      "znver2",         "znver3",
    "znver4",         "znver5",         "neoverse-n1", "neoverse-v1",    "neoverse-v2",
};

/* What NVPTX of LLVM 17 to 20 takes; it ignores names that it does not know, and then generates
 * code for the oldest GPU. */
static const char *const known_gpus[] = {"sm_75", "sm_80", "sm_86", "sm_87",
                                         "sm_89", "sm_90", "sm_90a"};
static const char *const known_ptx[] = {"+ptx78", "+ptx80", "+ptx81", "+ptx82",
                                        "+ptx83", "+ptx84", "+ptx85"};

static Status check_gpu(const Target *target) {
  bool cpu = false, ptx = false;
  for (size_t i = 0; i < sizeof known_gpus / sizeof *known_gpus; i++)
    cpu |= !strcmp(target->cpu, known_gpus[i]);
  for (size_t i = 0; i < sizeof known_ptx / sizeof *known_ptx; i++)
    ptx |= !strcmp(target->features, known_ptx[i]);
  if (!cpu) return FAIL(INVALID_ARGUMENT, "target GPU '%s' is unknown", target->cpu);
  if (!ptx) return FAIL(INVALID_ARGUMENT, "target feature '%s' is unknown", target->features);
  return NULL;
}

static bool is_known_cpu(const char *cpu) {
  for (size_t i = 0; i < sizeof known_cpus / sizeof *known_cpus; i++) {
    if (!strcmp(cpu, known_cpus[i])) return true;
  }
  Target host;
  llvm_target_host(&host);
  return !strcmp(cpu, host.cpu);
}

/* Whether `list` mentions the feature, as +name or -name. */
static bool mentions(const char *list, const char *name, size_t len) {
  for (const char *at = list; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
    if (!strncmp(at + 1, name, len) && (at[len + 1] == ',' || at[len + 1] == 0)) return true;
  }
  return false;
}

static Status check_names(const Target *target) {
  Target host;
  llvm_target_host(&host);
  if (!is_known_cpu(target->cpu)) {
    return FAIL(INVALID_ARGUMENT, "target processor '%s' is unknown", target->cpu);
  }
  for (const char *at = target->features; *at;) {
    size_t len = strcspn(at, ",");
    bool ok = len > 1 && (at[0] == '+' || at[0] == '-') && mentions(host.features, at + 1, len - 1);
    if (!ok) return FAIL(INVALID_ARGUMENT, "target feature '%.*s' is unknown", (int)len, at);
    at += len + (at[len] == ',');
  }
  return NULL;
}

static Status check_target(const Target *target) {
  if (!target->triple || !target->cpu || !target->features) {
    return FAIL(INVALID_ARGUMENT, "the target lacks a triple, processor or feature string");
  }
  TRY(check_words("triple", target->triple));
  TRY(check_words("processor", target->cpu));
  TRY(check_words("features", target->features));
  LLVMTargetRef t;
  char *text = NULL;
  init_once();
  if (LLVMGetTargetFromTriple(target->triple, &t, &text)) {
    Status st = FAIL(INVALID_ARGUMENT, "target triple '%s': %s", target->triple, text);
    LLVMDisposeMessage(text);
    return st;
  }
  return llvm_target_is_ptx(target) ? check_gpu(target) : check_names(target);
}

static struct {
  char *triple, *cpu, *features;
  LLVMTargetMachineRef machine;
} cached;

static bool is_cached(const Target *t) {
  return cached.machine && !strcmp(cached.triple, t->triple) && !strcmp(cached.cpu, t->cpu) &&
         !strcmp(cached.features, t->features);
}

static void drop_cached(void) {
  if (cached.machine) LLVMDisposeTargetMachine(cached.machine);
  free(cached.triple);
  free(cached.cpu);
  free(cached.features);
  memset(&cached, 0, sizeof cached);
}

Status llvm_target_machine(const Target *target, LLVMTargetMachineRef *out) {
  *out = NULL;
  if (!is_cached(target)) {
    TRY(check_target(target));
    LLVMTargetRef t;
    char *text = NULL;
    drop_cached();
    if (LLVMGetTargetFromTriple(target->triple, &t, &text)) {
      Status st = FAIL(INTERNAL, "target triple '%s': %s", target->triple, text);
      LLVMDisposeMessage(text);
      return st;
    }
    cached.triple = strdup(target->triple);
    cached.cpu = strdup(target->cpu);
    cached.features = strdup(target->features);
    if (!cached.triple || !cached.cpu || !cached.features) {
      drop_cached();
      return FAIL(RESOURCE_EXHAUSTED, "no memory for a target machine");
    }
    /* Position-independent with small code model: the linker keeps code and constants together. */
    cached.machine =
        LLVMCreateTargetMachine(t, target->triple, target->cpu, target->features,
                                LLVMCodeGenLevelDefault, LLVMRelocPIC, LLVMCodeModelSmall);
    if (!cached.machine) {
      drop_cached();
      return FAIL(INTERNAL, "LLVM makes no target machine for '%s'", target->triple);
    }
  }
  *out = cached.machine;
  return NULL;
}

void llvm_target_host(Target *out) {
  static char *triple, *cpu, *features;
  init_once();
  if (!triple) {
    triple = LLVMGetDefaultTargetTriple();
    cpu = LLVMGetHostCPUName();
    features = LLVMGetHostCPUFeatures();
  }
  *out = (Target){.kind = "cpu",
                  .triple = triple,
                  .cpu = cpu,
                  .features = features,
                  .compiler = compiler_text(),
                  .threads = 1,
                  .l1_bytes = 32 << 10,
                  .l2_bytes = 1 << 20,
                  .l3_bytes = 32 << 20,
                  .memory_bytes = (uint64_t)4 << 30};
  bool wide = llvm_target_has(out, "avx512f");
  out->vector_bytes = wide ? 64 : llvm_target_has(out, "avx") ? 32 : 16;
  out->vector_registers = wide || !strncmp(triple, "aarch64", 7) ? 32 : 16;
}
