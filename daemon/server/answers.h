/* What is kept for clients until they have read it, and how much of that there may be.
 *
 * An answer is counted from when its size is known, which for a run is before it is admitted, until
 * its stream is closed: by then the last byte has left for the socket. So what was admitted can
 * always be answered, and the sum is never less than what is held. */
#pragma once

#include "daemon/server/request.h"

/* What is streamed goes in pieces of at most ANSWERS_PART bytes, the next while no more than
 * ANSWERS_QUEUED wait: a stream never holds more than ANSWERS_STREAM. */
enum {
  ANSWERS_PART = 1 << 20,
  ANSWERS_QUEUED = 2 << 20,
  ANSWERS_STREAM = ANSWERS_QUEUED + ANSWERS_PART
};

/* The answer of r has, or will have, so many bytes. RESOURCE_EXHAUSTED with RetryInfo when there is
 * no room for them; small answers always find some. */
Status answers_claim(Request *r, uint64_t bytes);
/* The same for what is queued already. */
void answers_hold(Request *r, uint64_t bytes);
/* Nothing but `bytes` is held for r any more. */
void answers_keep(Request *r, uint64_t bytes);
/* So much waits on this connection that no call is taken on it. */
bool answers_clogged(Connection *c);
