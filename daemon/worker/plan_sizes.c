/* Programs are evaluated when VARs have changed and never else. Sizes that depend on the number of
 * an iteration, or on what no BIND has given yet, are taken at their upper bound. */
#include "daemon/worker/plan_sizes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "daemon/channel/size_program.h"

#define BROKEN(...) FAIL(INTERNAL, __VA_ARGS__)

static bool is_temp(const Kiln__V1__PlanBuffer *b) {
  return b->kind == KILN__V1__PLAN_BUFFER__KIND__TEMP;
}

static bool is_fixed(const Kiln__V1__PlanBuffer *b) {
  return b->kind == KILN__V1__PLAN_BUFFER__KIND__WEIGHT ||
         b->kind == KILN__V1__PLAN_BUFFER__KIND__KEPT ||
         b->kind == KILN__V1__PLAN_BUFFER__KIND__CONST;
}

/* -- loading ------------------------------------------------------------------------------------
 */

static Status copy_message(const Kiln__V1__LoadExecutable *m, Kiln__V1__LoadExecutable **out) {
  Kiln__V1__LoadExecutable part = KILN__V1__LOAD_EXECUTABLE__INIT;
  part.plan = m->plan;
  part.n_shapes = m->n_shapes;
  part.shapes = m->shapes;
  part.n_input_bytes = m->n_input_bytes;
  part.input_bytes = m->input_bytes;
  size_t n = kiln__v1__load_executable__get_packed_size(&part);
  uint8_t *packed = malloc(n + 1);
  if (!packed) return FAIL(RESOURCE_EXHAUSTED, "sizes of a plan");
  kiln__v1__load_executable__pack(&part, packed);
  *out = kiln__v1__load_executable__unpack(NULL, n, packed);
  free(packed);
  return *out ? NULL : FAIL(RESOURCE_EXHAUSTED, "sizes of a plan");
}

static Status check_vars(const Kiln__V1__Plan *p, size_t ninputs) {
  for (size_t v = 0; v < p->n_vars; v++) {
    const Kiln__V1__PlanVar *var = p->vars[v];
    if (var->min > var->max || var->min < 0 || var->multiple > INT64_MAX)
      return BROKEN("VAR %zu: bounds", v);
    if (var->source == KILN__V1__PLAN_VAR__SOURCE__INPUT && var->slot >= ninputs)
      return BROKEN("VAR %zu: input %u", v, var->slot);
  }
  return NULL;
}

/* The number, from 1, of the last BIND that a program waits for. */
static Status phase_of(const PlanSizes *s, const Kiln__V1__SizeProgram *p, uint32_t *out) {
  const Kiln__V1__Plan *plan = s->m->plan;
  for (size_t v = 0; p && v < s->nvars; v++) {
    if (plan->vars[v]->source != KILN__V1__PLAN_VAR__SOURCE__BOUND || !size_program_uses(p, v))
      continue;
    uint32_t phase = plan_sizes_phase(s, (uint32_t)v);
    if (!phase) return BROKEN("VAR %zu is never bound", v);
    if (phase > *out) *out = phase;
  }
  return NULL;
}

static Status check_buffer(PlanSizes *s, size_t i) {
  const Kiln__V1__PlanBuffer *b = s->m->plan->buffers[i];
  BufferSize *size = &s->buffers[i];
  if (b->size) TRY(size_program_check(b->size, s->nvars));
  if (b->place) TRY(size_program_check(b->place, s->nvars));
  if (is_fixed(b) && (b->size || b->place)) return BROKEN("buffer %zu is a constant", i);
  *size = (BufferSize){.bytes = b->bytes, .offset = b->offset};
  if (!is_temp(b)) return NULL;
  size_t steps = s->m->plan->n_steps;
  const Kiln__V1__PlanBuffer *whole =
      b->whole < s->m->plan->n_buffers ? s->m->plan->buffers[b->whole] : NULL;
  if (!whole || !is_temp(whole) || whole->whole != b->whole)
    return BROKEN("temporary %zu is part of buffer %u", i, b->whole);
  if (b->whole == i && (b->first > b->last || b->last >= steps))
    return BROKEN("temporary %zu lives from step %u to %u of %zu", i, b->first, b->last, steps);
  size->item.first = b->first;
  size->item.last = b->last;
  TRY(phase_of(s, whole->size, &size->phase));
  uint32_t own = 0;
  TRY(phase_of(s, b->size, &own));
  TRY(phase_of(s, b->place, &own));
  return own > size->phase ? BROKEN("temporary %zu is sized after its whole", i) : NULL;
}

static Status check_use(const PlanSizes *s, uint32_t buffer, size_t step) {
  const Kiln__V1__Plan *p = s->m->plan;
  if (buffer >= p->n_buffers) return BROKEN("buffer %u of %zu", buffer, p->n_buffers);
  if (!is_temp(p->buffers[buffer])) return NULL;
  const Kiln__V1__PlanBuffer *whole = p->buffers[p->buffers[buffer]->whole];
  bool alive = step >= whole->first && step <= whole->last;
  return alive ? NULL : BROKEN("step %zu uses temporary %u, which is not alive", step, buffer);
}

static Status check_steps(const PlanSizes *s) {
  const Kiln__V1__Plan *p = s->m->plan;
  for (size_t i = 0; i < p->n_steps; i++) {
    const Kiln__V1__PlanStep *step = p->steps[i];
    if (step->kind == KILN__V1__PLAN_STEP__KIND__BIND) {
      TRY(check_use(s, step->buffer, i));
      continue;
    }
    if (step->counter) TRY(check_use(s, step->counter - 1, i));
    if (step->condition) TRY(check_use(s, step->condition - 1, i));
    if (step->kind != KILN__V1__PLAN_STEP__KIND__CALL) continue;
    if (step->call >= p->n_calls) return BROKEN("call %u of %zu", step->call, p->n_calls);
    const Kiln__V1__PlanCall *call = p->calls[step->call];
    for (size_t a = 0; a < call->n_args; a++) TRY(check_use(s, call->args[a], i));
  }
  return NULL;
}

static Status check_shapes(const PlanSizes *s, size_t nslots) {
  if (s->m->n_shapes != nslots) return BROKEN("%zu shapes of %zu slots", s->m->n_shapes, nslots);
  for (size_t i = 0; i < nslots; i++) {
    const Kiln__V1__SlotShape *shape = s->m->shapes[i];
    if (!shape->item_bytes) return BROKEN("slot %zu has elements of no bytes", i);
    for (size_t k = 0; k < shape->n_dims; k++) {
      TRY(size_program_check(shape->dims[k], s->nvars));
      TRY(phase_of(s, shape->dims[k], &s->slot_phase[i]));
    }
    if (s->slot_phase[i] && i < s->m->n_input_bytes) return BROKEN("input %zu is computed", i);
  }
  return NULL;
}

static Status allocate(PlanSizes *s, size_t nslots, size_t noutputs) {
  const Kiln__V1__Plan *p = s->m->plan;
  s->nvars = p->n_vars;
  s->vars = calloc(s->nvars + 1, sizeof *s->vars);
  s->known = calloc(s->nvars + 1, sizeof *s->known);
  s->nphases = 1;
  for (size_t i = 0; i < p->n_steps; i++)
    s->nphases += p->steps[i]->kind == KILN__V1__PLAN_STEP__KIND__BIND;
  s->arena_bytes = calloc(s->nphases, sizeof *s->arena_bytes);
  s->buffers = calloc(p->n_buffers + 1, sizeof *s->buffers);
  s->slot_bytes = calloc(nslots + 1, sizeof *s->slot_bytes);
  s->slot_phase = calloc(nslots + 1, sizeof *s->slot_phase);
  s->dims = calloc(noutputs + 1, sizeof *s->dims);
  s->dims_list = calloc(noutputs + 1, sizeof *s->dims_list);
  if (!s->vars || !s->known || !s->arena_bytes || !s->buffers || !s->slot_bytes || !s->slot_phase ||
      !s->dims || !s->dims_list)
    return FAIL(RESOURCE_EXHAUSTED, "sizes of a plan");
  return NULL;
}

static Status allocate_dims(PlanSizes *s, size_t ninputs, size_t noutputs) {
  for (size_t i = 0; i < noutputs; i++) {
    size_t n = s->m->shapes[ninputs + i]->n_dims;
    kiln__v1__tensor_dims__init(&s->dims[i]);
    s->dims[i].dims = calloc(n + 1, sizeof *s->dims[i].dims);
    if (!s->dims[i].dims) return FAIL(RESOURCE_EXHAUSTED, "sizes of a plan");
    s->dims[i].n_dims = n;
    s->dims_list[i] = &s->dims[i];
  }
  return NULL;
}

static Status fill(PlanSizes *s, const Kiln__V1__LoadExecutable *m) {
  size_t nslots = m->n_input_bytes + m->n_output_bytes;
  TRY(copy_message(m, &s->m));
  TRY(check_vars(s->m->plan, m->n_input_bytes));
  TRY(allocate(s, nslots, m->n_output_bytes));
  for (size_t i = 0; i < s->m->plan->n_buffers; i++) TRY(check_buffer(s, i));
  TRY(check_steps(s));
  TRY(check_shapes(s, nslots));
  return allocate_dims(s, m->n_input_bytes, m->n_output_bytes);
}

Status plan_sizes_create(const Kiln__V1__LoadExecutable *m, PlanSizes **out) {
  *out = NULL;
  if (!m->plan->n_vars) return NULL;
  PlanSizes *s = calloc(1, sizeof *s);
  if (!s) return FAIL(RESOURCE_EXHAUSTED, "sizes of a plan");
  Status st = fill(s, m);
  if (st)
    plan_sizes_release(s);
  else
    *out = s;
  return st;
}

void plan_sizes_release(PlanSizes *s) {
  if (!s) return;
  size_t noutputs = s->m && s->dims ? s->m->n_shapes - s->m->n_input_bytes : 0;
  if (s->m && s->m->n_shapes < s->m->n_input_bytes) noutputs = 0; /* refused */
  for (size_t i = 0; i < noutputs && s->dims_list; i++) free(s->dims[i].dims);
  if (s->m) kiln__v1__load_executable__free_unpacked(s->m, NULL);
  free(s->vars);
  free(s->known);
  free(s->arena_bytes);
  free(s->buffers);
  free(s->slot_bytes);
  free(s->slot_phase);
  free(s->dims);
  free(s->dims_list);
  free(s);
}

uint32_t plan_sizes_phase(const PlanSizes *s, uint32_t var) {
  const Kiln__V1__Plan *p = s->m->plan;
  uint32_t phase = 0;
  for (size_t i = 0; i < p->n_steps; i++) {
    if (p->steps[i]->kind != KILN__V1__PLAN_STEP__KIND__BIND) continue;
    phase++;
    if (p->steps[i]->var == var) return phase;
  }
  return 0;
}

/* -- evaluation ---------------------------------------------------------------------------------
 */

static bool is_exact(const PlanSizes *s, const Kiln__V1__SizeProgram *p) {
  for (size_t v = 0; p && v < s->nvars; v++)
    if (!s->known[v] && size_program_uses(p, v)) return false;
  return true;
}

/* The value, or its upper bound while a VAR has none. */
static Status evaluate(const PlanSizes *s, const Kiln__V1__SizeProgram *p, uint64_t *out) {
  bool ok;
  *out = 0;
  if (is_exact(s, p)) {
    int64_t value;
    ok = size_program_eval(p, s->vars, &value);
    *out = (uint64_t)value;
  } else {
    SizeRange *ranges = calloc(s->nvars + 1, sizeof *ranges), r;
    if (!ranges) return FAIL(RESOURCE_EXHAUSTED, "sizes of a run");
    for (size_t v = 0; v < s->nvars; v++) {
      const Kiln__V1__PlanVar *var = s->m->plan->vars[v];
      ranges[v] =
          s->known[v] ? (SizeRange){s->vars[v], s->vars[v]} : (SizeRange){var->min, var->max};
    }
    ok = size_program_range(p, ranges, &r);
    *out = (uint64_t)r.high;
    free(ranges);
  }
  return ok ? NULL : FAIL(RESOURCE_EXHAUSTED, "a size of the run overflows or is negative");
}

static Status slot_size(PlanSizes *s, size_t slot, uint64_t *dims) {
  const Kiln__V1__SlotShape *shape = s->m->shapes[slot];
  size_t total = shape->item_bytes;
  bool empty = false, fits = true;
  for (size_t k = 0; k < shape->n_dims; k++) {
    uint64_t d;
    TRY(evaluate(s, shape->dims[k], &d));
    if (dims) dims[k] = d;
    empty = empty || !d;
    fits = fits && (!d || size_mul(total, d, &total));
  }
  if (!empty && (!fits || total > INT64_MAX))
    return FAIL(RESOURCE_EXHAUSTED, "a tensor of the run is too large");
  s->slot_bytes[slot] = empty ? 0 : total;
  return NULL;
}

/* Inputs, outputs, states. */
static bool on_slot(const Kiln__V1__PlanBuffer *b) { return !is_temp(b) && !is_fixed(b); }

/* Size and place of a buffer in its slot, its whole temporary or by itself. */
static Status size_buffer(PlanSizes *s, size_t i) {
  const Kiln__V1__PlanBuffer *b = s->m->plan->buffers[i];
  BufferSize *size = &s->buffers[i];
  if (b->size) TRY(evaluate(s, b->size, &size->bytes));
  uint64_t at = b->offset, room = UINT64_MAX;
  if (b->place) TRY(evaluate(s, b->place, &at));
  if (on_slot(b)) {
    if (b->slot >= s->m->n_shapes) return BROKEN("slot %u of %zu", b->slot, s->m->n_shapes);
    room = s->slot_bytes[b->slot];
  }
  if (is_temp(b) && b->whole != i) {
    const BufferSize *whole = &s->buffers[b->whole];
    room = whole->bytes;
    if (at <= room && size->bytes <= room - at) {
      size->offset = whole->item.offset + at;
      return NULL;
    }
  }
  /* Bounds of two expressions need not be in the order of their values. */
  if (!is_exact(s, b->size) && size->bytes > room && at <= room) size->bytes = room - at;
  if (at > room || size->bytes > room - at)
    return BROKEN("buffer %zu: %" PRIu64 " bytes at %" PRIu64 " of %" PRIu64, i, size->bytes, at,
                  room);
  if (is_temp(b))
    size->item.bytes = size->bytes;
  else
    size->offset = at;
  return NULL;
}

static bool is_open(const PlanSizes *s, uint32_t slot) {
  return slot < s->m->n_shapes && s->slot_phase[slot] > 0;
}

Status plan_sizes_open(PlanSizes *s, size_t slot) {
  TRY(slot_size(s, slot, NULL));
  for (size_t i = 0; i < s->m->plan->n_buffers; i++) {
    const Kiln__V1__PlanBuffer *b = s->m->plan->buffers[i];
    if (on_slot(b) && b->slot == slot) TRY(size_buffer(s, i));
  }
  return NULL;
}

static Status lay_out(PlanSizes *s, uint32_t phase) {
  const Kiln__V1__Plan *p = s->m->plan;
  ArenaItem **items = calloc(p->n_buffers + 1, sizeof *items);
  size_t n = 0;
  Status st = items ? NULL : FAIL(RESOURCE_EXHAUSTED, "sizes of a run");
  for (size_t i = 0; !st && i < p->n_buffers; i++) {
    if (!is_temp(p->buffers[i]) || p->buffers[i]->whole != i || s->buffers[i].phase != phase)
      continue;
    st = size_buffer(s, i);
    items[n++] = &s->buffers[i].item;
  }
  if (!st) st = arena_layout(items, n, &s->arena_bytes[phase]);
  for (size_t i = 0; !st && i < p->n_buffers; i++) {
    bool temp = is_temp(p->buffers[i]), whole = temp && p->buffers[i]->whole == i;
    if (whole && s->buffers[i].phase == phase) s->buffers[i].offset = s->buffers[i].item.offset;
    bool slot = on_slot(p->buffers[i]), open = slot && is_open(s, p->buffers[i]->slot);
    if ((temp && !whole && s->buffers[i].phase == phase) || (!temp && phase == 0 && !open))
      st = size_buffer(s, i);
  }
  free(items);
  return st;
}

static Status check_value(const PlanSizes *s, size_t v, int64_t value, StatusCode code) {
  const Kiln__V1__PlanVar *var = s->m->plan->vars[v];
  if (value < var->min || value > var->max)
    return status_new(code, NULL, __FILE__, __LINE__,
                      "'%s' is %" PRId64 ", outside of its bounds [%" PRId64 ", %" PRId64 "]",
                      var->name, value, var->min, var->max);
  if (var->multiple > 1 && value % (int64_t)var->multiple)
    return status_new(code, NULL, __FILE__, __LINE__,
                      "'%s' is %" PRId64 ", which is no multiple of %" PRIu64, var->name, value,
                      var->multiple);
  return NULL;
}

Status plan_sizes_begin(PlanSizes *s, const int64_t *vars, size_t n, bool *changed) {
  const Kiln__V1__Plan *p = s->m->plan;
  *changed = true;
  if (n != s->nvars) return BROKEN("%zu values for %zu VARs", n, s->nvars);
  for (size_t v = 0; v < n; v++) {
    bool input = p->vars[v]->source == KILN__V1__PLAN_VAR__SOURCE__INPUT;
    s->known[v] = input;
    if (!input) continue;
    TRY(check_value(s, v, vars[v], ST_INTERNAL));
    s->laid_out = s->laid_out && s->vars[v] == vars[v];
    s->vars[v] = vars[v];
  }
  if (s->nphases > 1) s->laid_out = false; /* outputs have the true sizes of the run before */
  *changed = !s->laid_out;
  if (s->laid_out) return NULL;
  for (size_t i = 0; i < s->m->n_shapes; i++) {
    s->slot_bytes[i] = 0;
    if (!is_open(s, (uint32_t)i)) TRY(slot_size(s, i, NULL));
  }
  TRY(lay_out(s, 0));
  s->laid_out = true;
  return NULL;
}

Status plan_sizes_bind(PlanSizes *s, uint32_t var, int64_t value) {
  TRY(check_value(s, var, value, ST_OUT_OF_RANGE));
  s->vars[var] = value;
  s->known[var] = true;
  return lay_out(s, plan_sizes_phase(s, var));
}

Status plan_sizes_end(PlanSizes *s) {
  size_t ninputs = s->m->n_input_bytes;
  for (size_t i = ninputs; i < s->m->n_shapes; i++) TRY(slot_size(s, i, s->dims[i - ninputs].dims));
  return NULL;
}
