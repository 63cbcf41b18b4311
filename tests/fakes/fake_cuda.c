/* A CUDA driver without a GPU: memory is the host's, and every kernel is the same one. It writes to
 * where its first argument points: the number of its workgroups along x, then its second argument,
 * then the numbers of its map of a tensor, if it has one.
 * That is enough to see whether launches, graphs and their changes bring what they should, in which
 * order. Fresh memory is full of garbage, so that who forgets to clear it is found out. Where there
 * is a file of the name in FAKE_CUDA_FAULT, a kernel takes it away and faults. */
#include "tests/fakes/fake_cuda.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/cuda_api.h"

enum { GARBAGE = 0xcd, MOST = 4096 };

__attribute__((visibility("default"))) FakeCuda fake_cuda = {.cc = 90, .memory = (size_t)1 << 30};

typedef struct Node {
  unsigned grid;
  uint64_t values[2], map[4];
} Node;
struct CuGraph_ {
  Node at[MOST];
  size_t n;
};
struct CuStream_ {
  CuGraph recording;
  CuGraphNode last;
};
struct CuLink_ {
  char *code;
  size_t bytes;
};
typedef struct Block {
  size_t bytes;
  char pad[56];
} Block;

static void copy_said(unsigned n, const int *options, void **values) {
  char *to = NULL;
  size_t room = 0;
  for (unsigned i = 0; i < n; i++) {
    if (options[i] == CU_JIT_INFO_LOG) to = values[i];
    if (options[i] == CU_JIT_INFO_LOG_BYTES) room = (size_t)(uintptr_t)values[i];
  }
  if (!to || !fake_cuda.said || strlen(fake_cuda.said) >= room) return;
  memcpy(to, fake_cuda.said, strlen(fake_cuda.said) + 1);
}

enum { ILLEGAL_ADDRESS = 700 };

static CuResult run(Node node) {
  const char *fault = getenv("FAKE_CUDA_FAULT");
  if (fault && !unlink(fault)) fake_cuda.broken = ILLEGAL_ADDRESS;
  if (fake_cuda.broken) return fake_cuda.broken;
  uint64_t result[6] = {node.grid,   node.values[1], node.map[0],
                        node.map[1], node.map[2],    node.map[3]};
  fake_cuda.launches++;
  memcpy((void *)(uintptr_t)node.values[0], result, fake_cuda.maps ? sizeof result : 16);
  return 0;
}

/* -- the device ------------------------------------------------------------------------------- */

#define FAKE(symbol, ...)                                                                          \
  __attribute__((visibility("default"))) CuResult symbol(__VA_ARGS__);                             \
  CuResult symbol(__VA_ARGS__)
#define NOTHING(symbol, ...)                                                                       \
  FAKE(symbol, __VA_ARGS__) { return fake_cuda.broken; }

FAKE(cuInit, unsigned flags) { return fake_cuda.init; }
FAKE(cuDriverGetVersion, int *v) { return *v = 13000, 0; }
FAKE(cuGetErrorName, CuResult r, const char **t) { return *t = "FAKE_ERROR", 0; }
FAKE(cuGetErrorString, CuResult r, const char **t) { return *t = "as the test says", 0; }
FAKE(cuDeviceGetCount, int *n) { return *n = 1, 0; }
FAKE(cuDeviceGet, CuDevice *d, int ordinal) { return *d = ordinal, 0; }
FAKE(cuDeviceGetName, char *text, int n, CuDevice d) { return strncpy(text, "Fake", (size_t)n), 0; }
FAKE(cuDeviceGetAttribute, int *v, int which, CuDevice d) {
  *v = which == CU_ATTR_CC_MAJOR       ? fake_cuda.cc / 10
       : which == CU_ATTR_CC_MINOR     ? fake_cuda.cc % 10
       : which == CU_ATTR_WARP         ? 32
       : which == CU_ATTR_SM_COUNT     ? 4
       : which == CU_ATTR_MAX_THREADS  ? 1024
       : which == CU_ATTR_SHARED_OPTIN ? 99 << 10
                                       : 1 << 20;
  return 0;
}
FAKE(cuDeviceTotalMem_v2, size_t *n, CuDevice d) { return *n = fake_cuda.memory, 0; }
FAKE(cuDevicePrimaryCtxRetain, CuContext *c, CuDevice d) { return 0; }
FAKE(cuDevicePrimaryCtxRelease_v2, CuDevice d) { return 0; }
FAKE(cuCtxSetCurrent, CuContext c) { return 0; }
FAKE(cuCtxGetDevice, CuDevice *d) { return *d = 0, 0; }
FAKE(cuStreamCreate, CuStream *s, unsigned flags) {
  *s = calloc(1, sizeof **s);
  return *s ? 0 : CU_OUT_OF_MEMORY;
}
FAKE(cuStreamDestroy_v2, CuStream s) { return free(s), 0; }
NOTHING(cuStreamSynchronize, CuStream s)
FAKE(cuEventCreate, CuEvent *e, unsigned flags) { return 0; }
FAKE(cuEventDestroy_v2, CuEvent e) { return 0; }
NOTHING(cuEventRecord, CuEvent e, CuStream s)
FAKE(cuEventElapsedTime, float *ms, CuEvent a, CuEvent b) { return *ms = 1, 0; }
NOTHING(cuEventQuery, CuEvent e)

/* -- memory ----------------------------------------------------------------------------------- */

FAKE(cuMemAlloc_v2, CuPointer *p, size_t bytes) {
  if (fake_cuda.broken) return fake_cuda.broken;
  if (bytes > fake_cuda.memory - fake_cuda.in_use) return CU_OUT_OF_MEMORY;
  Block *b = malloc(sizeof *b + bytes);
  if (!b) return CU_OUT_OF_MEMORY;
  b->bytes = bytes;
  memset(b + 1, GARBAGE, bytes);
  fake_cuda.in_use += bytes;
  fake_cuda.allocations++;
  *p = (CuPointer)(uintptr_t)(b + 1);
  return 0;
}
FAKE(cuMemFree_v2, CuPointer p) {
  Block *b = (Block *)(uintptr_t)p - 1;
  fake_cuda.in_use -= b->bytes;
  return free(b), 0;
}
FAKE(cuMemsetD8Async, CuPointer p, unsigned char v, size_t n, CuStream s) {
  return memset((void *)(uintptr_t)p, v, n), fake_cuda.broken;
}
FAKE(cuMemHostAlloc, void **p, size_t n, unsigned flags) {
  *p = malloc(n);
  return *p ? 0 : CU_OUT_OF_MEMORY;
}
FAKE(cuMemFreeHost, void *p) { return free(p), 0; }
FAKE(cuMemcpyHtoDAsync_v2, CuPointer to, const void *from, size_t n, CuStream s) {
  return memcpy((void *)(uintptr_t)to, from, n), fake_cuda.broken;
}
FAKE(cuMemcpyDtoHAsync_v2, void *to, CuPointer from, size_t n, CuStream s) {
  return memcpy(to, (const void *)(uintptr_t)from, n), fake_cuda.broken;
}
FAKE(cuMemcpyDtoDAsync_v2, CuPointer to, CuPointer from, size_t n, CuStream s) {
  return memmove((void *)(uintptr_t)to, (const void *)(uintptr_t)from, n), fake_cuda.broken;
}

/* -- programs: anything that is text or an ELF file ------------------------------------------- */

FAKE(cuModuleLoadDataEx, CuModule *m, const void *image, unsigned n, const int *options,
     void **values) {
  if (fake_cuda.broken) return fake_cuda.broken;
  if (!strstr(image, "ptx") && memcmp(image, "\177ELF", 4) != 0) return CU_INVALID_IMAGE;
  copy_said(n, options, values);
  *m = malloc(1);
  fake_cuda.loaded++;
  return *m ? 0 : CU_OUT_OF_MEMORY;
}
FAKE(cuModuleUnload, CuModule m) { return free(m), 0; }
FAKE(cuLibraryLoadData, CuLibrary *l, const void *code, int *options, void **values, unsigned n,
     int *own, void **own_values, unsigned nown) {
  if (fake_cuda.broken) return fake_cuda.broken;
  copy_said(n, options, values);
  *l = malloc(1);
  __atomic_add_fetch(&fake_cuda.compiled, 1, __ATOMIC_RELAXED);
  __atomic_add_fetch(&fake_cuda.libraries, 1, __ATOMIC_RELAXED);
  return *l ? 0 : CU_OUT_OF_MEMORY;
}
FAKE(cuLibraryGetModule, CuModule *m, CuLibrary l) { return *m = (CuModule)l, 0; }
FAKE(cuLibraryUnload, CuLibrary l) {
  fake_cuda.libraries--;
  return free(l), 0;
}
FAKE(cuModuleGetGlobal_v2, CuPointer *p, size_t *bytes, CuModule m, const char *name) {
  if (!fake_cuda.maps || strcmp(name, "maps") != 0) return CU_NOT_FOUND;
  *p = (CuPointer)(uintptr_t)fake_cuda.maps;
  *bytes = fake_cuda.maps_bytes;
  return 0;
}
FAKE(cuTensorMapEncodeTiled, void *map, int type, uint32_t axes, CuPointer at,
     const uint64_t *sizes, const uint64_t *steps, const uint32_t *box, const uint32_t *strides,
     int interleave, int swizzle, int promotion, int fill) {
  uint64_t says[4] = {at, sizes[axes - 1], steps[axes - 2], box[0]};
  if ((uintptr_t)map % 64 || at % 16 || steps[axes - 2] % 16) return 1;
  fake_cuda.encoded++;
  memcpy(map, says, sizeof says);
  return 0;
}

FAKE(cuModuleGetFunction, CuFunction *f, CuModule m, const char *name) {
  *f = (CuFunction)m;
  return 0;
}
NOTHING(cuFuncSetAttribute, CuFunction f, int attribute, int value)
FAKE(cuFuncGetAttribute, int *v, int attribute, CuFunction f) {
  *v = attribute == CU_FUNCTION_LOCAL_BYTES ? fake_cuda.local_bytes
       : attribute == CU_FUNCTION_REGISTERS ? fake_cuda.registers
                                            : 0;
  return fake_cuda.broken;
}
FAKE(cuLinkCreate_v2, unsigned n, const int *options, void **values, CuLink *l) {
  copy_said(n, options, values);
  *l = calloc(1, sizeof **l);
  return *l ? 0 : CU_OUT_OF_MEMORY;
}
FAKE(cuLinkAddData_v2, CuLink l, int type, const void *data, size_t bytes, const char *name,
     unsigned n, const int *options, void **values) {
  if (type != CU_JIT_INPUT_PTX || !strstr(data, "ptx")) return CU_INVALID_PTX;
  l->code = malloc(bytes + 4);
  if (!l->code) return CU_OUT_OF_MEMORY;
  memcpy(l->code, "\177ELF", 4);
  memcpy(l->code + 4, data, bytes);
  l->bytes = bytes + 4;
  return 0;
}
FAKE(cuLinkComplete, CuLink l, void **cubin, size_t *bytes) {
  *cubin = l->code;
  *bytes = l->bytes;
  __atomic_fetch_add(&fake_cuda.linked, 1, __ATOMIC_RELAXED); /* on several threads */
  return 0;
}
FAKE(cuLinkDestroy, CuLink l) { return free(l->code), free(l), 0; }

/* -- launches --------------------------------------------------------------------------------- */

static void read_arguments(Node *node, void **params) {
  for (int k = 0; k < 2; k++) memcpy(&node->values[k], params[k], sizeof node->values[k]);
  if (fake_cuda.maps) memcpy(node->map, params[3], sizeof node->map);
}

FAKE(cuLaunchKernelEx, const CuLaunchConfig *c, CuFunction f, void **params, void **extra) {
  Node node = {.grid = c->grid[0]};
  read_arguments(&node, params);
  for (unsigned k = 0; k < c->nattributes; k++)
    fake_cuda.early += c->attributes[k].id == CU_LAUNCH_PROGRAMMATIC;
  CuGraph g = c->stream->recording;
  if (!g) return run(node);
  g->at[g->n] = node;
  c->stream->last = (CuGraphNode)&g->at[g->n++];
  return 0;
}
FAKE(cuStreamBeginCapture_v2, CuStream s, int mode) {
  s->recording = calloc(1, sizeof *s->recording);
  fake_cuda.recordings++;
  return s->recording ? 0 : CU_OUT_OF_MEMORY;
}
FAKE(cuStreamGetCaptureInfo_v2, CuStream s, int *status, uint64_t *id, CuGraph *g,
     const CuGraphNode **waits, size_t *n) {
  *status = 1, *id = 1, *g = s->recording, *waits = &s->last, *n = 1;
  return 0;
}
FAKE(cuStreamEndCapture, CuStream s, CuGraph *g) {
  *g = s->recording;
  s->recording = NULL;
  return 0;
}
FAKE(cuGraphInstantiateWithFlags, CuGraphExec *x, CuGraph g, uint64_t flags) {
  *x = (CuGraphExec)g;
  return 0;
}
FAKE(cuGraphExecKernelNodeSetParams, CuGraphExec x, CuGraphNode n, const CuKernelNode *kernel) {
  Node *node = (Node *)n;
  node->grid = kernel->grid[0];
  read_arguments(node, kernel->params);
  fake_cuda.changes++;
  return 0;
}
FAKE(cuGraphLaunch, CuGraphExec x, CuStream s) {
  CuGraph g = (CuGraph)x;
  CuResult r = 0;
  fake_cuda.graphs++;
  for (size_t i = 0; i < g->n && !r; i++) r = run(g->at[i]);
  return r;
}
FAKE(cuGraphExecDestroy, CuGraphExec x) { return 0; }
FAKE(cuGraphDestroy, CuGraph g) { return free(g), 0; }
