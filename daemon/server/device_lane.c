/* Life of a lane: down -> greeting (hello sent) -> up -> down ... with a growing pause before each
 * start that follows a failure. Answers come in the order of the jobs, so the first job in flight
 * is the one that runs: when the worker dies it is the suspect, but those behind it had begun to be
 * read too, and only trying again, one at a time, tells which one kills.
 *
 * Which job is next is for device_turns.c to say. */

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/device_lane_internal.h"
#include "daemon/server/quota.h"
#include "proto/limits.h"

enum { BRIEF_NS = 50 * 1000 }; /* a run that a worker does not sleep for */

static void lane_start(DeviceLane *l);

/* The device is this machine's processor: its memory outlives its worker, and a worker can leave a
 * kernel. */
static bool on_host(const DeviceLane *l) { return l->target && !strcmp(l->target->kind, "cpu"); }

/* -- jobs ---------------------------------------------------------------------------------------
 */

Status device_job_slab(DeviceLane *l, DeviceJob *job, size_t bytes) {
  if (job->tenant) TRY(quota_memory(job->tenant, 0, bytes));
  TRY(slab_take(&l->slabs, job->tenant ? job->tenant->id : 0, bytes, &job->slab));
  if (job->tenant) job->tenant->used.host_bytes += job->slab->size;
  return NULL;
}

DeviceJob *device_job_create(void) {
  DeviceJob *job = calloc(1, sizeof *job);
  if (!job) return NULL;
  kiln__v1__envelope__init(&job->env);
  job->fd = -1;
  return job;
}

void job_free(DeviceLane *l, DeviceJob *job) {
  if (job->fair.session) fair_done(&l->turns->waiting, &job->fair, job->measured_ns);
  if (job->tenant) job->tenant->used.device_ns += (uint64_t)job->measured_ns;
  if (job->slab) {
    if (job->tenant) job->tenant->used.host_bytes -= job->slab->size;
    slab_put(&l->slabs, job->slab);
  }
  executable_release(job->exe);
  for (size_t i = 0; i < job->nbuffers; i++) device_buffer_release(job->buffers[i]);
  free(job->buffers);
  free(job->updated);
  free(job);
}

void job_finish(DeviceLane *l, DeviceJob *job, Message *m, Status st) {
  if (job->done)
    job->done(job->ctx, job, m, st);
  else
    status_drop(st);
  job_free(l, job);
}

void device_lane_return(DeviceLane *l, DeviceJob *job, int64_t used_ns) {
  DeviceTurns *t = l->turns;
  assert(t->lent == job);
  t->lent = NULL;
  t->lent_begun = false;
  job->measured_ns = used_ns;
  job_free(l, job);
}

void device_lane_cancel(DeviceLane *l, DeviceJob *job) {
  job->done = NULL;
  if (job == l->turns->lent) {
    device_lane_return(l, job, 0);
    return;
  }
  if (job->in_flight) { /* freed with its answer */
    cancel_post(l->cancelled, job->env.id);
    if (l->state == LS_UP && on_host(l)) worker_interrupt(l->worker);
    return;
  }
  turns_forget(l, job);
  job_free(l, job);
}

/* -- what a job needs first ---------------------------------------------------------------------
 */

static Status send_job(DeviceLane *l, DeviceJob *job, const int *fds, size_t nfds) {
  job->env.id = ++l->next_id;
  TRY(worker_send(l->worker, &job->env, fds, nfds));
  job->in_flight = true;
  job->sent_ns = clock_now_ns();
  l->flight_ns += job->fair.estimate_ns;
  if (!l->flight.first) {
    char text[64];
    snprintf(text, sizeof text, "over %u seconds", l->spec.run_seconds);
    worker_set_deadline(l->worker, l->spec.run_seconds, text);
  }
  queue_push(&l->flight, job);
  return NULL;
}

/* What jobs behind this one will miss. */
static void note_error(DeviceLane *l, Status st) {
  l->load_code = status_code(st);
  status_text(st, l->load_error, sizeof l->load_error);
  status_drop(st);
}

static void on_loaded(void *ctx, DeviceJob *job, Message *m, Status st) {
  DeviceLane *l = ctx;
  (void)m;
  if (!st) return;
  note_error(l, st);
  job->exe->loaded_in = 0;
  char name[128], error[300];
  LOG_ERROR("an executable cannot be loaded", "device=%s model=%s error=%s", l->spec.name,
            log_quote(name, sizeof name, job->exe->name),
            log_quote(error, sizeof error, l->load_error));
}

/* Sends the load of job's executable; job keeps the reference. */
static Status send_load(DeviceLane *l, DeviceJob *job) {
  Executable *e = job->exe;
  Kiln__V1__LoadExecutable load = KILN__V1__LOAD_EXECUTABLE__INIT;
  int fds[2] = {e->model->fd, e->const_fd};
  load.executable = e->id;
  load.tenant = e->tenant->id;
  load.plan = e->artifact->plan;
  load.n_binaries = e->artifact->plan->n_kernels;
  load.binaries = e->artifact->binaries;
  load.n_weights = e->face->n_weights;
  load.weights = e->face->weights;
  load.model_bytes = e->model->size;
  load.const_bytes = e->face->const_bytes;
  load.n_input_bytes = e->face->n_inputs;
  load.input_bytes = e->slot_bytes;
  load.n_output_bytes = e->face->n_outputs;
  load.output_bytes = e->slot_bytes + e->face->n_inputs;
  load.n_shapes = e->face->n_shapes;
  load.shapes = e->face->shapes;
  job->env.body_case = KILN__V1__ENVELOPE__BODY_LOAD;
  job->env.load = &load;
  e->model->seen = true;
  Status st = send_job(l, job, fds, e->const_fd >= 0 ? 2 : 1);
  job->env.load = NULL; /* never sent again: a new worker gets a new load */
  if (!st) e->loaded_in = l->incarnation;
  return st;
}

static Status need_executable(DeviceLane *l, Executable *e) {
  if (!e || e->loaded_in == l->incarnation) return NULL;
  DeviceJob *load = device_job_create();
  if (!load) return FAIL(RESOURCE_EXHAUSTED, "loading an executable");
  load->exe = executable_retain(e);
  load->done = on_loaded;
  load->ctx = l;
  l->load_error[0] = 0;
  Status st = send_load(l, load);
  if (st) job_free(l, load);
  return st;
}

static void on_created(void *ctx, DeviceJob *job, Message *m, Status st) {
  DeviceLane *l = ctx;
  (void)m;
  if (!st) return;
  note_error(l, st);
  job->buffers[0]->incarnation = 0; /* the next run that needs it tries again */
}

static DeviceJob *create_job(DeviceLane *l, DeviceBuffer *b) {
  DeviceJob *job = device_job_create();
  if (!job || !(job->buffers = malloc(sizeof *job->buffers))) {
    free(job);
    return NULL;
  }
  job->buffers[job->nbuffers++] = device_buffer_retain(b);
  job->done = on_created;
  job->ctx = l;
  return job;
}

static Status need_buffer(DeviceLane *l, DeviceBuffer *b) {
  char id[ID_TEXT];
  if (b->lost)
    return FAIL(DATA_LOSS, "buffer '%s' was being updated by a run when device %s failed",
                id_text("buf", b->id, b->secret, id), l->spec.name);
  if (b->incarnation == l->incarnation) return NULL;
  bool newer = b->updated && b->incarnation && !on_host(l); /* on the device that is gone */
  if (b->fd < 0 || newer)
    return FAIL(DATA_LOSS,
                "buffer '%s' was made or updated by a run and lost when device %s restarted (%s)",
                id_text("buf", b->id, b->secret, id), l->spec.name, l->last_failure);
  DeviceJob *create = create_job(l, b);
  Kiln__V1__BufferCreate m = KILN__V1__BUFFER_CREATE__INIT;
  if (!create) return FAIL(RESOURCE_EXHAUSTED, "restoring a buffer");
  m.buffer = b->id;
  m.bytes = b->bytes;
  create->env.body_case = KILN__V1__ENVELOPE__BODY_BUFFER_CREATE;
  create->env.buffer_create = &m;
  Status st = send_job(l, create, &b->fd, 1);
  create->env.buffer_create = NULL;
  if (st)
    job_free(l, create);
  else
    b->incarnation = l->incarnation;
  return st;
}

Status job_start(DeviceLane *l, DeviceJob *job) {
  for (size_t i = 0; i < job->nbuffers; i++) TRY(need_buffer(l, job->buffers[i]));
  if (job->env.body_case == KILN__V1__ENVELOPE__BODY_LOAD) return send_load(l, job);
  TRY(need_executable(l, job->exe));
  /* not the executable's: a model may belong to all */
  if (job->env.body_case == KILN__V1__ENVELOPE__BODY_RUN) job->env.run->tenant = job->tenant->id;
  int fd = job->fd;
  if (job->slab) {
    bool bring = job->slab->incarnation != l->incarnation;
    job->env.run->slab = job->slab->id;
    job->env.run->slab_bytes = bring ? job->slab->size : 0;
    if (bring) fd = job->slab->fd;
    job->brings_slab = bring;
    job->slab->incarnation = l->incarnation;
  }
  /* who has one job at a time does not wait for the answers of those who have many */
  if (job->env.body_case == KILN__V1__ENVELOPE__BODY_RUN)
    job->env.run->brief = job->fair.estimate_ns < BRIEF_NS && !fair_alone(&job->fair);
  return send_job(l, job, &fd, fd >= 0);
}

/* What the job has cost: as the worker says, else since the device could begin with it. Answers may
 * come together: what is left of the time that one took is the next one's. */
static void measure(DeviceLane *l, DeviceJob *job, const Kiln__V1__Envelope *env) {
  int64_t now = clock_now_ns(), since = job->sent_ns;
  if (since < l->answered_ns) since = l->answered_ns;
  l->unclaimed_ns += now - since;
  job->measured_ns = l->unclaimed_ns;
  l->answered_ns = now;
  if (job != l->recalled) l->flight_ns -= job->fair.estimate_ns;
  bool run = env->body_case == KILN__V1__ENVELOPE__BODY_RUN_DONE;
  if (run && env->run_done->wall_ns > 0 && env->run_done->wall_ns < job->measured_ns)
    job->measured_ns = env->run_done->wall_ns;
  l->unclaimed_ns = l->flight.len ? l->unclaimed_ns - job->measured_ns : 0;
  if (run) turns_measured(l, job);
}

/* -- the worker's side --------------------------------------------------------------------------
 */

static void on_ready(void *ctx) {
  DeviceLane *l = ctx;
  Kiln__V1__DeviceHello hello = KILN__V1__DEVICE_HELLO__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  env.id = ++l->next_id;
  env.body_case = KILN__V1__ENVELOPE__BODY_HELLO;
  env.hello = &hello;
  l->state = LS_GREETING;
  worker_hold(l->worker);
  Status st = worker_send(l->worker, &env, &l->cancelled_fd, 1);
  if (!st) return;
  /* gone, or kilnd has no descriptor left to send: another one is asked for after a pause */
  char text[128];
  status_text(st, text, sizeof text);
  worker_kill(l->worker, "crash", text);
  status_drop(st);
}

/* Copies the target out of the message and hashes it. */
static bool take_target(DeviceLane *l, const Kiln__V1__DeviceHelloReply *m) {
  static const PbLimits limits = {
      .max_bytes = 64 << 10, .max_depth = 4, .max_elements = 1000, .max_memory = 256 << 10};
  uint8_t packed[64 << 10];
  if (!m->target || kiln__v1__target_spec__get_packed_size(m->target) > sizeof packed) return false;
  Bytes bytes = {packed, kiln__v1__target_spec__pack(m->target, packed)};
  ProtobufCMessage *msg;
  uint8_t hash[DIGEST_BYTES];
  digest_sha256(bytes.ptr, bytes.len, hash);
  if (l->target && !memcmp(hash, l->fingerprint, sizeof hash)) return true;
  /* an older target stays in the arena: compiles in flight may still point to it */
  Status st = pb_unpack(&kiln__v1__target_spec__descriptor, bytes, &limits, &l->arena, &msg);
  l->description = arena_strdup(&l->arena, str_from(m->description));
  if (st || !l->description) return status_drop(st), false;
  l->target = (Kiln__V1__TargetSpec *)msg;
  memcpy(l->fingerprint, hash, sizeof hash);
  return true;
}

static void on_hello(DeviceLane *l, const Message *m) {
  if (m->env->body_case == KILN__V1__ENVELOPE__BODY_ERROR) {
    worker_kill(l->worker, "device_lost", m->env->error->message);
    return;
  }
  if (m->env->body_case != KILN__V1__ENVELOPE__BODY_HELLO_REPLY ||
      !take_target(l, m->env->hello_reply)) {
    worker_kill(l->worker, "crash", "it answered something else");
    return;
  }
  l->state = LS_UP;
  l->incarnation++;
  turns_lane_up(l);
  LOG_INFO("device up", "device=%s pid=%u description=\"%s\"", l->spec.name, worker_pid(l->worker),
           l->description);
  l->spec.changed(l->spec.ctx);
}

/* The worker has all that the job asked for before it. */
static bool has_all(const DeviceLane *l, const DeviceJob *job) {
  if (job->exe && job->exe->loaded_in != l->incarnation) return false;
  for (size_t i = 0; i < job->nbuffers; i++)
    if (job->buffers[i]->incarnation != l->incarnation) return false;
  return true;
}

static Status answer_status(DeviceLane *l, const DeviceJob *job, const Kiln__V1__ErrorReply *e) {
  bool own = job->done == on_loaded || job->done == on_created;
  if (!own && l->load_error[0] && !has_all(l, job))
    return status_new(l->load_code, NULL, __FILE__, __LINE__, "loading again: %s", l->load_error);
  StatusCode code = e->code > 0 && e->code < ST__COUNT ? (StatusCode)e->code : ST_INTERNAL;
  return status_new(code, NULL, __FILE__, __LINE__, "%s", e->message);
}

static bool answers(const DeviceJob *job, const Kiln__V1__Envelope *env) {
  if (job->env.id != env->id) return false;
  if (env->body_case == KILN__V1__ENVELOPE__BODY_ERROR) return true;
  if (job->env.body_case == KILN__V1__ENVELOPE__BODY_BUFFER_CREATE)
    return env->body_case == KILN__V1__ENVELOPE__BODY_DONE;
  return (int)env->body_case == (int)job->env.body_case + 1; /* numbered in pairs */
}

static void forget_slab(void *ctx, const Slab *s);
static void lose_buffers(DeviceJob *job);

static void on_message(void *ctx, Message *m) {
  DeviceLane *l = ctx;
  if (l->state == LS_GREETING) {
    on_hello(l, m);
    return;
  }
  DeviceJob *job = l->flight.first;
  if (!job || !answers(job, m->env)) {
    worker_kill(l->worker, "crash", "it answered something else");
    return;
  }
  queue_pop(&l->flight);
  measure(l, job, m->env);
  turns_answered(l);
  l->failures = 0;
  worker_set_deadline(l->worker, l->flight.first ? l->spec.run_seconds : 0, "over its time");
  bool failed = m->env->body_case == KILN__V1__ENVELOPE__BODY_ERROR;
  if (failed && m->env->error->cause && !strcmp(m->env->error->cause, "device_lost")) {
    worker_kill(l->worker, "device_lost", m->env->error->message);
    if (job->updates) lose_buffers(job);
  }
  bool recalled = job == l->recalled;
  if (recalled) l->recalled = NULL;
  if (failed && recalled && m->env->error->code == ST_ABORTED) {
    turns_put_back(l, job);
    return;
  }
  Status st = failed ? answer_status(l, job, m->env->error) : NULL;
  if (failed && job->env.body_case == KILN__V1__ENVELOPE__BODY_LOAD) job->exe->loaded_in = 0;
  if (failed && job->slab && job->brings_slab) {
    forget_slab(l, job->slab); /* whether it has it or not */
    job->slab->incarnation = 0;
  }
  job_finish(l, job, failed ? NULL : m, st);
}

static Status lost(const DeviceLane *l, const DeviceJob *job) {
  const char *more = job->tried     ? ", also when tried again"
                     : job->updates ? "; the contents of the states of this run are lost"
                                    : "";
  Status st =
      FAIL(UNAVAILABLE, "device %s failed (cause %s)%s", l->spec.name, l->last_failure, more);
  return job->tried ? status_retry(st, -1) : st;
}

static void lose_buffers(DeviceJob *job) {
  for (size_t i = 0; i < job->nbuffers; i++) job->buffers[i]->lost |= job->updated[i];
}

/* Jobs in flight: those worth a second try go to the head of the queue, the rest is answered.
 * suspect: the first one ran too long and would again. */
static void requeue(DeviceLane *l, bool suspect) {
  DeviceQueue old = l->again, flight = l->flight;
  if (!old.first) old.last = &old.first;
  queue_init(&l->again);
  queue_init(&l->flight);
  l->flight_ns = 0;
  l->recalled = NULL;
  if (!flight.first) flight.last = &flight.first;
  for (DeviceJob *job; (job = queue_pop(&flight)); suspect = false) {
    bool own = job->env.body_case == KILN__V1__ENVELOPE__BODY_BUFFER_CREATE ||
               (job->env.body_case == KILN__V1__ENVELOPE__BODY_LOAD && job->done == on_loaded);
    job->in_flight = false;
    if (job->updates) lose_buffers(job);
    if (own || !job->done) {
      job_free(l, job); /* made by the lane, or cancelled */
    } else if (job->tried || suspect || job->updates) {
      job_finish(l, job, NULL, lost(l, job));
    } else {
      job->tried = true;
      turns_again(l, job);
    }
  }
  for (DeviceJob *job; (job = queue_pop(&old));) queue_push(&l->again, job);
}

static void on_gone(void *ctx, const char *cause, const char *detail) {
  DeviceLane *l = ctx;
  bool was_up = l->state == LS_UP;
  l->worker = NULL;
  l->state = LS_DOWN;
  l->failures++;
  l->restarts++;
  snprintf(l->last_failure, sizeof l->last_failure, "%s: %s", cause, detail);
  LOG_ERROR("device down", "device=%s failure=\"%s\" in_flight=%zu", l->spec.name, l->last_failure,
            l->flight.len);
  requeue(l, !strcmp(cause, "timeout"));
  if (l->failures >= PATIENCE) turns_refuse(l);
  if (was_up) l->spec.changed(l->spec.ctx);
  lane_start(l);
}

static bool awaits_answers(void *ctx) { return ((DeviceLane *)ctx)->flight.len > 0; }

static const WorkerHandler handler = {
    .ready = on_ready, .message = on_message, .gone = on_gone, .awaits = awaits_answers};

static void lane_start(DeviceLane *l) {
  WorkerSpec spec = {.role = "device",
                     .device = l->spec.name,
                     .memory_bytes = l->spec.memory_bytes,
                     .delay_ms = supervisor_backoff(l->failures),
                     .handler = &handler,
                     .ctx = l};
  Status st = supervisor_spawn(l->spec.supervisor, &spec, &l->worker);
  if (!st) return;
  char text[128];
  status_text(st, text, sizeof text);
  LOG_ERROR("no device worker", "device=%s error=\"%s\"", l->spec.name, text);
  status_drop(st);
}

/* -- forgetting ---------------------------------------------------------------------------------
 */

void device_lane_forget_executable(DeviceLane *l, const Executable *e) {
  Kiln__V1__UnloadExecutable unload = KILN__V1__UNLOAD_EXECUTABLE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  if (l->state != LS_UP || e->loaded_in != l->incarnation) return;
  unload.executable = e->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_UNLOAD;
  env.unload = &unload;
  status_drop(worker_send(l->worker, &env, NULL, 0)); /* a dead worker has forgotten already */
}

void device_lane_forget_buffer(DeviceLane *l, const DeviceBuffer *b) {
  Kiln__V1__BufferFree gone = KILN__V1__BUFFER_FREE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  if (l->state != LS_UP || b->incarnation != l->incarnation) return;
  gone.buffer = b->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_BUFFER_FREE;
  env.buffer_free = &gone;
  status_drop(worker_send(l->worker, &env, NULL, 0));
}

static void forget_slab(void *ctx, const Slab *s) {
  DeviceLane *l = ctx;
  Kiln__V1__SlabFree gone = KILN__V1__SLAB_FREE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  if (l->state != LS_UP || s->incarnation != l->incarnation) return;
  gone.slab = s->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_SLAB_FREE;
  env.slab_free = &gone;
  status_drop(worker_send(l->worker, &env, NULL, 0));
}

/* -- life ---------------------------------------------------------------------------------------
 */

Status device_lane_create(const DeviceLaneSpec *spec, DeviceLane **out) {
  DeviceLane *l = *out = calloc(1, sizeof *l);
  if (!l) return FAIL(RESOURCE_EXHAUSTED, "device");
  Status st = cancel_board_create(&l->cancelled, &l->cancelled_fd);
  l->spec = *spec;
  if (!st) st = turns_join(l);
  if (st) {
    if (l->cancelled) {
      cancel_board_close(l->cancelled);
      close(l->cancelled_fd);
    }
    free(l);
    *out = NULL;
    return st;
  }
  queue_init(&l->flight);
  queue_init(&l->parked);
  queue_init(&l->again);
  arena_init(&l->arena, 0);
  l->slabs = (SlabPool){.max_bytes = spec->slab_bytes, .dropped = forget_slab, .ctx = l};
  lane_start(l);
  return NULL;
}

void device_lane_release(DeviceLane *l) {
  if (!l) return;
  if (l->worker) worker_abandon(l->worker);
  l->worker = NULL;
  l->state = LS_DOWN;
  for (DeviceJob *job; (job = queue_pop(&l->flight));) job_free(l, job);
  turns_leave(l);
  slab_trim(&l->slabs, 0);
  arena_deinit(&l->arena);
  cancel_board_close(l->cancelled);
  close(l->cancelled_fd);
  free(l);
}

DeviceStatus device_lane_status(const DeviceLane *l) {
  bool up = l->state == LS_UP;
  return (DeviceStatus){.name = l->spec.name,
                        .kind = l->target ? l->target->kind : "",
                        .description = l->description ? l->description : "",
                        .last_failure = l->last_failure,
                        .available = up,
                        .restarts = l->restarts,
                        .pid = l->worker ? worker_pid(l->worker) : 0,
                        .waiting = l->waiting,
                        .in_flight = l->flight.len};
}

const char *device_lane_name(const DeviceLane *l) { return l->spec.name; }
uint64_t device_lane_incarnation(const DeviceLane *l) { return l->incarnation; }
SlabPool *device_lane_slabs(DeviceLane *l) { return &l->slabs; }
const Kiln__V1__TargetSpec *device_lane_target(const DeviceLane *l) { return l->target; }
const uint8_t *device_lane_fingerprint(const DeviceLane *l) { return l->fingerprint; }
