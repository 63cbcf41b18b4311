/* The order of what a run does besides computing values, and what has to be copied for it. */
#pragma once

#include "compiler/ir/plan.h"

typedef enum EventKind {
  EVENT_UPDATE, /* a STORE into a state */
  EVENT_BIND,
  EVENT_LOOP, /* the first iteration begins */
  EVENT_END,  /* the loop is done */
} EventKind;

typedef struct Event {
  EventKind kind;
  UOp *node; /* STORE, BIND, LOOP, LOOP */
} Event;

/* at[k] happens at time k + 1. */
typedef struct Events {
  Event *at;
  uint32_t n;
  uint32_t *var_ready; /* by VAR: when it has a value */
} Events;

/* The graph with CONTIGUOUS wherever a value has to be kept from being overwritten, or from being
 * computed in every iteration. A kernel that computes a value then runs right after the last event
 * that the value depends on; what it reads of any state is overwritten later, or by itself at the
 * element that it writes. */
UOp *hazard_resolve(Job *job, const TensorGraph *graph, UOp *sink, Events *out);
