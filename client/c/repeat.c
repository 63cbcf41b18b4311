/* Making calls again.
 *
 * A call that failed because the server was not there for a moment (UNAVAILABLE: it restarts, or a
 * proxy has just found out that it is dead) is made again after a pause, when making it twice does
 * no harm. One that the server refused with a time to try again (RESOURCE_EXHAUSTED with RetryInfo)
 * has done nothing yet: it is made again whatever it is. Pauses double from 50 ms to 2 s and are
 * cut by chance, so that clients that failed together do not come back together. The time that all
 * attempts may take is bounded twice, by the client's retry time and by the deadline of the call,
 * which covers its attempts together. A server that has never answered is not waited for. */
#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/map.h"
#include "client/c/internal.h"

static const int64_t ns_per_ms = 1000000;
enum { FIRST_PAUSE_MS = 50, LONGEST_PAUSE_MS = 2000 };

void repeat_begin(Repeat *r, KilnClient *c, bool once) {
  *r = (Repeat){.client = c,
                .once = once,
                .began_ns = clock_now_ns(),
                .pause_ns = FIRST_PAUSE_MS * ns_per_ms,
                .outer_deadline = c->call_deadline};
  if (!c->call_deadline && c->timeout_ns) c->call_deadline = r->began_ns + c->timeout_ns;
}

/* Between half of the pause and all of it. */
static int64_t jittered(int64_t ns, int64_t now) {
  uint64_t chance = hash_u64((uint64_t)now ^ (uint64_t)getpid() << 40);
  return ns / 2 + (int64_t)(chance % (uint64_t)(ns / 2));
}

/* -1: making the call again would not help, or might do something twice. */
static int64_t pause_before_next(const Repeat *r, KilnCode code, const KilnError *err,
                                 int64_t now) {
  int64_t ns = jittered(r->pause_ns, now), asked = err->retry_after_ns;
  bool refused = code == KILN_RESOURCE_EXHAUSTED && asked > 0;
  bool absent = code == KILN_UNAVAILABLE && asked >= 0 && !r->once && r->client->answered;
  if (!refused && !absent) return -1;
  return asked > ns ? asked : ns;
}

bool repeat_again(Repeat *r, KilnCode code, const KilnError *err) {
  KilnClient *c = r->client;
  int64_t now = clock_now_ns(), end = r->began_ns + c->retry_ns;
  if (c->call_deadline && c->call_deadline < end) end = c->call_deadline;
  int64_t ns = code ? pause_before_next(r, code, err, now) : -1;
  if (ns < 0 || ns > end - now) {
    c->call_deadline = r->outer_deadline;
    return false;
  }
  poll(NULL, 0, (int)((ns + ns_per_ms - 1) / ns_per_ms));
  if (r->pause_ns < LONGEST_PAUSE_MS * ns_per_ms) r->pause_ns *= 2;
  return true;
}
