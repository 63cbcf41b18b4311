/* One compile job: an arena, the node table, and the way out.
 *
 * Everything a job makes lives in its arena and dies with it. A job that cannot go on (memory
 * limit, deadline, step budget, an unsupported construct met deep in a pass) calls job_abort, the
 * program's only longjmp, which returns a Status from job_run. Building nodes therefore never
 * returns an error. Only compiler/ may use it, and no LLVM object, file or lock may be held across
 * graph code. */
#pragma once

#include <setjmp.h>

#include "base/arena.h"
#include "base/status.h"

struct UOp;
struct RangeSet;

enum {
  JOB_SCRATCH_STACK,
  JOB_SCRATCH_LIST,
  JOB_SCRATCH_RESULT,
  JOB_SCRATCH_SET,
  JOB_SCRATCH_PIECES, /* the interpreter */
  JOB_SCRATCH__COUNT
};

/* The hash stands beside the pointer, so that probing and growing do not touch the nodes. */
typedef struct NodeSlot {
  struct UOp *node; /* NULL: empty */
  uint32_t hash;
} NodeSlot;

typedef struct Job {
  Arena arena;
  struct NodeSlot *table; /* hash-cons table, power-of-two capacity, heap-allocated */
  size_t table_cap, table_len;
  uint32_t next_id;
  struct RangeSet **sets; /* interned sets of open ranges, power-of-two capacity */
  size_t sets_cap, sets_len;
  uint32_t stamp; /* of the newest walk */
  struct {
    void *at;
    size_t bytes;
  } scratch[JOB_SCRATCH__COUNT]; /* reused by walks; owned by the job so that an abort leaks nothing
                                  */
  int64_t deadline_ns;           /* CLOCK_MONOTONIC; 0 = none */
  uint64_t steps, step_limit;    /* rewrite steps; 0 = no limit */
  bool proving, overflow;        /* poly.c: in a proof an overflow is noted, and no failure */
  void *frontend;                /* the Front at work, see front.c */
  Status failure;
  jmp_buf *out;
} Job;

void job_init(Job *job, size_t memory_limit);
void job_deinit(Job *job);

typedef void (*JobFn)(Job *job, void *arg);
/* Runs fn; NULL if it returned, else the Status that job_abort was given (or RESOURCE_EXHAUSTED
 * when the arena was full). Nodes made so far stay valid. Not reentrant for one job. */
Status job_run(Job *job, JobFn fn, void *arg) __attribute__((warn_unused_result));
/* The same inside of job_run, for a part that the job can do without. What the job is out of
 * (memory, time, steps) ends the whole job still. The caller undoes what fn left in shared
 * structures. */
Status job_try(Job *job, JobFn fn, void *arg) __attribute__((warn_unused_result));
/* Room for n pointers, contents kept; the pointer is valid until the next call with the same k. */
void **job_scratch(Job *job, int k, size_t n);
/* Takes ownership of st. Outside of job_run it ends the program. */
_Noreturn void job_abort(Job *job, Status st);
/* Aborts with DEADLINE_EXCEEDED or RESOURCE_EXHAUSTED when the job is over its limits. Cheap; call
 * in loops. */
void job_poll(Job *job);
