/* What kilnd is told: defaults, then the INI file, then the command line.
 *
 * The settings are the table in config.c; deploy/kiln.conf explains each.
 *
 * `listen`, `device` and what a tenant is recognised by may stand several times. Sizes take K, M, G
 * (powers of 1024); durations are seconds and take s, m, h. socket_mode is octal. */
#pragma once

#include "base/log.h"
#include "base/status.h"
#include "base/str.h"
#include "daemon/server/tenant.h"

enum { CONFIG_LIST_MAX = 16 };

typedef struct ConfigList {
  char *at[CONFIG_LIST_MAX]; /* owned */
  size_t len;
  bool from_default; /* the next value replaces the list instead of extending it */
} ConfigList;

/* A section [tenant NAME]; what its keys mean is in deploy/kiln.conf. */
typedef struct TenantSpec {
  char *name; /* owned */
  uint64_t weight;
  unsigned roles;
  bool shares_cache;                     /* with all others that do */
  ConfigList tokens, certificates, uids; /* how somebody shows that he is this tenant */
  Quotas quota;
} TenantSpec;

/* How long somebody may take, in seconds. */
typedef struct Patience {
  uint64_t handshake;  /* of TLS */
  uint64_t first_call; /* to show who he is, on TCP */
  uint64_t headers;    /* for the metadata of a call that has begun */
  uint64_t message;    /* between two messages of a call that is being sent */
  uint64_t reader;     /* to take 64 KiB of what waits for him */
} Patience;

typedef struct Config {
  ConfigList listen;  /* "unix:PATH", "HOST:PORT" */
  ConfigList devices; /* "cpu:0", "auto" */
  char *cache_path;   /* owned */
  char *worker;       /* owned; path of kiln-worker, empty = beside kilnd */
  char *log_level;    /* owned */
  char *metrics;      /* owned; address of the port for metrics and health, empty = none */
  char *models;       /* owned; folder of the models with names, empty = none */
  char *node;         /* owned; the name of this server among others, empty = it is alone */
  bool trace_all;     /* record calls that did not ask for it too */
  char *trace_push;   /* owned; the collector that spans are sent to, empty = none */
  char *push_ca;      /* owned; who signs its certificate, empty = the machine's authorities */
  char *tls_certificate, *tls_key, *tls_client_ca; /* owned; paths, "" = none */
  char *shared_server, *shared_key; /* owned; where other nodes are met, "" = nowhere */
  char *shared_ca, *shared_certificate, *shared_tls_key; /* owned, "" = none */
  ConfigList shared_trust;
  uint64_t shared_timeout_ms;
  bool insecure_tcp, cache_enabled, strict_isolation;
  bool tuning;                                         /* in the background */
  uint64_t batch_delay_ms, batch_rows;                 /* 0 = no batching */
  uint64_t tuning_share, tuning_seconds, tuning_after; /* percent; per hour; from the first run */
  uint64_t timing_memory;
  uint64_t cache_max_bytes;
  uint64_t max_model_bytes, max_tensor_bytes, max_message_bytes, max_buffer_bytes;
  uint64_t max_answer_bytes;                      /* that wait to be read */
  uint64_t max_executables, max_executable_bytes; /* models and constants of loaded executables */
  uint64_t max_queue, max_connections;
  uint64_t compile_workers, compile_memory, device_memory;
  uint64_t connections_per_address; /* on TCP; 0 = any */
  Patience patience;
  uint64_t socket_mode; /* of Unix sockets */
  uint64_t idle_exit, grace, idle_connection, connection_age, compile_seconds, compile_total,
      run_seconds;     /* seconds */
  TenantSpec *tenants; /* owned */
  size_t ntenants;
} Config;

enum { BATCH_DELAY_MAX = 10000, BATCH_ROWS_MAX = 65536 };

Status config_init(Config *c); /* defaults; fails only without memory */
void config_deinit(Config *c);
/* INVALID_ARGUMENT names file, line and key. */
Status config_read_file(Config *c, const char *path);
Status config_read_text(Config *c, const char *text, const char *name);
/* One setting, as the file would have it. */
Status config_set(Config *c, const char *section, const char *key, const char *value);
/* What no single setting shows: an address that needs insecure_tcp, limits that contradict. */
Status config_check(const Config *c);
