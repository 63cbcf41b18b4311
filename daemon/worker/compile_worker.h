/* The process that compiles. */
#pragma once

#include <stdint.h>

typedef struct WorkerLimits {
  uint64_t memory_bytes; /* above what the zygote has; 0 = none */
  uint32_t cpu_seconds;  /* per job; 0 = none */
} WorkerLimits;

/* Serves kilnd on the socket until it closes; returns the exit code. Enters the sandbox first. */
int compile_worker_main(int socket, WorkerLimits limits);
