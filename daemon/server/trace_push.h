/* Sends spans to an OpenTelemetry collector: OTLP over HTTP, as JSON.
 *
 * Off unless `trace_push` names a collector. What is recorded (trace.h) is sent in batches, one
 * at a time; the ring of spans is all the memory that a collector which is away or slow costs, and
 * what it overwrites meanwhile is counted as lost. Nothing that a client waits for waits for it. */
#pragma once

#include "daemon/server/dial.h"

typedef struct Config Config;
typedef struct Server Server;
typedef struct TracePush TracePush;

/* http://HOST[:PORT][/PATH], the same with https://, or unix:PATH */
typedef struct PushAddress {
  bool tls;
  DialAddress at;
  char path[256];
} PushAddress;
Status push_address_parse(const char *text, PushAddress *out);
/* What the configuration says of it; files are not looked at. */
Status push_check(const Config *c);

/* Starts as the configuration says; *out stays NULL when it names nobody. */
Status trace_push_create(Server *s, TracePush **out);
/* What has not been sent is lost. */
void trace_push_close(TracePush *p);
/* Whether the settings could be taken, with the file that they name. */
Status trace_push_reload_check(Server *s, const Config *next);
/* The server's configuration has other ones (elsewhere: another collector), or the file may be
 * another. */
Status trace_push_reload(Server *s, bool elsewhere);
