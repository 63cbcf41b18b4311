/* Life of a Worker:
 *
 *   waiting --delay--> asked --WorkerSpawned--> up --end of file--> ending --WorkerExited--> gone
 *
 * End-of-file on its socket comes first, the reason (from the zygote, which is its parent) a moment
 * later; what it had sent before it died is read and delivered in between. When the zygote itself
 * dies, its children die with it (PR_SET_PDEATHSIG), so all of them are gone and a new zygote is
 * started for whoever asks next. A zygote that does not answer in time is killed. */
#include "daemon/server/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

typedef enum WorkerState { WS_WAITING, WS_ASKED, WS_UP, WS_ENDING, WS_GONE } WorkerState;
typedef enum TimerUse { TU_NONE, TU_DELAY, TU_DEADLINE, TU_ZYGOTE } TimerUse;
enum { ZYGOTE_MS = 20000 }; /* for its answers, a machine that is very busy included */

struct Worker {
  Supervisor *supervisor;
  Worker *next, **link; /* in supervisor->workers */
  WorkerSpec spec;      /* handler is NULL once abandoned */
  WorkerState state;
  uint64_t id; /* of the SpawnWorker message */
  uint32_t pid;
  int pidfd; /* -1 = none, as of one that is dead; signals to it cannot hit a stranger */
  Channel channel;
  uv_poll_t poll;
  int events; /* that it looks for */
  uv_timer_t timer;
  TimerUse timer_use;
  bool paused;
  uint64_t left_ms; /* of the deadline while paused; 0: none */
  bool polling;     /* the poll handle is open */
  int closing;      /* handles on their way out */
  const char *killed_for;
  char detail[128];
};

struct Supervisor {
  uv_loop_t *loop;
  char *program, *log_level;
  Worker *workers;
  uint64_t next_id;
  Channel channel; /* to the zygote */
  uv_process_t process;
  uv_poll_t poll;
  uv_timer_t restart;
  bool running, polling;
  unsigned failures; /* zygote starts in a row that did not bring a worker */
  bool stopping, paused;
  void (*closed)(void *ctx);
  void *closed_ctx;
  int closing;
  uint64_t (*ends)[LABELS_CAUSE]; /* by role; NULL: not counted */
};

void supervisor_count_ends(Supervisor *s, uint64_t (*ends)[LABELS_CAUSE]) { s->ends = ends; }

uint64_t supervisor_backoff(unsigned failures) {
  if (failures < 2) return 0;
  unsigned shift = failures - 2 < 7 ? failures - 2 : 7;
  uint64_t ms = 100u << shift;
  return ms < 10000 ? ms : 10000;
}

static void start_zygote(Supervisor *s);

/* -- workers: ending ----------------------------------------------------------------------------
 */

static void worker_free(uv_handle_t *handle) {
  Worker *w = handle->data;
  if (--w->closing) return;
  free(w);
}

/* Takes the worker out of every list and closes its handles; the owner has been told. */
static void worker_close(Worker *w) {
  if ((*w->link = w->next)) w->next->link = w->link;
  if (w->pidfd >= 0) close(w->pidfd);
  w->state = WS_GONE;
  w->closing = 1 + w->polling;
  if (w->polling) uv_close((uv_handle_t *)&w->poll, worker_free);
  uv_close((uv_handle_t *)&w->timer, worker_free);
  channel_deinit(&w->channel);
}

static void worker_gone(Worker *w, const char *cause, const char *detail) {
  char text[160];
  snprintf(text, sizeof text, "%s", detail);
  const WorkerHandler *handler = w->spec.handler;
  void *ctx = w->spec.ctx;
  LOG_AT(handler ? LOG_LEVEL_WARN : LOG_LEVEL_DEBUG, "a worker ended",
         "role=%s pid=%u cause=%s detail=\"%s\"", w->spec.role, w->pid, cause, text);
  uint64_t(*ends)[LABELS_CAUSE] = w->supervisor->ends;
  if (handler && ends) ends[metrics_role(w->spec.role)][metrics_cause(cause)]++;
  worker_close(w);
  if (handler) handler->gone(ctx, cause, text);
}

static void send_signal(const Worker *w, int what) {
  if (w->pidfd >= 0) syscall(SYS_pidfd_send_signal, w->pidfd, what, NULL, 0);
}

static void worker_signal(const Worker *w) { send_signal(w, SIGKILL); }

void worker_interrupt(const Worker *w) {
  if (w->state == WS_UP) send_signal(w, SIGUSR1);
}

void worker_kill(Worker *w, const char *cause, const char *detail) {
  if (w->killed_for || w->state >= WS_ENDING) return;
  w->killed_for = cause;
  snprintf(w->detail, sizeof w->detail, "%s", detail);
  worker_signal(w); /* WS_WAITING, WS_ASKED: when it comes up */
}

void worker_abandon(Worker *w) {
  w->spec.handler = NULL;
  worker_kill(w, "cancelled", "no longer needed");
  if (w->state == WS_WAITING) worker_close(w);
}

static void worker_exited(Worker *w, int status, bool oom) {
  char text[128];
  if (w->killed_for) {
    worker_gone(w, w->killed_for, w->detail);
  } else if (oom) {
    worker_gone(w, "oom", "killed for want of memory");
  } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) {
    worker_gone(w, "timeout", "over its CPU time");
  } else if (WIFSIGNALED(status)) {
    snprintf(text, sizeof text, "killed by signal %d (%s)", WTERMSIG(status),
             strsignal(WTERMSIG(status)));
    worker_gone(w, "crash", text);
  } else {
    snprintf(text, sizeof text, "ended with code %d", WEXITSTATUS(status));
    worker_gone(w, "crash", text);
  }
}

/* -- workers: messages --------------------------------------------------------------------------
 */

static void update_poll(Worker *w);
static void on_worker_timer(uv_timer_t *timer);

/* The zygote has to say something about this worker. */
static void await_zygote(Worker *w) {
  w->timer_use = TU_ZYGOTE;
  uv_timer_start(&w->timer, on_worker_timer, ZYGOTE_MS, 0);
}

/* Looking in vain is a system call; what comes all the same is told by the poll. */
static bool expects_more(const Worker *w) {
  const WorkerHandler *h = w->spec.handler;
  return channel_pending(&w->channel) || !h || !h->awaits || h->awaits(w->spec.ctx);
}

/* Reads what is there; false when the worker is gone or ending. */
static bool worker_drain(Worker *w) {
  for (int budget = 64; budget > 0 || channel_pending(&w->channel); budget--) {
    Message m;
    Status st = channel_recv(&w->channel, &m);
    if (st) {
      if (status_code(st) != ST_UNAVAILABLE) worker_kill(w, "crash", "it sent nonsense");
      status_drop(st);
      w->state = WS_ENDING;
      await_zygote(w);
      worker_signal(w);
      uv_poll_stop(&w->poll);
      w->events = 0;
      return false;
    }
    if (!m.env) return true;
    if (w->spec.handler) w->spec.handler->message(w->spec.ctx, &m);
    message_close(&m);
    if (w->state != WS_UP) return false;
    if (!expects_more(w)) return true;
  }
  return true;
}

static void on_worker_poll(uv_poll_t *poll, int status, int events) {
  Worker *w = poll->data;
  (void)status; /* an error shows when reading */
  if (events & UV_WRITABLE) status_drop(channel_flush(&w->channel));
  if (worker_drain(w)) update_poll(w);
}

/* libuv takes the descriptor out of the set and puts it back at every start. */
static void update_poll(Worker *w) {
  int events = UV_READABLE | (channel_waiting(&w->channel) ? UV_WRITABLE : 0);
  if (events == w->events) return;
  w->events = events;
  uv_poll_start(&w->poll, events, on_worker_poll);
}

Status worker_send(Worker *w, const Kiln__V1__Envelope *env, const int *fds, size_t nfds) {
  if (w->state != WS_UP) return FAIL(UNAVAILABLE, "the worker is not running");
  TRY(channel_send(&w->channel, env, fds, nfds));
  if (channel_waiting(&w->channel) && !w->channel.hold) update_poll(w);
  return NULL;
}

void worker_hold(Worker *w) { w->channel.hold = true; }

void worker_flush(Worker *w) {
  if (w->state != WS_UP || !channel_waiting(&w->channel)) return;
  status_drop(channel_flush(&w->channel)); /* of one that is gone: its end is reported */
  if (channel_waiting(&w->channel)) update_poll(w);
}

uint32_t worker_pid(const Worker *w) { return w->pid; }

void worker_set_deadline(Worker *w, uint64_t seconds, const char *detail) {
  if (w->state != WS_UP) return;
  w->timer_use = seconds ? TU_DEADLINE : TU_NONE;
  if (!seconds) {
    uv_timer_stop(&w->timer);
    return;
  }
  if (!w->killed_for) snprintf(w->detail, sizeof w->detail, "%s", detail);
  w->left_ms = seconds * 1000;
  if (!w->paused) uv_timer_start(&w->timer, on_worker_timer, w->left_ms, 0);
}

/* -- workers: pausing ---------------------------------------------------------------------------
 */

static void worker_pause(Worker *w) {
  if (w->paused || !w->spec.background || w->state != WS_UP) return;
  w->paused = true;
  send_signal(w, SIGSTOP);
  w->left_ms = 0;
  if (w->timer_use != TU_DEADLINE) return;
  w->left_ms = uv_timer_get_due_in(&w->timer) + 1;
  uv_timer_stop(&w->timer);
}

static void worker_resume(Worker *w) {
  if (!w->paused) return;
  w->paused = false;
  send_signal(w, SIGCONT);
  if (w->timer_use == TU_DEADLINE) uv_timer_start(&w->timer, on_worker_timer, w->left_ms, 0);
}

void supervisor_pause(Supervisor *s, bool pause) {
  s->paused = pause;
  for (Worker *w = s->workers; w; w = w->next)
    if (pause)
      worker_pause(w);
    else
      worker_resume(w);
}

/* -- workers: starting --------------------------------------------------------------------------
 */

static Status ask(Supervisor *s, Worker *w) {
  Kiln__V1__SpawnWorker spawn = KILN__V1__SPAWN_WORKER__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  spawn.role = (char *)(uintptr_t)w->spec.role;
  spawn.device = (char *)(uintptr_t)w->spec.device;
  spawn.memory_bytes = w->spec.memory_bytes;
  spawn.cpu_seconds = w->spec.cpu_seconds;
  spawn.background = w->spec.background;
  env.id = w->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_SPAWN;
  env.spawn = &spawn;
  return channel_send(&s->channel, &env, NULL, 0);
}

/* Asks the zygote for the worker, when both are ready for it. */
static void worker_start(Worker *w) {
  Supervisor *s = w->supervisor;
  if (!s->running || w->state != WS_WAITING || w->timer_use == TU_DELAY) return;
  Status st = ask(s, w);
  if (!st) {
    w->state = WS_ASKED;
    await_zygote(w);
  }
  status_drop(st); /* the zygote is gone; its exit starts another and asks again */
}

static void on_worker_timer(uv_timer_t *timer) {
  Worker *w = timer->data;
  TimerUse use = w->timer_use;
  w->timer_use = TU_NONE;
  if (use == TU_DELAY) worker_start(w);
  if (use == TU_DEADLINE) {
    char detail[sizeof w->detail];
    memcpy(detail, w->detail, sizeof detail);
    worker_kill(w, "timeout", detail);
  }
  Supervisor *s = w->supervisor;
  if (use == TU_ZYGOTE && s->running) {
    LOG_ERROR("the zygote does not answer", "role=%s state=%s", w->spec.role,
              w->state == WS_ASKED ? "asked" : "ending");
    uv_process_kill(&s->process, SIGKILL);
  }
}

Status supervisor_spawn(Supervisor *s, const WorkerSpec *spec, Worker **out) {
  *out = NULL;
  Worker *w = calloc(1, sizeof *w);
  if (!w) return FAIL(RESOURCE_EXHAUSTED, "worker");
  *w = (Worker){.supervisor = s, .spec = *spec, .id = ++s->next_id, .pidfd = -1};
  w->channel.fd = -1;
  uv_timer_init(s->loop, &w->timer);
  w->timer.data = w;
  if ((w->next = s->workers)) w->next->link = &w->next;
  w->link = &s->workers;
  s->workers = w;
  if (spec->delay_ms) {
    w->timer_use = TU_DELAY;
    uv_timer_start(&w->timer, on_worker_timer, spec->delay_ms, 0);
  }
  worker_start(w);
  *out = w;
  return NULL;
}

static Worker *worker_by_id(const Supervisor *s, uint64_t id) {
  Worker *w = s->workers;
  while (w && w->id != id) w = w->next;
  return w;
}

static Worker *worker_by_pid(const Supervisor *s, uint32_t pid) {
  Worker *w = s->workers;
  while (w && (w->pid != pid || w->state < WS_UP)) w = w->next;
  return w;
}

/* Opens the channel over the descriptor that came from the zygote; takes fd. */
static Status worker_connect(Worker *w, int fd) {
  TRY(channel_init(&w->channel, fd));
  if (fcntl(fd, F_SETFL, O_NONBLOCK)) return FAIL(INTERNAL, "fcntl: %s", strerror(errno));
  int error = uv_poll_init(w->supervisor->loop, &w->poll, fd);
  if (error) return FAIL(INTERNAL, "uv_poll_init: %s", uv_strerror(error));
  w->poll.data = w;
  w->polling = true;
  return NULL;
}

static void on_spawned(Supervisor *s, Message *m) {
  Worker *w = worker_by_id(s, m->env->id);
  int fd = message_take_fd(m, 0);
  if (!w || fd < 0 || w->state != WS_ASKED) {
    if (fd >= 0) close(fd); /* the child sees end-of-file and leaves */
    if (w && w->state == WS_ASKED) worker_gone(w, "crash", "no descriptor is left for its socket");
    return;
  }
  w->timer_use = TU_NONE;
  uv_timer_stop(&w->timer);
  w->pid = m->env->spawned->pid;
  w->pidfd = (int)syscall(SYS_pidfd_open, (pid_t)w->pid, 0);
  if (w->pidfd < 0 && errno != ESRCH) { /* what it has said before it died is still to be read */
    snprintf(w->detail, sizeof w->detail, "it cannot be watched: %s", strerror(errno));
    close(fd); /* the child sees end-of-file and leaves */
    worker_gone(w, "crash", w->detail);
    return;
  }
  w->state = WS_UP;
  s->failures = 0;
  Status st = worker_connect(w, fd);
  if (st || w->killed_for) {
    status_drop(st);
    worker_signal(w);
    return; /* WorkerExited follows */
  }
  update_poll(w);
  LOG_DEBUG("a worker started", "role=%s pid=%u", w->spec.role, w->pid);
  if (w->spec.handler) w->spec.handler->ready(w->spec.ctx);
  if (s->paused) worker_pause(w);
}

static void on_exited(Supervisor *s, const Kiln__V1__WorkerExited *m) {
  Worker *w = worker_by_pid(s, m->pid);
  if (!w) return;
  while (w->state == WS_UP && w->polling && worker_drain(w))
    ; /* answers that it sent before it ended; the end of file ends this */
  worker_exited(w, m->status, m->oom);
}

static void on_spawn_failed(Supervisor *s, const Kiln__V1__Envelope *env) {
  Worker *w = worker_by_id(s, env->id);
  if (w && w->state == WS_ASKED) worker_gone(w, "crash", env->error->message);
}

/* -- the zygote ---------------------------------------------------------------------------------
 */

static void on_zygote_message(Supervisor *s, Message *m) {
  switch (m->env->body_case) {
  case KILN__V1__ENVELOPE__BODY_SPAWNED: on_spawned(s, m); break;
  case KILN__V1__ENVELOPE__BODY_EXITED: on_exited(s, m->env->exited); break;
  case KILN__V1__ENVELOPE__BODY_ERROR: on_spawn_failed(s, m->env); break;
  default: LOG_ERROR("unexpected message from the zygote", "kind=%d", (int)m->env->body_case);
  }
}

static void on_zygote_poll(uv_poll_t *poll, int status, int events) {
  Supervisor *s = poll->data;
  (void)status;
  (void)events;
  for (;;) {
    Message m;
    Status st = channel_recv(&s->channel, &m);
    if (st || !m.env) {
      if (st) uv_poll_stop(poll); /* its exit is reported by the process handle */
      status_drop(st);
      return;
    }
    on_zygote_message(s, &m);
    message_close(&m);
  }
}

static void supervisor_freed(uv_handle_t *handle) {
  Supervisor *s = handle->data;
  void (*closed)(void *) = s->closed;
  void *ctx = s->closed_ctx;
  free(s->program);
  free(s->log_level);
  free(s);
  closed(ctx);
}

static void on_restart(uv_timer_t *timer) { start_zygote(timer->data); }

/* The zygote's handles are closed: the struct can be used for the next one. */
static void zygote_closed(uv_handle_t *handle) {
  Supervisor *s = handle->data;
  if (--s->closing) return;
  if (s->stopping)
    uv_close((uv_handle_t *)&s->restart, supervisor_freed);
  else
    uv_timer_start(&s->restart, on_restart, supervisor_backoff(++s->failures), 0);
}

static void close_zygote(Supervisor *s) {
  s->running = false;
  s->closing = 1 + s->polling;
  if (s->polling) uv_close((uv_handle_t *)&s->poll, zygote_closed);
  s->polling = false;
  uv_close((uv_handle_t *)&s->process, zygote_closed);
  channel_deinit(&s->channel);
}

static void on_zygote_exit(uv_process_t *process, int64_t code, int signal) {
  Supervisor *s = process->data;
  if (!s->stopping) LOG_ERROR("the zygote ended", "code=%d signal=%d", (int)code, signal);
  for (Worker *w = s->workers, *next; w; w = next) {
    next = w->next;
    if (w->state != WS_WAITING) worker_gone(w, "crash", "the process it was forked from ended");
  }
  close_zygote(s);
}

static int spawn_zygote(Supervisor *s, int socket) {
  char *args[] = {s->program, (char[]){"zygote"}, s->log_level, NULL};
  uv_stdio_container_t stdio[] = {{.flags = UV_IGNORE},
                                  {.flags = UV_IGNORE},
                                  {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
                                  {.flags = UV_INHERIT_FD, .data.fd = socket}};
  uv_process_options_t options = {.exit_cb = on_zygote_exit,
                                  .file = s->program,
                                  .args = args,
                                  .stdio_count = 4,
                                  .stdio = stdio};
  return uv_spawn(s->loop, &s->process, &options);
}

/* Opens our end of the zygote's socket; takes fd. */
static Status connect_zygote(Supervisor *s, int fd) {
  TRY(channel_init(&s->channel, fd));
  if (fcntl(fd, F_SETFL, O_NONBLOCK)) return FAIL(INTERNAL, "fcntl: %s", strerror(errno));
  int error = uv_poll_init(s->loop, &s->poll, fd);
  if (error) return FAIL(INTERNAL, "uv_poll_init: %s", uv_strerror(error));
  s->poll.data = s;
  s->polling = true;
  uv_poll_start(&s->poll, UV_READABLE, on_zygote_poll);
  return NULL;
}

static void start_zygote(Supervisor *s) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
    LOG_ERROR("no socket for the zygote", "error=\"%s\"", strerror(errno));
    uv_timer_start(&s->restart, on_restart, supervisor_backoff(++s->failures + 2), 0);
    return;
  }
  s->process.data = s;
  int error = spawn_zygote(s, pair[1]);
  close(pair[1]);
  Status st = error ? FAIL(UNAVAILABLE, "%s: %s", s->program, uv_strerror(error)) : NULL;
  Status connected = connect_zygote(s, pair[0]);
  if (!st && !connected) {
    s->running = true;
    for (Worker *w = s->workers; w; w = w->next) worker_start(w);
    return;
  }
  char text[256];
  status_text(st ? st : connected, text, sizeof text);
  LOG_ERROR("the zygote cannot be started", "error=\"%s\"", text);
  for (Worker *w = s->workers, *next; w; w = next) {
    next = w->next;
    worker_gone(w, "crash", text);
  }
  status_drop(st);
  status_drop(connected);
  s->failures += s->failures < 3 ? 3 : 0; /* trying at once again would not help */
  if (error)
    close_zygote(s);
  else
    uv_process_kill(&s->process, SIGKILL);
}

Status supervisor_create(uv_loop_t *loop, const char *program, const char *log_level,
                         Supervisor **out) {
  Supervisor *s = *out = calloc(1, sizeof *s);
  if (!s) return FAIL(RESOURCE_EXHAUSTED, "supervisor");
  s->loop = loop;
  s->channel.fd = -1;
  s->program = strdup(program);
  s->log_level = strdup(log_level);
  if (!s->program || !s->log_level) {
    free(s->program);
    free(s->log_level);
    free(s);
    *out = NULL;
    return FAIL(RESOURCE_EXHAUSTED, "supervisor");
  }
  uv_timer_init(loop, &s->restart);
  s->restart.data = s;
  start_zygote(s);
  return NULL;
}

void supervisor_close(Supervisor *s, void (*closed)(void *ctx), void *ctx) {
  s->stopping = true;
  s->closed = closed;
  s->closed_ctx = ctx;
  while (s->workers) {
    worker_signal(s->workers);
    worker_close(s->workers);
  }
  uv_timer_stop(&s->restart);
  if (s->running)
    uv_process_kill(&s->process, SIGKILL);
  else if (!s->closing)
    uv_close((uv_handle_t *)&s->restart, supervisor_freed);
}
