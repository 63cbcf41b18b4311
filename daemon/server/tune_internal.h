/* Private to the tuner's files. */
#pragma once

#include "base/vec.h"
#include "daemon/server/peaks.h"
#include "daemon/server/shared.h"
#include "daemon/server/timing_lane.h"
#include "daemon/server/tune.h"
#include "proto/limits.h"

enum { TUNE_BATCH = 12, TUNE_MAX = 16 };

/* A schedule that was found elsewhere; in the tune's arena. */
typedef struct TuneOffer {
  const char *opts, *origin;
} TuneOffer;

typedef struct TuneKernel {
  uint32_t index;                 /* in the plan */
  uint32_t calls;                 /* of a run */
  const Kiln__V1__PlanCall *call; /* the first of them */
  const Kiln__V1__PlanKernel *plan;
  Bytes graph;
  Kiln__V1__KernelFacts *facts; /* NULL: not asked yet */
  bool looked;                  /* what is known has been read */
  /* with VARs: where it is timed, where what wins must not lose (tune_sizes.c) */
  int64_t *sizes;
  Kiln__V1__TimingSizes *elsewhere[SIZES_KINDS];
  size_t nelsewhere;
  uint8_t evidence_key[DIGEST_BYTES];      /* of records of what was tried */
  VEC(Kiln__V1__TuneEvidence *) evidence;  /* in the order of measuring; in the tune's arena */
  VEC(Kiln__V1__TuneEvidence *) champions; /* of it: compared with the untuned kernel */
  VEC(char *) hints;
  VEC(TuneOffer) offers;           /* of other nodes, the fastest first; while they are checked */
  VEC(uint64_t) digests;           /* of code that has been timed */
  Kiln__V1__KernelBinary *untuned; /* NULL: not compiled yet */
  int64_t best_ns;                 /* as it is; 0: not measured */
  double faster;                   /* than when the search began, as measured side by side */
  unsigned tried, rounds, fruitless, failures;
  bool replaced, finished;
} TuneKernel;

typedef struct TuneCandidate {
  Tune *tune;
  CompileJob job;
  Kiln__V1__KernelJob message;
  bool active;
  bool known;                     /* its code has been timed under other opts */
  Kiln__V1__KernelBinary *binary; /* NULL: none */
} TuneCandidate;

struct Tune {
  TuneSpec spec;
  Server *server;
  Tune *next, **link; /* of the tuner's */
  Arena arena;
  int64_t started_ns, deadline_ns;
  TuneKernel *kernels;
  size_t nkernels;
  uint64_t working_set;
  const Kiln__V1__TargetSpec *target;
  uint8_t fingerprint[DIGEST_BYTES];
  uint32_t tried, measured, replaced;
  uint32_t failures[SC__COUNT];
  SharedWait *shared_wait; /* for what other nodes know */
  SharedLease *lease;
  bool settled, exhausted; /* another node has searched; nothing is left to try */
  bool waiting;            /* for the tuner to let it go on */
  int64_t waiting_since_ns;
  void (*resume)(Tune *t);
  /* the round under way: at most one of these is outstanding */
  TuneKernel *at;
  const char *step;
  int64_t step_ns;                  /* when it began */
  int64_t proposed_ns, compiled_ns; /* when that ended */
  Arena round;
  CompileJob search;
  Kiln__V1__SearchJob search_message;
  bool search_active;
  StoreJob *lookup;
  TuneCandidate *candidates; /* the last one is the untuned kernel */
  size_t ncandidates, pending;
  Kiln__V1__KernelBinary **binaries; /* what is timed */
  size_t begin, end, nbinaries;
  Kiln__V1__TimingJob timing;
  bool timing_active;
  int64_t timing_ns, timing_paused_ns; /* when it began; what paused_step_ns was then */
  /* while the machine is measured: candidates[0] is the probe */
  uint32_t probe, probe_times;
  double probe_work;
  Kiln__V1__KernelFacts *probe_facts;
  Kiln__V1__TargetSpec probe_target;
  Kiln__V1__MachinePeaks peaks;
};

struct Tuner {
  Server *server;
  uv_timer_t tick;
  Tune *tunes;
  size_t ntunes;
  Tune *turn;                            /* works on a round; the others wait */
  CompilePool *pool;                     /* of background searches */
  TimingLane *lanes[CONFIG_LIST_MAX][2]; /* by device; [1]: in the background */
  DevicePeaks peaks[CONFIG_LIST_MAX];
  /* background */
  Tune *background;
  Executable *background_exe; /* retained */
  int64_t hour_began_ns, hour_used_ns;
  int64_t not_before_ns; /* the share of the processor is kept by pauses */
  unsigned idle_seconds;
  uv_timer_t quiet;       /* runs while the background's processes are stopped */
  int64_t disturbed_ns;   /* when a request last began or ended */
  int64_t paused_ns;      /* since when they are stopped; 0: they are not */
  int64_t paused_step_ns; /* how long they were during the step under way */
  DeviceJob *loan;        /* the background's turn at its device, asked for or taken; NULL: none */
  DeviceLane *lender;     /* of that */
  uv_timer_t slice;       /* runs while it is taken, */
  int64_t slice_ns;       /* since then; 0: it is not */
  int64_t device_ns;      /* that the background has timed kernels for, */
  int64_t used_ns;        /* and all that it did */
  int open_handles;
};

/* -- tune.c -- */
/* The step is over; chooses the next one, perhaps after waiting. */
void tune_next(Tune *t);
/* Goes on with resume as soon as nobody is disturbed. */
void tune_when_free(Tune *t, const char *step, void (*resume)(Tune *t));
void tune_report(Tune *t);
/* What the kernel took when the search began. The machine may have been in another mood then, so it
 * is what it takes now and how much faster that is. */
int64_t tune_first_ns(const TuneKernel *k);
bool tune_over(const Tune *t);

/* The message, in the arena. */
Status tune_copy(Arena *arena, const ProtobufCMessage *m, void *out);

/* The search ends before it began: another node has made it. */
void tune_settled(Tune *t);
/* Begins a step, once it is the search's turn. */
void tune_begin_step(Tune *t);

/* -- tune_shared.c -- */
/* Goes on with tune_begin_step when what other nodes know has been checked and none searches. */
void tune_ask_others(Tune *t);
/* The search is over. */
void tune_leave_others(Tune *t);
/* A kernel's round in which nothing is proposed. */
void tune_check_offers(Tune *t, TuneKernel *k);
/* The node that opts came from; "" = they were found here. */
const char *tune_origin(const TuneKernel *k, const char *opts);

/* -- tune_look.c -- */
void tune_ask_facts(Tune *t, TuneKernel *k);
void tune_ask_evidence(Tune *t, TuneKernel *k);
/* Remembers one more result; cause NULL: measured. */
Kiln__V1__TuneEvidence *tune_add_evidence(Tune *t, TuneKernel *k, const char *opts,
                                          const char *cause);
ScheduleCause tune_cause(const char *name);
/* Has t->timing timed. */
Status tune_time(Tune *t, void (*done)(void *ctx, const TimingEnd *end));
/* A question to the search; want 0: facts only. */
Status tune_search(Tune *t, TuneKernel *k, uint32_t want,
                   void (*done)(void *ctx, Message *m, Status st));
/* Sends t->search_message. */
Status tune_submit_search(Tune *t, void (*done)(void *ctx, Message *m, Status st));

/* -- tune_peaks.c -- */
bool tune_wants_peaks(const Tune *t);
void tune_measure_peaks(Tune *t);

/* -- tune_sizes.c -- */
/* Where the kernel is timed, once its facts are known. */
void tune_choose_sizes(Tune *t, TuneKernel *k);

/* -- tune_round.c -- */
/* Forgets the round that is over. */
void tune_round_reset(Tune *t);
void tune_round(Tune *t, TuneKernel *k);
void tune_baseline(Tune *t, TuneKernel *k);
void tune_round_cancel(Tune *t);
/* candidates[0, n) have their opts: compiles and times them. */
void tune_compile(Tune *t, size_t n);

/* -- tune_results.c -- */
/* What a job says about binaries[begin, end). */
void tune_results(Tune *t, const Kiln__V1__TimingDone *done);
/* One candidate cannot be timed. */
void tune_failed(Tune *t, TuneKernel *k, const char *opts, const char *cause);

/* -- tune_replace.c -- */
/* The binary, in every executable of the device that has the kernel. */
void tune_replace(Server *s, const Executable *of, const TuneKernel *k,
                  const Kiln__V1__KernelBinary *binary, int64_t before_ns, int64_t after_ns);

/* -- tuner.c -- */
/* Looks who may go on. */
void tuner_wake(Tuner *t);
/* Both NULL without memory. */
CompilePool *tuner_pool(Tuner *t, bool background);
TimingLane *tuner_lane(Tuner *t, const DeviceLane *device, bool background);
/* The search may begin a step now: it is its turn, nobody else needs the machine. */
bool tuner_may_step(Tuner *t, Tune *tune);
/* A timing has ended: the device was used. */
void tuner_timed(Tuner *t, const Tune *tune);
/* A round is over: others may have their turn; it took so long. */
void tuner_stepped(Tuner *t, Tune *tune, int64_t ns);
