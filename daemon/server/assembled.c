/* Machine code that a device's driver made of a kernel while it loaded it. The same kernel is not
 * assembled twice: its binary has this code from then on, with the grid, the block and the opts
 * that it had. A kernel that got another schedule meanwhile keeps what it has. */
#include <stdlib.h>

#include "base/log.h"
#include "daemon/server/compile.h"
#include "daemon/server/device_lane.h"
#include "daemon/server/tenant.h"

static const PbLimits limits = {
    .max_bytes = 256u << 20, .max_depth = 8, .max_elements = 1u << 20, .max_memory = 512u << 20};

static bool is_of(const Kiln__V1__KernelBinary *made, const Kiln__V1__KernelBinary *now) {
  return made->object.len && !strcmp(made->opts, now->opts) && !strcmp(made->entry, now->entry);
}

/* The artifact's copy; *packed is the same in its arena. */
static Status keep_one(Artifact *a, const Kiln__V1__AssembledKernel *k, Bytes *packed) {
  ProtobufCMessage *copy;
  size_t n = kiln__v1__kernel_binary__get_packed_size(k->binary);
  uint8_t *bytes = arena_alloc(&a->arena, n + 1);
  if (!bytes) return FAIL(RESOURCE_EXHAUSTED, "a kernel's code");
  kiln__v1__kernel_binary__pack(k->binary, bytes);
  *packed = (Bytes){bytes, n};
  TRY(pb_unpack(&kiln__v1__kernel_binary__descriptor, *packed, &limits, &a->arena, &copy));
  a->binaries[k->kernel] = (Kiln__V1__KernelBinary *)copy;
  return NULL;
}

void assembled_keep(Executable *e, const Kiln__V1__LoadDone *m, bool store) {
  Artifact *a = e->artifact;
  size_t n = a->plan->n_kernels, made = 0;
  StoreRecord *records = calloc(m->n_assembled + 1, sizeof *records);
  Status st = records ? NULL : FAIL(RESOURCE_EXHAUSTED, "a kernel's code");
  for (size_t i = 0; !st && i < m->n_assembled; i++) {
    const Kiln__V1__AssembledKernel *k = m->assembled[i];
    Bytes packed;
    if (k->kernel >= n || !k->binary || !is_of(k->binary, a->binaries[k->kernel])) continue;
    const Kiln__V1__PlanKernel *p = a->plan->kernels[k->kernel];
    st = keep_one(a, k, &packed);
    records[made++] = (StoreRecord){.key = {p->hash.data, device_lane_fingerprint(e->device),
                                            a->kernel_graphs[k->kernel], p->name},
                                    .value = packed};
  }
  if (!st && made && store) store_put_tuned(e->tenant->store, records, made, NULL, 0);
  char name[128];
  if (st) LOG_WARN("assembled code is not kept", "model=%s", log_quote(name, sizeof name, e->name));
  status_drop(st);
  free(records);
}
