/* What a worker sends: packets of messages behind their lengths, with descriptors, and messages
 * that travel as memory. The input is a list of packets; each begins with a byte of flags and two
 * of length. Lengths and announcements can be asked to be right, without which little behind them
 * would be reached. No descriptor may be left over, whatever came. */
#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/channel/channel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
  FDS = 7,          /* how many come along, one more than are taken at most */
  FRAMED = 1 << 3,  /* the bytes get their length in front */
  BULK = 1 << 4,    /* they go into the first descriptor's memory, which is announced */
  WRONG = 1 << 5,   /* with another size */
  SEALED = 1 << 6,  /* the memory of descriptors cannot be changed any more */
  TOGETHER = 1 << 7 /* the packet goes on with the next entry */
};

typedef struct Packet {
  uint8_t bytes[2 * CHANNEL_PACKET_MAX];
  size_t len;
  int fds[FDS];
  size_t nfds;
} Packet;

static int memory(const uint8_t *bytes, size_t n, bool sealed) {
  int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
  if (sealed) assert(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
  return fd;
}

static void append(Packet *p, const uint8_t *bytes, size_t n, bool framed) {
  if (n + 4 > sizeof p->bytes - p->len) return;
  for (int i = 0; framed && i < 4; i++) p->bytes[p->len++] = (uint8_t)(n >> 8 * i);
  memcpy(p->bytes + p->len, bytes, n);
  p->len += n;
}

static void announce(Packet *p, const uint8_t *bytes, size_t n, uint8_t flags) {
  Kiln__V1__Envelope e = KILN__V1__ENVELOPE__INIT;
  uint8_t small[64];
  e.id = n ? bytes[0] & 3 : 0;
  e.body_case = KILN__V1__ENVELOPE__BODY_BULK;
  e.bulk = flags & WRONG ? n + 4096u * (n % 3) + 1 : n;
  append(p, small, kiln__v1__envelope__pack(&e, small), true);
}

static void add_entry(Packet *p, const uint8_t *bytes, size_t n, uint8_t flags) {
  for (size_t i = 0; i < (flags & FDS) && p->nfds < FDS; i++)
    p->fds[p->nfds++] = memory(bytes, n, flags & SEALED);
  if (flags & BULK)
    announce(p, bytes, n, flags);
  else
    append(p, bytes, n, flags & FRAMED);
}

static void send_packet(int fd, Packet *p) {
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(FDS * sizeof(int))];
  } control = {.room = {0}};
  struct iovec iov = {p->bytes, p->len};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  if (p->nfds) {
    msg.msg_control = control.room;
    msg.msg_controllen = CMSG_SPACE(p->nfds * sizeof(int));
    struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
    h->cmsg_len = CMSG_LEN(p->nfds * sizeof(int));
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(h), p->fds, p->nfds * sizeof(int));
  }
  (void)!sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
  for (size_t i = 0; i < p->nfds; i++) close(p->fds[i]);
  p->nfds = p->len = 0;
}

/* False when the channel is over, as it is for kilnd. */
static bool receive_all(Channel *c) {
  for (;;) {
    Message m;
    Status st = channel_recv(c, &m);
    if (st || !m.env) {
      assert(!m.nfds || st == NULL);
      message_close(&m); /* descriptors without a message */
      bool over = st;
      status_drop(st);
      return !over;
    }
    uint8_t *copy = malloc(kiln__v1__envelope__get_packed_size(m.env) + 1); /* reads all of it */
    assert(copy);
    kiln__v1__envelope__pack(m.env, copy);
    free(copy);
    int fd = message_take_fd(&m, 1);
    if (fd >= 0) close(fd);
    message_close(&m);
  }
}

static int lowest_free(void) {
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  assert(fd >= 0);
  close(fd);
  return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static Packet packet;
  int pair[2], before = lowest_free();
  Channel c;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) return 0;
  Status st = channel_init(&c, pair[0]);
  assert(!st);
  c.poll = true;
  bool alive = true;
  while (alive && size >= 3) {
    uint8_t flags = data[0];
    size_t n = (size_t)data[1] | (size_t)data[2] << 8;
    data += 3, size -= 3;
    if (n > size) n = size;
    add_entry(&packet, data, n, flags);
    data += n, size -= n;
    if (flags & TOGETHER && size >= 3) continue;
    send_packet(pair[1], &packet);
    alive = receive_all(&c);
  }
  send_packet(pair[1], &packet);
  channel_deinit(&c);
  close(pair[1]);
  assert(lowest_free() == before);
  return 0;
}
