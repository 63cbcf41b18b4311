/* LLVM is loaded and a TargetMachine made once; a fork then costs less than a millisecond where a
 * fresh process costs twenty. The zygote has one thread, forks on SpawnWorker, passes kilnd's end
 * of the new socket pair back, and reports every child that ends. It never touches a user's bytes.
 *
 * Nothing outlives kilnd: the zygote ends on end-of-file or its parent's death, the workers on the
 * zygote's. */
#include "daemon/worker/zygote.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "compiler/codegen/llvm_target.h"
#include "daemon/channel/channel.h"
#include "daemon/worker/compile_worker.h"
#include "daemon/worker/device_worker.h"
#include "daemon/worker/sandbox.h"
#include "daemon/worker/timing_worker.h"
#include "proto/digest.h"

typedef struct Zygote {
  Channel channel;
  int children; /* signalfd of SIGCHLD */
  sigset_t normal_mask;
  unsigned long long oom_kills; /* by the kernel, when the last child was reaped */
} Zygote;

/* How often the kernel killed for want of memory, since boot. */
static unsigned long long oom_kills(void) {
  char line[128];
  unsigned long long n = 0;
  FILE *f = fopen("/proc/vmstat", "re");
  while (f && fgets(line, sizeof line, f))
    if (!strncmp(line, "oom_kill ", 9)) n = strtoull(line + 9, NULL, 10);
  if (f) fclose(f);
  return n;
}

static void warm_up(void) {
  Target target;
  LLVMTargetMachineRef machine;
  digest_init();
  llvm_target_host(&target);
  Status st = llvm_target_machine(&target, &machine);
  char text[512];
  status_text(st, text, sizeof text);
  if (st) LOG_WARN("the host's code generator cannot be prepared", "error=\"%s\"", text);
  status_drop(st);
}

static int compile_main(int socket, const char *device, WorkerLimits limits) {
  (void)device;
  return compile_worker_main(socket, limits);
}

typedef struct Role {
  const char *name, *process;
  int expendable; /* oom_score_adj: when memory runs out these go, and not kilnd, who has it all */
  int (*main)(int socket, const char *device, WorkerLimits limits);
} Role;

static const Role *find_role(const char *name) {
  static const Role roles[] = {{"compile", "kiln-compile", 600, compile_main},
                               {"device", "kiln-device", 300, device_worker_main},
                               {"timing", "kiln-timing", 900, timing_worker_main}};
  for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
    if (!strcmp(roles[i].name, name)) return &roles[i];
  return NULL;
}

static void go_first(int points) {
  FILE *f = fopen("/proc/self/oom_score_adj", "we");
  if (!f) return; /* a system without it */
  fprintf(f, "%d", points);
  fclose(f);
}

static _Noreturn void child(Zygote *z, const Kiln__V1__SpawnWorker *m, int socket, pid_t parent) {
  WorkerLimits limits = {.memory_bytes = m->memory_bytes, .cpu_seconds = m->cpu_seconds};
  char device[64];
  const Role *role = find_role(m->role);
  snprintf(device, sizeof device, "%s", m->device);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  prctl(PR_SET_NAME, role->process);
  go_first(role->expendable);
  if (m->background) sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
  sigprocmask(SIG_SETMASK, &z->normal_mask, NULL);
  close(z->children);
  channel_deinit(&z->channel); /* frees m */
  _exit(role->main(socket, device, limits));
}

static Status spawn(Zygote *z, const Kiln__V1__Envelope *request) {
  const Kiln__V1__SpawnWorker *m = request->spawn;
  int pair[2];
  if (!find_role(m->role)) return FAIL(INTERNAL, "unknown role '%s'", m->role);
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
    return FAIL(UNAVAILABLE, "socketpair: %s", strerror(errno));
  pid_t self = getpid(), pid = fork();
  if (!pid) {
    close(pair[0]);
    child(z, m, pair[1], self);
  }
  close(pair[1]);
  Status st = pid < 0 ? FAIL(UNAVAILABLE, "fork: %s", strerror(errno)) : NULL;
  if (!st) {
    Kiln__V1__WorkerSpawned spawned = KILN__V1__WORKER_SPAWNED__INIT;
    Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
    spawned.pid = (uint32_t)pid;
    env.id = request->id;
    env.body_case = KILN__V1__ENVELOPE__BODY_SPAWNED;
    env.spawned = &spawned;
    st = channel_send(&z->channel, &env, pair, 1);
  }
  close(pair[0]);
  return st;
}

static Status reap(Zygote *z) {
  struct signalfd_siginfo info;
  ssize_t n = read(z->children, &info, sizeof info);
  (void)n; /* one signal may stand for several children; waitpid finds them all */
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    unsigned long long kills = oom_kills();
    Kiln__V1__WorkerExited exited = KILN__V1__WORKER_EXITED__INIT;
    Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
    exited.pid = (uint32_t)pid;
    exited.status = status;
    exited.oom = (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && kills > z->oom_kills) ||
                 (WIFEXITED(status) && WEXITSTATUS(status) == SANDBOX_OOM);
    z->oom_kills = kills;
    env.body_case = KILN__V1__ENVELOPE__BODY_EXITED;
    env.exited = &exited;
    TRY(channel_send(&z->channel, &env, NULL, 0));
  }
  return NULL;
}

static Status serve_one(Zygote *z) {
  Message m;
  TRY(channel_recv(&z->channel, &m));
  Status st = NULL;
  if (m.env->body_case != KILN__V1__ENVELOPE__BODY_SPAWN) {
    st = FAIL(INTERNAL, "unexpected message %d", (int)m.env->body_case);
  } else {
    Status failed = spawn(z, m.env);
    if (failed) st = channel_send_error(&z->channel, m.env->id, failed, "crash");
    status_drop(failed);
  }
  message_close(&m);
  return st;
}

static Status serve(Zygote *z) {
  for (;;) {
    struct pollfd fds[] = {{.fd = z->channel.fd, .events = POLLIN},
                           {.fd = z->children, .events = POLLIN}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return FAIL(INTERNAL, "poll: %s", strerror(errno));
    if (fds[1].revents) TRY(reap(z));
    if (fds[0].revents) TRY(serve_one(z));
  }
}

int zygote_main(int socket) {
  Zygote z = {.oom_kills = oom_kills()};
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, &z.normal_mask);
  /* only of those that end; kilnd stops some and lets them go on */
  sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP}, NULL);
  z.children = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  warm_up();
  Status st = channel_init(&z.channel, socket);
  if (!st) st = serve(&z);
  int code = status_code(st) == ST_UNAVAILABLE ? 0 : 1; /* end-of-file is the normal end */
  char text[512];
  status_text(st, text, sizeof text);
  if (code) LOG_ERROR("the zygote ends", "error=\"%s\"", text);
  status_drop(st);
  channel_deinit(&z.channel);
  return code;
}
