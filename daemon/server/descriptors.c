/* The kernel gives the lowest number that is free, so a number near the limit says that nearly all
 * are taken. */
#include "daemon/server/descriptors.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { RESERVED = 16, RETRY_NS = 1000000000 };

bool descriptor_reserved(int fd) {
  struct rlimit r;
  if (getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur == RLIM_INFINITY) return false;
  return (rlim_t)fd + RESERVED >= r.rlim_cur;
}

Status descriptors_check(int any) {
  int probe = fcntl(any, F_DUPFD_CLOEXEC, 0);
  bool left = probe >= 0 && !descriptor_reserved(probe);
  if (probe >= 0) close(probe);
  if (left) return NULL;
  return status_retry(FAIL(RESOURCE_EXHAUSTED, "the server has no descriptor left for this"),
                      RETRY_NS);
}
