/* OpenCL as far as the device uses it: types and numbers of its ABI, and its functions found in
 * libOpenCL when the program runs, so that nothing of OpenCL is needed to build or to start. */
#pragma once

#include <stdint.h>

#include "base/status.h"

typedef struct ClPlatform_ *ClPlatform;
typedef struct ClDevice_ *ClDevice;
typedef struct ClContext_ *ClContext;
typedef struct ClQueue_ *ClQueue;
typedef struct ClMem_ *ClMem;
typedef struct ClEvent_ *ClEvent;
typedef struct ClProgram_ *ClProgram;
typedef struct ClKernel_ *ClKernel;

enum {
  CL_SUCCESS = 0,
  CL_DEVICE_NOT_FOUND = -1,
  CL_MEM_OBJECT_ALLOCATION_FAILURE = -4,
  CL_OUT_OF_RESOURCES = -5,
  CL_OUT_OF_HOST_MEMORY = -6,
  CL_INVALID_BUFFER_SIZE = -61,

  CL_DEVICE_TYPE = 0x1000,
  CL_DEVICE_VENDOR_ID = 0x1001,
  CL_DEVICE_MAX_COMPUTE_UNITS = 0x1002,
  CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004,
  CL_DEVICE_MAX_WORK_ITEM_SIZES = 0x1005,
  CL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010,
  CL_DEVICE_MAX_PARAMETER_SIZE = 0x1017,
  CL_DEVICE_SINGLE_FP_CONFIG = 0x101b,
  CL_DEVICE_GLOBAL_MEM_CACHE_SIZE = 0x101e,
  CL_DEVICE_GLOBAL_MEM_SIZE = 0x101f,
  CL_DEVICE_LOCAL_MEM_SIZE = 0x1023,
  CL_DEVICE_NAME = 0x102b,
  CL_DRIVER_VERSION = 0x102d,
  CL_DEVICE_VERSION = 0x102f,
  CL_DEVICE_DOUBLE_FP_CONFIG = 0x1032,

  CL_FP_FMA = 1 << 5,
  CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT = 1 << 7,
  CL_DEVICE_TYPE_CPU = 1 << 1,
  CL_MEM_READ_WRITE = 1,
  CL_PROGRAM_BUILD_LOG = 0x1183,
  CL_KERNEL_NUM_ARGS = 0x1191,
  CL_EVENT_COMMAND_EXECUTION_STATUS = 0x11d3,
  CL_COMPLETE = 0,
};
#define CL_DEVICE_TYPE_ALL 0xffffffffu

typedef struct OpenclApi {
#define CL(name_, result_, params_) result_(*name_) params_;
#include "devices/opencl.def"
#undef CL
} OpenclApi;

/* The functions of this machine's libOpenCL, loaded once and never unloaded. UNAVAILABLE with the
 * reason when there is none. */
Status opencl_api(const OpenclApi **out);
/* All devices, platform by platform: their places are the N of "opencl:N". */
enum { OPENCL_MAX_DEVICES = 64 };
Status opencl_devices(const OpenclApi *cl, ClDevice out[OPENCL_MAX_DEVICES], uint32_t *n);
/* A failed call as a Status; RESOURCE_EXHAUSTED when memory was short. */
Status opencl_error(const char *call, int32_t error);
