/* The table holds one reference; a run or a download that uses a buffer holds another, so a buffer
 * freed meanwhile disappears from the table at once and from the device after its last user. */
#include "daemon/server/device_buffer.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/channel/shm.h"
#include "daemon/server/device_lane.h"
#include "daemon/server/executable.h"
#include "daemon/server/tenant.h"

void buffer_table_deinit(BufferTable *t) {
  MapSlot *s;
  for (size_t i = 0; map_next(&t->by_id, &i, &s);) device_buffer_release(s->value);
  map_deinit(&t->by_id);
  t->closed = true;
  buffer_table_trim(t);
}

/* -- spare memory -------------------------------------------------------------------------------
 */

enum { SPARE_BYTES = 256 << 20 };

static void memory_close(int fd, void *at, uint64_t size) {
  if (at) munmap(at, size);
  close(fd);
}

static SpareMemory spare_remove(BufferTable *t, size_t i) {
  SpareMemory found = t->spare[i];
  t->spare_bytes -= t->spare[i].size;
  t->nspare--;
  memmove(&t->spare[i], &t->spare[i + 1], (t->nspare - i) * sizeof t->spare[i]);
  return found;
}

static void spare_close(BufferTable *t) {
  SpareMemory oldest = spare_remove(t, 0);
  memory_close(oldest.fd, oldest.at, oldest.size);
}

void buffer_table_trim(BufferTable *t) {
  while (t->nspare) spare_close(t);
}

/* The memory of a buffer that nobody uses any more. */
static void spare_put(const DeviceBuffer *b) {
  BufferTable *t = b->table;
  if (!t || t->closed || b->sealed || b->bytes > SPARE_BYTES) {
    memory_close(b->fd, b->at, b->bytes);
    return;
  }
  while (t->nspare == SPARE_MAX || t->spare_bytes + b->bytes > SPARE_BYTES) spare_close(t);
  t->spare[t->nspare++] =
      (SpareMemory){.tenant = b->tenant, .size = b->bytes, .fd = b->fd, .at = b->at};
  t->spare_bytes += b->bytes;
}

/* Memory that is used again is mapped, once: the kernel's own way into it locks every page. */
static void spare_map(SpareMemory *m) {
  if (m->at || !m->size) return;
  void *at = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, m->fd, 0);
  if (at != MAP_FAILED) m->at = at;
}

Status buffer_table_memory(BufferTable *t, const Tenant *tenant, uint64_t bytes, int *fd,
                           void **at) {
  *at = NULL;
  for (size_t i = t->nspare; i--;) {
    if (t->spare[i].tenant != tenant || t->spare[i].size != bytes) continue;
    SpareMemory found = spare_remove(t, i);
    spare_map(&found);
    *fd = found.fd;
    *at = found.at;
    return NULL;
  }
  return shm_create("kiln-buffer", bytes ? bytes : 1, fd);
}

/* -- buffers ------------------------------------------------------------------------------------
 */

Status buffer_table_check(const BufferTable *t, uint64_t bytes) {
  if (bytes <= t->max_bytes && t->bytes <= t->max_bytes - bytes) return NULL;
  return FAIL(RESOURCE_EXHAUSTED,
              "%" PRIu64 " bytes more would pass this server's limit of %" PRIu64
              " for all buffers; free some first",
              bytes, t->max_bytes);
}

Status device_buffer_create(struct Tenant *tenant, struct DeviceLane *device, Kiln__V1__DType dtype,
                            const uint64_t *dims, size_t ndims, uint64_t bytes,
                            DeviceBuffer **out) {
  assert(ndims <= BUFFER_DIMS_MAX);
  DeviceBuffer *b = *out = calloc(1, sizeof *b);
  if (!b) return FAIL(RESOURCE_EXHAUSTED, "buffer");
  *b = (DeviceBuffer){.refs = 1,
                      .id = id_make(),
                      .secret = id_make(),
                      .tenant = tenant,
                      .device = device,
                      .dtype = dtype,
                      .ndims = ndims,
                      .bytes = bytes,
                      .fd = -1};
  if (ndims) memcpy(b->dims, dims, ndims * sizeof *dims);
  tenant->used.device_bytes += bytes;
  return NULL;
}

void device_buffer_resize(DeviceBuffer *b, uint64_t bytes) {
  assert(b->fd < 0);
  b->tenant->used.device_bytes += bytes - b->bytes;
  b->bytes = bytes;
}

void device_buffer_keep(DeviceBuffer *b, int fd, void *at) {
  b->fd = fd;
  b->at = at;
  b->tenant->used.host_bytes += b->bytes;
}

DeviceBuffer *device_buffer_retain(DeviceBuffer *b) {
  b->refs++;
  return b;
}

void device_buffer_release(DeviceBuffer *b) {
  if (!b || --b->refs) return;
  device_lane_forget_buffer(b->device, b);
  b->tenant->used.device_bytes -= b->bytes;
  if (b->fd >= 0) {
    b->tenant->used.host_bytes -= b->bytes;
    spare_put(b);
  }
  free(b);
}

Status buffer_table_add(BufferTable *t, DeviceBuffer *b) {
  if (!map_put(&t->by_id, b->id, b)) return FAIL(RESOURCE_EXHAUSTED, "buffers");
  t->bytes += b->bytes;
  b->table = t;
  return NULL;
}

Status buffer_table_find(const BufferTable *t, const struct Tenant *tenant, const char *id,
                         DeviceBuffer **out) {
  uint64_t key, secret;
  DeviceBuffer *b = id_parse("buf", id, &key, &secret) ? map_find(&t->by_id, key) : NULL;
  *out = b && b->tenant == tenant && id_secret_is(b->secret, secret) ? b : NULL;
  return *out ? NULL : id_unknown("buffer", id, "freed", "upload it again");
}

void buffer_table_remove(BufferTable *t, DeviceBuffer *b) {
  if (map_remove(&t->by_id, b->id) != b) return;
  t->bytes -= b->bytes;
  device_buffer_release(b);
}

/* Removing moves other slots, so it begins again after each. */
void buffer_table_drop_tenant(BufferTable *t, const struct Tenant *tenant) {
  MapSlot *s;
  for (size_t i = 0; map_next(&t->by_id, &i, &s);) {
    if (((DeviceBuffer *)s->value)->tenant != tenant) continue;
    buffer_table_remove(t, s->value);
    i = 0;
  }
}
