/* A run of an executable, whatever protocol asked for it: inputs are bound and checked, the job
 * goes to the device, and `reply` makes the answer of what comes back. */
#pragma once

#include "daemon/server/request.h"
#include "proto/view.h"

/* The messages of RunRequest, as views. */
typedef struct TensorView {
  uint64_t seen;
  int64_t dtype;
  VIEW_LIST(int64_t) dims;
  Str data;
} TensorView;

typedef struct NamedView {
  uint64_t seen;
  Str name, buffer;
  const TensorView *tensor;
} NamedView;

typedef struct RandomView {
  uint64_t seen;
  int64_t seed, run;
} RandomView;

typedef struct RunView {
  uint64_t seen;
  Str executable;
  VIEW_LIST(NamedView) inputs;
  VIEW_LIST(Str) outputs;
  int64_t as_buffers;
  const RandomView *random;
  int64_t profile, priority;
} RunView;

/* Ends the request with request_reply or request_finish; m is valid during the call. */
typedef void (*RunReply)(Request *r, void *ctx, const Kiln__V1__RunResponse *m);

/* Begins it; r->work is the run's from here on, and run_release must be the method's `release`. The
 * view may go after the call. Failure: the caller finishes the request. */
Status run_begin(Request *r, Executable *exe, const RunView *view, RunReply reply, void *ctx);
void run_release(Request *r);
