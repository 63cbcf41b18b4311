/* The method table. It is short and paths differ in length, so a linear search does. */
#include "daemon/server/rpc.h"

static const Method *const methods[] = {
    &rpc_run,
    &rpc_explain,
    &rpc_compile,
    &rpc_inspect,
    &rpc_release,
    &rpc_upload,
    &rpc_download,
    &rpc_free_buffers,
    &rpc_list_buffers,
    &rpc_server_info,
    &rpc_devices,
    &rpc_cache_stats,
    &rpc_cache_list,
    &rpc_cache_why,
    &rpc_cache_verify,
    &rpc_cache_prune,
    &rpc_cache_remove,
    &rpc_cache_export,
    &rpc_cache_import,
    &rpc_tune,
    &rpc_events,
    &rpc_health_check,
    &rpc_health_watch,
    &rpc_reflection_v1,
    &rpc_reflection_v1alpha,
};

enum { NMETHODS = sizeof methods / sizeof *methods };
_Static_assert((int)NMETHODS <= (int)LABELS_METHOD, "every method has room in the metrics");

unsigned method_index(const Method *m) {
  unsigned i = 0;
  while (i + 1 < NMETHODS && methods[i] != m) i++;
  return i;
}

const char *method_name(unsigned i) { return i < NMETHODS ? methods[i]->path + 1 : NULL; }

const Method *method_find(Str path) {
  for (size_t i = 0; i < NMETHODS; i++)
    if (str_is(path, methods[i]->path)) return methods[i];
  return NULL;
}
