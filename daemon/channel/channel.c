/* Descriptors in a queued packet are duplicates, because the caller may close its own as soon as
 * channel_send returns. Everything received is checked like a stranger's message: a compile worker
 * runs code over a user's graph and is not trusted. */
#include "daemon/channel/channel.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/limits.h"

/* A packet that gathers messages has room for so many bytes. */
enum { SEND_BATCH = 16, PREFIX = 4, GATHER = 8 << 10 };

struct ChannelPacket {
  ChannelPacket *next;
  int fds[CHANNEL_FDS_MAX];
  size_t nfds, len, cap, messages;
  uint8_t bytes[];
};

/* Plans with their kernels, and loads with their binaries, are the large messages. */
static const PbLimits envelope_limits = {
    .max_bytes = 512u << 20, .max_depth = 16, .max_elements = 100u << 20, .max_memory = 1u << 30};

Status channel_init(Channel *c, int fd) {
  *c = (Channel){.fd = fd, .in = malloc(CHANNEL_PACKET_MAX)};
  arena_init(&c->arena, 0);
  if (c->in) return NULL;
  channel_deinit(c);
  return FAIL(RESOURCE_EXHAUSTED, "worker channel");
}

/* What it held belongs to one tenant; the memory serves the next. */
static void packet_free(Channel *c, ChannelPacket *p) {
  explicit_bzero(p->bytes, p->len);
  for (size_t i = 0; i < p->nfds; i++) close(p->fds[i]);
  if (p->cap == GATHER && !c->spare)
    c->spare = p;
  else
    free(p);
}

static ChannelPacket *packet_create(Channel *c, size_t cap) {
  ChannelPacket *p = c->spare && cap <= GATHER ? c->spare : NULL;
  if (p) {
    c->spare = NULL;
    cap = GATHER;
  } else if (!(p = malloc(sizeof *p + cap))) {
    return NULL;
  }
  *p = (ChannelPacket){.cap = cap};
  return p;
}

void channel_deinit(Channel *c) {
  for (ChannelPacket *p = c->first, *next; p; p = next) {
    next = p->next;
    packet_free(c, p);
  }
  free(c->spare);
  if (c->fd >= 0) close(c->fd);
  free(c->in);
  arena_deinit(&c->arena);
  *c = (Channel){.fd = -1};
}

/* -- sending ------------------------------------------------------------------------------------
 */

typedef struct Control {
  _Alignas(struct cmsghdr) char room[CMSG_SPACE(CHANNEL_FDS_MAX * sizeof(int))];
} Control;

static void fill_header(struct msghdr *msg, Control *control, const int *fds, size_t nfds) {
  if (!nfds) return;
  memset(control, 0, sizeof *control);
  msg->msg_control = control->room;
  msg->msg_controllen = CMSG_SPACE(nfds * sizeof(int));
  struct cmsghdr *h = CMSG_FIRSTHDR(msg);
  *h = (struct cmsghdr){
      .cmsg_len = CMSG_LEN(nfds * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(h), fds, nfds * sizeof(int));
}

/* The errno of sendmsg, or 0. */
static int send_packet(int fd, const uint8_t *bytes, size_t len, const int *fds, size_t nfds) {
  Control control;
  struct iovec iov = {(void *)(uintptr_t)bytes, len};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  fill_header(&msg, &control, fds, nfds);
  for (;;) {
    if (sendmsg(fd, &msg, MSG_NOSIGNAL) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

static Status send_failed(int error) {
  return FAIL(UNAVAILABLE, "sending to the other process: %s", strerror(error));
}

static void put_length(uint8_t *at, size_t len) {
  for (int i = 0; i < PREFIX; i++) at[i] = (uint8_t)(len >> 8 * i);
}

static size_t get_length(const uint8_t *at) {
  size_t len = 0;
  for (int i = 0; i < PREFIX; i++) len |= (size_t)at[i] << 8 * i;
  return len;
}

/* Room for a message of len bytes behind its length at the end of the queue: in the last packet
 * when neither has descriptors and it fits, else in a new one. */
static Status enqueue(Channel *c, size_t len, const int *fds, size_t nfds, uint8_t **out) {
  ChannelPacket *p = c->last;
  size_t need = PREFIX + len;
  if (!p || nfds || p->nfds || need > p->cap - p->len) {
    p = packet_create(c, c->hold && !nfds && need < GATHER ? GATHER : need);
    if (!p) return FAIL(RESOURCE_EXHAUSTED, "queueing a message");
    for (; p->nfds < nfds; p->nfds++) {
      p->fds[p->nfds] = fcntl(fds[p->nfds], F_DUPFD_CLOEXEC, 0);
      if (p->fds[p->nfds] >= 0) continue;
      packet_free(c, p);
      return FAIL(RESOURCE_EXHAUSTED, "duplicating a descriptor: %s", strerror(errno));
    }
    *(c->last ? &c->last->next : &c->first) = p;
    c->last = p;
  }
  put_length(p->bytes + p->len, len);
  *out = p->bytes + p->len + PREFIX;
  p->len += need;
  p->messages++;
  c->waiting++;
  return NULL;
}

/* bytes: a message behind room for its length. */
static Status send_or_queue(Channel *c, uint8_t *bytes, size_t len, const int *fds, size_t nfds) {
  uint8_t *at;
  put_length(bytes, len);
  if (!c->first && !c->hold) {
    int error = send_packet(c->fd, bytes, PREFIX + len, fds, nfds);
    if (!error) return NULL;
    if (error != EAGAIN && error != EWOULDBLOCK) return send_failed(error);
  }
  TRY(enqueue(c, len, fds, nfds, &at));
  memcpy(at, bytes + PREFIX, len);
  return NULL;
}

/* The announcement carries the bulk memfd first, then the message's own descriptors. */
static Status send_bulk(Channel *c, const Kiln__V1__Envelope *env, size_t len, const int *fds,
                        size_t nfds) {
  int all[CHANNEL_FDS_MAX] = {-1};
  uint8_t small[PREFIX + 32];
  uint8_t *bytes = malloc(len);
  if (!bytes) return FAIL(RESOURCE_EXHAUSTED, "message of %zu bytes", len);
  kiln__v1__envelope__pack(env, bytes);
  Status st = shm_from_bytes("kiln-message", (Bytes){bytes, len}, &all[0]);
  explicit_bzero(bytes, len);
  free(bytes);
  if (st) return st;
  for (size_t i = 0; i < nfds; i++) all[i + 1] = fds[i];
  Kiln__V1__Envelope announce = KILN__V1__ENVELOPE__INIT;
  announce.id = env->id;
  announce.body_case = KILN__V1__ENVELOPE__BODY_BULK;
  announce.bulk = len;
  size_t n = kiln__v1__envelope__pack(&announce, small + PREFIX);
  st = send_or_queue(c, small, n, all, nfds + 1);
  close(all[0]);
  return st;
}

Status channel_send(Channel *c, const Kiln__V1__Envelope *env, const int *fds, size_t nfds) {
  uint8_t packet[CHANNEL_PACKET_MAX];
  assert(nfds < CHANNEL_FDS_MAX);
  if (c->fd < 0) return FAIL(UNAVAILABLE, "the other process is gone");
  size_t len = kiln__v1__envelope__get_packed_size(env);
  if (len > envelope_limits.max_bytes)
    return FAIL(RESOURCE_EXHAUSTED, "message of %zu bytes, at most %zu", len,
                envelope_limits.max_bytes);
  if (len > sizeof packet - PREFIX) return send_bulk(c, env, len, fds, nfds);
  if (c->hold) {
    uint8_t *at;
    TRY(enqueue(c, len, fds, nfds, &at));
    kiln__v1__envelope__pack(env, at);
    return NULL;
  }
  kiln__v1__envelope__pack(env, packet + PREFIX);
  return send_or_queue(c, packet, len, fds, nfds);
}

/* Sends up to SEND_BATCH of the packets that wait, in one call; how many, or -1 with errno. */
static int send_batch(const Channel *c) {
  struct mmsghdr msgs[SEND_BATCH];
  struct iovec iov[SEND_BATCH];
  Control control[SEND_BATCH];
  unsigned n = 0;
  for (ChannelPacket *p = c->first; p && n < SEND_BATCH; p = p->next, n++) {
    iov[n] = (struct iovec){p->bytes, p->len};
    msgs[n] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[n], .msg_iovlen = 1}};
    fill_header(&msgs[n].msg_hdr, &control[n], p->fds, p->nfds);
  }
  return sendmmsg(c->fd, msgs, n, MSG_NOSIGNAL);
}

Status channel_flush(Channel *c) {
  while (c->first) {
    int sent = send_batch(c);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return NULL;
    if (sent < 0) return send_failed(errno);
    for (; sent && c->first; sent--) {
      ChannelPacket *p = c->first;
      if (!(c->first = p->next)) c->last = NULL;
      c->waiting -= p->messages;
      packet_free(c, p);
    }
  }
  return NULL;
}

Status channel_send_error(Channel *c, uint64_t id, const StatusNote *st, const char *cause) {
  char text[4096];
  status_text(st, text, sizeof text);
  Kiln__V1__ErrorReply error = KILN__V1__ERROR_REPLY__INIT;
  error.code = (uint32_t)status_code(st);
  error.message = text;
  error.cause = (char *)(uintptr_t)cause;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  env.id = id;
  env.body_case = KILN__V1__ENVELOPE__BODY_ERROR;
  env.error = &error;
  return channel_send(c, &env, NULL, 0);
}

/* -- receiving ----------------------------------------------------------------------------------
 */

int message_take_fd(Message *m, size_t i) {
  if (i >= m->nfds) return -1;
  int fd = m->fds[i];
  m->fds[i] = -1;
  return fd;
}

void message_close(Message *m) {
  for (size_t i = 0; i < m->nfds; i++)
    if (m->fds[i] >= 0) close(m->fds[i]);
  m->nfds = 0;
  m->env = NULL;
}

static void take_descriptors(struct msghdr *msg, Message *out) {
  for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
      if (out->nfds < CHANNEL_FDS_MAX)
        out->fds[out->nfds++] = fd;
      else
        close(fd);
    }
  }
}

static Status unpack(Channel *c, Bytes bytes, Message *out) {
  ProtobufCMessage *msg;
  TRY(pb_unpack(&kiln__v1__envelope__descriptor, bytes, &envelope_limits, &c->arena, &msg));
  out->env = (const Kiln__V1__Envelope *)msg;
  return NULL;
}

static Status unpack_bulk(Channel *c, Message *out) {
  uint64_t len = out->env->bulk, id = out->env->id;
  void *bytes;
  out->env = NULL;
  int fd = message_take_fd(out, 0);
  if (fd < 0) return FAIL(INTERNAL, "bulk message without its memory");
  Status st = len && len <= envelope_limits.max_bytes ? shm_check(fd, len)
                                                      : FAIL(INTERNAL, "bulk message's size");
  if (!st) st = shm_map(fd, len, false, &bytes);
  close(fd);
  if (st) return st;
  st = unpack(c, (Bytes){bytes, len}, out);
  munmap(bytes, len);
  if (st) return st;
  if (out->env->id != id || out->env->body_case == KILN__V1__ENVELOPE__BODY_BULK)
    return FAIL(INTERNAL, "bulk message does not match its announcement");
  memmove(out->fds, out->fds + 1, (out->nfds - 1) * sizeof(int));
  out->nfds--;
  return NULL;
}

/* The next packet, into the buffer; nothing when none is there. */
static Status receive(Channel *c, Message *out) {
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(CHANNEL_FDS_MAX * sizeof(int))];
  } control;
  struct iovec iov = {c->in, CHANNEL_PACKET_MAX};
  struct msghdr msg = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.room,
                       .msg_controllen = sizeof control.room};
  ssize_t n;
  bool reset =
      false; /* said once, when the peer left something unread; what it sent is still here */
  do {
    n = recvmsg(c->fd, &msg, MSG_CMSG_CLOEXEC | (c->poll ? MSG_DONTWAIT : 0));
  } while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !reset && (reset = true))));
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return NULL;
  if (n < 0) return FAIL(UNAVAILABLE, "receiving from the other process: %s", strerror(errno));
  take_descriptors(&msg, out);
  if (!n) return FAIL(UNAVAILABLE, "the other process is gone");
  if (msg.msg_flags & MSG_TRUNC) /* MSG_CTRUNC: this process is out of descriptors */
    return FAIL(INTERNAL, "message over the packet size");
  c->at = 0;
  c->end = (size_t)n;
  return NULL;
}

/* The next message of the packet. */
static Status take(Channel *c, Message *out) {
  size_t left = c->end - c->at, len = left < PREFIX ? 0 : get_length(c->in + c->at);
  Bytes bytes = {c->in + c->at + PREFIX, len};
  if (left < PREFIX || len > left - PREFIX) return FAIL(INTERNAL, "a message beyond its packet");
  c->at += PREFIX + len;
  arena_reset(&c->arena);
  TRY(unpack(c, bytes, out));
  return out->env->body_case == KILN__V1__ENVELOPE__BODY_BULK ? unpack_bulk(c, out) : NULL;
}

Status channel_recv(Channel *c, Message *out) {
  *out = (Message){0};
  if (c->fd < 0) return FAIL(UNAVAILABLE, "the other process is gone");
  Status st = channel_pending(c) ? NULL : receive(c, out);
  if (!st && channel_pending(c)) st = take(c, out);
  if (st) message_close(out);
  return st;
}
