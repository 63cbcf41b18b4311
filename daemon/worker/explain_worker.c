/* Each kernel is read in a job of its own, so that the memory of one is not that of a model. What
 * one of the questions cannot answer is left at nothing, which is what a reader is told: an
 * explanation of the others is better than none. */
#include "daemon/worker/explain_worker.h"

#include "compiler/ir/text.h"
#include "compiler/search/opts.h"
#include "compiler/search/search.h"
#include "daemon/worker/convert.h"
#include "proto/digest.h"

typedef struct ShapeArgs {
  UOp *kernel;
  StrBuf *out;
} ShapeArgs;

static void add_sizes(const KernelInfo *k, bool reduce, const char *head, StrBuf *out) {
  bool any = false;
  for (uint32_t i = 0; i < k->naxes; i++) {
    const KernelAxis *a = &k->axes[i];
    if (!a->range || a->reduce != reduce) continue;
    strbuf_addf(out, "%s%s%lld", any ? "x" : head,
                axis_is_static(a) ? "" : "<=", (long long)a->size);
    any = true;
  }
  if (!any && !reduce) strbuf_adds(out, "1");
}

/* "64x56x56, reduces 64x3x3" */
static void shape_steps(Job *job, void *arg) {
  ShapeArgs *a = arg;
  const KernelInfo *k = kernel_info(job, a->kernel);
  add_sizes(k, false, "", a->out);
  add_sizes(k, true, ", reduces ", a->out);
}

static Status no_memory(void) { return FAIL(RESOURCE_EXHAUSTED, "no memory for an explanation"); }

static Status add_class(Job *job, UOp *kernel, Arena *arena, Kiln__V1__KernelCost *out) {
  SearchClass c;
  Status st = search_class(job, kernel, &c);
  if (st || !c.bytes.len) {
    status_drop(st);
    return NULL;
  }
  out->class_hash = (ProtobufCBinaryData){DIGEST_BYTES, arena_alloc(arena, DIGEST_BYTES)};
  out->sizes = arena_array(arena, c.naxes + 1, sizeof *out->sizes);
  if (!out->class_hash.data || !out->sizes) return no_memory();
  digest_sha256(c.bytes.ptr, c.bytes.len, out->class_hash.data);
  for (size_t i = 0; i < c.naxes; i++) out->sizes[out->n_sizes++] = c.axes[i].size;
  return NULL;
}

static void add_cost(Job *job, UOp *kernel, const Target *target, const char *opts,
                     Kiln__V1__KernelCost *out) {
  SearchCost cost;
  Status st = search_cost(job, kernel, target, opts, &cost);
  bool known = !st;
  if (st) { /* without the schedule */
    status_drop(st);
    st = search_cost(job, kernel, target, NULL, &cost);
  }
  if (!st) {
    out->flops = (uint64_t)cost.flops;
    out->bytes_read = (uint64_t)cost.bytes_read;
    out->bytes_written = (uint64_t)cost.bytes_written;
    out->roofline_ns = cost.roofline_ns;
    out->predicted_ns = known ? cost.predicted_ns : 0;
  }
  status_drop(st);
}

static Status explain_one(const Kiln__V1__ExplainKernel *m, const Target *target,
                          uint64_t memory_bytes, Arena *arena, Kiln__V1__KernelCost *out) {
  Job job;
  UOp *kernel;
  StrBuf shape = {0};
  job_init(&job, memory_bytes);
  Status st = uop_deserialize(&job, (Bytes){m->graph.data, m->graph.len}, &kernel);
  if (!st) st = job_run(&job, shape_steps, &(ShapeArgs){kernel, &shape});
  if (!st) st = add_class(&job, kernel, arena, out);
  if (!st) add_cost(&job, kernel, target, m->opts, out);
  if (!st && shape.ptr) out->shape = arena_strdup(arena, (Str){shape.ptr, shape.len});
  if (!st && (shape.failed || !out->shape)) st = no_memory();
  strbuf_deinit(&shape);
  job_deinit(&job);
  return st;
}

Status explain_worker_run(const Kiln__V1__ExplainJob *m, uint64_t memory_bytes, Arena *arena,
                          Kiln__V1__ExplainDone *out) {
  Target target;
  TRY(convert_target(arena, m->target, &target));
  convert_peaks(m->peaks, &target);
  out->kernels = arena_array(arena, m->n_kernels + 1, sizeof *out->kernels);
  Kiln__V1__KernelCost *costs = arena_array(arena, m->n_kernels + 1, sizeof *costs);
  if (!out->kernels || !costs) return no_memory();
  for (size_t i = 0; i < m->n_kernels; i++) {
    kiln__v1__kernel_cost__init(&costs[i]);
    out->kernels[out->n_kernels++] = &costs[i];
    TRY(explain_one(m->kernels[i], &target, memory_bytes, arena, &costs[i]));
  }
  return NULL;
}
