/* Listening sockets: "unix:PATH" and "HOST:PORT". */
#pragma once

#include "daemon/server/server.h"

/* Adds to s->listeners; http: the port of metrics and health. A Unix socket's directory is made
 * (0700) when it is missing, the socket has socket_mode (0600), and one left behind by a dead
 * server is replaced. UNAVAILABLE when the address is taken. */
Status listener_open(Server *s, const char *address, bool http);
/* Takes over a socket that listens already, of a service manager. Its file, if it has one, stays.
 * Nobody is accepted from one for calls before listeners_resume. */
Status listener_adopt(Server *s, int fd, bool http);
/* Accepts where running out of descriptors had stopped it, and from sockets taken over. */
void listeners_resume(Server *s);
/* Stops accepting; removes the sockets' files. With all, also on the port of metrics and health. */
void listeners_close(Server *s, bool all);
