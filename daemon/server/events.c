/* The subscribers are the requests of the Events method: a list through their work. */
#include "daemon/server/events.h"

#include "base/clock.h"
#include "daemon/server/answers.h"
#include "daemon/server/rpc.h"

enum { UNREAD_MAX = 64 << 10 }; /* bytes of events that wait for one subscriber */

struct Subscriber {
  Request *request;
  Subscriber *next, **link;
  uint64_t missed;
};

static void deliver(Subscriber *s, Kiln__V1__Event *m) {
  Request *r = s->request;
  if (grpc_stream_queued(r->stream) > UNREAD_MAX || answers_clogged(r->conn)) {
    s->missed++;
    return;
  }
  m->missed = s->missed;
  s->missed = 0;
  request_send(r, &m->base);
}

void events_publish(Server *s, const Tenant *to, Kiln__V1__Event *m) {
  m->unix_ns = clock_wall_ns();
  for (Subscriber *at = s->subscribers; at; at = at->next)
    if (!to || at->request->tenant == to) deliver(at, m);
}

void events_stop(Server *s) {
  for (Request *r = s->requests, *next; r; r = next) {
    next = r->next;
    if (r->method == &rpc_events || r->method == &rpc_tune)
      request_finish(r, FAIL(UNAVAILABLE, "the server is stopping"));
  }
}

static void events_message(Request *r, Bytes msg) {
  Subscriber *s;
  Kiln__V1__Event m = KILN__V1__EVENT__INIT;
  Kiln__V1__Subscribed subscribed = KILN__V1__SUBSCRIBED__INIT;
  if (!request_decode(r, msg)) return;
  r->work = s = arena_alloc(&r->arena, sizeof *s);
  if (!s) {
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "subscription"));
    return;
  }
  s->request = r;
  if ((s->next = r->server->subscribers)) s->next->link = &s->next;
  s->link = &r->server->subscribers;
  r->server->subscribers = s;
  request_move(r, RS_STREAMING);
  m.unix_ns = clock_wall_ns();
  m.what_case = KILN__V1__EVENT__WHAT_SUBSCRIBED;
  m.subscribed = &subscribed;
  request_send(r, &m.base);
}

static void events_release(Request *r) {
  Subscriber *s = r->work;
  if (s && (*s->link = s->next)) s->next->link = s->link;
}

const Method rpc_events = {.path = "/kiln.v1.Kiln/Events",
                           .request = &kiln__v1__events_request__descriptor,
                           .message = events_message,
                           .endless = true,
                           .release = events_release};
