/* An executable is resolved when it is loaded: every kernel argument gets its buffer and offset,
 * and those that change from run to run (inputs, outputs) are listed in `patches` with their slot.
 * A run fills in the slots' places, applies the patches and walks the plan's steps: calls are
 * gathered and submitted together, up to a step that needs to see what they computed.
 *
 * Calls that depend on weights alone are done when the executable is loaded; what they computed
 * stays in `kept`, and is computed again when another worker loads the executable.
 *
 * Temporaries live in arenas shared by all executables, one per phase (plan_sizes.h); a plan
 * without VARs has one phase. When an arena grows it moves; each executable remembers the buffer it
 * was resolved against and is resolved again when that, or the sizes, changed.
 *
 * Small inputs and outputs pass through `staging`, laid out slot after slot at multiples of 64, so
 * that a run allocates nothing. A device that does not share the host's memory has its slabs'
 * tensors there too, copied in before the run and out after it, and `mirror` is what the host sees
 * of its inline outputs. */
#include "daemon/worker/executor.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/worker/loaded.h"

Status executor_create(Device *dev, Executor **out) {
  *out = calloc(1, sizeof **out);
  if (!*out) return FAIL(RESOURCE_EXHAUSTED, "executor");
  (*out)->dev = dev;
  (*out)->read_fd = (*out)->open_fd = -1;
  return NULL;
}

static void loaded_release(Executor *x, Loaded *l) {
  if (!l) return;
  for (size_t i = 0; i < l->nprograms; i++) device_program_free(x->dev, l->programs[i]);
  device_buffer_free(x->dev, l->model);
  device_buffer_free(x->dev, l->constants);
  device_buffer_free(x->dev, l->known);
  device_buffer_free(x->dev, l->kept);
  programs_drop_code(l);
  free(l->programs);
  free(l->weights);
  free(l->launches);
  free(l->args);
  free(l->temps);
  free(l->steps);
  free(l->values);
  free(l->value_vars);
  plan_sizes_release(l->sizes);
  launch_grids_release(l->grids);
  free(l->patches);
  free(l->known_at);
  free(l->known_bytes);
  free(l->fills);
  free(l->slot_bytes);
  free(l->written);
  free(l->slot_at);
  free(l);
}

/* What the run before left behind. */
static void drop_open(Executor *x) {
  for (size_t i = 0; i < x->nopen; i++) device_buffer_free(x->dev, x->open[i]);
  x->nopen = 0;
  if (x->open_fd >= 0) close(x->open_fd);
  x->open_fd = -1;
}

static void slab_release(Executor *x, SharedMemory *slab) {
  if (!slab) return;
  device_memory_unshare(x->dev, slab);
  free(slab);
}

void executor_release(Executor *x) {
  if (!x) return;
  MapSlot *s;
  for (size_t i = 0; map_next(&x->loaded, &i, &s);) loaded_release(x, s->value);
  for (size_t i = 0; map_next(&x->buffers, &i, &s);) device_buffer_free(x->dev, s->value);
  for (size_t i = 0; map_next(&x->slabs, &i, &s);) slab_release(x, s->value);
  cancel_board_close(x->cancelled);
  map_deinit(&x->loaded);
  map_deinit(&x->buffers);
  map_deinit(&x->slabs);
  for (size_t i = 0; i < x->ntemps; i++) device_buffer_free(x->dev, x->temps[i]);
  free(x->temps);
  free(x->temps_used);
  device_buffer_free(x->dev, x->staging);
  if (x->read_fd >= 0) close(x->read_fd);
  free(x->mirror);
  free(x->outputs);
  drop_open(x);
  free(x->open);
  free(x->places);
  free(x->dims);
  free(x->profile.ns);
  free(x->profile.runs);
  free(x);
}

/* Makes *b at least `bytes` large; its content is lost when it grows. */
Status loaded_ensure(Executor *x, Buffer **b, uint64_t bytes) {
  if (*b && (*b)->size >= bytes) return NULL;
  device_buffer_free(x->dev, *b);
  *b = NULL;
  return device_buffer_alloc(x->dev, bytes ? bytes : ALIGN, BUFFER_PRIVATE, b);
}

/* -- loading ------------------------------------------------------------------------------------
 */

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/* The parts of the model (or of the constants) that are weights, in the order of m->weights. */
static Status load_weights(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m,
                           bool constants, int *fd) {
  uint64_t bytes = constants ? m->const_bytes : m->model_bytes;
  WeightPart *parts = calloc(m->n_weights + 1, sizeof *parts);
  size_t n = 0;
  if (!parts) return FAIL(RESOURCE_EXHAUSTED, "weights");
  Status st = constants && bytes && *fd < 0 ? BROKEN("constants without their memory") : NULL;
  for (size_t i = 0; !st && i < m->n_weights; i++) {
    const Kiln__V1__WeightSource *w = m->weights[i];
    if (!!w->in_constants != constants) continue;
    if (w->offset > bytes || w->bytes > bytes - w->offset)
      st = BROKEN("weight %u: %llu bytes at %llu of %llu", w->slot, (unsigned long long)w->bytes,
                  (unsigned long long)w->offset, (unsigned long long)bytes);
    parts[n++] = (WeightPart){.offset = w->offset, .bytes = w->bytes};
  }
  if (!st && bytes) {
    int taken = *fd;
    *fd = -1;
    st = device_memory_weights(x->dev, bytes, taken, parts, n,
                               constants ? &l->constants : &l->model);
  }
  for (size_t i = 0, k = 0; !st && i < m->n_weights; i++)
    if (!!m->weights[i]->in_constants == constants) l->weights[i] = parts[k++];
  free(parts);
  return st;
}

static Status load_data(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m, int *model_fd,
                        int *const_fd) {
  l->nweights = m->n_weights;
  l->weights = calloc(l->nweights + 1, sizeof *l->weights);
  if (!l->weights) return FAIL(RESOURCE_EXHAUSTED, "weights");
  TRY(load_weights(x, l, m, false, model_fd));
  TRY(load_weights(x, l, m, true, const_fd));
  close_fd(model_fd);
  close_fd(const_fd);
  return NULL;
}

static Status known_size(Loaded *l, const Kiln__V1__LoadExecutable *m, uint64_t *out) {
  uint64_t total = 0;
  for (size_t i = 0; i < m->plan->n_buffers; i++) {
    const Kiln__V1__PlanBuffer *b = m->plan->buffers[i];
    l->known_at[i] = UINT64_MAX;
    if (!b->constant.len) continue;
    bool output = b->kind == KILN__V1__PLAN_BUFFER__KIND__OUTPUT;
    if (output ? b->slot < l->ninputs || b->slot >= l->ninputs + l->noutputs
               : b->constant.len != b->bytes)
      return BROKEN("constant of buffer %zu", i);
    l->known_at[i] = total;
    total += align_up(b->constant.len);
  }
  *out = total;
  return NULL;
}

static Status load_known(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m) {
  size_t n = m->plan->n_buffers;
  uint64_t total;
  l->known_at = calloc(n + 1, sizeof *l->known_at);
  l->fills = calloc(n + 1, sizeof *l->fills);
  if (!l->known_at || !l->fills) return FAIL(RESOURCE_EXHAUSTED, "constants");
  TRY(known_size(l, m, &total));
  if (!total) return NULL;
  l->known_bytes = malloc(total);
  if (!l->known_bytes) return FAIL(RESOURCE_EXHAUSTED, "constants");
  for (size_t i = 0; i < n; i++) {
    const Kiln__V1__PlanBuffer *b = m->plan->buffers[i];
    if (l->known_at[i] == UINT64_MAX) continue;
    char *bytes = l->known_bytes + l->known_at[i];
    memcpy(bytes, b->constant.data, b->constant.len);
    memset(bytes + b->constant.len, 0, align_up(b->constant.len) - b->constant.len);
    if (b->kind == KILN__V1__PLAN_BUFFER__KIND__OUTPUT)
      l->fills[l->nfills++] = (Fill){b->slot, bytes, b->constant.len};
  }
  TRY(device_buffer_alloc(x->dev, total, -1, &l->known));
  return device_write(x->dev, l->known, 0, l->known_bytes, total);
}

static Status weight_place(const Loaded *l, const Kiln__V1__LoadExecutable *m,
                           const Kiln__V1__PlanBuffer *p, LaunchArg *out) {
  for (size_t i = 0; i < m->n_weights; i++) {
    const WeightPart *w = &l->weights[i];
    if (m->weights[i]->slot != p->slot) continue;
    if (p->offset > w->bytes || p->bytes > w->bytes - p->offset)
      return BROKEN("weight %u: bytes %llu at %llu of %llu", p->slot, (unsigned long long)p->bytes,
                    (unsigned long long)p->offset, (unsigned long long)w->bytes);
    *out = (LaunchArg){w->at.buffer, w->at.offset + p->offset};
    return NULL;
  }
  return BROKEN("weight %u has no source", p->slot);
}

static Status check_slot(const Loaded *l, const Kiln__V1__PlanBuffer *b, bool written) {
  size_t slots = l->ninputs + l->noutputs;
  bool input = b->kind != KILN__V1__PLAN_BUFFER__KIND__OUTPUT;
  if (b->slot >= slots || (b->slot < l->ninputs) != input)
    return BROKEN("slot %u of %zu", b->slot, slots);
  bool sized = b->size || b->place; /* checked by plan_sizes.c in each run */
  if (!sized &&
      (b->offset > l->slot_bytes[b->slot] || b->bytes > l->slot_bytes[b->slot] - b->offset))
    return BROKEN("slot %u is too small", b->slot);
  bool state = b->kind == KILN__V1__PLAN_BUFFER__KIND__STATE;
  l->written[b->slot] |= state && written;
  return written && input && !state ? BROKEN("a kernel writes input %u", b->slot) : NULL;
}

/* What a once call may touch: nothing that differs from run to run. */
static Status check_once(const Loaded *l, const Kiln__V1__PlanBuffer *b) {
  switch (b->kind) {
  case KILN__V1__PLAN_BUFFER__KIND__WEIGHT:
  case KILN__V1__PLAN_BUFFER__KIND__CONST:
  case KILN__V1__PLAN_BUFFER__KIND__KEPT: return NULL;
  case KILN__V1__PLAN_BUFFER__KIND__TEMP:
    return l->sizes ? BROKEN("a once call uses an arena that is laid out by runs") : NULL;
  default: return BROKEN("a once call uses a buffer of kind %d", (int)b->kind);
  }
}

static Status kept_place(const Loaded *l, const Kiln__V1__PlanBuffer *b, LaunchArg *out) {
  if (b->offset > l->kept_bytes || b->bytes > l->kept_bytes - b->offset)
    return BROKEN("%llu bytes at %llu of %llu that are kept", (unsigned long long)b->bytes,
                  (unsigned long long)b->offset, (unsigned long long)l->kept_bytes);
  *out = (LaunchArg){l->kept, b->offset};
  return NULL;
}

/* Resolves one argument: a fixed place, an offset in the temporaries, or a patch. */
static Status resolve(Loaded *l, const Kiln__V1__LoadExecutable *m, uint32_t buffer, size_t arg,
                      bool written) {
  if (buffer >= m->plan->n_buffers) return BROKEN("buffer %u of %zu", buffer, m->plan->n_buffers);
  const Kiln__V1__PlanBuffer *b = m->plan->buffers[buffer];
  switch (b->kind) {
  case KILN__V1__PLAN_BUFFER__KIND__INPUT:
  case KILN__V1__PLAN_BUFFER__KIND__STATE:
  case KILN__V1__PLAN_BUFFER__KIND__OUTPUT:
    TRY(check_slot(l, b, written));
    l->patches[l->npatches++] = (Patch){(uint32_t)arg, b->slot, buffer, b->offset};
    return NULL;
  case KILN__V1__PLAN_BUFFER__KIND__WEIGHT:
    if (written) return BROKEN("a kernel writes weight %u", b->slot);
    return weight_place(l, m, b, &l->args[arg]);
  case KILN__V1__PLAN_BUFFER__KIND__TEMP:
    if (!l->sizes && (b->offset > l->temp_bytes || b->bytes > l->temp_bytes - b->offset))
      return BROKEN("temporary outside its arena");
    l->args[arg].offset = b->offset;
    l->temps[l->ntemps++] = (TempArg){(uint32_t)arg, buffer};
    return NULL;
  case KILN__V1__PLAN_BUFFER__KIND__CONST:
    if (written || l->known_at[buffer] == UINT64_MAX)
      return BROKEN("a constant is written or has no bytes");
    l->args[arg] = (LaunchArg){l->known, l->known_at[buffer]};
    return NULL;
  case KILN__V1__PLAN_BUFFER__KIND__KEPT: return kept_place(l, b, &l->args[arg]);
  default: return BROKEN("buffer kind %d", (int)b->kind);
  }
}

/* Once calls are the first, and nobody else writes what is kept. */
static Status check_call(const Loaded *l, const Kiln__V1__LoadExecutable *m,
                         const Kiln__V1__PlanCall *call) {
  if (call->once && (l->nonce != l->nlaunches || call->n_vars))
    return BROKEN("call %zu is done once, but not first", l->nlaunches);
  for (size_t i = 0; i < call->n_args; i++) {
    if (call->args[i] >= m->plan->n_buffers)
      return BROKEN("buffer %u of %zu", call->args[i], m->plan->n_buffers);
    const Kiln__V1__PlanBuffer *b = m->plan->buffers[call->args[i]];
    if (call->once) TRY(check_once(l, b));
    if (!call->once && !i && b->kind == KILN__V1__PLAN_BUFFER__KIND__KEPT)
      return BROKEN("call %zu writes what is kept", l->nlaunches);
  }
  return NULL;
}

static Status resolve_call(Loaded *l, const Kiln__V1__LoadExecutable *m,
                           const Kiln__V1__PlanCall *call) {
  if (call->kernel >= l->nprograms) return BROKEN("kernel %u of %zu", call->kernel, l->nprograms);
  TRY(check_call(l, m, call));
  l->nonce += call->once != 0;
  l->launches[l->nlaunches++] = (Launch){.program = l->programs[call->kernel],
                                         .args = l->args + l->nargs,
                                         .nargs = (uint32_t)call->n_args,
                                         .nvars = (uint32_t)call->n_vars,
                                         .vars = l->values + l->nvalues};
  for (size_t i = 0; i < call->n_args; i++) {
    TRY(resolve(l, m, call->args[i], l->nargs, i == 0));
    l->nargs++;
  }
  for (size_t i = 0; i < call->n_vars; i++) {
    if (call->vars[i] >= m->plan->n_vars)
      return BROKEN("VAR %u of %zu", call->vars[i], m->plan->n_vars);
    l->value_vars[l->nvalues++] = call->vars[i];
  }
  return NULL;
}

/* A BIND's scalar is one more argument, behind those of the calls. */
static Status resolve_bind(Loaded *l, const Kiln__V1__LoadExecutable *m, Step *s) {
  if (s->var >= m->plan->n_vars ||
      m->plan->vars[s->var]->source != KILN__V1__PLAN_VAR__SOURCE__BOUND)
    return BROKEN("a BIND of VAR %u", s->var);
  TRY(resolve(l, m, s->buffer, l->nargs, false));
  if (m->plan->buffers[s->buffer]->bytes != sizeof(int64_t) || m->plan->buffers[s->buffer]->size)
    return BROKEN("a BIND to a buffer that is no i64");
  s->call = (uint32_t)l->nargs++;
  return NULL;
}

/* A scalar that a LOOP looks at, as one more argument. */
static Status resolve_scalar(Loaded *l, const Kiln__V1__LoadExecutable *m, uint32_t buffer,
                             size_t bytes, uint32_t *out) {
  if (buffer >= m->plan->n_buffers) return BROKEN("buffer %u", buffer);
  const Kiln__V1__PlanBuffer *b = m->plan->buffers[buffer];
  if (b->bytes != bytes || b->size) return BROKEN("a LOOP looks at a buffer that is no scalar");
  TRY(resolve(l, m, buffer, l->nargs, false));
  *out = (uint32_t)l->nargs++;
  return NULL;
}

static Status resolve_loop(Loaded *l, const Kiln__V1__LoadExecutable *m,
                           const Kiln__V1__PlanStep *p, Step *s) {
  if (p->var >= m->plan->n_vars ||
      m->plan->vars[p->var]->source != KILN__V1__PLAN_VAR__SOURCE__LOOP)
    return BROKEN("a LOOP of VAR %u", p->var);
  s->most = m->plan->vars[p->var]->max;
  s->given = p->count;
  s->counted = p->counter != 0;
  s->conditional = p->condition != 0;
  if (s->counted) TRY(resolve_scalar(l, m, p->counter - 1, sizeof(int64_t), &s->call));
  if (s->conditional) TRY(resolve_scalar(l, m, p->condition - 1, 1, &s->condition));
  return NULL;
}

/* Every LOOP knows its END and every END its LOOP. */
static Status match_loops(Loaded *l) {
  uint32_t *open = calloc(l->nsteps + 1, sizeof *open), depth = 0;
  bool ok = open;
  if (!open) return FAIL(RESOURCE_EXHAUSTED, "plan of %zu steps", l->nsteps);
  for (uint32_t i = 0; ok && i < l->nsteps; i++) {
    Step *s = &l->steps[i];
    if (s->kind == KILN__V1__PLAN_STEP__KIND__LOOP) open[depth++] = i;
    if (s->kind != KILN__V1__PLAN_STEP__KIND__END) continue;
    ok = depth > 0;
    if (!ok) break;
    s->other = open[--depth];
    l->steps[s->other].other = i;
    s->var = l->steps[s->other].var;
  }
  free(open);
  return ok && !depth ? NULL : BROKEN("LOOP steps do not match END steps");
}

static Status resolve_steps(Loaded *l, const Kiln__V1__LoadExecutable *m) {
  size_t n = m->plan->n_steps;
  l->nsteps = n ? n : l->nlaunches;
  l->steps = calloc(l->nsteps + 1, sizeof *l->steps);
  if (!l->steps) return FAIL(RESOURCE_EXHAUSTED, "plan of %zu steps", l->nsteps);
  for (size_t i = 0; i < l->nsteps; i++) {
    Step *s = &l->steps[i];
    *s = (Step){.kind = KILN__V1__PLAN_STEP__KIND__CALL, .call = (uint32_t)i};
    if (!n) continue;
    const Kiln__V1__PlanStep *p = m->plan->steps[i];
    *s = (Step){.kind = p->kind, .call = p->call, .var = p->var, .buffer = p->buffer};
    switch (s->kind) {
    case KILN__V1__PLAN_STEP__KIND__CALL:
      if (s->call >= l->nlaunches) return BROKEN("call %u of %zu", s->call, l->nlaunches);
      if ((s->call < l->nonce || i < l->nonce) && s->call != i)
        return BROKEN("step %zu is call %u, which is done once", i, s->call);
      break;
    case KILN__V1__PLAN_STEP__KIND__BIND: TRY(resolve_bind(l, m, s)); break;
    case KILN__V1__PLAN_STEP__KIND__LOOP: TRY(resolve_loop(l, m, p, s)); break;
    case KILN__V1__PLAN_STEP__KIND__END: break;
    default: return BROKEN("step kind %d", (int)s->kind);
    }
  }
  for (size_t i = 0; i < l->nonce; i++)
    if (i >= l->nsteps || l->steps[i].kind != KILN__V1__PLAN_STEP__KIND__CALL)
      return BROKEN("%zu calls are done once, but are not the first steps", l->nonce);
  return match_loops(l);
}

static Status resolve_plan(Loaded *l, const Kiln__V1__LoadExecutable *m) {
  size_t total = 2 * m->plan->n_steps, values = 0;
  for (size_t i = 0; i < m->plan->n_calls; i++) {
    total += m->plan->calls[i]->n_args;
    values += m->plan->calls[i]->n_vars;
  }
  if (total > UINT32_MAX) return BROKEN("%zu kernel arguments", total);
  l->values = calloc(values + 1, sizeof *l->values);
  l->value_vars = calloc(values + 1, sizeof *l->value_vars);
  l->launches = calloc(m->plan->n_calls + 1, sizeof *l->launches);
  l->args = calloc(total + 1, sizeof *l->args);
  l->temps = calloc(total + 1, sizeof *l->temps);
  l->patches = calloc(total + 1, sizeof *l->patches);
  if (!l->launches || !l->args || !l->temps || !l->patches || !l->values || !l->value_vars)
    return FAIL(RESOURCE_EXHAUSTED, "plan of %zu calls", m->plan->n_calls);
  for (size_t i = 0; i < m->plan->n_calls; i++) TRY(resolve_call(l, m, m->plan->calls[i]));
  TRY(launch_grids_create(m, &l->grids));
  return resolve_steps(l, m);
}

static Status load_slots(Loaded *l, const Kiln__V1__LoadExecutable *m) {
  l->ninputs = m->n_input_bytes;
  l->noutputs = m->n_output_bytes;
  size_t n = l->ninputs + l->noutputs;
  l->slot_bytes = calloc(n + 1, sizeof *l->slot_bytes);
  l->written = calloc(n + 1, sizeof *l->written);
  l->slot_at = calloc(n + 1, sizeof *l->slot_at);
  if (!l->slot_bytes || !l->written || !l->slot_at) return FAIL(RESOURCE_EXHAUSTED, "slots");
  for (size_t i = 0; i < n; i++)
    l->slot_bytes[i] = i < l->ninputs ? m->input_bytes[i] : m->output_bytes[i - l->ninputs];
  l->temp_bytes = m->plan->temp_bytes;
  l->kept_bytes = m->plan->kept_bytes;
  return NULL;
}

/* An arena for every phase; those of a plan without VARs are as large as they will be. */
static Status ensure_arenas(Executor *x, const Loaded *l) {
  size_t n = l->sizes ? l->sizes->nphases : 1;
  if (x->ntemps < n) {
    Buffer **p = realloc(x->temps, n * sizeof *p);
    if (p) x->temps = p;
    uint64_t *used = realloc(x->temps_used, n * sizeof *used);
    if (used) x->temps_used = used;
    if (!p || !used) return FAIL(RESOURCE_EXHAUSTED, "arenas");
    for (; x->ntemps < n; x->ntemps++) x->temps[x->ntemps] = NULL, used[x->ntemps] = 0;
  }
  return !l->sizes && l->temp_bytes ? loaded_ensure(x, &x->temps[0], l->temp_bytes) : NULL;
}

static void apply_temps(const Executor *x, Loaded *l) {
  if (l->sizes || !l->temp_bytes || l->temp_base == x->temps[0]) return;
  l->temp_base = x->temps[0];
  for (size_t i = 0; i < l->ntemps; i++) l->args[l->temps[i].arg].buffer = x->temps[0];
}

/* What is kept, computed from the weights. */
static Status load_kept(Executor *x, Loaded *l, uint32_t tenant) {
  apply_temps(x, l);
  if (l->nonce) TRY(scrub_enter(x, tenant));
  scrub_used(x, l, 0);
  TRY(steps_once(x, l));
  if (!l->nonce) return NULL;
  device_memory_forget(l->model);
  device_memory_forget(l->constants);
  return NULL;
}

Status executor_load(Executor *x, const Kiln__V1__LoadExecutable *m, int model_fd, int const_fd) {
  Status st = NULL;
  Loaded *l = calloc(1, sizeof *l);
  if (!l) st = FAIL(RESOURCE_EXHAUSTED, "executable");
  if (!st && (!m->plan || map_find(&x->loaded, m->executable)))
    st = BROKEN("executable %llu", (unsigned long long)m->executable);
  if (!st) st = load_slots(l, m);
  if (!st) st = load_data(x, l, m, &model_fd, &const_fd);
  if (!st) st = programs_load(x, l, m);
  if (!st) st = load_known(x, l, m);
  if (!st && l->kept_bytes)
    st = device_buffer_alloc(x->dev, l->kept_bytes, BUFFER_PRIVATE, &l->kept);
  if (!st) st = plan_sizes_create(m, &l->sizes);
  if (!st) st = resolve_plan(l, m);
  if (!st) st = ensure_arenas(x, l);
  if (!st) st = load_kept(x, l, m->tenant);
  if (!st && !map_put(&x->loaded, m->executable, l)) st = FAIL(RESOURCE_EXHAUSTED, "executables");
  if (!st) return NULL;
  if (model_fd >= 0) close(model_fd);
  if (const_fd >= 0) close(const_fd);
  loaded_release(x, l);
  return WRAP(st, "loading");
}

void executor_forget_code(Executor *x, uint64_t executable) {
  Loaded *l = map_find(&x->loaded, executable);
  if (l) programs_drop_code(l);
}

void executor_unload(Executor *x, uint64_t executable) {
  loaded_release(x, map_remove(&x->loaded, executable));
}

/* -- running ------------------------------------------------------------------------------------
 */

static Status add_slab(Executor *x, uint64_t id, uint64_t bytes, int fd) {
  if (!id || !bytes || map_find(&x->slabs, id)) {
    close(fd);
    return BROKEN("slab %llu", (unsigned long long)id);
  }
  SharedMemory *s = calloc(1, sizeof *s);
  if (!s) {
    close(fd);
    return FAIL(RESOURCE_EXHAUSTED, "slabs");
  }
  Status st = device_memory_share(x->dev, bytes, fd, s);
  if (!st && !map_put(&x->slabs, id, s)) st = FAIL(RESOURCE_EXHAUSTED, "slabs");
  if (st) slab_release(x, s);
  return st;
}

static Status take_slab(Executor *x, const Kiln__V1__RunJob *m, int fd, SharedMemory **out) {
  *out = NULL;
  if (!m->slab && fd < 0) return NULL;
  if (fd >= 0) TRY(add_slab(x, m->slab, m->slab_bytes, fd));
  *out = map_find(&x->slabs, m->slab);
  return *out ? NULL : BROKEN("unknown slab %llu", (unsigned long long)m->slab);
}

/* Staging holds inline inputs and inline outputs of this run, each at a multiple of 64; without
 * shared memory all of them. */
static uint64_t staging_need(const Loaded *l) {
  uint64_t need = 0;
  for (size_t i = 0; i < l->ninputs + l->noutputs; i++) need += align_up(l->slot_bytes[i]) + ALIGN;
  return need;
}

/* The host's bytes as an argument. */
static Status stage_input(Executor *x, const void *from, uint64_t bytes, uint64_t *staging,
                          LaunchArg *out) {
  *out = (LaunchArg){x->staging, *staging};
  *staging += align_up(bytes);
  return device_write(x->dev, out->buffer, out->offset, from, bytes);
}

static Status bind_input(Executor *x, const Loaded *l, const Kiln__V1__RunInput *in, size_t slot,
                         const SharedMemory *slab, uint64_t *staging) {
  LaunchArg *at = &l->slot_at[slot].at;
  if (l->written[slot] && in->value_case != KILN__V1__RUN_INPUT__VALUE_BUFFER)
    return BROKEN("state %zu is given as a tensor", slot);
  if (in->bytes != l->slot_bytes[slot])
    return BROKEN("input %zu has %llu bytes, expected %llu", slot, (unsigned long long)in->bytes,
                  (unsigned long long)l->slot_bytes[slot]);
  switch (in->value_case) {
  case KILN__V1__RUN_INPUT__VALUE_INLINE:
    if (in->inline_.len != in->bytes) return BROKEN("input %zu: inline length", slot);
    return stage_input(x, in->inline_.data, in->bytes, staging, at);
  case KILN__V1__RUN_INPUT__VALUE_OFFSET:
    if (!slab || in->offset > slab->size || in->bytes > slab->size - in->offset)
      return BROKEN("input %zu lies outside the slab", slot);
    if (!slab->buffer)
      return stage_input(x, (char *)slab->host + in->offset, in->bytes, staging, at);
    *at = (LaunchArg){slab->buffer, in->offset};
    return NULL;
  case KILN__V1__RUN_INPUT__VALUE_BUFFER:
    *at = (LaunchArg){map_find(&x->buffers, in->buffer), 0};
    if (!at->buffer || at->buffer->size < in->bytes)
      return BROKEN("input %zu: unknown or short buffer", slot);
    return NULL;
  default: return BROKEN("input %zu has no value", slot);
  }
}

/* Where output i of the job's list goes, when it is not inline. */
static Status bind_output(Executor *x, const Kiln__V1__RunJob *m, size_t i, uint64_t bytes,
                          const SharedMemory *slab, SlotPlace *out) {
  if (m->n_output_buffers) return buffers_add(x, m->output_buffers[i], bytes, -1, &out->at.buffer);
  if (!m->n_output_offsets) return NULL;
  uint64_t at = m->output_offsets[i];
  if (!slab || at > slab->size || bytes > slab->size - at)
    return BROKEN("output %u lies outside the slab", m->outputs[i]);
  if (slab->buffer)
    out->at = (LaunchArg){slab->buffer, at};
  else
    out->out = (char *)slab->host + at;
  return NULL;
}

static Status bind_outputs(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m,
                           const SharedMemory *slab, uint64_t *staging) {
  for (size_t i = 0; i < l->noutputs; i++) l->slot_at[l->ninputs + i] = (SlotPlace){0};
  for (size_t i = 0; i < m->n_outputs; i++) {
    if (m->outputs[i] >= l->noutputs) return BROKEN("output %u of %zu", m->outputs[i], l->noutputs);
    SlotPlace *p = &l->slot_at[l->ninputs + m->outputs[i]];
    if (p->at.buffer || p->out) return BROKEN("output %u is wanted twice", m->outputs[i]);
    if (loaded_is_open(l, l->ninputs + m->outputs[i])) continue;
    TRY(bind_output(x, m, i, l->slot_bytes[l->ninputs + m->outputs[i]], slab, p));
  }
  for (size_t i = l->ninputs; i < l->ninputs + l->noutputs; i++) {
    SlotPlace *p = &l->slot_at[i];
    if (p->at.buffer || loaded_is_open(l, i)) continue;
    /* the others: inline, copied to the slab, or not wanted at all */
    p->at = (LaunchArg){x->staging, *staging};
    *staging += align_up(l->slot_bytes[i]) + ALIGN;
  }
  return NULL;
}

static Status ensure_mirror(Executor *x) {
  if (x->staging->host || x->mirror_size >= x->staging->size) return NULL;
  char *p = realloc(x->mirror, x->staging->size);
  if (!p) return FAIL(RESOURCE_EXHAUSTED, "staging of %zu bytes", x->staging->size);
  x->mirror = p;
  x->mirror_size = x->staging->size;
  return NULL;
}

/* *staging: how much of it the run uses, also when this fails; little, where tensors are in buffers
 * or the slab. */
static Status bind(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m,
                   const SharedMemory *slab, uint64_t *staging) {
  *staging = 0;
  if (m->n_inputs != l->ninputs) return BROKEN("%zu inputs of %zu", m->n_inputs, l->ninputs);
  if ((m->n_output_buffers && m->n_output_buffers != m->n_outputs) ||
      (m->n_output_offsets && m->n_output_offsets != m->n_outputs))
    return BROKEN("outputs and their places differ in number");
  TRY(loaded_ensure(x, &x->staging, staging_need(l)));
  TRY(ensure_mirror(x));
  for (size_t i = 0; i < l->ninputs; i++) TRY(bind_input(x, l, m->inputs[i], i, slab, staging));
  return bind_outputs(x, l, m, slab, staging);
}

void loaded_apply(Loaded *l, size_t slot) {
  for (size_t i = 0; i < l->npatches; i++) {
    const Patch *p = &l->patches[i];
    if (slot != (size_t)-1 && p->slot != slot) continue;
    const LaunchArg *at = &l->slot_at[p->slot].at;
    uint64_t offset = l->sizes ? l->sizes->buffers[p->buffer].offset : p->offset;
    l->args[p->arg] = (LaunchArg){at->buffer, at->offset + offset};
  }
}

static void apply(Executor *x, Loaded *l) {
  loaded_apply(l, (size_t)-1);
  apply_temps(x, l);
}

/* Writes an output that no kernel writes: its bytes again and again until it is full. */
static Status fill_one(Executor *x, const Loaded *l, const Fill *f) {
  const LaunchArg *at = &l->slot_at[f->slot].at;
  uint64_t bytes = l->slot_bytes[f->slot];
  char *whole = at->buffer->host ? (char *)at->buffer->host + at->offset : malloc(bytes + 1);
  if (!whole) return FAIL(RESOURCE_EXHAUSTED, "an output of %llu bytes", (unsigned long long)bytes);
  for (uint64_t k = 0, left; k < bytes; k += f->len) {
    left = bytes - k;
    memcpy(whole + k, f->bytes, left < f->len ? left : f->len);
  }
  if (at->buffer->host) return NULL;
  Status st = device_write(x->dev, at->buffer, at->offset, whole, bytes);
  free(whole);
  return st;
}

Status loaded_fill(Executor *x, const Loaded *l, size_t slot) {
  for (size_t i = 0; i < l->nfills; i++)
    if (l->fills[i].slot == slot) TRY(fill_one(x, l, &l->fills[i]));
  return NULL;
}

static Status fill(Executor *x, const Loaded *l) {
  for (size_t i = 0; i < l->nfills; i++)
    if (!loaded_is_open(l, l->fills[i].slot)) TRY(fill_one(x, l, &l->fills[i]));
  return NULL;
}

/* An inline output as the host sees it. */
static Status see_output(Executor *x, const LaunchArg *at, uint64_t bytes, uint8_t **out) {
  *out = at->buffer->host ? (uint8_t *)at->buffer->host + at->offset
                          : (uint8_t *)x->mirror + at->offset;
  return at->buffer->host ? NULL : device_read(x->dev, at->buffer, at->offset, *out, bytes);
}

static Status copy_outputs(Executor *x, const Loaded *l) {
  for (size_t i = l->ninputs; i < l->ninputs + l->noutputs; i++) {
    const SlotPlace *p = &l->slot_at[i];
    if (p->out && p->at.buffer)
      TRY(device_read(x->dev, p->at.buffer, p->at.offset, p->out, l->slot_bytes[i]));
  }
  return NULL;
}

static Status reply(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m,
                    Kiln__V1__RunDone *out) {
  size_t open = 0;
  for (size_t i = 0; i < m->n_outputs; i++) open += loaded_is_open(l, l->ninputs + m->outputs[i]);
  TRY(copy_outputs(x, l));
  if (m->n_output_buffers || (m->n_output_offsets && !open) || !m->n_outputs) return NULL;
  if (x->outputs_cap < m->n_outputs) {
    void *p = realloc(x->outputs, m->n_outputs * sizeof *x->outputs);
    if (!p) return FAIL(RESOURCE_EXHAUSTED, "outputs");
    x->outputs = p;
    x->outputs_cap = m->n_outputs;
  }
  for (size_t i = 0; i < m->n_outputs; i++) {
    size_t slot = l->ninputs + m->outputs[i];
    x->outputs[i] = (ProtobufCBinaryData){0};
    if (loaded_is_open(l, slot) ? out->n_places > 0 : m->n_output_offsets > 0) continue;
    x->outputs[i].len = l->slot_bytes[slot];
    TRY(see_output(x, &l->slot_at[slot].at, l->slot_bytes[slot], &x->outputs[i].data));
  }
  out->n_outputs = m->n_outputs;
  out->outputs = x->outputs;
  return NULL;
}

static void drop_new_buffers(Executor *x, const Kiln__V1__RunJob *m) {
  for (size_t i = 0; i < m->n_output_buffers; i++) executor_buffer_free(x, m->output_buffers[i]);
}

Status executor_watch(Executor *x, int board_fd) {
  cancel_board_close(x->cancelled);
  x->cancelled = NULL;
  return cancel_board_open(board_fd, &x->cancelled);
}

void executor_interrupt(const Executor *x) {
  if (x->stoppable && cancel_is_posted(x->cancelled, x->stoppable)) device_interrupt(x->dev, true);
}

/* Room for the times of n calls, all zero. */
static Status profile_begin(CallTimes *p, size_t n) {
  if (p->cap < n) {
    void *ns = realloc(p->ns, n * sizeof *p->ns);
    if (ns) p->ns = ns;
    void *runs = realloc(p->runs, n * sizeof *p->runs);
    if (runs) p->runs = runs;
    if (!ns || !runs) return FAIL(RESOURCE_EXHAUSTED, "times of %zu calls", n);
    p->cap = n;
  }
  for (size_t i = 0; i < n; i++) p->ns[i] = 0, p->runs[i] = 0;
  return NULL;
}

static void profile_end(const Executor *x, const Loaded *l, Kiln__V1__RunDone *out) {
  out->call_ns = x->profile.ns;
  out->call_runs = x->profile.runs;
  out->n_call_ns = out->n_call_runs = l->nlaunches;
}

Status executor_run(Executor *x, uint64_t number, const Kiln__V1__RunJob *m, int slab_fd,
                    Kiln__V1__RunDone *out) {
  SharedMemory *slab;
  drop_open(x);
  TRY(take_slab(x, m, slab_fd, &slab));
  Loaded *l = map_find(&x->loaded, m->executable);
  if (!l) return BROKEN("unknown executable %llu", (unsigned long long)m->executable);
  if (m->deadline_ns && clock_now_ns() > m->deadline_ns)
    return FAIL(DEADLINE_EXCEEDED, "the deadline passed before the run started");
  if (cancel_is_posted(x->cancelled, number)) return FAIL(CANCELLED, "before the run started");
  if (recall_is_posted(x->cancelled, number)) return FAIL(ABORTED, "called back");
  x->profile.on = m->profile;
  if (m->profile) TRY(profile_begin(&x->profile, l->nlaunches));
  TRY(scrub_enter(x, m->tenant));
  TRY(steps_begin(x, l, m));
  uint64_t staging;
  Status st = bind(x, l, m, slab, &staging);
  if (!st) st = fill(x, l);
  if (!st) {
    apply(x, l);
    st = steps_run(x, l, m->deadline_ns, number, &out->device_ns);
    x->profile.on = false;
  }
  if (!st && m->profile) profile_end(x, l, out);
  if (!st) st = steps_end(x, l, m, out);
  scrub_used(x, l, staging);
  if (!st) st = reply(x, l, m, out);
  if (st) drop_new_buffers(x, m);
  return st;
}

int executor_output_fd(const Executor *x) { return x->open_fd; }

void executor_slab_free(Executor *x, uint64_t slab) {
  slab_release(x, map_remove(&x->slabs, slab));
}
