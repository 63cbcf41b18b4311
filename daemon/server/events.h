/* What happens in the server, for those who subscribed. A subscriber that does not read has a
 * bounded number of events waiting; more are left out and counted. */
#pragma once

#include "daemon/server/server.h"

/* To the subscribers of one tenant, or of all (NULL). Fills in the time; m is read during the call.
 */
void events_publish(Server *s, const Tenant *to, Kiln__V1__Event *m);
/* The server stops: ends the streams that have no end of their own. */
void events_stop(Server *s);
