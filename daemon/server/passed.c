/* What a stranger can do to us with a descriptor, and what is asked of it for that: shrink the file
 * under a mapping (SIGBUS: F_SEAL_SHRINK), change bytes between a check and a use (F_SEAL_WRITE,
 * which also means that no writable mapping is left), or make us keep more memory alive than is
 * counted (F_SEAL_GROW, and a size of no more than the tensor's in whole pages). Only memory files
 * have seals. */
#include "daemon/server/passed.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/server/descriptors.h"

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE, PAGE_MAX = 2 << 20, FDS_MAX = 16 };

void passed_deinit(Passed *p) {
  for (size_t i = 0; i < p->n; i++) close(p->fd[i]);
  p->n = 0;
}

static void keep(Passed *p, int fd) {
  p->arrived++;
  if (p->n == PASSED_MAX || descriptor_reserved(fd)) {
    close(fd);
    return;
  }
  p->number[p->n] = p->arrived;
  p->fd[p->n++] = fd;
}

ssize_t passed_recv(Passed *p, int socket, void *buf, size_t n) {
  _Alignas(struct cmsghdr) char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
  struct iovec iov = {buf, n};
  struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
  ssize_t got = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0 || !msg.msg_controllen) return got;
  for (struct cmsghdr *h = CMSG_FIRSTHDR(&msg); h; h = CMSG_NXTHDR(&msg, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    for (size_t i = 0; i < (h->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
      keep(p, fd);
    }
  }
  return got;
}

static Status check(int fd, uint64_t bytes) {
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0) return FAIL(INVALID_ARGUMENT, "the descriptor is no memory file");
  if ((seals & SEALS) != SEALS)
    return FAIL(INVALID_ARGUMENT,
                "the memory is not sealed against shrinking, growing and writing (seals 0x%x)",
                (unsigned)seals);
  off_t end = lseek(fd, 0, SEEK_END);
  if (end < 0 || (uint64_t)end < bytes || (uint64_t)end - bytes >= PAGE_MAX)
    return FAIL(INVALID_ARGUMENT, "the memory has %lld bytes, the tensor %" PRIu64, (long long)end,
                bytes);
  return NULL;
}

Status passed_take(Passed *p, uint64_t number, uint64_t bytes, int *out) {
  size_t i = 0;
  *out = -1;
  while (i < p->n && p->number[i] != number) i++;
  if (i == p->n)
    return FAIL(INVALID_ARGUMENT,
                "no descriptor %" PRIu64 " waits on this connection; %" PRIu64 " have come, and at "
                "most %d are kept",
                number, p->arrived, PASSED_MAX);
  int fd = p->fd[i];
  p->n--;
  p->fd[i] = p->fd[p->n];
  p->number[i] = p->number[p->n];
  Status st = check(fd, bytes);
  if (st)
    close(fd);
  else
    *out = fd;
  return st;
}
