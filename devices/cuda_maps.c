/* The hardware that copies tiles knows a tensor by a map of 128 bytes, which only the driver can
 * make: of an address, which a launch brings, and of sizes and steps, which the code generator left
 * in the module's global `maps` (codegen/llvm_ring.c). They lie in the code, so that whoever keeps
 * or copies code keeps them. A map is made again when its argument is elsewhere than the last time.
 *
 * What the global says is checked, because code comes out of caches. */
#include "devices/cuda_maps.h"

#include <inttypes.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { AXES = 5, NUMBERS = 3 + 3 * AXES, MOST_MAPS = 8, MOST_BOX = 256 };
enum { SWIZZLE_128 = 3, PROMOTE_256 = 3 }; /* of the driver's enumerations */

typedef struct Map {
  uint32_t argument, axes;
  int type; /* by bytes of an element: the driver's number of an unsigned integer */
  uint64_t size[AXES], step[AXES]; /* step: bytes, from the second axis on */
  uint32_t box[AXES];
  uint64_t at; /* what `made` is of; 0: nothing yet */
  alignas(64) uint64_t made[CUDA_MAP_VALUES];
} Map;

struct CudaMaps {
  uint32_t n;
  Map map[MOST_MAPS];
};

static bool read_map(const int64_t *from, Map *m) {
  const int64_t *box = from + 3, *size = box + AXES, *step = size + AXES;
  int64_t bytes = from[1];
  if (from[0] < 0 || from[0] > UINT16_MAX || from[2] < 1 || from[2] > AXES) return false;
  if (bytes != 1 && bytes != 2 && bytes != 4) return false;
  m->argument = (uint32_t)from[0];
  m->axes = (uint32_t)from[2];
  m->type = bytes == 4 ? 2 : (int)bytes - 1;
  for (uint32_t d = 0; d < m->axes; d++) {
    bool fits = box[d] > 0 && box[d] <= MOST_BOX && size[d] > 0 && size[d] <= INT32_MAX;
    if (!fits || step[d] < 1 || step[d] > (int64_t)1 << 37) return false;
    m->box[d] = (uint32_t)box[d];
    m->size[d] = (uint64_t)size[d];
    if (d) m->step[d - 1] = (uint64_t)(step[d] * bytes);
  }
  return true;
}

Status cuda_maps_read(const CudaApi *api, CuModule module, CuStream stream, CudaMaps **out) {
  int64_t numbers[MOST_MAPS * NUMBERS];
  CuPointer at;
  size_t bytes = 0;
  *out = NULL;
  CuResult r = api->module_global(&at, &bytes, module, "maps");
  if (r == CU_NOT_FOUND) return NULL;
  TRY(cuda_status(api, r, "looking for maps of tensors"));
  size_t n = bytes / sizeof *numbers / NUMBERS;
  if (!n || n > MOST_MAPS || bytes != n * NUMBERS * sizeof *numbers)
    return FAIL(INVALID_ARGUMENT, "%zu bytes are no maps of tensors", bytes);
  if (!api->map_encode)
    return FAIL(INVALID_ARGUMENT, "the driver is too old for kernels that copy whole tiles");
  TRY(cuda_status(api, api->to_host(numbers, at, bytes, stream), "reading maps of tensors"));
  TRY(cuda_status(api, api->stream_wait(stream), "reading maps of tensors"));
  CudaMaps *m = aligned_alloc(alignof(CudaMaps), sizeof *m);
  if (!m) return FAIL(RESOURCE_EXHAUSTED, "memory for maps of tensors");
  *m = (CudaMaps){.n = (uint32_t)n};
  for (size_t k = 0; k < n; k++)
    if (!read_map(numbers + k * NUMBERS, &m->map[k])) {
      free(m);
      return FAIL(INVALID_ARGUMENT, "map %zu of a kernel's tensors is wrong", k);
    }
  *out = m;
  return NULL;
}

void cuda_maps_free(CudaMaps *m) { free(m); }

uint32_t cuda_maps_count(const CudaMaps *m) { return m ? m->n : 0; }

static Status make(const CudaApi *api, Map *m, uint64_t at) {
  static const uint32_t dense[AXES] = {1, 1, 1, 1, 1};
  m->at = 0;
  TRY(cuda_status(api,
                  api->map_encode(m->made, m->type, m->axes, at, m->size, m->step, m->box, dense, 0,
                                  SWIZZLE_128, PROMOTE_256, 0),
                  "making the map of a tensor"));
  m->at = at;
  return NULL;
}

Status cuda_maps_fill(const CudaApi *api, CudaMaps *m, const uint64_t *args, uint32_t nargs,
                      uint64_t *to) {
  for (uint32_t k = 0; m && k < m->n; k++, to += CUDA_MAP_VALUES) {
    Map *map = &m->map[k];
    if (map->argument >= nargs)
      return FAIL(INVALID_ARGUMENT, "a kernel maps argument %" PRIu32 " of %" PRIu32, map->argument,
                  nargs);
    if (map->at != args[map->argument]) TRY(make(api, map, args[map->argument]));
    memcpy(to, map->made, sizeof map->made);
  }
  return NULL;
}
