/* What nodes share: schedules that one has found are offered to all through a Redis or Valkey
 * server, the tier, which nobody trusts and which may be slow, wrong, hostile or gone.
 *
 * Nothing that a client waits for waits for the tier, but for a search that was asked for, which
 * asks whether another node makes it already. What the tier holds is signed by nodes (envelope.h);
 * what a trusted one offers is stored as an import, compiled, compared and raced by the tuner, and
 * used when it wins. Only the cache of all who share it takes part; tenants' own caches do not.
 *
 *   shared.c         the connection and its breaker; giving (the outbox)
 *   shared_adopt.c   asking for the kernels of an executable, and having what comes checked
 *   shared_lease.c   who searches a graph
 *
 * All on the loop. Every function takes a NULL Shared for "no tier is configured". */
#pragma once

#include "daemon/server/server.h"

Status shared_create(Server *s, Shared **out); /* NULL when none is configured */
/* Whether the settings of [shared] could be taken, with the files that they name. */
Status shared_reload_check(Server *s, const Config *next);
/* The server's configuration has other ones, or none, or some for the first time. */
Status shared_reload(Server *s);
/* Nothing is checked any more; before the tuner ends. */
void shared_stop(Shared *sh);
/* Nothing is asked any more, when all searches have ended; jobs of the cache lane may still read
 * what Shared owns. */
void shared_close(Shared *sh);
void shared_free(Shared *sh);

/* An executable can be found now: asks what others know of its kernels. */
void shared_offered_for(Shared *sh, Executable *e);
/* Something may have been stored that others can use. */
void shared_stored(Shared *sh, const Store *where);

/* Whether the executable's schedules are shared with others. */
bool shared_has(const Shared *sh, const Executable *e);

/* Calls done(ctx) as soon as what others know of the executable's kernels has been checked, or
 * cannot be asked for; never inside this call. NULL without memory. */
typedef struct SharedWait SharedWait;
SharedWait *shared_adopt(Shared *sh, Executable *e, void (*done)(void *ctx), void *ctx);
void shared_adopt_cancel(SharedWait *w); /* no call follows */

/* -- leases -------------------------------------------------------------------------------------
 */

typedef enum LeaseAnswer {
  LEASE_OURS,    /* nobody else searches the graph, as far as is known */
  LEASE_OTHERS,  /* another node does */
  LEASE_SEARCHED /* another node has */
} LeaseAnswer;
typedef struct SharedLease SharedLease;
typedef struct LeaseSpec {
  const uint8_t *graph, *target; /* DIGEST_BYTES; copied */
  int64_t wait_until_ns;         /* while another node searches; 0: not at all */
  bool insists; /* searches again what another node has searched without coming to an end */
  /* Once, never inside shared_lease. node: of the others, valid during the call. */
  void (*done)(void *ctx, LeaseAnswer answer, const char *node);
  void *ctx;
} LeaseSpec;
/* NULL without memory. */
SharedLease *shared_lease(Shared *sh, const LeaseSpec *spec);
/* The lease is given back; what is said about the search follows what it has found. */
typedef enum LeaseEnd { LEASE_DROPPED, LEASE_DONE, LEASE_EXHAUSTED } LeaseEnd;
void shared_lease_end(SharedLease *l, LeaseEnd how); /* NULL allowed */

/* -- for people ---------------------------------------------------------------------------------
 */

typedef struct SharedStatus {
  bool hears;         /* announcements of others arrive */
  const char *server; /* without its password */
  const char *state;  /* "up", "connecting", "down" */
  const char *reason; /* of the last failure; "" = none */
  const char *node;   /* "ed25519:HEX": this one */
  size_t trusted;
  uint64_t queued;
} SharedStatus;
bool shared_status(const Shared *sh, SharedStatus *out);
