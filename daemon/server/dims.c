/* Names of one size in two inputs, sizes outside of their bounds: what a client can get wrong about
 * sizes is found here, before anything is sent to the device. */
#include "daemon/server/dims.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/channel/size_program.h"

/* -- interfaces ---------------------------------------------------------------------------------
 */

static Status check_shape(const Kiln__V1__FrontendDone *face, size_t i) {
  const Kiln__V1__SlotShape *shape = face->shapes[i];
  bool input = i < face->n_inputs;
  const Kiln__V1__TensorSpec *spec = input ? face->inputs[i] : face->outputs[i - face->n_inputs];
  if (shape->n_dims != spec->n_dims || !shape->item_bytes)
    return FAIL(INTERNAL, "'%s': shape and sizes differ", spec->name);
  if (spec->n_shape && spec->n_shape != spec->n_dims)
    return FAIL(INTERNAL, "'%s': shape and names differ", spec->name);
  for (size_t k = 0; k < shape->n_dims; k++) {
    const Kiln__V1__SizeProgram *p = shape->dims[k];
    TRY(size_program_check(p, face->n_vars));
    bool number = p->n_code == 2 && p->code[0] == 0;
    if (input && !number && size_program_var(p) < 0)
      return FAIL(INTERNAL, "input '%s' has a computed size", spec->name);
  }
  return NULL;
}

static Status check_var(const Kiln__V1__FrontendDone *face, size_t v) {
  const Kiln__V1__PlanVar *var = face->vars[v];
  if (var->min > var->max || var->min < 0 || var->multiple > INT64_MAX)
    return FAIL(INTERNAL, "VAR %zu has bounds [%" PRId64 ", %" PRId64 "]", v, var->min, var->max);
  if (var->source != KILN__V1__PLAN_VAR__SOURCE__INPUT) return NULL;
  bool known = var->slot < face->n_inputs && var->axis < face->shapes[var->slot]->n_dims &&
               size_program_var(face->shapes[var->slot]->dims[var->axis]) == (int64_t)v;
  return known ? NULL : FAIL(INTERNAL, "VAR %zu is not the size of an input", v);
}

Status dims_check(const Kiln__V1__FrontendDone *face) {
  if (!face->n_vars && !face->n_shapes) return NULL;
  if (face->n_shapes != face->n_inputs + face->n_outputs)
    return FAIL(INTERNAL, "%zu shapes of %zu tensors", face->n_shapes,
                face->n_inputs + face->n_outputs);
  for (size_t i = 0; i < face->n_shapes; i++) TRY(check_shape(face, i));
  for (size_t v = 0; v < face->n_vars; v++) TRY(check_var(face, v));
  return NULL;
}

/* -- options ------------------------------------------------------------------------------------
 */

static Status check_range(const Kiln__V1__Dim *d) {
  uint64_t multiple = d->multiple ? d->multiple : 1;
  if (!*d->name) return FAIL(INVALID_ARGUMENT, "bounds of a dimension without a name");
  if (d->size) return FAIL(INVALID_ARGUMENT, "dimension '%s' has bounds and a size", d->name);
  if (d->min > d->max || d->max > INT32_MAX)
    return FAIL(INVALID_ARGUMENT,
                "dimension '%s': [%" PRIu64 ",%" PRIu64
                "] are no bounds: expected min <= max <= %d",
                d->name, d->min, d->max, INT32_MAX);
  if (multiple > d->max || d->max / multiple * multiple < d->min)
    return FAIL(INVALID_ARGUMENT,
                "dimension '%s': no multiple of %" PRIu64 " lies in [%" PRIu64 ",%" PRIu64 "]",
                d->name, multiple, d->min, d->max);
  return NULL;
}

static int by_key(const void *a, const void *b) {
  const Kiln__V1__CompileOptions__DimsEntry *const *x = a, *const *y = b;
  return strcmp((*x)->key, (*y)->key);
}

static int by_name(const void *a, const void *b) {
  const Kiln__V1__Dim *const *x = a, *const *y = b;
  return strcmp((*x)->name, (*y)->name);
}

static Status add_number(Arena *arena, const char *name, uint64_t value,
                         Kiln__V1__CompileOptions *to) {
  Kiln__V1__CompileOptions__DimsEntry *d = arena_alloc(arena, sizeof *d);
  if (!d) return FAIL(RESOURCE_EXHAUSTED, "compile");
  kiln__v1__compile_options__dims_entry__init(d);
  d->key = arena_strdup(arena, (Str){name, strlen(name)});
  d->value = value;
  to->dims[to->n_dims++] = d;
  return d->key ? NULL : FAIL(RESOURCE_EXHAUSTED, "compile");
}

/* Its ends are the least and the largest multiple. */
static Status add_range(Arena *arena, const Kiln__V1__Dim *from, Kiln__V1__CompileOptions *to) {
  uint64_t multiple = from->multiple ? from->multiple : 1;
  uint64_t min = (from->min + multiple - 1) / multiple * multiple;
  uint64_t max = from->max / multiple * multiple;
  if (min == max) return add_number(arena, from->name, min, to);
  Kiln__V1__Dim *d = arena_alloc(arena, sizeof *d);
  if (!d) return FAIL(RESOURCE_EXHAUSTED, "compile");
  kiln__v1__dim__init(d);
  d->name = arena_strdup(arena, (Str){from->name, strlen(from->name)});
  d->min = min;
  d->max = max;
  d->multiple = multiple;
  to->ranges[to->n_ranges++] = d;
  return d->name ? NULL : FAIL(RESOURCE_EXHAUSTED, "compile");
}

static Status given_twice(const char *name) {
  return FAIL(INVALID_ARGUMENT, "dimension '%s' is given twice", name);
}

/* Both lists are sorted. */
static Status check_unique(const Kiln__V1__CompileOptions *o) {
  for (size_t i = 1; i < o->n_dims; i++)
    if (!strcmp(o->dims[i]->key, o->dims[i - 1]->key)) return given_twice(o->dims[i]->key);
  for (size_t i = 1; i < o->n_ranges; i++)
    if (!strcmp(o->ranges[i]->name, o->ranges[i - 1]->name)) return given_twice(o->ranges[i]->name);
  for (size_t i = 0, k = 0; i < o->n_dims && k < o->n_ranges;) {
    int order = strcmp(o->dims[i]->key, o->ranges[k]->name);
    if (!order) return given_twice(o->dims[i]->key);
    i += order < 0;
    k += order > 0;
  }
  return NULL;
}

Status dims_options(Arena *arena, const Kiln__V1__CompileOptions *from,
                    Kiln__V1__CompileOptions *to) {
  size_t numbers = from ? from->n_dims : 0, ranges = from ? from->n_ranges : 0;
  to->dims = arena_array(arena, numbers + ranges + 1, sizeof *to->dims);
  to->ranges = arena_array(arena, ranges + 1, sizeof *to->ranges);
  if (!to->dims || !to->ranges) return FAIL(RESOURCE_EXHAUSTED, "compile");
  for (size_t i = 0; i < numbers; i++)
    TRY(add_number(arena, from->dims[i]->key, from->dims[i]->value, to));
  for (size_t i = 0; i < ranges; i++) {
    TRY(check_range(from->ranges[i]));
    TRY(add_range(arena, from->ranges[i], to));
  }
  qsort(to->dims, to->n_dims, sizeof *to->dims, by_key);
  qsort(to->ranges, to->n_ranges, sizeof *to->ranges, by_name);
  return check_unique(to);
}

/* -- runs ---------------------------------------------------------------------------------------
 */

Status dims_begin(Arena *arena, const Kiln__V1__FrontendDone *face, RunDims *out) {
  out->vars = arena_array(arena, face->n_vars + 1, sizeof *out->vars);
  out->source = arena_array(arena, face->n_vars + 1, sizeof *out->source);
  return out->vars && out->source ? NULL : FAIL(RESOURCE_EXHAUSTED, "run");
}

static const char *name_of(const Kiln__V1__TensorSpec *spec, size_t axis, const char *fallback) {
  return spec->n_shape && *spec->shape[axis]->name ? spec->shape[axis]->name : fallback;
}

static Status bind_var(const Kiln__V1__FrontendDone *face, RunDims *d, size_t i, size_t axis,
                       size_t v, uint64_t size) {
  const Kiln__V1__PlanVar *var = face->vars[v];
  const Kiln__V1__TensorSpec *spec = face->inputs[i];
  const char *name = name_of(spec, axis, var->name);
  if (size < (uint64_t)var->min || size > (uint64_t)var->max)
    return FAIL(INVALID_ARGUMENT,
                "input '%s': dimension '%s' must be in [%" PRId64 ",%" PRId64 "], got %" PRIu64,
                spec->name, name, var->min, var->max, size);
  if (var->multiple > 1 && size % var->multiple)
    return FAIL(INVALID_ARGUMENT,
                "input '%s': dimension '%s' must be a multiple of %" PRIu64 ", got %" PRIu64,
                spec->name, name, var->multiple, size);
  if (d->source[v] && (uint64_t)d->vars[v] != size)
    return FAIL(INVALID_ARGUMENT,
                "input '%s': dimension '%s' is %" PRIu64 ", but input '%s' makes it %" PRId64,
                spec->name, name, size, d->source[v], d->vars[v]);
  d->vars[v] = (int64_t)size;
  d->source[v] = spec->name;
  return NULL;
}

Status dims_bind(const Kiln__V1__FrontendDone *face, RunDims *d, size_t i, const uint64_t *dims,
                 uint64_t *bytes) {
  const Kiln__V1__SlotShape *shape = face->shapes[i];
  const Kiln__V1__TensorSpec *spec = face->inputs[i];
  size_t total = shape->item_bytes;
  bool empty = false, fits = true;
  *bytes = 0;
  for (size_t k = 0; k < shape->n_dims; k++) {
    int64_t v = size_program_var(shape->dims[k]);
    if (v < 0 && dims[k] != spec->dims[k])
      return FAIL(INVALID_ARGUMENT,
                  "input '%s': axis %zu must have %" PRIu64 " elements, got %" PRIu64, spec->name,
                  k, spec->dims[k], dims[k]);
    if (v >= 0) TRY(bind_var(face, d, i, k, (size_t)v, dims[k]));
    empty = empty || !dims[k];
    fits = fits && (!dims[k] || size_mul(total, dims[k], &total));
  }
  if (!empty && !fits) return FAIL(INVALID_ARGUMENT, "input '%s' is too large", spec->name);
  *bytes = empty ? 0 : total;
  return NULL;
}

bool dims_open(const Kiln__V1__FrontendDone *face, size_t i) {
  const Kiln__V1__SlotShape *shape = face->shapes[face->n_inputs + i];
  for (size_t v = 0; v < face->n_vars; v++) {
    if (face->vars[v]->source == KILN__V1__PLAN_VAR__SOURCE__INPUT) continue;
    for (size_t k = 0; k < shape->n_dims; k++)
      if (size_program_uses(shape->dims[k], v)) return true;
  }
  return false;
}

Status dims_room(const Kiln__V1__FrontendDone *face, const RunDims *d, size_t i, uint64_t max,
                 uint64_t *bytes) {
  const Kiln__V1__SlotShape *shape = face->shapes[face->n_inputs + i];
  size_t total = shape->item_bytes;
  bool empty = false, fits = true;
  for (size_t k = 0; k < shape->n_dims && fits; k++) {
    int64_t size;
    fits = size_program_eval(shape->dims[k], d->vars, &size);
    empty = empty || (fits && !size);
    fits = fits && (!size || size_mul(total, (size_t)size, &total));
  }
  *bytes = empty ? 0 : total;
  if ((fits || empty) && *bytes <= max) return NULL;
  return FAIL(RESOURCE_EXHAUSTED,
              "output '%s' has %s%" PRIu64 " bytes for these inputs, this server allows %" PRIu64,
              face->outputs[i]->name, fits ? "" : "more than ", fits ? *bytes : max, max);
}
