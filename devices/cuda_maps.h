/* Maps of tensors, which kernels that copy whole tiles take as parameters. */
#pragma once

#include "base/status.h"
#include "devices/cuda_api.h"

/* Values of 64 bits that a map takes among a launch's. */
enum { CUDA_MAP_VALUES = 16 };

typedef struct CudaMaps CudaMaps;

/* What the module says of its kernel's maps; *out is NULL when it has none. */
Status cuda_maps_read(const CudaApi *api, CuModule module, CuStream stream, CudaMaps **out);
void cuda_maps_free(CudaMaps *m);
uint32_t cuda_maps_count(const CudaMaps *m); /* 0 for NULL */
/* All maps of a launch with these arguments, one after the other. */
Status cuda_maps_fill(const CudaApi *api, CudaMaps *m, const uint64_t *args, uint32_t nargs,
                      uint64_t *to);
