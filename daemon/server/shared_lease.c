/* Who searches a graph on a target: a signed statement under the graph's key in the tier.
 *
 * A node that finds none, or one that is not renewed any more, puts its own there; another that
 * finds a fresh one of a trusted node waits for the end of that search and takes its results. A
 * lease is a courtesy: whoever cannot get an answer searches, so losing the lease or the tier costs
 * time of machines and nothing else, and a hostile tier can at most repeat a lease until it is as
 * old as LEASE_NS. What is said at the end follows what was found: it is sent when the outbox is
 * empty. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/shared_internal.h"

enum { TRIES = 5 };
#define SECOND_NS       1000000000ll
#define LEASE_NS        (30 * SECOND_NS)
#define RENEW_NS        (10 * SECOND_NS)
#define AGAIN_NS        (SECOND_NS / 2) /* between two looks at another's lease */
#define LEASE_TTL_MS    60000ull
#define SEARCHED_TTL_MS (7ull * 24 * 3600 * 1000)

typedef enum LeaseState {
  LS_ASKING,
  LS_WAITING, /* for another node */
  LS_FAILED,  /* to ask: the next tick says so */
  LS_HELD,
  LS_TOLD,   /* not held, but the answer was given */
  LS_ENDING, /* what it led to is being given */
  LS_OVER
} LeaseState;

struct SharedLease {
  Shared *sh; /* NULL: closed; the command that is under way frees it */
  SharedLease *next, **link;
  LeaseSpec spec;
  uint8_t graph[DIGEST_BYTES], target[DIGEST_BYTES];
  LeaseState state;
  LeaseEnd how;
  bool busy; /* a command is under way */
  bool waited;
  unsigned tries;
  int64_t next_ns;              /* of the next look, or of renewing */
  StrBuf seen, ours, next_ours; /* what is in the tier, as far as is known; ours while it is held */
};

static void lease_free(SharedLease *l) {
  if (l->sh && (*l->link = l->next)) l->next->link = l->link;
  strbuf_deinit(&l->seen);
  strbuf_deinit(&l->ours);
  strbuf_deinit(&l->next_ours);
  free(l);
}

static Bytes bytes_of(const StrBuf *b) { return (Bytes){(const uint8_t *)b->ptr, b->len}; }

static void answer(SharedLease *l, LeaseAnswer a, const char *node) {
  if (l->state != LS_HELD) l->state = LS_TOLD;
  unsigned result = a == LEASE_OURS ? RESULT_OK : RESULT_MERGED;
  l->sh->server->metrics.shared_leases_total[result][0]++;
  l->spec.done(l->spec.ctx, a, node);
}

/* Nobody can say: so it is ours. */
static void no_answer(SharedLease *l) {
  l->state = LS_TOLD;
  l->sh->server->metrics.shared_leases_total[RESULT_FAILED][0]++;
  l->spec.done(l->spec.ctx, LEASE_OURS, "");
}

/* -- statements ---------------------------------------------------------------------------------
 */

static bool write_statement(SharedLease *l, EnvelopeKind kind, StrBuf *out) {
  Envelope e = {.kind = kind, .issued_ns = clock_wall_ns()};
  memcpy(e.subject, l->graph, DIGEST_BYTES);
  memcpy(e.target, l->target, DIGEST_BYTES);
  strbuf_deinit(out);
  *out = (StrBuf){0};
  Status st = envelope_write(&e, NULL, 0, l->sh->set.key, out);
  bool made = !st && !out->failed;
  status_drop(st);
  return made;
}

static bool swap(SharedLease *l, const StrBuf *was, const StrBuf *now, uint64_t ttl_ms,
                 RespDone done) {
  char key[SHARED_KEY];
  Bytes nothing = {NULL, 0};
  l->busy = shared_swap(l->sh, shared_key(key, "lease", l->graph, l->target), bytes_of(was),
                        now ? bytes_of(now) : nothing, ttl_ms, nothing, done, l);
  return l->busy;
}

/* -- getting it ---------------------------------------------------------------------------------
 */

static void ask(SharedLease *l);

/* The owner gave up, or everything closes, while a command was under way. */
static bool gone(SharedLease *l) {
  l->busy = false;
  if (l->sh && l->state != LS_OVER) return false;
  lease_free(l);
  return true;
}

static void on_taken(void *ctx, const redisReply *reply) {
  SharedLease *l = ctx;
  if (gone(l)) return;
  if (shared_swapped(reply)) {
    l->state = LS_HELD;
    l->next_ns = clock_now_ns() + RENEW_NS;
    answer(l, LEASE_OURS, "");
  } else if (reply && reply->type == REDIS_REPLY_INTEGER && ++l->tries < TRIES) {
    ask(l); /* somebody was quicker */
  } else {
    no_answer(l);
  }
}

static void take(SharedLease *l) {
  if (!write_statement(l, EK_LEASE, &l->ours) ||
      !swap(l, &l->seen, &l->ours, LEASE_TTL_MS, on_taken))
    no_answer(l);
}

static void wait_or_tell(SharedLease *l, const char *node) {
  int64_t now = clock_now_ns();
  if (l->spec.wait_until_ns <= now) {
    answer(l, LEASE_OTHERS, node);
    return;
  }
  l->state = LS_WAITING;
  l->waited = true;
  l->next_ns = now + AGAIN_NS;
}

/* Another trusted node has said something about the graph. */
static void heed(SharedLease *l, const Envelope *e, const char *node) {
  int64_t age = clock_wall_ns() - e->issued_ns;
  bool fresh = age < LEASE_NS && age > -LEASE_NS;
  bool search = l->spec.insists && !l->waited;
  if (e->kind == EK_LEASE && fresh)
    wait_or_tell(l, node);
  else if (e->kind == EK_EXHAUSTED || (e->kind == EK_DONE && !search))
    answer(l, LEASE_SEARCHED, node);
  else
    take(l);
}

static void on_seen(void *ctx, const redisReply *reply) {
  SharedLease *l = ctx;
  Envelope e;
  if (gone(l)) return;
  Shared *sh = l->sh;
  if (!reply || reply->type == REDIS_REPLY_ERROR) {
    no_answer(l);
    return;
  }
  Bytes b = shared_bytes(reply);
  l->seen.len = 0;
  strbuf_add(&l->seen, b.ptr, b.len);
  Offer there = {.kernel = l->graph, .target = l->target, .statement = b};
  OfferVerdict verdict = offer_check(&there, sh->set.nodes.at, sh->set.nodes.len, &e);
  bool others = verdict == OV_TAKEN && memcmp(e.node, node_key_public(sh->set.key), NODE_KEY_BYTES);
  if (verdict != OV_NONE && verdict != OV_TAKEN) shared_count_offer(sh, verdict);
  if (l->seen.failed)
    no_answer(l);
  else if (others)
    heed(l, &e, trusted_find(sh->set.nodes.at, sh->set.nodes.len, e.node)->name);
  else
    take(l);
}

static void ask(SharedLease *l) {
  char key[SHARED_KEY];
  const Str args[] = {STR("GET"), shared_key(key, "lease", l->graph, l->target)};
  l->state = LS_ASKING;
  l->busy = shared_command(l->sh, args, 2, on_seen, l);
  if (!l->busy) l->state = LS_FAILED;
}

SharedLease *shared_lease(Shared *sh, const LeaseSpec *spec) {
  SharedLease *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  l->sh = sh;
  l->spec = *spec;
  memcpy(l->graph, spec->graph, DIGEST_BYTES);
  memcpy(l->target, spec->target, DIGEST_BYTES);
  if ((l->next = sh->leases)) l->next->link = &l->next;
  l->link = &sh->leases;
  sh->leases = l;
  ask(l);
  return l;
}

/* -- keeping and giving it back ------------------------------------------------------------------
 */

static void on_renewed(void *ctx, const redisReply *reply) {
  SharedLease *l = ctx;
  if (gone(l)) return;
  if (!shared_swapped(reply)) {
    if (l->state == LS_HELD) l->state = LS_TOLD; /* lost; the search goes on */
    if (l->state == LS_ENDING) lease_free(l);
    return;
  }
  strbuf_deinit(&l->ours);
  l->ours = l->next_ours;
  l->next_ours = (StrBuf){0};
}

static void renew(SharedLease *l) {
  l->next_ns = clock_now_ns() + RENEW_NS;
  if (write_statement(l, EK_LEASE, &l->next_ours))
    swap(l, &l->ours, &l->next_ours, LEASE_TTL_MS, on_renewed);
}

static void on_ended(void *ctx, const redisReply *reply) {
  SharedLease *l = ctx;
  (void)reply;
  l->busy = false;
  lease_free(l);
}

/* Says how it ended and is gone. */
static void say_end(SharedLease *l) {
  EnvelopeKind kind = l->how == LEASE_EXHAUSTED ? EK_EXHAUSTED : EK_DONE;
  bool said = l->how == LEASE_DROPPED || write_statement(l, kind, &l->next_ours);
  l->state = LS_OVER;
  if (!said ||
      !swap(l, &l->ours, l->how == LEASE_DROPPED ? NULL : &l->next_ours, SEARCHED_TTL_MS, on_ended))
    lease_free(l);
}

void shared_lease_end(SharedLease *l, LeaseEnd how) {
  if (!l) return;
  bool held = l->state == LS_HELD && l->sh;
  l->how = how;
  if (!held) {
    l->state = LS_OVER;
    if (!l->busy) lease_free(l);
    return;
  }
  l->state = LS_ENDING;
  l->sh->dirty = true; /* shared_lease_given follows */
  if (how == LEASE_DROPPED && !l->busy) say_end(l);
}

void shared_lease_given(Shared *sh) {
  for (SharedLease *l = sh->leases, *next; l; l = next) {
    next = l->next;
    if (l->state == LS_ENDING && !l->busy && !sh->dirty)
      say_end(l);
    else if (l->state == LS_ENDING && !l->busy && sh->state != LINK_UP)
      lease_free(l);
  }
}

void shared_lease_tick(Shared *sh) {
  int64_t now = clock_now_ns();
  for (SharedLease *l = sh->leases, *next; l; l = next) {
    next = l->next;
    if (l->busy) continue;
    if (l->state == LS_WAITING && now >= l->next_ns) ask(l);
    if (l->state == LS_HELD && now >= l->next_ns) renew(l);
    if (l->state != LS_FAILED) continue;
    no_answer(l);
    next = sh->leases; /* the list may be another now */
  }
}

void shared_lease_close(Shared *sh) {
  while (sh->leases) {
    SharedLease *l = sh->leases;
    if ((sh->leases = l->next)) l->next->link = &sh->leases;
    l->sh = NULL;
    l->state = LS_OVER;
    if (!l->busy) lease_free(l);
  }
}
