/* An allow-list. Everything that is not on it fails with EPERM rather than killing, because libc
 * and LLVM probe for things they can do without (a processor's file in /proc, a terminal's size).
 * Calls that only an exploit makes here kill the process, so that an attempt is seen.
 *
 * A vendor's driver opens devices, keeps caches of compiled kernels in files, starts threads and
 * may run a compiler as a process; no list of what it needs would hold for the next driver. A
 * process that drives one is only denied the network and what kills here. */
#include "daemon/worker/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

static const int allowed[] = {
    /* memory; memfds carry large messages and constants */
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(memfd_create),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fallocate),
    SCMP_SYS(membarrier),
    /* descriptors it has */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(fcntl),
    SCMP_SYS(fstat),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(sendmmsg),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    /* time and scheduling */
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(futex),
    SCMP_SYS(getcpu),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
    /* itself */
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getrusage),
    SCMP_SYS(getrandom),
    SCMP_SYS(prlimit64),
    SCMP_SYS(setrlimit),
    SCMP_SYS(getrlimit),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(uname),
};

static const int fatal[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(bpf),
    SCMP_SYS(mount),
    SCMP_SYS(setns),
    SCMP_SYS(unshare),
    SCMP_SYS(keyctl),
};

/* What a driver does not need. */
static const int denied[] = {
    SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4),
};

static Status add_driver_rules(scmp_filter_ctx filter) {
  int error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
  for (size_t i = 0; !error && i < sizeof fatal / sizeof *fatal; i++)
    if (fatal[i] != SCMP_SYS(execve) && fatal[i] != SCMP_SYS(execveat))
      error = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, fatal[i], 0);
  for (size_t i = 0; !error && i < sizeof denied / sizeof *denied; i++)
    error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), denied[i], 0);
  if (!error) error = seccomp_load(filter);
  return error ? FAIL(INTERNAL, "seccomp filter: %s", strerror(-error)) : NULL;
}

static Status add_rules(scmp_filter_ctx filter) {
  const struct {
    int call;
    struct scmp_arg_cmp only;
  } narrowed[] = {
      /* abort() and the sanitizers signal the process itself, and nobody else */
      {SCMP_SYS(tgkill), {.arg = 0, .op = SCMP_CMP_EQ, .datum_a = (scmp_datum_t)getpid()}},
      /* members of the thread pool choose their own core */
      {SCMP_SYS(sched_setaffinity), {.arg = 0, .op = SCMP_CMP_EQ, .datum_a = 0}},
      /* fstat() is this call with an empty path; with a path it could at most look at a size */
      {SCMP_SYS(newfstatat), {.arg = 3, .op = SCMP_CMP_EQ, .datum_a = AT_EMPTY_PATH}},
  };
  int error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1); /* all threads, not only this */
  for (size_t i = 0; !error && i < sizeof allowed / sizeof *allowed; i++)
    error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
  for (size_t i = 0; !error && i < sizeof fatal / sizeof *fatal; i++)
    error = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, fatal[i], 0);
  for (size_t i = 0; !error && i < sizeof narrowed / sizeof *narrowed; i++)
    error = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, narrowed[i].call, 1, &narrowed[i].only);
  if (!error) error = seccomp_load(filter);
  return error ? FAIL(INTERNAL, "seccomp filter: %s", strerror(-error)) : NULL;
}

static Status enter(uint32_t otherwise, Status (*add)(scmp_filter_ctx filter)) {
  scmp_filter_ctx filter = seccomp_init(otherwise);
  if (!filter) return FAIL(RESOURCE_EXHAUSTED, "seccomp filter");
  Status st = add(filter);
  seccomp_release(filter);
  return st;
}

Status sandbox_enter(void) { return enter(SCMP_ACT_ERRNO(EPERM), add_rules); }
Status sandbox_enter_driver(void) { return enter(SCMP_ACT_ALLOW, add_driver_rules); }

/* C++ libraries abort where an allocation fails; only the process itself can say that it was this.
 */
static void on_abort(int number) {
  const size_t probe = 16 << 20;
  bool full = errno == ENOMEM ||
              mmap(NULL, probe, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
  if (full) _exit(SANDBOX_OOM);
  (void)number; /* SA_RESETHAND: abort() ends it when this returns */
}

Status sandbox_limit_memory(unsigned long long bytes) {
  unsigned long long pages = 0;
  if (!bytes) return NULL;
  FILE *f = fopen("/proc/self/statm", "re");
  if (!f || fscanf(f, "%llu", &pages) != 1) pages = 0;
  if (f) fclose(f);
  if (!pages) return FAIL(INTERNAL, "the size of this process is unknown");
  unsigned long long limit = pages * (unsigned long long)sysconf(_SC_PAGESIZE) + bytes;
  struct rlimit r = {.rlim_cur = limit, .rlim_max = limit};
  struct sigaction abort_action = {.sa_handler = on_abort, .sa_flags = (int)SA_RESETHAND};
  if (sigaction(SIGABRT, &abort_action, NULL))
    return FAIL(INTERNAL, "SIGABRT: %s", strerror(errno));
  return setrlimit(RLIMIT_AS, &r) ? FAIL(INTERNAL, "RLIMIT_AS: %s", strerror(errno)) : NULL;
}

Status sandbox_limit_cpu(unsigned seconds) {
  struct rusage used;
  struct rlimit r;
  if (!seconds) return NULL;
  getrusage(RUSAGE_SELF, &used);
  if (getrlimit(RLIMIT_CPU, &r)) return FAIL(INTERNAL, "RLIMIT_CPU: %s", strerror(errno));
  r.rlim_cur = (rlim_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + 1 + seconds;
  return setrlimit(RLIMIT_CPU, &r) ? FAIL(INTERNAL, "RLIMIT_CPU: %s", strerror(errno)) : NULL;
}
