/* Whose turn it is on a device. All jobs that wait for it are in one fair queue, also when tenants
 * have workers of their own there: then one worker works at a time. A turn lasts as long as the
 * next job is of the same worker, and ends when what was sent has been answered.
 *
 * Nobody waits for a worker that is down, or that has been at one job for more than TURN_NS (a
 * kernel of minutes, a load, a worker that hangs): its jobs are parked, the others go on beside it,
 * and what it took is charged when it answers. With one worker there is nobody to go on.
 *
 * What was sent cannot be overtaken any more, so little is sent ahead: enough that the device finds
 * the next job when it ends one, not more than AHEAD_NS of work or, when jobs are long, one job.
 * That one is called back when somebody comes who goes before it: if the worker has not begun with
 * it, it answers so, and the job waits again. */
#include <assert.h>
#include <stdlib.h>

#include "base/clock.h"
#include "daemon/server/device_lane_internal.h"

enum { IN_FLIGHT_MAX = 32, MICROSECOND = 1000, MILLISECOND = 1000 * MICROSECOND };
enum { RECALL_NS = 30 * MICROSECOND, TURN_NS = 100 * MILLISECOND };
enum { AHEAD_NS = 50 * MICROSECOND, AHEAD_ONE_NS = 2 * MILLISECOND };
/* A job that nothing is known of; the longest that an executable is preferred because its weights
 * are warm, and how fast they would be read again; what it is worth to stay with a worker. */
enum { UNKNOWN_NS = 200 * MICROSECOND, STICK_NS = 2 * MILLISECOND, WEIGHT_BYTES_PER_NS = 10 };
enum { SWITCH_NS = 100 * MICROSECOND };
static const FairSource own_source = {.tenant = UINT64_MAX, .session = 1, .weight = 1};

static DeviceJob *of_fair(FairJob *f) {
  return f ? (DeviceJob *)(void *)((char *)f - offsetof(DeviceJob, fair)) : NULL;
}

/* -- queues -------------------------------------------------------------------------------------
 */

void queue_push(DeviceQueue *q, DeviceJob *job) {
  job->next = NULL;
  *q->last = job;
  q->last = &job->next;
  q->len++;
}

DeviceJob *queue_pop(DeviceQueue *q) {
  DeviceJob *job = q->first;
  if (job && !(q->first = job->next)) q->last = &q->first;
  if (job) q->len--;
  return job;
}

void queue_remove(DeviceQueue *q, DeviceJob *job) {
  DeviceJob **at = &q->first;
  while (*at != job) at = &(*at)->next;
  if (!(*at = job->next)) q->last = at;
  q->len--;
}

static void queue_push_front(DeviceQueue *q, DeviceJob *job) {
  if (!(job->next = q->first)) q->last = &job->next;
  q->first = job;
  q->len++;
}

/* -- the lanes of a device ----------------------------------------------------------------------
 */

/* The loop looks whose turn it is whenever it was woken. */
static void on_overdue(uv_timer_t *timer) { (void)timer; }

static void on_closed(uv_handle_t *timer) { free(timer->data); }

Status turns_join(DeviceLane *l) {
  DeviceTurns *t = l->spec.beside ? l->spec.beside->turns : calloc(1, sizeof *t);
  if (!t) return FAIL(RESOURCE_EXHAUSTED, "device");
  if (!l->spec.beside) {
    uv_timer_init(l->spec.loop, &t->overdue);
    t->overdue.data = t;
  }
  l->turns = t;
  l->beside = t->lanes;
  t->lanes = l;
  t->nlanes++;
  return NULL;
}

/* The next job of those that wait, taken out; NULL when none does. */
static DeviceJob *take_out(DeviceTurns *t) {
  FairJob *f = fair_first(&t->waiting);
  if (f) fair_remove(&t->waiting, f);
  return of_fair(f);
}

void turns_leave(DeviceLane *l) {
  DeviceTurns *t = l->turns;
  DeviceLane **at = &t->lanes;
  if (t->lent) device_lane_return(t->lent->lane, t->lent, 0);
  for (DeviceJob *job; (job = take_out(t));) job_free(job->lane, job);
  for (DeviceJob *job; (job = queue_pop(&l->parked));) job_free(l, job);
  for (DeviceJob *job; (job = queue_pop(&l->again)); t->again--) job_free(l, job);
  if (t->turn == l) t->turn = NULL;
  while (*at != l) at = &(*at)->beside;
  *at = l->beside;
  if (--t->nlanes) return;
  fair_deinit(&t->waiting);
  uv_close((uv_handle_t *)&t->overdue, on_closed);
}

/* -- what waits ---------------------------------------------------------------------------------
 */

static void park(DeviceJob *job) {
  fair_remove(&job->lane->turns->waiting, &job->fair);
  job->parked = true;
  queue_push(&job->lane->parked, job);
}

static void unpark(DeviceLane *l) {
  for (DeviceJob *job; (job = queue_pop(&l->parked));) {
    job->parked = false;
    Status st = fair_push(&l->turns->waiting, &job->fair, &job->from);
    if (!st) continue;
    l->waiting--;
    job_finish(l, job, NULL, st);
  }
}

void turns_lane_up(DeviceLane *l) { unpark(l); }

void turns_answered(DeviceLane *l) {
  if (l->state == LS_UP) unpark(l);
}

static void refuse(DeviceLane *l, DeviceJob *job) {
  job_finish(l, job, NULL,
             FAIL(UNAVAILABLE, "device %s is out of service (%s)", l->spec.name, l->last_failure));
}

void turns_refuse(DeviceLane *l) {
  for (DeviceJob *job; (job = queue_pop(&l->again));) {
    l->turns->again--;
    refuse(l, job);
  }
  for (DeviceJob *job; (job = queue_pop(&l->parked));) {
    l->waiting--;
    refuse(l, job);
  }
}

void turns_again(DeviceLane *l, DeviceJob *job) {
  queue_push(&l->again, job);
  l->turns->again++;
}

void turns_put_back(DeviceLane *l, DeviceJob *job) {
  job->in_flight = false;
  if (!job->done) { /* cancelled meanwhile */
    job_free(l, job);
    return;
  }
  Status st = fair_put_back(&l->turns->waiting, &job->fair);
  if (st)
    job_finish(l, job, NULL, st);
  else
    l->waiting++;
}

void turns_forget(DeviceLane *l, DeviceJob *job) {
  if (job->fair.waiting || job->parked) {
    l->waiting--;
    if (job->parked)
      queue_remove(&l->parked, job);
    else
      fair_remove(&l->turns->waiting, &job->fair);
  } else if (job->submitted) {
    queue_remove(&l->again, job);
    l->turns->again--;
  }
}

/* Jobs of a tenant that wait. */
static size_t waiting_of(const DeviceLane *l, uint64_t tenant) {
  size_t n = fair_waiting(&l->turns->waiting, tenant);
  for (const DeviceJob *job = l->parked.first; job; job = job->next)
    n += job->from.tenant == tenant;
  return n;
}

/* When what waits now will have run, roughly. */
static int64_t backlog_ns(const DeviceLane *l) {
  const DeviceTurns *t = l->turns;
  return (int64_t)(t->waiting.len + l->parked.len) * (t->typical_ns ? t->typical_ns : UNKNOWN_NS);
}

int64_t device_lane_wait_ns(const DeviceLane *l, const FairSource *from, size_t *waiting) {
  const DeviceTurns *t = l->turns;
  double share = fair_share(&t->waiting, from);
  *waiting = waiting_of(l, from->tenant);
  double mine = (double)*waiting * (double)(t->typical_ns ? t->typical_ns : UNKNOWN_NS);
  int64_t own = (int64_t)(mine / share), all = backlog_ns(l);
  return (t->turn ? t->turn->flight_ns : 0) + (own < all ? own : all);
}

Status device_lane_admits(const DeviceLane *l, const FairSource *from) {
  if (l->state != LS_UP && l->failures >= PATIENCE)
    return FAIL(UNAVAILABLE, "device %s is out of service (%s)", l->spec.name, l->last_failure);
  size_t waiting = waiting_of(l, from->tenant);
  if (waiting < l->spec.max_queue) return NULL;
  return status_retry(FAIL(RESOURCE_EXHAUSTED,
                           "%zu runs wait for device %s already; try again later", waiting,
                           l->spec.name),
                      backlog_ns(l));
}

static Status admit(const DeviceLane *l, const DeviceJob *job) {
  if (job->deadline_ns && clock_now_ns() > job->deadline_ns)
    return FAIL(DEADLINE_EXCEEDED, "the deadline passed before the run could wait for device %s",
                l->spec.name);
  return device_lane_admits(l, &job->from);
}

static int64_t estimate(const DeviceJob *job) {
  if (job->env.body_case == KILN__V1__ENVELOPE__BODY__NOT_SET && !job->lends) return 0;
  return job->exe && job->exe->typical_ns ? job->exe->typical_ns : UNKNOWN_NS;
}

/* Calls back the job that was sent ahead of one that now waits and would have gone before it. */
static void recall(DeviceTurns *t, const DeviceJob *waiting) {
  DeviceLane *l = t->turn;
  if (!l || l->flight.len < 2 || l->recalled || fair_first(&t->waiting) != &waiting->fair) return;
  DeviceJob *last = l->flight.first;
  while (last->next) last = last->next;
  if (last->env.body_case != KILN__V1__ENVELOPE__BODY_RUN || !last->fair.session ||
      last->fair.estimate_ns < RECALL_NS || !fair_before(&waiting->fair, &last->fair))
    return;
  l->recalled = last;
  l->flight_ns -= last->fair.estimate_ns;
  recall_post(l->cancelled, last->env.id);
}

Status device_lane_submit(DeviceLane *l, DeviceJob *job) {
  if (!job->from.tenant) job->from = own_source;
  job->lane = l;
  job->fair = (FairJob){
      .kind = job->exe ? job->exe->id : 0, .level = job->level, .estimate_ns = estimate(job)};
  Status st = admit(l, job);
  if (!st) st = fair_push(&l->turns->waiting, &job->fair, &job->from);
  if (st) {
    job_free(l, job);
    return st;
  }
  job->submitted = true;
  l->waiting++;
  recall(l->turns, job);
  return NULL;
}

static int64_t smooth(int64_t before, int64_t now) {
  return before ? before + (now - before) / 8 : now;
}

void turns_measured(DeviceLane *l, const DeviceJob *job) {
  if (job->exe) job->exe->typical_ns = smooth(job->exe->typical_ns, job->measured_ns);
  l->turns->typical_ns = smooth(l->turns->typical_ns, job->measured_ns);
}

/* -- whose turn it is ---------------------------------------------------------------------------
 */

/* How long others will still wait for the lane; 0: not at all. */
static int64_t turn_left_ns(const DeviceLane *l) {
  if (!l->flight.len) return 0;
  if (l->turns->nlanes == 1) return INT64_MAX;
  int64_t since = l->flight.first->sent_ns;
  if (since < l->answered_ns) since = l->answered_ns;
  int64_t left = since + TURN_NS - clock_now_ns();
  return left > 0 ? left : 0;
}

/* The lane, or with NULL the owner of a loan, would work alone. */
static bool may_begin(const DeviceTurns *t, const DeviceLane *l) {
  return !t->turn || t->turn == l || !turn_left_ns(t->turn);
}

/* Somebody waits: the loop looks again when the turn has lasted too long. */
static void watch_turn(DeviceTurns *t) {
  int64_t left = t->turn ? turn_left_ns(t->turn) : 0;
  if (left > 0 && left < INT64_MAX && !uv_is_active((uv_handle_t *)&t->overdue))
    uv_timer_start(&t->overdue, on_overdue, (uint64_t)(left / MILLISECOND + 1), 0);
}

/* Another job may be sent although some are under way there. */
static bool room(const DeviceLane *l) {
  if (!l->flight.len) return true;
  if (l->flight.first->tried) return false;
  return l->flight.len < IN_FLIGHT_MAX &&
         l->flight_ns < (l->flight.len - (l->recalled != NULL) > 1 ? AHEAD_NS : AHEAD_ONE_NS);
}

/* The job may be sent behind those under way: what was tried before goes alone, and behind what was
 * called back waits the rest of its session. */
static bool takes(const DeviceLane *l, const DeviceJob *job) {
  if (job->tried && l->flight.len) return false;
  if (l->recalled && job->fair.session == l->recalled->fair.session) return false;
  return room(l);
}

/* Its worker does not take the job now, and nobody is to wait until it does. */
static bool stuck(const DeviceLane *l, const DeviceJob *job) {
  return l->state != LS_UP || (l->flight.len && !takes(l, job) && !turn_left_ns(l));
}

/* A lane that has jobs to be tried again: before all others, each that was tried before alone. */
static bool next_again(DeviceTurns *t, DeviceJob **out) {
  *out = NULL;
  if (!t->again) return false;
  for (DeviceLane *l = t->lanes; l; l = l->beside) {
    if (!l->again.first || stuck(l, l->again.first)) continue;
    if (may_begin(t, l) && takes(l, l->again.first)) {
      *out = queue_pop(&l->again);
      t->again--;
    }
    return true;
  }
  return false;
}

/* The next job; NULL when there is none, or it has to wait for those in flight. */
static DeviceJob *next_job(DeviceTurns *t) {
  DeviceJob *job;
  if (t->lent || next_again(t, &job)) return t->lent ? NULL : job;
  for (;;) {
    int64_t slack = t->turn && t->turn->recalled ? 0 : t->slack_ns;
    if (!(job = of_fair(fair_next(&t->waiting, slack)))) return NULL;
    DeviceLane *l = job->lane;
    if (stuck(l, job)) {
      park(job);
      if (l->state != LS_UP && l->failures >= PATIENCE) turns_refuse(l);
      continue;
    }
    if (!may_begin(t, l) || !takes(l, job)) return NULL;
    job = of_fair(fair_take(&t->waiting, slack));
    l->waiting--;
    return job;
  }
}

/* How long another executable is worth putting off: what it takes to read this one's weights, and
 * to wake another worker. */
static int64_t slack(const DeviceTurns *t, const Executable *e) {
  uint64_t ns = e ? (e->model->size + e->face->const_bytes) / WEIGHT_BYTES_PER_NS : 0;
  if (t->nlanes > 1 && ns < SWITCH_NS) ns = SWITCH_NS;
  return ns < STICK_NS ? (int64_t)ns : STICK_NS;
}

static Status begin(DeviceLane *l, DeviceJob *job) {
  if (job->deadline_ns && clock_now_ns() > job->deadline_ns)
    return FAIL(DEADLINE_EXCEEDED, "the deadline passed while the run waited for device %s",
                l->spec.name);
  l->turns->turn = l;
  l->turns->slack_ns = slack(l->turns, job->exe);
  return job_start(l, job);
}

bool device_lane_idle(const DeviceLane *l) {
  const DeviceTurns *t = l->turns;
  return !l->flight.len && !(t->turn && t->turn->flight.len) && !t->waiting.len && !t->again &&
         !l->parked.len && !t->lent;
}

static void flush(DeviceLane *l) {
  if (l && l->worker) worker_flush(l->worker);
}

/* Sends what may be sent; returns the lane to which something was and is not flushed. */
static DeviceLane *go(DeviceTurns *t) {
  DeviceLane *sent = NULL;
  for (DeviceJob *job; (job = next_job(t));) {
    DeviceLane *l = job->lane;
    if (sent != l) flush(sent);
    sent = l;
    if (job->lends) {
      t->lent = job;
      continue;
    }
    if (job->env.body_case == KILN__V1__ENVELOPE__BODY__NOT_SET) {
      job_finish(l, job, NULL, NULL);
      continue;
    }
    Status st = begin(l, job);
    if (status_code(st) == ST_UNAVAILABLE) {
      /* the worker has ended and nobody has said so yet: the next one gets the job */
      status_drop(st);
      queue_push_front(&l->again, job);
      t->again++;
      return sent;
    }
    if (st) job_finish(l, job, NULL, st);
  }
  if (t->lent && !t->lent_begun && may_begin(t, NULL)) {
    t->lent_begun = true;
    t->lent->done(t->lent->ctx, t->lent, NULL, NULL);
  }
  if (t->waiting.len || t->again || t->lent) watch_turn(t);
  return sent;
}

void device_lane_flush(DeviceLane *l) {
  flush(go(l->turns));
  flush(l);
}
