/* The team.
 *
 * All coordination is one 64-bit ticket: the round, the number of pieces, and the next piece to
 * take, packed so that taking a piece and learning which round it belongs to is one fetch_add. A
 * member that took a valid piece knows the round cannot end before it is done, so it may read the
 * round's task; a member that took nothing has looked at nothing else.
 *
 * Pieces are taken, not dealt: the driver never waits for a member that is asleep or descheduled
 * without a piece. Members watch the ticket for a while after work and then sleep on a futex; the
 * driver makes no system call unless somebody sleeps. Watching is skipped when there are fewer
 * cores than members.
 *
 * With exactly one core for each member, members keep to the cores that the driver is not on:
 * kernels are shorter than what a scheduler needs to see that two threads share a core while
 * another has only one. The driver is the caller's thread and stays free; who finds it elsewhere
 * moves. */
#include "devices/cpu_pool.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

enum {
  NEXT_BITS = 24, /* room for pieces, and for members that reach past the end */
  COUNT_BITS = 20,
  SPIN_NS = 60000,      /* how long a member watches before it sleeps */
  WAIT_SPIN_NS = 200000 /* how long the driver watches for the last piece */
};
#define NEXT_MASK  ((UINT64_C(1) << NEXT_BITS) - 1)
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)

typedef struct Member {
  CpuPool *pool;
  uint32_t id;
  pthread_t thread;
  int beside; /* where the driver was when this member last chose its core; -1: never */
} Member;

struct CpuPool {
  _Alignas(64) _Atomic uint64_t ticket;
  _Alignas(64) _Atomic uint32_t left; /* pieces of this round not finished */
  _Alignas(64) _Atomic uint32_t bell; /* futex of sleeping members; changes with every round */
  _Atomic uint32_t sleepers, driver_sleeps;
  _Atomic int driver; /* the core that began the round */
  _Atomic bool stop;
  /* Written by the driver between rounds only. */
  bool spin;
  uint32_t round, members, started;
  CpuTask task;
  void *ctx;
  int *cores; /* one for each member; NULL: they run where the scheduler puts them */
  Member *member;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static void futex_wake(_Atomic uint32_t *word, int n) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void cpu_relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static bool has_work(uint64_t ticket) {
  return (ticket & NEXT_MASK) < ((ticket >> NEXT_BITS) & COUNT_MASK);
}

/* Takes and runs pieces until none is left. */
static void take_pieces(CpuPool *p, uint32_t worker) {
  while (has_work(atomic_load_explicit(&p->ticket, memory_order_relaxed))) {
    uint64_t t = atomic_fetch_add_explicit(&p->ticket, 1, memory_order_acquire);
    if (!has_work(t)) return;
    p->task(p->ctx, worker, (uint32_t)(t & NEXT_MASK));
    if (atomic_fetch_sub(&p->left, 1) == 1 && atomic_load(&p->driver_sleeps)) {
      futex_wake(&p->left, 1);
    }
  }
}

/* Calls for this thread alone: all that a sandbox lets a worker do. Where that fails it stays. */
static void keep_off_driver(Member *m) {
  const CpuPool *p = m->pool;
  int driver = atomic_load_explicit(&p->driver, memory_order_relaxed);
  if (!p->cores || driver == m->beside) return;
  m->beside = driver;
  uint32_t at = 0;
  assert(p->members > 0);
  while (at < p->members && p->cores[at] != driver) at++;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((size_t)p->cores[(at + m->id) % p->members], &set);
  (void)sched_setaffinity(0, sizeof set, &set);
}

/* True when the ticket offers work, false when it is time to sleep. */
static bool watch(const CpuPool *p) {
  if (!p->spin) return has_work(atomic_load_explicit(&p->ticket, memory_order_relaxed));
  int64_t until = clock_now_ns() + SPIN_NS;
  do {
    for (int i = 0; i < 64; i++) {
      if (has_work(atomic_load_explicit(&p->ticket, memory_order_relaxed))) return true;
      cpu_relax();
    }
    if (atomic_load_explicit(&p->stop, memory_order_relaxed)) return false;
  } while (clock_now_ns() < until);
  return false;
}

static void *member_main(void *arg) {
  Member *m = arg;
  CpuPool *p = m->pool;
  while (!atomic_load(&p->stop)) {
    if (watch(p)) {
      keep_off_driver(m);
      take_pieces(p, m->id);
      continue;
    }
    /* Announced before the last look: either that look sees the new round or its driver sees the
     * sleeper. */
    uint32_t bell = atomic_load(&p->bell);
    atomic_fetch_add(&p->sleepers, 1);
    if (!has_work(atomic_load(&p->ticket)) && !atomic_load(&p->stop)) futex_wait(&p->bell, bell);
    atomic_fetch_sub(&p->sleepers, 1);
  }
  return NULL;
}

static void ring(CpuPool *p, uint32_t n) {
  atomic_fetch_add(&p->bell, 1);
  uint32_t asleep = atomic_load(&p->sleepers);
  if (asleep) futex_wake(&p->bell, (int)(n < asleep ? n : asleep));
}

static void wait_round(CpuPool *p) {
  int64_t until = 0;
  while (atomic_load_explicit(&p->left, memory_order_acquire) != 0) {
    for (int i = 0; i < 64 && atomic_load_explicit(&p->left, memory_order_acquire); i++) {
      cpu_relax();
    }
    int64_t now = clock_now_ns();
    if (until == 0) until = now + (p->spin ? WAIT_SPIN_NS : 0);
    if (now < until) continue;
    atomic_store(&p->driver_sleeps, 1);
    uint32_t left = atomic_load(&p->left);
    if (left) futex_wait(&p->left, left);
    atomic_store(&p->driver_sleeps, 0);
  }
}

void cpu_pool_run(CpuPool *p, CpuTask task, void *ctx, uint32_t n) {
  if (n == 0) return;
  if (n == 1 || p->started == 0 || n > COUNT_MASK) {
    for (uint32_t i = 0; i < n; i++) task(ctx, 0, i);
    return;
  }
  p->task = task;
  p->ctx = ctx;
  if (p->cores) atomic_store_explicit(&p->driver, sched_getcpu(), memory_order_relaxed);
  atomic_store_explicit(&p->left, n, memory_order_relaxed);
  uint64_t round = (uint64_t)++p->round << (NEXT_BITS + COUNT_BITS);
  atomic_store(&p->ticket, round | (uint64_t)n << NEXT_BITS);
  ring(p, n - 1);
  take_pieces(p, 0);
  wait_round(p);
}

void cpu_pool_signal(const CpuPool *p, int signal) {
  for (uint32_t i = 1; i <= p->started; i++) (void)pthread_kill(p->member[i].thread, signal);
}

/* The cores that the process may run on, when they are as many as members. */
static int *find_cores(uint32_t members) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0 || (uint32_t)CPU_COUNT(&set) != members)
    return NULL;
  int *cores = calloc(members, sizeof *cores);
  uint32_t n = 0;
  for (int c = 0; cores && c < CPU_SETSIZE; c++)
    if (CPU_ISSET((size_t)c, &set)) cores[n++] = c;
  return cores;
}

Status cpu_pool_create(uint32_t members, bool spin, int signal, CpuPool **out) {
  sigset_t all, old;
  CpuPool *p = aligned_alloc(64, sizeof *p);
  *out = NULL;
  if (!p) return FAIL(RESOURCE_EXHAUSTED, "memory for a thread pool");
  memset(p, 0, sizeof *p);
  p->members = members;
  p->spin = spin;
  p->cores = members > 1 ? find_cores(members) : NULL;
  p->member = calloc(members, sizeof *p->member);
  if (!p->member) {
    cpu_pool_destroy(p);
    return FAIL(RESOURCE_EXHAUSTED, "memory for a thread pool");
  }
  /* Other signals belong to the process's own threads. */
  sigfillset(&all);
  sigdelset(&all, signal);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  Status st = NULL;
  for (uint32_t i = 1; i < members && !st; i++) {
    Member *m = &p->member[i];
    m->pool = p;
    m->id = i;
    m->beside = -1;
    int err = pthread_create(&m->thread, NULL, member_main, m);
    if (err) {
      st = FAIL(RESOURCE_EXHAUSTED, "starting thread %u of %u: %s", i, members, strerror(err));
    } else {
      p->started++;
    }
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (st) {
    cpu_pool_destroy(p);
    return st;
  }
  *out = p;
  return NULL;
}

void cpu_pool_destroy(CpuPool *p) {
  if (!p) return;
  atomic_store(&p->stop, true);
  atomic_fetch_add(&p->bell, 1);
  futex_wake(&p->bell, INT_MAX);
  for (uint32_t i = 1; i <= p->started; i++) pthread_join(p->member[i].thread, NULL);
  free(p->member);
  free(p->cores);
  free(p);
}
