/* What a service manager and kilnd say to each other, without libsystemd: the datagrams of
 * sd_notify(3) to $NOTIFY_SOCKET, the watchdog of $WATCHDOG_USEC, and the listening sockets of
 * sd_listen_fds(3). Without a manager all of it does nothing. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Notify {
  int fd;               /* connected; -1 = nobody wants to know */
  uint64_t watchdog_ms; /* a sign of life is due that often; 0 = never */
  uint64_t sent_ms;     /* when the last one was */
  bool ready;           /* READY=1 was sent */
  char status[120];     /* what was said last */
} Notify;

/* Reads the environment, and takes its variables away from child processes. */
void notify_open(Notify *n);
void notify_close(Notify *n);
/* One datagram of "KEY=VALUE\n" lines. */
void notify_send(const Notify *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

enum { ACTIVATION_MAX = 16, ACTIVATION_NAME = 64 };
typedef struct ActivationSocket {
  int fd;
  char name[ACTIVATION_NAME]; /* FileDescriptorName= of the socket unit; "" when none was given */
} ActivationSocket;
/* The sockets that were passed to this process; the variables are taken away. */
size_t activation_take(ActivationSocket out[ACTIVATION_MAX]);
