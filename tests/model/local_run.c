/* One call after another: kernels are compiled when first needed and freed at the end, or, at an
 * earlier stage than machine code, interpreted. Every slot and every constant is a buffer of the
 * device, temporaries live in one more. */
#include "tests/model/local_run.h"

#include <assert.h>
#include <stdlib.h>

#include "tests/model/local_target.h"

typedef struct LocalRun {
  Job *job;
  Device *dev;
  Target target;
  RunStage stage;
  Plan plan;
  InterpBuffer *slots;
  Buffer **data; /* by slot */
  Buffer *temp, *kept;
  Buffer **constants; /* by plan buffer; set for CONST */
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
  for (int d = 0; d < 3; d++) spec.grid[d] = (uint32_t)object.grid[d];
  memcpy(spec.block, object.block, sizeof spec.block);
  Status st = device_program_load(r->dev, &spec, &r->programs[k]);
  strbuf_deinit(&object.object);
  return st;
}

static LaunchArg place(const LocalRun *r, uint32_t buffer) {
  const PlanBuffer *b = &r->plan.buffers[buffer];
  if (b->kind == PB_CONST) return (LaunchArg){r->constants[buffer], 0};
  if (b->kind == PB_KEPT) return (LaunchArg){r->kept, (uint64_t)b->offset};
  return (LaunchArg){b->kind == PB_TEMP ? r->temp : r->data[b->slot], (uint64_t)b->offset};
}

static Status interpret_call(LocalRun *r, const PlanCall *c) {
  InterpBuffer *args = calloc(c->nargs + 1, sizeof *args);
  if (!args) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
  for (uint32_t k = 0; k < c->nargs; k++) {
    const PlanBuffer *b = &r->plan.buffers[c->args[k]];
    LaunchArg at = place(r, c->args[k]);
    assert(at.buffer->host); /* stages are interpreted over a device that shares memory */
    args[k].data = (char *)at.buffer->host + at.offset;
    args[k].bytes = (size_t)b->numel * dtype_info[b->dtype].bytes;
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
  LaunchArg *args = calloc(c->nargs + 1, sizeof *args);
  if (!args) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
  for (uint32_t k = 0; k < c->nargs; k++) args[k] = place(r, c->args[k]);
  Launch launch = {.program = r->programs[c->kernel], .args = args, .nargs = c->nargs};
  Status st = device_submit(r->dev, &launch, 1, &fence);
  if (!st) st = device_wait(r->dev, fence, -1);
  free(args);
  return st;
}

/* The bytes of a buffer whose value the plan knows, repeated until it is full. */
static Status fill(LocalRun *r, uint32_t buffer) {
  const PlanBuffer *b = &r->plan.buffers[buffer];
  size_t bytes = (size_t)b->numel * dtype_info[b->dtype].bytes;
  char *whole = malloc(bytes + 1);
  if (!whole) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
  for (size_t at = 0; at < bytes; at += b->constant.len) {
    size_t n = bytes - at < b->constant.len ? bytes - at : b->constant.len;
    memcpy(whole + at, b->constant.ptr, n);
  }
  LaunchArg to = place(r, buffer);
  Status st = device_write(r->dev, to.buffer, to.offset, whole, bytes);
  free(whole);
  return st;
}

static Status place_constants(LocalRun *r) {
  for (uint32_t i = 0; i < r->plan.nbuffers; i++) {
    const PlanBuffer *b = &r->plan.buffers[i];
    size_t bytes = (size_t)b->numel * dtype_info[b->dtype].bytes;
    if (!b->constant.len) continue;
    if (b->kind == PB_CONST) TRY(device_buffer_alloc(r->dev, bytes, -1, &r->constants[i]));
    TRY(fill(r, i));
  }
  return NULL;
}

static Status place_slots(LocalRun *r, const TensorGraph *graph) {
  for (size_t i = 0; i < graph->nslots; i++) {
    TRY(device_buffer_alloc(r->dev, r->slots[i].bytes, -1, &r->data[i]));
    if (r->slots[i].bytes)
      TRY(device_write(r->dev, r->data[i], 0, r->slots[i].data, r->slots[i].bytes));
  }
  TRY(device_buffer_alloc(r->dev, (size_t)r->plan.kept_bytes, -1, &r->kept));
  return device_buffer_alloc(r->dev, (size_t)r->plan.temp_bytes, -1, &r->temp);
}

static Status read_outputs(LocalRun *r, const TensorGraph *graph) {
  for (size_t i = 0; i < graph->nslots; i++)
    if (graph->slots[i].kind == SLOT_OUTPUT && r->slots[i].bytes)
      TRY(device_read(r->dev, r->data[i], 0, r->slots[i].data, r->slots[i].bytes));
  return NULL;
}

static void release(LocalRun *r, size_t nslots) {
  for (size_t i = 0; r->programs && i < r->plan.nkernels; i++)
    device_program_free(r->dev, r->programs[i]);
  for (size_t i = 0; r->data && i < nslots; i++) device_buffer_free(r->dev, r->data[i]);
  for (size_t i = 0; r->constants && i < r->plan.nbuffers; i++)
    device_buffer_free(r->dev, r->constants[i]);
  device_buffer_free(r->dev, r->temp);
  device_buffer_free(r->dev, r->kept);
  free(r->programs);
  free(r->constants);
  free(r->data);
}

Status local_run(Job *job, const TensorGraph *graph, Device *dev, const Target *target,
                 RunStage stage, InterpBuffer *slots) {
  LocalRun r = {.job = job, .dev = dev, .target = *target, .stage = stage, .slots = slots};
  TRY(compile_plan(job, graph, &r.target, &r.plan));
  r.data = calloc(graph->nslots + 1, sizeof *r.data);
  r.programs = calloc(r.plan.nkernels + 1, sizeof *r.programs);
  r.constants = calloc(r.plan.nbuffers + 1, sizeof *r.constants);
  Status st =
      r.data && r.programs && r.constants ? NULL : FAIL(RESOURCE_EXHAUSTED, "out of memory");
  if (!st) st = place_slots(&r, graph);
  if (!st) st = place_constants(&r);
  for (size_t i = 0; !st && i < r.plan.ncalls; i++) st = run_call(&r, &r.plan.calls[i]);
  if (!st) st = read_outputs(&r, graph);
  release(&r, graph->nslots);
  return st;
}
