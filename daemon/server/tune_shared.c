/* A search among others: before it begins, what other nodes know is checked, and nobody searches
 * what another node searches at the same time. */
#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/tune_internal.h"

#define GRACE_NS 5000000000ll /* the other node's budget may end a little later than ours */

static void ask_lease(void *ctx);

static void on_known(void *ctx) {
  Tune *t = ctx;
  t->shared_wait = NULL;
  tune_settled(t);
}

static void on_lease(void *ctx, LeaseAnswer answer, const char *node) {
  Tune *t = ctx;
  if (answer == LEASE_OURS) {
    tune_when_free(t, "look", tune_begin_step);
    return;
  }
  LOG_INFO(answer == LEASE_OTHERS ? "another node searches" : "another node has searched",
           "model_of=%s node=%s", t->spec.exe->tenant->name, node);
  t->shared_wait = shared_adopt(t->server->shared, t->spec.exe, on_known, t);
  if (!t->shared_wait) tune_when_free(t, "look", tune_settled);
}

static void ask_lease(void *ctx) {
  Tune *t = ctx;
  bool background = t->spec.background;
  LeaseSpec spec = {.graph = t->spec.exe->artifact->graph_hash,
                    .target = t->fingerprint,
                    .wait_until_ns = background ? 0 : t->deadline_ns + GRACE_NS,
                    .insists = !background,
                    .done = on_lease,
                    .ctx = t};
  t->shared_wait = NULL;
  t->lease = shared_lease(t->server->shared, &spec);
  if (!t->lease) tune_when_free(t, "look", tune_begin_step);
}

void tune_ask_others(Tune *t) {
  Shared *sh = t->server->shared;
  t->step = "others";
  if (!t->spec.adopt && shared_has(sh, t->spec.exe))
    t->shared_wait = shared_adopt(sh, t->spec.exe, ask_lease, t);
  if (!t->shared_wait) tune_when_free(t, "look", tune_begin_step);
}

void tune_leave_others(Tune *t) {
  bool over = t->exhausted || tune_over(t);
  if (t->shared_wait) shared_adopt_cancel(t->shared_wait);
  shared_lease_end(t->lease, t->exhausted ? LEASE_EXHAUSTED : over ? LEASE_DONE : LEASE_DROPPED);
  t->shared_wait = NULL;
  t->lease = NULL;
}

/* -- what they have found -----------------------------------------------------------------------
 */

/* A list without opts is spelt with a space where "" asks for the heuristic. */
static const char *spelt(const char *opts) { return opts + strspn(opts, " "); }

const char *tune_origin(const TuneKernel *k, const char *opts) {
  for (size_t i = 0; i < k->offers.len; i++)
    if (!strcmp(spelt(k->offers.at[i].opts), spelt(opts))) return k->offers.at[i].origin;
  return "";
}

void tune_check_offers(Tune *t, TuneKernel *k) {
  size_t n = k->offers.len;
  tune_round_reset(t);
  t->at = k;
  k->finished = true; /* after this round */
  t->candidates = n ? arena_array(&t->round, n + 1, sizeof *t->candidates) : NULL;
  if (!t->candidates) {
    tune_when_free(t, "look", tune_next);
    return;
  }
  t->step_ns = clock_now_ns();
  tune_report(t);
  for (size_t i = 0; i < n; i++) {
    kiln__v1__kernel_job__init(&t->candidates[i].message);
    t->candidates[i].message.opts = (char *)(uintptr_t)k->offers.at[i].opts;
  }
  tune_compile(t, n);
}
