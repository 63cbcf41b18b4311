/* From uploaded model bytes to a loaded executable.
 *
 *   Compile  one model (its bytes, options, device): frontend, then a Build's artifact, then load
 *   Build    one graph on one target: plan and kernels, from the cache or made
 *
 * Requests for the same bytes share a Compile; Compiles of the same graph (other weights) share a
 * Build. Both are cancelled when nobody waits for them any more. */
#pragma once

#include "daemon/server/request.h"

typedef struct CompileSpec {
  Tenant *tenant; /* whose executable it becomes */
  DeviceLane *device;
  Kiln__V1__ModelFormat format;
  const char *name;
  const Kiln__V1__CompileOptions *options; /* NULL = none */
} CompileSpec;

/* What somebody waits with. */
typedef struct CompileWaiter {
  Request *request; /* whose state follows the compile; NULL when none asked */
  /* exe is borrowed and the report valid during the call; NULL and st (taken) on failure */
  void (*done)(struct CompileWaiter *w, Executable *exe, Kiln__V1__CompileReport *report,
               Status st);
  Compile *compile; /* NULL when not waiting */
  bool joined;      /* somebody else's compile */
  struct CompileWaiter *next;
} CompileWaiter;

/* Takes over model. Failure: nothing was started, model is released and done is not called. */
Status compile_start(Server *s, const CompileSpec *spec, ModelData *model, CompileWaiter *w);
/* The waiter is no longer interested. */
void compile_leave(CompileWaiter *w);

/* -- for build.c and compile.c ------------------------------------------------------------------
 */

/* What a build tells the compiles that wait for it. */
typedef struct BuildReport {
  bool plan_cached;
  uint32_t compiled; /* kernels that were not in the cache */
  int64_t plan_ns, plan_cpu_ns, codegen_ns, cache_ns;
} BuildReport;

typedef struct BuildWaiter {
  Build *build; /* NULL when not waiting */
  /* artifact is borrowed; NULL and st (taken) on failure */
  void (*done)(struct BuildWaiter *w, Artifact *artifact, const BuildReport *report, Status st);
  void (*state)(struct BuildWaiter *w, RequestState state);
  struct BuildWaiter *next;
} BuildWaiter;

/* Joins the build of this graph, or starts one that takes over `held`, whose worker holds the
 * graph; when it joins, held's worker is let go. face outlives the waiter. */
Status build_join(Server *s, DeviceLane *device, Tenant *tenant, bool no_cache, const char *name,
                  const Kiln__V1__FrontendDone *face, CompileJob *held, BuildWaiter *w);
void build_leave(BuildWaiter *w);
/* A failure for one more who waits: code, text and when to try again. NULL for NULL. */
Status waiter_status(const StatusNote *st);

/* What the device made of kernels when it loaded e takes their place: in the artifact, for a worker
 * that loads it again, and with `store` in the cache, for the next start. */
void assembled_keep(Executable *e, const Kiln__V1__LoadDone *m, bool store);
