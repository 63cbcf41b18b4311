/* One job at a time. The graph of a FrontendJob is held, with its model mapped, until kilnd says
 * PlanJob or DropJob: most compiles of a warm cache end there without a plan being made.
 *
 * The process has its socket, stderr and memory, nothing else (sandbox.c); kilnd kills it when a
 * job overruns. Whatever a job allocates lives in the Job's arena and goes with it. */
#include "daemon/worker/compile_worker.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "compiler/compile.h"
#include "compiler/ir/dim.h"
#include "compiler/ir/text.h"
#include "daemon/worker/answer.h"
#include "daemon/worker/convert.h"
#include "daemon/worker/explain_worker.h"
#include "daemon/worker/sandbox.h"
#include "daemon/worker/search_worker.h"
#include "proto/digest.h"

/* A model on its way through the compiler. */
typedef struct Held {
  uint64_t id;
  bool active;
  Job job;
  Arena strings; /* of options and target */
  void *model;
  size_t model_bytes;
  TensorGraph graph;
  Target target;
} Held;

typedef struct CompileWorker {
  Channel channel;
  WorkerLimits limits;
  Held held;
} CompileWorker;

static void held_drop(Held *h) {
  if (!h->active) return;
  strbuf_deinit(&h->graph.constants);
  job_deinit(&h->job);
  arena_deinit(&h->strings);
  if (h->model) munmap(h->model, h->model_bytes);
  *h = (Held){0};
}

/* A job that polls gives up by itself, before kilnd takes it for hung and kills the process:
 * whoever sent the model is told what happened to it. LLVM does not poll. */
static int64_t deadline(const CompileWorker *w) {
  const int64_t quarter = 250000000;
  return w->limits.cpu_seconds ? clock_now_ns() + 3 * quarter * w->limits.cpu_seconds : 0;
}

/* The compiler's deadline is ours, not the client's. Takes st. */
static Status too_long(const CompileWorker *w, Status st) {
  if (status_code(st) != ST_DEADLINE_EXCEEDED) return st;
  status_drop(st);
  return FAIL(RESOURCE_EXHAUSTED,
              "compiling takes too long: one step of it may take %u seconds (compile_seconds)",
              w->limits.cpu_seconds);
}

/* -- frontend ---------------------------------------------------------------------------------- */

static Status map_model(Held *h, Message *m) {
  int fd = message_take_fd(m, 0);
  if (fd < 0) return FAIL(INTERNAL, "a job without its model");
  off_t size = lseek(fd, 0, SEEK_END);
  Status st = NULL;
  if (size > 0) st = shm_map(fd, (size_t)size, false, &h->model);
  if (!st && size > 0) h->model_bytes = (size_t)size;
  close(fd);
  return st;
}

/* Decodes the model of `job` into w->held. */
static Status hold(CompileWorker *w, Message *m, const Kiln__V1__FrontendJob *job) {
  Held *h = &w->held;
  FrontendOptions options = {.kind = MODEL_ONNX};
  held_drop(h);
  h->active = true;
  h->id = m->env->id;
  job_init(&h->job, w->limits.memory_bytes);
  h->job.deadline_ns = deadline(w);
  TRY(map_model(h, m));
  TRY(convert_format(job->format, &options.kind));
  TRY(convert_dims(&h->strings, job->options, &options));
  TRY(convert_target(&h->strings, job->target, &h->target));
  return compile_frontend(&h->job, (Bytes){h->model, h->model_bytes}, &options, &h->graph);
}

static Status send_frontend(CompileWorker *w, Arena *arena, const StrBuf *canonical,
                            Kiln__V1__FrontendDone *done) {
  Held *h = &w->held;
  uint8_t *hash = arena_alloc(arena, DIGEST_BYTES);
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  int fd = -1;
  TRY(convert_interface(arena, &h->graph, done));
  if (!hash || canonical->failed || h->graph.constants.failed)
    return FAIL(RESOURCE_EXHAUSTED, "no memory for the graph");
  digest_sha256(canonical->ptr, canonical->len, hash);
  done->graph_hash = (ProtobufCBinaryData){DIGEST_BYTES, hash};
  done->graph = (ProtobufCBinaryData){canonical->len, (uint8_t *)canonical->ptr};
  done->const_bytes = h->graph.constants.len;
  if (done->const_bytes) {
    Bytes constants = {(const uint8_t *)h->graph.constants.ptr, h->graph.constants.len};
    TRY(shm_from_bytes("kiln-constants", constants, &fd));
  }
  env.id = h->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_FRONTEND_DONE;
  env.frontend_done = done;
  Status st = channel_send(&w->channel, &env, &fd, fd >= 0);
  if (fd >= 0) close(fd);
  return st;
}

static Status frontend(CompileWorker *w, Message *m) {
  int64_t wall = clock_now_ns(), cpu = clock_cpu_ns();
  Kiln__V1__FrontendDone done = KILN__V1__FRONTEND_DONE__INIT;
  StrBuf canonical = {0};
  Arena arena;
  arena_init(&arena, 0);
  Status st = hold(w, m, m->env->frontend);
  bool rows = false;
  if (!st) st = compile_canonical(&w->held.job, &w->held.graph, &canonical);
  if (!st) st = compile_rowwise(&w->held.job, &w->held.graph, &rows);
  done.rowwise = rows;
  done.wall_ns = clock_now_ns() - wall;
  done.cpu_ns = clock_cpu_ns() - cpu;
  if (!st) st = send_frontend(w, &arena, &canonical, &done);
  if (st) held_drop(&w->held);
  strbuf_deinit(&canonical);
  arena_deinit(&arena);
  return st;
}

/* -- plan, kernel, inspect --------------------------------------------------------------------- */

static Status plan(CompileWorker *w, uint64_t id) {
  Held *h = &w->held;
  Plan made = {0};
  Arena arena;
  Kiln__V1__PlanDone done = KILN__V1__PLAN_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  int64_t wall = clock_now_ns(), cpu = clock_cpu_ns();
  if (!h->active || h->id != id) return FAIL(INTERNAL, "a plan without its frontend");
  arena_init(&arena, 0);
  h->job.deadline_ns = deadline(w);
  Status st = compile_plan(&h->job, &h->graph, &h->target, &made);
  if (!st) st = convert_plan(&arena, &h->job, &made, &done.plan);
  done.wall_ns = clock_now_ns() - wall;
  done.cpu_ns = clock_cpu_ns() - cpu;
  env.id = id;
  env.body_case = KILN__V1__ENVELOPE__BODY_PLAN_DONE;
  env.plan_done = &done;
  if (!st) st = channel_send(&w->channel, &env, NULL, 0);
  arena_deinit(&arena);
  held_drop(h);
  return st;
}

static Status compile(Job *job, Arena *strings, const Kiln__V1__KernelJob *m, KernelObject *out) {
  UOp *sink;
  Target target;
  TRY(convert_target(strings, m->target, &target));
  TRY(uop_deserialize(job, (Bytes){m->graph.data, m->graph.len}, &sink));
  return compile_kernel(job, sink, m->name, &target, m->opts, out);
}

typedef struct LaunchSize {
  uint32_t grid[3];
  Kiln__V1__SizeProgram *sizes[3];
} LaunchSize;

/* How many workgroups: numbers, or programs when one of them depends on a VAR. */
static Status set_launch(Arena *arena, KernelObject *object, LaunchSize *launch,
                         Kiln__V1__KernelBinary *out) {
  bool numbers = true;
  for (int d = 0; d < 3; d++) {
    int64_t n = object->grid[d];
    numbers = numbers && dim_is_static(n);
    if (dim_is_static(n) && n > UINT32_MAX)
      return FAIL(RESOURCE_EXHAUSTED, "a launch of %lld workgroups", (long long)n);
    launch->grid[d] = dim_is_static(n) ? (uint32_t)n : 0;
    TRY(convert_size(arena, n, 1, &launch->sizes[d]));
  }
  if (numbers)
    out->grid = launch->grid, out->n_grid = 3;
  else
    out->grid_size = launch->sizes, out->n_grid_size = 3;
  out->block = object->block, out->n_block = 3;
  return NULL;
}

static Status kernel(CompileWorker *w, const Kiln__V1__Envelope *request) {
  int64_t start = clock_now_ns();
  Job job;
  Arena strings;
  KernelObject object = {0};
  LaunchSize launch;
  Kiln__V1__KernelBinary binary = KILN__V1__KERNEL_BINARY__INIT;
  Kiln__V1__KernelDone done = KILN__V1__KERNEL_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  job_init(&job, w->limits.memory_bytes);
  job.deadline_ns = deadline(w);
  arena_init(&strings, 0);
  Status st = compile(&job, &strings, request->kernel, &object);
  if (!st) {
    binary.object = (ProtobufCBinaryData){object.object.len, (uint8_t *)object.object.ptr};
    binary.entry = (char *)(uintptr_t)object.entry;
    binary.opts = (char *)(uintptr_t)object.opts;
    binary.threads = object.threads;
    binary.scratch_bytes = object.scratch_bytes;
    st = set_launch(&strings, &object, &launch, &binary);
  }
  if (!st) {
    done.binary = &binary;
    done.wall_ns = clock_now_ns() - start;
    env.id = request->id;
    env.body_case = KILN__V1__ENVELOPE__BODY_KERNEL_DONE;
    env.kernel_done = &done;
    st = channel_send(&w->channel, &env, NULL, 0);
  }
  strbuf_deinit(&object.object);
  arena_deinit(&strings);
  job_deinit(&job);
  return st;
}

static Status search(void *ctx, const Kiln__V1__Envelope *request, Answer *out) {
  const CompileWorker *w = ctx;
  kiln__v1__search_done__init(&out->body.search);
  out->env.body_case = KILN__V1__ENVELOPE__BODY_SEARCH_DONE;
  out->env.search_done = &out->body.search;
  return search_worker_run(request->search, w->limits.memory_bytes, &out->arena, &out->body.search);
}

static Status inspect(CompileWorker *w, Message *m) {
  const Kiln__V1__InspectJob *job = m->env->inspect;
  StrBuf text = {0};
  Kiln__V1__InspectDone done = KILN__V1__INSPECT_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  Held *h = &w->held;
  if (!job->job) return FAIL(INTERNAL, "an inspection without its model");
  Status st = hold(w, m, job->job);
  if (!st) st = compile_inspect(&h->job, &h->graph, &h->target, job->stage, job->kernel, &text);
  if (!st && text.failed) st = FAIL(RESOURCE_EXHAUSTED, "no memory for the text");
  env.id = m->env->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_INSPECT_DONE;
  env.inspect_done = &done;
  done.text = text.ptr ? text.ptr : (char *)(uintptr_t) "";
  if (!st) st = channel_send(&w->channel, &env, NULL, 0);
  strbuf_deinit(&text);
  held_drop(h);
  return st;
}

static Status explain(void *ctx, const Kiln__V1__Envelope *request, Answer *out) {
  const CompileWorker *w = ctx;
  kiln__v1__explain_done__init(&out->body.explain);
  out->env.body_case = KILN__V1__ENVELOPE__BODY_EXPLAIN_DONE;
  out->env.explain_done = &out->body.explain;
  return explain_worker_run(request->explain, w->limits.memory_bytes, &out->arena,
                            &out->body.explain);
}

/* -- the loop ---------------------------------------------------------------------------------- */

static Status dispatch(CompileWorker *w, Message *m) {
  switch (m->env->body_case) {
  case KILN__V1__ENVELOPE__BODY_FRONTEND: return frontend(w, m);
  case KILN__V1__ENVELOPE__BODY_PLAN: return plan(w, m->env->id);
  case KILN__V1__ENVELOPE__BODY_KERNEL: return kernel(w, m->env);
  case KILN__V1__ENVELOPE__BODY_INSPECT: return inspect(w, m);
  case KILN__V1__ENVELOPE__BODY_SEARCH: return answer(&w->channel, m->env, search, w);
  case KILN__V1__ENVELOPE__BODY_EXPLAIN: return answer(&w->channel, m->env, explain, w);
  case KILN__V1__ENVELOPE__BODY_DROP:
    if (w->held.id == m->env->id) held_drop(&w->held);
    return NULL;
  default: return FAIL(INTERNAL, "unexpected message %d", (int)m->env->body_case);
  }
}

static Status serve(CompileWorker *w) {
  for (;;) {
    Message m;
    TRY(channel_recv(&w->channel, &m));
    Status st = sandbox_limit_cpu(w->limits.cpu_seconds);
    if (!st) st = too_long(w, dispatch(w, &m));
    Status sent = NULL;
    if (st) sent = channel_send_error(&w->channel, m.env->id, st, "compile_error");
    status_drop(st);
    message_close(&m);
    if (sent) return sent;
  }
}

int compile_worker_main(int socket, WorkerLimits limits) {
  CompileWorker w = {.limits = limits};
  log_init("worker:compile", LOG_LEVEL_INFO);
  Status st = channel_init(&w.channel, socket);
  if (!st) st = sandbox_limit_memory(limits.memory_bytes);
  if (!st) st = sandbox_enter();
  if (!st) st = serve(&w);
  int code = status_code(st) == ST_UNAVAILABLE ? 0 : 1;
  char text[512];
  status_text(st, text, sizeof text);
  if (code) LOG_ERROR("the compile worker ends", "error=\"%s\"", text);
  status_drop(st);
  held_drop(&w.held);
  channel_deinit(&w.channel);
  return code;
}
