/* Raw ranged graphs become the plan's kernels.
 *
 * Models repeat themselves, and repeated layers are the same raw node, so the work is done once per
 * distinct raw graph: a table maps it to the finished kernel. Different raw graphs that simplify to
 * the same kernel meet in a second table. Nodes are hash-consed: the same kernel is the same
 * pointer, in any process the same bytes.
 */
#include "compiler/passes/kernelize.h"

#include "base/vec.h"
#include "compiler/ir/verify.h"
#include "compiler/passes/gates.h"
#include "compiler/passes/ranges.h"
#include "compiler/rules/rewrite.h"

/* What became of a raw graph: the kernel, and which of the raw graph's arguments and VARs it still
 * has. */
typedef struct Finished {
  uint32_t kernel, nargs, nvars;
  uint32_t *keep; /* their positions among the raw graph's arguments */
  uint32_t *vars; /* the plan's number of each VAR */
} Finished;

/* VARs in order of appearance, renumbered 0, 1, ...; *vars gets what they were. */
static UOp *number_vars(Job *job, UOp *sink, uint32_t **vars, uint32_t *n) {
  *vars = NULL, *n = 0;
  if (!sink->symbolic) return sink;
  UOpList list = uop_toposort_dims(job, sink);
  int64_t most = -1;
  for (size_t i = 0; i < list.len; i++) {
    if (list.at[i]->op == OP_VAR && list.at[i]->arg.i > most) most = list.at[i]->arg.i;
  }
  UOp **to = arena_array(&job->arena, (size_t)most + 1, sizeof *to);
  *vars = arena_array(&job->arena, (size_t)most + 1, sizeof **vars);
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    if (u->op != OP_VAR) continue;
    const int64_t *v = u->arg.ints.at;
    (*vars)[*n] = (uint32_t)u->arg.i;
    to[u->arg.i] = uop_var(job, (*n)++, v[0], v[1], v[2]);
  }
  return dim_substitute(job, sink, to, (size_t)most + 1);
}

/* PARAMs other than 0 in order of appearance, renumbered 1, 2, ...; *old gets what they were. */
static UOp *number_params(Job *job, UOp *sink, int64_t **old, uint32_t *n) {
  UOpList list = uop_toposort(job, sink);
  UOp **from = arena_array(&job->arena, list.len, sizeof *from);
  UOp **to = arena_array(&job->arena, list.len, sizeof *to);
  *old = arena_array(&job->arena, list.len + 1, sizeof **old);
  *n = 0;
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    if (u->op != OP_PARAM || u->arg.i == 0) continue;
    from[*n] = u;
    (*old)[(*n)++] = u->arg.i;
    to[*n - 1] = uop_param(job, *n, (DType)u->dtype, u->arg.ints.at, u->arg.ints.n);
  }
  return uop_substitute(job, sink, from, to, *n);
}

static UOp *simplify(Job *job, UOp *sink) {
  Rewrite rw = {.job = job};
  sink = rewrite_graph(&rw, sink, rules_symbolic);
  sink = ranges_split(job, sink);
  sink = ranges_order(job, sink);
  sink = ranges_merge(job, sink);
  sink = ranges_number(job, sink);
  sink = rewrite_graph(&rw, sink, rules_symbolic);
  return ranges_number(job, sink); /* the rules may have removed a range */
}

/* -- the numbers of a kernel ------------------------------------------------------------------- */

static int64_t iterations(const UOp *u) {
  int64_t n = 1;
  for (uint32_t k = 0; u->open && k < u->open->n; k++) {
    const UOp *end = u->open->at[k]->src[0];
    if (__builtin_mul_overflow(n, dim_typical_of(end), &n)) return INT64_MAX;
  }
  return n;
}

static int64_t sum(int64_t a, int64_t b) {
  int64_t r;
  return __builtin_add_overflow(a, b, &r) ? INT64_MAX : r;
}

static bool counts_as_flop(const UOp *u) {
  if (u->op == OP_REDUCE) return true;
  return op_info[u->op].flags & OPF_ALU && u->dtype != DT_INDEX && u->dtype != DT_BOOL &&
         u->op != OP_CAST && u->op != OP_BITCAST && u->op != OP_WHERE;
}

static void measure(Job *job, const UOpList *list, Kernel *k) {
  int64_t *bytes = arena_array(&job->arena, k->nargs + 1, sizeof *bytes);
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    if (counts_as_flop(u)) k->flops = sum(k->flops, iterations(u->op == OP_REDUCE ? u->src[0] : u));
    if (u->op != OP_INDEX && u->op != OP_STORE) continue;
    int64_t n = iterations(u), numel = dim_typical(u->src[0]->arg.ints.at[0]),
            *most = &bytes[u->src[0]->arg.i];
    n = (n < numel ? n : numel) * dtype_info[u->src[0]->dtype].bytes;
    if (n > *most) *most = n;
  }
  for (size_t a = 0; a < k->nargs; a++) k->traffic_bytes = sum(k->traffic_bytes, bytes[a]);
}

static const char *name_of(Job *job, const UOpList *list) {
  StrBuf b = {0};
  bool reduces = false;
  for (size_t i = 0; i < list->len; i++) reduces |= list->at[i]->op == OP_REDUCE;
  strbuf_adds(&b, reduces ? "r" : "E");
  for (int pass = 0; pass < 2; pass++) {
    for (size_t i = 0; i < list->len; i++) {
      const UOp *u = list->at[i];
      if (u->op != (pass ? OP_REDUCE : OP_END)) continue;
      for (uint32_t s = 1; s < u->nsrc; s++) {
        const UOp *end = u->src[s]->src[0];
        if (end->op == OP_VAR) {
          strbuf_addf(&b, "_n%lld", (long long)end->arg.i);
        } else if (end->symbolic) {
          strbuf_adds(&b, "_x");
        } else {
          strbuf_addf(&b, "_%lld", (long long)u->src[s]->vmax + 1);
        }
      }
    }
  }
  char *name = b.failed ? NULL : arena_strdup(&job->arena, (Str){b.ptr, b.len});
  strbuf_deinit(&b);
  if (!name) job_abort(job, FAIL(RESOURCE_EXHAUSTED, "no memory for a kernel's name"));
  return name;
}

/* -- tables ------------------------------------------------------------------------------------ */

void kernelize_init(Kernelizer *kz, Job *job) {
  *kz = (Kernelizer){.job = job};
  nodemap_init(job, &kz->by_raw, 64);
  nodemap_init(job, &kz->by_sink, 64);
}

static uint32_t add_kernel(Kernelizer *kz, UOp *sink, uint32_t nargs, uint32_t nvars) {
  uint32_t known = nodemap_get(&kz->by_sink, sink);
  if (known != NODE_ABSENT) return known;
  Status st = verify_graph(kz->job, sink, STAGE_RANGED, "kernelize");
  if (st) job_abort(kz->job, st);
  UOpList list = uop_toposort(kz->job, sink);
  Kernel k = {.sink = sink, .nargs = nargs, .nvars = nvars};
  k.name = name_of(kz->job, &list);
  measure(kz->job, &list, &k);
  uint32_t number = (uint32_t)kz->kernels.len;
  avec_push(&kz->job->arena, &kz->kernels, k);
  nodemap_put(kz->job, &kz->by_sink, sink, number);
  return number;
}

static Finished *finish(Kernelizer *kz, UOp *raw) {
  Finished *done = arena_alloc(&kz->job->arena, sizeof *done);
  int64_t *old;
  uint32_t n;
  UOp *sink = number_params(kz->job, simplify(kz->job, raw), &old, &n);
  sink = gates_unproven(kz->job, number_vars(kz->job, sink, &done->vars, &done->nvars));
  done->nargs = n;
  done->keep = arena_array(&kz->job->arena, n + 1, sizeof *done->keep);
  for (uint32_t k = 0; k < n; k++) done->keep[k] = (uint32_t)old[k];
  done->kernel = add_kernel(kz, sink, n + 1, done->nvars);
  return done;
}

PlanCall kernelize(Kernelizer *kz, UOp *raw, const uint32_t *buffers) {
  uint32_t known = nodemap_get(&kz->by_raw, raw);
  if (known == NODE_ABSENT) {
    Finished *made = finish(kz, raw);
    known = (uint32_t)kz->finished.len;
    avec_push(&kz->job->arena, &kz->finished, made);
    nodemap_put(kz->job, &kz->by_raw, raw, known);
  }
  const Finished *done = kz->finished.at[known];
  PlanCall call = {.kernel = done->kernel, .nargs = done->nargs + 1, .nvars = done->nvars};
  call.vars = done->vars;
  call.args = arena_array(&kz->job->arena, call.nargs, sizeof *call.args);
  call.args[0] = buffers[0];
  for (uint32_t k = 0; k < done->nargs; k++) call.args[k + 1] = buffers[done->keep[k]];
  return call;
}
