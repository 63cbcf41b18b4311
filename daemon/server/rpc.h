/* The methods that kilnd serves; one file per group, collected by rpc.c. */
#pragma once

#include "daemon/server/request.h"

extern const Method rpc_server_info, rpc_devices;
extern const Method rpc_compile, rpc_inspect, rpc_release;
extern const Method rpc_run, rpc_explain;
extern const Method rpc_upload, rpc_download, rpc_free_buffers, rpc_list_buffers;
extern const Method rpc_cache_stats, rpc_cache_list, rpc_cache_why;
extern const Method rpc_tune, rpc_events;
extern const Method rpc_cache_verify, rpc_cache_prune, rpc_cache_remove;
extern const Method rpc_cache_export, rpc_cache_import;
extern const Method rpc_health_check, rpc_health_watch;
extern const Method rpc_reflection_v1, rpc_reflection_v1alpha;

/* A device came into or went out of service: tells the health watchers. */
void rpc_health_changed(Server *s);
