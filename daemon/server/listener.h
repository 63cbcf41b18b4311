/* Listening sockets: "unix:PATH" and "HOST:PORT". */
#pragma once

#include "daemon/server/server.h"

/* Adds to s->listeners. A Unix socket's directory is made (0700) when it is missing, the socket has
 * socket_mode (0600), and one left behind by a dead server is replaced. UNAVAILABLE when the
 * address is taken. */
Status listener_open(Server *s, const char *address);
/* Accepts again where running out of descriptors had stopped it. */
void listeners_resume(Server *s);
/* Stops accepting; removes the sockets' files. */
void listeners_close(Server *s);
