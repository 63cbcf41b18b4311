/* An executable is resolved when it is loaded: every kernel argument gets its host address, and
 * those that change from run to run (inputs, outputs) are listed in `patches` with their slot. A
 * run fills in the slots' addresses, applies the patches and submits the whole plan at once.
 *
 * Temporaries live in one arena shared by all executables. When it grows it moves; each executable
 * remembers the base it was resolved against and is resolved again when that changed.
 *
 * Small inputs and outputs pass through `staging`, laid out slot after slot at multiples of 64, so
 * that a run allocates nothing. */
#include "daemon/worker/executor.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/map.h"

enum { ALIGN = 64, THREADS_MAX = 1 << 16 };

/* Where an argument that changes between runs is written. */
typedef struct Patch {
  uint32_t arg, slot;
  uint64_t offset; /* in the slot's data */
} Patch;

/* An output whose value the compiler knows. */
typedef struct Fill {
  uint32_t slot;
  const char *bytes;
  size_t len;
} Fill;

typedef struct Loaded {
  Program **programs;
  size_t nprograms;
  Buffer *model, *constants;
  Launch *launches;
  size_t nlaunches;
  void **args; /* of all launches, one after the other */
  size_t nargs;
  uint64_t *temp_offset; /* parallel to args; UINT64_MAX where it is no temporary */
  uint64_t temp_bytes;
  char *temp_base; /* what the temporaries were resolved against */
  Patch *patches;
  size_t npatches;
  Fill *fills;
  size_t nfills;
  char **known; /* by plan buffer: the constant's bytes, or NULL; owned */
  size_t nknown;
  size_t ninputs, noutputs;
  uint64_t *slot_bytes; /* inputs, then outputs */
  void **slot_at;       /* addresses of the current run */
} Loaded;

struct Executor {
  Device *dev;
  Map loaded, buffers, slabs; /* Loaded, Buffer, Buffer */
  Buffer *temp, *staging;
  ProtobufCBinaryData *outputs; /* of the last RunDone */
  size_t outputs_cap;
};

#define BROKEN(...) FAIL(INTERNAL, __VA_ARGS__)

static uint64_t align_up(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

Status executor_create(Device *dev, Executor **out) {
  *out = calloc(1, sizeof **out);
  if (!*out) return FAIL(RESOURCE_EXHAUSTED, "executor");
  (*out)->dev = dev;
  return NULL;
}

static void loaded_release(Executor *x, Loaded *l) {
  if (!l) return;
  for (size_t i = 0; i < l->nprograms; i++) device_program_free(x->dev, l->programs[i]);
  device_buffer_free(x->dev, l->model);
  device_buffer_free(x->dev, l->constants);
  free(l->programs);
  free(l->launches);
  free(l->args);
  free(l->temp_offset);
  free(l->patches);
  for (size_t i = 0; i < l->nknown; i++) free(l->known[i]);
  free(l->known);
  free(l->fills);
  free(l->slot_bytes);
  free(l->slot_at);
  free(l);
}

void executor_release(Executor *x) {
  if (!x) return;
  MapSlot *s;
  for (size_t i = 0; map_next(&x->loaded, &i, &s);) loaded_release(x, s->value);
  for (size_t i = 0; map_next(&x->buffers, &i, &s);) device_buffer_free(x->dev, s->value);
  for (size_t i = 0; map_next(&x->slabs, &i, &s);) device_buffer_free(x->dev, s->value);
  map_deinit(&x->loaded);
  map_deinit(&x->buffers);
  map_deinit(&x->slabs);
  device_buffer_free(x->dev, x->temp);
  device_buffer_free(x->dev, x->staging);
  free(x->outputs);
  free(x);
}

/* A buffer over fd, whose ownership is taken in any case; -1 = new memory. */
static Status adopt(Executor *x, uint64_t bytes, int fd, Buffer **out) {
  Status st = device_buffer_alloc(x->dev, bytes, fd, out);
  if (st && fd >= 0) close(fd);
  return st;
}

/* Makes *b at least `bytes` large; its content is lost when it grows. */
static Status ensure(Executor *x, Buffer **b, uint64_t bytes) {
  if (*b && (*b)->size >= bytes) return NULL;
  device_buffer_free(x->dev, *b);
  *b = NULL;
  return device_buffer_alloc(x->dev, bytes ? bytes : ALIGN, -1, b);
}

/* -- loading ------------------------------------------------------------------------------------
 */

static Status load_programs(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m) {
  if (m->n_binaries != m->plan->n_kernels)
    return BROKEN("%zu binaries for %zu kernels", m->n_binaries, m->plan->n_kernels);
  l->programs = calloc(m->n_binaries + 1, sizeof *l->programs);
  if (!l->programs) return FAIL(RESOURCE_EXHAUSTED, "programs");
  for (; l->nprograms < m->n_binaries; l->nprograms++) {
    const Kiln__V1__KernelBinary *b = m->binaries[l->nprograms];
    if (!*b->entry || !b->threads || b->threads > THREADS_MAX)
      return BROKEN("kernel '%s': %u threads", b->entry, b->threads);
    ProgramSpec spec = {.image = {b->object.data, b->object.len},
                        .entry = b->entry,
                        .threads = b->threads,
                        .scratch_bytes = b->scratch_bytes};
    Status st = device_program_load(x->dev, &spec, &l->programs[l->nprograms]);
    if (st) return WRAP(st, "kernel '%s'", m->plan->kernels[l->nprograms]->name);
  }
  return NULL;
}

static Status load_data(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m, int *model_fd,
                        int *const_fd) {
  int fd = *model_fd;
  *model_fd = -1;
  if (m->model_bytes) TRY(adopt(x, m->model_bytes, fd, &l->model));
  if (!m->model_bytes && fd >= 0) close(fd);
  fd = *const_fd;
  *const_fd = -1;
  if (!m->const_bytes) {
    if (fd >= 0) close(fd);
    return NULL;
  }
  if (fd < 0) return BROKEN("constants without their memory");
  return adopt(x, m->const_bytes, fd, &l->constants);
}

static Status load_known(Loaded *l, const Kiln__V1__LoadExecutable *m) {
  size_t n = m->plan->n_buffers;
  l->known = calloc(n + 1, sizeof *l->known);
  l->fills = calloc(n + 1, sizeof *l->fills);
  if (!l->known || !l->fills) return FAIL(RESOURCE_EXHAUSTED, "constants");
  for (; l->nknown < n; l->nknown++) {
    const Kiln__V1__PlanBuffer *b = m->plan->buffers[l->nknown];
    if (!b->constant.len) continue;
    bool output = b->kind == KILN__V1__PLAN_BUFFER__KIND__OUTPUT;
    if (output ? b->slot < l->ninputs || b->slot >= l->ninputs + l->noutputs
               : b->constant.len != b->bytes)
      return BROKEN("constant of buffer %zu", l->nknown);
    char *bytes = l->known[l->nknown] = aligned_alloc(ALIGN, align_up(b->constant.len));
    if (!bytes) return FAIL(RESOURCE_EXHAUSTED, "constants");
    memcpy(bytes, b->constant.data, b->constant.len);
    if (output) l->fills[l->nfills++] = (Fill){b->slot, bytes, b->constant.len};
  }
  return NULL;
}

static Status weight_address(const Loaded *l, const Kiln__V1__LoadExecutable *m,
                             const Kiln__V1__PlanBuffer *p, void **out) {
  for (size_t i = 0; i < m->n_weights; i++) {
    const Kiln__V1__WeightSource *w = m->weights[i];
    if (w->slot != p->slot) continue;
    const Buffer *b = w->in_constants ? l->constants : l->model;
    uint64_t size = b ? b->size : 0;
    if (p->offset > w->bytes || p->bytes > w->bytes - p->offset || w->offset > size ||
        w->bytes > size - w->offset)
      return BROKEN("weight %u: bytes %llu at %llu of %llu", p->slot, (unsigned long long)w->bytes,
                    (unsigned long long)w->offset, (unsigned long long)size);
    /* of 0 bytes: any address */
    *out = b ? (char *)b->host + w->offset + p->offset : (void *)l->slot_bytes;
    return NULL;
  }
  return BROKEN("weight %u has no source", p->slot);
}

/* Resolves one argument: a fixed address, an offset in the temporaries, or a patch. */
static Status resolve(Loaded *l, const Kiln__V1__LoadExecutable *m, const Kiln__V1__PlanBuffer *b,
                      size_t arg, bool written, char *known) {
  size_t slots = l->ninputs + l->noutputs;
  l->temp_offset[arg] = UINT64_MAX;
  switch (b->kind) {
  case KILN__V1__PLAN_BUFFER__KIND__INPUT:
  case KILN__V1__PLAN_BUFFER__KIND__OUTPUT:
    if (b->slot >= slots ||
        (b->slot < l->ninputs) != (b->kind == KILN__V1__PLAN_BUFFER__KIND__INPUT))
      return BROKEN("slot %u of %zu", b->slot, slots);
    if (b->offset > l->slot_bytes[b->slot] || b->bytes > l->slot_bytes[b->slot] - b->offset)
      return BROKEN("slot %u is too small", b->slot);
    if (written && b->slot < l->ninputs) return BROKEN("a kernel writes input %u", b->slot);
    l->patches[l->npatches++] = (Patch){(uint32_t)arg, b->slot, b->offset};
    return NULL;
  case KILN__V1__PLAN_BUFFER__KIND__WEIGHT:
    if (written) return BROKEN("a kernel writes weight %u", b->slot);
    return weight_address(l, m, b, &l->args[arg]);
  case KILN__V1__PLAN_BUFFER__KIND__TEMP:
    if (b->offset > l->temp_bytes || b->bytes > l->temp_bytes - b->offset)
      return BROKEN("temporary outside its arena");
    l->temp_offset[arg] = b->offset;
    return NULL;
  case KILN__V1__PLAN_BUFFER__KIND__CONST:
    if (written || !known) return BROKEN("a constant is written or has no bytes");
    l->args[arg] = known;
    return NULL;
  default: return BROKEN("buffer kind %d", (int)b->kind);
  }
}

static Status resolve_call(Loaded *l, const Kiln__V1__LoadExecutable *m,
                           const Kiln__V1__PlanCall *call) {
  if (call->kernel >= l->nprograms) return BROKEN("kernel %u of %zu", call->kernel, l->nprograms);
  l->launches[l->nlaunches++] = (Launch){.program = l->programs[call->kernel],
                                         .args = l->args + l->nargs,
                                         .nargs = (uint32_t)call->n_args};
  for (size_t i = 0; i < call->n_args; i++) {
    if (call->args[i] >= m->plan->n_buffers)
      return BROKEN("buffer %u of %zu", call->args[i], m->plan->n_buffers);
    uint32_t b = call->args[i];
    TRY(resolve(l, m, m->plan->buffers[b], l->nargs, i == 0, l->known[b]));
    l->nargs++;
  }
  return NULL;
}

static Status resolve_plan(Loaded *l, const Kiln__V1__LoadExecutable *m) {
  size_t total = 0;
  for (size_t i = 0; i < m->plan->n_calls; i++) total += m->plan->calls[i]->n_args;
  if (total > UINT32_MAX) return BROKEN("%zu kernel arguments", total);
  l->launches = calloc(m->plan->n_calls + 1, sizeof *l->launches);
  l->args = calloc(total + 1, sizeof *l->args);
  l->temp_offset = calloc(total + 1, sizeof *l->temp_offset);
  l->patches = calloc(total + 1, sizeof *l->patches);
  if (!l->launches || !l->args || !l->temp_offset || !l->patches)
    return FAIL(RESOURCE_EXHAUSTED, "plan of %zu calls", m->plan->n_calls);
  for (size_t i = 0; i < m->plan->n_calls; i++) TRY(resolve_call(l, m, m->plan->calls[i]));
  return NULL;
}

static Status load_slots(Loaded *l, const Kiln__V1__LoadExecutable *m) {
  l->ninputs = m->n_input_bytes;
  l->noutputs = m->n_output_bytes;
  size_t n = l->ninputs + l->noutputs;
  l->slot_bytes = calloc(n + 1, sizeof *l->slot_bytes);
  l->slot_at = calloc(n + 1, sizeof *l->slot_at);
  if (!l->slot_bytes || !l->slot_at) return FAIL(RESOURCE_EXHAUSTED, "slots");
  for (size_t i = 0; i < n; i++)
    l->slot_bytes[i] = i < l->ninputs ? m->input_bytes[i] : m->output_bytes[i - l->ninputs];
  l->temp_bytes = m->plan->temp_bytes;
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
  if (!st) st = load_programs(x, l, m);
  if (!st) st = load_known(l, m);
  if (!st) st = resolve_plan(l, m);
  if (!st && l->temp_bytes) st = ensure(x, &x->temp, l->temp_bytes);
  if (!st && !map_put(&x->loaded, m->executable, l)) st = FAIL(RESOURCE_EXHAUSTED, "executables");
  if (!st) return NULL;
  if (model_fd >= 0) close(model_fd);
  if (const_fd >= 0) close(const_fd);
  loaded_release(x, l);
  return WRAP(st, "loading");
}

void executor_unload(Executor *x, uint64_t executable) {
  loaded_release(x, map_remove(&x->loaded, executable));
}

/* -- running ------------------------------------------------------------------------------------
 */

static Status take_slab(Executor *x, const Kiln__V1__RunJob *m, int fd, Buffer **out) {
  *out = NULL;
  if (!m->slab && fd < 0) return NULL;
  if (fd >= 0) {
    Buffer *b;
    if (!m->slab || !m->slab_bytes || map_find(&x->slabs, m->slab)) {
      close(fd);
      return BROKEN("slab %llu", (unsigned long long)m->slab);
    }
    TRY(adopt(x, m->slab_bytes, fd, &b));
    if (!map_put(&x->slabs, m->slab, b)) {
      device_buffer_free(x->dev, b);
      return FAIL(RESOURCE_EXHAUSTED, "slabs");
    }
  }
  *out = map_find(&x->slabs, m->slab);
  return *out ? NULL : BROKEN("unknown slab %llu", (unsigned long long)m->slab);
}

/* Staging holds inline inputs and inline outputs of this run, each at a multiple of 64. */
static uint64_t staging_need(const Loaded *l) {
  uint64_t need = 0;
  for (size_t i = 0; i < l->ninputs + l->noutputs; i++) need += align_up(l->slot_bytes[i]) + ALIGN;
  return need;
}

static Status bind_input(Executor *x, const Loaded *l, const Kiln__V1__RunInput *in, size_t slot,
                         const Buffer *slab, char **staging) {
  const Buffer *b;
  if (in->bytes != l->slot_bytes[slot])
    return BROKEN("input %zu has %llu bytes, expected %llu", slot, (unsigned long long)in->bytes,
                  (unsigned long long)l->slot_bytes[slot]);
  switch (in->value_case) {
  case KILN__V1__RUN_INPUT__VALUE_INLINE:
    if (in->inline_.len != in->bytes) return BROKEN("input %zu: inline length", slot);
    if (in->bytes) memcpy(*staging, in->inline_.data, in->bytes);
    l->slot_at[slot] = *staging;
    *staging += align_up(in->bytes);
    return NULL;
  case KILN__V1__RUN_INPUT__VALUE_OFFSET:
    if (!slab || in->offset > slab->size || in->bytes > slab->size - in->offset)
      return BROKEN("input %zu lies outside the slab", slot);
    l->slot_at[slot] = (char *)slab->host + in->offset;
    return NULL;
  case KILN__V1__RUN_INPUT__VALUE_BUFFER:
    b = map_find(&x->buffers, in->buffer);
    if (!b || b->size < in->bytes) return BROKEN("input %zu: unknown or short buffer", slot);
    l->slot_at[slot] = b->host;
    return NULL;
  default: return BROKEN("input %zu has no value", slot);
  }
}

static Status new_buffer(Executor *x, uint64_t id, uint64_t bytes, int fd, Buffer **out) {
  *out = NULL;
  if (map_find(&x->buffers, id)) {
    if (fd >= 0) close(fd);
    return BROKEN("buffer %llu exists", (unsigned long long)id);
  }
  TRY(adopt(x, bytes ? bytes : 1, fd, out));
  if (map_put(&x->buffers, id, *out)) return NULL;
  device_buffer_free(x->dev, *out);
  *out = NULL;
  return FAIL(RESOURCE_EXHAUSTED, "buffers");
}

/* Addresses of the wanted outputs; `inline_` is set when they go back in the packet. */
static Status bind_outputs(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m,
                           const Buffer *slab, char **staging) {
  for (size_t i = 0; i < l->noutputs; i++) l->slot_at[l->ninputs + i] = NULL;
  for (size_t i = 0; i < m->n_outputs; i++) {
    if (m->outputs[i] >= l->noutputs) return BROKEN("output %u of %zu", m->outputs[i], l->noutputs);
    size_t slot = l->ninputs + m->outputs[i];
    uint64_t bytes = l->slot_bytes[slot];
    if (l->slot_at[slot]) return BROKEN("output %u is wanted twice", m->outputs[i]);
    if (m->n_output_buffers) {
      Buffer *b;
      TRY(new_buffer(x, m->output_buffers[i], bytes, -1, &b));
      l->slot_at[slot] = b->host;
    } else if (m->n_output_offsets) {
      uint64_t at = m->output_offsets[i];
      if (!slab || at > slab->size || bytes > slab->size - at)
        return BROKEN("output %u lies outside the slab", m->outputs[i]);
      l->slot_at[slot] = (char *)slab->host + at;
    }
  }
  for (size_t i = l->ninputs; i < l->ninputs + l->noutputs; i++) {
    if (l->slot_at[i]) continue; /* inline, or not wanted at all */
    l->slot_at[i] = *staging;
    *staging += align_up(l->slot_bytes[i]) + ALIGN;
  }
  return NULL;
}

static Status bind(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m, const Buffer *slab) {
  if (m->n_inputs != l->ninputs) return BROKEN("%zu inputs of %zu", m->n_inputs, l->ninputs);
  if ((m->n_output_buffers && m->n_output_buffers != m->n_outputs) ||
      (m->n_output_offsets && m->n_output_offsets != m->n_outputs))
    return BROKEN("outputs and their places differ in number");
  TRY(ensure(x, &x->staging, staging_need(l)));
  char *staging = x->staging->host;
  for (size_t i = 0; i < l->ninputs; i++) TRY(bind_input(x, l, m->inputs[i], i, slab, &staging));
  return bind_outputs(x, l, m, slab, &staging);
}

static void apply(Executor *x, Loaded *l) {
  for (size_t i = 0; i < l->npatches; i++)
    l->args[l->patches[i].arg] = (char *)l->slot_at[l->patches[i].slot] + l->patches[i].offset;
  if (!l->temp_bytes || l->temp_base == x->temp->host) return;
  l->temp_base = x->temp->host;
  for (size_t i = 0; i < l->nargs; i++)
    if (l->temp_offset[i] != UINT64_MAX) l->args[i] = l->temp_base + l->temp_offset[i];
}

/* Writes the outputs that no kernel writes. */
static void fill(const Loaded *l) {
  for (size_t i = 0; i < l->nfills; i++) {
    const Fill *f = &l->fills[i];
    char *at = l->slot_at[f->slot];
    for (uint64_t k = 0, left; k < l->slot_bytes[f->slot]; k += f->len) {
      left = l->slot_bytes[f->slot] - k;
      memcpy(at + k, f->bytes, left < f->len ? left : f->len);
    }
  }
}

static Status reply(Executor *x, const Loaded *l, const Kiln__V1__RunJob *m,
                    Kiln__V1__RunDone *out) {
  if (m->n_output_buffers || m->n_output_offsets || !m->n_outputs) return NULL;
  if (x->outputs_cap < m->n_outputs) {
    void *p = realloc(x->outputs, m->n_outputs * sizeof *x->outputs);
    if (!p) return FAIL(RESOURCE_EXHAUSTED, "outputs");
    x->outputs = p;
    x->outputs_cap = m->n_outputs;
  }
  for (size_t i = 0; i < m->n_outputs; i++) {
    size_t slot = l->ninputs + m->outputs[i];
    x->outputs[i] = (ProtobufCBinaryData){l->slot_bytes[slot], l->slot_at[slot]};
  }
  out->n_outputs = m->n_outputs;
  out->outputs = x->outputs;
  return NULL;
}

static void drop_new_buffers(Executor *x, const Kiln__V1__RunJob *m) {
  for (size_t i = 0; i < m->n_output_buffers; i++) executor_buffer_free(x, m->output_buffers[i]);
}

Status executor_run(Executor *x, const Kiln__V1__RunJob *m, int slab_fd, Kiln__V1__RunDone *out) {
  Buffer *slab;
  Fence fence;
  TRY(take_slab(x, m, slab_fd, &slab));
  Loaded *l = map_find(&x->loaded, m->executable);
  if (!l) return BROKEN("unknown executable %llu", (unsigned long long)m->executable);
  if (m->deadline_ns && clock_now_ns() > m->deadline_ns)
    return FAIL(DEADLINE_EXCEEDED, "the deadline passed before the run started");
  Status st = bind(x, l, m, slab);
  if (!st) {
    apply(x, l);
    fill(l);
    int64_t start = clock_now_ns();
    st = device_submit(x->dev, l->launches, l->nlaunches, &fence);
    if (!st) st = device_wait(x->dev, fence, -1);
    out->device_ns = clock_now_ns() - start;
  }
  if (!st) st = reply(x, l, m, out);
  if (st) drop_new_buffers(x, m);
  return st;
}

void executor_slab_free(Executor *x, uint64_t slab) {
  device_buffer_free(x->dev, map_remove(&x->slabs, slab));
}

/* -- buffers ------------------------------------------------------------------------------------
 */

Status executor_buffer_create(Executor *x, uint64_t id, uint64_t bytes, int fd) {
  Buffer *b;
  return new_buffer(x, id, bytes, fd, &b);
}

Status executor_buffer_read(Executor *x, uint64_t id, uint64_t *bytes, int *fd) {
  const Buffer *b = map_find(&x->buffers, id);
  if (!b) return FAIL(NOT_FOUND, "buffer %llu", (unsigned long long)id);
  if (b->fd < 0)
    return FAIL(UNIMPLEMENTED, "buffer %llu is not shared memory", (unsigned long long)id);
  *bytes = b->size;
  *fd = b->fd;
  return NULL;
}

void executor_buffer_free(Executor *x, uint64_t id) {
  device_buffer_free(x->dev, map_remove(&x->buffers, id));
}
