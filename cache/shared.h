/* The cache file's part of a cluster: what other nodes offer is taken in, what this node has found
 * is queued until the others can have it. The tier between them is not this folder's business.
 *
 * Same rules as cache.h: one thread, errors leave the Cache usable. */
#pragma once

#include "cache/envelope.h"

/* A node whose statements are believed to be its own; what they say is checked all the same. */
typedef struct TrustedNode {
  uint8_t node[NODE_KEY_BYTES];
  char name[64];
} TrustedNode;
const TrustedNode *trusted_find(const TrustedNode *nodes, size_t n, const uint8_t *node);

/* -- taking ------------------------------------------------------------------------------------ */

typedef enum OfferVerdict {
  OV_NONE,          /* there was nothing */
  OV_TAKEN,         /* its records are in the cache, unverified */
  OV_MALFORMED,     /* no statement, or a damaged one */
  OV_WRONG_KEY,     /* a good one, about something else */
  OV_UNKNOWN_NODE,  /* of a node that is not trusted */
  OV_BAD_SIGNATURE, /* not made by the node that it names */
  OV_REPLAYED,      /* older than what this node has said before, or too old */
  OV__COUNT
} OfferVerdict;
extern const char *const offer_verdict_name[OV__COUNT];

/* What is there under the key of a kernel; views. */
typedef struct Offer {
  const uint8_t *kernel, *target;
  Bytes statement; /* len 0: nothing */
  OfferVerdict verdict;
  bool open; /* the cache has a measured record of the kernel that this machine has not checked */
} Offer;

/* Decides about each and keeps the records of the good ones, all in one transaction. */
Status cache_take_offers(Cache *c, Offer *offers, size_t n, const TrustedNode *nodes,
                         size_t nnodes);
/* What an offer is worth by itself, without a cache: OV_TAKEN when it is what it claims to be. */
OfferVerdict offer_check(const Offer *offer, const TrustedNode *nodes, size_t nnodes,
                         Envelope *out);

/* -- giving ------------------------------------------------------------------------------------ */

enum { OUTBOX_MAX = 4096 /* kernels; beyond that the oldest are forgotten */ };

/* From now on kernels for which something was found here are queued, in the transaction that stores
 * it; those that the cache knows already are queued at once. */
Status cache_outbox_open(Cache *c);

typedef struct OutboxItem {
  int64_t id; /* 0 = the queue is empty */
  uint8_t kernel[CACHE_HASH_BYTES], target[CACHE_HASH_BYTES];
  int64_t median_ns; /* of the best record */
  StrBuf statement;  /* signed */
} OutboxItem;
/* The first behind `after`, and how many there are. What has nothing to say any more is removed. */
Status cache_outbox_next(Cache *c, int64_t after, const NodeKey *key, OutboxItem *out,
                         uint64_t *queued);
/* The item was given, or need not be. One that was queued again meanwhile stays. */
Status cache_outbox_done(Cache *c, int64_t id);
