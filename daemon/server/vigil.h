/* Staying awake for the next call. A client that makes one call after the other answers an answer
 * sooner than the system puts kilnd to sleep and wakes it again, so the loop looks for so long
 * before it sleeps: when no call is open, and as long as looking has paid.
 *
 * How it knows: a pause that was short when it slept lets it look in the next one; one that was
 * looked through in vain makes it sleep through twice as many short ones as the last such did,
 * unless looking has paid often since. So calls that are far between cost nothing, the end of a
 * series VIGIL_NS, and where looking keeps the client from his processor it is all but given up. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum { VIGIL_NS = 50 * 1000 };

typedef struct Vigil {
  uv_idle_t idle;   /* active: the loop does not sleep */
  int64_t since_ns; /* when the last answer had gone; 0: that was seen to, or there is none */
  unsigned miss;    /* short pauses to be slept through before it looks again */
  unsigned miss_next;
  unsigned paid; /* pauses since that were short and looked through */
  bool answered; /* a call has ended since the loop slept last */
} Vigil;

void vigil_init(Vigil *v, uv_loop_t *loop);
void vigil_close(Vigil *v);
/* A call has come. */
void vigil_called(Vigil *v, int64_t now_ns);
static inline void vigil_answered(Vigil *v) { v->answered = true; }
/* The loop is about to sleep, and no call is open. Nothing to do unless it minds. */
void vigil_rest(Vigil *v, int64_t now_ns);
static inline bool vigil_awake(const Vigil *v) {
  return uv_is_active((const uv_handle_t *)&v->idle);
}
static inline bool vigil_minds(const Vigil *v) { return v->answered || vigil_awake(v); }
