/* Detection: cores from the affinity mask and the control group, vector width from LLVM's feature
 * string (hypervisors mask features, so the processor's name is not enough), caches from sysfs or
 * sysconf, memory from sysinfo and the control group's limit. */
#include "devices/cpu_caps.h"

#include <llvm-c/Core.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/machine.h"

static bool read_line(const char *path, char *buf, int cap) {
  FILE *f = fopen(path, "re");
  if (!f) return false;
  bool ok = fgets(buf, cap, f) != NULL;
  fclose(f);
  return ok;
}

/* Size of the data or unified cache of a level, as "48K" in sysfs; 0 when unknown. */
static uint64_t cache_bytes(int level) {
  for (int i = 0; i < 8; i++) {
    char path[96], text[64];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
    if (!read_line(path, text, sizeof text)) break;
    if (atoi(text) != level) continue;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", i);
    if (!read_line(path, text, sizeof text) || text[0] == 'I') continue;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
    if (!read_line(path, text, sizeof text)) continue;
    char *unit;
    uint64_t n = strtoull(text, &unit, 10);
    return *unit == 'M' ? n << 20 : *unit == 'K' ? n << 10 : n;
  }
  static const int names[4] = {0, _SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE,
                               _SC_LEVEL3_CACHE_SIZE};
  long n = sysconf(names[level]);
  return n > 0 ? (uint64_t)n : 0;
}

static bool has_feature(const char *features, const char *name) {
  size_t n = strlen(name);
  for (const char *at = features; (at = strstr(at, name)); at += n) {
    bool begins = at > features && at[-1] == '+';
    if (begins && (at[n] == ',' || at[n] == 0)) return true;
  }
  return false;
}

static void vectors(const CpuStrings *s, DeviceCaps *caps, const char **name) {
  bool arm = strncmp(s->triple, "aarch64", 7) == 0;
  caps->vector_bytes = 16;
  caps->vector_registers = arm ? 32 : 16;
  *name = arm ? "NEON" : "SSE";
  if (has_feature(s->features, "avx512f")) {
    caps->vector_bytes = 64;
    caps->vector_registers = 32;
    *name = "AVX-512";
  } else if (has_feature(s->features, "avx")) {
    caps->vector_bytes = 32;
    *name = has_feature(s->features, "avx2") ? "AVX2" : "AVX";
  }
}

/* "model name : Intel(R) Xeon(R)" of the first processor; the LLVM name where there is none. */
static void model_name(const CpuStrings *s, char *out, size_t cap) {
  char line[256];
  FILE *f = fopen("/proc/cpuinfo", "re");
  snprintf(out, cap, "%s", s->cpu);
  if (!f) return;
  while (fgets(line, sizeof line, f)) {
    const char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || !colon) continue;
    colon += strspn(colon, ": \t");
    snprintf(out, cap, "%.*s", (int)strcspn(colon, "\n"), colon);
    break;
  }
  fclose(f);
}

uint32_t cpu_caps_cores(void) { return machine_processors(); }

Status cpu_caps_init(uint32_t threads, CpuStrings *s, DeviceCaps *caps) {
  unsigned major, minor, patch;
  const char *vector_name;
  char model[96];
  *s = (CpuStrings){.triple = LLVMGetDefaultTargetTriple(),
                    .cpu = LLVMGetHostCPUName(),
                    .features = LLVMGetHostCPUFeatures()};
  LLVMGetVersion(&major, &minor, &patch);
  snprintf(s->compiler, sizeof s->compiler, "LLVM %u.%u.%u", major, minor, patch);
  *caps = (DeviceCaps){.kind = "cpu",
                       .description = s->description,
                       .triple = s->triple,
                       .cpu = s->cpu,
                       .features = s->features,
                       .compiler = s->compiler,
                       .threads = threads ? threads : cpu_caps_cores(),
                       .l1_bytes = cache_bytes(1),
                       .l2_bytes = cache_bytes(2),
                       .l3_bytes = cache_bytes(3),
                       .memory_bytes = machine_memory()};
  if (!caps->l1_bytes) caps->l1_bytes = 32 << 10;
  if (!caps->l2_bytes) caps->l2_bytes = 512 << 10;
  if (!caps->l3_bytes) caps->l3_bytes = caps->l2_bytes;
  caps->max_buffer_bytes = caps->memory_bytes;
  vectors(s, caps, &vector_name);
  model_name(s, model, sizeof model);
  snprintf(s->description, sizeof s->description, "%s, %u thread%s, %s", model, caps->threads,
           caps->threads == 1 ? "" : "s", vector_name);
  if (caps->memory_bytes == 0) return FAIL(UNAVAILABLE, "the size of this machine's memory");
  return NULL;
}

void cpu_caps_deinit(CpuStrings *s) {
  LLVMDisposeMessage(s->triple);
  LLVMDisposeMessage(s->cpu);
  LLVMDisposeMessage(s->features);
}
