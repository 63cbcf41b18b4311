/* SIGHUP: the configuration is read again, and what can change while serving does: tenants with
 * their tokens, roles and quotas, the level of the log, limits and times. Sockets, devices, workers
 * and the cache stay as they were started. A configuration with a mistake changes nothing. */
#pragma once

#include "daemon/server/server.h"

void server_reload(Server *s);
