/* Launches that come again, as CUDA graphs: one call queues them all, and the GPU goes from one
 * kernel to the next without the host. */
#pragma once

#include <stdbool.h>

#include "devices/cuda_maps.h"

/* One kernel launch as the driver sees it. */
typedef struct CudaLaunch {
  CuFunction function;
  unsigned grid[3], block[3], shared_bytes;
  bool dependent;         /* it waits for the kernel before it by itself (griddepcontrol.wait) */
  uint32_t first, values; /* its arguments among those of all launches */
  uint32_t maps;          /* behind them, each an argument of CUDA_MAP_VALUES */
} CudaLaunch;

typedef struct CudaLaunches {
  const void *key; /* the same for launches that come again, and perhaps for others */
  const CudaLaunch *at;
  size_t n;
  uint64_t *values; /* of all arguments, 8 bytes each; those of maps */
} CudaLaunches;

typedef struct CudaGraphs CudaGraphs;

Status cuda_graphs_create(const CudaApi *api, CuStream stream, CudaGraphs **out);
void cuda_graphs_release(CudaGraphs *g); /* NULL allowed */
typedef struct CudaGraph CudaGraph;
/* Makes ready what cuda_graphs_launch then queues; *out is NULL when the launches are no graph. */
Status cuda_graphs_prepare(CudaGraphs *g, const CudaLaunches *l, CudaGraph **out);
Status cuda_graphs_launch(CudaGraphs *g, const CudaLaunches *l, CudaGraph *graph);
/* No graph names the function afterwards. */
void cuda_graphs_forget(CudaGraphs *g, CuFunction function);
