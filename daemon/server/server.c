/* Start: sockets first (an address that is taken ends it before anything else was started), then
 * the cache lane, the zygote and what is forked from it, all in the background.
 *
 * Stop, on SIGTERM, SIGINT or idleness: no new connections, every session is told to go away,
 * requests finish within the grace time. Then everything that has a handle is closed, each part
 * reports when it is, and when the last has, the loop has nothing left and uv_run returns. */
#include "daemon/server/server.h"

#include <assert.h>
#include <libgen.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/machine.h"
#include "daemon/server/batch.h"
#include "daemon/server/caches.h"
#include "daemon/server/connection.h"
#include "daemon/server/events.h"
#include "daemon/server/find_devices.h"
#include "daemon/server/http.h"
#include "daemon/server/isolation.h"
#include "daemon/server/listener.h"
#include "daemon/server/models.h"
#include "daemon/server/reload.h"
#include "daemon/server/request.h"
#include "daemon/server/rpc.h"
#include "daemon/server/shared.h"
#include "daemon/server/trace_push.h"
#include "daemon/server/tune.h"

enum { HOUSEKEEPING_MS = 1000, UPLOAD_POOL_BYTES = 256 << 20, IDLE_TRIM_MS = 10000 };

const char *server_not_ready(const Server *s) {
  if (s->stopping) return "the server is stopping";
  for (size_t i = 0; i < s->ndevices; i++)
    if (device_lane_status(s->devices[i]).available)
      return models_starting(s) ? "models are being loaded" : NULL;
  return "no device is up";
}

/* -- stopping -----------------------------------------------------------------------------------
 */

static void part_closed(void *ctx) {
  Server *s = ctx;
  assert(s->open_parts > 0);
  s->open_parts--;
}

/* Asking once more does not kill a server that is writing its last rows: it is over at once. */
static void close_signals(Server *s) {
  uv_close((uv_handle_t *)&s->sigterm, NULL);
  uv_close((uv_handle_t *)&s->sigint, NULL);
  uv_close((uv_handle_t *)&s->sighup, NULL);
  signal(SIGTERM, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
}

static void on_bulk_closed(void *ctx) { part_closed(ctx); }

/* Everybody has had the time to finish. Whoever has not is cut off here. */
static void server_close(Server *s) {
  if (s->closing) return;
  s->closing = true;
  listeners_close(s, true);
  for (Connection *c; (c = s->connections);) connection_close(c);
  models_close(s);
  http_close_all(s);
  assert(!s->requests && !s->compiles && !s->builds);
  shared_stop(s->shared);
  trace_push_close(s->trace_push);
  tuner_release(s->tuner);
  s->tuner = NULL;
  shared_close(s->shared);
  registry_deinit(&s->executables);
  buffer_table_deinit(&s->buffers);
  isolation_release(s);
  for (size_t i = 0; i < s->ndevices; i++) device_lane_release(s->devices[i]);
  s->ndevices = 0;
  compile_pool_release(s->pool);
  s->pool = NULL;
  s->open_parts = 3;
  supervisor_close(s->supervisor, part_closed, s);
  store_close(s->store, part_closed, s);
  for (Tenant *t = s->tenants.first; t; t = t->next) {
    if (!t->own) continue;
    s->open_parts++;
    store_close(t->own, part_closed, s);
  }
  lane_close(s->bulk, on_bulk_closed, s);
  uv_close((uv_handle_t *)&s->flush, NULL);
  vigil_close(&s->vigil);
  uv_close((uv_handle_t *)&s->deadlines, NULL);
  uv_close((uv_handle_t *)&s->batch_timer, NULL);
  uv_close((uv_handle_t *)&s->housekeeping, NULL);
  close_signals(s);
}

/* Begins a graceful stop. */
static void stop(Server *s, const char *why) {
  if (s->stopping) return;
  LOG_INFO("stopping", "why=\"%s\" requests=%zu connections=%zu", why, s->nrequests,
           s->nconnections);
  s->stopping = true;
  notify_send(&s->notify, "STOPPING=1\nSTATUS=finishing %zu calls", s->nrequests);
  s->stop_deadline_ms = uv_now(&s->loop) + s->config.grace * 1000;
  rpc_health_changed(s);
  events_stop(s);
  for (Connection *c = s->connections; c; c = connection_next(c)) connection_drain(c);
  listeners_close(s, false);
}

static void on_signal(uv_signal_t *handle, int number) {
  Server *s = handle->data;
  if (s->stopping)
    server_close(s); /* asked twice: now */
  else
    stop(s, number == SIGTERM ? "SIGTERM" : "SIGINT");
}

static void on_sighup(uv_signal_t *handle, int number) {
  (void)number;
  config_reload(handle->data);
}

/* -- the loop's own steps -----------------------------------------------------------------------
 */

/* Who connects to a passed socket while nothing can be done for him yet is better off waiting: the
 * server before this one may still be there and accept him. Not for ever: where no device comes up
 * clients are told why. */
static bool admitting(Server *s) {
  enum { WITHOUT_DEVICE_S = 20, WITHOUT_MODELS_S = 50 };
  if (s->admitting || s->stopping) return s->admitting;
  bool up = false;
  for (size_t i = 0; i < s->ndevices; i++) up |= device_lane_status(s->devices[i]).available;
  int64_t most = up ? WITHOUT_MODELS_S : WITHOUT_DEVICE_S;
  s->admitting = !server_not_ready(s) || clock_now_ns() - s->started_ns > most * 1000000000ll;
  if (s->admitting) listeners_resume(s);
  return s->admitting;
}

/* Runs once between callbacks and sleep. */
static void on_prepare(uv_prepare_t *handle) {
  Server *s = handle->data;
  if (!s->admitting) admitting(s);
  batches_flush(s);
  for (size_t i = 0; i < s->ndevices; i++) device_lane_flush(s->devices[i]);
  isolation_flush(s);
  connections_flush(s);
  if (!s->nrequests && vigil_minds(&s->vigil)) vigil_rest(&s->vigil, clock_now_ns());
  if (s->stopping && !s->nconnections) server_close(s);
}

/* Memory that only load justifies goes back when there is none. */
static void trim(Server *s) {
  for (size_t i = 0; i < s->ndevices; i++) slab_trim(device_lane_slabs(s->devices[i]), 0);
  isolation_trim(s);
  shm_pool_deinit(&s->uploads);
  requests_trim(s, 0);
  buffer_table_trim(&s->buffers);
  pool_trim(&s->blocks);
  if (s->trimmed_ms == s->idle_since_ms) return;
  s->trimmed_ms = s->idle_since_ms;
  malloc_trim(0); /* large answers may have lain between what stays */
}

/* Tells the service manager how things are: that the service is ready, once, and signs of life. */
static void report(Server *s) {
  Notify *n = &s->notify;
  char status[sizeof n->status];
  size_t up = 0;
  if (n->fd < 0 || s->stopping) return;
  for (size_t i = 0; i < s->ndevices; i++) up += device_lane_status(s->devices[i]).available;
  if (!n->ready && admitting(s)) {
    n->ready = true;
    notify_send(n, "READY=1\nMAINPID=%d", (int)getpid());
  }
  snprintf(status, sizeof status, "%zu of %zu devices up, %zu connections, %zu calls", up,
           s->ndevices, s->nconnections, s->nrequests);
  if (!strcmp(status, n->status)) return;
  snprintf(n->status, sizeof n->status, "%s", status);
  notify_send(n, "STATUS=%s", status);
}

static void watchdog(Server *s) {
  Notify *n = &s->notify;
  uint64_t now = uv_now(&s->loop);
  if (!n->watchdog_ms || now - n->sent_ms + HOUSEKEEPING_MS / 2 < n->watchdog_ms) return;
  n->sent_ms = now;
  notify_send(n, "WATCHDOG=1");
}

static void on_housekeeping(uv_timer_t *timer) {
  Server *s = timer->data;
  uint64_t now = uv_now(&s->loop);
  watchdog(s);
  report(s);
  http_expire(s);
  connections_expire(s);
  if (s->stopping) {
    if (now >= s->stop_deadline_ms) server_close(s);
    return;
  }
  if (admitting(s)) listeners_resume(s);
  reload_housekeeping(s);
  tuner_housekeeping(s->tuner);
  if (s->nrequests) {
    s->idle_since_ms = now;
    return;
  }
  uint64_t idle = now - s->idle_since_ms;
  if (idle > IDLE_TRIM_MS) trim(s);
  if (s->config.idle_exit && idle > s->config.idle_exit * 1000) stop(s, "idle");
}

/* A device came up or went down. */
static void on_device_changed(void *ctx) {
  Server *s = ctx;
  rpc_health_changed(s);
  report(s);
  for (size_t i = 0; i < s->ndevices; i++) {
    const DeviceLane *l = s->devices[i];
    isolation_publish(s, NULL, l);
    if (device_lane_status(l).available) tuner_device_up(s->tuner, l);
  }
}

/* -- starting -----------------------------------------------------------------------------------
 */

/* kiln-worker lies beside kilnd unless the configuration says otherwise. */
static Status worker_path(const Config *c, char *buf, size_t cap) {
  char self[4096];
  if (*c->worker) {
    snprintf(buf, cap, "%s", c->worker);
    return NULL;
  }
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n < 0) return FAIL(INTERNAL, "the path of this program is unknown");
  self[n] = 0;
  if ((size_t)snprintf(buf, cap, "%s/kiln-worker", dirname(self)) >= cap)
    return FAIL(INTERNAL, "the path of kiln-worker is too long");
  return NULL;
}

static unsigned worker_count(const Config *c) {
  return c->compile_workers ? (unsigned)c->compile_workers : machine_processors();
}

static Status start_devices(Server *s) {
  const Config *c = &s->config;
  for (size_t i = 0; i < c->devices.len; i++) {
    DeviceLaneSpec spec = isolation_spec(s, i);
    spec.changed = on_device_changed;
    spec.ctx = s;
    TRY(device_lane_create(&spec, &s->devices[i]));
    s->ndevices++;
  }
  return NULL;
}

static Status start_workers(Server *s) {
  const Config *c = &s->config;
  char program[4096 + 16];
  LaneSpec bulk = {.name = "kiln-bulk"};
  StoreSpec store = {.loop = &s->loop,
                     .path = c->cache_enabled && *c->cache_path ? c->cache_path : NULL,
                     .max_bytes = c->cache_max_bytes};
  TRY(worker_path(c, program, sizeof program));
  TRY(lane_create(&s->loop, &bulk, &s->bulk));
  TRY(store_create(&store, &s->store));
  TRY(caches_open(s, c));
  TRY(supervisor_create(&s->loop, program, c->log_level, &s->supervisor));
  supervisor_count_ends(s->supervisor, s->metrics.worker_ends_total);
  CompilePoolSpec pool = {.supervisor = s->supervisor,
                          .workers = worker_count(c),
                          .strict = c->strict_isolation,
                          .max_queue = c->max_queue,
                          .memory_bytes = c->compile_memory,
                          .seconds = (uint32_t)c->compile_seconds};
  TRY(find_devices(program, &s->config.devices));
  TRY(start_devices(s));
  TRY(tuner_create(s, &s->tuner));
  TRY(shared_create(s, &s->shared));
  TRY(trace_push_create(s, &s->trace_push));
  return compile_pool_create(&pool, &s->pool);
}

static void init_handles(Server *s) {
  vigil_init(&s->vigil, &s->loop);
  uv_prepare_init(&s->loop, &s->flush);
  uv_prepare_start(&s->flush, on_prepare);
  uv_timer_init(&s->loop, &s->deadlines);
  uv_timer_init(&s->loop, &s->batch_timer);
  uv_timer_init(&s->loop, &s->housekeeping);
  uint64_t every = HOUSEKEEPING_MS;
  if (s->notify.watchdog_ms && s->notify.watchdog_ms < every) every = s->notify.watchdog_ms;
  uv_timer_start(&s->housekeeping, on_housekeeping, every, every);
  uv_signal_init(&s->loop, &s->sigterm);
  uv_signal_init(&s->loop, &s->sigint);
  uv_signal_init(&s->loop, &s->sighup);
  uv_signal_start(&s->sigterm, on_signal, SIGTERM);
  uv_signal_start(&s->sigint, on_signal, SIGINT);
  uv_signal_start(&s->sighup, on_sighup, SIGHUP);
  s->flush.data = s->deadlines.data = s->housekeeping.data = s;
  s->sigterm.data = s->sigint.data = s->sighup.data = s;
}

/* Nothing but listeners was started: the loop needs one turn to close them. */
static void undo_listeners(Server *s) {
  listeners_close(s, true);
  uv_run(&s->loop, UV_RUN_DEFAULT);
  uv_loop_close(&s->loop);
  notify_close(&s->notify);
  free(s->read_buffer);
  map_deinit(&s->addresses);
  auth_release(s->auth);
  tls_context_release(s->tls);
  tenants_deinit(&s->tenants);
  config_deinit(&s->config);
  free(s);
}

/* Sockets that were passed take the place of those that the configuration names. */
static Status open_listeners(Server *s) {
  ActivationSocket passed[ACTIVATION_MAX];
  size_t n = activation_take(passed), calls = 0, http = 0;
  for (size_t i = 0; i < n; i++) {
    bool metrics = !strcmp(passed[i].name, "metrics");
    TRY(listener_adopt(s, passed[i].fd, metrics));
    *(metrics ? &http : &calls) += 1;
  }
  for (size_t i = 0; !calls && i < s->config.listen.len; i++)
    TRY(listener_open(s, s->config.listen.at[i], false));
  return !http && *s->config.metrics ? listener_open(s, s->config.metrics, true) : NULL;
}

Status server_create(Config *config, Server **out) {
  *out = NULL;
  Server *s = calloc(1, sizeof *s);
  if (!s || uv_loop_init(&s->loop)) {
    free(s);
    return FAIL(RESOURCE_EXHAUSTED, "server");
  }
  s->config = *config;
  *config = (Config){.cache_path = NULL};
  s->started_ns = clock_now_ns();
  id_set_node(s->config.node);
  notify_open(&s->notify);
  s->executables.max = s->config.max_executables;
  s->executables.max_bytes = s->config.max_executable_bytes;
  s->buffers.max_bytes = s->config.max_buffer_bytes;
  s->read_buffer = malloc(CONNECTION_READ_BYTES);
  shm_pool_init(&s->uploads, UPLOAD_POOL_BYTES);
  Status st = s->read_buffer ? NULL : FAIL(RESOURCE_EXHAUSTED, "server");
  if (!st) st = tenants_load(&s->tenants, &s->config);
  if (!st) st = auth_load(&s->config, &s->tenants, &s->auth);
  if (!st) st = connections_load_tls(s, &s->config);
  if (!st) st = open_listeners(s);
  if (!st) st = start_workers(s);
  if (st) {
    /* a machine that has no memory for the first threads: the process ends with this */
    if (!s->bulk) undo_listeners(s);
    return st;
  }
  init_handles(s);
  uv_update_time(&s->loop); /* finding devices took its time */
  s->idle_since_ms = uv_now(&s->loop);
  models_start(s);
  *out = s;
  return NULL;
}

void server_on_reload(Server *s, Status (*read)(void *ctx, Config *out), void *ctx) {
  s->read_config = read;
  s->read_config_ctx = ctx;
}

int server_run(Server *s) {
  uv_run(&s->loop, UV_RUN_DEFAULT);
  trim(s);
  trace_ring_deinit(&s->trace);
  notify_close(&s->notify);
  int busy = uv_loop_close(&s->loop);
  shared_free(s->shared);
  assert(busy == 0 && s->open_parts == 0);
  LOG_INFO("stopped", "uptime_s=%lld", (long long)((clock_now_ns() - s->started_ns) / 1000000000));
  free(s->read_buffer);
  map_deinit(&s->addresses);
  auth_release(s->auth);
  tls_context_release(s->tls);
  tenants_deinit(&s->tenants);
  config_deinit(&s->config);
  free(s);
  return busy ? 1 : 0;
}
