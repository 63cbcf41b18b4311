/* One message at a time, in order: a load before the run that needs it, a buffer's free after the
 * run that reads it. The order is kilnd's to choose; see server/device_lane.c. Answers to jobs that
 * take less than waking kilnd does go together, as long as more jobs are there and kilnd has not
 * said that somebody waits for this one alone. */
#include "daemon/worker/device_worker.h"

#include <signal.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/channel/channel.h"
#include "daemon/worker/convert.h"
#include "daemon/worker/executor.h"
#include "daemon/worker/sandbox.h"

typedef struct DeviceWorker {
  Channel channel;
  Device *dev;
  Executor *executor;
} DeviceWorker;

static Status hello(DeviceWorker *w, Message *m) {
  Kiln__V1__TargetSpec target;
  Kiln__V1__DeviceHelloReply reply = KILN__V1__DEVICE_HELLO_REPLY__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  TRY(executor_watch(w->executor, message_take_fd(m, 0)));
  convert_caps(&w->dev->caps, &target);
  reply.target = &target;
  reply.description = (char *)(uintptr_t)w->dev->caps.description;
  env.id = m->env->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_HELLO_REPLY;
  env.hello_reply = &reply;
  return channel_send(&w->channel, &env, NULL, 0);
}

static Status load(DeviceWorker *w, Message *m) {
  Kiln__V1__LoadDone done = KILN__V1__LOAD_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  int64_t start = clock_now_ns();
  const Kiln__V1__LoadExecutable *job = m->env->load;
  int const_fd = job->const_bytes ? message_take_fd(m, 1) : -1;
  Status st = executor_load(w->executor, job, message_take_fd(m, 0), const_fd);
  if (st) return st;
  done.wall_ns = clock_now_ns() - start;
  env.id = m->env->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_LOAD_DONE;
  env.load_done = &done;
  Arena arena;
  arena_init(&arena, 0);
  st = executor_assembled(w->executor, job, &arena, &done);
  if (!st) st = channel_send(&w->channel, &env, NULL, 0);
  executor_forget_code(w->executor, job->executable);
  arena_deinit(&arena);
  return st;
}

static Status run(DeviceWorker *w, Message *m) {
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  int64_t start = clock_now_ns();
  Status st = executor_run(w->executor, m->env->id, m->env->run, message_take_fd(m, 0), &done);
  if (st) return st;
  done.wall_ns = clock_now_ns() - start;
  env.id = m->env->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_RUN_DONE;
  env.run_done = &done;
  int fd = executor_output_fd(w->executor);
  return channel_send(&w->channel, &env, &fd, fd >= 0);
}

static Status buffer_create(DeviceWorker *w, Message *m) {
  const Kiln__V1__BufferCreate *job = m->env->buffer_create;
  Kiln__V1__Done done = KILN__V1__DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  TRY(executor_buffer_create(w->executor, job->buffer, job->bytes, message_take_fd(m, 0)));
  env.id = m->env->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_DONE;
  env.done = &done;
  return channel_send(&w->channel, &env, NULL, 0);
}

static Status buffer_read(DeviceWorker *w, const Message *m) {
  Kiln__V1__BufferReadDone done = KILN__V1__BUFFER_READ_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  int fd;
  TRY(executor_buffer_read(w->executor, m->env->buffer_read->buffer, &done.bytes, &fd));
  env.id = m->env->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_BUFFER_READ_DONE;
  env.buffer_read_done = &done;
  return channel_send(&w->channel, &env, &fd, 1);
}

static Status replace(DeviceWorker *w, const Message *m) {
  Kiln__V1__ReplaceDone done = KILN__V1__REPLACE_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  TRY(executor_replace(w->executor, m->env->replace));
  env.id = m->env->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_REPLACE_DONE;
  env.replace_done = &done;
  return channel_send(&w->channel, &env, NULL, 0);
}

static Status dispatch(DeviceWorker *w, Message *m) {
  switch (m->env->body_case) {
  case KILN__V1__ENVELOPE__BODY_HELLO: return hello(w, m);
  case KILN__V1__ENVELOPE__BODY_LOAD: return load(w, m);
  case KILN__V1__ENVELOPE__BODY_RUN: return run(w, m);
  case KILN__V1__ENVELOPE__BODY_REPLACE: return replace(w, m);
  case KILN__V1__ENVELOPE__BODY_BUFFER_CREATE: return buffer_create(w, m);
  case KILN__V1__ENVELOPE__BODY_BUFFER_READ: return buffer_read(w, m);
  case KILN__V1__ENVELOPE__BODY_UNLOAD:
    return executor_unload(w->executor, m->env->unload->executable), NULL;
  case KILN__V1__ENVELOPE__BODY_BUFFER_FREE:
    return executor_buffer_free(w->executor, m->env->buffer_free->buffer), NULL;
  case KILN__V1__ENVELOPE__BODY_SLAB_FREE:
    return executor_slab_free(w->executor, m->env->slab_free->slab), NULL;
  default: return FAIL(INTERNAL, "unexpected message %d", (int)m->env->body_case);
  }
}

enum { HELD_MAX = 16, HELD_NS = 50000 };

/* What comes after the job that failed is for the next worker. */
static Status leave(DeviceWorker *w) {
  TRY(channel_flush(&w->channel));
  return FAIL(INTERNAL, "the device failed");
}

static Status serve(DeviceWorker *w) {
  int64_t since = 0; /* the oldest answer that is held */
  w->channel.hold = true;
  for (;;) {
    Message m;
    w->channel.poll = channel_waiting(&w->channel);
    TRY(channel_recv(&w->channel, &m));
    if (!m.env) {
      TRY(channel_flush(&w->channel));
      continue;
    }
    bool brief = m.env->body_case == KILN__V1__ENVELOPE__BODY_RUN && m.env->run->brief;
    if (!brief) TRY(channel_flush(&w->channel));
    if (!channel_waiting(&w->channel)) since = clock_now_ns();
    Status st = dispatch(w, &m);
    Status sent = NULL;
    bool lost = w->dev->lost;
    if (st) sent = channel_send_error(&w->channel, m.env->id, st, lost ? "device_lost" : "");
    status_drop(st);
    message_close(&m);
    bool wanted = !brief || w->channel.waiting >= HELD_MAX;
    if (!sent && (wanted || clock_now_ns() - since > HELD_NS)) sent = channel_flush(&w->channel);
    if (!sent && lost) sent = leave(w);
    if (sent) return sent;
  }
}

static const Executor *interruptible;

static void on_interrupt(int signal) {
  (void)signal;
  if (interruptible) executor_interrupt(interruptible);
}

/* kilnd sends the signal when it has posted a run that is with this worker. Not masked while it is
 * handled, for the handler may not return. */
static void take_interrupts(const Executor *x) {
  struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_NODEFER | SA_RESTART};
  interruptible = x;
  sigaction(SIGUSR1, &action, NULL);
}

int device_worker_main(int socket, const char *device, WorkerLimits limits) {
  DeviceWorker w = {.dev = NULL};
  log_init("worker:device", LOG_LEVEL_INFO);
  Status st = channel_init(&w.channel, socket);
  if (!st) st = device_open(device, &w.dev);
  if (!st) st = executor_create(w.dev, &w.executor);
  if (!st) st = sandbox_limit_memory(limits.memory_bytes);
  if (!st) st = w.dev->caps.shares_memory ? sandbox_enter() : sandbox_enter_driver();
  if (st && w.channel.fd >= 0) status_drop(channel_send_error(&w.channel, 0, st, "device_lost"));
  if (!st) take_interrupts(w.executor);
  if (!st) st = serve(&w);
  interruptible = NULL;
  int code = status_code(st) == ST_UNAVAILABLE && w.executor ? 0 : 1;
  char text[512];
  status_text(st, text, sizeof text);
  if (code) LOG_ERROR("the device worker ends", "device=%s error=\"%s\"", device, text);
  status_drop(st);
  executor_release(w.executor);
  device_destroy(w.dev);
  channel_deinit(&w.channel);
  return code;
}
