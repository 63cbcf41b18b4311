/* A device's timing worker, as kilnd sees it: one job at a time, in a process that may die of it.
 *
 * The process starts with the first job and is kept for the next one; one that ends is replaced
 * when there is a job again. */
#pragma once

#include "daemon/server/supervisor.h"

typedef struct TimingLane TimingLane;

typedef struct TimingEnd {
  const Kiln__V1__TimingDone *done;    /* NULL: it failed; valid during the call */
  Status st;                           /* the worker refused the job (taken), or NULL */
  const char *cause, *detail;          /* the worker ended: why; NULL otherwise */
  Kiln__V1__TimingProgress__What what; /* that ran then */
  uint32_t candidate;
} TimingEnd;

typedef struct TimingLaneSpec {
  Supervisor *supervisor;
  const char *device; /* outlives the lane */
  uint64_t memory_bytes;
  bool background;
} TimingLaneSpec;

Status timing_lane_create(const TimingLaneSpec *spec, TimingLane **out);
void timing_lane_release(TimingLane *l); /* NULL allowed */
/* job lives until done or cancel. The lane is free. */
Status timing_lane_run(TimingLane *l, Kiln__V1__TimingJob *job,
                       void (*done)(void *ctx, const TimingEnd *end), void *ctx);
/* No `done` follows; the worker is killed. Nothing when there is no job. */
void timing_lane_cancel(TimingLane *l);
/* 0 when there is no process. */
uint32_t timing_lane_pid(const TimingLane *l);
