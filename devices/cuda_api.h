/* The part of the CUDA driver's interface that the CUDA device uses, declared here so that building
 * needs nothing of CUDA's, and found in libcuda when a device is opened. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef int CuResult; /* 0: success */
typedef int CuDevice;
typedef uint64_t CuPointer;
typedef struct CuContext_ *CuContext;
typedef struct CuModule_ *CuModule;
typedef struct CuFunction_ *CuFunction;
typedef struct CuStream_ *CuStream;
typedef struct CuEvent_ *CuEvent;
typedef struct CuLink_ *CuLink;
typedef struct CuLibrary_ *CuLibrary;
typedef struct CuGraph_ *CuGraph;
typedef struct CuGraphExec_ *CuGraphExec;
typedef struct CuGraphNode_ *CuGraphNode;

/* The number of the driver's warning about matrix instructions that it makes wait for each other.
 */
#define CUDA_WARNING_WAITING "C75"

/* The driver's structures, under our names. */
typedef struct CuLaunchAttribute {
  int id;
  char pad[4];
  union {
    char room[64];
    int number;
  } value;
} CuLaunchAttribute;
typedef struct CuLaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  CuStream stream;
  CuLaunchAttribute *attributes;
  unsigned nattributes;
} CuLaunchConfig;
typedef struct CuKernelNode {
  CuFunction function;
  unsigned grid[3], block[3], shared_bytes;
  void **params, **extra;
} CuKernelNode;

/* Values of the driver's enumerations. */
enum {
  CU_INVALID_VALUE = 1,
  CU_OUT_OF_MEMORY = 2,
  CU_NO_DEVICE = 100,
  CU_INVALID_IMAGE = 200,
  CU_NO_BINARY = 209,
  CU_INVALID_PTX = 218,
  CU_UNSUPPORTED_PTX = 222,
  CU_INVALID_HANDLE = 400,
  CU_NOT_FOUND = 500,
  CU_NOT_READY = 600,
  CU_LAUNCH_RESOURCES = 701,
  CU_NOT_SUPPORTED = 801,
  /* attributes of devices */
  CU_ATTR_WARP = 10,
  CU_ATTR_MAX_THREADS = 1,
  CU_ATTR_SM_COUNT = 16,
  CU_ATTR_L2_BYTES = 38,
  CU_ATTR_CC_MAJOR = 75,
  CU_ATTR_CC_MINOR = 76,
  CU_ATTR_REGISTERS = 12,
  CU_ATTR_SHARED_ALL = 81, /* of a processor */
  CU_ATTR_SHARED_OPTIN = 97,
  /* attributes of functions */
  CU_FUNCTION_MAX_SHARED = 8,
  CU_FUNCTION_SHARED_BYTES = 1, /* that its code declares */
  CU_FUNCTION_LOCAL_BYTES = 3,
  CU_FUNCTION_REGISTERS = 4,
  /* options of the JIT */
  CU_JIT_INFO_LOG = 3,
  CU_JIT_INFO_LOG_BYTES = 4,
  CU_JIT_ERROR_LOG = 5,
  CU_JIT_ERROR_LOG_BYTES = 6,
  CU_JIT_INPUT_PTX = 1,
  /* flags */
  CU_EVENT_NO_TIMING = 2,
  CU_STREAM_NON_BLOCKING = 1,
  CU_CAPTURE_THREAD_LOCAL = 1,
  CU_LAUNCH_PROGRAMMATIC = 6,
};

/*   name as here, symbol, parameters; every one returns a CuResult */
#define CUDA_SYMBOLS(X)                                                                            \
  X(init, "cuInit", (unsigned flags))                                                              \
  X(driver_version, "cuDriverGetVersion", (int *version))                                          \
  X(error_name, "cuGetErrorName", (CuResult r, const char **text))                                 \
  X(error_text, "cuGetErrorString", (CuResult r, const char **text))                               \
  X(device_count, "cuDeviceGetCount", (int *n))                                                    \
  X(device_get, "cuDeviceGet", (CuDevice * d, int ordinal))                                        \
  X(device_name, "cuDeviceGetName", (char *text, int bytes, CuDevice d))                           \
  X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, CuDevice d))             \
  X(device_memory, "cuDeviceTotalMem_v2", (size_t * bytes, CuDevice d))                            \
  X(context_retain, "cuDevicePrimaryCtxRetain", (CuContext * c, CuDevice d))                       \
  X(context_release, "cuDevicePrimaryCtxRelease_v2", (CuDevice d))                                 \
  X(context_set, "cuCtxSetCurrent", (CuContext c))                                                 \
  X(stream_create, "cuStreamCreate", (CuStream * s, unsigned flags))                               \
  X(stream_destroy, "cuStreamDestroy_v2", (CuStream s))                                            \
  X(stream_wait, "cuStreamSynchronize", (CuStream s))                                              \
  X(event_create, "cuEventCreate", (CuEvent * e, unsigned flags))                                  \
  X(event_destroy, "cuEventDestroy_v2", (CuEvent e))                                               \
  X(event_record, "cuEventRecord", (CuEvent e, CuStream s))                                        \
  X(event_elapsed, "cuEventElapsedTime", (float *ms, CuEvent from, CuEvent to))                    \
  X(event_query, "cuEventQuery", (CuEvent e))                                                      \
  X(memory_alloc, "cuMemAlloc_v2", (CuPointer * p, size_t bytes))                                  \
  X(memory_free, "cuMemFree_v2", (CuPointer p))                                                    \
  X(memory_fill, "cuMemsetD8Async", (CuPointer p, unsigned char v, size_t bytes, CuStream s))      \
  X(host_alloc, "cuMemHostAlloc", (void **p, size_t bytes, unsigned flags))                        \
  X(host_free, "cuMemFreeHost", (void *p))                                                         \
  X(to_device, "cuMemcpyHtoDAsync_v2", (CuPointer to, const void *from, size_t n, CuStream s))     \
  X(to_host, "cuMemcpyDtoHAsync_v2", (void *to, CuPointer from, size_t n, CuStream s))             \
  X(on_device, "cuMemcpyDtoDAsync_v2", (CuPointer to, CuPointer from, size_t n, CuStream s))       \
  X(module_load, "cuModuleLoadDataEx",                                                             \
    (CuModule * m, const void *image, unsigned n, const int *options, void **values))              \
  X(module_unload, "cuModuleUnload", (CuModule m))                                                 \
  X(module_function, "cuModuleGetFunction", (CuFunction * f, CuModule m, const char *name))        \
  X(module_global, "cuModuleGetGlobal_v2",                                                         \
    (CuPointer * p, size_t * bytes, CuModule m, const char *name))                                 \
  X(link_create, "cuLinkCreate_v2", (unsigned n, const int *options, void **values, CuLink *l))    \
  X(link_add, "cuLinkAddData_v2",                                                                  \
    (CuLink l, int type, const void *data, size_t bytes, const char *name, unsigned n,             \
     const int *options, void **values))                                                           \
  X(link_complete, "cuLinkComplete", (CuLink l, void **cubin, size_t *bytes))                      \
  X(link_destroy, "cuLinkDestroy", (CuLink l))                                                     \
  X(launch, "cuLaunchKernelEx",                                                                    \
    (const CuLaunchConfig *c, CuFunction f, void **params, void **extra))                          \
  X(function_set, "cuFuncSetAttribute", (CuFunction f, int attribute, int value))                  \
  X(function_get, "cuFuncGetAttribute", (int *value, int attribute, CuFunction f))                 \
  X(context_device, "cuCtxGetDevice", (CuDevice * d))                                              \
  X(capture_begin, "cuStreamBeginCapture_v2", (CuStream s, int mode))                              \
  X(capture_info, "cuStreamGetCaptureInfo_v2",                                                     \
    (CuStream s, int *status, uint64_t *id, CuGraph *g, const CuGraphNode **waits, size_t *n))     \
  X(capture_end, "cuStreamEndCapture", (CuStream s, CuGraph * g))                                  \
  X(graph_instantiate, "cuGraphInstantiateWithFlags",                                              \
    (CuGraphExec * x, CuGraph g, uint64_t flags))                                                  \
  X(graph_set_kernel, "cuGraphExecKernelNodeSetParams",                                            \
    (CuGraphExec x, CuGraphNode n, const CuKernelNode *kernel))                                    \
  X(graph_launch, "cuGraphLaunch", (CuGraphExec x, CuStream s))                                    \
  X(graph_exec_destroy, "cuGraphExecDestroy", (CuGraphExec x))                                     \
  X(graph_destroy, "cuGraphDestroy", (CuGraph g))

/* The same; NULL where the driver is older than they are. */
#define CUDA_NEW_SYMBOLS(X)                                                                        \
  X(map_encode, "cuTensorMapEncodeTiled",                                                          \
    (void *map, int type, uint32_t axes, CuPointer at, const uint64_t *sizes,                      \
     const uint64_t *steps, const uint32_t *box, const uint32_t *strides, int interleave,          \
     int swizzle, int promotion, int fill))                                                        \
  X(library_load, "cuLibraryLoadData",                                                             \
    (CuLibrary * l, const void *code, int *options, void **values, unsigned n, int *own,           \
     void **own_values, unsigned nown))                                                            \
  X(library_module, "cuLibraryGetModule", (CuModule * m, CuLibrary l))                             \
  X(library_unload, "cuLibraryUnload", (CuLibrary l))

typedef struct CudaApi {
#define X(name, symbol, params) CuResult(*name) params;
  CUDA_SYMBOLS(X)
  CUDA_NEW_SYMBOLS(X)
#undef X
} CudaApi;

/* The driver's functions, loaded and initialised once per process; UNAVAILABLE with the reason when
 * the machine has no driver, or one that lacks a symbol, or no GPU. */
Status cuda_api(const CudaApi **out);
/* NULL for success, else what failed, with the driver's name for it: RESOURCE_EXHAUSTED when memory
 * ran out, INVALID_ARGUMENT when the driver does not take a program, INTERNAL when it does not take
 * the call, else UNAVAILABLE, because a context that failed once does nothing more. */
Status cuda_status(const CudaApi *api, CuResult r, const char *what);
