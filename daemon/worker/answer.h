/* One request to a worker and its one answer. */
#pragma once

#include "base/arena.h"
#include "daemon/channel/channel.h"

typedef struct Answer {
  Kiln__V1__Envelope env; /* whose body is one of the messages below */
  union {
    Kiln__V1__SearchDone search;
    Kiln__V1__ExplainDone explain;
    Kiln__V1__TimingDone timing;
  } body;
  Arena arena; /* for what the body points at */
} Answer;

typedef Status (*AnswerFn)(void *ctx, const Kiln__V1__Envelope *request, Answer *out);

/* Sends what fn answers; sends nothing when that is an error. */
Status answer(Channel *c, const Kiln__V1__Envelope *request, AnswerFn fn, void *ctx);
