/* Questions about the server: info, health, devices, cache; and releasing an executable. Each is a
 * decoder that lays the unpacked message out as the public struct. */
#include "client/c/internal.h"
#include "grpc/health/v1/health.pb-c.h"

/* -- server and devices ------------------------------------------------------------------------ */

static Status lay_out_info(const void *message, Arena *a, void *out) {
  const Kiln__V1__GetServerInfoResponse *m = message;
  (void)a;
  *(KilnServerInfo *)out = (KilnServerInfo){.version = m->version,
                                            .api_min = m->api_min,
                                            .api_max = m->api_max,
                                            .max_message_bytes = m->max_message_bytes,
                                            .max_model_bytes = m->max_model_bytes,
                                            .max_tensor_bytes = m->max_tensor_bytes,
                                            .uptime_ns = m->uptime_ns,
                                            .pid = m->pid,
                                            .cache_path = m->cache_path,
                                            .cache_error = m->cache_error,
                                            .resident_bytes = m->resident_bytes,
                                            .node = m->node};
  return NULL;
}

KilnCode kiln_server_info(KilnClient *c, KilnServerInfo **out, KilnError *err) {
  Kiln__V1__GetServerInfoRequest q = KILN__V1__GET_SERVER_INFO_REQUEST__INIT;
  static const Method method = {.path = "/kiln.v1.Kiln/GetServerInfo",
                                .message = &kiln__v1__get_server_info_response__descriptor,
                                .size = sizeof(KilnServerInfo),
                                .lay_out = lay_out_info};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}

static Status lay_out_devices(const void *message, Arena *a, void *out) {
  const Kiln__V1__ListDevicesResponse *m = message;
  KilnDevice *list = arena_array(a, m->n_devices + 1, sizeof *list);
  if (!list) return answer_no_memory();
  for (size_t i = 0; i < m->n_devices; i++) {
    const Kiln__V1__DeviceInfo *d = m->devices[i];
    list[i] = (KilnDevice){.name = d->name,
                           .kind = d->kind,
                           .description = d->description,
                           .available = d->available,
                           .reason = d->reason,
                           .restarts = d->restarts,
                           .last_failure = d->last_failure,
                           .buffers = d->buffers,
                           .buffer_bytes = d->buffer_bytes,
                           .fingerprint = d->fingerprint};
  }
  *(KilnDevices *)out = (KilnDevices){.count = m->n_devices, .devices = list};
  return NULL;
}

KilnCode kiln_list_devices(KilnClient *c, KilnDevices **out, KilnError *err) {
  Kiln__V1__ListDevicesRequest q = KILN__V1__LIST_DEVICES_REQUEST__INIT;
  static const Method method = {.path = "/kiln.v1.Kiln/ListDevices",
                                .message = &kiln__v1__list_devices_response__descriptor,
                                .size = sizeof(KilnDevices),
                                .lay_out = lay_out_devices};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}

static Status lay_out_health(const void *message, Arena *a, void *out) {
  (void)a;
  *(KilnServing *)out =
      (KilnServing)((const Grpc__Health__V1__HealthCheckResponse *)message)->status;
  return NULL;
}

KilnCode kiln_health(KilnClient *c, const char *service, KilnServing *out, KilnError *err) {
  Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
  if (service) q.service = message_text(service);
  void *answer;
  static const Method method = {.path = "/grpc.health.v1.Health/Check",
                                .message = &grpc__health__v1__health_check_response__descriptor,
                                .size = sizeof(KilnServing),
                                .lay_out = lay_out_health,
                                .once = true};
  KilnCode code;
  answer = call_method(c, &method, &q.base, &code, err);
  *out = answer ? *(KilnServing *)answer : KILN_SERVING_UNKNOWN;
  kiln_free(answer);
  return code;
}

KilnCode kiln_release(KilnClient *c, const char *executable, KilnError *err) {
  Kiln__V1__ReleaseExecutableRequest q = KILN__V1__RELEASE_EXECUTABLE_REQUEST__INIT;
  q.executable = message_text(executable);
  static const Method method = {.path = "/kiln.v1.Kiln/ReleaseExecutable",
                                .message = &kiln__v1__release_executable_response__descriptor,
                                .size = 1,
                                .once = true};
  KilnCode code;
  kiln_free(call_method_at(c, &method, executable, &q.base, &code, err));
  return code;
}

/* -- cache ------------------------------------------------------------------------------------- */

static Status lay_out_stats(const void *message, Arena *a, void *out) {
  const Kiln__V1__CacheStatsResponse *m = message;
  (void)a;
  *(KilnCacheStats *)out = (KilnCacheStats){.path = m->path,
                                            .error = m->error,
                                            .plans = m->plans,
                                            .kernels = m->kernels,
                                            .bytes = m->bytes,
                                            .max_bytes = m->max_bytes,
                                            .hits = m->hits,
                                            .misses = m->misses,
                                            .evictions = m->evictions,
                                            .corrupt = m->corrupt,
                                            .merged = m->merged,
                                            .schema = m->schema,
                                            .schedules = m->schedules,
                                            .schedule_bytes = m->schedule_bytes};
  return NULL;
}

KilnCode kiln_cache_stats(KilnClient *c, KilnCacheStats **out, KilnError *err) {
  Kiln__V1__CacheStatsRequest q = KILN__V1__CACHE_STATS_REQUEST__INIT;
  static const Method method = {.path = "/kiln.v1.Kiln/CacheStats",
                                .message = &kiln__v1__cache_stats_response__descriptor,
                                .size = sizeof(KilnCacheStats),
                                .lay_out = lay_out_stats};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}

static Status lay_out_entries(const void *message, Arena *a, void *out) {
  const Kiln__V1__CacheListResponse *m = message;
  KilnCacheEntry *list = arena_array(a, m->n_entries + 1, sizeof *list);
  if (!list) return answer_no_memory();
  for (size_t i = 0; i < m->n_entries; i++) {
    const Kiln__V1__CacheEntry *e = m->entries[i];
    list[i] = (KilnCacheEntry){.kind = e->kind,
                               .hash = e->hash,
                               .bytes = e->bytes,
                               .uses = e->uses,
                               .created_unix_ns = e->created_unix_ns,
                               .used_unix_ns = e->used_unix_ns,
                               .target = e->target,
                               .note = e->note,
                               .schedules = e->schedules};
  }
  *(KilnCacheEntries *)out = (KilnCacheEntries){.count = m->n_entries, .entries = list};
  return NULL;
}

KilnCode kiln_cache_list(KilnClient *c, uint32_t limit, KilnCacheEntries **out, KilnError *err) {
  Kiln__V1__CacheListRequest q = KILN__V1__CACHE_LIST_REQUEST__INIT;
  q.limit = limit;
  static const Method method = {.path = "/kiln.v1.Kiln/CacheList",
                                .message = &kiln__v1__cache_list_response__descriptor,
                                .size = sizeof(KilnCacheEntries),
                                .lay_out = lay_out_entries};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}

static Status lay_out_why(const void *message, Arena *a, void *out) {
  (void)a;
  *(KilnText *)out = (KilnText){.text = ((const Kiln__V1__CacheWhyResponse *)message)->text};
  return NULL;
}

KilnCode kiln_cache_why(KilnClient *c, const char *hash, KilnText **out, KilnError *err) {
  Kiln__V1__CacheWhyRequest q = KILN__V1__CACHE_WHY_REQUEST__INIT;
  q.hash = message_text(hash);
  static const Method method = {.path = "/kiln.v1.Kiln/CacheWhy",
                                .message = &kiln__v1__cache_why_response__descriptor,
                                .size = sizeof(KilnText),
                                .lay_out = lay_out_why};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}
