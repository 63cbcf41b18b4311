/* ORC LLJIT, used as a linker of finished objects.
 *
 * Every module gets a namespace (JITDylib) of its own, so that two kernels may have one name, and a
 * resource tracker, so that unloading gives its memory back. Namespaces cannot be destroyed, hence
 * they are reused through a free list. What an object may call is the closed list below: no symbol
 * of this process is visible to it. */
#include "devices/cpu_jit.h"

#include <llvm-c/Core.h>
#include <llvm-c/Error.h>
#include <llvm-c/LLJIT.h>
#include <llvm-c/Orc.h>
#include <llvm-c/Target.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct CpuModule {
  LLVMOrcJITDylibRef space;
  LLVMOrcResourceTrackerRef tracker; /* NULL while the module is on the free list */
  CpuModule *next;                   /* in the list of all */
};

struct CpuJit {
  LLVMOrcLLJITRef lljit;
  LLVMOrcExecutionSessionRef session;
  CpuModule *modules; /* all, loaded or free */
  char detail[256];   /* what ORC reported aside while it failed */
  unsigned count;
};

/* Where a processor lacks an instruction, LLVM calls the C library. */
typedef void (*AnyFn)(void);
static const struct {
  const char *name;
  AnyFn fn;
} imports[] = {
    {"memcpy", (AnyFn)memcpy},
    {"memset", (AnyFn)memset},
    {"memmove", (AnyFn)memmove},
    {"fmod", (AnyFn)fmod},
    {"fmodf", (AnyFn)fmodf},
    {"floor", (AnyFn)floor},
    {"floorf", (AnyFn)floorf},
    {"ceil", (AnyFn)ceil},
    {"ceilf", (AnyFn)ceilf},
    {"trunc", (AnyFn)trunc},
    {"truncf", (AnyFn)truncf},
    {"roundeven", (AnyFn)nearbyint},
    {"roundevenf", (AnyFn)nearbyintf},
    {"fma", (AnyFn)fma},
    {"fmaf", (AnyFn)fmaf},
};
enum { NIMPORTS = sizeof imports / sizeof *imports };

static Status from_llvm(StatusCode code, LLVMErrorRef err, const char *what) {
  char *text = LLVMGetErrorMessage(err);
  Status st = status_new(code, NULL, __FILE__, __LINE__, "%s: %s", what, text);
  LLVMDisposeErrorMessage(text);
  return st;
}

/* ORC gives the cause ("Symbols not found") here and only the fact to whoever looked up. */
static void on_error(void *ctx, LLVMErrorRef err) {
  CpuJit *jit = ctx;
  char *text = LLVMGetErrorMessage(err);
  snprintf(jit->detail, sizeof jit->detail, "%s", text);
  LLVMDisposeErrorMessage(text);
}

Status cpu_jit_create(CpuJit **out) {
  *out = NULL;
  LLVMInitializeNativeTarget();
  LLVMInitializeNativeAsmPrinter();
  CpuJit *jit = calloc(1, sizeof *jit);
  if (!jit) return FAIL(RESOURCE_EXHAUSTED, "memory for a linker");
  LLVMErrorRef err = LLVMOrcCreateLLJIT(&jit->lljit, NULL);
  if (err) {
    free(jit);
    return from_llvm(ST_UNAVAILABLE, err, "starting LLVM's linker");
  }
  jit->session = LLVMOrcLLJITGetExecutionSession(jit->lljit);
  LLVMOrcExecutionSessionSetErrorReporter(jit->session, on_error, jit);
  *out = jit;
  return NULL;
}

void cpu_jit_destroy(CpuJit *jit) {
  if (!jit) return;
  for (CpuModule *m = jit->modules, *next; m; m = next) {
    next = m->next;
    if (m->tracker) LLVMOrcReleaseResourceTracker(m->tracker);
    free(m);
  }
  LLVMErrorRef err = LLVMOrcDisposeLLJIT(jit->lljit);
  if (err) LLVMConsumeError(err);
  free(jit);
}

static Status define_imports(CpuJit *jit, LLVMOrcJITDylibRef space) {
  LLVMOrcCSymbolMapPair pairs[NIMPORTS];
  for (size_t i = 0; i < NIMPORTS; i++) {
    uintptr_t at;
    memcpy(&at, &imports[i].fn, sizeof at);
    pairs[i].Name = LLVMOrcExecutionSessionIntern(jit->session, imports[i].name);
    pairs[i].Sym.Address = at;
    pairs[i].Sym.Flags = (LLVMJITSymbolFlags){
        LLVMJITSymbolGenericFlagsExported | LLVMJITSymbolGenericFlagsCallable, 0};
  }
  LLVMErrorRef err = LLVMOrcJITDylibDefine(space, LLVMOrcAbsoluteSymbols(pairs, NIMPORTS));
  return err ? from_llvm(ST_INTERNAL, err, "defining library symbols") : NULL;
}

/* A module that holds nothing. */
static Status free_module(CpuJit *jit, CpuModule **out) {
  for (CpuModule *m = jit->modules; m; m = m->next) {
    if (!m->tracker) {
      *out = m;
      return NULL;
    }
  }
  CpuModule *m = calloc(1, sizeof *m);
  if (!m) return FAIL(RESOURCE_EXHAUSTED, "memory for a program");
  char name[32];
  snprintf(name, sizeof name, "kernel%u", jit->count++);
  m->space = LLVMOrcExecutionSessionCreateBareJITDylib(jit->session, name);
  Status st = define_imports(jit, m->space);
  if (st) {
    free(m);
    return st;
  }
  m->next = jit->modules;
  jit->modules = m;
  *out = m;
  return NULL;
}

typedef struct Found {
  Status st;
  uint64_t address;
} Found;

static void on_lookup(LLVMErrorRef err, LLVMOrcCSymbolMapPairs result, size_t n, void *ctx) {
  Found *found = ctx;
  if (err) {
    found->st = from_llvm(ST_INVALID_ARGUMENT, err, "linking a kernel");
  } else if (n == 1) {
    found->address = result[0].Sym.Address;
  }
}

/* The lookup links; with ORC's default dispatcher it is done when the call returns. */
static Status find_entry(CpuJit *jit, CpuModule *m, const char *entry, CpuEntry *fn) {
  Found found = {0};
  jit->detail[0] = 0;
  LLVMOrcCJITDylibSearchOrderElement order = {m->space, LLVMOrcJITDylibLookupFlagsMatchAllSymbols};
  LLVMOrcCLookupSetElement symbol = {LLVMOrcExecutionSessionIntern(jit->session, entry),
                                     LLVMOrcSymbolLookupFlagsRequiredSymbol};
  LLVMOrcExecutionSessionLookup(jit->session, LLVMOrcLookupKindStatic, &order, 1, &symbol, 1,
                                on_lookup, &found);
  if (found.st && jit->detail[0]) return WRAP(found.st, "%s", jit->detail);
  if (found.st) return found.st;
  if (!found.address) return FAIL(INTERNAL, "linking '%s' found no address", entry);
  uintptr_t at = (uintptr_t)found.address;
  memcpy(fn, &at, sizeof at);
  return NULL;
}

static bool is_import(const char *name) {
  for (size_t i = 0; i < NIMPORTS; i++) {
    if (!strcmp(name, imports[i].name)) return true;
  }
  return false;
}

Status cpu_jit_load(CpuJit *jit, Bytes image, const char *entry, CpuModule **out, CpuEntry *fn) {
  CpuModule *m = NULL;
  *out = NULL;
  /* LLVM's ELF reader takes anything that starts like ELF seriously; nothing else reaches it. */
  static const uint8_t elf[4] = {0x7f, 'E', 'L', 'F'};
  if (image.len < 64 || memcmp(image.ptr, elf, sizeof elf) != 0) {
    return FAIL(INVALID_ARGUMENT, "a CPU program must be an ELF object, got %zu bytes that are not",
                image.len);
  }
  if (!*entry || is_import(entry)) return FAIL(INVALID_ARGUMENT, "bad entry name '%s'", entry);
  TRY(free_module(jit, &m));
  m->tracker = LLVMOrcJITDylibCreateResourceTracker(m->space);
  LLVMMemoryBufferRef buffer =
      LLVMCreateMemoryBufferWithMemoryRangeCopy((const char *)image.ptr, image.len, "kernel");
  LLVMErrorRef err = LLVMOrcLLJITAddObjectFileWithRT(jit->lljit, m->tracker, buffer);
  Status st = err ? from_llvm(ST_INVALID_ARGUMENT, err, "reading a kernel object")
                  : find_entry(jit, m, entry, fn);
  if (st) {
    cpu_jit_unload(jit, m);
    return st;
  }
  *out = m;
  return NULL;
}

void cpu_jit_unload(CpuJit *jit, CpuModule *m) {
  (void)jit;
  LLVMErrorRef err = LLVMOrcResourceTrackerRemove(m->tracker);
  if (err) LLVMConsumeError(err);
  LLVMOrcReleaseResourceTracker(m->tracker);
  m->tracker = NULL;
}
