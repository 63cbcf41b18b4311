/* The pipeline, as lists of calls.
 *
 *   model -> frontend -> tensor graph -> plan_build -> kernels
 *   kernel -> schedule -> expand -> lower -> decompositions -> linearize -> machine code
 *
 * Every pass aborts the job through job_abort; job_run turns that into a Status here, so no LLVM
 * object is live while graph code runs. Each pass is followed by the verifier for the stage that it
 * produces. */
#include "compiler/compile.h"

#include "compiler/codegen/codegen.h"
#include "compiler/frontend/frontend.h"
#include "compiler/ir/dim.h"
#include "compiler/ir/text.h"
#include "compiler/ir/verify.h"
#include "compiler/passes/expand.h"
#include "compiler/passes/linearize.h"
#include "compiler/passes/lower.h"
#include "compiler/passes/plan_build.h"
#include "compiler/passes/rowwise.h"
#include "compiler/passes/schedule.h"
#include "compiler/rules/rewrite.h"
#include "compiler/search/opts.h"

static void check(Job *job, UOp *graph, Stage stage, const char *pass) {
  Status st = verify_graph(job, graph, stage, pass);
  if (st) job_abort(job, st);
}

/* -- model to tensor graph
 * --------------------------------------------------------------------------- */

static void frontend_check(Job *job, void *arg) {
  const TensorGraph *graph = arg;
  check(job, graph->sink, STAGE_TENSOR, "frontend");
}

Status compile_frontend(Job *job, Bytes model, const FrontendOptions *options, TensorGraph *out) {
  *out = (TensorGraph){0};
  TRY(options->kind == MODEL_ONNX ? frontend_onnx(job, model, options, out)
                                  : frontend_kgraph(job, model, options, out));
  out->fast_math = options->fast_math;
  return job_run(job, frontend_check, out);
}

/* -- the bytes that are hashed
 * -------------------------------------------------------------------------- */

static void put_u64(StrBuf *b, uint64_t v) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(v >> (8 * i));
  strbuf_add(b, bytes, sizeof bytes);
}

typedef struct CanonicalArgs {
  const TensorGraph *graph;
  StrBuf *out;
} CanonicalArgs;

enum { STATE_KIND = 16 }; /* beside the SlotKinds */

static void canonical_steps(Job *job, void *arg) {
  CanonicalArgs *a = arg;
  put_u64(a->out, a->graph->nslots);
  for (size_t i = 0; i < a->graph->nslots; i++) {
    const GraphSlot *s = &a->graph->slots[i];
    put_u64(a->out, s->state ? STATE_KIND : (uint64_t)s->kind);
    put_u64(a->out, (uint64_t)s->dtype);
    put_u64(a->out, s->shape.n);
    for (uint32_t d = 0; d < s->shape.n; d++) {
      if (dim_is_static(s->shape.at[d])) {
        put_u64(a->out, (uint64_t)s->shape.at[d]);
      } else {
        uop_serialize(job, dim_node(s->shape.at[d]), a->out);
      }
    }
  }
  for (size_t i = 0; i < a->graph->nvars; i++) {
    const GraphVar *v = &a->graph->vars[i];
    const int64_t facts[] = {v->min, v->max, v->divisor, v->source, v->slot, v->axis};
    for (size_t k = 0; k < sizeof facts / sizeof *facts; k++) put_u64(a->out, (uint64_t)facts[k]);
  }
  uop_serialize(job, a->graph->sink, a->out);
  if (a->graph->fast_math) put_u64(a->out, a->graph->fast_math);
}

Status compile_canonical(Job *job, const TensorGraph *graph, StrBuf *out) {
  CanonicalArgs a = {graph, out};
  TRY(job_run(job, canonical_steps, &a));
  return out->failed ? FAIL(RESOURCE_EXHAUSTED, "out of memory for the canonical graph") : NULL;
}

typedef struct RowwiseArgs {
  const TensorGraph *graph;
  bool *out;
} RowwiseArgs;

static void rowwise_steps(Job *job, void *ctx) {
  const RowwiseArgs *a = ctx;
  *a->out = rowwise(job, a->graph);
}

Status compile_rowwise(Job *job, const TensorGraph *graph, bool *out) {
  RowwiseArgs a = {graph, out};
  *out = false;
  return job_run(job, rowwise_steps, &a);
}

/* -- tensor graph to kernels
 * ------------------------------------------------------------------------------ */

typedef struct PlanArgs {
  const TensorGraph *graph;
  const Target *target;
  Plan *out;
} PlanArgs;

static void plan_steps(Job *job, void *arg) {
  PlanArgs *a = arg;
  plan_build(job, a->graph, a->target, a->out);
}

Status compile_plan(Job *job, const TensorGraph *graph, const Target *target, Plan *out) {
  PlanArgs a = {graph, target, out};
  *out = (Plan){0};
  return job_run(job, plan_steps, &a);
}

/* -- kernel to machine code
 * --------------------------------------------------------------------------------- */

typedef struct KernelArgs {
  UOp *kernel;
  const Target *target;
  const char *opts;
  UOp *scheduled, *lowered;
  Linear linear;
  int64_t grid[3]; /* dims */
  OptList applied;
} KernelArgs;

static UOp *schedule_kernel(Job *job, KernelArgs *a) {
  if (!a->opts || !*a->opts) return schedule_heuristic(job, a->kernel, a->target, &a->applied);
  Status st = opts_parse(job, str_from(a->opts), &a->applied);
  if (st) job_abort(job, st);
  return schedule_apply(job, a->kernel, a->target, &a->applied);
}

/* A call brings what the ranged kernel names, whatever of it is left: the VARs stand behind it. */
static void count_args(Job *job, KernelArgs *a) {
  UOpList list = uop_toposort(job, a->kernel);
  for (size_t i = 0; i < list.len; i++) {
    uint32_t n = (uint32_t)list.at[i]->arg.i + 1;
    if (list.at[i]->op == OP_PARAM && n > a->linear.nargs) a->linear.nargs = n;
    if (list.at[i]->op == OP_VAR && n > a->linear.nvars) a->linear.nvars = n;
  }
}

/* One place less; false when that leaves too few. Instructions go on where there are three. */
static bool takes_less(Opt *pipeline) {
  int32_t places = opt_pipe_places(--pipeline->arg);
  if (places < 3) pipeline->arg &= ~PIPE_GO_ON;
  return places >= 2;
}

/* The rule of thumb does not count what it stages: fewer stages ahead, then fewer factors. */
static bool make_lighter(OptList *opts) {
  for (size_t i = opts->len; i-- > 0;) {
    Opt *o = &opts->at[i];
    if (o->kind != OPT_PIPELINE && o->kind != OPT_STAGE) continue;
    if (o->kind == OPT_STAGE || !takes_less(o)) memmove(o, o + 1, (--opts->len - i) * sizeof *o);
    return true;
  }
  return false;
}

static bool fits(const KernelArgs *a) { return a->linear.shared_bytes <= a->target->local_bytes; }

static void build_kernel(Job *job, KernelArgs *a) {
  Rewrite rw = {.job = job, .no_fma = !codegen_fuses(a->target), .target = a->target};
  check(job, a->scheduled, STAGE_SCHEDULED, "schedule");
  UOp *u = expand_kernel(job, a->scheduled, a->target);
  u = lower_kernel(job, u, a->target);
  a->lowered = rewrite_graph(&rw, u, rules_decomp);
  check(job, a->lowered, STAGE_LOWERED, "lower");
  a->linear = linearize_kernel(job, a->lowered, a->target);
  a->linear.cuda_c = opts_cuda_c(&a->applied);
}

static void kernel_steps(Job *job, void *arg) {
  KernelArgs *a = arg;
  check(job, a->kernel, STAGE_RANGED, "kernel");
  a->scheduled = schedule_kernel(job, a);
  build_kernel(job, a);
  bool by_thumb = !a->opts || !*a->opts;
  while (by_thumb && !fits(a) && make_lighter(&a->applied)) {
    a->scheduled = schedule_apply(job, a->kernel, a->target, &a->applied);
    build_kernel(job, a);
  }
  if (!fits(a))
    job_abort(job, FAIL(RESOURCE_EXHAUSTED,
                        "the schedule needs %llu bytes of workgroup memory, the device has %llu",
                        (unsigned long long)a->linear.shared_bytes,
                        (unsigned long long)a->target->local_bytes));
  for (int d = 0; d < 3; d++) a->grid[d] = a->linear.grid[d] ? dim_of(job, a->linear.grid[d]) : 1;
  count_args(job, a);
}

static const char *opts_text(Job *job, const OptList *opts) {
  StrBuf text = {0};
  opts_print(opts, &text);
  const char *copy = arena_strdup(&job->arena, (Str){text.ptr, text.len});
  strbuf_deinit(&text);
  return copy;
}

Status compile_kernel(Job *job, UOp *kernel, const char *name, const Target *target,
                      const char *opts, KernelObject *out) {
  KernelArgs a = {.kernel = kernel, .target = target, .opts = opts};
  CodegenOutput code = {0};
  *out = (KernelObject){0};
  Status st = job_run(job, kernel_steps, &a);
  if (!st) st = codegen_emit(&a.linear, name, target, &code);
  if (st) {
    codegen_deinit(&code);
    return WRAP(st, "kernel %s", name);
  }
  *out = (KernelObject){.object = code.object,
                        .entry = name,
                        .threads = a.linear.threads,
                        .scratch_bytes =
                            a.linear.shared_given ? a.linear.shared_bytes : a.linear.scratch_bytes,
                        .opts = opts_text(job, &a.applied)};
  memcpy(out->grid, a.grid, sizeof out->grid);
  memcpy(out->block, a.linear.block, sizeof out->block);
  if (a.linear.copiers) {
    out->block[0] = out->block[0] * out->block[1] * out->block[2] + a.linear.copiers;
    out->block[1] = out->block[2] = 1;
  }
  code.object = (StrBuf){0};
  codegen_deinit(&code);
  return NULL;
}

/* -- looking at a stage
 * --------------------------------------------------------------------------------------- */

static void print_buffer(Job *job, const Plan *plan, size_t i, StrBuf *out) {
  static const char *const kinds[] = {"input", "output", "weight", "temp",
                                      "const", "state",  "kept"};
  const PlanBuffer *b = &plan->buffers[i];
  strbuf_addf(out, "b%zu = %s %s[%s]", i, kinds[b->kind], dtype_info[b->dtype].name,
              dim_text(job, b->numel));
  if (b->kind == PB_KEPT && b->base == i) {
    strbuf_addf(out, " at %lld, once: %s\n", (long long)b->offset, b->why);
  } else if (b->kind != PB_TEMP && b->kind != PB_KEPT) {
    strbuf_addf(out, " slot %lld\n", (long long)b->slot);
  } else if (b->base != i) {
    strbuf_addf(out, " at %lld: a part of b%u\n", (long long)b->offset, b->base);
  } else {
    strbuf_addf(out, " at %lld, steps %u to %u: %s\n", (long long)b->offset, b->first, b->last,
                b->why ? b->why : "what the run itself looks at");
  }
}

static void print_step(const Plan *plan, size_t i, StrBuf *out) {
  const PlanStep *s = &plan->steps[i];
  if (s->kind == STEP_CALL) {
    const PlanCall *c = &plan->calls[s->call];
    strbuf_addf(out, "%scall %u: kernel %u %s(", c->once ? "once " : "", s->call, c->kernel,
                plan->kernels[c->kernel].name);
    for (uint32_t k = 0; k < c->nargs; k++) strbuf_addf(out, "%sb%u", k ? ", " : "", c->args[k]);
    for (uint32_t k = 0; k < c->nvars; k++) strbuf_addf(out, ", n%u", c->vars[k]);
    strbuf_adds(out, ")\n");
  } else if (s->kind == STEP_BIND) {
    strbuf_addf(out, "bind n%u = b%u\n", s->var, s->buffer);
  } else if (s->kind == STEP_END) {
    strbuf_adds(out, "end\n");
  } else {
    strbuf_addf(out, "loop n%u", s->var);
    if (s->buffer != NO_BUFFER) strbuf_addf(out, ", b%u times", s->buffer);
    if (s->buffer == NO_BUFFER) strbuf_addf(out, ", %lld times", (long long)s->count);
    if (s->condition != NO_BUFFER) strbuf_addf(out, ", while b%u", s->condition);
    strbuf_adds(out, "\n");
  }
}

static void print_plan(Job *job, const Plan *plan, StrBuf *out) {
  strbuf_addf(out,
              "%zu buffers, %zu kernels, %zu calls, %lld bytes of temporaries, %lld kept, %lld in "
              "all\n",
              plan->nbuffers, plan->nkernels, plan->ncalls, (long long)plan->temp_bytes,
              (long long)plan->kept_bytes, (long long)plan->peak_bytes);
  for (size_t i = 0; i < plan->nvars; i++) {
    const GraphVar *v = &plan->vars[i];
    strbuf_addf(out, "n%zu = " STR_FMT " in [%lld, %lld]", i, STR_ARG(v->name), (long long)v->min,
                (long long)v->max);
    strbuf_addf(out, v->divisor > 1 ? ", a multiple of %lld\n" : "\n", (long long)v->divisor);
  }
  for (size_t i = 0; i < plan->nbuffers; i++) print_buffer(job, plan, i, out);
  for (size_t i = 0; i < plan->nsteps; i++) print_step(plan, i, out);
}

static void print_linear(const Linear *linear, StrBuf *out) {
  int depth = 0;
  for (size_t i = 0; i < linear->len; i++) {
    const UOp *u = linear->list[i];
    if (u->op == OP_END) depth--;
    strbuf_addf(out, "%*s%%%u = %s %s", 2 * depth, "", u->id, op_info[u->op].name,
                dtype_info[u->dtype].name);
    if (u->lanes > 1) strbuf_addf(out, "x%u", u->lanes);
    for (uint32_t k = 0; k < u->nsrc; k++)
      strbuf_addf(out, "%s%%%u", k ? ", " : " ", u->src[k]->id);
    if (op_info[u->op].arg != ARG_NONE) strbuf_addf(out, " [%lld]", (long long)u->arg.i);
    strbuf_adds(out, "\n");
    if (u->op == OP_RANGE) depth++;
  }
}

typedef struct InspectArgs {
  KernelArgs kernel;
  const Kernel *k;
  const char *stage;
  StrBuf *out;
} InspectArgs;

static void inspect_graph_steps(Job *job, void *arg) {
  InspectArgs *a = arg;
  kernel_steps(job, &a->kernel);
  if (str_is(str_from(a->stage), "scheduled")) uop_print_kernel(job, a->kernel.scheduled, a->out);
  if (str_is(str_from(a->stage), "lowered")) uop_print(job, a->kernel.lowered, a->out);
  if (str_is(str_from(a->stage), "linear")) print_linear(&a->kernel.linear, a->out);
}

static void inspect_ranged_steps(Job *job, void *arg) {
  InspectArgs *a = arg;
  uop_print_kernel(job, a->k->sink, a->out);
}

static Status inspect_code(Job *job, InspectArgs *a, const Target *target) {
  CodegenOutput code = {.want_text = true};
  TRY(job_run(job, inspect_graph_steps, a));
  Status st = codegen_emit(&a->kernel.linear, a->k->name, target, &code);
  if (!st) strbuf_add(a->out, code.text.ptr, code.text.len);
  codegen_deinit(&code);
  return st;
}

static Status inspect_kernel(Job *job, const Kernel *k, const Target *target, const char *stage,
                             StrBuf *out) {
  InspectArgs a = {
      .kernel = {.kernel = k->sink, .target = target}, .k = k, .stage = stage, .out = out};
  if (str_is(str_from(stage), "ranged")) return job_run(job, inspect_ranged_steps, &a);
  if (str_is(str_from(stage), "code")) return inspect_code(job, &a, target);
  return job_run(job, inspect_graph_steps, &a);
}

static void inspect_tensor_steps(Job *job, void *arg) {
  CanonicalArgs *a = arg;
  uop_print(job, a->graph->sink, a->out);
}

Status compile_inspect(Job *job, const TensorGraph *graph, const Target *target, const char *stage,
                       int kernel, StrBuf *out) {
  static const char *const per_kernel[] = {"ranged", "scheduled", "lowered", "linear", "code"};
  bool known = false;
  for (size_t i = 0; i < sizeof per_kernel / sizeof *per_kernel; i++)
    known |= str_is(str_from(stage), per_kernel[i]);
  if (str_is(str_from(stage), "tensor")) {
    CanonicalArgs a = {graph, out};
    return job_run(job, inspect_tensor_steps, &a);
  }
  Plan plan;
  if (!known && !str_is(str_from(stage), "kernels"))
    return FAIL(
        INVALID_ARGUMENT,
        "stage '%.40s' is unknown; stages are tensor ranged kernels scheduled lowered linear code",
        stage);
  TRY(compile_plan(job, graph, target, &plan));
  if (!known) return print_plan(job, &plan, out), NULL;
  if (kernel >= (int)plan.nkernels)
    return FAIL(OUT_OF_RANGE, "kernel %d does not exist; the model has kernels 0 to %d", kernel,
                (int)plan.nkernels - 1);
  for (size_t i = 0; i < plan.nkernels; i++) {
    if (kernel >= 0 && (size_t)kernel != i) continue;
    strbuf_addf(out, "%s# kernel %zu %s\n", kernel < 0 && i ? "\n" : "", i, plan.kernels[i].name);
    TRY(inspect_kernel(job, &plan.kernels[i], target, stage, out));
  }
  return out->failed ? FAIL(RESOURCE_EXHAUSTED, "out of memory for the text") : NULL;
}
