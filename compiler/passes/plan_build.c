/* The middle of the compiler, as a list of calls.
 *
 * tensor graph -> simplified -> fused (what is stored, who asks for what) -> ranged values ->
 * kernels -> order and memory. */
#include "compiler/passes/plan_build.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/vec.h"
#include "compiler/ir/verify.h"
#include "compiler/passes/kernelize.h"
#include "compiler/passes/memplan.h"
#include "compiler/passes/rangeify.h"
#include "compiler/passes/simplify.h"

static void interface_buffers(Fusion *f, const TensorGraph *graph) {
  for (size_t s = 0; s < graph->ninputs + graph->noutputs; s++) {
    const GraphSlot *slot = &graph->slots[s];
    PlanBufferKind input = slot->state ? PB_STATE : PB_INPUT;
    PlanBuffer b = {.kind = s < graph->ninputs ? input : PB_OUTPUT,
                    .slot = (int64_t)s,
                    .dtype = slot->dtype,
                    .numel = dims_numel(f->job, slot->shape),
                    .base = (uint32_t)s};
    avec_push(&f->job->arena, &f->buffers, b);
  }
}

static FusedKernel **ordered_kernels(Fusion *f) {
  FusedKernel **order = arena_array(&f->job->arena, f->kernels.len + 1, sizeof(FusedKernel *));
  for (size_t k = 0; k < f->kernels.len; k++) order[k] = &f->kernels.at[k];
  qsort(order, f->kernels.len, sizeof *order, fusion_order);
  return order;
}

/* The BINDs that come before kernel k; all that are left when k is NULL. */
static void add_binds(const Fusion *f, uint32_t *next, const FusedKernel *k, Plan *out) {
  for (; *next < f->binds.len; ++*next) {
    const Bind *b = &f->binds.at[*next];
    if (k && (b->ready > k->ready || (b->ready == k->ready && b->tensor > k->after))) return;
    out->steps[out->nsteps++] =
        (PlanStep){.kind = STEP_BIND, .var = b->var, .buffer = b->buffer, .condition = NO_BUFFER};
  }
}

static void make_kernels(Fusion *f, Kernelizer *kz, Plan *out) {
  FusedKernel **order = ordered_kernels(f);
  uint32_t bind = 0;
  out->calls = arena_array(&f->job->arena, f->kernels.len + 1, sizeof *out->calls);
  out->steps = arena_array(&f->job->arena, f->kernels.len + f->binds.len + 1, sizeof *out->steps);
  for (size_t k = 0; k < f->kernels.len; k++) {
    UOp *raw = rangeify_kernel(f, order[k]);
    add_binds(f, &bind, order[k], out);
    out->steps[out->nsteps++] = (PlanStep){.kind = STEP_CALL,
                                           .call = (uint32_t)out->ncalls,
                                           .buffer = NO_BUFFER,
                                           .condition = NO_BUFFER};
    out->calls[out->ncalls++] = kernelize(kz, raw, order[k]->buffers);
    job_poll(f->job);
  }
  add_binds(f, &bind, NULL, out);
  out->kernels = kz->kernels.at;
  out->nkernels = kz->kernels.len;
}

static const char *describe(Job *job, const TensorGraph *graph, const PlanBuffer *b) {
  static const char *const kinds[] = {
      [PB_INPUT] = "input", "output", "weight", [PB_STATE] = "state"};
  if (b->kind == PB_TEMP || b->kind == PB_CONST) return "a temporary";
  Str name = graph->slots[b->slot].name;
  return arena_printf(&job->arena, "%s '" STR_FMT "'", kinds[b->kind], STR_ARG(name));
}

/* The least it takes: the true sizes are checked when running. */
static int64_t bytes_of(const PlanBuffer *b) {
  int64_t bytes, least = dim_low(b->numel);
  if (least < 0) return 0;
  return __builtin_mul_overflow(least, dtype_info[b->dtype].bytes, &bytes) ? INT64_MAX : bytes;
}

/* Before offsets are summed up: no single buffer is beyond reason. */
static void check_buffers(Job *job, const TensorGraph *graph, const Target *target,
                          const Fusion *f) {
  for (size_t b = 0; target->memory_bytes && b < f->buffers.len; b++) {
    const PlanBuffer *buffer = &f->buffers.at[b];
    if ((uint64_t)bytes_of(buffer) <= target->memory_bytes) continue;
    job_abort(job, FAIL(RESOURCE_EXHAUSTED,
                        "%s of %s %s takes %" PRId64 " bytes, the device has %" PRIu64,
                        describe(job, graph, buffer), dim_text(job, buffer->numel),
                        dtype_info[buffer->dtype].name, bytes_of(buffer), target->memory_bytes));
  }
}

static void check_memory(Job *job, const TensorGraph *graph, const Target *target,
                         const Plan *plan) {
  const PlanBuffer *largest = NULL;
  int64_t total = plan->temp_bytes, most = 0;
  bool over = false;
  for (size_t b = 0; b < plan->nbuffers; b++) {
    bool expected = plan->buffers[b].kind == PB_TEMP && !dim_is_static(plan->buffers[b].numel);
    if (expected) total = 0; /* how much the temporaries take depends on the run */
  }
  for (size_t b = 0; b < plan->nbuffers; b++) {
    int64_t bytes = bytes_of(&plan->buffers[b]);
    bool whole = plan->buffers[b].base == b;
    if (whole && plan->buffers[b].kind != PB_TEMP)
      over |= __builtin_add_overflow(total, bytes, &total);
    if (bytes >= most) most = bytes, largest = &plan->buffers[b];
  }
  if (!target->memory_bytes || !largest) return;
  if (!over && (uint64_t)total <= target->memory_bytes) return;
  job_abort(job, FAIL(RESOURCE_EXHAUSTED,
                      "the model needs %" PRId64 " bytes of device memory (%" PRId64
                      " for temporaries), the device has %" PRIu64 "; the largest buffer, %s of "
                      "%s %s, takes %" PRId64,
                      total, plan->temp_bytes, target->memory_bytes, describe(job, graph, largest),
                      dim_text(job, largest->numel), dtype_info[largest->dtype].name, most));
}

static void verify(Job *job, UOp *sink, const char *after) {
  Status st = verify_graph(job, sink, STAGE_TENSOR, after);
  if (st) job_abort(job, st);
}

void plan_build(Job *job, const TensorGraph *graph, const Target *target, Plan *out) {
  Fusion f = {.job = job, .target = target};
  Kernelizer kz;
  *out = (Plan){0};
  kernelize_init(&kz, job);
  nodemap_init(job, &f.parts, 64);
  verify(job, graph->sink, "the frontend");
  interface_buffers(&f, graph);
  UOp *sink = simplify_graph(job, graph, target, f.buffers.at, &f.constants);
  verify(job, sink, "simplify_graph");
  sink = hazard_resolve(job, graph, sink, &f.updates);
  verify(job, sink, "hazard_resolve");
  fuse(&f, graph, sink);
  check_buffers(job, graph, target, &f);
  rangeify_values(&f);
  make_kernels(&f, &kz, out);
  out->buffers = f.buffers.at;
  out->nbuffers = f.buffers.len;
  out->vars = graph->vars;
  out->nvars = graph->nvars;
  memplan(job, out);
  check_memory(job, graph, target, out);
}
