/* A small machine over a plan's steps.
 *
 * Its state is the next step and the calls that are gathered but not yet submitted: launches
 * [from, to), always neighbours. A step that needs to see what was computed submits them and waits.
 * Sizes become known on the way: those that follow from the inputs before the first step, the
 * others at the BIND they wait for; each time the arguments that depend on them are written. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "daemon/channel/shm.h"
#include "daemon/worker/loaded.h"

/* Temporaries whose sizes are known now. */
static Status apply_phase(Executor *x, Loaded *l, uint32_t phase) {
  const PlanSizes *s = l->sizes;
  TRY(loaded_ensure(x, &x->temps[phase], s->arena_bytes[phase]));
  for (size_t i = 0; i < l->ntemps; i++) {
    const BufferSize *b = &s->buffers[l->temps[i].buffer];
    if (b->phase == phase) l->args[l->temps[i].arg] = (LaunchArg){x->temps[phase], b->offset};
  }
  for (size_t i = 0; i < l->nvalues; i++) l->values[i] = s->vars[l->value_vars[i]];
  return NULL;
}

/* Buffers for the open outputs whose sizes are known now. */
static Status make_open(Executor *x, Loaded *l, uint32_t phase) {
  for (size_t i = 0; i < l->noutputs; i++) {
    size_t slot = l->ninputs + i;
    if (l->sizes->slot_phase[slot] != phase) continue;
    TRY(plan_sizes_open(l->sizes, slot));
    uint64_t bytes = l->slot_bytes[slot] = l->sizes->slot_bytes[slot];
    device_buffer_free(x->dev, x->open[i]);
    x->open[i] = NULL;
    TRY(device_buffer_alloc(x->dev, bytes ? bytes : 1, -1, &x->open[i]));
    l->slot_at[slot].at = (LaunchArg){x->open[i], 0};
    loaded_apply(l, slot);
    TRY(loaded_fill(x, l, slot));
  }
  return NULL;
}

static Status reserve_open(Executor *x, size_t n) {
  Buffer **p = realloc(x->open, (n + 1) * sizeof *p);
  if (!p) return FAIL(RESOURCE_EXHAUSTED, "outputs");
  x->open = p;
  while (x->nopen < n) x->open[x->nopen++] = NULL;
  return NULL;
}

Status steps_begin(Executor *x, Loaded *l, const Kiln__V1__RunJob *m) {
  bool changed;
  if (!l->sizes) return NULL;
  TRY(reserve_open(x, l->noutputs));
  TRY(plan_sizes_begin(l->sizes, m->vars, m->n_vars, &changed));
  if (changed)
    memcpy(l->slot_bytes, l->sizes->slot_bytes, (l->ninputs + l->noutputs) * sizeof *l->slot_bytes);
  if (!changed && l->temp_base == x->temps[0]) return NULL;
  TRY(apply_phase(x, l, 0));
  l->temp_base = x->temps[0];
  return NULL;
}

typedef struct Machine {
  Executor *x;
  Loaded *l;
  size_t pc;
  uint32_t from, to;
  Fence fence;
  bool submitted;
  int64_t deadline_ns;
  uint64_t number; /* of the job */
  bool whole;      /* not to be stopped on the way */
} Machine;

/* The run is to end here: what was submitted is waited for, and who asked is told. */
static Status machine_stop(Machine *m, Status st) {
  if (m->submitted) status_drop(device_wait(m->x->dev, m->fence, -1));
  return st;
}

/* A run that updates states is not left half done. */
static bool updates_states(const Loaded *l) {
  for (size_t i = 0; i < l->ninputs; i++)
    if (l->written[i]) return true;
  return false;
}

/* Between launches: does anybody still wait for this run? */
static Status machine_poll(Machine *m) {
  if (m->whole) return NULL;
  if (cancel_is_posted(m->x->cancelled, m->number))
    return machine_stop(m, FAIL(CANCELLED, "before call %u of %zu", m->from, m->l->nlaunches));
  if (m->deadline_ns && clock_now_ns() > m->deadline_ns)
    return machine_stop(m, FAIL(DEADLINE_EXCEEDED, "the deadline passed before call %u of %zu",
                                m->from, m->l->nlaunches));
  return NULL;
}

/* How many launches to submit at once: all, unless the run takes so long that somebody may want to
 * stop it on the way. */
static uint32_t piece(const Loaded *l, uint32_t n) {
  enum { FIRST = 8 };
  const int64_t stop_ns = 10000000;
  int64_t most = !l->typical_ns             ? FIRST
                 : l->typical_ns <= stop_ns ? n
                                            : (int64_t)l->nlaunches * stop_ns / l->typical_ns;
  return most < 1 ? 1 : most < n ? (uint32_t)most : n;
}

/* A device that does not run its launches here always has one piece to go on with. */
static Status machine_flush(Machine *m) {
  while (m->from < m->to) {
    uint32_t n = piece(m->l, m->to - m->from);
    Fence before = m->fence;
    bool more = n < m->to - m->from, wait = m->submitted && more;
    TRY(machine_poll(m));
    TRY(device_submit(m->x->dev, m->l->launches + m->from, n, &m->fence));
    m->from += n;
    m->submitted = true;
    if (wait) TRY(device_wait(m->x->dev, before, -1));
  }
  return NULL;
}

/* Everything so far has happened. */
static Status machine_wait(Machine *m) {
  TRY(machine_flush(m));
  return m->submitted ? device_wait(m->x->dev, m->fence, -1) : NULL;
}

/* One call alone, with everything before it done. */
static Status profile_call(Machine *m, uint32_t call) {
  CallTimes *p = &m->x->profile;
  TRY(machine_wait(m));
  int64_t start = clock_now_ns();
  m->from = call;
  m->to = call + 1;
  TRY(machine_wait(m));
  p->ns[call] += clock_now_ns() - start;
  p->runs[call]++;
  return NULL;
}

static Status step_call(Machine *m, uint32_t call) {
  TRY(launch_grids_set(m->l->grids, m->l->launches, call));
  if (m->x->profile.on) return profile_call(m, call);
  if (m->from != m->to && call != m->to) TRY(machine_flush(m));
  if (m->from == m->to) m->from = call;
  m->to = call + 1;
  return NULL;
}

static Status step_bind(Machine *m, const Step *s) {
  const LaunchArg *at = &m->l->args[s->call];
  int64_t value;
  TRY(machine_wait(m));
  TRY(device_read(m->x->dev, at->buffer, at->offset, &value, sizeof value));
  TRY(plan_sizes_bind(m->l->sizes, s->var, value));
  uint32_t phase = plan_sizes_phase(m->l->sizes, s->var);
  TRY(apply_phase(m->x, m->l, phase));
  return make_open(m->x, m->l, phase);
}

/* -- loops --------------------------------------------------------------------------------------
 */

static Status read_scalar(Machine *m, uint32_t arg, void *out, size_t bytes) {
  const LaunchArg *at = &m->l->args[arg];
  TRY(machine_wait(m));
  return device_read(m->x->dev, at->buffer, at->offset, out, bytes);
}

/* Begins iteration `k` of the loop at step `at`, or goes on behind it. An endless loop is bounded
 * by what its VAR may be, by the deadline of the run, and by the client's patience. */
static Status iterate(Machine *m, uint32_t at, int64_t k) {
  Loaded *l = m->l;
  const Step *s = &l->steps[at];
  bool go = k < s->count;
  if (m->deadline_ns && clock_now_ns() > m->deadline_ns)
    return FAIL(DEADLINE_EXCEEDED, "the deadline passed before iteration %lld of a loop",
                (long long)k);
  if (cancel_is_posted(m->x->cancelled, m->number))
    return FAIL(CANCELLED, "before iteration %lld of a loop", (long long)k);
  if (go && s->conditional) {
    uint8_t condition;
    TRY(read_scalar(m, s->condition, &condition, sizeof condition));
    go = condition != 0;
  }
  m->pc = go ? at + 1 : s->other + 1;
  if (!go) return NULL;
  if (k > s->most)
    return FAIL(OUT_OF_RANGE, "a loop goes on after the %lld iterations that it may have",
                (long long)s->most + 1);
  TRY(machine_flush(m)); /* with the number of the iteration before */
  l->sizes->vars[s->var] = k;
  for (size_t i = 0; i < l->nvalues; i++)
    if (l->value_vars[i] == s->var) l->values[i] = k;
  return NULL;
}

static Status step_loop(Machine *m, uint32_t at) {
  Step *s = &m->l->steps[at];
  s->count = s->given;
  if (s->counted) TRY(read_scalar(m, s->call, &s->count, sizeof s->count));
  return iterate(m, at, 0);
}

Status steps_once(Executor *x, Loaded *l) {
  Fence fence;
  if (!l->nonce) return NULL;
  TRY(device_submit(x->dev, l->launches, (uint32_t)l->nonce, &fence));
  return device_wait(x->dev, fence, -1);
}

static Status walk(Machine *m, int64_t *ns) {
  Executor *x = m->x;
  Loaded *l = m->l;
  TRY(device_timer_start(x->dev));
  while (m->pc < l->nsteps) {
    const Step *s = &l->steps[m->pc++];
    switch (s->kind) {
    case KILN__V1__PLAN_STEP__KIND__CALL: TRY(step_call(m, s->call)); break;
    case KILN__V1__PLAN_STEP__KIND__BIND: TRY(step_bind(m, s)); break;
    case KILN__V1__PLAN_STEP__KIND__LOOP: TRY(step_loop(m, (uint32_t)m->pc - 1)); break;
    case KILN__V1__PLAN_STEP__KIND__END:
      TRY(iterate(m, s->other, l->sizes->vars[s->var] + 1));
      break;
    default: return BROKEN("step kind %d", (int)s->kind);
    }
  }
  TRY(machine_flush(m));
  TRY(device_timer_stop(x->dev, m->fence, ns));
  l->typical_ns = l->typical_ns ? l->typical_ns + (*ns - l->typical_ns) / 4 : *ns + 1;
  return NULL;
}

Status steps_run(Executor *x, Loaded *l, int64_t deadline_ns, uint64_t number, int64_t *ns) {
  Machine m = {.x = x, .l = l, .pc = l->nonce, .deadline_ns = deadline_ns, .number = number};
  m.whole = updates_states(l);
  x->stoppable = m.whole ? 0 : number;
  Status st = walk(&m, ns);
  x->stoppable = 0;
  device_interrupt(x->dev, false);
  return st;
}

/* -- open outputs -------------------------------------------------------------------------------
 *
 * Each gets a buffer of its own when its size is known. At the end the buffer is kept for the
 * client, or its bytes go with the reply: inline, or in memory made for them. */

enum { OPEN_INLINE = 32 << 10 };

static Status keep_open(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m) {
  for (size_t i = 0; i < m->n_output_buffers; i++) {
    Buffer **b = &x->open[m->outputs[i]];
    if (!loaded_is_open(l, l->ninputs + m->outputs[i])) continue;
    if (!*b || map_find(&x->buffers, m->output_buffers[i])) return BROKEN("an output twice");
    if (!map_put(&x->buffers, m->output_buffers[i], *b)) return FAIL(RESOURCE_EXHAUSTED, "buffers");
    *b = NULL;
  }
  return NULL;
}

static Status copy_open(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m, char *to) {
  for (size_t i = 0; i < m->n_outputs; i++) {
    size_t slot = l->ninputs + m->outputs[i];
    if (!loaded_is_open(l, slot) || !l->slot_bytes[slot]) continue;
    const LaunchArg *at = &l->slot_at[slot].at;
    TRY(device_read(x->dev, at->buffer, at->offset, to + x->places[i], l->slot_bytes[slot]));
  }
  return NULL;
}

/* Memory for the open outputs of the reply, unless they are small. */
static Status send_open(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m,
                        Kiln__V1__RunDone *out) {
  uint64_t total = 0;
  void *host;
  for (size_t i = 0; i < m->n_outputs; i++) {
    size_t slot = l->ninputs + m->outputs[i];
    x->places[i] = 0;
    if (!loaded_is_open(l, slot)) continue;
    x->places[i] = total;
    total += align_up(l->slot_bytes[slot]);
    if (total > INT64_MAX) return FAIL(RESOURCE_EXHAUSTED, "outputs");
  }
  if (total <= OPEN_INLINE && x->dev->caps.shares_memory) return NULL;
  if (!total) return NULL;
  TRY(shm_create("kiln-outputs", total, &x->open_fd));
  TRY(shm_map(x->open_fd, total, true, &host));
  Status st = copy_open(x, l, m, host);
  munmap(host, total);
  out->places = x->places;
  out->n_places = m->n_outputs;
  out->memory_bytes = total;
  return st;
}

Status steps_end(Executor *x, Loaded *l, const Kiln__V1__RunJob *m, Kiln__V1__RunDone *out) {
  PlanSizes *s = l->sizes;
  if (!s) return NULL;
  TRY(plan_sizes_end(s));
  memcpy(l->slot_bytes, s->slot_bytes, (l->ninputs + l->noutputs) * sizeof *l->slot_bytes);
  TRY(keep_open(x, l, m));
  if (x->dims_cap < m->n_outputs) {
    void *p = realloc(x->dims, m->n_outputs * sizeof *x->dims);
    if (p) x->dims = p;
    void *q = realloc(x->places, m->n_outputs * sizeof *x->places);
    if (q) x->places = q;
    if (!p || !q) return FAIL(RESOURCE_EXHAUSTED, "outputs");
    x->dims_cap = m->n_outputs;
  }
  if (!m->n_output_buffers) TRY(send_open(x, l, m, out));
  for (size_t i = 0; i < m->n_outputs; i++) x->dims[i] = s->dims_list[m->outputs[i]];
  out->n_dims = m->n_outputs;
  out->dims = x->dims;
  return NULL;
}
