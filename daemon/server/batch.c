/* A batch gathers on the server's list, is handed to the device lane as one job, and ends with it,
 * or when its last member has left. Inputs lie one behind the other in the job's slab: rows are the
 * outermost axis of each, so that is all there is to putting them together, and the answer's rows
 * are found by counting. */
#include "daemon/server/batch.h"

#include <assert.h>
#include <stdlib.h>

#include "base/clock.h"

enum { ALIGN = 64 };

struct Batch {
  Server *server;
  Batch *next, **link; /* of server->batches */
  Executable *exe;     /* retained */
  Tenant *tenant;
  BatchMember *first, **last;
  size_t members;
  int64_t rows, due_ns;
  uint64_t most;  /* bytes of its largest tensor */
  DeviceJob *job; /* NULL while it gathers */
  Arena arena;    /* of the message */
  Kiln__V1__RunJob message;
};

static void batch_free(Batch *b) {
  if ((*b->link = b->next)) b->next->link = b->link;
  executable_release(b->exe);
  arena_deinit(&b->arena);
  free(b);
}

/* -- gathering ----------------------------------------------------------------------------------
 */

static uint64_t largest(const BatchMember *m) {
  uint64_t most = 0;
  for (size_t i = 0; i < m->message->n_inputs; i++)
    if (m->message->inputs[i]->bytes > most) most = m->message->inputs[i]->bytes;
  for (size_t i = 0; i < m->message->n_outputs; i++)
    if (m->room[i] > most) most = m->room[i];
  return most;
}

static int64_t rows_max(const Executable *e) {
  int64_t most = e->face->vars[0]->max, allowed = (int64_t)e->batch_rows;
  return most < allowed ? most : allowed;
}

static bool same_outputs(const Kiln__V1__RunJob *a, const Kiln__V1__RunJob *b) {
  return a->n_outputs == b->n_outputs &&
         !memcmp(a->outputs, b->outputs, a->n_outputs * sizeof *a->outputs);
}

static bool fits(const Batch *b, const BatchMember *m) {
  const Server *s = b->server;
  return !b->job && b->exe == m->exe && b->tenant == m->request->tenant &&
         b->first->level == m->level && same_outputs(b->first->message, m->message) &&
         m->message->vars[0] <= rows_max(b->exe) - b->rows &&
         largest(m) <= s->config.max_tensor_bytes - b->most;
}

static void on_timer(uv_timer_t *timer) { (void)timer; /* the loop is awake: that is all */ }

static Batch *batch_create(const BatchMember *m) {
  Server *s = m->request->server;
  Batch *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  *b = (Batch){.server = s,
               .exe = executable_retain(m->exe),
               .tenant = m->request->tenant,
               .due_ns = clock_now_ns() + (int64_t)m->exe->batch_delay_ms * 1000000};
  b->last = &b->first;
  arena_init(&b->arena, 0);
  if ((b->next = s->batches)) b->next->link = &b->next;
  b->link = &s->batches;
  s->batches = b;
  if (!uv_is_active((uv_handle_t *)&s->batch_timer) ||
      uv_timer_get_due_in(&s->batch_timer) > m->exe->batch_delay_ms)
    uv_timer_start(&s->batch_timer, on_timer, m->exe->batch_delay_ms, 0);
  return b;
}

Status batch_join(BatchMember *m) {
  Batch *b = m->request->server->batches;
  while (b && !fits(b, m)) b = b->next;
  if (!b && !(b = batch_create(m))) return FAIL(RESOURCE_EXHAUSTED, "batch");
  m->batch = b;
  m->next = NULL;
  *b->last = m;
  b->last = &m->next;
  b->members++;
  b->rows += m->message->vars[0];
  b->most += largest(m);
  return NULL;
}

void batch_leave(BatchMember *m) {
  Batch *b = m->batch;
  if (!b) return;
  m->batch = NULL;
  if (b->job && b->members > 1) {
    /* its rows are under way: the others' stay where they are */
    BatchMember **at = &b->first;
    while (*at != m) at = &(*at)->next;
    if (!(*at = m->next)) b->last = at;
    b->members--;
    return;
  }
  if (b->job) {
    device_lane_cancel(b->exe->device, b->job);
    batch_free(b);
    return;
  }
  BatchMember **at = &b->first;
  while (*at != m) at = &(*at)->next;
  if (!(*at = m->next)) b->last = at;
  b->rows -= m->message->vars[0];
  b->most -= largest(m);
  if (!--b->members) batch_free(b);
}

/* -- running ------------------------------------------------------------------------------------
 */

static uint64_t padded(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

/* Where input i of all members begins in the slab, one behind the other. */
static Status place_inputs(Batch *b, uint64_t *at) {
  const Kiln__V1__RunJob *like = b->first->message;
  Kiln__V1__RunInput *inputs = arena_array(&b->arena, like->n_inputs, sizeof *inputs);
  b->message.inputs = arena_array(&b->arena, like->n_inputs, sizeof *b->message.inputs);
  if (!inputs || !b->message.inputs) return FAIL(RESOURCE_EXHAUSTED, "batch");
  b->message.n_inputs = like->n_inputs;
  for (size_t i = 0; i < like->n_inputs; i++) {
    kiln__v1__run_input__init(&inputs[i]);
    inputs[i].value_case = KILN__V1__RUN_INPUT__VALUE_OFFSET;
    inputs[i].offset = *at;
    for (const BatchMember *m = b->first; m; m = m->next)
      inputs[i].bytes += m->message->inputs[i]->bytes;
    b->message.inputs[i] = &inputs[i];
    *at += padded(inputs[i].bytes);
  }
  return NULL;
}

static Status place_outputs(Batch *b, uint64_t *at) {
  const Kiln__V1__RunJob *like = b->first->message;
  uint64_t *offsets = arena_array(&b->arena, like->n_outputs + 1, sizeof *offsets);
  b->message.outputs = arena_copy(&b->arena, like->outputs, like->n_outputs * sizeof(uint32_t));
  if (!offsets || !b->message.outputs) return FAIL(RESOURCE_EXHAUSTED, "batch");
  for (size_t i = 0; i < like->n_outputs; i++) {
    uint64_t end = offsets[i] = *at;
    for (BatchMember *m = b->first; m; m = m->next) {
      m->offsets[i] = end;
      end += m->room[i];
    }
    *at = padded(end);
  }
  b->message.output_offsets = offsets;
  b->message.n_outputs = b->message.n_output_offsets = like->n_outputs;
  return NULL;
}

static void copy_inputs(const Batch *b) {
  for (size_t i = 0; i < b->message.n_inputs; i++) {
    char *to = b->job->slab->at + b->message.inputs[i]->offset;
    for (const BatchMember *m = b->first; m; m = m->next) {
      const ProtobufCBinaryData *data = &m->message->inputs[i]->inline_;
      if (data->len) memcpy(to, data->data, data->len);
      to += data->len;
    }
  }
}

/* The answer with the rows of one member: of the sizes only the first axis differs. */
static Status member_done(Arena *arena, const Kiln__V1__RunDone *all, int64_t rows,
                          Kiln__V1__RunDone *out) {
  Kiln__V1__TensorDims *dims = arena_array(arena, all->n_dims + 1, sizeof *dims);
  out->dims = arena_array(arena, all->n_dims + 1, sizeof *out->dims);
  if (!dims || !out->dims) return FAIL(RESOURCE_EXHAUSTED, "batch");
  for (size_t i = 0; i < all->n_dims; i++) {
    kiln__v1__tensor_dims__init(&dims[i]);
    dims[i].n_dims = all->dims[i]->n_dims;
    dims[i].dims = arena_copy(arena, all->dims[i]->dims, dims[i].n_dims * sizeof(uint64_t));
    if (!dims[i].dims || !dims[i].n_dims) return FAIL(INTERNAL, "the answer of a batch");
    dims[i].dims[0] = (uint64_t)rows;
    out->dims[i] = &dims[i];
  }
  out->n_dims = all->n_dims;
  out->device_ns = all->device_ns;
  return NULL;
}

/* Takes the first member off; its callback may end anything but the batch. */
static void answer_first(Batch *b, DeviceJob *job, Message *all, const StatusNote *why) {
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  Message mine = {.env = &env};
  BatchMember *m = b->first;
  Status st = NULL;
  env.body_case = KILN__V1__ENVELOPE__BODY_RUN_DONE;
  env.run_done = &done;
  if (!(b->first = m->next)) b->last = &b->first;
  b->members--;
  m->batch = NULL;
  if (why) {
    char text[1024];
    status_text(why, text, sizeof text);
    st = status_new(why->code, NULL, __FILE__, __LINE__, "%s", text);
  } else {
    st = member_done(&b->arena, all->env->run_done, m->message->vars[0], &done);
  }
  m->done(m->request, job, st ? NULL : &mine, st);
}

static void on_done(void *ctx, DeviceJob *job, Message *m, Status st) {
  Batch *b = ctx;
  b->job = NULL;
  while (b->first) answer_first(b, job, m, st);
  status_drop(st);
  batch_free(b);
}

static Status submit(Batch *b) {
  const Request *r = b->first->request;
  uint64_t at = 0;
  kiln__v1__run_job__init(&b->message);
  TRY(place_inputs(b, &at));
  TRY(place_outputs(b, &at));
  b->message.executable = b->exe->id;
  b->message.n_vars = 1;
  b->message.vars = &b->rows;
  b->job->tenant = b->tenant;
  TRY(device_job_slab(b->exe->device, b->job, at));
  copy_inputs(b);
  b->job->exe = executable_retain(b->exe);
  b->job->env.body_case = KILN__V1__ENVELOPE__BODY_RUN;
  b->job->env.run = &b->message;
  b->job->from = request_source(r);
  b->job->level = b->first->level;
  b->job->done = on_done;
  b->job->ctx = b;
  DeviceJob *job = b->job;
  Status st = device_lane_submit(b->exe->device, job);
  if (st) b->job = NULL; /* freed by the lane */
  return st;
}

static void dispatch(Batch *b) {
  Status st = (b->job = device_job_create()) ? submit(b) : FAIL(RESOURCE_EXHAUSTED, "batch");
  if (!st) return;
  if (b->job) device_lane_cancel(b->exe->device, b->job); /* not submitted: freed */
  b->job = NULL;
  while (b->first) answer_first(b, NULL, NULL, st);
  status_drop(st);
  batch_free(b);
}

void batches_flush(Server *s) {
  int64_t now = s->batches ? clock_now_ns() : 0, first = 0;
  for (Batch *b = s->batches, *next; b; b = next) {
    next = b->next;
    if (b->job) continue;
    if (b->due_ns <= now || b->rows >= rows_max(b->exe) || device_lane_idle(b->exe->device))
      dispatch(b);
    else if (!first || b->due_ns < first)
      first = b->due_ns;
  }
  if (first) uv_timer_start(&s->batch_timer, on_timer, (uint64_t)(first - now) / 1000000 + 1, 0);
}
