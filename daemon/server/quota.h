/* What a tenant may use: every refusal is RESOURCE_EXHAUSTED with the time after which trying again
 * makes sense (google.rpc.RetryInfo on the wire). All of this is on the loop.
 *
 * Bytes, runs and connections are levels: they are taken and given back. Requests are a rate, with
 * a burst of one second's worth. Seconds of compiling and tuning are known when they are over: they
 * are charged to a bucket that holds an hour's worth and fills over an hour, and while it is empty
 * nothing new of the kind begins. */
#pragma once

#include "daemon/server/tenant.h"

/* A call begins. */
Status quota_request(Tenant *t, int64_t now_ns);
/* A tenant calls on a connection that was not his; quota_connection_end when it is not any more. */
Status quota_connection(Tenant *t);
void quota_connection_end(Tenant *t);
/* A run begins; quota_run_end when it is over. */
Status quota_run(Tenant *t);
Status quota_run_allowed(const Tenant *t); /* as if one did */
void quota_run_end(Tenant *t);
/* May compiling, tuning begin? */
Status quota_compile(Tenant *t, int64_t now_ns);
Status quota_tune(Tenant *t, int64_t now_ns);
/* May a compile that has begun go on? It may overdraw what is left by as much as the quota. */
Status quota_compile_more(Tenant *t, int64_t now_ns);
/* What it took; t may be NULL. */
void quota_compiled(Tenant *t, int64_t ns);
void quota_tuned(Tenant *t, int64_t ns);
/* Is there room for so much more? Nothing is taken: the owner of the memory counts it. */
Status quota_memory(const Tenant *t, uint64_t device_bytes, uint64_t host_bytes);
