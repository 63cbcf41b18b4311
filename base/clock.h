/* Time. Durations and deadlines use the monotonic clock; wall time is for people and records. */
#pragma once

#include <stdint.h>

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t clock_now_ns(void);
/* CLOCK_REALTIME in nanoseconds since the epoch. */
int64_t clock_wall_ns(void);
/* CPU time of this process in nanoseconds. */
int64_t clock_cpu_ns(void);
