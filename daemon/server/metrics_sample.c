/* Called when somebody scrapes, a few times a minute: it walks what there is. */
#include "daemon/server/metrics_sample.h"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/server/rpc.h"
#include "daemon/server/shared.h"
#include "daemon/server/tune.h"

uint64_t server_resident_bytes(void) {
  unsigned long long size, resident = 0;
  FILE *f = fopen("/proc/self/statm", "re");
  if (f && fscanf(f, "%llu %llu", &size, &resident) != 2) resident = 0;
  if (f) fclose(f);
  return resident * (unsigned long long)sysconf(_SC_PAGESIZE);
}

static uint64_t open_files(void) {
  uint64_t n = 0;
  DIR *d = opendir("/proc/self/fd");
  if (!d) return 0;
  while (readdir(d)) n++;
  closedir(d);
  return n > 3 ? n - 3 : 0; /* ".", ".." and the folder itself */
}

unsigned metrics_device(const Server *s, const DeviceLane *l) {
  const char *name = device_lane_name(l); /* a tenant may have a worker of its own for it */
  unsigned i = 0;
  while (i + 1 < s->ndevices && strcmp(device_lane_name(s->devices[i]), name) != 0) i++;
  return i;
}

unsigned metrics_tenant(const Tenant *t) {
  return t->id && t->id < LABELS_TENANT ? t->id - 1 : LABELS_TENANT - 1;
}

static void sample_tenants(Server *s) {
  Metrics *m = &s->metrics;
  memset(m->tenant_device_seconds_total, 0, sizeof m->tenant_device_seconds_total);
  memset(m->tenant_compile_seconds_total, 0, sizeof m->tenant_compile_seconds_total);
  memset(m->tenant_tune_seconds_total, 0, sizeof m->tenant_tune_seconds_total);
  memset(m->tenant_device_bytes, 0, sizeof m->tenant_device_bytes);
  memset(m->tenant_host_bytes, 0, sizeof m->tenant_host_bytes);
  memset(m->tenant_runs, 0, sizeof m->tenant_runs);
  memset(m->tenant_executables, 0, sizeof m->tenant_executables);
  for (const Tenant *t = s->tenants.first; t; t = t->next) {
    unsigned i = metrics_tenant(t);
    m->tenant_device_seconds_total[i][0] += t->used.device_ns;
    m->tenant_compile_seconds_total[i][0] += t->used.compile_ns;
    m->tenant_tune_seconds_total[i][0] += t->used.tune_ns;
    m->tenant_device_bytes[i][0] += t->used.device_bytes;
    m->tenant_host_bytes[i][0] += t->used.host_bytes + t->used.answer_bytes;
    m->tenant_runs[i][0] += t->used.runs;
    m->tenant_executables[i][0] += t->used.executables;
  }
}

static void sample_devices(Server *s) {
  Metrics *m = &s->metrics;
  MapSlot *slot;
  for (size_t i = 0; i < s->ndevices; i++) {
    const DeviceLane *l = s->devices[i];
    DeviceStatus status = device_lane_status(l);
    m->device_up[i][0] = status.available;
    m->device_restarts[i][0] = status.restarts;
    m->device_queue[i][0] = status.waiting;
    m->device_in_flight[i][0] = status.in_flight;
    m->buffers[i][0] = m->buffer_bytes[i][0] = 0;
    for (const Tenant *t = s->tenants.first; t; t = t->next) {
      const DeviceLane *own = server_own_device(t, i); /* with strict isolation */
      if (!own) continue;
      status = device_lane_status(own);
      m->device_restarts[i][0] += status.restarts;
      m->device_queue[i][0] += status.waiting;
      m->device_in_flight[i][0] += status.in_flight;
    }
  }
  for (size_t i = 0; map_next(&s->buffers.by_id, &i, &slot);) {
    const DeviceBuffer *b = slot->value;
    unsigned at = metrics_device(s, b->device);
    m->buffers[at][0]++;
    m->buffer_bytes[at][0] += b->bytes;
  }
}

static void sample_cache(Metrics *m, const Kiln__V1__CacheStatsResponse *c) {
  m->cache_hits[0][0] = c->hits;
  m->cache_misses[0][0] = c->misses;
  m->cache_evictions[0][0] = c->evictions;
  m->cache_corrupt[0][0] = c->corrupt;
  m->cache_bytes[0][0] = c->bytes;
  m->cache_plans[0][0] = c->plans;
  m->cache_kernels[0][0] = c->kernels;
  m->cache_schedules[0][0] = c->schedules;
}

void metrics_sample(Server *s, const Kiln__V1__CacheStatsResponse *cache) {
  Metrics *m = &s->metrics;
  CompilePoolLoad load = compile_pool_load(s->pool);
  m->uptime_seconds[0][0] = (uint64_t)(clock_now_ns() - s->started_ns);
  m->ready[0][0] = server_not_ready(s) == NULL;
  m->connections[0][0] = s->nconnections;
  m->requests_in_flight[0][0] = s->nrequests;
  m->answer_bytes[0][0] = s->answer_bytes;
  m->resident_bytes[0][0] = server_resident_bytes();
  m->open_files[0][0] = open_files();
  m->executables[0][0] = s->executables.len;
  m->executable_bytes[0][0] = s->executables.bytes;
  m->compile_queue[0][0] = load.waiting;
  m->compile_busy[0][0] = load.busy;
  m->compile_workers[0][0] = load.workers;
  m->models[0][0] = s->nmodels;
  m->searches[0][0] = tuner_searches(s->tuner);
  SharedStatus shared = {.state = "off"};
  shared_status(s->shared, &shared);
  m->shared_up[0][0] = !strcmp(shared.state, "up");
  m->shared_hears[0][0] = shared.hears;
  m->shared_queue[0][0] = shared.queued;
  sample_devices(s);
  sample_tenants(s);
  if (cache) sample_cache(m, cache);
}

static const char *tenant_label(const Server *s, unsigned i) {
  if (i + 1 == LABELS_TENANT) return s->tenants.len >= LABELS_TENANT ? "other" : NULL;
  for (const Tenant *t = s->tenants.first; t; t = t->next)
    if (t->id == i + 1) return t->name;
  return NULL;
}

static const char *label(const void *ctx, LabelKind kind, unsigned i) {
  const Server *s = ctx;
  switch (kind) {
  case LABEL_TENANT: return tenant_label(s, i);
  case LABEL_METHOD: return rpc_name(i);
  case LABEL_DEVICE: return i < s->ndevices ? device_lane_name(s->devices[i]) : NULL;
  default: return NULL;
  }
}

void metrics_write(const Server *s, StrBuf *out) { metrics_text(&s->metrics, label, s, out); }
