/* The cache as the loop uses it: every call is handed to the cache lane and answered by a callback
 * on the loop, never before the call returns. When the cache file cannot be used the server serves
 * without it, and says why. */
#pragma once

#include "cache/shared.h"
#include "daemon/server/lane.h"
#include "kiln/v1/kiln.pb-c.h"
#include "proto/digest.h"

typedef struct Store Store;
typedef struct StoreJob StoreJob;

/* The identity of something stored; views. */
typedef struct StoreKey {
  const uint8_t *hash;   /* DIGEST_BYTES */
  const uint8_t *target; /* fingerprint, DIGEST_BYTES */
  Bytes canonical;       /* what was hashed; a hit must be equal */
  const char *note;      /* for people */
} StoreKey;

typedef struct StoreRecord {
  StoreKey key;
  Bytes value;
} StoreRecord;

typedef struct StoreSpec {
  uv_loop_t *loop;
  const char *path; /* NULL: no cache */
  uint64_t max_bytes;
} StoreSpec;

/* Opens the file on the lane's thread; a failure shows in store_error later. */
Status store_create(const StoreSpec *spec, Store **out);
/* Writes what is pending, checkpoints, then closed(ctx). */
void store_close(Store *s, void (*closed)(void *ctx), void *ctx);

/* n values, in the order of the keys; ptr is NULL for what is not there. Valid during the call. */
typedef void (*StoreFound)(void *ctx, const Bytes *values, size_t n);
/* The keys are copied. NULL without memory. */
StoreJob *store_get_plan(Store *s, const StoreKey *key, StoreFound found, void *ctx);
/* All of one target. */
typedef struct StoreKernel {
  Bytes binary;     /* packed KernelBinary; ptr is NULL when there is none */
  const char *opts; /* of the best record that serves; NULL = none */
} StoreKernel;
typedef void (*StoreKernels)(void *ctx, const StoreKernel *found, size_t n);
StoreJob *store_get_kernels(Store *s, const StoreKey *keys, size_t n, StoreKernels found,
                            void *ctx);
/* No callback follows. */
void store_forget(StoreJob *job);
/* Copies everything; plan may be NULL. How it went shows in store_error and the log. */
void store_put(Store *s, const StoreRecord *plan, const StoreRecord *kernels, size_t n);

/* What is known about one kernel's schedules; valid during the call. */
typedef struct StoreEvidence {
  const Schedule
      *tried; /* on the target: those that serve first, then the fastest, then failures */
  size_t ntried;
  const Schedule *hints; /* winners of the nearest sizes of the class, and of other targets */
  size_t nhints;
} StoreEvidence;
typedef void (*StoreEvidenceFound)(void *ctx, const StoreEvidence *e);
/* near->kernel and near->target are what is asked about; near->class_hash NULL: no hints. Copied.
 */
StoreJob *store_get_evidence(Store *s, const ScheduleNear *near, StoreEvidenceFound found,
                             void *ctx);
/* Evidence, and with it the binaries of kernels that have a new winner (their KernelBinary.opts is
 * the winner's text), in one transaction. Copies everything. `host` and `measured_at` may be left
 * out: they are filled in. */
void store_put_tuned(Store *s, const StoreRecord *kernels, size_t n, const Schedule *schedules,
                     size_t m);

/* -- other nodes (store_shared.c) ---------------------------------------------------------------
 */

/* The offers, with their verdicts; valid during the call. */
typedef void (*StoreOffers)(void *ctx, const Offer *offers, size_t n);
/* The offers are copied; the nodes are not. */
StoreJob *store_take_offers(Store *s, const Offer *offers, size_t n, const TrustedNode *nodes,
                            size_t nnodes, StoreOffers taken, void *ctx);
/* The next item (id 0: none), and how many there are. The statement may be taken. */
typedef void (*StoreOutbox)(void *ctx, OutboxItem *item, uint64_t queued);
/* Opens the outbox, or says that `given` was given (0: nothing), then asks for what is behind
 * `after`. */
StoreJob *store_outbox(Store *s, bool open, int64_t given, int64_t after, const NodeKey *key,
                       StoreOutbox found, void *ctx);

/* What people ask; the message is valid during the call, or NULL and st (taken) says why not. */
typedef void (*StoreAnswer)(void *ctx, const ProtobufCMessage *m, Status st);
StoreJob *store_stats(Store *s, uint64_t merged, StoreAnswer answer, void *ctx);
StoreJob *store_list(Store *s, uint32_t limit, StoreAnswer answer, void *ctx);
/* target: today's fingerprint. */
StoreJob *store_why(Store *s, const char *hash, const uint8_t *target, StoreAnswer answer,
                    void *ctx);

StoreJob *store_verify(Store *s, StoreAnswer answer, void *ctx);
StoreJob *store_prune(Store *s, const Kiln__V1__CachePruneRequest *m, StoreAnswer answer,
                      void *ctx);
StoreJob *store_remove(Store *s, const char *hash, StoreAnswer answer, void *ctx);
/* Takes over file. */
StoreJob *store_import(Store *s, StrBuf *file, StoreAnswer answer, void *ctx);
/* The file is the callback's to take; st (taken) when there is none. */
typedef void (*StoreFile)(void *ctx, StrBuf *file, uint64_t records, Status st);
StoreJob *store_export(Store *s, const char *kernel, StoreFile file, void *ctx);

/* Remembers what a fingerprint stands for: lines "name=value". */
void store_put_target(Store *s, const uint8_t *target, Str text);
/* What was put; "" when nothing was. The text is valid during the call. NULL without memory. */
typedef void (*StoreText)(void *ctx, Str text);
StoreJob *store_get_target(Store *s, const uint8_t *target, StoreText found, void *ctx);

/* "" when there is no cache. */
const char *store_path(const Store *s);
/* Why there is no cache, or what went wrong with the last write, or "". */
const char *store_error(const Store *s);
