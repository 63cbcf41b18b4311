/* What a compile leaves behind, in three shared pieces.
 *
 *   ModelData   the model's bytes as they were uploaded (weights are read from them)
 *   Artifact    the plan and the machine code of a graph on a target
 *   Executable  both, with an interface and a name; what clients refer to
 *
 * All are reference-counted and live on the loop. kilnd keeps everything that a device worker needs
 * to load an executable, so a worker that dies loses nothing. */
#pragma once

#include "base/arena.h"
#include "base/map.h"
#include "daemon/channel/shm.h"
#include "daemon/server/sizes_seen.h"
#include "kiln/v1/worker.pb-c.h"
#include "proto/digest.h"

struct DeviceLane;
struct Tenant;

typedef struct ModelData {
  int refs;
  int fd;
  size_t size;
  ShmPool *pool;  /* where the memory goes back to */
  uint32_t owner; /* the tenant whose it is */
  bool seen;      /* by a device worker, which may still map it: it does not go back */
} ModelData;

typedef struct Artifact {
  int refs;
  Arena arena;
  uint8_t graph_hash[DIGEST_BYTES];
  Bytes graph;                       /* canonical bytes */
  Kiln__V1__Plan *plan;              /* kernels without their graphs */
  Kiln__V1__KernelBinary **binaries; /* parallel to plan->kernels */
  Bytes *kernel_graphs;              /* the same: canonical bytes, for explaining and tuning */
} Artifact;

typedef struct Executable {
  int refs;    /* registry, runs, replies */
  int handles; /* what clients hold: compiles that returned it and were not released */
  uint64_t id, secret;
  struct Tenant *tenant; /* whose it is */
  Arena arena;
  const char *name;
  struct DeviceLane *device;
  ModelData *model;
  Artifact *artifact;
  int const_fd; /* -1 = none */
  /* Interface and weights, decoded from the compile worker's answer. */
  const Kiln__V1__FrontendDone *face;
  uint64_t *slot_bytes;       /* inputs, then outputs; at most, where a run decides */
  size_t random;              /* 1 when the last input is RANDOM_INPUT, which no client sees */
  uint64_t random_seed, runs; /* what it is filled with; runs counts */
  int64_t typical_ns;         /* of the device's time, by the last runs; 0 = none yet */
  uint64_t loaded_in;         /* incarnation of the device worker that has it; 0 = none */
  uint64_t batch_delay_ms, batch_rows; /* 0 ms: its runs are not put together */
  Bytes options;                       /* packed CompileOptions and format, for finding it again */
  /* for the tuner: runs, when the first was, how many there were when a search began, and that no
   * more is to be expected */
  uint64_t used, tuned_at;
  int64_t first_used_ns;
  bool tuned;
  bool adopt_due;                   /* what other nodes know of its kernels is to be asked for */
  int64_t adopt_asked_ns;           /* when it last was; 0 = never */
  SizesSeen seen;                   /* of runs, where the plan has VARs */
  bool registered, private_;        /* private_: compiled with no_cache, never found again */
  struct Executable *newer, *older; /* by last use */
} Executable;

/* Takes ownership of fd. */
Status model_data_create(ShmPool *pool, uint32_t owner, int fd, size_t size, ModelData **out);
ModelData *model_data_retain(ModelData *m);
void model_data_release(ModelData *m); /* NULL allowed */

Artifact *artifact_retain(Artifact *a);
void artifact_release(Artifact *a); /* NULL allowed */

Status executable_create(struct Tenant *tenant, Executable **out);
Executable *executable_retain(Executable *e);
void executable_release(Executable *e); /* NULL allowed */
/* Fills slot_bytes from face. INVALID_ARGUMENT when a size overflows or passes the limit; of
 * tensors whose size a run decides it is the largest, and the limit is the run's. */
Status executable_sizes(Executable *e, uint64_t max_tensor_bytes);
/* The bytes of a dtype; 0 for an unknown one. */
size_t wire_dtype_bytes(Kiln__V1__DType dtype);
/* product(dims) * item size; false on overflow or unknown dtype. */
bool wire_tensor_bytes(Kiln__V1__DType dtype, const uint64_t *dims, size_t ndims, uint64_t *out);
/* "f32[1,3,224,224]", "f32[n,768]" */
const char *wire_spec_text(const Kiln__V1__TensorSpec *spec, char *buf, size_t cap);
/* "f32[1,3,224,224]" */
const char *wire_tensor_text(Kiln__V1__DType dtype, const uint64_t *dims, size_t ndims, char *buf,
                             size_t cap);

/* What a client refers to something by: "exe-" and 128 random bits in hexadecimal. Half of them are
 * the key that kilnd and its workers use, the other half is only compared, in constant time. Of a
 * server with a name "@NAME" follows: where a proxy has to bring calls with it. */
enum { ID_NODE_MAX = 32, ID_TEXT = 40 + 1 + ID_NODE_MAX };
/* The name of this server among others, "" = none; before the first id is made. */
void id_set_node(const char *name);
uint64_t id_make(void); /* random, never 0 */
const char *id_text(const char *prefix, uint64_t id, uint64_t secret, char buf[ID_TEXT]);
bool id_parse(const char *prefix, const char *text, uint64_t *id, uint64_t *secret);
/* Whether both are equal. */
bool id_secret_is(uint64_t secret, uint64_t given);
/* NOT_FOUND for an id that stands for nothing here: what may have become of it, and what to do. */
Status id_unknown(const char *what, const char *id, const char *gone, const char *advice);

/* -- the registry -------------------------------------------------------------------------------
 */

typedef struct Registry {
  Map by_id;
  Executable *newest, *oldest;
  size_t len, max;
  uint64_t bytes, max_bytes; /* of models and constants */
} Registry;

void registry_deinit(Registry *r);
/* Unloads all that a tenant has. */
void registry_drop_tenant(Registry *r, const struct Tenant *tenant);
/* Adds and retains. Beyond the limits the tenant that has most loses its least recently used one,
 * so that nobody unloads what belongs to those who have less. */
Status registry_add(Registry *r, Executable *e);
/* Marks it as used. NOT_FOUND names the id, and does not tell another's from none. Borrowed. */
Status registry_find(Registry *r, const struct Tenant *tenant, const char *id, Executable **out);
/* One client gives up its handle; unloads with the last. */
Status registry_drop(Registry *r, const struct Tenant *tenant, const char *id);
/* An artifact for this graph and device that is loaded already, of a tenant with the same cache;
 * NULL when none. Borrowed. */
Artifact *registry_artifact(const Registry *r, const struct Tenant *tenant,
                            const uint8_t hash[DIGEST_BYTES], Bytes graph,
                            const struct DeviceLane *device);
/* The tenant's next executable after `after` (NULL = first) that might come from the same bytes and
 * options. */
Executable *registry_candidate(const Registry *r, const struct Tenant *tenant,
                               const Executable *after, size_t model_bytes, Bytes options,
                               const struct DeviceLane *device);
