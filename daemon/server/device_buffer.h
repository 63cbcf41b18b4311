/* Tensors that clients keep on a device, by id.
 *
 * An uploaded one has its bytes in a memfd that kilnd keeps, so a new device worker gets it again.
 * One that a run produced lives in the device worker only and is lost with it, and so is one that a
 * run was updating when the worker died: nobody knows how far it came. */
#pragma once

#include "base/map.h"
#include "base/status.h"
#include "kiln/v1/kiln.pb-c.h"

struct DeviceLane;
struct Tenant;

enum { BUFFER_DIMS_MAX = 32 };

typedef struct DeviceBuffer {
  int refs;                  /* registry, runs, downloads */
  struct BufferTable *table; /* that gets fd back; NULL: none does */
  uint64_t id, secret;
  struct Tenant *tenant; /* whose it is */
  struct DeviceLane *device;
  Kiln__V1__DType dtype;
  uint64_t dims[BUFFER_DIMS_MAX];
  size_t ndims;
  uint64_t bytes;
  void *at;             /* fd's memory, or NULL */
  int fd;               /* of the upload; -1 = made by a run */
  uint64_t incarnation; /* of the device worker that has it; 0 = none yet */
  bool sealed;          /* fd is memory that cannot be written */
  bool updated;         /* by runs: fd may not have its contents */
  bool lost;            /* its contents are unknown */
} DeviceBuffer;

/* Memory of uploads that were freed, for the next upload of the same tenant and size: writing into
 * pages that exist is several times faster. Another tenant never gets it. */
enum { SPARE_MAX = 16 };
typedef struct SpareMemory {
  const struct Tenant *tenant;
  uint64_t size;
  int fd;
  void *at; /* mapped here, when it was used before; else NULL */
} SpareMemory;

typedef struct BufferTable {
  Map by_id;
  uint64_t bytes, max_bytes;
  SpareMemory spare[SPARE_MAX]; /* the oldest first */
  size_t nspare;
  uint64_t spare_bytes;
  bool closed; /* nothing is kept any more */
} BufferTable;

void buffer_table_deinit(BufferTable *t);
/* Shared memory of `bytes` bytes with any content, for an upload that will overwrite all of it; *at
 * is where it can be written, or NULL: then through the descriptor. */
Status buffer_table_memory(BufferTable *t, const struct Tenant *tenant, uint64_t bytes, int *fd,
                           void **at);
/* Closes spare memory. */
void buffer_table_trim(BufferTable *t);
/* Frees all that a tenant has. */
void buffer_table_drop_tenant(BufferTable *t, const struct Tenant *tenant);
/* RESOURCE_EXHAUSTED when `bytes` more do not fit. */
Status buffer_table_check(const BufferTable *t, uint64_t bytes);
/* A buffer with a fresh id that is not in the table yet; ndims is at most BUFFER_DIMS_MAX. */
Status device_buffer_create(struct Tenant *tenant, struct DeviceLane *device, Kiln__V1__DType dtype,
                            const uint64_t *dims, size_t ndims, uint64_t bytes, DeviceBuffer **out);
/* It has other than the expected size. */
void device_buffer_resize(DeviceBuffer *b, uint64_t bytes);
/* fd, mapped at `at` unless that is NULL, has its bytes too, and is the buffer's now. */
void device_buffer_keep(DeviceBuffer *b, int fd, void *at);
DeviceBuffer *device_buffer_retain(DeviceBuffer *b);
void device_buffer_release(DeviceBuffer *b); /* NULL allowed */
/* Adds and takes over the caller's reference. */
Status buffer_table_add(BufferTable *t, DeviceBuffer *b);
/* NOT_FOUND names the id, and does not tell another's from none. Borrowed. */
Status buffer_table_find(const BufferTable *t, const struct Tenant *tenant, const char *id,
                         DeviceBuffer **out);
void buffer_table_remove(BufferTable *t, DeviceBuffer *b);
