/* What all searches share: whose turn it is, the processes that work for them, and when a search
 * begins that nobody asked for.
 *
 * One search at a time works on a round, so nothing of the tuner is compiled while a kernel is
 * timed. No step begins while a client waits for a run or a compile: a search in the background
 * waits as long as that takes, one that a client asked for only a moment. In the background compile
 * and timing workers run on idle processors only (SCHED_IDLE) and are stopped where they are as
 * soon as a request arrives: they would take memory bandwidth and caches even so. A pause follows
 * every round so that the share of the processor is kept, and the hour has its limit; time in which
 * they are stopped counts for neither, nor for the search's budget.
 *
 * A device that is never left alone is shared: what runs in the background is a tenant of its
 * queue, of little weight, and when its turn comes it has the device and the processors for a
 * moment. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "daemon/server/caches.h"
#include "daemon/server/metrics_sample.h"
#include "daemon/server/quota.h"
#include "daemon/server/request.h"
#include "daemon/server/tune_internal.h"

enum { TICK_MS = 10, QUIET_MS = 3, KEEP_WORKERS_SECONDS = 60, BACKGROUND_AFTER_RUNS = 3 };
enum { SLICE_MS = 10, TUNING_TENANT = 1 << 30 }; /* no tenant has that number */
/* After so long without a moment to itself the background asks for its turn. */
#define STARVED_NS  1000000000ll
#define WEIGHT      0.01
#define PATIENCE_NS 250000000ll
#define SESSION_NS  30000000000ll
#define HOUR_NS     3600000000000ll
#define SECOND_NS   1000000000ll

/* -- turns --------------------------------------------------------------------------------------
 */

static bool foreground(const Server *s) {
  for (const Request *r = s->requests; r; r = r->next)
    if (r->state > RS_READING && r->state < RS_STREAMING) return true;
  return compile_pool_busy(s->pool);
}

bool tuner_may_step(Tuner *t, Tune *tune) {
  int64_t now = clock_now_ns();
  bool background = tune->spec.background;
  if (t->turn && t->turn != tune) return false;
  if (background && (t->paused_ns || now < t->not_before_ns)) return false;
  if (!tune->waiting_since_ns) tune->waiting_since_ns = now;
  bool patient = background || now - tune->waiting_since_ns < PATIENCE_NS;
  bool turn = background && t->slice_ns;
  if (patient && !turn && foreground(t->server)) return false;
  tune->waiting_since_ns = 0;
  t->turn = tune;
  return true;
}

/* Behind the others. */
static void move_back(Tuner *t, Tune *tune) {
  Tune **last = &t->tunes;
  if ((*tune->link = tune->next)) tune->next->link = tune->link;
  while (*last) last = &(*last)->next;
  *last = tune;
  tune->link = last;
  tune->next = NULL;
}

void tuner_stepped(Tuner *t, Tune *tune, int64_t ns) {
  if (t->turn == tune) t->turn = NULL;
  move_back(t, tune);
  if (tune->spec.adopt) return;
  if (!tune->spec.background) quota_tuned(tune->spec.exe->tenant, ns);
  if (!tune->spec.background) return;
  uint64_t share = t->server->config.tuning_share;
  ns = ns > t->paused_step_ns ? ns - t->paused_step_ns : 0;
  t->paused_step_ns = 0;
  t->hour_used_ns += ns;
  t->used_ns += ns;
  t->not_before_ns = clock_now_ns() + ns * (int64_t)(100 - share) / (int64_t)share;
}

static void on_tick(uv_timer_t *timer) {
  Tuner *t = timer->data;
  bool waiting = false;
  for (Tune *at = t->tunes, *next; at; at = next) {
    next = at->next; /* resuming may end this one; others end by callbacks of their own */
    if (!at->waiting) continue;
    if (!tuner_may_step(t, at)) {
      waiting = true;
      continue;
    }
    at->waiting = false;
    at->resume(at);
  }
  if (waiting && !uv_is_active((uv_handle_t *)timer)) uv_timer_start(timer, on_tick, TICK_MS, 0);
}

void tuner_wake(Tuner *t) { uv_timer_start(&t->tick, on_tick, 0, 0); }

/* -- giving way ---------------------------------------------------------------------------------
 */

static void resume_background(Tuner *t) {
  int64_t ns = clock_now_ns() - t->paused_ns;
  t->paused_ns = 0;
  t->paused_step_ns += ns;
  if (t->background) t->background->deadline_ns += ns;
  supervisor_pause(t->server->supervisor, false);
}

/* The loan is over, or not wanted any more. */
static void give_back(Tuner *t) {
  if (!t->loan) return;
  uv_timer_stop(&t->slice);
  if (t->slice_ns)
    device_lane_return(t->lender, t->loan, clock_now_ns() - t->slice_ns);
  else
    device_lane_cancel(t->lender, t->loan);
  t->loan = NULL;
  t->slice_ns = 0;
}

static void on_quiet(uv_timer_t *timer);

static void pause_background(Tuner *t) {
  t->paused_ns = clock_now_ns();
  supervisor_pause(t->server->supervisor, true);
  uv_timer_start(&t->quiet, on_quiet, QUIET_MS, 0);
}

static void on_slice_end(uv_timer_t *timer) {
  Tuner *t = timer->data;
  give_back(t);
  pause_background(t);
}

static void on_turn(void *ctx, DeviceJob *job, Message *m, Status st) {
  Tuner *t = ctx;
  (void)job;
  (void)m;
  if (st) {
    status_drop(st);
    t->loan = NULL;
    return;
  }
  t->slice_ns = clock_now_ns();
  uv_timer_stop(&t->quiet);
  uv_timer_start(&t->slice, on_slice_end, SLICE_MS, 0);
  resume_background(t);
  tuner_wake(t);
}

static void ask_turn(Tuner *t) {
  DeviceJob *job = t->background ? device_job_create() : NULL;
  if (!job) return;
  job->lends = true;
  job->from = (FairSource){.tenant = TUNING_TENANT, .session = 1, .weight = WEIGHT};
  job->level = FAIR_NORMAL;
  job->done = on_turn;
  job->ctx = t;
  t->lender = t->background_exe->device;
  Status st = device_lane_submit(t->lender, job);
  if (!st) t->loan = job;
  status_drop(st); /* another time */
}

static void on_quiet(uv_timer_t *timer) {
  Tuner *t = timer->data;
  int64_t now = clock_now_ns(), since = (now - t->disturbed_ns) / 1000000;
  if (since >= QUIET_MS && !foreground(t->server)) {
    give_back(t);
    resume_background(t);
    return;
  }
  if (!t->loan && now - t->paused_ns >= STARVED_NS) ask_turn(t);
  uv_timer_start(timer, on_quiet, since < QUIET_MS ? QUIET_MS - (uint64_t)since : QUIET_MS, 0);
}

void tuner_give_way(Tuner *t) {
  if (!t || !t->background) return;
  t->disturbed_ns = clock_now_ns();
  if (!t->paused_ns && !t->slice_ns) pause_background(t);
}

void tuner_timed(Tuner *t, const Tune *tune) {
  Server *s = t->server;
  bool background = tune->spec.background;
  int64_t paused = background ? t->paused_step_ns - tune->timing_paused_ns : 0;
  int64_t ns = clock_now_ns() - tune->timing_ns - paused;
  if (ns < 0) ns = 0;
  unsigned device = metrics_device(s, tune->spec.exe->device);
  uint64_t *total = background ? s->metrics.background_seconds_total[device]
                               : s->metrics.tuning_seconds_total[device];
  *total += (uint64_t)ns;
  if (background) t->device_ns += ns;
}

void tuner_used(const Tuner *t, int64_t *device_ns, int64_t *ns) {
  *device_ns = t ? t->device_ns : 0;
  *ns = t ? t->used_ns : 0;
}

/* -- workers ------------------------------------------------------------------------------------
 */

CompilePool *tuner_pool(Tuner *t, bool background) {
  Server *s = t->server;
  if (!background) return s->pool;
  CompilePoolSpec spec = {.supervisor = s->supervisor,
                          .workers = 1,
                          .strict = s->config.strict_isolation,
                          .max_queue = s->config.max_queue,
                          .memory_bytes = s->config.compile_memory,
                          .seconds = (uint32_t)s->config.compile_seconds,
                          .background = true};
  if (!t->pool) status_drop(compile_pool_create(&spec, &t->pool)); /* NULL without memory */
  return t->pool;
}

static size_t device_index(const Server *s, const DeviceLane *device) {
  size_t i = 0;
  while (i < s->ndevices && strcmp(device_lane_name(s->devices[i]), device_lane_name(device)) != 0)
    i++; /* a tenant's own worker is on the same device */
  return i;
}

TimingLane *tuner_lane(Tuner *t, const DeviceLane *device, bool background) {
  Server *s = t->server;
  size_t i = device_index(s, device);
  if (i == s->ndevices) return NULL;
  TimingLane **lane = &t->lanes[i][background];
  TimingLaneSpec spec = {.supervisor = s->supervisor,
                         .device = device_lane_name(device),
                         .memory_bytes = s->config.timing_memory,
                         .background = background};
  if (!*lane) status_drop(timing_lane_create(&spec, lane));
  return *lane;
}

/* -- what machines can do -----------------------------------------------------------------------
 */

DevicePeaks *tuner_peaks(Tuner *t, const DeviceLane *device) {
  size_t i = t ? device_index(t->server, device) : 0;
  return t && i < t->server->ndevices ? &t->peaks[i] : NULL;
}

static void on_target_text(void *ctx, Str text) {
  DevicePeaks *p = ctx;
  p->lookup = NULL;
  p->looked = true;
  p->known = peaks_parse(text, &p->at);
  caches_put_target(p->server, p->device);
}

void tuner_device_up(Tuner *t, const DeviceLane *device) {
  DevicePeaks *p = tuner_peaks(t, device);
  const uint8_t *now = device_lane_fingerprint(device);
  if (!p || p->lookup || (p->looked && !memcmp(p->fingerprint, now, DIGEST_BYTES))) return;
  *p = (DevicePeaks){.server = t->server, .device = device};
  memcpy(p->fingerprint, now, DIGEST_BYTES);
  p->lookup = store_get_target(t->server->store, now, on_target_text, p);
  if (!p->lookup) caches_put_target(t->server, device);
}

static void drop_workers(Tuner *t) {
  for (size_t i = 0; i < CONFIG_LIST_MAX; i++)
    for (size_t b = 0; b < 2; b++) {
      timing_lane_release(t->lanes[i][b]);
      t->lanes[i][b] = NULL;
    }
  compile_pool_release(t->pool);
  t->pool = NULL;
}

/* -- in the background --------------------------------------------------------------------------
 */

static void on_background_done(void *ctx, const Kiln__V1__TuneSummary *m, Status st) {
  Tuner *t = ctx;
  Executable *e = t->background_exe;
  /* one that is searched through, or that a whole session did not make faster, is left alone */
  if (!m || !m->replaced || !strcmp(m->ended, "exhausted")) e->tuned = true;
  status_drop(st);
  give_back(t);
  t->background = NULL;
  t->background_exe = NULL;
  executable_release(e);
}

static void end_background(Tuner *t) {
  Executable *e = t->background_exe;
  if (!t->background) return;
  give_back(t);
  tune_cancel(t->background);
  t->background = NULL;
  t->background_exe = NULL;
  executable_release(e);
}

static bool wanted(const Tuner *t, const Executable *e) {
  const Config *c = &t->server->config;
  int64_t after = (int64_t)c->tuning_after * SECOND_NS;
  return !e->tuned && !e->private_ && e->used >= BACKGROUND_AFTER_RUNS && e->used > e->tuned_at &&
         device_lane_status(e->device).available && clock_now_ns() - e->first_used_ns >= after;
}

static void begin_background(Tuner *t) {
  Server *s = t->server;
  Executable *best = NULL;
  for (Executable *e = s->executables.newest; e; e = e->older)
    if (wanted(t, e) && (!best || e->used - e->tuned_at > best->used - best->tuned_at)) best = e;
  if (!best) return;
  TuneSpec spec = {.exe = best,
                   .budget_ns = SESSION_NS * 100 / (int64_t)s->config.tuning_share,
                   .seed = best->used,
                   .background = true,
                   .done = on_background_done,
                   .ctx = t};
  best->tuned_at = best->used;
  t->background_exe = executable_retain(best);
  Status st = tune_start(s, &spec, &t->background);
  if (!st) return;
  status_drop(st); /* another time */
  t->background_exe = NULL;
  executable_release(best);
}

bool tuner_next_load(const Tuner *t, const Tune **at, TuneLoad *out) {
  const Tune *k = *at = *at ? (*at)->next : t ? t->tunes : NULL;
  if (!k) return false;
  int64_t left = k->deadline_ns - clock_now_ns();
  *out = (TuneLoad){.tenant = k->spec.exe->tenant,
                    .model = k->spec.exe->name,
                    .kernel = k->at ? k->at->plan->name : "",
                    .step = k->step ? k->step : "",
                    .background = k->spec.background,
                    .tried = k->tried,
                    .replaced = k->replaced,
                    .left_ns = left > 0 ? left : 0};
  return true;
}

size_t tuner_searches(const Tuner *t) { return t ? t->ntunes : 0; }

void tuner_housekeeping(Tuner *t) {
  const Config *c = &t->server->config;
  int64_t now = clock_now_ns();
  if (now - t->hour_began_ns >= HOUR_NS) {
    t->hour_began_ns = now;
    t->hour_used_ns = 0;
  }
  bool spent = t->hour_used_ns >= (int64_t)c->tuning_seconds * SECOND_NS;
  /* a client's search comes first, and nobody will run what is unloaded */
  if (t->background && (t->ntunes > 1 || spent || !t->background_exe->registered))
    end_background(t);
  if (c->tuning && !spent && !t->ntunes) begin_background(t);
  t->idle_seconds = t->ntunes ? 0 : t->idle_seconds + 1;
  if (t->idle_seconds == KEEP_WORKERS_SECONDS) drop_workers(t);
}

/* -- life ---------------------------------------------------------------------------------------
 */

Status tuner_create(Server *s, Tuner **out) {
  Tuner *t = *out = calloc(1, sizeof *t);
  if (!t) return FAIL(RESOURCE_EXHAUSTED, "tuner");
  t->server = s;
  t->hour_began_ns = clock_now_ns();
  uv_timer_init(&s->loop, &t->tick);
  uv_timer_init(&s->loop, &t->quiet);
  uv_timer_init(&s->loop, &t->slice);
  t->tick.data = t->quiet.data = t->slice.data = t;
  t->open_handles = 3;
  return NULL;
}

static void on_closed(uv_handle_t *handle) {
  Tuner *t = handle->data;
  if (!--t->open_handles) free(t);
}

void tuner_release(Tuner *t) {
  if (!t) return;
  end_background(t);
  drop_workers(t);
  for (size_t i = 0; i < CONFIG_LIST_MAX; i++)
    if (t->peaks[i].lookup) store_forget(t->peaks[i].lookup);
  uv_close((uv_handle_t *)&t->tick, on_closed);
  uv_close((uv_handle_t *)&t->quiet, on_closed);
  uv_close((uv_handle_t *)&t->slice, on_closed);
}
