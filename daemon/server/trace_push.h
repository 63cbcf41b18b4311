/* Sends spans to an OpenTelemetry collector: OTLP over HTTP, as JSON.
 *
 * Off unless `trace_push` names a collector. What is recorded (trace.h) is sent in batches, one
 * at a time; the ring of spans is all the memory that a collector which is away or slow costs, and
 * what it overwrites meanwhile is counted as lost. Nothing that a client waits for waits for it. */
#pragma once

#include "base/status.h"

typedef struct Server Server;
typedef struct TracePush TracePush;

/* http://HOST[:PORT][/PATH], or unix:PATH */
typedef struct PushAddress {
  char host[256], port[8]; /* host "": a Unix socket */
  char socket[108];
  char path[256];
} PushAddress;
Status push_address_parse(const char *text, PushAddress *out);

/* Starts as the configuration says; *out stays NULL when it names nobody. */
Status trace_push_create(Server *s, TracePush **out);
/* What has not been sent is lost. */
void trace_push_close(TracePush *p);
