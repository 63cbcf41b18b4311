/* The steps:
 *
 *   look the plan up        hit: the compile worker is let go; miss: it makes the plan
 *   look the kernels up     all of the plan in one batch
 *   compile what is missing spread over the idle compile workers, with the opts of the best
 *                           record that serves, else by the heuristic
 *   store                   plan and new kernels in one transaction; nobody waits for it
 *
 * Packed messages are what the cache stores, so the same bytes are kept for storing and unpacked
 * for use. Whatever comes from a worker or the cache is checked before it is indexed. */
#include <assert.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/compile.h"
#include "daemon/server/quota.h"

/* One kernel of the plan on its way. */
typedef struct BuildKernel {
  Build *build;
  CompileJob job;
  Kiln__V1__KernelJob message;
  bool active;      /* job is with the pool */
  Bytes blob;       /* packed KernelBinary, in the build's arena */
  const char *opts; /* of the record that it is compiled with; NULL = heuristic */
  bool made;        /* not from the cache */
} BuildKernel;

struct Build {
  Server *server;
  Build *next, **link;
  BuildWaiter *waiters;
  DeviceLane *device;
  Tenant *payer;   /* the first that asked */
  Store *store;    /* the cache it looks in: only those who share it share the build */
  uint32_t tenant; /* who began it */
  bool no_cache;
  const char *name;
  Arena arena;
  const Kiln__V1__TargetSpec *target;
  uint8_t fingerprint[DIGEST_BYTES];
  uint8_t hash[DIGEST_BYTES];
  Bytes graph;
  CompileJob plan_job;
  bool plan_active;     /* plan_job's worker is held or busy */
  Bytes plan_blob;      /* packed Plan */
  Kiln__V1__Plan *plan; /* with the kernels' graphs */
  StoreJob *lookup;
  BuildKernel *kernels;
  size_t pending;   /* kernels being compiled */
  int64_t spent_ns; /* of workers' time, for those that are */
  BuildReport report;
  int64_t step_ns; /* when the present step began */
};

static const PbLimits blob_limits = {
    .max_bytes = 512u << 20, .max_depth = 8, .max_elements = 16u << 20, .max_memory = 1u << 30};

/* -- ending -------------------------------------------------------------------------------------
 */

static void build_free(Build *b) {
  if (b->lookup) store_forget(b->lookup);
  if (b->plan_active) compile_pool_cancel(b->server->pool, &b->plan_job);
  for (size_t i = 0; b->kernels && i < b->plan->n_kernels; i++)
    if (b->kernels[i].active) compile_pool_cancel(b->server->pool, &b->kernels[i].job);
  if ((*b->link = b->next)) b->next->link = b->link;
  arena_deinit(&b->arena);
  free(b);
}

void build_leave(BuildWaiter *w) {
  Build *b = w->build;
  if (!b) return;
  BuildWaiter **at = &b->waiters;
  while (*at != w) at = &(*at)->next;
  *at = w->next;
  w->build = NULL;
  if (!b->waiters) build_free(b);
}

Status build_outcome(const StatusNote *st) {
  char text[4096];
  if (!st) return NULL;
  status_text(st, text, sizeof text);
  Status copy = status_new(status_code(st), NULL, __FILE__, __LINE__, "%s", text);
  return status_retry_ns(st) ? status_retry(copy, status_retry_ns(st)) : copy;
}

/* Tells everybody and frees b. Takes st. */
static void build_finish(Build *b, Artifact *artifact, Status st) {
  /* nobody may join while the waiters are told, nor leave the build to be freed twice */
  if ((*b->link = b->next)) b->next->link = b->link;
  b->next = NULL;
  b->link = &b->next;
  for (BuildWaiter *w; (w = b->waiters);) {
    b->waiters = w->next;
    w->build = NULL;
    w->done(w, artifact, &b->report, build_outcome(st));
  }
  status_drop(st);
  build_free(b);
}

static void set_state(Build *b, RequestState state) {
  for (BuildWaiter *w = b->waiters; w; w = w->next) w->state(w, state);
}

static void step(Build *b, int64_t *spent_before) {
  int64_t now = clock_now_ns();
  if (spent_before) *spent_before += now - b->step_ns;
  b->step_ns = now;
}

/* -- artifact -----------------------------------------------------------------------------------
 */

static Status unpack(const ProtobufCMessageDescriptor *desc, Bytes blob, Arena *arena, void *out) {
  ProtobufCMessage *m;
  TRY(pb_unpack(desc, blob, &blob_limits, arena, &m));
  *(ProtobufCMessage **)out = m;
  return NULL;
}

/* The plan without the kernels' graphs, in the artifact's arena. */
static Status slim_plan(Build *b, Artifact *a) {
  for (size_t i = 0; i < b->plan->n_kernels; i++)
    b->plan->kernels[i]->graph = (ProtobufCBinaryData){0, NULL};
  size_t n = kiln__v1__plan__get_packed_size(b->plan);
  uint8_t *packed = malloc(n + 1);
  if (!packed) return FAIL(RESOURCE_EXHAUSTED, "plan");
  kiln__v1__plan__pack(b->plan, packed);
  Status st = unpack(&kiln__v1__plan__descriptor, (Bytes){packed, n}, &a->arena, &a->plan);
  free(packed);
  return st;
}

static Status fill_artifact(Build *b, Artifact *a) {
  size_t n = b->plan->n_kernels;
  memcpy(a->graph_hash, b->hash, DIGEST_BYTES);
  a->graph.len = b->graph.len;
  a->graph.ptr = arena_copy(&a->arena, b->graph.ptr, b->graph.len);
  a->binaries = arena_array(&a->arena, n + 1, sizeof *a->binaries);
  a->kernel_graphs = arena_array(&a->arena, n + 1, sizeof *a->kernel_graphs);
  if (!a->graph.ptr || !a->binaries || !a->kernel_graphs)
    return FAIL(RESOURCE_EXHAUSTED, "executable");
  for (size_t i = 0; i < n; i++) {
    const ProtobufCBinaryData *graph = &b->plan->kernels[i]->graph;
    a->kernel_graphs[i] = (Bytes){arena_copy(&a->arena, graph->data, graph->len), graph->len};
    if (!a->kernel_graphs[i].ptr) return FAIL(RESOURCE_EXHAUSTED, "executable");
    TRY(unpack(&kiln__v1__kernel_binary__descriptor, b->kernels[i].blob, &a->arena,
               &a->binaries[i]));
  }
  return slim_plan(b, a);
}

static void store_results(Build *b) {
  size_t n = b->plan->n_kernels, made = 0;
  StoreRecord *records = arena_array(&b->arena, n + 1, sizeof *records);
  if (!records) return;
  for (size_t i = 0; i < n; i++) {
    const Kiln__V1__PlanKernel *k = b->plan->kernels[i];
    if (b->kernels[i].made)
      records[made++] = (StoreRecord){
          .key = {k->hash.data, b->fingerprint, {k->graph.data, k->graph.len}, k->name},
          .value = b->kernels[i].blob};
  }
  StoreRecord plan = {.key = {b->hash, b->fingerprint, b->graph, b->name}, .value = b->plan_blob};
  if (made || !b->report.plan_cached)
    store_put(b->store, b->report.plan_cached ? NULL : &plan, records, made);
}

static void build_complete(Build *b) {
  step(b, &b->report.codegen_ns);
  if (!b->no_cache) store_results(b);
  Artifact *a = calloc(1, sizeof *a);
  if (!a) {
    build_finish(b, NULL, FAIL(RESOURCE_EXHAUSTED, "executable"));
    return;
  }
  a->refs = 1;
  arena_init(&a->arena, 0);
  Status st = fill_artifact(b, a);
  build_finish(b, st ? NULL : a, st);
  artifact_release(a);
}

/* -- kernels ------------------------------------------------------------------------------------
 */

static Status submit_kernel(Build *b, size_t i);

/* What a compile that failed says about its schedule; false: nothing, the worker died or was
 * stopped. */
static bool cause_of(StatusCode code, ScheduleCause *out) {
  *out = code == ST_RESOURCE_EXHAUSTED ? SC_OOM : SC_COMPILE_ERROR;
  return code == ST_RESOURCE_EXHAUSTED || code == ST_INVALID_ARGUMENT || code == ST_INTERNAL ||
         code == ST_UNIMPLEMENTED || code == ST_OUT_OF_RANGE;
}

/* A record led to no code: what it says is remembered, and the heuristic is asked instead. Takes
 * st. */
static Status compile_without_record(BuildKernel *k, Status st) {
  Build *b = k->build;
  size_t i = (size_t)(k - b->kernels);
  const Kiln__V1__PlanKernel *p = b->plan->kernels[i];
  Schedule bad = {.kernel = p->hash.data,
                  .target = b->fingerprint,
                  .opts = k->opts,
                  .name = p->name,
                  .compiler = b->target->compiler};
  char text[512], opts[256];
  status_text(st, text, sizeof text);
  LOG_WARN("a schedule record does not compile; the heuristic takes over",
           "kernel=%s opts=%s error=\"%s\"", p->name, log_quote(opts, sizeof opts, k->opts), text);
  if (cause_of(status_code(st), &bad.cause)) store_put_tuned(b->store, NULL, 0, &bad, 1);
  status_drop(st);
  k->opts = NULL;
  return submit_kernel(b, i);
}

/* May it go on after a kernel? Each step has its own bound; this is for those who take many. */
static Status spend(Build *b, const CompileJob *job) {
  int64_t total = (int64_t)b->server->config.compile_total;
  b->spent_ns += clock_now_ns() - job->given_ns;
  if (!b->pending) return NULL;
  if (total && b->spent_ns / 1000000000 >= total)
    return status_retry(FAIL(RESOURCE_EXHAUSTED,
                             "the model's kernels have taken %lld seconds of compiling, this "
                             "server allows %lld for one model; %zu kernels are left",
                             (long long)(b->spent_ns / 1000000000), (long long)total, b->pending),
                        -1);
  return b->payer ? quota_compile_more(b->payer, clock_now_ns()) : NULL;
}

static void on_kernel(void *ctx, Message *m, Status st) {
  BuildKernel *k = ctx;
  Build *b = k->build;
  k->active = false;
  if (st && k->opts && !(st = compile_without_record(k, st))) return;
  if (!st && !m->env->kernel_done->binary) st = FAIL(INTERNAL, "a kernel's answer without code");
  if (!st) {
    const Kiln__V1__KernelBinary *binary = m->env->kernel_done->binary;
    size_t n = kiln__v1__kernel_binary__get_packed_size(binary);
    uint8_t *packed = arena_alloc(&b->arena, n + 1);
    if (packed) kiln__v1__kernel_binary__pack(binary, packed);
    if (!packed) st = FAIL(RESOURCE_EXHAUSTED, "a kernel's code");
    k->blob = (Bytes){packed, n};
    k->made = true;
    b->report.compiled++;
  }
  b->pending--;
  if (!st) st = spend(b, &k->job);
  if (st)
    build_finish(b, NULL, WRAP(st, "kernel '%s'", k->message.name));
  else if (!b->pending)
    build_complete(b);
}

static Status submit_kernel(Build *b, size_t i) {
  BuildKernel *k = &b->kernels[i];
  const Kiln__V1__PlanKernel *p = b->plan->kernels[i];
  kiln__v1__kernel_job__init(&k->message);
  k->message.graph = p->graph;
  k->message.name = p->name;
  k->message.target = (Kiln__V1__TargetSpec *)(uintptr_t)b->target;
  if (k->opts) k->message.opts = (char *)(uintptr_t)k->opts;
  kiln__v1__envelope__init(&k->job.env);
  k->job.env.body_case = KILN__V1__ENVELOPE__BODY_KERNEL;
  k->job.env.kernel = &k->message;
  k->job.fd = -1;
  k->job.tenant = b->tenant;
  k->job.payer = b->payer;
  k->job.urgent = true;
  k->job.done = on_kernel;
  k->job.ctx = k;
  Status st = compile_pool_submit(b->server->pool, &k->job);
  k->active = !st;
  return st;
}

/* Compiles the kernels that have no blob yet. */
static void compile_missing(Build *b) {
  size_t missing = 0;
  for (size_t i = 0; i < b->plan->n_kernels; i++) missing += !b->kernels[i].blob.ptr;
  b->pending = missing;
  if (!missing) {
    build_complete(b);
    return;
  }
  set_state(b, RS_COMPILING);
  /* an answer never comes inside submit, so b outlives this loop */
  for (size_t i = 0; i < b->plan->n_kernels; i++) {
    if (b->kernels[i].blob.ptr) continue;
    Status st = submit_kernel(b, i);
    if (st) {
      build_finish(b, NULL, st);
      return;
    }
  }
}

/* A list without opts is spelt with a space where "" asks for the heuristic. */
static bool same_opts(const char *a, const char *b) {
  while (*a == ' ') a++;
  while (*b == ' ') b++;
  return !strcmp(a, b);
}

/* Whether the blob was compiled with these opts. */
static bool has_opts(Bytes blob, const char *opts) {
  Arena arena;
  Kiln__V1__KernelBinary *binary;
  arena_init(&arena, 0);
  Status st = unpack(&kiln__v1__kernel_binary__descriptor, blob, &arena, &binary);
  bool same = !st && same_opts(binary->opts, opts);
  status_drop(st);
  arena_deinit(&arena);
  return same;
}

static void on_kernels_found(void *ctx, const StoreKernel *found, size_t n) {
  Build *b = ctx;
  b->lookup = NULL;
  step(b, &b->report.cache_ns);
  assert(n == b->plan->n_kernels);
  for (size_t i = 0; i < n; i++) {
    BuildKernel *k = &b->kernels[i];
    Bytes blob = found[i].binary;
    const char *opts = found[i].opts;
    if (opts) k->opts = arena_strdup(&b->arena, str_from(*opts ? opts : " "));
    if (!blob.ptr || (k->opts && !has_opts(blob, k->opts))) continue;
    k->blob.len = blob.len;
    k->blob.ptr = arena_copy(&b->arena, blob.ptr, blob.len);
  }
  compile_missing(b);
}

static Status check_plan(const Kiln__V1__Plan *p) {
  for (size_t i = 0; i < p->n_kernels; i++)
    if (p->kernels[i]->hash.len != DIGEST_BYTES) return FAIL(INTERNAL, "the plan is malformed");
  return NULL;
}

/* b->plan is there. */
static void look_up_kernels(Build *b) {
  size_t n = b->plan->n_kernels;
  Status st = check_plan(b->plan);
  StoreKey *keys = arena_array(&b->arena, n + 1, sizeof *keys);
  BuildKernel *kernels = arena_array(&b->arena, n + 1, sizeof *kernels);
  if (!st && (!keys || !kernels)) st = FAIL(RESOURCE_EXHAUSTED, "kernels of the plan");
  if (st) {
    build_finish(b, NULL, st);
    return;
  }
  b->kernels = kernels;
  for (size_t i = 0; i < n; i++) {
    const Kiln__V1__PlanKernel *k = b->plan->kernels[i];
    kernels[i].build = b;
    keys[i] = (StoreKey){k->hash.data, b->fingerprint, {k->graph.data, k->graph.len}, k->name};
  }
  b->step_ns = clock_now_ns();
  if (b->no_cache) {
    compile_missing(b);
    return;
  }
  set_state(b, RS_CACHE);
  b->lookup = store_get_kernels(b->store, keys, n, on_kernels_found, b);
  if (!b->lookup) compile_missing(b); /* no memory for a lookup */
}

/* -- plan ---------------------------------------------------------------------------------------
 */

static Status use_plan(Build *b, Bytes blob) {
  b->plan_blob.len = blob.len;
  b->plan_blob.ptr = arena_copy(&b->arena, blob.ptr, blob.len);
  if (!b->plan_blob.ptr) return FAIL(RESOURCE_EXHAUSTED, "plan");
  return unpack(&kiln__v1__plan__descriptor, b->plan_blob, &b->arena, &b->plan);
}

static void on_plan(void *ctx, Message *m, Status st) {
  Build *b = ctx;
  b->plan_active = false;
  if (!st && !m->env->plan_done->plan) st = FAIL(INTERNAL, "an answer without a plan");
  if (!st) {
    const Kiln__V1__PlanDone *done = m->env->plan_done;
    b->report.plan_ns = done->wall_ns;
    b->report.plan_cpu_ns = done->cpu_ns;
    size_t n = kiln__v1__plan__get_packed_size(done->plan);
    uint8_t *packed = malloc(n + 1);
    if (packed) kiln__v1__plan__pack(done->plan, packed);
    st = packed ? use_plan(b, (Bytes){packed, n}) : FAIL(RESOURCE_EXHAUSTED, "plan");
    free(packed);
  }
  if (st)
    build_finish(b, NULL, st);
  else
    look_up_kernels(b);
}

static void make_plan(Build *b) {
  set_state(b, RS_COMPILING);
  Status st = compile_pool_plan(&b->plan_job);
  if (!st) return;
  b->plan_active = false;
  build_finish(b, NULL, st);
}

static void on_plan_found(void *ctx, const Bytes *values, size_t n) {
  Build *b = ctx;
  (void)n;
  b->lookup = NULL;
  step(b, &b->report.cache_ns);
  if (!values[0].ptr) {
    make_plan(b);
    return;
  }
  Status st = use_plan(b, values[0]);
  if (st) {
    status_drop(st); /* an entry that does not decode is as good as none */
    make_plan(b);
    return;
  }
  b->report.plan_cached = true;
  b->plan_active = false;
  compile_pool_drop(b->server->pool, &b->plan_job);
  look_up_kernels(b);
}

/* -- start --------------------------------------------------------------------------------------
 */

static Status build_create(Server *s, DeviceLane *device, Tenant *tenant, const char *name,
                           const Kiln__V1__FrontendDone *face, Build **out) {
  Build *b = *out = calloc(1, sizeof *b);
  if (!b) return FAIL(RESOURCE_EXHAUSTED, "compile");
  b->server = s;
  b->device = device;
  b->payer = tenant;
  b->store = tenant->store;
  b->tenant = tenant->id;
  b->target = device_lane_target(device);
  memcpy(b->fingerprint, device_lane_fingerprint(device), DIGEST_BYTES);
  memcpy(b->hash, face->graph_hash.data, DIGEST_BYTES);
  arena_init(&b->arena, 0);
  b->name = arena_strdup(&b->arena, str_from(name));
  b->graph = (Bytes){arena_copy(&b->arena, face->graph.data, face->graph.len), face->graph.len};
  if (b->name && b->graph.ptr) {
    if ((b->next = s->builds)) b->next->link = &b->next;
    b->link = &s->builds;
    s->builds = b;
    return NULL;
  }
  arena_deinit(&b->arena);
  free(b);
  *out = NULL;
  return FAIL(RESOURCE_EXHAUSTED, "compile");
}

static Build *find_build(const Server *s, const DeviceLane *device, const Store *store,
                         const Kiln__V1__FrontendDone *face) {
  for (Build *b = s->builds; b; b = b->next)
    if (!b->no_cache && b->device == device && b->store == store &&
        b->graph.len == face->graph.len && !memcmp(b->hash, face->graph_hash.data, DIGEST_BYTES) &&
        !memcmp(b->graph.ptr, face->graph.data, b->graph.len))
      return b;
  return NULL;
}

static void add_waiter(Build *b, BuildWaiter *w) {
  w->build = b;
  w->next = b->waiters;
  b->waiters = w;
}

Status build_join(Server *s, DeviceLane *device, Tenant *tenant, bool no_cache, const char *name,
                  const Kiln__V1__FrontendDone *face, CompileJob *held, BuildWaiter *w) {
  Build *b = no_cache ? NULL : find_build(s, device, tenant->store, face);
  if (b) {
    compile_pool_drop(s->pool, held);
    add_waiter(b, w);
    tenant->used.merged++;
    return NULL;
  }
  Status st = build_create(s, device, tenant, name, face, &b);
  if (st) {
    compile_pool_drop(s->pool, held);
    return st;
  }
  b->no_cache = no_cache;
  b->plan_job.fd = -1;
  b->plan_job.tenant = b->tenant;
  b->plan_job.done = on_plan;
  b->plan_job.ctx = b;
  kiln__v1__envelope__init(&b->plan_job.env);
  compile_pool_transfer(held, &b->plan_job);
  b->plan_active = true;
  add_waiter(b, w);
  b->step_ns = clock_now_ns();
  if (no_cache) {
    make_plan(b);
    return NULL;
  }
  StoreKey key = {b->hash, b->fingerprint, b->graph, b->name};
  set_state(b, RS_CACHE);
  b->lookup = store_get_plan(b->store, &key, on_plan_found, b);
  if (!b->lookup) make_plan(b); /* no memory for a lookup */
  return NULL;
}
