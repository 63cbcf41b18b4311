/* A thread of kilnd's own for work that the loop may not do: a mutexed list in, a mutexed list
 * out, one uv_async to say that there is something to take.
 *
 * A job belongs to the lane from lane_submit until its `done` runs on the loop; whoever loses
 * interest before that marks it (job-specific) and lets `done` free it. */
#pragma once

#include <uv.h>

#include "base/status.h"

typedef struct Lane Lane;
typedef struct LaneJob LaneJob;
struct LaneJob {
  void (*run)(LaneJob *job, void *state); /* on the lane's thread */
  void (*done)(LaneJob *job);             /* on the loop */
  LaneJob *next;
};

typedef struct LaneSpec {
  const char *name;           /* of the thread, at most 15 characters */
  void *state;                /* what run gets */
  void (*begin)(void *state); /* optional; first thing on the thread */
  void (*end)(void *state);   /* optional; last thing on the thread */
} LaneSpec;

Status lane_create(uv_loop_t *loop, const LaneSpec *spec, Lane **out);
void lane_submit(Lane *lane, LaneJob *job);
/* Runs what is queued, joins the thread, then calls the done functions and closed(ctx). */
void lane_close(Lane *lane, void (*closed)(void *ctx), void *ctx);
