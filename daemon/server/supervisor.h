/* The zygote and every process forked from it: starting them, talking to them, killing them, and
 * saying why they ended.
 *
 * A Worker is made by supervisor_spawn and ends with its handler's `gone`, exactly once, unless the
 * owner lost interest first (worker_abandon). It is not valid afterwards. All on the loop. */
#pragma once

#include <uv.h>

#include "daemon/channel/channel.h"
#include "daemon/server/metrics.h"

typedef struct Supervisor Supervisor;
typedef struct Worker Worker;

typedef struct WorkerHandler {
  void (*ready)(void *ctx); /* messages can be sent */
  void (*message)(void *ctx, Message *m);
  /* cause: one of crash oom timeout device_lost (static text); detail: for people. */
  void (*gone)(void *ctx, const char *cause, const char *detail);
  bool (*awaits)(void *ctx); /* a message may follow at once; NULL: always */
} WorkerHandler;

typedef struct WorkerSpec {
  const char *role;   /* "compile", "device", "timing"; static */
  const char *device; /* outlives the worker */
  uint64_t memory_bytes;
  uint32_t cpu_seconds;
  bool background;   /* on processors that nothing else wants */
  uint64_t delay_ms; /* wait before starting */
  const WorkerHandler *handler;
  void *ctx;
} WorkerSpec;

/* program: path of kiln-worker. The zygote starts in the background. */
Status supervisor_create(uv_loop_t *loop, const char *program, const char *log_level,
                         Supervisor **out);
/* Counts the ends that nobody asked for there. */
void supervisor_count_ends(Supervisor *s, uint64_t (*ends)[LABELS_CAUSE]);
/* Kills everything without calling gone, then closed(ctx). */
void supervisor_close(Supervisor *s, void (*closed)(void *ctx), void *ctx);

Status supervisor_spawn(Supervisor *s, const WorkerSpec *spec, Worker **out);
Status worker_send(Worker *w, const Kiln__V1__Envelope *env, const int *fds, size_t nfds);
/* From now on what is sent waits for worker_flush, which sends it together. */
void worker_hold(Worker *w);
void worker_flush(Worker *w);
/* Kills the process; gone follows with this cause (static text). */
void worker_kill(Worker *w, const char *cause, const char *detail);
/* worker_kill("timeout") in so many seconds, unless changed; 0 = never. */
void worker_set_deadline(Worker *w, uint64_t seconds, const char *detail);
/* Kills the process and forgets the owner: no callback follows. */
void worker_abandon(Worker *w);
/* A device worker looks at once whether the run that it works on is posted as cancelled. */
void worker_interrupt(const Worker *w);
/* Stops all processes that run in the background where they are, until it is called with false.
 * Their deadlines wait as well. */
void supervisor_pause(Supervisor *s, bool pause);
/* 0 until it runs. */
uint32_t worker_pid(const Worker *w);

/* Milliseconds to wait before start number `failures` + 1 in a row: 0, 0, 100, 200 ... 10,000. */
uint64_t supervisor_backoff(unsigned failures);
