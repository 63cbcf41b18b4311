/* Who is next on a device: weighted fair queueing over measured device time.
 *
 * Start-time fair queueing (Goyal, Vin and Cheng, 1996), nested: tenants share the device by
 * weight, the sessions (connections) of a tenant share what it gets equally, the jobs of a session
 * are in order. Inside a tenant a more urgent level goes before a less urgent one.
 *
 * The queue knows nothing of devices or requests: a job is a FairJob inside something of the
 * caller's. fair_take charges its estimate, fair_done what it took in truth. */
#pragma once

#include "base/map.h"
#include "base/status.h"

enum { FAIR_LEVELS = 3, FAIR_URGENT = 0, FAIR_NORMAL = 1, FAIR_PATIENT = 2 };

typedef struct FairSession FairSession;
typedef struct FairTenant FairTenant;

/* One that shares with its siblings: its place is where its next job starts, in virtual time. */
typedef struct FairFlow {
  double start;
  double weight;
  size_t at; /* 1 + index in the heap of its set; 0 = nothing of it waits */
  void *owner;
} FairFlow;

/* Siblings that have something waiting, the one that is next at the root of a heap. */
typedef struct FairSet {
  FairFlow **heap;
  size_t len, cap;
  double now;    /* virtual time: newcomers start here */
  double finish; /* the latest that any flow has been charged up to */
} FairSet;

typedef struct FairJob {
  struct FairJob *next, *prev;
  FairSession *session; /* NULL: not in a queue, and not taken from one */
  uint64_t kind;        /* jobs of one kind read the same weights; 0 = none */
  int64_t estimate_ns;  /* charged by fair_take */
  uint8_t level;
  bool waiting;
} FairJob;

typedef struct FairQueue {
  FairSet tenants;
  Map by_id;           /* tenants */
  size_t len, running; /* jobs waiting; taken and not done */
  FairSession *last;   /* the last job taken was of this session, */
  uint8_t last_level;
  uint64_t last_kind; /* and of this kind */
} FairQueue;

/* Whose job it is. */
typedef struct FairSource {
  uint64_t tenant, session; /* not 0 */
  double weight;            /* of the tenant; 0 counts as 1 */
} FairSource;

/* A zeroed FairQueue is empty. Waiting jobs are forgotten, not freed. */
void fair_deinit(FairQueue *q);
/* The caller has filled kind, estimate_ns and level. RESOURCE_EXHAUSTED without memory. */
Status fair_push(FairQueue *q, FairJob *job, const FairSource *from);
/* The next job, charged with its estimate; NULL when none waits. It may be one of the kind that was
 * taken last, out of turn by at most slack_ns of its tenant's time. */
FairJob *fair_take(FairQueue *q, int64_t slack_ns);
/* The job that fair_take(q, slack_ns) would take. */
FairJob *fair_next(const FairQueue *q, int64_t slack_ns);
/* What a job that was taken has cost in truth. */
void fair_done(FairQueue *q, FairJob *job, int64_t measured_ns);
/* One that was taken has not been begun: it waits again, at the head of its session, uncharged. */
Status fair_put_back(FairQueue *q, FairJob *job);
/* A tenant that owns `job` is behind in virtual time of the one that owns `than`. */
bool fair_before(const FairJob *job, const FairJob *than);
/* One that was taken: no other of its tenant waits or was taken. */
bool fair_alone(const FairJob *job);
/* Gives up one that waits. */
void fair_remove(FairQueue *q, FairJob *job);
/* Jobs of a tenant that wait: all, and those of one level. */
size_t fair_waiting(const FairQueue *q, uint64_t tenant);
size_t fair_waiting_at(const FairQueue *q, uint64_t tenant, uint8_t level);
/* The part of the time that a tenant gets who wants something beside those that do now. */
double fair_share(const FairQueue *q, const FairSource *from);
/* The job that fair_take(q, 0) takes; NULL when none waits. */
FairJob *fair_first(const FairQueue *q);
