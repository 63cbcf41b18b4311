/* kilnd as a whole: the loop and what hangs on it.
 *
 * Who runs where. Each thing belongs to one thread; nothing waits for the loop's callers.
 *
 *   loop        every uv handle, gRPC session, Request, Compile, registry, worker channel
 *   cache lane  the SQLite connection (store.c)
 *   bulk lane   comparing large memory (compile.c)
 *   workers     other processes: supervisor.c, compile_pool.c, device_lane.c
 *
 * Life: server_create binds and starts everything, server_run returns after a stop has finished. */
#pragma once

#include <uv.h>

#include "base/map.h"
#include "base/pool.h"
#include "daemon/server/auth.h"
#include "daemon/server/compile_pool.h"
#include "daemon/server/config.h"
#include "daemon/server/device_lane.h"
#include "daemon/server/lane.h"
#include "daemon/server/metrics.h"
#include "daemon/server/notify.h"
#include "daemon/server/store.h"
#include "daemon/server/trace.h"
#include "daemon/server/vigil.h"
#include "proto/tls.h"

typedef struct Connection Connection;
typedef struct Listener Listener;
typedef struct Request Request;
typedef struct Compile Compile;
typedef struct Build Build;
typedef struct Tuner Tuner;
typedef struct Tune Tune;
typedef struct Subscriber Subscriber;
typedef struct HttpClient HttpClient;
typedef struct Model Model;
typedef struct Shared Shared;
typedef struct TracePush TracePush;

typedef struct Server {
  uv_loop_t loop;
  Config config;
  int64_t started_ns;
  TenantTable tenants;
  AuthTable *auth;
  TlsContext *tls; /* NULL: TCP is plain */
  /* sockets */
  Listener *listeners;
  Connection *connections, *dirty; /* dirty: has output to write */
  size_t nconnections;
  Connection *strangers, **last_stranger; /* connections that no tenant has used, oldest first */
  Map addresses;                          /* how many connections each has, by connection_address */
  uint64_t next_connection;
  uint64_t refusal_told_ms; /* when the log last said that one was refused */
  uint8_t *read_buffer;     /* shared by all connections */
  Vigil vigil;
  uv_prepare_t flush;
  HttpClient *http; /* of the port for metrics and health */
  size_t nhttp;
  /* requests */
  Pool blocks; /* small memory of sessions */
  Request *requests;
  Request *idle_requests; /* to be used again, with the first block of their arenas */
  size_t nidle_requests;
  size_t nrequests;
  uint64_t answer_bytes; /* that wait to be read: answers.h */
  uint32_t next_request;
  uv_timer_t deadlines;
  int64_t deadline_armed_ns; /* 0 = not armed */
  Request *watchers;         /* health watches */
  /* work */
  Supervisor *supervisor;
  CompilePool *pool;
  DeviceLane *devices[CONFIG_LIST_MAX];
  size_t ndevices;
  Lane *bulk;
  Store *store;
  ShmPool uploads;
  Registry executables;
  BufferTable buffers;
  Compile *compiles; /* in flight */
  Build *builds;     /* in flight */
  Tuner *tuner;
  Shared *shared;        /* what nodes share; NULL = nothing */
  struct Batch *batches; /* gathering, and running */
  uv_timer_t batch_timer;
  Subscriber *subscribers; /* to events */
  Model *models;           /* by name */
  size_t nmodels, models_pending;
  Metrics metrics;
  TraceRing trace;
  TracePush *trace_push; /* NULL: spans are not sent anywhere */
  /* life */
  Notify notify; /* the service manager */
  uv_signal_t sigterm, sigint, sighup;
  Status (*read_config)(void *ctx, Config *out); /* for a reload; NULL: there is none */
  void *read_config_ctx;
  uv_timer_t housekeeping;
  uint64_t idle_since_ms, trimmed_ms; /* trimmed: for which of these, last */
  bool stopping, closing;
  bool admitting; /* has been ready for calls, once */
  uint64_t stop_deadline_ms;
  int open_parts; /* that still have to report that they are closed */
} Server;

/* Takes over config. On failure everything is undone. */
Status server_create(Config *config, Server **out);
/* How the configuration is read again on SIGHUP; without it that does nothing. */
void server_on_reload(Server *s, Status (*read)(void *ctx, Config *out), void *ctx);
/* Blocks until stopped by a signal or idleness; frees the server. The exit code. */
int server_run(Server *s);
/* Why calls should go elsewhere, or NULL when the server is ready for them. */
const char *server_not_ready(const Server *s);
/* Memory of this process; 0 when /proc does not say. */
uint64_t server_resident_bytes(void);
/* The device as this tenant uses it: with strict isolation a worker of its own. Without a tenant:
 * as what belongs to all uses it. NULL and NOT_FOUND for a device that is not configured; "" is the
 * first. */
Status server_device(Server *s, Tenant *t, const char *name, DeviceLane **out);
/* Its own worker on device i, if it has one. */
DeviceLane *server_own_device(const Tenant *t, size_t i);
