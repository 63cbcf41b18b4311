/* GetServerInfo and ListDevices. What would tell of other tenants or of the machine is for admins:
 * others see the devices, their own buffers on them, and the limits. */
#include <unistd.h>

#include "base/clock.h"
#include "daemon/server/rpc.h"

enum { API_MIN = 1, API_MAX = 1 };

static void info_message(Request *r, Bytes msg) {
  const Server *s = r->server;
  if (!request_decode(r, msg)) return;
  Kiln__V1__GetServerInfoResponse m = KILN__V1__GET_SERVER_INFO_RESPONSE__INIT;
  m.version = (char *)(uintptr_t)KILN_VERSION;
  m.api_min = API_MIN;
  m.api_max = API_MAX;
  m.max_message_bytes = s->config.max_message_bytes;
  m.max_model_bytes = s->config.max_model_bytes;
  m.max_tensor_bytes = s->config.max_tensor_bytes;
  m.node = s->config.node;
  m.uptime_ns = clock_now_ns() - s->started_ns;
  if (r->tenant->roles & ROLE_ADMIN) {
    m.pid = (uint32_t)getpid();
    m.cache_path = (char *)(uintptr_t)store_path(r->tenant->store);
    m.cache_error = (char *)(uintptr_t)store_error(r->tenant->store);
    m.resident_bytes = server_resident_bytes();
  }
  request_reply(r, &m.base);
}

const Method rpc_server_info = {.path = "/kiln.v1.Kiln/GetServerInfo",
                                .request = &kiln__v1__get_server_info_request__descriptor,
                                .message = info_message};

typedef struct DeviceRow {
  Kiln__V1__DeviceInfo info;
  char fingerprint[DIGEST_HEX + 1];
} DeviceRow;

static void fill_device(const Server *s, const Tenant *t, const DeviceLane *l, DeviceRow *row) {
  DeviceStatus status = device_lane_status(l);
  MapSlot *slot;
  kiln__v1__device_info__init(&row->info);
  row->info.name = (char *)(uintptr_t)status.name;
  row->info.kind = (char *)(uintptr_t)status.kind;
  row->info.description = (char *)(uintptr_t)status.description;
  row->info.available = status.available;
  row->info.restarts = status.restarts;
  row->info.last_failure = (char *)(uintptr_t)status.last_failure;
  if (!status.available)
    row->info.reason = (char *)(uintptr_t)(*status.last_failure ? status.last_failure : "starting");
  if (device_lane_target(l))
    row->info.fingerprint =
        digest_to_hex(device_lane_fingerprint(l), DIGEST_BYTES, row->fingerprint);
  for (size_t i = 0; map_next(&s->buffers.by_id, &i, &slot);) {
    const DeviceBuffer *b = slot->value;
    if (strcmp(device_lane_name(b->device), status.name) ||
        (b->tenant != t && !(t->roles & ROLE_ADMIN)))
      continue;
    row->info.buffers++;
    row->info.buffer_bytes += b->bytes;
  }
}

static void devices_message(Request *r, Bytes msg) {
  const Server *s = r->server;
  DeviceRow *rows = arena_array(&r->arena, s->ndevices, sizeof *rows);
  Kiln__V1__DeviceInfo *list[CONFIG_LIST_MAX];
  if (!request_decode(r, msg)) return;
  if (!rows) {
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "list of devices"));
    return;
  }
  Kiln__V1__ListDevicesResponse m = KILN__V1__LIST_DEVICES_RESPONSE__INIT;
  for (size_t i = 0; i < s->ndevices; i++) {
    const DeviceLane *own = server_own_device(r->tenant, i);
    fill_device(s, r->tenant, own ? own : s->devices[i], &rows[i]);
    list[i] = &rows[i].info;
  }
  m.devices = list;
  m.n_devices = s->ndevices;
  request_reply(r, &m.base);
}

const Method rpc_devices = {.path = "/kiln.v1.Kiln/ListDevices",
                            .request = &kiln__v1__list_devices_request__descriptor,
                            .message = devices_message};
