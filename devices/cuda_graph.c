/* A sequence of launches is queued one by one the first time, and recorded as a graph when it comes
 * a second time. From then on one call queues all of it; what differs from the run before (other
 * buffers, other sizes) is set in the graph, launch by launch. Nothing but the launches themselves
 * decides whether a graph fits: the key only says where to look, and every field is compared.
 *
 * A kernel that waits for its predecessor by itself is started before that ends ("programmatic
 * dependent launch"), so that its start costs no time. That helps as long as both fit on the device
 * together; a kernel of many workgroups would only take the room of the one before.
 *
 * Recording is by stream capture, because that is how such edges are made on every driver that has
 * them; the node of a launch is what the stream waits for right after it. */
#include "devices/cuda_graph.h"

#include <stdlib.h>
#include <string.h>

#include "base/vec.h"

enum {
  KEPT = 64,      /* graphs; the one not used for longest goes */
  LEAST = 2,      /* launches worth a graph */
  MOST = 1 << 16, /* launches of one graph */
  EARLY = 32,     /* workgroups per processor of a launch that starts early, at most */
};

struct CudaGraph {
  const void *key;
  uint64_t used; /* when, in launches of graphs */
  CudaLaunch *at;
  size_t n;
  uint64_t *values;
  size_t nvalues;
  CuGraph graph;
  CuGraphExec exec; /* NULL: seen once */
  CuGraphNode *nodes;
};

struct CudaGraphs {
  const CudaApi *api;
  CuStream stream;
  unsigned processors;
  uint64_t now;
  VEC(CudaGraph) graphs;
  VEC(void *) params; /* of the launch being queued */
};

static void drop(CudaGraphs *g, size_t i) {
  CudaGraph *x = &g->graphs.at[i];
  if (x->exec) g->api->graph_exec_destroy(x->exec);
  if (x->graph) g->api->graph_destroy(x->graph);
  free(x->at);
  free(x->values);
  free(x->nodes);
  g->graphs.at[i] = g->graphs.at[--g->graphs.len];
}

Status cuda_graphs_create(const CudaApi *api, CuStream stream, CudaGraphs **out) {
  CuDevice device;
  int processors = 0;
  *out = NULL;
  TRY(cuda_status(api, api->context_device(&device), "finding the device"));
  TRY(cuda_status(api, api->device_attribute(&processors, CU_ATTR_SM_COUNT, device),
                  "counting processors"));
  CudaGraphs *g = calloc(1, sizeof *g);
  if (!g) return FAIL(RESOURCE_EXHAUSTED, "memory for graphs");
  *g = (CudaGraphs){.api = api, .stream = stream, .processors = (unsigned)processors};
  *out = g;
  return NULL;
}

void cuda_graphs_release(CudaGraphs *g) {
  if (!g) return;
  while (g->graphs.len) drop(g, g->graphs.len - 1);
  vec_deinit(&g->graphs);
  vec_deinit(&g->params);
  free(g);
}

void cuda_graphs_forget(CudaGraphs *g, CuFunction function) {
  for (size_t i = g->graphs.len; i-- > 0;) {
    const CudaGraph *x = &g->graphs.at[i];
    bool named = false;
    for (size_t k = 0; k < x->n; k++) named |= x->at[k].function == function;
    if (named) drop(g, i);
  }
}

/* -- one launch ---------------------------------------------------------------------------------
 */

/* Its values, with those of its maps. */
static size_t all_values(const CudaLaunch *x) {
  return x->values + (size_t)x->maps * CUDA_MAP_VALUES;
}

static Status point_at_values(CudaGraphs *g, const CudaLaunches *l, size_t i) {
  const CudaLaunch *x = &l->at[i];
  const uint64_t *maps = &l->values[x->first + x->values];
  if (!vec_reserve(&g->params, (size_t)x->values + x->maps + 1))
    return FAIL(RESOURCE_EXHAUSTED, "arguments of a launch");
  for (uint32_t k = 0; k < x->values; k++) g->params.at[k] = &l->values[x->first + k];
  for (uint32_t k = 0; k < x->maps; k++)
    g->params.at[x->values + k] = (void *)(uintptr_t)(maps + (size_t)k * CUDA_MAP_VALUES);
  return NULL;
}

static bool is_empty(const CudaLaunch *l) { return !l->grid[0] || !l->grid[1] || !l->grid[2]; }

/* Both it and what runs before it have room on the device. The first launch is not asked: what is
 * before it may be a copy. */
static bool starts_early(const CudaGraphs *g, const CudaLaunch *l) {
  uint64_t groups = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2];
  return l->dependent && groups <= EARLY * (uint64_t)g->processors;
}

static Status queue_one(CudaGraphs *g, const CudaLaunches *l, size_t i) {
  const CudaLaunch *x = &l->at[i];
  if (is_empty(x)) return NULL;
  TRY(point_at_values(g, l, i));
  CuLaunchAttribute early = {.id = CU_LAUNCH_PROGRAMMATIC, .value.number = 1};
  CuLaunchConfig config = {.grid = {x->grid[0], x->grid[1], x->grid[2]},
                           .block = {x->block[0], x->block[1], x->block[2]},
                           .shared_bytes = x->shared_bytes,
                           .stream = g->stream,
                           .attributes = &early,
                           .nattributes = i > 0 && starts_early(g, x)};
  return cuda_status(g->api, g->api->launch(&config, x->function, g->params.at, NULL),
                     "launching a kernel");
}

static Status queue_all(CudaGraphs *g, const CudaLaunches *l) {
  for (size_t i = 0; i < l->n; i++) TRY(queue_one(g, l, i));
  return NULL;
}

/* -- recording ----------------------------------------------------------------------------------
 */

/* The node that the stream waits for is the launch just recorded. */
static Status find_node(CudaGraphs *g, CuGraphNode *out) {
  int status;
  uint64_t id;
  CuGraph graph;
  const CuGraphNode *waits;
  size_t n = 0;
  TRY(cuda_status(g->api, g->api->capture_info(g->stream, &status, &id, &graph, &waits, &n),
                  "recording a graph"));
  if (n != 1) return FAIL(INTERNAL, "a recorded launch made %zu nodes", n);
  *out = waits[0];
  return NULL;
}

static Status record(CudaGraphs *g, const CudaLaunches *l, CudaGraph *x) {
  x->nodes = calloc(l->n, sizeof(CuGraphNode));
  if (!x->nodes) return FAIL(RESOURCE_EXHAUSTED, "memory for a graph");
  TRY(cuda_status(g->api, g->api->capture_begin(g->stream, CU_CAPTURE_THREAD_LOCAL),
                  "recording a graph"));
  Status st = NULL;
  for (size_t i = 0; !st && i < l->n; i++) {
    st = queue_one(g, l, i);
    if (!st) st = find_node(g, &x->nodes[i]);
  }
  CuResult r = g->api->capture_end(g->stream, &x->graph);
  if (!st) st = cuda_status(g->api, r, "recording a graph");
  if (st) return st;
  return cuda_status(g->api, g->api->graph_instantiate(&x->exec, x->graph, 0), "making a graph");
}

/* -- finding and changing -----------------------------------------------------------------------
 */

static bool same_kernels(const CudaGraph *x, const CudaLaunches *l) {
  if (x->n != l->n) return false;
  for (size_t i = 0; i < l->n; i++) {
    const CudaLaunch *a = &x->at[i], *b = &l->at[i];
    if (a->function != b->function || a->values != b->values || a->maps != b->maps ||
        memcmp(a->block, b->block, sizeof a->block) != 0)
      return false;
  }
  return true;
}

static CudaGraph *find(CudaGraphs *g, const CudaLaunches *l) {
  for (size_t i = 0; i < g->graphs.len; i++)
    if (g->graphs.at[i].key == l->key && same_kernels(&g->graphs.at[i], l)) return &g->graphs.at[i];
  return NULL;
}

static size_t count_values(const CudaLaunches *l) {
  return l->n ? (size_t)l->at[l->n - 1].first + all_values(&l->at[l->n - 1]) : 0;
}

static Status remember(CudaGraphs *g, const CudaLaunches *l) {
  CudaGraph x = {.key = l->key, .used = g->now, .n = l->n, .nvalues = count_values(l)};
  if (g->graphs.len == KEPT) {
    size_t oldest = 0;
    for (size_t i = 1; i < g->graphs.len; i++)
      if (g->graphs.at[i].used < g->graphs.at[oldest].used) oldest = i;
    drop(g, oldest);
  }
  x.at = malloc(l->n * sizeof *x.at);
  x.values = malloc((x.nvalues + 1) * sizeof *x.values);
  if (x.at && x.values) {
    memcpy(x.at, l->at, l->n * sizeof *x.at);
    memcpy(x.values, l->values, x.nvalues * sizeof *x.values);
    if (vec_push(&g->graphs, x)) return NULL;
  }
  free(x.at);
  free(x.values);
  return FAIL(RESOURCE_EXHAUSTED, "memory for a graph");
}

static Status change_one(CudaGraphs *g, CudaGraph *x, const CudaLaunches *l, size_t i) {
  CudaLaunch *old = &x->at[i];
  const CudaLaunch *now = &l->at[i];
  size_t bytes = all_values(now) * sizeof *l->values;
  if (!memcmp(old->grid, now->grid, sizeof old->grid) &&
      !memcmp(x->values + old->first, l->values + now->first, bytes))
    return NULL;
  TRY(point_at_values(g, l, i));
  CuKernelNode node = {.function = now->function,
                       .grid = {now->grid[0], now->grid[1], now->grid[2]},
                       .block = {now->block[0], now->block[1], now->block[2]},
                       .shared_bytes = now->shared_bytes,
                       .params = g->params.at};
  TRY(cuda_status(g->api, g->api->graph_set_kernel(x->exec, x->nodes[i], &node),
                  "changing a graph"));
  memcpy(old->grid, now->grid, sizeof old->grid);
  memcpy(x->values + old->first, l->values + now->first, bytes);
  return NULL;
}

static Status record_again(CudaGraphs *g, CudaGraph *x, const CudaLaunches *l) {
  memcpy(x->at, l->at, l->n * sizeof *x->at);
  memcpy(x->values, l->values, x->nvalues * sizeof *x->values);
  return record(g, l, x);
}

static bool any_empty(const CudaLaunches *l) {
  for (size_t i = 0; i < l->n; i++)
    if (is_empty(&l->at[i])) return true;
  return false;
}

Status cuda_graphs_prepare(CudaGraphs *g, const CudaLaunches *l, CudaGraph **out) {
  *out = NULL;
  if (l->n < LEAST || l->n > MOST || any_empty(l)) return NULL;
  g->now++;
  CudaGraph *x = find(g, l);
  if (!x) return remember(g, l);
  x->used = g->now;
  Status st = NULL;
  if (!x->exec) st = record_again(g, x, l);
  for (size_t i = 0; !st && i < l->n; i++) st = change_one(g, x, l, i);
  if (st)
    drop(g, (size_t)(x - g->graphs.at));
  else
    *out = x;
  return st;
}

Status cuda_graphs_launch(CudaGraphs *g, const CudaLaunches *l, CudaGraph *graph) {
  if (!graph) return queue_all(g, l);
  return cuda_status(g->api, g->api->graph_launch(graph->exec, g->stream), "launching a graph");
}
