/* The store of finished compiles: bytes under keys, in one SQLite file.
 *
 * A key is the hash of something canonical plus the fingerprint of the target. A hit needs the
 * canonical bytes to be equal, not only the hash. Values carry a SHA-256 of their own; one that
 * does not match is deleted, counted, and reported as a miss. The least recently used records go
 * when the size limit is reached. Losing the file loses time and nothing else.
 *
 * Synchronous; one thread at a time. An error from any call but cache_open leaves the Cache usable:
 * the caller serves without that answer. Several processes may use one file: SQLite's locks order
 * their writes, and a write counts anew what others have changed. Schedule records, which are what
 * a tuner learned, are in schedule.h. */
#pragma once

#include "base/status.h"
#include "base/str.h"

enum { CACHE_HASH_BYTES = 32, CACHE_SCHEMA = 3 };

typedef struct Cache Cache;

typedef enum CacheKind { CACHE_PLAN, CACHE_KERNEL, CACHE_KIND__COUNT } CacheKind;
extern const char *const cache_kind_name[CACHE_KIND__COUNT]; /* "plan", "kernel" */

/* Views. */
typedef struct CacheKey {
  const uint8_t *hash;   /* CACHE_HASH_BYTES, of `canonical` */
  const uint8_t *target; /* CACHE_HASH_BYTES, the target's fingerprint */
  Bytes canonical;
} CacheKey;

typedef struct CacheRecord {
  CacheKind kind;
  CacheKey key;
  const char *note; /* for people; NULL allowed */
  Bytes value;
} CacheRecord;

/* Creates the file and the folders above it. max_bytes 0: no limit.
 *
 * FAILED_PRECONDITION: the file is of a newer server, of another program, or no regular file;
 * DATA_LOSS: it is torn; PERMISSION_DENIED: it cannot be written. The file is then untouched. */
Status cache_open(const char *path, uint64_t max_bytes, Cache **out);
void cache_close(Cache *c); /* NULL allowed */

/* *found false is a miss. The value is appended to out. */
Status cache_find(Cache *c, CacheKind kind, const CacheKey *key, bool *found, StrBuf *out);
/* Stores all or none, in one transaction; replaces. A record larger than the limit is
 * RESOURCE_EXHAUSTED, as is a full disk. */
Status cache_put(Cache *c, const CacheRecord *records, size_t n);
/* Remembers what a fingerprint stands for: lines "name=value", for cache_why. */
Status cache_put_target(Cache *c, const uint8_t *target, Str text);
/* Appends the text; nothing when there is none. */
Status cache_get_target(Cache *c, const uint8_t *target, StrBuf *out);

typedef struct CacheStats {
  uint64_t plans, kernels, bytes, max_bytes;
  uint64_t schedules, schedule_bytes;                      /* the bytes are part of `bytes` */
  uint64_t hits, misses, evictions, corrupt, write_errors; /* since cache_open */
  uint32_t schema;
} CacheStats;
Status cache_stats(Cache *c, CacheStats *out);

typedef struct CacheEntry {
  CacheKind kind;
  uint8_t hash[CACHE_HASH_BYTES], target[CACHE_HASH_BYTES];
  uint64_t bytes, uses;
  int64_t created_ns, used_ns; /* since the Unix epoch */
  const char *note;
  uint64_t schedules; /* records of the kernel on the target */
} CacheEntry;
typedef void (*CacheVisit)(void *ctx, const CacheEntry *entry);
/* The `limit` most recently used entries, newest first. limit 0: all. */
Status cache_list(Cache *c, uint32_t limit, CacheVisit visit, void *ctx);

/* Text for people: what is stored under a hash, given as hex or the start of it, what is known
 * about the kernel's schedules, and which part of the key keeps a compile for `target` (NULL: none
 * in particular) from finding it. INVALID_ARGUMENT when the prefix is no hex or too short. */
Status cache_why(Cache *c, Str prefix, const uint8_t *target, StrBuf *out);

/* -- upkeep (manage.c) --------------------------------------------------------------------------
 */

/* What cache_verify found; what is damaged has been removed. */
typedef struct CacheCheck {
  uint64_t entries, schedules; /* whole ones */
  uint64_t corrupt;            /* removed */
  uint64_t newer;              /* schedule records of a newer version: left alone, not used */
  StrBuf problems;             /* of the file itself: a line each; "" = none. The caller's. */
} CacheCheck;
/* Reads everything. `stop` (with ctx, NULL allowed) is asked now and then: CANCELLED when it says
 * so. */
Status cache_verify(Cache *c, bool (*stop)(void *ctx), void *ctx, CacheCheck *out);

typedef struct CachePrune {
  int64_t before_ns; /* remove what was not used (entries) or measured (schedules) since; 0 = no */
  uint64_t bytes;    /* then, the least useful until all take at most this; 0 = no limit */
  Str target;        /* first, everything whose target fingerprint begins so; empty = none */
} CachePrune;
typedef struct CacheRemoved {
  uint64_t entries, schedules, bytes;
} CacheRemoved;
Status cache_prune(Cache *c, const CachePrune *what, CacheRemoved *out);
/* Everything under one hash, given as hex or the start of it. NOT_FOUND; INVALID_ARGUMENT when it
 * begins several. */
Status cache_remove(Cache *c, Str prefix, CacheRemoved *out);

/* -- schedules of other machines (transfer.c) ---------------------------------------------------
 */

enum { CACHE_EXPORT_MAX = 64 << 20 /* bytes of one file */ };
/* Appends a file with all schedule records whose kernel hash begins with the prefix (empty = all).
 * RESOURCE_EXHAUSTED when they do not fit one file. */
Status cache_export(Cache *c, Str kernel, StrBuf *out, uint64_t *records);

typedef struct CacheImported {
  uint64_t records; /* in the file */
  uint64_t stored;  /* the others were known, or are beyond the bounds */
} CacheImported;
/* Takes any bytes; all or none. INVALID_ARGUMENT says where the file is damaged and how,
 * FAILED_PRECONDITION that it is of a newer version. What it brings is unverified. */
Status cache_import(Cache *c, Bytes file, CacheImported *out);
