/* The middle of the compiler, as a list of calls.
 *
 * tensor graph -> simplified -> fused (what is stored, who asks for what) -> ranged values ->
 * kernels -> order and memory. */
#include "compiler/passes/plan_build.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/vec.h"
#include "compiler/ir/verify.h"
#include "compiler/passes/choose.h"
#include "compiler/passes/hoist.h"
#include "compiler/passes/kernelize.h"
#include "compiler/passes/layout.h"
#include "compiler/passes/memplan.h"
#include "compiler/passes/pack.h"
#include "compiler/passes/products.h"
#include "compiler/passes/rangeify.h"
#include "compiler/passes/simplify.h"
#include "compiler/passes/twins.h"

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

static PlanStep *add_step(Plan *out, PlanStepKind kind) {
  PlanStep *s = &out->steps[out->nsteps++];
  *s = (PlanStep){.kind = kind, .buffer = NO_BUFFER, .condition = NO_BUFFER};
  return s;
}

/* What an event needs besides kernels. The buffers of a LOOP are noted at its end. */
static void add_event(const Fusion *f, uint32_t k, Plan *out) {
  const Event *e = &f->events.at[k];
  if (e->kind == EVENT_UPDATE) return; /* a kernel, the first of its time */
  uint32_t end = k;
  while (e->kind == EVENT_LOOP &&
         (f->events.at[end].kind != EVENT_END || f->events.at[end].node != e->node))
    end++;
  PlanStepKind kind = e->kind == EVENT_BIND   ? STEP_BIND
                      : e->kind == EVENT_LOOP ? STEP_LOOP
                                              : STEP_END;
  PlanStep *s = add_step(out, kind);
  if (kind == STEP_END) return;
  s->var = (uint32_t)e->node->src[0]->arg.i;
  s->buffer = f->looked_at[end];
  s->condition = f->condition[end];
  if (kind != STEP_LOOP || s->buffer != NO_BUFFER) return;
  s->count = uop_is_int(e->node->src[2], 0) ? 0 : e->node->src[1]->arg.i;
  if (s->count < 0) s->count = 0;
}

static void make_kernels(Fusion *f, Kernelizer *kz, Plan *out) {
  FusedKernel **order = ordered_kernels(f);
  size_t k = 0, n = f->kernels.len;
  out->calls = arena_array(&f->job->arena, n + 1, sizeof *out->calls);
  out->steps = arena_array(&f->job->arena, n + f->events.n + 1, sizeof *out->steps);
  for (uint32_t time = 0; time <= f->events.n; time++) {
    if (time) add_event(f, time - 1, out);
    for (; k < n && order[k]->ready == time; k++) {
      UOp *raw = rangeify_kernel(f, order[k]);
      if (f->target->max_group) raw = hoist_factors(f->job, raw);
      add_step(out, STEP_CALL)->call = (uint32_t)out->ncalls;
      out->calls[out->ncalls] = kernelize(kz, raw, order[k]->buffers);
      out->calls[out->ncalls++].once = order[k]->once;
      out->nonce += order[k]->once;
      job_poll(f->job);
    }
  }
  out->kernels = kz->kernels.at;
  out->nkernels = kz->kernels.len;
}

static const char *describe(Job *job, const TensorGraph *graph, const PlanBuffer *b) {
  static const char *const kinds[] = {
      [PB_INPUT] = "input", "output", "weight", [PB_STATE] = "state"};
  if (b->kind == PB_TEMP || b->kind == PB_CONST || b->kind == PB_KEPT) return "a temporary";
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

static void check_limit(Job *job, const Target *target, const Plan *plan) {
  for (size_t k = 0; target->max_buffers && k < plan->nkernels; k++)
    if (plan->kernels[k].nargs > target->max_buffers)
      job_abort(job, FAIL(INTERNAL, "kernel %s has %zu buffers, the device allows %u",
                          plan->kernels[k].name, plan->kernels[k].nargs, target->max_buffers));
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
  sink = layout_channels(job, graph, target, sink);
  verify(job, sink, "layout_channels");
  sink = simplify_products(job, graph, target, sink);
  verify(job, sink, "simplify_products");
  sink = simplify_sums(job, target, sink);
  verify(job, sink, "simplify_sums");
  sink = pack_weights(job, graph, target, sink);
  verify(job, sink, "pack_weights");
  sink = join_twins(job, graph, target, sink);
  verify(job, sink, "join_twins");
  sink = choose_parts(job, target, sink);
  verify(job, sink, "choose_parts");
  sink = hazard_resolve(job, graph, sink, &f.events);
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
  check_limit(job, target, out);
  check_memory(job, graph, target, out);
}
