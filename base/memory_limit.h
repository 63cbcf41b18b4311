/* How much memory this process and its children may use before the kernel kills one of them. */
#pragma once

#include <stdint.h>

/* Physical memory, or the least that a control group allows; 0: nobody knows. */
uint64_t memory_limit(void);
/* The least limit of the control groups that `groups` (the text of /proc/self/cgroup) names,
 * beneath `root` (where /sys/fs/cgroup is); UINT64_MAX: none. */
uint64_t memory_limit_of(const char *groups, const char *root);
