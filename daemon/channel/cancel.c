/* See cancel.h. The page is a sealed memfd: neither side can shrink it under the other. */
#include "daemon/channel/cancel.h"

#include <sys/mman.h>
#include <unistd.h>

#include "daemon/channel/shm.h"

Status cancel_board_create(CancelBoard **out, int *fd) {
  int whole;
  void *at = NULL;
  *out = NULL;
  *fd = -1;
  TRY(shm_create("kiln-cancel", sizeof **out, &whole));
  Status st = shm_map(whole, sizeof **out, true, &at);
  if (!st) st = shm_readonly(whole, fd);
  close(whole);
  if (st && at) munmap(at, sizeof **out);
  if (!st) *out = at;
  return st;
}

Status cancel_board_open(int fd, const CancelBoard **out) {
  void *at = NULL;
  Status st = shm_check(fd, sizeof **out);
  if (!st) st = shm_map(fd, sizeof **out, false, &at);
  if (fd >= 0) close(fd);
  *out = at;
  return st;
}

void cancel_board_close(const CancelBoard *b) {
  if (b) munmap((void *)(uintptr_t)b, sizeof *b);
}
