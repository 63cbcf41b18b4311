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

enum { CACHE_HASH_BYTES = 32, CACHE_SCHEMA = 2 };

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
} CacheEntry;
typedef void (*CacheVisit)(void *ctx, const CacheEntry *entry);
/* The `limit` most recently used entries, newest first. limit 0: all. */
Status cache_list(Cache *c, uint32_t limit, CacheVisit visit, void *ctx);

/* Text for people: what is stored under a hash, given as hex or the start of it, and which part of
 * the key keeps a compile for `target` (NULL: none in particular) from finding it.
 * INVALID_ARGUMENT when the prefix is no hex or too short. */
Status cache_why(Cache *c, Str prefix, const uint8_t *target, StrBuf *out);
