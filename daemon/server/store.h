/* The cache as the loop uses it: every call is handed to the cache lane and answered by a callback
 * on the loop. When the cache file cannot be used the server serves without it, and says why. */
#pragma once

#include "daemon/server/lane.h"
#include "kiln/v1/kiln.pb-c.h"
#include "kiln/v1/worker.pb-c.h"
#include "proto/digest.h"

typedef struct Store Store;
typedef struct StoreJob StoreJob;

/* The identity of something stored; views, copied by the store. */
typedef struct StoreKey {
  const uint8_t *hash;   /* DIGEST_BYTES */
  const uint8_t *target; /* fingerprint, DIGEST_BYTES */
  Bytes canonical;       /* what was hashed; a hit must be equal */
  const char *note;      /* for people */
} StoreKey;
