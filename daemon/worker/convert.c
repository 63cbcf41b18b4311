/* Enumerations of the wire and of the compiler are matched by tables, so that neither side's
 * numbering leaks into the other. Allocation failure in the reply's arena is a Status. */
#include "daemon/worker/convert.h"

#include <stdio.h>

#include <inttypes.h>

#include "compiler/ir/text.h"
#include "compiler_id.h"
#include "proto/digest.h"

static Status no_memory(const char *what) {
  return FAIL(RESOURCE_EXHAUSTED, "no memory for %s", what);
}

Status convert_target(Arena *arena, const Kiln__V1__TargetSpec *spec, Target *out) {
  *out = (Target){0};
  if (!spec) return FAIL(INVALID_ARGUMENT, "the job names no target");
  *out = (Target){.kind = arena_strdup(arena, str_from(spec->kind)),
                  .triple = arena_strdup(arena, str_from(spec->triple)),
                  .cpu = arena_strdup(arena, str_from(spec->cpu)),
                  .features = arena_strdup(arena, str_from(spec->features)),
                  .compiler = arena_strdup(arena, str_from(spec->compiler)),
                  .vector_bytes = spec->vector_bytes,
                  .vector_registers = spec->vector_registers,
                  .threads = spec->threads,
                  .l1_bytes = spec->l1_bytes,
                  .l2_bytes = spec->l2_bytes,
                  .l3_bytes = spec->l3_bytes,
                  .memory_bytes = spec->memory_bytes,
                  .max_group = spec->max_group,
                  .warp = spec->warp,
                  .local_bytes = spec->local_bytes,
                  .max_buffers = spec->max_buffers};
  bool ok = out->kind && out->triple && out->cpu && out->features && out->compiler;
  return ok ? NULL : no_memory("the target");
}

static char *text(const char *s) { return (char *)(uintptr_t)(s ? s : ""); }

/* The library that generates code, and our own compiler by its sources: either may change what a
 * plan or kernel is. */
static char *compiler_text(const DeviceCaps *caps) {
  static char name[160];
  snprintf(name, sizeof name, "%s, kiln %s compiler %s", caps->compiler ? caps->compiler : "none",
           KILN_VERSION, KILN_COMPILER_ID);
  return name;
}

static double sensible(double v) { return v > 0 && v < 1e9 ? v : 0; }

void convert_peaks(const Kiln__V1__MachinePeaks *m, Target *out) {
  if (!m) return;
  out->peaks = (Peaks){.flops_f32 = sensible(m->flops_f32),
                       .flops_f64 = sensible(m->flops_f64),
                       .l2_bytes = sensible(m->l2_bytes),
                       .l3_bytes = sensible(m->l3_bytes),
                       .memory_bytes = sensible(m->memory_bytes),
                       .all_memory_bytes = sensible(m->all_memory_bytes)};
}

void convert_caps(const DeviceCaps *caps, Kiln__V1__TargetSpec *out) {
  kiln__v1__target_spec__init(out);
  out->kind = text(caps->kind);
  out->triple = text(caps->triple);
  out->cpu = text(caps->cpu);
  out->features = text(caps->features);
  out->compiler = compiler_text(caps);
  out->model = text(caps->model);
  out->vector_bytes = caps->vector_bytes;
  out->vector_registers = caps->vector_registers;
  out->threads = caps->threads;
  out->l1_bytes = caps->l1_bytes;
  out->l2_bytes = caps->l2_bytes;
  out->l3_bytes = caps->l3_bytes;
  out->memory_bytes = caps->memory_bytes;
  out->max_group = caps->max_group;
  out->warp = caps->warp;
  out->local_bytes = caps->local_bytes;
  out->max_buffers = caps->max_buffers;
}

Status convert_format(Kiln__V1__ModelFormat format, ModelKind *out) {
  switch (format) {
  case KILN__V1__MODEL_FORMAT__MODEL_FORMAT_ONNX: return *out = MODEL_ONNX, NULL;
  case KILN__V1__MODEL_FORMAT__MODEL_FORMAT_KGRAPH: return *out = MODEL_KGRAPH, NULL;
  default: return FAIL(INVALID_ARGUMENT, "unknown model format %d", (int)format);
  }
}

Status convert_dims(Arena *arena, const Kiln__V1__CompileOptions *options, FrontendOptions *out) {
  size_t n = options ? options->n_dims : 0, nranges = options ? options->n_ranges : 0;
  DimBinding *dims = arena_array(arena, n + nranges + 1, sizeof *dims);
  if (!dims) return no_memory("dimension bindings");
  for (size_t i = 0; i < n; i++) {
    const Kiln__V1__CompileOptions__DimsEntry *d = options->dims[i];
    if (d->value > INT64_MAX)
      return FAIL(INVALID_ARGUMENT, "dimension '%s' = %" PRIu64 " is too large", d->key, d->value);
    dims[i] = (DimBinding){.name = str_from(d->key), .size = (int64_t)d->value};
  }
  for (size_t i = 0; i < nranges; i++) {
    const Kiln__V1__Dim *d = options->ranges[i];
    if (!d->max || d->min > d->max || d->max > INT32_MAX || d->multiple > d->max)
      return FAIL(INVALID_ARGUMENT, "dimension '%s': bounds", d->name);
    dims[n + i] = (DimBinding){.name = str_from(d->name),
                               .min = (int64_t)d->min,
                               .max = (int64_t)d->max,
                               .multiple = d->multiple ? (int64_t)d->multiple : 1};
  }
  out->dims = dims;
  out->ndims = n + nranges;
  out->fast_math = options && options->fast_math;
  return NULL;
}

static bool dtype_to_wire(DType dtype, Kiln__V1__DType *out) {
  static const Kiln__V1__DType table[DT__COUNT] = {
      [DT_BOOL] = KILN__V1__DTYPE__DTYPE_BOOL,
      [DT_I8] = KILN__V1__DTYPE__DTYPE_I8,
      [DT_I16] = KILN__V1__DTYPE__DTYPE_I16,
      [DT_I32] = KILN__V1__DTYPE__DTYPE_I32,
      [DT_I64] = KILN__V1__DTYPE__DTYPE_I64,
      [DT_U8] = KILN__V1__DTYPE__DTYPE_U8,
      [DT_U16] = KILN__V1__DTYPE__DTYPE_U16,
      [DT_U32] = KILN__V1__DTYPE__DTYPE_U32,
      [DT_U64] = KILN__V1__DTYPE__DTYPE_U64,
      [DT_F16] = KILN__V1__DTYPE__DTYPE_F16,
      [DT_BF16] = KILN__V1__DTYPE__DTYPE_BF16,
      [DT_F32] = KILN__V1__DTYPE__DTYPE_F32,
      [DT_F64] = KILN__V1__DTYPE__DTYPE_F64,
      [DT_F8E4M3FN] = KILN__V1__DTYPE__DTYPE_F8E4M3FN,
      [DT_F8E4M3FNUZ] = KILN__V1__DTYPE__DTYPE_F8E4M3FNUZ,
      [DT_F8E5M2] = KILN__V1__DTYPE__DTYPE_F8E5M2,
      [DT_F8E5M2FNUZ] = KILN__V1__DTYPE__DTYPE_F8E5M2FNUZ,
      [DT_F8E8M0] = KILN__V1__DTYPE__DTYPE_F8E8M0,
      [DT_F4E2M1] = KILN__V1__DTYPE__DTYPE_F4E2M1,
      [DT_I4] = KILN__V1__DTYPE__DTYPE_I4,
      [DT_U4] = KILN__V1__DTYPE__DTYPE_U4,
      [DT_I2] = KILN__V1__DTYPE__DTYPE_I2,
      [DT_U2] = KILN__V1__DTYPE__DTYPE_U2,
  };
  *out = table[dtype];
  return *out != 0;
}

static Status convert_spec(Arena *arena, const TensorGraph *g, const GraphSlot *slot,
                           Kiln__V1__TensorSpec **out) {
  Kiln__V1__TensorSpec *spec = *out = arena_alloc(arena, sizeof *spec);
  if (!spec) return no_memory("the interface");
  kiln__v1__tensor_spec__init(spec);
  spec->name = arena_strdup(arena, slot->name);
  if (!spec->name) return no_memory("the interface");
  TRY(convert_shape(arena, g, slot->shape, spec));
  spec->state = slot->state;
  if (!dtype_to_wire(slot->dtype, &spec->dtype))
    return FAIL(INTERNAL, "'%s' has a dtype that is not stored", spec->name);
  return NULL;
}

static Status convert_weight(Arena *arena, const GraphSlot *slot, size_t index,
                             Kiln__V1__WeightSource **out) {
  Kiln__V1__WeightSource *w = *out = arena_alloc(arena, sizeof *w);
  if (!w) return no_memory("the weights");
  kiln__v1__weight_source__init(w);
  w->slot = (uint32_t)index;
  w->in_constants = slot->in_constants;
  w->offset = slot->offset;
  w->bytes = slot->bytes;
  return NULL;
}

/* Sequences and empty optionals, those of the inputs or those of the outputs. */
static Status convert_values(Arena *arena, const TensorGraph *g, bool output, size_t *n,
                             Kiln__V1__ValueSpec ***out) {
  *n = 0;
  *out = arena_array(arena, g->nvalues + 1, sizeof **out);
  if (!*out) return no_memory("the interface");
  for (size_t i = 0; i < g->nvalues; i++) {
    const GraphValue *v = &g->values[i];
    if (v->output != output) continue;
    Kiln__V1__ValueSpec *spec = (*out)[(*n)++] = arena_alloc(arena, sizeof *spec);
    if (!spec) return no_memory("the interface");
    kiln__v1__value_spec__init(spec);
    spec->name = arena_strdup(arena, v->name);
    if (!spec->name) return no_memory("the interface");
    spec->none = v->none;
    spec->length = (uint32_t)v->length;
  }
  return NULL;
}

Status convert_interface(Arena *arena, const TensorGraph *g, Kiln__V1__FrontendDone *out) {
  size_t weights = g->nslots - g->ninputs - g->noutputs - g->nlocals;
  out->n_inputs = g->ninputs;
  out->n_outputs = g->noutputs;
  out->n_weights = weights;
  out->inputs = arena_array(arena, g->ninputs + 1, sizeof *out->inputs);
  out->outputs = arena_array(arena, g->noutputs + 1, sizeof *out->outputs);
  out->weights = arena_array(arena, weights + 1, sizeof *out->weights);
  if (!out->inputs || !out->outputs || !out->weights) return no_memory("the interface");
  TRY(convert_values(arena, g, false, &out->n_input_values, &out->input_values));
  TRY(convert_values(arena, g, true, &out->n_output_values, &out->output_values));
  for (size_t i = 0; i < g->ninputs; i++)
    TRY(convert_spec(arena, g, &g->slots[i], &out->inputs[i]));
  for (size_t i = 0; i < g->noutputs; i++)
    TRY(convert_spec(arena, g, &g->slots[g->ninputs + i], &out->outputs[i]));
  TRY(convert_slots(arena, g, out));
  for (size_t i = 0, first = g->ninputs + g->noutputs; i < weights; i++)
    TRY(convert_weight(arena, &g->slots[first + i], first + i, &out->weights[i]));
  return NULL;
}

/* -- plans --------------------------------------------------------------------------------------
 */

/* Where a buffer is. The arena of a plan with VARs is laid out when it runs, from the lifetimes. */
static Status convert_place(Arena *arena, const Plan *plan, size_t i, Kiln__V1__PlanBuffer *p) {
  const PlanBuffer *b = &plan->buffers[i];
  if (b->kind == PB_CONST) return NULL;
  if (!dim_is_static(b->offset)) return convert_size(arena, b->offset, 1, &p->place);
  p->offset = (uint64_t)b->offset;
  if (b->kind != PB_TEMP || !plan->nvars) return NULL;
  bool unused = b->first == UINT32_MAX;
  p->whole = b->base;
  p->first = unused ? 0 : b->first;
  p->last = unused ? 0 : b->last;
  p->offset = (uint64_t)(b->offset - plan->buffers[b->base].offset);
  return NULL;
}

static Status convert_step(Arena *arena, const PlanStep *s, Kiln__V1__PlanStep **out) {
  Kiln__V1__PlanStep *p = *out = arena_alloc(arena, sizeof *p);
  if (!p) return no_memory("the plan");
  kiln__v1__plan_step__init(p);
  p->call = s->call;
  p->var = s->var;
  p->buffer = s->buffer == NO_BUFFER ? 0 : s->buffer;
  switch (s->kind) {
  case STEP_CALL: p->kind = KILN__V1__PLAN_STEP__KIND__CALL; return NULL;
  case STEP_BIND: p->kind = KILN__V1__PLAN_STEP__KIND__BIND; return NULL;
  case STEP_END: p->kind = KILN__V1__PLAN_STEP__KIND__END; return NULL;
  case STEP_LOOP:
    p->kind = KILN__V1__PLAN_STEP__KIND__LOOP;
    p->buffer = 0;
    p->counter = s->buffer == NO_BUFFER ? 0 : s->buffer + 1;
    p->condition = s->condition == NO_BUFFER ? 0 : s->condition + 1;
    p->count = s->count;
    return NULL;
  default: return FAIL(INTERNAL, "a plan with a step of kind %d", (int)s->kind);
  }
}

/* A plan without VARs is its calls, in order. */
static Status convert_steps(Arena *arena, const Plan *plan, Kiln__V1__Plan *p) {
  if (!plan->nvars) return NULL;
  p->n_vars = plan->nvars;
  TRY(convert_vars(arena, plan->vars, plan->nvars, &p->vars));
  p->steps = arena_array(arena, plan->nsteps + 1, sizeof *p->steps);
  if (!p->steps) return no_memory("the plan");
  p->n_steps = plan->nsteps;
  for (size_t i = 0; i < plan->nsteps; i++) TRY(convert_step(arena, &plan->steps[i], &p->steps[i]));
  return NULL;
}

static Status convert_buffer(Arena *arena, const Plan *plan, size_t i, Kiln__V1__PlanBuffer **out) {
  static const Kiln__V1__PlanBuffer__Kind kinds[] = {
      [PB_INPUT] = KILN__V1__PLAN_BUFFER__KIND__INPUT,
      [PB_OUTPUT] = KILN__V1__PLAN_BUFFER__KIND__OUTPUT,
      [PB_WEIGHT] = KILN__V1__PLAN_BUFFER__KIND__WEIGHT,
      [PB_TEMP] = KILN__V1__PLAN_BUFFER__KIND__TEMP,
      [PB_CONST] = KILN__V1__PLAN_BUFFER__KIND__CONST,
      [PB_STATE] = KILN__V1__PLAN_BUFFER__KIND__STATE,
      [PB_KEPT] = KILN__V1__PLAN_BUFFER__KIND__KEPT,
  };
  const PlanBuffer *b = &plan->buffers[i];
  size_t bytes, item = dtype_info[b->dtype].bytes;
  Kiln__V1__PlanBuffer *p = *out = arena_alloc(arena, sizeof *p);
  if (!p) return no_memory("the plan");
  kiln__v1__plan_buffer__init(p);
  int64_t most = dim_high(b->numel);
  if (most < 0 || !size_mul((size_t)most, item, &bytes)) {
    if (dim_is_static(b->numel))
      return FAIL(RESOURCE_EXHAUSTED, "a buffer of %" PRId64 " elements", b->numel);
    bytes = INT64_MAX;
  }
  p->kind = kinds[b->kind];
  p->slot = b->kind == PB_TEMP || b->kind == PB_KEPT ? 0 : (uint32_t)b->slot;
  p->bytes = bytes;
  if (!dim_is_static(b->numel)) TRY(convert_size(arena, b->numel, item, &p->size));
  TRY(convert_place(arena, plan, i, p));
  if (!b->constant.len) return NULL;
  p->constant.data = arena_copy(arena, b->constant.ptr, b->constant.len);
  p->constant.len = b->constant.len;
  return p->constant.data ? NULL : no_memory("the plan");
}

typedef struct Serialize {
  UOp *sink;
  StrBuf out;
} Serialize;

static void serialize(Job *job, void *arg) {
  Serialize *s = arg;
  uop_serialize(job, s->sink, &s->out);
}

static Status convert_kernel(Arena *arena, Job *job, const Kernel *k, Kiln__V1__PlanKernel **out) {
  Kiln__V1__PlanKernel *p = *out = arena_alloc(arena, sizeof *p);
  if (!p) return no_memory("the plan");
  kiln__v1__plan_kernel__init(p);
  Serialize s = {.sink = k->sink};
  Status st = job_run(job, serialize, &s);
  if (!st && s.out.failed) st = no_memory("a kernel");
  if (!st) {
    p->graph = (ProtobufCBinaryData){s.out.len, arena_copy(arena, s.out.ptr, s.out.len)};
    p->hash = (ProtobufCBinaryData){DIGEST_BYTES, arena_alloc(arena, DIGEST_BYTES)};
    p->name = arena_strdup(arena, str_from(k->name));
    p->flops = (uint64_t)k->flops;
    p->traffic_bytes = (uint64_t)k->traffic_bytes;
    if (!p->graph.data || !p->hash.data || !p->name) st = no_memory("a kernel");
  }
  if (!st) digest_sha256(s.out.ptr, s.out.len, p->hash.data);
  strbuf_deinit(&s.out);
  return st;
}

static Status convert_call(Arena *arena, const PlanCall *c, Kiln__V1__PlanCall **out) {
  Kiln__V1__PlanCall *p = *out = arena_alloc(arena, sizeof *p);
  if (!p) return no_memory("the plan");
  kiln__v1__plan_call__init(p);
  p->kernel = c->kernel;
  p->n_args = c->nargs;
  p->args = arena_copy(arena, c->args, c->nargs * sizeof *c->args);
  p->once = c->once;
  p->n_vars = c->nvars;
  if (c->nvars) p->vars = arena_copy(arena, c->vars, c->nvars * sizeof *c->vars);
  return p->args && (p->vars || !c->nvars) ? NULL : no_memory("the plan");
}

Status convert_plan(Arena *arena, Job *job, const Plan *plan, Kiln__V1__Plan **out) {
  Kiln__V1__Plan *p = *out = arena_alloc(arena, sizeof *p);
  if (!p) return no_memory("the plan");
  kiln__v1__plan__init(p);
  p->temp_bytes = (uint64_t)plan->temp_bytes;
  p->kept_bytes = (uint64_t)plan->kept_bytes;
  p->n_buffers = plan->nbuffers;
  p->n_kernels = plan->nkernels;
  p->n_calls = plan->ncalls;
  p->buffers = arena_array(arena, plan->nbuffers + 1, sizeof *p->buffers);
  p->kernels = arena_array(arena, plan->nkernels + 1, sizeof *p->kernels);
  p->calls = arena_array(arena, plan->ncalls + 1, sizeof *p->calls);
  if (!p->buffers || !p->kernels || !p->calls) return no_memory("the plan");
  for (size_t i = 0; i < plan->nbuffers; i++) TRY(convert_buffer(arena, plan, i, &p->buffers[i]));
  for (size_t i = 0; i < plan->nkernels; i++)
    TRY(convert_kernel(arena, job, &plan->kernels[i], &p->kernels[i]));
  for (size_t i = 0; i < plan->ncalls; i++) TRY(convert_call(arena, &plan->calls[i], &p->calls[i]));
  TRY(convert_steps(arena, plan, p));
  return NULL;
}
