/* What a test says to the driver that is none, and what that saw: the symbol `fake_cuda` of the
 * library. */
#pragma once

#include <stddef.h>

typedef struct FakeCuda {
  /* what it is to be */
  int init;         /* result of cuInit */
  int cc;           /* compute capability, 90 is 9.0 */
  const char *said; /* by the compiler of kernels */
  int local_bytes;  /* of each thread of a kernel, beside registers */
  size_t memory;    /* of the device */
  int broken;       /* what every call answers from now on, as a context that failed does */
  /* what it saw */
  unsigned launches;   /* of kernels, those of graphs too */
  unsigned early;      /* of them before the kernel before ended */
  unsigned recordings; /* of graphs */
  unsigned changes;    /* of a launch of a graph */
  unsigned graphs;     /* launches of graphs */
  unsigned linked, loaded;
  unsigned allocations;
  size_t in_use;
} FakeCuda;
