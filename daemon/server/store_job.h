/* Private to the store's files: what a job of the cache lane is made of.
 *
 * store_job_create, fill, lane_submit; `run` is called on the lane's thread, then `done` on the
 * loop, which ends with store_job_free or store_answered. */
#pragma once

#include <stdatomic.h>

#include "base/arena.h"
#include "cache/cache.h"
#include "daemon/server/store.h"

struct Store {
  Lane *lane;
  Cache *cache; /* the lane's */
  uint64_t max_bytes;
  char *path;
  bool open;       /* as far as the loop knows */
  char error[512]; /* the loop's */
  char host[65];   /* this machine, for records */
  void (*closed)(void *ctx);
  void *closed_ctx;
};

struct StoreJob {
  LaneJob job; /* first member */
  Store *store;
  Arena arena;
  atomic_bool forgotten; /* read by the lane, which then stops early */
  Status st;
  /* lookups and writes */
  CacheRecord *records;
  size_t n;
  StrBuf *values;
  Bytes *found_values;
  StoreFound found;
  /* schedules */
  StoreKernel *kernels;
  StoreKernels kernels_found;
  Schedule *schedules;
  size_t nschedules;
  ScheduleNear near;
  VEC(Schedule) tried, hints;
  StoreEvidenceFound evidence_found;
  /* other nodes */
  Offer *offers;
  const TrustedNode *nodes;
  size_t nnodes;
  StoreOffers offers_taken;
  bool open_outbox;
  int64_t after;
  const NodeKey *key;
  OutboxItem item;
  StoreOutbox outbox;
  /* questions */
  uint64_t merged;
  uint32_t limit;
  const char *hash;
  uint8_t target[DIGEST_BYTES];
  bool has_target;
  StrBuf text;
  StoreText text_found;
  Kiln__V1__CacheStatsResponse stats;
  Kiln__V1__CacheListResponse list;
  size_t list_cap;
  StoreAnswer answer;
  /* upkeep */
  CachePrune prune;
  CacheRemoved removed;
  CacheCheck check;
  CacheImported imported;
  uint64_t nrecords;
  StoreFile file;
  void *ctx;
};

/* NULL without memory. */
StoreJob *store_job_create(Store *s, void (*run)(LaneJob *, void *), void (*done)(LaneJob *));
void store_job_free(StoreJob *j);

/* Copies into the job's arena; false without memory. */
bool store_copy_key(StoreJob *j, const StoreKey *key, CacheRecord *out);
bool store_copy_record(StoreJob *j, CacheKind kind, const StoreRecord *r);
/* A job that looks n keys up, not yet submitted. */
StoreJob *store_lookup(Store *s, CacheKind kind, const StoreKey *keys, size_t n,
                       void (*done)(LaneJob *));
void store_find_values(StoreJob *j); /* the lane's part of it */
void store_kernels_run(LaneJob *job, void *state);
void store_log_lookup(const StoreJob *j);
/* Ends a write. */
void store_put_done(LaneJob *job);

/* A question whose answer is a message; not yet submitted. */
StoreJob *store_ask(Store *s, void (*run)(LaneJob *, void *), void (*done)(LaneJob *),
                    StoreAnswer answer, void *ctx);
/* Ends a question with m, or with the job's status. */
void store_answered(StoreJob *j, const ProtobufCMessage *m);
Status store_no_cache(const Store *s);
