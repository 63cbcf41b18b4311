/* What a test says to a driver, a linker and a compiler that are none, and what they saw: the
 * symbols `fake_cuda`, `fake_linker` and `fake_compiler` of the libraries. */
#pragma once

#include <stddef.h>

typedef struct FakeCuda {
  /* what it is to be */
  int init;         /* result of cuInit */
  int cc;           /* compute capability, 90 is 9.0 */
  const char *said; /* by the compiler of kernels */
  int local_bytes;  /* of each thread of a kernel, beside registers */
  int registers;    /* of a thread of it */
  size_t memory;    /* of the device */
  const void *maps; /* what kernels say of maps of tensors, which come behind three arguments */
  size_t maps_bytes;
  int broken; /* what every call answers from now on, as a context that failed does */
  /* what it saw */
  unsigned launches;   /* of kernels, those of graphs too */
  unsigned early;      /* of them before the kernel before ended */
  unsigned recordings; /* of graphs */
  unsigned changes;    /* of a launch of a graph */
  unsigned graphs;     /* launches of graphs */
  unsigned encoded;    /* maps of tensors */
  unsigned linked, loaded;
  unsigned compiled;  /* as libraries */
  unsigned libraries; /* that are there */
  unsigned allocations;
  size_t in_use;
} FakeCuda;

typedef struct FakeLinker {
  int version; /* 13000 is 13.0 */
  int fails;   /* on every kernel */
  const char *said;
  /* what it saw */
  char arch[32];
  unsigned linked;
} FakeLinker;

typedef struct FakeCompiler {
  int version; /* 13000 is 13.0 */
  int fails;   /* on every kernel */
  /* what it saw */
  char options[256]; /* one behind the other */
  unsigned compiled;
} FakeCompiler;
