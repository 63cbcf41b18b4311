/* What others know of an executable's kernels.
 *
 * One executable at a time: the tier is asked for each of its kernels, the cache lane checks and
 * keeps what comes, and where that left something open a search that proposes nothing
 * (TuneSpec.adopt) compiles, compares and races it. An executable is due when it was loaded, when
 * the tier came back, when news arrive of a kernel that it has, and when some may have been missed:
 * announcements reach who is subscribed and nobody later. It is not asked about more often than
 * every AGAIN_NS, whatever is sent. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/shared_internal.h"

enum { AT_ONCE = 16 /* questions */, TIMEOUTS = 4 /* for all questions about one executable */ };
#define AGAIN_NS 2000000000ll
#define CHECK_NS 60000000000ll /* compiling and racing what came */

typedef struct SharedFind SharedFind;
typedef struct Question {
  SharedFind *find;
  size_t i;
} Question;

struct SharedFind {
  Shared *sh; /* NULL: nobody wants to know any more */
  Arena arena;
  Question *questions;
  Offer *offers;
  uint32_t *kernels; /* of the plan */
  size_t n, next, outstanding;
  int64_t deadline_ns;
  StoreJob *job;
};

struct SharedWait {
  SharedWait *next, **link;
  Executable *exe; /* retained */
  void (*done)(void *ctx);
  void *ctx;
};

/* -- waiting ------------------------------------------------------------------------------------
 */

/* The one that a list's link leads to. */
static void wait_free(SharedWait **at) {
  SharedWait *w = *at;
  if ((*at = w->next)) w->next->link = at;
  executable_release(w->exe);
  free(w);
}

void shared_adopt_cancel(SharedWait *w) { wait_free(w->link); }

SharedWait *shared_adopt(Shared *sh, Executable *e, void (*done)(void *ctx), void *ctx) {
  SharedWait *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  *w = (SharedWait){.exe = executable_retain(e), .done = done, .ctx = ctx, .link = &sh->waits};
  if ((w->next = sh->waits)) w->next->link = &w->next;
  sh->waits = w;
  e->adopt_due = true;
  e->adopt_asked_ns = 0;
  return w;
}

static void tell_waits(Shared *sh) {
  for (SharedWait **at = &sh->waits; *at;) {
    const SharedWait *w = *at;
    bool pending = w->exe->adopt_due && w->exe->registered && sh->state == LINK_UP;
    if (pending || w->exe == sh->adopted) {
      at = &(*at)->next;
      continue;
    }
    void (*done)(void *) = w->done;
    void *ctx = w->ctx;
    wait_free(at);
    done(ctx);
    at = &sh->waits; /* the list may be another now */
  }
}

/* -- checking -----------------------------------------------------------------------------------
 */

static void adopt_over(Shared *sh) {
  Executable *e = sh->adopted;
  sh->adopted = NULL;
  sh->adopting = NULL;
  executable_release(e);
}

static void on_checked(void *ctx, const Kiln__V1__TuneSummary *m, Status st) {
  Shared *sh = ctx;
  status_drop(st);
  /* many kernels: the rest in another session, as long as that leads anywhere */
  if (m && m->measured && !strcmp(m->ended, "budget")) sh->adopted->adopt_due = true;
  adopt_over(sh);
}

static void find_free(SharedFind *f) {
  if (f->sh) f->sh->find = NULL;
  if (f->job) store_forget(f->job);
  arena_deinit(&f->arena);
  free(f);
}

/* Has what is open checked; takes over sh->adopted. */
static void check(Shared *sh, const bool *open) {
  TuneSpec spec = {.exe = sh->adopted,
                   .budget_ns = CHECK_NS,
                   .seed = 1,
                   .adopt = open,
                   .done = on_checked,
                   .ctx = sh};
  Status st = device_lane_status(sh->adopted->device).available
                  ? tune_start(sh->server, &spec, &sh->adopting)
                  : FAIL(UNAVAILABLE, "the device is down");
  if (st) adopt_over(sh); /* another time */
  status_drop(st);
}

static void on_offers(void *ctx, const Offer *offers, size_t n) {
  SharedFind *f = ctx;
  Shared *sh = f->sh;
  size_t nkernels = sh->adopted->artifact->plan->n_kernels, nopen = 0;
  bool *open = arena_array(&f->arena, nkernels + 1, sizeof *open);
  f->job = NULL;
  for (size_t i = 0; i < n; i++) {
    shared_count_offer(sh, offers[i].verdict);
    if (open && offers[i].open) open[f->kernels[i]] = true;
    nopen += offers[i].open;
  }
  if (open && nopen)
    check(sh, open);
  else
    adopt_over(sh);
  find_free(f);
}

/* -- asking -------------------------------------------------------------------------------------
 */

static void ask(SharedFind *f);

static void on_answer(void *ctx, const redisReply *reply) {
  const Question *q = ctx;
  SharedFind *f = q->find;
  Bytes b = shared_bytes(reply);
  f->outstanding--;
  if (f->sh && b.len) {
    const uint8_t *copy = arena_copy(&f->arena, b.ptr, b.len);
    if (copy) f->offers[q->i].statement = (Bytes){copy, b.len};
  }
  if (!reply) f->next = f->n; /* the tier is gone */
  if (f->sh)
    ask(f);
  else if (!f->outstanding)
    find_free(f);
}

static void ask(SharedFind *f) {
  Shared *sh = f->sh;
  char key[SHARED_KEY];
  while (f->next < f->n && f->outstanding < AT_ONCE) {
    const Offer *o = &f->offers[f->next];
    const Str args[] = {STR("GET"), shared_key(key, "s", o->kernel, o->target)};
    bool late = clock_now_ns() >= f->deadline_ns;
    if (late || !shared_command(sh, args, 2, on_answer, &f->questions[f->next])) {
      f->next = f->n;
      break;
    }
    f->next++;
    f->outstanding++;
  }
  if (f->outstanding) return;
  f->job = store_take_offers(sh->server->store, f->offers, f->n, sh->set.nodes.at,
                             sh->set.nodes.len, on_offers, f);
  if (f->job) return;
  adopt_over(sh);
  find_free(f);
}

static bool add_kernels(SharedFind *f, const Executable *e) {
  const Kiln__V1__Plan *plan = e->artifact->plan;
  size_t n = plan->n_kernels;
  bool *called = arena_array(&f->arena, n + 1, sizeof *called);
  f->questions = arena_array(&f->arena, n + 1, sizeof *f->questions);
  f->offers = arena_array(&f->arena, n + 1, sizeof *f->offers);
  f->kernels = arena_array(&f->arena, n + 1, sizeof *f->kernels);
  if (!called || !f->questions || !f->offers || !f->kernels) return false;
  for (size_t i = 0; i < plan->n_calls; i++) /* what is done once is not worth it */
    if (!plan->calls[i]->once && plan->calls[i]->kernel < n) called[plan->calls[i]->kernel] = true;
  for (size_t i = 0; i < n; i++) {
    if (!called[i]) continue;
    f->questions[f->n] = (Question){f, f->n};
    f->kernels[f->n] = (uint32_t)i;
    f->offers[f->n++] = (Offer){.kernel = plan->kernels[i]->hash.data,
                                .target = device_lane_fingerprint(e->device)};
  }
  return true;
}

static void begin(Shared *sh, Executable *e) {
  SharedFind *f = calloc(1, sizeof *f);
  e->adopt_due = false;
  e->adopt_asked_ns = clock_now_ns();
  if (!f) return;
  arena_init(&f->arena, 0);
  if (!add_kernels(f, e) || !f->n) {
    find_free(f);
    return;
  }
  f->sh = sh;
  f->deadline_ns =
      e->adopt_asked_ns + TIMEOUTS * (int64_t)sh->server->config.shared_timeout_ms * 1000000;
  sh->find = f;
  sh->adopted = executable_retain(e);
  ask(f);
}

/* -- when ---------------------------------------------------------------------------------------
 */

bool shared_has(const Shared *sh, const Executable *e) {
  return sh && !sh->off && !e->private_ && e->tenant->store == sh->server->store;
}

static void next_due(Shared *sh) {
  int64_t now = clock_now_ns();
  if (sh->adopted || sh->state != LINK_UP) return;
  for (Executable *e = sh->server->executables.newest; e; e = e->older) {
    if (!e->adopt_due || (e->adopt_asked_ns && now - e->adopt_asked_ns < AGAIN_NS)) continue;
    begin(sh, e);
    return;
  }
}

void shared_offered_for(Shared *sh, Executable *e) {
  if (!shared_has(sh, e)) return;
  e->adopt_due = true;
  next_due(sh);
}

void shared_adopt_all(Shared *sh) {
  for (Executable *e = sh->server->executables.newest; e; e = e->older)
    e->adopt_due |= shared_has(sh, e);
}

static bool has_kernel(const Executable *e, const uint8_t *kernel) {
  const Kiln__V1__Plan *plan = e->artifact->plan;
  for (size_t i = 0; i < plan->n_kernels; i++)
    if (!memcmp(plan->kernels[i]->hash.data, kernel, DIGEST_BYTES)) return true;
  return false;
}

void shared_adopt_news(Shared *sh, Bytes payload) {
  if (payload.len != SHARED_NEWS) return;
  const uint8_t *target = payload.ptr + DIGEST_BYTES;
  for (Executable *e = sh->server->executables.newest; e; e = e->older)
    if (shared_has(sh, e) && !memcmp(device_lane_fingerprint(e->device), target, DIGEST_BYTES) &&
        has_kernel(e, payload.ptr))
      e->adopt_due = true;
}

void shared_adopt_tick(Shared *sh) {
  next_due(sh);
  tell_waits(sh);
}

void shared_stop(Shared *sh) {
  if (!sh) return;
  if (sh->find) {
    SharedFind *f = sh->find;
    f->sh = NULL;
    sh->find = NULL;
    if (!f->outstanding) find_free(f); /* else the last answer does */
  }
  if (sh->adopting) tune_cancel(sh->adopting);
  if (sh->adopted) adopt_over(sh);
}
