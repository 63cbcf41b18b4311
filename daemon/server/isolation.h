/* Strict isolation: every tenant has a worker process of its own on each device that it uses, so
 * that its memory is never in a process that works for somebody else. The workers of s->devices
 * then say what the device is, and run models that belong to all. All workers of a device take
 * turns in the order of one fair queue. */
#pragma once

#include "daemon/server/server.h"

/* What a worker on device i is started with; changed and ctx are left to the caller. */
DeviceLaneSpec isolation_spec(Server *s, size_t i);
/* Tells the subscribers of a tenant (NULL: all) that a device came up or went down. */
void isolation_publish(Server *s, const Tenant *to, const DeviceLane *l);
/* Gives memory back that only load justifies. */
void isolation_trim(Server *s);
/* Sends what may be sent: device_lane_flush of each. */
void isolation_flush(Server *s);
/* Ends all workers of tenants; executables and buffers are gone. */
void isolation_release(Server *s);
