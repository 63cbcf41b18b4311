/* grpc.health.v1: the services "", "kiln.v1.Kiln" and "device:NAME" for each device. The first two
 * say that the server takes calls; a device is SERVING while its worker is up. Serving without a
 * cache is SERVING: answers are right, only later. */
#include "daemon/server/rpc.h"
#include "grpc/health/v1/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckResponse Response;
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus Serving;

static Serving serving(const Server *s, const char *service) {
  if (!*service || !strcmp(service, "kiln.v1.Kiln"))
    return s->stopping ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
                       : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
  for (size_t i = 0; i < s->ndevices; i++) {
    DeviceStatus d = device_lane_status(s->devices[i]);
    if (!strncmp(service, "device:", 7) && !strcmp(service + 7, d.name))
      return d.available && !s->stopping
                 ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                 : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
  }
  return GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
}

static void check_message(Request *r, Bytes msg) {
  const Grpc__Health__V1__HealthCheckRequest *m = request_decode(r, msg);
  if (!m) return;
  Response response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
  response.status = serving(r->server, m->service);
  if (response.status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN)
    request_finish(r, FAIL(NOT_FOUND, "unknown service '%.200s'", m->service));
  else
    request_reply(r, &response.base);
}

const Method rpc_health_check = {.path = "/grpc.health.v1.Health/Check",
                                 .request = &grpc__health__v1__health_check_request__descriptor,
                                 .message = check_message};

/* -- Watch --------------------------------------------------------------------------------------
 */

typedef struct Watch {
  const char *service;
  Serving last;
} Watch;

static void watch_send(Request *r) {
  Watch *w = r->work;
  Response response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
  response.status = w->last;
  request_send(r, &response.base);
}

static void watch_message(Request *r, Bytes msg) {
  const Grpc__Health__V1__HealthCheckRequest *m = request_decode(r, msg);
  if (!m) return;
  Watch *w = arena_alloc(&r->arena, sizeof *w);
  if (!w) {
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "watch"));
    return;
  }
  *w = (Watch){.service = m->service, .last = serving(r->server, m->service)};
  r->work = w;
  Server *s = r->server;
  if ((r->next_watcher = s->watchers)) r->next_watcher->watcher_link = &r->next_watcher;
  r->watcher_link = &s->watchers;
  s->watchers = r;
  request_move(r, RS_STREAMING);
  watch_send(r);
}

static void watch_release(Request *r) {
  if (!r->work) return;
  if ((*r->watcher_link = r->next_watcher)) r->next_watcher->watcher_link = r->watcher_link;
}

const Method rpc_health_watch = {.path = "/grpc.health.v1.Health/Watch",
                                 .request = &grpc__health__v1__health_check_request__descriptor,
                                 .message = watch_message,
                                 .endless = true,
                                 .release = watch_release};

void rpc_health_changed(Server *s) {
  for (Request *r = s->watchers, *next; r; r = next) {
    next = r->next_watcher;
    Watch *w = r->work;
    Serving now = serving(s, w->service);
    if (now != w->last) {
      w->last = now;
      watch_send(r);
    }
    if (s->stopping) request_finish(r, FAIL(UNAVAILABLE, "the server is stopping"));
  }
}
