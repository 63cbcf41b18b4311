/* The file of a tenant's own cache is opened with the tenant. Each has a lane, and so a connection
 * to SQLite, of its own: one tenant's long export makes nobody else wait. */
#include "daemon/server/caches.h"

#include <stdio.h>

#include "daemon/server/peaks.h"
#include "daemon/server/tune.h"

static void target_text(const Kiln__V1__TargetSpec *t, StrBuf *out) {
  strbuf_addf(
      out,
      "kind=%s\ntriple=%s\ncpu=%s\nmodel=%s\nfeatures=%s\nvector_bytes=%u\nvector_registers=%u\n"
      "threads=%u\nl1_bytes=%llu\nl2_bytes=%llu\nl3_bytes=%llu\nmemory_bytes=%llu\n"
      "max_group=%u\nwarp=%u\nlocal_bytes=%llu\nmax_buffers=%u\ncompiler=%s\n",
      t->kind, t->triple, t->cpu, t->model, t->features, t->vector_bytes, t->vector_registers,
      t->threads, (unsigned long long)t->l1_bytes, (unsigned long long)t->l2_bytes,
      (unsigned long long)t->l3_bytes, (unsigned long long)t->memory_bytes, t->max_group, t->warp,
      (unsigned long long)t->local_bytes, t->max_buffers, t->compiler);
}

void caches_put_target(Server *s, const DeviceLane *l) {
  StrBuf text = {0};
  if (!device_lane_target(l)) return;
  target_text(device_lane_target(l), &text);
  const DevicePeaks *peaks = tuner_peaks(s->tuner, l);
  if (peaks) peaks_print(peaks, &text);
  Str view = {text.ptr, text.len};
  if (!text.failed) store_put_target(s->store, device_lane_fingerprint(l), view);
  for (const Tenant *t = s->tenants.first; t && !text.failed; t = t->next)
    if (t->own) store_put_target(t->own, device_lane_fingerprint(l), view);
  strbuf_deinit(&text);
}

/* The file of a tenant's own cache lies beside the shared one: cache.db, cache.NAME.db. */
static void cache_path(const Config *c, const Tenant *t, char *buf, size_t cap) {
  size_t n = strlen(c->cache_path);
  if (n > 3 && !strcmp(c->cache_path + n - 3, ".db")) n -= 3;
  snprintf(buf, cap, "%.*s.%s.db", (int)n, c->cache_path, t->name);
}

Status caches_open(Server *s, const Config *c) {
  char path[4096];
  for (Tenant *t = s->tenants.first; t; t = t->next) {
    if (!t->shares_cache && !t->own && !t->retired) {
      cache_path(c, t, path, sizeof path);
      StoreSpec spec = {.loop = &s->loop,
                        .path = c->cache_enabled && *c->cache_path ? path : NULL,
                        .max_bytes = c->cache_max_bytes};
      TRY(store_create(&spec, &t->own));
      for (size_t i = 0; i < s->ndevices; i++) caches_put_target(s, s->devices[i]);
    }
    t->store = t->shares_cache || !t->own ? s->store : t->own;
  }
  return NULL;
}
