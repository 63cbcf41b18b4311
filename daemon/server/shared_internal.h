/* Private to the files of the shared tier. */
#pragma once

#include "daemon/server/resp.h"
#include "daemon/server/shared.h"
#include "daemon/server/shared_settings.h"
#include "daemon/server/tune.h"

enum { SHARED_KEY = 160, SHARED_NEWS = 2 * DIGEST_BYTES + NODE_KEY_BYTES };
#define SHARED_CHANNEL "kiln:1:news"

/* The breaker. DOWN is open: nothing is sent before retry_ns. TRYING is half open: one connection
 * is tried, and nothing but its own greeting is sent. */
typedef enum LinkState { LINK_DOWN, LINK_TRYING, LINK_UP } LinkState;

struct Shared {
  Server *server;
  SharedSettings set;
  SharedSettings *next; /* to be taken when no job of the cache lane reads these; NULL: none */
  bool off;             /* a reload has taken the tier away */
  char reason[200];
  uv_timer_t tick;
  /* link */
  Resp *link, *news; /* news: the subscribed connection */
  LinkState state;
  bool news_up, news_missed; /* missed: some were not listened to */
  int64_t retry_ns, backoff_ns, up_ns, news_retry_ns;
  /* giving */
  StoreJob *outbox;
  OutboxItem item; /* being given; id 0 = none */
  int64_t outbox_after;
  uint64_t queued;
  unsigned cas_tries;
  bool outbox_opened, dirty, giving;
  /* adopting */
  struct SharedFind *find;
  Tune *adopting;
  Executable *adopted; /* retained, while it is asked for or adopting */
  SharedWait *waits;
  /* leases */
  SharedLease *leases;
  unsigned news_left; /* that are listened to until the next tick */
  int64_t give_ns;    /* not before */
  bool closed;
};

/* Counts it; false, and no call follows, when the tier cannot be asked. */
bool shared_command(Shared *sh, const Str *args, size_t n, RespDone done, void *ctx);
/* "kiln:1:WHAT:HEX:HEX" */
Str shared_key(char buf[SHARED_KEY], const char *what, const uint8_t *a, const uint8_t *b);
/* Puts `now` under the key if it holds `was` (empty: if there is nothing, or an empty text), and
 * then tells `news` (empty: nobody). now empty: removes it. The answer is the number 1 or 0. */
bool shared_swap(Shared *sh, Str key, Bytes was, Bytes now, uint64_t ttl_ms, Bytes news,
                 RespDone done, void *ctx);
/* kernel or graph, target, this node. */
void shared_news(const Shared *sh, const uint8_t *a, const uint8_t *b, uint8_t out[SHARED_NEWS]);
/* A reply that is 1. */
bool shared_swapped(const redisReply *reply);
/* A string reply's bytes; empty for anything else. */
Bytes shared_bytes(const redisReply *reply);
void shared_count_offer(Shared *sh, OfferVerdict verdict);

/* -- shared_adopt.c -- */
void shared_adopt_tick(Shared *sh);
void shared_adopt_all(Shared *sh); /* asks for everything again */
void shared_adopt_news(Shared *sh, Bytes payload);

/* -- shared_lease.c -- */
void shared_lease_tick(Shared *sh);
/* What was stored before has been given, or cannot be. */
void shared_lease_given(Shared *sh);
void shared_lease_close(Shared *sh);
