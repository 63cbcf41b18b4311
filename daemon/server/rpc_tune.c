/* Tune: a search that a client asked for and watches. It ends with the call. */
#include "base/clock.h"
#include "daemon/server/answers.h"
#include "daemon/server/quota.h"
#include "daemon/server/rpc.h"
#include "daemon/server/tune.h"

#define DEFAULT_NS 60000000000ll
#define BUDGET_MAX 86400000000000ll /* a day */

/* Progress is left out when the client does not read it; the summary never is. */
static void on_progress(void *ctx, const Kiln__V1__TuneProgress *m) {
  Request *r = ctx;
  Kiln__V1__TuneResponse response = KILN__V1__TUNE_RESPONSE__INIT;
  if (answers_clogged(r->conn)) return;
  response.part_case = KILN__V1__TUNE_RESPONSE__PART_PROGRESS;
  response.progress = (Kiln__V1__TuneProgress *)(uintptr_t)m;
  request_send(r, &response.base);
}

static void on_done(void *ctx, const Kiln__V1__TuneSummary *m, Status st) {
  Request *r = ctx;
  Kiln__V1__TuneResponse response = KILN__V1__TUNE_RESPONSE__INIT;
  r->work = NULL; /* the search ends by itself */
  response.part_case = KILN__V1__TUNE_RESPONSE__PART_SUMMARY;
  response.summary = (Kiln__V1__TuneSummary *)(uintptr_t)m;
  if (m) request_send(r, &response.base);
  request_finish(r, st);
}

static Status begin(Request *r, const Kiln__V1__TuneRequest *m) {
  TuneSpec spec = {.budget_ns = m->budget_ns ? m->budget_ns : DEFAULT_NS,
                   .seed = m->seed,
                   .progress = on_progress,
                   .done = on_done,
                   .ctx = r};
  Tune *tune;
  if (m->budget_ns < 0 || m->budget_ns > BUDGET_MAX)
    return FAIL(INVALID_ARGUMENT, "a budget of %lld ns; expected at most a day, or 0 for a minute",
                (long long)m->budget_ns);
  TRY(registry_find(&r->server->executables, r->tenant, m->executable, &spec.exe));
  TRY(quota_tune(r->tenant, clock_now_ns()));
  TRY(tune_start(r->server, &spec, &tune));
  r->work = tune;
  request_move(r, RS_STREAMING);
  return NULL;
}

static void tune_message(Request *r, Bytes msg) {
  const Kiln__V1__TuneRequest *m = request_decode(r, msg);
  if (!m) return;
  Status st = begin(r, m);
  if (st) request_finish(r, st);
}

static void tune_release(Request *r) {
  if (r->work) tune_cancel(r->work);
}

const Method rpc_tune = {.path = "/kiln.v1.Kiln/Tune",
                         .request = &kiln__v1__tune_request__descriptor,
                         .message = tune_message,
                         .release = tune_release};
