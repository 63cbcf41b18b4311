/* The registry is a map by id and a list by last use. It holds one reference to each executable and
 * clients' handles decide when it lets go; runs in flight hold their own references, so what they
 * use is unloaded only after them. */
#include "daemon/server/executable.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "daemon/server/device_lane.h"
#include "daemon/server/tenant.h"
#include "proto/random.h"

/* -- tensors ------------------------------------------------------------------------------------
 */

static const struct {
  const char *name;
  size_t bytes;
} dtypes[] = {
    [KILN__V1__DTYPE__DTYPE_BOOL] = {"bool", 1},
    [KILN__V1__DTYPE__DTYPE_I8] = {"i8", 1},
    [KILN__V1__DTYPE__DTYPE_I16] = {"i16", 2},
    [KILN__V1__DTYPE__DTYPE_I32] = {"i32", 4},
    [KILN__V1__DTYPE__DTYPE_I64] = {"i64", 8},
    [KILN__V1__DTYPE__DTYPE_U8] = {"u8", 1},
    [KILN__V1__DTYPE__DTYPE_U16] = {"u16", 2},
    [KILN__V1__DTYPE__DTYPE_U32] = {"u32", 4},
    [KILN__V1__DTYPE__DTYPE_U64] = {"u64", 8},
    [KILN__V1__DTYPE__DTYPE_F16] = {"f16", 2},
    [KILN__V1__DTYPE__DTYPE_BF16] = {"bf16", 2},
    [KILN__V1__DTYPE__DTYPE_F32] = {"f32", 4},
    [KILN__V1__DTYPE__DTYPE_F64] = {"f64", 8},
    [KILN__V1__DTYPE__DTYPE_F8E4M3FN] = {"f8e4m3fn", 1},
    [KILN__V1__DTYPE__DTYPE_F8E4M3FNUZ] = {"f8e4m3fnuz", 1},
    [KILN__V1__DTYPE__DTYPE_F8E5M2] = {"f8e5m2", 1},
    [KILN__V1__DTYPE__DTYPE_F8E5M2FNUZ] = {"f8e5m2fnuz", 1},
    [KILN__V1__DTYPE__DTYPE_F8E8M0] = {"f8e8m0", 1},
    [KILN__V1__DTYPE__DTYPE_F4E2M1] = {"f4e2m1", 1},
    [KILN__V1__DTYPE__DTYPE_I4] = {"i4", 1},
    [KILN__V1__DTYPE__DTYPE_U4] = {"u4", 1},
    [KILN__V1__DTYPE__DTYPE_I2] = {"i2", 1},
    [KILN__V1__DTYPE__DTYPE_U2] = {"u2", 1},
};

static bool known_dtype(Kiln__V1__DType d) {
  return (size_t)d < sizeof dtypes / sizeof *dtypes && dtypes[d].name;
}

size_t wire_dtype_bytes(Kiln__V1__DType dtype) {
  return known_dtype(dtype) ? dtypes[dtype].bytes : 0;
}

bool wire_tensor_bytes(Kiln__V1__DType dtype, const uint64_t *dims, size_t ndims, uint64_t *out) {
  size_t n = wire_dtype_bytes(dtype);
  bool ok = n != 0, empty = false;
  for (size_t i = 0; i < ndims; i++) {
    empty = empty || !dims[i];
    if (dims[i]) ok = ok && dims[i] <= INT64_MAX && size_mul(n, dims[i], &n);
  }
  if (!ok || n > INT64_MAX) return false;
  *out = empty ? 0 : n;
  return true;
}

const char *wire_tensor_text(Kiln__V1__DType dtype, const uint64_t *dims, size_t ndims, char *buf,
                             size_t cap) {
  const char *name = known_dtype(dtype) ? dtypes[dtype].name : "unknown";
  int n = snprintf(buf, cap, "%s[", name);
  for (size_t i = 0; i < ndims && n > 0 && (size_t)n < cap; i++)
    n += snprintf(buf + n, cap - (size_t)n, i ? ",%" PRIu64 : "%" PRIu64, dims[i]);
  if (n > 0 && (size_t)n < cap) snprintf(buf + n, cap - (size_t)n, "]");
  return buf;
}

const char *wire_spec_text(const Kiln__V1__TensorSpec *spec, char *buf, size_t cap) {
  if (!spec->n_shape) return wire_tensor_text(spec->dtype, spec->dims, spec->n_dims, buf, cap);
  StrBuf b = {0};
  strbuf_addf(&b, "%s[", known_dtype(spec->dtype) ? dtypes[spec->dtype].name : "unknown");
  for (size_t i = 0; i < spec->n_shape; i++) {
    const Kiln__V1__Dim *d = spec->shape[i];
    strbuf_adds(&b, i ? "," : "");
    if (*d->name)
      strbuf_adds(&b, d->name);
    else
      strbuf_addf(&b, "%" PRIu64, d->size);
  }
  strbuf_adds(&b, "]");
  snprintf(buf, cap, "%s", b.ptr && !b.failed ? b.ptr : "?");
  strbuf_deinit(&b);
  return buf;
}

/* -- ids ----------------------------------------------------------------------------------------
 */

uint64_t id_make(void) {
  uint64_t id = 0;
  while (!id)
    if (getrandom(&id, sizeof id, 0) != sizeof id) id = 0;
  return id;
}

/* Set once, before there is anything to name: ids are told to clients from everywhere. */
static char node[ID_NODE_MAX + 1];

void id_set_node(const char *name) { snprintf(node, sizeof node, "%s", name); }

const char *id_text(const char *prefix, uint64_t id, uint64_t secret, char buf[ID_TEXT]) {
  snprintf(buf, ID_TEXT, "%s-%016" PRIx64 "%016" PRIx64 "%s%s", prefix, id, secret,
           *node ? "@" : "", node);
  return buf;
}

static uint64_t from_bytes(const uint8_t bytes[8]) {
  uint64_t n = 0;
  for (size_t i = 0; i < 8; i++) n = n << 8 | bytes[i];
  return n;
}

bool id_parse(const char *prefix, const char *text, uint64_t *id, uint64_t *secret) {
  size_t n = strlen(prefix);
  const char *at = strchr(text, '@');
  uint8_t bytes[16];
  *id = *secret = 0;
  if (strncmp(text, prefix, n) || text[n] != '-' || strcmp(at ? at + 1 : "", node)) return false;
  Str hex = {text + n + 1, (at ? (size_t)(at - text) : strlen(text)) - n - 1};
  if (!digest_from_hex(hex, bytes, sizeof bytes)) return false;
  *id = from_bytes(bytes);
  *secret = from_bytes(bytes + 8);
  return *id != 0;
}

bool id_secret_is(uint64_t secret, uint64_t given) {
  volatile uint64_t difference = secret ^ given; /* one comparison, of all bits at once */
  return difference == 0;
}

Status id_unknown(const char *what, const char *id, const char *gone, const char *advice) {
  const char *at = strchr(id, '@');
  if (at && strcmp(at + 1, node))
    return FAIL(NOT_FOUND, "unknown %s '%.80s': it is of the server '%.32s', and this is '%s'; %s",
                what, id, at + 1, node, advice);
  return FAIL(NOT_FOUND, "unknown %s '%.80s' (%s, or from before a restart of the server); %s",
              what, id, gone, advice);
}

/* -- pieces -------------------------------------------------------------------------------------
 */

Status model_data_create(ShmPool *pool, uint32_t owner, int fd, size_t size, ModelData **out) {
  ModelData *m = *out = calloc(1, sizeof *m);
  if (!m) {
    close(fd);
    return FAIL(RESOURCE_EXHAUSTED, "model");
  }
  *m = (ModelData){.refs = 1, .fd = fd, .size = size, .pool = pool, .owner = owner};
  return NULL;
}

ModelData *model_data_retain(ModelData *m) {
  m->refs++;
  return m;
}

void model_data_release(ModelData *m) {
  if (!m || --m->refs) return;
  if (m->seen)
    close(m->fd);
  else
    shm_pool_put(m->pool, m->owner, m->fd, m->size);
  free(m);
}

Artifact *artifact_retain(Artifact *a) {
  a->refs++;
  return a;
}

void artifact_release(Artifact *a) {
  if (!a || --a->refs) return;
  arena_deinit(&a->arena);
  free(a);
}

Status executable_create(Tenant *tenant, Executable **out) {
  Executable *e = *out = calloc(1, sizeof *e);
  if (!e) return FAIL(RESOURCE_EXHAUSTED, "executable");
  *e = (Executable){.refs = 1,
                    .id = id_make(),
                    .secret = id_make(),
                    .tenant = tenant,
                    .const_fd = -1,
                    .name = "",
                    .random_seed = id_make()};
  arena_init(&e->arena, 0);
  return NULL;
}

Executable *executable_retain(Executable *e) {
  e->refs++;
  return e;
}

void executable_release(Executable *e) {
  if (!e || --e->refs) return;
  if (e->device) device_lane_forget_executable(e->device, e);
  if (e->const_fd >= 0) close(e->const_fd);
  model_data_release(e->model);
  artifact_release(e->artifact);
  arena_deinit(&e->arena);
  free(e);
}

static Status spec_bytes(const Kiln__V1__TensorSpec *s, uint64_t max, uint64_t *out) {
  char text[160];
  if (s->n_shape) {
    if (!wire_tensor_bytes(s->dtype, s->dims, s->n_dims, out)) *out = INT64_MAX;
    return NULL;
  }
  wire_tensor_text(s->dtype, s->dims, s->n_dims, text, sizeof text);
  if (!wire_tensor_bytes(s->dtype, s->dims, s->n_dims, out))
    return FAIL(INVALID_ARGUMENT, "'%s': %s is too large", s->name, text);
  if (*out > max)
    return FAIL(RESOURCE_EXHAUSTED, "'%s': %s has %" PRIu64 " bytes, this server allows %" PRIu64,
                s->name, text, *out, max);
  return NULL;
}

Status executable_sizes(Executable *e, uint64_t max_tensor_bytes) {
  size_t nin = e->face->n_inputs, nout = e->face->n_outputs;
  e->slot_bytes = arena_array(&e->arena, nin + nout + 1, sizeof *e->slot_bytes);
  if (!e->slot_bytes) return FAIL(RESOURCE_EXHAUSTED, "executable");
  e->random = nin && !strcmp(e->face->inputs[nin - 1]->name, RANDOM_INPUT);
  for (size_t i = 0; i < nin; i++)
    TRY(spec_bytes(e->face->inputs[i], max_tensor_bytes, &e->slot_bytes[i]));
  for (size_t i = 0; i < nout; i++)
    TRY(spec_bytes(e->face->outputs[i], max_tensor_bytes, &e->slot_bytes[nin + i]));
  return NULL;
}

/* -- registry -----------------------------------------------------------------------------------
 */

static void unlink_use(Registry *r, Executable *e) {
  *(e->newer ? &e->newer->older : &r->newest) = e->older;
  *(e->older ? &e->older->newer : &r->oldest) = e->newer;
  e->newer = e->older = NULL;
}

static void link_use(Registry *r, Executable *e) {
  e->older = r->newest;
  if (r->newest) r->newest->newer = e;
  r->newest = e;
  if (!r->oldest) r->oldest = e;
}

static uint64_t bytes_of(const Executable *e) { return e->model->size + e->face->const_bytes; }

static void remove_executable(Registry *r, Executable *e) {
  unlink_use(r, e);
  map_remove(&r->by_id, e->id);
  r->len--;
  r->bytes -= bytes_of(e);
  e->tenant->used.executables--;
  e->tenant->used.executable_bytes -= bytes_of(e);
  e->registered = false;
  executable_release(e);
}

void registry_deinit(Registry *r) {
  while (r->newest) remove_executable(r, r->newest);
  map_deinit(&r->by_id);
}

void registry_drop_tenant(Registry *r, const Tenant *tenant) {
  for (Executable *e = r->oldest, *next; e; e = next) {
    next = e->newer;
    if (e->tenant == tenant) remove_executable(r, e);
  }
}

/* The least recently used one of whom has most: bytes if they are short, else executables. */
static Executable *victim(const Registry *r, bool bytes) {
  Executable *found = NULL;
  uint64_t most = 0;
  for (Executable *e = r->oldest; e; e = e->newer) {
    uint64_t has = bytes ? e->tenant->used.executable_bytes : e->tenant->used.executables;
    if (found && has <= most) continue;
    found = e;
    most = has;
  }
  return found;
}

Status registry_add(Registry *r, Executable *e) {
  assert(!e->registered);
  if (!map_put(&r->by_id, e->id, e)) return FAIL(RESOURCE_EXHAUSTED, "executables");
  r->bytes += bytes_of(e);
  e->tenant->used.executables++;
  e->tenant->used.executable_bytes += bytes_of(e);
  while (r->len && r->bytes > r->max_bytes) remove_executable(r, victim(r, true));
  while (r->len >= r->max) remove_executable(r, victim(r, false));
  executable_retain(e);
  e->registered = true;
  link_use(r, e);
  r->len++;
  return NULL;
}

Status registry_find(Registry *r, const Tenant *tenant, const char *id, Executable **out) {
  uint64_t key, secret;
  Executable *e = id_parse("exe", id, &key, &secret) ? map_find(&r->by_id, key) : NULL;
  *out = e && e->tenant == tenant && id_secret_is(e->secret, secret) ? e : NULL;
  if (!*out)
    return id_unknown("executable", id, "released, unloaded to make room",
                      "compile the model again");
  if (*out != r->newest) {
    unlink_use(r, *out);
    link_use(r, *out);
  }
  return NULL;
}

Status registry_drop(Registry *r, const Tenant *tenant, const char *id) {
  Executable *e;
  TRY(registry_find(r, tenant, id, &e));
  if (--e->handles <= 0) remove_executable(r, e);
  return NULL;
}

static bool bytes_eq(Bytes a, Bytes b) {
  return a.len == b.len && (!a.len || !memcmp(a.ptr, b.ptr, a.len));
}

Artifact *registry_artifact(const Registry *r, const Tenant *tenant,
                            const uint8_t hash[DIGEST_BYTES], Bytes graph,
                            const struct DeviceLane *device) {
  for (const Executable *e = r->newest; e; e = e->older)
    if (e->device == device && !e->private_ && e->tenant->store == tenant->store &&
        !memcmp(e->artifact->graph_hash, hash, DIGEST_BYTES) && bytes_eq(e->artifact->graph, graph))
      return e->artifact;
  return NULL;
}

Executable *registry_candidate(const Registry *r, const Tenant *tenant, const Executable *after,
                               size_t model_bytes, Bytes options, const struct DeviceLane *device) {
  for (Executable *e = after ? after->older : r->newest; e; e = e->older)
    if (e->device == device && !e->private_ && e->tenant == tenant &&
        e->model->size == model_bytes && bytes_eq(e->options, options))
      return e;
  return NULL;
}
