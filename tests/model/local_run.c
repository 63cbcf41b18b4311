/* One call after another: kernels are compiled when first needed and freed at the end, or, at an
 * earlier stage than machine code, interpreted; temporaries live in one allocation. */
#include "tests/model/local_run.h"

#include <stdlib.h>

#include "tests/model/local_target.h"

typedef struct LocalRun {
  Job *job;
  Device *dev;
  Target target;
  RunStage stage;
  Plan plan;
  InterpBuffer *slots;
  char *temp;
  void **constants; /* per plan buffer; set for CONST */
  Program **programs;
} LocalRun;

bool local_older(Target *target, const char *name) {
  static const struct {
    const char *name, *cpu, *features;
    uint32_t vector_bytes;
  } sets[] = {{"sse2", "x86-64", "", 16}, {"avx2", "haswell", "+avx2,+fma,+f16c,+bmi,+bmi2", 32}};
  for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
    if (strcmp(sets[i].name, name)) continue;
    target->cpu = sets[i].cpu, target->features = sets[i].features;
    target->vector_bytes = sets[i].vector_bytes, target->vector_registers = 16;
    return true;
  }
  return false;
}

static Status load_kernel(LocalRun *r, uint32_t k) {
  KernelObject object;
  const Kernel *kernel = &r->plan.kernels[k];
  if (r->programs[k]) return NULL;
  TRY(compile_kernel(r->job, kernel->sink, kernel->name, &r->target, NULL, &object));
  ProgramSpec spec = {.image = {(const uint8_t *)object.object.ptr, object.object.len},
                      .entry = object.entry,
                      .threads = object.threads,
                      .scratch_bytes = object.scratch_bytes};
  Status st = device_program_load(r->dev, &spec, &r->programs[k]);
  strbuf_deinit(&object.object);
  return st;
}

static void *address(const LocalRun *r, uint32_t buffer) {
  const PlanBuffer *b = &r->plan.buffers[buffer];
  if (b->kind == PB_CONST) return r->constants[buffer];
  char *whole = b->kind == PB_TEMP ? r->temp : (char *)r->slots[b->slot].data;
  return whole + b->offset;
}

static Status interpret_call(LocalRun *r, const PlanCall *c) {
  InterpBuffer *args = calloc(c->nargs + 1, sizeof *args);
  if (!args) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
  for (uint32_t k = 0; k < c->nargs; k++) {
    const PlanBuffer *b = &r->plan.buffers[c->args[k]];
    args[k] = (InterpBuffer){address(r, c->args[k]), (size_t)b->numel * dtype_info[b->dtype].bytes};
  }
  Status st =
      stage_run(r->job, r->plan.kernels[c->kernel].sink, &r->target, r->stage, args, c->nargs);
  free(args);
  return st;
}

static Status run_call(LocalRun *r, const PlanCall *c) {
  Fence fence;
  if (r->stage != RUN_CODE) return interpret_call(r, c);
  TRY(load_kernel(r, c->kernel));
  void **args = calloc(c->nargs + 1, sizeof *args);
  if (!args) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
  for (uint32_t k = 0; k < c->nargs; k++) args[k] = address(r, c->args[k]);
  Launch launch = {r->programs[c->kernel], args, c->nargs};
  Status st = device_submit(r->dev, &launch, 1, &fence);
  if (!st) st = device_wait(r->dev, fence, -1);
  free(args);
  return st;
}

/* The bytes of a buffer whose value the plan knows, repeated until it is full. */
static void fill(void *to, const PlanBuffer *b) {
  size_t bytes = (size_t)b->numel * dtype_info[b->dtype].bytes;
  for (size_t at = 0; at < bytes; at += b->constant.len) {
    size_t n = bytes - at < b->constant.len ? bytes - at : b->constant.len;
    memcpy((char *)to + at, b->constant.ptr, n);
  }
}

static Status place_constants(LocalRun *r) {
  for (size_t i = 0; i < r->plan.nbuffers; i++) {
    const PlanBuffer *b = &r->plan.buffers[i];
    if (!b->constant.len) continue;
    if (b->kind == PB_CONST) {
      r->constants[i] = arena_alloc(&r->job->arena, (size_t)b->numel * dtype_info[b->dtype].bytes);
      if (!r->constants[i]) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
    }
    fill(address(r, (uint32_t)i), b);
  }
  return NULL;
}

Status local_run(Job *job, const TensorGraph *graph, Device *dev, const Target *target,
                 RunStage stage, InterpBuffer *slots) {
  LocalRun r = {.job = job, .dev = dev, .target = *target, .stage = stage, .slots = slots};
  TRY(compile_plan(job, graph, &r.target, &r.plan));
  r.temp = malloc((size_t)r.plan.temp_bytes + 64);
  r.programs = calloc(r.plan.nkernels + 1, sizeof *r.programs);
  r.constants = calloc(r.plan.nbuffers + 1, sizeof *r.constants);
  Status st =
      r.temp && r.programs && r.constants ? NULL : FAIL(RESOURCE_EXHAUSTED, "out of memory");
  if (!st) st = place_constants(&r);
  for (size_t i = 0; !st && i < r.plan.ncalls; i++) st = run_call(&r, &r.plan.calls[i]);
  for (size_t i = 0; r.programs && i < r.plan.nkernels; i++)
    device_program_free(dev, r.programs[i]);
  free(r.programs);
  free(r.constants);
  free(r.temp);
  return st;
}
