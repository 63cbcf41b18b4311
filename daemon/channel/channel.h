/* One end of the SOCK_SEQPACKET pair between kilnd and a worker: protobuf Envelopes, with file
 * descriptors beside them.
 *
 * The same code serves both ends. A worker's socket blocks, so its queue stays empty; kilnd's does
 * not, and what the socket refuses waits in the queue until channel_flush. An end that sends many
 * small messages holds them and flushes: one call, and the other end is woken once. A packet is one
 * message or several, each behind its length (4 bytes, little endian); descriptors come with a
 * message that is alone. Messages keep their order. A message over CHANNEL_PACKET_MAX travels as a
 * sealed memfd announced by a small packet.
 */
#pragma once

#include "base/arena.h"
#include "daemon/channel/shm.h"
#include "kiln/v1/worker.pb-c.h"

enum { CHANNEL_PACKET_MAX = 64 << 10, CHANNEL_FDS_MAX = 4 };

typedef struct ChannelPacket ChannelPacket;
typedef struct Channel {
  int fd;                      /* -1 when closed */
  ChannelPacket *first, *last; /* waiting to be sent */
  ChannelPacket *spare;        /* empty, of the usual size; NULL: none */
  size_t waiting;              /* messages in them */
  bool hold;                   /* what is sent waits for channel_flush, which sends it together */
  bool poll;                   /* channel_recv does not wait, though the socket may */
  uint8_t *in;                 /* receive buffer: [at, end) has not been looked at */
  size_t at, end;
  Arena arena; /* of the message received last */
} Channel;

/* A received message. env lives until the next channel_recv. The descriptors belong to the
 * receiver: it takes them with message_take_fd, and message_close closes what is left. They are
 * fewer than were sent when this process has no room for more. */
typedef struct Message {
  const Kiln__V1__Envelope *env;
  int fds[CHANNEL_FDS_MAX];
  size_t nfds;
} Message;

/* Takes ownership of fd, also on failure. */
Status channel_init(Channel *c, int fd);
void channel_deinit(Channel *c);
/* The caller keeps fds. UNAVAILABLE when the peer is gone. */
Status channel_send(Channel *c, const Kiln__V1__Envelope *env, const int *fds, size_t nfds);
/* Sends what waits, as far as the socket takes it. */
Status channel_flush(Channel *c);
static inline bool channel_waiting(const Channel *c) { return c->first != NULL; }
/* Messages have been received that nobody has taken: the socket does not tell of them. */
static inline bool channel_pending(const Channel *c) { return c->at < c->end; }
/* out->env is NULL when nothing is there (non-blocking sockets). UNAVAILABLE when the peer is gone,
 * INTERNAL when it sent nonsense. */
Status channel_recv(Channel *c, Message *out);

/* -1 when there is no such descriptor. */
int message_take_fd(Message *m, size_t i);
void message_close(Message *m);

/* The ErrorReply to request id that says what st says. Does not consume st. */
Status channel_send_error(Channel *c, uint64_t id, const StatusNote *st, const char *cause);
