/* What a plan test is run with instead of interp_kernel: the passes up to linear code, with the
 * heuristic or with random opts, each kernel compared with the interpreter. The test declares
 * run_scheduled, defines RUN_KERNEL as it and includes plan_check.h before this. */
#pragma once

#include "tests/unit/zoo_run.h"

typedef struct Passes {
  UOp *kernel;
  uint32_t seed;
  OptList opts;
  Linear linear;
} Passes;

static OptList random_opts(Job *job, UOp *kernel, uint32_t *seed) {
  static const int sizes[] = {2, 3, 4, 8, 16};
  const KernelInfo *k = kernel_info(job, kernel);
  OptList list = {0};
  for (uint32_t n = next_random(seed) % 6; n-- > 0;) {
    int axis = (int)(next_random(seed) % (k->naxes + 1)) - 1;
    OptKind kind = (OptKind)(next_random(seed) % OPT__COUNT);
    int64_t arg = sizes[next_random(seed) % 5];
    bool place = kind == OPT_MERGE || kind == OPT_ORDER || kind == OPT_CARRY;
    if (kind == OPT_STAGE || place) arg = next_random(seed) % 4;
    opts_push(job, &list, kind, axis, arg);
    Status st = opts_check(job, kernel, &zoo_cpu, &list);
    if (st) list.len--;
    status_drop(st);
  }
  return list;
}

static void steps(Job *job, void *arg) {
  Passes *p = arg;
  UOp *u;
  bool random = p->seed % 3 == 0;
  if (random) {
    p->opts = random_opts(job, p->kernel, &p->seed);
    u = schedule_apply(job, p->kernel, &zoo_cpu, &p->opts);
  } else {
    u = schedule_heuristic(job, p->kernel, &zoo_cpu, &p->opts);
  }
  Status st = verify_graph(job, u, STAGE_SCHEDULED, "schedule");
  if (st && p->kernel->symbolic && random) { /* no proof was found: not every opt has one */
    status_drop(st);
    p->opts = (OptList){0};
    u = schedule_apply(job, p->kernel, &zoo_cpu, &p->opts);
    st = NULL;
  }
  if (!st) st = zoo_lower(job, u, &zoo_cpu, &p->linear);
  if (st) job_abort(job, st);
}

static double value_at(DType d, InterpBuffer b, size_t i) {
  Scalar v = scalar_load(d, (char *)b.data + i * dtype_info[d].bytes);
  return dtype_is_float(d) ? v.f : (double)v.i;
}

static bool has_sums(Job *job, UOp *u) {
  UOpList list = uop_toposort(job, u);
  bool sums = false;
  for (size_t i = 0; i < list.len; i++)
    sums |= list.at[i]->op == OP_REDUCE && dtype_is_float((DType)list.at[i]->dtype) &&
            (list.at[i]->arg.i == OP_ADD || list.at[i]->arg.i == OP_MUL);
  return sums;
}

/* Sums in another order round differently: what a float sum decides cannot be compared, nor the
 * sine of one, which may be large. */
static bool may_flip(Job *job, UOp *kernel, DType d) {
  if (!dtype_is_float(d)) return has_sums(job, kernel);
  UOpList list = uop_toposort(job, kernel);
  bool folds = false;
  for (size_t i = 0; i < list.len && !folds; i++)
    folds = list.at[i]->op == OP_SIN && has_sums(job, list.at[i]);
  return folds;
}

static Status compare(Job *job, UOp *kernel, InterpBuffer want, InterpBuffer got) {
  UOpList list = uop_toposort(job, kernel);
  DType d = DT_VOID;
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_PARAM && list.at[i]->arg.i == 0) d = (DType)list.at[i]->dtype;
  size_t n = want.bytes / dtype_info[d].bytes, bad = 0, first = 0;
  if (may_flip(job, kernel, d)) return NULL;
  double scale = 0; /* cancellation: errors are judged against the largest value */
  for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs(value_at(d, want, i)));
  for (size_t i = 0; i < n; i++) {
    double a = value_at(d, want, i), b = value_at(d, got, i);
    if (near_enough(a, b, 1e-3) || fabs(a - b) < 1e-5 * scale) continue;
    if (!bad++) first = i;
  }
  if (!bad) return NULL;
  return FAIL(INTERNAL, "%zu of %zu elements differ, first %zu: %g, not %g", bad, n, first,
              value_at(d, got, first), value_at(d, want, first));
}

/* Leaves the interpreter's result behind, so that each kernel is judged on its own. */
static Status run_scheduled(Job *job, UOp *kernel, InterpBuffer *args, size_t nargs) {
  Passes p = {.kernel = kernel, .seed = kernel->id};
  InterpBuffer want = args[0], got = {malloc(want.bytes + 1), want.bytes};
  memcpy(got.data, want.data, want.bytes);
  Status st = interp_kernel(job, kernel, args, nargs);
  args[0] = got;
  if (!st) st = job_run(job, steps, &p);
  for (uint32_t t = 0; !st && t < p.linear.threads; t++)
    st = interp_linear(job, p.linear.list, p.linear.len, args, nargs, t);
  if (!st) st = compare(job, kernel, want, got);
  args[0] = want;
  free(got.data);
  if (!st) return NULL;
  StrBuf text = {0};
  opts_print(&p.opts, &text);
  uop_print_kernel(job, kernel, &text);
  st = WRAP(st, "with opts %s", text.ptr ? text.ptr : "");
  strbuf_deinit(&text);
  return st;
}
