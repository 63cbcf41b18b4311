/* Objects to callable code, through LLVM's ORC. Private to the CPU device. */
#pragma once

#include "devices/device.h"

typedef struct CpuJit CpuJit;
typedef struct CpuModule CpuModule;
typedef void (*CpuEntry)(void *const *args, int64_t thread, void *scratch);

Status cpu_jit_create(CpuJit **out);
void cpu_jit_destroy(CpuJit *jit); /* NULL allowed; all modules are unloaded */
/* Links an object and finds its entry. INVALID_ARGUMENT for bytes that are no object, that need
 * symbols other than a few of libm and libc, or that lack the entry. */
Status cpu_jit_load(CpuJit *jit, Bytes image, const char *entry, CpuModule **out, CpuEntry *fn);
void cpu_jit_unload(CpuJit *jit, CpuModule *module);
