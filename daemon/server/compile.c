/* The steps, each entered from the callback of the one before:
 *
 *   await_device   the target is known once the device was up
 *   compare        are these bytes loaded, or on their way, already?      (bulk lane)
 *   frontend       decode and simplify                                   (compile worker)
 *   build          plan and machine code, possibly another request's     (build.c)
 *   load           into the device worker
 *   finish         answer everybody who waits
 *
 * At any time at most one of compare, job, build and load is outstanding, and compile_free cancels
 * whichever it is. */
#include "daemon/server/compile.h"
#include "daemon/server/dims.h"
#include "daemon/server/shared.h"

#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

enum { CANDIDATES_MAX = 8 };

/* Compares a model with others of the same size, on the bulk lane. */
typedef struct Compare {
  LaneJob job;      /* first member */
  Compile *compile; /* NULL when it lost interest */
  ModelData *mine;
  ModelData *others[CANDIDATES_MAX];
  size_t nothers, found; /* found == nothers: none is equal */
} Compare;

struct Compile {
  Server *server;
  Compile *next, **link;
  CompileWaiter *waiters;
  Tenant *tenant;
  DeviceLane *device;
  ModelData *model;
  Arena arena;
  Kiln__V1__FrontendJob *message; /* in arena; also what the options of an executable are */
  const char *name;
  bool no_cache;
  Compare *compare;
  DeviceJob *device_job;
  CompileJob job;
  bool job_active;
  int job_fd; /* read-only descriptor of the model; -1 = none */
  BuildWaiter build;
  Executable *exe; /* in the making */
  Kiln__V1__CompileReport report;
  int64_t started_ns;
};

/* -- ending -------------------------------------------------------------------------------------
 */

static void compile_free(Compile *c) {
  if (c->compare) c->compare->compile = NULL;
  if (c->device_job) device_lane_cancel(c->device, c->device_job);
  if (c->job_active) compile_pool_cancel(c->server->pool, &c->job);
  if (c->job_fd >= 0) close(c->job_fd);
  build_leave(&c->build);
  if ((*c->link = c->next)) c->next->link = c->link;
  executable_release(c->exe);
  model_data_release(c->model);
  arena_deinit(&c->arena);
  free(c);
}

static CompileWaiter *pop_waiter(Compile *c) {
  CompileWaiter *w = c->waiters;
  if (!w) return NULL;
  c->waiters = w->next;
  w->compile = NULL;
  return w;
}

static void compile_fail(Compile *c, Status st) {
  c->server->metrics.compiles_total[RESULT_FAILED][0]++;
  for (CompileWaiter *w; (w = pop_waiter(c));) w->done(w, NULL, NULL, waiter_status(st));
  status_drop(st);
  compile_free(c);
}

void compile_leave(CompileWaiter *w) {
  Compile *c = w->compile;
  if (!c) return;
  CompileWaiter **at = &c->waiters;
  while (*at != w) at = &(*at)->next;
  *at = w->next;
  w->compile = NULL;
  if (!c->waiters) compile_free(c);
}

static void set_state(Compile *c, RequestState state) {
  for (CompileWaiter *w = c->waiters; w; w = w->next)
    if (w->request && w->request->state != state && request_may_move(w->request->state, state))
      request_move(w->request, state);
}

/* The parts of the report that belong to the executable, not to how it came about. */
static void report_executable(Kiln__V1__CompileReport *r, Arena *arena, const Executable *e) {
  char *hex = arena_alloc(arena, DIGEST_HEX + 1);
  if (hex) r->graph_hash = digest_to_hex(e->artifact->graph_hash, DIGEST_BYTES, hex);
  r->kernels = (uint32_t)e->artifact->plan->n_calls;
  r->unique_kernels = (uint32_t)e->artifact->plan->n_kernels;
  r->temp_bytes = e->artifact->plan->temp_bytes;
  r->kept_bytes = e->artifact->plan->kept_bytes;
  r->weight_bytes = 0;
  for (size_t i = 0; i < e->face->n_weights; i++) r->weight_bytes += e->face->weights[i]->bytes;
  r->device = (char *)(uintptr_t)device_lane_name(e->device);
}

static void compile_finish(Compile *c, Executable *e) {
  report_executable(&c->report, &c->arena, e);
  c->report.total_ns = clock_now_ns() - c->started_ns;
  Metrics *m = &c->server->metrics;
  m->compiles_total[RESULT_OK][0]++;
  m->kernels_compiled_total[0][0] += c->report.kernels_compiled;
  m->plans_cached_total[0][0] += c->report.plan_cached ? 1 : 0;
  char quoted[128];
  LOG_INFO("compiled", "model=%s kernels=%u unique=%u compiled=%u plan_cached=%d ms=%.1f",
           log_quote(quoted, sizeof quoted, c->name), c->report.kernels, c->report.unique_kernels,
           c->report.kernels_compiled, c->report.plan_cached, (double)c->report.total_ns / 1e6);
  for (CompileWaiter *w; (w = pop_waiter(c));) w->done(w, e, &c->report, NULL);
  compile_free(c);
}

/* -- load ---------------------------------------------------------------------------------------
 */

static void on_loaded(void *ctx, DeviceJob *job, Message *m, Status st) {
  Compile *c = ctx;
  Executable *e = c->exe;
  (void)job;
  c->device_job = NULL;
  if (!st) st = registry_add(&c->server->executables, e);
  if (!st) shared_offered_for(c->server->shared, e);
  if (st) {
    compile_fail(c, st);
    return;
  }
  c->report.load_ns = m->env->load_done->wall_ns;
  assembled_keep(e, m->env->load_done, !c->no_cache);
  compile_finish(c, e); /* the registry keeps e alive */
}

static Status load(Compile *c) {
  DeviceJob *job = device_job_create();
  if (!job) return FAIL(RESOURCE_EXHAUSTED, "loading");
  job->env.body_case = KILN__V1__ENVELOPE__BODY_LOAD;
  job->exe = executable_retain(c->exe);
  job->done = on_loaded;
  job->ctx = c;
  c->device_job = job;
  set_state(c, RS_RUNNING);
  Status st = device_lane_submit(c->device, job);
  if (st) c->device_job = NULL;
  return st;
}

/* -- build --------------------------------------------------------------------------------------
 */

static Compile *compile_of(BuildWaiter *w) {
  return (Compile *)(void *)((char *)w - offsetof(Compile, build));
}

static void on_build_state(BuildWaiter *w, RequestState state) { set_state(compile_of(w), state); }

static void on_built(BuildWaiter *w, Artifact *artifact, const BuildReport *report, Status st) {
  Compile *c = compile_of(w);
  if (!st) {
    c->exe->artifact = artifact_retain(artifact);
    c->report.plan_cached = report->plan_cached;
    c->report.kernels_compiled = report->compiled;
    c->report.kernels_ns = report->plan_ns;
    c->report.frontend_cpu_ns += report->plan_cpu_ns;
    c->report.codegen_ns = report->codegen_ns;
    c->report.cache_ns = report->cache_ns;
    st = load(c);
  }
  if (st) compile_fail(c, st);
}

static Status start_build(Compile *c) {
  const Kiln__V1__FrontendDone *face = c->exe->face;
  Artifact *loaded = NULL;
  Bytes graph = {face->graph.data, face->graph.len};
  if (!c->no_cache)
    loaded = registry_artifact(&c->server->executables, c->tenant, face->graph_hash.data, graph,
                               c->device);
  c->job_active = false; /* the build takes the held worker, or it is let go here */
  if (loaded) {
    compile_pool_drop(c->server->pool, &c->job);
    c->exe->artifact = artifact_retain(loaded);
    c->report.plan_cached = true;
    return load(c);
  }
  c->build.done = on_built;
  c->build.state = on_build_state;
  return build_join(c->server, c->device, c->tenant, c->no_cache, c->name, face, &c->job,
                    &c->build);
}

/* -- frontend -----------------------------------------------------------------------------------
 */

/* Copies the answer into the executable, which outlives the message. */
static Status take_face(Compile *c, Message *m) {
  const Kiln__V1__FrontendDone *done = m->env->frontend_done;
  static const PbLimits limits = {
      .max_bytes = 512u << 20, .max_depth = 8, .max_elements = 16u << 20, .max_memory = 1u << 30};
  Executable *e = c->exe;
  ProtobufCMessage *copy;
  if (done->graph_hash.len != DIGEST_BYTES) return FAIL(INTERNAL, "the frontend's answer");
  if (done->const_bytes) {
    e->const_fd = message_take_fd(m, 0);
    TRY(shm_check(e->const_fd, done->const_bytes));
  }
  size_t n = kiln__v1__frontend_done__get_packed_size(done);
  uint8_t *packed = malloc(n + 1);
  if (!packed) return FAIL(RESOURCE_EXHAUSTED, "interface of the model");
  kiln__v1__frontend_done__pack(done, packed);
  Status st = pb_unpack(&kiln__v1__frontend_done__descriptor, (Bytes){packed, n}, &limits,
                        &e->arena, &copy);
  free(packed);
  if (st) return st;
  e->face = (const Kiln__V1__FrontendDone *)copy;
  TRY(dims_check(e->face));
  return executable_sizes(e, c->server->config.max_tensor_bytes);
}

static void on_frontend(void *ctx, Message *m, Status st) {
  Compile *c = ctx;
  if (st) {
    c->job_active = false;
  } else {
    c->report.frontend_ns = m->env->frontend_done->wall_ns;
    c->report.frontend_cpu_ns = m->env->frontend_done->cpu_ns;
    set_state(c, RS_COMPILING);
    st = take_face(c, m);
    if (!st) st = start_build(c);
  }
  if (st) compile_fail(c, st);
}

static Status make_executable(Compile *c) {
  TRY(executable_create(c->tenant, &c->exe));
  Executable *e = c->exe;
  e->device = c->device;
  e->model = model_data_retain(c->model);
  e->private_ = c->no_cache;
  const Kiln__V1__Batching *batching = c->message->options->batching;
  const Config *config = &c->server->config;
  e->batch_delay_ms = batching ? batching->delay_ms : config->batch_delay_ms;
  e->batch_rows = batching && batching->rows ? batching->rows : config->batch_rows;
  e->name = arena_strdup(&e->arena, str_from(c->name));
  e->options.len = kiln__v1__frontend_job__get_packed_size(c->message);
  uint8_t *packed = arena_alloc(&e->arena, e->options.len + 1);
  if (!e->name || !packed) return FAIL(RESOURCE_EXHAUSTED, "executable");
  kiln__v1__frontend_job__pack(c->message, packed);
  e->options.ptr = packed;
  return NULL;
}

static Status start_frontend(Compile *c) {
  TRY(make_executable(c));
  TRY(shm_readonly(c->model->fd, &c->job_fd));
  Kiln__V1__FrontendJob *m = arena_copy(&c->arena, c->message, sizeof *m);
  if (!m) return FAIL(RESOURCE_EXHAUSTED, "compile");
  m->target = (Kiln__V1__TargetSpec *)(uintptr_t)device_lane_target(c->device);
  m->name = (char *)(uintptr_t)c->name;
  kiln__v1__envelope__init(&c->job.env);
  c->job.env.body_case = KILN__V1__ENVELOPE__BODY_FRONTEND;
  c->job.env.frontend = m;
  c->job.fd = c->job_fd;
  c->job.tenant = c->tenant->id;
  c->job.hold = true;
  c->job.payer = c->tenant;
  c->job.done = on_frontend;
  c->job.ctx = c;
  Status st = compile_pool_submit(c->server->pool, &c->job);
  c->job_active = !st;
  return st;
}

/* -- compare ------------------------------------------------------------------------------------
 */

static bool same_bytes(const ModelData *a, const ModelData *b) {
  void *pa = NULL, *pb = NULL;
  Status st = shm_map(a->fd, a->size, false, &pa);
  if (!st) st = shm_map(b->fd, b->size, false, &pb);
  bool same = !st && !memcmp(pa, pb, a->size);
  status_drop(st);
  if (pa) munmap(pa, a->size);
  if (pb) munmap(pb, b->size);
  return same;
}

static void compare_run(LaneJob *job, void *state) {
  Compare *k = (Compare *)job;
  (void)state;
  for (k->found = 0; k->found < k->nothers; k->found++)
    if (same_bytes(k->mine, k->others[k->found])) return;
}

/* Somebody else's result for the same bytes, finished or in flight; false when it is gone again. */
static bool reuse(Compile *c, const ModelData *model, Bytes options) {
  Server *s = c->server;
  Executable *e = NULL;
  while ((e = registry_candidate(&s->executables, c->tenant, e, model->size, options, c->device)))
    if (e->model == model) {
      c->report.plan_cached = true;
      compile_finish(c, e);
      return true;
    }
  for (Compile *o = s->compiles; o; o = o->next) {
    if (o->model != model || o->tenant != c->tenant || o == c) continue;
    for (CompileWaiter *w; (w = pop_waiter(c));) {
      w->compile = o;
      w->next = o->waiters;
      o->waiters = w;
      c->tenant->used.merged += !w->joined; /* once, however often it moves on */
      c->server->metrics.compiles_total[RESULT_MERGED][0] += !w->joined;
      w->joined = true;
    }
    compile_free(c);
    return true;
  }
  return false;
}

static Status begin(Compile *c);

/* Packed FrontendJob of a spec without target and deadline: equal for equal requests. In arena. */
static Status pack_options(Arena *arena, const CompileSpec *spec, Bytes *out);

static void compare_done(LaneJob *job) {
  Compare *k = (Compare *)job;
  Compile *c = k->compile;
  ModelData *equal = k->found < k->nothers ? k->others[k->found] : NULL;
  if (c) {
    Bytes options = {0};
    Arena arena;
    arena_init(&arena, 0);
    c->compare = NULL;
    CompileSpec spec = {.format = c->message->format, .options = c->message->options};
    Status st = pack_options(&arena, &spec, &options);
    if (st || !equal || !reuse(c, equal, options)) {
      /* what was equal may have joined another one meanwhile, which is then found */
      if (!st) st = equal ? begin(c) : start_frontend(c);
      if (st) compile_fail(c, st);
    }
    arena_deinit(&arena);
  }
  for (size_t i = 0; i < k->nothers; i++) model_data_release(k->others[i]);
  model_data_release(k->mine);
  free(k);
}

static void add_candidate(Compare *k, ModelData *m) {
  for (size_t i = 0; i < k->nothers; i++)
    if (k->others[i] == m) return;
  if (k->nothers < CANDIDATES_MAX) k->others[k->nothers++] = model_data_retain(m);
}

static bool same_options(const Compile *c, Bytes options) {
  size_t n = kiln__v1__frontend_job__get_packed_size(c->message);
  uint8_t *packed = n == options.len ? malloc(n + 1) : NULL;
  if (packed) kiln__v1__frontend_job__pack(c->message, packed);
  bool same = packed && !memcmp(packed, options.ptr, n);
  free(packed);
  return same;
}

/* Starts the comparison with whatever might hold the same bytes; *out false when nothing does. */
static Status start_compare(Compile *c, Bytes options, bool *out) {
  Compare *k = calloc(1, sizeof *k);
  Executable *e = NULL;
  *out = false;
  if (!k) return FAIL(RESOURCE_EXHAUSTED, "compile");
  while ((e = registry_candidate(&c->server->executables, c->tenant, e, c->model->size, options,
                                 c->device)))
    add_candidate(k, e->model);
  for (Compile *o = c->server->compiles; o; o = o->next)
    if (o != c && !o->no_cache && o->tenant == c->tenant && o->device == c->device &&
        o->model->size == c->model->size && same_options(o, options))
      add_candidate(k, o->model);
  if (!k->nothers) {
    free(k);
    return NULL;
  }
  k->job.run = compare_run;
  k->job.done = compare_done;
  k->compile = c;
  k->mine = model_data_retain(c->model);
  c->compare = k;
  *out = true;
  lane_submit(c->server->bulk, &k->job);
  return NULL;
}

/* -- start --------------------------------------------------------------------------------------
 */

static Status copy_batching(Arena *arena, const Kiln__V1__Batching *b,
                            Kiln__V1__CompileOptions *out) {
  if (!b) return NULL;
  if (b->delay_ms > BATCH_DELAY_MAX || b->rows > BATCH_ROWS_MAX)
    return FAIL(INVALID_ARGUMENT, "batching: expected at most %d ms and %d rows, got %u and %u",
                BATCH_DELAY_MAX, BATCH_ROWS_MAX, b->delay_ms, b->rows);
  Kiln__V1__Batching *copy = out->batching = arena_alloc(arena, sizeof *copy);
  if (!copy) return FAIL(RESOURCE_EXHAUSTED, "compile");
  kiln__v1__batching__init(copy);
  copy->delay_ms = b->delay_ms;
  copy->rows = b->rows;
  return NULL;
}

/* The message of a spec, its dims in canonical form, in arena. */
static Status make_message(Arena *arena, const CompileSpec *spec, Kiln__V1__FrontendJob **out) {
  Kiln__V1__FrontendJob *m = *out = arena_alloc(arena, sizeof *m);
  Kiln__V1__CompileOptions *o = arena_alloc(arena, sizeof *o);
  if (!m || !o) return FAIL(RESOURCE_EXHAUSTED, "compile");
  kiln__v1__frontend_job__init(m);
  kiln__v1__compile_options__init(o);
  m->format = spec->format;
  m->options = o;
  o->fast_math = spec->options && spec->options->fast_math;
  if (spec->options) TRY(copy_batching(arena, spec->options->batching, o));
  return dims_options(arena, spec->options, o);
}

static Status pack_options(Arena *arena, const CompileSpec *spec, Bytes *out) {
  Kiln__V1__FrontendJob *m;
  TRY(make_message(arena, spec, &m));
  out->len = kiln__v1__frontend_job__get_packed_size(m);
  uint8_t *packed = arena_alloc(arena, out->len + 1);
  if (!packed) return FAIL(RESOURCE_EXHAUSTED, "compile");
  kiln__v1__frontend_job__pack(m, packed);
  out->ptr = packed;
  return NULL;
}

/* The device's target is known. */
static Status begin(Compile *c) {
  Bytes options;
  bool comparing = false;
  CompileSpec spec = {.format = c->message->format, .options = c->message->options};
  if (!c->no_cache) {
    TRY(pack_options(&c->arena, &spec, &options));
    TRY(start_compare(c, options, &comparing));
  }
  return comparing ? NULL : start_frontend(c);
}

static void on_device(void *ctx, DeviceJob *job, Message *m, Status st) {
  Compile *c = ctx;
  (void)job;
  (void)m;
  c->device_job = NULL;
  if (!st) st = begin(c);
  if (st) compile_fail(c, st);
}

static Status await_device(Compile *c) {
  if (device_lane_target(c->device)) return begin(c);
  DeviceJob *job = device_job_create();
  if (!job) return FAIL(RESOURCE_EXHAUSTED, "compile");
  job->done = on_device;
  job->ctx = c;
  c->device_job = job;
  Status st = device_lane_submit(c->device, job);
  if (st) c->device_job = NULL;
  return st;
}

Status compile_start(Server *s, const CompileSpec *spec, ModelData *model, CompileWaiter *w) {
  Compile *c = calloc(1, sizeof *c);
  if (!c) {
    model_data_release(model);
    return FAIL(RESOURCE_EXHAUSTED, "compile");
  }
  c->server = s;
  c->job_fd = -1;
  c->tenant = spec->tenant;
  c->device = spec->device;
  c->model = model;
  c->no_cache = spec->options && spec->options->no_cache;
  c->started_ns = w->request ? w->request->received_ns : clock_now_ns();
  kiln__v1__compile_report__init(&c->report);
  arena_init(&c->arena, 0);
  if ((c->next = s->compiles)) c->next->link = &c->next;
  c->link = &s->compiles;
  s->compiles = c;
  c->name = arena_strdup(&c->arena, str_from(spec->name));
  Status st =
      c->name ? make_message(&c->arena, spec, &c->message) : FAIL(RESOURCE_EXHAUSTED, "compile");
  if (st) {
    compile_free(c);
    return st;
  }
  w->compile = c;
  w->next = NULL;
  c->waiters = w;
  if (w->request) request_move(w->request, RS_ADMITTED);
  st = await_device(c);
  if (st) compile_fail(c, st);
  return NULL;
}
