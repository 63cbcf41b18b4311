/* The table holds one reference; a run or a download that uses a buffer holds another, so a buffer
 * freed meanwhile disappears from the table at once and from the device after its last user. */
#include "daemon/server/device_buffer.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/server/device_lane.h"
#include "daemon/server/executable.h"

void buffer_table_deinit(BufferTable *t) {
  MapSlot *s;
  for (size_t i = 0; map_next(&t->by_id, &i, &s);) device_buffer_release(s->value);
  map_deinit(&t->by_id);
}

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
  return NULL;
}

DeviceBuffer *device_buffer_retain(DeviceBuffer *b) {
  b->refs++;
  return b;
}

void device_buffer_release(DeviceBuffer *b) {
  if (!b || --b->refs) return;
  device_lane_forget_buffer(b->device, b);
  if (b->fd >= 0) close(b->fd);
  free(b);
}

Status buffer_table_add(BufferTable *t, DeviceBuffer *b) {
  if (!map_put(&t->by_id, b->id, b)) return FAIL(RESOURCE_EXHAUSTED, "buffers");
  t->bytes += b->bytes;
  return NULL;
}

Status buffer_table_find(const BufferTable *t, const struct Tenant *tenant, const char *id,
                         DeviceBuffer **out) {
  uint64_t key, secret;
  DeviceBuffer *b = id_parse("buf", id, &key, &secret) ? map_find(&t->by_id, key) : NULL;
  *out = b && b->tenant == tenant && id_secret_is(b->secret, secret) ? b : NULL;
  return *out ? NULL : FAIL(NOT_FOUND, "unknown buffer '%.64s'", id);
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
