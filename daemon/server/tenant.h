/* Who may use this server, and what belongs to whom.
 *
 * A tenant is a section [tenant NAME] of the configuration. Without one there is a single tenant,
 * "local", with every role and no quotas. Tenants live as long as the server: one whose section is
 * gone after a reload is retired, nobody becomes it any more, and it comes back with its section.
 *
 * Executables, buffers, events and searches belong to the tenant of the request that made them.
 * This file says who there is; auth.h says who somebody is, fair.h whose turn it is. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "daemon/server/bucket.h"

struct Config;

typedef enum Role {
  ROLE_RUN = 1 << 0,         /* compile, run, keep buffers */
  ROLE_TUNE = 1 << 1,        /* ask for a search */
  ROLE_CACHE_WRITE = 1 << 2, /* remove and import what the cache holds */
  ROLE_ADMIN = 1 << 3,       /* see and do what concerns all tenants */
  ROLE_ALL = ROLE_RUN | ROLE_TUNE | ROLE_CACHE_WRITE | ROLE_ADMIN
} Role;

/* Limits; 0 = none. */
typedef struct Quotas {
  uint64_t device_bytes, host_bytes;      /* held at once */
  uint64_t runs;                          /* at once */
  uint64_t compile_seconds, tune_seconds; /* per hour */
  uint64_t request_rate;                  /* per second */
  uint64_t connections;                   /* at once */
} Quotas;

/* What a tenant uses (first three lines) and has used since the server started. */
typedef struct Usage {
  uint64_t device_bytes, host_bytes, runs;
  uint64_t connections, answer_bytes;
  uint64_t executables, executable_bytes; /* loaded */
  uint64_t device_ns, compile_ns, tune_ns, requests;
  uint64_t merged; /* compiles that joined another one */
} Usage;

typedef struct Tenant Tenant;
struct Tenant {
  const char *name; /* owned */
  uint32_t id;      /* 1, 2, ... in the order of first appearance; 0 = nobody */
  unsigned roles;
  uint32_t weight; /* at least 1 */
  Quotas quota;
  Usage used;
  Bucket requests, compiling, tuning; /* quota.h */
  struct Store *store;                /* its cache: its own, or the one of all who share it */
  struct Store *own;                  /* NULL when it never had one of its own */
  struct OwnDevices *devices;         /* with strict isolation; NULL until the first is used */
  bool shares_cache;
  bool retired;
  Tenant *next;
};

typedef struct TenantTable {
  Tenant *first; /* by id */
  Tenant nobody; /* whoever has not shown who he is: no roles */
  Tenant *local; /* everybody, when no tenant is configured; else NULL */
  uint32_t len;
  uint64_t generation; /* counts reloads: what was derived from an older one is derived again */
} TenantTable;

/* The table becomes what c says. On failure nothing has changed. */
Status tenants_load(TenantTable *t, const struct Config *c);
void tenants_deinit(TenantTable *t);
/* NULL when there is none of this name, or it is retired. */
Tenant *tenants_find(const TenantTable *t, const char *name);
/* "run", "tune", "cache-write", "admin" separated by spaces or commas, or "all". */
Status roles_parse(const char *text, unsigned *out);
/* The names of some roles, separated by ", ". Returns buf. */
enum { ROLES_TEXT = 40 };
const char *roles_text(unsigned roles, char buf[ROLES_TEXT]);
