/* SIGHUP: the configuration is read anew, and what can change while serving does: tenants with
 * their tokens, certificates, uids, roles, weights and quotas, the server's certificate, the level
 * of the log, limits and times. Sockets, devices, workers and the cache stay as they were started.
 * A configuration that is wrong changes nothing. */
#pragma once

#include "daemon/server/server.h"

/* On failure the server goes on as it was; the log says why. */
void config_reload(Server *s);
/* Whoever is no tenant any more keeps nothing, whatever was still under way when the section went.
 */
void reload_housekeeping(Server *s);
