/* What this process and its children may use: of memory, before the kernel kills one of them, and
 * of processors, before it makes them wait. */
#pragma once

#include <stdint.h>

/* Physical memory, or the least that a control group allows; 0: nobody knows. */
uint64_t machine_memory(void);
/* Processors that it may run on, or as many as a control group's share of time is worth, rounded
 * up; at least 1. */
uint32_t machine_processors(void);

/* The least limit of the control groups that `groups` (the text of /proc/self/cgroup) names,
 * beneath `root` (where /sys/fs/cgroup is); UINT64_MAX: none. */
uint64_t machine_memory_of(const char *groups, const char *root);
uint64_t machine_processors_of(const char *groups, const char *root);
