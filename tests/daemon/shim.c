/* Preloaded into kilnd by the fault tests; nothing of the product. A page that the test maps says
 * how far the wall clock is off, and which allocations fail.
 *
 *   [0] seconds that CLOCK_REALTIME and time() are off
 *   [1] allocations that still succeed; 0 = all do; when it reaches 1, that one fails, and the next
 *   [2] ones with it, as many as [2] says
 *   [3] counts the failures
 *
 * Only the process that was started with the variable KILN_SHIM obeys: it is taken out of the
 * environment, so workers do not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int64_t *page;

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("KILN_SHIM");
  int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  unsetenv("KILN_SHIM");
  unsetenv("LD_PRELOAD");
  if (at != MAP_FAILED) page = at;
}

/* -- the clock --------------------------------------------------------------------------------- */

int clock_gettime(clockid_t id, struct timespec *ts) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int rv = real(id, ts);
  if (!rv && page && id == CLOCK_REALTIME)
    ts->tv_sec += __atomic_load_n(&page[0], __ATOMIC_RELAXED);
  return rv;
}

time_t time(time_t *out) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  if (out) *out = ts.tv_sec;
  return ts.tv_sec;
}

/* -- memory ------------------------------------------------------------------------------------ */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

static int fails(void) {
  if (!page || !__atomic_load_n(&page[1], __ATOMIC_RELAXED)) return 0;
  if (__atomic_fetch_sub(&page[1], 1, __ATOMIC_RELAXED) > 1) return 0;
  int more = __atomic_sub_fetch(&page[2], 1, __ATOMIC_RELAXED) > 0;
  __atomic_store_n(&page[1], more, __ATOMIC_RELAXED);
  __atomic_fetch_add(&page[3], 1, __ATOMIC_RELAXED);
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void *realloc(void *at, size_t n) { return fails() ? NULL : __libc_realloc(at, n); }
