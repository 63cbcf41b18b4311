/* Private to device_lane.c and device_turns.c: a lane from inside, and what the lanes of one device
 * share. With strict isolation these are several; else one. */
#pragma once

#include "daemon/channel/cancel.h"
#include "daemon/server/device_lane.h"

enum { PATIENCE = 3 }; /* failures in a row after which nobody is asked to wait any more */

typedef enum LaneState { LS_DOWN, LS_GREETING, LS_UP } LaneState;

typedef struct DeviceQueue {
  DeviceJob *first, **last;
  size_t len;
} DeviceQueue;

/* One device: whose turn it is there. */
typedef struct DeviceTurns {
  DeviceLane *lanes; /* linked by `beside` */
  size_t nlanes;
  FairQueue waiting;  /* jobs of all lanes */
  size_t again;       /* in the lanes' queues of that name */
  DeviceLane *turn;   /* what is in flight there runs alone; NULL: nobody's */
  DeviceJob *lent;    /* to its owner, once nobody's turn is left; NULL: nobody */
  bool lent_begun;    /* he knows */
  int64_t slack_ns;   /* of the executable that was last */
  int64_t typical_ns; /* of all jobs, lately */
  uv_timer_t overdue; /* wakes the loop when a turn has lasted too long */
} DeviceTurns;

struct DeviceLane {
  DeviceLaneSpec spec;
  DeviceTurns *turns;
  DeviceLane *beside;
  Worker *worker;
  LaneState state;
  uint64_t incarnation;
  uint64_t next_id;
  DeviceQueue flight;
  DeviceJob *recalled;            /* one of those in flight; NULL: none */
  int64_t flight_ns, answered_ns; /* estimated, of the others; when the last answer came */
  int64_t unclaimed_ns; /* of the time since work was sent: what no answer has accounted for */
  size_t waiting;       /* jobs of this lane that have not been taken */
  DeviceQueue parked;   /* of those, the ones that nobody else is to wait for */
  DeviceQueue again;    /* taken already: they go first */
  SlabPool slabs;
  CancelBoard *cancelled;
  int cancelled_fd; /* of the same, for workers */
  Arena arena;      /* of target and description */
  Kiln__V1__TargetSpec *target;
  char *description;
  uint8_t fingerprint[DIGEST_BYTES];
  unsigned failures, restarts;
  char last_failure[192];
  char load_error[256]; /* of the last thing that the lane gave the worker by itself */
  StatusCode load_code;
};

static inline void queue_init(DeviceQueue *q) { *q = (DeviceQueue){.last = &q->first}; }
void queue_push(DeviceQueue *q, DeviceJob *job);
DeviceJob *queue_pop(DeviceQueue *q);
void queue_remove(DeviceQueue *q, DeviceJob *job);

/* device_lane.c */
void job_free(DeviceLane *l, DeviceJob *job);
void job_finish(DeviceLane *l, DeviceJob *job, Message *m, Status st);
/* Gives the job to the worker, and before it what it needs there. UNAVAILABLE: that has ended. */
Status job_start(DeviceLane *l, DeviceJob *job);

/* device_turns.c */
Status turns_join(DeviceLane *l);
/* The other lanes of the device are about to leave, too: nothing that waits is done any more. */
void turns_leave(DeviceLane *l);
/* It can be given work. */
void turns_lane_up(DeviceLane *l);
/* Answers all that waits for the lane. */
void turns_refuse(DeviceLane *l);
/* A job of it is not in flight any more. */
void turns_answered(DeviceLane *l);
/* What was called back had not begun. */
void turns_put_back(DeviceLane *l, DeviceJob *job);
/* A job that waits is given up; it is not freed. */
void turns_forget(DeviceLane *l, DeviceJob *job);
/* To be tried again, as the last or the first of those. */
void turns_again(DeviceLane *l, DeviceJob *job);
/* What a job has cost: for what is expected of the next ones. */
void turns_measured(DeviceLane *l, const DeviceJob *job);
