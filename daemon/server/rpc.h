/* The methods that kilnd serves and who may call them: rpc.def. One file per group implements them.
 */
#pragma once

#include "daemon/server/request.h"

#define SERVICE(service_)
#define RPC(service_, field_, method_, needs_) extern const Method method_;
#define END(service_)
#include "daemon/server/rpc.def"
#undef SERVICE
#undef RPC
#undef END

/* Who may call: nobody in particular, any tenant, or those with a role. */
enum { ANYBODY = 0, TENANT = 1 << 16 };

typedef struct Rpc {
  const Method *method;
  unsigned needs; /* ANYBODY, TENANT or a Role */
} Rpc;

/* What is served at a path, or NULL. */
const Rpc *rpc_find(Str path);
/* The rows of the table, for tests; NULL behind the last. */
const Rpc *rpc_at(size_t i);
/* Its place in the table, and the name of the method there: the path without its first slash; NULL
 * behind the last. */
unsigned rpc_index(const Rpc *rpc);
const char *rpc_name(unsigned i);

/* A device came into or went out of service: tells the health watchers. */
void rpc_health_changed(Server *s);
