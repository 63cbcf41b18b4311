/* What the executor's files share: an executable that is loaded. Private to daemon/worker. */
#pragma once

#include "base/map.h"
#include "daemon/channel/cancel.h"
#include "daemon/worker/device_memory.h"
#include "daemon/worker/executor.h"
#include "daemon/worker/plan_sizes.h"

enum { ALIGN = 64, THREADS_MAX = 1 << 16 };

/* Where an argument that changes between runs is written. */
typedef struct Patch {
  uint32_t arg, slot, buffer;
  uint64_t offset; /* in the slot's data */
} Patch;

/* An argument that is a temporary. */
typedef struct TempArg {
  uint32_t arg, buffer;
} TempArg;

/* An output whose value the compiler knows. */
typedef struct Fill {
  uint32_t slot;
  const char *bytes; /* of the plan's message */
  size_t len;
} Fill;

/* The tensor of an input or output in the current run. */
typedef struct SlotPlace {
  LaunchArg at;
  char *out; /* where the host wants an output that the device cannot write itself, or NULL */
} SlotPlace;

/* One step of a plan. */
typedef struct Step {
  Kiln__V1__PlanStep__Kind kind;
  uint32_t call; /* CALL: among the launches; BIND, LOOP: the scalar, among the arguments */
  uint32_t var;  /* BIND, LOOP */
  uint32_t buffer;
  uint32_t other;     /* LOOP: its END; END: its LOOP */
  uint32_t condition; /* LOOP: among the arguments */
  bool counted, conditional;
  int64_t count; /* LOOP: of the current run */
  int64_t given; /* LOOP: by the plan */
  int64_t most;  /* LOOP: what its VAR allows */
} Step;

typedef struct LaunchGrids LaunchGrids;

typedef struct Loaded {
  Program **programs;
  size_t nprograms;
  StrBuf *code; /* made of the programs' images, until it has been sent; parallel to them */
  size_t ncode;
  Buffer *model, *constants, *known; /* known: the plan's CONST buffers and OUTPUTs' values */
  Buffer *kept;                      /* the plan's KEPT buffers */
  uint64_t kept_bytes;
  WeightPart *weights; /* by position in the plan's list of weights */
  size_t nweights;
  Launch *launches;
  size_t nlaunches;
  int64_t typical_ns; /* of the last runs; 0 = none yet */
  size_t nonce;       /* the first of them, done when loading */
  LaunchGrids *grids; /* NULL: all are known */
  LaunchArg *args;    /* of all launches, one after the other */
  size_t nargs;
  TempArg *temps; /* arguments that are temporaries */
  size_t ntemps;
  uint64_t temp_bytes;
  const Buffer *temp_base; /* what the temporaries were resolved against */
  Step *steps;
  size_t nsteps;
  PlanSizes *sizes;     /* NULL without VARs */
  int64_t *values;      /* of the launches' VARs, one launch after the other */
  uint32_t *value_vars; /* parallel to values: VAR of the plan */
  size_t nvalues;
  Patch *patches;
  size_t npatches;
  Fill *fills;
  size_t nfills;
  uint64_t *known_at; /* by plan buffer: offset in `known`, UINT64_MAX when it has no bytes */
  char *known_bytes;  /* the host's copy of `known` */
  size_t ninputs, noutputs;
  uint64_t *slot_bytes; /* inputs, then outputs; of plans with VARs in the current run */
  bool *written;        /* by slot: inputs that the kernels update */
  SlotPlace *slot_at;   /* of the current run */
} Loaded;

/* What the calls of one run took; of a run that is not profiled ns is not looked at. */
typedef struct CallTimes {
  bool on;
  int64_t *ns; /* by call */
  uint32_t *runs;
  size_t cap;
} CallTimes;

struct Executor {
  Device *dev;
  Map loaded, buffers, slabs; /* Loaded, Buffer, SharedMemory */
  Buffer **temps;             /* by phase */
  size_t ntemps;
  Buffer *staging;
  uint32_t tenant;                    /* whose run was the last */
  uint64_t *temps_used, staging_used; /* bytes written for it, by phase */
  char *mirror;                       /* of staging, for outputs of devices without shared memory */
  size_t mirror_size;
  int read_fd;                  /* what executor_buffer_read made last, or -1 */
  ProtobufCBinaryData *outputs; /* of the last RunDone */
  size_t outputs_cap;
  Buffer **open; /* of the last run's open outputs, by output; NULL where there is none */
  size_t nopen;
  int open_fd; /* of the last RunDone, or -1 */
  uint64_t *places;
  Kiln__V1__TensorDims **dims; /* of the last RunDone */
  size_t dims_cap;
  const CancelBoard *cancelled; /* NULL: nobody cancels */
  volatile uint64_t stoppable;  /* number of the run that may be left where it is; 0: none */
  CallTimes profile;
};

#define BROKEN(...) FAIL(INTERNAL, __VA_ARGS__)

static inline uint64_t align_up(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

/* Makes *b at least `bytes` large; its content is lost when it grows. */
Status loaded_ensure(Executor *x, Buffer **b, uint64_t bytes);

static inline bool loaded_is_open(const Loaded *l, size_t slot) {
  return l->sizes && l->sizes->slot_phase[slot] > 0;
}
/* Fills an output whose value the compiler knows; nothing for others. */
Status loaded_fill(Executor *x, const Loaded *l, size_t slot);
/* Writes the arguments that are on the slot; (size_t)-1: on any. */
void loaded_apply(Loaded *l, size_t slot);

/* -- launch_grid.c -- */
/* *out is NULL when no grid of the executable depends on a VAR. Its calls have been checked. */
Status launch_grids_create(const Kiln__V1__LoadExecutable *m, LaunchGrids **out);
void launch_grids_release(LaunchGrids *g); /* NULL allowed */
/* Computes the grid of one launch from the values of its VARs. */
Status launch_grids_set(LaunchGrids *g, Launch *launches, uint32_t call);

/* The kernel's code is another. */
Status launch_grids_replace(Loaded *l, uint32_t kernel, const Kiln__V1__KernelBinary *b);

/* -- buffers.c -- */
/* A new buffer of that id, which keeps it. Takes ownership of fd (-1: none) in any case. */
Status buffers_add(Executor *x, uint64_t id, uint64_t bytes, int fd, Buffer **out);

/* -- programs.c -- */
Status programs_load(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m);
void programs_drop_code(Loaded *l);

/* -- scrub.c -- */
/* What a run or a load of the executable writes of the memory that all share. */
void scrub_used(Executor *x, const Loaded *l, uint64_t staging);
/* The next to use that memory is this tenant: zeroes it when the last was another. */
Status scrub_enter(Executor *x, uint32_t tenant);

/* -- steps.c -- */
/* Sizes of a run, from its inputs' VARs. */
Status steps_begin(Executor *x, Loaded *l, const Kiln__V1__RunJob *m);
/* What is done when loading. */
Status steps_once(Executor *x, Loaded *l);
/* Runs the plan; the slots have their places. */
/* deadline_ns: looked at before every iteration of a loop; 0 = none. */
/* *ns: how long the device took. */
Status steps_run(Executor *x, Loaded *l, int64_t deadline_ns, uint64_t number, int64_t *ns);
/* What the run says about sizes: in slot_bytes and in out. */
Status steps_end(Executor *x, Loaded *l, const Kiln__V1__RunJob *m, Kiln__V1__RunDone *out);
