/* The cache lane's part of a cluster: checking what other nodes say costs a signature each, which
 * is too much for the loop; so is putting together, and signing, what they are to hear. */
#include <stdlib.h>

#include "daemon/server/store_job.h"

/* -- offers -------------------------------------------------------------------------------------
 */

static void offers_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (s->cache && !j->forgotten)
    j->st = cache_take_offers(s->cache, j->offers, j->n, j->nodes, j->nnodes);
}

static void offers_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  store_log_lookup(j);
  if (!j->forgotten) j->offers_taken(j->ctx, j->offers, j->n);
  j->n = 0; /* of values, which there are none of */
  store_job_free(j);
}

StoreJob *store_take_offers(Store *s, const Offer *offers, size_t n, const TrustedNode *nodes,
                            size_t nnodes, StoreOffers taken, void *ctx) {
  StoreJob *j = store_job_create(s, offers_run, offers_done);
  if (!j) return NULL;
  j->offers = arena_copy(&j->arena, offers, n * sizeof *offers);
  bool ok = j->offers != NULL;
  for (size_t i = 0; ok && i < n; i++) {
    Offer *o = &j->offers[i];
    o->kernel = arena_copy(&j->arena, o->kernel, DIGEST_BYTES);
    o->target = arena_copy(&j->arena, o->target, DIGEST_BYTES);
    if (o->statement.len)
      o->statement.ptr = arena_copy(&j->arena, o->statement.ptr, o->statement.len);
    ok = o->kernel && o->target && (o->statement.ptr || !o->statement.len);
  }
  j->n = n;
  j->nodes = nodes;
  j->nnodes = nnodes;
  j->offers_taken = taken;
  j->ctx = ctx;
  if (ok) {
    lane_submit(s->lane, &j->job);
    return j;
  }
  store_job_free(j);
  return NULL;
}

/* -- the outbox ---------------------------------------------------------------------------------
 */

static void outbox_run(LaneJob *job, void *state) {
  StoreJob *j = (StoreJob *)job;
  Store *s = state;
  if (!s->cache) return;
  if (j->open_outbox) j->st = cache_outbox_open(s->cache);
  if (!j->st && j->item.id) j->st = cache_outbox_done(s->cache, j->item.id);
  if (!j->st) j->st = cache_outbox_next(s->cache, j->after, j->key, &j->item, &j->nrecords);
}

static void outbox_done(LaneJob *job) {
  StoreJob *j = (StoreJob *)job;
  store_log_lookup(j);
  if (j->st) j->item.id = 0;
  if (!j->forgotten) j->outbox(j->ctx, &j->item, j->nrecords);
  strbuf_deinit(&j->item.statement);
  store_job_free(j);
}

StoreJob *store_outbox(Store *s, bool open, int64_t given, int64_t after, const NodeKey *key,
                       StoreOutbox found, void *ctx) {
  StoreJob *j = store_job_create(s, outbox_run, outbox_done);
  if (!j) return NULL;
  j->open_outbox = open;
  j->item.id = given;
  j->after = after;
  j->key = key;
  j->outbox = found;
  j->ctx = ctx;
  lane_submit(s->lane, &j->job);
  return j;
}
