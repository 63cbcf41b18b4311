/* The compile workers and the jobs that wait for one.
 *
 * Tenants share the workers by weight, over the time that their jobs keep one from others (fair.h).
 *
 * A CompileJob is embedded in its owner's struct, which keeps the message it points to alive until
 * `done` or compile_pool_cancel. A job with `hold` keeps its worker after the answer, because the
 * worker holds the decoded graph: the owner then asks it for the plan with compile_pool_plan (a
 * second `done` follows) or lets it go with compile_pool_drop. */
#pragma once

#include "daemon/server/fair.h"
#include "daemon/server/supervisor.h"

typedef struct CompilePool CompilePool;
typedef struct CompileSlot CompileSlot;
typedef struct CompileJob CompileJob;

struct CompileJob {
  Kiln__V1__Envelope env; /* id is set by the pool */
  uint32_t tenant;        /* whose graph it is */
  int fd;                 /* sent along; -1 = none; stays the owner's */
  bool hold;
  bool urgent;       /* finishes something begun: before the tenant's new models, never refused */
  bool idle;         /* nobody waits for it: behind everything of everybody else */
  uint32_t seconds;  /* it may take; 0: as the pool says */
  const char *cause; /* when it failed because its worker ended: why; else NULL */
  /* m is the answer and valid during the call, or NULL and st says why not (takes st). The answer's
   * kind is the pool's to check. */
  void (*done)(void *ctx, Message *m, Status st);
  void *ctx;
  struct Tenant *payer; /* for the time; NULL = nobody */
  int64_t given_ns;     /* to a worker */
  CompileSlot *slot;    /* that works on it or holds for it */
  FairJob fair;         /* of the pool's queue, until its worker is free again */
};

typedef struct CompilePoolSpec {
  Supervisor *supervisor;
  unsigned workers;
  size_t max_queue; /* of a tenant's jobs that are neither urgent nor idle */
  uint64_t memory_bytes;
  uint32_t seconds; /* of one job */
  bool strict;      /* a worker that has worked for a tenant works for no other */
  bool background;  /* on processors that nothing else wants; workers start with the first job */
} CompilePoolSpec;

Status compile_pool_create(const CompilePoolSpec *spec, CompilePool **out);
/* All jobs must have been cancelled or done. */
void compile_pool_release(CompilePool *p);

/* Somebody waits for a job of it. */
bool compile_pool_busy(const CompilePool *p);
typedef struct CompilePoolLoad {
  size_t waiting;         /* jobs */
  unsigned busy, workers; /* workers that have one; workers at most */
} CompilePoolLoad;
CompilePoolLoad compile_pool_load(const CompilePool *p);
/* RESOURCE_EXHAUSTED when the queue is full; then done is not called. */
Status compile_pool_submit(CompilePool *p, CompileJob *job);
/* The owner loses interest: no `done` follows. A worker that is busy with the job is killed. */
void compile_pool_cancel(CompilePool *p, CompileJob *job);
/* UNAVAILABLE when the worker that held the graph has died. */
Status compile_pool_plan(CompileJob *job);
void compile_pool_drop(CompilePool *p, CompileJob *job);
/* Moves what is held for `from` to `to`, whose done and ctx are set. */
void compile_pool_transfer(CompileJob *from, CompileJob *to);
