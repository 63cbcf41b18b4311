/* CacheStats, CacheList, CacheWhy: a question to the cache lane each, its answer sent on. */
#include "daemon/server/rpc.h"

static void on_answer(void *ctx, const ProtobufCMessage *m, Status st) {
  Request *r = ctx;
  r->work = NULL; /* the job is over */
  if (m)
    request_reply(r, m);
  else
    request_finish(r, st);
}

/* job is what the store gave for the request. */
static void await(Request *r, StoreJob *job) {
  r->work = job;
  if (job)
    request_move(r, RS_CACHE);
  else
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "asking the cache"));
}

static void cache_release(Request *r) {
  if (r->work) store_forget(r->work);
}

static void stats_message(Request *r, Bytes msg) {
  if (!request_decode(r, msg)) return;
  await(r, store_stats(r->server->store, r->server->merged, on_answer, r));
}

static void list_message(Request *r, Bytes msg) {
  const Kiln__V1__CacheListRequest *m = request_decode(r, msg);
  if (m) await(r, store_list(r->server->store, m->limit, on_answer, r));
}

static void why_message(Request *r, Bytes msg) {
  const Kiln__V1__CacheWhyRequest *m = request_decode(r, msg);
  if (!m) return;
  const DeviceLane *device = r->server->devices[0];
  await(r, store_why(r->server->store, m->hash, device_lane_fingerprint(device), on_answer, r));
}

const Method rpc_cache_stats = {.path = "/kiln.v1.Kiln/CacheStats",
                                .request = &kiln__v1__cache_stats_request__descriptor,
                                .message = stats_message,
                                .release = cache_release};
const Method rpc_cache_list = {.path = "/kiln.v1.Kiln/CacheList",
                               .request = &kiln__v1__cache_list_request__descriptor,
                               .message = list_message,
                               .release = cache_release};
const Method rpc_cache_why = {.path = "/kiln.v1.Kiln/CacheWhy",
                              .request = &kiln__v1__cache_why_request__descriptor,
                              .message = why_message,
                              .release = cache_release};
