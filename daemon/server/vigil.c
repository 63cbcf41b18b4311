/* An idle handle makes libuv poll without waiting; there is nothing for it to do itself. It is
 * active only between the end of the last call that was open and the next call, VIGIL_NS at most.
 *
 * A client on the processor that the loop looks from cannot answer while it looks, so it fails
 * there though each pause would have been short: hence what a failure costs is doubled, up to
 * MISS_MOST, and forgotten only after a series in which looking has paid PAID_OFTEN times. */
#include "daemon/server/vigil.h"

enum { MISS_FIRST = 1, MISS_MOST = 1023, PAID_OFTEN = 32 };

static void on_idle(uv_idle_t *idle) { (void)idle; }

void vigil_init(Vigil *v, uv_loop_t *loop) {
  *v = (Vigil){.miss = MISS_FIRST, .miss_next = MISS_FIRST};
  uv_idle_init(loop, &v->idle);
}

void vigil_close(Vigil *v) { uv_close((uv_handle_t *)&v->idle, NULL); }

void vigil_called(Vigil *v, int64_t now_ns) {
  if (!v->since_ns) return;
  if (vigil_awake(v)) {
    uv_idle_stop(&v->idle);
    v->paid++;
  } else if (now_ns - v->since_ns < VIGIL_NS && v->miss) {
    v->miss--;
  }
  v->since_ns = 0;
}

void vigil_rest(Vigil *v, int64_t now_ns) {
  if (!vigil_minds(v)) return;
  if (v->answered) {
    v->answered = false;
    v->since_ns = now_ns;
    if (!v->miss) uv_idle_start(&v->idle, on_idle);
  } else if (now_ns - v->since_ns > VIGIL_NS) {
    uv_idle_stop(&v->idle);
    v->since_ns = 0;
    v->miss_next = v->paid >= PAID_OFTEN      ? MISS_FIRST
                   : v->miss_next < MISS_MOST ? 2 * v->miss_next + 1
                                              : MISS_MOST;
    v->miss = v->miss_next;
    v->paid = 0;
  }
}
