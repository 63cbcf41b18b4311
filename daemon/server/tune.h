/* The search for faster kernels of one executable, in rounds:
 *
 *   look     facts of a kernel, what is known of it already         (compile worker, cache lane)
 *   propose  schedules worth trying                                 (compile worker)
 *   compile  each of them, and the untuned kernel once              (idle compile workers)
 *   time     beside the one in use, compared with the untuned one   (timing worker)
 *
 * After each round the evidence goes into the store, and a winner into the device and the store.
 * Nothing else is state: a search that is cut off goes on from the store. */
#pragma once

#include "daemon/server/server.h"

typedef struct TuneSpec {
  Executable *exe; /* retained */
  int64_t budget_ns;
  uint64_t seed;
  bool background;
  /* Not NULL: proposes nothing, but has the schedules checked that other nodes have found for these
   * kernels of the plan, which counts as no search. Which they are is read by tune_start only. */
  const bool *adopt;
  /* Both on the loop, never inside tune_start. progress is optional. */
  void (*progress)(void *ctx, const Kiln__V1__TuneProgress *m);
  /* The last call; st is taken. */
  void (*done)(void *ctx, const Kiln__V1__TuneSummary *m, Status st);
  void *ctx;
} TuneSpec;

Status tune_start(Server *s, const TuneSpec *spec, Tune **out);
/* No `done` follows. */
void tune_cancel(Tune *t);

/* Under which hash the store has what was tried for a kernel of the plan: the kernel's own, or with
 * VARs that of kernel and usual sizes. */
void tune_evidence_key(const Executable *e, uint32_t kernel, uint8_t out[DIGEST_BYTES]);

/* -- tuner.c: what all searches share -----------------------------------------------------------
 */

Status tuner_create(Server *s, Tuner **out);
/* Searches that clients asked for must have been cancelled. */
void tuner_release(Tuner *t); /* NULL allowed */
/* Searches that go on, one after the other (NULL first); false behind the last. */
typedef struct TuneLoad {
  const Tenant *tenant;
  const char *model, *kernel, *step;
  bool background;
  uint32_t tried, replaced;
  int64_t left_ns;
} TuneLoad;
bool tuner_next_load(const Tuner *t, const Tune **at, TuneLoad *out);
/* What searches in the background have taken since the start: of devices, and of the clock. */
void tuner_used(const Tuner *t, int64_t *device_ns, int64_t *ns);
/* How many. */
size_t tuner_searches(const Tuner *t);
/* Once a second: background searches begin here. */
void tuner_housekeeping(Tuner *t);
/* A device is there, perhaps another than before: asks the cache what is known of the machine, then
 * puts the target's text there. */
void tuner_device_up(Tuner *t, const DeviceLane *device);
/* NULL: no such device. */
struct DevicePeaks *tuner_peaks(Tuner *t, const DeviceLane *device);
/* A request begins or ends: what searches in the background do stops until a while after the last
 * one. NULL allowed. */
void tuner_give_way(Tuner *t);
