/* Slots are numbered late: while the graph is built, weights have provisional slots from
 * FRONT_WEIGHTS on, and front_finish keeps those that the outputs reach, in the order of the final
 * graph. That order is a function of the graph alone, so equal models get equal slots.
 *
 * Folding runs the reference interpreter on the subgraph below a value. It is bounded by the number
 * of elements that the subgraph touches, and happens once per value. */
#include "compiler/frontend/front.h"

#include <assert.h>

#include "compiler/ir/interp.h"
#include "proto/random.h"

static const int64_t FOLD_WORK = 4 << 20; /* elements of all nodes of a folded subgraph */

Val *val_from_uop(Front *f, UOp *u, bool dynamic) {
  Val *v = arena_alloc(&f->job->arena, sizeof *v);
  *v = (Val){.dtype = uop_dtype(u), .shape = u->shape, .u = u, .dynamic = dynamic};
  return v;
}

Val *val_from_data(Front *f, DType dtype, Ints shape, const void *data) {
  Val *v = arena_alloc(&f->job->arena, sizeof *v);
  int64_t *dims = arena_copy(&f->job->arena, shape.at, shape.n * sizeof *dims);
  *v = (Val){.dtype = dtype, .shape = {dims, shape.n}, .data = data};
  return v;
}

Val *val_from_i64(Front *f, const int64_t *v, size_t n) {
  int64_t dim = (int64_t)n;
  return val_from_data(f, DT_I64, shape_make(&dim, 1),
                       arena_copy(&f->job->arena, v, n * sizeof *v));
}

Val *val_sequence(Front *f, DType dtype, Val *const *items, size_t n) {
  Val *v = arena_alloc(&f->job->arena, sizeof *v);
  *v = (Val){.kind = VAL_SEQUENCE, .dtype = dtype, .nitems = n};
  v->items = arena_copy(&f->job->arena, items, n * sizeof(Val *));
  for (size_t i = 0; i < n; i++) v->dynamic |= items[i]->dynamic;
  return v;
}

Val *val_none(Front *f) {
  Val *v = arena_alloc(&f->job->arena, sizeof *v);
  *v = (Val){.kind = VAL_NONE, .dtype = DT_VOID};
  return v;
}

Val *front_input(Front *f, Str name, DType dtype, Ints shape) {
  if (str_is(name, RANDOM_INPUT))
    job_abort(f->job, FAIL(INVALID_ARGUMENT, "the name '%s' is reserved", RANDOM_INPUT));
  for (size_t i = 0; i < f->inputs.len; i++)
    if (str_eq(f->inputs.at[i]->name, name))
      job_abort(f->job,
                FAIL(INVALID_ARGUMENT, "two inputs are named '" STR_FMT "'", STR_ARG(name)));
  return front_implicit(f, name, dtype, shape);
}

Val *front_implicit(Front *f, Str name, DType dtype, Ints shape) {
  UOp *u = uop_param(f->job, (int64_t)f->inputs.len, dtype, shape.at, shape.n);
  Val *v = val_from_uop(f, u, true);
  v->name = name;
  avec_push(&f->job->arena, &f->inputs, v);
  return v;
}

void front_output(Front *f, Str name, UOp *u) {
  for (size_t i = 0; i < f->outputs.len; i++)
    if (str_eq(f->outputs.at[i].name, name))
      job_abort(f->job,
                FAIL(INVALID_ARGUMENT, "two outputs are named '" STR_FMT "'", STR_ARG(name)));
  FrontOutput o = {name, u};
  avec_push(&f->job->arena, &f->outputs, o);
}

/* -- sizes ----------------------------------------------------------------------------------- */

static const DimBinding *find_binding(Front *f, Str name, const char *own) {
  if (!f->dim_used) f->dim_used = arena_alloc(&f->job->arena, f->options->ndims);
  for (size_t i = 0; i < f->options->ndims; i++) {
    const DimBinding *b = &f->options->dims[i];
    if (!(name.len && str_eq(b->name, name)) && !str_is(b->name, own)) continue;
    f->dim_used[i] = true;
    return b;
  }
  return NULL;
}

static int64_t add_var(Front *f, GraphVar v) {
  Job *job = f->job;
  if (v.min < 0 || v.max < v.min || v.max > (int64_t)1 << 40 || v.divisor < 1 ||
      v.max / v.divisor * v.divisor < v.min)
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "dimension '" STR_FMT "' is to be a multiple of %lld in [%lld, %lld]",
                        STR_ARG(v.name), (long long)v.divisor, (long long)v.min, (long long)v.max));
  if (f->vars.len > UINT16_MAX)
    job_abort(job, FAIL(RESOURCE_EXHAUSTED, "more than %d sizes are left to the run", UINT16_MAX));
  UOp *u = uop_var(job, (int64_t)f->vars.len, v.min, v.max, v.divisor);
  avec_push(&job->arena, &f->vars, v);
  return dim_of(job, u);
}

static int64_t var_dim(Front *f, size_t k) {
  const GraphVar *v = &f->vars.at[k];
  return dim_of(f->job, uop_var(f->job, (int64_t)k, v->min, v->max, v->divisor));
}

static bool fixed_dim(const Front *f, Str name, int64_t *dim) {
  for (size_t k = 0; k < f->fixed.len; k++)
    if (str_eq(f->fixed.at[k].name, name)) return *dim = f->fixed.at[k].size, true;
  return false;
}

bool front_find_dim(Front *f, Str name, int64_t *dim) {
  if (fixed_dim(f, name, dim)) return true;
  for (size_t k = 0; k < f->vars.len; k++) {
    if (f->vars.at[k].source != VAR_INPUT || !str_eq(f->vars.at[k].name, name)) continue;
    *dim = var_dim(f, k);
    return true;
  }
  const DimBinding *b = find_binding(f, name, "");
  if (!b || b->max > 0) return false;
  *dim = b->size;
  return true;
}

int64_t front_dim(Front *f, Str input, size_t axis, Str name, DimRange own) {
  Job *job = f->job;
  const char *plain = arena_printf(&job->arena, STR_FMT ".%zu", STR_ARG(input), axis);
  const DimBinding *b = find_binding(f, name, plain);
  if (b && b->max == 0) {
    if (b->size < 0)
      job_abort(job, FAIL(INVALID_ARGUMENT, "dimension '" STR_FMT "' is bound to %lld",
                          STR_ARG(b->name), (long long)b->size));
    return b->size;
  }
  if (!name.len) name = str_from(plain);
  int64_t fixed;
  if (fixed_dim(f, name, &fixed)) return fixed;
  for (size_t k = 0; k < f->vars.len; k++)
    if (str_eq(f->vars.at[k].name, name)) return var_dim(f, k);
  if (b) own = (DimRange){b->min, b->max, b->multiple};
  if (own.max == 0) own = (DimRange){1, FRONT_DIM_MAX, own.multiple};
  if (own.multiple == 0) own.multiple = 1;
  int64_t size = own.multiple > 0 ? own.max / own.multiple * own.multiple : 0;
  if (size >= own.min && size - own.multiple < own.min) { /* there is no other */
    FrontDim only = {name, size};
    avec_push(&job->arena, &f->fixed, only);
    return size;
  }
  return add_var(f, (GraphVar){.name = name,
                               .min = own.min,
                               .max = own.max,
                               .divisor = own.multiple,
                               .source = VAR_INPUT,
                               .slot = (uint32_t)f->inputs.len,
                               .axis = (uint32_t)axis});
}

int64_t front_bind(Front *f, UOp *value, int64_t min, int64_t max, const char *what) {
  value = build_cast(f->job, value, DT_I64);
  if (value->shape.n) value = build_reshape(f->job, value, (Ints){0});
  if (f->guard) value = build_where(f->job, f->guard, value, uop_int(f->job, DT_I64, min));
  for (size_t k = 0; k < f->binds.len; k++) {
    const UOp *v = f->binds.at[k].var;
    if (f->binds.at[k].value == value && v->vmin >= min && v->vmax <= max)
      return var_dim(f, (size_t)v->arg.i);
  }
  size_t k = f->vars.len;
  int64_t dim = add_var(
      f, (GraphVar){
             .name = str_from(what), .min = min, .max = max, .divisor = 1, .source = VAR_BOUND});
  const GraphVar *v = &f->vars.at[k];
  FrontBind b = {uop_var(f->job, (int64_t)k, v->min, v->max, v->divisor), value};
  avec_push(&f->job->arena, &f->binds, b);
  return dim;
}

void front_require(Job *job, UOp *condition, const char *otherwise) {
  Front *f = job->frontend;
  if (f->guard) condition = build2(job, OP_OR, condition, build_not(job, f->guard));
  if (uop_is_const(condition)) {
    if (!condition->arg.i) job_abort(job, FAIL(INVALID_ARGUMENT, "%s", otherwise));
    return;
  }
  UOp *bad = build_where(job, condition, uop_int(job, DT_I64, 0), uop_int(job, DT_I64, 2));
  front_bind(f, bad, 0, 1, otherwise);
}

int64_t front_static(Job *job, int64_t dim, const char *what) {
  if (dim_is_static(dim)) return dim;
  job_abort(job, FAIL(UNIMPLEMENTED, "%s is %s, which a run decides: it has to be a number here",
                      what, dim_text(job, dim)));
}

int64_t front_binding(Front *f, Str name, int64_t absent) {
  if (!f->dim_used) f->dim_used = arena_alloc(&f->job->arena, f->options->ndims);
  for (size_t i = 0; i < f->options->ndims; i++) {
    if (!str_eq(f->options->dims[i].name, name)) continue;
    f->dim_used[i] = true;
    return f->options->dims[i].size;
  }
  return absent;
}

void front_dims_used(Front *f) {
  for (size_t i = 0; i < f->options->ndims; i++)
    if (!f->dim_used || !f->dim_used[i])
      job_abort(f->job, FAIL(INVALID_ARGUMENT, "no input has a symbolic dimension '" STR_FMT "'",
                             STR_ARG(f->options->dims[i].name)));
}

/* -- loops ----------------------------------------------------------------------------------- */

UOp *front_local(Front *f, DType dtype, Ints shape) {
  int64_t slot = FRONT_LOCALS + (int64_t)f->locals.len;
  UOp *u = uop_param(f->job, slot, dtype, shape.at, shape.n);
  avec_push(&f->job->arena, &f->locals, u);
  return u;
}

UOp *front_loop_var(Front *f, int64_t most) {
  size_t k = f->vars.len;
  add_var(f,
          (GraphVar){.name = STR("iteration"), .max = most - 1, .divisor = 1, .source = VAR_LOOP});
  return uop_var(f->job, (int64_t)k, 0, most - 1, 1);
}

FrontMark front_mark(const Front *f) {
  return (FrontMark){.vars = f->vars.len,
                     .binds = f->binds.len,
                     .locals = f->locals.len,
                     .updates = f->updates.len,
                     .iterations = f->iterations.len,
                     .nrandom = f->nrandom};
}

void front_rewind(Front *f, FrontMark m) {
  f->vars.len = m.vars;
  f->binds.len = m.binds;
  f->locals.len = m.locals;
  f->updates.len = m.updates;
  f->iterations.len = m.iterations;
  f->nrandom = m.nrandom;
}

typedef struct Since {
  size_t first;
  const bool *dependent; /* by VAR; NULL: all made since */
  bool any;
} Since;

static void look(void *ctx, const UOp *var) {
  Since *s = ctx;
  bool made = (size_t)var->arg.i >= s->first;
  s->any |= made && (!s->dependent || s->dependent[var->arg.i]);
}

static bool depends_on(Front *f, UOp *u, Since s) {
  UOpList list = uop_toposort_dims(f->job, u);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_VAR) look(&s, list.at[i]);
  return s.any;
}

size_t front_take_binds(Front *f, FrontMark m, const UOp *var, UOp **out) {
  bool *dependent = arena_array(&f->job->arena, f->vars.len + 1, sizeof *dependent);
  size_t n = 0, kept = m.binds;
  dependent[var->arg.i] = true;
  for (size_t k = m.binds; k < f->binds.len; k++) { /* a BIND depends on earlier ones only */
    FrontBind b = f->binds.at[k];
    Since s = {.first = m.vars, .dependent = dependent};
    if (depends_on(f, b.value, s)) {
      dependent[b.var->arg.i] = true;
      out[n++] = uop2(f->job, OP_BIND, b.var, b.value);
    } else {
      f->binds.at[kept++] = b;
    }
  }
  f->binds.len = kept;
  return n;
}

bool front_shape_since(Front *f, FrontMark m, Ints shape) {
  for (uint32_t k = 0; k < shape.n; k++) {
    Since s = {.first = m.vars};
    if (!dim_is_static(shape.at[k]) && depends_on(f, dim_node(shape.at[k]), s)) return true;
  }
  return false;
}

/* -- data ------------------------------------------------------------------------------------ */

int64_t data_int(DType dtype, const uint8_t *data, int64_t k) {
  return scalar_load(dtype, data + k * dtype_info[dtype].bytes).i;
}

double data_float(DType dtype, const uint8_t *data, int64_t k) {
  return scalar_load(dtype, data + k * dtype_info[dtype].bytes).f;
}

static Scalar data_scalar(const Val *v, int64_t k) {
  if (dtype_is_float(v->dtype)) return (Scalar){.f = data_float(v->dtype, v->data, k)};
  return (Scalar){.i = data_int(v->dtype, v->data, k)};
}

/* True when all elements have the same bits. Weights differ early, so this is cheap. */
static bool is_uniform(const Val *v, int64_t numel) {
  size_t item = dtype_info[v->dtype].bytes;
  for (int64_t k = 1; k < numel; k++)
    if (memcmp(v->data, v->data + (size_t)k * item, item) != 0) return false;
  return true;
}

UOp *val_uop(Front *f, Val *v) {
  if (v->u) return v->u;
  if (v->kind != VAL_TENSOR)
    job_abort(f->job,
              FAIL(INVALID_ARGUMENT, "'" STR_FMT "' is %s, expected a tensor", STR_ARG(v->name),
                   v->kind == VAL_SEQUENCE ? "a sequence" : "an optional without a value"));
  int64_t n = shape_numel(v->shape);
  if (n == 0) {
    v->u = build_splat(f->job, uop_number(f->job, v->dtype, 0), v->shape);
  } else if (is_uniform(v, n)) {
    v->u = build_splat(f->job, uop_scalar(f->job, v->dtype, data_scalar(v, 0)), v->shape);
  } else {
    int64_t slot = FRONT_WEIGHTS + (int64_t)f->weights.len;
    v->u = uop_param(f->job, slot, v->dtype, v->shape.at, v->shape.n);
    avec_push(&f->job->arena, &f->weights, v);
  }
  return v->u;
}

const Val *front_weight(const Front *f, const UOp *u) {
  if (u->op != OP_PARAM || u->arg.i < FRONT_WEIGHTS || u->arg.i >= FRONT_LOCALS) return NULL;
  return f->weights.at[u->arg.i - FRONT_WEIGHTS];
}

/* -- folding --------------------------------------------------------------------------------- */

static bool foldable(const Front *f, const UOpList *nodes) {
  int64_t work = 0;
  for (size_t i = 0; i < nodes->len; i++) {
    const UOp *u = nodes->at[i];
    if (u->symbolic || (u->op == OP_PARAM && !front_weight(f, u))) return false;
    int64_t n = shape_numel(u->shape);
    if (n > FOLD_WORK || (work += n) > FOLD_WORK) return false;
  }
  return true;
}

/* The weights below `root` get slots 1, 2, ...; their bytes are copied, which also aligns them. */
static UOp *compact(Front *f, UOp *root, const UOpList *nodes, InterpBuffer *slots, size_t *n) {
  Arena *arena = &f->job->arena;
  UOp **from = arena_array(arena, nodes->len, sizeof *from);
  UOp **to = arena_array(arena, nodes->len, sizeof *to);
  size_t k = 0;
  for (size_t i = 0; i < nodes->len; i++) {
    UOp *u = nodes->at[i];
    if (u->op != OP_PARAM) continue;
    const Val *w = f->weights.at[u->arg.i - FRONT_WEIGHTS];
    size_t bytes = (size_t)shape_numel(w->shape) * dtype_info[w->dtype].bytes;
    from[k] = u;
    to[k] = uop_param(f->job, (int64_t)k + 1, w->dtype, w->shape.at, w->shape.n);
    slots[++k] = (InterpBuffer){arena_copy(arena, w->data, bytes), bytes};
  }
  *n = k + 1;
  return k ? uop_substitute(f->job, root, from, to, k) : root;
}

static const uint8_t *evaluate(Front *f, const Val *v) {
  Job *job = f->job;
  UOpList nodes = uop_toposort(job, v->u);
  if (!foldable(f, &nodes)) return NULL;
  size_t n, bytes = (size_t)shape_numel(v->shape) * dtype_info[v->dtype].bytes;
  InterpBuffer *slots = arena_array(&job->arena, nodes.len + 1, sizeof *slots);
  UOp *value = compact(f, v->u, &nodes, slots, &n);
  slots[0] = (InterpBuffer){arena_alloc(&job->arena, bytes ? bytes : 1), bytes};
  UOp *out = uop_param(job, 0, v->dtype, v->shape.at, v->shape.n);
  UOp *store = uop2(job, OP_STORE, out, value);
  Status st = interp_tensor(job, uop_make(job, OP_SINK, DT_VOID, arg_none(), &store, 1), slots, n);
  if (st) job_abort(job, WRAP(st, "folding a constant"));
  return slots[0].data;
}

const uint8_t *val_data(Front *f, Val *v) {
  if (!v->data && !v->dynamic) v->data = evaluate(f, v);
  return v->data;
}

void val_fold(Front *f, Val *v) {
  if (v->data || v->dynamic || v->u->symbolic || build_splat_value(v->u)) return;
  if (shape_numel(v->shape) > FRONT_FOLD || !val_data(f, v)) return;
  v->u = NULL;
}

/* -- the finished graph ---------------------------------------------------------------------- */

static GraphSlot slot_of(const UOp *u, SlotKind kind, Str name) {
  return (GraphSlot){.kind = kind, .name = name, .dtype = uop_dtype(u), .shape = u->shape};
}

/* Weight bytes inside the model stay there; others are appended to the constants, 64-aligned. */
static void place(Front *f, TensorGraph *out, GraphSlot *s, const Val *v) {
  size_t bytes = (size_t)shape_numel(v->shape) * dtype_info[v->dtype].bytes;
  uintptr_t at = (uintptr_t)v->data, model = (uintptr_t)f->model.ptr;
  s->bytes = bytes;
  if (at >= model && at < model + f->model.len) {
    s->offset = at - model;
    return;
  }
  static const char zeros[64];
  if (out->constants.len % 64) strbuf_add(&out->constants, zeros, 64 - out->constants.len % 64);
  s->in_constants = true;
  s->offset = out->constants.len;
  strbuf_add(&out->constants, v->data, bytes);
  if (out->constants.failed)
    job_abort(f->job, FAIL(RESOURCE_EXHAUSTED, "out of memory for %zu bytes of constants", bytes));
}

/* Locals get the slots behind all others. Returns how many there are. */
static size_t number_locals(Front *f, const UOpList *nodes, TensorGraph *out, size_t slot,
                            UOp **from, UOp **to) {
  size_t n = 0;
  for (size_t i = 0; i < nodes->len; i++) {
    UOp *u = nodes->at[i];
    if (u->op != OP_PARAM || u->arg.i < FRONT_LOCALS) continue;
    from[n] = u;
    to[n] = uop_param(f->job, (int64_t)(slot + n), uop_dtype(u), u->shape.at, u->shape.n);
    out->slots[slot + n] = slot_of(u, SLOT_LOCAL, STR("local"));
    out->slots[slot + n++].state = true;
  }
  return n;
}

void front_finish(Front *f, TensorGraph *out) {
  Job *job = f->job;
  size_t nin = f->inputs.len, nout = f->outputs.len, nw = 0;
  size_t nupdates = f->updates.len, nbinds = f->binds.len;
  UOp **stores = arena_array(&job->arena, nout + nbinds + nupdates, sizeof *stores);
  for (size_t i = 0; i < nout; i++) {
    UOp *u = f->outputs.at[i].u;
    int64_t slot = (int64_t)(nin + i);
    UOp *p = uop_param(job, slot, uop_dtype(u), u->shape.at, u->shape.n);
    stores[i] = uop2(job, OP_STORE, p, u);
  }
  for (size_t i = 0; i < nupdates; i++) stores[nout + i] = f->updates.at[i];
  for (size_t i = 0; i < nbinds; i++)
    stores[nout + nupdates + i] = uop2(job, OP_BIND, f->binds.at[i].var, f->binds.at[i].value);
  UOp *sink = uop_make(job, OP_SINK, DT_VOID, arg_none(), stores, nout + nupdates + nbinds);
  UOpList nodes = uop_toposort(job, sink);
  size_t most = f->weights.len + f->locals.len;
  out->slots = arena_array(&job->arena, nin + nout + most, sizeof *out->slots);
  UOp **from = arena_array(&job->arena, most, sizeof *from);
  UOp **to = arena_array(&job->arena, most, sizeof *to);
  for (size_t i = 0; i < nin; i++) {
    out->slots[i] = slot_of(f->inputs.at[i]->u, SLOT_INPUT, f->inputs.at[i]->name);
    out->slots[i].state = f->inputs.at[i]->state;
  }
  for (size_t i = 0; i < nout; i++)
    out->slots[nin + i] = slot_of(f->outputs.at[i].u, SLOT_OUTPUT, f->outputs.at[i].name);
  for (size_t i = 0; i < nodes.len; i++) {
    UOp *u = nodes.at[i];
    if (!front_weight(f, u)) continue;
    const Val *v = f->weights.at[u->arg.i - FRONT_WEIGHTS];
    size_t slot = nin + nout + nw;
    from[nw] = u;
    to[nw++] = uop_param(job, (int64_t)slot, v->dtype, v->shape.at, v->shape.n);
    out->slots[slot] = slot_of(u, SLOT_WEIGHT, v->name);
    place(f, out, &out->slots[slot], v);
  }
  out->nlocals = number_locals(f, &nodes, out, nin + nout + nw, from + nw, to + nw);
  size_t renamed = nw + out->nlocals;
  out->sink = renamed ? uop_substitute(job, sink, from, to, renamed) : sink;
  out->vars = f->vars.at;
  out->nvars = f->vars.len;
  out->values = f->values.at;
  out->nvalues = f->values.len;
  out->ninputs = nin;
  out->noutputs = nout;
  out->nslots = nin + nout + renamed;
}
