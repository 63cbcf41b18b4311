/* What this machine's processor is. Private to the CPU device. */
#pragma once

#include "devices/device.h"

typedef struct CpuStrings {
  char *triple, *cpu, *features; /* LLVM's, freed with cpu_caps_deinit */
  char description[160], compiler[32];
} CpuStrings;

/* Fills caps (strings point into *s). threads: the team's size, 0 = the cores this process may use.
 */
Status cpu_caps_init(uint32_t threads, CpuStrings *s, DeviceCaps *caps);
void cpu_caps_deinit(CpuStrings *s);
/* Cores that this process may run on. */
uint32_t cpu_caps_cores(void);
