/* Memory that runs share is zeroed when it changes its tenant: arenas of temporaries, staging and
 * its mirror, and what kernels have beside their buffers. A plan writes a temporary before it reads
 * it, so nobody should see what was there; this holds when that is wrong, too.
 *
 * Only what was used since the last change is zeroed, so it costs less than the runs that filled it
 * did. Buffers that are allocated anew are zeroed by the device; slabs by kilnd, which owns them.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/worker/loaded.h"

static void raise(uint64_t *at, uint64_t to) {
  if (*at < to) *at = to;
}

void scrub_used(Executor *x, const Loaded *l, uint64_t staging) {
  raise(&x->staging_used, staging);
  if (!l->sizes && x->ntemps) raise(&x->temps_used[0], l->temp_bytes);
  for (size_t i = 0; l->sizes && i < l->sizes->nphases && i < x->ntemps; i++)
    raise(&x->temps_used[i], l->sizes->arena_bytes[i]);
}

static Status zero(Executor *x, Buffer *b, uint64_t *used) {
  uint64_t n = b && *used > b->size ? b->size : *used;
  if (b) TRY(device_zero(x->dev, b, n));
  *used = 0;
  return NULL;
}

Status scrub_enter(Executor *x, uint32_t tenant) {
  if (x->tenant == tenant) return NULL;
  for (size_t i = 0; i < x->ntemps; i++) TRY(zero(x, x->temps[i], &x->temps_used[i]));
  if (x->mirror) memset(x->mirror, 0, x->mirror_size);
  TRY(zero(x, x->staging, &x->staging_used));
  TRY(device_scrub(x->dev));
  x->tenant = tenant; /* not before all is clean: the next run tries again */
  return NULL;
}
