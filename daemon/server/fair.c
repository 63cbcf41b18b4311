/* Each flow has a start: the virtual time at which its next job begins. The flow with the smallest
 * start goes next; a job of c nanoseconds moves its start on by c / weight. A flow that becomes
 * active starts at its set's virtual time, or where its last job ended if that is later: having
 * been idle earns nothing, and having been served is not forgotten. Virtual time is the start of
 * the job that was chosen; when nothing waits or runs, it is the latest end of all.
 *
 * What a job costs is known afterwards only. Its estimate is charged when it is chosen, so that a
 * burst cannot pass as free, and the difference when it is done.
 *
 * Switching between executables makes a device read other weights, so the session that was last may
 * go on with the same executable while its tenant and itself are ahead by no more than the slack:
 * that bounds both how long others wait for it and how far shares differ at any time.
 *
 * Sessions come and go with connections. One without jobs is dropped when virtual time has passed
 * its start, for then nothing is lost; beyond FORGET of them also before. */
#include "daemon/server/fair.h"

#include <assert.h>
#include <stdlib.h>

enum { SWEEP = 64, FORGET = 4096 };

typedef struct FairFifo {
  FairJob *first, *last;
} FairFifo;

struct FairSession {
  FairTenant *tenant;
  uint64_t id;
  FairFlow flow[FAIR_LEVELS];
  FairFifo jobs[FAIR_LEVELS];
  size_t held; /* jobs waiting or taken */
};

struct FairTenant {
  uint64_t id;
  FairFlow flow;
  FairSet level[FAIR_LEVELS]; /* of flows of sessions */
  Map sessions;
  size_t waiting, running, busy; /* busy: sessions with jobs */
  size_t waiting_at[FAIR_LEVELS];
  size_t sweep_at;
};

/* -- heap of flows ------------------------------------------------------------------------------
 */

static void put(FairSet *s, size_t i, FairFlow *f) {
  s->heap[i] = f;
  f->at = i + 1;
}

static void sift_up(FairSet *s, size_t i) {
  FairFlow *f = s->heap[i];
  for (size_t up; i && s->heap[up = (i - 1) / 2]->start > f->start; i = up) put(s, i, s->heap[up]);
  put(s, i, f);
}

static void sift_down(FairSet *s, size_t i) {
  FairFlow *f = s->heap[i];
  for (size_t down; (down = 2 * i + 1) < s->len; i = down) {
    if (down + 1 < s->len && s->heap[down + 1]->start < s->heap[down]->start) down++;
    if (s->heap[down]->start >= f->start) break;
    put(s, i, s->heap[down]);
  }
  put(s, i, f);
}

static bool set_reserve(FairSet *s) {
  if (s->len < s->cap) return true;
  size_t cap = s->cap ? 2 * s->cap : 8;
  FairFlow **heap = realloc(s->heap, cap * sizeof *heap);
  if (!heap) return false;
  s->heap = heap;
  s->cap = cap;
  return true;
}

/* There is room. */
static void set_enter(FairSet *s, FairFlow *f) {
  if (f->start < s->now) f->start = s->now;
  s->heap[s->len++] = f;
  sift_up(s, s->len - 1);
}

static void set_leave(FairSet *s, FairFlow *f) {
  size_t i = f->at - 1;
  FairFlow *last = s->heap[--s->len];
  f->at = 0;
  if (last == f) return;
  put(s, i, last);
  sift_up(s, i);
  sift_down(s, last->at - 1);
}

/* The flow is charged, or given back what it did not use. */
static void set_charge(FairSet *s, FairFlow *f, double ns) {
  f->start += ns / f->weight;
  if (f->start > s->finish) s->finish = f->start;
  if (!f->at) return;
  sift_up(s, f->at - 1);
  sift_down(s, f->at - 1);
}

/* Nobody waits and nobody runs: what came before is over. */
static void set_rest(FairSet *s) {
  if (s->finish > s->now) s->now = s->finish;
}

static FairFlow *set_first(const FairSet *s) { return s->len ? s->heap[0] : NULL; }

/* -- tenants and sessions -----------------------------------------------------------------------
 */

static void session_free(FairQueue *q, FairSession *s) {
  if (q->last == s) q->last = NULL;
  free(s);
}

static bool session_settled(const FairTenant *t, const FairSession *s) {
  for (int l = 0; l < FAIR_LEVELS; l++)
    if (s->flow[l].start > t->level[l].now) return false;
  return true;
}

/* Drops sessions that are gone, or have been idle for so long that it makes no difference. */
static void sweep(FairQueue *q, FairTenant *t) {
  Map kept = {0};
  MapSlot *slot;
  bool forget = t->sessions.len > t->busy + FORGET;
  for (size_t i = 0; map_next(&t->sessions, &i, &slot);) {
    FairSession *s = slot->value;
    if (!s->held && (forget || session_settled(t, s))) continue;
    if (map_put(&kept, s->id, s)) continue;
    map_deinit(&kept); /* without memory: another time */
    return;
  }
  for (size_t i = 0; map_next(&t->sessions, &i, &slot);)
    if (!map_find(&kept, slot->key)) session_free(q, slot->value);
  map_deinit(&t->sessions);
  t->sessions = kept;
  t->sweep_at = 2 * kept.len + SWEEP;
}

static FairTenant *tenant_get(FairQueue *q, const FairSource *from) {
  FairTenant *t = map_find(&q->by_id, from->tenant);
  if (!t && (t = calloc(1, sizeof *t))) {
    *t = (FairTenant){.id = from->tenant, .flow = {.owner = t}, .sweep_at = SWEEP};
    if (!map_put(&q->by_id, t->id, t)) {
      free(t);
      return NULL;
    }
  }
  if (t) t->flow.weight = from->weight > 0 ? from->weight : 1;
  return t;
}

static FairSession *session_get(FairQueue *q, FairTenant *t, uint64_t id) {
  FairSession *s = map_find(&t->sessions, id);
  if (s) return s;
  if (t->sessions.len >= t->sweep_at) sweep(q, t);
  if (!(s = calloc(1, sizeof *s))) return NULL;
  *s = (FairSession){.tenant = t, .id = id};
  for (int l = 0; l < FAIR_LEVELS; l++) s->flow[l] = (FairFlow){.weight = 1, .owner = s};
  if (map_put(&t->sessions, id, s)) return s;
  free(s);
  return NULL;
}

void fair_deinit(FairQueue *q) {
  MapSlot *slot, *inner;
  for (size_t i = 0; map_next(&q->by_id, &i, &slot);) {
    FairTenant *t = slot->value;
    for (size_t k = 0; map_next(&t->sessions, &k, &inner);) session_free(q, inner->value);
    for (int l = 0; l < FAIR_LEVELS; l++) free(t->level[l].heap);
    map_deinit(&t->sessions);
    free(t);
  }
  map_deinit(&q->by_id);
  free(q->tenants.heap);
  *q = (FairQueue){.last = NULL};
}

/* -- jobs ---------------------------------------------------------------------------------------
 */

Status fair_push(FairQueue *q, FairJob *job, const FairSource *from) {
  assert(job->level < FAIR_LEVELS && job->estimate_ns >= 0);
  job->session = NULL;
  FairTenant *t = tenant_get(q, from);
  FairSession *s = t ? session_get(q, t, from->session) : NULL;
  if (!s || !set_reserve(&q->tenants) || !set_reserve(&t->level[job->level]))
    return FAIL(RESOURCE_EXHAUSTED, "no memory for the queue");
  FairFifo *jobs = &s->jobs[job->level];
  job->session = s;
  job->waiting = true;
  job->next = NULL;
  if ((job->prev = jobs->last))
    jobs->last->next = job;
  else
    jobs->first = job;
  jobs->last = job;
  if (!s->held++) t->busy++;
  t->waiting++;
  t->waiting_at[job->level]++;
  q->len++;
  if (!s->flow[job->level].at) set_enter(&t->level[job->level], &s->flow[job->level]);
  if (!t->flow.at) set_enter(&q->tenants, &t->flow);
  return NULL;
}

/* Takes a waiting job out of its session's line. */
static void unlink_job(FairQueue *q, FairJob *job) {
  FairSession *s = job->session;
  FairTenant *t = s->tenant;
  FairFifo *jobs = &s->jobs[job->level];
  *(job->prev ? &job->prev->next : &jobs->first) = job->next;
  *(job->next ? &job->next->prev : &jobs->last) = job->prev;
  job->next = job->prev = NULL;
  job->waiting = false;
  t->waiting--;
  t->waiting_at[job->level]--;
  q->len--;
  if (!jobs->first) set_leave(&t->level[job->level], &s->flow[job->level]);
  if (!t->waiting) set_leave(&q->tenants, &t->flow);
}

/* The queue has no more to do with the job. */
static void let_go(FairQueue *q, FairJob *job) {
  FairSession *s = job->session;
  FairTenant *t = s->tenant;
  job->session = NULL;
  if (!--s->held) t->busy--;
  for (int l = 0; l < FAIR_LEVELS && !t->waiting && !t->running; l++) set_rest(&t->level[l]);
  if (!q->len && !q->running) set_rest(&q->tenants);
}

static uint8_t top_level(const FairTenant *t) {
  uint8_t l = 0;
  while (!t->level[l].len) l++;
  return l;
}

/* The session that was last may go on. */
static bool may_go_on(const FairQueue *q, double slack) {
  const FairSession *s = q->last;
  uint8_t l = q->last_level;
  if (!s || !q->last_kind || !s->jobs[l].first || s->jobs[l].first->kind != q->last_kind)
    return false;
  const FairTenant *t = s->tenant;
  const FairSet *set = &t->level[l];
  return top_level(t) == l &&
         t->flow.start <= set_first(&q->tenants)->start + slack / t->flow.weight &&
         s->flow[l].start <= set_first(set)->start + slack;
}

FairJob *fair_next(const FairQueue *q, int64_t slack_ns) {
  if (!q->len || !may_go_on(q, (double)slack_ns)) return fair_first(q);
  return q->last->jobs[q->last_level].first;
}

FairJob *fair_take(FairQueue *q, int64_t slack_ns) {
  FairJob *job = fair_next(q, slack_ns);
  if (!job) return NULL;
  FairSession *s = job->session;
  FairTenant *t = s->tenant;
  uint8_t l = job->level;
  FairSet *set = &t->level[l];
  q->tenants.now = set_first(&q->tenants)->start;
  set->now = set_first(set)->start;
  unlink_job(q, job);
  set_charge(&q->tenants, &t->flow, (double)job->estimate_ns);
  set_charge(set, &s->flow[l], (double)job->estimate_ns);
  t->running++;
  q->running++;
  q->last = s;
  q->last_level = l;
  q->last_kind = job->kind;
  return job;
}

void fair_done(FairQueue *q, FairJob *job, int64_t measured_ns) {
  FairSession *s = job->session;
  FairTenant *t = s->tenant;
  double more = (double)measured_ns - (double)job->estimate_ns;
  assert(!job->waiting);
  set_charge(&q->tenants, &t->flow, more);
  set_charge(&t->level[job->level], &s->flow[job->level], more);
  t->running--;
  q->running--;
  let_go(q, job);
}

Status fair_put_back(FairQueue *q, FairJob *job) {
  FairSession *s = job->session;
  FairTenant *t = s->tenant;
  FairSet *set = &t->level[job->level];
  FairFifo *jobs = &s->jobs[job->level];
  assert(!job->waiting);
  if (!set_reserve(&q->tenants) || !set_reserve(set))
    return FAIL(RESOURCE_EXHAUSTED, "no memory for the queue");
  set_charge(&q->tenants, &t->flow, -(double)job->estimate_ns);
  set_charge(set, &s->flow[job->level], -(double)job->estimate_ns);
  t->running--;
  q->running--;
  job->waiting = true;
  job->prev = NULL;
  *((job->next = jobs->first) ? &job->next->prev : &jobs->last) = job;
  jobs->first = job;
  t->waiting++;
  t->waiting_at[job->level]++;
  q->len++;
  if (!s->flow[job->level].at) set_enter(set, &s->flow[job->level]);
  if (!t->flow.at) set_enter(&q->tenants, &t->flow);
  return NULL;
}

bool fair_before(const FairJob *job, const FairJob *than) {
  const FairTenant *a = job->session->tenant, *b = than->session->tenant;
  return a != b && a->flow.start < b->flow.start;
}

bool fair_alone(const FairJob *job) {
  return job->session->tenant->waiting + job->session->tenant->running == 1;
}

void fair_remove(FairQueue *q, FairJob *job) {
  assert(job->waiting);
  unlink_job(q, job);
  let_go(q, job);
}

size_t fair_waiting(const FairQueue *q, uint64_t tenant) {
  const FairTenant *t = map_find(&q->by_id, tenant);
  return t ? t->waiting : 0;
}

size_t fair_waiting_at(const FairQueue *q, uint64_t tenant, uint8_t level) {
  const FairTenant *t = map_find(&q->by_id, tenant);
  return t ? t->waiting_at[level] : 0;
}

double fair_share(const FairQueue *q, const FairSource *from) {
  double mine = from->weight > 0 ? from->weight : 1, all = mine;
  for (size_t i = 0; i < q->tenants.len; i++) {
    const FairTenant *t = q->tenants.heap[i]->owner;
    if (t->id != from->tenant) all += t->flow.weight;
  }
  return mine / all;
}

FairJob *fair_first(const FairQueue *q) {
  if (!q->len) return NULL;
  const FairTenant *t = set_first(&q->tenants)->owner;
  uint8_t l = top_level(t);
  const FairSession *s = set_first(&t->level[l])->owner;
  return s->jobs[l].first;
}
