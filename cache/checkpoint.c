/* The checkpoint thread.
 *
 * A checkpoint copies the log into the database file and syncs it: tens of milliseconds that no
 * commit should pay. The thread has a connection of its own and does PASSIVE checkpoints, which
 * wait for nobody and block nobody, at most every PERIOD_MS and only after commits. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "cache/internal.h"

enum { PERIOD_MS = 200 };

struct Checkpointer {
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  bool dirty, stop; /* guarded by lock */
  bool running;
  sqlite3 *db; /* of the thread */
};

static void sleep_period(Checkpointer *c) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += (long)PERIOD_MS * 1000000;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  while (!c->stop && pthread_cond_timedwait(&c->wake, &c->lock, &until) != ETIMEDOUT) {
  }
}

static void *work(void *arg) {
  Checkpointer *c = arg;
  pthread_mutex_lock(&c->lock);
  while (!c->stop) {
    if (!c->dirty) {
      pthread_cond_wait(&c->wake, &c->lock);
      continue;
    }
    c->dirty = false;
    pthread_mutex_unlock(&c->lock);
    int rc = sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (rc != SQLITE_OK && rc != SQLITE_BUSY) {
      LOG_WARN("cache checkpoint failed", "reason=\"%s\"", sqlite3_errmsg(c->db));
    }
    pthread_mutex_lock(&c->lock);
    sleep_period(c);
  }
  pthread_mutex_unlock(&c->lock);
  return NULL;
}

Status checkpointer_create(const char *path, Checkpointer **out) {
  Status st;
  *out = NULL;
  Checkpointer *c = calloc(1, sizeof *c);
  if (!c) return FAIL(RESOURCE_EXHAUSTED, "checkpointer");
  pthread_mutex_init(&c->lock, NULL);
  pthread_cond_init(&c->wake, NULL);
  if ((st = schema_connect(path, &c->db))) goto fail;
  int e = pthread_create(&c->thread, NULL, work, c);
  if (e) {
    st = FAIL(RESOURCE_EXHAUSTED, "starting the checkpoint thread: %s", strerror(e));
    goto fail;
  }
  c->running = true;
  *out = c;
  return NULL;
fail:
  checkpointer_release(c);
  return st;
}

void checkpointer_poke(Checkpointer *c) {
  pthread_mutex_lock(&c->lock);
  c->dirty = true;
  pthread_cond_signal(&c->wake);
  pthread_mutex_unlock(&c->lock);
}

void checkpointer_release(Checkpointer *c) {
  if (!c) return;
  if (c->running) {
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
  }
  sqlite3_close(c->db);
  pthread_cond_destroy(&c->wake);
  pthread_mutex_destroy(&c->lock);
  free(c);
}
