/* The port for probes and scrapers: GET /metrics, /healthz and /readyz over HTTP/1.1.
 *
 *   /healthz  200 while the loop turns
 *   /readyz   200 when calls are taken, a device is up and the configured models are loaded; else
 *             503 and the reason
 *   /metrics  everything of metrics.def
 *
 * It stays open while the server drains. Clients are bounded: in number (the one that has been
 * connected longest makes room), in bytes of a request and in time for it. */
#pragma once

#include "daemon/server/server.h"

/* Takes ownership of fd. */
void http_open(Server *s, int fd);
/* Closes those that have taken too long. Once a second. */
void http_expire(Server *s);
void http_close_all(Server *s);
