/* The metrics that are read rather than counted, and the labels that depend on the configuration.
 */
#pragma once

#include "daemon/server/server.h"

/* Fills in the gauges; cache: NULL when there are no numbers of it. */
void metrics_sample(Server *s, const Kiln__V1__CacheStatsResponse *cache);
/* Appends all metrics in Prometheus' text format. */
void metrics_write(const Server *s, StrBuf *out);
/* The index of a tenant for its label; those beyond share the last, "other". */
unsigned metrics_tenant(const Tenant *t);
/* The index of a device for its label. */
unsigned metrics_device(const Server *s, const DeviceLane *l);
