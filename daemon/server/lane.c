/* The loop swaps out the whole finished list under the lock and calls `done` without it, so sends
 * coalesce and a `done` may submit again. */
#include "daemon/server/lane.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct JobList {
  LaneJob *first, **last;
} JobList;

struct Lane {
  LaneSpec spec;
  uv_async_t async;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  JobList in, out;
  bool stop;
  void (*closed)(void *ctx);
  void *closed_ctx;
};

static void list_init(JobList *l) { *l = (JobList){.last = &l->first}; }

static void list_push(JobList *l, LaneJob *job) {
  job->next = NULL;
  *l->last = job;
  l->last = &job->next;
}

static LaneJob *list_take(JobList *l) {
  LaneJob *first = l->first;
  list_init(l);
  return first;
}

static void *lane_main(void *arg) {
  Lane *lane = arg;
  if (lane->spec.begin) lane->spec.begin(lane->spec.state);
  pthread_mutex_lock(&lane->lock);
  for (;;) {
    while (!lane->in.first && !lane->stop) pthread_cond_wait(&lane->wake, &lane->lock);
    if (!lane->in.first) break;
    LaneJob *job = list_take(&lane->in);
    pthread_mutex_unlock(&lane->lock);
    for (LaneJob *next; job; job = next) {
      next = job->next;
      job->run(job, lane->spec.state);
      pthread_mutex_lock(&lane->lock);
      list_push(&lane->out, job);
      pthread_mutex_unlock(&lane->lock);
      uv_async_send(&lane->async);
    }
    pthread_mutex_lock(&lane->lock);
  }
  pthread_mutex_unlock(&lane->lock);
  if (lane->spec.end) lane->spec.end(lane->spec.state);
  return NULL;
}

static void deliver(Lane *lane) {
  pthread_mutex_lock(&lane->lock);
  LaneJob *job = list_take(&lane->out);
  pthread_mutex_unlock(&lane->lock);
  for (LaneJob *next; job; job = next) {
    next = job->next;
    job->done(job);
  }
}

static void on_async(uv_async_t *async) { deliver(async->data); }

static void on_closed(uv_handle_t *handle) {
  Lane *lane = handle->data;
  void (*closed)(void *) = lane->closed;
  void *ctx = lane->closed_ctx;
  pthread_mutex_destroy(&lane->lock);
  pthread_cond_destroy(&lane->wake);
  free(lane);
  if (closed) closed(ctx);
}

Status lane_create(uv_loop_t *loop, const LaneSpec *spec, Lane **out) {
  *out = NULL;
  Lane *lane = calloc(1, sizeof *lane);
  if (!lane) return FAIL(RESOURCE_EXHAUSTED, "lane");
  lane->spec = *spec;
  list_init(&lane->in);
  list_init(&lane->out);
  pthread_mutex_init(&lane->lock, NULL);
  pthread_cond_init(&lane->wake, NULL);
  if (uv_async_init(loop, &lane->async, on_async)) {
    free(lane);
    return FAIL(RESOURCE_EXHAUSTED, "uv_async_init");
  }
  lane->async.data = lane;
  if (pthread_create(&lane->thread, NULL, lane_main, lane)) {
    uv_close((uv_handle_t *)&lane->async, on_closed);
    return FAIL(RESOURCE_EXHAUSTED, "thread '%s'", spec->name);
  }
  pthread_setname_np(lane->thread, spec->name);
  *out = lane;
  return NULL;
}

void lane_submit(Lane *lane, LaneJob *job) {
  pthread_mutex_lock(&lane->lock);
  assert(!lane->stop);
  list_push(&lane->in, job);
  pthread_cond_signal(&lane->wake);
  pthread_mutex_unlock(&lane->lock);
}

void lane_close(Lane *lane, void (*closed)(void *ctx), void *ctx) {
  pthread_mutex_lock(&lane->lock);
  lane->stop = true;
  pthread_cond_signal(&lane->wake);
  pthread_mutex_unlock(&lane->lock);
  pthread_join(lane->thread, NULL);
  deliver(lane);
  lane->closed = closed;
  lane->closed_ctx = ctx;
  uv_close((uv_handle_t *)&lane->async, on_closed);
}
