/* A tenant's worker is started by its first request that names the device and stays until the
 * server ends: executables, buffers and searches point to its lane. */
#include "daemon/server/isolation.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/server/events.h"

/* One worker of one tenant. */
typedef struct OwnDevice {
  Server *server;
  Tenant *tenant;
  DeviceLane *lane; /* NULL until it is used */
} OwnDevice;

typedef struct OwnDevices {
  OwnDevice at[CONFIG_LIST_MAX];
} OwnDevices;

void isolation_publish(Server *s, const Tenant *to, const DeviceLane *l) {
  DeviceStatus status = device_lane_status(l);
  Kiln__V1__DeviceChanged m = KILN__V1__DEVICE_CHANGED__INIT;
  Kiln__V1__Event event = KILN__V1__EVENT__INIT;
  m.device = (char *)(uintptr_t)status.name;
  m.available = status.available;
  m.reason = (char *)(uintptr_t)(status.available ? "" : status.last_failure);
  event.what_case = KILN__V1__EVENT__WHAT_DEVICE;
  event.device = &m;
  events_publish(s, to, &event);
}

DeviceLaneSpec isolation_spec(Server *s, size_t i) {
  const Config *c = &s->config;
  return (DeviceLaneSpec){.loop = &s->loop,
                          .supervisor = s->supervisor,
                          .name = c->devices.at[i],
                          .memory_bytes = c->device_memory,
                          .slab_bytes = 4 * c->max_tensor_bytes,
                          .run_seconds = (uint32_t)c->run_seconds,
                          .max_queue = 16 * c->max_queue};
}

/* Nobody else is told of a worker that failed here. */
static void on_own_changed(void *ctx) {
  OwnDevice *d = ctx;
  if (d->lane) isolation_publish(d->server, d->tenant, d->lane);
}

static Status own_device(Server *s, Tenant *t, size_t i, DeviceLane **out) {
  if (!t->devices && !(t->devices = calloc(1, sizeof *t->devices)))
    return FAIL(RESOURCE_EXHAUSTED, "device");
  OwnDevice *d = &t->devices->at[i];
  if (!d->lane) {
    DeviceLaneSpec spec = isolation_spec(s, i);
    d->server = s;
    d->tenant = t;
    spec.beside = s->devices[i];
    spec.changed = on_own_changed;
    spec.ctx = d;
    TRY(device_lane_create(&spec, &d->lane));
    LOG_INFO("a worker of its own", "tenant=%s device=%s", t->name, spec.name);
  }
  *out = d->lane;
  return NULL;
}

Status server_device(Server *s, Tenant *t, const char *name, DeviceLane **out) {
  StrBuf names = {0};
  *out = NULL;
  for (size_t i = 0; i < s->ndevices; i++) {
    const char *known = device_lane_name(s->devices[i]);
    strbuf_addf(&names, i ? ", %s" : "%s", known);
    if (*name && strcmp(name, known) != 0) continue;
    strbuf_deinit(&names);
    if (t && s->config.strict_isolation) return own_device(s, t, i, out);
    *out = s->devices[i];
    return NULL;
  }
  Status st = FAIL(NOT_FOUND, "unknown device '%.64s'; this server has %s", name,
                   names.ptr ? names.ptr : "none");
  strbuf_deinit(&names);
  return st;
}

DeviceLane *server_own_device(const Tenant *t, size_t i) {
  return t->devices ? t->devices->at[i].lane : NULL;
}

void isolation_trim(Server *s) {
  for (const Tenant *t = s->tenants.first; t; t = t->next)
    for (size_t i = 0; i < s->ndevices; i++) {
      DeviceLane *l = server_own_device(t, i);
      if (l) slab_trim(device_lane_slabs(l), 0);
    }
}

void isolation_release(Server *s) {
  for (Tenant *t = s->tenants.first; t; t = t->next) {
    for (size_t i = 0; i < CONFIG_LIST_MAX && t->devices; i++)
      device_lane_release(t->devices->at[i].lane);
    free(t->devices);
    t->devices = NULL;
  }
}

void isolation_flush(Server *s) {
  for (const Tenant *t = s->tenants.first; t; t = t->next)
    for (size_t i = 0; t->devices && i < CONFIG_LIST_MAX; i++)
      if (t->devices->at[i].lane) device_lane_flush(t->devices->at[i].lane);
}
