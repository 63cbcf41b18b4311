/* One device, as kilnd sees it: its worker process, the jobs in flight and those that wait, in the
 * order of a fair queue (fair.h). With strict isolation a device has several workers, each with a
 * lane; they share the queue and take turns (device_turns.c).
 *
 * The lane loads executables and re-creates buffers by itself before the first job that needs them
 * in the life of a worker process ("incarnation"), so nobody else has to know that a worker died. A
 * job that was in flight then is sent once more, alone; if that one dies with its worker too, it is
 * answered UNAVAILABLE with the cause. A job that updates buffers is not sent again, and what it
 * might have written is lost. */
#pragma once

#include "daemon/server/device_buffer.h"
#include "daemon/server/executable.h"
#include "daemon/server/fair.h"
#include "daemon/server/slab.h"
#include "daemon/server/supervisor.h"

typedef struct DeviceLane DeviceLane;

/* Made by device_job_create; belongs to the lane from submit on. The message that env points to
 * stays the owner's and must live until `done` or cancel. */
typedef struct DeviceJob DeviceJob;
struct DeviceJob {
  Kiln__V1__Envelope env; /* body_case NOT_SET: done as soon as the device is up */
  bool lends;             /* NOT_SET: the owner drives the device himself from `done` without st to
                             device_lane_return; nothing else runs meanwhile */
  int fd;                 /* sent along; -1 = none; stays the owner's */
  Executable *exe;        /* loaded first; the job's own reference */
  DeviceBuffer **buffers; /* created first; the job's own references; malloc'd */
  size_t nbuffers;
  bool *updated;         /* by buffer: it writes that; malloc'd */
  bool updates;          /* it writes some: never sent twice */
  Slab *slab;            /* of a run; goes back to the pool after done */
  bool brings_slab;      /* the worker sees it for the first time */
  struct Tenant *tenant; /* to charge; NULL = none */
  FairSource from;       /* who it is for; tenant 0 = kilnd itself */
  uint8_t level;         /* FAIR_*, inside the tenant */
  int64_t deadline_ns;   /* of the clock: it does not begin after that; 0 = none */
  /* m is the answer, valid during the call, or NULL and st says why not (takes st). */
  void (*done)(void *ctx, DeviceJob *job, Message *m, Status st);
  void *ctx;
  /* the lane's */
  FairJob fair;
  DeviceJob *next;
  DeviceLane *lane;
  int64_t sent_ns, measured_ns; /* measured: on the device, as its worker says; 0 = it does not */
  bool submitted, parked, in_flight, tried;
};

typedef struct DeviceLaneSpec {
  uv_loop_t *loop;
  Supervisor *supervisor;
  const char *name;   /* "cpu:0"; outlives the lane */
  DeviceLane *beside; /* that has the same device; NULL: this is the first */
  uint64_t memory_bytes, slab_bytes;
  uint32_t run_seconds;
  size_t max_queue;           /* jobs of one tenant that may wait */
  void (*changed)(void *ctx); /* in or out of service */
  void *ctx;
} DeviceLaneSpec;

Status device_lane_create(const DeviceLaneSpec *spec, DeviceLane **out);
/* Executables and buffers must be gone; jobs are dropped without done, also those that wait for
 * other lanes of the device: all of them end together. */
void device_lane_release(DeviceLane *l);

DeviceJob *device_job_create(void); /* NULL without memory */
/* Gives the job of a run memory for tensors. */
Status device_job_slab(DeviceLane *l, DeviceJob *job, size_t bytes);
/* RESOURCE_EXHAUSTED when the tenant has too many waiting, UNAVAILABLE when the device does not
 * come up, DEADLINE_EXCEEDED; then the job is freed and done is not called. */
Status device_lane_submit(DeviceLane *l, DeviceJob *job);
/* Nothing runs and nothing waits on the device. */
bool device_lane_idle(const DeviceLane *l);
/* Sends what may be sent; the loop calls it before it sleeps. */
void device_lane_flush(DeviceLane *l);
/* No `done` follows; what the job holds is freed when the worker is through with it. A job that was
 * not submitted is freed. */
void device_lane_cancel(DeviceLane *l, DeviceJob *job);

/* How long a job of this tenant would wait, roughly, and how many of his do. */
int64_t device_lane_wait_ns(const DeviceLane *l, const FairSource *from, size_t *waiting);
/* Why a job of this tenant would be refused now; NULL: it would not. */
Status device_lane_admits(const DeviceLane *l, const FairSource *from);
/* The owner of a job that lends has used the device for so long. */
void device_lane_return(DeviceLane *l, DeviceJob *job, int64_t used_ns);

/* For the objects' own release functions. */
void device_lane_forget_executable(DeviceLane *l, const Executable *e);
void device_lane_forget_buffer(DeviceLane *l, const DeviceBuffer *b);

typedef struct DeviceStatus {
  const char *name, *kind, *description, *last_failure;
  bool available;
  unsigned restarts;
  uint32_t pid;
  size_t waiting, in_flight; /* jobs */
} DeviceStatus;
DeviceStatus device_lane_status(const DeviceLane *l);
const char *device_lane_name(const DeviceLane *l);
/* Number of the present life of the worker process. */
uint64_t device_lane_incarnation(const DeviceLane *l);
SlabPool *device_lane_slabs(DeviceLane *l);
/* NULL until the device was up for the first time. */
const Kiln__V1__TargetSpec *device_lane_target(const DeviceLane *l);
/* SHA-256 over the packed target; zeros until then. */
const uint8_t *device_lane_fingerprint(const DeviceLane *l);
